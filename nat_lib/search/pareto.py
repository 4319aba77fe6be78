"""Dominance, survival, hypervolume and high-tradeoff points of a set of objective values.

F : (n, M) float64, one row per subnet, every column minimised, M = 1 .. 4; column 0 is the error in
    percent.
Source: thesis 3.3.4 and equations 3.1 to 3.3; NSGA-II (Deb et al. 2002), NSGA-III (Deb and Jain
        2014).
"""

import warnings
from functools import lru_cache

import moocore
import numpy as np
from jaxtyping import Bool, Float, Int

from nat_lib.errors import Refusal

Values = Float[np.ndarray, "n m"]  # of n subnets in m objectives
Point = Float[np.ndarray, " m"]
Indices = Int[np.ndarray, " k"]


def points(F: Values) -> Values:
    """F as (n, M) float64; a Refusal unless it is a matrix of finite numbers."""
    F = np.asarray(F, dtype=np.float64)
    if F.ndim != 2 or F.shape[1] == 0:
        raise Refusal(
            f"objective values have shape {F.shape}: give one row per subnet and one column per "
            "objective"
        )
    if not np.isfinite(F).all():
        i, k = np.argwhere(~np.isfinite(F))[0]
        raise Refusal(
            f"objective {k} of subnet {i} is {F[i, k]}: score that subnet again or leave it out"
        )
    return F


def unit(F: Values, like: Values | None = None) -> Values:
    """The columns of F moved and scaled so that those of `like` (default F itself) lie in [0, 1];
    constant ones: 0."""
    like = F if like is None else like
    low, high = like.min(axis=0), like.max(axis=0)
    return (F - low) / np.where(high > low, high - low, 1.0)


def front(F: Values) -> Bool[np.ndarray, " n"]:
    """(n,) bool: not dominated by any other row. Equal rows do not dominate each other."""
    return moocore.is_nondominated(points(F), keep_weakly=True)


def rank(F: Values) -> Int[np.ndarray, " n"]:
    """(n,) non-dominated rank: 0 for the front, 1 for the front of the rest, and so on."""
    return moocore.pareto_rank(points(F))


def reference(F: Values) -> Point:
    """Reference point of the hypervolume: 1.01 times the maxima of the first archive F (thesis
    3.3.4), and 1 for an objective that is 0 throughout, such as the errors of a perfect archive.

    A Refusal for negative values: their share of the reference point would mean nothing.
    """
    F = points(F)
    if (F < 0).any():
        k = int(np.argwhere(F < 0)[0, 1])
        raise Refusal(
            f"objective {k} is negative ({F[:, k].min()}): give one that is 0 or more, such as "
            "its distance from a bound"
        )
    largest = 1.01 * F.max(axis=0)
    return np.where(largest > 0, largest, 1.0)


def crowding(F: Values) -> Float[np.ndarray, " n"]:
    """Crowding distance (n,) of mutually non-dominated rows: inf at both ends of every objective
    (NSGA-II).

    Elsewhere the mean over the objectives of the distance between the two neighbours, as a share of
    the range. Of equal rows the first one stands for all and the others get 0: they are the first
    to go.
    """
    F = points(F)
    distance = np.zeros(len(F))
    rows, first = np.unique(F, axis=0, return_index=True)
    order = np.argsort(rows, axis=0, kind="stable")
    along = np.take_along_axis(rows, order, axis=0)
    ends, extent = np.full((1, F.shape[1]), np.inf), along[-1] - along[0]
    apart = (along[2:] - along[:-2]) / np.where(extent > 0, extent, 1.0)
    around = np.empty_like(rows)
    np.put_along_axis(around, order, np.concatenate([ends, apart, ends])[: len(rows)], axis=0)
    distance[first] = around.mean(axis=1)
    return distance


def survive(
    F: Values,
    n: int,
    rng: np.random.Generator,
    seed_directions: int = 42,
    rule: str | None = None,
) -> Indices:
    """Indices (n,) of the rows that stay, ascending; all of them if there are no more than n.
    Thesis 3.3.4.

    One objective: the smallest errors. Several, by `rule`: "crowding" = rank by rank and, of the
    rank that does not fit, the least crowded (ties at random; NSGA-II); "directions" = n reference
    directions (NSGA-III); None = crowding of two, directions of three and more. Give distinct
    subnets: a copy takes a place.
    """
    F = points(F)
    if n >= len(F):
        return np.arange(len(F))
    if F.shape[1] == 1:
        kept = np.argsort(F[:, 0], kind="stable")[:n]
    elif (rule or ("crowding" if F.shape[1] == 2 else "directions")) == "crowding":
        kept = _rank_and_crowding(F, n, rng)
    else:
        kept = _by_directions(F, n, rng, seed_directions)
    return np.sort(kept)


def _rank_and_crowding(F, n, rng):
    ranks = rank(F)
    split = np.partition(ranks, n - 1)[n - 1]  # the rank that does not fit
    before, last = np.flatnonzero(ranks < split), np.flatnonzero(ranks == split)
    order = np.lexsort((rng.random(len(last)), -crowding(F[last])))
    return np.concatenate([before, last[order[: n - len(before)]]])


def _by_directions(F, n, rng, seed):
    from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    M = F.shape[1]
    # The rule scales the objectives itself, but takes differences below 1e-3 for 0: scale first, so
    # units do not count.
    rows = Population.new(F=unit(F))
    rule = ReferenceDirectionSurvival(directions(M, max(n, M), seed))
    with warnings.catch_warnings():  # it changes the process's warning filters
        return rule.do(Problem(), rows, n_survive=n, random_state=rng, return_indices=True)


@lru_cache(maxsize=32)
def directions(M: int, n: int, seed: int = 42) -> Float[np.ndarray, "n m"]:
    """n >= M reference directions on the unit simplex, (n, M): points of least Riesz energy. Takes
    seconds, once."""
    from pymoo.util.ref_dirs import get_reference_directions

    # The library starts from 10 000 points and the 800 MB of their distances; 2 000 end at the same
    # energy.
    start = get_reference_directions(
        "reduction", M, n, n_sample_points=2000, kmeans=True, lexsort=False, seed=seed
    )
    return get_reference_directions("energy", M, n, X=start, seed=seed)


def hypervolume(F: Values, reference: Point) -> float:
    """Volume between the rows and the reference point (M,), as a share of the product of its
    coordinates: 0 .. 1.

    Raw units. Rows beyond the reference add nothing. See `reference`.
    """
    F, reference = points(F), np.asarray(reference, dtype=np.float64)
    if reference.shape != F.shape[1:] or not (reference > 0).all():
        raise Refusal(
            f"hypervolume reference {reference.tolist()}: give {F.shape[1]} positive numbers"
        )
    return float(moocore.hypervolume(F, ref=reference) / reference.prod())


def high_tradeoff(
    F: Values,
    n: int = 4,
    radius: float = 0.125,
    reduce: str = "min",
    average: bool = True,
    normalise: bool = True,
) -> Indices:
    """Indices of the n non-dominated rows that are costliest to leave for a neighbour, best first.
    Thesis eq. 3.1-3.3.

    The neighbours of i lie within `radius`, itself included; if these are fewer than min(2 M, front
    - 1), they are that many plus one nearest rows. Leaving i for j loses in some objectives and
    gains in others; the tradeoff of i is the `reduce` over its neighbours of loss / gain. A front
    of at most n rows is returned whole.

    reduce    : "min" = whatever neighbour is chosen, it costs at least this much (the sentence in
                thesis 3.3.4, and the published code); "max" = equation 3.3 as printed
    average   : mean loss and gain, over the objectives that lose and gain (eq. 3.1, 3.2); False =
                sums (published code)
    normalise : every objective from 0 to 1 over the front, so that units decide nothing; False = as
                they are
    """
    if reduce not in ("min", "max"):
        raise Refusal(f"reduce = {reduce!r}: use min or max")
    F = points(F)
    of_front = np.flatnonzero(front(F))
    f = unit(F[of_front]) if normalise else F[of_front]
    if len(f) <= 1:
        return of_front[:n]
    change = f[None, :, :] - f[:, None, :]  # (i, j, M): what moving from i to j changes
    tradeoff = _ratios(change, average)
    distance = np.sqrt((change**2).sum(axis=2))
    least = min(2 * f.shape[1], len(f) - 1)
    by_distance = np.argsort(distance, axis=1, kind="stable")
    nearest = np.argsort(by_distance, axis=1, kind="stable") <= least  # place of j as seen from i
    near = distance <= radius
    near = np.where(near.sum(axis=1, keepdims=True) < least, nearest, near)
    among = {"min": np.nanmin, "max": np.nanmax}[reduce]
    with warnings.catch_warnings():
        # A row whose neighbours are all equal to it gives NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        value = among(np.where(near, tradeoff, np.nan), axis=1)
    value[np.isnan(value)] = np.inf  # nothing near differs from it: it counts as the largest
    return of_front[np.argsort(-value, kind="stable")[:n]]


def _ratios(change, average):
    """Loss / gain of every move, (n, n); NaN where nothing changes."""
    loss, gain = np.maximum(change, 0).sum(axis=2), np.maximum(-change, 0).sum(axis=2)
    if average:
        loss = loss / np.maximum((change > 0).sum(axis=2), 1)
        gain = gain / np.maximum((change < 0).sum(axis=2), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return loss / gain
