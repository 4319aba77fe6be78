"""Tables of thesis chapter 4, made from the frames of `results.chapter4` and of nothing else.

Layout and order are the thesis's. As in the thesis the best of a row is bold, in ours and in the
printed numbers. A dagger marks what was fine-tuned from weights of another data set than ImageNet.
"""

import html

import numpy as np
import pandas as pd

from nat_lib.report import tables
from nat_lib.report.tables import BLANK, Table, entry, grey, listed, number, paired
from nat_lib.results import chapter4
from nat_lib.results.changes import ALL
from nat_lib.results.chapter4 import EXIT_COLUMNS, SINGLE
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import (
    AEP_DATASETS,
    COMPARISONS,
    CONFIGS,
    MODES,
    NETWORKS,
    SCENARIOS,
    extended,
    name_of,
)

STARRED = tuple(f"{mode}*" for mode in MODES)
EXITS = ("exit 1", "exit 2", "exit 3", "exit 4")
COSTS = {"params": "parameters", "macs": "MACs", "latency": "latency"}
DAGGER = "\N{DAGGER}"
AGAINST = "against the single-exit baseline"

# number: (title, metric, rows, columns, what is best in a row).  Tables 4.3 and 4.4 are
# `table_by_cell`.
TABLES = {
    "4.5": (f"change of test top-1 (%) {AGAINST}", "aep.top1_change", "scenario", CONFIGS, "max"),
    "4.6": (
        "change of test top-1 (%) of pruned networks against their own full ensembles",
        "aep.pruned_gain",
        "scenario",
        STARRED,
        "max",
    ),
    "4.7": (
        f"change of the test top-1 (%) of single exits {AGAINST}, networks with four exits",
        "aep.exit_change",
        "scenario",
        EXITS,
        "max",
    ),
    **{
        f"4.{8 + i}": (
            f"change of {what} (%) {AGAINST}",
            f"aep.{cost}_change",
            "scenario",
            ("EE", *STARRED),
            "min",
        )
        for i, (cost, what) in enumerate(COSTS.items())
    },
    "4.11": (
        "change of test top-1 (%) from the second scenario to the first",
        "aep.scenario_change",
        "comparison",
        (SINGLE, *CONFIGS),
        "max",
    ),
}


def provenance(found):
    """Where numbers come from: profile, data sets, networks, seeds, sizes, first weights; a line of
    plain text.

    found : `chapter4.trainings`
    """
    if found.empty:
        return tables.provenance(found)
    early = found[found["mode"] != SINGLE]
    trained = [*(n for n in NETWORKS if n in set(early.network)), *early.network]
    parts = [
        f"networks: {listed(trained) or 'none'}",
        f"{len(found)} trainings",
        f"latency on {listed(found.latency_on)}",
    ]
    at_size = found.scenario.str.split("-").str[-1] == found.image_size.astype(str)
    if not at_size.all():
        odd = found[~at_size]
        sizes = zip(odd.scenario, odd.image_size, strict=True)
        parts.append(f"not at the thesis's size: {listed(f'{s} at {n} pixels' for s, n in sizes)}")
    if found.proxy.any():
        weights = listed(found.pretrained_on[found.proxy.astype(bool)])
        parts.append(f"{DAGGER} pre-trained on {weights} instead of ImageNet")
    waiting = int(chapter4.exit_accuracies(found).single.isna().sum())
    if waiting:
        parts.append(f"{waiting} early-exit runs without a finished baseline, so without a change")
    return tables.provenance(found, *parts)


# ----------------------------------------------------------------------------------------- averages


def table(values, number, note=""):
    """Table 4.5 to 4.11 beside the printed numbers: `Table`.

    values : `changes.values`;  number : key of TABLES;  note : plain text, see `provenance`
    """
    title, metric, rows, columns, better = TABLES[number]
    cells = values[values.metric == metric]
    cells = cells.assign(part="", row=cells[rows], column=cells.config.replace(ALL, "EE"))
    order = [("", name) for name in (COMPARISONS if rows == "comparison" else SCENARIOS)]
    if metric == "aep.exit_change":
        cells = cells.assign(part=cells.row, row=cells["mode"], column="exit " + cells.exit)
        order = [(scenario, mode) for scenario in SCENARIOS for mode in MODES]
    return _averages(cells, order, columns, better, f"<b>Table {number}</b>, {title}", note)


def table_by_cell(values, number, note=""):
    """Table 4.3 (from scratch) or 4.4 (fine-tuned): two scenarios, by network and by data set;
    `Table`."""
    start, title = {"4.3": ("TR", "trained from scratch"), "4.4": ("FT", "fine-tuned")}[number]
    average = values[values.metric == "aep.top1_change"].assign(row="Average")
    parts, order = [], []
    for scenario in [s for s in SCENARIOS if s.startswith(start)]:
        for by, names in (("network", NETWORKS), ("dataset", AEP_DATASETS)):
            rows = values[values.metric == f"aep.top1_change_by_{by}"]
            rows = pd.concat([rows.assign(row=rows[by]), average])
            part = f"{scenario}, by {by.replace('dataset', 'data set')}"
            parts.append(rows[rows.scenario == scenario].assign(part=part))
            found = [name for name in parts[-1].row if name != "Average"]
            order += [(part, name) for name in [*extended(names, found), "Average"]]
    cells = pd.concat(parts, ignore_index=True).assign(column=lambda c: c.config)
    title = f"<b>Table {number}</b>, change of test top-1 (%) {AGAINST}, {title}"
    return _averages(cells, order, CONFIGS, "max", title, note)


def _averages(cells, order, columns, better, title, note):
    """Averages, each with its part, row and column, as a table; better: "max" | "min"."""
    at = ["part", "row"]
    for name in ("ours", "printed"):
        best = cells.groupby(at)[name].transform(better)
        cells = cells.assign(**{f"best_{name}": cells[name] == best})
    proxies = set(cells[cells.proxy][at].itertuples(index=False, name=None))
    cells = cells.assign(entry=[_entry(c) for c in cells.itertuples()])
    there = set(cells[at].itertuples(index=False, name=None))
    order = [key for key in order if key in there]
    caption = (
        f"{title}; {grey('printed value below')}; bold: best of the row. "
        f"{_coverage(cells)} {html.escape(note)}"
    )
    made = paired(cells, at, ["column"], caption, columns, order)
    view = made.data
    names = [row + DAGGER * ((part, row) in proxies) for part, row in view.index]
    parts = [part for part, _ in view.index]
    view.index = pd.MultiIndex.from_arrays([parts, names]) if any(parts) else pd.Index(names)
    return made


def _entry(c):
    small = list(tables.of_seeds(c.seeds))
    if not c.whole and c.seeds > 0:
        small.append(f"{int(c.cells)}/{int(c.of)}")
    if not np.isnan(c.once):
        small.append(f"once each {c.once:.2f}")
    tip = [] if np.isnan(c.difference) else [f"{c.difference:+.3f}"]
    if not np.isnan(c.interval):
        tip.append(f"95 % interval {c.ours - c.interval:.2f} to {c.ours + c.interval:.2f}")
    if not np.isnan(c.ours):
        tip.append(_pairs(c))
    uncertainty = c.uncertainty if c.uncertainty > 0 else np.nan
    return entry(
        number(c.ours, uncertainty, 2 if c.noise else 3),
        number(c.printed, digits=3),
        verdict=c.verdict,
        tip="; ".join(tip),
        bold=c.best_ours,
        bold_printed=c.best_printed,
        small=small,
    )


def _pairs(c):
    counts = ((c.networks, "network"), (c.datasets, "data set"))
    return ", ".join(f"{n:.0f} {what}{'s' if n > 1 else ''}" for n, what in counts)


def _coverage(cells):
    """Over what the averages of a table are taken, and what its signs mean."""
    run = cells[cells.ours.notna()]
    if run.empty:
        return BLANK
    several = (run.seeds > 1).any()
    text = [
        f"Averages over {_pairs(run[['networks', 'datasets']].max())}",
        "&plusmn;: standard deviation over seeds (in brackets); hover for the 95 % interval of the "
        "mean"
        if several
        else "&plusmn;: noise of the average, one seed",
    ]
    if not run.whole.all():
        text.append("n/N: only n of N pairs of network and data set are finished")
    if run.once.notna().any():
        text.append("once each: mean that counts a baseline once, though several networks share it")
    return "; ".join(text) + "."


def table_recomputed(checks):
    """`recomputed.recomputed` in short: does our averaging give the printed averages?  `Table`."""
    rows = []
    for (table, source), part in checks.groupby(["table", "source"], sort=False):
        worst, tolerance = part.difference.abs().max(), part.tolerance.max()
        rows.append(
            {
                "table": table,
                "recomputed from": source,
                "averages": len(part),
                "largest difference": f"{worst:.4f}",
                "allowed": f"{tolerance:g}",
                "agrees": "yes" if worst < tolerance + 1e-9 else "no",
            }
        )
    title = "Our order of averaging on the thesis's own numbers"
    return tables.plain(pd.DataFrame(rows), title, index=False)


# -------------------------------------------------------------------------------------- single runs


def table_exits(exits, dataset=None, note=""):
    """Test top-1 (%) of every exit alone, of their ensemble and of the pruned network: `Table`.

    exits : `chapter4.exit_accuracies`, of which one data set is shown.  A row is the mean over
            seeds; bold is what every seed kept, and what each of them kept stands behind
    """
    rows = one_dataset(exits, dataset)
    title = (
        "<b>Exits</b>, test top-1 (%) of each exit alone, of all together, and of those that "
        "pruning kept (bold)"
    )
    if rows.empty:
        return tables.nothing(title)
    keys = ["network", "scenario", "mode"]
    groups = {key: part.sort_values("seed") for key, part in rows.groupby(keys)}
    lines = [(n, s, m) for n in NETWORKS for s in SCENARIOS for m in MODES]
    lines = [key for key in extended(lines, groups) if key in groups]
    view = pd.DataFrame(
        [_exits(groups[key]) for key in lines], index=pd.MultiIndex.from_tuples(lines)
    )
    caption = (
        f"{title}. {html.escape(name_of(rows.dataset.iloc[0]))}. Last columns: cost of the pruned "
        f"network against the baseline (%). {html.escape(note)}"
    )
    return Table(view.loc[:, (view != BLANK).any()], caption)


def _exits(part):
    """One row of `table_exits` from the runs of all seeds."""
    kept = set.intersection(*(set(subset.split()) for subset in part.subset))
    names = ["single", *EXIT_COLUMNS, "ensemble", "pruned", "params_change", "macs_change"]
    means = part[names].astype(float).mean()
    row = {"single exit": number(means.single) or tables.NO_RUN}
    for i, name in enumerate(EXIT_COLUMNS, 1):
        text = number(means[name]) or BLANK
        row[f"exit {i}"] = f"<b>{text}</b>" if str(i) in kept else text
    return row | {
        "all exits": number(means.ensemble) or BLANK,
        "pruned": number(means.pruned) or BLANK,
        "kept": html.escape(" / ".join(part.subset.str.replace(" ", "+"))),
        "parameters": number(means.params_change, digits=1, sign="+") or tables.NO_RUN,
        "MACs": number(means.macs_change, digits=1, sign="+") or tables.NO_RUN,
    }


def table_output_weights(rows, dataset=None, note=""):
    """Test top-1 (%) of the full ensembles with other output weights than those of their training:
    `Table`.

    rows : `chapter4.output_weights`, of which one data set is shown; the mean over seeds
    """
    rows = one_dataset(rows, dataset)
    title = (
        "<b>Output weights</b>, test top-1 (%) of the same exits with other votes; optimal: on the "
        "validation split"
    )
    if rows.empty:
        return tables.nothing(title)
    words = {"DESC": "decreasing", "ASC": "increasing", "UNIF": "uniform", "OPTIMAL": "optimal"}
    keys = ["network", "scenario", "mode"]
    named = rows.assign(votes=[words.get(votes, votes) for votes in rows.votes])
    named = named[named.votes.isin(words.values()) | ~rows.votes.isin(MODES)]
    view = named.pivot_table("test_top1", keys, "votes", "mean", sort=False)
    view = view[[*dict.fromkeys([*words.values(), *view.columns])]]
    view.loc[("Average", "", ""), :] = view.mean()
    best = rows[rows.votes == "OPTIMAL"].groupby(keys).weights.agg(" / ".join)
    text = view.map("{:.2f}".format).assign(**{"optimal weights, exit 1 first": best})
    text.index.names, text.columns.name = [None, None, None], None
    caption = f"{title}. {html.escape(name_of(rows.dataset.iloc[0]))}. {html.escape(note)}"
    return Table(text.fillna(BLANK), caption)
