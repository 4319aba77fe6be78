"""A data set whose images are elsewhere: what packed results say of it (`./run_all.sh --show`)."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nat_lib.errors import Refusal
from nat_lib.files import read_json

FOLDER = "NAT_SHOW"  # environment variable: the outputs folder that is only shown


class Shown(NamedTuple):
    """Name and sizes of a data set, as a notebook shows them; nothing can be trained on it."""

    name: str
    sizes: dict[str, int]  # images of each split

    def describe(self) -> pd.DataFrame:
        """One row per split, as `Data.describe`, of what is known."""
        return pd.DataFrame(self.sizes.items(), columns=["split", "images"])

    def n_batches(self, batch_size: int) -> int:
        return math.ceil(self.sizes["train"] / batch_size)


def shown(name: str) -> Shown | None:
    """The data set `name` as the cells of the shown results describe it; None in a real run."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    for path in sorted(Path(folder).glob("*/**/params.json")):
        params = read_json(path).get("params", {})
        data = params.get("data")
        if params.get("dataset") == name and isinstance(data, dict) and "sizes" in data:
            return Shown(name, data["sizes"])
    raise Refusal(f"{folder} holds no cell on {name}: pack results of that data set")
