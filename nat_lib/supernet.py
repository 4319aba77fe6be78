"""The elastic supernet and the plain networks extracted from it.

`Network` is an ordinary module of torch.nn layers.  `Supernet` holds the maximal `Network` as its
weights, adds the kernel transformations, and computes any subnet from views of them:
`Supernet(space)(x, arch)` is stateless in `arch`.
Source: Once-for-All, arXiv:1908.09791; OFAv2, arXiv:2302.01888; thesis 3.2 and 5.1.
"""

from collections import OrderedDict
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from nat_lib import elastic
from nat_lib.arch import middle, se_hidden
from nat_lib.errors import Refusal

ACTIVATIONS = {
    "relu": partial(nn.ReLU, inplace=True),
    "h_swish": nn.Hardswish,
}  # batch norm's gradient needs no output
IRB, POINTWISE, TRANSFORM = (
    4,
    2,
    1,
)  # the bits of a level code: which branches of a parallel level are active


def conv(c_in, c_out, kernel=1, stride=1, groups=1, bias=False):
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)


class SqueezeExcite(nn.Module):
    """Channel gate after the depthwise part; hard sigmoid, reduction 4.  x: (B, C, H, W)."""

    def __init__(self, c):
        super().__init__()
        self.reduce, self.relu, self.expand, self.gate = (
            conv(c, se_hidden(c), bias=True),
            nn.ReLU(),
            conv(se_hidden(c), c, bias=True),
            nn.Hardsigmoid(),
        )

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
        self.depthwise, self.bn2 = (
            conv(width, width, kernel, stride, groups=width),
            nn.BatchNorm2d(width),
        )
        self.se = SqueezeExcite(width) if se else None
        self.project, self.bn3 = conv(width, c_out), nn.BatchNorm2d(c_out)
        self.act, self.residual, self.has_expansion = ACTIVATIONS[act](), residual, bool(mid)

    def forward(self, x):
        h = self.act(self.bn1(self.expand(x))) if self.has_expansion else x
        h = self.act(self.bn2(self.depthwise(h)))
        h = self.se(h) if self.se is not None else h
        h = self.bn3(self.project(h))
        return x + h if self.residual else h


class Level(nn.Module):
    """One level of a stage: the sum of its active branches (inverted residual, pointwise,
    transformation).

    Without parallel blocks the inverted residual is alone.  Source: thesis 5.1.1.
    """

    def __init__(self, c_in, c_out, mid, kernel, stride, act, se, first, code):
        super().__init__()
        if code & IRB:
            self.irb = MBConv(c_in, c_out, mid, kernel, stride, act, se, residual=not first)
        if code & POINTWISE:
            self.pointwise = nn.Sequential(
                conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out), ACTIVATIONS[act]()
            )
        if code & TRANSFORM:
            pool = [nn.MaxPool2d(stride, ceil_mode=True)] if stride > 1 else []
            match = [conv(c_in, c_out, bias=True)] if c_in != c_out else []
            self.transform = nn.Sequential(*pool, *match, nn.BatchNorm2d(c_out), ACTIVATIONS[act]())

    def forward(self, x):
        first, *others = [branch(x) for branch in self.children()]
        return sum(others, first)


def through(levels, x, dense):
    """Pass x through the levels of a stage; with dense skips every later tensor also sums the older
    level outputs.

    After k levels the tensor passed on is y_k + (y_1 + ... + y_{k-2}).  Source: thesis 5.1.1.
    """
    outputs = []
    for level in levels:
        y = level(x)
        x = sum(outputs[:-1], y) if dense else y
        outputs.append(y)
    return x


class Stage(nn.Module):
    def __init__(self, levels, dense):
        super().__init__()
        self.levels, self.dense = nn.ModuleList(levels), dense

    def forward(self, x):
        return through(self.levels, x, self.dense)


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


class Network(nn.Module):
    """A plain network: stem, stages and the exits it keeps.

    forward : x (B, 3, R, R) -> logits (B, n_classes), or a list of them, shallow to deep, when
              built for several exits
    """

    def __init__(self, space, arch, n_classes, exits=None, dropout=0.0):
        super().__init__()
        plan = space.plan(arch.width)
        kept = (arch.exit,) if exits is None else exits
        self.several = exits is not None
        self.stem = nn.Sequential(
            OrderedDict(
                conv=conv(3, plan.stem, 3, 2),
                bn=nn.BatchNorm2d(plan.stem),
                act=nn.Hardswish(),
                block=MBConv(plan.stem, plan.stem, None, 3, 1, "relu", False, residual=True),
            )
        )
        self.stages = nn.ModuleList(
            Stage([level_of(space, arch, s, b) for b in range(arch.depth[s])], space.dense)
            for s in range(kept[-1])
        )
        self.exits = nn.ModuleDict(
            {
                str(i): exit_layers(
                    plan.stages[i - 1].c_out, *plan.stages[i - 1].tail, n_classes, dropout
                )
                for i in kept
            }
        )

    def forward(self, x):
        x, logits = self.stem(x), []
        for i, stage in enumerate(self.stages, 1):
            x = stage(x)
            if str(i) in self.exits:
                logits.append(self.exits[str(i)](x))
        return logits if self.several else logits[0]


def level_of(space, arch, s, b):
    """The `Level` that block b of stage s (both from 0) has in the plain network of `arch`."""
    stage, slot = space.plan(arch.width).stages[s], space.slots * s + b
    c_in, stride = (stage.c_in, stage.stride) if b == 0 else (stage.c_out, 1)
    return Level(
        c_in,
        stage.c_out,
        middle(c_in, arch.expand[slot]),
        arch.kernel[slot],
        stride,
        stage.act,
        stage.se,
        b == 0,
        arch.level[slot],
    )


@torch.no_grad()
def initialise(network, seed):
    """He initialisation by fan-out of every convolution, U(+-1/sqrt(in)) of the classifiers, zero
    biases; in place."""
    g = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            m.weight.normal_(0, (2 / (m.kernel_size[0] ** 2 * m.out_channels)) ** 0.5, generator=g)
        elif isinstance(m, nn.Linear):
            m.weight.uniform_(-(m.in_features**-0.5), m.in_features**-0.5, generator=g)
        elif isinstance(m, nn.BatchNorm2d):
            m.reset_parameters()
        if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None:
            m.bias.zero_()


class Supernet(nn.Module):
    """All subnets of one space at one width multiplier, sharing the weights of the maximal network.

    net(x, arch)               logits (B, n_classes) of the subnet that leaves at arch.exit
    net(x, arch, exits="all")  list of the logits of all its exits, shallow to deep; or of some:
    exits=(1, 2, 3) net.extract(arch, ...)     the same subnet as a plain `Network` with its own
    weights The input's size is the batch's own: arch.resolution plays no part here.
    """

    def __init__(self, space, width=1.0, n_classes=200, seed=0, dropout=0.0):
        super().__init__()
        if width not in space.widths:
            raise Refusal(
                f"width {width!r} is not in this space: use one of {', '.join(map(str, space.widths))}"
            )
        self.space, self.width, self.n_classes, self.dropout = space, width, n_classes, dropout
        largest = with_width(space.largest, width)
        self.body = Network(space, largest, n_classes, self._exits("all", largest), dropout)
        initialise(self.body, seed)
        self.transforms = nn.ModuleList(
            nn.ParameterDict({"5": torch.eye(25), "3": torch.eye(9)}) for _ in largest.kernel
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x, arch, exits=None):
        kept = self._exits(exits, arch)
        x, logits = self._stem(x), []
        for s in range(kept[-1]):
            x = through(
                [partial(self._level, arch=arch, s=s, b=b) for b in range(arch.depth[s])],
                x,
                self.space.dense,
            )
            if s + 1 in kept:
                logits.append(self._classify(x, s + 1))
        return logits if exits is not None else logits[0]

    def _exits(self, exits, arch):
        if exits is None:
            return (arch.exit,)
        kept = tuple(self.space.exits) if exits == "all" else tuple(exits)
        if not kept or list(kept) != sorted(set(kept)) or not set(kept) <= set(self.space.exits):
            raise Refusal(
                f"exits {exits!r}: use None, 'all', or ascending positions out of {self.space.exits}"
            )
        return kept

    def _stem(self, x):
        stem, block = self.body.stem, self.body.stem.block
        x = F.hardswish(elastic.batch_norm(stem.bn, stem.conv(x)))
        h = F.relu(elastic.batch_norm(block.bn2, elastic.depthwise(x, block.depthwise.weight, 1)))
        return x + elastic.batch_norm(block.bn3, block.project(h))

    def _level(self, x, arch, s, b):
        level, slot = self.body.stages[s].levels[b], self.space.slots * s + b
        code = arch.level[slot]
        branches = (
            [self._mbconv(level.irb, x, slot, arch.kernel[slot], arch.expand[slot])]
            if code & IRB
            else []
        )
        branches += [level.pointwise(x)] if code & POINTWISE else []
        branches += [level.transform(x)] if code & TRANSFORM else []
        return sum(branches[1:], branches[0])

    def _mbconv(self, block, x, slot, kernel, expand):
        mid = middle(x.shape[1], expand)
        h = elastic.pointwise(x, elastic.first(block.expand.weight, mid))  # (B, mid, H, W)
        h = block.act(elastic.batch_norm(block.bn1, h))
        weight = elastic.kernel_view(
            elastic.first(block.depthwise.weight, mid), kernel, self.transforms[slot]
        )
        h = block.act(
            elastic.batch_norm(block.bn2, elastic.depthwise(h, weight, block.depthwise.stride[0]))
        )
        h = elastic.squeeze_excite(block.se, h) if block.se is not None else h
        h = elastic.batch_norm(
            block.bn3, elastic.pointwise(h, block.project.weight[:, :mid])
        )  # (B, c_out, H/s, W/s)
        return x + h if block.residual else h

    def _classify(self, x, position):
        tail = self.body.exits[str(position)]
        x = tail.act1(elastic.batch_norm(tail.bn, elastic.pointwise(x, tail.conv1.weight)))
        x = tail.act2(elastic.pointwise(tail.pool(x), tail.conv2.weight))  # (B, t2, 1, 1)
        return tail.linear(tail.dropout(tail.flatten(x)))

    @torch.no_grad()
    def extract(self, arch, exits=None):
        """The subnet as a plain network with its own weights, BN statistics included, in this
        network's mode.

        exits : None (the arch's own exit; forward returns a tensor), "all", or ascending positions
                (returns a list)
        """
        kept = None if exits is None else self._exits(exits, arch)
        with torch.device("meta"):
            static = Network(
                self.space, with_width(arch, self.width), self.n_classes, kept, self.dropout
            )
        state = self.body.state_dict()
        views = {
            name: self._view(state[name], like.shape, name, arch)
            for name, like in static.state_dict().items()
        }
        static.load_state_dict(
            {k: v.clone(memory_format=torch.preserve_format) for k, v in views.items()}, assign=True
        )
        for p in static.parameters():
            p.requires_grad_(True)
        return static.to(memory_format=torch.channels_last).train(self.training)

    def _view(self, tensor, shape, name, arch):
        if name.startswith("stages.") and name.endswith("irb.depthwise.weight"):
            _, s, _, b, *_ = name.split(".")
            slot = self.space.slots * int(s) + int(b)
            return elastic.kernel_view(tensor[: shape[0]], arch.kernel[slot], self.transforms[slot])
        return tensor[tuple(slice(n) for n in shape)]

    def load_maximal(self, state):
        """Take the weights of a trained maximal network (a Full-phase checkpoint); kernel matrices
        stay as they are.

        state : state_dict of `extract(space.largest, exits="all")`, whose names map one to one
        """
        mine = self.body.state_dict()
        wrong = sorted(set(mine) ^ set(state)) + [
            k for k in mine if k in state and mine[k].shape != state[k].shape
        ]
        if wrong:
            raise Refusal(
                f"the checkpoint is of another space, width or number of classes (first: {wrong[0]}):"
                " load it into the supernet it was trained for"
            )
        self.body.load_state_dict(state)

    def sort_channels(self, protected=()):
        """Sort the middle channels of all inverted residual blocks by importance; outputs of the
        maximal net stay.

        protected : expansion ratios below the maximum whose channel sets must stay, e.g. (4,)
                    before phase E2
        """
        for stage in self.body.stages:
            for level in stage.levels:
                c_in = level.irb.expand.weight.shape[1]
                elastic.sort_channels(level.irb, [middle(c_in, e) for e in sorted(protected)])


def with_width(arch, width):
    """The same choices in the supernet of another width multiplier."""
    return replace(arch, width=width)


class Supernets(nn.Module):
    """The supernets of one space, one per width multiplier.  Called and extracted from like one
    `Supernet`."""

    def __init__(self, space, n_classes, seed=0):
        super().__init__()
        self.space, self.n_classes = space, n_classes
        self.members = nn.ModuleList(
            Supernet(space, width, n_classes, seed) for width in space.widths
        )

    def of(self, width):
        return self.members[self.space.widths.index(width)]

    def forward(self, x, arch, exits=None):
        return self.of(arch.width)(x, arch, exits)

    def extract(self, arch, exits=None):
        return self.of(arch.width).extract(arch, exits)
