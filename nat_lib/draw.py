"""Schematic figures, drawn from the structures that compute: Space, Plan, Arch, the phases, the dense rule.

Nothing here is a picture of a picture: change the code and the drawing changes. Every figure carries the numbers it
shows as `figure.rows`, so that `report.save` keeps them too.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nat_lib import cost, shrink
from nat_lib.arch import IRB, NETWORKS, POINTWISE, TRANSFORM, Space, middle, se_hidden
from nat_lib.report import COLOURS, EXIT_COLOURS, GREY, thesis_style
from nat_lib.runs import Refusal
from nat_lib.supernet import ACTIVATIONS, through

KERNEL_COLOUR = {3: "#f0e0a8", 5: "#a8d0c0", 7: "#6f9fc8"}
BRANCHES = {IRB: ("inverted residual", "#6f9fc8"), POINTWISE: ("1x1 convolution", "#a8d0c0"),
            TRANSFORM: ("transformation", "#f0e0a8")}
BOX, PALE, LINE, EXIT, STEM = "#e8edf3", "#fafafa", "#444444", "#c5e3b8", "#f2ead0"


# ---------------------------------------------------------------------------------------------- primitives

def canvas(width, height, title=""):
    """A figure of width x height units (0.5 inch each), origin at the lower left, without axes."""
    fig, ax = plt.subplots(figsize=(width / 2, height / 2), layout="constrained")
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    ax.set_title(title)
    return fig, ax


def box(ax, x, y, w, h, text="", colour=BOX, pale=False, size=7.5):
    """A box centred on (x, y). Pale: there, but not used."""
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.08",
                                fc=PALE if pale else colour, ec="#c8c8c8" if pale else LINE, lw=0.8,
                                ls=(0, (2, 2)) if pale else "-", zorder=2))
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color="#b0b0b0" if pale else "#111111", zorder=3)


def arrow(ax, start, end, bend=0.0, colour=LINE, pale=False, label=""):
    """An arrow between two points; bend > 0 curves to the right of its direction."""
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, lw=0.9, shrinkA=0, shrinkB=0,
                                 color="#d0d0d0" if pale else colour, connectionstyle=f"arc3,rad={bend}", zorder=1))
    if label:
        ax.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.14, label, ha="center", fontsize=6.5, color=colour)


def plus(ax, x, y):
    """The sign of a sum."""
    ax.add_patch(plt.Circle((x, y), 0.16, fc="white", ec=LINE, lw=0.8, zorder=4))
    ax.text(x, y, "+", ha="center", va="center", fontsize=8, zorder=5)


# ---------------------------------------------------------------------------------------------- one subnet

@thesis_style
def draw_subnet(arch, space, n_classes=200):
    """A subnet stage by stage: kernel (colour), expansion (height), skipped blocks and unused exits pale.

    Parallel levels show their three branches side by side. Below each stage: channels and side of its output.
    """
    layers, plan = cost.layers(arch, space, n_classes), space.plan(arch.width)
    total = cost.count([arch], space, n_classes).iloc[0]
    fig, ax = canvas(2.2 + 4.4 * space.n_stages, 5.6,
                     f"{space.thesis_name}, {arch.resolution} pixels, width {arch.width}: "
                     f"{total.params / 1e6:.3f} M parameters, {total.macs / 1e6:.2f} M MACs")
    box(ax, 0.9, 2.6, 0.9, 1.4, f"stem\n{plan.stem}")
    for s, stage in enumerate(plan.stages):
        left, used = 1.7 + 4.4 * s, s < arch.exit
        ax.add_patch(plt.Rectangle((left, 1.1), 4.1, 3.2, fc="none", ec="#bbbbbb" if used else "#e5e5e5", lw=0.8))
        arrow(ax, (left - 0.35, 2.6), (left + 0.02, 2.6), pale=not used)
        for b in range(space.slots):
            _slot(ax, left + 0.55 + b * 1.0, 2.6, space, arch, s, b, used and b < arch.depth[s])
        here = layers[layers.stage == s + 1]
        note = f"{stage.c_out} x {here['size'][here.block > 0].iloc[-1]}²" if used else "not computed"
        ax.text(left + 2.05, 0.8, f"S{s + 1}: {note}", ha="center", fontsize=7.5, color=LINE if used else "#b0b0b0")
        if stage.tail:
            taken = arch.exit == s + 1
            arrow(ax, (left + 3.9, 4.3), (left + 3.9, 4.72), pale=not taken)
            box(ax, left + 3.05, 5.0, 2.1, 0.5, f"exit {s + 1}: {stage.tail[0]}, {stage.tail[1]}",
                EXIT, pale=not taken, size=6.5)
    legend = [(f"kernel {k}", c) for k, c in KERNEL_COLOUR.items()] if not space.parallel else BRANCHES.values()
    for i, (text, colour) in enumerate(legend):
        box(ax, 1.9 + 3.2 * i, 0.25, 0.3, 0.25, colour=colour)
        ax.text(2.2 + 3.2 * i, 0.25, text, va="center", fontsize=7)
    ax.text(11.8, 0.25, "height: expansion 3, 4, 6; dotted: skipped", va="center", fontsize=7, color=GREY)
    fig.rows = layers
    return fig


def _slot(ax, x, y, space, arch, s, b, used):
    """One place of a stage: a block, or the three branches of a level."""
    i = s * space.slots + b
    k, e, level = arch.kernel[i], arch.expand[i], arch.level[i]
    height = {3: 1.1, 4: 1.6, 6: 2.4}.get(e, 1.1)       # canonical archs hold 0 where a number has no effect
    if not space.parallel:
        box(ax, x, y, 0.8, height if used else 1.1, f"k{k}\ne{e}" if used else "", KERNEL_COLOUR.get(k, BOX), not used)
        return
    for j, (bit, (_, colour)) in enumerate(BRANCHES.items()):
        active = used and bool(level & bit)
        text = f"k{k}\ne{e}" if active and bit == IRB else ""
        box(ax, x - 0.22 + (0, 0.32, 0.54)[j], y, (0.4, 0.17, 0.17)[j], height if active and bit == IRB else 0.9, text,
            colour, not active, 6)


@thesis_style
def draw_costs(archs, space, n_classes=200):
    """Parameters against MACs of many subnets, coloured by the exit they leave at."""
    costs = cost.count(archs, space, n_classes).assign(exit=[a.exit for a in archs],
                                                       resolution=[a.resolution for a in archs])
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for e, part in costs.groupby("exit"):
        ax.scatter(part.params / 1e6, part.macs / 1e6, s=9, color=EXIT_COLOURS(1 - e / 6), label=f"exit {e}", lw=0)
    ax.set(xlabel="parameters (M)", ylabel="MACs (M)", xscale="log", yscale="log",
           title=f"{len(archs)} subnets of {space.name}")
    ax.legend(markerscale=2)
    fig.rows = costs
    return fig


# ---------------------------------------------------------------------------------------------- stages and levels

def dense_sources(depth, dense=True):
    """Blocks (from 1) whose outputs are summed into the input of each later block, and into the stage output.

    Found by passing names instead of tensors through `supernet.through`: {2: (1,), ..., "out": (...)}.
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
    fig.rows = pd.DataFrame([{"into": k, "sources": " + ".join(f"y{s}" for s in v)}
                             for k, v in dense_sources(depth).items()])
    return fig


def _stage(ax, left, y, depth, dense, parallel):
    """Blocks or levels in a row from x = left, with the sums that the code makes between them."""
    at = {k: left + 0.9 + 1.8 * (k - 1) for k in range(1, depth + 1)} | {"out": left + 0.9 + 1.8 * depth}
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
                arrow(ax, (at[source] + 0.62, y), (end - 0.3, y + 0.16), bend=-0.32 - 0.05 * far, colour="#b2182b")


@thesis_style
def draw_stages():
    """The four kinds of stages: plain, dense, parallel, dense-parallel (thesis Figure 5.1)."""
    kinds = {(n.dense, n.parallel): name.split("_")[-1] for name, n in NETWORKS.items() if n.modular}
    fig, ax = canvas(21, 7.4)
    for (dense, parallel), kind in kinds.items():
        left, y = 0.4 + 10.4 * dense, 5.1 - 3.5 * parallel
        ax.text(left, y + 1.75, {"B": "B: modular", "D": "D: dense skips", "P": "P: parallel blocks",
                                 "DP": "DP: both"}[kind], fontsize=9, fontweight="bold")
        _stage(ax, left, y, 4, dense, parallel)
    ax.text(0.4, 0.1, "red: dense skips.  A: " + ",  ".join(
        f"{letter}: {name}" for letter, (name, _) in zip("ABC", BRANCHES.values(), strict=True))[3:], fontsize=7.5)
    fig.rows = pd.DataFrame([{"kind": kind, "dense": dense, "parallel": parallel,
                              **{f"into_{k}": " + ".join(f"y{s}" for s in v)
                                 for k, v in dense_sources(4, dense).items()}}
                             for (dense, parallel), kind in kinds.items()])
    return fig


@thesis_style
def draw_parallel_level(space, stage=1, first=True, width=1.0):
    """One level of a parallel stage: its three branches, their channels, and the seven codes (thesis 5.1.1).

    stage : 1 .. S;  first : the first level of the stage (stride, change of channels) or a later one
    """
    if not space.parallel:
        raise Refusal(f"{space.name} has no parallel levels: choose one of the P networks")
    slot = (stage - 1) * space.slots + (0 if first else 1)
    arch = space.arch(width=width, resolution=space.resolutions[-1])
    rows = cost.layers(arch, space)
    rows = rows[(rows.stage == stage) & (rows.block == (1 if first else 2))]
    fig, ax = canvas(16, 5.4, f"Level {1 if first else '2 to 4'} of stage {stage}: the sum of its active branches")
    steps = {IRB: [(f"{r.what}\n{r.c_in} → {r.c_out}" + (f", k{r.kernel}" if r.what == "depthwise" else ""))
                   for r in rows.itertuples() if r.what in ("expand", "depthwise", "gate", "project")],
             POINTWISE: [f"1x1, stride {r.stride}\n{r.c_in} → {r.c_out}"
                         for r in rows[rows.what == "pointwise"].itertuples()],
             TRANSFORM: [f"{'pool, ' if r.stride > 1 else ''}{'1x1, ' if r.kernel else ''}BN\n{r.c_in} → {r.c_out}"
                         for r in rows[rows.what == "transform"].itertuples()]}
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
        active = "+".join(letter for letter, bit in zip("ABC", BRANCHES, strict=True) if level & bit)
        ax.text(12.1, 4.7 - 0.55 * i, f"code {level}:  {active}", fontsize=7.5)
    fig.rows = rows.assign(slot=slot)
    return fig


@thesis_style
def draw_block(space, stage=2, block=2, width=1.0, resolution=64):
    """The inverted residual block in its three expansions: channels through the block (thesis Figures 2.7 and 2.8)."""
    plan = space.plan(width).stages[stage - 1]
    c_in = plan.c_in if block == 1 else plan.c_out
    fig, ax = canvas(15, 7.6, f"Block {block} of stage {stage} at width {width}: {c_in} → {plan.c_out} channels")
    rows, top = [], middle(c_in, max(space.expands))
    for j, e in enumerate(space.expands):
        y, mid = 6.4 - 2.5 * j, middle(c_in, e)
        parts = [("in", c_in), ("1x1 expand", mid), ("depthwise 3, 5, 7", mid),
                 *([(f"gate: {mid} → {se_hidden(mid)} → {mid}", mid)] if plan.se else []), ("1x1 project", plan.c_out)]
        for i, (text, channels) in enumerate(parts):
            x = 2.0 + 2.6 * i
            box(ax, x, y, 0.7, 0.25 + 1.1 * channels / top, str(channels), STEM if text.startswith("gate") else BOX)
            ax.text(x, y - 0.98, text, ha="center", fontsize=6.5)
            if i:
                arrow(ax, (x - 2.2, y), (x - 0.4, y))
        if block > 1:
            last = 2.0 + 2.6 * (len(parts) - 1)
            arrow(ax, (2.0, y + 0.25), (last, y + 0.25), bend=-0.14, colour=GREY)
            ax.text(last - 0.9, y + 0.75, "+ identity", fontsize=6.5, color=GREY)
        ax.text(0.2, y, f"e = {e}", va="center", fontsize=9, fontweight="bold")
        rows.append({"expand": e, "in": c_in, "middle": mid, "gate": se_hidden(mid) if plan.se else None,
                     "out": plan.c_out})
    fig.rows = pd.DataFrame(rows)
    return fig


@thesis_style
def draw_activations():
    """Hard swish and ReLU as the networks use them, beside ReLU6 (thesis Figure 2.9)."""
    import torch

    x = torch.linspace(-6, 8, 281)
    curves = {"h-swish": ACTIVATIONS["h_swish"]()(x), "ReLU": ACTIVATIONS["relu"]()(x), "ReLU6": torch.nn.ReLU6()(x)}
    fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
    for (name, y), style, like in zip(curves.items(), ("-", "--", ":"), ("EE_D", "SE_DP", "SE_P"), strict=True):
        ax.plot(x, y, style, label=name, color=COLOURS[like])
    ax.set(xlabel="x", ylabel="activation")
    ax.legend()
    fig.rows = pd.DataFrame({"x": x.numpy(), **{name: y.numpy() for name, y in curves.items()}})
    return fig


# ---------------------------------------------------------------------------------------------- networks

@thesis_style
def draw_supernet(space, width=1.0, n_classes=200):
    """The maximal network of a supernet: stem, stages and every exit, with channels, strides and sizes."""
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
        ax.text(0.2, y + 2.4, f"{name}: {NETWORKS[name].thesis_name}", fontsize=9, fontweight="bold",
                color=COLOURS[name])
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
        box(ax, x, y, 2.1, 1.3, f"S{s + 1}: {space.slots} {'levels' if space.parallel else 'blocks'}\n"
            f"{stage.c_out} ch, /{stage.stride}, {size} px\n{stage.act.replace('_', '-')}" + ", gate" * stage.se,
            COLOURS[space.name] + "33", size=6.5)
        if stage.tail:
            arrow(ax, (x, y + 0.65), (x, y + 1.05))
            box(ax, x, y + 1.4, 2.1, 0.65, f"exit {s + 1}: {stage.tail[0]}\n→ {stage.tail[1]} → {n_classes}",
                EXIT, size=6.5)
        cells = here[["params", "macs"]].groupby(here.block > 0).sum()
        ax.text(x, y - 0.95, f"{cells.params[True] / 1e6:.2f} M params, {cells.macs[True] / 1e6:.1f} M MACs",
                ha="center", fontsize=6.2, color=GREY)
        rows.append({"stage": s + 1, "channels": stage.c_out, "stride": stage.stride, "size": size, "act": stage.act,
                     "gate": stage.se, "tail": str(stage.tail), "params": cells.params[True], "macs": cells.macs[True]})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------- training

@thesis_style
def draw_phases(space):
    """Extended progressive shrinking of a space: what may be chosen in each phase, newly opened values in colour.

    Thesis Figure 5.3 (and 3.2 for the baseline); drawn from `shrink.phases_for` and `choices_after`.
    """
    phases, kinds = shrink.phases_for(space), ("kernel", "level", "exit", "depth", "expand")
    kinds = [k for k in kinds if any(p.opens == k for p in phases)]
    fig, ax = canvas(2.2 + 3.1 * (len(kinds) + 1), 1.0 + 0.75 * len(phases))
    heads = ["resolution", *kinds]
    for j, head in enumerate(heads):
        ax.text(3.4 + 3.1 * j, 0.75 * len(phases) + 0.6, head, ha="center", fontweight="bold", fontsize=8)
    rows = []
    for i, phase in enumerate(phases):
        y, choices = 0.75 * (len(phases) - i) - 0.1, shrink.choices_after(space, phase)
        ax.text(0.2, y, f"{phase.name}", va="center", fontweight="bold")
        ax.text(1.7, y, phase.step, va="center", ha="right", fontsize=6.5, color=GREY)
        shown = {"resolution": space.resolutions, **{k: getattr(choices, k) for k in kinds}}
        if phase.opens is None:
            shown["exit"] = space.exits     # the maximal network trains all its exits jointly
        for j, head in enumerate(heads):
            new = phase.opens == head or (phase.opens is None and j == 0)
            if head in shown:
                box(ax, 3.4 + 3.1 * j, y, 2.9, 0.55, ", ".join(map(str, sorted(shown[head]))),
                    COLOURS["EE_D"] + "66" if new else BOX, size=6.5)
        rows.append({"phase": phase.name, "step": phase.step} | {k: " ".join(map(str, v)) for k, v in shown.items()})
    fig.rows = pd.DataFrame(rows)
    return fig


@thesis_style
def draw_teachers(space, pet_lag=0):
    """Which network teaches each phase: always the first (fixed), or the result of the phase before (progressive)."""
    phases = shrink.phases_for(space)
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
            arrow(ax, (1.1 + 1.8 * source, y + 0.35), (x, y + 0.35), bend=-1.1 / (i - source + 1),
                  colour=COLOURS["EE_D"])
            rows.append({"teacher": teacher, "phase": phase.name, "taught_by": phases[source].name})
    ax.text(0.2, 0.1, "grey: starts from its weights;  red: teaches", fontsize=7.5, color=GREY)
    fig.rows = pd.DataFrame(rows)
    return fig


# ---------------------------------------------------------------------------------------------- encoding

@thesis_style
def draw_encoding(names=("BASE", "SE_P", "EE_B", "EE_P")):
    """The genotypes of the four families, variable by variable, and what a code means (thesis Figures 3.4, 6.1)."""
    fig, ax = canvas(26, 2.0 * len(names) + 3.4)
    rows = []
    for j, name in enumerate(names):
        space, y = Space(name), 2.0 * (len(names) - j) + 2.3
        labels = ["R", "W", "X"][: space.first] + [f"{s}.{b}" for s in range(1, space.n_stages + 1)
                                                  for b in range(1, space.slots + 1)]
        ax.text(0.2, y + 0.75, f"{name}: {space.n_var} variables", fontweight="bold", color=COLOURS[name])
        for i, (label, low, high) in enumerate(zip(labels, space.lower, space.upper, strict=True)):
            stage = (i - space.first) // space.slots
            box(ax, 1.0 + 1.08 * i, y, 1.0, 0.75, f"{label}\n{low}..{high}",
                STEM if i < space.first else ("#dfe9f2", "#c5d8e8")[stage % 2], size=6.2)
            rows.append({"space": name, "variable": label, "lowest": low, "highest": high,
                         "may_skip": bool(i >= space.first and low == 0)})
    for j, name in enumerate(("BASE", "SE_P")):
        space, y = Space(name), 1.9 - 1.1 * j
        shown = sorted({*range(min(10, space.n_codes + 1)), *((10, 23, 28, 63) if space.parallel else ())})
        ax.text(0.2, y, f"codes of\n{'a level' if space.parallel else 'a block'}", va="center", fontsize=7.5)
        for i, code in enumerate(shown):
            k, e, level = space.code_table[code]
            text = "skip" if code == 0 else f"k{k} e{e}" + (f" L{level}" if space.parallel else "")
            box(ax, 2.6 + 1.65 * i, y, 1.55, 0.7, f"{code}\n{text}", KERNEL_COLOUR[int(k)] if code else PALE, size=6.5)
    fig.rows = pd.DataFrame(rows)
    return fig


# ---------------------------------------------------------------------------------------------- flows

# name: (title, {node: (x, y, text)}, [(from, to, label)])
FLOWS = {
    "outline": ("What builds on what (thesis Figure 1.1)", {
        "aep": (2.3, 3.5, "AEP\nensembles of early exits,\npruned"),
        "ofa": (2.3, 1.6, "OFA\none supernet,\nmany subnets"),
        "ofav2": (7.7, 2.6, "OFAv2\nexits, dense, parallel,\nprogressive teacher"),
        "nat": (7.7, 0.8, "NAT\nsearch that adapts\nthe supernet"),
        "natv2": (13.2, 1.7, "NATv2\nfour phases, exits as a\nvariable, post-processing")},
     [("aep", "ofav2", "joint loss"), ("ofa", "ofav2", ""), ("ofav2", "natv2", "supernets"), ("nat", "natv2", "")]),
    "nat": ("One iteration of NAT (thesis Figure 3.3)", {
        "archive": (2.2, 2.6, "archive of\nevaluated subnets"), "fit": (7.7, 2.6, "fit the\nerror predictor"),
        "search": (13.2, 2.6, "evolve candidates,\nkeep a diverse few"),
        "evaluate": (13.2, 0.7, "score them with\nthe supernet's weights"),
        "adapt": (7.7, 0.7, "train the supernet on\nsubnets like the best"),
        "rescore": (2.2, 0.7, "score the\narchive again")},
     [("archive", "fit", ""), ("fit", "search", ""), ("search", "evaluate", ""), ("evaluate", "adapt", ""),
      ("adapt", "rescore", ""), ("rescore", "archive", "")]),
    "aep": ("Early exits: trained together, answering together (thesis Figure 4.1)", {
        "x": (1.3, 0.6, "images"), "s1": (4.4, 0.6, "stage 1"), "s2": (7.5, 0.6, "stage 2"),
        "s3": (10.6, 0.6, "stage n"), "e1": (4.4, 2.2, "exit 1"), "e2": (7.5, 2.2, "exit 2"),
        "e3": (10.6, 2.2, "exit n"),
        "loss": (4.4, 3.9, "loss: weighted sum\nof cross-entropies"),
        "vote": (10.6, 3.9, "answer: weighted sum of\nlogits, each exit on or off")},
     [("x", "s1", ""), ("s1", "s2", ""), ("s2", "s3", ""), ("s1", "e1", ""), ("s2", "e2", ""), ("s3", "e3", ""),
      *((e, to, "") for e in ("e1", "e2", "e3") for to in ("loss", "vote"))]),
}


@thesis_style
def draw_flow(name):
    """A small graph of FLOWS: boxes and arrows."""
    title, nodes, edges = FLOWS[name]
    half = {n: np.array([0.35 + 0.062 * max(map(len, text.split("\n"))), 0.2 + 0.2 * text.count("\n") + 0.15])
            for n, (_, _, text) in nodes.items()}
    fig, ax = canvas(max(x + half[n][0] for n, (x, _, _) in nodes.items()) + 0.3,
                     max(y + half[n][1] for n, (_, y, _) in nodes.items()) + 0.5, title)
    for a, b, label in edges:
        start, end = (np.add(nodes[n][:2], [0, 0.2]) for n in (a, b))
        way = end - start
        with np.errstate(divide="ignore"):      # a box is left through the side that the arrow meets first
            leave, meet = ((half[n] / abs(way)).min() * way for n in (a, b))
        arrow(ax, tuple(start + leave), tuple(end - meet), label=label)
    for n, (x, y, text) in nodes.items():
        box(ax, x, y + 0.2, *(2 * half[n]), text, size=7)
    fig.rows = pd.DataFrame(edges, columns=["from", "to", "label"])
    return fig
