"""Was a search worth it?  Its subnets beside hand-made networks and uniform subnets.

A search is read at given MACs: of its subnets with at most so many, the one that is best on the
validation split.  Its test top-1 minus that of a baseline of these MACs is the difference at equal
MACs, paired by seed.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib.cells import read_report
from nat_lib.results import stats
from nat_lib.studies.budgets import BUDGETS

STUDY = "take_home"
UNSEARCHED = {"uniform": "uniform subnets", "random": "random search"}  # of the same supernets
AT = (0.25e6, 0.5e6, 1e6, 2e6, 5e6, 12e6)  # MACs at which a front is told
COLUMNS = ["kind", "name", "label", "search", "seed", "budget", "epochs", "macs", "macs_tp"]
COLUMNS += ["params", "val_top1", "test_top1", "n_test", "seconds", "cost"]
PAIRS = ["name", "label", "budget", "macs", "searched_macs", "seed", "other", "search"]
PAIRS += ["difference", "noise"]
JUDGED = ["label", "budget", "macs", "searched_macs", "other", "search", "seeds", "difference"]
JUDGED += ["low", "high", "verdict"]
GAINED = ["pairs", "gain", "low", "high"]


def points(out, dataset, folders) -> pd.DataFrame:
    """One row per network: the subnets of the searches, uniform subnets and baselines.  Rows of one
    `name` are the same network for several seeds, scaled to each search where it says so.

    folders : {seed: folder of the search}, see `studies.take_home.judged`
    """
    rows: list[dict] = []
    for seed, folder in folders.items():
        report, table = read_report(Path(folder)), pd.read_csv(Path(folder) / "subnets.csv")
        name, n_test = Path(folder).name, report["metrics"]["n_test"]
        shared = {"search": name, "seed": seed, "n_test": n_test}
        told = {"kind": "search", "label": report["params"]["supernet"], "budget": ""} | shared
        kept = ["macs", "macs_tp", "params", "val_top1", "test_top1"]
        rows += [told | row for row in table[kept].to_dict("records")]
        for path in sorted((Path(out) / STUDY / dataset / name).glob("*/report.json")):
            other = read_report(path.parent)
            if other["params"]["search"] == report["hash"]:
                rows += [shared | row for row in _told(other)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _told(report):
    """Rows of a cell of the study: a baseline, or subnets that were not searched."""
    metrics, params = report["metrics"], report["params"]
    if "rows" in metrics:
        kept = ("macs", "macs_tp", "params", "val_top1", "test_top1")
        kind = report["name"].rpartition("/")[2]
        told = {"kind": kind, "label": UNSEARCHED[kind], "budget": ""}
        return [
            told | {"name": f"{kind} {row['macs']}"} | {key: row[key] for key in kept}
            for row in metrics["rows"]
        ]
    told = {"kind": "baseline", "name": params["baseline"], "budget": params["kind"]}
    return [told | metrics | {"seconds": report["seconds"], "cost": report["cost"]}]


def handmade(out, searches) -> pd.DataFrame:
    """The baselines that stand beside any of these searches: `points` of them with their `dataset`.

    searches : {(data set, seed, folder of the search)}
    """
    found = [
        points(out, dataset, {seed: folder}).assign(dataset=dataset)
        for dataset, seed, folder in sorted(searches)
    ]
    every = pd.concat([points(out, "", {}).assign(dataset=""), *found], ignore_index=True)
    return every[every.kind == "baseline"].reset_index(drop=True)


def at_most(table, macs):
    """Of rows with at most so many MACs the one that is best on the validation split; None: there
    is none."""
    fitting = table[table.macs <= macs]
    return fitting.loc[fitting.val_top1.idxmax()] if len(fitting) else None


def read_at(points, kind="search") -> pd.DataFrame:
    """The rows that are picked at each of AT, per seed; their `name` is that MACs."""
    rows = []
    for _, table in points[points.kind == kind].groupby("seed"):
        for macs in AT:
            best = at_most(table, macs)
            if best is not None:
                rows.append(best.to_dict() | {"name": macs})
    return pd.DataFrame(rows, columns=points.columns)


def front(points) -> pd.DataFrame:
    """The search read at each of AT: mean test top-1 over seeds, their number, MACs."""
    rows = [
        {
            "at_most": macs,
            "test_top1": some.test_top1.mean(),
            "macs": some.macs.mean(),
            "seeds": len(some),
        }
        for macs, some in read_at(points).groupby("name")
    ]
    return pd.DataFrame(rows, columns=["at_most", "test_top1", "macs", "seeds"])


def differences(points, other="baseline") -> pd.DataFrame:
    """Search minus every other network at equal MACs: mean difference over seeds in points of test
    top-1, its 95 % interval [low, high], a verdict.

    Of one seed the interval is what the test split and the run-to-run spread of the thesis leave
    open.  A network that is cheaper than every subnet of the search is not judged.
    other : a kind; of a random search, which has a front as well, what is picked at each of AT
    """
    found = points[points.kind == "search"]
    pairs = []
    others = read_at(points, other) if other == "random" else points[points.kind == other]
    for row in others.itertuples():
        best = at_most(found[found.seed == row.seed], row.macs)
        if best is not None:
            noise = np.hypot(*(stats.single_run_noise(r.test_top1, r.n_test) for r in (best, row)))
            told = {"name": row.name, "label": row.label, "budget": row.budget, "macs": row.macs}
            told |= {
                "seed": row.seed,
                "searched_macs": best.macs,
                "other": row.test_top1,
                "search": best.test_top1,
            }
            pairs.append(told | {"difference": best.test_top1 - row.test_top1, "noise": noise})
    rows = []
    for (_, budget), group in pd.DataFrame(pairs, columns=PAIRS).groupby(
        ["name", "budget"], sort=False
    ):
        mean, half = _interval(group)
        verdict = "beats" if mean > half else "loses to" if mean < -half else "ties with"
        numbers = group[["macs", "searched_macs", "other", "search"]].mean().to_dict()
        named = {"label": group.label.iloc[0], "budget": budget}
        told = {"seeds": len(group), "difference": mean, "low": mean - half, "high": mean + half}
        rows.append(named | numbers | told | {"verdict": verdict})
    return pd.DataFrame(rows, columns=JUDGED)


def _interval(pairs):
    """(mean, half width of its 95 % interval) of paired differences with the noise of each."""
    n = len(pairs)
    if n == 1:
        return pairs.difference.iloc[0], stats.NORMAL_95 * pairs.noise.iloc[0]
    return pairs.difference.mean(), float(stats.half_width(pairs.difference.std() / np.sqrt(n), n))


def sentence(points) -> str:
    """The verdict against the baseline that does best at its MACs, in one sentence."""
    if not (points.kind == "search").any():
        return "Nothing was searched with MACs as an objective, so there is nothing to judge."
    judged = differences(points)
    if judged.empty:
        return "No baseline was trained, so the search is not judged."
    worst = judged.loc[judged.difference.idxmin()]
    budget = f", trained for its {BUDGETS[worst.budget].words}" if worst.budget else ""
    seeds = "one seed" if worst.seeds == 1 else f"{worst.seeds} seeds"
    return (
        f"The search {worst.verdict} the best baseline at equal MACs ({worst.label}, "
        f"{worst.macs / 1e6:.2f} M MACs{budget}) by {abs(worst.difference):.1f} points of test "
        f"top-1, 95 % interval {worst.low:.1f} to {worst.high:.1f}, {seeds}; its subnet has "
        f"{worst.searched_macs / 1e6:.2f} M MACs."
    )


def spent(reports) -> pd.DataFrame:
    """Where the time went: seconds and ledger cost of every cell, in the order they were made."""
    rows = [
        {
            "what": f"{report['study']}/{report['name']}",
            "seconds": report["seconds"],
            "cost": report["cost"] or 0,
        }
        for report in reversed(reports)
    ]
    return pd.DataFrame(rows, columns=["what", "seconds", "cost"])


def starts(reports) -> list[str]:
    """What the supernets began with, each once."""
    first = [
        r["params"] for r in reports if r["study"] == "ofav2_eps" and not r["params"]["parent"]
    ]
    return sorted({p.get("start", "random weights") for p in first})


def gains(runs) -> pd.DataFrame:
    """What other starts gave: per run the test top-1 of the subnet that is best on validation and
    its difference to the first run, in points, paired by seed, with its 95 % interval.

    runs : {what it started from: (`points`, ledger cost of supernets and searches)}
    """
    tops = {name: _tops(points) for name, (points, _) in runs.items()}
    first, rows = tops[next(iter(runs))], []
    for name, own in tops.items():
        pairs = own.join(first.add_suffix("_first"), how="inner")
        pairs = pairs.assign(
            difference=pairs.top1 - pairs.top1_first, noise=np.hypot(pairs.noise, pairs.noise_first)
        )
        told = {
            "start": name,
            "seeds": len(own),
            "best_top1": own.top1.mean(),
            "cost": runs[name][1],
        }
        if own is not first and len(pairs):
            mean, half = _interval(pairs)
            told |= {"pairs": len(pairs), "gain": mean, "low": mean - half, "high": mean + half}
        rows.append(told)
    return pd.DataFrame(rows, columns=["start", "seeds", "best_top1", "cost", *GAINED])


def _tops(points):
    """{seed: test top-1 of the subnet that is best on validation, its noise} as a frame."""
    found = points[points.kind == "search"]
    best = found.loc[found.groupby("seed").val_top1.idxmax()]
    noise = stats.single_run_noise(best.test_top1, best.n_test)
    return pd.DataFrame({"top1": best.test_top1, "noise": noise}).set_index(best.seed)
