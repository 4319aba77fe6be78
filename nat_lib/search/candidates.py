"""Candidates of a search: genetic operators, predicted fronts, the subset to evaluate."""

import warnings

import numpy as np
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


# ---- candidates
# --------------------------------------------------------------------------------------------------


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


def propose(space, predict, X, F, costs, version, budget, rng, crossover="uniform"):
    """Genotypes of at most `version.candidates` new subnets worth scoring precisely. Thesis 3.3.4,
    step 3.

    predict : X -> (n,) predicted errors;  costs : functions X -> (n,), one per column of F after
              the first
    A genetic algorithm, NSGA-II or NSGA-III (one, two, more objectives) searches on predicted
    errors and exact costs; of its last population those not in the archive (X, F) remain, and
    `select_subset` picks among them.
    """
    if crossover not in CROSSOVERS:
        raise Refusal(f"crossover = {crossover!r}: use {' or '.join(CROSSOVERS)}")
    M = 1 + len(costs)

    def cost(X):
        return np.column_stack([np.empty((len(X), 0)), *(f(X) for f in costs)])

    def objectives(
        X,
        # NSGA-III takes differences below 1e-3 for 0: scale by the archive, so that units do not count
    ):
        return pareto.unit(np.column_stack([predict(X), cost(X)]), like=F)

    operators = {
        "sampling": LHS(iterations=20),
        "crossover": CROSSOVERS[crossover](prob=0.9),
        "mutation": PM(prob=1.0, prob_var=1 / space.n_var, eta=1.0),
        "repair": _Repaired(space, version.repair),
        "eliminate_duplicates": _Known(space),
    }
    if M < 3:
        algorithm = (GA if M == 1 else NSGA2)(pop_size=budget.population, **operators)
    else:
        directions = pareto.directions(M, budget.population)
        algorithm = NSGA3(directions, pop_size=budget.population, **operators)
    with warnings.catch_warnings():  # NSGA-III changes the process's warning filters
        result = minimize(
            _Subnets(space, objectives, M),
            algorithm,
            ("n_gen", budget.generations),
            seed=int(rng.integers(2**31)),
            copy_algorithm=False,
        )
    both = np.concatenate([X, result.pop.get("X")])
    found = both[[i for i in distinct(space, both) if i >= len(X)]]
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


def select_subset(
    archive_costs, candidate_costs, predicted, k, rng, population=500, generations=200
):
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
    label = rng.integers(
        2**63, size=P, dtype=np.uint64
    )  # the sum over a subset tells it from others
    rows = np.arange(population)

    def grown(order):
        """(membership (population, P), label, unevenness) of the subsets in the last k places of
        `order`."""
        members, has = order[:, P - k :], np.zeros((population, P), dtype=np.uint8)
        has.reshape(-1)[members + rows[:, None] * P] = 1
        return has, label[members].sum(axis=1), fitness(members)

    has, key, value = grown(_shuffled(np.zeros((population, P), dtype=np.uint8), rng))
    for _ in range(generations - 1):  # the first population counts
        a, b = rng.integers(population, size=(2, 2, population))
        mother, father = np.where(value[a] <= value[b], a, b)
        father = np.where(rng.random(population) < 0.9, father, mother)
        # Crossover: what both parents have, then what one of them has, at random. Mutation: one
        # leaves, one enters.
        order = _shuffled(has[mother] + has[father], rng)
        out, into = rng.integers(P - k, P, size=population), rng.integers(P - k, size=population)
        order[rows, out], order[rows, into] = order[rows, into], order[rows, out]
        has, key, value = map(np.concatenate, zip((has, key, value), grown(order), strict=True))
        copies = np.delete(np.arange(len(key)), np.unique(key, return_index=True)[1])
        value[copies] = np.inf
        best = np.argsort(value, kind="stable")[:population]
        has, key, value = has[best], key[best], value[best]
    return np.flatnonzero(has[np.argmin(value)])


def _shuffled(importance, rng):
    """Column indices of every row in the order of `importance` (n, P), 0 .. 2; columns of equal
    importance at random.

    Importance, random bits and column are packed in one word: sorting words is several times faster
    than argsort.
    """
    n, P = importance.shape
    bits = (P - 1).bit_length()
    words = rng.integers(2 ** (30 - bits), size=(n, P), dtype=np.uint32) << np.uint32(bits)
    words |= np.arange(P, dtype=np.uint32)
    words |= importance.astype(np.uint32) << np.uint32(30)
    words.sort(axis=1)
    return (words & np.uint32(2**bits - 1)).astype(np.intp)


def unevenness(archive_costs, candidate_costs):
    """members (n, k) -> (n,): how unevenly the costs of the archive's front and of these candidates
    are spread.

    The standard deviation of the gaps between neighbouring values, for the objective where it is
    largest; with several objectives each is divided by its range first. Only the gaps that a
    candidate falls into are looked at.
    """
    if candidate_costs.shape[1] > 1:
        every = np.concatenate([archive_costs, candidate_costs])
        archive_costs, candidate_costs = (
            pareto.unit(c, like=every) for c in (archive_costs, candidate_costs)
        )
    spreads = [_spread(A, C) for A, C in zip(archive_costs.T, candidate_costs.T, strict=True)]
    return lambda members: np.max([spread(members) for spread in spreads], axis=0)


def _spread(A, C):
    """`unevenness` for one objective: A (a,) costs of the archive's front, C (P,) of the
    candidates."""
    rank = np.argsort(np.argsort(C, kind="stable"))
    A, C = np.sort(A), np.sort(C)
    gap = np.searchsorted(A, C, side="right")  # between archive values gap - 1 and gap
    below, above = np.append(np.nan, A)[gap], np.append(A, np.nan)[gap]
    first = np.nan_to_num(
        (C - below) ** 2
    )  # squared gap below a candidate that is the lowest one in its gap
    last = np.nan_to_num((above - C) ** 2) - np.nan_to_num(
        (above - below) ** 2
    )  # above the highest; the old one goes
    squares = (np.diff(A) ** 2).sum()

    def spread(members):
        at = np.sort(rank[members], axis=1)  # (n, k) in the order of their cost
        c, g = C[at], gap[at]
        between = np.where(
            g[:, 1:] == g[:, :-1], np.diff(c, axis=1) ** 2, last[at[:, :-1]] + first[at[:, 1:]]
        )
        total = squares + first[at[:, 0]] + between.sum(axis=1) + last[at[:, -1]]
        n = len(A) + at.shape[1] - 1
        mean = (np.maximum(c[:, -1], A[-1]) - np.minimum(c[:, 0], A[0])) / n
        return np.sqrt(np.maximum(total / n - mean**2, 0.0))

    return spread
