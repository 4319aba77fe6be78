"""Extended Progressive Shrinking: the phases as data, teachers, cells, and a whole miniature
run."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import tiny

from nat_lib import curricula, distill, files, shrink, train
from nat_lib.arch import Space
from nat_lib.data import load
from nat_lib.distributed import first_rank_first, process_group
from nat_lib.errors import Refusal
from nat_lib.exit_weights import DESC5
from nat_lib.exits import ensemble, joint_loss
from nat_lib.plans import NETWORKS
from nat_lib.recipes import RECIPES
from nat_lib.results import chapter5
from nat_lib.results.printed import printed
from nat_lib.run.params import load_params, load_profile
from nat_lib.studies import eps, eps_told, grids, judging, probing, searches, warmup
from nat_lib.studies.models import Profile
from nat_lib.supernet import Supernet

LETTERS = {
    "BASE": 6,
    "SE_B": 6,
    "SE_D": 6,
    "SE_P": 8,
    "SE_DP": 8,
    "EE_B": 10,
    "EE_D": 10,
    "EE_P": 12,
    "EE_DP": 12,
}
TINY = {
    "profile": "test",
    "dataset": "digits",
    "train_images": 80,
    "val_images": 40,
    "test_images": 40,
    "batch_size": 40,
    "eval_batch_size": 40,
    "min_full_epochs": 2,
    "base_channels": [8, 8, 8, 8, 8, 8],
    "train_resolutions": [16, 20, 24],
    "eval_resolutions": [16, 24],
    "val_subnets": 2,
    "grid_subnets": 3,
    "calibration_images": 40,
    "epoch_fraction": 0.005,
    "supernets": {"1.0": ["EE_DP"]},
    "widths": [1.0],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load(
        "digits",
        cache=tmp_path_factory.mktemp("cache"),
        train_images=80,
        val_images=40,
        test_images=40,
        calibration_images=40,
    )


@pytest.fixture(scope="module")
def params():
    return load_params("smoke", "ofav2_eps", TINY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, params):
    """All twelve phases of a miniature EE_DP with both teachers: (folder, {teacher: links})."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("out")
    for teacher in ("fixed", "pet"):
        eps.run(params, "EE_DP", 1.0, teacher, 0, data, out)
    return out, {t: eps.chain(params, "EE_DP", 1.0, t, 0, data, out) for t in ("fixed", "pet")}


# ------------------------------------------------------------------------------- the phases as data


def test_the_phases_are_those_of_table_5_2():
    paper = printed("table_5_2")
    for row, p in zip(paper.itertuples(), curricula.PHASES, strict=True):
        assert (row.phase, row.step) == (p.name, p.step)
        assert tuple(
            float(v)
            for v in (row.learning_rate, row.epochs, row.warmup_epochs, row.subnets_per_batch)
        ) == (p.lr, p.epochs, p.warmup, p.subnets)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_phases_and_opens_everything_at_the_end(name):
    space = Space(name)
    phases = curricula.phases_for(space)
    assert len(phases) == LETTERS[name]
    assert (
        sum(p.epochs + p.warmup for p in phases) == {6: 605, 8: 755, 10: 915, 12: 1065}[len(phases)]
    )
    opened = curricula.choices_after(space, phases[-1])
    assert all(set(a) == set(b) for a, b in zip(opened, space.choices, strict=True))
    first = curricula.choices_after(space, phases[0])
    assert all(len(v) == 1 for v in first) and first.level == (max(space.levels),)


def test_the_table_of_the_thesis_does_not_ask_for_the_epochs_of_another_curriculum():
    """Where one stage trains for so many epochs, notebook 02 still shows Table 5.2."""
    data = load("digits", train_images=80, val_images=40, test_images=40)
    one = tiny("ofav2_eps", curriculum="one_stage")
    shown = eps_told.configured(one | {"epochs": {"One": 2.0}}, data)
    pd.testing.assert_frame_equal(shown, eps_told.configured(one, data))
    own = eps_told.configured(one | {"epochs": {"One": 2.0}}, data, "one_stage")
    assert own.recipe_epochs.tolist() == [2.0]


def test_the_largest_space_trains_for_1030_epochs_after_warm_up():
    assert sum(p.epochs for p in curricula.phases_for(Space("EE_DP"))) == 1030


@pytest.mark.parametrize(
    "name, phase, size",
    [
        ("EE_B", "ND2", 27),
        ("BASE", "E2", 81),
        ("SE_P", "E2", 567),
        ("EE_D", "E2", 405),
        ("EE_DP", "E2", 2835),
        ("EE_D", "Full", 3),
        ("BASE", "KS", 9),
        ("SE_P", "NW1", 36),
    ],
)
def test_the_reported_grids_have_the_sizes_of_the_thesis(name, phase, size):
    space, p = Space(name), next(p for p in curricula.PHASES if p.name == phase)
    assert len(space.grid(curricula.choices_after(space, p), (48, 56, 64), 1.0)) == size


def test_validation_takes_the_extremes():
    space = Space("EE_P")
    by_name = {p.name: curricula.extremes_of(space, p) for p in curricula.phases_for(space)}
    assert by_name["KS"].kernel == (3, 5, 7) and by_name["D2"].kernel == (3, 7)
    assert set(by_name["NW1"].level) == {3, 5, 6, 7} and set(by_name["NW2"].level) == {1, 2, 4, 7}
    assert (
        by_name["ND3"].exit == (2, 5)
        and by_name["D1"].depth == (3, 4)
        and by_name["E2"].expand == (3, 6)
    )


def test_a_thinned_grid_is_the_same_for_everybody():
    members = list(range(100))
    assert (
        grids.subset(members, 9, 0)
        == grids.subset(members, 9, 0)
        == sorted(grids.subset(members, 9, 0))
    )
    assert grids.subset(members, None, 0) == grids.subset(members, 200, 0) == members


def test_the_recipe_scales_table_5_2(params):
    full, ks = (eps.recipe_for(p, params) for p in curricula.PHASES[:2])
    rate = RECIPES["short"].lr(0.08, params["batch_size"]) * params["lr_factor"]
    assert params["recipe"] == "short" and (full["epochs"], full["lr"]) == (2, rate)
    exact = eps.recipe_for(curricula.PHASES[0], load_params("paper", "ofav2_eps"))
    assert (exact["epochs"], exact["lr"], exact["warmup"]) == (180, 1e-3, 0)
    assert ks["epochs"] == 1
    three = load_params("smoke", "ofav2_eps", {"training_sizes": "three"})
    assert (
        eps.training_resolutions(eps.recipe_for(curricula.PHASES[1], three))
        == three["eval_resolutions"]
    )


def test_sizes_rise_to_those_of_the_evaluation():
    recipe = {"train_resolutions": [16, 20, 24, 32], "eval_resolutions": [24, 32]}
    recipe |= {"training_sizes": "rising", "epochs": 9, "warmup": 0}
    of = [eps.training_resolutions(recipe, epoch) for epoch in range(9)]
    assert of == [[16]] * 3 + [[20]] * 3 + [[24, 32]] * 3
    assert eps.training_resolutions(recipe) == [16, 20, 24, 32]  # the space has them all
    alone = recipe | {"train_resolutions": [24, 32]}  # nothing to climb
    assert eps.training_resolutions(alone, 0) == [24, 32]


def test_an_epoch_trains_at_its_own_sizes(data):
    batches, n = train.epochs(data, 16, lambda epoch: [16, 24][epoch : epoch + 1], 0, 2)
    assert [x.shape[-1] for epoch in (0, 1) for x, _ in batches(epoch)] == [16] * n + [24] * n


@pytest.mark.parametrize("judge", ["loss", "ridge"])
def test_what_a_step_trains_and_how_is_open_to_the_experiment(judge, data, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "PANEL", 12)
    changes = {"curriculum": "one_stage", "sampler": "best_up", "judge": judge}
    changes |= {"distill": "alpha", "mix": [0, 1], "supernets": {"1.0": ["EE_D"], "1.2": []}}
    params = load_params("smoke", "ofav2_eps", TINY | changes | {"max_steps_per_epoch": 1})
    report = eps.run(params, "EE_D", 1.0, "in_place", 0, data, tmp_path)[0]
    recipe = report["params"]["recipe"]
    assert (recipe["sampler"], recipe["loss"], recipe["mix"]) == ("best_up", "alpha", [0, 1])
    sandwich = load_params("smoke", "ofav2_eps", TINY | changes | {"sampler": "sandwich"})
    assert eps.recipe_for(curricula.ONE_STAGE[0], sandwich)["sampler"] == "sandwich"
    (cell,) = tmp_path.glob("ofav2_eps/*/*/in_place-One")
    assert (cell / "judged.json").is_file() == (judge == "ridge")
    loose = {"sampler": None, "distill": None, "mix": None}
    plain = load_params("smoke", "ofav2_eps", TINY | changes | loose)
    recipe = eps.recipe_for(curricula.ONE_STAGE[0], plain)
    assert (recipe["sampler"], recipe["loss"], recipe["mix"]) == ("sandwich", "soft_ce", (0.5, 0.5))


def test_what_does_not_move_forgets_nothing_and_matrices_rest_where_they_are_off(
    data, tmp_path, monkeypatch
):
    changes = {"lr_factor": 1e-30, "probes": 8, "kernel_matrices": False, "teachers": ["pet"]}
    changes |= {"supernets": {"1.0": ["BASE"], "1.2": []}}
    params = load_params("smoke", "ofav2_eps", TINY | changes)
    reports = eps.run(params, "BASE", 1.0, "pet", 0, data, tmp_path)
    counts = [len(report["metrics"]["probes"]) for report in reports]
    assert counts[0] >= 1 and counts == sorted(counts) and counts[-1] == 8
    forgot = chapter5.forgetting(tmp_path)
    assert forgot.phase.tolist() == [report["params"]["phase"] for report in reports[1:]]
    assert (forgot.forgot == 0).all() and (forgot.probes.diff().dropna() >= 0).all()
    monkeypatch.setattr(curricula, "steps", dict)  # phases of a curriculum that is not here
    assert (chapter5.forgetting(tmp_path).forgot == 0).all()
    (cell,) = tmp_path.glob("ofav2_eps/*/*/pet-E2")
    weights = files.load_weights(cell / "best.safetensors")
    taps = [t for name, t in weights.items() if name.startswith("transforms")]
    assert taps and all(torch.equal(t, torch.eye(len(t))) for t in taps)


def test_probes_hold_the_extremes_and_every_exit():
    space = Space("EE_DP", resolutions=(16, 24), widths=(1.0,))
    archs = probing.panel(space, 1.0, (16, 24), 16)
    assert len(set(archs)) == 16 and archs == probing.panel(space, 1.0, (16, 24), 16)
    assert archs[0] == space.largest and archs[1].canonical() == space.smallest.canonical()
    assert {arch.exit for arch in archs[2:7]} >= {1, 2, 3, 4}
    full = curricula.choices_after(space, curricula.PHASES[0])
    assert [probing.is_open(arch, full) for arch in archs[:2]] == [True, False]
    assert all(probing.is_open(arch, space.choices) for arch in archs)


# ----------------------------------------------------------------------------------------- teachers


def teacher_of(kd="ensemble", positions=(1, 2, 3, 4, 5), dropout=0.5):
    space = Space("EE_B", base_channels=(8,) * 6, widths=(1.0,), resolutions=(16, 24))
    net = Supernet(space, 1.0, 4, dropout=dropout)
    weights = (0.34, 0.27, 0.20, 0.13, 0.06)
    return net, distill.Teacher(net.extract(space.largest, exits=positions), positions, weights, kd)


def test_a_teacher_uses_batch_statistics_and_no_dropout():
    net, teacher = teacher_of()
    x = torch.randn(8, 3, 24, 24)
    once = teacher.targets(x)(3)
    torch.testing.assert_close(once, teacher.targets(x)(3))
    for m in net.modules():  # the same network in training mode, without its dropout
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    wanted = ensemble(
        net.train()(x, net.space.largest, exits="all"), (0.34, 0.27, 0.20, 0.13, 0.06)
    )
    torch.testing.assert_close(once, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_a_teacher_hands_over_the_logits_of_its_exits():
    x = torch.randn(4, 3, 16, 16)
    same, own = teacher_of()[1].targets(x), teacher_of("e2e")[1]
    assert torch.equal(same(1), same(5))
    logits = own.network(x)
    for e in range(1, 6):
        torch.testing.assert_close(own.targets(x)(e), logits[e - 1])


def test_a_teacher_of_some_exits_renormalises_its_weights():
    teacher = teacher_of(positions=(4, 5))[1]
    np.testing.assert_allclose(teacher.weights, (0.13 / 0.19, 0.06 / 0.19))


def test_elastic_draws_depend_on_seed_step_and_subnet_only(data, params, tmp_path):
    link = eps.chain(params, "BASE", 1.0, "fixed", 0, data, tmp_path)[-1]
    drawn = []

    class Fake:
        space, width = link.space, 1.0

        def __call__(self, x, arch, exits):
            drawn.append(arch)
            return [torch.zeros(len(x), 10)]

    teacher = SimpleNamespace(targets=lambda x: lambda e: torch.zeros(len(x), 10))
    losses = eps.elastic_losses(Fake(), link, teacher)
    x, y = torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])
    list(losses(x, y, 7)), list(losses(x, y, 7)), list(losses(x, y, 8))
    assert drawn[:4] == drawn[4:8] != drawn[8:] and len(set(drawn[:4])) == 4


# -------------------------------------------------------------------------------------- a whole run


def test_every_phase_leaves_what_the_report_reads(trained):
    out, links = trained
    for link in links["pet"]:
        report, grid = link.cell.report(), pd.read_csv(link.cell.path("grid.csv"))
        assert report["metrics"]["grid"]["best"] == grid.top1.max()
        assert report["metrics"]["grid"]["avg"] == pytest.approx(grid.top1.mean())
        history = pd.read_csv(link.cell.path("history.csv"))
        assert len(history) == report["metrics"]["epochs"] and history.is_best.iloc[0]
        assert link.cell.path("teacher.csv").exists() == (link.phase.name != "Full")
        assert not link.cell.path("state.pt").exists()
    final = report["metrics"]["grid"]
    assert (final["n"], final["n_full"]) == (3, 2 * 3 * 7 * 5 * 3 * 3)
    assert (out / "ofav2_eps/digits/EE_DP_w1.0_s0/any-KS/report.json").exists()


def test_both_teachers_share_the_phases_that_cannot_depend_on_them(trained):
    _, links = trained
    fixed, pet = links["fixed"], links["pet"]
    assert [a.cell.folder == b.cell.folder for a, b in zip(fixed, pet, strict=True)] == [
        True,
        True,
    ] + [False] * 10
    assert {x.teacher.phase.name for x in fixed[1:]} == {"Full"}
    assert [x.teacher.phase.name for x in pet[1:]] == [x.phase.name for x in pet[:-1]]


def test_the_pet_teacher_has_the_best_weights_of_the_phase_before(trained, data):
    _, links = trained
    link = next(x for x in links["pet"] if x.phase.name == "D1")
    before = next(x for x in links["pet"] if x.phase.name == "ND4")
    assert link.cell.params["teacher_source"] == before.cell.hash == link.teacher.cell.hash
    teacher, quality = eps.make_teacher(link, data)
    best = files.load_weights(before.cell.path("best.safetensors"))
    taught = teacher.network.state_dict()
    weights = {k for k, _ in teacher.network.named_parameters()}
    assert all(torch.equal(taught[k], best[f"body.{k}"]) for k in weights)
    pd.testing.assert_frame_equal(
        quality, pd.read_csv(link.cell.path("teacher.csv")), check_exact=False
    )
    assert list(quality.exit) == [0, 1, 2, 3, 4, 5]


def test_a_lagging_teacher_is_one_phase_older(data, params, tmp_path):
    links = eps.chain(params | {"pet_lag": 1}, "EE_D", 1.0, "pet", 0, data, tmp_path)
    assert [x.teacher.phase.name for x in links[1:5]] == ["Full", "Full", "KS", "ND1"]


def test_without_stale_exits_the_teacher_keeps_those_trained_since_full(trained, data, params):
    for name, kept in (("NW1", [0, 5]), ("ND2", [0, 4, 5])):
        link = next(x for x in trained[1]["pet"] if x.phase.name == name)
        recipe = link.cell.params["recipe"] | {"stale_exits": False}
        other = link._replace(cell=replace(link.cell, params=link.cell.params | {"recipe": recipe}))
        assert list(eps.make_teacher(other, data)[1].exit) == kept


def test_finished_phases_are_not_trained_again(trained, data, params, monkeypatch):
    monkeypatch.setattr(eps, "fit", None)
    assert len(eps.run(params, "EE_DP", 1.0, "pet", 0, data, trained[0])) == 12


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(
    trained, data, params, tmp_path
):
    again = [
        eps.run_phase(x, data)
        for x in eps.chain(params, "EE_DP", 1.0, "fixed", 0, data, tmp_path)[:3]
    ]
    for report in again:
        name = f"ofav2_eps/{report['name']}/grid.csv"
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()
    other = eps.run_phase(eps.chain(params, "EE_DP", 1.0, "fixed", 1, data, tmp_path)[0], data)
    assert other["metrics"]["grid"] != again[0]["metrics"]["grid"]


def test_bf16_and_e2e_are_switches_of_the_same_run(data, params, tmp_path):
    links = eps.chain(
        params | {"precision": "bf16", "kd": "e2e"}, "EE_B", 1.0, "pet", 0, data, tmp_path
    )[:2]
    for link in links:
        assert 0 <= eps.run_phase(link, data)["metrics"]["grid"]["best"] <= 100


def test_a_gpu_that_is_not_there_is_refused(params):
    if torch.cuda.is_available():
        assert eps.load_data(params | {"device": "cuda"}).device.type == "cuda"
    else:
        with pytest.raises(Refusal, match="set device to cpu"):
            eps.load_data(params | {"device": "cuda"})


def test_the_summary_names_every_best_subnet(trained, data, params):
    best = eps_told.best_subnets(params, data, trained[0])
    assert list(best.teacher) == ["fixed", "pet"] and (best.params > 0).all()


def test_the_command_line_trains_one_supernet_and_refuses_in_one_line(tmp_path, capsys):
    profile = tmp_path / "tiny.yaml"
    profile.write_text(
        yaml.safe_dump(
            load_profile("smoke") | {k: v for k, v in TINY.items() if k in Profile.model_fields}
        )
    )
    argv = [
        "--profile",
        str(profile),
        "--supernet",
        "BASE",
        "--teacher",
        "fixed",
        "--out",
        str(tmp_path / "out"),
    ]
    assert shrink.main([*argv, "--set", "val_subnets=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert shrink.main([*argv, "--set", "kd=hard"]) == 2
    assert "is not one of" in capsys.readouterr().err


def test_the_smoke_profile_trains_far_above_chance(tmp_path):
    params = load_params("smoke", "ofav2_eps")
    data = eps.load_data(params)
    for supernet in ("BASE", "EE_D"):
        full, kernel = (
            eps.run_phase(link, data)["metrics"]["grid"]["avg"]
            for link in eps.chain(params, supernet, 1.0, "pet", 0, data, tmp_path)[:2]
        )
        assert full > 25 and kernel > 15  # chance: 10; a hundred steps end differently on every CPU


def test_the_sandwich_is_one_phase_that_a_search_can_start_from(data, params, tmp_path):
    params = params | {"curriculum": "sandwich", "grid_subnets": 2}
    assert eps.selected(params) == [("EE_DP", 1.0, "in_place", 0)]
    (report,) = eps.run(params, "EE_D", 1.0, "in_place", 0, data, tmp_path)
    assert report["name"] == "digits/EE_D_w1.0_s0/in_place-Sandwich"
    recipe = report["params"]["recipe"]
    assert (recipe["sampler"], recipe["subnets"], recipe["epochs"]) == ("sandwich", 4, 2)
    assert report["metrics"]["teacher"] is None and report["metrics"]["grid"]["n_full"] == 270
    row = chapter5.eps_phases(tmp_path).iloc[0]
    assert (row.phase, row.step, row["last"]) == ("Sandwich", "All", True)
    space = eps.chain(params, "EE_D", 1.0, "in_place", 0, data, tmp_path)[0].space
    found = warmup.trained_cell(tmp_path, "digits", space, 1.0, "pet", 0, "sandwich")
    net = warmup.trained_supernet(found, space)
    assert len(net(torch.zeros(2, 3, 16, 16), space.largest, exits="all")) == 5


def test_a_search_of_the_own_data_set_starts_from_the_supernet_as_trained(data, params, tmp_path):
    params = params | {"curriculum": "one_stage", "grid_subnets": 1, "min_full_epochs": 1}
    eps.run(params, "EE_B", 1.0, "in_place", 0, data, tmp_path)
    nat = load_params("smoke", "natv2_phases", {"warm_up": "none"}) | {
        **{key: params[key] for key in ("base_channels", "train_resolutions", "curriculum")},
        "supernets": {"1.0": ["EE_B"]},
        "dataset": "digits",
    }
    space, sources, warm = searches.warm_up(nat, "EE_B", "pet", 0, data, tmp_path)
    trained = warmup.trained_supernet(sources[1.0], space)
    started = warmup.warmed_up(space, warm).of(1.0)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, started.state_dict()[name])
    teacher = warmup.make_teacher(space, warm, "DESC", "cpu").network
    assert torch.equal(teacher.stem.conv.weight, trained.body.stem.conv.weight)
    fewer = replace(data, rows=data.rows | {"train": data.rows["train"][:-1]}, memo={})
    with pytest.raises(Refusal, match="use warm_up=transfer"):
        searches.warm_up(nat, "EE_B", "pet", 0, fewer, tmp_path)


def test_a_phase_can_be_taught_in_place(data, params, tmp_path):
    links = eps.chain(params, "EE_D", 1.0, "in_place", 0, data, tmp_path)
    assert [link.cell.params["teacher"] for link in links[:3]] == ["any", "in_place", "in_place"]
    assert links[1].teacher is None and links[1].recipe["sampler"] == "sandwich"
    assert links[1].recipe["subnets"] == 2  # Table 5.2 has one
    for link in links[:2]:
        eps.run_phase(link, data)
    assert not links[1].cell.path("teacher.csv").exists()


def test_one_phase_runs_by_itself_once_those_before_it_are_finished(data, params, tmp_path):
    given = (params, "EE_D", 1.0, "pet", 0, data, tmp_path)
    with pytest.raises(Refusal, match="KS starts from Full, which is not trained: run it first"):
        eps.run(*given, "KS")
    with pytest.raises(Refusal, match="use one of Full, KS, ND1, ND2"):
        eps.run(*given, "NW1")
    assert [r["params"]["phase"] for r in eps.run(*given, "Full")] == ["Full"]
    assert [r["params"]["phase"] for r in eps.run(*given, "KS")] == ["KS"]


def test_validation_of_all_exits_is_the_weighted_sum_of_their_losses(data):
    """Thesis 4.1 and METHODS 2.6: the loss is that of training, top-1 and top-5 the ensemble's."""
    space = Space("EE_B", base_channels=(8,) * 6, widths=(1.0,), resolutions=(16, 24))
    network = Supernet(space, 1.0, 10).extract(space.largest, exits="all").eval()
    for tail in network.exits.values():  # not all answers alike
        tail.linear.weight.data *= 1000
    batches = list(data.eval_batches("val", 16, 40))
    score = grids.joint_score(network, batches, DESC5)
    x, y = batches[0]
    with torch.no_grad():
        logits = network(x)
    assert score.loss == pytest.approx(joint_loss(logits, y, DESC5).item(), rel=1e-4)
    vote = ensemble(logits, DESC5)
    assert score.top1 == pytest.approx(100 * (vote.argmax(1) == y).float().mean().item())
    assert score.loss > 1.01 * torch.nn.functional.cross_entropy(vote, y).item()


def test_validation_tells_the_top_5(trained):
    for link in trained[1]["pet"][:3]:
        history = pd.read_csv(link.cell.path("history.csv"))
        assert history.val_top5.between(history.val_top1, 100).all()


def test_compiled_networks_are_asked_for_by_the_switch(data, params, tmp_path, monkeypatch):
    """Compiled are the Full phase and the teacher, and only if that is wanted."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda net: (seen.append(net), lambda x: net(x))[1])
    losses = {}
    for wanted in (False, True):
        links = eps.chain(
            params | {"compile": wanted}, "BASE", 1.0, "fixed", 0, data, tmp_path / str(wanted)
        )[:2]
        for link in links:
            eps.run_phase(link, data)
        assert len(seen) == 2 * wanted
        losses[wanted] = pd.read_csv(links[0].cell.path("history.csv")).train_loss
    assert losses[True][0] == pytest.approx(losses[False][0], rel=1e-3)  # rounding grows later


def _trains_full(rank, folder):
    torch.set_num_threads(1)
    os.environ.update(NAT_BATCH="1", RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29523")
    params = load_params("smoke", "ofav2_eps", TINY)
    with process_group("cpu"):
        with first_rank_first():
            data = eps.load_data(params)
        eps.run(params, "BASE", 1.0, "fixed", 0, data, folder, "Full")


def test_a_report_says_how_many_processes_made_it(tmp_path):
    """One process finds it finished: torchrun trains, a notebook reads."""
    torch.multiprocessing.spawn(_trains_full, (tmp_path,), nprocs=2)
    params = load_params("smoke", "ofav2_eps", TINY)
    found = eps.run(params, "BASE", 1.0, "fixed", 0, eps.load_data(params), tmp_path, "Full")
    assert found[0]["metrics"]["processes"] == 2
