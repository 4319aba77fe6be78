"""Who survives in NSGA-II and NSGA-III, by the code that the search uses."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pymoo.algorithms.moo.nsga3 import HyperplaneNormalization, associate_to_niches

from nat_lib.report.schematics.canvas import arrow, box
from nat_lib.report.shapes import LINE
from nat_lib.report.style import COLOURS, GREY, thesis_style
from nat_lib.search import pareto

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
