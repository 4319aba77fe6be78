"""What a person would train by hand, to stand beside what a search returns.

A new one is a function (classes, side of the images, width) and a row of BASELINES.  Below 64
pixels the networks of torchvision keep the resolution in their stem, as their CIFAR forms do.
Source: ResNets of CIFAR form, arXiv:1512.03385, section 4.2, and MLPerf Tiny, arXiv:2106.07597 (8
layers); MobileNetV3, arXiv:1905.02244; ShuffleNetV2, arXiv:1807.11164.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from nat_lib import ledger
from nat_lib.blocks import round8
from nat_lib.errors import Refusal

SMALL = 64  # pixels: below, a stem does not halve the image
MATCH = "match"  # in place of a number of MACs: those of the best subnet of a search
WIDTHS = (0.05, 4.0)  # between which `scaled` looks


def resnet(blocks, n_classes, side, width=1.0):
    """A ResNet of CIFAR form: stages of 16, 32 and 64 channels with so many blocks each."""
    from nat_lib import residual

    channels = [max(1, round(c * width)) for c in (16, 32, 64)]
    return residual.resnet(blocks, channels, 2 if side >= SMALL else 1, n_classes)


def mobilenet_v3_small(n_classes, side, width=1.0):
    """torchvision's, all channels multiplied by the width."""
    import torchvision

    network = torchvision.models.mobilenet_v3_small(num_classes=n_classes, width_mult=width)
    return _fine(network, network.features[0][0], side)


def shufflenet_v2_x0_5(n_classes, side, width=1.0):
    """torchvision's with half its channels, multiplied by the width."""
    import torchvision
    from torch import nn

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

    network: Callable[..., Any]
    label: str


BASELINES = {
    "resnet8": Baseline(partial(resnet, 1), "ResNet-8"),
    "resnet20": Baseline(partial(resnet, 3), "ResNet-20"),
    "mobilenet_v3_small": Baseline(mobilenet_v3_small, "MobileNetV3-Small"),
    "shufflenet_v2_x0_5": Baseline(shufflenet_v2_x0_5, "ShuffleNetV2 x0.5"),
}


def parsed(text: str) -> tuple[str, float | str | None]:
    """(row, wanted MACs | MATCH | None) of a baseline as it is written: `resnet8`, `resnet8:2e6`,
    `resnet8:match`."""
    name, colon, wanted = text.partition(":")
    macs = wanted if wanted == MATCH else _positive(wanted)
    if name not in BASELINES or (colon and macs is None):
        raise Refusal(
            f"{text!r} is not one of {', '.join(BASELINES)}, nor such a one with :MACS or :{MATCH}"
        )
    return name, macs


def _positive(text: str) -> float | None:
    """A number above 0; None: it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def build(name: str, n_classes: int, side: int, width: float = 1.0, seed: int = 0):
    """A baseline with random weights of a seed, its tensors channels-last."""
    import torch

    from nat_lib.modules import fast_pooling

    if name not in BASELINES:
        raise Refusal(f"baseline {name!r}: use one of {', '.join(BASELINES)}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = BASELINES[name].network(n_classes, side, width)
    return fast_pooling(network).to(memory_format=torch.channels_last)


@lru_cache(maxsize=512)
def macs(name: str, n_classes: int, side: int, width: float = 1.0) -> int:
    """MACs of a baseline for one image."""
    import torch

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
