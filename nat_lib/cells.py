"""A cell is one unit of scientific work: its folder, its lock, its report.

A cell (study, supernet, width, teacher, data set, seed, ...) lives in
`outputs/<profile>/<study>/<name>/` and is finished when `report.json`, always written last, carries
the hash of its parameters.
"""

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nat_lib.errors import Refusal
from nat_lib.files import hash_of, plain, read_json, sha256_of, write_json
from nat_lib.machine import environment

# -------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """One unit of work and its folder. `params` decides everything that the numbers depend on."""

    folder: Path
    study: str
    name: str
    params: dict

    @property
    def hash(self):
        return hash_of(self.params)

    def path(self, name):
        return self.folder / name

    def report(self):
        """The finished report as a dict; None if there is none, or if it belongs to other
        parameters."""
        try:
            report = read_json(self.path("report.json"))
        except Refusal:
            return None
        return report if isinstance(report, dict) and report.get("hash") == self.hash else None

    def finish(self, metrics, reads=None, *, seconds):
        """Write report.json, which declares the cell finished, and return it.

        reads   : {name: path} of the files the numbers came from; their SHA-256 is recorded
        seconds : wall-clock of the work, summed over resumed runs by the caller
        """
        machine = environment()
        report = {
            "study": self.study,
            "name": self.name,
            "hash": self.hash,
            "params": self.params,
            "metrics": metrics,
            "seed": self.params.get("seed"),
            "seconds": round(seconds, 3),
            "device": machine["device"],
            "threads": machine["threads"],
            "commit": machine["commit"],
            "versions": machine["versions"],
            "reads": {key: sha256_of(path) for key, path in (reads or {}).items()},
        }
        write_json(self.path("report.json"), report)
        return plain(report)


def open_cell(out, study, name, params):
    """The cell `name` of a study under the folder `out`, ready to be worked in; its folder exists
    afterwards.

    What lies there from other parameters is never resumed: it moves to `out/.other/` under its own
    hash, and moves back when its parameters are asked for again, so that trying another value loses
    no finished work.
    """
    out = Path(out)
    made = Cell(out / study / name, study, name, plain(params))
    attic = out / ".other" / study
    found = _hash_in(made.folder)
    if found != made.hash:
        if found:
            _move(made.folder, attic / f"{name}@{found}")
        if (attic / f"{name}@{made.hash}").exists():
            _move(attic / f"{name}@{made.hash}", made.folder)
        else:
            write_json(
                made.path("params.json"),
                {"hash": made.hash, "study": study, "name": name, "params": params},
            )
    for leftover in made.folder.glob(".tmp-*"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)
    if listing := os.environ.get("NAT_CELLS"):  # nbrun asks which cells a notebook used
        with open(listing, "a") as file:
            file.write(f"{made.folder.resolve()}\n")
    return made


@contextmanager
def alone(cell):
    """Hold the cell's lock during the body; yields False if another process has finished the cell
    meanwhile.

    The system frees the lock when its holder dies.  Of the processes of one torchrun the first
    holds it for all.
    """
    with open(cell.path(".lock"), "w") as file:
        if os.environ.get("RANK", "0") == "0":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield not cell.report()


def _hash_in(folder):
    """Hash of the parameters a folder was made with; "unknown" if it holds files without saying;
    None if empty."""
    try:
        return read_json(folder / "params.json")["hash"]
    except (Refusal, KeyError, TypeError):
        held = [p for p in folder.glob("*") if not p.name.startswith(".tmp-")]
        return "unknown" if held else None


def _move(source, target):
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
