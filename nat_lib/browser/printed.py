"""What the thesis prints beside the fronts: points of Figure 6.7, groups of Figure 6.11."""

import numpy as np
import pandas as pd

from nat_lib.browser.picking import cost_of
from nat_lib.browser.table import TOP1
from nat_lib.report.figures6 import fronts
from nat_lib.report.style import COLOURS
from nat_lib.results.names import BY_THESIS, name_of
from nat_lib.results.printed import printed_value
from nat_lib.search import objectives
from nat_lib.search.objectives import ERROR, OBJECTIVES

GROUPS = (("baseline", 1, "best, phase-1 baseline"), ("full", 4, "best, full NATv2"))


def printed(dataset: str) -> pd.DataFrame:
    """The printed values for a data set (its name in the kit): supernet, label, top1 (on the test
    split) and a column per objective; a row without any cost is the top-1 of a group of subnets.
    """
    rows = []
    for point in fronts.points_printed([dataset], COLOURS).itertuples():
        row = {
            "supernet": point.supernet,
            "label": f"{point.supernet}, {objectives.title(point.objectives)} (Fig. 6.7)",
            "top1": point.top1,
        }
        if point.objectives != ERROR:
            row[cost_of(point.objectives)] = point.second
        rows.append(row)
    for group, phase, label in GROUPS:
        dims = {"dataset": name_of(dataset), "group": group, "phase": phase}
        top1 = printed_value("nat.headline_top1", **dims)
        rows.append({"label": f"{label} (Fig. 6.11)", "top1": top1})
    frame = pd.DataFrame(rows, columns=["supernet", "label", "top1", *OBJECTIVES])
    return frame.dropna(subset="top1").reset_index(drop=True)


def printed_names() -> dict[str, str]:
    """{name in the thesis: name in the kit} of the data sets for which it prints such values."""
    return {name_of(d): d for d in BY_THESIS.values() if len(printed(d))}


def on_axes(paper: pd.DataFrame, x: str, y: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(points, lines) of `printed` on these axes: what has both coordinates, as x and y, and the
    groups where the y axis is an accuracy."""
    at = paper.assign(**dict.fromkeys(TOP1, paper.top1))
    at = at.reindex(columns=[*at, *({x, y} - set(at))], fill_value=np.nan)
    points = at.assign(x=at[x], y=at[y])
    points = points[points.supernet.notna() & points.x.notna() & points.y.notna()]
    lines = paper[paper.supernet.isna()]
    return points, lines if y in TOP1 else lines[:0]
