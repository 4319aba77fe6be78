"""A branch is one row of a table and a plan is data: what is added there trains, is counted, timed,
extracted and drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import counting_work, disturbed, hooked_cost
from torch import nn
from torchvision.models import mobilenet_v2

from nat_lib import blocks
from nat_lib.arch import Arch, Space
from nat_lib.blocks import BRANCHES, Branch, after, conv_layer
from nat_lib.cost import count, layers
from nat_lib.curricula import choices_after, phases_for
from nat_lib.errors import Refusal
from nat_lib.latency_table import build_table
from nat_lib.plans import NETWORKS, PLANS, THESIS, Plan
from nat_lib.pretrained import PRETRAINED
from nat_lib.report import shapes
from nat_lib.report.schematics import draw_parallel_level
from nat_lib.supernet import Supernet

SMALL = (8, 8, 16)


def wide_layers(place, side, kernel, expand):
    size = after(place.stride, side)
    return [conv_layer("wide", place.c_in, place.c_out, 3, size, place.stride)]


def wide_module(place, kernel, expand):
    conv = nn.Conv2d(place.c_in, place.c_out, 3, place.stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(place.c_out), nn.ReLU())


# One row each: a fixed block, and an elastic one.
ROWS = {
    "wide": Branch(16, False, "3x3 convolution", "#112233", wide_layers, wide_module),
    "twin": Branch(
        16, True, "twin", "#112233", blocks.irb_layers, blocks.irb_module, blocks.irb_forward
    ),
}


@pytest.fixture(params=ROWS)
def space(request, monkeypatch):
    """A space whose parallel levels may have a fourth branch."""
    monkeypatch.setitem(BRANCHES, request.param, ROWS[request.param])
    plan = replace(THESIS, name="more", branches=(*THESIS.branches, request.param))
    return Space("EE_DP", (16, 20), (1.0,), SMALL, plan=plan)


def images(size, n=2):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def assert_extracted_computes_the_same(space):
    net = disturbed(Supernet(space, 1.0, 5)).eval()
    for arch in space.sample(6, np.random.default_rng(0), by="architecture"):
        x = images(arch.resolution)
        torch.testing.assert_close(net.extract(arch)(x), net(x, arch), atol=1e-5, rtol=1e-4)


def assert_counts_equal_hooks(space):
    net = Supernet(space, 1.0, 5).eval()
    archs = space.sample(6, np.random.default_rng(1), by="architecture")
    for arch, row in zip(archs, count(archs, space, 5).itertuples(), strict=True):
        built = hooked_cost(net.extract(arch), images(arch.resolution, 1))
        assert built == (row.params, row.macs, row.macs_tp)
        assert layers(arch, space, 5).macs.sum() == row.macs


def test_a_branch_of_its_own_is_in_the_genotype(space):
    assert len(space.levels) == 15 and space.n_codes == 135 and space.levels[-1] == 23
    archs = space.sample(50, np.random.default_rng(0), by="architecture")
    assert space.decode(space.encode(archs)) == archs
    assert {16 & level for arch in archs for level in arch.level} == {0, 16}


def test_a_branch_of_its_own_is_opened_by_the_phases(space):
    by_name = {phase.name: phase for phase in phases_for(space)}
    several = choices_after(space, by_name["NW1"]).level
    assert len(several) == 11 and all(code.bit_count() > 1 for code in several)
    assert choices_after(space, by_name["NW2"]).level == space.levels


def test_a_branch_of_its_own_trains(space):
    net, [name] = Supernet(space, 1.0, 5).train(), set(space.branches) & set(ROWS)
    net(images(16), space.largest).sum().backward()
    weights = [p for n, p in net.body.named_parameters() if f".{name}." in n]
    assert len(weights) >= 3 * 8 and all(p.grad.abs().sum() > 0 for p in weights if p.ndim > 1)


def test_a_branch_of_its_own_is_extracted_and_counted(space):
    assert_extracted_computes_the_same(space)
    assert_counts_equal_hooks(space)


def test_a_branch_of_its_own_is_timed(space):
    with counting_work("thread_time"):
        table = build_table(space, 5, runs=1, warmup=0, rounds=1, networks=6)
    [name] = set(space.branches) & set(ROWS)
    assert name in set(table.rows.part) and table.error.percent < 1e-6


def test_a_branch_of_its_own_is_drawn(space):
    _, _, drawn = shapes.subnet(space.largest, space)
    colours = [shape.colour for shape in drawn if isinstance(shape, shapes.Box)]
    assert colours.count("#112233") == 8 + 1  # every block, and the legend
    assert len(draw_parallel_level(space).axes[0].texts) > 15


def test_other_networks_do_not_change_when_a_row_is_added(monkeypatch):
    monkeypatch.setitem(BRANCHES, "wide", ROWS["wide"])
    assert Space("EE_DP").levels == (1, 2, 4, 3, 5, 6, 7)


# ------------------------------------------------------------------------------------- plans


def test_phases_open_what_table_5_2_says():
    for name in ("SE_P", "EE_DP"):
        space = Space(name)
        for phase in phases_for(space)[1:]:
            chosen = getattr(choices_after(space, phase), phase.opens)
            assert chosen == phase.values


FINE = Plan(
    name="fine",
    channels=(8, 8, 16, 24),
    stem_strides=(1, 1),
    stem_acts=("relu", "h_swish"),
    strides=(1, 2, 3),
    acts=("h_swish", "relu", "relu"),
    gates=(True, False, True),
    kernels=(3, 5),
    expands=(2, 3),
    depths=(1, 2, 3),
    tail=(2, 3),
)


@pytest.mark.parametrize("name", ["BASE", "SE_P", "EE_D", "EE_DP"])
def test_a_plan_of_other_numbers(name):
    space = Space(name, (12, 17), (1.0,), plan=FINE)
    assert space.n_stages == 3 and space.slots == 3 and space.largest.kernel == (5,) * 9
    archs = space.sample(40, np.random.default_rng(0))
    assert space.decode(space.encode(archs)) == archs
    assert_extracted_computes_the_same(space)
    assert_counts_equal_hooks(space)
    sides = layers(space.largest, space, 5)["size"]
    assert sides.iloc[0] == 17 and sides[layers(space.largest, space, 5).block > 0].iloc[-1] == 3


def test_every_phase_of_a_plan_of_other_numbers_opens_something():
    space = Space("EE_DP", (12,), (1.0,), plan=FINE)
    for phase in phases_for(space):
        assert all(choices_after(space, phase))
    assert choices_after(space, phases_for(space)[-1]) == space.choices


def test_the_plan_of_the_thesis_goes_without_saying():
    assert list(Space("BASE").to_dict()) == [
        "name",
        "resolutions",
        "widths",
        "base_channels",
        "tail_scaling",
    ]
    fine = Space("EE_D", (12,), (1.0,), plan=FINE)
    assert Space.from_dict(fine.to_dict()) == fine != Space("EE_D", (12,), (1.0,), (8, 8, 16, 24))
    arch = fine.largest
    assert Arch.from_dict(arch.to_dict()) == arch


@pytest.mark.parametrize(
    "change, words",
    [
        ({"strides": (1, 2)}, "channels has 4 values for 2 stages, give 3"),
        ({"acts": ("relu", "relu", "gelu")}, "activation = 'gelu' .*relu, relu6, h_swish"),
        ({"branches": ("conv",)}, "branch = 'conv' .*irb, pointwise, transform"),
        ({"kernels": (5, 3)}, "ascending"),
        ({"kernels": (2, 4)}, "odd"),
        ({"stem_strides": (0, 1)}, "1 or more"),
    ],
)
def test_a_wrong_plan_is_told_in_one_line(change, words):
    with pytest.raises(Refusal, match=words) as refusal:
        replace(FINE, **change)
    assert "\n" not in str(refusal.value)


# -------------------------------------------------------------------------------- the rows of PLANS


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_on_every_plan_is_a_value(plan, name):
    space = Space(name, (32, 40), (1.0, 1.2), plan=plan)
    archs = space.sample(20, np.random.default_rng(0))
    assert space.decode(space.encode(archs)) == archs
    assert Space.from_dict(space.to_dict()) == space
    total = count(archs, space, 5)
    assert [layers(a, space, 5).macs.sum() for a in archs[:3]] == total.macs[:3].tolist()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", ["BASE", "EE_DP"])
def test_networks_of_every_plan_are_extracted_and_counted(plan, name):
    narrow = tuple(8 * (1 + s // 2) for s in range(len(plan.channels)))
    space = Space(name, (21, 32), (1.0,), narrow, plan=plan)
    assert_extracted_computes_the_same(space)
    assert_counts_equal_hooks(space)


def test_mobilenet_v2_costs_what_torchvisions_does():
    space = Space("BASE", (224,), (1.0,), plan=PLANS["mobilenet_v2"])
    own = space.arch(kernel=3, expand=6, depth=PRETRAINED["mobilenet_v2"].depths)
    theirs = hooked_cost(mobilenet_v2().eval(), torch.zeros(1, 3, 224, 224))
    assert tuple(count([own], space, 1000)[["params", "macs"]].iloc[0]) == theirs[:2]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"gate": "none"}, "gate = 'none' .*mobilenet_v3, efficientnet"),
        ({"padding": "end", "strides": (1, 2, 3)}, "strides of 1 and 2"),
        ({"tail": (1, 2, 3)}, "choose one of 1, 2"),
        ({"tail": (0,)}, "above 0"),
    ],
)
def test_what_a_plan_cannot_be(change, words):
    with pytest.raises(Refusal, match=words):
        replace(FINE, **change)


# --------------------------------------------------------------------------------- the fused block


def test_a_fused_block_is_its_slices_and_centres():
    """By a dense convolution of the sliced, cropped weights, with the kernel matrices at rest."""
    place = blocks.Place(4, 4, 1, "relu", "", False)
    net = blocks.fused_module(place, 7, 6).eval()
    x, rest = torch.randn(2, 4, 9, 9), {"5": torch.eye(25), "3": torch.eye(9)}
    with torch.no_grad():
        for kernel, expand in ((3, 3), (5, 4), (7, 6)):
            mid, edge = blocks.middle(4, expand), (7 - kernel) // 2
            weight = net.expand.weight[:mid, :, edge : 7 - edge, edge : 7 - edge]
            h = torch.conv2d(x, weight, padding=kernel // 2) / (1 + net.bn1.eps) ** 0.5
            h = torch.conv2d(h.relu(), net.project.weight[:, :mid]) / (1 + net.bn2.eps) ** 0.5
            torch.testing.assert_close(blocks.fused_forward(net, x, kernel, expand, rest), x + h)


def test_sorting_its_channels_leaves_a_fused_block_as_it_is():
    space = Space("SE_P", (16,), (1.0,), SMALL, plan=PLANS["fused"])
    net = disturbed(Supernet(space, 1.0, 5)).eval().double()
    x = images(16).double()
    with torch.no_grad():
        before = net(x, space.largest)
        net.sort_channels([4])
        torch.testing.assert_close(net(x, space.largest), before, atol=1e-9, rtol=1e-9)
