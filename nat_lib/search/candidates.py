"""Candidates of a search: genetic operators, predicted fronts, the subset to evaluate."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.sampling.lhs import LHS
from pymoo.optimize import minimize

from nat_lib.errors import Refusal
from nat_lib.search import pareto
from nat_lib.search.archive import distinct

CROSSOVERS = {"uniform": UX, "two_point": TwoPointCrossover}
MATING = 0.9  # probability of a crossover, of genotypes and of subsets

Genotypes = Int[np.ndarray, "n v"]
Costs = Float[np.ndarray, "n c"]  # one column per objective after the error
Members = Int[np.ndarray, "s k"]  # s subsets of k candidates, by index


# -------------------------------------------------------------------------------------- candidates


class _Subnets(Problem):
    """Predicted error and exact costs of genotypes. Bounds are wider by 1/2, so that rounding
    favours no category."""

    def __init__(self, space, objectives, M):
        super().__init__(n_var=space.n_var, n_obj=M, xl=space.lower - 0.5, xu=space.upper + 0.5)
        self.objectives = objectives

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = self.objectives(X)


class _Repaired(Repair):
    """Every vector that the operators make becomes a legal genotype before anything looks at it."""

    def __init__(self, space, how):
        super().__init__()
        self.space, self.how = space, how

    def _do(self, problem, X, **kwargs):
        codes = np.clip(np.rint(X), self.space.lower, self.space.upper).astype(np.int64)
        return self.space.repair(codes, self.how)


class _Known(DuplicateElimination):
    """Drops individuals that are the same subnet as an earlier one."""

    def __init__(self, space):
        super().__init__()
        self.space = space

    def _do(self, pop, other, is_duplicate):
        seen = set() if other is None else set(self._keys(other))
        for i, key in enumerate(self._keys(pop)):
            is_duplicate[i] = key in seen
            if other is None:
                seen.add(key)
        return is_duplicate

    def _keys(self, pop):
        return [row.tobytes() for row in self.space.active(pop.get("X"))]


def propose(space, predict, X, F, costs, version, budget, rng, crossover="uniform") -> Genotypes:
    """Genotypes of at most `version.candidates` new subnets worth scoring precisely. Thesis 3.3.4,
    step 3.

    predict : X -> (n,) predicted errors;  costs : functions X -> (n,), one per column of F after
              the first
    A genetic algorithm, NSGA-II or NSGA-III (one, two, more objectives) searches on predicted
    errors and exact costs; of its last population those not in the archive (X, F) remain, and
    `select_subset` picks among them.
    """

    def cost(X):
        return np.column_stack([np.empty((len(X), 0)), *(f(X) for f in costs)])

    def objectives(X):
        # NSGA-III takes differences below 1e-3 for 0: scaled by the archive, units do not count.
        return pareto.unit(np.column_stack([predict(X), cost(X)]), like=F)

    population = _last_population(space, objectives, F.shape[1], version, budget, rng, crossover)
    both = np.concatenate([X, population])
    first = distinct(space, both)
    found = both[first[first >= len(X)]]
    if not len(found):
        return found
    of_front = pareto.front(F)
    chosen = select_subset(
        F[of_front, 1:],
        cost(found),
        predict(found),
        version.candidates,
        rng,
        budget.subset_population,
        budget.subset_generations,
    )
    return found[chosen]


def _last_population(space, objectives, M, version, budget, rng, crossover) -> Genotypes:
    """What a genetic algorithm on `objectives`, X -> (n, M), ends with."""
    if crossover not in CROSSOVERS:
        raise Refusal(f"crossover = {crossover!r}: use {' or '.join(CROSSOVERS)}")
    options = {
        "pop_size": budget.population,
        "sampling": LHS(iterations=20),
        "crossover": CROSSOVERS[crossover](prob=MATING),
        "mutation": PM(prob=1.0, prob_var=1 / space.n_var, eta=1.0),
        "repair": _Repaired(space, version.repair),
        "eliminate_duplicates": _Known(space),
    }
    if M == 1:
        algorithm = GA(**options)
    elif M == 2:
        algorithm = NSGA2(**options)
    else:
        algorithm = NSGA3(pareto.directions(M, budget.population), **options)
    with warnings.catch_warnings():  # NSGA-III changes the process's warning filters
        result = minimize(
            _Subnets(space, objectives, M),
            algorithm,
            ("n_gen", budget.generations),
            seed=int(rng.integers(2**31)),
            copy_algorithm=False,
        )
    return result.pop.get("X")


# --------------------------------------------------------------------------- the subset to evaluate


class _Subsets(NamedTuple):
    """A population of s subsets of P candidates."""

    has: np.ndarray  # (s, P) uint8: 1 for members
    label: np.ndarray  # (s,) uint64: the sum of its members' labels tells a subset from others
    value: np.ndarray  # (s,) unevenness, to be minimised


def select_subset(
    archive_costs: Costs,
    candidate_costs: Costs,
    predicted: Float[np.ndarray, " p"],
    k: int,
    rng: np.random.Generator,
    population: int = 500,
    generations: int = 200,
) -> Int[np.ndarray, " k"]:
    """Indices (at most k, ascending) of the candidates whose costs lie most evenly beside those of
    the archive's front.

    archive_costs : (a, M - 1) of the non-dominated archive members;  candidate_costs : (P, M - 1)
    predicted     : (P,) predicted errors
    P <= k: all. No costs: the k smallest predicted errors. Else a genetic algorithm over subsets
    minimises their `unevenness`; its operators keep k members, so no place is left to be filled by
    predicted error. Thesis 3.3.4.
    """
    P = len(predicted)
    if P <= k:
        return np.arange(P)
    if candidate_costs.shape[1] == 0:
        return np.sort(np.argsort(predicted, kind="stable")[:k])
    fitness = unevenness(archive_costs, candidate_costs)
    labels = rng.integers(2**63, size=P, dtype=np.uint64)

    def subsets(order):
        """Those of the last k places of `order` (s, P), rows of candidates."""
        members = order[:, P - k :]
        has = np.zeros(order.shape, dtype=np.uint8)
        starts = P * np.arange(len(order))[:, None]
        has.reshape(-1)[starts + members] = 1  # faster than by rows and columns
        return _Subsets(has, labels[members].sum(axis=1), fitness(members))

    parents = subsets(_shuffled(np.zeros((population, P), dtype=np.uint8), rng))
    for _ in range(generations - 1):  # the first population counts
        children = subsets(_offspring(parents, k, rng))
        parents = _survivors(parents, children)
    return np.flatnonzero(parents.has[np.argmin(parents.value)])


def _offspring(parents: _Subsets, k: int, rng: np.random.Generator) -> Int[np.ndarray, "s p"]:
    """As many children as parents: rows of candidates whose last k places are the members."""
    n, P = parents.has.shape
    one, other = rng.integers(n, size=(2, 2, n))  # tournaments of two, for mothers and fathers
    mother, father = np.where(parents.value[one] <= parents.value[other], one, other)
    father = np.where(rng.random(n) < MATING, father, mother)
    # Crossover: what both parents have, then what one of them has, at random.
    order = _shuffled(parents.has[mother] + parents.has[father], rng)
    # Mutation: one leaves, one enters.
    leaves, enters = rng.integers(P - k, P, size=n), rng.integers(P - k, size=n)
    rows = np.arange(n)
    order[rows, leaves], order[rows, enters] = order[rows, enters], order[rows, leaves]
    return order


def _survivors(parents: _Subsets, children: _Subsets) -> _Subsets:
    """The most even of both, as many as there were parents; of equal subsets the first one."""
    both = _Subsets(*map(np.concatenate, zip(parents, children, strict=True)))
    first = np.unique(both.label, return_index=True)[1]
    copy = np.ones(len(both.label), dtype=bool)
    copy[first] = False
    both.value[copy] = np.inf
    best = np.argsort(both.value, kind="stable")[: len(parents.label)]
    return _Subsets(*(field[best] for field in both))


def _shuffled(importance: Int[np.ndarray, "s p"], rng: np.random.Generator):
    """Column indices (s, P) of every row in the order of `importance`, 0 .. 2; columns of equal
    importance at random.

    A word of 32 bits holds the importance, random bits and the column, from high to low: sorting
    words is several times faster than argsort.
    """
    P = importance.shape[1]
    column_bits = (P - 1).bit_length()
    words = rng.integers(2 ** (30 - column_bits), size=importance.shape, dtype=np.uint32)
    words <<= np.uint32(column_bits)
    words |= np.arange(P, dtype=np.uint32)
    words |= importance.astype(np.uint32) << np.uint32(30)
    words.sort(axis=1)
    return (words & np.uint32(2**column_bits - 1)).astype(np.intp)


def unevenness(
    archive_costs: Costs, candidate_costs: Costs
) -> Callable[[Members], Float[np.ndarray, " s"]]:
    """members (s, k) -> (s,): how unevenly the costs of the archive's front and of these candidates
    are spread.

    The standard deviation of the gaps between neighbouring values, for the objective where it is
    largest; with several objectives each is divided by its range first.
    """
    if candidate_costs.shape[1] > 1:
        every = np.concatenate([archive_costs, candidate_costs])
        archive_costs = pareto.unit(archive_costs, like=every)
        candidate_costs = pareto.unit(candidate_costs, like=every)
    spreads = [_spread(A, C) for A, C in zip(archive_costs.T, candidate_costs.T, strict=True)]
    return lambda members: np.max([spread(members) for spread in spreads], axis=0)


def _spread(archive: Float[np.ndarray, " a"], candidates: Float[np.ndarray, " p"]):
    """`unevenness` for one objective.

    The variance of gaps is the mean of their squares less the square of their mean. Members change
    only the gaps of the archive that they fall into, so the sum of squares is that of the archive
    and what each member adds, looked up by its place among the candidates.
    """
    by_cost = np.argsort(candidates, kind="stable")
    place = np.argsort(by_cost)  # (P,) of each candidate among all of them
    front, cost = np.sort(archive), candidates[by_cost]
    gap = np.searchsorted(front, cost, side="right")  # (P,) gap g: from front[g - 1] to front[g]
    below, above = np.append(np.nan, front)[gap], np.append(front, np.nan)[gap]
    # The lowest member of a gap makes one of these, the highest the other in place of the whole;
    # beyond both ends of the front there is no gap: NaN becomes 0.
    lowest = np.nan_to_num((cost - below) ** 2)
    highest = np.nan_to_num((above - cost) ** 2) - np.nan_to_num((above - below) ** 2)
    squares_of_front = (np.diff(front) ** 2).sum()

    def spread(members: Members) -> Float[np.ndarray, " s"]:
        at = np.sort(place[members], axis=1)  # (s, k) places of the members, by cost
        c, g = cost[at], gap[at]
        between = np.where(
            g[:, 1:] == g[:, :-1],
            np.diff(c, axis=1) ** 2,  # (s, k - 1) from a member to the next in the same gap,
            highest[at[:, :-1]] + lowest[at[:, 1:]],  # or with the front between them
        ).sum(axis=1)
        squares = squares_of_front + lowest[at[:, 0]] + between + highest[at[:, -1]]
        n_gaps = len(front) + at.shape[1] - 1
        extent = np.maximum(c[:, -1], front[-1]) - np.minimum(c[:, 0], front[0])
        variance = squares / n_gaps - (extent / n_gaps) ** 2
        return np.sqrt(np.maximum(variance, 0.0))

    return spread
