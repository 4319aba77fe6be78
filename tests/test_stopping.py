"""Stop rules: pure functions of curves, replayed; statistics of gradients."""

import numpy as np
import pandas as pd
import pytest

from nat_lib import stopping
from nat_lib.results import stopping as replay
from nat_lib.stopping import STOP_RULES, gradient_evidence, predicted


def curve(top, rate=0.7, n=40, noise=0.4, seed=0):
    t = np.arange(1, n + 1)
    return top - 40 * t**-rate + np.random.default_rng(seed).normal(0, noise, n)


@pytest.mark.parametrize("name", STOP_RULES)
def test_a_run_that_is_already_the_best_is_never_stopped(name):
    others = [curve(70, seed=s) for s in range(8)]
    mine = curve(90, seed=9)
    assert replay.stop_at(STOP_RULES[name].function, mine, others) == len(mine)


@pytest.mark.parametrize("name", ["extrapolation", "regression"])
def test_a_hopeless_run_stops_early_and_a_rule_is_pure(name):
    others = [curve(80 + s, seed=s) for s in range(8)]
    mine, rule = curve(45, seed=9), STOP_RULES[name].function
    at = replay.stop_at(rule, mine, others)
    assert stopping.EARLIEST <= at < 20
    assert rule(mine[:at], 40, others) == rule(mine[:at].copy(), 40, list(others))
    assert rule(mine[:4], 40, others) == "" and rule(mine[:20], 40, []) == ""


def test_patience_waits_for_so_many_epochs():
    rising = np.arange(30.0)
    assert replay.stop_at(stopping.patience, rising, []) == 30
    flat = np.concatenate([[50.0], np.full(40, 40.0)])
    assert replay.stop_at(stopping.patience, flat, []) == stopping.PATIENCE + 1


def test_the_band_of_ninety_percent_covers_what_it_says():
    """Curves of the families themselves, seen for 12 of 40 epochs."""
    rng, inside, n = np.random.default_rng(0), 0, 60
    for i in range(n):
        family, start = list(stopping.FAMILIES.items())[i % 4]
        t = np.arange(1.0, 41)
        top, scale = rng.uniform(0.6, 0.9), rng.uniform(0.8, 1.2)
        whole = 100 * (family(t, top, start[0] * scale, start[1]) + rng.normal(0, 0.01, 40))
        mean, sd = predicted(whole[:12], 40)
        drawn = np.random.default_rng(1).normal(mean[:, None], sd[:, None], (len(mean), 200))
        low, high = np.quantile(drawn, [0.05, 0.95])
        inside += low <= whole[-1] <= high
    assert 0.8 <= inside / n <= 0.98


def test_nothing_but_noise_has_an_evidence_of_one_on_average():
    rng = np.random.default_rng(0)
    for M in (6, 16):
        found = [gradient_evidence(rng.normal(size=(M, 500))) for _ in range(200)]
        assert np.mean(found) == pytest.approx(1, abs=0.05)
    assert gradient_evidence(rng.normal(1.0, 1.0, (6, 500))) > 2
    with pytest.raises(ValueError, match="6 or more"):
        gradient_evidence(np.ones((5, 3)))


def test_a_quadratic_bowl_stops_near_its_minimum():
    """Noisy gradients of a bowl: evidence while far away, none at the bottom."""
    rng, x, stopped = np.random.default_rng(0), np.full(200, 5.0), None
    for step in range(200):
        gradients = x + rng.normal(0, 1.0, (8, 200))
        if gradient_evidence(gradients) < 1:
            stopped = step
            break
        x -= 0.1 * gradients.mean(axis=0)
    assert stopped is not None and np.abs(x).mean() < 0.5


def test_a_replay_counts_what_was_saved_and_lost(tmp_path):
    for i, top in enumerate((80, 82, 45, 84, 40, 81, 83, 42)):
        cell = tmp_path / "aep_study" / "digits" / f"net_{i}"
        cell.mkdir(parents=True)
        pd.DataFrame({"val_top1": curve(top, seed=i)}).to_csv(cell / "history.csv")
        (cell / "report.json").write_text("{}")
    found = replay.curves(tmp_path)
    assert len(found) == 8
    table = replay.replayed(found).set_index("rule")
    assert table.stopped["extrapolation"] >= 2 and table.saved["extrapolation"] > 0.1
    assert table.best_kept.all() and (table.lost >= 0).all()
    assert table.saved["patience"] == pytest.approx(
        sum(40 - replay.stop_at(stopping.patience, c, []) for c in found.values()) / 320
    )
    nothing = replay.replayed({})
    assert nothing.trainings.eq(0).all() and nothing.saved.isna().all()
