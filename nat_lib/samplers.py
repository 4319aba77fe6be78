"""Samplers: which subnets one training step trains.  A new one is a function and a row of SAMPLERS.

sampler(space, choices, width, size, rng, n) yields n `Arch`s of the open `choices` at one width
multiplier and one image size.  rng is a generator of (seed, purpose, step); the subnets depend on
nothing else.
"""

from collections.abc import Iterator

import numpy as np

from nat_lib.arch import Arch
from nat_lib.errors import Refusal


def stream(rng: np.random.Generator, j: int) -> np.random.Generator:
    """The generator of the j-th subnet of a step, whatever was drawn before it: (seed, purpose,
    step, j)."""
    seed = rng.bit_generator.seed_seq.entropy
    return np.random.default_rng((*np.atleast_1d(np.array(seed, object)).tolist(), j))


def uniform(space, choices, width, size, rng, n) -> Iterator[Arch]:
    """Independent uniform draws.  Source: thesis Alg. 3.1 and 5.1."""
    for j in range(n):
        yield space.draw(choices, stream(rng, j), width, size)


def sandwich(space, choices, width, size, rng, n) -> Iterator[Arch]:
    """The largest of the open choices, n - 2 uniform draws, the smallest.

    Source: BigNAS, arXiv:2003.11142.
    """
    if n < 2:
        raise Refusal(f"sandwich sampling of {n} subnets: it takes the largest and the smallest")
    yield extreme(space, choices, width, size, max)
    yield from uniform(space, choices, width, size, rng, n - 2)
    yield extreme(space, choices, width, size, min)


SAMPLERS = {"uniform": uniform, "sandwich": sandwich}


def extreme(space, choices, width, size, end) -> Arch:
    """The constant subnet of the largest (end = max) or smallest (min) open choices; of the levels
    the one of most or fewest branches."""
    level = end(choices.level, key=lambda code: (code.bit_count(), code))
    ends = {kind: end(values) for kind, values in choices._asdict().items()}
    return space.arch(resolution=size, width=width, **(ends | {"level": level}))
