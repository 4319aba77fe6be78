"""Hand-made networks: their published sizes, their scaled forms, classes and small images."""

import pytest
import torch

from nat_lib import baselines
from nat_lib.baselines import BASELINES
from nat_lib.errors import Refusal


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("side", [28, 32, 64])
def test_every_baseline_classifies_images_of_any_size(name, side):
    network = baselines.build(name, 7, side)
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 7)


def test_resnets_have_their_published_sizes():
    assert baselines.macs("resnet8", 10, 32) == pytest.approx(12.5e6, rel=0.01)
    assert baselines.macs("resnet20", 10, 32) == pytest.approx(41e6, rel=0.02)
    sizes = [
        sum(p.numel() for p in baselines.build(name, 10, 32).parameters())
        for name in ("resnet8", "resnet20")
    ]
    assert sizes == pytest.approx([78e3, 0.27e6], rel=0.02)


def test_torchvision_networks_of_full_size_are_torchvisions():
    import torchvision

    ours = baselines.build("shufflenet_v2_x0_5", 1000, 224)
    theirs = torchvision.models.shufflenet_v2_x0_5()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert baselines.macs("mobilenet_v3_small", 1000, 224) == pytest.approx(56.5e6, rel=0.01)


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
@pytest.mark.parametrize("wanted", [0.25e6, 2e6, 12e6])
def test_a_baseline_is_scaled_to_the_macs_of_a_subnet(name, wanted):
    width, macs = baselines.scaled(name, wanted, 10, 32)
    assert macs == baselines.macs(name, 10, 32, width)
    others = [baselines.macs(name, 10, 32, width * f) for f in (0.8, 1.25)]
    assert abs(macs - wanted) <= min(abs(other - wanted) for other in others)
    assert macs == pytest.approx(wanted, rel=0.35)  # a channel more or less is much of a small one


def test_the_seed_decides_the_weights():
    one, again, other = (baselines.build("resnet8", 10, 32, seed=s)[0].weight for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(Refusal, match="use one of resnet8"):
        baselines.build("resnet9", 10, 32)
