"""Killed in the middle of a phase and started again, a run ends with the tables of one that was
never killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import write_profile

from nat_lib.files import ROOT

CHANGES = {
    "train_images": 120,
    "min_full_epochs": 3,
    "min_epochs": 2,
    "supernets": {"1.0": ["BASE"]},
}


def start(folder, profile):
    command = [
        str(ROOT / "run_all.sh"),
        "--profile",
        str(profile),
        "--only",
        "02",
        "--out",
        str(folder),
    ]
    return subprocess.Popen(
        command,
        env=os.environ | {"NAT_PYTHON": sys.executable},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(folder, profile):
    process = start(folder, profile)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def kill_in_the_middle_of_a_phase(process, folder, checkpoints):
    """SIGKILL to every process of the run once `checkpoints` different training checkpoints have
    been seen."""
    seen, deadline = set(), time.monotonic() + 300
    while len(seen) < checkpoints:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        for path in Path(folder).rglob("state.pt"):
            try:
                seen.add((path, path.stat().st_mtime_ns))
            except FileNotFoundError:
                continue
        time.sleep(0.005)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.communicate()
    psutil.wait_procs(family[1:], timeout=30)
    return sorted({str(path.parent.name) for path, _ in seen})


def tables(folder):
    """Bytes of everything that is shown or reported; histories carry seconds and are compared
    without them."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.name == "grid.csv" or ("02_ofav2_eps" in p.parts and p.suffix in (".csv", ".png"))
    }


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return write_profile(tmp_path_factory.mktemp("profile") / "tiny.yaml", **CHANGES)


def test_a_killed_run_ends_with_the_same_tables(tmp_path, profile):
    finish(tmp_path / "straight", profile)
    for checkpoints in (2, 4):  # in the Full phase, then again later
        process = start(tmp_path / "killed", profile)
        killed_in = kill_in_the_middle_of_a_phase(process, tmp_path / "killed", checkpoints)
        assert killed_in
    said = finish(tmp_path / "killed", profile)
    assert "tables and figures" in said
    straight, killed = tables(tmp_path / "straight"), tables(tmp_path / "killed")
    assert len(straight) > 12 and straight.keys() == killed.keys()
    assert [name for name in straight if straight[name] != killed[name]] == []
    began = time.monotonic()
    assert "Nothing is left to do" in finish(tmp_path / "killed", profile)
    print(f"a second call took {time.monotonic() - began:.1f} s")
