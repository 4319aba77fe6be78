"""The ledger: sums by hand, counts without a pass, and what a kill lost counted once."""

import numpy as np
import pytest
import torch
from test_train import batches, toy

from nat_lib import ledger
from nat_lib.arch import Space
from nat_lib.cells import compute, open_cell
from nat_lib.cost import count
from nat_lib.data import load
from nat_lib.errors import Refusal
from nat_lib.evaluate import score_many
from nat_lib.exits import joint
from nat_lib.optimizers import sgd
from nat_lib.run.params import load_params
from nat_lib.schedules import Schedule
from nat_lib.studies import eps
from nat_lib.supernet import Supernet
from nat_lib.train import fit

SPACE = Space("EE_D", (16, 24), (1.0,), (8, 8, 8))


@pytest.fixture(scope="module")
def data():
    return load("digits", train_images=80, val_images=40, test_images=40, calibration_images=40)


def macs(arch, side, exits=None):
    return ledger.macs_of_subnet(SPACE, arch, 10, exits, side)


def test_charges_are_passes_times_macs_times_images():
    with ledger.opened() as book:
        ledger.charge(5, 10)
        with ledger.opened() as inner:
            ledger.charge(7, 2, ledger.TRAINING)
        ledger.charge(1, 1)
    ledger.charge(100, 100)
    assert (book.total, inner.total) == (51, 42)


def test_hooks_count_what_the_cost_of_a_subnet_is():
    net = Supernet(SPACE, 1.0, 10)
    for arch in SPACE.sample(5, np.random.default_rng(0)):
        network = net.extract(arch).train()
        x = torch.zeros(3, 3, arch.resolution, arch.resolution)
        known = ledger.macs_of(network, x)
        del network.subnet
        before = {k: v.clone() for k, v in network.state_dict().items()}
        assert ledger.macs_of(network, x) == known == count([arch], SPACE, 10).macs.iloc[0]
        assert network.training
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def toy_cost(tmp_path, name, stop):
    """Cost of four epochs of four batches of twelve, killed after so many batches and resumed."""
    cell = open_cell(tmp_path, "toy", name, {"stop": stop})
    network = toy()
    seen = []

    def losses(x, y, step):
        seen.append(step)
        if len(seen) == stop:
            raise KeyboardInterrupt
        yield from joint(lambda x: [network(x)], [1.0], network=network)(x, y, step)

    def work():
        optimizer = sgd(network, 1e-4)
        fit(network, losses, batches, None, Schedule(0.05, 4), optimizer, 4, cell)
        return {}

    if stop:
        with pytest.raises(KeyboardInterrupt):
            compute(cell, work)
    report = compute(cell, work)
    assert not cell.path("ledger.json").exists()
    return report["cost"]


def test_a_killed_training_costs_what_a_straight_one_costs(tmp_path):
    by_hand = 16 * 12 * 3 * (4 * 36 * 9 + 4 * 36 * 3)
    assert toy_cost(tmp_path, "straight", 0) == by_hand
    assert toy_cost(tmp_path, "killed", 7) == by_hand


def test_a_family_is_charged_once(data):
    net = Supernet(SPACE, 1.0, 10)
    deep, shallow = (SPACE.arch(resolution=16, exit=e) for e in (2, 1))
    with ledger.opened() as book:
        list(score_many(net, [shallow, deep], data, lambda r: data.eval_batches("val", r, 16)))
    assert book.total == macs(deep, 16, (1, 2)) * (40 + 40)


def test_a_phase_costs_training_teacher_validation_and_grid(data, tmp_path):
    changes = {
        **{"batch_size": 40, "max_steps_per_epoch": None, "min_full_epochs": 2, "recipe": "short"},
        **{"base_channels": [8, 8, 8], "train_resolutions": [16], "eval_resolutions": [16]},
        **{"val_subnets": 1, "grid_subnets": 1, "curriculum": "one_stage"},
    }
    params = load_params("smoke", "ofav2_eps", changes)
    (link,) = eps.chain(params, "EE_D", 1.0, "in_place", 0, data, tmp_path)
    report = eps.run_phase(link, data)
    steps = []
    choices = link.space.choices
    for step in range(report["metrics"]["steps"]):
        rng = eps.machine.stream(0, "shrinking subnets", step)
        drawn = eps.SAMPLERS["sandwich"](link.space, choices, 1.0, 16, rng, 3)
        steps += [macs(a, 16, tuple(range(1, a.exit + 1))) for a in drawn]
    (member,) = eps.test_members(link, "val")
    (shown,) = eps.test_members(link, "grid")
    training = 3 * 40 * sum(steps)
    scoring = report["metrics"]["epochs"] * (40 + 40) * macs(member, 16, (member.exit,))
    scoring += (40 + 40) * macs(shown, 16, (shown.exit,))
    assert report["cost"] == training + scoring


def test_a_damaged_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.json").write_text('"much"')
    with pytest.raises(Refusal, match="delete the folder"), ledger.opened(tmp_path / "ledger.json"):
        pass
