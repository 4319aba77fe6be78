"""Latencies of all subnets of a space, predicted from a table of the latencies of their parts.

A search asks for thousands of latencies, so `build_table` times every block once and `Table` adds
them up.  A block that runs alone, again and again, finds its weights in the fastest cache and is
too quick; the table's blocks are timed in place, inside whole networks, on what the block before
has just written.  What the sum still misses goes into a slope and one intercept per exit, fitted to
whole networks (a network that leaves early stays in the cache, so its blocks are quicker than those
of a deep one).  Other whole networks, held out, tell the error.

On a machine that others use, too, time is only ever added.  The table is made of lower quartiles
over turns that are spread over the whole measurement, and counts processor time where one CPU
thread makes that possible.  Source: thesis 3.3.4 and 6.3.3, objective "latency".
"""

import time
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from nat_lib.arch import Space
from nat_lib.blocks import active, elastic_bits
from nat_lib.errors import Refusal
from nat_lib.files import hash_of, read_json, write_json
from nat_lib.genotypes import as_text
from nat_lib.latency import machine_of, now, random_image, spread, times_of, using
from nat_lib.machine import progress
from nat_lib.supernet import Network, with_width

FORMAT = 1  # of the file
KEY = ["width", "resolution", "stage", "block", "part", "kernel", "expand"]
FRAMES = ("rows", "calibration", "fitted", "check")
ROBUST = 25  # percentile: a lower quartile


class Error(NamedTuple):
    """How far predictions are from measurements: median of |predicted / measured - 1| in percent;
    Spearman's rho."""

    percent: float
    spearman: float


@dataclass(frozen=True, eq=False)
class Table:
    """Latencies of the parts of all networks of a space, and how they add up.

    rows          : per width and resolution the "stem" (stage 0); of every stage the branches of
                    its "first" and of its "other" blocks ("irb" with kernel and expand,
                    "pointwise", "transform"), the "sum" of two block outputs where the space has
                    such sums, and the "exit" behind it.  ms (lower quartile), iqr, runs
    calibration   : exit, intercept (ms), slope: a network that leaves there takes intercept + slope
                    * sum of its rows
    fitted, check : whole networks the calibration was fitted to, and others: code (genotype),
                    measured (lower quartile, ms), iqr, predicted
    clock         : "wall", or "processor" for one thread on a CPU: the time that the program had
                    the core, which is wall-clock when nothing else runs
    """

    space: Space
    n_classes: int
    device: str
    threads: int
    clock: str
    date: str
    seconds: float
    rows: pd.DataFrame
    calibration: pd.DataFrame
    fitted: pd.DataFrame
    check: pd.DataFrame

    @property
    def error(self):
        """`Error` on the networks that were held out."""
        measured, predicted = self.check.measured, self.check.predicted
        return Error(
            float(100 * (predicted / measured - 1).abs().median()),
            float(spearmanr(measured, predicted).statistic),
        )

    @cached_property
    def _entries(self):
        return _entries(self.space, self.rows)

    def latency(self, X):
        """Milliseconds of genotypes (n, n_var), predicted: (n,) float64."""
        X, space = self.space.genotypes(X), self.space
        ms = _calibrated(self.calibration, _exits(space, X), _sums(space, self._entries, X))
        if len(space.votes) == len(space.exits):
            return ms
        further = np.array([[e in some[:-1] for e in space.exits] for some in space.votes])
        heads = self._entries[1][X[:, 0] * len(space.widths) + X[:, 1]]
        return ms + (heads * further[X[:, 2]]).sum(axis=1)


def _entries(space, rows):
    """ms of the stem (R * W,), of the exits (R * W, S) and of every code in every slot (R * W, 4 S,
    M + 1)."""
    ms = rows.set_index(KEY).ms.to_dict()
    stages, codes = range(1, space.n_stages + 1), space.code_table[1:].tolist()
    stem, exits, blocks = [], [], []
    for r, w in product(space.resolutions, space.widths):
        stem.append(ms[w, r, 0, "", "stem", 0, 0])
        exits.append([ms.get((w, r, s, "", "exit", 0, 0), 0.0) for s in stages])
        blocks.append(
            [
                [0.0, *(_block(ms, (w, r, s), b, code, space.dense) for code in codes)]
                for s in stages
                for b in range(space.slots)
            ]
        )
    return tuple(map(np.array, (stem, exits, blocks)))


def _block(ms, place, b, code, dense):
    """ms of block b (from 0) of a stage: its branches, the sums that join them, and those of the
    dense skips behind."""
    kernel, expand, level = code
    which = "other" if b else "first"
    branches = [ms[*place, which, *_key(*found, kernel, expand)] for found in active(level)]
    skips = max(b - 1, 0) if dense else 0  # block b gets y_1 ... y_(b - 1) on top
    sums = len(branches) - 1 + skips
    return sum(branches) + (sums * ms[*place, "", "sum", 0, 0] if sums else 0.0)


def _key(name, branch, kernel, expand):
    """The end of a branch's key in the rows: 0, 0 where kernel and expansion do not matter."""
    return (name, kernel, expand) if branch.elastic else (name, 0, 0)


def _exits(space, X):
    return space.last_exits[X[:, 2]] if space.early_exits else np.full(len(X), space.n_stages)


def _sums(space, entries, X):
    """Sum of the rows of every genotype, (n,) ms."""
    stem, exits, blocks = entries
    place, last = X[:, 0] * len(space.widths) + X[:, 1], _exits(space, X) - 1
    slots = np.arange(blocks.shape[1])
    codes = np.where(slots // space.slots > last[:, None], 0, X[:, space.first :])
    return stem[place] + exits[place, last] + blocks[place[:, None], slots, codes].sum(axis=1)


def _calibrated(calibration, exits, sums):
    at = np.searchsorted(calibration.exit, exits)
    return calibration.intercept.to_numpy()[at] + calibration.slope.to_numpy()[at] * sums


def _calibrate(known, exits, sums, measured):
    """One slope, and an intercept per known exit (0 if no network leaves there): least squares of
    relative errors."""
    columns = np.column_stack([exits[:, None] == known, sums]) / measured[:, None]
    *intercepts, slope = np.linalg.lstsq(columns, np.ones(len(sums)))[0].tolist()
    if slope <= 0:
        raise Refusal(
            "whole networks were not slower where the sums of their blocks are larger: the machine "
            "is too busy to measure latency; try again, or with more runs and rounds"
        )
    return pd.DataFrame({"exit": known, "intercept": intercepts, "slope": slope})


# ------------------------------------------------------------------------------ building it


def build_table(
    space,
    n_classes,
    device="cpu",
    runs=5,
    warmup=2,
    rounds=3,
    networks=24,
    threads=None,
    seed=0,
    say="latency table",
):
    """Time all parts of a space in place: `Table`.

    runs, warmup : timed and untimed passes through a network each time it is its turn
    rounds       : turns.  In a round every part is timed once in every slot it fits, in networks of
                   full depth and with all exits whose blocks are drawn so; whole networks come in
                   between, all in random order
    networks     : whole networks to calibrate with, and as many others to check with, spread over
                   the exits
    threads      : that torch may use, None: as it is;  seed : of weights, networks and order;  say
                   : title of progress
    """
    if min(runs, rounds) < 1 or warmup < 0 or networks <= len(space.exits):
        raise Refusal(
            f"a latency table of {runs} runs, {warmup} warm-up, {rounds} rounds and {networks} "
            f"networks: give at least 1, 0, 1 and {len(space.exits) + 1}"
        )
    began, device, rng = time.perf_counter(), torch.device(device), np.random.default_rng(seed)
    wholes = _draw(space, 2 * networks, rng)
    parts, times = defaultdict(list), defaultdict(list)
    with using(threads), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        threads = torch.get_num_threads()
        processor = device.type == "cpu" and threads == 1
        clock = time.thread_time if processor else time.perf_counter
        jobs = [
            job
            for _ in range(rounds)
            for job in _shuffled([*_tours(space, rng), *enumerate(wholes)], rng)
        ]
        for number, arch in progress(jobs, say):
            if number is None:
                for key, ms in _tour(space, arch, n_classes, device, warmup, runs, clock):
                    parts[key] += ms
            else:
                network = _network(space, arch, n_classes, device)
                times[number] += times_of(
                    network, random_image(arch.resolution, device), warmup, runs, clock
                )
    rows = pd.DataFrame(
        [(*key, *spread(ms, ROBUST), len(ms)) for key, ms in sorted(parts.items())],
        columns=[*KEY, "ms", "iqr", "runs"],
    )
    found = pd.DataFrame(
        [spread(times[i], ROBUST) for i in range(len(wholes))], columns=["measured", "iqr"]
    )
    X = space.encode(wholes)
    exits, sums = _exits(space, X), _sums(space, _entries(space, rows), X)
    calibration = _calibrate(
        space.exits, exits[:networks], sums[:networks], found.measured.to_numpy()[:networks]
    )
    found.insert(0, "code", list(map(as_text, X)))
    found["predicted"] = _calibrated(calibration, exits, sums)
    return Table(
        space,
        n_classes,
        machine_of(device),
        threads,
        "processor" if processor else "wall",
        now(),
        round(time.perf_counter() - began, 3),
        rows,
        calibration,
        found[:networks],
        found[networks:].reset_index(drop=True),
    )


def _draw(space, n, rng):
    """n distinct subnets, the smallest and the largest first; the others leave at all exits in
    turn."""
    X = np.concatenate(
        [
            space.encode([space.smallest, space.largest]),
            space.sample_genotypes(4 * n, rng, by="architecture"),
        ]
    )
    if space.early_exits:
        X[2:, 2] = np.arange(len(X) - 2) % len(space.exits)
    _, first = np.unique(space.active(X), axis=0, return_index=True)
    if len(first) < n:
        raise Refusal(
            f"{space.name} with {space.n_stages} stages holds too few subnets to compare {n}: "
            "give fewer networks"
        )
    return space.decode(X[np.sort(first)[:n]])


def _shuffled(jobs, rng):
    return [jobs[i] for i in rng.permutation(len(jobs))]


def _tours(space, rng):
    """(None, subnet) of full depth with one branch per level; together they hold every branch once
    in every slot."""
    single = []
    for code, (kernel, expand, level) in enumerate(space.code_table.tolist()):
        smallest = (kernel, expand) == (space.kernels[0], space.expands[0])
        if code and level.bit_count() == 1 and (smallest or level & elastic_bits()):
            single.append(code)
    X = np.tile(space.upper, (len(single), 1))
    X[:, space.first :] = rng.permuted(np.tile(single, (space.slots * space.n_stages, 1)), axis=1).T
    return [(None, arch) for arch in space.decode(X)]


def _network(space, arch, n_classes, device, exits=None):
    """As `Supernet.extract` makes it, with weights that mean nothing: no need to hold a
    supernet."""
    return (
        Network(space, arch, n_classes, exits).to(device, memory_format=torch.channels_last).eval()
    )


def _tour(space, arch, n_classes, device, warmup, runs, clock):
    """(key of a row, its milliseconds) of every link of one network, at every width and
    resolution."""
    for width in space.widths:
        network = _network(space, with_width(arch, width), n_classes, device, space.exits)
        links = _links(network, arch, space)
        for resolution in space.resolutions:
            laps = lap_times(links, random_image(resolution, device), warmup, runs, clock)
            for (key, _, _), ms in zip(links, laps.T.tolist(), strict=True):
                yield (width, resolution, *key), ms


def _links(network, arch, space):
    """The network as a chain: [(rest of the row's key, module, whether its output is the next one's
    input)]."""
    links = []
    for part in space.parts(arch, space.exits):
        if part.what == "stem":
            links.append(((0, "", "stem", 0, 0), network.stem, True))
        elif part.what == "block":
            [found] = active(arch.level[part.slot])
            key = _key(*found, arch.kernel[part.slot], arch.expand[part.slot])
            level = network.stages[part.stage - 1].levels[part.block - 1]
            links.append(
                ((part.stage, "first" if part.place.first else "other", *key), level, True)
            )
            last = part.block == arch.depth[part.stage - 1]
            if last and (space.dense or space.parallel):
                links.append(((part.stage, "", "sum", 0, 0), _doubled, False))
        else:
            exit = network.exits[str(part.stage)]
            links.append(((part.stage, "", "exit", 0, 0), exit, False))
    return links


def _doubled(x):
    return x + x


@torch.inference_mode()
def lap_times(links, x, warmup, runs, clock):
    """(runs, links) milliseconds of every link, in place.

    On a GPU the marks are events in its stream: to wait for every block would charge the wait to
    all of them.
    """
    mark, between = (
        (_event, _between_events) if x.is_cuda else (clock, lambda marks: 1000 * np.diff(marks))
    )
    laps = []
    for _ in range(warmup + runs):
        h, marks = x, [mark()]
        for _, module, goes_on in links:
            y = module(h)
            h = y if goes_on else h
            marks.append(mark())
        laps.append(between(marks))
    return np.array(laps[warmup:])


def _event():
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_events(marks):
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(marks)]


# -------------------------------------------------------------------------------------------- files


def save_table(path, table):
    """The table as a JSON file with a checksum."""
    content = {"format": FORMAT} | {f.name: getattr(table, f.name) for f in fields(table)}
    content |= {key: content[key].to_dict("list") for key in FRAMES}
    write_json(path, content | {"hash": hash_of(content)})


def load_table(path, space, n_classes, machine=None):
    """The `Table` that `save_table` wrote, if it is one of this space with so many classes.

    machine : from `machine_of`; that it must have been measured on.  None: any
    """
    content = read_json(path)
    whole = isinstance(content, dict) and content.pop("hash", None) == hash_of(content)
    if not whole or content.pop("format", None) != FORMAT:
        raise Refusal(
            f"{path} is damaged, or no latency table: delete it and run again, it is measured anew"
        )
    of = Space.from_dict(content.pop("space")), content.pop("n_classes")
    if of != (space, n_classes):
        raise Refusal(
            f"{path} was measured for another space or number of classes ({of[0].name}, "
            f"{of[1]} classes): delete it and run again, or name another file"
        )
    if machine and content["device"] != machine:
        raise Refusal(
            f"{path} was measured on {content['device']}, this is {machine}: delete it and run "
            "again, it is measured anew"
        )
    return Table(*of, **content | {key: pd.DataFrame(content[key]) for key in FRAMES})
