"""Figures 6.6 and 6.10: subnets before and after post-processing."""

import numpy as np
import pandas as pd
import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.figures6.fronts import BOTH_COSTS, datasets_of, objectives_of
from nat_lib.report.panels import OF_ERRORS, OWN_ERRORS, marker, patch
from nat_lib.report.style import (
    GREY,
    METHOD_COLOURS,
    METHOD_MARKERS,
    METHODS,
    OPTIMIZER_COLOURS,
    WEIGHT_MARKERS,
    colour_of,
    in_order,
    palette,
    thesis_style,
)
from nat_lib.results import chapter6
from nat_lib.results.chapter6 import SUBNET
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import EXITS, MAIN, NAT_SUPERNETS, NOT_RUN, extended
from nat_lib.search.objectives import axis

SETTING = ["method", "optimizer", "lr", "weights"]
FOUND = dict.fromkeys(SETTING, "-") | {"method": "none"}
FAINT = 0.45  # of a learning rate that is not the highest
TOP1 = "test top-1 (%)"


def best_settings(panel, count=2):
    """The settings of each method with the highest mean test top-1 over the subnets of a panel."""
    means = panel.groupby(SETTING).test_top1.mean().sort_values(ascending=False)
    methods = [m for m in extended(METHODS, panel.method) if m != "none"]
    return [key for m in methods for key in [k for k in means.index if k[0] == m][:count]]


@thesis_style
def fig_6_6(posts):
    """Figure 6.6: the two best settings of each method; rows: objectives, columns: supernets.

    posts : `chapter6.posts` of one data set. Subnets of a panel stand side by side, cheapest first.
            Colours are optimisers, shapes are exit weights
    """
    studied = (posts.study == "grid") & posts.supernet.isin(NAT_SUPERNETS)
    grid = one_dataset(posts[studied & posts.objectives.isin(BOTH_COSTS)])
    if grid.empty:
        return panels.empty(f"Figure 6.6, post-processing strategies: {NOT_RUN}")
    keys = [(o, s) for o in BOTH_COSTS for s in NAT_SUPERNETS]
    parts = {
        key: _of_panel(grid[(grid.objectives == key[0]) & (grid.supernet == key[1])])
        for key in keys
    }
    rows = pd.concat([part for part in parts.values() if len(part)], ignore_index=True)
    rates = sorted(set(grid.lr), key=float, reverse=True)
    shapes = {weights: WEIGHT_MARKERS.get(weights, "p") for weights in dict.fromkeys(rows.weights)}
    shown = panels.with_errors(rows, "test_top1").assign(
        setting=rows[SETTING].agg(" ".join, axis=1),
        shape=np.where(rows.method == "none", "found", rows.weights),
    )
    drawn = (
        panels.plot(shown, x="beside", y="test_top1", color="optimizer", alpha="lr")
        .add(so.Line(linewidth=0.8), group="setting", legend=False)
        .add(OWN_ERRORS, **OF_ERRORS)
        .add(so.Dot(pointsize=5.5, edgecolor="w", edgewidth=0.4), marker="shape", legend=False)
        .scale(
            color=palette(rows.optimizer, OPTIMIZER_COLOURS),
            alpha={lr: 1.0 if lr in ("-", rates[0]) else FAINT for lr in dict.fromkeys(rows.lr)},
            marker=shapes | {"found": "D"},
        )
    )
    columns = ("supernet", list(NAT_SUPERNETS))
    fig, axes = panels.grid(
        drawn, shown, ("objectives", list(BOTH_COSTS)), columns, (2.7, 2.4), TOP1
    )
    for key, ax in axes.items():
        found = parts[key][parts[key].method == "none"]
        ax.set_xticks(found.x, [f"{cost:.2g}" for cost in found.original_second])
        if len(found) > 6:
            ax.tick_params(axis="x", rotation=90, labelsize=6.5)
        panels.xlabel(ax, f"{axis(key[0].split('+')[1])} of the subnet")
        ax.set_xlim(-0.6, max(found.x) + 0.6)
    used = palette(rows.optimizer, OPTIMIZER_COLOURS)
    panels.legend(
        fig,
        marker("as found", "D", used.pop("-", GREY)),
        *(patch(name, colour) for name, colour in used.items()),
        marker("standard", shapes.get("-", "o")),
        *(marker(f"AEP-based, {w}", shape) for w, shape in shapes.items() if w != "-"),
        *(marker(f"lr {lr}", "o", alpha=1.0 if lr == rates[0] else FAINT) for lr in rates),
    )
    fig.rows = shown.drop(columns=["study", "low", "high", "at", "setting", "shape", "beside"])
    return fig


def _of_panel(panel):
    """The subnets of a panel as found and after the best settings, with x (the place of the subnet)
    and `beside` (where its point of this setting stands)."""
    if panel.empty:
        return panel
    found = panel.drop_duplicates(SUBNET).sort_values("original_second").reset_index(drop=True)
    place = found.assign(x=found.index)[[*SUBNET, "x"]]
    lines = [found.assign(test_top1=found.original_top1, **FOUND)]
    for key in best_settings(panel):
        lines.append(panel[(panel[SETTING] == key).all(axis=1)])
    parts = []
    for k, one in enumerate(lines):
        one = one.merge(place).sort_values("x")
        parts.append(one.assign(beside=one.x + 0.09 * (k - (len(lines) - 1) / 2)))
    return pd.concat(parts, ignore_index=True)


@thesis_style
def fig_6_10(posts, part):
    """Figure 6.10 a (single-exit supernets) and b (early-exit supernets): phase 4 before and after
    post-processing.

    posts : `chapter6.posts`;  rows: data sets, columns: objectives. Subnets stand side by side,
            cheapest first.
    """
    supernets = {"a": ("BASE", "SE_D"), "b": EXITS}[part]
    final = chapter6.final_posts(posts[(posts.phase == 4) & posts.supernet.isin(supernets)])
    if final.empty:
        return panels.empty(f"Figure 6.10{part}, final post-processing: {NOT_RUN}")
    rows, columns = datasets_of(final, MAIN), objectives_of(final)
    parts = {}
    for dataset in rows:
        for objectives in columns:
            panel = final[(final.dataset == dataset) & (final.objectives == objectives)]
            if len(panel):
                parts[dataset, objectives] = _side_by_side(panel, supernets)
    drawn_rows = pd.concat(parts.values(), ignore_index=True)
    methods = extended(METHODS, drawn_rows.method)
    offsets = {m: 0.18 * (k - 1) for k, m in enumerate(methods)}
    shown = panels.with_errors(drawn_rows, "test_top1")
    shown = shown.assign(beside=shown.x + shown.method.map(offsets))
    drawn = (
        panels.plot(shown, x="beside", y="test_top1", color="method")
        .add(OWN_ERRORS, **OF_ERRORS)
        .add(so.Dot(pointsize=5, edgecolor="w", edgewidth=0.4), marker="method", legend=False)
        .scale(
            color=palette(methods, METHOD_COLOURS),
            marker={m: METHOD_MARKERS.get(m, "p") for m in methods},
        )
    )
    grid = ("dataset", rows), ("objectives", columns)
    fig, axes = panels.grid(drawn, shown, *grid, (2.7, 2.0), TOP1)
    for key, ax in axes.items():
        _name_supernets(ax, parts[key])
    used = final.drop_duplicates(SETTING).groupby("method")
    words = {m: _settings(group) for m, group in used} | {"none": ""}
    handles = [
        marker(f"{METHODS.get(m, m)} {words[m]}", METHOD_MARKERS.get(m, "p"), colour)
        for m, colour in palette(methods, METHOD_COLOURS).items()
        if m in words
    ]
    panels.legend(fig, *handles)
    fig.rows = shown.drop(columns=["study", "low", "high", "at", "beside"])
    return fig


def _settings(group):
    return " / ".join(
        f"{r.optimizer} {r.lr} {r.weights}".removesuffix(" -") for r in group.itertuples()
    )


def _side_by_side(panel, supernets):
    """The subnets of a panel as found and post-processed, with x: supernet by supernet."""
    parts, start = [], 0
    for name in [s for s in supernets if s in set(panel.supernet)]:
        mine = panel[panel.supernet == name]
        found = mine.drop_duplicates(SUBNET).sort_values(["original_second", "seed"])
        found = found.assign(x=start + np.arange(len(found)))
        as_found = found.assign(method="none", test_top1=found.original_top1)
        parts += [as_found, mine.merge(found[[*SUBNET, "x"]])]
        start += len(found)
    rows = pd.concat(parts, ignore_index=True)
    order = {m: k for k, m in enumerate(("ens", "none", "std"))}
    return rows.sort_values(
        ["supernet", "method"],
        key=lambda c: c.map(order if c.name == "method" else list(supernets).index),
        kind="stable",
    )


def _name_supernets(ax, rows):
    """The supernets below a panel, each under its subnets, and a line between them."""
    middles = rows.groupby("supernet").x.mean()
    names = in_order(middles.index)
    ax.set_xticks([middles[name] for name in names], names)
    for text, name in zip(ax.get_xticklabels(), names, strict=True):
        text.set(color=colour_of(name), fontweight="bold")
    for end in rows.groupby("supernet").x.max():
        ax.axvline(end + 0.5, color="#dddddd", lw=0.7, zorder=0)
    ax.set_xlim(-0.5, rows.x.max() + 0.5)
    ax.tick_params(axis="x", length=0, labelbottom=True)
