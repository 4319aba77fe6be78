import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_nbrun import alive, wait_for

from nat_lib import machine
from nat_lib.errors import Refusal
from nat_lib.files import ROOT
from nat_lib.run import drive, engine, jobs, options, params, server, tell


def run_all(*options, **more):
    """./run_all.sh in this very environment."""
    return subprocess.run(
        [ROOT / "run_all.sh", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"NAT_PYTHON": sys.executable},
        **more,
    )


@pytest.fixture
def notebooks(tmp_path, make_notebook):
    """One notebook that leaves a table, a figure and a cell, and a report on it."""
    run = {"profile": "smoke", "out": "", "figures": ""}
    work = """from nat_lib.cells import open_cell
from nat_lib.files import ROOT, write_text
open_cell(ROOT / out, "start_here", "one", {"samples": samples}).finish({}, seconds=0.0)
for name in ("a.csv", "a.png"): write_text(ROOT / figures / name, str(samples))"""
    make_notebook(
        tmp_path / "nb" / "00_start_here.ipynb", params.load_experiment("start_here") | run, work
    )
    make_notebook(
        tmp_path / "nb" / "07_thesis_report.ipynb",
        params.load_experiment("thesis_report") | run,
        "from nat_lib.files import ROOT, write_text\n"
        "write_text(ROOT / figures / 'b.csv', 'all is well')",
        nat_page=True,
    )
    return tmp_path / "nb"


# ------------------------------------------------------------------------------------------ options


def test_help_is_for_people_and_names_every_option():
    done = run_all("--help")
    assert done.returncode == 0 and done.stderr == ""
    for option in (
        "--profile",
        "--only",
        "--jobs",
        "--dataset",
        "--data-dir",
        "--seeds",
        "--executor",
        "--set",
        "--dry-run",
        "--out",
        "NAT_PYTHON",
    ):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profil", "smoke"], "unknown option '--profil' (--help lists the options)"),
        (["smoke"], "unknown option 'smoke'"),
        (["--profile"], "--profile needs a value"),
        (["--profile", "--dry-run"], "--profile needs a value"),
        (["--profile", "big"], "--profile: 'big' is not one of laptop, own, paper, smoke"),
        (["--jobs", "0"], "--jobs: '0' is not a whole number from 1"),
        (["--jobs=two"], "--jobs: 'two' is not a whole number from 1"),
        (["--only", "two"], "--only: 'two' is not a list of notebook numbers"),
        (["--seeds", "0,x"], "--seeds: '0,x' is not a list of whole numbers"),
        (["--set", "lr_factor"], "--set: 'lr_factor' is not KEY=VALUE"),
        (
            ["--set", "lr_factor=1e-3"],
            "command line: lr_factor: '1e-3' is text, not a number: write 0.001",
        ),
        (["--dataset", "imagenet"], "command line: dataset: 'imagenet' is not one of"),
        (["--executor", "nosuch"], "--executor: 'nosuch' is not installed"),
        (["--executor", "../x"], "--executor: '../x' is not the name of an executor"),
        (["--executor", "."], "--executor: '.' is not the name of an executor"),
        (["--data-dir", "/"], "--data-dir: / is a folder of the system"),
        (["--data-dir", "~nosuchuser/x"], "--data-dir: '~nosuchuser/x' is no path"),
        (["--out", "/dev/null"], "cannot write in /dev/null"),
        (["--out", "/proc/foo"], "cannot write in /proc/foo"),
    ],
)
def test_a_bad_option_is_one_clear_line(options, message):
    done = run_all(*options)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"run_all.sh: {message}") and done.stderr.count("\n") == 1


def test_an_interpreter_that_cannot_serve_is_refused(tmp_path):
    done = subprocess.run(
        [ROOT / "run_all.sh"],
        capture_output=True,
        text=True,
        env=os.environ | {"NAT_PYTHON": str(tmp_path / "none")},
    )
    assert done.returncode == 2 and "none does not run or lacks packages" in done.stderr


def test_options_become_overrides(tmp_path):
    chosen = options.parse(
        [
            "--seeds",
            "0,2",
            "--set",
            "lr_factor=2.0",
            "kd=e2e",
            "--dataset",
            "folder",
            "--data-dir",
            str(tmp_path),
            "--only",
            "2,07",
            "--",
            "--verbose",
        ]
    )
    assert drive.overrides(chosen) == {
        "lr_factor": 2.0,
        "kd": "e2e",
        "dataset": "folder",
        "target": "folder",
        "targets": None,
        "aep_datasets": ["folder"],
        "data_dir": str(tmp_path),
        "seeds": [0, 2],
    }
    assert chosen.only == ["02", "07"] and chosen.passed_on == ["--verbose"]
    two = options.parse(
        ["--dataset", "tiny_imagenet", "--target", "cifar10", "--target-dir", str(tmp_path)]
    )
    assert drive.overrides(two) == {
        "dataset": "tiny_imagenet",
        "target": "cifar10",
        "targets": None,
        "target_dir": str(tmp_path),
        "aep_datasets": ["tiny_imagenet"],
    }
    told = options.parse(
        ["--dataset", "cifar10", "--set", "aep_datasets=[digits]", "target=digits"]
    )
    assert drive.overrides(told) == {
        "dataset": "cifar10",
        "aep_datasets": ["digits"],
        "target": "digits",
        "targets": None,
    }
    with pytest.raises(Refusal, match="there is no folder"):
        drive.overrides(options.parse(["--data-dir", str(tmp_path / "none")]))


# ------------------------------------------------------------------------------------------ running


def test_dry_run_lists_and_writes_nothing(notebooks, tmp_path):
    done = run_all("--dry-run", "--notebooks", notebooks, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        "2 jobs, 2 to run" in done.stdout
        and "run       00_start_here   (not run yet)" in done.stdout
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_then_nothing_left_then_only_what_is_missing(notebooks, tmp_path):
    out = tmp_path / "out"
    options = ("--notebooks", notebooks, "--out", out)
    first = run_all(*options, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert (
        "2 of 2 jobs to run" in first.stdout
        and "done    07_thesis_report   (2 of 2)" in first.stdout
    )
    assert "00_start_here               1       1   out/00_start_here.ipynb" in first.stdout
    assert first.stdout.endswith("report to read or to mail: out/07_thesis_report.html\n")
    assert (out / "00_start_here" / "a.csv").read_text() == "1000"
    times = {p: p.stat().st_mtime_ns for p in out.glob("*.ipynb")}
    for path in notebooks.iterdir():
        path.touch()

    second = run_all(*options, cwd=tmp_path)
    assert second.returncode == 0 and second.stdout.startswith(
        "Nothing is left to do: 2 jobs are finished"
    )
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.ipynb")} == times

    (out / "07_thesis_report.html").unlink()
    assert "2 jobs, 1 to run" in run_all(*options, "--dry-run").stdout

    (out / "start_here" / "one" / "report.json").unlink()
    listed = run_all(*options, "--dry-run")
    assert "2 jobs, 2 to run" in listed.stdout


@pytest.mark.slow
def test_a_failing_notebook_is_told_and_stops_only_what_needs_it(
    notebooks, tmp_path, make_notebook
):
    run = {"profile": "smoke", "out": ""}
    make_notebook(
        notebooks / "00_start_here.ipynb", params.load_experiment("start_here") | run, "1 / 0"
    )
    done = run_all("--notebooks", notebooks, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert (
        "FAILED  00_start_here: In [" in done.stdout
        and "ZeroDivisionError: division by zero" in done.stdout
    )
    assert "0 of 2 jobs done, 1 failed, 1 not run; finished work is kept" in done.stderr
    assert not (tmp_path / "out" / "07_thesis_report.ipynb").exists()


@pytest.mark.slow
def test_killed_driver_takes_everything_with_it_and_leaves_no_lock(
    notebooks, tmp_path, make_notebook
):
    pids, out = tmp_path / "pids", tmp_path / "out"
    run = {"profile": "smoke", "out": ""}
    wait = f"""import os, time
open({str(pids) + ".tmp"!r}, "w").write(str(os.getpid()))
os.rename({str(pids) + ".tmp"!r}, {str(pids)!r})
time.sleep(600)"""
    make_notebook(
        notebooks / "00_start_here.ipynb", params.load_experiment("start_here") | run, wait
    )
    options = ["--notebooks", notebooks, "--out", out, "--only", "00"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "nat_lib", "run", *map(str, options)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(pids.exists, 120)
    refused = run_all(*options)
    assert (
        refused.returncode == 2
        and f"another run works in {out} (process {driver.pid})" in refused.stderr
    )
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not alive(int(pids.read_text())), 10)
    with engine.alone(out):
        planned = jobs.plan_jobs("smoke", only=["00"], out=out, notebooks=notebooks)
        assert jobs.due(planned, out) == {"00_start_here": "not run yet"}


# ---------------------------------------------------------------------------------------- packaging


def test_the_lock_pins_everything_and_names_no_index():
    lines = [
        line.split(" ;")[0]
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert lines and all(
        "==" in line and "/" not in line and not line.startswith("-") for line in lines
    )


def test_scripts_can_be_run():
    for script in ("run_all.sh", "run_tests.sh", ".ci/run"):
        assert os.access(Path(ROOT, script), os.X_OK)
        assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


def test_what_a_running_job_last_said_is_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NAT_BATCH", "1")
    log = tmp_path / "job.log"
    for total in (None, 3):
        list(machine.progress((x for x in "abc"), "digits, trainings", total, every=0))
        lines = capsys.readouterr().err
        log.write_text(lines)
        assert (
            tell.progress(log) == lines.strip().splitlines()[-1] and "digits, trainings: 2" in lines
        )
    log.write_text("failed: out of memory")
    assert tell.progress(log) == "" == tell.progress(tmp_path / "none.log")


# ------------------------------------------------------------------------------------------- places

ODD = {
    "braces in the outputs folder": ("a {b} c", {}),
    "a long temporary folder": ("out", {"TMPDIR": "long"}),
    "no home": ("out", {"HOME": None}),
    "a home that is not there": ("out", {"HOME": "/nonexistent/home"}),
    "another encoding": ("out", {"LANG": "en_US", "LC_ALL": "en_US"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD)
def test_a_run_works_in_odd_places(notebooks, tmp_path, kind):
    name, changes = ODD[kind]
    env = os.environ | {"NAT_PYTHON": sys.executable}
    for key, value in changes.items():
        env.pop(key, None)
        if value == "long":
            value = tmp_path / ("x" * 90)
            value.mkdir()
        if value is not None:
            env[key] = str(value)
    done = subprocess.run(
        [ROOT / "run_all.sh", "--notebooks", notebooks, "--out", tmp_path / name, "--only", "07"],
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / name / "07_thesis_report" / "b.csv").read_text() == "all is well"


@pytest.mark.slow
def test_the_kit_may_lie_in_a_folder_with_braces(notebooks, tmp_path):
    kit = tmp_path / "kit {x}"
    kit.mkdir()
    for name in ("nat_lib", "params", "run_all.sh", "Snakefile"):
        (kit / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "run_all.sh", kit / "copy.sh")
    done = subprocess.run(
        [kit / "copy.sh", "--notebooks", notebooks, "--out", tmp_path / "out", "--only", "07"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NAT_PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_killed_driver_and_server_leave_no_writer(notebooks, tmp_path, make_notebook):
    """Killed while the server still imports: who comes next finds the folder free of writers."""
    out, run = tmp_path / "out", {"profile": "smoke", "out": ""}
    work = f"open({str(tmp_path / 'written')!r}, 'a').write('x')"
    make_notebook(
        notebooks / "00_start_here.ipynb", params.load_experiment("start_here") | run, work
    )
    options = ["--notebooks", str(notebooks), "--out", str(out), "--only", "00"]
    for wait in (0.5, 1.0, 2.5):
        driver = subprocess.Popen(
            [sys.executable, "-m", "nat_lib", "run", *options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(wait)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        with engine.alone(out):  # waits until all that the killed run started is gone
            written = (tmp_path / "written").exists()
            time.sleep(0.5)
            assert (tmp_path / "written").exists() == written
    assert run_all(*options).returncode == 0


# ------------------------------------------------------------------------------------------- GPUs


def test_each_job_gets_the_gpu_with_the_fewest():
    assert server.free_gpu([], []) == ""
    taken = []
    for _ in range(5):
        taken.append(server.free_gpu(["0", "3"], taken))
    assert taken == ["0", "3", "0", "3", "0"]
    taken.remove("3")
    taken.remove("3")
    assert server.free_gpu(["0", "3"], taken) == "3"


def test_gpus_are_those_that_the_environment_allows(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert server.gpus() == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert server.gpus() == []


@pytest.mark.slow
def test_without_jobs_as_many_run_as_there_are_gpus(tmp_path, monkeypatch):
    planned = jobs.plan_jobs("smoke", {"device": "cuda"}, ["02"], tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert engine.side_by_side_of(options.parse([]), planned, threads=1) == 3
    assert engine.side_by_side_of(options.parse(["--jobs", "5"]), planned, threads=1) == 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert engine.side_by_side_of(options.parse([]), planned, threads=1) == 1


@pytest.mark.slow
def test_a_killed_server_is_told_and_its_jobs_have_failed(notebooks, tmp_path, make_notebook):
    pids, run = tmp_path / "pids", {"profile": "smoke", "out": ""}
    wait = f"""import os, time
open({str(pids) + ".tmp"!r}, "w").write(str(os.getpid()))
os.rename({str(pids) + ".tmp"!r}, {str(pids)!r})
time.sleep(600)"""
    make_notebook(
        notebooks / "00_start_here.ipynb", params.load_experiment("start_here") | run, wait
    )
    options = ["--notebooks", str(notebooks), "--out", str(tmp_path / "out"), "--only", "00"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "nat_lib", "run", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(pids.exists, 120)
    kernel = psutil.Process(int(pids.read_text()))
    server_process = kernel.parent().parent().parent()  # worker, guard, server
    assert "nat_lib.run.server" in server_process.cmdline()
    server_process.kill()
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "the server of the run is gone: it was killed: out of memory?" in err
    wait_for(lambda: not alive(kernel.pid), 10)


@pytest.mark.slow
def test_a_job_that_runs_elsewhere_needs_no_server(notebooks, tmp_path):
    """As an executor of Snakemake starts it on another machine."""
    out = tmp_path / "out"
    planned = jobs.plan_jobs("smoke", only=["00"], out=out, notebooks=notebooks)
    engine.prepare(planned, out, {})
    done = subprocess.run(
        [sys.executable, "-m", "nat_lib", "job", "00_start_here"],
        cwd=out,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs.due(planned, out) == {}
    assert (out / "00_start_here" / "a.csv").exists()
