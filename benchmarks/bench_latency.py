"""Row 8, the table of block latencies against whole networks: full-size BASE and EE_D at 64 pixels,
both widths.

One core.  Every table is checked on networks that it was not fitted to, timed in turns with its own
blocks.  Beside its error and rank correlation stand those of a line through the MACs, fitted to the
same networks, and how many candidates a second the table predicts.  With --clock wall (the default)
the same networks are also measured as the thesis does, one after the other: these numbers need a
quiet machine.

    python benchmarks/bench_latency.py [--rounds 3] [--clock wall|cpu] [--json PATH]
"""

import time

import numpy as np
import timing
import torch
from scipy.stats import spearmanr

from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.latency import measure
from nat_lib.latency_table import build_table
from nat_lib.supernet import Supernet

RESOLUTION, CLASSES, TARGET = 64, 200, 5.0  # percent


def genotypes(frame):
    return np.array([code.split() for code in frame.code], dtype=np.int64)


def error(predicted, measured):
    """(median relative error in percent, Spearman)."""
    return float(100 * np.median(np.abs(predicted / measured - 1))), float(
        spearmanr(predicted, measured).statistic
    )


def line_through_macs(table):
    """Predictions for the networks held out, from a straight line that was fitted like the
    table."""
    fitted, held_out = (
        count(genotypes(f), table.space, CLASSES).macs.to_numpy()
        for f in (table.fitted, table.check)
    )
    measured = table.fitted.measured.to_numpy()
    columns = np.column_stack([np.ones(len(fitted)), fitted]) / measured[:, None]
    intercept, slope = np.linalg.lstsq(columns, np.ones(len(fitted)))[0]
    return intercept + slope * held_out


def by_the_protocol(table):
    """Milliseconds of the networks held out, each measured alone: the median of 100 forwards after
    100."""
    space = table.space
    nets = {width: Supernet(space, width, CLASSES) for width in space.widths}
    return np.array(
        [
            measure(nets[a.width].extract(a), a.resolution).ms
            for a in space.decode(genotypes(table.check))
        ]
    )


def main():
    chosen = timing.options(__doc__, rounds=3)
    torch.set_num_threads(1)
    rows = []
    for name in ("BASE", "EE_D"):
        space = Space(name, resolutions=(RESOLUTION,))
        table = build_table(space, CLASSES, rounds=chosen.rounds, say=f"{name} at {RESOLUTION} px")
        percent, rho = table.error
        macs_percent, macs_rho = error(line_through_macs(table), table.check.measured)
        X = space.encode(space.sample(10_000, np.random.default_rng(0), by="search"))
        table.latency(X)
        began = time.perf_counter()
        table.latency(X)
        row = {
            "what": f"8 latency table, {name}",
            "blocks": len(table.rows),
            "seconds": table.seconds,
            "ms": table.check.measured.median(),
            "error %": percent,
            "rho": rho,
            "macs error %": macs_percent,
            "macs rho": macs_rho,
            "per s": len(X) / (time.perf_counter() - began),
            "target": TARGET,
            "met": percent <= TARGET,
        }
        if chosen.clock == "wall":
            row["error % alone"], row["rho alone"] = error(
                table.check.predicted, by_the_protocol(table)
            )
        rows.append(row)
    timing.show(rows, chosen)


if __name__ == "__main__":
    main()
