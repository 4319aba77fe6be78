"""Figures 6.7, 6.8, 6.9 and 6.11: the subnets that searches return, accuracy against cost."""

from itertools import product

import numpy as np
import pandas as pd
import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.panels import OF_ERRORS, OWN_ERRORS, line, marker, of_colours
from nat_lib.report.style import COLOURS, METHOD_MARKERS, in_order, palette, thesis_style
from nat_lib.results.names import (
    BY_THESIS,
    EXITS,
    MAIN,
    NOT_RUN,
    OBJECTIVES,
    OTHERS,
    PHASES,
    extended,
    name_of,
)
from nat_lib.results.printed import printed_value
from nat_lib.search.objectives import axis

DIAMOND = marker("printed in the thesis", "D", "white", mec="black")
PRINTED = "printed"  # the "post" of a printed point
BOTH_COSTS = OBJECTIVES[1:3]
PARALLEL = ("SE_P", "SE_DP", "EE_P", "EE_DP")
# group of the headline comparison: (phase, line style, in words)
BEST_PRINTED = {"baseline": (1, "--", "baseline"), "full": (4, ":", "full with AEP")}


def points_printed(datasets, supernets):
    """The most accurate subnets of phase 1 that the thesis prints with their second objective."""
    rows = []
    for dataset, objectives, supernet in product(datasets, OBJECTIVES, supernets):
        of = {"phase": 1, "objectives": objectives, "supernet": supernet}
        dims = of | {"dataset": name_of(dataset)}
        values = {
            "top1": printed_value("nat.best_top1", **dims),
            "second": printed_value("nat.second_of_best", **dims),
        }
        rows.append({"dataset": dataset} | of | {"post": PRINTED} | values)
    return pd.DataFrame(rows).dropna()


def datasets_of(frame, thesis):
    """Names of data sets: those of the thesis, then the ones that only we ran."""
    ours = [d for d in sorted(set(frame.dataset)) if name_of(d) not in (*MAIN, *OTHERS)]
    return extended([BY_THESIS[name] for name in thesis], ours)


def objectives_of(frame):
    """The four sets of the thesis, then others that were run."""
    return extended(OBJECTIVES, sorted(set(frame.objectives)))


def _fronts(versions, rows, columns, dataset=None, size=(2.7, 2.15), diamonds=tuple(COLOURS)):
    """Returned subnets, test top-1 against the second objective; a panel per row and column.

    Points of one run are joined. Panels of accuracy alone have a place per supernet.
    rows, columns : (column of `versions`, its values)
    dataset       : where all panels show the same one
    diamonds      : supernets whose printed subnets of phase 1 are shown
    returns       : figure, {(row, column): axes}
    """
    paper = points_printed([dataset] if dataset else BY_THESIS.values(), diamonds)
    for column, values in (rows, columns):
        paper = paper[paper[column].isin(values)]
    ours = panels.with_errors(versions, "top1")
    shown = pd.concat([_beside(ours), paper.assign(x=paper.second, low=np.nan, high=np.nan)])
    shown = shown.reset_index(drop=True).assign(at=range(len(shown)))
    shown = shown.astype(dict.fromkeys(("x", "top1", "low", "high"), float))
    shown["run"] = [
        f"{r.supernet} {r.phase} {r.post} {r.seed}" if r.post != PRINTED else f"{PRINTED} {r.at}"
        for r in shown.itertuples()
    ]
    shapes = {post: METHOD_MARKERS.get(post, "p") for post in dict.fromkeys(shown.post)}
    drawn = (
        panels.plot(shown, x="x", y="top1", color="supernet")
        .add(so.Line(linewidth=0.8), group="run", legend=False)
        .add(OWN_ERRORS, **OF_ERRORS)
        .add(so.Dot(edgecolor="w", edgewidth=0.5), marker="post", pointsize="post", legend=False)
        .scale(
            color=palette(shown.supernet),
            marker=shapes | {PRINTED: "D"},
            pointsize={post: 6.5 if post == PRINTED else 5 for post in shapes},
        )
    )
    y = True if dataset else "row"
    fig, axes = panels.grid(drawn, shown, rows, columns, size, "test top-1 (%)", y=y)
    for (row, column), ax in axes.items():
        objectives = {rows[0]: row, columns[0]: column}["objectives"]
        here = shown[(shown[rows[0]] == row) & (shown[columns[0]] == column)]
        for d in here[here.post == PRINTED].itertuples():
            ax.plot(d.x, d.top1, "D", ms=6, mfc="none", mec="black", mew=0.9, zorder=5)
        if objectives == "acc":
            names = in_order(here.supernet)
            turned = 45 if len(names) > 4 else 0
            ax.set_xticks(range(len(names)), names, rotation=turned)
            ax.set_xlim(-0.6, max(len(names), 2) - 0.4)
            ax.tick_params(labelbottom=True)
        else:
            panels.xlabel(ax, axis(objectives.split("+")[1]))
        ax.margins(y=0.1)
    if dataset:
        _same_x(axes)
    kept = [c for c in (*versions.columns, "uncertainty") if c in shown]
    fig.rows = shown[kept]
    return fig, axes


def _beside(versions):
    """The rows with their place on the x axis: accuracy alone has no cost, but a place for every
    supernet of its panel, and seeds side by side."""
    places = []
    for _, panel in versions.groupby(["dataset", "phase", "objectives"], sort=False):
        names, seeds = in_order(panel.supernet), sorted(set(panel.seed))
        middle = (len(seeds) - 1) / 2
        apart = 0.12 * (panel.seed.map(seeds.index) - middle)
        places.append(panel.supernet.map(names.index) + apart)
    place = pd.concat(places) if places else pd.Series(dtype=float)
    alone = versions.objectives == "acc"
    return versions.assign(x=versions.second.where(~alone, place))


def _same_x(axes):
    """One range of x for the panels of every row but those of accuracy alone."""
    for row in dict.fromkeys(row for row, _ in axes):
        group = [ax for (r, _), ax in axes.items() if r == row and row != "acc"]
        limits = np.array([ax.get_xlim() for ax in group])
        for ax in group:
            ax.set_xlim(limits[:, 0].min(), limits[:, 1].max())


@thesis_style
def fig_6_7(versions):
    """Figure 6.7: phase 1, all supernets; rows: data sets, columns: objectives.

    versions : `chapter6.versions`
    """
    here = versions[(versions.phase == 1) & (versions.post == "none")]
    rows = ("dataset", datasets_of(here, MAIN))
    fig, _ = _fronts(here, rows, ("objectives", objectives_of(here)))
    panels.legend(fig, *of_colours(palette([*here.supernet, "BASE", "EE_B"])), DIAMOND)
    return fig


@thesis_style
def fig_6_8(versions):
    """Figure 6.8: phase 1 on the other data sets, without parallel supernets."""
    here = versions[
        (versions.phase == 1) & (versions.post == "none") & ~versions.supernet.isin(PARALLEL)
    ]
    names = [BY_THESIS[name] for name in OTHERS]
    here = here[here.dataset.isin(names)]
    if here.empty:
        return panels.empty(f"Figure 6.8, phase 1 on the other data sets: {NOT_RUN}")
    fig, _ = _fronts(here, ("dataset", names), ("objectives", objectives_of(here)))
    panels.legend(fig, *of_colours(palette(here.supernet)))
    return fig


@thesis_style
def fig_6_9(versions, dataset="cifar100"):
    """Figure 6.9: the four phases on one data set, before post-processing; rows: objectives,
    columns: phases.

    Without parallel supernets, which the thesis gave up after phase 2.
    """
    here = versions[
        (versions.dataset == dataset)
        & (versions.post == "none")
        & ~versions.supernet.isin(PARALLEL)
    ]
    if here.empty:
        return panels.empty(f"Figure 6.9, phases on {name_of(dataset)}: {NOT_RUN}")
    rows = ("objectives", objectives_of(here))
    fig, _ = _fronts(here, rows, ("phase", extended(PHASES, sorted(set(here.phase)))), dataset)
    panels.legend(fig, *of_colours(palette(here.supernet)))
    return fig


@thesis_style
def fig_6_11(versions):
    """Figure 6.11: phase-1 baseline subnets against phase-4 EE_B and EE_D subnets with standard
    post-processing.

    Lines: the top-1 that the thesis prints for the best subnet of each group, the full one with
           AEP-based exits.
    """
    base = (versions.phase == 1) & (versions.supernet == "BASE") & (versions.post == "none")
    full = (versions.phase == 4) & versions.supernet.isin(EXITS) & (versions.post == "std")
    here = versions[(base | full) & versions.objectives.isin(BOTH_COSTS)]
    rows, columns = ("dataset", datasets_of(here, MAIN)), ("objectives", list(BOTH_COSTS))
    fig, axes = _fronts(here, rows, columns, size=(4.6, 2.3), diamonds=("BASE",))
    for (dataset, _), ax in axes.items():
        for group, (phase, style, _) in BEST_PRINTED.items():
            dims = {"dataset": name_of(dataset), "group": group, "phase": phase}
            top1 = printed_value("nat.headline_top1", **dims)
            if not np.isnan(top1):
                ax.axhline(top1, color="black", ls=style, lw=0.9, zorder=1)
                ax.autoscale(axis="y")
    lines = [line(f"printed best, {w}", "black", ls=s, lw=0.9) for _, s, w in BEST_PRINTED.values()]
    panels.legend(fig, *of_colours(palette(["BASE", *EXITS])), DIAMOND, *lines)
    return fig
