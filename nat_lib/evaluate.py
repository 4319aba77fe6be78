"""Scoring one subnet: batch-norm recalibration, folding, top-1.

Running BN statistics belong to no subnet in particular: they are recomputed for each one before it
is scored.
Source: Once-for-All, arXiv:1908.09791; thesis 3.2.2 and 3.3.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nat_lib import ledger
from nat_lib.arch import Arch
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.exits import ensemble
from nat_lib.latency import measure
from nat_lib.supernet import voted

MEMORY = 2 << 30  # bytes of activations that scoring may hold at a time
WIDENING = 64  # no layer of the known networks holds more than so many times its images


class Record(NamedTuple):
    """One evaluation of one subnet: percent, counts, milliseconds (None: not measured)."""

    arch: Arch
    val_top1: float
    val_top5: float
    val_loss: float
    params: int
    macs: int
    macs_tp: int
    latency_ms: float | None = None


class Score(NamedTuple):
    """Mean cross-entropy (no smoothing) and percent correct over a set of images."""

    loss: float
    top1: float
    top5: float


def without_a_single(batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """The batches, a last one of a single image joined to the one before: one image has no
    statistics where its map is one pixel."""
    if len(batches) < 2 or len(batches[-1]) > 1:
        return batches
    *others, last, single = batches
    return [*others, torch.cat([last, single]).contiguous(memory_format=torch.channels_last)]


@torch.no_grad()
def recalibrate(network, batches):
    """Replace the BN statistics of a plain network, in place, by those of the given batches;
    returns the network.

    batches : list of images (B, 3, R, R).  Every BN normalises with the batch's own statistics;
              mean and biased variance are averaged over the batches, weighted by their sizes.
    """
    batches = without_a_single(batches)
    if len(batches[0]) < 2:
        raise Refusal("batch norms cannot be calibrated with one image: give calibration_images=2")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    values = {}  # per channel, of each norm in the batch at hand

    def note(module, inputs, output):
        values[module] = inputs[0].numel() // inputs[0].shape[1]

    hooks = [m.register_forward_hook(note) for m in norms]
    mean, var = ([torch.zeros_like(m.running_mean) for m in norms] for _ in range(2))
    network.eval()
    for m in norms:
        m.train().momentum = 1.0  # running statistics become those of the last batch
    total = sum(len(x) for x in batches)
    for x in batches:
        ledger.passed(network, x)
        network(x)
        for m, mu, v in zip(norms, mean, var, strict=True):
            share, n = len(x) / total, values[m]
            mu.add_(m.running_mean, alpha=share)
            # the library keeps the unbiased variance
            v.add_(m.running_var, alpha=share * (n - 1) / n)
    for m, mu, v, momentum in zip(norms, mean, var, momenta, strict=True):
        m.running_mean, m.running_var, m.momentum = mu, v, momentum
    for hook in hooks:
        hook.remove()
    return network.eval()


def fold(network):
    """A copy of a plain network in eval mode with every batch norm folded into the convolution
    before it."""
    return _fold(copy.deepcopy(network).eval())


def _fold(network):
    """The same in place: copying costs more than scoring a few hundred small images."""
    for module in list(network.modules()):
        for (_, conv), (name, bn) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight,
                    conv.bias,
                    bn.running_mean,
                    bn.running_var,
                    bn.eps,
                    bn.weight,
                    bn.bias,
                )
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Hardswish):
            module.inplace = True  # nobody else reads its input
    return network.to(memory_format=torch.channels_last)


def score(network, batches, weights=None):
    """Score of a network in eval mode over (images, labels) batches; of the weighted ensemble of
    several exits."""
    return score_exits(network, batches, weights)[0]


@torch.inference_mode()
def score_exits(network, batches, weights):
    """[Score of the ensemble, Score of exit 1, ...] of a network that returns several logits."""
    return _scores(
        network,
        batches,
        lambda out: [ensemble(out, weights), *out] if isinstance(out, list) else [out],
    )


def _scores(network, batches, answers):
    """A Score per answer; answers(what the network returns) -> [(B, K) logits]."""
    totals = 0
    for x, y in batches:
        for images, labels in in_memory(network, x, y):
            ledger.passed(network, images)
            given = answers(network(images))
            totals = totals + torch.stack([_sums(logits.float(), labels) for logits in given])
    return [Score(*(t / t[-1])[:3].tolist()) for t in totals.double()]


def in_memory(network, x, y):
    """[(images, labels)]: a batch in so many pieces that no layer of the network holds more than
    MEMORY bytes of activations at a time."""
    size = x[0].numel() * x.element_size() * len(x)
    if size * WIDENING <= MEMORY:
        return [(x, y)]
    pieces = max(1, MEMORY // _activations(network, x[:1]))
    return list(zip(x.split(pieces), y.split(pieces), strict=True))


def _activations(network, image):
    """Bytes of input and output of the largest layer, for one image."""
    sizes = []

    def note(module, inputs, output):
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        sizes.append(sum(t.numel() * t.element_size() for t in tensors))

    hooks = [m.register_forward_hook(note) for m in network.modules()]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def correct(outputs, labels):
    """(S, 2) images whose class is first, and among the first five, of outputs (S, N, K) and labels
    (N,); ties go as in argmax, and what is not a number is wrong."""
    own = outputs.gather(2, labels.expand(len(outputs), -1)[..., None])
    earlier = torch.arange(outputs.shape[2], device=labels.device) < labels[:, None]
    ahead = (outputs > own) | ((outputs == own) & earlier) | own.isnan()
    # truth values themselves are added five times slower
    rank = ahead.view(torch.uint8).sum(2, dtype=torch.int32)
    return torch.stack([(rank < 1).sum(1), (rank < 5).sum(1)], 1)


def _sums(logits, y):
    loss = F.cross_entropy(logits, y, reduction="sum")[None]
    images = loss.new_tensor([float(len(y))])
    return torch.cat([loss, 100.0 * correct(logits[None], y)[0], images])


def prepare(net, arch, data, resolution, exits=None):
    """The subnet as a plain network, BN recalibrated at `resolution` (pixels) and folded: ready to
    be scored."""
    return _fold(recalibrate(net.extract(arch, exits), data.calibration_batches(resolution)))


def families(archs, space) -> list[list[int]]:
    """Indices of subnets that differ in nothing but the exits that answer, the deepest one first:
    what one passes, the others pass too."""
    found: list[list[int]] = []
    of: dict[Arch, list[int]] = {}
    for i in sorted(range(len(archs)), key=lambda i: -archs[i].exit):
        backbone = replace(archs[i], also=())
        family = of.get(backbone.canonical())
        if family is None:
            family = []
            found.append(family)
            for exit in space.exits[: space.exits.index(archs[i].exit) + 1]:
                of.setdefault(replace(backbone, exit=exit).canonical(), family)
        family.append(i)
    return found


@torch.inference_mode()
def score_many(net, archs, data, batches) -> Iterator[tuple[int, Score]]:
    """(index, Score) of many subnets, each scored as `score(prepare(net, arch, ...))` would.

    A family, see `families`, is calibrated once and passes the images once: the statistics of what
    lies before an exit do not depend on what lies behind it.

    batches : function of the resolution: (images, labels) batches
    """
    for family in families(archs, net.space):
        sets, side = [archs[i].answering for i in family], archs[family[0]].resolution
        exits = sorted({exit for some in sets for exit in some})
        network = prepare(net, archs[family[0]], data, side, exits)
        answers = partial(_answers, net.space, exits, sets)
        yield from zip(family, _scores(network, batches(side), answers), strict=True)


def _answers(space, exits, sets, logits):
    """What each of these sets of exits answers, from the logits of `exits`, positions too."""
    of = dict(zip(exits, logits, strict=True))
    return [voted(space.vote(some), [of[exit] for exit in some]) for some in sets]


def evaluate(net, arch, data, batch_size=100, measure_latency=False):
    """Precise evaluation of one subnet on the validation split, at its own resolution.  Thesis
    3.3.4.

    net : `Supernet`;  arch : `Arch`;  data : `data.Data`.  The supernet and its statistics are not
          changed.
    """
    network = recalibrate(net.extract(arch), data.calibration_batches(arch.resolution))
    ms = (
        measure(network, arch.resolution).ms if measure_latency else None
    )  # before the batch norms are folded
    result = score(_fold(network), data.eval_batches("val", arch.resolution, batch_size))
    cost = count([arch], net.space, net.n_classes).iloc[0]
    return Record(
        arch,
        result.top1,
        result.top5,
        result.loss,
        int(cost.params),
        int(cost.macs),
        int(cost.macs_tp),
        ms,
    )
