"""Gradient search: mixtures are subnets at one-hot gates, costs are expectations, laws move."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from test_nat import folder, searched
from test_search import SMALL, any_formula

from nat_lib import data, files
from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.relaxed import ESTIMATORS, Relaxed, expected_macs, frozen, mixed
from nat_lib.search import gradient
from nat_lib.search.archive import Budget
from nat_lib.search.strategies import STRATEGIES, tabular
from nat_lib.studies.judging import unseen
from nat_lib.supernet import Supernets

SPACE = Space("EE_D", (16, 20), (1.0,), (8, 8, 16, 24, 32, 40))
FOLLOWED = [name for name in STRATEGIES if name not in tabular()]


def one_hot(space, arch):
    """Gates that are all at the choices of an arch."""
    hot = {kind: np.zeros(shape) for kind, shape in gradient.shapes(space).items()}
    hot["exit"][space.exits.index(arch.exit)] = 1
    hot["resolution"][space.resolutions.index(arch.resolution)] = 1
    hot["width"][space.widths.index(arch.width)] = 1
    for s, d in enumerate(arch.depth):
        hot["depth"][s, space.depths.index(d)] = 1
    for i, (k, e) in enumerate(zip(arch.kernel, arch.expand, strict=True)):
        hot["kernel"][i, space.kernels.index(k)] = hot["expand"][i, space.expands.index(e)] = 1
    return {kind: torch.tensor(v) for kind, v in hot.items()}


@pytest.mark.parametrize("name", ["EE_D", "EE_B", "BASE"])
@pytest.mark.parametrize("training", [True, False])
def test_with_one_hot_gates_the_mixture_is_the_subnet(name, training):
    space = replace(SPACE, name=name)
    net = Supernets(space, 10, seed=1).of(1.0).double().train(training)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for matrices in net.transforms:
            for m in matrices.values():
                m += 0.1 * torch.randn(m.shape, generator=generator, dtype=m.dtype)
    x = torch.randn(4, 3, 20, 20, generator=generator, dtype=torch.float64)
    with torch.no_grad(), unseen(net):
        for arch in space.sample(6, np.random.default_rng(0), "architecture"):
            assert torch.allclose(mixed(net, x, one_hot(space, arch)), net(x, arch), atol=1e-9)


def test_expected_macs_are_the_enumerated_mean():
    """Every network of a space with two values per choice, and of one stage."""
    plan = replace(SPACE.plan, kernels=(3, 5), expands=(3, 4), depths=(1, 2))
    space = Space("EE_D", (16, 20), (1.0, 1.2), (8, 8), plan=plan)
    rng = np.random.default_rng(0)
    laws = {k: rng.dirichlet(np.ones(s[-1]), s[:-1]) for k, s in gradient.shapes(space).items()}
    mean = 0.0
    for r, w, d, *pairs in product(range(2), range(2), range(2), *[range(4)] * 2):
        p = laws["resolution"][r] * laws["width"][w] * laws["depth"][0, d]
        for slot, pair in enumerate(pairs):
            p *= laws["expand"][slot, pair // 2] * laws["kernel"][slot, pair % 2]
        arch = space.arch(
            space.resolutions[r],
            space.widths[w],
            depth=space.depths[d],
            kernel=[space.kernels[i % 2] for i in pairs],
            expand=[space.expands[i // 2] for i in pairs],
        )
        mean += p * count([arch], space, 10).macs.iloc[0]
    found = expected_macs(space, 10, {k: torch.tensor(v) for k, v in laws.items()})
    assert float(found) == pytest.approx(mean, rel=1e-9)


def test_of_a_drawn_subnet_the_expected_macs_are_its_own():
    for arch in SPACE.sample(10, np.random.default_rng(1), "architecture"):
        wanted = count([arch], SPACE, 10).macs.iloc[0]
        assert float(expected_macs(SPACE, 10, one_hot(SPACE, arch))) == wanted


@pytest.mark.parametrize("name", ["gumbel", "two_paths"])
def test_samples_are_one_hot_and_follow_the_law(name):
    logits = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    noise = torch.rand((20_000, 3, 2), generator=torch.Generator().manual_seed(0)).double()
    gates = ESTIMATORS[name](logits.expand(20_000, 3), 1.0, noise)
    assert torch.allclose(gates.sum(1), torch.ones(20_000, dtype=torch.float64))
    assert torch.allclose(gates.max(1).values, torch.ones(20_000, dtype=torch.float64))
    if name == "gumbel":
        assert (gates.mean(0) - logits.softmax(0)).abs().max() < 0.015
    cold = ESTIMATORS[name](100 * logits.expand(100, 3), 0.01, noise[:100])
    assert (cold.argmax(1) == 2).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_estimators_agree_in_sign_on_two_choices(name):
    """The loss is 1 for the first value and 3 for the second: the first must become likelier."""
    slopes = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        noise = torch.rand((2, 2), generator=generator).double().clamp(1e-9, 1 - 1e-9)
        (ESTIMATORS[name](logits, 1.0, noise) @ torch.tensor([1.0, 3.0]).double()).backward()
        slopes.append(logits.grad.numpy())
    mean = np.mean(slopes, axis=0)
    assert mean[0] < -0.1 and mean[1] > 0.1


def test_laws_draw_legal_subnets_and_the_likeliest():
    rng = np.random.default_rng(0)
    laws = {kind: rng.normal(size=shape) for kind, shape in gradient.shapes(SPACE).items()}
    X = SPACE.genotypes(gradient.genotypes(SPACE, laws, 200, rng))
    assert len(np.unique(X, axis=0)) > 100
    [arch] = SPACE.decode(gradient.genotypes(SPACE, laws))
    assert arch.exit == 1 + laws["exit"].argmax()
    assert arch.depth == tuple(np.array(SPACE.depths)[laws["depth"].argmax(1)])
    hot = np.exp(laws["exit"]) / np.exp(laws["exit"]).sum()
    drawn = gradient.genotypes(SPACE, laws, 20_000, rng)[:, 2]
    assert np.abs(np.bincount(drawn, minlength=5) / 20_000 - hot).max() < 0.015


def test_the_least_likely_value_is_dropped_and_one_stays():
    logits = np.array([[0.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    once = gradient.without_least(logits)
    assert np.array_equal(once == gradient.DROPPED, [[True, False, False], [False, True, False]])
    twice = gradient.without_least(once)
    assert (twice == gradient.DROPPED).sum() == 4
    assert np.array_equal(gradient.without_least(twice), twice)


@pytest.fixture(scope="module")
def moves():
    found = data.load("digits", train_images=120, val_images=40, test_images=40)
    nets = Supernets(SPACE, found.n_classes, seed=0)
    return Relaxed(nets, found, 32, 4, 0, unseen)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_turn_moves_the_laws_and_nothing_else(moves, name):
    laws = {kind: np.zeros(shape) for kind, shape in gradient.shapes(SPACE).items()}
    before = {k: v.clone() for k, v in moves.nets.state_dict().items()}
    cheap = moves(laws, name, 20.0, 1)
    again = moves(laws, name, 20.0, 1)
    assert all(np.array_equal(cheap[k], again[k]) for k in laws)
    assert all(torch.equal(v, before[k]) for k, v in moves.nets.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in moves.nets.parameters())
    assert not any(v.any() for v in laws.values())

    def macs(laws):
        law = {k: torch.tensor(v).softmax(-1) for k, v in laws.items()}
        return float(expected_macs(SPACE, 10, law))

    assert macs(cheap) < 0.8 * macs(laws)


def test_frozen_weights_ask_for_gradients_again(moves):
    net = moves.nets.of(1.0).eval()
    with frozen(net):
        assert net.training and not any(p.requires_grad for p in net.parameters())
    assert not net.training and all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_gradient_search_needs_a_supernet(name):
    task = any_formula(SPACE, 2).task(SPACE, SMALL, Budget(2, 15, 20, 5, 30, 10))
    with pytest.raises(Refusal, match="needs the supernet"):
        next(STRATEGIES[name].function(task))


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_gradient_search_runs_on_a_supernet_and_goes_on(name, searching, tmp_path):
    changes = {"strategy": name, "iterations": 3}
    report = searched(searching, tmp_path, 4, **changes)
    at = folder(tmp_path, 4)
    mine = at.with_name(at.name.replace("_s0", f"_{name}_s0"))
    (mine / "report.json").unlink()
    (mine / "iterations/03.json").unlink()
    assert searched(searching, tmp_path, 4, **changes)["metrics"] | {"seconds": 0} == report[
        "metrics"
    ] | {"seconds": 0}
    assert files.read_json(mine / "iterations/02.json")["state"]["exit"]
