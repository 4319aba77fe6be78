"""What a search keeps and yields: versions, budgets, iterations, scores without duplicates."""

from typing import Any, NamedTuple

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.search import pareto

DRAWS = (
    "initial",
    "fit",
    "propose",
    "replace",
    "top",
)  # what an iteration draws random numbers for
TRIES = 20  # rounds of drawing again what was drawn already


class Version(NamedTuple):
    """One experimental phase of the thesis (section 6.2 and its published code)."""

    phase: int
    features: str  # of the predictor: "one_hot" | "integer"
    sampling: str  # of the initial archive: "search" | "architecture" (Space.sample)
    repair: str  # "push" | "fill" (Space.repair), for the whole run
    multiplier: int  # subnets scored per place of the initial archive
    archive: int  # its size at the start
    candidates: int  # scored precisely in each iteration
    policy: str  # "append": the archive grows | "replace": it keeps its size, the worst leave
    teacher: str  # of the shrinking that made the supernets: "fixed" | "pet"
    validation: str  # of the supernet: after "every" adaptation epoch | the "last" of an iteration


PHASES = {
    #                     features    sampling      repair  mult.  A   K   policy     teacher  validation
    1: Version(1, "one_hot", "search", "push", 1, 100, 8, "append", "fixed", "every"),
    2: Version(2, "integer", "architecture", "fill", 1, 300, 25, "replace", "fixed", "last"),
    3: Version(3, "integer", "architecture", "fill", 10, 300, 25, "replace", "fixed", "last"),
    4: Version(4, "integer", "architecture", "fill", 10, 300, 25, "replace", "pet", "last"),
}


class Budget(NamedTuple):
    """How much one search computes; the thesis' numbers."""

    iterations: int = 30
    top: int = 150  # survivors whose distributions the adaptation samples from
    population: int = 100
    generations: int = 20  # the initial population counts
    subset_population: int = 500
    subset_generations: int = 200


class Iteration(NamedTuple):
    """The state after one iteration; 0 is the initial archive. The first four fields are enough to
    go on from."""

    number: int
    X: np.ndarray  # the archive
    F: np.ndarray  # its objective values at the present weights
    reference: np.ndarray  # (M,) of the hypervolume, the same for the whole run
    hypervolume: float = float("nan")
    candidates: Any = None  # genotypes scored in this iteration
    predicted: Any = None  # their errors as predicted
    measured: Any = None  # their objective values, before the adaptation
    predictor: tuple = ("", "")  # (name of what predicted, note)
    quality: Any = None  # rmse, pearson, spearman, kendall of predicted against measured


# ---- the archive
# --------------------------------------------------------------------------------------------------


def distinct(space, X):
    """Indices of the first genotype of every subnet, ascending: equal where it matters is equal
    (Space.active)."""
    return np.sort(np.unique(space.active(X), axis=0, return_index=True)[1])


def score(evaluate, X, M):
    """evaluate(X), checked: (n, M) finite numbers. Nothing is evaluated for no genotypes."""
    F = pareto.points(evaluate(X)) if len(X) else np.empty((0, M))
    if F.shape != (len(X), M):
        raise Refusal(
            f"evaluate returned shape {F.shape} for {len(X)} subnets: return the error and the {M - 1} costs"
        )
    return F
