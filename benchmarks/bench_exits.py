"""Joint training of all exits against the single exit and against plain torchvision; pruning
against validation.

Batch 64, 64 pixels, 200 classes, fp32, the same first weights and images on both sides. The peer is
the same network as
torchvision has it: channels first, one loss per exit summed in Python, torch's default Adam.

row 8  zero gradients, forward, weighted sum of the exits' cross-entropies, backward, Adam step;
       pruning of five exits (one pass, all 31 subsets scored and costed, the best one extracted)
       against one pass

    python benchmarks/bench_exits.py [--rounds 7] [--threads 2] [--clock wall|cpu] [--json PATH]
"""

import timing
import torch
import torch.nn.functional as F
from torch import nn

from nat_lib.backbones import build, parts
from nat_lib.evaluate import score
from nat_lib.exit_weights import exit_weights
from nat_lib.exits import exit_losses, stacked
from nat_lib.modules import GlobalAverage
from nat_lib.studies import aep, subsets
from nat_lib.train import flat_gradients

BATCH, SIDE, CLASSES = 64, 64, 200
VALIDATION = 80  # batches: as many images as CIFAR-10 has for validation
GOALS = {
    "ResNet50": (1.05, 1.0),
    "MobileNetV3Smallfull": (1.20, 0.65),
}  # of the single exit, of the peer


def network_of(name, single=False):
    torch.manual_seed(0)
    return build(name, CLASSES, single).train()


def loss_weights(network):
    return exit_weights("DESC", len(network.positions))[0]


def ours(network, x, y):
    """A training step as `aep.train` and `train.fit` do it."""
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), aep.LR, fused=True)
    flat, alpha = flat_gradients(network.parameters()), torch.tensor(loss_weights(network))

    def step():
        flat.zero_()
        (alpha * exit_losses(stacked(network(x)), y)).sum().backward()
        optimizer.step()

    return step


def theirs(network, x, y):
    """A training step as published: torchvision's layers, one exit after the other."""
    for module in list(network.modules()):
        for key, child in module.named_children():
            if isinstance(child, GlobalAverage):
                setattr(module, key, nn.AdaptiveAvgPool2d(1))
    optimizer, alpha = torch.optim.Adam(network.parameters(), aep.LR), loss_weights(network)

    def step():
        optimizer.zero_grad()
        logits = network(x)
        loss = 0
        for weight, o in zip(alpha, logits, strict=True):
            loss = loss + weight * F.cross_entropy(o, y)
        loss.backward()
        optimizer.step()

    return step


def pruning():
    """{"validation": one pass, "pruning": the same pass and all that follows from it} of a network
    of five exits."""
    network = network_of("MobileNetV3Smallfull").eval().to(memory_format=torch.channels_last)
    votes = exit_weights("DESC", 5)[1]
    batches = [
        (
            torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last),
            torch.randint(CLASSES, (BATCH,)),
        )
        for _ in range(10)
    ] * (VALIDATION // 10)
    return {
        "validation": lambda: score(network, batches, votes),
        "pruning": lambda: subsets.prune(
            network, subsets.exit_outputs(network, batches), votes, parts(network, SIDE)
        ),
    }


def main():
    chosen = timing.options(__doc__, rounds=7)
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    last, rows = x.contiguous(memory_format=torch.channels_last), []
    for name, goals in GOALS.items():
        times = timing.interleave(
            {
                "all": ours(network_of(name), last, y),
                "single exit": ours(network_of(name, single=True), last, y),
                "torchvision": theirs(network_of(name), x, y),
            },
            chosen.rounds,
            chosen.clock,
        )
        rows += [
            timing.compare(times, "all", other, f"8 all exits, {name}", goal)
            for other, goal in zip(("single exit", "torchvision"), goals, strict=True)
        ]
    times = timing.interleave(pruning(), chosen.rounds, chosen.clock)
    rows.append(timing.compare(times, "pruning", "validation", "8 pruning, five exits", 1.10))
    timing.show(rows, chosen)


if __name__ == "__main__":
    main()
