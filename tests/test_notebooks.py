"""The notebooks: how their sources read, and all of them run headless, in order, from an empty
outputs folder."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from tiny import GOLDEN, PROFILE, numbers

from nat_lib.files import ROOT
from nat_lib.results import coverage
from nat_lib.results.printed import printed
from nat_lib.results.rules import evaluate
from nat_lib.results.values import Store
from nat_lib.run import pack
from nat_lib.run import params as params_run
from nat_lib.run.params import (
    load_experiment,
    load_params,
    load_profile,
    parameters_cell,
)
from nat_lib.studies import STUDIES
from nat_lib.studies.models import Profile

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_source_opens_with_prose_and_carries_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, second, *_ = notebook.cells
    assert first.cell_type == "markdown" and "**Question" in first.source
    assert "parameters" in second.metadata.get("tags", ())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            tree = ast.parse(cell.source)
            statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
            # an entry of a dictionary has a line of its own: statements tell what is to be read
            assert len(statements) <= (32 if cell is second else 18), cell.source
            assert len(cell.source.splitlines()) <= 35, cell.source
            assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)
    assert ".finish(" in notebook.cells[-1].source
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_every_key_of_an_experiment_is_in_the_parameters_cell(path):
    cell, study = parameters_cell(path), path.stem.split("_", 1)[1]
    assert set(load_experiment(study)) <= set(cell)
    assert not set(Profile.model_fields) & set(STUDIES[study].switches.model_fields)


@pytest.mark.parametrize("study", [name for name, row in STUDIES.items() if row.sizes])
def test_the_defaults_of_a_notebook_are_the_smoke_profile(study):
    path = next(p for p in SOURCES if p.stem.endswith(study))
    params = load_params("smoke", study)
    given = params_run.given(study, parameters_cell(path))
    assert given | {"job_hours": params["job_hours"]} == {k: params[k] for k in given}
    assert set(STUDIES[study].switches.model_fields) <= set(given)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Everything that ./run_all.sh leaves behind for a tiny profile."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = [str(ROOT / "run_all.sh"), "--profile", str(PROFILE), "--out", str(out)]
    done = subprocess.run(
        command,
        text=True,
        timeout=900,
        env=os.environ | {"NAT_PYTHON": sys.executable},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_every_notebook_runs_and_leaves_its_report(outputs, path):
    executed = nbformat.read(outputs / path.name, as_version=4)
    code = [c for c in executed.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code)
    kinds = {o.output_type for c in code for o in c.outputs}
    assert "error" not in kinds and kinds & {"display_data", "execute_result"}
    shown = json.dumps([o for c in code for o in c.outputs])
    assert (
        "application/vnd.jupyter.widget-view+json" not in shown
    )  # batch notebooks create no widgets
    reports = [json.loads(p.read_text()) for p in (outputs / "notebooks").glob("*/report.json")]
    assert path.stem in {r["name"] for r in reports}


def test_the_numbers_of_finished_cells_are_the_golden_ones(outputs):
    """Counts are equal everywhere; another machine's rounding may turn an image or two of forty."""
    golden = pd.read_csv(GOLDEN)
    ours = numbers(outputs)
    assert set(zip(golden.cell, golden.key, strict=True)) == set(ours)
    for cell, key, value in golden.itertuples(index=False):
        percent = any(word in key for word in ("top1", "top5", "avg", "best", "error", "mean"))
        close = (
            pytest.approx(value, abs=5.1) if percent else pytest.approx(value, rel=0.02, abs=0.02)
        )
        assert ours[cell, key] == close, (cell, key)


def test_the_tables_and_figures_of_chapter_4_are_there(outputs):
    left = {p.name for p in (outputs / "01_aep_study").iterdir()}
    assert {
        "runs.csv",
        "values.csv",
        "exits.csv",
        "fig_4_2.png",
        "fig_4_2.csv",
        "subsets.png",
        "output_weights.csv",
        "claims.csv",
    } <= left
    runs = pd.read_csv(outputs / "01_aep_study/runs.csv")
    assert sorted(zip(runs.scenario, runs["mode"], strict=True)) == sorted(
        (s, m) for s in ("TR-64", "FT-64") for m in ("SE", "DESC", "ASC", "MIX", "UNIF")
    )
    assert runs.proxy.tolist() == [s == "FT-64" for s in runs.scenario]
    here = pd.read_csv(outputs / "07_thesis_report/chapter_4.csv")
    assert here.ours.notna().any()
    assert not {"reproduced", "above", "below"} & set(here.verdict)  # not at the thesis's size


def test_the_report_holds_everything_that_the_thesis_shows(outputs):
    page = (outputs / "07_thesis_report.html").read_text()
    rows = printed("figures")
    for row in rows[rows.source == "thesis"].itertuples():
        number = row.id[1:]
        if row.kind == "figure":
            assert (outputs / f"07_thesis_report/fig_{number.replace('.', '_')}.png").exists(), (
                row.id
            )
            assert f"<b>Figure {number}</b>" in page, row.id
        else:
            assert f"Table {number}" in page, row.id
    assert (
        page.count("data:image/png;base64")
        == len(list((outputs / "07_thesis_report").glob("*.png")))
        >= 38
    )


def test_a_claim_is_judged_where_the_profile_covers_it(outputs):
    judged = pd.read_csv(outputs / "07_thesis_report/claims.csv", keep_default_na=False)
    profile, rules = (
        load_profile(PROFILE),
        printed("claims").set_index("id").rule,
    )
    assert len(judged) == 154
    for claim in judged[
        ~judged.verdict.isin(["not run in this profile", "informative"])
    ].itertuples():
        wanted = evaluate(rules[claim.id], Store()).missing
        assert all(coverage.covers(profile, *value) for value in wanted), claim.id
    assert judged.margin.ne("").any()


def test_the_tables_and_figures_of_chapter_6_are_there(outputs):
    wanted = {
        "03_predictors": {"fig_6_3", "fig_6_4", "fig_6_5"},
        "05_post_processing": {"fig_6_6", "fig_6_11"},
        "04_natv2_phases": {
            "fig_6_7",
            "fig_6_8",
            "fig_6_9",
            "hypervolume",
            "predictor_quality",
            "archive_shift",
        },
    }
    for stem, figures in wanted.items():
        left = {p.name for p in (outputs / stem).iterdir()}
        assert {f"{name}.{kind}" for name in figures for kind in ("png", "csv")} <= left
    claims = {
        row.id: row.verdict
        for row in pd.read_csv(outputs / "07_thesis_report/claims.csv").itertuples()
    }
    assert (
        claims["N51"] == claims["N52"] == claims["N54"] == "reproduced"
    )  # the two laws of sampling; encodings
    assert claims["N01"] == "not run in this profile"


def test_the_tables_and_figures_of_chapter_5_are_there(outputs):
    left = {p.name for p in (outputs / "02_ofav2_eps").iterdir()}
    assert {
        "table_5_2.csv",
        "tables_5_3_5_4.csv",
        "best_subnets.png",
        "best_subnets_cost.csv",
        "learning_curves_w1.0.png",
        "learning_curves_w1.2.png",
        "teacher_quality_w1.0.png",
        "teacher_quality_w1.2.png",
        "best_per_step_w1.0.png",
    } <= left
    assert any(p.suffix == ".png" for p in (outputs / "07_thesis_report").iterdir())
    assert any("claims" in p.name for p in (outputs / "07_thesis_report").iterdir())


def test_a_cell_that_was_not_run_is_shown_as_such(outputs):
    cells = pd.read_csv(outputs / "02_ofav2_eps/tables_5_3_5_4.csv", dtype={"wm": str})
    ours = cells.set_index(["wm", "supernet", "teacher", "step", "stat"]).sort_index()
    assert ours.loc[("1.0", "EE_DP", "pet", "EW", "best"), "verdict"] == "not run in this profile"
    assert ours.loc[("1.0", "BASE", "pet", "EL", "best"), "verdict"] == "X"
    assert ours.loc[("1.2", "SE_P", "fixed", "EW", "avg"), "ours"] > 0


@pytest.fixture(scope="module")
def shown(outputs, tmp_path_factory):
    """The same results packed, and shown where nothing can be trained."""
    folder = tmp_path_factory.mktemp("show")
    archive = folder / "tiny.tar.xz"
    pack.pack(outputs, archive)
    assert archive.stat().st_size < 3e6
    done = subprocess.run(
        [ROOT / "run_all.sh", "--show", archive, "--out", folder / "out"],
        text=True,
        timeout=600,
        env=os.environ | {"NAT_PYTHON": sys.executable, "NAT_CACHE": str(folder / "no images")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_packed_results_show_the_same_tables_and_figures(outputs, shown):
    def tables(out):
        folders = [out / path.stem for path in SOURCES]
        return {
            p.relative_to(out) for folder in folders for p in folder.rglob("*.*") if p.is_file()
        }

    exported = Path("06_pareto_browser/recommended")  # weights are not packed
    wanted = {path for path in tables(outputs) if not path.is_relative_to(exported)}
    assert len(wanted) > 150 and tables(shown) == wanted
    same = [p for p in wanted if (outputs / p).read_bytes() == (shown / p).read_bytes()]
    assert {p for p in wanted if p.suffix == ".csv"} <= set(same)
    assert not list(shown.rglob("*.safetensors")) and not list(shown.rglob("state.pt"))
    assert (shown / "07_thesis_report.html").exists()
