"""One subnet, or a few side by side, in words; its drawing; its export.

Names come from files of somebody, so every text is escaped where it becomes HTML.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nat_lib import files
from nat_lib.browser.picking import cost_of, dominating, neighbours
from nat_lib.browser.static import line_of
from nat_lib.browser.table import arch_of, costs_of, space_of
from nat_lib.export import sources
from nat_lib.report import shapes
from nat_lib.report.style import METHODS, colour_of
from nat_lib.report.tables import Table
from nat_lib.results.names import MISSING
from nat_lib.results.stats import single_run_noise
from nat_lib.search import objectives
from nat_lib.search.objectives import OBJECTIVES

FROM = {"search": "", "table": "by table", "": "", "measured": "quartiles {:.2g} apart"}


def words(row: pd.Series) -> dict[str, str]:
    """{what, as plain text: HTML} of one subnet; top-1 with its noise (`stats.single_run_noise`),
    latency with its origin."""
    place = "dominated"
    if row.front:
        place = f"front, high trade-off {row.knee}" if row.knee else "front"
    told = {
        "search": f"{_supernet(row)}, {_text(line_of(row.strategy, row.phase).label)}, "
        f"seed {row.seed}",
        "objectives": _text(row.objectives),
        "iteration": f"{row.iteration} of {row['last']}, there since {row.born}",
        "place": place,
        "hypervolume": f"{row.contribution:.2g} % by it alone",
        "validation top-1": _top1(row.val_top1, row.n_val),
        "test top-1": _top1(row.test_top1, row.n_test),
        "post-processed, test": MISSING,
        "predicted, measured": "in the first archive",
    }
    if not np.isnan(row.post_top1):
        method = METHODS.get(row.post_method, row.post_method)
        told["post-processed, test"] = f"{_top1(row.post_top1, row.n_test)} {_text(method)}"
    if not np.isnan(row.predicted):
        told["predicted, measured"] = f"{row.predicted:.2f}, {row.measured:.2f} % then"
    for name in costs_of(row.to_frame().T):
        told[objectives.label(name)] = _cost(row, name)
    told["input, width, exit"] = f"{row.resolution} px, {row.width}, {_exits(row)}"
    return told


def _exits(row):
    """The exits that answer, in words."""
    arch = arch_of(row)
    if not arch.also:
        return f"exit {arch.exit}"
    return f"exits {', '.join(map(str, arch.answering))}"


def _text(value):
    return html.escape(str(value))


def _supernet(row):
    return f"<b style='color:{colour_of(row.supernet)}'>{_text(row.supernet)}</b>"


def _cost(row, name):
    if np.isnan(row[name]):
        return MISSING
    unit = OBJECTIVES[name].unit if name in OBJECTIVES else ""
    told = f"{row[name]:.4g} {_text(unit)}"
    if name == "latency":
        told += f" <small>{FROM[row.latency_from].format(row.latency_iqr)}</small>"
    return told


def _top1(value, n):
    if np.isnan(value):
        return MISSING
    return f"<b>{value:.2f}</b>&plusmn;{single_run_noise(value, n):.1f} %"


def in_a_line(row: pd.Series) -> str:
    """HTML: one subnet, its accuracy and its costs, in one line."""
    costs = [
        f"{_cost(row, name)} {_text(objectives.label(name))}"
        for name in costs_of(row.to_frame().T)
        if not np.isnan(row[name])
    ]
    line = _text(line_of(row.strategy, row.phase).label)
    test = "" if np.isnan(row.test_top1) else f", {_top1(row.test_top1, row.n_test)} test"
    return (
        f"{_supernet(row)}, {line}, {_exits(row)}, {row.resolution} px: "
        f"{_top1(row.val_top1, row.n_val)} validation{test}; {', '.join(costs)}"
    )


def side_by_side(rows: list[pd.Series | None], heads: list[str], caption: str) -> str:
    """An HTML table of `words`, one column per row; a missing row (None) is left out."""
    columns = [(head, words(row)) for head, row in zip(heads, rows, strict=True) if row is not None]
    if not columns:
        return f"<i>{_text(caption)}</i>"
    top = "".join(f"<th scope='col'>{_text(head)}</th>" for head, _ in columns)
    body = ""
    for what in dict.fromkeys(key for _, told in columns for key in told):
        entries = "".join(f"<td>{told.get(what, MISSING)}</td>" for _, told in columns)
        body += f"<tr><th scope='row'>{_text(what)}</th>{entries}</tr>"
    return (
        f"<table class='nat-table'><caption>{_text(caption)}</caption><tr><td></td>{top}</tr>"
        f"{body}</table>"
    )


def beside_its_front(archive: pd.DataFrame, row: pd.Series) -> str:
    """HTML: a subnet between its neighbours on the front, or beside a front point that dominates
    it."""
    if row.front:
        below, above = neighbours(archive, row)
        return side_by_side(
            [below, row, above],
            ["less accurate", "chosen", "more accurate"],
            "The chosen subnet between its neighbours on the front",
        )
    better = dominating(archive, row)
    return side_by_side(
        [row, better],
        ["chosen", "dominates it"],
        "The chosen subnet is dominated: the front point beside it is better in "
        f"{objectives.title(row.objectives)}, or equal",
    )


def summary(row: pd.Series, exported: dict[str, Any] | None = None) -> Table:
    """`words` of one row as a table for a notebook, and what `export_row` said of it."""
    told = words(row)
    if exported:
        told["exported"] = _text(exported_line(exported))
    return Table(
        pd.DataFrame({"": told}),
        "<b>The recommended network</b>; &plusmn;: standard error of the "
        "split and spread of repeated runs",
    )


def drawing(row: pd.Series) -> str:
    """The shapes of `schematics.draw_subnet` as an inline SVG: a hundred times quicker, so that it
    follows a pointer."""
    space, arch = space_of(row.folder), arch_of(row)
    label = f"{shapes.title(arch, space, row.params, row.macs)} as the thesis counts them"
    return shapes.svg(*shapes.subnet(arch, space), label)


def export_row(row: pd.Series, folder: str | Path) -> dict[str, Any]:
    """Export a subnet into `folder`/<search>-<hash of its code>; returns what `exported` does."""
    return exported(row, Path(folder) / f"{row.folder.name}-{files.hash_of(row.code)}")


def exported(row: pd.Series, folder: Path) -> dict[str, Any]:
    """Export a subnet into a folder: fine-tuned where that is better on validation, else with the
    weights of its search; returns what `export.write` does, and what was `taken`."""
    if row.post_val_top1 > row.val_top1:  # False where there is none
        cell = row.folder.parents[2] / sources.POST / row.post_cell
        return sources.from_post(cell, folder) | {"taken": "fine-tuned"}
    return sources.from_search(row.folder, row.code, folder) | {"taken": "as the search left it"}


def exported_line(told: dict[str, Any]) -> str:
    """What `export_row` returned, as one line."""
    checks = ", ".join(
        f"{name} {value:.1e}" for name, value in told["checks"].items() if value is not None
    )
    return (
        f"{', '.join(told['files'])} in {told['folder']}, {told['taken']}; logits differ by at "
        f"most: {checks}"
    )


def reports(points: pd.DataFrame) -> dict[str, Path]:
    """{name of the search: its report} of all searches in the table."""
    return {f"{f.parent.name}/{f.name}": f / "report.json" for f in points.folder.unique()}


def metrics(
    points: pd.DataFrame, front: pd.DataFrame, best: pd.Series, told: dict[str, Any] | None
) -> dict[str, Any]:
    """What the notebook records: how much it showed, what it recommends, what it exported."""
    known = ["code", "val_top1", "test_top1", cost_of(best.objectives)]
    return {
        "searches": points.folder.nunique(),
        "subnets": len(points.drop_duplicates(["folder", "code"])),
        "front": len(front),
        "recommended": {"search": best.folder.name} | best[known].to_dict(),
        "files": told["files"] if told else [],
        "taken": told["taken"] if told else None,
    }
