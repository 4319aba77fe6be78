"""What is measured of subnets, errors and latencies, and how it is remembered line by line."""

import json

import numpy as np
import torch

from nat_lib import files, latency, latency_table, ledger, machine
from nat_lib.cells import compute, open_cell
from nat_lib.distributed import first_rank_first, gathered, ranks
from nat_lib.errors import Refusal
from nat_lib.evaluate import score_many
from nat_lib.genotypes import as_text

TABLES = "natv2_phases"  # the study under which latency tables lie, one for all searches
NO_WEIGHTS = -1  # version of what does not depend on weights


class Memory:
    """What was measured of every (weights version, subnet): a dict, and a file to which each line
    is appended at once.

    name  : of the file;  needs : values that every line must have
    A last line cut short by a kill is measured again; any other damage is refused.
    """

    def __init__(self, cell, name, needs=()):
        self.path = cell.path(f"{name}.{ranks()[0]}.jsonl")
        self.known = {}
        for path in sorted(cell.folder.glob(f"{name}.*.jsonl")):
            *lines, last = files.read_text(path).split("\n")
            for number, line in enumerate(lines, 1):
                try:
                    key, values = _parsed(line, needs)
                except ValueError:
                    raise Refusal(
                        f"{path}, line {number}, is damaged: delete it, it is measured again"
                    ) from None
                self.known[key] = values
            if last and path == self.path:  # without its line end
                files.write_text(path, "".join(f"{line}\n" for line in lines))
        gathered([None])  # no process adds a line before all have read

    def measured(self, version, codes, measure):
        """The rows of all codes.

        measure(indices of codes not yet known, this process's share) -> iterator of (index, row)
        """
        first = {c: i for i, c in reversed(list(enumerate(codes)))}
        missing = [i for c, i in first.items() if (version, c) not in self.known]
        missing.sort()
        rank, world = ranks()
        if missing:
            say = f"{self.path.parent.name}, scoring"
            fresh = []
            mine = missing[rank::world]
            for i, values in machine.progress(measure(mine), say, len(mine)):
                row = {"version": version, "code": codes[i], **files.plain(values)}
                files.append_text(self.path, json.dumps(row) + "\n")
                ledger.save()
                fresh.append(((version, codes[i]), _values(row)))
            self.known.update(gathered(fresh))
        return [self.known[version, c] for c in codes]


def _parsed(line, needs):
    """((version, code), values) of a line; ValueError if it is damaged."""
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("version"), int):
        raise ValueError("not a row")
    if not isinstance(row.get("code"), str):
        raise ValueError("of no subnet")
    if not all(isinstance(row.get(name), int | float) for name in needs):
        raise ValueError("without its numbers")
    return (row["version"], row["code"]), _values(row)


def _values(row):
    return {name: value for name, value in row.items() if name not in ("version", "code")}


# ------------------------------------------------------------------------------------------- errors


def error_memory(cell):
    """The memory of a cell's evaluations."""
    return Memory(cell, "evaluations", needs=("val_top1",))


def errors(nets, X, version, memory, data, batch_size):
    """(n,) top-1 errors in percent of genotypes at the present weights, which are the
    `version`-th."""
    archs = nets.space.decode(X)

    def batches(side):
        return data.eval_batches("val", side, batch_size)

    def measure(some):
        for place, score in score_many(nets, [archs[i] for i in some], data, batches):
            named = {f"val_{name}": value for name, value in score._asdict().items()}
            yield some[place], named

    rows = memory.measured(version, [as_text(x) for x in nets.space.active(X)], measure)
    return np.array([100 - row["val_top1"] for row in rows])


# --------------------------------------------------------------------------------------- latencies


def latencies(nets, runs, cell):
    """X -> (n,) ms: every subnet measured by itself, once on this machine, and remembered in the
    cell."""
    memory, space = Memory(cell, "latencies", needs=("ms",)), nets.space
    here = latency.machine_of(next(nets.parameters()).device)
    # what another machine measured says nothing of this one
    memory.known = {key: row for key, row in memory.known.items() if row.get("device") == here}

    def measured(X):
        archs = space.decode(X)

        def measure(some):
            for i in some:
                network = nets.extract(archs[i]).eval()
                yield i, latency.measure(network, archs[i].resolution, runs, runs)._asdict()

        rows = memory.measured(NO_WEIGHTS, [as_text(x) for x in space.active(X)], measure)
        return np.array([row["ms"] for row in rows])

    return measured


def block_table(space, n_classes, device, out):
    """The latency table of a space on this machine, built once per outputs folder: by the first of
    several processes, whose cards are alike."""
    kind = latency.machine_of(torch.device(device))
    values = {
        "space": space,
        "n_classes": n_classes,
        "machine": kind,
        "threads": torch.get_num_threads(),
    }
    with first_rank_first():
        name = f"latency/{space.name}_{files.hash_of(space)}"
        cell = open_cell(out, TABLES, name, values, latency_table.__name__)
        path = cell.path("table.json")

        def work():
            table = latency_table.build_table(space, n_classes, device)
            latency_table.save_table(path, table)
            files.write_csv(cell.path("check.csv"), table.check)
            return {"error": table.error._asdict(), "rows": len(table.rows)}

        compute(cell, work)
    return latency_table.load_table(path, space, n_classes, kind)
