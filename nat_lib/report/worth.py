"""The figure of notebook 10: a search beside what a person would do instead."""

import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.style import GREY, colour_of, thesis_style
from nat_lib.studies.budgets import BUDGETS

SHAPES = {"search": "o", "random": "x", "uniform": "^", "baseline": "s"}
SIZES = {"search": 4, "random": 4, "uniform": 5.5, "baseline": 8}
GREYS = {"uniform": GREY, "random": "#b0b0b0"}
SQUARES = ("#222222", "#b5651d", "#7b3294", "#1b7837", "#c51b7d")  # of baselines, in order


@thesis_style
def front(points):
    """Test top-1 against MACs, one panel per search: its subnets as dots, joined; hand-made
    networks as squares, uniform subnets as triangles, a random search's as crosses.

    points : `results.worth.points`.  Error bars are the standard error of the test split
    """
    if points.empty:
        return panels.empty("no search with MACs as an objective")
    shown = panels.with_errors(points.assign(macs=points.macs / 1e6), "test_top1")
    shown = shown.sort_values(["search", "kind", "macs"]).reset_index(drop=True)
    shown["drawn"] = _names(shown)
    colours = _colours(shown)
    joined = shown.assign(run=shown.kind.where(shown.kind != "baseline", shown.index.astype(str)))
    drawn = (
        panels.plot(joined, x="macs", y="test_top1", color="drawn")
        .add(so.Line(linewidth=0.8), group="run", legend=False)
        .add(panels.OWN_ERRORS, **panels.OF_ERRORS)
        .add(so.Dot(edgecolor="w", edgewidth=0.5), marker="kind", pointsize="kind", legend=False)
        .scale(color=colours, marker=SHAPES, pointsize=SIZES, x="log")
    )
    names = list(dict.fromkeys(shown.search))
    fig, axes = panels.wrapped(drawn, "search", names, (4.6, 3.2), "test top-1 (%)")
    for ax in axes.values():
        panels.xlabel(ax, "MACs (millions)")
        panels.log_ticks(ax)
    kinds = dict(zip(shown.drawn, shown.kind, strict=True))
    panels.legend(fig, *(panels.marker(n, SHAPES[kinds[n]], c) for n, c in colours.items()))
    fig.rows = shown[[*points.columns, "uncertainty"]]
    return fig


def _names(shown):
    """What a point is, as the legend says it; budgets where there are several."""
    kinds = set(shown.budget) - {""}
    words = shown.budget.map(lambda kind: f", {BUDGETS[kind].words}" if kind in kinds else "")
    return shown.label + words if len(kinds) > 1 else shown.label


def _colours(shown):
    """{name: colour}: a supernet its own, what was not searched a grey, baselines a colour each."""
    found, left = {}, iter(SQUARES * 9)
    for name, kind in dict(zip(shown.drawn, shown.kind, strict=True)).items():
        found[name] = (GREYS | {"search": colour_of(name)}).get(kind) or next(left)
    return found
