"""Every subnet that the finished searches archived: the table that the Pareto browser picks from.

`load` reads the searches and computes all that can be asked of a subnet. Units as everywhere in
chapter 6: percent, millions of parameters and of MACs (the thesis's convention), milliseconds.
"""

from functools import lru_cache
from pathlib import Path

import moocore
import numpy as np
import pandas as pd

from nat_lib import files
from nat_lib.arch import Arch, Space
from nat_lib.cells import read_report
from nat_lib.errors import Refusal
from nat_lib.export.sources import check_names
from nat_lib.genotypes import from_text
from nat_lib.latency_table import load_table
from nat_lib.results import chapter6
from nat_lib.results.chapter6 import SEARCH, SUBNET
from nat_lib.search import objectives
from nat_lib.search.objectives import OBJECTIVES, Subject
from nat_lib.search.pareto import front, high_tradeoff
from nat_lib.search.strategies import DEFAULT
from nat_lib.studies.returned import RETURNED

TOP1 = ("val_top1", "test_top1")
RESULTS = {"val_top1": "validation top-1 (%)", "test_top1": "test top-1 (%)"}
OF_SEARCH = [*SEARCH, "strategy", "folder", "n_classes", "n_val", "n_test", "last"]
OF_SUBNET = [
    *("iteration", "code", *TOP1, "latency_from", "latency_iqr", "resolution", "width", "exit"),
    *("born", "front", "knee", "contribution", "predicted", "measured"),
]
POST = {  # of the final post-processing of a subnet
    "test_top1": "post_top1",
    "val_top1": "post_val_top1",
    "method": "post_method",
    "cell": "post_cell",
}
KNOWN = ["code", "test_top1", "latency_ms", "latency_iqr"]
TIMED = "latency"


def axes(points: pd.DataFrame) -> dict[str, str]:
    """{column: label of its axis} of what can be drawn: accuracy, every objective, contribution."""
    return (
        RESULTS
        | {name: objectives.axis(name) for name in costs_of(points)}
        | {"contribution": "hypervolume contribution (%)"}
    )


def costs_of(points: pd.DataFrame) -> list[str]:
    """The objectives beside accuracy: all that the kit knows, then what searches here had
    besides."""
    searched = {name for text in set(points.objectives) for name in text.split("+")[1:]}
    return [*OBJECTIVES, *sorted(searched - set(OBJECTIVES))]


def load(out: str | Path) -> pd.DataFrame:
    """Every subnet in every archive of the finished searches under `out`: a row per search,
    iteration and subnet.

    OF_SEARCH   : `folder` of the search's cell, sizes of its splits, its `last` iteration;  search:
                  its number here
    val_top1    : at the weights of that iteration;  test_top1: known of the last front only, else
                  NaN
    one column per objective, in its unit; NaN where it is not known
    latency_from: "search" (an objective), "table" (of blocks, if there is one) or "measured" (the
                  last front; with latency_iqr); "" where the latency is not known
    front       : not dominated in its archive, in the objectives of its search;  knee: its rank
                  among the subnets with a high trade-off, from 1, else 0
    contribution: hypervolume that the front would lose with this subnet, in percent of the box
                  below the search's reference point
    predicted   : top-1 foreseen when it was proposed, and `measured` then; NaN in the first archive
    post_top1   : test top-1 after the final post-processing that is best on validation
                  (`post_val_top1`), by `post_method`, in `post_cell`; NaN without
    """
    found = chapter6.searches(out)
    if found.empty:
        raise Refusal(
            f"{out} holds no finished search: run notebooks 02 and 04 first "
            "(./run_all.sh --only 02,04)"
        )
    parts = [
        _archive(folder, (folder / "report.json").stat().st_mtime_ns) for folder in found.folder
    ]
    points = pd.concat(parts, ignore_index=True)
    # The best on validation comes first.
    posts = chapter6.final_posts(chapter6.posts(out)).drop_duplicates(SUBNET)
    posts = posts[[*SUBNET, *POST]].rename(columns=POST).assign(strategy=DEFAULT)
    kinds = {"phase": int, "seed": int, "post_top1": float, "post_val_top1": float}
    points = points.merge(posts.astype(kinds), "left", [*SUBNET, "strategy"])
    points.loc[points.iteration < points["last"], [*POST.values()]] = np.nan
    return points.assign(search=pd.factorize(points.folder)[0])


@lru_cache(maxsize=512)
def _archive(folder, _changed):
    """The rows of one search; read again when its report has changed."""
    report = read_report(folder)
    p, metrics = report["params"], report["metrics"]
    check_names(folder, p)
    names = p["objectives"].split("+")[1:]
    try:
        rows = pd.read_csv(folder / "archive.csv").reset_index(drop=True)
        known = pd.read_csv(folder / "subnets.csv")[KNOWN].drop_duplicates("code")
        proposed = pd.read_csv(folder / "candidates.csv")
        proposed = proposed[["iteration", "code", "predicted", "error"]]
        which, codes = pd.factorize(rows.code)
        X = from_text(codes)
        F = rows[["error", *names]].to_numpy(float)
    except (OSError, ValueError, KeyError):
        raise Refusal(
            f"{folder}: its tables are missing or damaged: delete it and run notebook 04 again"
        ) from None
    space = space_of(folder)
    known = known.set_index("code").reindex(codes)
    of_last = rows.iteration == rows.iteration.max()
    rows = rows.assign(
        **{key: p[key] for key in SEARCH},
        strategy=p.get("strategy", DEFAULT),
        folder=folder,
        n_classes=p["n_classes"],
        n_val=p["data"]["sizes"]["val"],
        n_test=metrics["n_test"],
        last=rows.iteration.max(),
        val_top1=100 - rows.error,
        test_top1=np.where(of_last, known.test_top1.to_numpy()[which], np.nan),
        resolution=np.array(space.resolutions)[X[which, 0]],
        width=np.array(space.widths)[X[which, 1]],
        exit=space.last_exits[X[which, 2]] if space.early_exits else space.n_stages,
        **_costs(rows, names, folder, p["n_classes"], X, which, known),
        **_flags_by_iteration(rows, F, space.active(X)[which], p, metrics["reference"]),
    )
    proposed = proposed.rename(columns={"iteration": "born"}).assign(
        predicted=100 - proposed.predicted, measured=100 - proposed.error
    )
    columns = [*OF_SEARCH, *OF_SUBNET, *dict.fromkeys([*OBJECTIVES, *names])]
    return rows.merge(proposed.drop(columns="error"), "left", ["born", "code"])[columns]


def _costs(rows, names, folder, n_classes, X, which, known):
    """{column: values} of every objective: computed from the genotype, or as the search had it."""
    subject, found = Subject(space_of(folder), n_classes), {}
    for name, row in OBJECTIVES.items():
        if not row.timed:
            found[name] = row.function(subject, X)[which]
    speed, source = _latency(folder, n_classes, X, known)
    found |= {TIMED: speed[which], "latency_from": source[which]}
    found["latency_iqr"] = np.where(source == "measured", known.latency_iqr, np.nan)[which]
    for name in names:
        if name == TIMED:
            found["latency_from"] = "search"
        if name == TIMED or name not in found:
            found[name] = rows[name]
    return {name: np.nan for name in OBJECTIVES if name not in found} | found


def _latency(folder, n_classes, X, known):
    """(milliseconds, where from) of genotypes: the machine's block table, else what was measured of
    the last front."""
    space = space_of(folder)
    table = folder.parents[1] / "latency" / f"{space.name}_{files.hash_of(space)}"
    made = (table / "report.json").exists()
    if made and read_report(table)["params"]["n_classes"] == n_classes:
        speed = load_table(table / "table.json", space, n_classes).latency(X)
        return speed, np.full(len(X), "table", dtype=object)
    speed = known.latency_ms.to_numpy()
    return speed, np.where(np.isnan(speed), "", "measured").astype(object)


def _flags_by_iteration(rows, F, active, p, reference):
    found = np.zeros((3, len(rows)))
    for at in rows.groupby("iteration").indices.values():
        found[:, at] = flags(F[at], active[at], p, np.array(reference))
    return {"front": found[0] > 0, "knee": found[1].astype(int), "contribution": found[2]}


def flags(F: np.ndarray, active: np.ndarray, p: dict, reference: np.ndarray) -> np.ndarray:
    """(3, n): on the front, rank as a knee (see `searches.returned`), hypervolume contribution in
    percent of the box below the reference point; 0 where that box is empty.

    F : (n, M) objectives, to be minimised;  active : (n, V) genotypes, by which subnets are told
    apart;  p : "tradeoff_reduce", "tradeoff_normalise" of the search
    """
    found = np.zeros((3, len(F)))
    found[0] = front(F)
    on_front = np.flatnonzero(found[0])
    _, first = np.unique(active[on_front], axis=0, return_index=True)
    on_front = on_front[np.sort(first)]  # a subnet that lies in the archive twice counts once
    one_objective = F.shape[1] == 1
    if one_objective:
        knees, own = on_front[:1], np.zeros(len(on_front))
        if len(on_front) == 1:
            own = (reference - F[on_front]).ravel()
    else:
        own = moocore.hv_contributions(F[on_front], ref=reference)
        reduce, normalise = p["tradeoff_reduce"], p["tradeoff_normalise"]
        best = high_tradeoff(F[on_front], RETURNED, reduce=reduce, normalise=normalise)
        knees = on_front[best]
    found[1, knees] = np.arange(len(knees)) + 1
    box = reference.prod()
    if box > 0:  # errors that are all 0 leave no room below the reference point
        found[2, on_front] = 100 * own / box
    return found


@lru_cache(maxsize=512)
def space_of(folder: Path) -> Space:
    """The space that a finished search searched."""
    return Space.from_dict(read_report(folder)["params"]["space"])


def arch_of(row: pd.Series) -> Arch:
    """The subnet of a row."""
    return space_of(row.folder).decode(from_text([row.code]))[0]


@lru_cache(maxsize=64)
def proposals(folder: Path) -> pd.DataFrame:
    """All candidates of a search: iteration, code, predicted and measured top-1."""
    rows = pd.read_csv(folder / "candidates.csv")
    rows = rows.assign(predicted=100 - rows.predicted, measured=100 - rows.error)
    return rows[["iteration", "code", "predicted", "measured"]]
