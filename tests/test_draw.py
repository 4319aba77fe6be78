"""The schematic figures of chapters 2, 3 and 6: what is drawn is what the code does."""

from itertools import combinations

import matplotlib.pyplot as plt
import moocore
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import FancyBboxPatch
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.ops import SqueezeExcitation

from nat_lib import cost
from nat_lib.arch import Space
from nat_lib.blocks import Place
from nat_lib.errors import Refusal
from nat_lib.modules import MBConv, SqueezeExcite
from nat_lib.report import schematics, style
from nat_lib.report.schematics import searching, survival
from nat_lib.search import archive, pareto
from nat_lib.studies import post

SMALL = Space("BASE", base_channels=(8, 8, 16, 24, 32, 40))
FIGURES = {
    "genetic": lambda: schematics.draw_flow("genetic"),
    "ofa": lambda: schematics.draw_ofa(Space("BASE")),
    "nsga2": schematics.draw_nsga2,
    "nsga3": schematics.draw_nsga3,
    "convolution": schematics.draw_convolution,
    "separable": lambda: schematics.draw_convolution(separable=True),
    "gate": schematics.draw_gate,
    "v2": schematics.draw_block_v2,
    "evolution": schematics.draw_evolution,
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(figure):
    return " ".join(t.get_text() for ax in figure.axes for t in ax.texts)


def convolutions_run(module, x):
    """[(kernel, stride, groups, channels out, multiplications)] of the convolutions, in the order
    they compute."""
    found = []

    def note(m, _, out):
        found.append(
            (
                m.kernel_size,
                m.stride[0],
                m.groups,
                m.out_channels,
                out.numel() * m.weight[0].numel(),
            )
        )

    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(note)
    with torch.inference_mode():
        module.eval()(x)
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_and_leave_the_global_generators_alone(name, tmp_path):
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    figure = FIGURES[name]()
    style.save(figure, tmp_path, name)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000 and len(figure.rows)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


@pytest.mark.parametrize("name", ["ofa", "nsga2", "nsga3"])
def test_random_examples_are_the_same_every_time(name):
    pd.testing.assert_frame_equal(FIGURES[name]().rows, FIGURES[name]().rows)


@pytest.mark.parametrize("name", schematics.FLOWS)
def test_boxes_of_a_flow_stay_apart(name):
    patches = schematics.draw_flow(name).axes[0].patches
    extents = [p.get_window_extent() for p in patches if isinstance(p, FancyBboxPatch)]
    assert len(extents) == len(schematics.FLOWS[name][1])
    assert not any(a.overlaps(b) for a, b in combinations(extents, 2))


def test_the_genetic_algorithm_is_one_loop_with_an_entry_and_an_end():
    follows = {}
    for a, b, _ in schematics.FLOWS["genetic"][2]:
        follows.setdefault(a, []).append(b)
    at, walked = "score", []
    while at not in walked:
        walked.append(at)
        at = next(b for b in follows[at] if b != "end")
    assert at == "score" and set(walked) == set(schematics.FLOWS["genetic"][1]) - {"first", "end"}
    assert follows["first"] == ["score"] and "end" in follows["keep"] and "end" not in follows


# ----------------------------------------------------------------------------------------- survival


def objective_values(frame):
    return frame.filter(like="objective").to_numpy()


@pytest.mark.parametrize("seed", [3, 42])
def test_nsga2_shows_whom_survival_keeps(seed):
    figure = schematics.draw_nsga2(n=12, seed=seed)
    frame, F = figure.rows, objective_values(figure.rows)
    kept = frame.fate != "dropped"
    np.testing.assert_array_equal(
        np.flatnonzero(kept), pareto.survive(F, 12, np.random.default_rng(0))
    )
    np.testing.assert_array_equal(frame.front, moocore.pareto_rank(F) + 1)
    split = frame[frame.front == frame.front[~kept].min()]
    assert (
        split.crowding[split.fate == "dropped"].max()
        <= split.crowding[split.fate != "dropped"].min()
    )
    assert set(frame.fate[frame.front < split.front.iloc[0]]) == {"front kept whole"}
    assert set(frame.fate[frame.front > split.front.iloc[0]]) == {"dropped"}
    for points, fate in zip(figure.axes[1].collections, survival.FATES, strict=True):
        np.testing.assert_array_equal(points.get_offsets(), F[frame.fate == fate])
    assert all(f"{d:.2f}" in texts(figure) for d in split.crowding[np.isfinite(split.crowding)])


def test_a_front_that_just_fits_is_not_split():
    F = np.array([[0, 1], [1, 0], [1, 2], [2, 1]])
    assert list(survival.survivors(F, 2, 0).fate) == ["front kept whole"] * 2 + ["dropped"] * 2
    assert set(survival.survivors(F, 4, 0).fate) == {"front kept whole"}


@pytest.mark.parametrize("seed", [0, 47])
def test_nsga3_ties_individuals_to_the_lines_that_survival_uses(seed):
    F, lines = survival.toy_population(10, 3, seed), pareto.directions(3, 10)
    population, rule = Population.new(F=pareto.unit(F)), ReferenceDirectionSurvival(lines)
    rule.do(Problem(), population, n_survive=10, random_state=np.random.default_rng(0))
    rows = schematics.draw_nsga3(n=10, seed=seed).rows
    np.testing.assert_array_equal(objective_values(rows), F[rows.index])
    np.testing.assert_array_equal(rows.line, population[rows.index].get("niche").astype(int))
    np.testing.assert_allclose(
        rows.distance, population[rows.index].get("dist_to_niche").astype(float)
    )
    np.testing.assert_array_equal(rows.filter(like="line_"), lines[rows.line])
    kept = pareto.survive(F, 10, np.random.default_rng(seed))
    np.testing.assert_array_equal(rows.index[rows.fate != "dropped"], kept)


def test_seen_from_the_ideal_point_the_nearest_line_has_the_smallest_angle():
    F, lines = survival.toy_population(20, 3, 1), pareto.directions(3, 10)
    scaled, line, _ = survival.associated(F, lines)
    cosine = scaled @ (lines / np.linalg.norm(lines, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(cosine.argmax(axis=1), line)


# -------------------------------------------------------------------------- convolutions and blocks


def test_multiplications_drawn_are_those_that_the_convolutions_do():
    for separable, layers in (
        (False, [nn.Conv2d(3, 5, 3, padding=1)]),
        (True, [nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 5, 1)]),
    ):
        figure = schematics.draw_convolution(separable, c_in=3, c_out=5, kernel=3, size=6)
        counted = [c[-1] for c in convolutions_run(nn.Sequential(*layers), torch.zeros(1, 3, 6, 6))]
        assert list(figure.rows.macs) == counted
        assert all(f"= {n:,} multiplications" in texts(figure) for n in counted)
    assert f"{sum(counted) / (3 * 3 * 3 * 5 * 36):.0%}" in texts(figure)


def test_a_separable_convolution_costs_what_the_cost_table_says_of_a_block():
    block = (
        cost.layers(SMALL.arch(expand=3, kernel=5), SMALL)
        .query("stage == 1 and block == 2")
        .set_index("what")
    )
    deep, project = block.loc["depthwise"], block.loc["project"]
    rows = schematics.draw_convolution(
        True, deep.c_out, project.c_out, deep.kernel, deep["size"]
    ).rows
    assert list(rows.macs) == [deep.macs, project.macs]


def test_the_gate_is_drawn_as_it_computes_and_as_torchvision_has_it():
    figure = schematics.draw_gate(c=96, size=10)
    x = torch.zeros(1, 96, 10, 10)
    run = convolutions_run(SqueezeExcite(96), x)
    assert list(figure.rows.channels) == [c[3] for c in run] == [24, 96]
    assert run == convolutions_run(SqueezeExcitation(96, 24), x)
    assert list(figure.rows.part) == ["1x1 convolution, ReLU", "1x1 convolution, hard sigmoid"]
    assert "96 channels, 10 x 10" in texts(figure)


def test_the_block_of_mobilenet_v2_is_that_of_the_network():
    rows = schematics.draw_block_v2(c=24, c_next=32).rows
    features = mobilenet_v2().features
    for block, (stride, part) in zip(
        (features[3], features[4]), rows.groupby("stride"), strict=True
    ):
        run = convolutions_run(block, torch.zeros(1, 24, 8, 8))
        assert list(part.channels) == [24, *(c[3] for c in run)]
        for (kernel, step, groups, _, _), text in zip(run, part.part[1:], strict=True):
            assert text.startswith(f"{kernel[0]}x{kernel[1]}")
            assert ("depthwise" in text) == (groups > 1) and ("stride 2" in text) == (step == 2)
        assert ["ReLU6" in text for text in part.part] == [False, True, True, False]
        assert set(part.identity) == {stride == 1}


def test_the_block_of_mobilenet_v3_has_the_channels_of_the_cost_table():
    space = Space("BASE")
    for row in schematics.draw_block(space, stage=2, block=2).rows.itertuples():
        block = cost.layers(space.arch(width=1.0, expand=row.expand), space).query(
            "stage == 2 and block == 2"
        )
        layers = block.set_index("what")
        assert (layers.c_in["expand"], layers.mid["gate"], layers.c_out["project"]) == (
            row[2],
            row.middle,
            row.out,
        )
        run = convolutions_run(
            MBConv(Place(row[2], row.out, 1, "relu", "mobilenet_v3", False), row.middle, 3, True),
            torch.zeros(1, row[2], 8, 8),
        )
        assert [c[3] for c in run] == [row.middle, row.middle, row.gate, row.middle, row.out]


# ------------------------------------------------------------------------------ supernet and search


@pytest.mark.parametrize("name", ["BASE", "EE_P"])
def test_every_device_gets_the_largest_sampled_subnet_that_it_can_afford(name):
    space = Space(name)
    rows = schematics.draw_ofa(space, {"small": 18e6, "large": 40e6}, samples=200, seed=1).rows
    costs = cost.count(space.sample(200, np.random.default_rng(1), by="architecture"), space)
    for row in rows.itertuples():
        assert row.macs == costs.macs[costs.macs <= row.limit].max()
        assert row.params in set(costs.params[costs.macs == row.macs])
    with pytest.raises(Refusal, match="raise the smallest limit"):
        schematics.draw_ofa(space, {"none": 1.0})


def test_the_evolution_is_that_of_the_phases():
    figure = schematics.draw_evolution()
    rows = figure.rows.set_index(["phase", "setting"])
    assert set(searching.SETTINGS) == {*archive.Version._fields, "post"}
    for phase, version in archive.VERSIONS.items():
        for setting in set(searching.SETTINGS) - {"post"}:
            value, changed = rows.loc[phase, setting]
            assert value == getattr(version, setting)
            assert changed == (phase > 1 and value != getattr(archive.VERSIONS[phase - 1], setting))
    new = [
        p
        for p in figure.axes[0].patches
        if p.get_facecolor()[:3] == pytest.approx((0.8, 0.4, 0.4667), abs=1e-2)
    ]
    assert len(new) == rows.changed.sum() > 0


def test_post_processing_is_drawn_in_the_phase_whose_subnets_get_it():
    every = {str(p): ["BASE"] for p in archive.VERSIONS}
    posted = post.post_selected(
        {"seeds": [0], "nat_supernets": every, "post_searches": {p: ["acc"] for p in every}},
        "final",
    )
    assert {phase for _, phase, _, _ in posted} == {searching.POSTED}
    rows = schematics.draw_evolution().rows.query("setting == 'post' and changed")
    assert list(rows.phase) == [searching.POSTED]
