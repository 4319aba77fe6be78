"""Rows without a peer: a step of a narrow elastic network, and a grid scored in families.

EE_D with channels 8 8 16 24 32 40, 32 pixels, ten classes, one core.

row 1c  zero gradients, forward of the maximal network with all exits, weighted sum of their losses,
        backward, SGD step; batch 64.  --old DIR: the same by another checkout, in turns
row 3b  one subnet per exit and kernel, 1000 + 1000 images: in families (`evaluate.score_many`)
        against one by one

    python benchmarks/bench_narrow.py [--rounds 7] [--clock wall|cpu] [--old DIR] [--json PATH]
"""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import torch

from nat_lib.arch import Space
from nat_lib.exits import joint_loss
from nat_lib.optimizers import sgd
from nat_lib.supernet import Supernet
from nat_lib.train import flat_gradients

STEPS = 10
SPACE = Space("EE_D", (32,), (1.0,), (8, 8, 16, 24, 32, 40))
WEIGHTS = (0.2,) * 5


def pictures(n, seed):
    x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def training():
    """Ten steps of row 1c."""
    net, x, y = Supernet(SPACE, 1.0, 10).train(), pictures(64, 0), torch.arange(64) % 10
    optimizer = sgd(net, 3e-5)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    flat = flat_gradients(p for group in optimizer.param_groups for p in group["params"])

    def steps():
        for _ in range(STEPS):
            flat.zero_()
            joint_loss(net(x, SPACE.largest, exits="all"), y, WEIGHTS, 0.1).backward()
            optimizer.step()

    return steps


def serve():
    """Seconds of processor time of ten steps, whenever a line comes in."""
    torch.set_num_threads(1)
    steps = training()
    steps()
    for _ in sys.stdin:
        began = time.process_time()
        steps()
        print(time.process_time() - began, flush=True)


def elsewhere(checkout):
    """Ten steps by another checkout: a function that returns their seconds."""
    worker = subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"},
    )

    def seconds():
        worker.stdin.write("\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    return seconds


def step_rows(rounds, checkouts):
    """Row 1c: every checkout in turns, each in its own process."""
    workers = {name: elsewhere(path) for name, path in checkouts.items()}
    times = [{name: work() for name, work in workers.items()} for _ in range(rounds)]
    medians = {}
    for name in workers:
        ordered = sorted(row[name] for row in times)
        medians[name] = ordered[len(ordered) // 2]
        print(f"1c {name}: {64 * STEPS / medians[name]:.0f} images/s")
    if "old" in medians:
        ratios = sorted(row["ours"] / row["old"] for row in times)
        print(f"1c ratio {ratios[len(ratios) // 2]:.3f}, target 0.66")


def grid_calls():
    """Row 3b: {"families": all subnets of the grid, "one by one": the same}."""
    from nat_lib.evaluate import prepare, score, score_many

    net = Supernet(SPACE, 1.0, 10).eval()
    archs = SPACE.grid(SPACE.choices._replace(expand=(6,), depth=(4,)), (32,), 1.0)
    calibration = list(pictures(1000, 1).split(100))
    labels = (torch.arange(1000) % 10).split(100)
    images = list(zip(pictures(1000, 2).split(100), labels, strict=True))
    data = SimpleNamespace(calibration_batches=lambda resolution: calibration)
    return {
        "families": lambda: list(score_many(net, archs, data, lambda resolution: images)),
        "one by one": lambda: [score(prepare(net, a, data, 32), images) for a in archs],
    }


def main():
    import timing  # not in the workers: an older checkout may lack what it needs

    old = None
    if "--old" in sys.argv:
        at = sys.argv.index("--old")
        old = sys.argv[at + 1]
        del sys.argv[at : at + 2]
    chosen = timing.options(__doc__, rounds=7)
    torch.set_num_threads(1)
    checkouts = {"ours": os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}
    step_rows(chosen.rounds, checkouts | ({"old": old} if old else {}))
    times = timing.interleave(grid_calls(), max(3, chosen.rounds // 2), chosen.clock)
    timing.show(
        [timing.compare(times, "families", "one by one", "3b a grid, by family", 0.6)], chosen
    )


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        main()
