"""Strategies that a predictor guides: what is measured was promising before."""

import numpy as np

from nat_lib.search import pareto
from nat_lib.search.archive import renew
from nat_lib.search.evolution import crossed, mutated
from nat_lib.search.policies import targets
from nat_lib.search.task import Task, fresh, iteration, keeping_all, opened

PARENTS = 0.25  # share of a population that OFA's evolution keeps


def nat(task, start=None):
    """NAT and NATv2: a predictor finds candidates, and the supernet adapts to the archive.

    Under fixed weights the hypervolume cannot fall, as long as the front fits into the archive.
    Thesis Algorithm 3.2, 3.3 and 6.1 to 6.3; NATv2, arXiv:2307.00960.
    """
    from nat_lib.search.candidates import propose
    from nat_lib.search.ensemble import quality

    space, version, budget = task.space, task.version, task.budget
    now = opened(task, start)
    if start is None:
        yield now
    X, F = now.X, now.F
    for number in range(now.number + 1, budget.iterations + 1):
        predictor = task.fit(X, F[:, 0], task.stream("fit", number))
        rng = task.stream("propose", number)
        found = propose(
            space, predictor.predict, X, F, task.costs, version, budget, rng, task.crossover
        )
        predicted = predictor.predict(found) if len(found) else np.empty(0)
        measured = task.score(found)
        X, F = renew(space, version, X, F, found, measured, task.stream("replace", number))
        best = pareto.survive(F, budget.top, task.stream("top", number))
        task.adapt(X[best], number)
        F = task.score(X)
        yield iteration(number, X, F, now.reference, found, measured, predicted)._replace(
            predictor=(predictor.name, predictor.note),
            quality=quality(predicted, measured[:, 0]),
        )


def nsganet(task, start=None):
    """NSGANetV2: as NATv2, but the weights stay, and the archive keeps all that was measured.
    Source: arXiv:2007.10396."""
    return nat(keeping_all(task)._replace(adapt=lambda X, number: None), start)


def ofa(task, start=None):
    """Once-for-All's search: elite evolution on predicted errors under a hard limit of the first
    cost, which no candidate exceeds.

    The limits of `policies.targets` take turns. Of every population the best quarter stays; of
    their children half are mutants, half crosses. The archive keeps all that was measured, which
    the predictor learns from. Source: arXiv:1908.09791, whose code keeps the elite and lets nothing
    age.
    """
    task = keeping_all(task)
    now = opened(task, start, lambda task, now: {"limits": targets(now.F)})
    if start is None:
        yield now
    for number in range(now.number + 1, task.budget.iterations + 1):
        limits = now.state["limits"]
        limit = limits[number % len(limits)]
        predictor = task.fit(now.X, now.F[:, 0], task.stream("fit", number))
        rng = task.stream("propose", number)
        found = _within(task, now, predictor.predict, limit, rng)
        predicted = predictor.predict(found) if len(found) else np.empty(0)
        measured = task.score(found)
        rng = task.stream("replace", number)
        X, F = renew(task.space, task.version, now.X, now.F, found, measured, rng)
        reached = iteration(number, X, F, now.reference, found, measured, predicted)
        told = predictor.name, predictor.note
        now = reached._replace(predictor=told, state=now.state)
        yield now


def _within(task, now, predict, limit, rng):
    """New genotypes within a limit of the first cost that an evolution predicts to be best."""

    def legal(X):
        return X[task.cost(X)[:, 0] <= limit] if task.M > 1 else X

    population, size = legal(now.X), task.budget.population
    for _ in range(task.budget.generations):
        elite = _best(population, predict, max(2, round(PARENTS * size)))
        wider: Task = task._replace(version=task.version._replace(candidates=size - len(elite)))
        population = np.concatenate(
            [elite, fresh(wider, elite, _children(task, elite, legal, rng))]
        )
    known = {row.tobytes() for row in task.space.active(now.X)}
    is_new = [row.tobytes() not in known for row in task.space.active(population)]
    return _best(population[np.array(is_new, dtype=bool)], predict, task.version.candidates)


def _children(task, elite, legal, rng):
    """How many -> children of the elite, half mutants and half crosses, that are legal."""

    def draw(n):
        order = np.arange(len(elite))
        mutants = mutated(task, elite[rng.integers(len(elite), size=n - n // 2)], rng)
        both = np.concatenate([mutants, crossed(task, elite, order, n // 2, rng)])
        return legal(task.space.repair(both, task.version.repair))

    return draw


def _best(X, predict, n):
    """The n genotypes whose predicted errors are smallest, best first."""
    return X[np.argsort(predict(X), kind="stable")[:n]] if len(X) else X
