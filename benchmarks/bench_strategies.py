"""Training strategies: what a step costs beside what its passes cost.

EE_D on plan `small`, 32 pixels, batch 128, ten classes, fp32.

row 13   a sandwich step (largest, two random, smallest, in-place teacher, optimiser) against the
sum of its four passes, each timed by itself, and the optimiser row 13b  three steps whose two
middle subnets are each the best of three by the loss, against three sandwiches row 13c  one pass
that trains all five exits against a pass that trains the last one

    python benchmarks/bench_strategies.py [--rounds 7] [--threads 1] [--clock cpu] [--json PATH]
"""

import timing
import torch
import torch.nn.functional as F

from nat_lib import machine
from nat_lib.arch import Space
from nat_lib.distill import distilled
from nat_lib.optimizers import sgd
from nat_lib.plans import PLANS
from nat_lib.samplers import SAMPLERS
from nat_lib.studies.judging import by_loss
from nat_lib.supernet import Supernet, with_width
from nat_lib.train import flat_gradients

BATCH, SIDE, CLASSES, SUBNETS, LR = 128, 32, 10, 4, 1e-3
DRAWS = 3  # steps whose middle subnets differ


def main():
    chosen = timing.options(__doc__, rounds=7)
    space = Space("EE_D", (SIDE,), (1.0,), plan=PLANS["small"])
    net = Supernet(space, 1.0, CLASSES).train()
    x = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    y = torch.randint(CLASSES, (BATCH,))
    optimizer = sgd(net, 3e-5)
    for group in optimizer.param_groups:
        group["lr"] = LR
    flat = flat_gradients(p for group in optimizer.param_groups for p in group["params"])

    def drawn(sampler, number=0):
        rng = machine.stream(0, "benchmark", number)
        judge = by_loss(net, x, y, 0.1)
        return list(SAMPLERS[sampler](space, space.choices, 1.0, SIDE, rng, SUBNETS, judge))

    def steps(sampler, n):
        def subnets(images, labels, number):
            return drawn(sampler, number)

        votes = [1 / len(space.exits)] * len(space.exits)
        losses = distilled(net, subnets, weights=votes, mix=(0.0, 1.0), all_exits=True)

        def run():
            for number in range(n):
                flat.zero_()
                for loss, *_ in losses(x, y, number):
                    loss.backward()
                optimizer.step()

        return run

    def passing(arch, exits):
        def run():
            sum(F.cross_entropy(o, y) for o in net(x, arch, exits=exits)).backward()

        return run

    largest = with_width(space.largest, 1.0)
    passes = {
        f"pass {i}": passing(arch, tuple(e for e in space.exits if e <= arch.exit))
        for i, arch in enumerate(drawn("sandwich"))
    }
    calls = {
        "sandwich": steps("sandwich", 1),
        "three sandwiches": steps("sandwich", DRAWS),
        "three of BestUp": steps("best_up", DRAWS),
        **passes,
        "optimiser": lambda: (flat.zero_(), optimizer.step()),
        "all exits": passing(largest, space.exits),
        "last exit": passing(largest, space.exits[-1:]),
    }
    times = timing.interleave(calls, chosen.rounds, chosen.clock)
    times["its passes"] = times[[*passes, "optimiser"]].sum(axis=1)
    rows = [
        timing.compare(times, "sandwich", "its passes", "13 sandwich step", 1.10),
        timing.compare(times, "three of BestUp", "three sandwiches", "13b BestUp-3 by loss", 1.6),
        timing.compare(times, "all exits", "last exit", "13c one pass, five exits", 1.4),
    ]
    timing.show(rows, chosen)


if __name__ == "__main__":
    main()
