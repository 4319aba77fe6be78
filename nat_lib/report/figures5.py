"""Figures of chapter 5."""

from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nat_lib.report.style import COLOURS, EXIT_COLOURS, GREY, thesis_style
from nat_lib.results.names import NOT_RUN, TEACHERS, WIDTHS
from nat_lib.results.printed import printed

STEPS = {
    "ER": "Resolution",
    "EKS": "Kernel size",
    "EL": "Level",
    "EX": "Exit",
    "ED": "Depth",
    "EW": "Width",
}


# ------------------------------------------------------------------------------------------ figures


def panel_grid(n, columns, size, **options):
    """n axes in rows of `columns`, the unused ones hidden; size: inches of one panel."""
    rows = -(-n // columns)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        squeeze=False,
        **options,
    )
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:n])


def empty_panel(message):
    """A figure that says why it is empty."""
    fig, ax = plt.subplots(figsize=(6, 1.2))
    ax.axis("off")
    fig.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
    fig.rows = pd.DataFrame()
    return fig


def _line(teacher):
    """Fixed teachers are dashed with open markers, in every figure."""
    return {"ls": "--", "mfc": "white", "lw": 1.0} if teacher == "fixed" else {"ls": "-", "lw": 1.4}


def in_order(supernets):
    return [s for s in COLOURS if s in set(supernets)]


@thesis_style
def learning_curves(phases, width):
    """Validation top-1 over all epochs of a supernet's phases, fixed against progressive teacher; a
    panel per supernet.

    phases : `eps_phases` of one data set. Every phase is validated on its own subnets, hence the
             steps between phases.
    """
    here = phases[phases.wm == str(width)]
    if here.empty:
        return empty_panel(f"Learning curves at width {width}: {NOT_RUN}")
    names = in_order(here.supernet)
    fig, axes = panel_grid(len(names), 2, (5.2, 2.3), sharey=True)
    order, plotted = list(printed("table_5_2").phase), []
    tight = here.groupby("supernet").phase.nunique().max() > 8
    for ax, name in zip(axes, names, strict=True):
        mine = here[here.supernet == name]
        lengths = mine.groupby("phase").epochs.max()
        start = dict(
            zip(
                lengths.reindex(order).dropna().index,
                np.cumsum([0, *lengths.reindex(order).dropna()]),
                strict=False,
            )
        )
        for i, (phase, at) in enumerate(start.items()):
            ax.axvspan(
                at, at + lengths[phase], color="#f3f3f3" if i % 2 else "white", lw=0, zorder=0
            )
            ax.text(
                at + lengths[phase] / 2,
                1.01,
                phase,
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=6.5,
                color="#666666",
                rotation=35 if tight else 0,
            )
        for p in mine.itertuples():
            curve = pd.read_csv(Path(p.folder) / "history.csv")
            x = start[p.phase] + curve.epoch - 0.5  # the middle of the epoch
            ax.plot(
                x,
                curve.val_top1,
                **_line(p.teacher),
                marker="o" if len(x) < 12 else None,
                ms=3,
                color="#222222" if p.teacher == "any" else COLOURS[name],
            )
            plotted.append(
                pd.DataFrame(
                    {
                        "supernet": name,
                        "wm": p.wm,
                        "seed": p.seed,
                        "teacher": p.teacher,
                        "phase": p.phase,
                        "epoch": x,
                        "val_top1": curve.val_top1,
                    }
                )
            )
        whole = pd.concat(plotted[-len(mine) :])
        for teacher, seed in product(sorted(set(whole.teacher) - {"any"}), sorted(set(whole.seed))):
            line = whole[whole.teacher.isin(["any", teacher]) & (whole.seed == seed)].sort_values(
                "epoch"
            )
            ax.plot(
                line.epoch,
                line.val_top1,
                **_line(teacher) | {"lw": 0.5},
                alpha=0.5,
                color=COLOURS[name],
                zorder=1,
            )
        ax.set_title(name, pad=22 if tight else 14, color=COLOURS[name])
        ax.set_xlim(0, sum(lengths))
    for ax in axes[::2]:
        ax.set_ylabel("validation top-1 (%)")
    fig.supxlabel("epoch, all phases in a row", fontsize=8.5)
    fig.legend(
        handles=[
            Line2D([], [], color="#222222", label="before the teachers differ"),
            Line2D([], [], color=GREY, ls="--", label="fixed teacher"),
            Line2D([], [], color=GREY, label="progressive teacher"),
        ],
        loc="outside upper center",
        ncols=3,
    )
    fig.rows = pd.concat(plotted, ignore_index=True)
    return fig


@thesis_style
def best_bars(cells):
    """Best subnet of every supernet at the end of training: ours as bars (fixed, progressive),
    printed as markers."""
    end = cells[(cells.step == "EW") & (cells.stat == "best")]
    names = in_order(end.supernet)
    fig, axes = panel_grid(2, 2, (5.0, 3.0), sharey=True)
    for ax, width in zip(axes, WIDTHS, strict=True):
        for i, name in enumerate(names):
            for side, teacher in ((-0.2, "fixed"), (0.2, "pet")):
                cell = end[
                    (end.wm == width) & (end.supernet == name) & (end.teacher == teacher)
                ].iloc[0]
                if np.isnan(cell.ours):
                    ax.text(
                        i + side,
                        1,
                        "not run",
                        rotation=90,
                        ha="center",
                        va="bottom",
                        fontsize=6.5,
                        color=GREY,
                    )
                else:
                    ax.bar(
                        i + side,
                        cell.ours,
                        0.36,
                        yerr=cell.uncertainty,
                        color=COLOURS[name],
                        lw=0.8,
                        alpha=0.5 if teacher == "fixed" else 1,
                        hatch="////" if teacher == "fixed" else None,
                        edgecolor="white",
                        error_kw={"lw": 0.8, "ecolor": "#333333"},
                    )
                ax.plot(
                    i + side, cell.printed, "D", ms=4, mfc="black", mec="white", mew=0.7, zorder=5
                )
        ax.set_title(f"width {width}")
        ax.set_ylim(bottom=0)
        ax.set_xticks(range(len(names)), names, rotation=30)
    axes[0].set_ylabel("best subnet, test top-1 (%)")
    fig.legend(
        handles=[
            Patch(fc=GREY, alpha=0.5, hatch="////", ec="white", label="fixed teacher"),
            Patch(fc=GREY, label="progressive teacher"),
            Line2D([], [], ls="", marker="D", color="black", ms=4, label="printed in the thesis"),
        ],
        loc="outside upper center",
        ncols=3,
    )
    fig.rows = end[
        ["wm", "supernet", "teacher", "ours", "uncertainty", "seeds", "printed", "verdict"]
    ]
    return fig


@thesis_style
def best_per_step(cells, width):
    """Best top-1 per supernet and step (executive summary, Figure 4): printed on the left, ours on
    the right.

    A step that a supernet does not execute repeats the last value.
    """
    rows = cells[(cells.wm == str(width)) & (cells.stat == "best")].copy()
    rows["order"] = rows.step.map(list(STEPS).index)
    rows = rows.sort_values("order", kind="stable")
    filled = rows.groupby(["supernet", "teacher"])[["printed", "ours"]].ffill()
    # Carried on only over a step the supernet does not have: a step that was not run stays a gap.
    rows[["printed", "ours"]] = filled.where(rows.applicable == "0", rows[["printed", "ours"]])
    fig, axes = panel_grid(2, 2, (5.0, 3.2))
    for ax, column, title in zip(
        axes, ("printed", "ours"), ("printed in the thesis", "ours"), strict=True
    ):
        for (name, teacher), line in rows.groupby(["supernet", "teacher"]):
            ax.plot(
                line.order, line[column], **_line(teacher), marker="o", ms=3, color=COLOURS[name]
            )
        ax.set_title(f"{title}, width {width}")
        ax.set_xticks(range(len(STEPS)), list(STEPS.values()))
    if rows.ours.isna().all():
        axes[1].text(0.5, 0.5, NOT_RUN, transform=axes[1].transAxes, ha="center", color=GREY)
    axes[0].set_ylabel("best subnet, test top-1 (%)")
    fig.legend(
        handles=[Line2D([], [], color=COLOURS[n], label=n) for n in in_order(rows.supernet)]
        + [
            Line2D([], [], color=GREY, ls="--", label="fixed"),
            Line2D([], [], color=GREY, label="progressive"),
        ],
        loc="outside right upper",
    )
    fig.rows = rows[["wm", "supernet", "teacher", "step", "applicable", "printed", "ours", "seeds"]]
    return fig


@thesis_style
def teacher_quality(phases, width):
    """Validation top-1 of the teacher at the start of every phase: its ensemble and each of its
    exits.

    A progressive teacher of an early-exit supernet carries exits that no phase has trained since
    Full; the figure shows how far they have fallen behind. A fixed teacher is the same network in
    every phase.
    """
    here = phases[(phases.wm == str(width)) & phases.ensemble_top1.notna()]
    if here.empty:
        return empty_panel(f"Teacher quality at width {width}: {NOT_RUN}")
    names, plotted = in_order(here.supernet), []
    fig, axes = panel_grid(len(names), 2, (5.2, 2.3), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        mine = here[here.supernet == name]
        order = [p for p in printed("table_5_2").phase if p in set(mine.phase)]
        for teacher in TEACHERS:
            mean = _teacher_rows(mine[mine.teacher.isin(["any", teacher])])
            for e, line in mean.groupby("exit"):
                line = line.set_index("phase").reindex(order)
                colour = COLOURS[name] if e == 0 else EXIT_COLOURS(1 - e / 6)
                ax.plot(
                    range(len(order)),
                    line.top1,
                    **_line(teacher) | {"lw": 2 if e == 0 else 0.9},
                    color=colour,
                    marker="o",
                    ms=3.5 if e == 0 else 2,
                    zorder=3 if e == 0 else 2,
                )
            plotted.append(mean.assign(supernet=name, wm=str(width), teacher=teacher))
        ax.set_title(name, color=COLOURS[name])
        ax.set_xticks(range(len(order)), order, rotation=0 if len(order) < 9 else 30)
    for ax in axes[::2]:
        ax.set_ylabel("validation top-1 (%)")
    fig.legend(
        handles=[Line2D([], [], color=GREY, lw=2, label="ensemble (what teaches)")]
        + [Line2D([], [], color=EXIT_COLOURS(1 - e / 6), label=f"exit {e}") for e in range(1, 6)]
        + [
            Line2D([], [], color=GREY, ls="--", label="fixed"),
            Line2D([], [], color=GREY, label="progressive"),
        ],
        loc="outside upper center",
        ncols=4,
    )
    fig.rows = pd.concat(plotted, ignore_index=True)
    return fig


def _teacher_rows(phases):
    """Mean over seeds of teacher.csv: exit (0 = ensemble), phase, top1; a single exit is its own
    ensemble."""
    frames = [
        pd.read_csv(Path(p.folder) / "teacher.csv").assign(phase=p.phase)
        for p in phases.itertuples()
    ]
    rows = pd.concat(frames or [pd.DataFrame({"exit": [], "phase": [], "top1": []})])
    rows = rows[rows.exit == 0] if rows.exit.nunique() == 2 else rows
    return rows.groupby(["exit", "phase"], as_index=False).top1.mean()
