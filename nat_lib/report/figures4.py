"""Figures of thesis chapter 4, made from the frames of `results.chapter4` and of nothing else."""

import pandas as pd
import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.panels import line, marker
from nat_lib.report.style import GREY, WEIGHT_MARKERS, palette, thesis_style
from nat_lib.report.tables4 import COSTS, DAGGER
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import MODES, NOT_RUN, SCENARIOS, extended

SCENARIO_COLOURS = {  # from scratch cool, fine-tuned warm
    "TR-224": "#33668F",
    "TR-64": "#66B2CC",
    "FT-224": "#B8451F",
    "FT-64": "#EBA53C",
}
MODE_COLOURS = {
    "DESC": "#33668F",
    "ASC": "#B8451F",
    "MIX": "#7A5195",
    "UNIF": "#4C9A6A",
    "SE": "#444444",
}
SOURCES = {"printed": "printed in the thesis", "ours": "ours"}


def _shapes(modes):
    """{mode: marker}; an unknown one gets a pentagon."""
    return {mode: WEIGHT_MARKERS.get(mode, "p") for mode in modes}


def _panels_of(rows):
    """The rows with the name of their panel, network and scenario."""
    return rows.assign(panel=rows.network + ", " + rows.scenario)


def _of_modes(modes):
    colours = palette(modes, MODE_COLOURS)
    return colours, [line(m, colours[m], marker=s, ms=4) for m, s in _shapes(colours).items()]


@thesis_style
def fig_subsets(subsets, dataset=None, cost="macs_tp"):
    """Accuracy on the validation split against cost of all subsets of exits; a panel per network
    and scenario.

    subsets : `chapter4.subsets`, of which one data set and the first seed are shown.  Lines: the
              exact Pareto front of every mode;  stars: what pruning chose
    """
    rows = one_dataset(subsets, dataset)
    if rows.empty:
        return panels.empty(f"Subsets of exits: {NOT_RUN}")
    rows = rows[rows.seed == rows.seed.min()]
    shown = _panels_of(rows).assign(cost=rows[cost] / 1e6)
    front, chosen = shown[shown[f"front_{cost}"]], shown[shown.chosen.astype(bool)]
    # a layer with data of its own names all that it takes from them
    stars = {"data": chosen, "x": "cost", "y": "val_top1", "color": "mode", "marker": None}
    colours, handles = _of_modes(rows["mode"])
    drawn = (
        panels.plot(shown, x="cost", y="val_top1", color="mode", marker="mode")
        .add(so.Dots(pointsize=3, alpha=0.35, stroke=0, fillalpha=0.35), legend=False)
        .add(so.Line(linewidth=1.1, pointsize=3, edgewidth=0), data=front, legend=False)
        .add(so.Dot(marker="*", pointsize=11, edgecolor="w"), **stars, legend=False)
        .scale(color=colours, marker=_shapes(colours))
    )
    names = list(dict.fromkeys(shown.panel))
    size, ylabel = (5.2, 2.6), "validation top-1 (%)"
    fig, axes = panels.wrapped(drawn, "panel", names, size, ylabel, x=False, y=False)
    for ax in axes.values():
        panels.xlabel(ax, "MACs (millions)" if cost.startswith("macs") else cost)
    panels.legend(fig, *handles, marker("chosen", "*"))
    fig.rows = rows
    return fig


@thesis_style
def fig_learning(curves, dataset=None):
    """Learning curves of the AEP study: top-1 of the whole ensemble after every epoch, a panel per
    network and scenario.

    curves : `chapter4.aep_curves`, of which one data set and the first seed are shown. Dashed: the
             training split;  stars: the epoch whose weights were kept, by validation
    """
    rows = one_dataset(curves, dataset)
    if rows.empty:
        return panels.empty(f"Learning curves of the early-exit networks: {NOT_RUN}")
    rows = rows[(rows.seed == rows.seed.min()) & (rows.exit == 0)]
    shown = _panels_of(rows)
    kept = shown[shown.is_best.astype(bool) & (shown.split == "val")]
    colours, _ = _of_modes(rows["mode"])
    drawn = (
        panels.plot(shown, x="epoch", y="top1", color="mode")
        .add(so.Line(linewidth=1.1), linestyle="split", legend=False)
        .add(so.Dot(marker="*", pointsize=9, edgecolor="w"), data=kept, legend=False)
        .scale(color=colours, linestyle={"val": "-", "train": "--"})
    )
    names = list(dict.fromkeys(shown.panel))
    fig, axes = panels.wrapped(drawn, "panel", names, (5.2, 2.4), "top-1 (%)", x=False, y=True)
    for ax in axes.values():
        panels.xlabel(ax, "epoch", whole=True)
    handles = [line(mode, colour) for mode, colour in colours.items()]
    splits = [line("validation"), line("training", ls="--"), marker("kept", "*")]
    panels.legend(fig, *handles, *splits)
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
    for cost, source in [(c, s) for c in COSTS for s in SOURCES]:
        rows = pruned[pruned.metric == f"aep.{cost}_change"]
        both = rows.merge(top1, on=keys, suffixes=("", "_top1"))
        own = source == "ours"  # printed points have no error
        parts.append(
            both[keys].assign(
                source=source,
                cost=cost,
                x=both[source],
                y=both[f"{source}_top1"],
                x_uncertainty=both.uncertainty if own else 0.0,
                y_uncertainty=both.uncertainty_top1 if own else 0.0,
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
    points = figure_points(values)
    ours = points[points.source == "ours"]
    share = len(ours) > 0 and bool(ours.comparable.all())
    error_x, error_y = points.x_uncertainty.fillna(0), points.y_uncertainty.fillna(0)
    shown = points.assign(
        at=range(len(points)),
        source=points.source.map(SOURCES),
        left=points.x - error_x,
        right=points.x + error_x,
        low=points.y - error_y,
        high=points.y + error_y,
    )
    colours = palette(extended(SCENARIOS, points.scenario), SCENARIO_COLOURS)
    shapes = _shapes(extended(MODES, points["mode"]))
    drawn = (
        panels.plot(shown, x="x", y="y", color="scenario")
        .add(so.Range(linewidth=0.7), ymin="low", ymax="high", group="at", legend=False)
        .add(
            so.Range(linewidth=0.7), xmin="left", xmax="right", group="at", orient="y", legend=False
        )
        .add(so.Dot(pointsize=6, edgecolor="w"), marker="mode", legend=False)
        .scale(color=colours, marker=shapes)
    )
    rows, columns = ("source", list(SOURCES.values())), ("cost", list(COSTS))
    sharing = {"x": "col" if share else False, "y": True if share else "row"}
    ylabel = "mean change of test top-1 (%)"
    fig, axes = panels.grid(drawn, shown, rows, columns, (3.5, 2.5), ylabel, **sharing)
    for (_, cost), ax in axes.items():
        for across in (ax.axvline, ax.axhline):
            across(0, color="#999999", lw=0.7, zorder=0)
        ax.set_title("", loc="center")
        panels.xlabel(ax, f"mean change of {COSTS[cost]} (%)")
    proxies = set(ours.scenario[ours.proxy.astype(bool)])
    scenarios = [marker(s + DAGGER * (s in proxies), "o", c) for s, c in colours.items()]
    panels.legend(fig, *scenarios, *(marker(f"{m}*", s, GREY) for m, s in shapes.items()))
    fig.rows = points
    return fig
