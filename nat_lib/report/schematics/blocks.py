"""The inverted residual blocks and their gate: channels from layer to layer."""

import pandas as pd
from torchvision.models.mobilenetv2 import InvertedResidual

from nat_lib.blocks import GATES, middle, se_hidden
from nat_lib.modules import SqueezeExcite
from nat_lib.report.schematics.canvas import SHAPES, TINTS, arrow, bars, canvas, plus, sheets
from nat_lib.report.shapes import BOX, STEM
from nat_lib.report.style import GREY, thesis_style


@thesis_style
def draw_block(space, stage=2, block=2, width=1.0):
    """The inverted residual block in its three expansions: channels through the block (thesis
    Figure 2.8)."""
    plan = space.layout(width).stages[stage - 1]
    c_in = plan.c_in if block == 1 else plan.c_out
    fig, ax = canvas(
        15, 7.6, f"Block {block} of stage {stage} at width {width}: {c_in} → {plan.c_out} channels"
    )
    rows = []
    for j, e in enumerate(space.expands):
        mid = middle(c_in, e)
        hidden = se_hidden(mid, GATES[plan.gate].divisor) if plan.gate else None
        gate = [(f"gate: {mid} → {hidden} → {mid}", mid, STEM)] if hidden else []
        parts = [
            ("in", c_in, BOX),
            ("1x1 expand", mid, BOX),
            ("depthwise 3, 5, 7", mid, BOX),
            *gate,
            ("1x1 project", plan.c_out, BOX),
        ]
        _block(ax, 6.4 - 2.5 * j, f"e = {e}", parts, middle(c_in, max(space.expands)), block > 1)
        rows.append(
            {
                "expand": e,
                "in": c_in,
                "middle": mid,
                "gate": hidden,
                "out": plan.c_out,
            }
        )
    fig.rows = pd.DataFrame(rows)
    return fig


@thesis_style
def draw_block_v2(c=24, c_next=32, expand=6):
    """The block of MobileNetV2 that keeps size and channels, and the one that changes both (thesis
    Figure 2.7).

    Read off torchvision's block. After the last convolution there is no activation.
    """
    fig, ax = canvas(
        12.4, 5.3, f"MobileNetV2: {expand} times as many channels inside, no activation at the end"
    )
    rows = []
    for y, c_out, stride in ((4.1, c, 1), (1.5, c_next, 2)):
        with SHAPES:
            block = InvertedResidual(c, c_out, stride, expand)
        parts = [("in", c, BOX), *((text, channels, BOX) for text, channels in convolutions(block))]
        _block(ax, y, f"stride {stride}", parts, c * expand, block.use_res_connect)
        rows += [
            {
                "stride": stride,
                "part": text.replace("\n", ", "),
                "channels": channels,
                "identity": block.use_res_connect,
            }
            for text, channels, _ in parts
        ]
    fig.rows = pd.DataFrame(rows)
    return fig


def _block(ax, y, label, parts, top, identity):
    """An inverted residual block as a row of bars, with the identity above it if there is one."""
    bars(ax, 2.2, y, parts, top)
    ax.text(0.2, y, label, va="center", fontsize=9, fontweight="bold")
    if identity:
        last = 2.2 + 2.6 * (len(parts) - 1)
        arrow(ax, (2.2, y + 0.25), (last, y + 0.25), bend=-0.14, colour=GREY)
        ax.text(last - 0.9, y + 0.75, "+ identity", fontsize=6.5, color=GREY)


def convolutions(module):
    """[(text, channels after it)] of the convolutions of a module, in the order it holds them, with
    their activations.

    For modules that hold their layers in the order of computation, as plain sequences do.
    """
    found = []
    for m in module.modules():
        name = type(m).__name__
        if name == "Conv2d":
            kind = " depthwise" if m.groups > 1 else " convolution"
            stride = f"\nstride {m.stride[0]}" if m.stride[0] > 1 else ""
            found.append(("{}x{}".format(*m.kernel_size) + kind + stride, m.out_channels))
        elif name in ("ReLU", "ReLU6", "Hardsigmoid"):
            found[-1] = (f"{found[-1][0]}\n{name.replace('Hards', 'hard s')}", found[-1][1])
    return found


@thesis_style
def draw_gate(c=64, size=14):
    """Squeeze-and-excitation: one number per channel, from all channels, scales that channel
    (thesis Figure 2.6).

    Five channels stand for all c.
    """
    with SHAPES:
        found = convolutions(SqueezeExcite(c))
    fig, ax = canvas(16, 4.6, f"Squeeze-and-excitation on {c} channels of {size} x {size}")
    y = 1.9
    for x, scaled in ((1.6, False), (14.2, True)):
        sheets(ax, x, y, 1.3, [TINTS(i * 7 % 5 / 4 if scaled else 0.5) for i in range(5)])
        ax.text(x, y - 1.4, f"{c} channels, {size} x {size}", ha="center", va="top", fontsize=6.5)
    bars(
        ax, 4.4, y, [("mean of\neach channel", c, BOX), *((text, n, STEM) for text, n in found)], c
    )
    arrow(ax, (2.9, y), (4.0, y))
    arrow(ax, (10.0, y), (11.64, y), label="0 to 1")
    plus(ax, 11.8, y, "x")
    arrow(ax, (11.96, y), (12.9, y))
    arrow(ax, (1.9, y + 1.3), (11.8, y + 0.16), bend=-0.2, colour=GREY)
    fig.rows = pd.DataFrame(found, columns=["part", "channels"]).replace("\n", ", ", regex=True)
    return fig
