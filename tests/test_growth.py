"""Growth: wider and deeper supernets begin with the function of the trained one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nat_lib.arch import Space
from nat_lib.errors import Refusal
from nat_lib.growth import identities, widened
from nat_lib.plans import PLANS, THESIS
from nat_lib.supernet import Supernet

CHANNELS = (16, 16, 24, 40, 64, 80)


def trained(space, width=1.0):
    """A supernet whose every tensor is its own: statistics and scales as after some training."""
    net, g = Supernet(space, width, 7, seed=3).double(), torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(("weight", "bias", "running_mean")) and tensor.ndim == 1:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=g).double())
        if name.endswith("running_var"):
            tensor.mul_(0.5 + torch.rand(tensor.shape, generator=g).double())
        if name.startswith("transforms"):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=g).double())
    return net


def images(size=24):
    return torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", ["BASE", "SE_DP", "EE_B", "EE_DP"])
@pytest.mark.parametrize("training", [False, True])
def test_widened_subnets_of_the_largest_expansion_keep_their_logits(name, training):
    space = Space(name, (24,), (1.0, 1.2), CHANNELS)
    net = trained(space).train(training)
    wide, rng = widened(net, 1.2, seed=5), np.random.default_rng(0)
    choices = space.choices._replace(expand=(6,))
    for _ in range(6):
        arch = space.draw(choices, rng, 1.0, 24)
        with torch.no_grad():
            ours = wide(images(), replace(arch, width=1.2), exits="all")
            theirs = net(images(), arch, exits="all")
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("plan", ["small", "lite0", "mobilenet_v3_small"])
def test_supernets_of_other_plans_grow_as_well(plan):
    space = Space("EE_B", (32,), (1.0, 1.2), None, "once", PLANS[plan])
    net = trained(space).eval()
    wide = widened(net, 1.2)
    for exit in (1, space.n_stages):
        arch = space.arch(resolution=32, width=1.0, exit=exit)
        with torch.no_grad():
            ours, theirs = wide(images(32), replace(arch, width=1.2)), net(images(32), arch)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_noise_tells_copies_apart_and_narrower_is_refused():
    space = Space("EE_B", (24,), (1.0, 1.2), CHANNELS)
    net = trained(space).eval()
    exact, noisy = (widened(net, 1.2, 5, noise) for noise in (0.0, 0.01))
    arch = space.arch(resolution=24, width=1.2)
    with torch.no_grad():
        apart = (noisy(images(), arch) - exact(images(), arch)).abs().max()
    assert 1e-6 < apart < 5
    first = exact.body.stem.conv.weight
    assert torch.unique(first, dim=0).shape[0] == 16 < len(first)
    assert len(torch.unique(noisy.body.stem.conv.weight, dim=0)) == len(first)
    with pytest.raises(Refusal, match="fewer channels: train it from scratch"):
        widened(noisy, 1.0)


def test_deeper_residual_stages_begin_as_the_shallower_ones():
    deep = Space("EE_B", (24,), (1.0,), CHANNELS)
    shallow = replace(deep, plan=replace(THESIS, name="shallow", depths=(2,)))
    net, grown = trained(shallow).eval(), trained(deep).eval()
    taken = {n: t for n, t in net.state_dict().items() if n.startswith("body.")}
    grown.load_state_dict(grown.state_dict() | taken)
    identities(grown, taken)
    for exit in deep.exits:
        with torch.no_grad():
            wanted = net(images(), shallow.arch(exit=exit))
            for depth in (2, 3, 4):
                found = grown(images(), deep.arch(exit=exit, depth=depth))
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
