"""Row 4, params and MACs of candidates: `cost.count` on genotypes against building and tracing each
network with `ofa`.

One core.  Reports candidates per second at 100, 10 000 and 100 000 candidates, and compares the
counts with the peer's
on random subnets: parameters, and torchprofile's MACs, which count batch norms and elementwise
                   products too.

    python benchmarks/bench_cost.py [--rounds 7] [--clock wall|cpu] [--json PATH]
"""

import numpy as np
import peer
import timing
import torch

from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.supernet import Supernet, with_width

TARGET, EXACT = 1_000_000, 20


def main():
    chosen = timing.options(__doc__, rounds=7)
    torch.set_num_threads(1)
    space, rng = Space("BASE", resolutions=(48, 56, 64)), np.random.default_rng(0)
    other = peer.supernet(Supernet(space, 1.0, peer.CLASSES))
    archs = [with_width(a, 1.0) for a in space.sample(EXACT, rng, by="architecture")]
    wanted = [peer.cost(other, a) for a in archs]
    found = list(
        count(archs, space, peer.CLASSES)[["params", "macs_tp"]].itertuples(index=False, name=None)
    )
    equal = sum(a == b for a, b in zip(found, wanted, strict=True))

    rows = []
    every = space.encode(space.sample(100_000, rng, by="search"))
    for n in (100, 10_000, 100_000):
        X = every[:n]
        repeats = max(
            1, 10_000 // n
        )  # a call lasts milliseconds, so that the clock does not matter
        times = timing.interleave(
            {
                "ours": lambda X=X, k=repeats: [count(X, space, peer.CLASSES) for _ in range(k)],
                "ofa": lambda: peer.cost(other, archs[0]),
            },
            chosen.rounds,
            chosen.clock,
        )
        speed, peers = n * repeats / times["ours"].median(), 1 / times["ofa"].median()
        rows.append(
            {
                "what": f"4 count, {n} at once",
                "ours per s": speed,
                "ofa per s": peers,
                "times faster": speed / peers,
                "target": TARGET,
                "met": speed >= TARGET,
            }
        )
    timing.show(rows, chosen, exact=f"{equal} of {EXACT}")
    print(f"equal to the peer's parameters and MACs: {equal} of {EXACT}")


if __name__ == "__main__":
    main()
