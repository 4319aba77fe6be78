"""What a person would train by hand, to stand beside what a search returns.

A new one is a function (classes, side of the images, width) and a row of BASELINES.  Below 64
pixels the networks of torchvision keep the resolution in their stem, as their CIFAR forms do.
Source: ResNets of CIFAR form, arXiv:1512.03385, section 4.2, and MLPerf Tiny, arXiv:2106.07597 (8
layers); MobileNetV3, arXiv:1905.02244; ShuffleNetV2, arXiv:1807.11164.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from nat_lib import ledger
from nat_lib.blocks import round8
from nat_lib.errors import Refusal

SMALL = 64  # pixels: below, a stem does not halve the image
WIDTHS = (0.05, 4.0)  # between which `scaled` looks


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a strided 1x1 convolution."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        plain = stride == 1 and c_in == c_out
        match = [nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)]
        self.skip = nn.Identity() if plain else nn.Sequential(*match)

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def resnet(blocks, n_classes, side, width=1.0):
    """A ResNet of CIFAR form: a 3x3 convolution, three stages of 16, 32 and 64 channels."""
    channels = [max(1, round(c * width)) for c in (16, 32, 64)]
    stem = 2 if side >= SMALL else 1
    layers = [
        nn.Conv2d(3, channels[0], 3, stem, 1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    c_in = channels[0]
    for stage, c_out in enumerate(channels):
        for block in range(blocks):
            layers.append(Residual(c_in, c_out, 2 if stage and not block else 1))
            c_in = c_out
    tail = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, n_classes)
    return nn.Sequential(*layers, *tail)


def mobilenet_v3_small(n_classes, side, width=1.0):
    """torchvision's, all channels multiplied by the width."""
    network = torchvision.models.mobilenet_v3_small(num_classes=n_classes, width_mult=width)
    return _fine(network, network.features[0][0], side)


def shufflenet_v2_x0_5(n_classes, side, width=1.0):
    """torchvision's with half its channels, multiplied by the width."""
    channels = [24, 48, 96, 192, 1024]
    scaled = [round8(c * width) for c in channels]
    network = torchvision.models.ShuffleNetV2([4, 8, 4], scaled, num_classes=n_classes)
    if side < SMALL:
        network.maxpool = nn.Identity()
    return _fine(network, network.conv1[0], side)


def _fine(network, stem, side):
    if side < SMALL:
        stem.stride = (1, 1)
    return network


class Baseline(NamedTuple):
    """network : (n_classes, side in pixels, width) -> nn.Module;  label : in tables and figures"""

    network: Callable[..., nn.Module]
    label: str


BASELINES = {
    "resnet8": Baseline(partial(resnet, 1), "ResNet-8"),
    "resnet20": Baseline(partial(resnet, 3), "ResNet-20"),
    "mobilenet_v3_small": Baseline(mobilenet_v3_small, "MobileNetV3-Small"),
    "shufflenet_v2_x0_5": Baseline(shufflenet_v2_x0_5, "ShuffleNetV2 x0.5"),
}


def build(name: str, n_classes: int, side: int, width: float = 1.0, seed: int = 0) -> nn.Module:
    """A baseline with random weights of a seed, its tensors channels-last."""
    if name not in BASELINES:
        raise Refusal(f"baseline {name!r}: use one of {', '.join(BASELINES)}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = BASELINES[name].network(n_classes, side, width)
    return network.to(memory_format=torch.channels_last)


@lru_cache(maxsize=512)
def macs(name: str, n_classes: int, side: int, width: float = 1.0) -> int:
    """MACs of a baseline for one image."""
    image = torch.zeros(1, 3, side, side)
    return ledger.macs_of(build(name, n_classes, side, width), image)


def scaled(name: str, wanted: float, n_classes: int, side: int) -> tuple[float, Any]:
    """(width, MACs) of the baseline whose MACs come closest to a wanted number, by bisection."""
    low, high = WIDTHS
    for _ in range(24):
        middle = (low + high) / 2
        if macs(name, n_classes, side, middle) < wanted:
            low = middle
        else:
            high = middle
    found = {width: macs(name, n_classes, side, width) for width in (low, high)}
    width = min(found, key=lambda w: abs(found[w] - wanted))
    return width, found[width]
