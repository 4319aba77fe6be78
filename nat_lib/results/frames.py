"""What the finished cells left, as frames; everything is read, nothing is run.

`load` is the one way in: a row per finished cell of a study, the columns named as in report.json.
The chapters pick and rename columns of it, each for one question.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib.cells import read_report
from nat_lib.errors import Refusal
from nat_lib.files import hash_of
from nat_lib.results.comparable import PROFILE, Lineage
from nat_lib.results.names import RUN_ON

# Where the cells of a study lie in its folder.
STUDIES = {
    "aep_study": "*/*",
    "ofav2_eps": "*/*/*",
    "natv2_phases": "*/*",
    "predictors": "*/*/fits",
    "post_processing": "*/*/*",
}
RECIPE = ("recipe", "data", "hidden", "keep_stem")  # that two runs of the AEP study must share


def load(out, study: str, dataset=None) -> pd.DataFrame:
    """One row per finished cell of a study under the folder `out`, in the order of their names.

    dataset : of one data set, or of several (list), or of all (None)
    returns : columns as in report.json, nested names joined by a dot (`params.dataset`,
              `metrics.grid.avg`); folder (Path), recipe (stands for all that two runs of the AEP
              study must share to be compared), differs (see above)
    """
    wanted = [dataset] if isinstance(dataset, str) else dataset
    lineage, rows = Lineage(out), []
    for path in sorted((Path(out) / study).glob(f"{STUDIES[study]}/report.json")):
        report = read_report(path.parent)
        params = report["params"]
        if wanted is None or params.get("dataset") in wanted:
            rows.append(
                {
                    **report,
                    "folder": path.parent,
                    "recipe": hash_of([params.get(key) for key in RECIPE]),
                    "differs": "; ".join(lineage.differences(study, params)),
                }
            )
    return pd.json_normalize(rows) if rows else pd.DataFrame(columns=["folder", "differs"])


def picked(found, columns: dict) -> pd.DataFrame:
    """Columns of `load` under new names, {new name: name in report.json}; what no cell has is
    NaN."""
    frame = found.reindex(columns=[*columns.values()]).set_axis([*columns], axis=1)
    return frame.astype(object) if frame.empty else frame


def params_of(*names):
    """{name: its column} of parameters of a cell, for `picked`."""
    return {name: f"params.{name}" for name in names}


def metrics_of(*names, before="", where="metrics"):
    """{before + name: its column} of metrics of a cell, for `picked`."""
    return {f"{before}{name}": f"{where}.{name}" for name in names}


def of_files(found, name, columns, of) -> pd.DataFrame:
    """The rows of one CSV file of every cell, each with what `of` (a row per cell) says of it."""
    parts = [pd.read_csv(folder / name) for folder in found.folder]
    if not parts:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(parts, ignore_index=True)
    cells = of.iloc[np.repeat(np.arange(len(parts)), [len(part) for part in parts])]
    cells = cells.reset_index(drop=True)
    added = {c: cells[c] for c in columns if c in cells and c not in rows}
    return rows.assign(**added).reindex(columns=columns)


def one_dataset(frame, dataset=None):
    """The rows of one data set; which one must be said when there are several."""
    names = sorted(frame.dataset.unique())
    if dataset is None and len(names) > 1:
        raise Refusal(f"there are results for {', '.join(names)}: name one of them as dataset")
    return frame if dataset is None else frame[frame.dataset == dataset]


def dataset_of(frame, study, otherwise=None):
    """The data set that the thesis uses for a study (key of `names.RUN_ON`) if the frame has it,
    else `otherwise`."""
    return RUN_ON[study] if (frame.dataset == RUN_ON[study]).any() else otherwise


def preferred(frame, study, otherwise=None):
    """The rows of that data set; of the only one there is if `otherwise` is None."""
    return one_dataset(frame, dataset_of(frame, study, otherwise))


def joined(parts, columns):
    """Several frames as one; an empty frame of these columns where there is none."""
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def loaded_sizes(out) -> dict[tuple[str, str], tuple]:
    """{("aep" | "nat", data set): (train, val, test) images} of the splits that runs at the paper
    profile loaded; other profiles may take part of a split only, which says nothing of it."""
    found: dict = {}
    for study in STUDIES:
        cells = load(out, study)
        sizes = [f"params.data.sizes.{part}" for part in ("train", "val", "test")]
        columns = ["params.profile", "params.dataset", *sizes]
        rows = cells.reindex(columns=columns).dropna().itertuples(index=False)
        protocol = "aep" if study == "aep_study" else "nat"
        found |= {(protocol, row[1]): tuple(map(int, row[2:])) for row in rows if row[0] == PROFILE}
    return found
