"""Training strategies at equal cost: what is known before, plans, panels, what is made of them."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny

from nat_lib import distill, files
from nat_lib.arms import ARMS, CROSSED, FACTORS
from nat_lib.cells import open_cell
from nat_lib.errors import Refusal
from nat_lib.report import strategies as drawn
from nat_lib.results import strategies as results
from nat_lib.results.printed import printed
from nat_lib.results.rules import evaluate
from nat_lib.results.values import Store
from nat_lib.search import pareto
from nat_lib.studies import eps, strategies
from nat_lib.studies.silent import step_costs

SIZES = {"train_images": 80, "grid_subnets": 1, "val_subnets": 1, "calibration_images": 40}


@pytest.fixture(scope="module")
def params():
    return tiny("training_strategies", **SIZES)


@pytest.fixture(scope="module")
def data(params):
    return eps.load_data(params)


def unopened(params, arm, data, epochs=None):
    """The phases of an arm, without folders."""
    return strategies.chain(params, arm, 0, data, "", epochs, strategies._unopened)


# ------------------------------------------------------------------------------------ equal cost


@pytest.mark.parametrize("arm", ["sandwich", "best_up", "bignas", "eps_uniform_alpha_in_place"])
def test_what_a_phase_costs_is_known_before(arm, params, data, tmp_path):
    once = dict.fromkeys((p.phase.name for p in unopened(params, arm, data)), 1.5)
    links = strategies.chain(params | {"panel": 8}, arm, 0, data, tmp_path, once)
    for link in links[:3]:
        eps.run_phase(link, data)
        history = pd.read_csv(link.cell.path("history.csv"))
        said = sum(islice(step_costs(link, data), 3))  # 1.5 epochs of two batches
        near = 0.05 if "best" in arm else 0  # its candidates have nearly the same MACs
        assert said == pytest.approx(history.cost.sum(), rel=near, abs=0)
        assert link.cell.report()["metrics"]["steps"] == 3


def test_a_teacher_is_in_the_cost(params, data):
    few = dict.fromkeys((p.phase.name for p in unopened(params, "eps", data)), 1.0)
    full, kernel = unopened(params, "eps", data, few)[:2]
    [all_exits], [taught] = (list(islice(step_costs(link, data), 1)) for link in (full, kernel))
    # forward of the teacher: a third of the training of the same network; the student is smaller
    assert all_exits / 3 < taught < all_exits * 4 / 3


@pytest.mark.parametrize("arm", ["one_stage", "eps_progressive", "best_up_alpha", "eps_sandwich"])
def test_plans_cost_the_budget(arm, params, data):
    params = params | {"arm_epochs": 120}
    plan = strategies.planned(params, arm, 0, data)
    links = unopened(params, arm, data, plan)
    steps = [round(plan[link.phase.name] * 2) for link in links]
    costs = [sum(islice(step_costs(k, data), n)) for k, n in zip(links, steps, strict=True)]
    assert sum(costs) == pytest.approx(strategies.budget(params, data), rel=0.01)
    assert min(steps) >= 1


def test_a_budget_that_cannot_be_cut_is_refused(params, data):
    with pytest.raises(Refusal, match=r"arm_epochs: 0\.5 is too little"):
        strategies.planned(params | {"arm_epochs": 0.5}, "eps", 0, data)


def test_the_nearest_number_of_steps():
    rng = np.random.default_rng(0)
    for _ in range(200):
        costs, wanted = rng.integers(1, 9, 30), rng.uniform(0, 60)
        totals = np.cumsum(costs)
        n, missed = strategies._nearest(iter(costs), wanted)
        assert abs(missed) == np.abs(totals - wanted).min()
        assert totals[n - 1] - wanted == missed


def test_every_arm_is_a_chain_of_its_own(params, data):
    hashes = {}
    for arm in ARMS:
        hashes[arm] = tuple(k.cell.hash for k in unopened(params, arm, data))
    assert len(set(hashes.values())) == len(ARMS) - 2  # eps, eps_progressive: of the factorial, too


def test_the_factorial_crosses_every_level_once():
    assert len(CROSSED) == 18 == len(set(CROSSED.values()))
    assert set(CROSSED) < set(ARMS)


# --------------------------------------------------------------------------- an arm, from the start


@pytest.fixture(scope="module")
def run(params, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("arms")
    some = params | {"arms": ["one_stage", "sandwich"], "arm_epochs": 60, "alone": 3}
    strategies.run(some, data, out)
    return out


def test_arms_are_measured(run, data, params):
    found = results.arms(run, data.name)
    assert found.arm.tolist() == ["one_stage", "sandwich"]
    assert (found.cost / found.budget - 1).abs().max() < 0.01
    measured = found[[*results.MEASURES, *results.AT]].drop(columns="forgot")
    assert measured.notna().all(axis=None)
    assert found.panel_top1.between(0, 100).all() and found.rank_fidelity.between(-1, 1).all()
    panel = pd.read_csv(found.folder[0] / "panel.csv")
    assert panel.code.tolist() == pd.read_csv(found.folder[1] / "panel.csv").code.tolist()
    assert len(panel) == params["panel"]
    assert found.panel_top1[0] == pytest.approx(panel.test_top1.mean())
    assert found.max_top1[0] == panel.test_top1[0]  # the largest comes first


def test_the_course_ends_at_the_panels_own_scores(run, data):
    found = results.arms(run, data.name)
    for cell in found.itertuples():
        course = pd.read_csv(cell.folder / "course.csv")
        last = course[course.cost == course.cost.max()].set_index("code").val_top1
        panel = pd.read_csv(cell.folder / "panel.csv").set_index("code").val_top1
        assert course.cost.max() == cell.cost and len(last) == len(panel)
        np.testing.assert_allclose(last[panel.index], panel, atol=1e-4)
    table = results.course(found)
    assert table.hypervolume.between(0, 1).all()


def test_a_finished_arm_is_only_read(run, params, data, monkeypatch):
    monkeypatch.setattr(strategies, "_arm", pytest.fail)
    some = params | {"arms": ["one_stage", "sandwich"], "arm_epochs": 60}
    assert strategies.run_arm(some, "sandwich", 0, data, run)["metrics"]["trained_for"] > 0


def test_figures_show_every_arm(run, data):
    found = results.arms(run, data.name)
    assert set(drawn.course(results.course(found)).rows.arm) == {"one_stage", "sandwich"}
    assert len(drawn.panel(results.panels(found)).rows) == 2 * 8
    differences = results.differences(found, "panel_top1", "sandwich")
    assert len(drawn.differences(differences, "top-1", "points").rows) == 1


# ------------------------------------------------------------------------------ what is made of it


def table(values, measure="hypervolume", seeds=(0, 1, 2)):
    """Arms with given values per seed: {arm: function of the seed}."""
    rows = [
        {"arm": arm, "label": ARMS[arm].label, "seed": seed, measure: value(seed)}
        for arm, value in values.items()
        for seed in seeds
    ]
    return pd.DataFrame(rows).reindex(columns=results.COLUMNS).assign(n_test=1000)


def test_interactions_of_what_adds_up_are_zero_and_a_planted_one_is_found():
    places = {name: list(levels) for name, levels in FACTORS.items()}

    def value(arm, seed, planted=0.0):
        s, k, t = (places[f].index(x) for f, x in zip(FACTORS, CROSSED[arm], strict=True))
        return 0.1 * s + 0.2 * k + 0.3 * t + 0.01 * seed + planted * (s == 1) * (k == 1)

    added = table({arm: (lambda seed, a=arm: value(a, seed)) for arm in CROSSED})
    assert np.allclose(results.interactions(added).difference, 0)
    crossed = table({arm: (lambda seed, a=arm: value(a, seed, 0.05)) for arm in CROSSED})
    found = results.interactions(crossed).set_index("of").difference
    assert found["sandwich x alpha"] == pytest.approx(0.05)
    assert np.allclose(found.drop("sandwich x alpha"), 0)


def test_interactions_without_a_factorial_have_no_pairs():
    assert (results.interactions(table({"eps": lambda seed: 1.0})).seeds == 0).all()


def test_differences_are_paired_by_seed():
    found = table({"sandwich": lambda s: 10.0 * s, "alpha": lambda s: 10.0 * s + 1 + 0.1 * s})
    [row] = results.differences(found, "hypervolume", "sandwich").itertuples()
    assert row.difference == pytest.approx(1.1) and row.seeds == 3
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert row.high - row.difference == pytest.approx(half, rel=1e-5)


def test_arms_of_different_cost_are_refused():
    unequal = table({"sandwich": lambda s: 0.0, "alpha": lambda s: 0.0}).assign(
        cost=[100, 100, 100, 100, 100, 103]
    )
    with pytest.raises(Refusal, match="seed 2 did not cost the same"):
        results._check(unequal)


def test_every_claim_asks_for_a_measure_and_says_nothing_of_no_arms():
    claims = printed("claims_strategies")
    metrics = {f"arms.{m}" for m in results.MEASURES} | {"arms.top1_at"}
    assert set(claims.metric) <= metrics and len(claims) == 10
    for rule in claims.rule:
        asked = evaluate(rule, Store()).missing
        assert asked and {m for m, _ in asked} <= metrics
        assert {d["arm"] for _, d in asked} <= set(ARMS)
    nothing = results.judged(table({}, seeds=()).astype({"seed": int}), copies=10)
    assert set(nothing.verdict) == {"not run in this profile"}


def test_claims_are_judged_over_seeds():
    def top1(base):
        return lambda seed: base + 0.3 * seed

    values = {"sandwich": top1(60.0), "labels": top1(50.0), "uniform_labels": top1(55.0)}
    found = table(values, "min_top1", range(6))
    found["max_top1"] = found.min_top1
    found["panel_top1"] = found.min_top1
    verdicts = results.judged(found).set_index("id").verdict
    assert verdicts["Q03"] == "reproduced" and verdicts["Q04"] == "contradicted"
    assert verdicts["Q05"] == "not run in this profile"


def test_hypervolume_of_a_panel_by_hand():
    F = np.array([[40.0, 1.0], [20.0, 2.0]])
    by_hand = ((100 - 40) * (2.02 - 1) + (40 - 20) * (2.02 - 2)) / (100 * 2.02)
    assert pareto.hypervolume(F, np.array([100.0, 2.02])) == pytest.approx(by_hand)


def test_the_branch_of_the_alpha_divergence():
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(200, 5), 3 * torch.randn(200, 5)
    below = distill.takes_low(student, teacher)
    for s, t, lower in zip(student, teacher, below, strict=True):
        p, q = t.double().softmax(0), s.double().softmax(0)
        chi = (q * ((q / p).clamp(max=5) - 1)).sum() / 2
        assert bool(chi > (p * (p / q).log()).sum()) == lower
    assert 0.05 < below.float().mean() < 0.95


# ------------------------------------------------------------------------------------------ probes


def test_probes_of_an_epoch_that_is_done_again_replace_its_own(tmp_path):
    from nat_lib.studies.probing import Watch

    cell, scores = open_cell(tmp_path, "a", "b", {}), iter(range(9))
    watch = Watch(cell, lambda epoch: iter(()), lambda: {"1 2": next(scores)}, 2)
    validate = watch.after(lambda net: (0.5, 70.0))
    for epoch in (0, 1, 2, 3, 3):
        watch.batches(epoch)
        assert validate(None) == (0.5, 70.0)
    assert files.read_json(cell.path("probes.json")) == {"2": {"1 2": 0}, "4": {"1 2": 2}}
