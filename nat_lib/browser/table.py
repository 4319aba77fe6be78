"""What the Pareto browser shows: every subnet that the searches archived as one table, a figure, a
subnet in words.

`load` reads the finished searches and computes all that can be asked of a subnet, `select` picks
rows, `figure` draws them. The widgets in browser.py are a layer on top: a slider picks rows of the
table, no more. Units as everywhere in chapter 6: percent, millions of parameters and of MACs (the
thesis's convention), milliseconds.
"""

import html
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import moocore
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from nat_lib import files, latency_table
from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.export import write
from nat_lib.genotypes import from_text
from nat_lib.report import shapes, tables
from nat_lib.report.figures6 import fronts
from nat_lib.report.style import COLOURS, GREY, METHODS, in_order, thesis_style
from nat_lib.results import chapter6
from nat_lib.results.chapter6 import SEARCH, SUBNET
from nat_lib.results.names import DATASETS, MISSING, name_of
from nat_lib.results.printed import printed_value
from nat_lib.results.stats import single_run_noise
from nat_lib.search import objectives
from nat_lib.search.pareto import front, high_tradeoff, hypervolume
from nat_lib.studies.returned import RETURNED

AXES = {
    "val_top1": "validation top-1 (%)",
    "test_top1": "test top-1 (%)",
    "params": "parameters (M)",
    "macs": "MACs (M)",
    "latency": "latency (ms)",
    "contribution": "hypervolume contribution (%)",
}
TOP1 = ("val_top1", "test_top1")
OF_SEARCH = [*SEARCH, "folder", "n_classes", "n_val", "n_test", "last"]
OF_SUBNET = [
    "iteration",
    "code",
    "val_top1",
    "test_top1",
    "params",
    "macs",
    "latency",
    "latency_from",
    "latency_iqr",
    "resolution",
    "width",
    "exit",
    "born",
    "front",
    "knee",
    "contribution",
    "predicted",
    "measured",
]
KNOWN = ["code", "test_top1", "latency_ms", "latency_iqr"]
DASHES = {
    1: (":", "dot"),
    2: ("-.", "dashdot"),
    3: ("--", "dash"),
    4: ("-", "solid"),
}  # phases: matplotlib, plotly


# ---------------------------------------------------------------------------------------- the table


def load(out):
    """Every subnet in every archive of the finished searches under `out`: a row per search,
    iteration and subnet.

    OF_SEARCH   : `folder` of the search's cell, sizes of its splits, its `last` iteration;  search:
                  its number here
    val_top1    : at the weights of that iteration;  test_top1: known of the last front only, else
                  NaN
    latency     : `latency_from` "search" (an objective), "table" (of blocks, if there is one) or
                  "measured" (the last front; with latency_iqr); NaN and "" otherwise
    front       : not dominated in its archive, in the objectives of its search;  knee: its rank
                  among the subnets with a high trade-off, from 1, else 0
    contribution: hypervolume that the front would lose with this subnet, in percent of the box
                  below the search's reference point
    predicted   : top-1 foreseen when it was proposed, and `measured` then; NaN in the first archive
    post_top1   : test top-1 after the final post-processing that is best on validation, by
                  `post_method`; NaN without
    """
    found = chapter6.searches(out)
    if found.empty:
        raise Refusal(
            f"{out} holds no finished search: run notebooks 02 and 04 first (./run_all.sh --only 02,04)"
        )
    parts = [
        _archive(folder, (folder / "report.json").stat().st_mtime_ns) for folder in found.folder
    ]
    posts = chapter6.final_posts(chapter6.posts(out)).drop_duplicates(
        SUBNET
    )  # the best on validation comes first
    posts = posts.rename(columns={"test_top1": "post_top1", "method": "post_method"})
    points = pd.concat(parts, ignore_index=True).merge(
        posts[[*SUBNET, "post_top1", "post_method"]].astype(
            {"phase": int, "seed": int, "post_top1": float}
        ),
        "left",
        SUBNET,
    )
    points.loc[points.iteration < points["last"], ["post_top1", "post_method"]] = np.nan
    return points.assign(search=pd.factorize(points.folder)[0])


@lru_cache(maxsize=512)
def _archive(folder, _changed):
    """The rows of one search; read again when its report has changed."""
    told = files.read_json(folder / "report.json")
    p, metrics, space = told["params"], told["metrics"], space_of(folder)
    try:
        rows = pd.read_csv(folder / "archive.csv").reset_index(drop=True)
        known = pd.read_csv(folder / "subnets.csv")[KNOWN].drop_duplicates("code")
        proposed = pd.read_csv(folder / "candidates.csv")[
            ["iteration", "code", "predicted", "error"]
        ]
        which, codes = pd.factorize(rows.code)
        X = from_text(codes)
        F = rows[["error", *p["objectives"].split("+")[1:]]].to_numpy(float)
    except (OSError, ValueError, KeyError):
        raise Refusal(
            f"{folder}: its tables are missing or damaged: delete it and run notebook 04 again"
        ) from None
    known = known.set_index("code").reindex(codes)
    costs = count(X, space, p["n_classes"]) / 1e6
    speed, source = _latency(folder, space, p["n_classes"], X, known)
    rows = rows.assign(
        **{k: p[k] for k in SEARCH},
        folder=folder,
        n_classes=p["n_classes"],
        n_val=p["data"]["sizes"]["val"],
        n_test=metrics["n_test"],
        last=rows.iteration.max(),
        val_top1=100 - rows.error,
        params=costs.params.to_numpy()[which],
        macs=costs.macs_tp.to_numpy()[which],
        resolution=np.array(space.resolutions)[X[which, 0]],
        width=np.array(space.widths)[X[which, 1]],
        exit=X[which, 2] + 1 if space.early_exits else space.n_stages,
        test_top1=np.where(
            rows.iteration == rows.iteration.max(), known.test_top1.to_numpy()[which], np.nan
        ),
        latency_iqr=np.where(source == "measured", known.latency_iqr, np.nan)[which],
        latency=rows.latency if "latency" in rows else speed[which],
        latency_from="search" if "latency" in rows else source[which],
    )
    flags = np.zeros((3, len(rows)))
    for _, at in rows.groupby("iteration").indices.items():
        flags[:, at] = _flags(F[at], space.active(X)[which[at]], p, np.array(metrics["reference"]))
    proposed = proposed.assign(
        predicted=100 - proposed.predicted, measured=100 - proposed.error
    ).drop(columns="error")
    return rows.assign(front=flags[0] > 0, knee=flags[1].astype(int), contribution=flags[2]).merge(
        proposed.rename(columns={"iteration": "born"}), "left", ["born", "code"]
    )[[*OF_SEARCH, *OF_SUBNET]]


def _latency(folder, space, n_classes, X, known):
    """(milliseconds, where from) of genotypes: the machine's block table, else what was measured of
    the last front."""
    table = folder.parents[1] / "latency" / f"{space.name}_{files.hash_of(space)}"
    if (table / "report.json").exists() and files.read_json(table / "report.json")["params"][
        "n_classes"
    ] == n_classes:
        speed = latency_table.load_table(table / "table.json", space, n_classes).latency(X)
        return speed, np.full(len(X), "table", dtype=object)
    speed = known.latency_ms.to_numpy()
    return speed, np.where(np.isnan(speed), "", "measured").astype(object)


def _flags(F, active, p, reference):
    """(3, n): on the front, rank as a knee (see `nat.returned`), hypervolume contribution in
    percent."""
    found = np.zeros((3, len(F)))
    found[0] = front(F)
    on_front = np.flatnonzero(found[0])
    _, first = np.unique(active[on_front], axis=0, return_index=True)
    on_front = on_front[np.sort(first)]  # a subnet that lies in the archive twice counts once
    knees, own = (
        on_front[:1],
        (reference - F[on_front]).ravel() * (len(on_front) == 1),
    )  # of accuracy alone
    if F.shape[1] > 1:
        own = moocore.hv_contributions(F[on_front], ref=reference)
        knees = on_front[
            high_tradeoff(
                F[on_front],
                RETURNED,
                reduce=p["tradeoff_reduce"],
                normalise=p["tradeoff_normalise"],
            )
        ]
    found[1, knees] = np.arange(len(knees)) + 1
    found[2, on_front] = 100 * own / reference.prod()
    return found


@lru_cache(maxsize=512)
def space_of(folder):
    """The space that a finished search searched."""
    return Space.from_dict(files.read_json(folder / "report.json")["params"]["space"])


def arch_of(row):
    """The subnet of a row as an Arch."""
    return space_of(row.folder).decode(from_text([row.code]))[0]


@lru_cache(maxsize=64)
def proposals(folder):
    """All candidates of a search: DataFrame of iteration, code, predicted and measured top-1."""
    rows = pd.read_csv(folder / "candidates.csv")
    return rows.assign(predicted=100 - rows.predicted, measured=100 - rows.error)[
        ["iteration", "code", "predicted", "measured"]
    ]


# ------------------------------------------------------------------------------------- picking rows


class Choices(NamedTuple):
    """What to show. None: whatever there is; `iteration` None: the last of every search."""

    dataset: str | None = None
    supernets: tuple | None = None
    phases: tuple | None = None
    objectives: tuple | None = None
    seeds: tuple | None = None
    iteration: int | None = None  # a search that ended before shows its last one
    max_params: float = np.inf
    max_macs: float = np.inf
    min_top1: float = -np.inf  # on validation
    exits: tuple[int, int] = (1, 5)  # first and last
    resolutions: tuple[int, int] = (1, 10_000)


def of_runs(points, choices):
    """(n,) bool: rows of the chosen searches, in all iterations and within any limits."""
    searches = points.drop_duplicates("search")
    keep = np.ones(len(searches), bool)
    for column, wanted in (
        ("dataset", choices.dataset and (choices.dataset,)),
        ("supernet", choices.supernets),
        ("phase", choices.phases),
        ("objectives", choices.objectives),
        ("seed", choices.seeds),
    ):
        if wanted is not None:
            keep &= searches[column].isin(wanted).to_numpy()
    return np.isin(points.search, searches.search[keep])


def select(points, choices):
    """The rows of `load` that the `Choices` show, in their order."""
    keep, last = of_runs(points, choices), points["last"].to_numpy()
    keep &= points.iteration.to_numpy() == (
        last if choices.iteration is None else np.minimum(choices.iteration, last)
    )
    keep &= (points.params.to_numpy() <= choices.max_params) & (
        points.macs.to_numpy() <= choices.max_macs
    )
    keep &= points.val_top1.to_numpy() >= choices.min_top1
    for column, (low, high) in (("exit", choices.exits), ("resolution", choices.resolutions)):
        keep &= points[column].between(low, high).to_numpy()
    return points[keep]


def most_searched(points, dataset):
    """The objectives that most searches on a data set have, of those with several objectives where
    there are such."""
    rows = points[points.dataset == dataset].drop_duplicates("folder")
    if rows.empty:
        raise Refusal(
            f"no finished search on {dataset}: there are some on {', '.join(sorted(set(points.dataset)))}"
        )
    several = rows[rows.objectives != "acc"]
    return (several if len(several) else rows).objectives.value_counts().sort_index().idxmax()


def recommended(points, dataset, objectives):
    """The row to take home: the most accurate subnet with a high trade-off of the best search, on
    validation.

    Best is the search over these objectives whose last archive covers the largest hypervolume below
    one reference
    point: 1.01 times the worst that any of them holds.
    """
    here = select(points, Choices(dataset, objectives=(objectives,)))
    if here.empty:
        raise Refusal(
            f"no search on {dataset} with objectives {objectives}: there are "
            + ", ".join(sorted(set(points.dataset + " " + points.objectives)))
        )
    F = np.column_stack([100 - here.val_top1, *(here[name] for name in objectives.split("+")[1:])])
    reference = 1.01 * F.max(axis=0) + 1e-9
    volume = {
        search: hypervolume(F[at], reference)
        for search, at in here.groupby("search").indices.items()
    }
    knees = here[(here.search == max(volume, key=volume.get)) & (here.knee > 0)]
    return knees.loc[knees.val_top1.idxmax()]


def cost_of(objectives):
    """The axis that stands against accuracy: the second objective, parameters where there is
    none."""
    return [*objectives.split("+")[1:], "params"][0]


def ordered_front(rows, x):
    """The front rows from left to right: the order in which a keyboard walks through them."""
    return rows[rows.front].sort_values([x, "val_top1"], kind="stable")


def neighbours(rows, row):
    """(next less accurate, next more accurate) on the front of the row's own search and iteration;
    None at an end."""
    line = rows[
        rows.front
        & (rows.search == row.search)
        & (rows.iteration == row.iteration)
        & (rows.code != row.code)
    ]
    line = line.sort_values("val_top1")
    below, above = line[line.val_top1 <= row.val_top1], line[line.val_top1 > row.val_top1]
    return below.iloc[-1] if len(below) else None, above.iloc[0] if len(above) else None


# ----------------------------------------------------------------------------------- printed points


def printed(dataset):
    """What the thesis prints of Figures 6.7 and 6.11 for a data set (its name in data.py).

    returns : DataFrame of supernet, label, top1 (on the test split), params, macs, latency; a row
              without any cost is the top-1 of a group of subnets (Figure 6.11)
    """
    points = fronts.points_printed([dataset], COLOURS)
    rows = [
        {
            "supernet": r.supernet,
            "label": f"{r.supernet}, {objectives.title(r.objectives)} (Fig. 6.7)",
            "top1": r.top1,
            **({} if r.objectives == "acc" else {cost_of(r.objectives): r.second}),
        }
        for r in points.itertuples()
    ]
    for group, phase, label in (
        ("baseline", 1, "best, phase-1 baseline"),
        ("full", 4, "best, full NATv2"),
    ):
        top1 = printed_value(
            "nat.headline_top1", dataset=name_of(dataset), group=group, phase=phase
        )
        rows.append({"label": f"{label} (Fig. 6.11)", "top1": top1})
    return (
        pd.DataFrame(rows, columns=["supernet", "label", "top1", "params", "macs", "latency"])
        .dropna(subset="top1")
        .reset_index(drop=True)
    )


def printed_names():
    """{name in the thesis: name in data.py} of the data sets for which it prints such values."""
    return {name_of(d): d for d in DATASETS.values() if len(printed(d))}


def on_axes(paper, x, y):
    """(points, lines) of `printed` on these axes: what has both coordinates, and (label, top-1) of
    the groups."""
    at = paper.assign(**dict.fromkeys(TOP1, paper.top1), contribution=np.nan)
    lines = paper[paper.supernet.isna()] if y in TOP1 else paper[:0]
    return at.assign(x=at[x], y=at[y])[
        paper.supernet.notna() & at[x].notna() & at[y].notna()
    ], lines


def scale(rows, axis):
    """ "log" for a cost that spans more than a factor of ten, else "linear"."""
    least, most = rows[axis].min(), rows[axis].max()
    return "log" if axis in objectives.OBJECTIVES and most > 10 * least > 0 else "linear"


def log_ticks(least, most):
    """1, 2, 5, 10, ... between two positive numbers."""
    tens = range(int(np.floor(np.log10(least))), int(np.ceil(np.log10(most))) + 1)
    return [
        v for v in (digit * 10.0**ten for ten in tens for digit in (1, 2, 5)) if least <= v <= most
    ]


# ------------------------------------------------------------------------------------------- static


@thesis_style
def figure(rows, x, y, paper=None, marked=None):
    """Chosen rows of `load` on two AXES: dominated subnets, fronts (joined, a dash per phase) and
    knees.

    paper : of `printed`, drawn as diamonds and lines;  marked : a row to put a ring around
    The twin of the browser's figure: the same colours, markers and dashes.
    """
    fig, ax = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    colours = rows.supernet.map(COLOURS)
    for kind, style in (
        ("dominated", {"marker": "x", "s": 11, "linewidths": 0.7, "alpha": 0.55}),
        ("front", {"marker": "o", "s": 24, "linewidths": 0.5, "edgecolors": "white", "zorder": 3}),
        ("knee", {"marker": "*", "s": 95, "linewidths": 0.6, "edgecolors": "black", "zorder": 4}),
    ):
        here = rows.index[kind_of(rows) == kind]
        ax.scatter(rows[x][here], rows[y][here], c=colours[here], **style)
    for _, line in ordered_front(rows, x).groupby("search", sort=False):
        first = line.iloc[0]
        ax.plot(
            line[x],
            line[y],
            color=COLOURS[first.supernet],
            lw=1,
            ls=DASHES[first.phase][0],
            zorder=2,
        )
    if marked is not None:
        ax.scatter(marked[x], marked[y], s=330, fc="none", ec="black", lw=1.3, zorder=5)
    points, lines = on_axes(printed("") if paper is None else paper, x, y)
    ax.scatter(
        points.x,
        points.y,
        marker="D",
        c=points.supernet.map(COLOURS),
        s=34,
        ec="black",
        lw=0.9,
        zorder=5,
    )
    for line in lines.itertuples():
        ax.axhline(line.top1, color="black", lw=0.8, ls="--" if "baseline" in line.label else ":")
    ax.set(xlabel=AXES[x], ylabel=AXES[y], xscale=scale(rows, x), yscale=scale(rows, y))
    for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
        if scale(rows, name) == "log":
            ticks = log_ticks(rows[name].min(), rows[name].max())
            axis.set_ticks(ticks, [f"{v:g}" for v in ticks])
            axis.set_ticks([], minor=True)
    ax.grid(True, axis="both")
    _legend(fig, rows, len(points), len(lines), marked)
    fig.rows = rows.drop(columns=["folder", "search"])
    return fig


def kind_of(rows):
    return np.select([rows.knee > 0, rows.front], ["knee", "front"], "dominated")


def _legend(fig, rows, points, lines, marked):
    grey = {"color": GREY, "ls": ""}
    names = in_order(rows.supernet.unique())
    handles = [Line2D([], [], color=COLOURS[s], marker="s", ls="", label=s) for s in names]
    handles += [
        Line2D([], [], color=GREY, lw=1.1, ls=DASHES[p][0], label=f"phase {p}")
        for p in sorted(set(rows.phase))
    ]
    handles += [
        Line2D([], [], marker="x", ms=4, label="dominated", **grey),
        Line2D([], [], marker="o", ms=5, mec="white", label="front", **grey),
        Line2D([], [], marker="*", ms=10, mec="black", mew=0.6, label="high trade-off", **grey),
    ]
    if marked is not None:
        handles.append(
            Line2D([], [], marker="o", ms=12, mfc="none", mec="black", ls="", label="recommended")
        )
    handles += [fronts.DIAMOND] * bool(points) + [
        Line2D([], [], color="black", lw=0.8, ls="--", label="printed best")
    ] * bool(lines)
    fig.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 10),
        columnspacing=1.1,
        handletextpad=0.4,
    )


# ------------------------------------------------------------------------------ one subnet in words


def table(rows):
    """The front rows as a plain table, by search and then from the cheapest: what stands below the
    static figure."""
    line = rows[rows.front].sort_values([*SEARCH, "val_top1"], kind="stable")
    noise = {
        f"{split}_noise": [
            single_run_noise(t, n)
            for t, n in zip(line[f"{split}_top1"], line[f"n_{split}"], strict=True)
        ]
        for split in ("val", "test")
    }
    return line.assign(**noise).reset_index(drop=True)[
        [
            "supernet",
            "phase",
            "objectives",
            "seed",
            "resolution",
            "width",
            "exit",
            "val_top1",
            "val_noise",
            "test_top1",
            "test_noise",
            "params",
            "macs",
            "latency",
            "latency_from",
            "contribution",
            "knee",
            "code",
        ]
    ]


def words(row):
    """{what: HTML} of one subnet; top-1 with its noise (see `single_run_noise`), latency
    with its origin."""
    spread = {
        "search": "",
        "table": "by table",
        "": "",
        "measured": f"quartiles {row.latency_iqr:.2g} apart",
    }[row.latency_from]
    place = (
        f"front, high trade-off {row.knee}" if row.knee else "front" if row.front else "dominated"
    )
    return {
        "search": f"<b style='color:{COLOURS[row.supernet]}'>{row.supernet}</b>, phase {row.phase}, seed {row.seed}",
        "objectives": row.objectives,
        "iteration": f"{row.iteration} of {row['last']}, there since {row.born}",
        "place": place,
        "hypervolume": f"{row.contribution:.2g} % by it alone",
        "validation top-1": _top1(row.val_top1, row.n_val),
        "test top-1": _top1(row.test_top1, row.n_test),
        "post-processed, test": MISSING
        if np.isnan(row.post_top1)
        else f"{_top1(row.post_top1, row.n_test)} {METHODS.get(row.post_method, row.post_method)}",
        "predicted, measured": "in the first archive"
        if np.isnan(row.predicted)
        else f"{row.predicted:.2f}, {row.measured:.2f} % then",
        "parameters": f"{row.params:.4g} M",
        "MACs": f"{row.macs:.4g} M",
        "latency": MISSING
        if np.isnan(row.latency)
        else f"{row.latency:.3g} ms <small>{spread}</small>",
        "input, width, exit": f"{row.resolution} px, {row.width}, exit {row.exit}",
    }


def _top1(value, n):
    if np.isnan(value):
        return MISSING
    return f"<b>{value:.2f}</b>&plusmn;{single_run_noise(value, n):.1f} %"


def side_by_side(rows, heads, caption):
    """An HTML table of `words`, one column per row; a missing row (None) is left out."""
    columns = [(head, words(row)) for head, row in zip(heads, rows, strict=True) if row is not None]
    if not columns:
        return f"<i>{caption}</i>"
    top = "".join(f"<th scope='col'>{html.escape(head)}</th>" for head, _ in columns)
    body = "".join(
        f"<tr><th scope='row'>{what}</th>{''.join(f'<td>{told[what]}</td>' for _, told in columns)}</tr>"
        for what in columns[0][1]
    )
    return f"<table class='nat-table'><caption>{caption}</caption><tr><td></td>{top}</tr>{body}</table>"


def summary(row, exported=None):
    """`words` of one row as a table for a notebook, and what `export_row` said of it:
    `tables.Table`."""
    said = {"exported": html.escape(exported_line(exported))} if exported else {}
    told = words(row) | said
    return tables.Table(
        pd.DataFrame({"": told}),
        "<b>The recommended network</b>; &plusmn;: standard error of the "
        "split and spread of repeated runs",
    )


def drawing(row):
    """The shapes of `schematics.draw_subnet` as an inline SVG: a hundred times quicker, so that it
    follows a pointer."""
    space, arch = space_of(row.folder), arch_of(row)
    label = f"{shapes.title(arch, space, row.params, row.macs)} as the thesis counts them"
    return shapes.svg(*shapes.subnet(arch, space), label)


def export_row(row, folder):
    """Export a subnet into `folder`/<search>-<hash of its code>; returns what `export.from_search`
    does."""
    return write.from_search(
        row.folder, row.code, Path(folder) / f"{row.folder.name}-{files.hash_of(row.code)}"
    )


def exported_line(told):
    """What `export_row` returned, as one line."""
    checks = ", ".join(
        f"{name} {value:.1e}" for name, value in told["checks"].items() if value is not None
    )
    return f"{', '.join(told['files'])} in {told['folder']}; logits differ by at most: {checks}"
