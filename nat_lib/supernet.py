"""The elastic supernet and the plain networks extracted from it.

`Network` is an ordinary module of torch.nn layers.  `Supernet` holds the maximal `Network` as its
weights, adds the kernel transformations, and computes any subnet from views of them:
`Supernet(space)(x, arch)` is stateless in `arch`.
Source: Once-for-All, arXiv:1908.09791; OFAv2, arXiv:2302.01888; thesis 3.2 and 5.1.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from nat_lib import elastic
from nat_lib.blocks import active, middle
from nat_lib.errors import Refusal
from nat_lib.machine import keep_memory
from nat_lib.modules import FusedMBConv, MBConv, exit_layers, exit_view, stem_layers, stem_view


class Level(nn.Module):
    """One level of a stage: the sum of its active branches, rows of `blocks.BRANCHES`.

    Without parallel blocks the inverted residual is alone.  Source: thesis 5.1.1.
    """

    def __init__(self, place, kernel, expand, code):
        super().__init__()
        for name, branch in active(code):
            self.add_module(name, branch.module(place, kernel, expand))

    def forward(self, x):
        first, *others = [branch(x) for branch in self.children()]
        return sum(others, first)


def level_view(level, x, kernel, expand, code, matrices):
    """What a `Level` of that kernel, expand and code computes, on views of a larger one."""
    outputs = []
    for name, branch in active(code):
        module = getattr(level, name)
        if branch.forward is None:
            outputs.append(module(x))
        else:
            outputs.append(branch.forward(module, x, kernel, expand, matrices))
    first, *others = outputs
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


class Network(nn.Module):
    """A plain network: stem, stages and the exits it keeps.

    forward : x (B, 3, R, R) -> logits (B, n_classes), the vote of the exits that answer; or a list
              of logits, shallow to deep, when built for several exits
    """

    def __init__(self, space, arch, n_classes, exits=None, dropout=0.0):
        super().__init__()
        layout, kept = space.layout(arch.width), arch.answering if exits is None else exits
        self.several, self.weights = exits is not None, space.vote(kept)
        self.subnet = space, arch, n_classes, exits  # for the ledger
        self.stem = stem_layers(layout.head)
        self.stages = nn.ModuleList()
        for s in range(kept[-1]):
            levels = [level_of(space, arch, s, b) for b in range(arch.depth[s])]
            self.stages.append(Stage(levels, space.dense))
        self.exits = nn.ModuleDict()
        for i in kept:
            stage = layout.stages[i - 1]
            self.exits[str(i)] = exit_layers(stage.c_out, stage.tail, n_classes, dropout)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps = space.plan.bn_eps

    def forward(self, x):
        x, logits = self.stem(x), []
        for i, stage in enumerate(self.stages, 1):
            x = stage(x)
            if str(i) in self.exits:
                logits.append(self.exits[str(i)](x))
        return logits if self.several else voted(self.weights, logits)


def voted(weights, logits):
    """The weighted sum of the logits of exits; of one its own."""
    if len(logits) == 1:
        return logits[0]
    return sum(w * z for w, z in zip(weights, logits, strict=True))


def level_of(space, arch, s, b):
    """The `Level` that block b of stage s (both from 0) has in the plain network of `arch`."""
    place, slot = space.layout(arch.width).stages[s].place(b == 0), space.slots * s + b
    return Level(place, arch.kernel[slot], arch.expand[slot], arch.level[slot])


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


def _copy(tensor):
    """A tensor of one's own, convolutions with their channels last."""
    last = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.clone(memory_format=last)


class Supernet(nn.Module):
    """All subnets of one space at one width multiplier, sharing the weights of the maximal network.

    net(x, arch)               logits (B, n_classes) of the subnet that leaves at arch.exit: the
                               vote of the exits that answer
    net(x, arch, exits="all")  list of the logits of all its exits, shallow to deep; or of some:
                               exits=(1, 2, 3)
    net.extract(arch, ...)     the same subnet as a plain `Network` with its own weights

    The input's size is the batch's own: arch.resolution plays no part here.
    """

    def __init__(self, space, width=1.0, n_classes=200, seed=0, dropout=0.0):
        super().__init__()
        if width not in space.widths:
            legal = ", ".join(map(str, space.widths))
            raise Refusal(f"width {width!r} is not in this space: use one of {legal}")
        keep_memory()
        self.space, self.width, self.n_classes, self.dropout = space, width, n_classes, dropout
        largest = with_width(space.largest, width)
        self.body = Network(space, largest, n_classes, space.exits, dropout)
        initialise(self.body, seed)
        self.transforms = nn.ModuleList(
            nn.ParameterDict({str(k): torch.eye(k * k) for k in space.kernels[-2::-1]})
            for _ in largest.kernel
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x, arch, exits=None):
        kept = self.space.kept(exits) or arch.answering
        x, logits = stem_view(self.body.stem, x), []
        for s in range(kept[-1]):
            x = through(
                [partial(self._level, arch=arch, s=s, b=b) for b in range(arch.depth[s])],
                x,
                self.space.dense,
            )
            if s + 1 in kept:
                logits.append(exit_view(self.body.exits[str(s + 1)], x))
        return logits if exits is not None else voted(self.space.vote(kept), logits)

    def _level(self, x, arch, s, b):
        level, slot = self.body.stages[s].levels[b], self.space.slots * s + b
        choice = arch.kernel[slot], arch.expand[slot], arch.level[slot]
        return level_view(level, x, *choice, self.transforms[slot])

    @torch.no_grad()
    def extract(self, arch, exits=None):
        """The subnet as a plain network with its own weights, BN statistics included, in this
        network's mode.

        exits : None (the arch's own exit; forward returns a tensor), "all", or ascending positions
                (returns a list)
        """
        kept = self.space.kept(exits)
        with torch.device("meta"):
            static = Network(
                self.space, with_width(arch, self.width), self.n_classes, kept, self.dropout
            )
        shared = {
            name: tensor.detach()
            for of in (self.body.named_parameters, self.body.named_buffers)
            for name, tensor in of()
        }
        for prefix, module in static.named_modules():
            for own in (
                module._parameters,
                module._buffers,
            ):  # as load_state_dict, in half the time
                for last, like in own.items():
                    if like is None:
                        continue
                    name = f"{prefix}.{last}"
                    copy = _copy(self._view(shared[name], like.shape, name, arch))
                    own[last] = nn.Parameter(copy) if own is module._parameters else copy
        return static.train(self.training)

    def _view(self, tensor, shape, name, arch):
        """The part of a shared tensor that has the subnet's shape; smaller kernels are views of
        the kernel matrices."""
        part, s, _, b = (*name.split("."), *"...")[:4]
        if part == "stages" and tensor.ndim == 4 and shape[-1] < tensor.shape[-1]:
            matrices = self.transforms[self.space.slots * int(s) + int(b)]
            return elastic.kernel_view(tensor[: shape[0]], shape[-1], matrices)
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
                "the checkpoint is of another space, width or number of classes (first: "
                f"{wrong[0]}): load it into the supernet it was trained for"
            )
        self.body.load_state_dict(state)

    def sort_channels(self, protected=()):
        """Sort the middle channels of all inverted residual blocks by importance; outputs of the
        maximal net stay.

        protected : expansion ratios below the maximum whose channel sets must stay, e.g. (4,)
                    before phase E2
        """
        for block in self.body.stages.modules():
            if isinstance(block, MBConv | FusedMBConv):
                c_in = block.expand.weight.shape[1]
                elastic.sort_channels(block, [middle(c_in, e) for e in sorted(protected)])


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
