"""One job, in its worker: a notebook, or a part of a study. Its record is written last."""

import os
import sys
import time
from pathlib import Path

from nat_lib import studies
from nat_lib.cells import read_report
from nat_lib.errors import Refusal
from nat_lib.files import ROOT, read_json, write_json
from nat_lib.run import notebook
from nat_lib.run.guard import Failure
from nat_lib.run.params import Values

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def job_of(out: Path, name: str) -> Values:
    """The row of out/plan.json for a job."""
    for job in read_json(out / "plan.json")["jobs"]:
        if job["id"] == name:
            return job
    raise Refusal(f"{out / 'plan.json'} has no job {name}: start ./run_all.sh again")


def do(job: Values, out: Path, folder: Path) -> None:
    """Do a job of the plan, then write its record. Failure says what went wrong, in one line.

    folder : a temporary one, removed when the job ends
    """
    began = time.monotonic()
    set_environment(folder, job["params"])
    params = read_json(out / job["params_file"])
    made: list[Path] = []
    if job["notebook"]:
        target = out / job["output"]
        notebook.execute(Path(job["notebook"]), target, params, folder)
        made = _files_of(target, ROOT / params.get("figures", out / job["id"]))
    else:
        _part(job, params, out)
    record = {
        "key": job["key"],
        "why": job["why"],
        "seconds": round(time.monotonic() - began, 1),
        "files": [path.relative_to(out) for path in made],
        "cells": _cells(folder, out),
    }
    write_json(out / job["record"], record)
    print(f"{job['id']}: done in {time.monotonic() - began:.0f} s")


def _part(job: Values, params: Values, out: Path) -> None:
    """All cells of a part, which are finished or done now."""
    from nat_lib import machine

    machine.start(params["threads"])
    try:
        studies.run(job["study"], params, out)
    except Refusal as refusal:
        raise Failure(str(refusal)) from None


def set_environment(folder: Path, params: Values) -> None:
    """What a job's processes find in their environment: batch mode, and folders of their own."""
    threads = (params | params.get("sizes", {})).get("threads")
    if threads:
        os.environ |= dict.fromkeys(THREADS, str(threads))
    os.environ |= {
        "NAT_BATCH": "1",
        "NAT_CELLS": str(folder / "cells.txt"),
        "PYTHONHASHSEED": "0",
        "TMPDIR": str(folder),
        "JUPYTER_PATH": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        # figures in the notebook, whatever the shell says
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


def _files_of(target: Path, figures: Path) -> list[Path]:
    """The executed notebook, its page if it has one, its tables and figures."""
    page = target.with_suffix(".html")
    found = [target, page] if page.exists() else [target]
    for path in sorted(figures.rglob("*")):
        if path.is_file() and not path.name.startswith(".tmp-"):
            found.append(path)
    return found


def _cells(folder: Path, out: Path) -> dict[str, str]:
    """{folder of a cell under `out`: its hash} of the finished cells that the job opened."""
    listing = folder / "cells.txt"
    found = {}
    for line in dict.fromkeys(listing.read_text("utf-8").splitlines()) if listing.exists() else ():
        report = Path(line) / "report.json"
        if Path(line).is_relative_to(out) and report.exists():
            found[str(Path(line).relative_to(out))] = read_report(report.parent)["hash"]
    return found
