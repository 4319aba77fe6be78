"""What the user reads while jobs run and when they are done."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

from nat_lib.files import ROOT
from nat_lib.run.jobs import Job
from nat_lib.studies import STUDIES

PROGRESS = re.compile(r": \d+(/\d+, \d+ s left)?, \d+ s so far")  # a line of machine.progress
FAILED = "failed: "  # begins the last line of a failed job's log
# Done work from which the rest is estimated; after the first small jobs it would be off by five.
ENOUGH = 0.1


class Watch:
    """What has started, ended and failed; says so as it is noticed."""

    def __init__(self, todo: Sequence[Job], out: Path):
        self.todo, self.out, self.began = todo, out, time.monotonic()
        self.started: set[str] = set()
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def follow(self, process: Popen, every: float = 60.0) -> None:
        """Look until Snakemake ends; what runs is listed every so many seconds."""
        said, ended = time.monotonic(), False
        while not ended:
            ended = process.poll() is not None  # asked before the last look, which misses nothing
            for job in self.todo:
                self.look(job)
            if time.monotonic() - said > every:
                said = time.monotonic()
                self.list_running()
            time.sleep(0 if ended else 0.3)

    def look(self, job: Job) -> None:
        """Notice what has become of one job."""
        log = self.out / job.log
        if job.id not in self.started and log.exists():
            self.started.add(job.id)
            self.say(f"start   {job.title}")
        if job.id not in self.started or job.id in self.done | self.failed:
            return
        if (self.out / job.record).exists():
            self.done.add(job.id)
            self.say(f"done    {job.title}   ({len(self.done)} of {len(self.todo)}{self.left()})")
        elif last_line(log).startswith(FAILED):
            self.failed.add(job.id)
            self.say(f"FAILED  {last_line(log).removeprefix(FAILED)}")

    def left(self) -> str:
        """About how long the rest takes; "" where there is none, or nothing to tell it from."""
        whole = sum(job.weight for job in self.todo)
        rest = sum(job.weight for job in self.todo if job.id not in self.done)
        if not rest or whole - rest <= ENOUGH * whole:
            return ""
        passed = time.monotonic() - self.began
        return f", about {duration(passed * rest / (whole - rest))} left"

    def list_running(self) -> None:
        """All that runs, with how far it is."""
        ended = self.done | self.failed
        running = [job for job in self.todo if job.id in self.started - ended]
        idle = "" if running else "; nothing runs yet"
        self.say(f"{len(self.done)} of {len(self.todo)} done{idle}")
        for job in running:
            self.say(f"        {job.title}: {progress(self.out / job.log) or 'running'}")

    def say(self, line: str) -> None:
        print(f"[{clock(time.monotonic() - self.began)}] {line}", flush=True)


def progress(log: Path) -> str:
    """What a running job last said of how far it is; "" if it has not said anything."""
    last = last_line(log)
    return last if PROGRESS.search(last) else ""


def summary(jobs: Sequence[Job], out: Path) -> str:
    """One screen: the notebooks with their tables and figures, the finished cells, the report."""
    whole = [job for job in jobs if job.notebook]
    lines = [f"{'notebook':22} {'tables':>6} {'figures':>7}   executed copy"]
    for job in whole:
        folder = ROOT / job.params.get("figures", out / job.id)
        tables, figures = (len(list(folder.rglob(f"*.{kind}"))) for kind in ("csv", "png"))
        lines.append(f"{job.id:22} {tables:6} {figures:7}   {near(out / job.output)}")
    cells = {study: len(list((out / study).rglob("report.json"))) for study in STUDIES}
    counted = ", ".join(f"{study} {n}" for study, n in cells.items() if n)
    lines += ["", f"finished cells: {counted or 'none'}"]
    lines += [f"tables and figures: {near(out)}/<notebook>/"]
    for job in whole:
        page = (out / job.output).with_suffix(".html")
        if page.exists():
            lines.append(f"report to read or to mail: {near(page)}")
    return "\n".join(lines)


def near(path: str | Path) -> str:
    """A path from where the user is, if it lies below."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def last_line(path: Path) -> str:
    """The last line of a file that is not empty; "" if there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds // 60):3}:{int(seconds % 60):02}"


def duration(seconds: float) -> str:
    """A time as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
