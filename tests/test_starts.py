"""Starts: published weights compute here what they compute there, wrong ones are refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from nat_lib import starts
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.errors import Refusal
from nat_lib.files import save_weights
from nat_lib.plans import named
from nat_lib.supernet import Supernet

WIDTHS = (1.0, 1.2)


def published(width, n_classes=7, seed=3):
    """A state dict with OFA's names, from a supernet of ours whose tensors are all random."""
    net = Supernet(Space("BASE", (64,), WIDTHS), width, n_classes, seed)
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in net.state_dict().items():
        noise = 0.2 * torch.randn(tensor.shape, generator=g)
        moved = tensor + noise if tensor.is_floating_point() else tensor
        state[name] = moved.abs() + 0.5 if name.endswith("running_var") else moved
    net.load_state_dict(state)
    return net.eval(), {starts.ofa_name(k, 5, 4): v for k, v in net.state_dict().items()}


def test_names_of_a_published_supernet_are_ours_one_to_one():
    _, state = published(1.0)
    weights = [n for n in state if "num_batches_tracked" not in n]
    assert None not in state and len(state) - len(weights) == len(
        [n for n in state if n.endswith("running_var")]
    )
    assert "blocks.7.conv.depth_conv.conv.5to3_matrix" in state


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["BASE", "SE_B", "EE_B"])
def test_subnets_of_published_weights_compute_the_same(width, name):
    theirs, state = published(width)
    space = Space(name, (64,), WIDTHS, plan=named("thesis"))
    ours = starts.from_ofa(state, space, width).eval()
    x = torch.randn(2, 3, 64, 64)
    for arch in theirs.space.sample(3, np.random.default_rng(0)):
        arch = replace(arch, width=width)
        torch.testing.assert_close(ours(x, arch), theirs(x, arch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_thirty_subnets_equal_those_of_the_published_code(width):
    networks = pytest.importorskip(
        "ofa.imagenet_classification.elastic_nn.networks",
        reason="the peer of benchmarks/requirements-peers.txt is not installed",
    )
    peer = networks.OFAMobileNetV3(
        n_classes=9,
        width_mult=width,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )
    g = torch.Generator().manual_seed(0)
    for key, tensor in peer.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=g))
            if key.endswith("running_var"):
                tensor.abs_().add_(0.5)
    ours = starts.from_ofa(peer.state_dict(), Space("BASE", (64,), WIDTHS), width).eval().double()
    peer, x = peer.eval().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for arch in ours.space.sample(30, np.random.default_rng(1)):
            peer.set_active_subnet(ks=list(arch.kernel), e=list(arch.expand), d=list(arch.depth))
            torch.testing.assert_close(ours(x, arch), peer(x), atol=1e-5, rtol=1e-5)


def test_without_their_classifier_or_for_other_classes_it_is_fresh():
    theirs, state = published(1.0)
    bare = {k: v for k, v in state.items() if "classifier" not in k}
    space = Space("EE_D", (64,), WIDTHS)
    for given in (bare, state):
        net = starts.from_ofa(given, space, 1.0, n_classes=4)
        assert net.body.exits["5"].linear.out_features == 4
        conv1 = net.body.exits["5"].conv1.weight
        assert torch.equal(conv1, theirs.body.exits["5"].conv1.weight)
    with pytest.raises(Refusal, match="no classifier"):
        starts.from_ofa(bare, space, 1.0)


def test_weights_of_another_width_or_network_are_refused(tmp_path):
    _, state = published(1.0)
    with pytest.raises(Refusal, match="plan, base_channels and width"):
        starts.from_ofa(state, Space("BASE", (64,), WIDTHS), 1.2)
    with pytest.raises(Refusal, match="no state dict of OFA's"):
        starts.from_ofa({"conv.weight": torch.zeros(1)}, Space("BASE"), 1.0, 10)
    (tmp_path / "a.pt").write_text("no weights")
    with pytest.raises(Refusal, match="no file of torch weights"):
        starts.start(f"ofa:{tmp_path}/a.pt", Space("BASE"), 1.0, 10, 0, 0.0)


@pytest.mark.parametrize("text", ["ofa", "scratch:x", "imagenet", "ofa:", ""])
def test_a_start_that_is_none_is_told_how_they_are_written(text):
    with pytest.raises(Refusal, match="is not one of scratch, ofa:PATH"):
        starts.parsed(text)


def test_a_supernet_goes_on_from_a_finished_phase(tmp_path):
    channels = (8, 8, 16)
    deep = Space("EE_D", (16,), (1.0,), channels)
    net = Supernet(deep, 1.0, 5, seed=2)
    values = {"space": deep.to_dict(), "width": 1.0, "n_classes": 5}
    cell = open_cell(tmp_path, "ofav2_eps", "a", values)
    save_weights(cell.path("best.safetensors"), net.state_dict())
    cell.finish({}, seconds=0.0)
    text = f"cell:{cell.folder}"
    same = starts.start(text, deep, 1.0, 5, 0, 0.1)
    for name, tensor in net.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
    other = starts.start(text, Space("EE_B", (16,), (1.0,), channels), 1.0, 3, 0, 0.1)
    assert torch.equal(other.body.stem.conv.weight, net.body.stem.conv.weight)
    assert other.body.exits["1"].linear.out_features == 3
    moved = shutil.copytree(cell.folder, tmp_path / "elsewhere")
    assert starts.identity(text) == starts.identity(f"cell:{moved}") and starts.identity(text)
    assert starts.identity("scratch") == {}
    with pytest.raises(Refusal, match="plan, base_channels and width"):
        starts.start(text, Space("EE_D", (16,), (1.0,), (8, 16, 16)), 1.0, 5, 0, 0.0)
