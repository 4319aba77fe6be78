"""A cell is one unit of scientific work: its folder, its lock, its report.

A cell (study, supernet, width, teacher, data set, seed, ...) lives in
`outputs/<profile>/<study>/<name>/` and is finished when `report.json`, always written last, carries
the hash of its parameters. A study opens a cell (`open_cell`) and hands its work to `compute`;
whoever only reads asks for `finished`. A cell also knows the code that made it: after a change of
what a study computes its cells are made anew (`stale`).
"""

import glob
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nat_lib import ledger
from nat_lib.errors import Refusal
from nat_lib.files import append_text, hash_of, locked, plain, read_json, sha256_of, write_json
from nat_lib.machine import environment, note
from nat_lib.science import changes, definitions, science

OPENING = 10.0  # seconds to wait for another process that opens the same cell
TEMPORARY = ("state.pt", "attempts.json", "ledger.json")  # what only an unfinished cell needs

# -------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """One unit of work and its folder. `params` decides everything that the numbers depend on."""

    folder: Path
    study: str
    name: str
    params: dict[str, Any]
    code: str = ""  # the module whose science made it; "": nothing depends on the code

    @property
    def hash(self) -> str:
        return hash_of(self.params)

    @property
    def out(self) -> Path:
        """The outputs folder that the cell lies in."""
        return self.folder.parents[len(Path(self.study, self.name).parts) - 1]

    def path(self, name: str) -> Path:
        return self.folder / name

    def report(self) -> dict[str, Any] | None:
        """The finished report; None if there is none, or if it belongs to other parameters."""
        try:
            report = read_report(self.folder)
        except Refusal:
            return None
        return report if report.get("hash") == self.hash else None

    def finish(
        self,
        metrics: Mapping[str, Any],
        reads: Mapping[str, Path] | None = None,
        *,
        seconds: float,
        cost: int = 0,
    ) -> dict[str, Any]:
        """Write report.json, which declares the cell finished, and return it.

        reads   : {name: path} of the files the numbers came from; their SHA-256 is recorded
        seconds : wall-clock of the work, summed over resumed runs (`compute` does it)
        cost    : in the unit of the `ledger`, of the first of several processes
        """
        machine = environment()
        report = {
            "study": self.study,
            "name": self.name,
            "hash": self.hash,
            "code": self.code and {"module": self.code, "version": science(self.code)},
            "params": self.params,
            "metrics": metrics,
            "seed": self.params.get("seed"),
            "seconds": round(seconds, 3),
            "cost": cost,
            "device": machine["device"],
            "threads": machine["threads"],
            "commit": machine["commit"],
            "versions": machine["versions"],
            "reads": {key: sha256_of(path) for key, path in (reads or {}).items()},
        }
        write_json(self.path("report.json"), report)
        return plain(report)


def open_cell(
    out: str | Path, study: str, name: str, params: Mapping[str, Any], code: str = ""
) -> Cell:
    """The cell `name` of a study under the folder `out`, ready to be worked in; its folder exists
    afterwards.

    code : `__name__` of the study, whose science the numbers depend on

    What lies there from other parameters or other code is never resumed: it moves to `out/.other/`
    under its own hash, and moves back when its parameters are asked for again, so that trying
    another value loses no finished work. A cell in which another process works at this moment with
    other parameters is a Refusal.
    """
    cell = Cell(Path(out) / study / name, study, name, plain(params), code)
    for path in (cell.folder, *cell.folder.parents):
        if path.exists() and not path.is_dir():
            raise Refusal(f"{path} is a file where a folder should be: move it away")
    for name in ("params.json", "report.json"):
        if cell.path(name).is_dir():
            raise Refusal(f"{cell.path(name)} is a folder where a file should be: move it away")
    if _first_rank() and not (cell.report() and _fits(cell.folder, cell)):
        with locked(_lock(cell), 0.0 if _fits(cell.folder, cell) else OPENING) as held:
            if held:
                _settle(cell)
            elif not _fits(cell.folder, cell):
                raise Refusal(
                    f"another process works in {cell.folder} with other parameters: wait for it, "
                    "stop it, or choose another --out"
                )
    if listing := os.environ.get("NAT_CELLS"):  # nbrun asks which cells a notebook used
        append_text(listing, f"{cell.folder.resolve()}\n")
    return cell


def compute(
    cell: Cell,
    work: Callable[[], Mapping[str, Any]],
    reads: Mapping[str, Path] | None = None,
    drops: Iterable[str] = (),
) -> dict[str, Any]:
    """The report of a cell: read if it is finished, otherwise made by `work` and written.

    work  : does or resumes the work in the cell's folder, leaves its files there and returns the
            metrics
    reads : {name: path} of the files the numbers come from
    drops : names of files and folders that only a resumed run needs, besides state.pt

    The cell is locked meanwhile: another process that asks for it waits, and then reads the report.
    Of the processes of one torchrun the first writes; the others get {"metrics": ...} only.
    """
    with alone(cell) as mine:
        if not mine:
            report = cell.report()
            assert report is not None
            return report
        before, began = _seconds_before(cell), time.perf_counter()
        with ledger.opened(cell.path("ledger.json")) as book:
            metrics = work()
        if not _first_rank():
            return {"metrics": plain(metrics)}
        report = cell.finish(
            metrics, reads, seconds=before + time.perf_counter() - began, cost=book.total
        )
        for name in (*TEMPORARY, *drops):
            _remove(cell.path(name))
        return report


@contextmanager
def alone(cell: Cell) -> Iterator[bool]:
    """Hold the cell's lock during the body; yields False if the cell is finished and there is
    nothing to do.

    The system frees the lock when its holder dies.  Of the processes of one torchrun the first
    holds it for all.
    """
    if cell.report() or not _first_rank():
        yield not cell.report()
        return
    with locked(_lock(cell)):
        _settle(cell)  # another process may have opened it with other parameters
        yield not cell.report()


def finished(out: str | Path, study: str, name: str, remedy: str) -> Cell:
    """The finished cell `name` of a study under `out`, with the parameters it was made with.

    remedy : what to do where there is none, the end of the Refusal's line
    """
    folder = Path(out) / study / name
    if not (folder / "report.json").exists():
        raise Refusal(f"{folder} is not there or not finished: {remedy}")
    report = read_report(folder)
    code = report.get("code") or {}
    if why := stale(folder):
        note(f"{folder} was made by other code ({why}): run its notebook again to renew it")
    return Cell(folder, study, name, report["params"], code.get("module", ""))


def read_report(folder: Path) -> dict[str, Any]:
    """report.json of a finished cell; a Refusal if it is missing or damaged."""
    path = folder / "report.json"
    report = read_json(path)
    if not isinstance(report, dict) or not all(
        isinstance(report.get(key), dict) for key in ("params", "metrics")
    ):
        raise Refusal(f"{path} is damaged: delete it and run again, the cell is finished anew")
    return report


def stale(folder: str | Path) -> str:
    """Why the code that made the cell in `folder` is not the present code, such as "studies/eps.py:
    elastic_losses; train.py: fit"; "" if it is, or if nothing in the cell depends on the code."""
    code = _made_with(Path(folder)).get("code") or {}
    return _changed(Path(folder), code.get("module", ""))


# ------------------------------------------------------------------------------ folders of cells


def _first_rank() -> bool:
    single = os.environ.get("WORLD_SIZE", "1") == "1"
    return single or os.environ.get("RANK", "0") == "0"


def _lock(cell: Cell) -> Path:
    """Beside the folder, which may move while the lock is held."""
    return cell.folder.with_name(f".{cell.folder.name}.lock")


def _settle(cell: Cell) -> None:
    """Make the folder that of the cell's parameters, and clear what killed writers left in it.
    Needs the lock."""
    attic = cell.out / ".other" / cell.study
    if not _fits(cell.folder, cell):
        made = _made_with(cell.folder)
        if any(not p.name.startswith(".tmp-") for p in cell.folder.glob("*")):
            version = (made.get("code") or {}).get("version", "")
            _move(cell.folder, attic / f"{cell.name}@{made.get('hash', 'unknown')}{version}")
        kept = glob.glob(f"{glob.escape(str(attic / cell.name))}@{cell.hash}*")
        usable = [path for path in map(Path, kept) if _fits(path, cell)]
        if usable:
            _move(usable[0], cell.folder)
        else:
            _begin(cell)
    for leftover in cell.folder.glob(".tmp-*"):
        if not _alive(leftover):
            leftover.unlink(missing_ok=True)


def _alive(temporary: Path) -> bool:
    """Whether the process that writes a temporary file of `files.atomic` still runs."""
    process = re.match(r"\.tmp-(\d+)-", temporary.name)
    with suppress(ProcessLookupError, OverflowError):
        os.kill(int(process[1]), 0) if process else None
        return process is not None
    return False


def _begin(cell: Cell) -> None:
    """Say in params.json what the folder is for."""
    if cell.code:
        details = cell.out / ".code" / f"{science(cell.code)}.json"
        if not details.exists():
            write_json(details, definitions(cell.code))
    made = {
        "hash": cell.hash,
        "study": cell.study,
        "name": cell.name,
        "code": cell.code and {"module": cell.code, "version": science(cell.code)},
        "params": cell.params,
    }
    write_json(cell.path("params.json"), made)


def _made_with(folder: Path) -> dict[str, Any]:
    """params.json of a folder; {} if there is none."""
    try:
        made = read_json(folder / "params.json")
    except Refusal:
        return {}
    return made if isinstance(made, dict) else {}


def _fits(folder: Path, cell: Cell) -> bool:
    """Whether what lies in a folder is of the cell's parameters and of the present code."""
    return _made_with(folder).get("hash") == cell.hash and not _changed(folder, cell.code)


def _changed(folder: Path, module: str) -> str:
    """What changed of the code of `module` since the folder was begun; "" if nothing did."""
    version = (_made_with(folder).get("code") or {}).get("version")
    if not module or version == science(module):
        return ""
    out = next((p for p in folder.absolute().parents if (p / ".code").is_dir()), folder)
    try:
        then = read_json(out / ".code" / f"{version}.json")
    except Refusal:
        then = None
    if hash_of(then) != version:
        return "the code that made it is not known"
    return "; ".join(changes(then, module))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _seconds_before(cell: Cell) -> float:
    """Seconds of the killed runs that this one goes on from; notes that this one begins.

    A killed run counts up to the last file it left: what it did after that is lost and done again.
    """
    path = cell.path("attempts.json")
    try:
        began, before = (float(value) for value in read_json(path))
    except (Refusal, TypeError, ValueError):
        began, before = time.time(), 0.0
    left = [p.stat().st_mtime for p in cell.folder.rglob("*") if p.is_file() and p != path]
    before += max(0.0, max(left, default=0.0) - began)
    if _first_rank():
        write_json(path, [time.time(), before])
    return before
