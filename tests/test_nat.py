"""Searches on supernets: whole miniature runs, killed and resumed, and what they refuse."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from nat_lib import files, machine
from nat_lib.arch import Space
from nat_lib.cells import Cell
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.evaluate import score_many
from nat_lib.genotypes import as_text, from_text
from nat_lib.results import chapter6
from nat_lib.run.params import load_params
from nat_lib.search import distributions, objectives, strategies
from nat_lib.search.archive import VERSIONS, Iteration
from nat_lib.studies import course, returned, scoring, searches
from nat_lib.studies.models import Profile

SUPERNETS = {1: "BASE", 4: "EE_D"}


def searched(searching, out, phase=1, text="acc+macs", **changes):
    params, data, lay = searching
    supernet, teacher = SUPERNETS[phase], VERSIONS[phase].teacher
    if not (out / "ofav2_eps").exists():
        lay(out, supernet, (teacher,))
    return searches.run_search(params | changes, supernet, phase, text, 0, data, out)


def folder(out, phase=1, text="acc+macs"):
    return out / searches.STUDY / "digits_turned" / f"{SUPERNETS[phase]}_p{phase}_{text}_s0"


@pytest.fixture(scope="module")
def outs(tmp_path_factory):
    return {phase: tmp_path_factory.mktemp(f"phase{phase}") for phase in SUPERNETS}


@pytest.fixture(params=SUPERNETS)
def straight(request, searching, outs):
    """(phase, outputs folder, cell's folder) of a finished search."""
    searched(searching, outs[request.param], request.param)
    return request.param, outs[request.param], folder(outs[request.param], request.param)


def test_a_search_leaves_archives_candidates_and_returned_subnets(straight, searching):
    phase, _, at = straight
    report = files.read_json(at / "report.json")
    iterations, archive, candidates, subnets = (
        pd.read_csv(at / f"{name}.csv")
        for name in ("iterations", "archive", "candidates", "subnets")
    )
    grows = phase == 1
    assert list(iterations.archive) == ([6, 8, 10] if grows else [6, 6, 6])
    assert list(archive.groupby("iteration").size()) == list(iterations.archive)
    assert list(candidates.groupby("iteration").size()) == [2, 2]
    assert report["metrics"]["hypervolume"] == list(iterations.hypervolume)
    assert (iterations.hypervolume > 0).all() and iterations.supernet_top1[1:].between(0, 100).all()
    epochs = report["params"]["adaptation_epochs"]
    assert (iterations.epochs[1:] == epochs).all() and (
        iterations.validations[1:] == (epochs if grows else 1)
    ).all()
    assert (iterations.validation_seconds[1:] < iterations.seconds[1:]).all()
    space = Space.from_dict(report["params"]["space"])
    X = from_text(archive.code)
    np.testing.assert_allclose(
        archive.macs, count(X, space, 5).macs_tp / 1e6
    )  # of the subnet that was scored
    assert (
        subnets.front.all()
        and 1 <= subnets.returned.sum() <= 4
        and subnets.returned.equals(subnets.high_tradeoff)
    )
    assert not subnets.code.duplicated().any() and subnets.test_top1.between(0, 100).all()
    last = archive[archive.iteration == 2].set_index("code")
    np.testing.assert_allclose(subnets.val_top1, 100 - last.error[subnets.code])
    depths, exits = ["depth_2", "depth_3", "depth_4"], [f"exit_{e}" for e in range(1, 6)]
    np.testing.assert_allclose(iterations[depths].sum(axis=1), 1)
    np.testing.assert_allclose(iterations[exits].sum(axis=1), 1)
    assert (iterations.exit_5 == 1).all() == (SUPERNETS[phase] == "BASE")
    kept = sorted(at.glob("iterations/*.safetensors"))
    assert [path.stem for path in kept] == ["00", "01", "02"]  # the last three
    assert kept[-1].read_bytes() == (at / "supernets.safetensors").read_bytes()
    assert kept[0].read_bytes() != kept[1].read_bytes() != kept[2].read_bytes()


def test_the_weights_adapt_and_every_member_is_scored_again(straight):
    _, _, at = straight
    memory = scoring.Memory(Cell(at, "", "", {}), "evaluations").known
    archive = pd.read_csv(at / "archive.csv")
    space = Space.from_dict(files.read_json(at / "report.json")["params"]["space"])
    for number, rows in archive.groupby("iteration"):
        for code, error in zip(space.active(from_text(rows.code)), rows.error, strict=True):
            assert 100 - memory[number, as_text(code)]["val_top1"] == pytest.approx(error)
    assert {version for version, _ in memory} == {0, 1, 2}
    losses = [
        [row["val_loss"] for (v, _), row in memory.items() if v == version] for version in (0, 2)
    ]
    assert abs(np.mean(losses[0]) - np.mean(losses[1])) > 1e-3


@pytest.mark.parametrize("straight", [1], indirect=True)
def test_a_finished_search_is_only_read(straight, searching, monkeypatch):
    phase, out, at = straight
    monkeypatch.setattr(scoring, "score_many", None)
    assert searched(searching, out, phase) == files.read_json(at / "report.json")


@pytest.mark.parametrize(
    ("straight", "stop"),
    [
        (1, "candidates"),
        *((4, stop) for stop in ("first archive", "candidates", "adaptation", "again", "test")),
    ],
    indirect=["straight"],
)
def test_a_killed_search_goes_on_and_ends_with_the_same_archive(
    straight, searching, tmp_path, monkeypatch, stop
):
    phase, _, at = straight
    tested, calls = returned.tested, []
    first = 6 if phase == 1 else 12
    left = {"first archive": 3, "candidates": first + 1, "again": first + 4}.get(stop, 10**6)
    draws = iter(range(10**6))

    def dying(net, archs, *args):
        for i, scores in score_many(net, archs, *args):
            if len(calls) == left:
                raise KeyboardInterrupt
            calls.append(archs[i])
            yield i, scores

    def dying_draw(*args, **kwargs):
        if next(draws) == 9:  # 8 draws per adaptation: in the second one
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    sample = distributions.sample
    monkeypatch.setattr(scoring, "score_many", dying)
    if stop == "adaptation":
        monkeypatch.setattr(distributions, "sample", dying_draw)
    if stop == "test":
        monkeypatch.setattr(returned, "tested", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        searched(searching, tmp_path, phase)
    monkeypatch.setattr(distributions, "sample", sample)
    monkeypatch.setattr(returned, "tested", tested)
    log = folder(tmp_path, phase) / "evaluations.0.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"version": 0, "code": "0 1')  # and the last line was cut short
    left, before = 10**6, len(calls)
    searched(searching, tmp_path, phase)
    for name in ("archive", "candidates"):
        assert (folder(tmp_path, phase) / f"{name}.csv").read_bytes() == (
            at / f"{name}.csv"
        ).read_bytes()
    same = ["code", "returned", "val_top1", "test_top1", "test_loss", "params"]
    ours, theirs = (pd.read_csv(f / "subnets.csv")[same] for f in (folder(tmp_path, phase), at))
    pd.testing.assert_frame_equal(ours, theirs)
    known = scoring.Memory(Cell(at, "", "", {}), "evaluations").known
    assert before < len(calls) + (stop == "test") and len(calls) == len(
        known
    )  # nothing was scored twice


def test_objectives_come_in_any_order_and_number(searching, tmp_path):
    report = searched(searching, tmp_path, 1, "latency+macs+acc+params", iterations=1)
    assert report["params"]["objectives"] == "acc+params+macs+latency"
    archive = pd.read_csv(folder(tmp_path, 1, "acc+params+macs+latency") / "archive.csv")
    assert list(archive.columns) == [
        "iteration",
        "code",
        "error",
        "params",
        "macs",
        "latency",
        "born",
    ]
    space = Space.from_dict(report["params"]["space"])
    table = scoring.block_table(space, 5, searching[1].device, tmp_path)
    np.testing.assert_allclose(archive.latency, table.latency(from_text(archive.code)))
    again = searched(searching, tmp_path, 1, "acc+macs+latency+params", iterations=1)
    assert again["hash"] == report["hash"]


def test_accuracy_alone_returns_the_most_accurate_subnet_and_latency_can_be_measured(
    searching, tmp_path
):
    searched(searching, tmp_path, 1, "acc", iterations=1)
    subnets = pd.read_csv(folder(tmp_path, 1, "acc") / "subnets.csv")
    archive = pd.read_csv(folder(tmp_path, 1, "acc") / "archive.csv")
    assert subnets.returned.sum() == 1 and subnets.latency_ms.min() > 0
    assert (
        subnets[subnets.returned].val_top1.item()
        == 100 - archive[archive.iteration == 1].error.min()
    )
    searched(
        searching,
        tmp_path,
        1,
        "acc+latency",
        iterations=1,
        latency="measured",
        population=6,
        generations=2,
    )
    at = folder(tmp_path, 1, "acc+latency")
    measured = scoring.Memory(Cell(at, "", "", {}), "latencies").known
    assert all(
        {"ms", "iqr", "runs", "device", "threads", "date"} <= set(row) for row in measured.values()
    )
    archive = pd.read_csv(at / "archive.csv")
    assert set(archive.latency) <= {row["ms"] for row in measured.values()}


@pytest.mark.parametrize("straight", [1], indirect=True)
def test_a_predictor_that_cannot_be_fitted_is_replaced_and_this_is_recorded(straight):
    iterations = pd.read_csv(straight[2] / "iterations.csv")
    assert (iterations.predictor[1:] != "lgb").all() and iterations.note[1:].str.len().gt(10).all()


def test_a_new_objective_is_one_row(searching, tmp_path, monkeypatch):
    def blocks(subject, X):
        return (X > 0).sum(axis=1).astype(float)

    row = objectives.Objective(blocks, "depth", "blocks", scale=2.0)
    monkeypatch.setitem(objectives.OBJECTIVES, "depth", row)
    report = searched(searching, tmp_path, 1, "depth+acc+macs", iterations=1)
    assert report["params"]["objectives"] == "acc+macs+depth"
    at = folder(tmp_path, 1, "acc+macs+depth")
    archive, subnets = pd.read_csv(at / "archive.csv"), pd.read_csv(at / "subnets.csv")
    np.testing.assert_array_equal(archive.depth, blocks(None, from_text(archive.code)))
    np.testing.assert_array_equal(subnets.depth, 2 * blocks(None, from_text(subnets.code)))
    rows = chapter6.returned(tmp_path)
    assert rows.depth.tolist() == subnets[subnets.returned].depth.tolist()
    alone = rows.assign(objectives="acc+depth")
    assert chapter6.second_objective(alone).tolist() == (rows.depth / 2).tolist()
    assert objectives.title("acc+depth") == "accuracy & depth"
    assert objectives.axis("depth") == "depth (blocks)"


def test_bad_input_is_refused_in_one_line_and_nothing_is_lost(searching, tmp_path, straight):
    with pytest.raises(Refusal, match="objective"):
        searched(searching, tmp_path, 1, "acc+energy")
    params, *_ = searching
    one_class = type("OneClass", (), {"n_classes": 1, "name": "x"})()
    with pytest.raises(Refusal, match="two or more"):
        searches.warm_up(params, "BASE", "fixed", 0, one_class, tmp_path)
    cell = Cell(tmp_path, "", "", {})
    files.write_text(
        tmp_path / "log.0.jsonl", '{"version": 0, "code": "1", "val_top1": 3}\nnonsense\n'
    )
    with pytest.raises(Refusal, match=r"log\.0\.jsonl, line 2"):
        scoring.Memory(cell, "log")


@pytest.mark.parametrize("straight", [1], indirect=True)
def test_a_damaged_iteration_is_refused_and_the_one_before_is_gone_on_from(
    straight, searching, tmp_path
):
    phase, *_ = straight
    searched(searching, tmp_path, phase)
    mine = folder(tmp_path, phase)
    (mine / "report.json").unlink()
    path = mine / "iterations/02.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(Refusal, match=r"02\.json"):
        searched(searching, tmp_path, phase)
    assert (mine / "evaluations.0.jsonl").exists()


@pytest.mark.parametrize("straight", [1], indirect=True)
def test_lost_evaluations_of_weights_that_have_moved_on_are_refused(
    straight, searching, tmp_path, monkeypatch
):
    phase, *_ = straight
    row = strategies.STRATEGIES["nat"]
    dying = row._replace(function=_moved_on(row.function))
    monkeypatch.setitem(strategies.STRATEGIES, "nat", dying)
    with pytest.raises(KeyboardInterrupt):
        searched(searching, tmp_path, phase)
    monkeypatch.undo()
    mine = folder(tmp_path, phase)
    (mine / "evaluations.0.jsonl").unlink()
    (mine / "iterations/01.json").unlink(missing_ok=True)
    with pytest.raises(Refusal, match="begins anew"):
        searched(searching, tmp_path, phase)


def _moved_on(original):
    """A search that dies after its first adaptation."""

    def dying(task, start=None):
        def adapted(X, number):
            task.adapt(X, number)
            raise KeyboardInterrupt

        return original(task._replace(adapt=adapted), start)

    return dying


def test_the_study_selects_phase_by_phase():
    params = {
        "seeds": [0, 1],
        "searches": {"1": ["acc"], "4": ["acc+macs", "acc"]},
        "nat_supernets": {"1": ["BASE", "EE_D"], "4": ["EE_D"]},
    }
    assert searches.selected(params)[:4] == [
        ("BASE", 1, "acc", 0),
        ("EE_D", 1, "acc", 0),
        ("EE_D", 4, "acc+macs", 0),
        ("EE_D", 4, "acc", 0),
    ]
    assert len(searches.selected(params)) == 8


def test_the_sizes_of_phases_1_and_2_to_4_are_the_profiles():
    params = {"archive_sizes": [100, 300], "candidates": [8, 25], "multiplier": 10}
    assert [searches.version_of(params, phase) for phase in (1, 2, 3, 4)] == [
        VERSIONS[p] for p in (1, 2, 3, 4)
    ]


@pytest.fixture
def tiny_profile(searching, tmp_path):
    params, _, lay = searching
    lay(tmp_path / "out", "BASE")
    profile = tmp_path / "tiny.yaml"
    profile.write_text(
        yaml.safe_dump(
            {k: v for k, v in params.items() if k in Profile.model_fields} | {"job_hours": 1.0}
        )
    )
    return [
        "--profile",
        str(profile),
        "--out",
        str(tmp_path / "out"),
        "--supernet",
        "BASE",
        "--phase",
        "1",
    ]


def test_several_processes_share_the_archive_and_end_with_the_same_one(tiny_profile, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "nat_lib.nat",
        *tiny_profile,
        "--set",
        "iterations=1",
        "population=12",
        "generations=3",
    ]
    command[-4:-4] = ["--objectives", "acc+latency"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=files.ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    at = folder(tmp_path / "out", text="acc+latency")
    tables = list((tmp_path / "out" / searches.STUDY / "latency").glob("*/table.json"))
    assert len(tables) == 1 and not (tmp_path / "out/.other").exists()  # one for all processes
    shares = [len((at / f"evaluations.{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)]
    archive = pd.read_csv(at / "archive.csv")
    assert sum(shares) == 6 + 2 + 8 and min(shares) >= 6 and len(archive) == 14
    assert (archive.groupby("code").latency.nunique() == 1).all()
    first = archive[archive.iteration == 0]
    whole = scoring.Memory(Cell(at, "", "", {}), "evaluations").known
    space = Space.from_dict(files.read_json(at / "report.json")["params"]["space"])
    for code, error in zip(space.active(from_text(first.code)), first.error, strict=True):
        assert 100 - whole[0, as_text(code)]["val_top1"] == pytest.approx(error)


def test_the_command_line_refuses_in_one_line(tiny_profile, capsys):
    assert searches.main([*tiny_profile, "--objectives", "acc+energy"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------- strategies, damage, machines


@pytest.mark.parametrize("strategy", ["regularised_evolution", "random"])
def test_another_strategy_is_a_search_of_its_own_that_goes_on_after_a_kill(
    searching, tmp_path, monkeypatch, strategy
):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    name = f"BASE_p1_acc+macs_{strategy}_s0"
    report = searched(searching, straight, strategy=strategy)
    assert report["params"]["strategy"] == strategy and report["name"].endswith(name)
    calls = []

    def dying(*args):
        for scored in score_many(*args):
            if len(calls) == 9:  # six of the first archive, two of iteration 1, one of iteration 2
                raise KeyboardInterrupt
            calls.append(scored)
            yield scored

    monkeypatch.setattr(scoring, "score_many", dying)
    with pytest.raises(KeyboardInterrupt):
        searched(searching, killed, strategy=strategy)
    monkeypatch.setattr(scoring, "score_many", score_many)
    searched(searching, killed, strategy=strategy)
    ours, theirs = (out / searches.STUDY / "digits_turned" / name for out in (killed, straight))
    for file in ("archive.csv", "candidates.csv", "evaluations.0.jsonl"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
    iterations = pd.read_csv(theirs / "iterations.csv")
    assert iterations.supernet_top1.isna().all() and iterations.predictor.isna().all()
    assert not list(theirs.glob("iterations/*.safetensors"))  # nothing was trained
    assert len(chapter6.searches(straight)) == 1 and chapter6.returned(straight).empty
    assert len(chapter6.returned(straight, strategy=strategy)) >= 1
    assert len(chapter6.iterations(straight, strategy=strategy)) == 3


def test_the_cell_of_the_default_strategy_does_not_name_it(searching, straight_params):
    assert "strategy" not in straight_params


@pytest.fixture
def straight_params(searching, outs):
    return searched(searching, outs[1], 1)["params"]


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        "7",
        '{"version": 0, "code": "0 1"}',
        '{"version": 0, "code": 3, "val_top1": 5.0}',
        '{"version": "x", "code": "0 1", "val_top1": 5.0}',
        '{"version": 0, "code": "0 1", "val_top1": null}',
        '{"version": 0, "code": "0 1", "val_top1": "high"}',
    ],
)
def test_a_damaged_line_of_a_memory_is_one_clear_line(tmp_path, line):
    cell = Cell(tmp_path, "", "", {})
    good = '{"version": 0, "code": "0 1", "val_top1": 50.0}'
    files.write_text(tmp_path / "evaluations.0.jsonl", f"{good}\n{line}\n{good}\n")
    with pytest.raises(
        Refusal, match=r"evaluations\.0\.jsonl, line 2, is damaged: delete it"
    ) as told:
        scoring.error_memory(cell)
    assert "\n" not in str(told.value)


def test_a_memory_that_is_no_text_or_a_folder_is_one_clear_line(tmp_path):
    cell, path = Cell(tmp_path, "", "", {}), tmp_path / "evaluations.0.jsonl"
    path.write_bytes(b'{"version": 0, "code": "\xff"}\n')
    with pytest.raises(Refusal, match=r"UTF-8.*delete it"):
        scoring.error_memory(cell)
    path.unlink()
    path.mkdir()
    with pytest.raises(Refusal, match=r"cannot read .*remove it"):
        scoring.error_memory(cell)


@pytest.mark.parametrize(
    "change",
    [
        {"codes": "nonsense"},
        {"codes": ["0 99"]},
        {"F": [[50.0]]},
        {"F": [[None, 1.0]]},
        {"reference": [0.0, 1.0]},
        {"quality": [1]},
        {"number": 5},
        {"predictor": None},
        None,
    ],
    ids=str,
)
def test_a_damaged_iteration_is_one_clear_line(tmp_path, change):
    space = Space("BASE", (16, 24), (1.0,), (8, 8, 8))
    cell, X = Cell(tmp_path, "", "", {}), space.lower[None]
    step = Iteration(
        0, X, np.array([[50.0, 1.0]]), np.array([51.0, 1.1]), 0.1, X[:0], [], [], quality={}
    )
    course.save(cell, step, seconds=1.0)
    assert len(course.finished(cell, space, 2)) == 1
    path = tmp_path / "iterations/00.json"
    if change is None:
        path.unlink()
        path.mkdir()
    else:
        files.write_json(path, files.read_json(path) | change)
    with pytest.raises(Refusal, match=r"00\.json is damaged: delete it and every later one"):
        course.finished(cell, space, 2)


def test_all_cards_of_one_kind_share_a_latency_table(searching, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some card")
    opened = []

    def opening(out, study, name, values, *more):
        opened.append(values)
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "open_cell", opening)
    for device in ("cuda:0", "cuda:1"):
        with pytest.raises(KeyboardInterrupt):
            scoring.block_table(Space("BASE"), 5, torch.device(device), tmp_path)
    assert opened[0] == opened[1] and "some card" in str(opened[0])


def test_the_whole_list_of_families_is_fitted_by_all_cores(searching):
    params, *_ = searching
    assert searches.default_processes(params | {"distribution_families": "short"}) == 1
    everyone = searches.default_processes(params | {"distribution_families": "all"})
    assert everyone == machine.cores() >= 1
    assert load_params("paper", "natv2_phases")["distribution_families"] == "all"
    assert load_params("paper", "natv2_phases")["fit_processes"] is None
