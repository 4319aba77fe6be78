"""Scoring: batches of one image, memory, top-1 and top-5."""

import platform
import resource
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import disturbed
from torch import nn

from nat_lib import evaluate, machine
from nat_lib.arch import Space
from nat_lib.errors import Refusal
from nat_lib.evaluate import correct, in_memory, recalibrate, score, score_exits
from nat_lib.supernet import Supernet


@pytest.fixture
def net():
    """At 16 pixels its last maps are one pixel."""
    return Supernet(Space("EE_B", (16,), (1.0,), (8, 8, 8, 8, 8, 8)), 1.0, 6)


def images(n, size=16, seed=0):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n", [3, 7, 9])
def test_a_last_batch_of_one_image_calibrates_like_any_other(net, n):
    network, x = net.extract(net.space.largest), images(n)
    calibrated = recalibrate(network, list(x.split(2)))
    last = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    found = last.running_mean.clone(), last.running_var.clone()
    joined = [*x.split(2)[:-2], x[n - 3 :]]
    recalibrate(network, joined)
    torch.testing.assert_close((last.running_mean, last.running_var), found)
    assert not calibrated.training


def test_one_image_alone_is_refused(net):
    with pytest.raises(Refusal, match="calibration_images"):
        recalibrate(net.extract(net.space.largest), [images(1)])


@pytest.mark.parametrize("exits", [None, "all"])
def test_scores_do_not_depend_on_the_memory_there_is(net, monkeypatch, exits):
    network = recalibrate(net.extract(net.space.largest, exits), [images(20)])
    batches = [(images(13), torch.arange(13) % 6), (images(5, seed=1), torch.arange(5))]
    weights = None if exits is None else (0.1, 0.2, 0.2, 0.2, 0.3)
    whole = score(network, batches, weights)
    seen = []
    network.stem.register_forward_hook(lambda m, x, out: seen.append(len(out)))
    monkeypatch.setattr(evaluate, "MEMORY", 3 * 2 * 4 * 8 * 8 * 48)  # the widest layer: 48 channels
    assert score(network, batches, weights) == pytest.approx(whole)
    assert max(seen) < 13 and sum(seen) >= 18
    if exits:
        assert score_exits(network, batches, weights)[0] == pytest.approx(whole)


def test_a_batch_that_fits_is_not_divided(net):
    x, y = images(13), torch.arange(13)
    [(same, labels)] = in_memory(SimpleNamespace(), x, y)  # the network is not even asked
    assert same is x and labels is y


def test_a_large_network_at_a_large_size_is_divided():
    layer = nn.Conv2d(3, 64, 3, padding=1, device="meta")
    x, y = torch.empty(512, 3, 224, 224, device="meta"), torch.zeros(512)
    pieces = in_memory(nn.Sequential(layer), x, y)
    most = max(len(images) for images, _ in pieces)
    assert most * 4 * (3 + 64) * 224 * 224 <= evaluate.MEMORY < (most + 1) * 4 * 67 * 224 * 224


def test_right_and_right_in_five_by_counting():
    g = torch.Generator().manual_seed(0)
    outputs = torch.randint(4, (3, 50, 8), generator=g).float()  # many ties
    labels = torch.randint(8, (50,), generator=g)
    wanted = torch.zeros(3, 2, dtype=torch.int64)
    for s in range(3):
        for n in range(50):
            order = sorted(range(8), key=lambda k: (-outputs[s, n, k], k))
            place = order.index(int(labels[n]))
            wanted[s] += torch.tensor([place < 1, place < 5])
    assert torch.equal(correct(outputs, labels), wanted)
    assert correct(torch.full((1, 4, 8), torch.nan), torch.zeros(4, dtype=int)).sum() == 0


def test_freed_memory_is_reused():
    """Large tensors are reused, not fetched from the system again: page faults stop."""
    machine.keep_memory()
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc gives memory back at once")

    def faults(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            torch.empty(1 << 20).fill_(1.0)  # 4 MiB: 1024 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults(2)
    assert faults(20) < 20 * 1024 / 4


@pytest.mark.parametrize("name", ["EE_D", "EE_DP", "SE_P"])
def test_many_subnets_score_as_each_alone(name):
    space = Space(name, (16, 24), (1.0,), (8, 8, 8, 8, 8, 8))
    net = disturbed(Supernet(space, 1.0, 6))
    choices = space.choices._replace(kernel=(3, 7), expand=(6,), depth=(2,))
    archs = space.grid(choices, (16, 24), 1.0)
    archs = [archs[i] for i in np.random.default_rng(0).permutation(len(archs))[:24]]
    archs += [replace(archs[0], exit=space.exits[0]), archs[1]]
    if space.early_exits:  # sets of exits of one backbone, and of another that goes less deep
        archs += [replace(archs[2], exit=5, also=some) for some in ((), (1,), (2, 4), (1, 2, 3, 4))]
        archs += [replace(archs[2], exit=3, also=(2,)), replace(archs[2], exit=3, also=())]
    pictures = {r: [(images(9, r, seed=r), torch.arange(9) % 6)] for r in (16, 24)}
    data = SimpleNamespace(calibration_batches=lambda r: [images(6, r), images(5, r, 1)])
    found = dict(evaluate.score_many(net, archs, data, pictures.__getitem__))
    assert sorted(found) == list(range(len(archs)))
    for i, arch in enumerate(archs):
        alone = score(evaluate.prepare(net, arch, data, arch.resolution), pictures[arch.resolution])
        assert found[i] == pytest.approx(alone, rel=1e-5)
    groups = evaluate.families(archs, space)
    assert sorted(i for group in groups for i in group) == list(range(len(archs)))
    if space.early_exits:
        assert len(groups) < len(archs) / 1.5
        assert len([group for group in groups if {*group} & {*range(26, 32)}]) == 1
