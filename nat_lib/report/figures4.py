"""Tables and the figure of thesis chapter 4, made from the frames of `results4` and from nothing
else.

Layout and order are the thesis's, ours stands above the printed value in grey; what was not run is
a dash. As in the thesis the best of a row is bold, in ours and in the printed numbers. A dagger
marks what was fine-tuned from weights of another data set than ImageNet.
"""

import html
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from nat_lib.exits import exit_weights
from nat_lib.report import figures5, tables
from nat_lib.report.figures6 import WEIGHT_MARKERS
from nat_lib.report.style import GREY, thesis_style
from nat_lib.report.tables import grey, styled
from nat_lib.results import chapter4
from nat_lib.results.changes import ALL
from nat_lib.results.chapter4 import EXIT_COLUMNS, FOUR, SINGLE
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import AEP_DATASETS as DATASETS
from nat_lib.results.names import (
    COMPARISONS,
    CONFIGS,
    MISSING,
    MODES,
    NETWORKS,
    NOT_RUN,
    SCENARIOS,
    name_of,
)
from nat_lib.results.printed import printed

STARRED = tuple(f"{mode}*" for mode in MODES)
EXITS = tuple(f"exit {i}" for i in range(1, FOUR + 1))
SCENARIO_COLOURS = dict(
    zip(SCENARIOS, ("#33668F", "#66B2CC", "#B8451F", "#EBA53C"), strict=True)
)  # TR cool, FT warm
MODE_COLOURS = dict(zip(MODES, ("#33668F", "#B8451F", "#7A5195", "#4C9A6A"), strict=True))
COSTS = {"params": "parameters", "macs": "MACs", "latency": "latency"}
PROXY = "&dagger;"
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
        number: (
            f"change of {what} (%) {AGAINST}",
            f"aep.{cost}_change",
            "scenario",
            ("EE", *STARRED),
            "min",
        )
        for number, (cost, what) in zip(("4.8", "4.9", "4.10"), COSTS.items(), strict=True)
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
    """One line on where numbers come from: profile, data sets, networks, seeds, sizes, first
    weights; HTML.

    found : `chapter4.trainings`
    """
    if found.empty:
        return f"No finished run: {NOT_RUN}."

    def listed(items):
        return ", ".join(str(x) for x in dict.fromkeys(items))

    early = found[found["mode"] != SINGLE]
    trained = dict.fromkeys([*(n for n in NETWORKS if n in set(early.network)), *early.network])
    pixels = found[
        found.scenario.str.split("-").str[-1] != found.image_size.astype(str)
    ].drop_duplicates("scenario")
    parts = [
        f"Profile: {listed(found.profile)}",
        f"data set: {listed(found.dataset.map(name_of))}",
        f"networks: {listed(trained) or MISSING}",
        f"seeds: {listed(sorted(set(found.seed)))}",
        f"{len(found)} trainings",
        f"{listed(sorted(set(found.n_test)))} test images",
        f"latency on {listed(found.latency_on)}",
    ]
    if len(pixels):
        parts.append(
            "not at the thesis's size: "
            + listed(
                f"{s} at {n} pixels"
                for s, n in zip(pixels.scenario, pixels.image_size, strict=True)
            )
        )
    if found.proxy.any():
        parts.append(
            f"\N{DAGGER} pre-trained on {listed(found.pretrained_on[found.proxy])} instead of ImageNet"
        )
    waiting = int(chapter4.exit_accuracies(found).single.isna().sum())
    if waiting:
        parts.append(f"{waiting} early-exit runs without a finished baseline, so without a change")
    return html.escape("; ".join(parts) + ".")


# ----------------------------------------------------------------------------------------- averages


def table_4_2():
    """Table 4.2 from the formulas of the exit weights: (ours, printed) as text, for
    `report.side_by_side`."""

    def direction(weights):
        steps = set(np.sign(np.diff(weights)))
        return {(1.0,): "increasing", (-1.0,): "decreasing", (0.0,): "uniform"}[tuple(steps)]

    paper = printed("table_4_2")
    rows = [[mode, *map(direction, exit_weights(mode, FOUR))] for mode in paper["mode"]]
    return pd.DataFrame(rows, columns=paper.columns), paper


def table(values, number, caption=""):
    """Table 4.5 to 4.11 beside the printed numbers: pandas Styler.

    values  : `results4.values`;  number : key of TABLES;  caption : HTML, see `provenance`
    """
    title, metric, rows, columns, better = TABLES[number]
    cells = values[values.metric == metric]
    cells = cells.assign(part="", row=cells[rows], column=cells.config.replace(ALL, "EE"))
    parts, names = ("",), COMPARISONS if rows == "comparison" else SCENARIOS
    if metric == "aep.exit_change":
        cells, parts, names = (
            cells.assign(part=cells.row, row=cells["mode"], column="exit " + cells.exit),
            names,
            MODES,
        )
    return _table(cells, parts, names, columns, better, number, title, caption)


def table_by_cell(values, number, caption=""):
    """Table 4.3 (from scratch) or 4.4 (fine-tuned): two scenarios, by network and by data set;
    pandas Styler."""
    start = {"4.3": "TR", "4.4": "FT"}[number]
    scenarios = [s for s in SCENARIOS if s.startswith(start)]
    cells = values[values.scenario.isin(scenarios)]
    by = {
        "network": cells[cells.metric == "aep.top1_change_by_network"],
        "dataset": cells[cells.metric == "aep.top1_change_by_dataset"],
    }
    average = cells[cells.metric == "aep.top1_change"].assign(row="Average")
    parts = [
        part.assign(part=part.scenario + f", by {name.replace('dataset', 'data set')}")
        for name, rows in by.items()
        for part in (rows.assign(row=rows[name]), average)
    ]
    cells = pd.concat(parts, ignore_index=True).assign(column=lambda c: c.config)
    blocks = [f"{s}, by {name}" for s in scenarios for name in ("network", "data set")]
    rows = [*dict.fromkeys([*NETWORKS, *DATASETS, *cells.row[cells.row != "Average"]]), "Average"]
    title = {"4.3": "trained from scratch", "4.4": "fine-tuned"}[number]
    return _table(
        cells,
        blocks,
        rows,
        CONFIGS,
        "max",
        number,
        f"change of test top-1 (%) {AGAINST}, {title}",
        caption,
    )


def _table(cells, parts, rows, columns, better, number, title, caption):
    """Cells, each with its part, row and column, as a table in this order; better: "max" |
    "min"."""
    index = ["part", "row"]
    for name in ("ours", "printed"):
        best = cells.groupby(index)[name].transform(better)
        cells = cells.assign(**{f"best_{name}": cells[name] == best})
    view = cells.assign(cell=[_cell_html(c) for c in cells.itertuples()]).pivot(
        index=index, columns="column", values="cell"
    )
    order, proxies = [at for at in product(parts, rows) if at in view.index], cells[cells.proxy]
    marked = set(zip(proxies.part, proxies.row, strict=True))
    names = [row + (PROXY if (part, row) in marked else "") for part, row in order]
    view = view.loc[order, list(columns)].fillna(MISSING)
    view.index = (
        names
        if len(parts) == 1
        else pd.MultiIndex.from_arrays([[part for part, _ in order], names])
    )
    view.columns.name = None
    return styled(
        view,
        f"<b>Table {number}</b>, {title}; {grey('printed value below')}; bold: best of the row. "
        f"{_coverage(cells)} {caption}",
    )


def _cell_html(c):
    paper = f"{c.printed:.3f}"
    paper = (
        "" if np.isnan(c.printed) else "<br>" + grey(f"<b>{paper}</b>" if c.best_printed else paper)
    )
    if np.isnan(c.ours):
        return MISSING + paper
    spread = f"&plusmn;{c.uncertainty:.2f}" if c.uncertainty > 0 else ""
    small = (
        ([f"({int(c.seeds)})"] if c.seeds > 1 else [])
        + ([] if c.whole else [f"{int(c.cells)}/{int(c.of)}"])
        + ([] if np.isnan(c.once) else [f"once each {c.once:.2f}"])
    )
    colour, weight = (
        tables.CELL_COLOUR.get(c.verdict, "inherit"),
        "bold" if c.best_ours else "normal",
    )
    difference = "" if np.isnan(c.difference) else f", {c.difference:+.3f}"
    if not np.isnan(c.interval):
        difference += f"; 95 % interval {c.ours - c.interval:.2f} to {c.ours + c.interval:.2f}"
    return (
        f'<span style="color:{colour}; font-weight:{weight}" title="{c.verdict}{difference}; {_pairs(c)}">'
        f"{c.ours:.{2 if c.noise else 3}f}</span>{spread}"
        + (f" <small>{', '.join(small)}</small>" if small else "")
        + paper
    )


def _pairs(c):
    return ", ".join(
        f"{n:.0f} {what}{'s' if n > 1 else ''}"
        for n, what in ((c.networks, "network"), (c.datasets, "data set"))
    )


def _coverage(cells):
    """Over what the averages of a table are taken, and what its signs mean."""
    run = cells[cells.ours.notna()]
    if run.empty:
        return ""
    several = (run.seeds > 1).any()
    spread = (
        "standard deviation over seeds (in brackets)"
        if several
        else "noise of the average, one seed"
    )
    text = [
        f"Averages over {_pairs(run[['networks', 'datasets']].max())}",
        f"&plusmn;: {spread}" + ("; hover for the 95 % interval of the mean" if several else ""),
    ]
    if not run.whole.all():
        text.append("n/N: only n of N pairs of network and data set are finished")
    if run.once.notna().any():
        text.append("once each: mean that counts a baseline once, though several networks share it")
    return "; ".join(text) + "."


def table_recomputed(checks):
    """`results4.recomputed` in short: does our averaging give the printed averages?  pandas
    Styler."""
    rows = []
    for (number, source), part in checks.groupby(["table", "source"], sort=False):
        worst, tolerance = part.difference.abs().max(), part.tolerance.max()
        rows.append(
            {
                "table": number,
                "recomputed from": source,
                "averages": len(part),
                "largest difference": f"{worst:.4f}",
                "allowed": f"{tolerance:g}",
                "agrees": "yes" if worst < tolerance + 1e-9 else "no",
            }
        )
    return styled(
        pd.DataFrame(rows), "<b>Our order of averaging on the thesis's own numbers</b>"
    ).hide(axis="index")


# -------------------------------------------------------------------------------------- single runs


def table_exits(exits, dataset=None, caption=""):
    """Test top-1 (%) of every exit alone, of their ensemble and of the pruned network: pandas
    Styler.

    exits : `results4.exit_accuracies`, of which one data set is shown.  A row is the mean over
            seeds; bold is what every seed kept, and what each of them kept stands behind
    """
    rows = one_dataset(exits, dataset)
    title = "<b>Exits</b>, test top-1 (%) of each exit alone, of all together, and of those that pruning kept (bold)"
    if rows.empty:
        return styled(pd.DataFrame({"": [NOT_RUN]}), title).hide(axis="index")
    lines = [
        (network, scenario, mode)
        for network in NETWORKS
        for scenario in SCENARIOS
        for mode in MODES
    ]
    groups = {
        key: part.sort_values("seed") for key, part in rows.groupby(["network", "scenario", "mode"])
    }
    lines = [key for key in (*lines, *groups) if key in groups]
    view = pd.DataFrame(
        [_exits_html(groups[key]) for key in dict.fromkeys(lines)],
        index=pd.MultiIndex.from_tuples(dict.fromkeys(lines)),
    )
    view = view.loc[:, (view != "").any()]
    return styled(
        view,
        f"{title}. {html.escape(name_of(rows.dataset.iloc[0]))}. Last columns: cost of the pruned "
        f"network against the baseline (%). {caption}",
    )


def table_output_weights(rows, dataset=None, caption=""):
    """Test top-1 (%) of the full ensembles with other output weights than those of their training:
    pandas Styler.

    rows : `results4.output_weights`, of which one data set is shown; the mean over seeds
    """
    rows = one_dataset(rows, dataset)
    title = "<b>Output weights</b>, test top-1 (%) of the same exits with other votes; optimal: on the validation split"
    if rows.empty:
        return styled(pd.DataFrame({"": [NOT_RUN]}), title).hide(axis="index")
    names = {"DESC": "decreasing", "ASC": "increasing", "UNIF": "uniform", "OPTIMAL": "optimal"}
    view = (
        rows[rows.votes.isin(names)]
        .pivot_table("test_top1", ["network", "scenario", "mode"], "votes", "mean", sort=False)[
            list(names)
        ]
        .rename(columns=names)
    )
    view.loc[("Average", "", ""), :] = view.mean()
    view.index.names = [None, None, "trained with"]
    view.columns.name = None
    best = (
        rows[rows.votes == "OPTIMAL"]
        .groupby(["network", "scenario", "mode"])
        .weights.agg(" / ".join)
    )
    text = view.map(lambda value: f"{value:.2f}").assign(**{"optimal weights, exit 1 first": best})
    return styled(
        text.fillna(""), f"{title}. {html.escape(name_of(rows.dataset.iloc[0]))}. {caption}"
    )


def _exits_html(part):
    """One row of `table_exits` from the runs of all seeds."""
    kept = set.intersection(*(set(subset.split()) for subset in part.subset))
    means = (
        part[["single", *EXIT_COLUMNS, "ensemble", "pruned", "params_change", "macs_change"]]
        .astype(float)
        .mean()
    )
    row = {"single exit": _number(means.single, MISSING)}
    for i, name in enumerate(EXIT_COLUMNS, 1):
        row[f"exit {i}"] = (
            f"<b>{_number(means[name])}</b>" if str(i) in kept else _number(means[name])
        )
    return row | {
        "all exits": _number(means.ensemble),
        "pruned": _number(means.pruned),
        "kept": " / ".join(part.subset.str.replace(" ", "+")),
        "parameters": _number(means.params_change, MISSING, "+.1f"),
        "MACs": _number(means.macs_change, MISSING, "+.1f"),
    }


def _number(value, otherwise="", form=".2f"):
    return otherwise if np.isnan(value) else f"{value:{form}}"


# ------------------------------------------------------------------------------------------ figures


@thesis_style
def fig_subsets(subsets, dataset=None, cost="macs_tp"):
    """Accuracy on the validation split against cost of all subsets of exits; a panel per network
    and scenario.

    subsets : `results4.subsets`, of which one data set and the first seed are shown.  Lines: the
              exact Pareto front of every mode;  stars: what pruning chose
    """
    rows = one_dataset(subsets, dataset)
    if rows.empty:
        return figures5.empty_panel(f"Subsets of exits: {NOT_RUN}")
    rows = rows[rows.seed == rows.seed.min()]
    panels = list(rows.groupby(["network", "scenario"], sort=False))
    fig, axes = figures5.panel_grid(len(panels), 2, (5.2, 2.6))
    for ax, ((network, scenario), part) in zip(axes, panels, strict=True):
        for mode, own in part.groupby("mode"):
            look = {"color": MODE_COLOURS[mode], "marker": WEIGHT_MARKERS[mode]}
            ax.plot(own[cost] / 1e6, own.val_top1, ls="", ms=3, alpha=0.35, mew=0, **look)
            line = own[own[f"front_{cost}"]].sort_values(cost)
            ax.plot(line[cost] / 1e6, line.val_top1, lw=1.1, ms=3, mew=0, **look)
            ax.plot(
                own[cost][own.chosen] / 1e6,
                own.val_top1[own.chosen],
                "*",
                ms=11,
                mec="white",
                mew=0.7,
                color=MODE_COLOURS[mode],
                zorder=5,
            )
        ax.set_title(f"{network}, {scenario}")
        ax.set_xlabel("MACs (millions)" if cost.startswith("macs") else cost)
    for ax in axes[::2]:
        ax.set_ylabel("validation top-1 (%)")
    fig.legend(
        handles=[
            *(
                Line2D([], [], color=MODE_COLOURS[m], marker=WEIGHT_MARKERS[m], ms=4, label=m)
                for m in MODES
            ),
            Line2D([], [], ls="", marker="*", ms=9, color=GREY, label="chosen"),
        ],
        loc="outside upper center",
        ncols=5,
    )
    fig.rows = rows
    return fig


def figure_points(values):
    """The points of Figure 4.2: pruned networks, mean change of top-1 (`y`) against that of a cost
    (`x`), tidy.

    returns : DataFrame source ("printed" | "ours"), cost, scenario, mode, x, x_uncertainty, y,
              y_uncertainty, comparable, proxy; points that were not run are left out
    """
    pruned = values[(values.pruned == "1") & (values.exit == "")]
    top1, keys, parts = pruned[pruned.metric == "aep.top1_change"], ["scenario", "mode"], []
    for cost in COSTS:
        both = pruned[pruned.metric == f"aep.{cost}_change"].merge(
            top1, on=keys, suffixes=("", "_top1")
        )
        for source, column in (("printed", "printed"), ("ours", "ours")):
            parts.append(
                both[keys].assign(
                    source=source,
                    cost=cost,
                    x=both[column],
                    y=both[f"{column}_top1"],
                    x_uncertainty=both.uncertainty if source == "ours" else 0.0,
                    y_uncertainty=both.uncertainty_top1 if source == "ours" else 0.0,
                    comparable=both.comparable & both.comparable_top1,
                    proxy=both.proxy,
                )
            )
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows.x.notna() & rows.y.notna()].reset_index(drop=True)


@thesis_style
def fig_4_2(values):
    """Figure 4.2: pruned networks, accuracy against cost; a column per cost, the printed tables
    above, ours below.

    The top left corner is the best one. Both rows share their axes where ours are comparable with
    the thesis's.
    """
    points, sources = figure_points(values), {"printed": "printed in the thesis", "ours": "ours"}
    ours = points[points.source == "ours"]
    share = len(ours) > 0 and bool(ours.comparable.all())
    fig, axes = figures5.panel_grid(
        6, 3, (3.5, 2.5), sharex="col" if share else False, sharey=True if share else "row"
    )
    for ax, (source, cost) in zip(axes, product(sources, COSTS), strict=True):
        here = points[(points.source == source) & (points.cost == cost)]
        for p in here.itertuples():
            ax.errorbar(
                p.x,
                p.y,
                np.nan_to_num(p.y_uncertainty),
                np.nan_to_num(p.x_uncertainty),
                ls="",
                ms=6,
                marker=WEIGHT_MARKERS[p.mode],
                color=SCENARIO_COLOURS[p.scenario],
                mec="white",
                mew=0.5,
                elinewidth=0.7,
            )
        if here.empty:
            ax.text(0.5, 0.5, NOT_RUN, transform=ax.transAxes, ha="center", va="center", color=GREY)
        for line in (ax.axvline, ax.axhline):
            line(0, color="#999999", lw=0.7, zorder=0)
        ax.margins(0.08)
        if source == "ours" or not share:
            ax.set_xlabel(f"mean change of {COSTS[cost]} (%)", labelpad=1)
    for ax, title in zip(axes[::3], sources.values(), strict=True):
        ax.set_title(title)
        ax.set_ylabel("mean change of test top-1 (%)")
    proxies = set(ours.scenario[ours.proxy])
    fig.legend(
        handles=[
            *(
                Line2D(
                    [],
                    [],
                    ls="",
                    marker="o",
                    ms=6,
                    color=colour,
                    label=s + "\N{DAGGER}" * (s in proxies),
                )
                for s, colour in SCENARIO_COLOURS.items()
            ),
            *(
                Line2D(
                    [], [], ls="", marker=WEIGHT_MARKERS[mode], ms=6, color=GREY, label=f"{mode}*"
                )
                for mode in MODES
            ),
        ],
        loc="outside upper center",
        ncols=8,
    )
    fig.rows = points
    return fig
