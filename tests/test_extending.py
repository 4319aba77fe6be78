"""docs/extending.md as it stands: its blocks are appended to a copy of the kit, its command is run,
and the new rows are found wherever rows are shown."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from nat_lib.files import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(# (nat_lib/\S+)\n.*?)^```", PAGE, re.S | re.M)
EXAMPLES = re.findall(r"^```python\n((?!# nat_lib).*?)^```", PAGE, re.S | re.M)
FILES = re.findall(r"^```yaml\n(# (\S+)\n.*?)^```", PAGE, re.S | re.M)
COMMANDS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M)
KIT = (
    "nat_lib",
    "notebooks",
    "params",
    "run_all.sh",
    "Snakefile",
    "requirements.lock",
    "tests/tiny.yaml",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """A copy of the kit with every block of the page appended to its file."""
    copy = tmp_path_factory.mktemp("extended") / "kit"
    for name in KIT:
        place = copy / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    for block, file in BLOCKS:
        with open(copy / file, "a", encoding="utf-8") as module:
            module.write("\n\n" + block)
    for text, file in FILES:
        (copy / file).write_text(text, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def outputs(kit):
    """What the page's command leaves."""
    for command in COMMANDS:
        done = run(kit, shlex.split(command.replace("\\\n", " ")))
        assert done.returncode == 0, done.stdout + done.stderr
    return kit / "outputs" / "extended"


def run(kit, command):
    env = os.environ | {"NAT_PYTHON": sys.executable, "PYTHONPATH": str(kit)}
    return subprocess.run(
        command, cwd=kit, env=env, text=True, capture_output=True, timeout=900, check=False
    )


def test_every_table_that_the_page_names_gets_a_row():
    tables = set(re.findall(r"`([A-Z]{4,})`", PAGE.split("## A data set")[0]))
    extended = set(re.findall(r"^([A-Z]+)\[", "".join(code for code, _ in BLOCKS), re.M))
    assert tables - extended <= {
        "MODES",
        "WEIGHT_LAWS",
        "AGGREGATORS",
        "TARGETS",
        "TEACHERS",
        "STUDIES",
    }
    assert extended <= tables


def test_the_examples_of_the_page_run(kit):
    for example in EXAMPLES:
        done = run(kit, [sys.executable, "-c", example])
        assert done.returncode == 0, done.stderr
        assert "extracted = elastic: True" in done.stdout


def test_a_baseline_is_built_and_counted(kit):
    code = "from nat_lib import baselines as b; print(b.macs('two_convolutions', 5, 32, 2.0))"
    done = run(kit, [sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 8 * 8 * 25 * 3 * 32 + 4 * 4 * 9 * 32 * 64 + 64 * 5


def test_a_curriculum_of_ones_own_trained(outputs):
    reports = [json.loads(p.read_text()) for p in outputs.glob("ofav2_eps/stripes/*/*/report.json")]
    assert {r["params"]["phase"] for r in reports} == {"Ends"}
    assert {(r["params"]["start"], r["params"]["recipe"]["recipe"]) for r in reports} == {
        ("quiet", "gentle")
    }


def test_a_backbone_is_trained_and_shown(outputs):
    runs = pd.read_csv(outputs / "01_aep_study" / "runs.csv")
    assert set(runs.network) == {"ResNet18"}
    reports = [json.loads(p.read_text()) for p in outputs.glob("aep_study/stripes/*/report.json")]
    assert {"calm": 0.01} in [r["params"].get("exit_terms") for r in reports]


def test_an_arm_is_trained_and_shown(outputs):
    table = pd.read_csv(outputs / "08_training_strategies" / "costs.csv")
    assert set(table.label) == {"sandwich, squares"} and abs(table.share - 1).max() < 0.01


def test_a_predictor_is_fitted_and_shown(outputs):
    [fits] = outputs.glob("predictors/stripes/*/fits/fits.csv")
    assert "Nearest" in set(pd.read_csv(fits).predictor)
    shown = [p.read_text() for p in (outputs / "03_predictors").glob("*.csv")]
    assert any("Nearest" in text for text in shown)


def test_an_objective_and_a_strategy_searched_and_are_shown(outputs):
    [report] = outputs.glob("natv2_phases/stripes/*/report.json")
    params = json.loads(report.read_text())["params"]
    assert params["objectives"] == "acc+depth"
    assert params["strategy"] == "shrink_only"
    assert params["predictor"] == "nearest"
    text = (outputs / "04_natv2_phases.ipynb").read_text(encoding="utf-8")
    assert "smallest first" in text and "depth" in text
    front = pd.read_csv(outputs / "06_pareto_browser" / "front.csv")
    assert set(front.strategy) == {"shrink_only"} and front.depth.between(2, 20).all()


def test_a_strategy_is_judged_on_an_exact_table_and_a_stop_rule_replayed(outputs):
    ends = pd.read_csv(outputs / "09_search_strategies" / "end.csv")
    assert {"smallest first", "random search"} == set(ends.label)
    rules = pd.read_csv(outputs / "09_search_strategies" / "stop_rules.csv")
    assert "falls" in set(rules.rule) and (rules.trainings > 0).all()


def test_a_policy_stops_early(kit, outputs):
    [search] = outputs.glob("natv2_phases/stripes/*/report.json")
    done = run(
        kit,
        [sys.executable, "-m", "nat_lib.export", search.parent, kit / "net", "--policy", "gini"],
    )
    assert done.returncode == 0, done.stderr
