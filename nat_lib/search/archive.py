"""What a search keeps and yields: versions, budgets, iterations, an archive without duplicates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nat_lib.errors import Refusal
from nat_lib.search import pareto

Genotypes = Int[np.ndarray, "n v"]
Values = Float[np.ndarray, "n m"]  # the error in percent, then the costs
TRIES = 20  # rounds of drawing again what was drawn already


class Version(NamedTuple):
    """How a version of NATv2 searches (thesis 6.2, where they are the four experimental phases, and
    its published code)."""

    features: str  # of the predictor: "one_hot" | "integer"
    sampling: str  # of the initial archive: "search" | "architecture" (Space.sample)
    repair: str  # "push" | "fill" (Space.repair), for the whole run
    multiplier: int  # subnets scored per place of the initial archive
    archive: int  # its size at the start
    candidates: int  # scored precisely in each iteration
    policy: str  # "append": the archive grows | "replace": it keeps its size, the worst leave
    teacher: str  # of the shrinking that made the supernets: "fixed" | "pet"
    validation: str  # of the supernet: after "every" adaptation epoch | the "last" of an iteration


# Number of the version: what it does. 1 is NAT; 2 samples better, 3 chooses its first archive from
# ten times as many, 4 starts from better trained supernets.
VERSIONS = {
    1: Version("one_hot", "search", "push", 1, 100, 8, "append", "fixed", "every"),
    2: Version("integer", "architecture", "fill", 1, 300, 25, "replace", "fixed", "last"),
    3: Version("integer", "architecture", "fill", 10, 300, 25, "replace", "fixed", "last"),
    4: Version("integer", "architecture", "fill", 10, 300, 25, "replace", "pet", "last"),
}


def as_frame(versions):
    """{number: Version} as a DataFrame, one row each; the index is named like the thesis names
    them, "phase"."""
    import pandas as pd

    rows = [version._asdict() for version in versions.values()]
    return pd.DataFrame(rows, index=pd.Index(versions, name="phase"))


class Budget(NamedTuple):
    """How much one search computes; the thesis' numbers."""

    iterations: int = 30
    top: int = 150  # survivors whose distributions the adaptation samples from
    population: int = 100
    generations: int = 20  # the initial population counts
    subset_population: int = 500
    subset_generations: int = 200


class Iteration(NamedTuple):
    """What is known after one iteration; 0 is the initial archive. The first four fields and
    `state` are enough to go on from."""

    number: int
    X: Genotypes  # the archive
    F: Values  # its objective values at the present weights
    reference: Float[np.ndarray, " m"]  # of the hypervolume, the same for the whole run
    hypervolume: float = float("nan")
    candidates: Any = None  # genotypes scored in this iteration
    predicted: Any = None  # their errors as predicted
    measured: Any = None  # their objective values, before the adaptation
    predictor: tuple = ("", "")  # (name of what predicted, note)
    quality: Any = None  # rmse, pearson, spearman, kendall of predicted against measured
    state: Any = None  # what a strategy has learnt besides, {name: array}


# -------------------------------------------------------------------------------------- the archive


def distinct(space: Any, X: Genotypes) -> Int[np.ndarray, " k"]:
    """Indices of the first genotype of every subnet, ascending: equal where it matters is equal
    (Space.active)."""
    return np.sort(np.unique(space.active(X), axis=0, return_index=True)[1])


def score(evaluate: Callable[[Genotypes], Values], X: Genotypes, M: int) -> Values:
    """evaluate(X), checked: (n, M) finite numbers. Nothing is evaluated for no genotypes."""
    F = pareto.points(evaluate(X)) if len(X) else np.empty((0, M))
    if F.shape != (len(X), M):
        raise Refusal(
            f"evaluate returned shape {F.shape} for {len(X)} subnets: return the error and the "
            f"{M - 1} costs"
        )
    return F


def initial(
    space: Any,
    version: Version,
    evaluate: Callable[[Genotypes], Values],
    rng: np.random.Generator,
    depth_prior: str = "uniform",
    begin: Genotypes | None = None,
) -> tuple[Genotypes, Values]:
    """The first archive (X, F): the best of `multiplier` times as many samples, and the smallest
    and largest subnet.

    begin : genotypes that take the place of the first samples: what another search has found
    All subnets are distinct. The two extremes are always there: they widen what the predictor has
    seen. Thesis 3.3.4.
    """
    ends = np.stack([space.lower, space.upper])
    if version.archive <= len(ends):
        raise Refusal(
            f"an archive of {version.archive}: give at least 3, as the smallest and largest subnet "
            "are in it"
        )
    n = version.multiplier * version.archive - len(ends)
    known = np.concatenate([ends, ends[:0] if begin is None else begin])
    known = known[distinct(space, known)][: n + len(ends)]
    more = sample(space, version, n + len(ends) - len(known), known, rng, depth_prior)
    X = np.concatenate([known[len(ends) :], more])
    if len(X) < n:
        raise Refusal(
            f"{TRIES} draws from {space.name} gave {len(X)} different subnets, not {n}: use a "
            "smaller archive or multiplier, or a larger space"
        )
    F = evaluate(X)
    kept = pareto.survive(F, version.archive - len(ends), rng)
    return np.concatenate([X[kept], ends]), np.concatenate([F[kept], evaluate(ends)])


def sample(
    space: Any,
    version: Version,
    n: int,
    taken: Genotypes,
    rng: np.random.Generator,
    depth_prior: str = "uniform",
) -> Genotypes:
    """n subnets (k, V) different from each other and from `taken` (t, V); fewer where the space has
    hardly any others."""
    X = taken
    for _ in range(TRIES):
        missing = n + len(taken) - len(X)
        more = space.sample_genotypes(missing, rng, version.sampling, depth_prior, version.repair)
        X = np.concatenate([X, more])
        X = X[distinct(space, X)]
        if len(X) == n + len(taken):
            break
    return X[len(taken) :]


def renew(
    space: Any,
    version: Version,
    X: Genotypes,
    F: Values,
    candidates: Genotypes,
    measured: Values,
    rng: np.random.Generator,
) -> tuple[Genotypes, Values]:
    """The archive (X, F) with the candidates: longer ("append"), or the best `version.archive` of
    both ("replace")."""
    X, F = np.concatenate([X, candidates]), np.concatenate([F, measured])
    kept = distinct(space, X)  # before survival: a copy would take the place of another subnet
    if version.policy == "replace":
        kept = kept[pareto.survive(F[kept], version.archive, rng)]
    return X[kept], F[kept]
