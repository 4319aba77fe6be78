"""What the versions of the search change, and what a genotype says."""

import numpy as np
import pandas as pd

from nat_lib.arch import Space
from nat_lib.report.schematics.canvas import box, canvas
from nat_lib.report.shapes import BOX, KERNEL_COLOUR, PALE, STEM
from nat_lib.report.style import COLOURS, colour_of, thesis_style
from nat_lib.search import archive

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
    table = archive.as_frame(archive.VERSIONS)
    table["post"] = np.where(
        table.index == POSTED, "fine-tuned, alone or with exits", "stays as it is"
    )
    table = table[[*SETTINGS, *table.columns.difference(list(SETTINGS))]]
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
                ax.text(4.2, y, SETTINGS.get(name, name), va="center", ha="right", fontsize=7.5)
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
            color=colour_of(name),
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
