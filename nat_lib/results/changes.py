"""The percentage changes of thesis chapter 4 and the averages of its Tables 4.3 to 4.11.

Order of averaging (it is what gives the printed 2.876 % parameters): the percentage change of every
pair of a network and a data set first, then the plain mean over the pairs.

Noise of an average: its standard error over seeds, where all pairs have the same two seeds or more.
For one seed `stats.single_run_noise` of every top-1, and the spread of the timed passes of every
latency, carried through the change and the mean; a baseline that several changes share counts once,
a pruned network as independent of its full ensemble, which says too much rather than too little of
the noise between these two. Of what hangs on the subset of exits that pruning chose, and of
seconds, also the standard error over the pairs (for a single pair none is known).
"""

import numpy as np
import pandas as pd

from nat_lib.results import stats
from nat_lib.results.chapter4 import SINGLE, tested
from nat_lib.results.names import AEP_DATASETS, COMPARISONS, NETWORKS
from nat_lib.results.printed import PRINTED_METRICS, value_rows

ALL = "ALL"  # a full ensemble, whatever its exit weights
PAIR, DIMS = ["dataset", "network"], ["scenario", "comparison", "mode", "pruned", "exit"]
CHANGE_COLUMNS = [
    "quantity",
    *PAIR,
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
    metric: (PRINTED_METRICS[metric][2] if metric in PRINTED_METRICS else "pruned").split()
    for metric in METRICS
}


# ------------------------------------------------------------------------------ percentage changes


def changes(found):
    """Percentage change (thesis equation 4.4) of every tested network against what the thesis
    compares it with.

    found    : `chapter4.trainings`.  Compared are runs of one seed on equal data with equal
               recipes; a run whose counterpart is not finished is left out, and so are times from
               two machines
    quantity : "top1", "exit", "params", "macs", "latency", "seconds" against the single-exit
               baseline (mode "ALL" for the cost of full ensembles); "gain", top-1 of the pruned
               against the full ensemble; "scenario", top-1 of the same kind of network in another
               scenario, named in `comparison`
    noise    : per cent that the change owes to its network, `run`, and to the one before; for one
               seed
    varies   : does the number hang on the chosen subset of exits, or on a clock?
    """
    rows, same = tested(found), [*PAIR, "seed", "recipe"]
    here = [*same, "scenario", "image_size", "start"]
    exits, ensembles = rows[rows.exit != ""], rows[rows.exit == ""]
    single, early = ensembles[ensembles["mode"] == SINGLE], ensembles[ensembles["mode"] != SINGLE]
    full, pruned = early[early.pruned == "0"], early[early.pruned == "1"]
    against = _paired(early, single, here)
    costs = against.assign(
        mode=against["mode"].where(against.pruned == "1", ALL), varies=against.pruned == "1"
    )
    scenarios = []
    for name in COMPARISONS:
        after, before = (ensembles[ensembles.scenario == s] for s in name.split(" vs "))
        both = _paired(after, before, [*same, "mode", "pruned"])
        scenarios.append(both.assign(comparison=name, scenario=""))
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
    before = before.where(before > 0)  # of a baseline that is never right there is no percentage
    if f"{column}_on" in both:
        after = after.where(both[f"{column}_on"] == both[f"{column}_on_before"])
    noise = both[f"{column}_noise"] if f"{column}_noise" in both else 0.0
    noise_before = both[f"{column}_noise_before"] if f"{column}_noise_before" in both else 0.0
    rows = both.assign(
        quantity=quantity,
        change=100 * (after - before) / before,
        noise=100 * noise / before,
        noise_before=-100 * after / before**2 * noise_before,
        comparable=both.comparable & both.comparable_before,
        proxy=both.proxy | both.proxy_before,
    )
    return rows.loc[rows.change.notna(), CHANGE_COLUMNS]


# ---------------------------------------------------------------------------------------- averages


def averages(rows, keys) -> pd.DataFrame:
    """Mean of `changes` over pairs of a network and a data set, one row per `keys`; all averages
    are made here.

    returns : DataFrame keys, ours (%), sd (over seeds), seeds (fewest behind a pair), noise (see
              above), by_seed ({seed: mean}, where all seeds have the same pairs), cells (pairs),
              networks, datasets (how many), comparable (all of them), proxy (any of them)
    """
    if rows.empty:
        return pd.DataFrame(columns=[*keys, *AVERAGE_COLUMNS])
    pair = [*keys, *(c for c in PAIR if c not in keys)]
    per_seed = rows.groupby([*pair, "seed"], as_index=False).agg(
        change=("change", "mean"), rows=("change", "size")
    )
    pairs = per_seed.groupby(pair, as_index=False).agg(
        change=("change", "mean"), seeds=("seed", "size")
    )
    groups = pairs.assign(a_network=pairs.network, a_dataset=pairs.dataset).groupby(keys)
    found = groups.agg(
        ours=("change", "mean"),
        between=("change", "std"),
        seeds=("seeds", "min"),
        cells=("change", "size"),
        networks=("a_network", "nunique"),
        datasets=("a_dataset", "nunique"),
    )
    flags = rows.groupby(keys).agg(
        comparable=("comparable", "all"), proxy=("proxy", "any"), varies=("varies", "any")
    )
    found = found.join(flags).join(_over_seeds(per_seed, found.cells, keys))
    single = np.hypot(
        _single_noise(rows, keys, per_seed, pairs, found.cells),
        (found.between / np.sqrt(found.cells)).where(found.varies, 0.0),
    )
    found["noise"] = (found.sd / np.sqrt(found.seeds)).fillna(single)
    return found.reset_index()[[*keys, *AVERAGE_COLUMNS]]


def _over_seeds(per_seed, pairs, keys):
    """sd over the seeds and by_seed, by `keys`; only where every seed has every pair: else their
    means differ because the pairs do."""
    means = per_seed.groupby([*keys, "seed"]).change.agg(["mean", "size"]).reset_index("seed")
    means["whole"] = means["size"] == pairs.reindex(means.index)
    found = means.groupby(keys).agg(sd=("mean", "std"), whole=("whole", "all"))
    numbers = stats.by_seed(found.reset_index(), means.reset_index(), keys, "mean")
    by_seed = [seeds if whole else {} for seeds, whole in zip(numbers, found.whole, strict=True)]
    return found.assign(sd=found.sd.where(found.whole), by_seed=by_seed)[["sd", "by_seed"]]


def _single_noise(rows, keys, per_seed, pairs, n_pairs):
    """Noise of the means of `averages`, as if no run had been repeated: by `keys`."""
    pair = [*keys, *(c for c in PAIR if c not in keys)]
    rows = rows.merge(per_seed[[*pair, "seed", "rows"]], on=[*pair, "seed"])
    rows = rows.merge(pairs[[*pair, "seeds"]], on=pair)
    weight = 1 / (rows.rows * rows.seeds * rows[keys].join(n_pairs, on=keys).cells)
    after = rows[keys].assign(run=rows.run, part=weight * rows.noise)
    before = rows[keys].assign(run=rows.run_before, part=weight * rows.noise_before)
    parts = pd.concat([after, before])
    per_run = parts.groupby([*keys, "run"]).part.sum()  # what shares a run moves together
    return np.sqrt((per_run**2).groupby(keys).sum())


# ------------------------------------------------------------------------- beside the printed ones


def values(found) -> pd.DataFrame:
    """Every number of Tables 4.3 to 4.11, the printed one beside ours, one row each.

    found      : `chapter4.trainings`
    returns    : metric, dimensions as text ("" where a metric has none), config, columns of
                 `averages`, of (pairs there would be if everything that was run anywhere were run
                 here), whole (cells == of), once (the mean that counts a run once, where networks
                 share it and it matters), printed, difference, uncertainty (sd over seeds; for one
                 seed the noise), interval (half of the 95 % confidence interval of the mean over
                 seeds; NaN for one seed), verdict (`stats.verdicts`, the printed average taken to
                 be as noisy as ours)
    comparable : whole, and over the networks and data sets of the thesis, made as the thesis made
                 them
    """
    rows = changes(found)
    parts = [_of_metric(metric, rows[rows.quantity == METRICS[metric]]) for metric in METRICS]
    where = ["metric", *PAIR, *DIMS]
    ours = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    ours = ours.reindex(columns=[*where, *AVERAGE_COLUMNS, "of", "once"])
    ours[where] = ours[where].astype(object).fillna("")
    table = printed_values().merge(ours, "outer", on=where, sort=False)
    for flag in ("comparable", "proxy"):
        table[flag] = table[flag] == True  # noqa: E712  (missing is not true)
    texts = ("comparable", "proxy", "by_seed")
    numbers = [c for c in (*AVERAGE_COLUMNS, "of", "once") if c not in texts]
    table = table.astype(dict.fromkeys(numbers, float))
    starred = (table.pruned == "1") | (table.metric == "aep.pruned_gain")
    return table.assign(
        config=table["mode"] + np.where(starred, "*", ""),
        once=table.once.where(~np.isclose(table.once, table.ours)),
        whole=table.cells == table.of,
        difference=table.ours - table.printed,
        uncertainty=table.sd.fillna(table.noise),
        interval=stats.half_width(table.noise, table.seeds.where(table.sd.notna())),
        verdict=stats.verdicts(
            table.ours, table.printed, table.noise, table.comparable, printed_noise=table.noise
        ),
    )


def _of_metric(metric, rows):
    """The averages of one metric, with `of`, `comparable` and `once` of `values`."""
    keys, quantity = DIMENSIONS[metric], METRICS[metric]
    over = {c: rows[c].nunique() for c in PAIR if c not in keys}
    thesis = {
        "network": 5 if quantity == "exit" else len(NETWORKS),  # five have four exits
        "dataset": len(AEP_DATASETS),
    }
    whole = over == {c: thesis[c] for c in over}
    part = averages(rows, keys).assign(metric=metric, of=int(np.prod([*over.values()])))
    part["comparable"] = part.comparable.astype(bool) & (part.cells == part.of) & whole
    if quantity == "scenario":
        distinct = rows[rows["mode"] == SINGLE].drop_duplicates(["run", "run_before"])
        once = averages(distinct, keys)[[*keys, "ours"]].rename(columns={"ours": "once"})
        part = part.merge(once, "left", on=keys)
    return part


def printed_values() -> pd.DataFrame:
    """The numbers of Tables 4.3 to 4.11 and the one in the text: metric, dimensions, printed."""
    rows = [dict.fromkeys([*PAIR, *DIMS], "") | row for row in value_rows(METRICS)]
    return pd.DataFrame(rows, columns=["metric", *PAIR, *DIMS, "printed"])
