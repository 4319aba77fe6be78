"""Convolutions and what they multiply; activations."""

import matplotlib.pyplot as plt
import pandas as pd
import torch

from nat_lib.modules import activation, conv
from nat_lib.report.schematics.canvas import SHAPES, TINTS, arrow, canvas, sheets
from nat_lib.report.shapes import BOX
from nat_lib.report.style import COLOURS, GREY, thesis_style


@thesis_style
def draw_convolution(separable=False, c_in=3, c_out=4, kernel=3, size=8):
    """A convolution, or the depthwise and the 1x1 one that replace it, and what each multiplies
    (Figures 2.4, 2.5).

    A colour is a channel; grey maps mix all channels.  size : side of the maps, the same before and
    after
    """
    channels = [TINTS(i / max(c_in - 1, 1)) for i in range(c_in)]
    alone, together, mixed = [[c] for c in channels], [channels] * c_out, [[BOX]] * c_out
    with SHAPES:
        whole = ("convolution", conv(c_in, c_out, kernel), together, mixed)
        steps = (
            [
                ("depthwise", conv(c_in, c_in, kernel, groups=c_in), alone, alone),
                ("pointwise", conv(c_in, c_out), together, mixed),
            ]
            if separable
            else [whole]
        )
    high = 1.35 * max(c_in, c_out)
    fig, ax = canvas(7.2 * len(steps), high + 2.7)
    y, rows = 1.4 + high / 2, []
    ax.text(1.5, 0.9, f"{c_in} channels\n{size} x {size}", ha="center", va="center", fontsize=7)
    for i, (name, layer, filters, maps) in enumerate(steps):
        x, n, k, weights = 1.5 + 7.2 * i, len(filters), layer.kernel_size[0], layer.weight.numel()
        sheets(ax, x, y, 1.3, channels)
        for j, (taps, result) in enumerate(zip(filters, maps, strict=True)):
            row = y + 1.35 * ((n - 1) / 2 - j)
            arrow(ax, (x + 1.0, y), (x + 2.15, row))
            sheets(ax, x + 2.8, row, 0.25 + 0.18 * k, taps, k)
            arrow(ax, (x + 3.45, row), (x + 4.05, row))
            sheets(ax, x + 4.65, row, 0.95, result)
            if i + 1 < len(steps):
                arrow(ax, (x + 5.25, row), (x + 6.15, y + 0.4 * (row - y)))
        ax.text(
            x + 2.8,
            0.9,
            f"{n} filters\n{k} x {k} x {len(filters[0])}",
            ha="center",
            va="center",
            fontsize=7,
        )
        ax.text(x + 4.65, 0.9, f"{n} maps\n{size} x {size}", ha="center", va="center", fontsize=7)
        ax.text(
            x + 3.1,
            high + 2.05,
            f"{name}: {weights} weights\nx {size} x {size} places = "
            f"{weights * size**2:,} multiplications",
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold",
        )
        rows.append(
            {
                "step": name,
                "kernel": k,
                "filters": n,
                "depth": len(filters[0]),
                "size": size,
                "weights": weights,
                "macs": weights * size**2,
            }
        )
    fig.rows = pd.DataFrame(rows)
    total, instead = fig.rows.macs.sum(), whole[1].weight.numel() * size**2
    note = f"together {total:,}: {total / instead:.0%} of the {instead:,}"
    note += f" of one {kernel}x{kernel} convolution"
    ax.text(
        0.2,
        0.15,
        note if separable else f"every filter sees all {c_in} channels",
        fontsize=7.5,
        color=GREY,
    )
    return fig


@thesis_style
def draw_activations():
    """Hard swish and ReLU as the networks use them, beside ReLU6 (thesis Figure 2.9)."""
    x = torch.linspace(-6, 8, 281)  # the activations of the networks work in place: on copies
    curves = {
        "h-swish": activation("h_swish")(x.clone()),
        "ReLU": activation("relu")(x.clone()),
        "ReLU6": torch.nn.ReLU6()(x),
    }
    fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
    for (name, y), style, like in zip(
        curves.items(), ("-", "--", ":"), ("EE_D", "SE_DP", "SE_P"), strict=True
    ):
        ax.plot(x, y, style, label=name, color=COLOURS[like])
    ax.set(xlabel="x", ylabel="activation")
    ax.legend()
    fig.rows = pd.DataFrame({"x": x.numpy(), **{name: y.numpy() for name, y in curves.items()}})
    return fig
