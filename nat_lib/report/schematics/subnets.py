"""One subnet, the costs of many, and what devices can afford."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator, NullFormatter

from nat_lib import cost
from nat_lib.errors import Refusal
from nat_lib.report import shapes
from nat_lib.report.schematics.canvas import arrow, box, canvas, paint
from nat_lib.report.shapes import EXIT
from nat_lib.report.style import exit_colour, thesis_style


@thesis_style
def draw_subnet(arch, space, n_classes=200):
    """A subnet stage by stage, see `shapes.subnet`; both counts of MACs above it."""
    total = cost.count([arch], space, n_classes).iloc[0]
    wide, high, drawn = shapes.subnet(arch, space)
    title = shapes.title(arch, space, total.params / 1e6, total.macs / 1e6)
    fig, ax = canvas(wide, high, f"{title} ({total.macs_tp / 1e6:.2f} M as the thesis counts them)")
    paint(ax, drawn)
    fig.rows = cost.layers(arch, space, n_classes)
    return fig


@thesis_style
def draw_costs(archs, space, n_classes=200):
    """Parameters against MACs of many subnets, coloured by the exit they leave at."""
    costs = cost.count(archs, space, n_classes).assign(
        exit=[a.exit for a in archs], resolution=[a.resolution for a in archs]
    )
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    sns.scatterplot(
        x=costs.params / 1e6,
        y=costs.macs / 1e6,
        hue=costs.exit.map("exit {}".format),
        palette={f"exit {e}": exit_colour(e) for e in costs.exit.unique()},
        hue_order=[f"exit {e}" for e in sorted(costs.exit.unique())],
        s=9,
        lw=0,
        ax=ax,
    )
    ax.set(
        xlabel="parameters (M)",
        ylabel="MACs (M)",
        xscale="log",
        yscale="log",
        title=f"{len(archs)} subnets of {space.name}",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.legend(markerscale=2, title=None)
    fig.rows = costs
    return fig


RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
# what a device may spend on one image, in multiply-accumulates: round numbers for an example
DEVICES = {"sensor": 12e6, "watch": 20e6, "phone": 35e6, "computer": 60e6}


@thesis_style
def draw_ofa(space, devices=DEVICES, samples=1000, seed=0):
    """One supernet, and for each device the largest of some random subnets that it can afford
    (thesis Figure 3.1)."""
    archs = space.sample(samples, np.random.default_rng(seed), by="architecture")
    costs = cost.count(archs, space)
    if (least := costs.macs.min()) > min(devices.values()):
        raise Refusal(
            f"the smallest of {samples} subnets of {space.name} needs {least} MACs: "
            "raise the smallest limit"
        )
    chosen = {
        name: costs.macs.where(costs.macs <= limit).idxmax() for name, limit in devices.items()
    }
    high = 1.75 * len(devices) + 1.1
    fig, ax = canvas(21, high, "Trained once; each device takes the part that it can afford")
    whole, y = cost.count([space.largest], space).iloc[0], high / 2 + 0.3
    ax.text(
        3.6,
        y + 1.1,
        f"{space.thesis_name}: one set of weights",
        ha="center",
        fontsize=9,
        fontweight="bold",
    )
    paint(ax, shapes.strip(0.4, y, space.largest, space))
    ax.text(
        3.6,
        y - 1.2,
        f"{whole.params / 1e6:.2f} M parameters, {whole.macs / 1e6:.1f} M MACs at most,\n"
        f"more than 10{str(len(str(space.size)) - 1).translate(RAISED)} subnets",
        ha="center",
        va="center",
        fontsize=7.5,
    )
    rows = []
    for j, (name, i) in enumerate(chosen.items()):
        row, arch = high - 0.65 - 1.75 * j, archs[i]
        params, macs = costs.params[i], costs.macs[i]
        arrow(ax, (7.0, y), (8.3, row))
        paint(ax, shapes.strip(8.5, row, arch, space))
        ax.text(
            8.5,
            row - 0.78,
            f"{arch.resolution} pixels, width {arch.width}, {params / 1e6:.2f} M parameters, "
            f"{macs / 1e6:.1f} M MACs",
            va="center",
            fontsize=7,
        )
        arrow(ax, (15.1, row), (16.2, row))
        box(ax, 18.3, row, 4.0, 0.8, f"{name}: at most {devices[name] / 1e6:g} M MACs", EXIT)
        rows.append(
            {
                "device": name,
                "limit": devices[name],
                "resolution": arch.resolution,
                "width": arch.width,
                "exit": arch.exit,
                "depths": "".join(map(str, arch.depth)),
                "params": params,
                "macs": macs,
            }
        )
    paint(ax, shapes.legend(0.5, shapes.kernels()))
    fig.rows = pd.DataFrame(rows)
    return fig
