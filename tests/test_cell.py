"""One cell by itself, from the command line."""

import json
import subprocess
import sys

import pytest
from tiny import PROFILE

from nat_lib.files import ROOT
from nat_lib.run import cell


def nat_lib(*arguments):
    command = [sys.executable, "-m", "nat_lib", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_every_command_says_what_it_does():
    listed = nat_lib()
    assert listed.returncode == 0
    for name in ("run", "cell", "search", "export", "pack", "gauge"):
        assert f"\n  {name}" in listed.stdout
        assert nat_lib(name, "--help").returncode == 0, name
    assert nat_lib("train").returncode == 2


def test_one_training_by_itself_is_found_finished(tmp_path, capsys):
    asked = ["aep", "--network", "MobileNetV3Small", "--scenario", "TR-64", "--mode", "DESC"]
    asked += ["--profile", str(PROFILE), "--out", str(tmp_path)]
    told = []
    for _ in range(2):
        assert cell.main(asked) == 0
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert told[0] == told[1] and told[0]["name"].endswith("MobileNetV3Small_TR-64_DESC_s0")
    assert len(list((tmp_path / "aep_study").rglob("report.json"))) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--network", "LeNet", "--scenario", "TR-64", "--mode", "DESC"], "LeNet"),
        (
            ["--network", "MobileNetV3Small", "--scenario", "TR-9", "--mode", "DESC"],
            "--scenario, --mode: TR-9, DESC is not among TR-64, FT-64",
        ),
        (
            ["--network", "MobileNetV3Small", "--scenario", "TR-64", "--mode", "BEST"],
            "--scenario, --mode: TR-64, BEST is not among",
        ),
    ],
)
def test_what_there_is_not_is_one_line(asked, message, capsys):
    assert cell.main(["aep", *asked, "--profile", str(PROFILE)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
