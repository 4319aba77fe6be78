"""Parameters -> jobs: which notebook does which part, and what is left to do."""

import hashlib
import sys
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nat_lib.errors import Refusal
from nat_lib.files import ROOT, hash_of, plain, read_json, write_json
from nat_lib.run.params import (
    EMBEDDED,
    HOW_MUCH,
    Machine,
    as_shown,
    cells_until,
    check_overrides,
    load_experiment,
    load_profile,
    parameters_cell,
    source_text,
)
from nat_lib.stages import baseline_of


def _code_hash(notebook, until):
    """Hash of what a part of a notebook does (its code), or for the whole of all it says."""
    return hash_of(
        [
            [c["cell_type"], source_text(c)]
            for c in cells_until(notebook, until)
            if not until or c["cell_type"] == "code"
        ]
    )


@lru_cache
def _library_hash():
    """Hash of everything in nat_lib that a table or figure can depend on."""
    library = ROOT / "nat_lib"
    files = sorted([*library.rglob("*.py"), *library.rglob("reference/*.csv")])
    return hash_of(
        [[p.relative_to(library), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]
    )


# --------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """One run of a notebook. Paths are relative: the notebook's to the repository, all others to
    the outputs folder."""

    id: str
    title: str
    notebook: str
    output: str
    params: dict
    needs: tuple[str, ...]
    weight: float  # expected work, in units of some 10 s of smoke: for the order and the estimate
    threads: int
    timeout: float  # seconds
    until: str | None = None  # stop after the cell with this tag
    key: str = ""  # hash of all that decides the result; a finished job carries it in its record

    @property
    def record(self):
        return f"jobs/{self.id}.json"

    @property
    def log(self):
        return f"jobs/{self.id}.log"

    @property
    def params_file(self):
        return f"jobs/{self.id}.params.json"


# Longest first. Rough work of all phases of one supernet at width 1.0, both teachers, in units of
# the baseline's.
WORK = {
    "EE_DP": 9.0,
    "EE_P": 8.8,
    "EE_D": 4.2,
    "EE_B": 4.0,
    "SE_DP": 3.4,
    "SE_P": 3.2,
    "SE_D": 1.1,
    "SE_B": 1.05,
    "BASE": 1.0,
}
# Of one cell of the AEP study, in the same units.
AEP_WORK = {
    "MobileNetV3Small": 0.3,
    "ResNet50": 2.5,
    "EfficientNetB5": 3.0,
    "DenseNet169": 3.5,
    "VGG16": 6.0,
}


class Part(NamedTuple):
    """A share of a notebook's cells that shares none with the others: what to change to run it
    alone."""

    label: str
    supernet: str | None
    changes: dict
    weight: float


def _aep_parts(params):
    """One part per data set, networks with a common baseline, and seed."""
    families = {}
    for name in params["aep_networks"]:
        families.setdefault(baseline_of(name), []).append(name)
    return [
        Part(
            f"{dataset}_{family}_s{seed}",
            None,
            {"aep_datasets": [dataset], "aep_networks": names, "seeds": [seed]},
            AEP_WORK.get(family, 1.0) * len(params["aep_scenarios"]) * (1 + 4 * len(names)),
        )
        for dataset in params["aep_datasets"]
        for family, names in families.items()
        for seed in params["seeds"]
    ]


def _shrinking_parts(params):
    return [
        Part(
            f"{name}_w{width}_s{seed}",
            name,
            {"supernets": {width: [name]}, "widths": [float(width)], "seeds": [seed]},
            4 + WORK[name] * float(width) / 2,
        )
        for width, names in params["supernets"].items()
        if float(width) in params["widths"]
        for name in names
        for seed in params["seeds"]
    ]


def _predictor_parts(params):
    return [
        Part(
            f"{name}_s{seed}",
            name,
            {"predictor_supernets": [name], "seeds": [seed]},
            6 + WORK[name],
        )
        for name in params["predictor_supernets"]
        for seed in params["seeds"]
    ]


def _search_parts(params):
    """One part per supernet and seed; `nat_supernets` says in which phases a supernet takes
    part."""

    def only(name):
        return {
            phase: [n for n in names if n == name]
            for phase, names in params["nat_supernets"].items()
        }

    names = dict.fromkeys(n for names in params["nat_supernets"].values() for n in names)
    return [
        Part(f"{name}_s{seed}", name, {"nat_supernets": only(name), "seeds": [seed]}, 15.0)
        for name in names
        for seed in params["seeds"]
    ]


def _post_parts(params):
    return [part._replace(weight=0.5 + 3.3 * WORK[part.supernet]) for part in _search_parts(params)]


PARTS = {
    "aep_study": _aep_parts,
    "ofav2_eps": _shrinking_parts,
    "predictors": _predictor_parts,
    "natv2_phases": _search_parts,
    "post_processing": _post_parts,
}
AFTER = {
    "predictors": ("ofav2_eps",),
    "natv2_phases": ("ofav2_eps",),
    "post_processing": ("natv2_phases",),
    "pareto_browser": ("natv2_phases", "post_processing"),
}  # whose cells
UNTIL = "cells"  # tag of the code cell after which a part has nothing left to do
LAST = "thesis_report"  # reads what all the others leave


def notebooks_in(folder, only=None):
    """[(stem, study)] of a folder's numbered notebooks, in order; `only`: their numbers, e.g.
    ["02", "04"]."""
    stems = sorted(p.stem for p in Path(folder).glob("[0-9]*_*.ipynb"))
    if not stems:
        raise Refusal(f"{as_shown(folder)}: no notebook such as 00_start_here.ipynb is there")
    numbers = {stem.split("_")[0] for stem in stems}
    for number in only or ():
        if number not in numbers:
            raise Refusal(
                f"--only: there is no notebook {number}; there are {', '.join(sorted(numbers))}"
            )
    return [(s, s.split("_", 1)[1]) for s in stems if not only or s.split("_")[0] in only]


def plan_jobs(profile, overrides=None, only=None, out=None, notebooks=ROOT / "notebooks"):
    """All jobs of a run, each after those it needs; parts of a notebook longest first."""
    check_overrides(overrides or {})
    how_much = load_profile(profile, overrides)
    needed = [
        (how_much["dataset"], "data_dir"),
        *((name, "data_dir") for name in how_much["aep_datasets"]),
        (how_much["target"], "target_dir" if how_much["target_dir"] else "data_dir"),
    ]
    for name, key in needed:
        if name not in EMBEDDED and not Path(how_much[key]).is_dir():
            raise Refusal(
                f"{key}: there is no folder {how_much[key]}; put {name} there, or name its place "
                f"with --{key.replace('_', '-')} DIR"
            )
    out = outputs_folder(how_much, out)
    made, supernet_of = {}, {}
    for stem, study in sorted(notebooks_in(notebooks, only), key=lambda pair: pair[1] == LAST):
        path = Path(notebooks) / f"{stem}.ipynb"
        what = load_experiment(study, overrides)
        cell = parameters_cell(path)
        params = _given_to(path, cell, how_much, what, out, stem, study)
        whole = Job(
            stem,
            stem,
            _shown_from(ROOT, path),
            f"{stem}.ipynb",
            params,
            (),
            1.0,
            how_much["threads"],
            3600 * how_much["job_hours"],
        )
        split = PARTS.get(study, lambda _: [])(how_much | what)
        before = {id: name for id, (name, of) in supernet_of.items() if of in AFTER.get(study, ())}
        parts = []
        for part in sorted(split, key=lambda part: -part.weight) if len(split) > 1 else []:
            name = f"{stem}-{part.label}"
            figures = {"figures": f"{params['out']}/jobs/{name}"} if "figures" in params else {}
            job = replace(
                whole,
                id=name,
                title=f"{stem}  {part.label}",
                output=f"jobs/{name}.ipynb",
                until=UNTIL,
                weight=part.weight,
                params=_changed(params, part.changes) | figures,
                needs=tuple(
                    id for id, supernet in before.items() if supernet in (None, part.supernet)
                ),
            )
            parts.append(_keyed(job, made, _code_hash(path, UNTIL)))
            supernet_of[name] = part.supernet, study
        made |= {part.id: part for part in parts}
        if study == LAST:
            needs = tuple(id for id in made if "-" not in id)
        else:
            needs = tuple(part.id for part in parts) or tuple(before)
        if not parts:
            whole = replace(whole, weight=sum(part.weight for part in split) or whole.weight)
            supernet_of[stem] = None, study
        made[stem] = _keyed(
            replace(whole, needs=needs), made, _code_hash(path, None) + _library_hash()
        )
    return list(made.values())


def _keyed(job, made, code):
    return replace(job, key=hash_of([job.params, code, [made[need].key for need in job.needs]]))


def _changed(params, changes):
    """Parameters with some values replaced, each where it stands: in `sizes` or beside it."""
    sizes = params.get("sizes", {})
    inside = {k: v for k, v in changes.items() if k in sizes}
    return (
        params
        | {k: v for k, v in changes.items() if k in params}
        | ({"sizes": sizes | inside} if inside else {})
    )


def _given_to(notebook, cell, how_much, what, out, stem, study):
    """The parameters a notebook gets: all of its experiment, and of the profile what its parameters
    cell names."""
    place = _shown_from(ROOT, out)
    sizes = {k: how_much[k] for k in HOW_MUCH.get(study, Machine).model_fields if k != "job_hours"}
    known = how_much | what | {"out": place, "figures": f"{place}/{stem}", "sizes": sizes}
    needed = [*what, "profile", "out"]
    problems = [
        f"{name}: the parameters cell knows a name that no file in params/ has"
        for name in cell
        if name not in known
    ] + [f"{name}: missing from the parameters cell" for name in needed if name not in cell]
    if problems:
        raise Refusal("\n".join(f"{as_shown(notebook)}: {line}" for line in problems))
    return {name: known[name] for name in cell}


def _shown_from(base, path):
    path = Path(path).resolve()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def outputs_folder(how_much, out=None):
    return Path(out).resolve() if out else ROOT / "outputs" / how_much["profile"]


# ------------------------------------------------------------------------------- what is left to do


def due(all_jobs, out):
    """Ids of the jobs to run: those without a valid record, and those that need one of them."""
    ids = set()
    for job in all_jobs:
        if not finished(job, out) or ids.intersection(job.needs):
            ids.add(job.id)
    return ids


def finished(job, out):
    """Is the record of these very parameters there, and everything that it lists? Times of files do
    not matter."""
    try:
        record = read_json(out / job.record)
        return (
            record["key"] == job.key
            and all((out / file).exists() for file in record["files"])
            and all(
                read_json(out / folder / "report.json")["hash"] == h
                for folder, h in record["cells"].items()
            )
        )
    except (Refusal, KeyError, TypeError):
        return False


def prepare(all_jobs, out, left):
    """Write the plan and each job's parameters, only where they changed; drop the records that no
    longer hold."""
    for job in all_jobs:
        _write_if_changed(out / job.params_file, job.params)
        if job.id in left:
            (out / job.record).unlink(missing_ok=True)
    longest = chains(all_jobs)
    _write_if_changed(
        out / "plan.json",
        {
            "root": ROOT,
            "python": sys.executable,
            "jobs": [
                asdict(job)
                | {
                    "record": job.record,
                    "log": job.log,
                    "params_file": job.params_file,
                    "chain": longest[job.id],
                }
                for job in all_jobs
            ],
        },
    )


def chains(all_jobs):
    """{id: work of the longest chain of jobs that begins with it}. Who starts these first is done
    soonest."""
    found = {}
    for job in reversed(all_jobs):  # what needs a job stands behind it
        found[job.id] = job.weight + max(
            (found[j.id] for j in all_jobs if job.id in j.needs), default=0.0
        )
    return found


def _write_if_changed(path, obj):
    try:
        same = read_json(path) == plain(obj)
    except Refusal:
        same = False
    if not same:
        write_json(path, obj)
