"""Tables and figures of thesis chapter 6, made from the frames of `results6` and from nothing else.

The panels are those of the thesis; one that was not run says so. Printed numbers stand in grey in
tables and as diamonds in figures. The error bar of a single subnet is the standard error of the
test split; the runs of several seeds are drawn one by one. Figures carry what they plot as
`figure.rows` (see report.save).
"""

import html
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nat_lib.report import figures5, tables
from nat_lib.report.style import COLOURS, EXIT_COLOURS, GREY, thesis_style
from nat_lib.report.tables import grey, styled
from nat_lib.results import chapter6
from nat_lib.results.chapter6 import SUBNET
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import (
    CONSTANTS,
    DATASETS,
    EXITS,
    MAIN,
    MISSING,
    NAT_SUPERNETS,
    NOT_RUN,
    OBJECTIVES,
    OTHERS,
    PHASES,
    POSTS,
    name_of,
)
from nat_lib.results.printed import printed_value
from nat_lib.results.stats import binomial_se

UNITS = {"params": "parameters (M)", "macs": "MACs (M)", "latency": "latency (ms)"}
WORDS = {"acc": "accuracy", "params": "parameters", "macs": "MACs", "latency": "latency"}
METHODS = {"none": "as found", "std": "standard", "ens": "AEP-based"}
METHOD_COLOURS = {
    "none": "#444444",
    "std": "#117733",
    "ens": "#CC3311",
}  # green and red, as the thesis has them
METHOD_MARKERS = {"none": "o", "std": "^", "ens": "s"}
LINES = {"SGD": "-", "AdamW": ":", "Ranger": "--"}  # of figure 6.6
WEIGHT_MARKERS = {"ASC": "^", "DESC": "v", "UNIF": "s", "MIX": "X", "-": "o"}
# Trees warm, linear models blue and green, radial basis functions violet, the others grey.
PREDICTORS = dict(
    zip(
        CONSTANTS["PREDICTORS"],
        (
            "#AA4499",
            "#6E2A8C",
            "#888888",
            "#DDAA33",
            "#997700",
            "#88CCEE",
            "#BBBBBB",
            "#3377BB",
            "#555555",
            "#1B3A6B",
            "#CC3311",
            "#EE7733",
        ),
        strict=True,
    )
)
ENCODINGS = {"integer": "integer", "onehot": "one-hot"}
DEPTH_COLOURS = {2: "#a6bddb", 3: "#3690c0", 4: "#034e7b"}


def title(objectives):
    """The objectives as the thesis writes them: "acc+params" is accuracy & parameters."""
    return " & ".join(WORDS[name] for name in objectives.split("+"))


TITLES = {"dataset": name_of, "objectives": title, "phase": "phase {}".format, "supernet": str}


def provenance(rows):
    """One line on where numbers come from: profile, data sets, seeds; HTML."""
    if rows.empty:
        return f"No finished run: {NOT_RUN}."

    def listed(values):
        return ", ".join(str(x) for x in sorted(set(values)))

    return html.escape(
        f"Profile: {listed(rows.profile)}; data set: {listed(rows.dataset.map(name_of))}; "
        f"seeds: {listed(rows.seed)}."
    )


# ------------------------------------------------------------------------------------------- tables


def table_predictors(fits, n_train=None):
    """What each predictor reaches with n_train samples (default: 300, or the most that were used):
    pandas Styler.

    Mean over all repetitions and the half width of its 95 % confidence interval; seconds to fit and
    predict.
    """
    fits = one_dataset(fits)
    n_train, columns = _samples(fits, n_train), {}
    for metric, digits in (("spearman", 3), ("rmse", 2), ("seconds", 2)):
        means = chapter6.predictor_means(fits[fits.n_train == n_train], metric)
        text = {
            (r.supernet, r.encoding, r.predictor): f"{r.mean:.{digits}f}{_pm(r.half, digits)}"
            for r in means.itertuples()
            if not np.isnan(r.mean)
        }
        for supernet, encoding in product(
            _studied(fits), ENCODINGS if digits == 3 else ["integer"]
        ):
            head = {
                "spearman": f"rho, {ENCODINGS[encoding]}",
                "rmse": "RMSE",
                "seconds": "seconds",
            }[metric]
            columns[supernet, head] = [
                text.get((supernet, encoding, name), MISSING) for name in PREDICTORS
            ]
    table = pd.DataFrame(columns, index=list(PREDICTORS))[_studied(fits)]
    return styled(
        table,
        f"<b>Predictors on {n_train} samples</b>: Spearman's rho; RMSE (points) and seconds with "
        "integer features; mean and 95 % confidence interval over repetitions. " + provenance(fits),
    )


def table_search(cells):
    """`results6.search_cells` in the layout of figure 6.9, ours above the printed value in grey:
    pandas Styler.

    Test top-1 (%) of the most accurate returned subnet, and its second objective. X: neither here
    nor in the thesis.
    """
    text = cells.assign(
        cell=[_search_html(c) for c in cells.itertuples()],
        objectives=cells.objectives.map(title),
        column=[
            f"phase {c.phase}" + (f", {METHODS[c.post]}" if c.post != "none" else "")
            for c in cells.itertuples()
        ],
    )
    table = text.pivot(index=["objectives", "supernet"], columns="column", values="cell")
    table = table.loc[list(dict.fromkeys(zip(text.objectives, text.supernet, strict=True)))].fillna(
        grey("X")
    )
    table = table[
        [
            *(f"phase {p}" for p in PHASES),
            f"phase 4, {METHODS['std']}",
            f"phase 4, {METHODS['ens']}",
        ]
    ]
    table.columns.name, table.index.names = None, [None, None]
    several = (cells.seeds > 1).any()
    spread = (
        "standard deviation over seeds (in brackets)"
        if several
        else "standard error of the test split"
    )
    return styled(
        table,
        f"<b>{name_of(cells.dataset[0])}</b>: test top-1 (%) of the most accurate returned subnet at "
        f"its second objective (M or ms); {grey('printed value below')}. "
        f"&plusmn;: {spread}; of a cost: its noise.",
    )


def _search_html(c):
    if c.verdict == "X":
        return grey("X")
    paper = "" if np.isnan(c.printed) else f"<br>{grey(f'{c.printed:.2f} at {c.printed_second:g}')}"
    if np.isnan(c.ours):
        return MISSING + paper
    cost = "" if np.isnan(c.second) else f" at {c.second:.3g}{_pm(c.second_noise, 1)}"
    seeds = f" <small>({int(c.seeds)})</small>" if c.seeds > 1 else ""
    colour = tables.CELL_COLOUR.get(c.verdict, "inherit")
    return (
        f'<span style="color:{colour}" title="{c.verdict}; best of {int(c.n)} subnets, validation picks one of '
        f'{c.by_val:.2f}"><b>{c.ours:.2f}</b>{_pm(c.uncertainty, 1)}{seeds}{cost}</span>{paper}'
    )


def table_headline(table):
    """`results6.headline` beside the printed values: pandas Styler."""

    def cell(row, group):
        value, paper = row[group], row[f"{group}_printed"]
        sign = "+" if group == "gain" else ""
        below = "" if np.isnan(paper) else f"<br>{grey(f'{paper:{sign}.2f}')}"
        if np.isnan(value):
            return MISSING + below
        colour = tables.CELL_COLOUR.get(row.verdict, "inherit") if group == "gain" else "inherit"
        return (
            f'<b style="color:{colour}">{value:{sign}.2f}</b>{_pm(row[f"{group}_noise"], 2)}{below}'
        )

    view = pd.DataFrame(
        {
            "phase-1 baseline": [cell(r, "baseline") for _, r in table.iterrows()],
            "full NATv2": [cell(r, "full") for _, r in table.iterrows()],
            "gain (points)": [cell(r, "gain") for _, r in table.iterrows()],
            "picked on validation": [
                MISSING
                if np.isnan(r.baseline_by_val) or np.isnan(r.full_by_val)
                else f"{r.baseline_by_val:.2f} &rarr; {r.full_by_val:.2f}"
                for r in table.itertuples()
            ],
            "searches": [
                MISSING if np.isnan(r.sets) else f"{int(r.sets)} of 2" for r in table.itertuples()
            ],
            "seeds": [MISSING if np.isnan(r.seeds) else int(r.seeds) for r in table.itertuples()],
            "verdict": table.verdict.tolist(),
        },
        index=table.name.tolist(),
    )
    return styled(
        view,
        "<b>Full NATv2 against the phase-1 baseline</b>: test top-1 (%) of the most accurate subnet "
        "over accuracy &amp; parameters and accuracy &amp; MACs, AEP-based post-processing allowed; "
        f"{grey('printed value below')}. &plusmn;: standard error over seeds, or for one seed the "
        "noise of the test split and of repeated runs.",
    )


def table_strategies(table):
    """`results6.strategies`: mean top-1 and gain of every setting, the printed averages in grey:
    pandas Styler."""
    if table.empty:
        return styled(pd.DataFrame({"": [NOT_RUN]}), "<b>Post-processing strategies</b>").hide(
            axis="index"
        )
    rates = list(dict.fromkeys(table.lr[table.method != "none"]))
    rows = table.assign(
        cell=[_strategy_html(r) for r in table.itertuples()],
        method=table.method.map(METHODS),
        family=table.family.map({"SE": "single-exit supernets", "EE": "early-exit supernets"}),
        rate=table.lr.replace("-", rates[0]).map("lr {}".format),
    )
    keys = ["method", "optimizer", "weights"]
    view = rows.pivot(index=keys, columns=["family", "rate"], values="cell").fillna("")
    by_method = rows.sort_values(
        "method", key=lambda m: m.map(list(METHODS.values()).index), kind="stable"
    )
    view = view.loc[
        list(dict.fromkeys(by_method[keys].itertuples(index=False, name=None))),
        list(dict.fromkeys(rows[["family", "rate"]].itertuples(index=False, name=None))),
    ]
    view.columns.names = [None, None]
    return styled(
        view,
        "<b>Post-processing strategies</b>: mean test top-1 (%) of the studied subnets, in brackets "
        f"the gain over the same subnets as found; {grey('printed averages below')}. &plusmn;: noise "
        "of the mean.",
    )


def _strategy_html(r):
    found = r.method == "none"
    paper = f"{r.printed:.2f}" + ("" if found else f" ({r.printed_gain:+.2f})")
    return (
        f"<b>{r.top1:.2f}</b>"
        + (_pm(r.noise, 2) if found else f" ({r.gain:+.2f}{_pm(r.gain_noise, 2)})")
        + ("" if r.n == r.studied else f" <small>{int(r.n)} of {int(r.studied)} subnets</small>")
        + ("" if np.isnan(r.printed) else f"<br>{grey(paper)}")
    )


def table_phases(table):
    """`results6.phase_comparison` with its intervals, a column per comparison: pandas Styler."""
    caption = (
        "<b>Phases compared</b>, the same supernet, objectives and seed in both: mean gain of the best top-1 "
        "(points) and its 95 % interval over seeds (for one seed from the noise of the test split and of "
        f"repeated runs); {grey('change of the second objective, pairs of runs')}."
    )
    if table.empty:
        return styled(pd.DataFrame({"": [NOT_RUN]}), "<b>Phases compared</b>").hide(axis="index")

    def cell(r):
        change = "" if np.isnan(r.change) else f"{r.change:+.0f}{_pm(r.change_noise, 0)} %, "
        return f"<b>{r.gain:+.2f}</b> [{r.low:+.2f}, {r.high:+.2f}]<br>{grey(f'{change}{int(r.pairs)} pairs')}"

    rows = table.assign(
        cell=[cell(r) for r in table.itertuples()],
        dataset=table.dataset.map(name_of),
        objectives=[o if o == "all" else title(o) for o in table.objectives],
        phases=[f"{p} against {a}" for p, a in zip(table.phase, table.against, strict=True)],
    )
    view = rows.pivot(index=["dataset", "objectives"], columns="phases", values="cell").fillna(
        MISSING
    )
    view.index.names, view.columns.name = [None, None], None
    return styled(view, caption)


def _pm(noise, digits):
    return "" if np.isnan(noise) else f"&plusmn;{noise:.{digits}f}"


def _samples(fits, n_train):
    """The size of the training set to show: 300 as in the thesis, or the largest that was run."""
    return n_train or (300 if fits.empty or 300 in set(fits.n_train) else int(fits.n_train.max()))


# ------------------------------------------------------------------------------------------- panels


def _grid(rows, columns, shown, size):
    """Axes for every row and column, each a {key: value}; where shown(row, column) is 0 they say
    "not run".

    shown   : function -> height of the panel, 0 to 1; a row without any is flat;  size : inches of
              one panel
    returns : figure, {(i, j): axes of the panels to draw in}
    """
    filled = np.array([[shown(r, c) for c in columns] for r in rows], float)
    heights = np.maximum(filled.max(axis=1), 0.26)
    fig, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(size[0] * len(columns), size[1] * heights.sum() + 0.5),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for (i, j), ax in np.ndenumerate(axes):
        if filled[i, j] == 0:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
            ax.text(
                0.5,
                0.5,
                NOT_RUN,
                transform=ax.transAxes,
                ha="center",
                va="center",
                color=GREY,
                fontsize=7,
            )
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(
            " ".join(TITLES[k](v) for k, v in column.items()),
            loc="center",
            color=COLOURS.get(column.get("supernet"), "black"),
        )
    for ax, row, high in zip(axes[:, 0], rows, heights, strict=True):
        label = ", ".join(TITLES[k](v) for k, v in row.items()).replace(" & ", " &\n")
        turned = {"rotation": 90, "ha": "center"} if high > 0.5 else {"ha": "right"}
        ax.annotate(
            label,
            (0, 0.5),
            (-52 if high > 0.5 else -6, 0),
            "axes fraction",
            "offset points",
            va="center",
            fontweight="bold",
            fontsize=8.5,
            **turned,
        )
    return fig, {(i, j): axes[i, j] for i, j in zip(*np.nonzero(filled), strict=True)}


def _same_limits(axes, which="y", rows=True):
    """One range of x or y for the panels of every row, or of the whole figure."""
    for row in {i for i, _ in axes} if rows else {None}:
        group = [ax for (i, _), ax in axes.items() if row in (None, i)]
        limits = [getattr(ax, f"get_{which}lim")() for ax in group]
        for ax in group:
            getattr(ax, f"set_{which}lim")(
                min(low for low, _ in limits), max(high for _, high in limits)
            )


def _first_of_rows(axes, text):
    """A y label for the first panel of every row."""
    for i, j in axes:
        if j == min(c for r, c in axes if r == i):
            axes[i, j].set_ylabel(text)


def _errors(rows, column="test_top1"):
    """Standard errors of the test split, in points."""
    return [binomial_se(t, n) for t, n in zip(rows[column], rows.n_test, strict=True)]


def _rows_of(frame, *keys):
    """The rows in which every column has the value that the keys ({column: value}) give."""
    for key in keys:
        for column, value in key.items():
            frame = frame[frame[column] == value]
    return frame


def _fronts(versions, rows, columns, dataset=None, size=(2.7, 2.15), diamonds=tuple(COLOURS)):
    """Returned subnets, test top-1 against the second objective; a panel per row and column
    ({column: value} each).

    Points of one run are joined. Accuracy-only panels have a place per supernet.
    dataset  : where all panels show the same one;  diamonds : supernets whose printed subnets of
               phase 1 are shown
    returns  : figure, {(i, j): axes}
    """
    paper = points_printed([dataset] if dataset else DATASETS.values(), diamonds)
    fig, axes = _grid(
        rows,
        columns,
        lambda r, c: (
            1.0 if len(_rows_of(versions, r, c)) else 0.6 * bool(len(_rows_of(paper, r, c)))
        ),
        size,
    )
    plotted = []
    for (i, j), ax in axes.items():
        here, objectives = (
            _rows_of(versions, rows[i], columns[j]),
            (rows[i] | columns[j])["objectives"],
        )
        names, points = figures5.in_order(here.supernet), _rows_of(paper, rows[i], columns[j])
        seeds = sorted(set(here.seed))
        for k, name in enumerate(names):
            runs = (
                here[here.supernet == name].sort_values("second").groupby(["phase", "post", "seed"])
            )
            for (_, post, seed), run in runs:
                beside = k + 0.12 * (
                    seeds.index(seed) - (len(seeds) - 1) / 2
                )  # only accuracy has no x of its own
                ax.errorbar(
                    np.full(len(run), beside) if objectives == "acc" else run.second,
                    run.top1,
                    _errors(run, "top1"),
                    color=COLOURS[name],
                    marker=METHOD_MARKERS[post],
                    ms=4.5,
                    mec="white",
                    mew=0.5,
                    lw=0.8,
                    elinewidth=0.8,
                    alpha=0.9,
                )
                plotted.append(run.assign(uncertainty=_errors(run, "top1")))
        for d in points.itertuples():
            ax.plot(
                d.second,
                d.top1,
                "D",
                ms=5.5,
                mfc=COLOURS[d.supernet],
                mec="black",
                mew=0.9,
                zorder=5,
            )
        ax.margins(y=0.1)
        if objectives == "acc":
            ax.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
            ax.set_xlim(-0.6, max(len(names), 2) - 0.4)
        else:
            ax.set_xlabel(UNITS[objectives.split("+")[1]], labelpad=1)
        plotted.append(points)
    _first_of_rows(axes, "test top-1 (%)")
    _same_limits(axes, rows=dataset is None)
    if dataset:
        _same_limits({at: ax for at, ax in axes.items() if rows[at[0]]["objectives"] != "acc"}, "x")
    fig.rows = pd.concat([p for p in plotted if len(p)] or [versions], ignore_index=True)
    return fig, axes


def points_printed(datasets, supernets):
    """The most accurate subnets of phase 1 that the thesis prints with their second objective."""
    rows = []
    for d, o, s in product(datasets, OBJECTIVES, supernets):
        dims = {"dataset": name_of(d), "phase": 1, "objectives": o, "supernet": s}
        rows.append(
            dims
            | {
                "dataset": d,
                "post": "printed",
                "top1": printed_value("nat.best_top1", **dims),
                "second": printed_value("nat.second_of_best", **dims),
            }
        )
    return pd.DataFrame(rows).dropna()


def _legend(fig, supernets, *more):
    handles = [
        Line2D([], [], color=COLOURS[s], marker="o", ms=4.5, mec="white", label=s)
        for s in figures5.in_order(supernets)
    ]
    fig.legend(
        handles=[*handles, *more],
        loc="outside upper center",
        ncols=min(len(handles) + len(more), 10),
    )


DIAMOND = Line2D(
    [], [], ls="", marker="D", mfc="white", mec="black", ms=5.5, label="printed in the thesis"
)


def _datasets(frame, thesis):
    """Names in data.py: those of the thesis, then the ones that only we ran."""
    known = [DATASETS[name] for name in thesis]
    return known + [d for d in sorted(set(frame.dataset)) if name_of(d) not in (*MAIN, *OTHERS)]


def _objectives(frame):
    """The four sets of the thesis, then others that were run."""
    return list(dict.fromkeys([*OBJECTIVES, *sorted(set(frame.objectives))]))


# --------------------------------------------------------------------------------------- predictors


def _predictor_means(fits, **where):
    """Means over the repetitions of one data set, where every repetition could be fitted."""
    means = chapter6.predictor_means(_rows_of(one_dataset(fits), where))
    return means[means["mean"].notna()]


def _within_one(ax):
    """Cut the axis at correlations that cannot be: intervals of few repetitions reach beyond
    them."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -1.05), min(high, 1.05))


@thesis_style
def fig_6_3(fits, n_train=None, encoding="integer"):
    """Figure 6.3: Spearman correlation of every predictor on each supernet; bars: 95 % interval
    over repetitions.

    fits : `results6.predictor_fits` of one data set;  n_train : default 300, or the largest size
           that was run
    """
    n_train = _samples(fits, n_train)
    means = _predictor_means(fits, n_train=n_train, encoding=encoding)
    if means.empty:
        return figures5.empty_panel(f"Figure 6.3, predictors: {NOT_RUN}")
    fig, ax = plt.subplots(figsize=(10.4, 3.2), layout="constrained")
    supernets = _studied(means)
    wide = 0.8 / len(supernets)
    for k, supernet in enumerate(supernets):
        mine = means[means.supernet == supernet].set_index("predictor").reindex(list(PREDICTORS))
        hatch = "..." if supernet.endswith("P") else "///" if supernet in EXITS else ""
        ax.bar(
            np.arange(len(PREDICTORS)) + wide * (k - (len(supernets) - 1) / 2),
            mine["mean"],
            0.92 * wide,
            yerr=mine.half,
            color=COLOURS[supernet],
            hatch=hatch,
            edgecolor="white",
            lw=0.4,
            error_kw={"lw": 0.8, "ecolor": "#333333"},
            label=supernet + (", not run" if mine["mean"].isna().all() else ""),
        )
    for i, name in enumerate(PREDICTORS):
        if name not in set(means.predictor):
            ax.text(i, 0.01, "not run", ha="center", va="bottom", fontsize=7, color=GREY)
    _within_one(ax)
    ax.set_xlim(-0.6, len(PREDICTORS) - 0.4)
    ax.axhline(0, color="#666666", lw=0.8)
    ax.set_xticks(range(len(PREDICTORS)), list(PREDICTORS))
    ax.set_ylabel("Spearman's rho")
    ax.set_title(f"{n_train} training samples, {ENCODINGS[encoding]} features")
    fig.legend(loc="outside upper right", ncols=len(supernets))
    fig.rows = means
    return fig


def _studied(fits):
    """The supernets of the thesis's study, and whatever else was run."""
    return list(dict.fromkeys([*CONSTANTS["PRED_SUPERNETS"], *figures5.in_order(fits.supernet)]))


@thesis_style
def fig_6_4(fits, supernet=None, encoding="integer"):
    """Figure 6.4: Spearman correlation of every predictor against the number of training samples,
    one supernet.

    supernet : default EE_B, as in the thesis, or where that was not run the last one that was
    """
    supernet = supernet or next(
        (s for s in ("EE_B", *reversed(_studied(fits))) if s in set(fits.supernet)), "EE_B"
    )
    means = _predictor_means(fits, supernet=supernet, encoding=encoding)
    if means.empty:
        return figures5.empty_panel(f"Figure 6.4, predictors on {supernet}: {NOT_RUN}")
    fig, ax = plt.subplots(figsize=(10.4, 4.0), layout="constrained")
    sizes, ends = sorted(means.n_train.unique()), {}
    step = 0.04 * np.diff(sizes).min() if len(sizes) > 1 else 1.0
    for k, (name, colour) in enumerate(PREDICTORS.items()):
        mine = means[means.predictor == name].sort_values("n_train")
        if len(mine):
            ax.errorbar(
                mine.n_train + step * (k - 5.5),
                mine["mean"],
                mine.half,
                color=colour,
                marker="o",
                ms=3.5,
                lw=1.2,
                elinewidth=0.8,
            )
            ends[name] = mine["mean"].iloc[-1]
    _within_one(ax)
    low, high = ax.get_ylim()
    for name, y in _apart(ends, 0.055 * (high - low), high).items():
        ax.annotate(
            name,
            (sizes[-1] + 6 * step, ends[name]),
            (sizes[-1] + 11 * step, y),
            va="center",
            fontsize=8,
            color=PREDICTORS[name],
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.5,
                "color": PREDICTORS[name],
                "relpos": (0, 0.5),
            },
        )
    ax.set_xlim(sizes[0] - 8 * step, sizes[-1] + 24 * step)
    ax.set_xticks(sizes)
    ax.set(xlabel="training samples", ylabel="Spearman's rho")
    ax.set_title(
        f"{supernet}, {ENCODINGS[encoding]} features; bars: 95 % confidence interval over repetitions"
    )
    fig.rows = means
    return fig


def _apart(heights, gap, top):
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


@thesis_style
def fig_6_5(fits, predictor="LGBM", supernet="BASE"):
    """Figure 6.5: one predictor with integer and with one-hot features against the number of
    training samples."""
    means = _predictor_means(fits, supernet=supernet, predictor=predictor)
    if means.empty:
        return figures5.empty_panel(f"Figure 6.5, {predictor} on {supernet}: {NOT_RUN}")
    fig, ax = plt.subplots(figsize=(6.0, 3.0), layout="constrained")
    sizes = sorted(means.n_train.unique())
    step = 0.02 * np.diff(sizes).min() if len(sizes) > 1 else 1.0
    for k, (encoding, name) in enumerate(ENCODINGS.items()):
        mine = means[means.encoding == encoding].sort_values("n_train")
        ax.errorbar(
            mine.n_train + step * (2 * k - 1),
            mine["mean"],
            mine.half,
            color=PREDICTORS[predictor],
            ms=5,
            marker="os"[k],
            mfc=[None, "white"][k],
            ls=["-", "--"][k],
            elinewidth=0.8,
            label=f"{name} features",
        )
    _within_one(ax)
    ax.set_xticks(sizes)
    ax.set(xlabel="training samples", ylabel="Spearman's rho")
    ax.set_title(f"{predictor} on {supernet}; bars: 95 % confidence interval over repetitions")
    ax.legend(loc="lower right")
    fig.rows = means
    return fig


# ----------------------------------------------------------------------------- what searches return


@thesis_style
def fig_6_7(versions):
    """Figure 6.7: phase 1, all supernets; rows: data sets, columns: objectives.  versions :
    `results6.versions`"""
    here = versions[(versions.phase == 1) & (versions.post == "none")]
    names = _datasets(here, MAIN)
    fig, _ = _fronts(
        here, [{"dataset": d} for d in names], [{"objectives": o} for o in _objectives(here)]
    )
    _legend(fig, [*here.supernet, "BASE", "EE_B"], DIAMOND)
    return fig


@thesis_style
def fig_6_8(versions):
    """Figure 6.8: phase 1 on the other data sets, without parallel supernets."""
    here = versions[
        (versions.phase == 1) & (versions.post == "none") & versions.supernet.isin(NAT_SUPERNETS)
    ]
    names = [DATASETS[name] for name in OTHERS]
    here = here[here.dataset.isin(names)]
    if here.empty:
        return figures5.empty_panel(f"Figure 6.8, phase 1 on the other data sets: {NOT_RUN}")
    fig, _ = _fronts(
        here, [{"dataset": d} for d in names], [{"objectives": o} for o in _objectives(here)]
    )
    _legend(fig, here.supernet)
    return fig


@thesis_style
def fig_6_9(versions, dataset="cifar100"):
    """Figure 6.9: the four phases on one data set, before post-processing; rows: objectives,
    columns: phases.

    Without parallel supernets, which the thesis gave up after phase 2.
    """
    here = versions[
        (versions.dataset == dataset)
        & (versions.post == "none")
        & versions.supernet.isin(NAT_SUPERNETS)
    ]
    if here.empty:
        return figures5.empty_panel(f"Figure 6.9, phases on {name_of(dataset)}: {NOT_RUN}")
    fig, _ = _fronts(
        here,
        [{"objectives": o} for o in _objectives(here)],
        [{"phase": p} for p in PHASES],
        dataset,
    )
    _legend(fig, here.supernet)
    return fig


@thesis_style
def fig_6_11(versions):
    """Figure 6.11: phase-1 baseline subnets against phase-4 EE_B and EE_D subnets with standard
    post-processing.

    Lines: the top-1 that the thesis prints for the best subnet of each group, the full one with
           AEP-based exits.
    """
    base = (versions.phase == 1) & (versions.supernet == "BASE") & (versions.post == "none")
    full = (versions.phase == 4) & versions.supernet.isin(EXITS) & (versions.post == "std")
    here = versions[(base | full) & versions.objectives.isin(CONSTANTS["BI_OBJECTIVES"])]
    rows = [{"dataset": d} for d in _datasets(here, MAIN)]
    fig, axes = _fronts(
        here,
        rows,
        [{"objectives": o} for o in CONSTANTS["BI_OBJECTIVES"]],
        size=(4.6, 2.3),
        diamonds=("BASE",),
    )
    lines = {"baseline": (1, "--"), "full": (4, ":")}
    for (i, _), ax in axes.items():
        for group, (phase, style) in lines.items():
            ax.autoscale(axis="y")
            ax.axhline(
                printed_value(
                    "nat.headline_top1",
                    dataset=name_of(rows[i]["dataset"]),
                    group=group,
                    phase=phase,
                ),
                color="black",
                ls=style,
                lw=0.9,
                zorder=1,
            )
    _same_limits(axes)
    _legend(
        fig,
        ["BASE", *EXITS],
        DIAMOND,
        *(
            Line2D([], [], color="black", ls=style, lw=0.9, label=f"printed best, {what}")
            for what, style in (("baseline", "--"), ("full with AEP", ":"))
        ),
    )
    return fig


# -----------------------------------------------------------------------------------
# post-processing

SETTING = ["method", "optimizer", "lr", "weights"]


def _best_settings(group, count=2):
    """The settings of each method with the highest mean test top-1 over the subnets of one
    panel."""
    means = group.groupby(SETTING).test_top1.mean().sort_values(ascending=False)
    return [
        key
        for method in ("std", "ens")
        for key in [k for k in means.index if k[0] == method][:count]
    ]


@thesis_style
def fig_6_6(posts):
    """Figure 6.6: the two best settings of each method; rows: objectives, columns: supernets.

    posts : `results6.posts` of one data set. Subnets of a panel stand side by side, cheapest first.
    """
    rows = [{"objectives": o} for o in CONSTANTS["BI_OBJECTIVES"]]
    columns = [{"supernet": s} for s in NAT_SUPERNETS]
    grid = one_dataset(
        posts[
            (posts.study == "grid")
            & posts.supernet.isin(NAT_SUPERNETS)
            & posts.objectives.isin(CONSTANTS["BI_OBJECTIVES"])
        ]
    )
    if grid.empty:
        return figures5.empty_panel(f"Figure 6.6, post-processing strategies: {NOT_RUN}")
    fig, axes = _grid(rows, columns, lambda r, c: len(_rows_of(grid, r, c)) > 0, (2.7, 2.4))
    plotted, strongest = [], max(grid.lr, key=float)
    for (i, j), ax in axes.items():
        here = _rows_of(grid, rows[i], columns[j])
        found = here.drop_duplicates(SUBNET).sort_values("original_second").reset_index(drop=True)
        place = found.assign(x=found.index)[[*SUBNET, "x"]]
        as_found = found.assign(
            test_top1=found.original_top1, method="none", optimizer="-", lr="-", weights="-"
        )
        lines = [("none", "-", "-", "-"), *_best_settings(here)]
        for k, (method, optimizer, lr, weights) in enumerate(lines):
            line = (
                as_found
                if method == "none"
                else _rows_of(here, dict(zip(SETTING, lines[k], strict=True)))
            )
            line = line.merge(place).sort_values("x")
            ax.errorbar(
                line.x + 0.09 * (k - len(lines) / 2 + 0.5),
                line.test_top1,
                _errors(line),
                mec="white",
                mew=0.4,
                color=METHOD_COLOURS[method],
                ls=LINES.get(optimizer, "-"),
                lw=1.1,
                elinewidth=0.7,
                ms=4.5,
                marker=WEIGHT_MARKERS[weights],
                alpha=1 if lr in ("-", strongest) else 0.45,
            )
            plotted.append(line.assign(uncertainty=_errors(line)))
        many = {"rotation": 90, "fontsize": 6.5} if len(found) > 6 else {}
        ax.set_xticks(place.x, [f"{c:.2g}" for c in found.original_second], **many)
        ax.set_xlabel(UNITS[rows[i]["objectives"].split("+")[1]] + " of the subnet", labelpad=1)
    _first_of_rows(axes, "test top-1 (%)")
    _same_limits(axes)
    fig.legend(
        handles=[
            *(Patch(color=METHOD_COLOURS[m], label=METHODS[m]) for m in POSTS),
            *(Line2D([], [], color=GREY, ls=ls, label=name) for name, ls in LINES.items()),
            *(
                Line2D([], [], color=GREY, ls="", marker=m, ms=4.5, label=w)
                for w, m in WEIGHT_MARKERS.items()
                if w != "-"
            ),
            *(
                Line2D([], [], color=GREY, alpha=a, label=f"lr {lr}")
                for a, lr in zip(
                    (1, 0.45), sorted(set(grid.lr), key=float, reverse=True), strict=False
                )
            ),
        ],
        loc="outside upper center",
        ncols=12,
        columnspacing=1.0,
        handletextpad=0.4,
    )
    fig.rows = pd.concat(plotted, ignore_index=True).drop(columns="study")
    return fig


@thesis_style
def fig_6_10(posts, part):
    """Figure 6.10 a (single-exit supernets) and b (early-exit supernets): phase 4 before and after
    post-processing.

    posts : `results6.posts`;  rows: data sets, columns: objectives. Subnets stand side by side,
            cheapest first.
    """
    supernets = {"a": ("BASE", "SE_D"), "b": EXITS}[part]
    final = chapter6.final_posts(posts[(posts.phase == 4) & posts.supernet.isin(supernets)])
    if final.empty:
        return figures5.empty_panel(f"Figure 6.10{part}, final post-processing: {NOT_RUN}")
    rows, columns = (
        [{"dataset": d} for d in _datasets(final, MAIN)],
        [{"objectives": o} for o in _objectives(final)],
    )
    fig, axes = _grid(rows, columns, lambda r, c: len(_rows_of(final, r, c)) > 0, (2.7, 2.0))
    plotted = []
    for (i, j), ax in axes.items():
        here, start, ticks = _rows_of(final, rows[i], columns[j]), 0, {}
        for name in [s for s in supernets if s in set(here.supernet)]:
            mine = here[here.supernet == name]
            found = (
                mine.drop_duplicates(SUBNET)
                .sort_values(["original_second", "seed"])
                .reset_index(drop=True)
            )
            found["x"] = start + found.index
            as_found = found.assign(method="none", test_top1=found.original_top1)
            for method, line in pd.concat([as_found, mine.merge(found[[*SUBNET, "x"]])]).groupby(
                "method"
            ):
                ax.errorbar(
                    line.x + {"none": -0.18, "std": 0.0, "ens": 0.18}[method],
                    line.test_top1,
                    _errors(line),
                    ls="",
                    color=METHOD_COLOURS[method],
                    marker=METHOD_MARKERS[method],
                    ms=4,
                    mec="white",
                    mew=0.4,
                    elinewidth=0.7,
                )
                plotted.append(line.assign(uncertainty=_errors(line)))
            ticks[start + (len(found) - 1) / 2] = name
            start += len(found)
            ax.axvline(start - 0.5, color="#dddddd", lw=0.7, zorder=0)
        ax.set_xticks(list(ticks), list(ticks.values()))
        for text, name in zip(ax.get_xticklabels(), ticks.values(), strict=True):
            text.set(color=COLOURS[name], fontweight="bold")
        ax.set_xlim(-0.5, start - 0.5)
        ax.tick_params(axis="x", length=0)
    _first_of_rows(axes, "test top-1 (%)")
    _same_limits(axes)
    settings = final.drop_duplicates(SETTING).groupby("method")
    used = {
        m: " / ".join(
            f"{r.optimizer} {r.lr} {r.weights}".removesuffix(" -") for r in rows.itertuples()
        )
        for m, rows in settings
    }
    fig.legend(
        handles=[
            Line2D(
                [],
                [],
                ls="",
                color=METHOD_COLOURS[m],
                marker=METHOD_MARKERS[m],
                ms=4.5,
                label=f"{METHODS[m]} {used.get(m, '')}",
            )
            for m in POSTS
            if m == "none" or m in used
        ],
        loc="outside upper center",
        ncols=3,
    )
    fig.rows = pd.concat(plotted, ignore_index=True).drop(columns="study")
    return fig


# ------------------------------------------------------------------------------ while a search runs


def _curve(ax, rows, column, single=None, **style):
    """Mean of a column over the runs at every iteration; band: its standard error, from `single`
    for one run."""
    groups = rows[rows[column].notna()].groupby("iteration")
    line = pd.DataFrame(
        {
            "mean": groups[column].mean(),
            "se": groups[column].std() / np.sqrt(groups.size()),
            "runs": groups.size(),
        }
    )
    if single is not None:
        line["se"] = line.se.fillna(groups[single].mean())
    ax.plot(line.index, line["mean"], **style)
    low, high = line["mean"] - line.se, line["mean"] + line.se
    ax.fill_between(line.index, low, high, color=style["color"], alpha=0.18, lw=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return line.rename_axis("iteration").reset_index().assign(quantity=column)


@thesis_style
def hypervolume_curves(iterations, dataset=None):
    """Hypervolume of the archive after every iteration; rows: phases, columns: objectives; band:
    error over seeds.

    Every run is measured from its own reference point (1.01 times the worst of its first archive):
    compare the shapes, not the heights. The weights move while the search goes on, so a curve may
    fall.
    """
    here = one_dataset(iterations, dataset)
    if here.empty:
        return figures5.empty_panel(f"Hypervolume curves: {NOT_RUN}")
    rows, columns = [{"phase": p} for p in PHASES], [{"objectives": o} for o in _objectives(here)]
    fig, axes = _grid(rows, columns, lambda r, c: len(_rows_of(here, r, c)) > 0, (2.7, 1.7))
    plotted = []
    for (i, j), ax in axes.items():
        panel = _rows_of(here, rows[i], columns[j])
        for name in figures5.in_order(panel.supernet):
            line = _curve(ax, panel[panel.supernet == name], "hypervolume", color=COLOURS[name])
            plotted.append(line.assign(supernet=name, **rows[i], **columns[j]))
        if i == max(r for r, c in axes if c == j):
            ax.set_xlabel("iteration", labelpad=1)
    _legend(fig, here.supernet)
    _first_of_rows(axes, "hypervolume")
    fig.rows = pd.concat(plotted, ignore_index=True)
    return fig


@thesis_style
def predictor_quality(iterations, dataset=None):
    """How well the predictor foresaw the candidates of every iteration: Spearman's rho and RMSE, a
    column per phase.

    Mean over objectives and seeds of a supernet; band: its standard error. Few candidates make rho
    coarse.
    """
    here = one_dataset(iterations, dataset)
    if here.empty:
        return figures5.empty_panel(f"Predictor quality: {NOT_RUN}")
    phases = sorted(set(here.phase))
    size = (10.4 / max(len(phases), 2), 2.0)
    fig, axes = figures5.panel_grid(2 * len(phases), len(phases), size, sharex="col", sharey="row")
    plotted = []
    for k, ax in enumerate(axes):
        column, phase = ("spearman", "rmse")[k // len(phases)], phases[k % len(phases)]
        for name in figures5.in_order(here.supernet):
            mine = here[(here.phase == phase) & (here.supernet == name)]
            if mine[column].notna().any():
                plotted.append(
                    _curve(ax, mine, column, color=COLOURS[name]).assign(supernet=name, phase=phase)
                )
        if k < len(phases):
            ax.set_title(f"phase {phase}", loc="center")
            ax.axhline(0, color="#999999", lw=0.6, zorder=0)
        else:
            ax.set_xlabel("iteration", labelpad=1)
        if k % len(phases) == 0:
            ax.set_ylabel({"spearman": "Spearman's rho", "rmse": "RMSE (points)"}[column])
    _legend(fig, here.supernet)
    fig.rows = pd.concat(plotted, ignore_index=True) if plotted else here
    return fig


@thesis_style
def archive_shift(iterations, phase=None, objectives=None, dataset=None):
    """Where the archive moves: shares of the depths among its active stages and of its exits, a
    column per supernet.

    phase, objectives : default the last phase and accuracy & parameters, or what was run
    Band: standard error over seeds; for one seed that of a share among the subnets of the archive.
    """
    here = one_dataset(iterations, dataset)
    if here.empty:
        return figures5.empty_panel(f"Shift of the archive: {NOT_RUN}")
    phase = max(here.phase) if phase is None else phase
    here = here[here.phase == phase]
    if objectives is None:
        objectives = "acc+params" if "acc+params" in set(here.objectives) else min(here.objectives)
    here = here[here.objectives == objectives]
    if here.empty:
        return figures5.empty_panel(
            f"Shift of the archive, phase {phase}, {title(objectives)}: {NOT_RUN}"
        )
    names = figures5.in_order(here.supernet)
    fig, axes = figures5.panel_grid(
        2 * len(names), len(names), (10.4 / max(len(names), 2), 2.1), sharex=True, sharey="row"
    )
    plotted = []
    for k, ax in enumerate(axes):
        name, kind = names[k % len(names)], ("depth", "exit")[k // len(names)]
        mine = here[here.supernet == name]
        for value in {"depth": DEPTH_COLOURS, "exit": range(1, 6)}[kind]:
            share = mine[f"{kind}_{value}"]
            single = np.sqrt((share * (1 - share)).clip(lower=0) / mine.archive)
            colour = DEPTH_COLOURS[value] if kind == "depth" else EXIT_COLOURS(1 - value / 6)
            if kind == "depth" or name.startswith("EE"):
                line = _curve(
                    ax, mine.assign(single=single), f"{kind}_{value}", "single", color=colour
                )
                plotted.append(line.assign(supernet=name, phase=phase, objectives=objectives))
        if kind == "depth":
            ax.set_title(name, color=COLOURS[name], loc="center")
        elif not name.startswith("EE"):
            ax.text(
                0.5, 0.5, "one exit", transform=ax.transAxes, ha="center", va="center", color=GREY
            )
        ax.set_ylim(-0.02, 1.02)
        if k >= len(names):
            ax.set_xlabel("iteration", labelpad=1)
        if k % len(names) == 0:
            ax.set_ylabel({"depth": "share of the stages", "exit": "share of the subnets"}[kind])
    fig.legend(
        handles=[
            *(Line2D([], [], color=c, label=f"{d} blocks") for d, c in DEPTH_COLOURS.items()),
            *(
                Line2D([], [], color=EXIT_COLOURS(1 - e / 6), label=f"exit {e}")
                for e in range(1, 6)
            ),
        ],
        loc="outside upper center",
        ncols=8,
        title=f"phase {phase}, {title(objectives)}",
    )
    fig.rows = pd.concat(plotted, ignore_index=True)
    return fig
