"""Parameters -> jobs: which notebook, which part of which study, in what order."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nat_lib.cells import read_report, stale
from nat_lib.data.catalogue import DATASETS
from nat_lib.errors import Refusal
from nat_lib.files import ROOT, hash_of, read_json
from nat_lib.run import code, params
from nat_lib.run.params import Values, as_shown
from nat_lib.studies import STUDIES
from nat_lib.studies.parts import Part, targets_of

NOTEBOOKS = ROOT / "notebooks"
NAME = re.compile(r"[0-9]+_[A-Za-z0-9_.-]+")  # of a notebook, which also names jobs and files


@dataclass(frozen=True)
class Job:
    """One notebook, or one part of a study. Paths are relative to the outputs folder.

    notebook : the source to execute (absolute); None: a part, which does its cells without one
    params   : of the notebook's parameters cell, or of the study's part (flat)
    needs    : ids of the jobs whose cells it reads
    weight   : expected work, in units of some 10 s of smoke: for the order and the estimate
    timeout  : seconds
    why      : {"parameters" | "files" | "notebook" | "images" | "needs": hash}: what decides the
               result, besides the code that a part's cells know themselves
    """

    id: str
    title: str
    study: str
    notebook: str | None
    params: Values
    needs: tuple[str, ...]
    weight: float
    threads: int
    timeout: float
    why: dict[str, str]

    @property
    def key(self) -> str:
        """Hash of all that decides the result; a finished job carries it in its record."""
        return hash_of(self.why)

    @property
    def output(self) -> str:
        """The executed notebook, where the job is one."""
        return f"{self.id}.ipynb"

    @property
    def record(self) -> str:
        return f"jobs/{self.id}.json"

    @property
    def log(self) -> str:
        return f"jobs/{self.id}.log"

    @property
    def params_file(self) -> str:
        return f"jobs/{self.id}.params.json"


def notebooks_in(folder: str | Path, only: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """[(stem, study)] of a folder's numbered notebooks, in order.

    only : their numbers, e.g. ["02", "04"]
    """
    stems = sorted(p.stem for p in Path(folder).glob("[0-9]*_*.ipynb"))
    if not stems:
        raise Refusal(f"{as_shown(folder)}: no notebook such as 00_start_here.ipynb is there")
    for stem in stems:
        if not NAME.fullmatch(stem):
            raise Refusal(
                f"{as_shown(folder)}: {stem!r} names files and jobs: use letters, digits and _ only"
            )
        if stem.split("_", 1)[1] not in STUDIES:
            raise Refusal(
                f"{as_shown(folder)}: {stem} shows no study: after its number a notebook is named "
                f"{', '.join(STUDIES)}"
            )
    numbers = {stem.split("_")[0] for stem in stems}
    for number in only or ():
        if number not in numbers:
            raise Refusal(
                f"--only: there is no notebook {number}; there are {', '.join(sorted(numbers))}"
            )
    return [(s, s.split("_", 1)[1]) for s in stems if not only or s.split("_")[0] in only]


def outputs_folder(profile: Values, out: str | Path | None = None) -> Path:
    """Where a profile's results go, unless told otherwise."""
    return Path(out).resolve() if out else ROOT / "outputs" / profile["profile"]


# --------------------------------------------------------------------------------------------- plan


def plan_jobs(
    profile: str | Path,
    overrides: Values | None = None,
    only: Sequence[str] | None = None,
    out: str | Path | None = None,
    notebooks: str | Path = NOTEBOOKS,
) -> list[Job]:
    """All jobs of a run, each after those it needs; parts of a study longest first."""
    params.check_overrides(overrides or {})
    sizes = params.load_profile(profile, overrides)
    chosen = notebooks_in(notebooks, only or sizes["notebooks"])
    switches = {study: params.load_experiment(study, overrides, sizes) for _, study in chosen}
    params.check_together(sizes, switches)
    _check_images_lie_there(sizes)
    place = outputs_folder(sizes, out)
    plan = _Plan(sizes, place)
    for stem, study in sorted(chosen, key=lambda pair: _turn(pair[1])):
        plan.add(stem, study, Path(notebooks) / f"{stem}.ipynb", switches[study])
    return list(plan.jobs.values())


def _turn(study: str) -> tuple[bool, int]:
    """When a study's turn comes: behind all whose cells it reads."""
    row = STUDIES[study]
    return row.last, 1 + max((_turn(other)[1] for other in row.after), default=0)


class _Plan:
    """Jobs so far, and which of them make the cells of which supernet."""

    def __init__(self, sizes: Values, out: Path):
        self.sizes, self.out = sizes, out
        self.jobs: dict[str, Job] = {}
        self.supernet_of: dict[str, str | None] = {}  # of a job that does cells

    def add(self, stem: str, study: str, notebook: Path, switches: Values) -> None:
        """The parts of a study, then the notebook that shows it."""
        row = STUDIES[study]
        parts = sorted(row.parts(self.sizes | switches), key=lambda part: -part.weight)
        before = [id for id, job in self.jobs.items() if job.study in row.after]
        doing = [id for id in before if id in self.supernet_of]
        whole = self._notebook(stem, study, notebook, switches)
        if len(parts) > 1:
            own = [self._part(stem, study, part, switches, doing) for part in parts]
            needs = tuple(own)
        else:
            needs = tuple(doing)
            self.supernet_of[stem] = None
            whole = replace(whole, weight=sum(part.weight for part in parts) or whole.weight)
        if row.last:
            needs = tuple(id for id, job in self.jobs.items() if job.notebook)
        self._keep(replace(whole, needs=needs))

    def _notebook(self, stem: str, study: str, notebook: Path, switches: Values) -> Job:
        given = self._given_to(notebook, stem, study, switches)
        return Job(
            id=stem,
            title=stem,
            study=study,
            notebook=str(notebook.resolve()),
            params=given,
            needs=(),
            weight=1.0,
            threads=self.sizes["threads"],
            timeout=3600 * self.sizes["job_hours"],
            why={
                "parameters": hash_of(given),
                "files": self._files(switches),
                "notebook": code.of_notebook(notebook),
                "library": code.of_library(),
            },
        )

    def _part(
        self, stem: str, study: str, part: Part, switches: Values, doing: Sequence[str]
    ) -> str:
        id = f"{stem}-{part.label}"
        mine = params.sizes_of(study, self.sizes) | switches | part.changes
        reads = [other for other in doing if self.supernet_of[other] in (None, part.supernet)]
        self.supernet_of[id] = part.supernet
        self._keep(
            Job(
                id=id,
                title=f"{stem}  {part.label}",
                study=study,
                notebook=None,
                params=mine,
                needs=tuple(reads),
                weight=part.weight,
                threads=self.sizes["threads"],
                timeout=3600 * self.sizes["job_hours"],
                why={"parameters": hash_of(mine), "files": self._files(switches)},
            )
        )
        return id

    def _files(self, switches: Values) -> str:
        return hash_of(code.files_of(self.sizes, switches))

    def _keep(self, job: Job) -> None:
        """Add what a job's result depends on besides itself: the images, and the jobs it needs."""
        why = job.why | {
            "images": hash_of(code.images_of(job.study, self.sizes)),
            "needs": hash_of([self.jobs[need].key for need in job.needs]),
        }
        self.jobs[job.id] = replace(job, why=why)

    def _given_to(self, notebook: Path, stem: str, study: str, switches: Values) -> Values:
        """What a notebook gets: its whole experiment, and of the profile what its cell names."""
        cell, place = params.parameters_cell(notebook), _from_root(self.out)
        known = self.sizes | switches
        known |= {"out": place, "figures": f"{place}/{stem}"}
        known |= {"sizes": params.sizes_of(study, self.sizes)}
        problems = [
            f"{name}: the parameters cell knows a name that no file in params/ has"
            for name in cell
            if name not in known
        ]
        problems += [
            f"{name}: missing from the parameters cell"
            for name in [*switches, "profile", "out"]
            if name not in cell
        ]
        if problems:
            raise Refusal("\n".join(f"{as_shown(notebook)}: {line}" for line in problems))
        return {name: known[name] for name in cell}


def _from_root(path: Path) -> str:
    """A path relative to the kit where it lies in it, so that its place does not matter."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def _check_images_lie_there(sizes: Values) -> None:
    """Every data set needs its folder before anything starts."""
    target = "target_dir" if sizes["target_dir"] else "data_dir"
    wanted = [(sizes["dataset"], "data_dir")]
    wanted += [(name, target) for name in targets_of(sizes)]
    wanted += [(name, "data_dir") for name in sizes["aep_datasets"]]
    for name, key in wanted:
        if not DATASETS[name].embedded and not Path(sizes[key]).is_dir():
            raise Refusal(
                f"{key}: there is no folder {sizes[key]}; put {name} there, or name its place "
                f"with --{key.replace('_', '-')} DIR"
            )


def chains(jobs: Sequence[Job]) -> dict[str, float]:
    """{id: work of the longest chain of jobs that begins with it}.

    Who starts these first is done soonest.
    """
    found: dict[str, float] = {}
    for job in reversed(jobs):  # what needs a job stands behind it
        behind = [found[other.id] for other in jobs if job.id in other.needs]
        found[job.id] = job.weight + max(behind, default=0.0)
    return found


# ------------------------------------------------------------------------------- what is left to do


def due(jobs: Sequence[Job], out: Path) -> dict[str, str]:
    """{id: why it has to run} of the jobs without a valid record, and of those that need one."""
    left: dict[str, str] = {}
    for job in jobs:
        reason = lacking(job, out)
        waits = [need for need in job.needs if need in left]
        if reason is None and waits:
            reason = f"after {waits[0]}" + (f" and {len(waits) - 1} more" if waits[1:] else "")
        if reason:
            left[job.id] = reason
    return left


def lacking(job: Job, out: Path) -> str | None:
    """What a job lacks to be finished, as a word for the user; None if nothing.

    It is finished if its record says so of this very job, and everything is there that it lists.
    Times of files do not matter.
    """
    if not (out / job.record).exists():
        return "not run yet"
    try:
        record = read_json(out / job.record)
        changed = list(_changed(record["why"], job.why))
        if changed:
            return f"{' and '.join(changed)} changed"
        for file in record["files"]:
            if not (out / file).exists():
                return f"{file} is gone"
        for folder, cell_hash in record["cells"].items():
            if read_report(out / folder)["hash"] != cell_hash:
                return f"{folder} was made anew"
            changed_code = stale(out / folder)
            if changed_code:
                return f"the code changed: {changed_code}"
    except Refusal as refusal:
        return str(refusal).split(":")[0]
    except (KeyError, TypeError, AttributeError):
        return f"{job.record} is damaged"
    return None


def _changed(before: Any, now: dict[str, str]) -> Iterator[str]:
    words = {"needs": "what it reads"}
    for key, value in now.items():
        if before.get(key) != value:
            yield words.get(key, key)
