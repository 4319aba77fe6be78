"""The supernet computes what its extracted subnets compute; weight views, skips, parallel levels,
exits, sorting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import disturbed, hooked_cost
from torch import nn

from nat_lib import elastic
from nat_lib.arch import Space
from nat_lib.blocks import Place, middle
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.evaluate import fold, recalibrate
from nat_lib.plans import NETWORKS
from nat_lib.supernet import Level, Supernet, through

SMALL = (8, 8, 16, 16, 24, 24)


def small(name, **kwargs):
    return Space(name, resolutions=(16, 20, 24), base_channels=SMALL, **kwargs)


def images(size, n=2, seed=0):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("width", [1.0, 1.2])
def test_extracted_subnet_computes_what_the_supernet_computes(name, width):
    space = small(name)
    net = disturbed(Supernet(space, width, n_classes=7, seed=0)).eval().double()
    for arch in space.sample(6, np.random.default_rng(0), by="architecture"):
        arch = replace(arch, width=width)
        x = images(arch.resolution).double()
        static = net.extract(arch)
        torch.testing.assert_close(static(x), net(x, arch), atol=1e-9, rtol=1e-9)
        assert {p.data_ptr() for p in static.parameters()}.isdisjoint(
            p.data_ptr() for p in net.parameters()
        )
    several = net.extract(arch, exits="all")(x)
    for a, b in zip(several, net(x, arch, exits="all"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert len(several) == len(space.exits)


def test_some_exits_keep_their_stages_only():
    space = small("EE_DP")
    net = disturbed(Supernet(space, 1.0, 5)).eval()
    arch = replace(space.smallest, width=1.0)
    some, every = net.extract(arch, exits=(1, 3)), net(images(20), arch, exits="all")
    assert len(some.stages) == 3 and list(some.exits) == ["1", "3"]
    for got, wanted in zip(some(images(20)), (every[0], every[2]), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    for bad in ((), (3, 1), (1, 6), (2, 2)):
        with pytest.raises(Refusal, match="ascending"):
            net.extract(arch, exits=bad)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("width", [1.0, 1.2])
def test_the_cost_tables_equal_a_count_on_built_networks(name, width):
    space = Space(name)
    net = Supernet(space, width).eval()
    archs = [
        replace(a, width=width)
        for a in space.sample(4, np.random.default_rng(5), by="architecture")
    ]
    tables = count(archs, space, n_classes=200)
    for arch, row in zip(archs, tables.itertuples(), strict=True):
        built = hooked_cost(net.extract(arch), images(arch.resolution, 1))
        assert built == (row.params, row.macs, row.macs_tp)
    row = count(archs[:1], space, exits="all").iloc[0]
    built = hooked_cost(net.extract(archs[0], "all"), images(archs[0].resolution, 1))
    assert built == (row.params, row.macs, row.macs_tp)


def test_the_elastic_supernet_has_the_kernel_matrices_on_top_of_its_maximal_network():
    net = Supernet(Space("SE_B"), 1.0, 200)
    assert sum(p.numel() for p in net.parameters()) == 6_654_080
    assert sum(p.numel() for p in net.body.parameters()) == 6_639_960


def test_identity_matrices_crop_the_centre_and_gradients_reach_the_right_ones():
    space = small("BASE")
    weight = torch.randn(4, 1, 7, 7)
    matrices = Supernet(space, 1.0, 3).transforms[0]
    for size in (3, 5, 7):
        torch.testing.assert_close(
            elastic.kernel_view(weight, size, matrices), elastic.crop(weight, size)
        )
    elastic.kernel_view(weight, 5, matrices).sum().backward()
    assert matrices["5"].grad is not None and matrices["3"].grad is None
    elastic.kernel_view(weight, 3, matrices).sum().backward()
    assert matrices["3"].grad.abs().sum() > 0


def test_small_kernels_go_through_both_matrices():
    w, m5, m3 = torch.randn(2, 1, 7, 7), torch.randn(25, 25), torch.randn(9, 9)
    five = torch.stack([(m5 @ k[0, 1:6, 1:6].flatten()).view(5, 5) for k in w])[:, None]
    three = torch.stack([(m3 @ k[0, 1:4, 1:4].flatten()).view(3, 3) for k in five])[:, None]
    torch.testing.assert_close(elastic.kernel_view(w, 5, {"5": m5, "3": m3}), five)
    torch.testing.assert_close(elastic.kernel_view(w, 3, {"5": m5, "3": m3}), three)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 11])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_equals_the_library_in_value_and_gradients(size, kernel, stride):
    x, w = (
        images(size, 3).double().float().repeat(1, 2, 1, 1).requires_grad_(),
        torch.randn(6, 1, kernel, kernel),
    )
    w.requires_grad_()
    ours = elastic.depthwise(x, w, stride)
    theirs = F.conv2d(x, w, None, stride, kernel // 2, groups=6)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    g = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (x, w), g), torch.autograd.grad(theirs, (x, w), g), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth, formula", [(2, "y2"), (3, "y3 + y1"), (4, "y4 + y1 + y2")])
def test_dense_stage_sums_the_older_outputs(depth, formula):
    x, y, z = torch.tensor(1.0), {}, torch.tensor(1.0)
    inputs = {1: lambda: z, 2: lambda: y["y1"], 3: lambda: y["y2"], 4: lambda: y["y3"] + y["y1"]}
    for k in range(1, depth + 1):
        y[f"y{k}"] = inputs[k]() + 10.0**k
    levels = [lambda t, k=k: t + 10.0**k for k in range(1, depth + 1)]
    assert through(levels, x, dense=True) == sum(y[name] for name in formula.split(" + "))
    assert through(levels, x, dense=False) == y["y1"] - 10.0 + sum(
        10.0**k for k in range(1, depth + 1)
    )


@pytest.mark.parametrize("size", [13, 15, 26, 30])
@pytest.mark.parametrize("c_in, c_out, stride", [(8, 16, 2), (8, 16, 1), (16, 16, 1)])
def test_a_parallel_level_is_the_sum_of_its_branches(size, c_in, c_out, stride):
    torch.manual_seed(0)
    place = Place(c_in, c_out, stride, "h_swish", "mobilenet_v3", first=c_in != c_out)
    level = Level(place, 5, 3, code=7).eval()
    x = torch.randn(2, c_in, size, size)
    branches = {4: level.irb(x), 2: level.pointwise(x), 1: level.transform(x)}
    assert len({b.shape for b in branches.values()}) == 1
    for code in range(1, 8):
        alone = Level(place, 5, 3, code=code).eval()
        alone.load_state_dict({k: level.state_dict()[k] for k in alone.state_dict()})
        torch.testing.assert_close(alone(x), sum(b for bit, b in branches.items() if code & bit))


def test_a_subnet_leaving_early_touches_nothing_behind_its_exit():
    space = small("EE_DP")
    net = Supernet(space, 1.0, 4)
    net(images(20), replace(space.largest, width=1.0, exit=2)).sum().backward()
    touched = {n for n, p in net.body.named_parameters() if p.grad is not None}
    assert {n for n in touched if n.startswith("stages")} == {
        n for n, _ in net.body.named_parameters() if n.startswith(("stages.0.", "stages.1."))
    }
    assert {n.split(".")[1] for n in touched if n.startswith("exits")} == {"2"}


@pytest.mark.parametrize("name", ["BASE", "EE_DP"])
def test_sorting_channels_keeps_the_largest_network(name):
    space = small(name)
    net = disturbed(Supernet(space, 1.2, 4)).eval()
    largest, x = space.largest, images(24)
    before = net(x, largest, exits="all")
    net.sort_channels()
    for a, b in zip(before, net(x, largest, exits="all"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    block = net.body.stages[1].levels[1].irb
    importance = block.project.weight.abs().sum((0, 2, 3))
    assert (importance[:-1] >= importance[1:] - 1e-6).all()


def test_protected_sorting_keeps_the_channels_of_the_protected_width():
    space = small("BASE")
    net = disturbed(Supernet(space, 1.0, 4)).eval()
    block = net.body.stages[1].levels[1].irb
    n, rows = middle(16, 4), block.expand.weight.detach().flatten(1).clone()
    net.sort_channels(protected=(4,))
    after = block.expand.weight.detach().flatten(1)
    assert {tuple(r.tolist()) for r in rows[:n]} == {tuple(r.tolist()) for r in after[:n]}
    assert not torch.equal(rows[:n], after[:n])


def test_a_full_phase_checkpoint_loads_into_the_elastic_net():
    space = small("EE_D")
    trained = (
        disturbed(Supernet(space, 1.0, 4))
        .extract(replace(space.largest, width=1.0), exits="all")
        .eval()
    )
    net = Supernet(space, 1.0, 4, seed=3).eval()
    net.load_maximal(trained.state_dict())
    for a, b in zip(
        trained(images(24)),
        net(images(24), replace(space.largest, width=1.0), exits="all"),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert torch.equal(net.transforms[0]["3"], torch.eye(9))
    with pytest.raises(Refusal, match="another space"):
        Supernet(small("BASE"), 1.0, 4).load_maximal(trained.state_dict())


def test_recalibration_is_the_weighted_mean_of_batch_statistics():
    space = small("EE_B")
    net = disturbed(Supernet(space, 1.0, 4)).extract(replace(space.largest, width=1.0))
    batches = [images(16, 5, 1), images(16, 3, 2)]
    seen = []
    handle = net.stem.conv.register_forward_hook(lambda m, i, o: seen.append(o))
    recalibrate(net, batches)
    handle.remove()
    mean = sum(len(o) * o.mean((0, 2, 3)) for o in seen) / 8
    var = sum(len(o) * o.var((0, 2, 3), unbiased=False) for o in seen) / 8
    torch.testing.assert_close(net.stem.bn.running_mean, mean)
    torch.testing.assert_close(net.stem.bn.running_var, var)
    assert net.stem.bn.momentum == 0.1 and not net.training


@pytest.mark.parametrize("name", ["BASE", "EE_DP"])
def test_folding_keeps_the_function(name):
    net = disturbed(Supernet(small(name), 1.0, 4)).eval()
    arch = replace(net.space.largest, width=1.0)
    static = net.extract(arch, exits="all")
    folded = fold(static)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.stem.modules())
    for a, b in zip(static(images(24)), folded(images(24)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_same_seed_same_weights_and_initial_scale():
    a, b, c = (Supernet(small("EE_P"), 1.0, 4, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.body.stem.conv.weight, c.body.stem.conv.weight)
    big = Supernet(Space("BASE"), 1.0, 200).body.stages[4].levels[1].irb
    assert abs(big.depthwise.weight.std().item() / (2 / (49 * 960)) ** 0.5 - 1) < 0.05


def test_unknown_width_is_refused():
    with pytest.raises(Refusal, match=r"1\.0, 1\.2"):
        Supernet(small("BASE"), 1.1)
