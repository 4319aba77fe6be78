"""Figures of notebook 08: ways to train a supernet at equal cost."""

import seaborn.objects as so
from matplotlib import colormaps

from nat_lib.arms import ARMS
from nat_lib.report import panels
from nat_lib.report.style import palette, thesis_style

NOTHING = "no arm is finished"
STRONG, PALE = colormaps["tab20"].colors[::2], colormaps["tab20"].colors[1::2]
COLOURS = dict(zip(ARMS, (*STRONG, *PALE) * 2, strict=False))


def _palette(rows):
    """{label: colour} of the arms that occur, see `style.palette`."""
    return palette(rows.label, {arm.label: COLOURS[name] for name, arm in ARMS.items()})


@thesis_style
def course(rows):
    """Hypervolume of the panel's open subnets against the cost of training so far, mean over
    seeds.

    rows : `results.strategies.course`
    """
    if rows.empty:
        return panels.empty(NOTHING)
    shown = rows.assign(look=rows.groupby(["arm", "seed"]).cumcount())
    means = shown.groupby(["arm", "label", "look"], sort=False)[["cost", "hypervolume"]]
    means = means.mean().reset_index()
    means["cost"] /= 1e12
    texts, marks = ("training (10^12 MACs)", "hypervolume"), (panels.POINT, panels.LINE)
    return panels.coloured(means, "cost", "hypervolume", "label", _palette(means), texts, marks)


@thesis_style
def panel(rows):
    """Test top-1 of every subnet of the panel against its MACs, mean over seeds.

    rows : `results.strategies.panels`
    """
    if rows.empty:
        return panels.empty(NOTHING)
    shown = rows.assign(macs=rows.macs / 1e6).sort_values("macs")
    texts = "MACs (millions)", "test top-1 (%)"
    return panels.coloured(shown, "macs", "test_top1", "label", _palette(shown), texts, log=True)


@thesis_style
def differences(rows, name, unit):
    """Every arm minus the reference, with its 95 % interval.

    rows : `results.strategies.differences`;  name, unit : of the measure
    """
    if rows.empty:
        return panels.empty("one arm: nothing to compare it with")
    drawn = (
        panels.plot(rows, x="difference", y="label", color="label")
        .add(so.Dot(pointsize=6), legend=False)
        .add(so.Range(), xmin="low", xmax="high", legend=False)
        .scale(color=_palette(rows))
    )
    size = 6.4, 0.6 + 0.32 * len(rows)
    fig, ax = panels.single(drawn, size, f"difference in {name} ({unit})", "")
    ax.axvline(0, color="#666666", linewidth=0.8)
    fig.rows = rows
    return fig
