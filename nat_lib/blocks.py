"""The blocks of a level, one row per branch, and what each of them costs.

A level of a stage is the sum of its active branches; the bits of its code say which are active.
Everything that the kit must know of a branch stands in its row of `BRANCHES`: training, counting,
timing, extraction and the drawings read nothing else.  No tensor appears here: torch is imported by
the function of a row that builds the module.
Source: thesis 5.1.1 (parallel levels), Table 3.1 (inverted residual blocks); of "fused",
EfficientNetV2, arXiv:2104.00298.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Act(NamedTuple):
    """An activation.  label: in tables; module: its name in torch.nn; operations: per element, as
    `cost` counts them in macs_tp."""

    label: str
    module: str
    operations: int


ACTS = {
    "relu": Act("ReLU", "ReLU", 0),
    "relu6": Act("ReLU6", "ReLU6", 0),
    "h_swish": Act("Hswish", "Hardswish", 1),
    "silu": Act("SiLU", "SiLU", 1),
}


class Gate(NamedTuple):
    """A squeeze-and-excitation.  divisor: of its hidden channels; inner: activation of these, a key
    of ACTS; module: what scales the channels, its name in torch.nn."""

    divisor: int
    inner: str
    module: str


# MobileNetV3: a quarter of the block's middle channels.  EfficientNet: a quarter of its input's,
# which are a sixth of the middle.
GATES = {
    "mobilenet_v3": Gate(4, "relu", "Hardsigmoid"),
    "efficientnet": Gate(24, "silu", "Sigmoid"),
}


class Place(NamedTuple):
    """Where a block stands: channels, stride, activation, gate (a key of GATES, "": none), whether
    it is the first of its stage (and so has no identity to add), whether a stride of even sides
    pads at the end only."""

    c_in: int
    c_out: int
    stride: int
    act: str
    gate: str
    first: bool
    end: bool = False


class Layer(NamedTuple):
    """One layer with its BN and activation. `mid`: middle channels of the block it belongs to;
    size: output side; params, macs, macs_tp: as in `cost`."""

    what: str
    kernel: int
    c_in: int
    mid: int
    c_out: int
    stride: int
    size: int
    params: int
    macs: int
    macs_tp: int


class Branch(NamedTuple):
    """One kind of block.

    bit     : of a level's code; a power of two that no other branch has
    elastic : do kernel size and expansion ratio of the slot matter to it?
    label   : its name in drawings and legends;  colour : of its boxes
    layers  : (place, side of the input, kernel, expand) -> list of `Layer`
    module  : (place, kernel, expand) -> nn.Module; at the largest kernel and expand it holds the
              shared weights.  Of an extracted subnet: the slices of those weights that it uses
    forward : (module with the shared weights, x, kernel, expand, kernel matrices) -> what a module
              of that kernel and expand computes, on views; None: the module is called as it is
    """

    bit: int
    elastic: bool
    label: str
    colour: str
    layers: Callable[..., list[Layer]]
    module: Callable[..., Any]
    forward: Callable[..., Any] | None = None


# ------------------------------------------------------------------------------------ sizes


def round8(v: float) -> int:
    """Nearest multiple of 8, at least 8, and never below 0.9 v: the channel rounding of OFA."""
    near = max(8, int(v + 4) // 8 * 8)
    return near + 8 if near < 0.9 * v else near


def middle(c_in: int, expand: float) -> int:
    """Channels inside an inverted residual block with c_in input channels."""
    return round8(round(c_in * expand))


def se_hidden(mid: int, divisor: int = 4) -> int:
    """Hidden channels of the squeeze-and-excitation module on `mid` channels."""
    return round8(mid // divisor)


def after(stride: int, side: int) -> int:
    """Output side of a "same"-padded convolution, and of the pooling that runs beside it: divided,
    rounded up."""
    return -(-side // stride)


# ------------------------------------------------------------------------------------ layers


def conv_layer(
    what, c_in, c_out, kernel, size, stride=1, act="relu", groups=1, bias=False, bn=True, mid=0
) -> Layer:
    """A convolution with its BN and activation; `size` is the side of the output."""
    weights = kernel * kernel * (c_in // groups) * c_out
    outputs = c_out * size * size
    params = weights + c_out * (bias + 2 * bn)
    macs = weights * size * size
    macs_tp = macs + outputs * (bn + ACTS[act].operations)
    return Layer(what, kernel, c_in, mid, c_out, stride, size, params, macs, macs_tp)


def gate_layer(c: int, size: int, gate: str) -> Layer:
    """Squeeze-and-excitation: pooling, two biased 1x1 convolutions on one pixel, one product per
    element."""
    row = GATES[gate]
    hidden = se_hidden(c, row.divisor)
    macs = 2 * c * hidden
    inner = hidden * ACTS[row.inner].operations
    macs_tp = macs + inner + pooling(c, size) + c * size * size
    return Layer("gate", 1, c, c, c, 1, size, macs + hidden + c, macs, macs_tp)


def pooling(c: int, size: int) -> int:
    """Outputs of the mean over the width, then of the mean over the height."""
    return c * size + c


def irb_layers(place, side, kernel, expand):
    mid, size = middle(place.c_in, expand), after(place.stride, side)
    gate = [gate_layer(mid, size, place.gate)] if place.gate else []
    return [
        conv_layer("expand", place.c_in, mid, 1, side, act=place.act, mid=mid),
        conv_layer(
            "depthwise", mid, mid, kernel, size, place.stride, place.act, groups=mid, mid=mid
        ),
        *gate,
        conv_layer("project", mid, place.c_out, 1, size, mid=mid),
    ]


def fused_layers(place, side, kernel, expand):
    """Expansion and depthwise convolution in one dense one."""
    mid, size = middle(place.c_in, expand), after(place.stride, side)
    return [
        conv_layer("fused", place.c_in, mid, kernel, size, place.stride, place.act, mid=mid),
        conv_layer("project", mid, place.c_out, 1, size, mid=mid),
    ]


def pointwise_layers(place, side, kernel, expand):
    size = after(place.stride, side)
    return [conv_layer("pointwise", place.c_in, place.c_out, 1, size, place.stride, place.act)]


def transform_layers(place, side, kernel, expand):
    """Max-pooling is free; where the channels differ a biased convolution matches them, else BN and
    activation stand alone."""
    c, stride, size = place.c_out, place.stride, after(place.stride, side)
    if place.c_in != c:
        return [conv_layer("transform", place.c_in, c, 1, size, stride, place.act, bias=True)]
    operations = c * size * size * (1 + ACTS[place.act].operations)
    return [Layer("transform", 0, c, 0, c, stride, size, 2 * c, 0, operations)]


# ------------------------------------------------------------------------------------ modules


def irb_module(place, kernel, expand):
    from nat_lib.modules import MBConv

    return MBConv(place, middle(place.c_in, expand), kernel, residual=not place.first)


def irb_forward(module, x, kernel, expand, matrices):
    from nat_lib.modules import mbconv_view

    return mbconv_view(module, x, kernel, middle(x.shape[1], expand), matrices)


def fused_module(place, kernel, expand):
    from nat_lib.modules import FusedMBConv

    return FusedMBConv(place, middle(place.c_in, expand), kernel, residual=not place.first)


def fused_forward(module, x, kernel, expand, matrices):
    from nat_lib.modules import fused_view

    return fused_view(module, x, kernel, middle(x.shape[1], expand), matrices)


def pointwise_module(place, kernel, expand):
    from torch import nn

    from nat_lib.modules import activation, conv

    layer = conv(place.c_in, place.c_out, 1, place.stride)
    return nn.Sequential(layer, nn.BatchNorm2d(place.c_out), activation(place.act))


def transform_module(place, kernel, expand):
    from torch import nn

    from nat_lib.modules import activation, conv

    pool = [nn.MaxPool2d(place.stride, ceil_mode=True)] if place.stride > 1 else []
    match = [conv(place.c_in, place.c_out, bias=True)] if place.c_in != place.c_out else []
    return nn.Sequential(*pool, *match, nn.BatchNorm2d(place.c_out), activation(place.act))


# ------------------------------------------------------------------------------------ the table

BRANCHES: dict[str, Branch] = {
    "irb": Branch(4, True, "inverted residual", "#6f9fc8", irb_layers, irb_module, irb_forward),
    "pointwise": Branch(2, False, "1x1 convolution", "#a8d0c0", pointwise_layers, pointwise_module),
    "transform": Branch(1, False, "transformation", "#f0e0a8", transform_layers, transform_module),
    "fused": Branch(8, True, "fused block", "#b08fc7", fused_layers, fused_module, fused_forward),
}


def active(code: int) -> list[tuple[str, Branch]]:
    """[(name, branch)] of a level's code, in the order of the table."""
    return [(name, branch) for name, branch in BRANCHES.items() if code & branch.bit]


def elastic_bits() -> int:
    """The bits of all branches to which kernel size and expansion ratio matter."""
    return sum(branch.bit for branch in BRANCHES.values() if branch.elastic)


def levels_of(names: Iterable[str]) -> tuple[int, ...]:
    """Codes of all combinations of some branches, by number of branches, then by code: the order of
    the genotype."""
    bits = [BRANCHES[name].bit for name in names]
    codes = {0}
    for bit in bits:
        codes |= {code | bit for code in codes}
    return tuple(sorted(codes - {0}, key=lambda code: (code.bit_count(), code)))


def level_layers(place: Place, side: int, kernel: int, expand: int, code: int) -> list[Layer]:
    """The layers of all active branches of one level; `side` is that of its input."""
    return [
        layer for _, branch in active(code) for layer in branch.layers(place, side, kernel, expand)
    ]
