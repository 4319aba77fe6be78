"""Results of thesis chapter 4 as frames, from finished cells: runs, percentage changes, and the
averages of its tables.

Everything is read, nothing is run; `chapter4` makes tables and the figure of these frames,
`claims4` judges on them. Order of averaging (it is what gives the printed 2.876 % parameters): the
percentage change of every pair of a network and a data set first, then the plain mean over the
pairs.

Noise of an average: its standard error over seeds, where all pairs have the same two seeds or more.
                     For one seed
`claims.single_run_noise` of every top-1, and the spread of the timed passes of every latency,
carried through the change and the mean; a baseline that several changes share counts once, a pruned
network as independent of its full ensemble, which says too much rather than too little of the noise
between these two. Of what hangs on the subset of exits that pruning chose, and of seconds, also the
standard error over the pairs (for a single pair none is known).
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from nat_lib.backbone_table import baseline_of
from nat_lib.files import hash_of, read_json
from nat_lib.results import claims
from nat_lib.results.chapter6 import name_of, noise_of
from nat_lib.results.claims import CONSTANTS, MODES, printed
from nat_lib.results.stats import NOT_JUDGED, NOT_RUN

SINGLE, ALL = "SE", "ALL"  # the single-exit baseline; a full ensemble, whatever its exit weights
SCENARIOS, COMPARISONS = CONSTANTS["SCENARIOS"], CONSTANTS["COMPARISONS"]
NETWORKS, DATASETS = CONSTANTS["NETWORKS"], CONSTANTS["DATASETS"]
MOST_EXITS, FOUR = 7, 4  # of a network; of those that Table 4.7 is about, five in the thesis
EXACT = 0.02  # per cent: how well a count of parameters or MACs agrees with the printed one
IQR = 1.349  # interquartile range of a standard normal law

EXIT_COLUMNS = [f"exit_{i}" for i in range(1, MOST_EXITS + 1)]
TESTED = ["test_top1", "test_top5", "params", "macs_tp", "latency_ms", "latency_iqr"]
RUN_COLUMNS = [
    "dataset",
    "network",
    "baseline",
    "scenario",
    "mode",
    "seed",
    "profile",
    "image_size",
    "proxy",
    "pretrained_on",
    "start",
    "recipe",
    "n_test",
    "epochs",
    "best_epoch",
    "val_top1",
    *TESTED,
    "latency_on",
    "seconds",
    "seconds_on",
    "n_exits",
    *EXIT_COLUMNS,
    "subset",
    "pruned_val_top1",
    *(f"pruned_{name}" for name in TESTED),
    "folder",
]
WITH_BASELINE = [
    "dataset",
    "baseline",
    "scenario",
    "seed",
    "image_size",
    "recipe",
    "start",
]  # a run and its baseline
RUN = ["dataset", "network", "scenario", "mode", "seed"]
CELL, DIMS = ["dataset", "network"], ["scenario", "comparison", "mode", "pruned", "exit"]
CHANGE_COLUMNS = [
    "quantity",
    *CELL,
    "seed",
    *DIMS,
    "change",
    "run",
    "noise",
    "run_before",
    "noise_before",
    "varies",
    "comparable",
    "proxy",
]
AVERAGE_COLUMNS = [
    "ours",
    "sd",
    "seeds",
    "noise",
    "by_seed",
    "cells",
    "networks",
    "datasets",
    "comparable",
    "proxy",
]

# metric of reference/metrics.csv: quantity of `changes` that it averages
METRICS = {
    "aep.top1_change_by_network": "top1",
    "aep.top1_change_by_dataset": "top1",
    "aep.top1_change": "top1",
    "aep.pruned_gain": "gain",
    "aep.exit_change": "exit",
    "aep.params_change": "params",
    "aep.macs_change": "macs",
    "aep.latency_change": "latency",
    "aep.scenario_change": "scenario",
    "aep.epoch_time_change": "seconds",
}
DIMENSIONS = {
    metric: (
        claims.PRINTED_METRICS[metric][2] if metric in claims.PRINTED_METRICS else "pruned"
    ).split()
    for metric in METRICS
}


# ------------------------------------------------------------------------------ what the cells left


def runs4(out, datasets=None):
    """One row per finished training of the AEP study under the folder `out`; `pruned_*`: of its
    pruned network.

    datasets : which ones (names as in data.load), None: all.  An average over the thesis's data
               sets and others is comparable with no printed one: name them here
    exit_1.. : test top-1 of the single exits;  subset : the exits that pruning kept
    recipe   : stands for all that two runs must share to be compared;  start : and for their first
               weights
    """
    rows = []
    for path in sorted(Path(out).glob("aep_study/*/*/report.json")):
        report = read_json(path)
        p, m = report["params"], report["metrics"]
        if datasets is None or p["dataset"] in datasets:
            rows.append(
                {
                    **{
                        k: p[k]
                        for k in (
                            "dataset",
                            "network",
                            "scenario",
                            "mode",
                            "seed",
                            "profile",
                            "image_size",
                            "proxy",
                            "pretrained_on",
                        )
                    },
                    "baseline": baseline_of(p["network"]),
                    "start": p["start"] or "",
                    "recipe": hash_of([p[k] for k in ("recipe", "data", "hidden", "keep_stem")]),
                    **{k: m[k] for k in ("n_test", "epochs", "best_epoch", "val_top1")},
                    **_tested(m),
                    "latency_on": _machine(m["latency"]),
                    "seconds": m["seconds_per_epoch"],
                    "seconds_on": _machine(report),
                    "n_exits": len(m["exits"]),
                    **{f"exit_{i}": e["top1"] for i, e in enumerate(m["exits"], 1)},
                    **(_pruned(m["pruned"]) if p["mode"] != SINGLE else {}),
                    "folder": path.parent.relative_to(out).as_posix(),
                }
            )
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def _tested(m):
    return {
        **{k: m[k] for k in ("test_top1", "test_top5", "params", "macs_tp")},
        "latency_ms": m["latency"]["ms"],
        "latency_iqr": m["latency"]["iqr"],
    }


def _pruned(m):
    return {
        "subset": " ".join(map(str, m["subset"])),
        "pruned_val_top1": m["val_top1"],
        **{f"pruned_{name}": value for name, value in _tested(m).items()},
    }


def _machine(report):
    threads = report["threads"]
    return f"{report['device']}, {threads} thread{'s' if threads > 1 else ''}"


def tested(found):
    """Every network that was tested, one row each; a baseline once for every network that shares
    it.

    found   : `runs4`
    columns : mode ("SE" for the baseline), pruned ("0" | "1"), exit ("" | "1" ..: this exit alone,
              of networks with exactly four), top1, params, macs, latency, seconds, and what is
              needed to compare them
    """
    early, single = found[found["mode"] != SINGLE], found[found["mode"] == SINGLE]
    siblings = early[[*CELL, "baseline"]].drop_duplicates()
    single = single.drop(columns="network").merge(siblings, on=["dataset", "baseline"])
    four = early[early.n_exits == FOUR]
    rows = pd.concat(
        [
            *(_networks(part, "", "0") for part in (single, early)),
            _networks(early, "*", "1", "pruned_"),
            *(
                _networks(four, f" exit {i}", "0").assign(exit=str(i), top1=four[f"exit_{i}"])
                for i in range(1, FOUR + 1)
            ),
        ],
        ignore_index=True,
    )
    pixels = rows.scenario.str.split("-").str[-1]
    return rows.assign(
        top1_noise=noise_of(rows, "top1"),
        dataset=rows.dataset.map(name_of),
        proxy=rows.proxy.astype(bool),
        comparable=(rows.profile == "paper")
        & ~rows.proxy.astype(bool)
        & (rows.image_size.astype(str) == pixels)  # noqa: E712
        & rows.dataset.map(name_of).isin(DATASETS)
        & rows.network.isin(NETWORKS),
    )


def _networks(rows, suffix, pruned, prefix=""):
    return rows[
        [
            *CELL,
            "seed",
            "scenario",
            "mode",
            "profile",
            "image_size",
            "proxy",
            "start",
            "recipe",
            "n_test",
            "latency_on",
            "seconds",
            "seconds_on",
        ]
    ].assign(
        run=rows.folder + suffix,
        pruned=pruned,
        exit="",
        top1=rows[f"{prefix}test_top1"],
        params=rows[f"{prefix}params"],
        macs=rows[f"{prefix}macs_tp"],
        latency=rows[f"{prefix}latency_ms"],
        latency_noise=rows[f"{prefix}latency_iqr"] / IQR,
    )


def exit_accuracies(found):
    """One row per early-exit run of `runs4`, its baseline beside it; NaN where that is not
    finished.

    returns : DataFrame dataset, network, scenario, mode, seed, single (test top-1 of the baseline),
              exit_1 .., ensemble (all exits), pruned, subset (the exits kept), params_change and
              macs_change (%, pruned against baseline)
    """
    early, single = found[found["mode"] != SINGLE], found[found["mode"] == SINGLE]
    both = early.merge(
        single[[*WITH_BASELINE, "test_top1", "params", "macs_tp"]],
        "left",
        WITH_BASELINE,
        suffixes=("", "_single"),
    )
    cost = {
        f"{name}_change": 100
        * (both[f"pruned_{column}"] / both[f"{column}_single"] - 1).astype(float)
        for name, column in (("params", "params"), ("macs", "macs_tp"))
    }
    rows = both.assign(**cost).rename(
        columns={
            "test_top1_single": "single",
            "test_top1": "ensemble",
            "pruned_test_top1": "pruned",
        }
    )
    return rows[
        [
            *CELL,
            "scenario",
            "mode",
            "seed",
            "single",
            *EXIT_COLUMNS,
            "ensemble",
            "pruned",
            "subset",
            *cost,
        ]
    ]


def _in_order(found):
    """Early-exit runs in the order of the thesis; networks that it does not have come last."""
    order = {name: i for i, name in enumerate((*NETWORKS, *SCENARIOS, *MODES))}
    rows = found[found["mode"] != SINGLE]
    return rows.sort_values(
        [*CELL, "scenario", "mode", "seed"],
        key=lambda c: c.map(
            lambda x: order.get(x, len(order)) if c.name in ("network", "scenario", "mode") else x
        ),
        kind="stable",
    ).itertuples()


def subsets(out, found):
    """Every subset of exits of every early-exit run: the columns of `aep.subset_table`, the run's,
    `chosen` by pruning.

    found : `runs4` of the same folder
    """
    parts = [
        pd.read_csv(Path(out) / r.folder / "subsets.csv", dtype={"subset": str}).assign(
            **{k: getattr(r, k) for k in RUN}, chosen=lambda t, kept=r.subset: t.subset == kept
        )
        for r in _in_order(found)
    ]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=[*RUN, "subset", "chosen"])
    )


def output_weights(out, found):
    """The same exits voting with other output weights, one row per early-exit run and votes; see
    `aep.compared`.

    votes : a mode of the thesis, or "OPTIMAL": lowest cross-entropy on the validation split
    """
    rows = []
    for r in _in_order(found):
        told = read_json(Path(out) / r.folder / "report.json")["metrics"]["output_weights"]
        rows += [
            {
                **{k: getattr(r, k) for k in RUN},
                "votes": votes,
                **scores,
                "weights": " ".join(f"{w:.2f}" for w in told["weights"][votes]),
            }
            for votes, scores in told["scores"].items()
        ]
    return pd.DataFrame(
        rows, columns=[*RUN, "votes", "val_loss", "val_top1", "test_top1", "weights"]
    )


# ------------------------------------------------------------------------------- percentage changes


def changes(found):
    """Percentage change (thesis equation 4.4) of every tested network against what the thesis
    compares it with.

    found    : `runs4`.  Compared are runs of one seed on equal data with equal recipes; a run whose
               counterpart is not finished is left out, and so are times from two machines
    quantity : "top1", "exit", "params", "macs", "latency", "seconds" against the single-exit
               baseline (mode "ALL" for the cost of full ensembles); "gain", top-1 of the pruned
               against the full ensemble; "scenario", top-1 of the same kind of network in another
               scenario, named in `comparison`
    noise    : per cent that the change owes to its network, `run`, and to the one before; for one
               seed
    varies   : does the number hang on the chosen subset of exits, or on a clock?
    """
    rows, same = tested(found), [*CELL, "seed", "recipe"]
    here = [*same, "scenario", "image_size", "start"]
    exits, ensembles = rows[rows.exit != ""], rows[rows.exit == ""]
    single, early = (ensembles[(ensembles["mode"] == SINGLE) == flag] for flag in (True, False))
    full, pruned = (early[early.pruned == flag] for flag in "01")
    against = _paired(early, single, here)
    costs = against.assign(
        mode=against["mode"].where(against.pruned == "1", ALL), varies=against.pruned == "1"
    )
    scenarios = [
        _paired(
            *(ensembles[ensembles.scenario == s] for s in name.split(" vs ")),
            [*same, "mode", "pruned"],
        ).assign(comparison=name, scenario="")
        for name in COMPARISONS
    ]
    parts = [
        _change(against, "top1", "top1"),
        *(_change(costs, name, name) for name in ("params", "macs", "latency")),
        _change(against[against.pruned == "0"].assign(varies=True), "seconds", "seconds"),
        _change(_paired(pruned, full, [*here, "mode"]), "gain", "top1"),
        _change(_paired(exits, single, here), "exit", "top1"),
        *(_change(part, "scenario", "top1") for part in scenarios),
    ]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _paired(after, before, on):
    return after.merge(before, on=on, suffixes=("", "_before")).assign(comparison="", varies=False)


def _change(both, quantity, column):
    before, after = both[f"{column}_before"].astype(float), both[column].astype(float)
    before = before.where(
        before > 0
    )  # against a baseline that is never right there is no percentage
    if f"{column}_on" in both:
        after = after.where(both[f"{column}_on"] == both[f"{column}_on_before"])
    noise, noise_before = (
        (both[name] if name in both else 0.0)
        for name in (f"{column}_noise", f"{column}_noise_before")
    )
    rows = both.assign(
        quantity=quantity,
        change=100 * (after - before) / before,
        noise=100 * noise / before,
        noise_before=-100 * after / before**2 * noise_before,
        comparable=both.comparable & both.comparable_before,
        proxy=both.proxy | both.proxy_before,
    )
    return rows.loc[rows.change.notna(), CHANGE_COLUMNS]


# ----------------------------------------------------------------------------------------- averages


def averages(rows, keys):
    """Mean of `changes` over pairs of a network and a data set, one row per `keys`; all averages
    are made here.

    returns : DataFrame keys, ours (%), sd (over seeds), seeds (fewest behind a pair), noise (see
              above), by_seed ({seed: mean}, where all seeds have the same pairs), cells (pairs),
              networks, datasets (how many), comparable (all of them), proxy (any of them)
    """
    if rows.empty:
        return pd.DataFrame(columns=[*keys, *AVERAGE_COLUMNS])
    cell = [*keys, *(c for c in CELL if c not in keys)]
    per_seed = rows.groupby([*cell, "seed"], as_index=False).agg(
        change=("change", "mean"), rows=("change", "size")
    )
    pairs = per_seed.groupby(cell, as_index=False).agg(
        change=("change", "mean"), seeds=("seed", "size")
    )
    groups = pairs.assign(**{f"_{c}": pairs[c] for c in CELL}).groupby(keys)
    found = groups.agg(
        ours=("change", "mean"),
        between=("change", "std"),
        seeds=("seeds", "min"),
        cells=("change", "size"),
        networks=("_network", "nunique"),
        datasets=("_dataset", "nunique"),
    )
    found = found.join(
        rows.groupby(keys).agg(
            comparable=("comparable", "all"), proxy=("proxy", "any"), varies=("varies", "any")
        )
    )
    # Over seeds only where every seed has every pair: else their means differ because the pairs do.
    means = per_seed.groupby([*keys, "seed"]).change.agg(["mean", "size"]).reset_index("seed")
    means["whole"] = means["size"] == found.cells.reindex(means.index)
    spread = means.groupby(keys).agg(sd=("mean", "std"), whole=("whole", "all"))
    found["sd"] = spread.sd.where(spread.whole)
    found["by_seed"] = [
        seeds if whole else {}
        for seeds, whole in zip(
            claims.by_seed(found.reset_index(), means.reset_index(), keys, "mean"),
            spread.whole[found.index],
            strict=True,
        )
    ]
    single = np.hypot(
        _single_noise(rows, keys, per_seed, pairs, found.cells),
        (found.between / np.sqrt(found.cells)).where(found.varies, 0.0),
    )
    found["noise"] = (found.sd / np.sqrt(found.seeds)).fillna(single)
    return found.reset_index()[[*keys, *AVERAGE_COLUMNS]]


def _single_noise(rows, keys, per_seed, pairs, cells):
    """Noise of the means of `averages`, as if no run had been repeated: by `keys`."""
    cell = [*keys, *(c for c in CELL if c not in keys)]
    rows = rows.merge(per_seed[[*cell, "seed", "rows"]], on=[*cell, "seed"]).merge(
        pairs[[*cell, "seeds"]], on=cell
    )
    weight = 1 / (rows.rows * rows.seeds * rows[keys].join(cells, on=keys).cells)
    parts = pd.concat(
        [
            rows[keys].assign(run=rows[run], part=weight * rows[noise])
            for run, noise in (("run", "noise"), ("run_before", "noise_before"))
        ]
    )
    per_run = parts.groupby([*keys, "run"]).part.sum()  # what shares a run moves together
    return np.sqrt((per_run**2).groupby(keys).sum())


def values(found):
    """Every number of Tables 4.3 to 4.11, the printed one beside ours, one row each; DataFrame.

    found      : `runs4`
    returns    : metric, dimensions as text ("" where a metric has none), config, columns of
                 `averages`, of (pairs there would be if everything that was run anywhere were run
                 here), whole (cells == of), once (the mean that counts a run once, where networks
                 share it and it matters), printed, difference, uncertainty (sd over seeds; for one
                 seed the noise), interval (half of the 95 % confidence interval of the mean over
                 seeds, by Student's t; NaN for one seed), verdict
    comparable : whole, and over the networks and data sets of the thesis, at its image size, from
                 its weights
    verdict    : "reproduced" within 1.5 points or twice the combined noise of both (counts: EXACT),
                 "above", "below"
    """
    rows = changes(found)
    parts = []
    for metric, quantity in METRICS.items():
        mine, keys = rows[rows.quantity == quantity], DIMENSIONS[metric]
        over = {c: mine[c].nunique() for c in CELL if c not in keys}
        thesis = {"network": 5 if quantity == "exit" else len(NETWORKS), "dataset": len(DATASETS)}
        part = averages(mine, keys).assign(metric=metric, of=int(np.prod(list(over.values()))))
        part["comparable"] = (
            part.comparable.astype(bool)
            & (part.cells == part.of)
            & (over == {c: thesis[c] for c in over})
        )
        if quantity == "scenario":
            distinct = mine[mine["mode"] == SINGLE].drop_duplicates(["run", "run_before"])
            once = averages(distinct, keys)[[*keys, "ours"]].rename(columns={"ours": "once"})
            part = part.merge(once, "left", on=keys)
        parts.append(part)
    where = ["metric", *CELL, *DIMS]
    ours = pd.concat([p for p in parts if len(p)] or parts, ignore_index=True)
    ours = ours.reindex(columns=[*where, *AVERAGE_COLUMNS, "of", "once"])
    ours[where] = ours[where].astype(object).fillna("")
    table = _printed_values().merge(ours, "outer", on=where, sort=False)
    for flag in ("comparable", "proxy"):
        table[flag] = table[flag] == True  # noqa: E712  (missing is not true)
    numbers = [
        c for c in (*AVERAGE_COLUMNS, "of", "once") if c not in ("comparable", "proxy", "by_seed")
    ]
    table = table.astype(dict.fromkeys(numbers, float))
    table = table.assign(
        config=table["mode"]
        + np.where((table.pruned == "1") | (table.metric == "aep.pruned_gain"), "*", ""),
        once=table.once.where(~np.isclose(table.once, table.ours)),
        whole=table.cells == table.of,
        difference=table.ours - table.printed,
        uncertainty=table.sd.fillna(table.noise),
        interval=student.ppf(0.975, (table.seeds - 1).where(table.sd.notna())) * table.noise,
    )
    tolerance = (
        (2 * np.sqrt(2) * table.noise).clip(lower=claims.TOLERANCE).where(table.noise > 0, EXACT)
    )
    return table.assign(
        verdict=np.select(
            [
                table.ours.isna(),
                table.printed.isna(),
                ~table.comparable,
                table.difference.abs() <= tolerance,
                table.difference > 0,
            ],
            [NOT_RUN, "nothing printed", NOT_JUDGED, "reproduced", "above"],
            "below",
        )
    )


def _printed_values():
    """The numbers of Tables 4.3 to 4.11 and the one in the text: metric, dimensions, printed."""
    store = claims.printed_store()
    rows = [
        {
            "metric": metric,
            **{k: v for k, v in store.values[i].dims.items() if k != "config"},
            "printed": store.values[i].value,
        }
        for metric in METRICS
        for i in store.by_metric[metric]
    ]
    return pd.DataFrame(
        [dict.fromkeys([*CELL, *DIMS], "") | row for row in rows],
        columns=["metric", *CELL, *DIMS, "printed"],
    )


# ---------------------------------------------------------------------------------- checks on paper


def recomputed():
    """Printed averages made again by `averages`, from printed rows and from the structure of the
    networks alone.

    returns : DataFrame table, source, scenario, config, printed, recomputed, difference, tolerance;
              72 rows
    """
    keys, parts = ["scenario", "mode", "pruned"], []
    for by, other, name in (("network", "dataset", "network"), ("dataset", "network", "data set")):
        table = printed(f"table_4_3_4_4_{by}")
        rows = table[table.is_average == "0"].assign(quantity="top1", seed=0, **{other: "all"})
        rows["change"] = rows.top1_change_pct.astype(float)
        parts.append(
            averages(_noiseless(rows), keys).assign(
                table="4.5",
                source=f"rows by {name} of Tables 4.3 and 4.4",
                metric="aep.top1_change",
                tolerance=0.0005,
            )
        )
    rows = changes(structure())
    for table, quantity in (("4.8", "params"), ("4.9", "macs")):
        parts.append(
            averages(rows[(rows.quantity == quantity) & (rows["mode"] == ALL)], keys).assign(
                table=table,
                source="structure of the networks",
                metric=f"aep.{quantity}_change",
                tolerance=EXACT,
            )
        )
    found = pd.concat(parts, ignore_index=True).rename(columns={"ours": "recomputed"})
    found = found.merge(_printed_values()[["metric", *keys, "printed"]], on=["metric", *keys])
    return found.assign(
        config=found["mode"] + found.pruned.map({"0": "", "1": "*"}),
        difference=found.recomputed - found.printed,
    )[["table", "source", "scenario", "config", "printed", "recomputed", "difference", "tolerance"]]


def _noiseless(rows):
    fixed = {
        "run": "",
        "noise": 0.0,
        "run_before": "",
        "noise_before": 0.0,
        "varies": False,
        "comparable": True,
        "proxy": False,
    }
    return rows.assign(**fixed).reindex(columns=CHANGE_COLUMNS)


def structure():
    """The costs of all networks of the thesis as rows of `runs4`: counted, not run; in thousands.

    The thesis logged millions with three decimals, which is why it prints 2.876 % parameters and
    not 2.878.
    """
    rows = []
    for c in printed("derived_aep_costs").to_dict("records"):
        baseline = baseline_of(c["network"])
        for how, mode in product(("TR", "FT"), (SINGLE, *MODES)):
            if mode != SINGLE or baseline == c["network"]:
                scenario, kind = (
                    f"{how}-{c['image_size']}",
                    "single_exit" if mode == SINGLE else "early_exit",
                )
                rows.append(
                    {
                        "dataset": c["dataset"],
                        "network": c["network"],
                        "baseline": baseline,
                        "scenario": scenario,
                        "mode": mode,
                        "seed": 0,
                        "image_size": c["image_size"],
                        "proxy": False,
                        "start": "",
                        "recipe": "",
                        "params": round(int(c[f"params_{kind}"]) / 1e3),
                        "macs_tp": round(int(c[f"macs_torchprofile_{kind}"]) / 1e3),
                        "n_exits": int(c["exits"]),
                        "folder": f"{c['dataset']}/{c['network']}_{scenario}_{mode}",
                    }
                )
    return pd.DataFrame(rows, columns=RUN_COLUMNS)
