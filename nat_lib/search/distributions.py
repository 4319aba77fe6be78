"""One distribution per variable of the genotype, fitted to the best of the archive: what adaptation
draws subnets from.

A variable takes integer values, its categories lower..upper. A continuous law is fitted to the
column, and category k stands for the interval from k - 1/2 to k + 1/2: rounding a draw of the law
and clipping it to the bounds gives k with exactly the probability that is stored. So sampling is a
look-up, and no draw can be infinite or not a number.
Source: thesis 3.3.4 steps 7 and 8, 6.2.3; NATv2, arXiv:2307.00960.
"""

import multiprocessing
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special, stats

from nat_lib.errors import Refusal

LAWS = ("sse", "uniform_range", "empirical")
SLOW = ("levy_stable", "studentized_range")  # minutes per fit; the author leaves them out as well
ALL = tuple(
    name
    for name in dir(stats)
    if isinstance(getattr(stats, name), stats.rv_continuous) and name not in SLOW
)


class Marginal(NamedTuple):
    """The law of one variable. Plain numbers, so that it can be kept in JSON.

    family, params : name in scipy.stats and its parameters; or "constant", "uniform_range",
                     "empirical" without any
    error          : sum of squared differences between the density and the column's histogram; 0 if
                     nothing is fitted
    lower          : first category;  probabilities : of the categories lower, lower + 1, ...; they
                     sum to 1
    """

    family: str
    params: tuple[float, ...]
    error: float
    lower: int
    probabilities: tuple[float, ...]


Genotypes = Int[np.ndarray, "n v"]
Column = Float[np.ndarray, " n"]
Bounds = Int[np.ndarray, " v"]


def fit(
    X: Genotypes,
    lower: Bounds,
    upper: Bounds,
    law: str = "sse",
    families: str | Sequence[str] = "short",
    processes: int = 1,
) -> list[Marginal]:
    """Laws of all variables: list of Marginal, in the order of the variables for any number of
    processes.

    X            : (n, V) genotypes of the best of the archive;  lower, upper : bounds of the
                   categories
    law          : "sse" = of the families the one whose density is nearest to the histogram of the
                   column; "empirical" = the frequencies themselves; "uniform_range" = uniform
                   between the smallest and the largest value seen: the author's fit amounts to
                   it, as it always keeps the first family, ksone
    families     : "short" = eight families, their supports tied to the categories; "all" = the
                   continuous families of scipy, about 107, with all parameters free as in the
                   thesis, seconds per variable; or names of some
    processes    : they pay for "all" only
    """
    X = np.asarray(X)
    fits = X.ndim == 2 and len(X) > 0 and X.shape[1] == len(lower)
    if not fits or ((lower > X) | (upper < X) | (X % 1 != 0)).any():
        raise Refusal(
            f"genotypes of shape {X.shape} for {len(lower)} variables: give whole numbers inside "
            "the bounds, at least one row"
        )
    if law not in LAWS:
        raise Refusal(f"distribution law {law!r} is not known: choose one of {', '.join(LAWS)}")
    one = partial(_marginal, law=law, names=_names(families), tied=families == "short")
    columns = list(X.T.astype(np.int64)), np.asarray(lower).tolist(), np.asarray(upper).tolist()
    if processes == 1:
        return list(map(one, *columns))
    context = multiprocessing.get_context("spawn")  # a process with torch's threads must not fork
    with ProcessPoolExecutor(processes, context) as pool:
        # In the order of the columns, whichever is finished first.
        return list(pool.map(one, *columns))


def _names(families):
    """Names in scipy.stats of "short", "all" or a list of some."""
    known = {"short": tuple(SHORT), "all": ALL}
    names = known.get(families, ()) if isinstance(families, str) else tuple(families)
    if not names or not set(names) <= set(ALL):
        raise Refusal(
            f"families {families!r}: choose short, all, or a list of continuous laws of scipy.stats"
        )
    return names


def sample(
    marginals: Sequence[Marginal],
    n: int,
    rng: np.random.Generator,
    space: Any,
    repair: str = "push",
) -> Genotypes:
    """n genotypes, (n, V) int64, every variable drawn by itself, then repaired ("push" | "fill",
    see Space.repair)."""
    theirs = [(m.lower, len(m.probabilities)) for m in marginals]
    if theirs != list(zip(space.lower, space.categories, strict=True)):
        raise Refusal(
            f"distributions of {len(marginals)} variables do not belong to this {space.name} "
            "space: fit them to genotypes of the space that is sampled"
        )
    ends = np.ones((len(marginals), space.categories.max()))  # (V, C) cumulated probabilities
    for row, m in zip(ends, marginals, strict=True):
        row[: len(m.probabilities) - 1] = np.cumsum(m.probabilities)[:-1]
    below = ends[:, :-1] <= rng.random((n, len(marginals), 1))  # (n, V, C - 1)
    return space.repair(space.lower + below.sum(axis=2), repair)


# ------------------------------------------------------------------------------------- one variable


def _marginal(column, lower, upper, law, names, tied):
    """Marginal of one column of integers inside lower..upper."""
    counts = np.bincount(column - lower, minlength=upper - lower + 1)
    seen = np.flatnonzero(counts)
    if len(seen) == 1:
        return _made("constant", counts, lower)
    if law == "uniform_range":
        inside = np.zeros(len(counts))
        inside[seen[0] : seen[-1] + 1] = 1
        return _made("uniform_range", inside, lower)
    if law == "sse":
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Families far from the data warn of overflow, then lose.
            warnings.simplefilter("ignore")
            for error, name, params in _ranking(column, lower, upper, names, tied):
                probabilities = _rounded(getattr(stats, name), params, lower, upper)
                if probabilities is not None:
                    return _made(name, probabilities, lower, params, error)
    return _made("empirical", counts, lower)


def _made(family, weights, lower, params=(), error=0.0):
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return Marginal(family, tuple(map(float, params)), float(error), lower, tuple(shares.tolist()))


def _ranking(column, lower, upper, names, tied):
    """[(error, name, params)] of the families that could be fitted, best first; among equals the
    first name wins."""
    # Half a category wider than the data, so that bins of width 1 lie around the categories;
    # numpy's "auto" rule, but never narrower than 1: otherwise every second bin of a concentrated
    # column would be empty.
    around = column.min() - 0.5, column.max() + 0.5
    automatic = len(np.histogram_bin_edges(column, "auto", around)) - 1
    bins = min(automatic, int(np.ptp(column)) + 1)
    heights, edges = np.histogram(column, bins, around, density=True)
    centres = (edges[1:] + edges[:-1]) / 2
    x = column.astype(np.float64)
    found = []
    for name in names:
        family = getattr(stats, name)
        try:
            params = SHORT[name](x, lower - 0.5, upper + 0.5) if tied else family.fit(x)
            error = np.sum((family.pdf(centres, *params) - heights) ** 2)
        except (ValueError, ArithmeticError, RuntimeError):
            continue
        if np.isfinite(error):
            found.append((error, name, params))
    return sorted(found, key=lambda row: row[0])


def _rounded(family, params, lower, upper):
    """Probabilities of lower..upper when draws are rounded and clipped; None if they are not
    finite."""
    try:
        below = family.cdf(np.arange(lower, upper) + 0.5, *params)
    except (ValueError, ArithmeticError, RuntimeError):
        return None
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    return np.clip(shares, 0, None) if np.isfinite(shares).all() and shares.min() > -1e-6 else None


# The short list. Maximum likelihood with the support [a, b] given, a = lower - 1/2 and b = upper +
# 1/2: with free ends the likelihood of integers is unbounded (a gamma or beta law can shrink onto
# the smallest value seen).


def _triangle(x: Column, a: float, b: float):
    """The most likely mode is one of the values."""
    modes = np.unique((x - a) / (b - a))
    return modes[np.argmax(stats.triang.logpdf(x[:, None], modes, a, b - a).sum(axis=0))], a, b - a


def _truncated_normal(x: Column, a: float, b: float):
    m1, m2, width = x.mean(), np.mean(x**2), b - a

    def loss(theta):  # minus the mean log-likelihood, without its constant
        centre, log_scale = theta
        scale = np.exp(log_scale)
        mass = special.ndtr((b - centre) / scale) - special.ndtr((a - centre) / scale)
        return log_scale + (m2 - 2 * centre * m1 + centre**2) / (2 * scale**2) + np.log(mass)

    bounds = [(a - 2 * width, b + 2 * width), (np.log(width / 20), np.log(3 * width))]
    start = m1, np.log(x.std())
    centre, log_scale = optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    scale = np.exp(log_scale)
    return (a - centre) / scale, (b - centre) / scale, centre, scale


SHORT = {
    "norm": lambda x, a, b: stats.norm.fit(x),
    "uniform": lambda x, a, b: (a, b - a),
    "beta": lambda x, a, b: stats.beta.fit(x, floc=a, fscale=b - a),
    "gamma": lambda x, a, b: stats.gamma.fit(x, floc=a),
    "expon": lambda x, a, b: stats.expon.fit(x, floc=a),
    "lognorm": lambda x, a, b: stats.lognorm.fit(x, floc=a),
    "triang": _triangle,
    "truncnorm": _truncated_normal,
}
