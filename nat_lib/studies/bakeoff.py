"""Search strategies on exact tables: every one with the same cache, the same counter, many seeds.

A run scores networks by looking them up.  What it has found after so many evaluations is the front
of what it saw, judged by what the table knows of it: free of noise, and on the test split, too.
"""

from functools import partial

import numpy as np
import pandas as pd

from nat_lib import cells, files
from nat_lib.cells import open_cell
from nat_lib.machine import progress, stream
from nat_lib.search import ensemble, pareto
from nat_lib.search.archive import Budget, Version
from nat_lib.search.strategies import STRATEGIES
from nat_lib.search.table import EXAMPLE, load
from nat_lib.search.task import Task
from nat_lib.studies import tabling

MADE = "made"  # the table of the supernets at hand, among those that ship
ARCHIVE, CANDIDATES = 0.2, 0.08  # shares of all evaluations: of the first archive, per iteration
LOOKS = 20  # per run
LIMIT = 0.25  # of the largest cost, at which regret is told
SMALLER = {"population": 40, "generations": 10, "subset_population": 60, "subset_generations": 30}


def run(params, data, out):
    """Make the table that is to be made, then run every strategy on every table."""
    for name in params["tables"]:
        table = opened(params, name, data, out)
        for noise in params["table_noise"]:
            said = f"{table.about['name']}, strategies"
            for strategy in progress(params["table_strategies"], said):
                run_strategy(params, table, strategy, noise, out)


def opened(params, name, data, out):
    """A table: of the supernets at hand, or one that ships, or a file."""
    if name != MADE:
        return load(name)
    return load(str(tabling.run_table(params, data(), out)))


def run_strategy(params, table, strategy, noise, out):
    """All seeds of one strategy on one table (or find them finished); the report of the cell."""
    values = {
        "table": table.about["name"],
        "hash": table.hash,
        "strategy": strategy,
        "noise": noise,
        "seeds": params["table_seeds"],
        "evaluations": params["table_evaluations"],
        "predictor": params["predictor"],
        "objectives": EXAMPLE,
        "profile": params["profile"],
    }
    told = f"_noise{noise:g}" if noise else ""
    name = f"{table.about['name']}/{strategy}{told}"
    cell = open_cell(out, tabling.STUDY, name, values, __name__)
    return cells.compute(cell, partial(_strategy, cell, table))


def _strategy(cell, table):
    p, rows = cell.params, []
    for seed in progress(range(p["seeds"]), f"{cell.name}, seeds"):
        found = one_run(table, p["strategy"], p["evaluations"], p["noise"], seed, p["predictor"])
        rows += [{"strategy": p["strategy"], "seed": seed} | row for row in found]
    runs = pd.DataFrame(rows)
    files.write_csv(cell.path("runs.csv"), runs)
    last = runs.groupby("seed").tail(1)
    return {"hypervolume": last.hypervolume.mean(), "test": last.test.mean()}


def one_run(table, strategy, evaluations, noise, seed, predictor):
    """What a strategy has found after growing numbers of evaluations, a dict each: evaluations,
    hypervolume and test (shares of the true fronts'), regret at LIMIT of the MACs (points)."""
    seen = Seen(table, noise, seed)
    task = task_of(table, seen, evaluations, seed, predictor)
    for _ in STRATEGIES[strategy].function(task):
        if len(seen.X) >= evaluations:
            break
    X, F = np.array(seen.X)[:evaluations], np.array(seen.F)[:evaluations]
    rows = []
    for n in looks(evaluations):
        found = X[:n][pareto.front(F[:n])]
        row = {"evaluations": n, "hypervolume": table.hypervolume(found)}
        row |= {"test": table.hypervolume(found, split="test")}
        rows.append(row | {"regret": table.regret(found, limit=LIMIT)})
    return rows


def looks(evaluations):
    """Numbers of evaluations after which a run is looked at, ascending."""
    least = round(ARCHIVE * evaluations)
    return np.unique(np.geomspace(least, evaluations, LOOKS).round().astype(int)).tolist()


class Seen:
    """What measures the networks of a table, once each: the cache and the counter of a run.

    X, F : what was measured, in order;  noise : standard deviation that is added to an error
    """

    def __init__(self, table, noise, seed):
        self.table, self.known, self.X, self.F = table, {}, [], []
        rng = stream(seed, "noise of a table")
        self.noise = noise * rng.standard_normal(table.space.size) if noise else None

    def __call__(self, X):
        F = self.table.query(X)
        if self.noise is not None:
            # an error is a share of images: it stays within its bounds
            F[:, 0] = np.clip(F[:, 0] + self.noise[self.table.space.index(X)], 0, 100)
        for x, f in zip(X, F, strict=True):
            if x.tobytes() not in self.known:
                self.known[x.tobytes()] = True
                self.X.append(x)
                self.F.append(f)
        return F


def task_of(table, evaluate, evaluations, seed, predictor):
    """The `Task` of a run of so many evaluations."""
    archive = max(4, round(ARCHIVE * evaluations))
    candidates = max(1, round(CANDIDATES * evaluations))
    version = Version(
        "integer", "search", "fill", 1, archive, candidates, "replace", "fixed", "last"
    )
    # a few more, where candidates were known already
    iterations = 2 * -(-(evaluations - archive) // candidates)
    budget = Budget(iterations=iterations, top=archive, **SMALLER)

    def fit(X, errors, rng):
        return ensemble.fit(predictor, table.space, X, errors, rng=rng)

    costs = [lambda X: table.query(X)[:, 1]]
    return Task(table.space, evaluate, lambda X, n: None, fit, costs, version, budget, seed)
