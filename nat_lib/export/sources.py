"""Networks of finished cells, ready to be exported: of a search, of post-processing, of the AEP
study."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch

from nat_lib import backbones, cost, files
from nat_lib.arch import Arch, Space
from nat_lib.cells import Cell, read_report
from nat_lib.data.batches import Data
from nat_lib.errors import Refusal
from nat_lib.evaluate import recalibrate
from nat_lib.exit_weights import exit_weights
from nat_lib.export.write import Source, write
from nat_lib.genotypes import as_text, from_text
from nat_lib.results import worth
from nat_lib.studies import aep, inputs, post, searches
from nat_lib.supernet import Network, Supernets

SEARCH, POST, AEP = "natv2_phases", "post_processing", "aep_study"
STUDIES = (SEARCH, POST, AEP)  # whose networks can be exported
NAMES = (  # parameters that are names
    *("supernet", "network", "dataset", "profile", "objectives", "strategy", "method", "mode"),
    "scenario",
)


# ---------------------------------------------------------------------------------- the three kinds


def from_search(
    cell: str | Path, code: str, folder: str | Path, data: Data | None = None, **stops: str
) -> dict[str, Any]:
    """Export a subnet of a finished search with the weights that the search left; returns what
    `write` does.

    cell : its folder;  code : genotype as in archive.csv, "0 1 4 ...".  Batch norms are
           recalibrated as for scoring
    data : that was searched on; None: `find_data(cell)`;  stops : see `write`
    """
    found = finished(cell, SEARCH)
    p, report, space = found.params, found.report(), Space.from_dict(found.params["space"])
    x, arch = _decoded(space, code)
    data = _same(found, data) if data else find_data(found)
    nets = Supernets(space, p["n_classes"])
    nets.load_state_dict(files.load_weights(found.path("supernets.safetensors")))
    network = recalibrate(nets.extract(arch), data.calibration_batches(arch.resolution))
    tables = [pd.read_csv(found.path(f"{name}.csv")) for name in ("subnets", "archive")]
    known, scored = (_rows(space, table, x) for table in tables)
    last = scored[scored.iteration == tables[1].iteration.max()]
    row = known.iloc[0].to_dict() if len(known) else {}
    latency = None
    if row:
        timed = {key: report[key] for key in ("device", "threads")}
        latency = {"ms": row["latency_ms"]} | timed
    source = Source(
        network=network,
        made=_made(space, arch, p["n_classes"], arch.answering if arch.also else None),
        votes=space.vote(arch.answering),
        positions=arch.answering,
        data=data,
        size=arch.resolution,
        parts=cost.layers(arch, space, p["n_classes"]),
        numbers={
            "val_top1": 100 - last.error.iloc[0] if len(last) else None,
            "test_top1": row.get("test_top1"),
            "test_top5": row.get("test_top5"),
            "macs_tp": int(cost.count([arch], space, p["n_classes"]).macs_tp.iloc[0]),
        },
        latency=latency,
        training=f"{_search_told(space, arch, p)}. Its weights are those of the supernet after "
        f"the search; its batch norms were recalibrated on {data.calibration[0]} training images.",
        origin=_origin(found, f"{p['supernet']} subnet for {p['dataset']}", as_text(x)),
        worth=_worth(found),
    )
    return write(source, folder, **stops)


def from_post(
    cell: str | Path, folder: str | Path, data: Data | None = None, **stops: str
) -> dict[str, Any]:
    """Export the final network of a finished post-processing cell, with its exits; returns what
    `write` does.

    data : that it was trained on; None: `find_data(cell)`;  stops : see `write`
    """
    found = finished(cell, POST)
    p, metrics = found.params, found.report()["metrics"]
    search = finished(found.out / SEARCH / PurePosixPath(found.name).parent, SEARCH)
    if search.hash != p["search"]:
        raise Refusal(
            f"{found.folder} belongs to another search than {search.folder}: run notebook 05 again"
        )
    space, n_classes = Space.from_dict(search.params["space"]), search.params["n_classes"]
    arch = _decoded(space, p["code"])[1]
    data = _same(found, data) if data else find_data(found)
    exits, _, votes = post.attached(space, arch, p["method"], p["weights"])
    network = Network(space, arch, n_classes, exits)
    network.load_state_dict(files.load_weights(found.path("network.safetensors")))
    # Fine-tuning changes no layer; exits attached again do, and their latency was not measured.
    original, latency = metrics["original"] or {}, None
    if len(exits) == 1 and original.get("latency_ms") is not None:
        known = search.report()
        latency = {"ms": original["latency_ms"]} | {k: known[k] for k in ("device", "threads")}
    final = p["budget"]["final"]
    weights = f", exit weights {p['weights']}" if p["weights"] else ""
    source = Source(
        network=network.to(memory_format=torch.channels_last).eval(),
        made=_made(space, arch, n_classes, exits),
        votes=votes,
        positions=exits,
        data=data,
        size=arch.resolution,
        parts=cost.layers(arch, space, n_classes, exits),
        numbers={key: metrics["after"].get(key) for key in ("val_top1", "test_top1", "test_top5")}
        | {"macs_tp": metrics["macs_tp"]},
        latency=latency,
        training=f"{_search_told(space, arch, p)}, then fine-tuned: method {p['method']}, "
        f"{p['optimizer']}, learning rate {p['lr']:g}{weights}, {metrics['best_epoch']} epochs on "
        f"{final.replace('+', ' and ')}. The validation top-1 below is that of the first stage, "
        "which trained on train alone.",
        origin=_origin(found, f"{p['supernet']} subnet for {p['dataset']}, fine-tuned", p["code"]),
        seen="val" in final,
        worth=_worth(search),
    )
    return write(source, folder, **stops)


def from_aep(
    cell: str | Path,
    folder: str | Path,
    pruned: bool = True,
    data: Data | None = None,
    **stops: str,
) -> dict[str, Any]:
    """Export the network of a finished cell of the AEP study; returns what `write` does.

    pruned : its best subset of exits; False: all of them.  A single-exit baseline has nothing to
             prune
    data   : that it was trained on; None: `find_data(cell)`;  stops : see `write`
    """
    found = finished(cell, AEP)
    p, metrics = found.params, found.report()["metrics"]
    single = p["mode"] == aep.SINGLE
    data = _same(found, data) if data else find_data(found)
    made = {"name": p["network"], "n_classes": p["n_classes"], "channels": p["channels"]}
    made |= {"hidden": p["hidden"], "single": single}
    with torch.random.fork_rng(devices=()):  # the weights that it starts with are of no interest
        network = backbones.build(**made)
    network.load_state_dict(files.load_weights(found.path("best.safetensors")))
    positions = network.positions
    votes = (1.0,) if single else exit_weights(p["mode"], len(positions))[1]
    numbers, kept = metrics, positions
    if pruned and not single:
        numbers, kept = metrics["pruned"], tuple(metrics["pruned"]["subset"])
        network = backbones.extract(network, kept)
        votes = tuple(votes[positions.index(i)] for i in kept)
    source = Source(
        network=network.to(memory_format=torch.channels_last).eval(),
        made={"kind": "backbone", "kept": kept} | made,
        votes=votes,
        positions=kept,
        data=data,
        size=p["image_size"],
        parts=backbones.parts(network, p["image_size"], p["channels"]),
        numbers={k: numbers[k] for k in ("val_top1", "test_top1", "test_top5", "macs_tp")},
        latency={key: numbers["latency"][key] for key in ("ms", "device", "threads")},
        training=_aep_told(p, metrics, positions, kept),
        origin=_origin(found, f"{p['network']} for {p['dataset']}"),
    )
    return write(source, folder, **stops)


def recommended(cell: Cell) -> str:
    """Genotype of the subnet to take home from a finished search: of the returned ones the one with
    the highest validation top-1, of equal ones the fewest MACs."""
    subnets = pd.read_csv(cell.path("subnets.csv")).query("returned")
    best_first = subnets.sort_values(
        ["val_top1", "macs_tp"], ascending=[False, True], kind="stable"
    )
    return best_first.code.iloc[0]


# ----------------------------------------------------------------------------- cells and their data


def finished(folder: str | Path, study: str | None = None) -> Cell:
    """The finished cell in a folder; a Refusal if there is none, it is damaged or of another
    study."""
    folder = Path(os.path.abspath(folder))
    if not (folder / "report.json").exists():
        raise Refusal(
            f"{folder} holds no finished cell, it has no report.json: give the folder of one, such "
            "as outputs/smoke/natv2_phases/digits_turned/EE_D_p4_acc+macs_s0"
        )
    report = read_report(folder)
    cell = Cell(folder, str(report.get("study")), report["name"], report["params"])
    if study not in (None, cell.study):
        raise Refusal(
            f"{folder} is a cell of {cell.study}, not of {study}: use the function for that study"
        )
    check_names(cell.folder, cell.params)
    return cell


def check_names(folder: Path, params: dict[str, Any]) -> None:
    """A Refusal if a name among the parameters of a cell is not made of letters, digits and
    ``. , + - _`` and blanks: no run writes others, and names become text of pages and files."""
    for key in NAMES:
        name = params.get(key)
        if name is not None and not re.fullmatch(r"[\w.,+ -]{1,100}", str(name)):
            raise Refusal(
                f"{folder}/report.json: its {key} {str(name)[:40]!r} is no name: the file is "
                "damaged or foreign, delete the folder and run again"
            )


def find_data(
    cell: Cell, profile: str | None = None, changes: dict[str, Any] | None = None
) -> Data:
    """The data set of a finished cell, on the CPU, checked to be the same images in the same split.

    profile : what it was run with; None: what the driver left beside the cell, else the profile of
              the cell's name
    changes : {key: value} of these parameters that are other now, such as data_dir
    """
    if changes:  # as a profile would have them: known keys, values of their kinds
        checked = _parameters(profile or "smoke", cell.study, changes)
        changes = {key: checked[key] for key in changes if key in checked}
    told = []
    for settings in _settings(cell, profile):
        try:
            return _same(cell, _loaded(cell, _changed(settings, changes or {})))
        except Refusal as refusal:
            told.append(str(refusal))
    why = told[0] if told else "what it was run with is not recorded beside it"
    raise Refusal(
        f"the images of {cell.name} were not found ({why}): say with --set data_dir=DIR where they "
        "are now, with --profile FILE what it was run with, or give data="
    )


def _parameters(profile, study, changes=None):
    """`run.params.load_params`, which stands above this package."""
    from nat_lib.run.params import load_params

    return load_params(profile, study, changes)


def _changed(settings, changes):
    """The parameters with some values replaced, on the CPU."""
    moved = {"target_dir": None} if "data_dir" in changes and "target_dir" in settings else {}
    return settings | moved | changes | {"device": "cpu"}


def _settings(cell: Cell, profile: str | None) -> Iterator[dict[str, Any]]:
    """The parameters that the cell may have been run with: those of the driver's jobs, then those
    of its profile."""
    if profile is not None:
        yield _parameters(profile, cell.study)
        return
    key, different = "aep_scenarios" if cell.study == AEP else "target", {}
    for path in sorted(cell.out.glob("jobs/*.params.json")):
        params = files.read_json(path)
        params |= params.get("sizes", {})
        if key in params and params.get("device"):
            of_data = {
                k: v
                for k, v in params.items()
                if k.endswith(("_images", "_dir")) or k in (key, "dataset")
            }
            different.setdefault(files.hash_of(of_data), params)
    yield from different.values()
    with_profile = files.ROOT / "params" / "profiles" / f"{cell.params['profile']}.yaml"
    if with_profile.exists():
        yield _parameters(cell.params["profile"], cell.study)


def _loaded(cell, settings):
    if cell.study == AEP:
        return aep.load_data(settings, cell.params["dataset"])
    return searches.load_target(settings | {"target": cell.params["dataset"]})


def _same(cell, data):
    """`data`, on the CPU, if it is what the cell was made with."""
    if files.plain(inputs.identity(data)) != cell.params["data"]:
        raise Refusal(
            f"{data.name} as loaded here is not that of {cell.name}, it has other images, another "
            "split or calibration: load it with the parameters of that run"
        )
    return data if data.device.type == "cpu" else data.to("cpu")


# --------------------------------------------------------------------------------- what is recorded


def _made(space, arch, n_classes, exits=None):
    return {
        "kind": "subnet",
        "space": space.to_dict(),
        "arch": arch.to_dict(),
        "n_classes": n_classes,
        "exits": exits,
    }


def _origin(cell, title, code=None):
    report = cell.report()
    origin = {"title": title, "study": cell.study, "name": cell.name, "hash": cell.hash}
    origin |= {key: cell.params[key] for key in ("dataset", "profile", "seed")}
    origin |= {key: report[key] for key in ("commit", "versions", "device", "threads")}
    return origin if code is None else origin | {"code": code}


def _worth(search):
    """The verdict on a search beside what a person would do by hand."""
    p = search.params
    return worth.sentence(worth.points(search.out, p["dataset"], {p["seed"]: search.folder}))


def _decoded(space: Space, code: str) -> tuple[np.ndarray, Arch]:
    """(genotype (V,), Arch) of a genotype written as text."""
    try:
        X = from_text([code])
    except ValueError:
        raise Refusal(
            f"code {code!r} is no genotype: give {space.n_var} whole numbers with blanks between, "
            "as in archive.csv"
        ) from None
    return X[0], space.decode(X)[0]


def _rows(space, frame, x):
    """The rows of a table whose code is the same subnet as the genotype x."""
    same = space.active(from_text(frame.code)) == space.active(x[None])
    return frame[same.all(axis=1)]


def _search_told(space, arch, p):
    has = {
        "early exits": space.early_exits,
        "dense skips": space.dense,
        "parallel blocks": space.parallel,
    }
    kinds = [what for what, there in has.items() if there] or ["one exit, plain blocks"]
    return (
        f"A subnet of the supernet {space.name} ({', '.join(kinds)}) at width {arch.width:g}, "
        f"found on {p['dataset']} ({_sizes(p)}) by a search of phase {p['phase']} for "
        f"{p['objectives'].replace('+', ', ')} with seed {p['seed']}"
    )


def _aep_told(p, metrics, positions, kept):
    behind = "its last stage"
    if p["mode"] != aep.SINGLE:
        behind = f"each of {len(positions)} stages, trained jointly with exit weights {p['mode']}"
    start = f"weights of {p['pretrained_on']}" if p["pretrained_on"] else "random weights"
    told = (
        f"{p['network']} of torchvision with an exit behind {behind}, on {p['dataset']} "
        f"({_sizes(p)}), scenario {p['scenario']}, from {start}, best of {metrics['epochs']} "
        f"epochs, seed {p['seed']}."
    )
    if kept != positions:
        told += (
            f" Of its exits {', '.join(map(str, kept))} are kept: the subset that is best on "
            "validation."
        )
    return told


def _sizes(p):
    return ", ".join(f"{n:,} {part}" for part, n in p["data"]["sizes"].items()) + " images"
