"""Torch modules of the networks, each beside its elastic twin.

A module is what an extracted subnet is made of.  Its `..._view` computes the same function with the
first channels, or another kernel, of a larger module's weights: that is how the supernet trains.
Source: Once-for-All, arXiv:1908.09791; OFAv2, arXiv:2302.01888; thesis 3.2 and 5.1.
"""

from collections import OrderedDict
from functools import partial

from torch import nn

from nat_lib import elastic
from nat_lib.blocks import se_hidden

ACTIVATIONS = {
    "relu": partial(nn.ReLU, inplace=True),  # batch norm's gradient needs no output
    "h_swish": nn.Hardswish,
}


def conv(c_in, c_out, kernel=1, stride=1, groups=1, bias=False):
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)


class SqueezeExcite(nn.Module):
    """Channel gate after the depthwise part; hard sigmoid, reduction 4.  x: (B, C, H, W)."""

    def __init__(self, c):
        super().__init__()
        hidden = se_hidden(c)
        self.reduce, self.relu = conv(c, hidden, bias=True), nn.ReLU()
        self.expand, self.gate = conv(hidden, c, bias=True), nn.Hardsigmoid()

    def forward(self, x):
        return x * self.gate(self.expand(self.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expand, depthwise, optional gate, 1x1 project; identity added
    where shapes allow.

    With mid = None there is no expansion (the fixed block of the stem).
    """

    def __init__(self, c_in, c_out, mid, kernel, stride, act, se, residual):
        super().__init__()
        width = mid or c_in
        if mid:
            self.expand, self.bn1 = conv(c_in, mid), nn.BatchNorm2d(mid)
        self.depthwise = conv(width, width, kernel, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcite(width) if se else None
        self.project, self.bn3 = conv(width, c_out), nn.BatchNorm2d(c_out)
        self.act, self.residual, self.has_expansion = ACTIVATIONS[act](), residual, bool(mid)

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
    h = elastic.depthwise(h, weight, block.depthwise.stride[0])
    h = block.act(elastic.batch_norm(block.bn2, h))
    h = elastic.squeeze_excite(block.se, h) if block.se is not None else h
    h = elastic.pointwise(h, elastic.leading(block.project.weight, mid))
    h = elastic.batch_norm(block.bn3, h)
    return x + h if block.residual else h


def stem_layers(layout):
    """The head: a strided convolution and a fixed block without expansion."""
    c, (outer, inner) = layout.stem, layout.stem_acts
    return nn.Sequential(
        OrderedDict(
            conv=conv(3, c, 3, layout.stem_stride),
            bn=nn.BatchNorm2d(c),
            act=ACTIVATIONS[outer](),
            block=MBConv(c, c, None, 3, 1, inner, False, residual=True),
        )
    )


def stem_view(stem, x):
    """`stem_layers` with the fast gradients; nothing in it is elastic."""
    block = stem.block
    x = stem.act(elastic.batch_norm(stem.bn, stem.conv(x)))
    h = elastic.depthwise(x, block.depthwise.weight, 1)
    h = block.act(elastic.batch_norm(block.bn2, h))
    return x + elastic.batch_norm(block.bn3, block.project(h))


def exit_layers(c, t1, t2, n_classes, dropout):
    """A classifier on a stage output (B, c, H, W) -> (B, n_classes): the tail of MobileNetV3 at the
    given widths."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv(c, t1),
            bn=nn.BatchNorm2d(t1),
            act1=nn.Hardswish(),
            pool=nn.AdaptiveAvgPool2d(1),
            conv2=conv(t1, t2),
            act2=nn.Hardswish(),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            linear=nn.Linear(t2, n_classes),
        )
    )


def exit_view(tail, x):
    """`exit_layers` with the fast gradients; nothing in it is elastic."""
    x = tail.act1(elastic.batch_norm(tail.bn, elastic.pointwise(x, tail.conv1.weight)))
    x = tail.act2(elastic.pointwise(tail.pool(x), tail.conv2.weight))  # (B, t2, 1, 1)
    return tail.linear(tail.dropout(tail.flatten(x)))
