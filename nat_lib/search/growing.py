"""Strategies that grow: from few choices to many, from one exit to several, along a diagonal."""

import numpy as np

from nat_lib.search import pareto
from nat_lib.search.archive import distinct
from nat_lib.search.task import fresh, iteration, keeping_all, opened, renewed, steps
from nat_lib.search.ties import levels

BEAM = 10  # members of the archive that a level of PNAS grows
PRICE = 10.0  # points of error that the whole first cost is worth


def pnas(task, start=None, beam=BEAM):
    """Progressive search: the best `beam` members grow by every move of a level, a predictor says
    which children are measured.

    A move gives one group of variables one value; levels (`ties.levels`) go from the whole network
    to single blocks, an equal share of the iterations each. The archive keeps all that was
    measured. Without a limit on beam and candidates it lists the whole space.
    Source: PNAS, arXiv:1712.00559.
    """
    task = keeping_all(task)
    now = opened(task, start)
    if start is None:
        yield now
    for number in range(now.number + 1, task.budget.iterations + 1):
        rng = task.stream("propose", number)
        children = _grown(task, now, beam, number, rng)
        found, predicted, told = _chosen(task, now, children, number, rng)
        measured = task.score(found)
        X, F = renewed(task, now, found, measured, task.stream("replace", number))
        now = iteration(number, X, F, now.reference, found, measured, predicted)
        now = now._replace(predictor=told)
        yield now


def _grown(task, now, beam, number, rng):
    """What every move of the iteration's level makes of the best members of the archive: only new
    genotypes, and none twice."""
    tied = levels(task.space)
    level = tied[(number - 1) * len(tied) // task.budget.iterations]
    best = now.X[pareto.survive(now.F, beam, rng)]
    children = [now.X]
    for group in level:
        low, high = task.space.lower[group], task.space.upper[group]
        for value in range(low.min(), high.max() + 1):
            moved = best.copy()
            moved[:, group] = np.clip(value, low, high)
            children.append(task.space.repair(moved, task.version.repair))
    every = np.concatenate(children)
    kept = distinct(task.space, every)
    return every[kept[kept >= len(now.X)]]


def _chosen(task, now, children, number, rng):
    """(the children to measure, their predicted errors, what predicted): the best as NSGA-II and
    NSGA-III choose."""
    if not len(children):
        return children, np.empty(0), ("", "")
    predictor = task.fit(now.X, now.F[:, 0], task.stream("fit", number))
    predicted = predictor.predict(children)
    F = np.column_stack([predicted, task.cost(children)])
    best = pareto.survive(F, task.version.candidates, rng)
    return children[best], predicted[best], (predictor.name, predictor.note)


def compound(task, start=None):
    """Compound scaling: uniform subnets along the diagonal of resolution, depth, expansion and
    width, with the middle kernel and the last exit; then those of other kernels and exits.

    What one would do without a search; it proposes nothing when they are all measured.
    Source: EfficientNet, arXiv:1905.11946.
    """

    def begin(task, now):
        return {"family": family(task.space)}

    def propose(task, now, rng):
        every = np.concatenate([now.X, now.state["family"].astype(np.int64)])
        kept = distinct(task.space, every)
        return every[kept[kept >= len(now.X)][: task.version.candidates]]

    return steps(task, start, propose, begin=begin)


def family(space):
    """(k, V) genotypes of the diagonal for every kernel and exit, the middle kernel and the last
    exit first."""
    from nat_lib.search.compound import diagonal

    kernels = sorted(space.kernels, key=lambda k: k != space.kernels[(len(space.kernels) - 1) // 2])
    archs = [
        space.arch(a.resolution, a.width, exit, a.depth, kernel, a.expand, a.level)
        for exit in reversed(space.exits)
        for kernel in kernels
        for a in diagonal(space)
    ]
    return space.encode(archs)


def greedy_exits(task, start=None):
    """Greedy growth of exits: members of the front answer with one exit more.

    Members grow in the order of AdaNet's objective, the error and PRICE times the share of the
    largest first cost; the archive keeps what pays. Where a genotype names a single exit, the next
    deeper one follows. Places that nothing fills go to random subnets.
    Source: AdaNet, arXiv:1607.01097.
    """

    def propose(task, now, rng):
        best = now.X[_by_objective(now.F)]
        grown = np.concatenate([now.X[:0], *(_one_more(task.space, x) for x in best)])

        def draw(n):
            nonlocal grown
            some, grown = grown[:n], grown[n:]
            law = task.version.sampling, task.depth_prior
            rest = task.space.sample_genotypes(n - len(some), rng, *law)
            return np.concatenate([some, rest])

        return fresh(task, now.X, draw)

    return steps(task, start, propose)


def _by_objective(F):
    """Rows of the front by error and priced first cost, best first."""
    members = np.flatnonzero(pareto.front(F))
    value = F[members, 0].copy()
    if F.shape[1] > 1:
        value += PRICE * F[members, 1] / F[:, 1].max()
    return members[np.argsort(value, kind="stable")]


def _one_more(space, x):
    """Genotypes (k, V) that differ from x in one more exit."""
    if space.first < 3:
        return x[None][:0]
    mine = set(space.votes[x[2]])
    codes = [c for c, votes in enumerate(space.votes) if mine < set(votes)]
    more = [c for c in codes if len(space.votes[c]) == len(mine) + 1]
    if not more and x[2] < space.upper[2]:
        more = [x[2] + 1]
    grown = np.repeat(x[None], len(more), axis=0)
    grown[:, 2] = more
    return grown
