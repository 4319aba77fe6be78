"""NAT and NATv2: an archive of scored subnets that grows, or is renewed, while the supernet adapts
to it.

X : (n, V) int64 genotypes, repaired (see `arch.Space`);  F : (n, M) float64 objective values,
    minimised: the error in
percent, then one column per cost, everywhere in the same order. What scores, predicts, costs and
adapts comes in as
functions: no network is built here. Source: thesis 3.3 and 6.1 to 6.3; NATv2, arXiv:2307.00960.
"""

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.search import pareto
from nat_lib.search.archive import DRAWS, TRIES, Iteration, distinct, score
from nat_lib.search.candidates import propose
from nat_lib.search.predictors import quality


def initial(space, version, evaluate, rng, depth_prior="uniform"):
    """The first archive (X, F): the best of `multiplier` times as many samples, and the smallest
    and largest subnet.

    All subnets are distinct. The two extremes are always there: they widen what the predictor has
    seen. Thesis 3.3.4.
    """
    ends = np.stack([space.lower, space.upper])
    if version.archive <= len(ends):
        raise Refusal(
            f"an archive of {version.archive}: give at least 3, as the smallest and largest subnet are in it"
        )
    X = _sample(
        space, version, version.multiplier * version.archive - len(ends), ends, rng, depth_prior
    )
    F = evaluate(X)
    kept = pareto.survive(F, version.archive - len(ends), rng)
    return np.concatenate([X[kept], ends]), np.concatenate([F[kept], evaluate(ends)])


def _sample(space, version, n, taken, rng, depth_prior):
    """n subnets different from each other and from `taken`."""
    X = taken
    for _ in range(TRIES):
        missing = n + len(taken) - len(X)
        more = space.sample_genotypes(missing, rng, version.sampling, depth_prior, version.repair)
        X = np.concatenate([X, more])
        X = X[distinct(space, X)]
        if len(X) == n + len(taken):
            return X[len(taken) :]
    raise Refusal(
        f"{TRIES} draws from {space.name} gave {len(X)} different subnets, not {n + len(taken)}: "
        "use a smaller archive or multiplier, or a larger space"
    )


def renew(space, version, X, F, candidates, measured, rng):
    """The archive (X, F) with the candidates: longer ("append"), or the best `version.archive` of
    both ("replace")."""
    X, F = np.concatenate([X, candidates]), np.concatenate([F, measured])
    kept = distinct(space, X)  # before survival: a copy would take the place of another subnet
    if version.policy == "replace":
        kept = kept[pareto.survive(F[kept], version.archive, rng)]
    return X[kept], F[kept]


# ---- the loop
# --------------------------------------------------------------------------------------------------


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
    """NAT (phase 1) or NATv2 as a generator of `Iteration`: number 0 first, then one after each
    adaptation.

    evaluate : X -> F (n, M), measured at the weights of the moment
    adapt    : (X, number) -> None, trains the supernet on subnets like the best of the archive, X;
               all scores are stale afterwards and are measured again
    fit      : (X, errors, rng) -> something with .predict(X) -> errors, .name (what predicts) and
               .note
    costs    : functions X -> (n,), one per column of F after the first, in that order
    start    : an Iteration to go on after, with the weights as they were then: the run ends like
               one never stopped
    Under fixed weights the hypervolume cannot fall, as long as the front fits into the archive.
    Thesis Algorithm 3.2.
    """

    def rng(
        number, draw
    ):  # of (seed, number, draw) alone: iterations are independent and a resumed run is the same
        return np.random.default_rng((seed, number, DRAWS.index(draw)))

    M = 1 + len(costs)
    if start is None:
        X, F = initial(
            space, version, lambda X: score(evaluate, X, M), rng(0, "initial"), depth_prior
        )
        reference = 1.01 * F.max(axis=0)
        start = Iteration(
            0,
            X,
            F,
            reference,
            pareto.hypervolume(F, reference),
            X[:0],
            F[:0, 0],
            F[:0],
            quality=quality(F[:0, 0], F[:0, 0]),
        )
        yield start
    if start.F.shape != (len(start.X), M):
        raise Refusal(
            f"the archive to go on from has {len(start.X)} subnets and objective values of shape "
            f"{start.F.shape}, not {M} columns: give an iteration of this very run, or start anew"
        )
    X, F, reference = start.X, start.F, start.reference
    for number in range(start.number + 1, budget.iterations + 1):
        predictor = fit(X, F[:, 0], rng(number, "fit"))
        candidates = propose(
            space,
            predictor.predict,
            X,
            F,
            costs,
            version,
            budget,
            rng(number, "propose"),
            crossover,
        )
        predicted = predictor.predict(candidates) if len(candidates) else np.empty(0)
        measured = score(evaluate, candidates, M)
        X, F = renew(space, version, X, F, candidates, measured, rng(number, "replace"))
        adapt(X[pareto.survive(F, budget.top, rng(number, "top"))], number)
        F = score(evaluate, X, M)
        yield Iteration(
            number,
            X,
            F,
            reference,
            pareto.hypervolume(F, reference),
            candidates,
            predicted,
            measured,
            (predictor.name, predictor.note),
            quality(predicted, measured[:, 0]),
        )
