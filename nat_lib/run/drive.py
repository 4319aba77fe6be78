"""What run_all.sh does once its environment stands: plan, let Snakemake run what is left, say where
results are."""

import fcntl
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from contextlib import contextmanager
from pathlib import Path

from nat_lib.errors import Refusal
from nat_lib.files import ROOT
from nat_lib.run import params
from nat_lib.run.jobs import due, outputs_folder, plan_jobs, prepare
from nat_lib.run.notebook import die_with_parent

PROGRESS = re.compile(r": \d+(/\d+, \d+ s left)?, \d+ s so far")  # a line of runs.progress
AGAIN = "finished work is kept: start again to go on"


# ------------------------------------------------------------------------------------------ options


class Parser(ArgumentParser):
    def error(self, message):
        raise Refusal(f"{message} (--help lists the options)")


def options(argv):
    """The options of run_all.sh as a namespace; what follows `--` goes to Snakemake as it is."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(prog="run_all.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--only")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--dataset")
    parser.add_argument("--data-dir")
    parser.add_argument("--target")
    parser.add_argument("--target-dir")
    parser.add_argument("--seeds")
    parser.add_argument("--executor", default="local")
    parser.add_argument("--set", nargs="+", action="extend", default=[])
    parser.add_argument("--out")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--dry-run", action="store_true")
    chosen = parser.parse_args(argv[:cut])
    if chosen.jobs is not None and chosen.jobs < 1:
        raise Refusal(f"--jobs: {chosen.jobs} must be 1 or more")
    chosen.only = [number.zfill(2) for number in chosen.only.split(",")] if chosen.only else None
    chosen.passed_on = argv[cut + 1 :]
    return chosen


def overrides(chosen):
    """{key: value} of all options that replace a value of params/."""
    found = params.assignments(chosen.set)
    if chosen.dataset:
        found["dataset"] = chosen.dataset
    if chosen.dataset in params.DATASETS:
        # Every study stays there, unless told otherwise; unknown names are told once.
        found = {"target": chosen.dataset, "aep_datasets": [chosen.dataset]} | found
    if chosen.target:
        found["target"] = chosen.target
    for key in ("data_dir", "target_dir"):
        if given := getattr(chosen, key):
            folder = Path(given).expanduser().resolve()
            if not folder.is_dir():
                raise Refusal(f"--{key.replace('_', '-')}: there is no folder {folder}")
            found[key] = str(folder)
    if chosen.seeds:
        try:
            found["seeds"] = [int(seed) for seed in chosen.seeds.split(",")]
        except ValueError:
            raise Refusal(
                f"--seeds: {chosen.seeds!r} must be whole numbers with commas, such as 0,1,2"
            ) from None
    return found


def check_executor(name):
    """Snakemake takes executors from packages of their own; only the local one is always there."""
    plugin = f"snakemake_executor_plugin_{name.replace('-', '_')}"
    if name != "local" and not importlib.util.find_spec(plugin):
        raise Refusal(
            f"--executor: {name!r} is not installed: .venv/bin/pip install {plugin.replace('_', '-')}"
        )


# ------------------------------------------------------------------------------------------ running


@contextmanager
def alone(out):
    """Only one driver per outputs folder. The system frees the lock when its holder dies, however
    it dies."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refusal(
                f"another run works in {_near(out)} (process {file.read().strip()}): wait for it, stop it, "
                "or choose another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def snakemake(out, chosen, threads):
    """Start Snakemake on out/plan.json. It needs no lock of its own, so a kill leaves none
    behind."""
    side_by_side = chosen.jobs or max(1, len(os.sched_getaffinity(0)) // threads)
    local = chosen.executor == "local"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(out),
        "--executor",
        chosen.executor,
        "--nolock",
        "--rerun-incomplete",
        "--rerun-triggers",
        "params",
        "--keep-going",
        "--scheduler",
        "greedy",
        "--nocolor",
        "--quiet",
        "rules",
        "progress",
        *(
            ["--cores", str(side_by_side * threads)]
            if local
            else ["--jobs", str(side_by_side), "--latency-wait", "60"]
        ),
        *chosen.passed_on,
    ]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(out / "jobs" / "snakemake.log", "w") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env=os.environ | {"PYTHONPATH": path},
        )


def watch(process, out, todo, say, every=60.0):
    """Report what starts, ends and fails until Snakemake ends; returns the ids of the finished
    jobs."""
    began = said = time.monotonic()
    started, done, failed = set(), set(), set()
    whole = sum(job.weight for job in todo)
    ended = False
    while not ended:
        ended = process.poll() is not None  # asked before the last look, which then misses nothing
        for job in todo:
            passed = time.monotonic() - began
            if job.id not in started and (out / job.log).exists():
                started.add(job.id)
                say(passed, f"start   {job.title}")
            if job.id in started - done and (out / job.record).exists():
                done.add(job.id)
                rest = whole - sum(j.weight for j in todo if j.id in done)
                # After the first small jobs an estimate would be off by a factor of five.
                known = rest and whole - rest > whole / 10
                left = f", about {_duration(passed * rest / (whole - rest))} left" if known else ""
                say(passed, f"done    {job.title}   ({len(done)} of {len(todo)}{left})")
            elif job.id in started - done - failed and _last_line(out / job.log).startswith(
                "failed: "
            ):
                failed.add(job.id)
                say(passed, f"FAILED  {_last_line(out / job.log).removeprefix('failed: ')}")
        if time.monotonic() - said > every:
            said = time.monotonic()
            running = [job for job in todo if job.id in started - done - failed]
            say(
                said - began,
                f"{len(done)} of {len(todo)} done" + ("" if running else "; nothing runs yet"),
            )
            for job in running:
                say(said - began, f"        {job.title}: {_progress(out / job.log) or 'running'}")
        time.sleep(0 if ended else 0.3)
    return done, failed


def _progress(log):
    """What a running job last said of how far it is; "" if it has not said anything."""
    last = _last_line(log)
    return last if PROGRESS.search(last) else ""


def stop(process, local):
    """End Snakemake. Its local jobs notice and end themselves; elsewhere it must be let to cancel
    what it submitted."""
    if not local:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            print(
                "run_all.sh: Snakemake did not cancel its jobs in time: look for them in the queue",
                file=sys.stderr,
            )
    process.kill()
    process.wait()


def run(todo, out, chosen):
    """Run the jobs in `todo`; returns a list of lines that tell what went wrong, empty if nothing
    did."""
    for job in todo:
        (out / job.log).unlink(missing_ok=True)
    process = snakemake(out, chosen, max(job.threads for job in todo))
    try:
        done, failed = watch(
            process, out, todo, lambda at, text: print(f"[{_clock(at)}] {text}", flush=True)
        )
    finally:
        if process.poll() is None:
            stop(process, chosen.executor == "local")
    problems = [
        f"{job.title}: {_last_line(out / job.log) or 'its log is empty'} (log: {_near(out / job.log)})"
        for job in todo
        if job.id not in done | failed and (out / job.log).exists()
    ]
    if len(done) < len(todo) and not problems and not failed:
        problems = [
            f"Snakemake ended with code {process.returncode}: "
            f"{_last_line(out / 'jobs' / 'snakemake.log')} (log: {_near(out / 'jobs' / 'snakemake.log')})"
        ]
    waiting = len(todo) - len(done) - len(failed)
    if failed or problems:
        problems.append(
            f"{len(done)} of {len(todo)} jobs done, {len(failed)} failed, {waiting} not run; {AGAIN}"
        )
    return problems


# ------------------------------------------------------------------------------ what the user reads


def summary(jobs, out):
    """One screen: the notebooks with their tables and figures, the finished cells, the report."""
    whole = [job for job in jobs if "/" not in job.output]
    lines = [f"{'notebook':22} {'tables':>6} {'figures':>7}   executed copy"]
    for job in whole:
        folder = ROOT / job.params.get("figures", out / job.id)
        tables, figures = (len(list(folder.rglob(f"*.{kind}"))) for kind in ("csv", "png"))
        lines.append(f"{job.id:22} {tables:6} {figures:7}   {_near(out / job.output)}")
    cells = {study: len(list((out / study).rglob("report.json"))) for study in params.EXPERIMENTS}
    lines += [
        "",
        "finished cells: "
        + (", ".join(f"{study} {n}" for study, n in cells.items() if n) or "none"),
        f"tables and figures: {_near(out)}/<notebook>/",
    ]
    for job in whole:
        page = (out / job.output).with_suffix(".html")
        if page.exists():
            lines.append(f"report to read or to mail: {_near(page)}")
    return "\n".join(lines)


def _near(path):
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _last_line(path):
    try:
        lines = path.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _clock(seconds):
    return f"{int(seconds // 60):3}:{int(seconds % 60):02}"


def _duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------- command line


def drive(argv):
    chosen = options(argv)
    check_executor(chosen.executor)
    changed = overrides(chosen)
    jobs = plan_jobs(chosen.profile, changed, chosen.only, chosen.out, chosen.notebooks)
    how_much = params.load_profile(chosen.profile, changed)
    out = outputs_folder(how_much, chosen.out)
    said = f"profile {how_much['profile']}, data set {how_much['dataset']}, in {_near(out)}"
    if chosen.dry_run:
        left = due(jobs, out)
        print(f"{said}: {len(jobs)} jobs, {len(left)} to run")
        print(
            "\n".join(f"  {'run' if job.id in left else 'finished':9} {job.title}" for job in jobs)
        )
        return 0
    with alone(out):
        left = due(jobs, out)
        prepare(jobs, out, left)
        todo = [job for job in jobs if job.id in left]
        began = time.monotonic()
        if todo:
            print(
                f"{said}: {len(todo)} of {len(jobs)} jobs to run (logs: {_near(out)}/jobs/*.log)",
                flush=True,
            )
            problems = run(todo, out, chosen)
            if problems:
                print("\n".join(f"run_all.sh: {line}" for line in problems), file=sys.stderr)
                return 1
            print(f"\nDone in {_duration(time.monotonic() - began)}: {said}.\n")
        else:
            print(f"Nothing is left to do: {len(jobs)} jobs are finished ({said}).\n")
    print(summary(jobs, out))
    return 0


def _interrupt(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ./run_all.sh | head
    try:
        return drive(sys.argv[1:])
    except Refusal as refusal:
        print(
            "\n".join(f"run_all.sh: {line}" for line in str(refusal).splitlines()), file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print(f"run_all.sh: stopped; {AGAIN}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
