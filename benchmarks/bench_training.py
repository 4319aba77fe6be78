"""Training step against `ofa`: maximal network, elastic step with a teacher, and what being elastic
costs.

OFAMobileNetV3 at full size, batch 64, 64 pixels, 200 classes, fp32, the same weights, images and
subnets on both sides.

row 1   zero gradients, forward, cross-entropy (smoothing 0.1), backward, SGD step of the maximal
network row 1b  teacher forward (maximal network, no gradient), four sampled subnets with
distillation, one SGD step row 2   the subnets inside the supernet against the same subnets
extracted

    python benchmarks/bench_training.py [--rounds 7] [--threads 2] [--clock wall|cpu] [--json PATH]
"""

import copy

import peer
import timing
import torch
import torch.nn.functional as F

from nat_lib.arch import Space
from nat_lib.distill import soft_ce
from nat_lib.optimizers import sgd
from nat_lib.supernet import Supernet, with_width
from nat_lib.train import flat_gradients

BATCH, LR = 64, 1e-3


def loss_of(logits, y, soft=None):
    loss = F.cross_entropy(logits, y, label_smoothing=0.1)
    return loss if soft is None else loss + soft_ce(logits, soft)


def ours(net, forwards, y, teacher=None):
    """A training step as `train.fit` does it, of a network of this kit."""
    optimizer = sgd(net, 3e-5)
    for group in optimizer.param_groups:
        group["lr"] = LR
    flat = flat_gradients(p for group in optimizer.param_groups for p in group["params"])

    def step():
        flat.zero_()
        soft = teacher and teacher()
        for forward in forwards:
            loss_of(forward(), y, soft).backward()
        optimizer.step()

    return step


def theirs(net, forwards, y, teacher=None):
    """A training step as the peer's code does it."""
    optimizer = torch.optim.SGD(
        net.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=3e-5
    )

    def step():
        optimizer.zero_grad()
        soft = teacher and teacher()
        for forward in forwards:
            loss_of(forward(), y, soft).backward()
        optimizer.step()

    return step


def teacher_of(network, x):
    def targets():
        with torch.no_grad():
            return network(x)

    return targets


def main():
    chosen = timing.options(__doc__, rounds=7)
    torch.manual_seed(0)
    space = Space("BASE")
    largest, net = (
        with_width(space.largest, 1.0),
        Supernet(space, 1.0, peer.CLASSES, dropout=0.1).train(),
    )
    other = peer.supernet(net).train()
    x, y = torch.randn(BATCH, 3, peer.SIDE, peer.SIDE), torch.randint(peer.CLASSES, (BATCH,))
    last = x.contiguous(memory_format=torch.channels_last)
    static, other_teacher = net.extract(largest), copy.deepcopy(other).eval()
    peer.activate(other_teacher, largest)
    our_teacher = net.extract(largest).eval()

    def at_peer(arch):
        def forward():
            peer.activate(other, arch)
            return other(x)

        return forward

    def elastic(i):
        archs = peer.quadruple(other, i)
        return {
            "ours": ours(
                net, [lambda a=a: net(last, a) for a in archs], y, teacher_of(our_teacher, last)
            ),
            "ofa": theirs(other, [at_peer(a) for a in archs], y, teacher_of(other_teacher, x)),
        }

    def dynamic(archs):
        statics = [net.extract(a) for a in archs]
        return {
            "elastic": ours(net, [lambda a=a: net(last, a) for a in archs], y),
            "extracted": ours(
                torch.nn.ModuleList(statics), [lambda s=s: s(last) for s in statics], y
            ),
        }

    rows = []
    times = timing.interleave(
        {
            "ours": ours(net, [lambda: net(last, largest)], y),
            "extracted": ours(static, [lambda: static(last)], y),
            "ofa": theirs(other, [at_peer(largest)], y),
        },
        chosen.rounds,
        chosen.clock,
    )
    rows.append(timing.compare(times, "ours", "ofa", "1 maximal step", 0.55))
    for i in range(2):
        pair = timing.interleave(elastic(i), max(3, chosen.rounds // 2), chosen.clock)
        rows.append(timing.compare(pair, "ours", "ofa", f"1b elastic step, quadruple {i}", 0.55))
    rows.append(timing.compare(times, "ours", "extracted", "2 elastic / extracted, maximal", 1.03))
    for i in range(2):
        pair = timing.interleave(
            dynamic(peer.quadruple(other, i)), max(3, chosen.rounds // 2), chosen.clock
        )
        rows.append(
            timing.compare(
                pair, "elastic", "extracted", f"2 elastic / extracted, quadruple {i}", 1.03
            )
        )
    timing.show(rows, chosen)


if __name__ == "__main__":
    main()
