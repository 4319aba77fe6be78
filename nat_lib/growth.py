"""Growth: a wider or deeper supernet that begins with the function of a trained one.

Wider: every further channel is a copy of one that is there, and what reads copies divides by their
number.  Deeper: a further residual block is an identity, its last batch norm being zero.
Source: Net2Net, arXiv:1511.05641.
"""

import numpy as np
import torch
from torch import nn

from nat_lib.errors import Refusal
from nat_lib.modules import MBConv
from nat_lib.supernet import Supernet

NOISE = 0.01  # of the copies' standard deviation, by which a start tells copies apart


@torch.no_grad()
def widened(net: Supernet, width: float, seed: int = 0, noise: float = 0.0) -> Supernet:
    """The supernet of another, larger width multiplier of the same space.

    With noise 0 subnets of the largest expansion keep their logits, at any depth, kernel and exit,
    with running and with batch statistics.  Those of smaller expansions do not: they leave out
    copies that others have been divided for.
    noise : standard deviation that is added to every copy, as a share of its layer's
    """
    space = net.space
    wide = Supernet(space, width, net.n_classes, seed, net.dropout)
    wide = wide.to(next(net.parameters()).dtype).train(net.training)
    ours, theirs = ([name for name, _ in n.named_parameters()] for n in (wide, net))
    if ours != theirs or width < net.width:
        raise Refusal(
            f"{space.name} at width {net.width} does not grow to {width}, which has other layers "
            "or fewer channels: train it from scratch"
        )
    grow = _Growth(np.random.default_rng(seed), noise)
    at = grow.stem(net.body.stem, wide.body.stem)
    narrow, broad = (space.layout(w).stages for w in (net.width, width))
    for i, (small, large) in enumerate(zip(net.body.stages, wide.body.stages, strict=True)):
        stays = narrow[i].c_in == narrow[i].c_out
        out = at if stays else grow.copies(narrow[i].c_out, broad[i].c_out)
        for level, larger in zip(small.levels, large.levels, strict=True):
            for branch, other in zip(level.children(), larger.children(), strict=True):
                grow.branch(branch, other, at, out)
            at = out
        if str(i + 1) in net.body.exits:
            grow.tail(net.body.exits[str(i + 1)], wide.body.exits[str(i + 1)], at)
    wide.transforms.load_state_dict(net.transforms.state_dict())
    return wide


class _Growth:
    """Fills the layers of a wider network, one after the other.

    A map of channels holds, for every channel of the wider network, the one that it copies.
    """

    def __init__(self, rng, noise):
        self.rng, self.noise = rng, noise

    def copies(self, n, wider):
        """A map from n channels: all of them once, then some again."""
        again = self.rng.integers(n, size=wider - n)
        return torch.from_numpy(np.concatenate([np.arange(n), again]))

    def linear(self, small, large, given, out):
        """A dense layer, linear or convolution: inputs by the map `given`, outputs by `out`."""
        shares = torch.bincount(given)[given].to(small.weight.dtype)
        weight = small.weight[out][:, given]
        weight = weight / shares.view(1, -1, *[1] * (weight.ndim - 2))
        fresh = torch.from_numpy(self.rng.standard_normal(tuple(weight.shape))).to(weight.dtype)
        n = len(small.weight)
        weight[n:] += self.noise * weight.std() * fresh[n:]
        large.weight.copy_(weight)
        if small.bias is not None:
            large.bias.copy_(small.bias[out])

    def by_channel(self, small, large, out):
        """A batch norm or a depthwise convolution."""
        for name, tensor in small.state_dict().items():
            large.state_dict()[name].copy_(tensor[out] if tensor.ndim else tensor)

    def stem(self, small, large):
        """The first convolution and the fixed block; returns the map of its outputs."""
        out = self.copies(small.conv.out_channels, large.conv.out_channels)
        self.linear(small.conv, large.conv, torch.arange(small.conv.in_channels), out)
        self.by_channel(small.bn, large.bn, out)
        projected = small.block.project, large.block.project
        last = out if small.block.residual else self.copies(*(p.out_channels for p in projected))
        self.block(small.block, large.block, out, last)
        return last

    def branch(self, small, large, given, out):
        """A branch of a level."""
        if isinstance(small, MBConv):
            self.block(small, large, given, out)
            return
        for layer, larger in zip(small, large, strict=True):
            if isinstance(layer, nn.Conv2d):
                self.linear(layer, larger, given, out)
            elif isinstance(layer, nn.BatchNorm2d):
                self.by_channel(layer, larger, out)

    def block(self, small, large, given, out):
        """An inverted residual block."""
        middle = given
        if small.has_expansion:
            middle = self.copies(small.expand.out_channels, large.expand.out_channels)
            self.linear(small.expand, large.expand, given, middle)
            self.by_channel(small.bn1, large.bn1, middle)
        self.by_channel(small.depthwise, large.depthwise, middle)
        self.by_channel(small.bn2, large.bn2, middle)
        if small.se is not None:
            inner = self.copies(small.se.reduce.out_channels, large.se.reduce.out_channels)
            self.linear(small.se.reduce, large.se.reduce, middle, inner)
            self.linear(small.se.expand, large.se.expand, inner, middle)
        self.linear(small.project, large.project, middle, out)
        self.by_channel(small.bn3, large.bn3, out)

    def tail(self, small, large, given):
        """An exit."""
        names = [name for name in ("conv1", "conv2") if hasattr(small, name)]
        for name in names:
            layer, larger = getattr(small, name), getattr(large, name)
            out = self.copies(layer.out_channels, larger.out_channels)
            self.linear(layer, larger, given, out)
            if name == "conv1":
                self.by_channel(small.bn, large.bn, out)
            given = out
        self.linear(small.linear, large.linear, given, torch.arange(small.linear.out_features))


@torch.no_grad()
def identities(net: Supernet, known=()) -> None:
    """Make identities of the residual blocks of a supernet, of those that a smaller one had not.

    known : names of the parameters that were taken from that one.  Where dense skips or parallel
            branches add to a level, the function changes from the start
    """
    for name, module in net.named_modules():
        if isinstance(module, MBConv) and module.residual and f"{name}.bn3.weight" not in known:
            module.bn3.weight.zero_()
            module.bn3.bias.zero_()
