"""Recipes: rates that fit the batch, one line up and one down, gradients clipped by value."""

import itertools

import pytest
import torch
from test_train import batches, toy

from nat_lib.arch import Space
from nat_lib.curricula import CURRICULA, phases_for
from nat_lib.optimizers import sgd
from nat_lib.precision import scaler
from nat_lib.recipes import RECIPES, Recipe
from nat_lib.schedules import Floored, OneCycle, Schedule, schedule_of
from nat_lib.studies.inputs import augmented
from nat_lib.train import Step, flat_gradients


def test_one_cycle_rises_to_its_peak_and_falls_to_nothing():
    schedule, n = OneCycle(0.4, 10), 20
    rates = [schedule.at(step, n) for step in range(10 * n)]
    assert max(rates) == pytest.approx(0.4, rel=0.02)
    assert rates.index(max(rates)) in (39, 40)
    assert rates[0] == pytest.approx(0.4 / 80) and rates[-1] == pytest.approx(0.4 / 320)
    rises = [b > a for a, b in itertools.pairwise(rates)]
    assert rises == sorted(rises, reverse=True)
    assert sum(rates) / len(rates) == pytest.approx(0.2, rel=0.01)


def test_a_floored_schedule_is_the_cosine_above_its_floor():
    floored, cosine, n = Floored(0.4, 10, 1), Schedule(0.4, 10, 1), 20
    rates = [(floored.at(s, n), cosine.at(s, n)) for s in range(11 * n)]
    assert all(found == max(below, 0.05 * 0.4) for found, below in rates)
    assert rates[-1][0] == 0.05 * 0.4 > rates[-1][1] and floored.total == cosine.total == 11


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_schedule_over_all_its_epochs(name):
    schedule = schedule_of(RECIPES[name], 0.1, 5, 2)
    assert schedule.total == 7 and 0 < max(schedule.at(s, 4) for s in range(28)) <= 0.1


def test_the_thesis_recipe_leaves_rates_and_images_alone():
    assert RECIPES["thesis"].lr(0.08, 17) == 0.08
    assert augmented("data", RECIPES["thesis"]) == "data"
    assert isinstance(schedule_of(RECIPES["thesis"], 0.1, 5, 2), Schedule)


def test_a_rate_for_a_batch_grows_with_it():
    recipe = Recipe(rate=2.0, images=64)
    assert recipe.lr(0.1, 64) == pytest.approx(0.2)
    assert recipe.lr(0.1, 256) == pytest.approx(0.8)


def test_every_entry_of_the_gradient_is_clipped_before_the_step():
    network = toy(norm=False)
    optimizer = sgd(network, 0.0, momentum=0.0, nesterov=False)
    flat = flat_gradients(p for group in optimizer.param_groups for p in group["params"])
    before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()

    def losses(x, y, step):
        logits = network(x)
        yield 1e4 * torch.nn.functional.cross_entropy(logits, y), logits

    step = Step(network, losses, optimizer, scaler("cpu", "fp32"), flat, "fp32", None, 0.5)
    x, y = next(batches(0))
    step(x, y, 0, 0.1, torch.zeros(2))
    moved = (torch.nn.utils.parameters_to_vector(network.parameters()) - before).detach().abs()
    assert moved.max() == pytest.approx(0.05, rel=1e-4)
    assert (moved > 0.049).float().mean() > 0.5


def test_one_stage_is_one_phase_that_opens_everything():
    space = Space("EE_D")
    (phase,) = phases_for(space, "one_stage")
    assert phase in CURRICULA["one_stage"] and phase.subnets == 3 and phase.mix == (0.5, 0.5)
