"""Search strategies on exact tables: every one with the same cache, the same counter, many seeds.

A run scores networks by looking them up.  What it has found after so many evaluations is the front
of what it saw, judged by what the table knows of it: free of noise, and on the test split, too.
"""

from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from nat_lib import cells, files
from nat_lib.cells import open_cell
from nat_lib.codes import EXITS
from nat_lib.machine import progress, stream
from nat_lib.search import ensemble, pareto
from nat_lib.search.archive import Budget, Version
from nat_lib.search.fidelity import corrected
from nat_lib.search.strategies import STRATEGIES
from nat_lib.search.table import CHEAP, EXAMPLE, load
from nat_lib.search.task import Task
from nat_lib.studies import tabling
from nat_lib.studies.parts import MADE

ARCHIVE, CANDIDATES = 0.2, 0.08  # shares of all evaluations: of the first archive, per iteration
LOOKS = 20  # per run
MORE = 4  # iterations, where candidates were measured before
WARMED = "nsga2"  # the strategy that begins with another table's front
LIMIT = 0.25  # of the largest cost, at which regret is told
SAMPLED, KNOWN = 560, 60  # networks whose ranks are compared; of these, to learn a correction from
SMALLER = {"population": 40, "generations": 10, "subset_population": 60, "subset_generations": 30}


def run(params, data, out):
    """Make the table that is to be made, then run every strategy on every table.

    data : () -> the images of the supernets; tables that are there need none
    """
    tables = [table_of(params, name, data, out) for name in params["tables"]]
    for one, other in permutations(tables, 2):
        if one.space.shape == other.space.shape:
            run_transfer(params, one, other, out)
    for table in tables:
        run_front(params, table, out)
        for noise in params["table_noise"]:
            said = f"{table.about['name']}, strategies"
            for strategy in progress(params["table_strategies"], said):
                run_strategy(params, table, strategy, noise, out)


def table_of(params, name, data, out):
    """A table: of the supernets at hand, or one that ships, or a file."""
    if name != MADE:
        return load(name)
    return load(str(tabling.run_table(params, data(), out)))


def run_front(params, table, out):
    """Leave the true front of a table, and what single exits reach; the report of the cell."""
    values = {"table": table.about["name"], "hash": table.hash, "profile": params["profile"]}
    cell = open_cell(out, tabling.STUDY, f"{table.about['name']}/front", values, __name__)
    return cells.compute(cell, partial(_front, cell, table))


def _front(cell, table):
    X, tied = table.front(), table.space
    rows = []
    for x, val, test in zip(X, table.query(X), table.query(X, split="test"), strict=True):
        values = {name: v[i] for (name, v), i in zip(tied.axes.items(), x, strict=True)}
        values["exits"] = " ".join(map(str, values["exits"]))
        scores = {"val_top1": 100 - val[0], "test_top1": 100 - test[0], "macs": val[1]}
        rows.append(values | scores)
    files.write_csv(cell.path("front.csv"), pd.DataFrame(rows))
    files.write_csv(cell.path("fidelity.csv"), fidelities(table))
    every = tied.every()
    alone = np.array([len(some) == 1 for some in tied.votes])[every[:, EXITS]]
    return {
        "networks": tied.size,
        "front": len(X),
        "single_exits": table.hypervolume(every[alone]),
        "best_top1": float(rows[0]["val_top1"]),
    }


def fidelities(table):
    """How cheaper views rank SAMPLED networks of a table: a row per view with Kendall's tau to the
    full validation errors, before and after a correction learnt from KNOWN of them."""
    rng = stream(0, "fidelity of a table")
    X = table.space.every()[rng.permutation(table.space.size)[:SAMPLED]]
    full, Z = table.query(X)[:, 0], table.space.features(X)
    views = {f"1/{round(1 / share)} of the images": table.cheap(X, share) for share in CHEAP}
    views["test split"] = table.query(X, split="test")
    rows = []
    for name, F in views.items():
        cheap, rest = F[:, 0], slice(KNOWN, None)
        better, helps = corrected(cheap[:KNOWN], full[:KNOWN], Z[:KNOWN], Z[rest], cheap[rest])
        taus = [kendalltau(seen, full[rest]).statistic for seen in (cheap[rest], better)]
        told = {"view": name, "tau": taus[0], "corrected": taus[1], "helps": helps}
        rows.append(told | {"networks": len(full) - KNOWN})
    return pd.DataFrame(rows)


def run_transfer(params, one, other, out):
    """What the front of one table is worth on another of the same shape: may one search on the
    first and ship on the second, or begin there with what the first has found?"""
    values = {
        "table": one.about["name"],
        "other": other.about["name"],
        "hashes": [one.hash, other.hash],
        "strategy": WARMED,
        **{key: params[key] for key in ("table_seeds", "table_evaluations", "predictor")},
        "profile": params["profile"],
    }
    name = f"{values['table']}/to_{values['other']}"
    cell = open_cell(out, tabling.STUDY, name, values, __name__)
    cells.compute(cell, partial(_transfer, cell, one, other))


def _transfer(cell, one, other):
    """Leave the runs of WARMED on the other table from random subnets and from the first's front;
    returns `transferred`."""
    p, rows, front = cell.params, [], one.front()
    places = max(1, round(ARCHIVE * p["table_evaluations"]) - 2)  # beside both extremes
    even = np.unique(np.linspace(0, len(front) - 1, places).round().astype(int))
    for seed in range(p["table_seeds"]):
        for begin in (None, front[even]):
            how = p["strategy"], p["table_evaluations"], 0.0, seed, p["predictor"], begin
            told = {"seed": seed, "begin": "random" if begin is None else "front"}
            rows += [told | row for row in one_run(other, *how)]
    files.write_csv(cell.path("warmed.csv"), pd.DataFrame(rows))
    return transferred(one, other)


def transferred(one, other):
    """{"tau": of all networks' validation errors on both, "hypervolume": of the first's front as a
    share of the second's, "regret": of its best at LIMIT of the MACs}."""
    errors = (table.values()[:, 0] for table in (one, other))
    front = one.front()
    return {
        "tau": float(kendalltau(*errors).statistic),
        "hypervolume": other.hypervolume(front),
        "regret": other.regret(front, limit=LIMIT),
    }


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


def one_run(table, strategy, evaluations, noise, seed, predictor, begin=None):
    """What a strategy has found after growing numbers of evaluations, a dict each: evaluations,
    hypervolume and test (shares of the true fronts'), regret at LIMIT of the MACs (points).

    begin : genotypes of the first archive, see `Task`
    """
    seen = Seen(table, noise, seed)
    task = task_of(table, seen, evaluations, seed, predictor)._replace(begin=begin)
    for _ in STRATEGIES[strategy].function(task):
        if seen.total >= evaluations:
            break
    X, F, spent = np.array(seen.X), np.array(seen.F), np.array(seen.spent)
    rows = []
    for n in looks(evaluations):
        until = spent <= n
        found = X[until][pareto.front(F[until])]
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

    X, F, spent : what was measured in full, in order, and what had been spent by then, in full
                  evaluations;  noise : standard deviation that is added to an error
    """

    def __init__(self, table, noise, seed):
        self.table, self.known, self.total = table, set(), 0.0
        self.X, self.F, self.spent = [], [], []
        rng = stream(seed, "noise of a table")
        self.noise = noise * rng.standard_normal(table.space.size) if noise else None

    def __call__(self, X):
        F = self._noisy(X, self.table.query(X))
        for x, f in zip(X, F, strict=True):
            if self._charged(x, 1.0):
                self.X.append(x)
                self.F.append(f)
                self.spent.append(self.total)
        return F

    def cheap(self, X, share):
        """Measured on a share of the images."""
        for x in X:
            self._charged(x, share)
        return self._noisy(X, self.table.cheap(X, share))

    def _charged(self, x, share):
        """Whether this look at a network is a new one; if so it is paid for."""
        key = x.tobytes(), share
        is_new = key not in self.known
        self.known.add(key)
        self.total += share * is_new
        return is_new

    def _noisy(self, X, F):
        if self.noise is not None:  # an error is a share of images: it stays within its bounds
            F[:, 0] = np.clip(F[:, 0] + self.noise[self.table.space.index(X)], 0, 100)
        return F


def task_of(table, evaluate, evaluations, seed, predictor):
    """The `Task` of a run of so many evaluations."""
    archive = max(4, round(ARCHIVE * evaluations))
    candidates = max(1, round(CANDIDATES * evaluations))
    version = Version(
        "integer", "search", "fill", 1, archive, candidates, "replace", "fixed", "last"
    )
    iterations = MORE + -(-(evaluations - archive) // candidates)
    budget = Budget(iterations=iterations, top=archive, **SMALLER)

    def fit(X, errors, rng):
        return ensemble.fit(predictor, table.space, X, errors, rng=rng)

    costs = [lambda X: table.query(X)[:, 1]]
    known = table.space, evaluate, lambda X, n: None, fit, costs
    return Task(*known, version, budget, seed, cheap=evaluate.cheap)
