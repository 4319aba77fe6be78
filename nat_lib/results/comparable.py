"""Were these runs of ours made as the thesis made its own?

Only then is a number judged against the printed one. It is asked of every finished cell and of all
cells that it started from: recipe, space, switches and numbers of images must be those of the
`paper` profile and of the experiments as they are shipped (params/). Keys that differ are named.
What tells one cell from another (supernet, data set, seed ..) and what changes no number (threads,
batch size of an evaluation ..) is left out; whether the thesis has the data set is asked elsewhere.
"""

from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from nat_lib.cells import read_report
from nat_lib.data import catalogue
from nat_lib.files import ROOT
from nat_lib.results.printed import printed

PROFILE = "paper"
# What the keys of a study begin with in a profile.
PREFIXES = {
    "aep_study": "aep_",
    "aep_pretraining": "aep_",
    "post_processing": "post_",
    "predictors": "predictor_",
}
# The experiment whose keys a study has; of others all: a supernet's `start` is not a network's.
EXPERIMENTS = {"aep_study": "aep_study", "aep_pretraining": "aep_study"}
# Names of a cell's parameters where the profile has another one.
OTHER_NAMES = {
    "resolutions": "train_resolutions",
    "max_epochs": "post_epochs",
    "period": "post_epochs",
    "max_steps_per_epoch": "max_steps",
    "n_test": "predictor_tests",
    "archive": "archive_sizes",
}
# Of what is compared, what changes no number or tells cells apart.
LEFT_OUT = {
    "dataset",
    "profile",
    "device",
    "eval_batch_size",
    "nat_eval_batch_size",
    "fit_processes",
    "compile",
    "latency_runs",
    "aep_latency_runs",
    "proxy",
    "repeats",
    "sizes",
    "predictors",
    "encodings",
    "threads",
    "workers",
    "widths",
}
ANCESTORS = ("parent", "teacher_source", "start", "maximal", "sources", "search", "scores")
STARTED_FROM = ("ofav2_eps", "natv2_warmup", "natv2_phases", "aep_pretraining", "predictors")
AEP_LR = 1e-4  # thesis 4.2.2


@cache
def thesis_params(experiment="*") -> dict:
    """{key: value} of the `paper` profile and of an experiment or all, sections joined by _."""
    folder = ROOT / "params"
    files = [*sorted((folder / "experiments").glob(f"{experiment}.yaml"))]
    files.append(folder / "profiles" / f"{PROFILE}.yaml")
    found: dict = {}
    for file in files:
        found |= _flat(yaml.safe_load(file.read_text(encoding="utf-8")), "_")
    return found


def _flat(params, joint, before=""):
    """Nested dictionaries as one, keys joined; a dictionary is also kept whole under its key."""
    found: dict = {}
    for key, value in params.items():
        name = f"{before}{joint}{key}" if before else str(key)
        found[name] = value
        if isinstance(value, dict):
            found |= _flat(value, joint, name)
    return found


# ------------------------------------------------------------------------------------- one cell


def differences(study: str, params: dict) -> list[str]:
    """How the parameters of a finished cell differ from those of the thesis, a line per key."""
    if params.get("profile") != PROFILE:
        return [f"profile {params.get('profile')}"]
    found = []
    if study == "ofav2_eps" and params["phase"] not in set(printed("table_5_2").phase):
        found.append(f"phase {params['phase']} instead of those of Table 5.2")
    if "plan" in params.get("space", {}):
        found.append("space.plan another than the thesis's")
    for path, value in _flat(params, ".").items():
        origin = path in ANCESTORS and _hashes(value)  # a cell, which is asked by itself
        expected = None if isinstance(value, dict) or origin else _expected(study, path, params)
        if expected is not None and not _same(value, expected[0]):
            found.append(f"{path} {_told(value)} instead of {_told(expected[0])}")
    return found


def _expected(study, path, params):
    """(what the thesis has in this place,) or None where nothing can be said."""
    where, _, name = path.rpartition(".")
    if name in LEFT_OUT:
        return None
    if where.endswith("sizes"):
        size = _images(study, params["dataset"], name)
        return None if size is None else (size,)
    own = {
        ("ofav2_eps", "recipe"): _phase_recipe,
        ("aep_study", "recipe"): lambda p: {"lr": AEP_LR},
        ("aep_study", ""): lambda p: {
            "image_size": thesis_params()["aep_scenarios"].get(p.get("scenario"))
        },
        ("natv2_phases", "version"): _version,
    }.get((study, where))
    derived = own(params) if own else {}
    if name in derived:
        return (derived[name],)
    wanted = thesis_params(EXPERIMENTS.get(study, "*"))
    for key in (PREFIXES.get(study, "") + name, OTHER_NAMES.get(name), name):
        if key in wanted:
            return (wanted[key],)
    return None


def _phase_recipe(params):
    """The row of Table 5.2 of a phase, and how the thesis trains it; of a phase that the table does
    not have, nothing."""
    rows = printed("table_5_2").query("phase == @name", local_dict={"name": params.get("phase")})
    columns = {
        "lr": "learning_rate",
        "epochs": "epochs",
        "warmup": "warmup_epochs",
        "subnets": "subnets_per_batch",
    }
    for row in rows.to_dict("records"):
        numbers = {ours: float(row[column]) for ours, column in columns.items()}
        return {"sampler": "uniform", "loss": "soft_ce", "mix": [1.0, 1.0]} | numbers
    return {}


def _version(params):
    """Sizes of a version of NATv2: the profile lists them for version 1 and for the later ones."""
    late = params.get("phase") != 1
    return {
        "archive": thesis_params()["archive_sizes"][late],
        "candidates": thesis_params()["candidates"][late],
        "multiplier": thesis_params()["multiplier"] if params.get("phase", 1) > 2 else 1,
    }


def _images(study, dataset, part):
    """Images of one part of a data set as the thesis splits it, None for a data set it does not
    have."""
    row = catalogue.DATASETS.get(dataset)
    sizes = row.official if row else None
    if study.startswith("aep"):
        sizes = catalogue.AEP.get(dataset, {}).get("official", sizes)
    return None if sizes is None else dict(zip(("train", "val", "test"), sizes, strict=True))[part]


def _same(value, expected):
    if isinstance(value, list | tuple):
        return isinstance(expected, list | tuple) and list(value) == list(expected)
    if isinstance(value, float) and isinstance(expected, int | float):
        return bool(abs(value - expected) <= 1e-9 * abs(expected))
    return value == expected


def _told(value):
    return str(value).replace("'", "")


# -------------------------------------------------------------------------- a cell and its origins


class Lineage:
    """The finished cells under a folder of outputs by hash, so that origins can be asked, too."""

    def __init__(self, out):
        self.out, self.cells, self.told = Path(out), None, {}

    def differences(self, study: str, params: dict) -> list[str]:
        """`differences` of a cell and of every cell that it started from, each once."""
        found = differences(study, params)
        if params.get("profile") != PROFILE:  # that says it; its origins are of no other profile
            return found
        for name in ANCESTORS:
            for key in _hashes(params.get(name)):
                found += [line for line in self._of(key) if line not in found]
        return found

    def _of(self, key):
        if self.cells is None:
            self.cells = {
                report["hash"]: report
                for study in STARTED_FROM
                for path in sorted((self.out / study).glob("**/report.json"))
                for report in [read_report(path.parent)]
            }
        if key not in self.told:
            report = self.cells.get(key)
            self.told[key] = (
                [f"started from a cell that is not here ({key})"]
                if report is None
                else self.differences(report["study"], report["params"])
            )
        return self.told[key]


def _hashes(value):
    """The hashes in a parameter that names cells: one, a list of them, or none."""
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if isinstance(v, str) and _is_hash(v)]


def _is_hash(text):
    return len(text) == 12 and set(text) <= set("0123456789abcdef")


def why_not(rows: pd.DataFrame, most=6) -> str:
    """What keeps the rows of a frame from being judged, in one line; "" where nothing does."""
    found = list(dict.fromkeys(line for text in rows.differs for line in text.split("; ") if line))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(found[:most]) + more
