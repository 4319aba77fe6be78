"""Which rows of the table to show, and which one to take home."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nat_lib.errors import Refusal
from nat_lib.search.objectives import ERROR
from nat_lib.search.pareto import hypervolume

ALONE = "params"  # stands against accuracy where a search minimised nothing else


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


def of_runs(points: pd.DataFrame, choices: Choices) -> np.ndarray:
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


def select(points: pd.DataFrame, choices: Choices) -> pd.DataFrame:
    """The rows of `table.load` that the `Choices` show, in their order."""
    shown = points["last"]
    if choices.iteration is not None:
        shown = shown.clip(upper=choices.iteration)
    keep = (
        of_runs(points, choices)
        & (points.iteration == shown)
        & (points.params <= choices.max_params)
        & (points.macs <= choices.max_macs)
        & (points.val_top1 >= choices.min_top1)
        & points.exit.between(*choices.exits)
        & points.resolution.between(*choices.resolutions)
    )
    return points[keep]


def most_searched(points: pd.DataFrame, dataset: str) -> str:
    """The objectives that most searches on a data set have, of those with several objectives where
    there are such."""
    rows = points[points.dataset == dataset].drop_duplicates("folder")
    if rows.empty:
        raise Refusal(
            f"no finished search on {dataset}: there are some on "
            f"{', '.join(sorted(set(points.dataset)))}"
        )
    several = rows[rows.objectives != ERROR]
    return (several if len(several) else rows).objectives.value_counts().sort_index().idxmax()


def recommended(points: pd.DataFrame, dataset: str, objectives: str) -> pd.Series:
    """The row to take home: the most accurate subnet with a high trade-off of the best search, on
    validation.

    Best is the search over these objectives whose last archive covers the largest hypervolume below
    one reference point: 1.01 times the worst that any of them holds.
    """
    here = select(points, Choices(dataset, objectives=(objectives,)))
    if here.empty:
        raise Refusal(
            f"no search on {dataset} with objectives {objectives}: there are "
            + ", ".join(sorted(set(points.dataset + " " + points.objectives)))
        )
    F = minimised(here)
    reference = 1.01 * F.max(axis=0) + 1e-9
    volume = {
        search: hypervolume(F[at], reference)
        for search, at in here.groupby("search").indices.items()
    }
    knees = here[(here.search == max(volume, key=volume.get)) & (here.knee > 0)]
    return knees.loc[knees.val_top1.idxmax()]


def minimised(rows: pd.DataFrame) -> np.ndarray:
    """(n, M) what the search of these rows minimised: the error, then its other objectives."""
    names = rows.objectives.iloc[0].split("+")[1:]
    return np.column_stack([100 - rows.val_top1, rows[names]])


def cost_of(objectives: str) -> str:
    """The axis that stands against accuracy: the second objective, parameters where there is
    none."""
    return [*objectives.split("+")[1:], ALONE][0]


def ordered_front(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """The front rows from left to right: the order in which a keyboard walks through them."""
    return rows[rows.front].sort_values([x, "val_top1"], kind="stable")


def archive_of(points: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The archive that a row lies in."""
    return points[(points.search == row.search) & (points.iteration == row.iteration)]


def neighbours(archive: pd.DataFrame, row: pd.Series) -> tuple[pd.Series | None, pd.Series | None]:
    """(next less accurate, next more accurate) on the front of the row's archive; None at an
    end."""
    others = archive[archive.front & (archive.code != row.code)].sort_values("val_top1")
    below = others[others.val_top1 <= row.val_top1]
    above = others[others.val_top1 > row.val_top1]
    return (
        below.iloc[-1] if len(below) else None,
        above.iloc[0] if len(above) else None,
    )


def dominating(archive: pd.DataFrame, row: pd.Series) -> pd.Series | None:
    """The most accurate front point of the row's archive that is at least as good in every
    objective of the search and better in one; None if there is none."""
    if row.front:
        return None
    line = archive[archive.front]
    F, own = minimised(line), minimised(row.to_frame().T.infer_objects())
    better = line[(F <= own).all(axis=1) & (F < own).any(axis=1)]
    return better.loc[better.val_top1.idxmax()] if len(better) else None
