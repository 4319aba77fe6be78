"""The networks of the AEP study: torchvision's models, cut into stages, with an exit behind every
stage.

A row of `backbone_table.BACKBONES` says where to cut, a row of `HEADS` what an exit is made of;
another network is another row.  The single-exit baseline of a network has the same stem and stages
and only the last exit.
Source: thesis chapter 4; AEP, arXiv:2301.12168; stages and exits are those of the published
        notebook.
"""

import copy
from collections import OrderedDict
from fractions import Fraction
from typing import NamedTuple

import pandas as pd
import torch
import torchvision.models as tv
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation

from nat_lib.backbone_table import row_of
from nat_lib.errors import Refusal
from nat_lib.modules import GlobalAverage, fast_pooling

HIDDEN = ("measured", "proportional")  # options for the hidden layer of an exit
EPS, MOMENTUM = (
    1e-3,
    1e-2,
)  # of the batch norm in an exit, as in the torchvision models that have one
DESIGNED_FOR = 224  # pixels


class Head(NamedTuple):
    """Layers of an exit on C channels: expansion, activation, global average, hidden layer,
    dropout, classifier.

    expand : a 1x1 convolution to so many times C, with batch norm; 0: none
    hidden : {option: units of the hidden layer as a multiple of C, rounded down}; None: no such
             layer
    """

    expand: int = 0
    activation: type | None = None
    hidden: dict | None = None
    dropout: float = 0.0


HEADS = {
    "linear": Head(),
    "relu": Head(activation=nn.ReLU),
    # The thesis scales the features of torchvision's head, 1024 at 96 channels; its printed costs
    # are those of 1.75 C.
    "mobilenet_v3": Head(
        6, nn.Hardswish, {"measured": Fraction(7, 4), "proportional": Fraction(1024, 96)}, 0.2
    ),
    "efficientnet": Head(4, nn.SiLU, dropout=0.4),
}


class Cost(NamedTuple):
    """Trainable parameters and multiply-accumulates of one image.

    macs    : convolutions and linear layers
    macs_tp : also one per output element of normalisation, average pooling and
              squeeze-and-excitation, as the tool behind the thesis's tables counts (torchprofile)
    """

    params: int
    macs: int
    macs_tp: int


# ----------------------------------------------------------------------------------------- networks


class Network(nn.Module):
    """Stem, stages, and exits that read them: images (B, C, H, W) -> list of logits (B, K), shallow
    to deep.

    exits : {position of the stage it reads, from 1: module}; positions survive `extract`.  A
            network of one exit returns its logits alone
    """

    def __init__(self, stem, stages, exits):
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.exits = nn.ModuleDict({str(position): exits[position] for position in sorted(exits)})

    @property
    def positions(self):
        return tuple(map(int, self.exits))

    def forward(self, x):
        h, logits = self.stem(x), []
        for i, stage in enumerate(self.stages, 1):
            h = stage(h)
            if str(i) in self.exits:
                logits.append(self.exits[str(i)](h))
        return logits if len(logits) > 1 else logits[0]


# what the tool behind the thesis's tables counts once per output element
COUNTED_PER_ELEMENT = (
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    SqueezeExcitation,
)


def build(
    name, n_classes, single=False, channels=3, weights=None, hidden="measured", keep_stem=False
):
    """A `Network` of `backbone_table.BACKBONES`, initialised by torchvision and PyTorch from
    torch's generator.

    single    : the baseline: only the last exit
    channels  : of the images
    weights   : {torchvision's name: tensor} of stem and stages, see `imagenet.weights` and
                `backbone_weights`; None: random. Exits are always random
    hidden    : of MobileNetV3's exits: "measured" (1.75 C) | "proportional" (to torchvision's own
                head)
    keep_stem : use the given weights of the first module too, which the thesis never does
    """
    row = row_of(name)
    if hidden not in HIDDEN:
        raise Refusal(f"hidden layer {hidden!r}: use one of {', '.join(HIDDEN)}")
    if keep_stem and (channels != 3 or weights is None):
        raise Refusal("keep_stem needs images of 3 channels and weights to keep: leave it off")
    try:
        model = tv.get_model(row.builder, weights=None)
    except ValueError:
        raise Refusal(
            f"torchvision has no model {row.builder!r}: correct the row of {name} in BACKBONES"
        ) from None
    stem, *stages = parts = [_cut(model, text, row.builder) for text in (row.stem, *row.stages)]
    if weights is not None:
        for part in parts:
            for path, module in list(part.named_children())[part is stem and not keep_stem :]:
                _load(module, _original(path), weights, name)
    if not keep_stem:
        _renew(stem[0], channels, row)
    h, widths = _images(DESIGNED_FOR, channels), []
    for part in parts:
        h = _trace(part, h)[0]
        widths.append(h.shape[1])
    # The last exit is made first, so that a network and its baseline start from the same weights.
    exits = {
        i: _head(HEADS[row.head], widths[i], n_classes, hidden)
        for i in range(len(stages), len(stages) - 1 if single else 0, -1)
    }
    return Network(stem, stages, exits)


def extract(network, subset):
    """The network with only the exits of `subset` (original positions) and without the stages
    behind them: a copy."""
    subset = sorted(set(subset))
    if not subset or not set(subset) <= set(network.positions):
        legal = ", ".join(map(str, network.positions))
        raise Refusal(f"exits {subset} cannot be extracted: choose some of {legal}")
    parts = network.stem, network.stages[: subset[-1]], {i: network.exits[str(i)] for i in subset}
    return Network(*copy.deepcopy(parts)).train(network.training)


def _cut(model, text, builder):
    """The modules that a text names, in a row; each keeps its name in torchvision, with - for the
    dot."""
    try:
        found = {path: module for name in text.split("+") for path, module in _named(model, name)}
    except (AttributeError, IndexError, ValueError):
        raise Refusal(
            f"torchvision's {builder} has no part {text!r}: correct its row in BACKBONES"
        ) from None
    part = nn.Sequential(
        OrderedDict((path.replace(".", "-"), module) for path, module in found.items())
    )
    return fast_pooling(part)


def _named(model, name):
    """[(torchvision's name, module)] that "layer1", "features[0]" or "features[1:10]" stands
    for."""
    path, _, span = name.removesuffix("]").partition("[")
    module = model.get_submodule(path)
    if not span:
        return [(path, module)]
    start, _, stop = span.partition(":")
    children = list(module.named_children())
    some = [children[i] for i in range(int(start), int(stop or int(start) + 1))]
    return [(f"{path}.{key}", child) for key, child in some]


def _original(path):
    return path.replace("-", ".")


def _renew(module, channels, row):
    """Give the first module of a stem fresh weights and its convolution another number of input
    channels."""
    conv = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is None:
        raise Refusal(
            f"the stem of {row.builder}, {row.stem!r}, must begin with a convolution: correct its "
            "row"
        )
    conv.in_channels = channels
    conv.weight = nn.Parameter(
        conv.weight.new_empty(conv.out_channels, channels, *conv.kernel_size)
    )
    for m in module.modules():
        if hasattr(m, "reset_parameters"):
            m.reset_parameters()


def _head(head, channels, n_classes, hidden):
    """One exit: (B, channels, H, W) -> (B, n_classes).  It never changes its input, which the next
    stage reads."""
    layers, features = [], channels
    if head.expand:
        features = head.expand * channels
        layers += [
            nn.Conv2d(channels, features, 1, bias=False),
            nn.BatchNorm2d(features, EPS, MOMENTUM),
        ]
    layers += [head.activation()] if head.activation else []
    layers += [GlobalAverage(), nn.Flatten()]
    if head.hidden:
        units = int(head.hidden[hidden] * channels)
        layers += [nn.Linear(features, units), head.activation()]
        features = units
    layers += [nn.Dropout(head.dropout)] if head.dropout else []
    return nn.Sequential(*layers, nn.Linear(features, n_classes))


# ------------------------------------------------------------------------------------------ weights


def backbone_weights(state):
    """The weights of stem and stages in a Network's state_dict, by torchvision's names, for however
    it is cut."""
    found = {}
    for key, tensor in state.items():
        part, _, rest = key.partition(".")
        if part != "exits":
            found[_original(rest.partition(".")[2] if part == "stages" else rest)] = tensor
    return found


def _load(module, path, weights, name):
    mine = {
        key.removeprefix(f"{path}."): tensor
        for key, tensor in weights.items()
        if key.startswith(f"{path}.")
    }
    try:
        module.load_state_dict(mine)
    except RuntimeError:
        raise Refusal(
            f"the weights do not fit {path} of {name}: give those of torchvision's "
            f"{row_of(name).builder}"
        ) from None


# -------------------------------------------------------------------------------------------- costs


def parts(network, image_size, channels=3):
    """Costs of every part of a network, exact, without computing anything: DataFrame.

    Columns: part ("stem" | "stage" | "exit"), position (stem 0), channels and side of its output
             (an exit: classes
    and 1), params, macs, macs_tp.
    """
    h, rows = _images(image_size, channels), []

    def add(part, position, module, x):
        out, macs, macs_tp = _trace(module, x)
        params = sum(p.numel() for p in module.parameters() if p.requires_grad)
        side = out.shape[2] if out.ndim == 4 else 1
        rows.append((part, position, out.shape[1], side, params, macs, macs_tp))
        return out

    try:
        h = add("stem", 0, network.stem, h)
        for i, stage in enumerate(network.stages, 1):
            h = add("stage", i, stage, h)
            if i in network.positions:
                add("exit", i, network.exits[str(i)], h)
    except RuntimeError as error:
        raise Refusal(
            f"images of {channels} x {image_size} x {image_size} do not fit this network "
            f"({str(error).splitlines()[0]}): choose another size or number of channels"
        ) from None
    return pd.DataFrame(rows, columns=["part", "position", "channels", "side", *Cost._fields])


def cost(network, image_size, channels=3):
    """`Cost` of a network for one image of image_size x image_size pixels.  Thesis 4.2.3, Tables
    4.8 and 4.9."""
    return Cost(*parts(network, image_size, channels)[list(Cost._fields)].sum().tolist())


def cost_of_whole(network, image_size, channels=3):
    """`Cost` of any network that is no `Network`, for one image likewise."""
    _, macs, macs_tp = _trace(network, _images(image_size, channels))
    return Cost(sum(w.numel() for w in network.parameters()), macs, macs_tp)


def _images(size, channels):
    """One image that has a shape and no numbers."""
    return torch.empty(1, channels, size, size, device="meta")


@torch.no_grad()
def _trace(module, x):
    """(output, macs, macs_tp) of a module in evaluation mode for an input without numbers."""
    extra = []
    modules = list(module.modules())
    modes = [m.training for m in modules]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    hooks = [
        m.register_forward_hook(lambda m, given, out: extra.append(out.numel()))
        for m in modules
        if isinstance(m, COUNTED_PER_ELEMENT)
    ]
    module.eval()
    for m in norms:
        # the shape stays, and without numbers a batch norm takes longer than with them
        m.forward = _same
    try:
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        without = {key: tensor.to("meta") for key, tensor in state.items()}
        with FlopCounterMode(display=False) as counter:
            out = functional_call(module, without, x)
    finally:
        for m in norms:
            del m.forward
        for hook in hooks:
            hook.remove()
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode
    macs = counter.get_total_flops() // 2  # a multiplication and an addition
    return out, macs, macs + sum(extra)


def _same(x):
    return x
