"""Phases of extended progressive shrinking, and who teaches whom."""

import pandas as pd

from nat_lib import curricula
from nat_lib.distill import TEACHERS
from nat_lib.report.schematics.canvas import arrow, box, canvas
from nat_lib.report.shapes import BOX, STEM
from nat_lib.report.style import COLOURS, GREY, thesis_style


@thesis_style
def draw_phases(space):
    """Extended progressive shrinking of a space: what may be chosen in each phase, newly opened
    values in colour.

    Thesis Figure 5.3 (and 3.2 for the baseline); drawn from `curricula.phases_for` and
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
    taught = [row for row in TEACHERS.values() if row.source]
    fig, ax = canvas(0.6 + 1.8 * len(phases), 3.1 * len(taught))
    rows = []
    for below, row in zip(reversed(range(len(taught))), taught, strict=True):
        teacher, y = row.label, 1.0 + 3.1 * below
        ax.text(0.2, y + 1.45, f"{teacher} teacher", fontweight="bold")
        for i, phase in enumerate(phases):
            x = 1.1 + 1.8 * i
            box(ax, x, y, 1.3, 0.7, phase.name, STEM if i == 0 else BOX)
            if i == 0:
                continue
            source = row.source(i, pet_lag)
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
