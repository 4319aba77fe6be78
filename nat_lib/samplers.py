"""Samplers: which subnets one training step trains.  A new one is a function and a row of SAMPLERS.

sampler(space, choices, width, size, rng, n, judge) yields n `Arch`s of the open `choices` at one
width multiplier and one image size.  rng is a generator of (seed, purpose, step); attentive
samplers ask the judge.  The subnets depend on nothing else.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from nat_lib.arch import Arch
from nat_lib.attentive import targets
from nat_lib.errors import Refusal

RECALLED = 20  # earlier steps that replay chooses from
BY_LOSS = "loss"  # of the batch at hand; any other judge is a row of PREDICTORS


class Judge(NamedTuple):
    """Who looks at candidates before one of them is trained.

    k : candidates per subnet;  scores : archs -> one number each, the higher the worse
    """

    k: int
    scores: Callable[[list[Arch]], list[float]]


def stream(rng: np.random.Generator, j: int) -> np.random.Generator:
    """The generator of the j-th subnet of a step, whatever was drawn before it: (seed, purpose,
    step, j)."""
    seed = rng.bit_generator.seed_seq.entropy
    return np.random.default_rng((*np.atleast_1d(np.array(seed, object)).tolist(), j))


def uniform(space, choices, width, size, rng, n, judge=None) -> Iterator[Arch]:
    """Independent uniform draws.  Source: thesis Alg. 3.1 and 5.1."""
    for j in range(n):
        yield space.draw(choices, stream(rng, j), width, size)


def largest_first(space, choices, width, size, rng, n, judge=None) -> Iterator[Arch]:
    """The largest of the open choices, then n - 1 uniform draws: uniform sampling where the largest
    teaches in place."""
    yield extreme(space, choices, width, size, max)
    yield from uniform(space, choices, width, size, rng, n - 1)


def sandwich(space, choices, width, size, rng, n, judge=None) -> Iterator[Arch]:
    """The largest of the open choices, n - 2 uniform draws, the smallest.

    Source: BigNAS, arXiv:2003.11142.
    """
    middle = uniform(space, choices, width, size, rng, n - 2)
    yield from between_extremes(space, choices, width, size, n, middle)


def between_extremes(space, choices, width, size, n, middle) -> Iterator[Arch]:
    """The largest of the open choices, then the n - 2 subnets of `middle`, then the smallest."""
    if n < 2:
        raise Refusal(f"sandwich sampling of {n} subnets: it takes the largest and the smallest")
    yield extreme(space, choices, width, size, max)
    yield from middle
    yield extreme(space, choices, width, size, min)


def replay(space, choices, width, size, rng, n, judge=None) -> Iterator[Arch]:
    """Half of the subnets are new uniform draws, half are subnets of the last RECALLED steps that
    lie far apart: what was trained earlier is trained again before it is forgotten.

    The first recalled subnet differs most from the new ones, each next one most from all chosen.
    Source: NSAS, Zhang et al., CVPR 2020, whose constraint it turns into losses.
    """
    *head, step = np.atleast_1d(np.array(rng.bit_generator.seed_seq.entropy, object)).tolist()
    n_new = n - n // 2 if step else n
    new = [*uniform(space, choices, width, size, rng, n_new)]
    earlier = [np.random.default_rng((*head, s)) for s in range(max(0, step - RECALLED), step)]
    seen = [a for past in earlier for a in uniform(space, choices, width, size, past, n - n // 2)]
    codes = space.encode([*new, *seen])
    apart = (codes[:, None] != codes[None, :]).sum(2)  # genes that differ
    picked = [*range(n_new)]
    for _ in range(n - n_new):
        picked.append(int(apart[:, picked].min(1).argmax()))
    yield from ([*new, *seen][i] for i in picked)


def attentive(ends, space, choices, width, size, rng, n, judge) -> Iterator[Arch]:
    """A sandwich whose middle subnets are each the best or the worst of `judge.k` candidates of
    nearly the same MACs.

    ends : which of the candidates by score, `min` the best and `max` the worst; of several one by
           lot
    Source: AttentiveNAS, arXiv:2011.09011 (BestUp and WorstUp).
    """
    pool = targets(space, choices, width, size)

    def chosen(j):
        own = stream(rng, j)
        candidates, _ = pool.draw(own, judge.k)
        scores = judge.scores(candidates)
        end = ends[own.integers(len(ends))]
        return candidates[scores.index(end(scores))]

    middle = (chosen(j) for j in range(n - 2))
    yield from between_extremes(space, choices, width, size, n, middle)


SAMPLERS = {
    "uniform": uniform,
    "largest_first": largest_first,
    "sandwich": sandwich,
    "replay": replay,
    "best_up": partial(attentive, (min,)),
    "worst_up": partial(attentive, (max,)),
    "best_or_worst": partial(attentive, (min, max)),
}


def least(name) -> int:
    """Fewest subnets of a step: one where all are drawn alike, otherwise both extremes."""
    return 1 if SAMPLERS[name] is uniform else 2


def extreme(space, choices, width, size, end) -> Arch:
    """The constant subnet of the largest (end = max) or smallest (min) open choices; of the levels
    the one of most or fewest branches."""
    level = end(choices.level, key=lambda code: (code.bit_count(), code))
    ends = {kind: end(values) for kind, values in choices._asdict().items()}
    return space.arch(resolution=size, width=width, **(ends | {"level": level}))
