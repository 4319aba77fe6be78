"""Exact tables: every constant subnet of a trained supernet, with every set of its exits.

One pass of a backbone keeps the logits of all its exits; what any set of them answers together is
a weighted sum.  Batch norms are calibrated for the whole backbone: what lies before an exit does
not depend on what lies behind it, so each score is that of the network extracted by itself.
"""

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np

from nat_lib import cells, files, machine, starts
from nat_lib.arch import SINGLE
from nat_lib.cells import open_cell
from nat_lib.codes import EXITS
from nat_lib.cost import count
from nat_lib.evaluate import prepare
from nat_lib.genotypes import as_text
from nat_lib.latency import machine_of
from nat_lib.plans import NETWORKS
from nat_lib.search.table import CHEAP, ERRORS, Table
from nat_lib.search.tied import Tied
from nat_lib.studies import inputs, scoring, warmup
from nat_lib.studies.subsets import accuracies, exit_outputs

STUDY = "search_strategies"


def run_table(params, data, out):
    """Score (or find finished) the whole tied space of `table_supernet`; the file of the table."""
    space, nets, weights = supernets(params, data, out)
    values = {
        "dataset": data.name,
        "supernet": space.name,
        "space": space.to_dict(),
        "weights": weights,
        "n_classes": data.n_classes,
        "latency": params["table_latency"],
        "data": inputs.identity(data),
        "profile": params["profile"],
    }
    cell = open_cell(out, STUDY, f"{data.name}/table_{space.name}", values, __name__)
    size = params["eval_batch_size"]
    cells.compute(cell, partial(_made, cell, space, nets, data, size, out))
    return cell.path("table.npz")


def supernets(params, data, out):
    """(space, {width: function that loads its supernet}, {width: hash of its weights}): those that
    notebook 02 has trained, or the start that `table_start` names."""
    name, start = params["table_supernet"], params["table_start"]
    trained = [w for w, names in sorted(params["supernets"].items()) if name in names]
    widths = [float(w) for w in params["table_widths"] or trained]
    sizes, early = params["train_resolutions"], NETWORKS[name].early_exits
    answers = params["exit_weights"] if early else SINGLE
    if start:
        of_start = params | {"plan": starts.plan_of(start), "base_channels": None}
        space = inputs.space_of(of_start, name, sizes, widths[:1], answers)
        known = starts.identity(start)
        load = partial(starts.start, start, space, widths[0], data.n_classes, 0, 0.0)
        return space, {widths[0]: load}, {str(widths[0]): known.get("sha256", start)}
    space = inputs.space_of(params, name, sizes, widths, answers)
    found = {}
    for width in widths:
        of = params["teachers"][-1], params["seeds"][0], params["curriculum"]
        found[width] = warmup.trained_cell(out, params["dataset"], space, width, *of)
    hashes = {str(w): files.sha256_of(c.path("best.safetensors")) for w, c in found.items()}
    return space, {w: partial(warmup.trained_supernet, c, space) for w, c in found.items()}, hashes


def _made(cell, space, nets, data, batch_size, out):
    """Score every backbone, a line of the cell's memory each; leave the table, return metrics."""
    tied = Tied(space)
    weights = [dict(zip(some, space.vote(some), strict=True)) for some in tied.votes]
    masks = np.array([[of.get(e, 0.0) for e in space.exits] for of in weights])
    X = tied.every()
    backbones = X[X[:, EXITS] == tied.upper[EXITS]]  # with all their exits
    archs = [replace(arch, also=()) for arch in tied.decode(backbones)]
    loaded = {width: load().to(data.device) for width, load in nets.items()}

    def measure(some):
        for i in some:
            arch = archs[i]
            network = prepare(loaded[arch.width], arch, data, arch.resolution, exits="all")
            side = arch.resolution
            val = exit_outputs(network, data.eval_batches("val", side, batch_size))
            test = data.test_batches(side, batch_size, why=f"{cell.name}, the whole tied space")
            row = {"digest": hashlib.sha256(val.logits.cpu().numpy().tobytes()).hexdigest()[:16]}
            seen = dict(zip(ERRORS, (val, exit_outputs(network, test)), strict=True))
            for share, name in CHEAP.items():
                few = slice(None, None, round(1 / share))
                seen[name] = val._replace(logits=val.logits[:, few], labels=val.labels[few])
            for name, outputs in seen.items():
                row[name] = 100 - accuracies(outputs, masks)[:, 0]
            yield i, row

    memory = scoring.Memory(cell, "backbones")
    rows = memory.measured(0, [as_text(x) for x in backbones], measure)
    names = *ERRORS, *CHEAP.values()
    columns = {name: _spread(tied, [row[name] for row in rows]) for name in names}
    columns = {name: v.astype(np.float32) for name, v in columns.items()}
    columns |= _costs(tied, archs, data.n_classes)
    about = {
        "name": f"{data.name}_{space.name.lower()}",
        "space": space.to_dict(),
        **{key: cell.params[key] for key in ("dataset", "weights", "data", "n_classes")},
        "images": {part: len(rows) for part, rows in data.rows.items()},
    }
    if cell.params["latency"]:
        table = scoring.block_table(space, data.n_classes, data.device, out)
        columns["latency_ms"] = _latencies(tied, archs, table)
        about["machine"] = machine_of(data.device)
    made = Table(columns, np.array([row["digest"] for row in rows]), about)
    made.save(cell.path("table.npz"))
    return {
        "hash": made.hash,
        "networks": tied.size,
        "backbones": len(backbones),
        "front": len(made.front()),
        "best_top1": float(100 - made.columns["val_error"].min()),
    }


def _spread(tied, per_backbone):
    """(size,) values in the order of `Tied.every` of (backbones, masks) ones."""
    shape = [n for v, n in enumerate(tied.shape) if v != EXITS]
    values = np.asarray(per_backbone).reshape(*shape, tied.shape[EXITS])
    return np.moveaxis(values, -1, EXITS).ravel()


def _costs(tied, archs, n_classes):
    """{params, macs_tp: (size,)} exact: the backbone up to the last exit that answers, and the
    heads of all that do."""
    per_mask = [count(archs, tied.space, n_classes, exits=some) for some in tied.votes]
    return {
        name: _spread(tied, np.stack([frame[name].to_numpy() for frame in per_mask], axis=1))
        for name in ("params", "macs_tp")
    }


def _latencies(tied, archs, table):
    """(size,) milliseconds, from the table of a space's parts."""
    columns = []
    for *also, exit in machine.progress(tied.votes, "latencies"):
        answering = [replace(arch, exit=exit, also=tuple(also)) for arch in archs]
        columns.append(table.latency(tied.space.encode(answering)))
    return _spread(tied, np.stack(columns, axis=1))
