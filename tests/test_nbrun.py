import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from nat_lib import files
from nat_lib.errors import Refusal
from nat_lib.files import ROOT
from nat_lib.run.guard import Failure
from nat_lib.run.notebook import check_executed, check_params

STUCK = """import os, subprocess, time
child = subprocess.Popen(["sleep", "600"])
open(pids + ".tmp", "w").write(f"{os.getpid()} {child.pid}")
os.rename(pids + ".tmp", pids)
while True: pass"""


def start(notebook, out, params, tmp_path, *options):
    file = tmp_path / "given.json"
    file.write_text(json.dumps(params))
    command = [sys.executable, "-m", "nat_lib.nbrun", notebook, out, "--params", file, *options]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    """Running, that is there and not a zombie that nobody has collected yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# --------------------------------------------------------------------------------------- parameters

DEFAULTS = {
    "n": 1,
    "share": 0.5,
    "name": "a",
    "limit": None,
    "flag": True,
    "seeds": [0],
    "nets": {"1.0": ["BASE"]},
}


@pytest.mark.parametrize(
    "params",
    [
        {"n": 2, "share": 1, "name": "b", "limit": 3, "flag": False, "seeds": [1, 2], "nets": {}},
        {"n": None},
        {},
        {"nets": {"1.2": ["EE_D", "SE_D"]}},
        {"limit": [1]},
        {"seeds": []},
    ],
)
def test_parameters_that_fit(tmp_path, make_notebook, params):
    check_params(make_notebook(tmp_path / "a.ipynb", DEFAULTS), params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"m": 1}, "unknown parameter 'm'; the parameters cell knows n, share, name"),
        ({"n": "2"}, "n: '2' does not have the type of its default 1"),
        ({"n": 2.0}, "n: 2.0 does not"),
        ({"n": True}, "n: True does not"),
        ({"flag": 1}, "flag: 1 does not"),
        ({"share": "1e-3"}, "share: '1e-3' does not have the type of its default 0.5"),
        ({"seeds": 3}, "seeds: 3 does not"),
        ({"seeds": ["0"]}, r"seeds: \['0'\] does not"),
        ({"nets": {"1.0": "BASE"}}, "nets: .* does not"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, make_notebook, params, message):
    with pytest.raises(Refusal, match=message):
        check_params(make_notebook(tmp_path / "a.ipynb", DEFAULTS), params)


# ------------------------------------------------------------------------------------------ running


def test_success_leaves_the_notebook_and_nothing_else(tmp_path, make_notebook):
    work = """import os, sys
print(n, sys.executable, os.environ["NAT_BATCH"], os.environ["OMP_NUM_THREADS"])"""
    notebook = make_notebook(tmp_path / "nb" / "a.ipynb", {"n": 1, "threads": 4}, work)
    out = tmp_path / "out"
    out.mkdir()
    (out / ".tmp-1-a.ipynb").write_text("of a killed run")
    (out / "a.failed.ipynb").write_text("of a failed run")
    process = start(notebook, out / "a.ipynb", {"n": 5, "threads": 1}, tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    executed = files.read_json(out / "a.ipynb")
    assert "".join(executed["cells"][-1]["outputs"][0]["text"]) == f"5 {sys.executable} 1 1\n"
    assert sorted(p.name for p in out.iterdir()) == ["a.ipynb"]
    assert sorted(p.name for p in (tmp_path / "nb").iterdir()) == ["a.ipynb"]  # nothing beside it
    assert not list(tmp_path.glob("nat-*"))


def test_a_raising_cell_is_one_line_and_leaves_only_the_failed_copy(tmp_path, make_notebook):
    notebook = make_notebook(
        tmp_path / "a.ipynb",
        {"n": 1},
        "from nat_lib.errors import Refusal\nraise Refusal('no images in x: add some')",
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.ipynb").write_text("an earlier result")
    process = start(notebook, tmp_path / "out" / "a.ipynb", {}, tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.match(
        r"failed: a: In \[\d\]: no images in x: add some \(see .*a\.failed\.ipynb\)$",
        err.splitlines()[-1],
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.failed.ipynb", "a.ipynb"]
    assert (tmp_path / "out" / "a.ipynb").read_text() == "an earlier result"


def test_an_error_in_the_written_notebook_is_a_failure_whatever_papermill_says(
    tmp_path, make_notebook
):
    notebook = files.read_json(make_notebook(tmp_path / "a.ipynb", {"n": 1}, "2"))
    for cell in notebook["cells"][1:]:
        cell["execution_count"] = 1
    files.write_json(tmp_path / "b.ipynb", notebook)
    check_executed(tmp_path / "b.ipynb")
    notebook["cells"][1]["execution_count"] = None
    files.write_json(tmp_path / "b.ipynb", notebook)
    with pytest.raises(Failure, match="a cell was not run"):
        check_executed(tmp_path / "b.ipynb")
    error = {"output_type": "error", "ename": "E", "evalue": "x\ny"}
    notebook["cells"][1] |= {"execution_count": 1, "outputs": [error]}
    files.write_json(tmp_path / "b.ipynb", notebook)
    with pytest.raises(Failure, match=r"In \[1\]: E: x; y"):
        check_executed(tmp_path / "b.ipynb")
    (tmp_path / "b.ipynb").write_text("{")
    with pytest.raises(Failure, match="no readable notebook"):
        check_executed(tmp_path / "b.ipynb")


def test_refused_before_anything_runs(tmp_path, make_notebook):
    notebook = make_notebook(tmp_path / "a.ipynb", {"n": 1})
    process = start(notebook, tmp_path / "out" / "a.ipynb", {"m": 1}, tmp_path)
    _, err = process.communicate(timeout=60)
    assert (
        process.returncode == 2
        and err == "a.ipynb: unknown parameter 'm'; the parameters cell knows n\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["time is up", "killed", "stopped"])
def test_no_kernel_outlives_its_run(tmp_path, make_notebook, how):
    pids = tmp_path / "pids"
    notebook = make_notebook(tmp_path / "a.ipynb", {"pids": ""}, STUCK)
    limit = ["--timeout", 8] if how == "time is up" else []
    process = start(notebook, tmp_path / "out" / "a.ipynb", {"pids": str(pids)}, tmp_path, *limit)
    wait_for(
        lambda: pids.exists() or process.poll() is not None
    )  # a busy machine may need longer than the limit
    kernel_and_child = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
    if how == "killed":
        process.kill()
    elif how == "stopped":
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    if how == "time is up":
        assert "failed: a: stopped after 8 s, its limit" in err
    wait_for(lambda: not any(map(alive, kernel_and_child)), 10)
    assert not (tmp_path / "out" / "a.ipynb").exists()
    wait_for(lambda: not list(tmp_path.glob("nat-*")), 10)
