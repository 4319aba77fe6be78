"""Torch modules of the networks, each beside its elastic twin.

A module is what an extracted subnet is made of.  Its `..._view` computes the same function with the
first channels, or another kernel, of a larger module's weights: that is how the supernet trains.
Source: Once-for-All, arXiv:1908.09791; OFAv2, arXiv:2302.01888; thesis 3.2 and 5.1.
"""

from collections import OrderedDict
from contextlib import contextmanager

from torch import nn
from torch.nn import functional as F

from nat_lib import elastic
from nat_lib.blocks import ACTS, GATES, se_hidden


def activation(name):
    """The module of a row of `blocks.ACTS`."""
    module = getattr(nn, ACTS[name].module)
    return module(inplace=True) if name == "relu" else module()  # BN's gradient needs no output


@contextmanager
def quiet(network):
    """Nothing is dropped meanwhile."""
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout) and m.training]
    for m in drops:
        m.eval()
    try:
        yield
    finally:
        for m in drops:
            m.train()


class EndPadded(nn.Conv2d):
    """A strided convolution that pads even sides at the end only, as TensorFlow does."""

    def forward(self, x):
        return elastic.end_padded(super().forward, x)


def conv(c_in, c_out, kernel=1, stride=1, groups=1, bias=False, end=False):
    """A "same"-padded convolution."""
    kind = EndPadded if end and stride > 1 else nn.Conv2d
    return kind(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)


class GlobalAverage(nn.AdaptiveAvgPool2d):
    """The mean of every channel, with a gradient that stays channels-last: batch norm's own is ten
    times slower where the two layouts meet."""

    def __init__(self):
        super().__init__(1)

    def forward(self, x):  # (B, C, H, W) -> (B, C, 1, 1)
        return x.permute(0, 2, 3, 1).mean((1, 2))[:, :, None, None]


def fast_pooling(network):
    """A network of others' making with `GlobalAverage` for every global pooling; returns it."""
    for module in list(network.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(module, key, GlobalAverage())
    return network


class SqueezeExcite(nn.Module):
    """Channel gate after the depthwise part.  x: (B, C, H, W);  gate: a key of `blocks.GATES`."""

    def __init__(self, c, gate="mobilenet_v3"):
        super().__init__()
        row = GATES[gate]
        hidden, self.divisor = se_hidden(c, row.divisor), row.divisor
        self.reduce, self.act = conv(c, hidden, bias=True), getattr(nn, ACTS[row.inner].module)()
        self.expand, self.gate = conv(hidden, c, bias=True), getattr(nn, row.module)()

    def forward(self, x):
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expand, depthwise, optional gate, 1x1 project; identity added
    where shapes allow.

    With mid = None there is no expansion (the fixed block of the stem).
    """

    def __init__(self, place, mid, kernel, residual):
        super().__init__()
        c_in, c_out, width = place.c_in, place.c_out, mid or place.c_in
        if mid:
            self.expand, self.bn1 = conv(c_in, mid), nn.BatchNorm2d(mid)
        self.depthwise = conv(width, width, kernel, place.stride, groups=width, end=place.end)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcite(width, place.gate) if place.gate else None
        self.project, self.bn3 = conv(width, c_out), nn.BatchNorm2d(c_out)
        self.act, self.residual, self.has_expansion = activation(place.act), residual, bool(mid)

    def forward(self, x):
        h = self.act(self.bn1(self.expand(x))) if self.has_expansion else x
        h = self.act(self.bn2(self.depthwise(h)))
        h = self.se(h) if self.se is not None else h
        h = self.bn3(self.project(h))
        return x + h if self.residual else h


def mbconv_view(block, x, kernel, mid, matrices):
    """`MBConv` with `mid` middle channels and a kernel of that size, from a larger one's weights.

    x: (B, c_in, H, W) -> (B, c_out, H/s, W/s);  matrices: see `elastic.kernel_view`
    """
    h = elastic.pointwise(x, elastic.first(block.expand.weight, mid))  # (B, mid, H, W)
    h = block.act(elastic.batch_norm(block.bn1, h))
    weight = elastic.kernel_view(elastic.first(block.depthwise.weight, mid), kernel, matrices)
    h = depthwise_view(block.depthwise, h, weight)
    h = block.act(elastic.batch_norm(block.bn2, h))
    h = elastic.squeeze_excite(block.se, h) if block.se is not None else h
    h = elastic.pointwise(h, elastic.leading(block.project.weight, mid))
    h = elastic.batch_norm(block.bn3, h)
    return x + h if block.residual else h


class FusedMBConv(nn.Module):
    """Inverted residual block whose expansion and depthwise convolution are one dense convolution;
    identity added where shapes allow."""

    se = None

    def __init__(self, place, mid, kernel, residual):
        super().__init__()
        self.expand = conv(place.c_in, mid, kernel, place.stride, end=place.end)
        self.bn1 = nn.BatchNorm2d(mid)
        self.project, self.bn2 = conv(mid, place.c_out), nn.BatchNorm2d(place.c_out)
        self.act, self.residual = activation(place.act), residual

    def forward(self, x):
        h = self.act(self.bn1(self.expand(x)))
        h = self.bn2(self.project(h))
        return x + h if self.residual else h


def fused_view(block, x, kernel, mid, matrices):
    """`FusedMBConv` with `mid` middle channels and a kernel of that size, from a larger one's
    weights; x, matrices: as in `mbconv_view`."""
    weight = elastic.kernel_view(elastic.first(block.expand.weight, mid), kernel, matrices)

    def convolve(padded):
        return F.conv2d(padded, weight, None, block.expand.stride, kernel // 2)

    ends = isinstance(block.expand, EndPadded)
    h = elastic.end_padded(convolve, x) if ends else convolve(x)  # (B, mid, H/s, W/s)
    h = block.act(elastic.batch_norm(block.bn1, h))
    h = elastic.pointwise(h, elastic.leading(block.project.weight, mid))
    h = elastic.batch_norm(block.bn2, h)
    return x + h if block.residual else h


def depthwise_view(layer, x, weight):
    """A depthwise convolution with another kernel than its own."""

    def convolve(padded):
        return elastic.depthwise(padded, weight, layer.stride[0])

    return elastic.end_padded(convolve, x) if isinstance(layer, EndPadded) else convolve(x)


def stem_layers(head):
    """The `plans.Head`: a convolution and a fixed block without expansion."""
    return nn.Sequential(
        OrderedDict(
            conv=conv(3, head.conv, 3, head.strides[0], end=head.end),
            bn=nn.BatchNorm2d(head.conv),
            act=activation(head.acts[0]),
            block=MBConv(head.place, None, 3, head.residual),
        )
    )


def stem_view(stem, x):
    """`stem_layers` with the fast gradients; nothing in it is elastic."""
    block = stem.block
    x = stem.act(elastic.batch_norm(stem.bn, stem.conv(x)))
    h = depthwise_view(block.depthwise, x, block.depthwise.weight)
    h = block.act(elastic.batch_norm(block.bn2, h))
    h = elastic.squeeze_excite(block.se, h) if block.se is not None else h
    h = elastic.batch_norm(block.bn3, block.project(h))
    return x + h if block.residual else h


def exit_layers(c, tail, n_classes, dropout):
    """A classifier on a stage output (B, c, H, W) -> (B, n_classes): the tail of MobileNetV3 at the
    widths of a `plans.Tail`, or without its second convolution."""
    wide, *mixed = tail.widths
    layers = OrderedDict(
        conv1=conv(c, wide),
        bn=nn.BatchNorm2d(wide),
        act1=activation(tail.act),
        pool=GlobalAverage(),
    )
    for width in mixed:
        layers |= {"conv2": conv(wide, width, bias=tail.bias), "act2": activation(tail.act)}
    layers |= {"flatten": nn.Flatten(), "dropout": nn.Dropout(dropout)}
    layers["linear"] = nn.Linear(tail.widths[-1], n_classes)
    return nn.Sequential(layers)


def exit_view(tail, x):
    """`exit_layers` with the fast gradients; nothing in it is elastic."""
    x = tail.act1(elastic.batch_norm(tail.bn, elastic.pointwise(x, tail.conv1.weight)))
    x = tail.pool(x)  # (B, t1, 1, 1)
    if hasattr(tail, "conv2"):
        x = tail.act2(elastic.pointwise(x, tail.conv2.weight, tail.conv2.bias))  # (B, t2, 1, 1)
    return tail.linear(tail.dropout(tail.flatten(x)))
