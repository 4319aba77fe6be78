"""The processes of a run: Snakemake starts the jobs, the server (`nat_lib.run.server`) does them.

Both die with the driver, and both hold the lock of the outputs folder, so that there are never two
writers in it, whatever was killed.
"""

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from nat_lib.errors import Refusal
from nat_lib.files import ROOT, plain, read_json, write_json
from nat_lib.run import guard, server, tell
from nat_lib.run.jobs import Job, chains

AGAIN = "finished work is kept: start again to go on"
DYING = 20.0  # seconds within which all that a killed run started has ended


@contextmanager
def alone(out: Path) -> Iterator[int]:
    """Only one run per outputs folder: yields the lock's file, for all processes of it to hold.

    The system frees the lock when the last of them dies, however it dies. What a killed run has
    left is given a moment to end.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / ".lock", "a+", encoding="utf-8")
    except OSError as error:
        raise Refusal(
            f"cannot write in {tell.near(out)}: {error.strerror}; choose another folder with --out"
        ) from None
    with file:
        gives_up = time.monotonic() + DYING
        while not _locked(file):
            file.seek(0)
            holder = file.read().strip()
            if _lives(holder) or time.monotonic() > gives_up:
                raise Refusal(
                    f"another run works in {tell.near(out)} (process {holder}): wait for it, "
                    "stop it, or choose another --out"
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(process: str) -> bool:
    """Is the process that wrote the lock there? One of another user is."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def environment(out: Path, threads: int) -> dict[str, str]:
    """What Snakemake, the server and the jobs find in theirs: the kit, and places to write in.

    Tools keep their state under `out` where the user has no home that can be written.
    """
    state = out / "jobs" / "state"
    cache = ROOT / "outputs" / "cache" if out.is_relative_to(ROOT) else out / "cache"
    home = os.environ.get("HOME", "")
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "NAT_INTERPRETER": sys.executable,
        "NAT_CACHE": os.environ.get("NAT_CACHE") or str(cache),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "XDG_CACHE_HOME": str(state / "cache"),  # of Snakemake
        "USER": os.environ.get("USER", "nat"),  # asked where there is no account
        "LOGNAME": os.environ.get("LOGNAME", "nat"),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), str(threads)),
    }
    if not (home and os.access(home, os.W_OK)):
        state.mkdir(parents=True, exist_ok=True)
        found["HOME"] = str(state)
    return found


@contextmanager
def serving(out: Path, env: dict[str, str], lock: int) -> Iterator[dict[str, str]]:
    """Start the server; yields the environment in which jobs find it."""
    name = f"nat-{secrets.token_hex(12)}"
    log = out / "jobs" / "server.log"
    with socket.socket(socket.AF_UNIX) as listening, open(log, "w", encoding="utf-8") as written:
        listening.bind(f"\0{name}")
        listening.listen(64)
        descriptor = listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "nat_lib.run.server", str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
            preexec_fn=partial(guard.die_with_parent, parent=os.getpid()),
            pass_fds=(descriptor, lock),
            env=env,
        )
    try:
        yield env | {server.NAME: name}
    finally:
        ended = process.poll()  # before it was told to: every job has failed with it
        if ended is not None:
            why = guard.death(-ended) if ended < 0 else f"it ended with code {ended}"
            guard.say(f"run_all.sh: the server of the run is gone: {why} (log: {tell.near(log)})")
        process.kill()
        process.wait()


def snakemake(
    out: Path, chosen: Namespace, side_by_side: int, threads: int, env: dict[str, str], lock: int
) -> subprocess.Popen:
    """Start Snakemake on out/plan.json. It needs no lock of its own, so a kill leaves none."""
    if chosen.executor == "local":
        how = ["--cores", str(side_by_side * threads)]
    else:
        how = ["--jobs", str(side_by_side), "--latency-wait", "60"]
    command = [sys.executable, "-m", "snakemake", *how]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(out)]
    command += ["--executor", chosen.executor, "--nolock", "--rerun-incomplete"]
    command += ["--rerun-triggers", "params", "--keep-going", "--scheduler", "greedy"]
    command += ["--nocolor", "--quiet", "rules", "progress", *chosen.passed_on]
    with open(out / "jobs" / "snakemake.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(guard.die_with_parent, parent=os.getpid()),
            pass_fds=(lock,),
            env=env,
        )


def side_by_side_of(chosen: Namespace, todo: Sequence[Job], threads: int) -> int:
    """How many jobs at a time: one per GPU where they use one, otherwise as the cores allow."""
    if chosen.jobs:
        return chosen.jobs
    on_gpu = any(job.params.get("device") == "cuda" for job in todo)
    if on_gpu:
        return max(1, len(server.gpus()))
    return max(1, len(os.sched_getaffinity(0)) // threads)


def stop(process: subprocess.Popen, local: bool) -> None:
    """End Snakemake. Its local jobs end with the server; others it must be let to cancel."""
    if not local:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            guard.say(
                "run_all.sh: Snakemake did not cancel its jobs in time: look for them in the queue"
            )
    process.kill()
    process.wait()


def run(todo: Sequence[Job], out: Path, chosen: Namespace, lock: int) -> list[str]:
    """Run the jobs in `todo`; returns lines that tell what went wrong, none if nothing did."""
    for job in todo:
        (out / job.log).unlink(missing_ok=True)
    threads = max(job.threads for job in todo)
    side_by_side = side_by_side_of(chosen, todo, threads)
    env, watch = environment(out, threads), tell.Watch(todo, out)
    with serving(out, env, lock) if chosen.executor == "local" else nullcontext(env) as served:
        process = snakemake(out, chosen, side_by_side, threads, served, lock)
        try:
            watch.follow(process)
        finally:
            if process.poll() is None:
                stop(process, chosen.executor == "local")
    return _problems(watch, process.returncode)


def _problems(watch: tell.Watch, code: int) -> list[str]:
    """What went wrong, a line each, and how far the run came; [] if nothing did."""
    todo, out, problems = watch.todo, watch.out, []
    for job in todo:
        log = out / job.log
        if job.id not in watch.done | watch.failed and log.exists():
            said = tell.last_line(log) or "its log is empty"
            problems.append(f"{job.title}: {said} (log: {tell.near(log)})")
    done, failed = len(watch.done), len(watch.failed)
    if done < len(todo) and not problems and not failed:
        log = out / "jobs" / "snakemake.log"
        said = tell.last_line(log)
        problems = [f"Snakemake ended with code {code}: {said} (log: {tell.near(log)})"]
    if failed or problems:
        waiting = len(todo) - done - failed
        counted = f"{done} of {len(todo)} jobs done, {failed} failed, {waiting} not run"
        problems.append(f"{counted}; {AGAIN}")
    return problems


def prepare(jobs: Sequence[Job], out: Path, left: dict[str, str]) -> None:
    """Write the plan and each job's parameters, only where they changed; drop old records."""
    longest, rows = chains(jobs), []
    for job in jobs:
        _write_if_changed(out / job.params_file, job.params)
        if job.id in left:
            (out / job.record).unlink(missing_ok=True)
        names = ("key", "output", "record", "log", "params_file")
        row = asdict(job) | {name: getattr(job, name) for name in names}
        rows.append(row | {"chain": longest[job.id]})
    _write_if_changed(out / "plan.json", {"root": ROOT, "jobs": rows})


def _write_if_changed(path: Path, value: object) -> None:
    with suppress(Refusal):
        if read_json(path) == plain(value):
            return
    write_json(path, value)
