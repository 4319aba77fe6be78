"""The study of predictors and post-processing as cells: what they leave, what they share, how they
go on."""

import numpy as np
import pandas as pd
import pytest

from nat_lib import arch, files
from nat_lib.cells import open_cell
from nat_lib.errors import Refusal
from nat_lib.evaluate import score_many
from nat_lib.exit_weights import MODES
from nat_lib.genotypes import from_text
from nat_lib.results import chapter6
from nat_lib.run.params import load_params
from nat_lib.studies import predictors, scoring, searches
from nat_lib.studies.post import post_selected, run_posts, settings, shared

SMALL = {
    "predictor_sizes": [10, 14],
    "predictor_repeats": 2,
    "predictor_tests": 5,
    "predictors": ["ridge", "knn"],
    "encodings": ["integer", "onehot"],
    "draw_seed": 420,
    "threads": 1,
}


@pytest.fixture
def compared(searching, tmp_path):
    """Function: run the study of predictors on BASE, with changed parameters; returns (report,
    folder)."""
    params, data, lay = searching
    lay(tmp_path, "BASE")
    home = tmp_path / predictors.STUDY / "digits_turned/BASE_s0"

    def run(**changes):
        return predictors.run_predictors(params | SMALL | changes, "BASE", 0, data, tmp_path), home

    return run


def test_the_study_scores_once_and_fits_every_predictor_on_the_same_sets(compared, monkeypatch):
    report, home = compared()
    scores, fits = pd.read_csv(home / "scores/scores.csv"), pd.read_csv(home / "fits/fits.csv")
    assert scores.groupby(["set", "size", "repeat"]).size().to_dict() == {
        ("test", 0, 0): 5,
        ("train", 10, 0): 10,
        ("train", 10, 1): 10,
        ("train", 14, 0): 14,
        ("train", 14, 1): 14,
    }
    assert (
        len(fits) == 2 * 2 * 2 * 2 == report["metrics"]["fits"]
        and fits.spearman.between(-1, 1).all()
    )
    assert not fits.duplicated(["predictor", "encoding", "size", "repeat"]).any()
    monkeypatch.setattr(scoring, "score_many", None)  # another predictor needs no network
    report, _ = compared(predictors=["svr"])
    assert report["metrics"]["fits"] == 8


def test_a_killed_study_scores_only_what_is_left(compared, monkeypatch):
    calls, most = [], 7

    def counted(*args):
        for scored in score_many(*args):
            if len(calls) == most:
                raise KeyboardInterrupt
            calls.append(scored)
            yield scored

    monkeypatch.setattr(scoring, "score_many", counted)
    with pytest.raises(KeyboardInterrupt):
        compared()
    most = 10**6
    _, home = compared()
    scores = pd.read_csv(home / "scores/scores.csv")
    space = arch.Space.from_dict(files.read_json(home / "scores/params.json")["params"]["space"])
    assert len(calls) == len(np.unique(space.active(from_text(scores.code)), axis=0))


def test_the_settings_are_those_of_the_thesis():
    params = {"post_learning_rates": [1e-4, 1e-5]}
    assert len(settings("grid", False, params)) == 6
    grid = settings("grid", True, params)
    assert len(grid) == len(set(grid)) == 30 and {w for m, *_, w in grid if m == "ens"} == set(
        MODES
    )
    assert settings("final", False, params) == [("std", "SGD", 1e-4, None)]
    assert settings("final", True, params) == [
        ("std", "AdamW", 1e-4, None),
        ("ens", "AdamW", 1e-4, "UNIF"),
    ]


def test_returned_subnets_are_post_processed_beside_their_originals(searching, tmp_path):
    params, data, lay = searching
    post = load_params("smoke", "post_processing") | {
        "nat_eval_batch_size": 40,
        "post_epochs": 2,
        "post_subnets": 1,
        "profile": "test",
        "nat_supernets": {"1": ["EE_D"], "4": []},
        "post_searches": {"1": ["acc+macs"], "4": ["acc+macs"]},
    }
    assert post_selected(post, "grid") == [("EE_D", 1, "acc+macs", 0)]
    assert post_selected(post, "final") == []
    with pytest.raises(Refusal, match="run notebook 04"):
        run_posts(post, "final", "EE_D", 1, "macs+acc", 0, data, tmp_path)
    lay(tmp_path, "EE_D")
    searches.run_search(params | {"iterations": 1}, "EE_D", 1, "acc+macs", 0, data, tmp_path)
    post["post_subnets"] = 3
    reports = run_posts(post, "final", "EE_D", 1, "macs+acc", 0, data, tmp_path)
    subnets = pd.read_csv(
        tmp_path / searches.STUDY / "digits_turned/EE_D_p1_acc+macs_s0/subnets.csv"
    )
    returned = subnets[subnets.returned].sort_values("val_top1", ascending=False, kind="stable")
    best = returned.head(3).set_index("code")
    # exits of its own before the last one are what "ens" adds
    methods = {code: ["std", "ens"] if exit > 1 else ["std"] for code, exit in best.exit.items()}
    assert {"ens"} <= {method for of in methods.values() for method in of}
    told = [(r["params"]["code"], r["params"]["method"]) for r in reports]
    assert told == [(code, method) for code, of in methods.items() for method in of]
    for report in reports:
        row = best.loc[report["params"]["code"]]
        assert report["metrics"]["original"]["test_top1"] == row.test_top1
        assert 0 <= report["metrics"]["after"]["test_top1"] <= 100
        assert report["metrics"]["params"] >= row.params
    assert run_posts(post, "final", "EE_D", 1, "acc+macs", 0, data, tmp_path) == reports


def test_the_study_of_strategies_takes_the_supernets_of_the_thesis():
    every = ["BASE", "SE_D", "SE_P", "SE_DP", "EE_B", "EE_D", "EE_P", "EE_DP"]
    params = {
        "seeds": [0],
        "nat_supernets": {"1": every, "4": every},
        "post_searches": {"1": ["acc+macs"], "4": ["acc+macs"]},
    }
    grid, final = ([row[0] for row in post_selected(params, kind)] for kind in ("grid", "final"))
    assert grid == ["BASE", "SE_D", "EE_B", "EE_D"] and final == every


def test_subnets_of_exit_1_are_trained_once():
    """All that "ens" does with one exit is what "std" does: 6 cells instead of 30, and each of the
    30 settings is told once."""
    every = settings("grid", True, {"post_learning_rates": [1e-4, 1e-5]})
    cells = shared(every, 1)
    assert [s.method for s, _ in cells] == ["std"] * 6
    told = [setting for one, others in cells for setting in (one, *others)]
    assert sorted(told, key=str) == sorted(every, key=str)
    for one, others in cells:
        assert {(o.optimizer, o.lr) for o in others} == {(one.optimizer, one.lr)}
    assert shared(every, 2) == [(setting, []) for setting in every]
    (alone,) = shared(settings("final", True, {}), 1)
    assert alone[0].name == "std-AdamW-1e-4" and [o.method for o in alone[1]] == ["ens"]


def test_a_shared_training_is_a_row_of_each_of_its_settings(tmp_path):
    one, others = shared(settings("final", True, {}), 1)[0]
    scores = {"val_top1": 50.0, "test_top1": 40.0}
    before = scores | {"params": 1, "macs_tp": 2, "latency_ms": 0.5}
    values = {
        "supernet": "EE_D",
        "phase": 4,
        "objectives": "acc+macs",
        "dataset": "digits",
        "seed": 0,
        "profile": "smoke",
        "study": "final",
        "subnet": 0,
        "code": "1",
        **one._asdict(),
        "stands_for": [other._asdict() for other in others],
    }
    cell = open_cell(tmp_path, "post_processing", "digits/EE_D_p4_acc+macs_s0/0-a", values)
    metrics = {"original": before, "after": scores, "params": 1, "macs_tp": 2, "best_epoch": 1}
    cell.finish(metrics | {"n_test": 10}, seconds=0.0)
    rows = chapter6.posts(tmp_path)
    assert list(rows.method) == ["std", "ens"] and list(rows.weights) == ["-", "UNIF"]
    assert list(rows.test_top1) == [40.0, 40.0]
