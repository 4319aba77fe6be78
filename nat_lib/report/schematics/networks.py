"""Whole supernets: stem, stages and exits."""

from math import prod

import pandas as pd

from nat_lib import cost
from nat_lib.arch import Space
from nat_lib.plans import NETWORKS
from nat_lib.report.schematics.canvas import arrow, box, canvas
from nat_lib.report.shapes import EXIT, STEM
from nat_lib.report.style import GREY, colour_of, thesis_style


@thesis_style
def draw_supernet(space, width=1.0, n_classes=200):
    """The maximal network of a supernet: stem, stages and every exit, with channels, strides and
    sizes."""
    fig, ax = canvas(17.4, 5.0)
    fig.rows = _network(ax, space, 2.0, width, n_classes)
    ax.set_title(f"{space.thesis_name} at width {width}: all choices at their maximum")
    return fig


@thesis_style
def draw_networks(names=("SE_D", "EE_D"), width=1.0):
    """Single-exit above early-exit layout (thesis Figure 5.2)."""
    fig, ax = canvas(17.4, 5.0 * len(names))
    rows = []
    for i, name in enumerate(names):
        y = 2.0 + 5.0 * (len(names) - 1 - i)
        rows.append(_network(ax, Space(name), y, width, 200).assign(supernet=name))
        ax.text(
            0.2,
            y + 2.4,
            f"{name}: {NETWORKS[name].thesis_name}",
            fontsize=9,
            fontweight="bold",
            color=colour_of(name),
        )
    fig.rows = pd.concat(rows, ignore_index=True)
    return fig


def _network(ax, space, y, width, n_classes):
    """Stem, stages and exits in a row; returns what was drawn as rows."""
    layout, rows = space.layout(width), []
    layers = cost.layers(space.arch(width=width), space, n_classes, exits="all")
    box(ax, 1.1, y, 1.5, 1.1, f"stem\n{layout.head.out} ch, /{prod(layout.head.strides)}", STEM)
    for s, stage in enumerate(layout.stages):
        x, here = 3.7 + 2.9 * s, layers[layers.stage == s + 1]
        size = here["size"][here.block > 0].iloc[-1]
        arrow(ax, (x - 1.85, y), (x - 1.05, y))
        box(
            ax,
            x,
            y,
            2.1,
            1.3,
            f"S{s + 1}: {space.slots} {'levels' if space.parallel else 'blocks'}\n"
            f"{stage.c_out} ch, /{stage.stride}, {size} px\n{stage.act.replace('_', '-')}"
            + ", gate"
            * bool(stage.gate),
            colour_of(space.name) + "33",
            size=6.5,
        )
        if stage.tail:
            rest = " → ".join(map(str, (*stage.tail.widths[1:], n_classes)))
            arrow(ax, (x, y + 0.65), (x, y + 1.05))
            box(
                ax,
                x,
                y + 1.4,
                2.1,
                0.65,
                f"exit {s + 1}: {stage.tail.widths[0]}\n→ {rest}",
                EXIT,
                size=6.5,
            )
        cells = here[["params", "macs"]].groupby(here.block > 0).sum()
        ax.text(
            x,
            y - 0.95,
            f"{cells.params[True] / 1e6:.2f} M params, {cells.macs[True] / 1e6:.1f} M MACs",
            ha="center",
            fontsize=6.2,
            color=GREY,
        )
        rows.append(
            {
                "stage": s + 1,
                "channels": stage.c_out,
                "stride": stage.stride,
                "size": size,
                "act": stage.act,
                "gate": bool(stage.gate),
                "tail": str(stage.tail and stage.tail.widths),
                "params": cells.params[True],
                "macs": cells.macs[True],
            }
        )
    return pd.DataFrame(rows)
