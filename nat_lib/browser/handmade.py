"""What a person would do by hand, on the browser's axes: the baselines that stand beside the
searches it shows."""

from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib.browser.table import TOP1
from nat_lib.results import worth
from nat_lib.studies.budgets import BUDGETS

COUNTED = ("params", "macs")  # objectives that are known of a network made by hand
COLUMNS = ["dataset", "search", "seed", "label", *TOP1, *COUNTED]


def handmade(out: str | Path, points: pd.DataFrame) -> pd.DataFrame:
    """Every baseline beside a search of `table.load`: COLUMNS, in percent and millions, MACs as the
    thesis counts them."""
    searches = points.drop_duplicates("folder")
    found = worth.handmade(out, zip(searches.dataset, searches.seed, searches.folder, strict=True))
    words = [f"{row.label}, {BUDGETS[row.budget].words}" for row in found.itertuples()]
    millions = {"params": found.params / 1e6, "macs": found.macs_tp / 1e6}
    return found.assign(label=words, **millions)[COLUMNS]


def on_axes(made: pd.DataFrame, dataset: str, x: str, y: str) -> pd.DataFrame:
    """The baselines on a data set that have both coordinates, as x and y."""
    here = made[made.dataset == dataset]
    here = here.reindex(columns=[*here, *({x, y} - set(here))], fill_value=np.nan)
    here = here.assign(x=here[x].astype(float), y=here[y].astype(float))
    return here[here.x.notna() & here.y.notna()]
