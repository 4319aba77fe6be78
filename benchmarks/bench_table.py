"""Exact tables: look-ups per second, and what a run of every strategy takes.

    python benchmarks/bench_table.py [--table NAME] [--evaluations 300] [--seeds 3] [--json PATH]

Row 11 of the figures to reach: a million look-ups in a second; fifteen strategies, a hundred seeds,
300 evaluations in five minutes on two cores.  Few seeds are run, the total is theirs times
100 / seeds / 2.
"""

import argparse
import json
import time
from statistics import median

import numpy as np

from nat_lib.search.strategies import tabular
from nat_lib.search.table import load, shipped
from nat_lib.studies.bakeoff import one_run

LOOK_UPS, SEEDS, CORES = 1_000_000, 100, 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", default=(shipped() or [""])[0], help="name, or a file")
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--predictor", default="lgb")
    parser.add_argument("--json")
    given = parser.parse_args()
    table = load(given.table)
    every = table.space.every()
    X = every[np.random.default_rng(0).integers(len(every), size=LOOK_UPS)]
    table.query(X[:1])
    began = time.perf_counter()
    table.query(X)
    found = {"look_ups_per_second": LOOK_UPS / (time.perf_counter() - began)}
    print(f"look-ups: {found['look_ups_per_second']:.2e} /s")
    for name in tabular():
        seconds = []
        for seed in range(given.seeds):
            began = time.process_time()
            one_run(table, name, given.evaluations, 0.0, seed, given.predictor)
            seconds.append(time.process_time() - began)
        found[name] = median(seconds)
        print(f"{name:24s} {found[name]:6.2f} s a run")
    total = sum(found[name] for name in tabular()) * SEEDS / CORES / 60
    found["minutes"] = total
    print(f"{len(tabular())} strategies, {SEEDS} seeds, {CORES} cores: {total:.1f} min")
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
