"""Figures of chapter 5, made from the frames of `results.chapter5` and of nothing else."""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.panels import line, marker, patch
from nat_lib.report.style import (
    EXITS,
    GREY,
    TEACHER_WORDS,
    exit_colour,
    in_order,
    palette,
    thesis_style,
)
from nat_lib.report.tables5 import STEPS
from nat_lib.results.names import NOT_RUN, PRINTED_TEACHERS, RUN_ON, WIDTHS, extended, name_of
from nat_lib.results.printed import printed

BEFORE = "#222222"  # before the teachers differ
DASHES = {"fixed": "--", "any": "-", "pet": "-"}
OF_TEACHERS = [line("fixed teacher", ls="--"), line("progressive teacher")]


def _dashes(teachers):
    """{teacher: line style}; an unknown one is dotted."""
    return {teacher: DASHES.get(teacher, ":") for teacher in dict.fromkeys(teachers)}


def _phases_in_order(found):
    """The phases of Table 5.2 in its order, then those that only we ran."""
    found = list(dict.fromkeys(found))
    return [p for p in extended(printed("table_5_2").phase, found) if p in found]


@thesis_style
def learning_curves(phases, width):
    """Validation top-1 over all epochs of a supernet's phases, fixed against progressive teacher; a
    panel per supernet.

    phases : `eps_phases` of one data set. Every phase is validated on its own subnets, hence the
             steps between phases.
    """
    here = phases[phases.wm == str(width)]
    if here.empty:
        return panels.empty(f"Learning curves at width {width}: {NOT_RUN}")
    names = in_order(here.supernet)
    spans = {name: _spans(here[here.supernet == name]) for name in names}
    rows = pd.concat([_history(p, spans[p.supernet]) for p in here.itertuples()], ignore_index=True)
    rows = rows.assign(place=rows.supernet.map(names.index)).sort_values("place", kind="stable")
    rows = rows.drop(columns="place").reset_index(drop=True)
    shown = pd.concat([_joined(rows), _curves(rows)], ignore_index=True)
    dots = 3.5 if rows.epoch.max() < 100 else 0.0
    drawn = (
        panels.plot(shown, x="epoch", y="val_top1", color="colour", linestyle="teacher")
        .add(
            so.Line(marker="o"),
            alpha="kind",
            linewidth="kind",
            pointsize="kind",
            group="run",
            legend=False,
        )
        .scale(
            color=palette(rows.supernet) | {"before": BEFORE},
            linestyle=_dashes(rows.teacher),
            alpha={"joined": 0.5, "curve": 1.0},
            linewidth={"joined": 0.5, "curve": 1.4},
            pointsize={"joined": 0.0, "curve": dots},
        )
    )
    size, ylabel = (5.2, 2.3), "validation top-1 (%)"
    fig, axes = panels.wrapped(drawn, "supernet", names, size, ylabel, x=False, y=True)
    for name, ax in axes.items():
        _shade(ax, spans[name], tight=max(map(len, spans.values())) > 8)
        panels.xlabel(ax, "")
    panels.note(fig, "epoch, all phases in a row")
    panels.legend(fig, line(TEACHER_WORDS["any"], BEFORE), *OF_TEACHERS)
    fig.rows = rows
    return fig


def _spans(mine):
    """{phase: (first epoch, last epoch)} of one supernet, all phases in a row."""
    lengths, spans, start = mine.groupby("phase").epochs.max(), {}, 0
    for phase in _phases_in_order(mine.phase):
        spans[phase] = (start, start + lengths[phase])
        start = spans[phase][1]
    return spans


def _history(p, spans):
    curve = pd.read_csv(Path(p.folder) / "history.csv")
    return pd.DataFrame(
        {
            "supernet": p.supernet,
            "wm": p.wm,
            "seed": p.seed,
            "teacher": p.teacher,
            "phase": p.phase,
            "epoch": spans[p.phase][0] + curve.epoch - 0.5,  # the middle of the epoch
            "val_top1": curve.val_top1,
        }
    )


def _curves(rows):
    """One curve per training."""
    colour = np.where(rows.teacher == "any", "before", rows.supernet)
    run = rows.teacher + rows.phase + rows.seed.astype(str)
    return rows.assign(kind="curve", colour=colour, run=run)


def _joined(rows):
    """The thin lines behind the curves: what the runs of one teacher share, then its own."""
    parts = []
    for teacher in [t for t in dict.fromkeys(rows.teacher) if t != "any"] or ["any"]:
        part = rows[rows.teacher.isin(["any", teacher])]
        run = f"joined {teacher}" + part.seed.astype(str)
        parts.append(part.assign(kind="joined", colour=part.supernet, teacher=teacher, run=run))
    return pd.concat(parts)


def _shade(ax, spans, tight):
    """Every second phase on grey, the names of all above the panel."""
    for i, (phase, (start, end)) in enumerate(spans.items()):
        ax.axvspan(start, end, color="#f3f3f3" if i % 2 else "white", lw=0, zorder=0)
        ax.text(
            (start + end) / 2,
            1.01,
            phase,
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=6.5,
            color="#666666",
            rotation=35 if tight else 0,
        )
    ax.set_title(ax.get_title(loc="left"), pad=22 if tight else 14, color=ax.title.get_color())
    ax.set_xlim(0, end)


@thesis_style
def best_bars(cells):
    """Best subnet of every supernet at the end of training, a column per width: ours as bars (fixed
    pale, progressive full).

    Printed values are diamonds on the bars where ours were made as the thesis made its own; else
    they stand in a row of their own, as they say nothing of bars of another data set.
    """
    end = cells[(cells.step == "EW") & (cells.stat == "best")].reset_index(drop=True)
    names, widths = in_order(end.supernet), extended(WIDTHS, end.wm)
    judged = bool(end.comparable[end.ours.notna()].all()) and end.ours.notna().any()
    place = end.supernet.map(names.index) + end.teacher.map({"fixed": -0.2, "pet": 0.2}).fillna(0)
    shown = end.assign(place=place, value=end.ours, source="ours")
    if not judged:
        paper = shown.assign(value=end.printed, source=f"printed, {name_of(RUN_ON['eps'])}")
        shown = pd.concat([shown, paper.assign(uncertainty=np.nan)], ignore_index=True)
    sources = list(dict.fromkeys(shown.source))
    shown = shown[shown.value.notna().groupby(shown.source).transform("any")]
    shown = panels.with_errors(shown, "value", "uncertainty")
    drawn = (
        panels.plot(shown[shown.value.notna()], x="place", y="value", color="supernet")
        .add(so.Bar(width=0.9, edgewidth=0), alpha="teacher", legend=False)
        .add(panels.ERRORS, color=None, **panels.OF_ERRORS)
        .scale(color=palette(names), alpha={"fixed": 0.45, "pet": 1.0})
    )
    rows = ("source", sources)
    ylabel = "test top-1 (%)"
    fig, axes = panels.grid(drawn, shown, rows, ("wm", widths), (5.0, 2.4), ylabel, True, "row")
    for (source, width), ax in axes.items():
        here = shown[(shown.source == source) & (shown.wm == width)]
        for row in here[here.value.isna()].itertuples():
            ax.text(row.place, 1, "not run", rotation=90, ha="center", va="bottom", **NOTE)
        if judged:
            ax.plot(here.place, here.printed, "D", ms=4, mfc="black", mec="white", zorder=5)
        ax.set_ylim(bottom=0)
        ax.set_xticks(range(len(names)), names, rotation=30)
        ax.tick_params(labelbottom=True)
    diamonds = [marker("printed in the thesis", "D", "black")] if judged else []
    panels.legend(fig, patch("fixed teacher", alpha=0.45), patch("progressive teacher"), *diamonds)
    columns = ["wm", "supernet", "teacher", "ours", "uncertainty", "seeds", "printed", "verdict"]
    fig.rows = end[columns]
    return fig


NOTE = {"fontsize": 6.5, "color": GREY}


@thesis_style
def best_per_step(cells, width):
    """Best top-1 per supernet and step (executive summary, Figure 4): printed on the left, ours on
    the right.

    A step that a supernet does not execute repeats the last value. Where ours fall although the
    printed curves rise, a line below says what the budget was too small for.
    """
    rows = cells[(cells.wm == str(width)) & (cells.stat == "best")].copy()
    steps = extended(STEPS, rows.step)
    rows["order"] = rows.step.map(steps.index)
    rows = rows.sort_values("order", kind="stable")
    filled = rows.groupby(["supernet", "teacher"])[["printed", "ours"]].ffill()
    # Carried on only over a step the supernet does not have: a step that was not run stays a gap.
    rows[["printed", "ours"]] = filled.where(rows.applicable == "0", rows[["printed", "ours"]])
    shown = rows.melt(
        ["supernet", "teacher", "order"], ["printed", "ours"], "source", "top1"
    ).dropna()
    colours = palette(rows.supernet)
    drawn = (
        panels.plot(shown, x="order", y="top1", color="supernet", linestyle="teacher")
        .add(so.Line(marker="o", pointsize=3.5, linewidth=1.3), legend=False)
        .scale(color=colours, linestyle=_dashes(rows.teacher))
    )
    names = [name for name in ("printed", "ours") if name in set(shown.source)]
    size, ylabel = (5.0, 3.2), "best subnet, test top-1 (%)"
    fig, axes = panels.wrapped(drawn, "source", names, size, ylabel, x=True, y=False)
    for name, ax in axes.items():
        words = {"printed": f"printed in the thesis, {name_of(RUN_ON['eps'])}"}.get(name, name)
        ax.set_title(f"{words}, width {width}")
        ax.set_xticks(range(len(steps)), [STEPS.get(step, step) for step in steps])
    said = too_small(rows) if "ours" in names else f"ours: {NOT_RUN}"
    panels.note(fig, said)
    panels.legend(fig, *(line(n, c) for n, c in colours.items()), *OF_TEACHERS)
    columns = ["wm", "supernet", "teacher", "step", "applicable", "printed", "ours", "seeds"]
    fig.rows = rows[columns]
    return fig


def too_small(rows):
    """What the curves of `best_per_step` say about the budget, in one sentence; "" where ours do
    not fall more than noise after the first step, or the printed ones fall as well.

    rows : supernet, teacher, order, printed, ours, uncertainty
    """
    fallen = []
    runs = rows[rows.ours.notna()].groupby(["supernet", "teacher"], sort=False)
    for (supernet, _), run in runs:
        first, last = run.iloc[0], run.iloc[-1]
        noise = 2 * np.hypot(first.uncertainty, last.uncertainty)
        falls = first.ours - last.ours > np.fmax(noise, 0)
        if falls and last.printed > first.printed:
            fallen.append(supernet)
    if not fallen:
        return ""
    return (
        f"In {len(fallen)} of {runs.ngroups} runs of ours the best subnet is worse after the last "
        "step than after the first, where the thesis's is better: each phase had too few training "
        "steps to win back what opening new choices costs."
    )


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
        return panels.empty(f"Teacher quality at width {width}: {NOT_RUN}")
    names = in_order(here.supernet)
    teachers = extended(PRINTED_TEACHERS, [t for t in here.teacher if t != "any"])
    rows = pd.concat(
        [_teacher(here, name, teacher, width) for name in names for teacher in teachers],
        ignore_index=True,
    )
    order = {n: _phases_in_order(here.phase[here.supernet == n]) for n in names}
    shown = rows.assign(
        place=[order[r.supernet].index(r.phase) for r in rows.itertuples()],
        colour=np.where(rows.exit == 0, rows.supernet, "exit " + rows.exit.astype(str)),
        weight=np.where(rows.exit == 0, "ensemble", "exit"),
    )
    exits = {f"exit {e}": exit_colour(e) for e in sorted(set(rows.exit) | set(EXITS)) if e}
    drawn = (
        panels.plot(shown, x="place", y="top1", color="colour", linestyle="teacher")
        .add(so.Line(marker="o", pointsize=3), linewidth="weight", legend=False)
        .scale(
            color=palette(names) | exits,
            linestyle=_dashes(teachers),
            linewidth={"ensemble": 2.0, "exit": 0.9},
        )
    )
    size, ylabel = (5.2, 2.3), "validation top-1 (%)"
    fig, axes = panels.wrapped(drawn, "supernet", names, size, ylabel, x=False, y=True)
    for name, ax in axes.items():
        many = len(order[name]) > 8
        ax.set_xticks(range(len(order[name])), order[name], rotation=30 if many else 0)
    handles = [line("ensemble (what teaches)", lw=2), *(line(e, c) for e, c in exits.items())]
    panels.legend(fig, *handles, *OF_TEACHERS)
    fig.rows = rows
    return fig


def _teacher(here, name, teacher, width):
    """Mean over seeds of teacher.csv: exit (0 = ensemble), phase, top1; a single exit is its own
    ensemble."""
    mine = here[(here.supernet == name) & here.teacher.isin(["any", teacher])]
    frames = [
        pd.read_csv(Path(p.folder) / "teacher.csv").assign(phase=p.phase) for p in mine.itertuples()
    ]
    rows = pd.concat(frames or [pd.DataFrame({"exit": [], "phase": [], "top1": []})])
    rows = rows[rows.exit == 0] if rows.exit.nunique() == 2 else rows
    mean = rows.groupby(["exit", "phase"], as_index=False).top1.mean().astype({"exit": int})
    return mean.assign(supernet=name, wm=str(width), teacher=teacher)
