"""Figures 6.3 to 6.5: how well predictors rank subnets, from how many samples."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.panels import ERRORS, OF_ERRORS, OWN_ERRORS, line, patch
from nat_lib.report.style import (
    ENCODINGS,
    GREY,
    PREDICTOR_COLOURS,
    colour_of,
    palette,
    thesis_style,
)
from nat_lib.report.tables6 import names_of, samples, studied
from nat_lib.results import chapter6
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import NOT_RUN

RHO = "Spearman's rho"
BARS = "bars: 95 % confidence interval over repetitions"


def _means(fits, **where):
    """Means over the repetitions of one data set, where every repetition could be fitted."""
    rows = one_dataset(fits)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    means = chapter6.predictor_means(rows)
    return means[means["mean"].notna()]


@thesis_style
def fig_6_3(fits, n_train=None, encoding="integer"):
    """Figure 6.3: Spearman correlation of every predictor on each supernet; bars: 95 % interval
    over repetitions.

    fits : `chapter6.predictor_fits` of one data set;  n_train : default see `tables6.samples`
    """
    n_train = samples(fits, n_train)
    means = _means(fits, n_train=n_train, encoding=encoding)
    if means.empty:
        return panels.empty(f"Figure 6.3, predictors: {NOT_RUN}")
    supernets = [s for s in studied(means) if s in set(means.supernet)]
    names, wide = names_of(means), 0.8 / len(supernets)
    beside = wide * (means.supernet.map(supernets.index) - (len(supernets) - 1) / 2)
    shown = means.assign(at=range(len(means)), place=means.predictor.map(names.index) + beside)
    fig = plt.figure(figsize=(10.4, 3.2), layout="constrained")
    drawn = (
        panels.plot(shown, x="place", y="mean", color="supernet")
        .add(so.Bar(width=0.92, edgewidth=0, alpha=1), legend=False)
        .add(ERRORS, color=None, **OF_ERRORS)
        .scale(color=palette(supernets))
    )
    drawn.label(x="", y=RHO).on(fig).plot()
    (ax,) = fig.axes
    for i, name in enumerate(names):
        if name not in set(means.predictor):
            ax.text(i, 0.01, "not run", ha="center", va="bottom", fontsize=7, color=GREY)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(top=1.05)
    ax.axhline(0, color="#666666", lw=0.8)
    ax.set_xticks(range(len(names)), names)
    ax.set_title(
        f"{n_train} training samples, {ENCODINGS.get(encoding, encoding)} features; {BARS}"
    )
    handles = [
        patch(s if s in supernets else f"{s}, not run", colour_of(s)) for s in studied(means)
    ]
    panels.legend(fig, *handles)
    fig.rows = means
    return fig


@thesis_style
def fig_6_4(fits, supernet=None, encoding="integer"):
    """Figure 6.4: Spearman correlation of every predictor against the number of training samples,
    one supernet.

    supernet : default EE_B, as in the thesis, or where that was not run the last one that was
    """
    if supernet is None:
        found = [s for s in ("EE_B", *reversed(studied(fits))) if s in set(fits.supernet)]
        supernet = found[0] if found else "EE_B"
    means = _means(fits, supernet=supernet, encoding=encoding)
    if means.empty:
        return panels.empty(f"Figure 6.4, predictors on {supernet}: {NOT_RUN}")
    colours = palette(means.predictor, PREDICTOR_COLOURS)
    fig, step = _by_size(means, "predictor", colours, (10.4, 4.0), 0.04)
    (ax,) = fig.axes
    sizes, (low, high) = sorted(means.n_train.unique()), ax.get_ylim()
    ends = means.sort_values("n_train").groupby("predictor")["mean"].last()
    for name, y in apart(ends.to_dict(), 0.055 * (high - low), high).items():
        ax.annotate(
            name,
            (sizes[-1] + 6 * step, ends[name]),
            (sizes[-1] + 11 * step, y),
            va="center",
            fontsize=8,
            color=colours[name],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": colours[name], "relpos": (0, 0.5)},
        )
    ax.set_xlim(sizes[0] - 8 * step, sizes[-1] + 24 * step)
    ax.set_title(f"{supernet}, {ENCODINGS.get(encoding, encoding)} features; {BARS}")
    return fig


@thesis_style
def fig_6_5(fits, predictor="LGBM", supernet="BASE"):
    """Figure 6.5: one predictor with integer and with one-hot features against the number of
    training samples."""
    means = _means(fits, supernet=supernet, predictor=predictor)
    if means.empty:
        return panels.empty(f"Figure 6.5, {predictor} on {supernet}: {NOT_RUN}")
    known = {"integer": PREDICTOR_COLOURS.get(predictor, GREY), "onehot": "#3377BB"}
    colours = palette(means.encoding, known)
    fig, _ = _by_size(means, "encoding", colours, (6.0, 3.0), 0.02)
    fig.axes[0].set_title(f"{predictor} on {supernet}; {BARS}")
    panels.legend(fig, *(line(f"{ENCODINGS.get(e, e)} features", c) for e, c in colours.items()))
    return fig


def _by_size(means, column, colours, size, apart):
    """A curve over the number of samples per value of a column, side by side.

    apart   : from one curve to the next, as a share of the smallest step between sizes
    returns : figure, this distance
    """
    sizes = sorted(means.n_train.unique())
    step = apart * np.diff(sizes).min() if len(sizes) > 1 else 1.0
    beside = step * (means[column].map(list(colours).index) - (len(colours) - 1) / 2)
    shown = means.assign(at=range(len(means)), place=means.n_train + beside)
    fig = plt.figure(figsize=size, layout="constrained")
    drawn = (
        panels.plot(shown, x="place", y="mean", color=column)
        .add(so.Line(marker="o", pointsize=4, linewidth=1.2), legend=False)
        .add(OWN_ERRORS, **OF_ERRORS)
        .scale(color=colours)
    )
    drawn.label(x="training samples", y=RHO).on(fig).plot()
    fig.axes[0].set_xticks(sizes)
    fig.rows = means
    return fig, step


def apart(heights, gap, top):
    """Heights for labels, in the order of `heights` ({name: height}), `gap` apart, below `top`, as
    near as it gets."""
    order = sorted(heights, key=heights.get)
    y = np.array([heights[name] for name in order], float)
    for _ in range(300):
        push = np.clip(gap - np.diff(y), 0, None) / 2
        y[:-1] -= push
        y[1:] += push
        y = np.minimum(y, top - gap * np.arange(len(y))[::-1])
    return dict(zip(order, y, strict=True))
