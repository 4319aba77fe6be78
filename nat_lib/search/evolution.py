"""Strategies that breed: parents are chosen among what was measured, children are measured."""

import numpy as np

from nat_lib.search import pareto
from nat_lib.search.archive import distinct, renew, sample
from nat_lib.search.policies import reward, targets
from nat_lib.search.task import fresh, renewed, steps
from nat_lib.search.ties import levels

MATING = 0.9  # probability of a crossover
BINS = 20  # of the first cost, in each of which one elite lives


def random_search(task, start=None):
    """The control: candidates are drawn like the first archive, which keeps the best as the version
    says. Neither predictor nor adaptation."""

    def propose(task, now, rng):
        n = task.version.candidates
        return sample(task.space, task.version, n, now.X, rng, task.depth_prior)

    return steps(task, start, propose)


def regularised_evolution(task, start=None):
    """Aging evolution: the archive is a queue of constant length, whatever the version's policy.

    A child is the mutation, in one variable, of the best of a quarter of the archive by
    non-dominated rank; it enters at the end, and the oldest leaves, even when it is the best. Where
    no mutation is new, fewer children enter. Neither predictor nor adaptation.
    Source: Real et al. 2019, arXiv:1802.01548, with ranks in place of the error.
    """

    def propose(task, now, rng):
        rank, contestants = pareto.rank(now.F), max(2, len(now.X) // 4)
        return fresh(task, now.X, lambda n: _aged(task.space, now.X, rank, contestants, n, rng))

    def keep(task, now, candidates, measured, rng):
        n = len(now.X)
        X, F = np.concatenate([now.X, candidates]), np.concatenate([now.F, measured])
        return X[-n:], F[-n:]

    return steps(task, start, propose, keep=keep)


def _aged(space, X, rank, contestants, n, rng):
    """n children, each the mutation in one variable of the best of so many contestants."""
    children = np.empty((n, X.shape[1]), dtype=np.int64)
    for child in children:
        drawn = rng.choice(len(X), min(contestants, len(X)), replace=False)
        child[:] = X[drawn[np.argmin(rank[drawn])]]
        v = rng.integers(space.n_var)
        child[v] = rng.integers(space.lower[v], space.upper[v] + 1)
    return children


def ga(task, start=None):
    """A genetic algorithm on one number, MnasNet's reward at the middle of `policies.targets`: it
    is for one deployment target, not for a front."""

    def fitness(F, state):
        return -reward(F, np.median(state["targets"]))

    def propose(task, now, rng):
        order = np.argsort(fitness(now.F, now.state), kind="stable")
        return fresh(task, now.X, lambda n: crossed(task, now.X, order, n, rng))

    def keep(task, now, candidates, measured, rng):
        X, F = np.concatenate([now.X, candidates]), np.concatenate([now.F, measured])
        kept = distinct(task.space, X)
        best = np.argsort(fitness(F[kept], now.state), kind="stable")[: len(now.X)]
        return X[kept[best]], F[kept[best]]

    return steps(task, start, propose, begin=_targets, keep=keep)


def _targets(task, now):
    return {"targets": targets(now.F)}


def nsga2(task, start=None):
    """NSGA-II on measured values: parents and survivors by non-dominated rank, then the least
    crowded.  Source: Deb et al. 2002."""
    return steps(task, start, bred, keep=by_rule("crowding"))


def nsga3(task, start=None):
    """NSGA-III on measured values: survivors by reference directions.  Source: Deb and Jain
    2014."""
    return steps(task, start, bred, keep=by_rule("directions"))


def bred(task, now, rng):
    """New children of tournaments by non-dominated rank and crowding."""
    order = _by_rank(now.F)
    return fresh(task, now.X, lambda n: crossed(task, now.X, order, n, rng))


def _by_rank(F):
    """Rows from the best to the worst: by non-dominated rank, then the least crowded."""
    rank, lonely = pareto.rank(F), np.empty(len(F))
    for r in range(rank.max() + 1):
        lonely[rank == r] = pareto.crowding(F[rank == r])
    return np.lexsort((-lonely, rank))


def by_rule(rule):
    """What keeps the archive as the version says, its survivors chosen by a rule."""

    def keep(task, now, candidates, measured, rng):
        version = task.version
        if len(now.F[0]) == 1 or version.policy == "append":
            return renewed(task, now, candidates, measured, rng)
        grown = version._replace(policy="append")
        X, F = renew(task.space, grown, now.X, now.F, candidates, measured, rng)
        kept = pareto.survive(F, version.archive, rng, rule=rule)
        return X[kept], F[kept]

    return keep


def binned_elites(task, start=None):
    """The best subnet of each of BINS bins of the first cost, on a scale of ratios; children are
    mutants and crosses of the elites.

    The archive is the elites: at most one per bin, and no bin's gets worse. One objective: one bin.
    Source: the search of AttentiveNAS and AlphaNet, arXiv:2011.09011; MAP-Elites,
    arXiv:1504.04909.
    """

    def begin(task, now):
        cost = np.log(np.maximum(now.F[:, 1], 1e-12)) if task.M > 1 else np.zeros(1)
        return {"edges": np.linspace(cost.min(), cost.max(), BINS + 1)[1:-1]}

    def propose(task, now, rng):
        order = rng.permutation(len(now.X))
        return fresh(task, now.X, lambda n: crossed(task, now.X, order, n, rng))

    def keep(task, now, candidates, measured, rng):
        X, F = np.concatenate([now.X, candidates]), np.concatenate([now.F, measured])
        bins = np.zeros(len(F), dtype=int)
        if task.M > 1:
            bins = np.digitize(np.log(np.maximum(F[:, 1], 1e-12)), now.state["edges"])
        by_error = np.argsort(F[:, 0], kind="stable")
        elites = np.sort(by_error[np.unique(bins[by_error], return_index=True)[1]])
        return X[elites], F[elites]

    return steps(task, start, propose, begin=begin, keep=keep)


def motifs(task, start=None):
    """Mutation of motifs: all variables that a level of `ties.levels` ties take one value at once,
    from the whole network over a stage to a block.

    Parents and survivors as in NSGA-II. Source: hierarchical representations,
    arXiv:1711.00436, whose motifs are the tied parts of this space.
    """

    def propose(task, now, rng):
        order, tied = _by_rank(now.F), levels(task.space)

        def draw(n):
            children = now.X[order[_tournament(len(order), n, rng)]]
            for child in children:
                groups = tied[rng.integers(len(tied))]
                group = groups[rng.integers(len(groups))]
                value = rng.integers(
                    task.space.lower[group].min(), task.space.upper[group].max() + 1
                )
                child[group] = np.clip(value, task.space.lower[group], task.space.upper[group])
            return children

        return fresh(task, now.X, draw)

    return steps(task, start, propose, keep=by_rule("crowding"))


# ------------------------------------------------------------------------------------- operators


def crossed(task, X, order, n, rng):
    """(n, V) children of X: both parents are winners of tournaments of two, `order` being X's rows
    from the best to the worst; every variable comes from one of them, then may mutate."""
    mothers, fathers = (X[order[_tournament(len(order), n, rng)]] for _ in range(2))
    mixed = (rng.random(n) < MATING)[:, None] & (rng.random((n, X.shape[1])) < 0.5)
    return mutated(task, np.where(mixed, fathers, mothers), rng)


def _tournament(m, n, rng):
    """(n,) places of the winners of n tournaments of two among m."""
    return rng.integers(m, size=(2, n)).min(axis=0)


def mutated(task, X, rng):
    """X with every variable drawn anew with probability 1 / V, at least one of each row."""
    space, (n, V) = task.space, X.shape
    changed = rng.random((n, V)) < 1 / V
    changed[np.arange(n), rng.integers(V, size=n)] = True
    return np.where(changed, rng.integers(space.lower, space.upper + 1, size=(n, V)), X)
