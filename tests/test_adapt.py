"""Warm-up and adaptation: supernets that move to another data set, and everything they start
from."""

import math

import numpy as np
import pytest
import torch

from nat_lib import files, supernet
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.distill import DISTILL
from nat_lib.errors import Refusal
from nat_lib.evaluate import evaluate
from nat_lib.schedules import Annealed, Ramped
from nat_lib.studies import searches, warmup
from nat_lib.supernet import with_width
from nat_lib.train import clip


@pytest.fixture(scope="module")
def warm(searching, tmp_path_factory):
    params, data, lay = searching
    out = lay(tmp_path_factory.mktemp("out"), "EE_D")
    return (*searches.warm_up(params, "EE_D", "fixed", 0, data, out), out)


def test_supernets_act_as_the_one_of_the_subnets_width():
    space = Space("EE_B", (16, 24), (1.0, 1.2), (8, 8, 8))
    nets, x = supernet.Supernets(space, 5, seed=1).eval(), torch.randn(2, 3, 16, 16)
    for width in (1.0, 1.2):
        arch = with_width(space.sample(1, np.random.default_rng(0))[0], width)
        torch.testing.assert_close(nets(x, arch), nets.of(width)(x, arch))
        torch.testing.assert_close(nets.extract(arch)(x), nets(x, arch))


def test_the_warm_up_moves_the_supernets_to_the_new_classes(warm, searching):
    space, sources, cells, _ = warm
    assert {p["n_classes"] for p in (c.params for c in sources.values())} == {10}
    nets = warmup.warmed_up(space, cells)
    record = evaluate(nets, space.largest, searching[1])
    assert (
        nets(torch.zeros(2, 3, 16, 16), space.smallest).shape == (2, 5)
        and 0 <= record.val_top1 <= 100
    )
    for width in space.widths:  # fine-tuned: no longer what shrinking left, and not each other
        before = warmup.trained_supernet(sources[width], space).body.state_dict()
        after = files.load_weights(cells[width].path("best.safetensors"))
        assert not torch.equal(before["stem.conv.weight"], after["stem.conv.weight"])
        assert set(before) == set(after) and after["exits.5.linear.weight"].shape[0] == 5


def test_the_maximal_network_starts_from_shrinking_with_fresh_classifiers_only(warm):
    space, sources, *_ = warm
    net = warmup.trained_supernet(sources[1.0], space)
    fresh = warmup.new_classifiers(net, 5, seed=3).state_dict()
    old = net.body.state_dict()
    changed = {
        k for k in old if old[k].shape != fresh[k].shape or not torch.equal(old[k], fresh[k])
    }
    assert changed == {
        f"exits.{e}.linear.{what}" for e in space.exits for what in ("weight", "bias")
    }
    again, other = (
        warmup.new_classifiers(net, 5, seed).state_dict()["exits.1.linear.weight"]
        for seed in (3, 4)
    )
    assert torch.equal(again, fresh["exits.1.linear.weight"]) and not torch.equal(again, other)


@pytest.mark.parametrize("carry", [False, True])
def test_supernets_start_from_the_maximal_networks_and_identity_or_carried_matrices(warm, carry):
    space, sources, cells, _ = warm
    nets = warmup.started(space, sources, cells, 0, carry).eval()
    x = torch.randn(2, 3, 24, 24)
    for width in space.widths:
        largest = with_width(space.largest, width)
        static = supernet.Supernet(space, width, 5)
        static.load_maximal(files.load_weights(cells[width].path("best.safetensors")))
        torch.testing.assert_close(
            nets(x, largest), static.eval()(x, largest), atol=1e-5, rtol=1e-4
        )  # sorted only
        matrices = nets.of(width).transforms.state_dict()
        learned = warmup.trained_supernet(sources[width], space).transforms.state_dict()
        for name, matrix in matrices.items():
            assert torch.equal(matrix, learned[name] if carry else torch.eye(len(matrix)))


def test_channels_are_sorted_and_those_of_ratio_4_protected(warm):
    space, sources, cells, _ = warm
    nets = warmup.started(space, sources, cells, 0, False)
    block = nets.of(1.0).body.stages[1].levels[1].irb
    importance = block.project.weight.detach().abs().sum((0, 2, 3))
    protected = 4 * block.expand.weight.shape[1]
    assert (importance[:protected].diff() <= 1e-6).all() and (
        importance[protected:].diff() <= 1e-6
    ).all()


def test_the_teacher_is_the_widest_maximal_network_with_all_its_exits(warm):
    space, _, cells, _ = warm
    teacher = warmup.make_teacher(space, cells, "DESC", "cpu")
    assert teacher.positions == (1, 2, 3, 4, 5) and teacher.weights == pytest.approx(
        [0.34, 0.27, 0.20, 0.13, 0.06]
    )
    best = files.load_weights(cells[1.2].path("best.safetensors"))
    assert torch.equal(
        dict(teacher.network.named_parameters())["stem.conv.weight"], best["stem.conv.weight"]
    )


def test_the_gradient_of_each_subnet_is_clipped_in_its_own_supernet(warm, searching):
    space, _, cells, _ = warm
    nets = warmup.warmed_up(space, cells).train()
    x, y = next(searching[1].train_batches(0, 40, [16], 0))
    archs = [with_width(space.largest, w) for w in (1.0, 1.2, 1.2, 1.0)]
    drawn = iter(archs)
    teacher = warmup.make_teacher(space, cells, "DESC", "cpu")
    norms, largest = [], 0.0

    def gathered():
        return [
            math.sqrt(
                sum(float(p.grad.square().sum()) for p in m.parameters() if p.grad is not None)
            )
            for m in nets.members
        ]

    for loss, _, part in warmup.sampled(nets, teacher, lambda rng: next(drawn), 0)(x, y, 0):
        (1000 * loss).backward()
        norms.append(gathered())
        largest = max(largest, *norms[-1])
        clip(part, warmup.CLIP)
    end = gathered()
    assert largest > 50 and end == pytest.approx([5, 5], rel=1e-3)
    assert norms[0][1] == 0 and norms[2][0] == pytest.approx(
        5, rel=1e-3
    )  # the other one was left alone


def test_warm_up_and_adaptation_take_any_distillation_loss(warm, searching):
    space, _, cells, _ = warm
    nets = warmup.warmed_up(space, cells).eval()
    teacher = warmup.make_teacher(space, cells, "DESC", "cpu")
    x, y = next(searching[1].train_batches(0, 40, [16], 0))

    def first(loss):
        draw = lambda rng: with_width(space.largest, 1.0)  # noqa: E731
        with torch.no_grad():
            return next(warmup.sampled(nets, teacher, draw, 0, loss=loss)(x, y, 0))[:2]

    (plain, logits), (alpha, _) = first(None), first("alpha")
    wanted = teacher.targets(x)(space.exits[-1])
    soft, adaptive = (DISTILL[name](logits, wanted) for name in ("soft_ce", "alpha"))
    torch.testing.assert_close(plain - alpha, soft - adaptive)
    assert abs(soft - adaptive) > 1e-3


def test_the_subnets_of_a_step_depend_on_seed_step_and_place_alone(warm, searching):
    space, _, cells, _ = warm
    nets = warmup.warmed_up(space, cells).train()
    teacher = warmup.make_teacher(space, cells, "DESC", "cpu")
    x, y = next(searching[1].train_batches(0, 40, [16], 0))

    def drawn(seed, step, **purpose):
        found = []

        def draw(rng):
            found.append(space.sample(1, rng)[0])
            return found[-1]

        list(warmup.sampled(nets, teacher, draw, seed, **purpose)(x, y, step))
        return found

    assert drawn(0, 7) == drawn(0, 7) and len(set(drawn(0, 7))) == 4
    assert not set(drawn(0, 7)) & {*drawn(0, 8), *drawn(1, 7), *drawn(0, 7, purpose="another")}


@pytest.mark.parametrize(
    ("name", "size"), [("BASE", 48), ("SE_D", 48), ("SE_P", 96), ("EE_B", 96), ("EE_DP", 192)]
)
def test_the_reduced_grid_has_the_sizes_of_the_thesis(name, size):
    recipe = {"eval_resolutions": [48, 56, 64], "nat_val_subnets": None}
    members = warmup.reduced_grid(Space(name), recipe)
    assert len(set(members)) == len(members) == size
    assert len(warmup.reduced_grid(Space(name), recipe | {"nat_val_subnets": 32})) == 32
    assert warmup.reduced_grid(Space(name), recipe | {"nat_val_subnets": 5}) == [
        m for m in members if m in warmup.reduced_grid(Space(name), recipe | {"nat_val_subnets": 5})
    ]


def _adapted(searching, warm, cell, numbers, stop=None):
    """The weights after these adaptations; `stop`: raise in the middle of this training step of the
    last one."""
    params, data, _ = searching
    space, _, cells, _ = warm
    nets = warmup.warmed_up(space, cells)
    teacher, steps = warmup.make_teacher(space, cells, "DESC", "cpu"), iter(range(1000))

    def draw(rng):
        if stop is not None and next(steps) == stop:
            raise KeyboardInterrupt
        return space.sample(1, rng)[0]

    for number in numbers:
        warmup.adapt(nets, teacher, draw, number, 2, 3, warmup.recipe(params), data, 0, cell)
    return nets.state_dict()


def test_adaptation_goes_on_where_it_was_to_the_bit(searching, warm, tmp_path):
    cell = [open_cell(tmp_path, "x", name, {"seed": 0}) for name in "abc"]
    straight = _adapted(searching, warm, cell[0], (1, 2))
    _adapted(searching, warm, cell[1], (1,))
    resumed = _adapted(searching, warm, cell[1], (2,))
    with pytest.raises(KeyboardInterrupt):
        _adapted(
            searching, warm, cell[2], (1, 2), stop=21
        )  # 16 draws per adaptation: in the second one
    killed = _adapted(searching, warm, cell[2], (1, 2))
    assert all(
        torch.equal(straight[k], resumed[k]) and torch.equal(straight[k], killed[k])
        for k in straight
    )
    start = warmup.warmed_up(*warm[::2][:2]).state_dict()
    assert not torch.equal(
        straight["members.0.body.stem.conv.weight"], start["members.0.body.stem.conv.weight"]
    )


def test_the_learning_rates_of_search_and_post_processing():
    ramped = Ramped(7.5e-3, 100, 5)
    assert ramped.at(0, 10) == ramped.at(9, 10) == 1e-4  # per epoch, from 1e-4
    assert ramped.at(10, 10) == pytest.approx(1e-4 + (7.5e-3 - 1e-4) / 5)
    assert ramped.at(50, 10) == pytest.approx(
        0.5 * 7.5e-3 * (1 + math.cos(math.pi * 5 / 100))
    )  # of the whole curve
    assert ramped.total == 100 and ramped._replace(stop=15).total == 15
    annealed = Annealed(1e-4, 20)
    assert annealed.at(0, 7) == pytest.approx(1e-4) and annealed.total == 20
    assert annealed.at(7 * 75, 7) == pytest.approx(1e-8 + (1e-4 - 1e-8) / 2)
    assert annealed.at(7 * 150, 7) == pytest.approx(1e-8) and annealed.at(1, 7) < annealed.at(0, 7)


def test_what_a_warm_up_cannot_start_from_is_refused_in_one_line(searching, tmp_path):
    params, data, lay = searching
    with pytest.raises(Refusal, match="run notebook 02 first"):
        searches.warm_up(params, "BASE", "fixed", 0, data, tmp_path)
    lay(tmp_path, "BASE")
    with pytest.raises(Refusal, match="another space"):
        searches.warm_up(
            params | {"base_channels": [8, 8, 8, 8, 8, 16]}, "BASE", "fixed", 0, data, tmp_path
        )
    with pytest.raises(Refusal, match="trained at no width"):
        searches.warm_up(params, "SE_P", "fixed", 0, data, tmp_path)
