"""What run_all.sh does once its environment stands: options, plan, run what is left, tell."""

import importlib.util
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from nat_lib import starts
from nat_lib.data.catalogue import DATASETS
from nat_lib.data.shown import FOLDER
from nat_lib.errors import Refusal
from nat_lib.files import ROOT
from nat_lib.run import engine, options, pack, params, tell
from nat_lib.run.jobs import NOTEBOOKS, Job, due, outputs_folder, plan_jobs
from nat_lib.run.params import Values

SYSTEM = ("/proc", "/sys", "/dev")  # no images lie there


# ------------------------------------------------------------------------------------------ options


def overrides(chosen: Namespace) -> Values:
    """{key: value} of all options that replace a value of params/."""
    found = params.assignments(chosen.set)
    if chosen.dataset:
        found["dataset"] = chosen.dataset
    if chosen.dataset in DATASETS:
        # Every study stays there, unless told otherwise; unknown names are told once.
        stays = {"target": chosen.dataset, "targets": None, "aep_datasets": [chosen.dataset]}
        found = stays | found
    if chosen.target:
        found |= {"target": chosen.target, "targets": None}
    for key in ("data_dir", "target_dir"):
        given = getattr(chosen, key)
        if given:
            found[key] = _images_folder(f"--{key.replace('_', '-')}", given)
    if chosen.seeds:
        found["seeds"] = chosen.seeds
    return found


def _images_folder(option: str, given: str) -> str:
    folder = _resolved(option, given)
    if not folder.is_dir():
        raise Refusal(f"{option}: there is no folder {folder}")
    if any(place != "/" and folder.is_relative_to(place) for place in SYSTEM) or folder == Path(
        "/"
    ):
        raise Refusal(f"{option}: {folder} is a folder of the system: name the one with the images")
    return str(folder)


def _resolved(option: str, given: str) -> Path:
    """An absolute path; what can be none (of a home that does not exist) is refused."""
    try:
        return Path(given).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Refusal(f"{option}: {given[:200]!r} is no path: {error}") from None


def check_executor(name: str) -> None:
    """Snakemake takes executors from packages of their own; only the local one is always there."""
    plugin = f"snakemake_executor_plugin_{name.replace('-', '_')}"
    if name != "local" and not importlib.util.find_spec(plugin):
        package = plugin.replace("_", "-")
        raise Refusal(f"--executor: {name!r} is not installed: .venv/bin/pip install {package}")


# ------------------------------------------------------------------------------------- command line


def drive(argv: list[str]) -> int:
    """Do what the options say; returns the exit code."""
    chosen = options.parse(argv)
    if chosen.help:
        print(options.help_text())
        return 0
    if chosen.setup:
        print(f"Environment ready: {sys.executable}")
        return 0
    check_executor(chosen.executor)
    if chosen.show:
        return _show(chosen)
    changed = overrides(chosen)
    sizes = params.load_profile(chosen.profile, changed)
    out = outputs_folder(sizes, chosen.out and _resolved("--out", chosen.out))
    jobs = plan_jobs(chosen.profile, changed, chosen.only, out, chosen.notebooks or NOTEBOOKS)
    start = params.load_experiment("ofav2_eps", changed, sizes)["start"]
    begins = "" if start == "scratch" else f", starts from {starts.told(start)}"
    said = f"profile {sizes['profile']}, data set {sizes['dataset']}{begins}, in {tell.near(out)}"
    if chosen.dry_run:
        _list(jobs, out, said)
        return 0
    return _finish(jobs, out, chosen, said)


def _show(chosen: Namespace) -> int:
    """Redraw all notebooks from an archive of results; nothing is trained."""
    archive = _resolved("--show", chosen.show)
    out = ROOT / "outputs" / pack.folder_for(archive)
    if chosen.out:
        out = _resolved("--out", chosen.out)
    identity = pack.unpack(archive, out)
    os.environ[FOLDER] = str(out)
    jobs = pack.shown_jobs(out, identity, str(out))
    return _finish(jobs, out, chosen, f"{archive.name}, shown in {tell.near(out)}")


def _finish(jobs: Sequence[Job], out: Path, chosen: Namespace, said: str) -> int:
    """Run what is left of the jobs; returns the exit code."""
    with engine.alone(out) as lock:
        left = due(jobs, out)
        engine.prepare(jobs, out, left)
        todo = [job for job in jobs if job.id in left]
        began = time.monotonic()
        if todo:
            logs = f"logs: {tell.near(out)}/jobs/*.log"
            print(f"{said}: {len(todo)} of {len(jobs)} jobs to run ({logs})", flush=True)
            problems = engine.run(todo, out, chosen, lock)
            if problems:
                print("\n".join(f"run_all.sh: {line}" for line in problems), file=sys.stderr)
                return 1
            print(f"\nDone in {tell.duration(time.monotonic() - began)}: {said}.\n")
        else:
            print(f"Nothing is left to do: {len(jobs)} jobs are finished ({said}).\n")
    print(tell.summary(jobs, out))
    return 0


def _list(jobs: Sequence[Job], out: Path, said: str) -> None:
    """What --dry-run prints: each job, and why it has to run."""
    left = due(jobs, out)
    print(f"{said}: {len(jobs)} jobs, {len(left)} to run")
    for job in jobs:
        if job.id in left:
            print(f"  {'run':9} {job.title}   ({left[job.id]})")
        else:
            print(f"  {'finished':9} {job.title}")


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """`./run_all.sh ...` with its environment at hand."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ./run_all.sh | head
    try:
        return drive(sys.argv[1:] if argv is None else argv)
    except Refusal as refusal:
        for line in str(refusal).splitlines():
            print(f"run_all.sh: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"run_all.sh: stopped; {engine.AGAIN}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
