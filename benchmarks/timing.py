"""Gated, interleaved timing: variants are timed in turns, and only while the machine is
undisturbed.

A matrix product before and after every call tells how fast the machine is at that moment.  Calls
are made in order, then in reverse order, round after round; a ratio is the median of the ratios of
paired calls.
"""

import argparse
import os
import time

import numpy as np
import pandas as pd
import torch

from nat_lib import files
from nat_lib.machine import environment

WAIT, START, END, TRIES = (
    3.0,
    1.3,
    1.6,
    3,
)  # seconds; a probe may be that much slower than the best, before and after
CLOCKS = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
}  # cpu, with one thread: for a shared machine


def options(doc, rounds):
    """The command line that every script here has."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"timed calls of each variant (default {rounds})"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads torch may use (default 2)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="what is timed (default wall)"
    )
    parser.add_argument("--json", metavar="PATH", help="also write the rows and the machine there")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def probe(now, side=1024):
    """Seconds of one matrix product."""
    a = torch.ones(side, side)
    began = now()
    a @ a
    return now() - began


def gated(call, best, now):
    """(seconds, undisturbed?) of one call: started when the machine is quiet, repeated if that did
    not last."""
    for _ in range(TRIES):
        waiting = time.perf_counter()
        while probe(now) > START * best and time.perf_counter() - waiting < WAIT:
            pass
        began = now()
        call()
        seconds = now() - began
        if probe(now) <= END * best:
            return seconds, True
    return seconds, False


def interleave(calls, rounds, clock="wall"):
    """Seconds of every call in every round, a DataFrame (rounds, names); attrs["disturbed"] counts
    the bad ones.

    calls : {name: function without arguments}; each runs once before, untimed
    """
    for call in calls.values():
        call()
    now = CLOCKS[clock]
    best, disturbed, rows = min(probe(now) for _ in range(20)), 0, []
    for i in range(rounds):
        row = {}
        for name in list(calls)[:: -1 if i % 2 else 1]:
            row[name], quiet = gated(calls[name], best, now)
            disturbed += not quiet
        rows.append(row)
    times = pd.DataFrame(rows, columns=list(calls))
    times.attrs["disturbed"] = disturbed
    return times


def compare(times, ours, other, what, target):
    """One row of a table: medians in milliseconds (and the best), the paired ratio ours / other,
    the target for it."""
    ratio = float(np.median(times[ours] / times[other]))
    return {
        "what": what,
        "ms": 1000 * times[ours].median(),
        "best ms": 1000 * times[ours].min(),
        "against": other,
        "its ms": 1000 * times[other].median(),
        "its best": 1000 * times[other].min(),
        "ratio": ratio,
        "target": target,
        "met": ratio <= target,
        "rounds": len(times),
        "disturbed": times.attrs["disturbed"],
    }


def show(rows, chosen, **more):
    """Print the rows as a table; write them with `more` and a description of the machine if --json
    was given."""
    print(
        pd.DataFrame(rows).to_string(
            index=False, float_format=lambda v: f"{v:.3g}" if v < 10 else f"{v:.0f}"
        )
    )
    if chosen.json:
        machine = environment() | {"cores": os.cpu_count(), "clock": chosen.clock}
        files.write_json(chosen.json, {"rows": rows, "machine": machine, **more})
