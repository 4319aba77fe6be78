"""What a strategy is given, and the loop that most of them share.

X : (n, V) int64 genotypes, repaired;  F : (n, M) float64 objective values, minimised: the error in
    percent, then one column per cost, everywhere in the same order.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.machine import stream
from nat_lib.search import pareto
from nat_lib.search.archive import (
    TRIES,
    Budget,
    Iteration,
    Version,
    distinct,
    initial,
    renew,
    score,
)


class Task(NamedTuple):
    """One search. What scores, predicts, costs and adapts comes in as functions: no network here.

    space    : of the genotypes: an `arch.Space`, or a `tied.Tied` view of one
    evaluate : X -> F (n, M), measured at the weights of the moment
    adapt    : (X, number) -> None, trains the supernet on subnets like the best of the archive, X;
               all scores are stale afterwards
    fit      : (X, errors, rng) -> something with .predict(X) -> errors, .name, .note
    costs    : functions X -> (n,), one per column of F after the first, in that order
    version  : sizes of the archive and of what is scored;  budget : of the whole search
    crossover, depth_prior : of those who have a use for it
    begin    : genotypes that the first archive holds, such as the front of another data set; None
    relax    : (laws, estimator, price, number) -> laws, moved along a gradient through the supernet
               (`search.gradient`); None: there is no supernet
    cheap    : (X, share) -> F, measured on that share of the images, for that share of the cost;
               None: nothing here measures so
    """

    space: Any
    evaluate: Callable
    adapt: Callable
    fit: Callable
    costs: list[Callable]
    version: Version
    budget: Budget
    seed: int
    crossover: str = "uniform"
    depth_prior: str = "uniform"
    cheap: Callable | None = None
    begin: Any = None
    relax: Callable | None = None

    @property
    def M(self) -> int:
        """Number of objectives."""
        return 1 + len(self.costs)

    def cost(self, X):
        """(n, M - 1) costs of genotypes."""
        return np.column_stack([np.empty((len(X), 0)), *(f(X) for f in self.costs)])

    def score(self, X):
        """(n, M) measured objective values of genotypes, checked."""
        return score(self.evaluate, X, self.M)

    def stream(self, purpose: str, number: int) -> np.random.Generator:
        """The random numbers of one purpose in one iteration."""
        return stream(self.seed, f"search {purpose}", number)


def keeping_all(task: Task) -> Task:
    """The same search with an archive that keeps all that was measured, whatever the version
    says."""
    return task._replace(version=task.version._replace(policy="append"))


def opened(task: Task, start: Iteration | None, begin: Callable | None = None) -> Iteration:
    """What to go on from: `start`, checked, or Iteration 0, the first archive and the reference
    point of the whole run.

    begin : (task, Iteration) -> what is known before anything is learnt, {name: array}
    """
    if start is None:
        rng = task.stream("initial", 0)
        how = task.depth_prior, task.begin
        X, F = initial(task.space, task.version, task.score, rng, *how)
        start = iteration(0, X, F, pareto.reference(F), X[:0], F[:0])
    if start.F.shape != (len(start.X), task.M):
        raise Refusal(
            f"the archive to go on from has {len(start.X)} subnets and objective values of shape "
            f"{start.F.shape}, not {task.M} columns: give an iteration of this very run, or start "
            "anew"
        )
    if begin and start.state is None:
        start = start._replace(state=begin(task, start))
    return start


def iteration(number, X, F, reference, candidates, measured, predicted=None) -> Iteration:
    """An `Iteration` and what is computed of it; predicted (n,): None where nothing predicted."""
    from nat_lib.search.ensemble import quality

    if predicted is None:
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


def steps(
    task: Task,
    start: Iteration | None,
    propose: Callable,
    begin: Callable | None = None,
    learn: Callable | None = None,
    keep: Callable | None = None,
) -> Iterator[Iteration]:
    """The loop: propose, measure, keep, learn.

    propose : (task, Iteration, rng) -> genotypes to measure, new ones
    begin   : see `opened`
    learn   : (task, Iteration before, candidates, measured) -> what is known after it
    keep    : (task, Iteration before, candidates, measured, rng) -> (X, F); None: see `renewed`
    """
    now = opened(task, start, begin)
    if start is None:
        yield now
    for number in range(now.number + 1, task.budget.iterations + 1):
        candidates = propose(task, now, task.stream("propose", number))
        measured = task.score(candidates)
        rng = task.stream("replace", number)
        X, F = (keep or renewed)(task, now, candidates, measured, rng)
        state = learn(task, now, candidates, measured) if learn else now.state
        reached = iteration(number, X, F, now.reference, candidates, measured)
        now = reached._replace(state=state)
        yield now


def renewed(task, now, candidates, measured, rng):
    """The archive (X, F) with the candidates, as the version says."""
    return renew(task.space, task.version, now.X, now.F, candidates, measured, rng)


def fresh(task: Task, taken, draw: Callable):
    """At most `version.candidates` repaired genotypes different from each other and from `taken`;
    fewer where drawing again does not help.

    draw : how many -> (at most so many, V) genotypes in bounds
    """
    X, most = taken, len(taken) + task.version.candidates
    for _ in range(TRIES):
        if len(X) == most:
            break
        new = task.space.repair(draw(most - len(X)), task.version.repair)
        X = np.concatenate([X, new])
        X = X[distinct(task.space, X)]
    return X[len(taken) :]
