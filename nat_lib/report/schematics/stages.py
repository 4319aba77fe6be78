"""Stages and levels: which outputs are summed where, and the branches of a level."""

from string import ascii_uppercase

import pandas as pd

from nat_lib import cost
from nat_lib.errors import Refusal
from nat_lib.plans import NETWORKS
from nat_lib.report.schematics.canvas import arrow, box, canvas, plus
from nat_lib.report.shapes import branches
from nat_lib.report.style import GREY, thesis_style
from nat_lib.supernet import through

KINDS = {"B": "B: modular", "D": "D: dense skips", "P": "P: parallel blocks", "DP": "DP: both"}


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


def _stage(ax, left, y, depth, dense, parallel):
    """Blocks or levels in a row from x = left, with the sums that the code makes between them."""
    at = {k: left + 0.9 + 1.8 * (k - 1) for k in range(1, depth + 1)} | {
        "out": left + 0.9 + 1.8 * depth
    }
    arrow(ax, (left, y), (at[1] - 0.5, y))
    for k in range(1, depth + 1):
        if parallel:
            for j, (_, colour) in enumerate(branches()):
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
            KINDS.get(kind, kind),
            fontsize=9,
            fontweight="bold",
        )
        _stage(ax, left, y, 4, dense, parallel)
    ax.text(
        0.4,
        0.1,
        "red: dense skips.  A: "
        + ",  ".join(
            f"{letter}: {name}" for letter, (name, _) in zip("ABC", branches(), strict=True)
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


def _step(row):
    """One layer of a branch in words."""
    words = {
        "depthwise": f"{row.what}, k{row.kernel}",
        "pointwise": f"1x1, stride {row.stride}",
        "transform": "pool, " * (row.stride > 1) + "1x1, " * (row.kernel > 0) + "BN",
    }
    return f"{words.get(row.what, row.what)}\n{row.c_in} → {row.c_out}"


@thesis_style
def draw_parallel_level(space, stage=1, first=True, width=1.0):
    """One level of a parallel stage: its branches, their channels, and the codes
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
    place = space.layout(width).stages[stage - 1].place(first)
    for j, branch in enumerate(space.branches.values()):
        layers = branch.layers(place, arch.resolution, arch.kernel[slot], arch.expand[slot])
        steps = [_step(layer) for layer in layers]
        y = 4.4 - 1.5 * j
        arrow(ax, (0.2, 2.9), (1.9, y))
        ax.text(
            2.0,
            y + 0.58,
            f"{ascii_uppercase[j]} (code {branch.bit}): {branch.label}",
            fontsize=7,
            color=GREY,
        )
        for i, text in enumerate(steps):
            box(ax, 2.9 + 2.1 * i, y, 1.8, 0.85, text, branch.colour, size=6.5)
            if i:
                arrow(ax, (1.7 + 2.1 * i, y), (2.0 + 2.1 * i, y))
        arrow(ax, (3.8 + 2.1 * (len(steps) - 1), y), (10.75, 2.9))
    plus(ax, 10.9, 2.9)
    arrow(ax, (11.06, 2.9), (11.7, 2.9))
    for i, level in enumerate(space.levels):
        active = "+".join(
            ascii_uppercase[j]
            for j, branch in enumerate(space.branches.values())
            if level & branch.bit
        )
        ax.text(12.1, 4.7 - 0.55 * i, f"code {level}:  {active}", fontsize=7.5)
    fig.rows = rows.assign(slot=slot)
    return fig
