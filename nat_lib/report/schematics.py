"""Schematic figures, drawn from the structures that compute: Space, Plan, Arch, the phases,
survival, the dense rule.

Nothing here is a picture of a picture: change the code and the drawing changes. Every figure
carries the numbers it shows as `figure.rows`, so that `report.save` keeps them too.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from pymoo.algorithms.moo.nsga3 import HyperplaneNormalization, associate_to_niches
from torchvision.models.mobilenetv2 import InvertedResidual

from nat_lib import cost, curricula
from nat_lib.arch import IRB, NETWORKS, POINTWISE, TRANSFORM, Space, middle, se_hidden
from nat_lib.errors import Refusal
from nat_lib.report.style import COLOURS, EXIT_COLOURS, GREY, thesis_style
from nat_lib.search import archive, pareto
from nat_lib.supernet import ACTIVATIONS, SqueezeExcite, conv, through

KERNEL_COLOUR = {3: "#f0e0a8", 5: "#a8d0c0", 7: "#6f9fc8"}
KERNELS_DRAWN = [(f"kernel {k}", colour) for k, colour in KERNEL_COLOUR.items()]
TINTS = LinearSegmentedColormap.from_list(
    "tints", list(KERNEL_COLOUR.values())
)  # light to dark, of 0 to 1
BRANCHES = {
    IRB: ("inverted residual", "#6f9fc8"),
    POINTWISE: ("1x1 convolution", "#a8d0c0"),
    TRANSFORM: ("transformation", "#f0e0a8"),
}
HEIGHT = {3: 1.1, 4: 1.6, 6: 2.4}  # of an expansion ratio; others are drawn like the smallest
BOX, PALE, LINE, EXIT, STEM = "#e8edf3", "#fafafa", "#444444", "#c5e3b8", "#f2ead0"
SHAPES = torch.device(
    "meta"
)  # layers made there have shapes and no numbers: nothing is drawn at random


# --------------------------------------------------------------------------------------- primitives


def canvas(width, height, title=""):
    """A figure of width x height units (0.5 inch each), origin at the lower left, without axes."""
    fig, ax = plt.subplots(figsize=(width / 2, height / 2), layout="constrained")
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    ax.set_title(title)
    return fig, ax


def box(ax, x, y, w, h, text="", colour=BOX, pale=False, size=7.5):
    """A box centred on (x, y). Pale: there, but not used."""
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.08",
            fc=PALE if pale else colour,
            ec="#c8c8c8" if pale else LINE,
            lw=0.8,
            ls=(0, (2, 2)) if pale else "-",
            zorder=2,
        )
    )
    ax.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=size,
        color="#b0b0b0" if pale else "#111111",
        zorder=3,
    )


def arrow(ax, start, end, bend=0.0, colour=LINE, pale=False, label=""):
    """An arrow between two points; bend > 0 curves to the right of its direction."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=7,
            lw=0.9,
            shrinkA=0,
            shrinkB=0,
            color="#d0d0d0" if pale else colour,
            connectionstyle=f"arc3,rad={bend}",
            zorder=1,
        )
    )
    if label:
        ax.text(
            (start[0] + end[0]) / 2,
            (start[1] + end[1]) / 2 + 0.14,
            label,
            ha="center",
            fontsize=6.5,
            color=colour,
        )


def plus(ax, x, y, sign="+"):
    """The sign of a sum, or of a product."""
    ax.add_patch(plt.Circle((x, y), 0.16, fc="white", ec=LINE, lw=0.8, zorder=4))
    ax.text(x, y, sign, ha="center", va="center", fontsize=8, zorder=5)


def sheets(ax, x, y, side, colours, cells=1):
    """Channels one behind the other, the first in front and the pile centred on (x, y), each of
    cells x cells."""
    step = 0.22 * side
    for i, colour in reversed(list(enumerate(colours))):
        left, low = (at - side / 2 + (i - (len(colours) - 1) / 2) * step for at in (x, y))
        ax.add_patch(plt.Rectangle((left, low), side, side, fc=colour, ec=LINE, lw=0.8, zorder=2))
        for k in np.arange(1, cells) * side / cells:
            ax.plot(
                [left + k] * 2,
                [low, low + side],
                [left, left + side],
                [low + k] * 2,
                color=LINE,
                lw=0.4,
                zorder=2,
            )


def bars(ax, x, y, parts, top, apart=2.6):
    """A row of bars from x: parts [(text below, channels, colour)], as high as their channels;
    `top` channels: 1.35."""
    for i, (text, channels, colour) in enumerate(parts):
        box(ax, x + apart * i, y, 0.7, 0.25 + 1.1 * channels / top, str(channels), colour)
        ax.text(x + apart * i, y - 0.76, text, ha="center", va="top", fontsize=6.5)
        if i:
            arrow(ax, (x + apart * i - apart + 0.4, y), (x + apart * i - 0.4, y))


# --------------------------------------------------------------------------------------- one subnet


@thesis_style
def draw_subnet(arch, space, n_classes=200):
    """A subnet stage by stage: kernel (colour), expansion (height), skipped blocks and unused exits
    pale.

    Parallel levels show their three branches side by side. Below each stage: channels and side of
    its output.
    """
    layers, plan = cost.layers(arch, space, n_classes), space.plan(arch.width)
    total = cost.count([arch], space, n_classes).iloc[0]
    fig, ax = canvas(
        2.2 + 4.4 * space.n_stages,
        5.6,
        f"{space.thesis_name}, {arch.resolution} pixels, width {arch.width}: "
        f"{total.params / 1e6:.3f} M parameters, {total.macs / 1e6:.2f} M MACs "
        f"({total.macs_tp / 1e6:.2f} M as the thesis counts them)",
    )
    box(ax, 0.9, 2.6, 0.9, 1.4, f"stem\n{plan.stem}")
    for s, stage in enumerate(plan.stages):
        left, used = 1.7 + 4.4 * s, s < arch.exit
        ax.add_patch(
            plt.Rectangle(
                (left, 1.1), 4.1, 3.2, fc="none", ec="#bbbbbb" if used else "#e5e5e5", lw=0.8
            )
        )
        arrow(ax, (left - 0.35, 2.6), (left + 0.02, 2.6), pale=not used)
        for b in range(space.slots):
            _slot(ax, left + 0.55 + b * 1.0, 2.6, space, arch, s, b, used and b < arch.depth[s])
        here = layers[layers.stage == s + 1]
        note = (
            f"{stage.c_out} x {here['size'][here.block > 0].iloc[-1]}²" if used else "not computed"
        )
        ax.text(
            left + 2.05,
            0.8,
            f"S{s + 1}: {note}",
            ha="center",
            fontsize=7.5,
            color=LINE if used else "#b0b0b0",
        )
        if stage.tail:
            taken = arch.exit == s + 1
            arrow(ax, (left + 3.9, 4.3), (left + 3.9, 4.72), pale=not taken)
            box(
                ax,
                left + 3.05,
                5.0,
                2.1,
                0.5,
                f"exit {s + 1}: {stage.tail[0]}, {stage.tail[1]}",
                EXIT,
                pale=not taken,
                size=6.5,
            )
    _legend(ax, 1.9, BRANCHES.values() if space.parallel else KERNELS_DRAWN)
    fig.rows = layers
    return fig


def _legend(ax, x, entries):
    """The lowest line of a drawing of subnets, from x: what colours and heights mean."""
    for i, (text, colour) in enumerate(entries):
        box(ax, x + 3.2 * i, 0.25, 0.3, 0.25, colour=colour)
        ax.text(x + 0.3 + 3.2 * i, 0.25, text, va="center", fontsize=7)
    ax.text(
        x + 9.9,
        0.25,
        "height: expansion 3, 4, 6; dotted: skipped",
        va="center",
        fontsize=7,
        color=GREY,
    )


def _slot(ax, x, y, space, arch, s, b, used):
    """One place of a stage: a block, or the three branches of a level."""
    i = s * space.slots + b
    k, e, level = arch.kernel[i], arch.expand[i], arch.level[i]
    height = HEIGHT.get(e, 1.1)  # canonical archs hold 0 where a number has no effect
    if not space.parallel:
        box(
            ax,
            x,
            y,
            0.8,
            height if used else 1.1,
            f"k{k}\ne{e}" if used else "",
            KERNEL_COLOUR.get(k, BOX),
            not used,
        )
        return
    for j, (bit, (_, colour)) in enumerate(BRANCHES.items()):
        active = used and bool(level & bit)
        text = f"k{k}\ne{e}" if active and bit == IRB else ""
        box(
            ax,
            x - 0.22 + (0, 0.32, 0.54)[j],
            y,
            (0.4, 0.17, 0.17)[j],
            height if active and bit == IRB else 0.9,
            text,
            colour,
            not active,
            6,
        )


@thesis_style
def draw_costs(archs, space, n_classes=200):
    """Parameters against MACs of many subnets, coloured by the exit they leave at."""
    costs = cost.count(archs, space, n_classes).assign(
        exit=[a.exit for a in archs], resolution=[a.resolution for a in archs]
    )
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for e, part in costs.groupby("exit"):
        ax.scatter(
            part.params / 1e6,
            part.macs / 1e6,
            s=9,
            color=EXIT_COLOURS(1 - e / 6),
            label=f"exit {e}",
            lw=0,
        )
    ax.set(
        xlabel="parameters (M)",
        ylabel="MACs (M)",
        xscale="log",
        yscale="log",
        title=f"{len(archs)} subnets of {space.name}",
    )
    ax.legend(markerscale=2)
    fig.rows = costs
    return fig


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
            f"the smallest of {samples} subnets of {space.name} needs {least} MACs: raise the smallest limit"
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
    _strip(ax, 0.4, y, space, space.largest)
    ax.text(
        3.6,
        y - 1.2,
        f"{whole.params / 1e6:.2f} M parameters, {whole.macs / 1e6:.1f} M MACs at most,\n"
        f"more than $10^{{{len(str(space.size)) - 1}}}$ subnets",
        ha="center",
        va="center",
        fontsize=7.5,
    )
    rows = []
    for j, (name, i) in enumerate(chosen.items()):
        row, arch = high - 0.65 - 1.75 * j, archs[i]
        params, macs = costs.params[i], costs.macs[i]
        arrow(ax, (7.0, y), (8.3, row))
        _strip(ax, 8.5, row, space, arch)
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
    _legend(ax, 0.5, KERNELS_DRAWN)
    fig.rows = pd.DataFrame(rows)
    return fig


def _strip(ax, x, y, space, arch):
    """A subnet as small bars, 6.4 wide from x: kernel by colour, expansion by height, skipped
    places pale."""
    for s in range(space.n_stages):
        for b in range(space.slots):
            i, used = s * space.slots + b, s < arch.exit and b < arch.depth[s]
            box(
                ax,
                x + 0.15 + 1.3 * s + 0.28 * b,
                y,
                0.22,
                0.4 * HEIGHT.get(arch.expand[i] if used else 0, 1.1),
                colour=KERNEL_COLOUR.get(arch.kernel[i], BOX),
                pale=not used,
            )


# -------------------------------------------------------------------------------- stages and levels


def dense_sources(depth, dense=True):
    """Blocks (from 1) whose outputs are summed into the input of each later block, and into the
    stage output.

    Found by passing names instead of tensors through `supernet.through`: {2: (1,), ..., "out":
    (...)}.
    """
    inputs = {}

    def level(k):
        def run(x):
            inputs[k] = x
            return (k,)

        return run

    out = through([level(k) for k in range(1, depth + 1)], ("in",), dense)
    return {k: v for k, v in inputs.items() if k > 1} | {"out": out}


@thesis_style
def draw_dense_stage(depth=4):
    """A stage with dense skips: which block outputs are summed where (thesis 5.1.1)."""
    fig, ax = canvas(2.2 + 1.8 * depth, 3.2, f"Dense stage with {depth} blocks")
    _stage(ax, 0.4, 1.1, depth, True, False)
    fig.rows = pd.DataFrame(
        [
            {"into": k, "sources": " + ".join(f"y{s}" for s in v)}
            for k, v in dense_sources(depth).items()
        ]
    )
    return fig


def _stage(ax, left, y, depth, dense, parallel):
    """Blocks or levels in a row from x = left, with the sums that the code makes between them."""
    at = {k: left + 0.9 + 1.8 * (k - 1) for k in range(1, depth + 1)} | {
        "out": left + 0.9 + 1.8 * depth
    }
    arrow(ax, (left, y), (at[1] - 0.5, y))
    for k in range(1, depth + 1):
        if parallel:
            for j, (_, colour) in enumerate(BRANCHES.values()):
                box(ax, at[k], y + 0.38 * (1 - j), 1.0, 0.3, "ABC"[j], colour, size=6)
        else:
            box(ax, at[k], y, 1.0, 0.8, "IRB" if k > 1 else "IB")
    for k, sources in dense_sources(depth, dense).items():
        end = at[k] - 0.5 if k != "out" else at[k] - 0.3
        arrow(ax, (at[sources[0]] + 0.5, y), (end, y))
        if len(sources) > 1:
            plus(ax, end - 0.3, y)
            for source in sources[1:]:
                far = sources[0] - source
                arrow(
                    ax,
                    (at[source] + 0.62, y),
                    (end - 0.3, y + 0.16),
                    bend=-0.32 - 0.05 * far,
                    colour="#b2182b",
                )


@thesis_style
def draw_stages():
    """The four kinds of stages: plain, dense, parallel, dense-parallel (thesis Figure 5.1)."""
    kinds = {
        (n.dense, n.parallel): name.split("_")[-1] for name, n in NETWORKS.items() if n.modular
    }
    fig, ax = canvas(21, 7.4)
    for (dense, parallel), kind in kinds.items():
        left, y = 0.4 + 10.4 * dense, 5.1 - 3.5 * parallel
        ax.text(
            left,
            y + 1.75,
            {"B": "B: modular", "D": "D: dense skips", "P": "P: parallel blocks", "DP": "DP: both"}[
                kind
            ],
            fontsize=9,
            fontweight="bold",
        )
        _stage(ax, left, y, 4, dense, parallel)
    ax.text(
        0.4,
        0.1,
        "red: dense skips.  A: "
        + ",  ".join(
            f"{letter}: {name}" for letter, (name, _) in zip("ABC", BRANCHES.values(), strict=True)
        )[3:],
        fontsize=7.5,
    )
    fig.rows = pd.DataFrame(
        [
            {
                "kind": kind,
                "dense": dense,
                "parallel": parallel,
                **{
                    f"into_{k}": " + ".join(f"y{s}" for s in v)
                    for k, v in dense_sources(4, dense).items()
                },
            }
            for (dense, parallel), kind in kinds.items()
        ]
    )
    return fig


@thesis_style
def draw_parallel_level(space, stage=1, first=True, width=1.0):
    """One level of a parallel stage: its three branches, their channels, and the seven codes
    (thesis 5.1.1).

    stage : 1 .. S;  first : the first level of the stage (stride, change of channels) or a later
            one
    """
    if not space.parallel:
        raise Refusal(f"{space.name} has no parallel levels: choose one of the P networks")
    slot = (stage - 1) * space.slots + (0 if first else 1)
    arch = space.arch(width=width, resolution=space.resolutions[-1])
    rows = cost.layers(arch, space)
    rows = rows[(rows.stage == stage) & (rows.block == (1 if first else 2))]
    fig, ax = canvas(
        16,
        5.4,
        f"Level {1 if first else '2 to 4'} of stage {stage}: the sum of its active branches",
    )
    steps = {
        IRB: [
            (
                f"{r.what}\n{r.c_in} → {r.c_out}"
                + (f", k{r.kernel}" if r.what == "depthwise" else "")
            )
            for r in rows.itertuples()
            if r.what in ("expand", "depthwise", "gate", "project")
        ],
        POINTWISE: [
            f"1x1, stride {r.stride}\n{r.c_in} → {r.c_out}"
            for r in rows[rows.what == "pointwise"].itertuples()
        ],
        TRANSFORM: [
            f"{'pool, ' if r.stride > 1 else ''}{'1x1, ' if r.kernel else ''}BN\n{r.c_in} → {r.c_out}"
            for r in rows[rows.what == "transform"].itertuples()
        ],
    }
    for j, (bit, (name, colour)) in enumerate(BRANCHES.items()):
        y = 4.4 - 1.5 * j
        arrow(ax, (0.2, 2.9), (1.9, y))
        ax.text(2.0, y + 0.58, f"{'ABC'[j]} (code {bit}): {name}", fontsize=7, color=GREY)
        for i, text in enumerate(steps[bit]):
            box(ax, 2.9 + 2.1 * i, y, 1.8, 0.85, text, colour, size=6.5)
            if i:
                arrow(ax, (1.7 + 2.1 * i, y), (2.0 + 2.1 * i, y))
        arrow(ax, (3.8 + 2.1 * (len(steps[bit]) - 1), y), (10.75, 2.9))
    plus(ax, 10.9, 2.9)
    arrow(ax, (11.06, 2.9), (11.7, 2.9))
    for i, level in enumerate(space.levels):
        active = "+".join(
            letter for letter, bit in zip("ABC", BRANCHES, strict=True) if level & bit
        )
        ax.text(12.1, 4.7 - 0.55 * i, f"code {level}:  {active}", fontsize=7.5)
    fig.rows = rows.assign(slot=slot)
    return fig


@thesis_style
def draw_block(space, stage=2, block=2, width=1.0):
    """The inverted residual block in its three expansions: channels through the block (thesis
    Figure 2.8)."""
    plan = space.plan(width).stages[stage - 1]
    c_in = plan.c_in if block == 1 else plan.c_out
    fig, ax = canvas(
        15, 7.6, f"Block {block} of stage {stage} at width {width}: {c_in} → {plan.c_out} channels"
    )
    rows = []
    for j, e in enumerate(space.expands):
        mid = middle(c_in, e)
        gate = [(f"gate: {mid} → {se_hidden(mid)} → {mid}", mid, STEM)] if plan.se else []
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
                "gate": se_hidden(mid) if plan.se else None,
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


# ------------------------------------------------------------------------------------- convolutions


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
    note = f"together {total:,}: {total / instead:.0%} of the {instead:,} of one {kernel}x{kernel} convolution"
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
    x = torch.linspace(-6, 8, 281)
    curves = {
        "h-swish": ACTIVATIONS["h_swish"]()(x),
        "ReLU": ACTIVATIONS["relu"]()(x),
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


# ----------------------------------------------------------------------------------------- networks


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
            color=COLOURS[name],
        )
    fig.rows = pd.concat(rows, ignore_index=True)
    return fig


def _network(ax, space, y, width, n_classes):
    """Stem, stages and exits in a row; returns what was drawn as rows."""
    plan, rows = space.plan(width), []
    layers = cost.layers(space.arch(width=width), space, n_classes, exits="all")
    box(ax, 1.1, y, 1.5, 1.1, f"stem\n{plan.stem} ch, /2", STEM)
    for s, stage in enumerate(plan.stages):
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
            * stage.se,
            COLOURS[space.name] + "33",
            size=6.5,
        )
        if stage.tail:
            arrow(ax, (x, y + 0.65), (x, y + 1.05))
            box(
                ax,
                x,
                y + 1.4,
                2.1,
                0.65,
                f"exit {s + 1}: {stage.tail[0]}\n→ {stage.tail[1]} → {n_classes}",
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
                "gate": stage.se,
                "tail": str(stage.tail),
                "params": cells.params[True],
                "macs": cells.macs[True],
            }
        )
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------------- training


@thesis_style
def draw_phases(space):
    """Extended progressive shrinking of a space: what may be chosen in each phase, newly opened
    values in colour.

    Thesis Figure 5.3 (and 3.2 for the baseline); drawn from `shrink.phases_for` and
    `choices_after`.
    """
    phases, kinds = curricula.phases_for(space), ("kernel", "level", "exit", "depth", "expand")
    kinds = [k for k in kinds if any(p.opens == k for p in phases)]
    fig, ax = canvas(2.2 + 3.1 * (len(kinds) + 1), 1.0 + 0.75 * len(phases))
    heads = ["resolution", *kinds]
    for j, head in enumerate(heads):
        ax.text(
            3.4 + 3.1 * j,
            0.75 * len(phases) + 0.6,
            head,
            ha="center",
            fontweight="bold",
            fontsize=8,
        )
    rows = []
    for i, phase in enumerate(phases):
        y, choices = 0.75 * (len(phases) - i) - 0.1, curricula.choices_after(space, phase)
        ax.text(0.2, y, f"{phase.name}", va="center", fontweight="bold")
        ax.text(1.7, y, phase.step, va="center", ha="right", fontsize=6.5, color=GREY)
        shown = {"resolution": space.resolutions, **{k: getattr(choices, k) for k in kinds}}
        if phase.opens is None:
            shown["exit"] = space.exits  # the maximal network trains all its exits jointly
        for j, head in enumerate(heads):
            new = phase.opens == head or (phase.opens is None and j == 0)
            if head in shown:
                box(
                    ax,
                    3.4 + 3.1 * j,
                    y,
                    2.9,
                    0.55,
                    ", ".join(map(str, sorted(shown[head]))),
                    COLOURS["EE_D"] + "66" if new else BOX,
                    size=6.5,
                )
        rows.append(
            {"phase": phase.name, "step": phase.step}
            | {k: " ".join(map(str, v)) for k, v in shown.items()}
        )
    fig.rows = pd.DataFrame(rows)
    return fig


@thesis_style
def draw_teachers(space, pet_lag=0):
    """Which network teaches each phase: always the first (fixed), or the result of the phase before
    (progressive)."""
    phases = curricula.phases_for(space)
    fig, ax = canvas(0.6 + 1.8 * len(phases), 6.2)
    rows = []
    for teacher, y in (("fixed", 4.1), ("progressive", 1.0)):
        ax.text(0.2, y + 1.45, f"{teacher} teacher", fontweight="bold")
        for i, phase in enumerate(phases):
            x = 1.1 + 1.8 * i
            box(ax, x, y, 1.3, 0.7, phase.name, STEM if i == 0 else BOX)
            if i == 0:
                continue
            source = 0 if teacher == "fixed" else max(0, i - 1 - pet_lag)
            arrow(ax, (x - 1.15, y), (x - 0.65, y), colour=GREY)
            arrow(
                ax,
                (1.1 + 1.8 * source, y + 0.35),
                (x, y + 0.35),
                bend=-1.1 / (i - source + 1),
                colour=COLOURS["EE_D"],
            )
            rows.append({"teacher": teacher, "phase": phase.name, "taught_by": phases[source].name})
    ax.text(0.2, 0.1, "grey: starts from its weights;  red: teaches", fontsize=7.5, color=GREY)
    fig.rows = pd.DataFrame(rows)
    return fig


# ------------------------------------------------------------------------------------------- search

# how a survivor of its whole front, of the front that does not fit, and a dropped one are drawn
FATES = {
    "front kept whole": {"marker": "o", "color": COLOURS["SE_DP"]},
    "chosen from the split front": {"marker": "D", "color": COLOURS["EE_B"]},
    "dropped": {"marker": "o", "color": "white", "edgecolor": GREY},
}


def toy_population(n, M, seed):
    """(2 n, M) objective values of n parents and their n offspring, minimised: on both sides of a
    plane."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(M), 2 * n) * rng.uniform(0.7, 1.7, (2 * n, 1))


def survivors(F, n, seed):
    """One row per individual: its front, from 1, the crowding there, and what `pareto.survive` does
    to it (FATES)."""
    front, rest = np.ones(len(F), dtype=int), np.arange(len(F))
    while len(rest := rest[~pareto.front(F[rest])]):
        front[rest] += 1
    frame = pd.DataFrame(F, columns=[f"objective_{k + 1}" for k in range(F.shape[1])]).assign(
        front=front, crowding=0.0
    )
    for f in np.unique(front):
        frame.loc[front == f, "crowding"] = pareto.crowding(F[front == f])
    kept = np.isin(np.arange(len(F)), pareto.survive(F, n, np.random.default_rng(seed)))
    whole, chosen, dropped = FATES
    complete = front < front[~kept].min(initial=front.max() + 1)
    frame["fate"] = np.select([complete, kept], [whole, chosen], dropped)
    return frame


def _members(ax, frame, *at):
    """The individuals at the coordinates `at`, each as its fate wants."""
    for fate, style in FATES.items():
        mine = (frame.fate == fate).to_numpy()
        ax.scatter(
            *(a[mine] for a in at),
            s=34,
            lw=0.9,
            zorder=4,
            label=fate,
            **{"edgecolor": "white"} | style,
        )


@thesis_style
def draw_nsga2(n=12, seed=42):
    """Survival in NSGA-II: n of n parents and n offspring stay, front by front, then the least
    crowded (Figure 2.2)."""
    F = toy_population(n, 2, seed)
    frame = survivors(F, n, seed)
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4), width_ratios=(1, 1.6), layout="constrained"
    )
    _sorting(left, frame, n)
    for f, part in frame.sort_values("objective_1").groupby("front"):
        right.plot(part.objective_1, part.objective_2, color="#c8c8c8", lw=1, zorder=1)
        right.annotate(
            f"F{f}",
            (part.objective_1.iloc[0], part.objective_2.iloc[0]),
            (-5, 4),
            ha="right",
            fontsize=7.5,
            textcoords="offset points",
            color=GREY,
        )
    _members(right, frame, *F.T)
    for row in frame[frame.front == frame.front[frame.fate == "dropped"].min()].itertuples():
        right.annotate(
            "∞" if np.isinf(row.crowding) else f"{row.crowding:.2f}",
            (row.objective_1, row.objective_2),
            (5, 5),
            textcoords="offset points",
            fontsize=7,
        )
    right.set(
        xlabel="objective 1",
        ylabel="objective 2",
        title="the same individuals; numbers: crowding distance",
    )
    right.margins(0.08)
    right.legend()
    fig.rows = frame.assign(of=["parent"] * n + ["offspring"] * n)
    return fig


def _sorting(ax, frame, n):
    """Boxes as high as they hold individuals: parents and offspring, fronts, what stays."""
    ax.set(xlim=(0, 10.2), ylim=(-0.2, 2 * n + 1.6), title=f"{n} of {2 * n} individuals stay")
    ax.axis("off")
    for x, head in ((1.4, "merge"), (5.1, "sort into fronts"), (8.8, "keep")):
        ax.text(x, 2 * n + 0.5, head, ha="center", fontsize=7.5, color=GREY)
    for y, name in ((1.5 * n, "parents"), (0.5 * n, "offspring")):
        box(ax, 1.4, y, 2.4, n - 0.25, f"{n}\n{name}")
        arrow(ax, (2.7, y), (3.8, y))
    top = 2 * n
    for f, front in frame.groupby("front"):
        box(ax, 5.1, top - len(front) / 2, 2.4, len(front) - 0.25, f"F{f}: {len(front)}", size=7)
        for fate, style in FATES.items():
            if size := (front.fate == fate).sum():
                gone = style["color"] == "white"
                arrow(ax, (6.4, top - size / 2), (7.5, top - size / 2), pale=gone)
                box(
                    ax,
                    8.8,
                    top - size / 2,
                    2.4,
                    size - 0.25,
                    f"{size} dropped" if gone else f"{size}",
                    style["color"] + "55",
                    gone,
                    size=7,
                )
                top -= size


def associated(F, directions):
    """(scaled, direction, distance) of the rows of F (n, M): to which line through the ideal point
    each is nearest.

    NSGA-III's scaling: 0 is the ideal point and the front's hyperplane meets every axis at 1.
    """
    F, scale = pareto.unit(F), HyperplaneNormalization(F.shape[1])
    with warnings.catch_warnings():  # it changes the process's warning filters
        scale.update(F, nds=np.flatnonzero(pareto.front(F)))
    ideal, nadir = scale.ideal_point, scale.nadir_point
    return (F - ideal) / (nadir - ideal), *associate_to_niches(F, directions, ideal, nadir)[:2]


@thesis_style
def draw_nsga3(n=10, seed=47):
    """Survival in NSGA-III: each individual belongs to its nearest reference line, and lines take
    turns (Figure 2.3).

    The lines are those that `pareto.survive` uses for three objectives and n survivors. On the
    right the same as seen from the ideal point, whence every line is a dot.
    """
    F, lines = toy_population(n, 3, seed), pareto.directions(3, n)
    frame = survivors(F, n, seed)
    scaled, frame["line"], frame["distance"] = associated(F, lines)
    looked_at = (
        frame.front <= frame.front[frame.fate == "dropped"].min()
    )  # later fronts are out already
    frame, scaled = frame[looked_at], scaled[looked_at]
    near = lines[frame.line]
    along = (scaled * near).sum(axis=1) / (near**2).sum(axis=1)
    fig = plt.figure(figsize=(9, 4.2), layout="constrained")
    solid, flat = fig.add_subplot(1, 2, 1, projection="3d"), fig.add_subplot(1, 2, 2)
    corners = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])
    seen = [v / v.sum(axis=1, keepdims=True) @ corners for v in (scaled, near, lines, np.eye(3))]
    for ax, (members, ends, dots, edge) in (
        (solid, (scaled, near * along[:, None], lines, np.eye(3))),
        (flat, seen),
    ):
        ax.plot(*edge[[0, 1, 2, 0]].T, color="#c8c8c8", lw=0.8, zorder=1)
        for a, b in zip(members, ends, strict=True):
            ax.plot(*np.transpose([a, b]), color=GREY, lw=0.7, zorder=2)
        ax.scatter(
            *dots.T, marker="x", s=24, lw=1.2, color="#b2182b", zorder=3, label="reference line"
        )
        _members(ax, frame, *members.T)
    for i, line in enumerate(lines):
        length = along[frame.line == i].max(initial=1.15)
        solid.plot(*np.transpose([0 * line, length * line]), color="#b2182b", lw=0.6)
    for points in solid.collections:
        points.set_depthshade(False)
    for k, (axis, corner) in enumerate(zip(1.3 * np.eye(3), corners, strict=True), 1):
        solid.plot(*np.transpose([0 * axis, axis]), color=LINE, lw=0.8)
        solid.text(*(1.05 if k == 3 else 1.25) * axis, f"objective {k}", ha="center", fontsize=7.5)
        flat.annotate(
            f"objective {k}",
            corner,
            (0, 8 if k == 3 else -12),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
    solid.view_init(elev=22, azim=40)
    solid.set_box_aspect((1, 1, 1), zoom=1.1)
    solid.set(title="scaled objectives")
    flat.set(title="as seen from the ideal point", aspect="equal")
    for ax in (solid, flat):
        ax.axis("off")
    fig.legend(*flat.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    fig.rows = frame.join(
        pd.DataFrame(near, index=frame.index, columns=["line_1", "line_2", "line_3"])
    )
    return fig


SETTINGS = {
    "teacher": "teacher of the supernets",
    "features": "predictor sees",
    "sampling": "first archive drawn from",
    "multiplier": "scored per place in it",
    "archive": "its size",
    "policy": "archive later",
    "candidates": "scored per iteration",
    "repair": "behind a skipped block",
    "validation": "validated after",
    "post": "what is found",
}
SAID = {
    "one_hot": "one-hot codes",
    "integer": "integer codes",
    "search": "search space",
    "architecture": "architectures",
    "push": "blocks move up",
    "fill": "blocks are skipped",
    "append": "grows",
    "replace": "drops the worst",
    "pet": "progressive",
    "every": "every epoch",
    "last": "last epoch of an iteration",
}
POSTED = 4  # the phase whose subnets are post-processed


@thesis_style
def draw_evolution():
    """From NAT to NATv2: what each experimental phase changes; unchanged settings pale (thesis
    Figure 6.2)."""
    table = pd.DataFrame([v._asdict() for v in archive.PHASES.values()]).set_index("phase")
    table["post"] = np.where(
        table.index == POSTED, "fine-tuned, alone or with exits", "stays as it is"
    )
    table = table[list(SETTINGS)]
    changed = table.ne(table.shift()) & (table.index > 1)[:, None]
    fig, ax = canvas(
        4.4 + 3.7 * len(table),
        1.2 + 0.72 * table.shape[1],
        "Red: new in this phase; dotted: as before",
    )
    for j, phase in enumerate(table.index):
        x = 6.1 + 3.7 * j
        ax.text(x, 0.72 * table.shape[1] + 0.55, f"phase {phase}", ha="center", fontweight="bold")
        for i, name in enumerate(table):
            y, value = 0.72 * (table.shape[1] - i) - 0.1, table[name][phase]
            new = changed[name][phase]
            box(
                ax,
                x,
                y,
                3.4,
                0.54,
                SAID.get(value, str(value)),
                COLOURS["EE_D"] + "66" if new else BOX,
                phase > 1 and not new,
                size=7,
            )
            if j == 0:
                ax.text(4.2, y, SETTINGS[name], va="center", ha="right", fontsize=7.5)
    fig.rows = (
        table.reset_index()
        .melt("phase", var_name="setting")
        .merge(
            changed.rename_axis("phase")
            .reset_index()
            .melt("phase", var_name="setting", value_name="changed")
        )
    )
    return fig


# ----------------------------------------------------------------------------------------- encoding


@thesis_style
def draw_encoding(names=("BASE", "SE_P", "EE_B", "EE_P")):
    """The genotypes of the four families, variable by variable, and what a code means (thesis
    Figures 3.4, 6.1)."""
    fig, ax = canvas(26, 2.0 * len(names) + 3.4)
    rows = []
    for j, name in enumerate(names):
        space, y = Space(name), 2.0 * (len(names) - j) + 2.3
        labels = ["R", "W", "X"][: space.first] + [
            f"{s}.{b}" for s in range(1, space.n_stages + 1) for b in range(1, space.slots + 1)
        ]
        ax.text(
            0.2,
            y + 0.75,
            f"{name}: {space.n_var} variables",
            fontweight="bold",
            color=COLOURS[name],
        )
        for i, (label, low, high) in enumerate(zip(labels, space.lower, space.upper, strict=True)):
            stage = (i - space.first) // space.slots
            box(
                ax,
                1.0 + 1.08 * i,
                y,
                1.0,
                0.75,
                f"{label}\n{low}..{high}",
                STEM if i < space.first else ("#dfe9f2", "#c5d8e8")[stage % 2],
                size=6.2,
            )
            rows.append(
                {
                    "space": name,
                    "variable": label,
                    "lowest": low,
                    "highest": high,
                    "may_skip": bool(i >= space.first and low == 0),
                }
            )
    for j, name in enumerate(("BASE", "SE_P")):
        space, y = Space(name), 1.9 - 1.1 * j
        shown = sorted(
            {*range(min(10, space.n_codes + 1)), *((10, 23, 28, 63) if space.parallel else ())}
        )
        ax.text(
            0.2,
            y,
            f"codes of\n{'a level' if space.parallel else 'a block'}",
            va="center",
            fontsize=7.5,
        )
        for i, code in enumerate(shown):
            k, e, level = space.code_table[code]
            text = "skip" if code == 0 else f"k{k} e{e}" + (f" L{level}" if space.parallel else "")
            box(
                ax,
                2.6 + 1.65 * i,
                y,
                1.55,
                0.7,
                f"{code}\n{text}",
                KERNEL_COLOUR[int(k)] if code else PALE,
                size=6.5,
            )
    fig.rows = pd.DataFrame(rows)
    return fig


# -------------------------------------------------------------------------------------------- flows

# name: (title, {node: (x, y, text)}, [(from, to, label)])
FLOWS = {
    "outline": (
        "What builds on what (thesis Figure 1.1)",
        {
            "aep": (2.3, 3.5, "AEP\nensembles of early exits,\npruned"),
            "ofa": (2.3, 1.6, "OFA\none supernet,\nmany subnets"),
            "ofav2": (7.7, 2.6, "OFAv2\nexits, dense, parallel,\nprogressive teacher"),
            "nat": (7.7, 0.8, "NAT\nsearch that adapts\nthe supernet"),
            "natv2": (13.2, 1.7, "NATv2\nfour phases, exits as a\nvariable, post-processing"),
        },
        [
            ("aep", "ofav2", "joint loss"),
            ("ofa", "ofav2", ""),
            ("ofav2", "natv2", "supernets"),
            ("nat", "natv2", ""),
        ],
    ),
    "genetic": (
        "A genetic algorithm (thesis Figure 2.1)",
        {
            "first": (2.2, 2.6, "first population,\nat random"),
            "score": (7.3, 2.6, "score\nthe newcomers"),
            "keep": (12.4, 2.6, "keep the best\nof old and new"),
            "end": (17.5, 2.6, "the best\nof the last population"),
            "select": (12.4, 0.7, "select parents:\nthe better of two"),
            "cross": (7.3, 0.7, "cross over:\nmix two parents"),
            "mutate": (2.2, 0.7, "mutate:\nchange a few genes"),
        },
        [
            ("first", "score", ""),
            ("score", "keep", ""),
            ("keep", "end", "stop"),
            ("keep", "select", ""),
            ("select", "cross", ""),
            ("cross", "mutate", ""),
            ("mutate", "score", ""),
        ],
    ),
    "nat": (
        "One iteration of NAT (thesis Figure 3.3)",
        {
            "archive": (2.2, 2.6, "archive of\nevaluated subnets"),
            "fit": (7.7, 2.6, "fit the\nerror predictor"),
            "search": (13.2, 2.6, "evolve candidates,\nkeep a diverse few"),
            "evaluate": (13.2, 0.7, "score them with\nthe supernet's weights"),
            "adapt": (7.7, 0.7, "train the supernet on\nsubnets like the best"),
            "rescore": (2.2, 0.7, "score the\narchive again"),
        },
        [
            ("archive", "fit", ""),
            ("fit", "search", ""),
            ("search", "evaluate", ""),
            ("evaluate", "adapt", ""),
            ("adapt", "rescore", ""),
            ("rescore", "archive", ""),
        ],
    ),
    "aep": (
        "Early exits: trained together, answering together (thesis Figure 4.1)",
        {
            "x": (1.3, 0.6, "images"),
            "s1": (4.4, 0.6, "stage 1"),
            "s2": (7.5, 0.6, "stage 2"),
            "s3": (10.6, 0.6, "stage n"),
            "e1": (4.4, 2.2, "exit 1"),
            "e2": (7.5, 2.2, "exit 2"),
            "e3": (10.6, 2.2, "exit n"),
            "loss": (4.4, 3.9, "loss: weighted sum\nof cross-entropies"),
            "vote": (10.6, 3.9, "answer: weighted sum of\nlogits, each exit on or off"),
        },
        [
            ("x", "s1", ""),
            ("s1", "s2", ""),
            ("s2", "s3", ""),
            ("s1", "e1", ""),
            ("s2", "e2", ""),
            ("s3", "e3", ""),
            *((e, to, "") for e in ("e1", "e2", "e3") for to in ("loss", "vote")),
        ],
    ),
}


@thesis_style
def draw_flow(name):
    """A small graph of FLOWS: boxes and arrows."""
    title, nodes, edges = FLOWS[name]
    half = {
        n: np.array(
            [0.35 + 0.062 * max(map(len, text.split("\n"))), 0.2 + 0.2 * text.count("\n") + 0.15]
        )
        for n, (_, _, text) in nodes.items()
    }
    fig, ax = canvas(
        max(x + half[n][0] for n, (x, _, _) in nodes.items()) + 0.3,
        max(y + half[n][1] for n, (_, y, _) in nodes.items()) + 0.5,
        title,
    )
    for a, b, label in edges:
        start, end = (np.add(nodes[n][:2], [0, 0.2]) for n in (a, b))
        way = end - start
        with np.errstate(
            divide="ignore"
        ):  # a box is left through the side that the arrow meets first
            leave, meet = ((half[n] / abs(way)).min() * way for n in (a, b))
        arrow(ax, tuple(start + leave), tuple(end - meet), label=label)
    for n, (x, y, text) in nodes.items():
        box(ax, x, y + 0.2, *(2 * half[n]), text, size=7)
    fig.rows = pd.DataFrame(edges, columns=["from", "to", "label"])
    return fig
