"""Row 5, the search of one iteration without the fit, against the same search as a plain pymoo
loop.

An archive of 300 subnets of BASE (22 variables), a predictor of ten LightGBM experts, 100 x 20
individuals, then the choice of 25 by a genetic algorithm of 500 x 200.  The plain loop has the same
budget, operators, predictor and costs, but compares individuals pairwise, and makes and scores one
subset at a time, as the published code does.  Every call has another seed.  Hypervolumes are those
of the archive together with the last population ("found"), and with the 25 chosen from it for even
costs, by predicted error.

    python benchmarks/bench_search.py [--rounds 10] [--clock wall|cpu] [--json PATH]
"""

import numpy as np
import pandas as pd
import timing
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import ElementwiseProblem, Problem
from pymoo.core.sampling import Sampling
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.lhs import LHS
from pymoo.optimize import minimize

from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.search import ensemble, pareto
from nat_lib.search.archive import VERSIONS, Budget
from nat_lib.search.candidates import propose

TARGETS = {2: 1.0, 3: 2.0}  # seconds
VERSION, BUDGET = VERSIONS[2], Budget()


def main():
    chosen = timing.options(__doc__, rounds=10)
    torch.set_num_threads(1)
    rows, volumes = [], []
    for M in TARGETS:
        pareto.directions(M, BUDGET.population)  # once a process, and the same for both
        task, sets = Task(M), {"ours": [], "plain": []}
        calls = {
            "ours": lambda t=task, out=sets["ours"]: out.append(
                t.ours(len(out), VERSION.candidates)
            ),
            "plain": lambda t=task, out=sets["plain"]: out.append(
                t.plain(len(out), VERSION.candidates)
            ),
        }
        times = timing.interleave(calls, chosen.rounds, chosen.clock)
        rows.append(
            timing.compare(times, "ours", "plain", f"5 search, {M} objectives", 1.0)
            | {"target s": TARGETS[M], "reached": bool(times["ours"].median() <= TARGETS[M])}
        )
        seeds, everyone = range(chosen.rounds), BUDGET.population
        found = {
            "ours": [task.ours(s, everyone) for s in seeds],
            "plain": [task.plain(s, everyone) for s in seeds],
        }
        volumes += [task.compare("found", found), task.compare("chosen", sets)]
    timing.show(rows, chosen, hypervolume=volumes)
    print(pd.DataFrame(volumes).to_string(index=False, float_format="{:.5f}".format))


class Task:
    """An archive with scores from a formula, costs in millions, and a fitted predictor."""

    def __init__(self, M):
        rng = np.random.default_rng(0)
        self.space = space = Space("BASE")
        gain = rng.uniform(0, 1, (space.n_var, space.n_codes + 1)) + np.linspace(
            0, 1, space.n_codes + 1
        )
        self.X = space.sample_genotypes(VERSION.archive, rng, VERSION.sampling)
        errors = (
            75 - gain[np.arange(space.n_var), self.X].sum(axis=1) + rng.normal(0, 0.3, len(self.X))
        )
        self.predict = ensemble.fit("lgb", space, self.X, errors, rng=rng).predict
        self.costs = [
            lambda X, name=name: count(X, space)[name].to_numpy() / 1e6
            for name in ("params", "macs_tp")[: M - 1]
        ]
        self.F = np.column_stack([errors, self.cost(self.X)])
        self.M, self.reference = M, 1.01 * self.F.max(axis=0)

    def cost(self, X):
        return np.column_stack([f(X) for f in self.costs])

    def objectives(self, X):
        return np.column_stack([self.predict(X), self.cost(X)])

    def volume(self, candidates):
        """Hypervolume of archive and candidates by predicted error."""
        return pareto.hypervolume(
            self.objectives(np.concatenate([self.X, candidates])), self.reference
        )

    def compare(self, what, sets):
        """One row: mean hypervolumes of both over the seeds that both have, and the paired
        difference."""
        n = min(map(len, sets.values()))
        ours, plain = (
            np.array([self.volume(X) for X in sets[name][:n]]) for name in ("ours", "plain")
        )
        return {
            "objectives": self.M,
            "hypervolume": what,
            "seeds": n,
            "archive": self.volume(self.X[:0]),
            "ours": ours.mean(),
            "plain": plain.mean(),
            "difference": (ours - plain).mean(),
            "standard error": (ours - plain).std(ddof=1) / n**0.5,
        }

    def ours(self, seed, k):
        version, rng = VERSION._replace(candidates=k), np.random.default_rng(seed)
        return propose(self.space, self.predict, self.X, self.F, self.costs, version, BUDGET, rng)

    def plain(self, seed, k):
        operators = {
            "sampling": LHS(iterations=20),
            "crossover": UX(prob=0.9),
            "mutation": PM(prob=1.0, prob_var=1 / self.space.n_var, eta=1.0),
            "repair": RoundingRepair(),
        }
        algorithm = (
            NSGA2(pop_size=BUDGET.population, **operators)
            if self.M == 2
            else NSGA3(
                pareto.directions(self.M, BUDGET.population),
                pop_size=BUDGET.population,
                **operators,
            )
        )
        X = minimize(Subnets(self), algorithm, ("n_gen", BUDGET.generations), seed=seed).pop.get(
            "X"
        )
        X = self.space.repair(X.astype(np.int64), VERSION.repair)
        known = set(self.space.decode(self.X))
        X = X[[arch not in known for arch in self.space.decode(X)]]
        if len(X) <= k:
            return X
        subsets = Subsets(self.F[pareto.front(self.F), 1:], self.cost(X), k)
        algorithm = GA(
            pop_size=BUDGET.subset_population,
            sampling=Drawn(),
            crossover=Joined(),
            mutation=Swapped(),
        )
        return X[minimize(subsets, algorithm, ("n_gen", BUDGET.subset_generations), seed=seed).X]


# ---- the plain loop
# ------------------------------------------------------------------------------------------------


class Subnets(Problem):
    """Bounds are wider by a half, so that rounding favours no category."""

    def __init__(self, task):
        low, high = task.space.lower - 0.4999, task.space.upper + 0.4999
        super().__init__(n_var=task.space.n_var, n_obj=task.M, xl=low, xu=high)
        self.task = task

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = self.task.objectives(self.task.space.repair(X.astype(np.int64), VERSION.repair))


class Subsets(ElementwiseProblem):
    """Subsets of at most k candidates that spread the costs evenly: boolean vectors."""

    def __init__(self, archive, candidates, k):
        super().__init__(n_var=len(candidates), n_obj=1, n_ieq_constr=1, xl=0, xu=1, vtype=bool)
        union = np.concatenate([archive, candidates])
        extent = np.ptp(union, axis=0)
        self.archive, self.candidates, self.k = archive / extent, candidates / extent, k

    def _evaluate(self, x, out, *args, **kwargs):
        union = np.sort(np.concatenate([self.archive, self.candidates[x]]), axis=0)
        out["F"] = np.diff(union, axis=0).std(axis=0).max()
        out["G"] = x.sum() - self.k


class Drawn(Sampling):
    def _do(self, problem, n_samples, *args, random_state=None, **kwargs):
        X = np.zeros((n_samples, problem.n_var), dtype=bool)
        for row in X:
            row[random_state.permutation(problem.n_var)[: problem.k]] = True
        return X


class Joined(Crossover):
    def __init__(self):
        super().__init__(2, 1, prob=0.9)

    def _do(self, problem, X, random_state=None, **kwargs):
        children = X[0] & X[1]
        for child, either in zip(children, X[0] ^ X[1], strict=True):
            child[random_state.permutation(np.flatnonzero(either))[: problem.k - child.sum()]] = (
                True
            )
        return children[None]


class Swapped(Mutation):
    def _do(self, problem, X, random_state=None, **kwargs):
        for row in X:
            out, into = (
                random_state.choice(np.flatnonzero(row)),
                random_state.choice(np.flatnonzero(~row)),
            )
            row[out], row[into] = False, True
        return X


if __name__ == "__main__":
    main()
