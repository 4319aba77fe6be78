"""How a space is searched: one generator of iterations and one row for each strategy.

X : (n, V) int64 genotypes, repaired (see `arch.Space`);  F : (n, M) float64 objective values,
    minimised: the error in percent, then one column per cost, everywhere in the same order.
What scores, predicts, costs and adapts comes in as functions: no network is built here.

Every strategy is called alike:

    strategy(space, evaluate, adapt, fit, costs, version, budget, seed, start=None,
             crossover="uniform", depth_prior="uniform")

evaluate : X -> F (n, M), measured at the weights of the moment
adapt    : (X, number) -> None, trains the supernet on subnets like the best of the archive, X; all
           scores are stale afterwards
fit      : (X, errors, rng) -> something with .predict(X) -> errors, .name (what predicts) and .note
costs    : functions X -> (n,), one per column of F after the first, in that order
version  : sizes of the archive and of what is scored;  budget : of the whole search
start    : an Iteration to go on after, with the weights as they were then: the run ends like one
           never stopped
yields   : Iteration 0, the first archive, then one after each of `budget.iterations`. What a
           strategy has no use for (a predictor, an adaptation, a crossover) it ignores
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.machine import stream
from nat_lib.search import pareto
from nat_lib.search.archive import (
    TRIES,
    Iteration,
    distinct,
    initial,
    renew,
    sample,
    score,
)


def nat(
    space,
    evaluate,
    adapt,
    fit,
    costs,
    version,
    budget,
    seed,
    start=None,
    crossover="uniform",
    depth_prior="uniform",
):
    """NAT and NATv2: a predictor finds candidates, and the supernet adapts to the archive.

    Under fixed weights the hypervolume cannot fall, as long as the front fits into the archive.
    Thesis Algorithm 3.2, 3.3 and 6.1 to 6.3; NATv2, arXiv:2307.00960.
    """
    from nat_lib.search.candidates import propose
    from nat_lib.search.ensemble import quality

    M = 1 + len(costs)
    if start is None:
        start = _first(space, evaluate, M, version, seed, depth_prior)
        yield start
    X, F = _resumed(start, M)
    for number in range(start.number + 1, budget.iterations + 1):
        predictor = fit(X, F[:, 0], stream(seed, "search fit", number))
        rng = stream(seed, "search propose", number)
        candidates = propose(space, predictor.predict, X, F, costs, version, budget, rng, crossover)
        predicted = predictor.predict(candidates) if len(candidates) else np.empty(0)
        measured = score(evaluate, candidates, M)
        rng = stream(seed, "search replace", number)
        X, F = renew(space, version, X, F, candidates, measured, rng)
        best = pareto.survive(F, budget.top, stream(seed, "search top", number))
        adapt(X[best], number)
        F = score(evaluate, X, M)
        yield _iteration(number, X, F, start.reference, candidates, measured)._replace(
            predicted=predicted,
            predictor=(predictor.name, predictor.note),
            quality=quality(predicted, measured[:, 0]),
        )


def regularised_evolution(
    space,
    evaluate,
    adapt,
    fit,
    costs,
    version,
    budget,
    seed,
    start=None,
    crossover="uniform",
    depth_prior="uniform",
):
    """Aging evolution: the archive is a queue of constant length, whatever the version's policy.

    A child is the mutation, in one variable, of the best of a quarter of the archive by
    non-dominated rank; it enters at the end, and the oldest leaves, even when it is the best. Where
    no mutation is new, fewer children enter. Neither predictor nor adaptation.
    Source: Real et al. 2019, arXiv:1802.01548, with ranks in place of the error.
    """
    M = 1 + len(costs)
    if start is None:
        start = _first(space, evaluate, M, version, seed, depth_prior)
        yield start
    X, F = _resumed(start, M)
    for number in range(start.number + 1, budget.iterations + 1):
        rng = stream(seed, "search mutate", number)
        children = _children(space, version, X, pareto.rank(F), rng)
        measured = score(evaluate, children, M)
        n = len(X)
        X, F = np.concatenate([X, children])[-n:], np.concatenate([F, measured])[-n:]
        yield _iteration(number, X, F, start.reference, children, measured)


def random_search(
    space,
    evaluate,
    adapt,
    fit,
    costs,
    version,
    budget,
    seed,
    start=None,
    crossover="uniform",
    depth_prior="uniform",
):
    """The control: candidates are drawn like the first archive, which keeps the best as the version
    says. Neither predictor nor adaptation."""
    M = 1 + len(costs)
    if start is None:
        start = _first(space, evaluate, M, version, seed, depth_prior)
        yield start
    X, F = _resumed(start, M)
    for number in range(start.number + 1, budget.iterations + 1):
        rng = stream(seed, "search draw", number)
        candidates = sample(space, version, version.candidates, X, rng, depth_prior)
        measured = score(evaluate, candidates, M)
        rng = stream(seed, "search replace", number)
        X, F = renew(space, version, X, F, candidates, measured, rng)
        yield _iteration(number, X, F, start.reference, candidates, measured)


# ----------------------------------------------------------------------------- what they share


def _first(space, evaluate, M, version, seed, depth_prior):
    """Iteration 0: the first archive, and the reference point of the whole run."""
    rng = stream(seed, "search initial", 0)
    X, F = initial(space, version, lambda X: score(evaluate, X, M), rng, depth_prior)
    return _iteration(0, X, F, pareto.reference(F), X[:0], F[:0])


def _resumed(start, M):
    """Archive and objective values of an iteration to go on from, checked."""
    if start.F.shape != (len(start.X), M):
        raise Refusal(
            f"the archive to go on from has {len(start.X)} subnets and objective values of shape "
            f"{start.F.shape}, not {M} columns: give an iteration of this very run, or start anew"
        )
    return start.X, start.F


def _iteration(number, X, F, reference, candidates, measured):
    """An iteration in which nothing was predicted."""
    from nat_lib.search.ensemble import quality

    predicted = np.full(len(candidates), np.nan)
    return Iteration(
        number,
        X,
        F,
        reference,
        pareto.hypervolume(F, reference),
        candidates,
        predicted,
        measured,
        quality=quality(predicted, measured[:, 0]),
    )


def _children(space, version, X, rank, rng):
    """At most `version.candidates` mutations, different from each other and from the archive X
    (n, V), whose non-dominated ranks are (n,)."""
    contestants, known = max(2, len(X) // 4), X
    for _ in range(TRIES * version.candidates):
        if len(known) == len(X) + version.candidates:
            break
        drawn = rng.choice(len(X), min(contestants, len(X)), replace=False)
        child = X[drawn[np.argmin(rank[drawn])]].copy()
        v = rng.integers(space.n_var)
        child[v] = rng.integers(space.lower[v], space.upper[v] + 1)
        both = np.concatenate([known, space.repair(child[None], version.repair)])
        if len(distinct(space, both)) == len(both):
            known = both
    return known[len(X) :]


# --------------------------------------------------------------------------------------- the table


class Strategy(NamedTuple):
    """One row of the table.

    function : see the head of this file
    label    : in tables and figures
    colour   : in figures
    adapts   : whether the supernet is trained during the search, so that scores become stale
    """

    function: Callable
    label: str
    colour: str
    adapts: bool = False


DEFAULT = "nat"
STRATEGIES = {
    "nat": Strategy(nat, "NAT", "#3377BB", adapts=True),
    "regularised_evolution": Strategy(regularised_evolution, "regularised evolution", "#EE7733"),
    "random": Strategy(random_search, "random search", "#AA4499"),
}
