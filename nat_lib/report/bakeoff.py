"""Figures of notebook 09: search strategies on exact tables."""

from itertools import cycle

import seaborn.objects as so
from matplotlib import colormaps

from nat_lib.report import panels
from nat_lib.report.style import GREY, palette, thesis_style
from nat_lib.search.strategies import STRATEGIES

NOTHING = "no strategy has run"


def _palette(rows):
    """{label: colour} of the strategies that occur, see `style.palette`."""
    return palette(rows.label, {row.label: row.colour for row in STRATEGIES.values()})


def _first(rows):
    """The rows of the first table without noise: what a figure of one panel shows."""
    return rows[(rows.table == rows.table.iloc[0]) & (rows.noise == rows.noise.min())]


@thesis_style
def anytime(rows, measure="hypervolume", name="share of the true hypervolume"):
    """What every strategy has found after so many evaluations, mean over seeds.

    rows : `results.bakeoff.anytime`
    """
    if rows.empty:
        return panels.empty(NOTHING)
    shown, colours = _first(rows), _palette(rows)
    looks = {"texts": ("networks evaluated", name), "marks": [panels.LINE], "log": True}
    return panels.coloured(shown, "evaluations", measure, "label", colours, **looks)


@thesis_style
def fronts(rows):
    """The true front of every table: validation and test top-1 against MACs.

    rows : `results.bakeoff.fronts`
    """
    if rows.empty:
        return panels.empty("no table")
    long = rows.melt(
        id_vars=["table", "macs"],
        value_vars=["val_top1", "test_top1"],
        var_name="split",
        value_name="top1",
    )
    long["split"] = long.split.map({"val_top1": "validation", "test_top1": "test"})
    long["named"] = long.table + ", " + long.split
    colours = dict(zip(dict.fromkeys(long.named), cycle(colormaps["tab10"].colors)))
    texts = "MACs (millions)", "top-1 (%)"
    return panels.coloured(long, "macs", "top1", "named", colours, texts, log=True)


@thesis_style
def critical_difference(rows):
    """Mean ranks of the strategies, and bars over those that the seeds cannot tell apart.

    rows : `results.bakeoff.ranks`
    """
    if rows.empty:
        return panels.empty("one strategy or one seed: no ranks")
    shown = _first(rows).sort_values("rank").reset_index(drop=True)
    colours, gap = _palette(shown), float(shown.critical.iloc[0])
    drawn = (
        panels.plot(shown, x="rank", y="label", color="label")
        .add(so.Dot(pointsize=6), legend=False)
        .scale(color=colours)
    )
    size = 6.4, 0.8 + 0.3 * len(shown)
    said = f"mean rank, 1 the best; bars join what a critical difference of {gap:.2f} cannot part"
    fig, ax = panels.single(drawn, size, said, "")
    for i, (low, high) in enumerate(cliques(shown["rank"].tolist(), gap)):
        ax.plot([low - 0.05, high + 0.05], [-0.6 - 0.25 * i] * 2, color=GREY, linewidth=2.5)
    fig.rows = shown
    return fig


def cliques(ranks, gap):
    """[(lowest, highest)] ranks of the longest runs, of ascending ranks, that span no more than a
    gap; none lies within another, none is of one rank."""
    found = []
    for i, low in enumerate(ranks):
        high = max(r for r in ranks[i:] if r - low <= gap)
        if high > low and not (found and found[-1][1] >= high):
            found.append((low, high))
    return found
