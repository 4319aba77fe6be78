"""Search strategies on exact tables: what notebook 09 left, as frames.

Hypervolumes are shares of the true front's.  Intervals are Student's over seeds, at 95 %; ranks are
compared as Demsar does (JMLR 7, 2006): Friedman's test, then Nemenyi's critical difference.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, studentized_range

from nat_lib.cells import read_report
from nat_lib.results import chapter6, names, stats
from nat_lib.results.claims import judge
from nat_lib.results.printed import printed
from nat_lib.results.values import COPIES, Store
from nat_lib.search import pareto
from nat_lib.search.strategies import DEFAULT, STRATEGIES

STUDY = "search_strategies"
ENOUGH = 0.95  # share of the true hypervolume
ALPHA = 0.05
COMPARED = ["dataset", "supernet", "phase", "objectives"]  # what searches must have in common
COLUMNS = ["table", "noise", "strategy", "label", "seed", "evaluations"]
MEASURES = ["hypervolume", "test", "regret"]


def fronts(out) -> pd.DataFrame:
    """The true front of every table: table, choices, exits that answer, val_top1, test_top1, macs
    (millions)."""
    parts = [
        pd.read_csv(folder / "front.csv", dtype={"exits": str}).assign(table=params["table"])
        for folder, params, _ in _cells(out, "front")
    ]
    columns = ["table", "resolution", "width", "exits", "kernel", "expand", "depth", "level"]
    columns += ["val_top1", "test_top1", "macs"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def tables(out) -> pd.DataFrame:
    """One row per table: networks, how many are on the front, best top-1, the share of the true
    hypervolume that networks with a single exit reach."""
    rows = [{"table": params["table"]} | metrics for _, params, metrics in _cells(out, "front")]
    return pd.DataFrame(rows, columns=["table", "networks", "front", "best_top1", "single_exits"])


def fidelities(out) -> pd.DataFrame:
    """How cheaper views of the networks of every table rank them, see
    `studies.bakeoff.fidelities`."""
    parts = [
        pd.read_csv(folder / "fidelity.csv").assign(table=params["table"])
        for folder, params, _ in _cells(out, "front")
    ]
    columns = ["table", "view", "tau", "corrected", "helps", "networks"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def transfers(out) -> pd.DataFrame:
    """What the front of one table is worth on another, see `studies.bakeoff.transferred`; and
    evaluations to ENOUGH of the other's hypervolume (median over seeds) of a search that begins
    with random subnets, or with that front."""
    rows = []
    for folder, params, metrics in _cells(out, "to_*"):
        told = {"table": params["table"], "other": params["other"]} | metrics
        runs = pd.read_csv(folder / "warmed.csv").assign(table="", noise=0, label="")
        first = reached(runs.assign(strategy=runs.begin)).set_index("strategy").evaluations
        rows.append(told | {name: first.get(name) for name in ("random", "front")})
    columns = ["table", "other", "tau", "hypervolume", "regret", "random", "front"]
    return pd.DataFrame(rows, columns=columns)


def supernets(out) -> pd.DataFrame:
    """The finished searches of notebook 04 that differ in nothing but strategy and seed, one row
    each: what is left at the end, how many subnets it `kept` at some time, hypervolumes with one
    reference per comparison.

    Scores of a strategy that adapts are those of its own, better trained supernet.
    """
    found = chapter6.searches(out)
    rows = []
    for row in found.itertuples():
        params = read_report(row.folder)["params"]
        archive = pd.read_csv(Path(row.folder) / "archive.csv")
        last = archive[archive.iteration == archive.iteration.max()]
        names = ["error", *row.objectives.split("+")[1:]]
        strategy = params.get("strategy", DEFAULT)
        told = {key: getattr(row, key) for key in COMPARED} | {"strategy": strategy}
        told |= {"label": label_of(strategy), "seed": row.seed}
        rows.append(told | {"F": last[names].to_numpy(float), "kept": archive.code.nunique()})
    table = pd.DataFrame(rows, columns=[*COMPARED, "strategy", "label", "seed", "F", "kept"])
    parts = []
    for _, some in table.groupby(COMPARED, sort=False):
        point = pareto.reference(np.concatenate(some.F.tolist()))
        parts.append(some.assign(hypervolume=[pareto.hypervolume(F, point) for F in some.F]))
    every = pd.concat(parts) if parts else table.assign(hypervolume=0.0)
    return every.assign(best_top1=[100 - F[:, 0].min() for F in every.F]).drop(columns="F")


def label_of(strategy: str) -> str:
    """How a strategy is called; one that its table lacks by its own name."""
    return STRATEGIES[strategy].label if strategy in STRATEGIES else strategy


def _cells(out, name):
    """(folder, parameters, metrics) of the finished cells of a name, of every table."""
    for path in sorted((Path(out) / STUDY).glob(f"*/{name}/report.json")):
        report = read_report(path.parent)
        yield path.parent, report["params"], report["metrics"]


def runs(out) -> pd.DataFrame:
    """One row per strategy, seed and look: table, noise, evaluations, hypervolume, test, regret."""
    parts = []
    for path in sorted((Path(out) / STUDY).glob("*/*/runs.csv")):
        params = read_report(path.parent)["params"]
        told = {"table": params["table"], "noise": float(params["noise"])}
        label = label_of(params["strategy"])
        parts.append(pd.read_csv(path).assign(**told, label=label))
    every = pd.concat(parts) if parts else pd.DataFrame(columns=[*COLUMNS, *MEASURES])
    places = names.ranks(*(row.label for row in STRATEGIES.values()), *every.label)
    every = every.assign(order=every.label.map(places)).sort_values(
        ["table", "noise", "order", "seed", "evaluations"], kind="stable"
    )
    return every[[*COLUMNS, *MEASURES]].reset_index(drop=True)


def anytime(found) -> pd.DataFrame:
    """Mean of every measure over seeds after so many evaluations, and the 95 % interval [low, high]
    of the hypervolume's."""
    keys = ["table", "noise", "strategy", "label", "evaluations"]
    groups = found.groupby(keys, sort=False)
    means = groups[MEASURES].mean()
    half = groups.hypervolume.apply(_half).reindex(means.index)
    means = means.assign(low=means.hypervolume - half, high=means.hypervolume + half)
    return means.assign(seeds=groups.size()).reset_index()


def _half(values):
    """Half of Student's 95 % interval of a mean."""
    return stats.half_width(values.std() / np.sqrt(len(values)), len(values))


def reached(found, share=ENOUGH) -> pd.DataFrame:
    """Per strategy the median number of evaluations to a share of the true hypervolume, inf where
    most seeds do not get there, and the share of seeds that do."""
    rows = []
    keys = ["table", "noise", "strategy", "label"]
    for key, some in found.groupby(keys, sort=False):
        enough = some[some.hypervolume >= share].groupby("seed").evaluations.min()
        first = enough.reindex(some.seed.unique()).fillna(np.inf)
        told: dict[str, Any] = dict(zip(keys, key, strict=True))
        told |= {"evaluations": float(first.median()), "seeds": float(np.isfinite(first).mean())}
        rows.append(told)
    return pd.DataFrame(rows, columns=[*keys, "evaluations", "seeds"])


def ranks(found, measure="hypervolume") -> pd.DataFrame:
    """Mean rank of every strategy at the end of its runs, 1 the best, per table and noise; the
    critical difference and the p-value of Friedman's test are the same in all its rows."""
    rows = []
    for (table, noise), some in found.groupby(["table", "noise"], sort=False):
        last = some.groupby(["strategy", "label", "seed"], sort=False)[measure].last()
        wide = last.unstack("seed").dropna(axis=1)
        if min(wide.shape) < 2:
            continue
        mean = wide.rank(ascending=False).mean(axis=1)
        told = {"table": table, "noise": noise, "critical": critical(*wide.shape)}
        told["p_value"] = friedman(wide)
        for (strategy, label), rank in mean.items():
            rows.append(told | {"strategy": strategy, "label": label, "rank": rank})
    columns = ["table", "noise", "strategy", "label", "rank", "critical", "p_value"]
    return pd.DataFrame(rows, columns=columns)


def critical(k: int, n: int) -> float:
    """Nemenyi's critical difference of mean ranks of k strategies over n seeds, at ALPHA."""
    q = studentized_range.ppf(1 - ALPHA, k, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(k * (k + 1) / (6 * n)))


def friedman(wide) -> float:
    """p-value of Friedman's test of a frame strategies x seeds; NaN of fewer than three."""
    return float(friedmanchisquare(*wide.to_numpy()).pvalue) if len(wide) > 2 else np.nan


# ------------------------------------------------------------------------------------ the claims


def judged(found, out, copies=COPIES) -> pd.DataFrame:
    """The verdicts on the claims about search strategies, see `claims.judge`."""
    return judge(store(found, out), printed("claims_search"), copies)


def store(found, out) -> Store:
    """bakeoff.hypervolume by strategy, errors ("exact", "noisy") and at ("half", "end") of the
    evaluations, a value per seed on the first table; bakeoff.single, what single exits reach.

    One seed alone is not judged: nothing tells its noise.
    """
    values = Store()
    first = found[found.table == found.table.iloc[0]] if len(found) else found
    rows = []
    for (strategy, noise, seed), some in first.groupby(["strategy", "noise", "seed"], sort=False):
        half = some[some.evaluations <= some.evaluations.max() / 2].hypervolume
        told = {"strategy": strategy, "errors": "noisy" if noise else "exact", "seed": seed}
        rows += [told | {"at": "end", "value": some.hypervolume.iloc[-1]}]
        rows += [told | {"at": "half", "value": half.iloc[-1]}]
    frame = pd.DataFrame(rows, columns=["strategy", "errors", "seed", "at", "value"])
    dims = ["strategy", "errors", "at"]
    each = stats.over_seeds(frame.assign(single=np.nan), dims, "value", "single")
    values.fill("bakeoff.hypervolume", each.assign(comparable=True), dims)
    for share in tables(out).single_exits[:1]:
        values.add("bakeoff.single", {}, share)
    return values
