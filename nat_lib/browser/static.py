"""The browser's figure without anybody to click: the same colours, markers and dashes."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nat_lib.browser.picking import ordered_front
from nat_lib.browser.printed import on_axes, printed
from nat_lib.browser.table import RESULTS, TOP1, axes
from nat_lib.report.figures6 import fronts
from nat_lib.report.style import GREY, colour_of, in_order, thesis_style
from nat_lib.results.chapter6 import SEARCH
from nat_lib.results.stats import single_run_noise
from nat_lib.search.strategies import DEFAULT, STRATEGIES

KINDS = {  # of points: how matplotlib draws them
    "dominated": {"marker": "x", "s": 11, "linewidths": 0.7, "alpha": 0.55},
    "front": {"marker": "o", "s": 24, "linewidths": 0.5, "edgecolors": "white", "zorder": 3},
    "knee": {"marker": "*", "s": 95, "linewidths": 0.6, "edgecolors": "black", "zorder": 4},
}
FRONT_COLUMNS = [
    *("supernet", "phase", "objectives", "seed", "resolution", "width", "exit", "val_top1"),
    *("val_noise", "test_top1", "test_noise", "params", "macs", "latency", "latency_from"),
    *("contribution", "knee", "code"),
]


class Line(NamedTuple):
    """How the front of a search is joined: a dash per version of NAT, for matplotlib and plotly.

    colour : None: that of the supernet
    """

    label: str
    dash: str | tuple
    plotly: str
    colour: str | None = None


LINES = {
    1: Line("phase 1", ":", "dot"),
    2: Line("phase 2", "-.", "dashdot"),
    3: Line("phase 3", "--", "dash"),
    4: Line("phase 4", "-", "solid"),
}


def line_of(strategy: str, phase: int) -> Line:
    """The line of a search; one that no table knows is grey."""
    if strategy in STRATEGIES and strategy != DEFAULT:
        row = STRATEGIES[strategy]
        return Line(f"{row.label}, phase {phase}", (0, (8, 3)), "longdash", row.colour)
    if strategy == DEFAULT and phase in LINES:
        return LINES[phase]
    label = f"phase {phase}" if strategy == DEFAULT else f"{strategy}, phase {phase}"
    return Line(label, (0, (8, 3, 1, 3)), "longdashdot", GREY)


def lines_of(rows: pd.DataFrame) -> dict[tuple[str, int], Line]:
    """{(strategy, phase): line} of the searches among the rows, in order."""
    pairs = sorted(set(zip(rows.strategy, rows.phase, strict=True)))
    return {pair: line_of(*pair) for pair in pairs}


def kind_of(rows: pd.DataFrame) -> np.ndarray:
    """(n,) keys of `KINDS`."""
    return np.select([rows.knee > 0, rows.front], ["knee", "front"], "dominated")


def scale(rows: pd.DataFrame, axis: str) -> str:
    """ "log" for a cost that spans more than a factor of ten, else "linear"."""
    least, most = rows[axis].min(), rows[axis].max()
    is_cost = axis not in RESULTS and axis != "contribution"
    return "log" if is_cost and most > 10 * least > 0 else "linear"


def log_ticks(least: float, most: float) -> list[float]:
    """1, 2, 5, 10, ... between two positive numbers."""
    tens = range(int(np.floor(np.log10(least))), int(np.ceil(np.log10(most))) + 1)
    every = (digit * 10.0**ten for ten in tens for digit in (1, 2, 5))
    return [v for v in every if least <= v <= most]


@thesis_style
def figure(
    rows: pd.DataFrame,
    x: str,
    y: str,
    paper: pd.DataFrame | None = None,
    marked: pd.Series | None = None,
    made: pd.DataFrame | None = None,
) -> Figure:
    """Chosen rows of `table.load` on two axes: dominated subnets, fronts (joined) and knees.

    paper : of `printed`, drawn as diamonds and lines;  marked : a row to put a ring around
    made  : baselines on these axes (`handmade.on_axes`), drawn as squares
    """
    fig, ax = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    colours, kinds = rows.supernet.map(colour_of), kind_of(rows)
    for kind, style in KINDS.items():
        here = rows.index[kinds == kind]
        ax.scatter(rows[x][here], rows[y][here], c=colours[here], **style)
    for _, front in ordered_front(rows, x).groupby("search", sort=False):
        first = front.iloc[0]
        line = line_of(first.strategy, first.phase)
        colour = line.colour or colour_of(first.supernet)
        ax.plot(front[x], front[y], color=colour, lw=1, ls=line.dash, zorder=2)
    if marked is not None:
        ax.scatter(marked[x], marked[y], s=330, fc="none", ec="black", lw=1.3, zorder=5)
    points, groups = on_axes(printed("") if paper is None else paper, x, y)
    diamonds = {"marker": "D", "s": 34, "ec": "black", "lw": 0.9, "zorder": 5}
    ax.scatter(points.x, points.y, c=points.supernet.map(colour_of), **diamonds)
    for group in groups.itertuples():
        ax.axhline(group.top1, color="black", lw=0.8, ls="--" if "baseline" in group.label else ":")
    for square in () if made is None else made.itertuples():
        ax.scatter(square.x, square.y, marker="s", s=46, c="black", zorder=4)
        ax.annotate(square.label, (square.x, square.y), (6, -3), textcoords="offset points", size=7)
    labels = axes(rows)
    ax.set(xlabel=labels[x], ylabel=labels[y], xscale=scale(rows, x), yscale=scale(rows, y))
    for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
        if scale(rows, name) == "log":
            ticks = log_ticks(rows[name].min(), rows[name].max())
            axis.set_ticks(ticks, [f"{v:g}" for v in ticks])
            axis.set_ticks([], minor=True)
    ax.grid(True, axis="both")
    handles = _legend(rows, marked is not None, len(points) > 0, len(groups) > 0)
    if made is not None and len(made):
        handles.append(Line2D([], [], marker="s", color="black", ls="", label="made by hand"))
    fig.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 10),
        columnspacing=1.1,
        handletextpad=0.4,
    )
    fig.rows = rows.drop(columns=["folder", "search"])
    return fig


def _legend(rows, marked, points, groups):
    def sign(marker, label, colour=GREY, **style):
        return Line2D([], [], marker=marker, label=label, color=colour, ls="", **style)

    handles = [sign("s", name, colour_of(name)) for name in in_order(rows.supernet)]
    for line in lines_of(rows).values():
        colour = line.colour or GREY
        handles.append(Line2D([], [], color=colour, lw=1.1, ls=line.dash, label=line.label))
    handles += [
        sign("x", "dominated", ms=4),
        sign("o", "front", ms=5, mec="white"),
        sign("*", "high trade-off", ms=10, mec="black", mew=0.6),
    ]
    if marked:
        handles.append(sign("o", "recommended", ms=12, mfc="none", mec="black"))
    if points:
        handles.append(fronts.DIAMOND)
    if groups:
        handles.append(Line2D([], [], color="black", lw=0.8, ls="--", label="printed best"))
    return handles


def front_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The front rows as a plain table, by search and then from the cheapest: what stands below the
    figure."""
    line = rows[rows.front].sort_values([*SEARCH, "val_top1"], kind="stable")
    for top1 in TOP1:
        split = top1.removesuffix("_top1")
        pairs = zip(line[top1], line[f"n_{split}"], strict=True)
        line[f"{split}_noise"] = [single_run_noise(value, n) for value, n in pairs]
    return line.reset_index(drop=True)[FRONT_COLUMNS]
