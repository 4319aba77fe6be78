"""The way out of the kit: a trained network as a folder that needs neither supernet nor search.

An export is one table (see layers.py), its weights, and what was made of them.  A network with
several exits answers with the weighted sum of their logits; besides, it can stop as soon as the
exits so far are sure enough.
"""

import copy
import io
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from nat_lib import files
from nat_lib.cells import Cell
from nat_lib.errors import Refusal
from nat_lib.exits import answer_early, choose_threshold, confidences, leaves_at, macs_until
from nat_lib.export.layers import (
    FORMAT,
    IMAGE,
    SLACK,
    layer_table,
    load_subnet,
    onnx_model,
    onnx_packages,
    read_card,
)
from nat_lib.genotypes import as_text, from_text

# What knows supernets, searches and data sets is imported where a network is taken from a cell: who
# only loads an export does without all of it.

STUDIES = SEARCH, POST, AEP = (
    "natv2_phases",
    "post_processing",
    "aep_study",
)  # whose networks can be exported
TOLERANCE = {
    "safetensors": 1e-5,
    "pt2": 1e-5,
    "onnx": 1e-4,
    "early": 1e-4,
}  # of logits, relative to the largest one
ROUNDING = 4  # times what rounding alone changes in the network's own logits may differ, too
CHECKED = 64  # validation images on which the formats are compared
# images whose confidence is closer to the threshold may leave elsewhere in another library
MARGIN = 1e-4
BATCH = 250  # validation images per forward


# ----------------------------------------------------------------------------- writing and checking


class Source(NamedTuple):
    """A network and what is known of it, ready to be exported.

    network  : in evaluation mode, on the CPU: images -> logits or list of logits;  votes, positions
               : of its exits
    data, size : `data.Data` that it was made for; pixels of its images
    parts    : DataFrame of its parts for a reader, as `cost.layers` or `backbones.parts` has them
    numbers  : {"val_top1": percent or None, "test_top1": ..., "test_top5", "macs_tp"}
    latency  : {"ms", "device", "threads"} of one image, or None
    training : one paragraph;  origin : what subnet.json records of the cell;  seen : was it trained
               on the validation images too?
    """

    network: nn.Module
    votes: tuple
    positions: tuple
    data: object
    size: int
    parts: object
    numbers: dict
    latency: dict | None
    training: str
    origin: dict
    seen: bool = False


def write(source, folder):
    """Export a `Source`: folder with subnet.json, .safetensors, .pt2, .onnx, README.md, each
    checked by loading it.

    returns : {"folder", "files", "checks": {format: largest difference of a logit; None: not
              written}, "early": `Early` as a dict or None}.  With several exits there is a further
                                 check, "early", of probabilities
    """
    data, network = source.data, source.network.eval()
    batches = _trial(data, source.size)
    wanted, rounding = _answers(network, batches, source.votes)
    rows, exits = layer_table(network, source.votes, source.positions, data.channels, source.size)
    card = _card(source, rows, exits)
    with _replacing(Path(folder)) as new:
        outputs = None
        if len(exits) > 1:
            from nat_lib.studies.subsets import exit_outputs

            outputs = exit_outputs(network, data.eval_batches("val", source.size, BATCH))
            early = choose_threshold(*outputs, source.votes, macs_until(card))
            card["early"] = early._asdict() | {
                "slack": SLACK,
                "trained_on_these_images": source.seen,
            }
        state = network.state_dict()
        files.write_json(new / "subnet.json", card)
        files.save_weights(new / "subnet.safetensors", state)
        subnet = load_subnet(new)
        files.write_bytes(new / "subnet.pt2", _exported(subnet, batches[0]))
        found = {
            "safetensors": _differences(subnet, batches, wanted),
            "pt2": _differences(torch.export.load(new / "subnet.pt2").module(), batches, wanted),
            "onnx": None,
        }
        if packages := onnx_packages():
            path = new / "subnet.onnx"
            files.write_bytes(path, onnx_model(card, state).SerializeToString())
            run = _session(packages, path)
            found["onnx"] = _differences(lambda x: torch.from_numpy(run(x)[0]), batches, wanted)
        checks = {
            name: _accepted(name, differences, wanted, rounding)
            for name, differences in found.items()
        }
        if outputs:
            checks["early"] = None
        if outputs and packages:
            path = new / "subnet_early.onnx"
            files.write_bytes(path, onnx_model(card, state, early=True).SerializeToString())
            difference = _compare_early(subnet, _session(packages, path), outputs, data, card)
            checks["early"] = _accepted("early", [difference], [torch.ones(1)], rounding[1:])
        files.write_text(new / "README.md", _readme(card, checks, max(rounding)))
    return {
        "folder": str(folder),
        "files": sorted(p.name for p in Path(folder).iterdir()),
        "checks": checks,
        "early": card["early"],
    }


def _card(source, rows, exits):
    data = source.data
    return files.plain(
        {
            "format": FORMAT,
            "origin": source.origin,
            "training": source.training,
            "input": {
                "channels": data.channels,
                "size": source.size,
                "mean": data.mean[: data.channels],
                "std": data.std[: data.channels],
                "resize": data.spec.evaluate,
                "n_classes": data.n_classes,
            },
            "classes": data.classes,
            "costs": {key: sum(row[key] for row in rows) for key in ("params", "macs")}
            | {"macs_tp": source.numbers["macs_tp"]},
            "numbers": {
                key: _with_error(source.numbers[key], len(data.rows[key.partition("_")[0]]))
                for key in ("val_top1", "test_top1", "test_top5")
            },
            "latency": source.latency,
            "exits": exits,
            "early": None,
            "parts": source.parts.to_dict("records"),
            "layers": rows,
        }
    )


def _with_error(percent, n_images):
    """{"value", "se", "images"}: the standard error is that of so many images, without run-to-run
    spread."""
    if percent is None:
        return None
    share = percent / 100
    return {
        "value": percent,
        "se": 100 * float(np.sqrt(share * (1 - share) / n_images)),
        "images": n_images,
    }


def _trial(data, size):
    """What the formats are compared on: [noise in the range of pixels, validation images],
    normalised."""
    noise = torch.rand(8, data.channels, size, size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v[: data.channels])[:, None, None] for v in (data.mean, data.std))
    images, _ = next(iter(data.eval_batches("val", size, CHECKED)))
    return [
        x.float().contiguous(memory_format=torch.channels_last)
        for x in ((noise - mean) / std, images)
    ]


@torch.no_grad()
def _answers(network, batches, votes):
    """(logits of each batch, the most that rounding to float32 changes in them: the network again
    in float64)."""
    precise = copy.deepcopy(network).double()
    wanted = [_vote(network(x), votes) for x in batches]
    return wanted, [
        (_vote(precise(x.double()), votes) - w).abs().max().item()
        for x, w in zip(batches, wanted, strict=True)
    ]


def _vote(out, votes):
    return (
        sum(w * o for w, o in zip(votes, out, strict=True))
        if isinstance(out, list)
        else votes[0] * out
    )


@torch.no_grad()
def _differences(compute, batches, wanted):
    """The largest difference of a logit in each batch, computed at once and with one image
    alone."""
    return [
        max((compute(part) - want[: len(part)]).abs().max().item() for part in (x, x[:1]))
        for x, want in zip(batches, wanted, strict=True)
    ]


def _accepted(name, differences, wanted, rounding):
    """The largest of the differences; a Refusal if one of them is more than another order of
    additions explains."""
    if differences is None:
        return None
    for difference, want, own in zip(differences, wanted, rounding, strict=True):
        scale = max(1.0, want.abs().max().item())
        if not difference <= max(
            TOLERANCE[name] * scale, ROUNDING * own
        ):  # also what is not a number
            raise Refusal(
                f"the {name} form of this network differs from it by {difference:.2g} (logits up to "
                f"{scale:.2g}): nothing was exported; try other versions of torch, onnx and onnxruntime"
            )
    return max(differences)


def _exported(subnet, x):
    """Bytes of the torch.export archive, for any number of images."""
    program = torch.export.export(
        subnet, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "No complete tensor"
        )  # channels-last weights: on a CPU nothing is lost
        torch.export.save(program, file)
    return file.getvalue()


def _session(packages, path):
    """images -> list of outputs of an ONNX file."""
    _, onnxruntime = packages
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {IMAGE: x.contiguous().numpy()})


def _compare_early(subnet, run, outputs, data, card):
    """The largest difference of a probability between ONNX and PyTorch, over images that leave at
    every exit."""
    threshold = card["early"]["threshold"]
    confidence, _ = confidences(outputs.logits, [e["weight"] for e in card["exits"]])
    leaves = leaves_at(confidence, threshold)
    clear = ((confidence[:-1] - threshold).abs() > MARGIN).all(0)
    some = [
        i
        for e in range(len(confidence))
        for i in torch.nonzero(clear & (leaves == e))[:8, 0].tolist()
    ]
    wanted, worst = set(some), 0.0
    images = (
        x[None]
        for batch, _ in data.eval_batches("val", card["input"]["size"], BATCH)
        for x in batch
    )
    for i, x in enumerate(images):
        if i in wanted:
            (theirs, position), (ours, expected) = run(x), answer_early(subnet, x)
            if position[0] != expected or expected != card["exits"][leaves[i]]["position"]:
                return float("inf")
            worst = max(worst, float(np.abs(theirs - ours.numpy()).max()))
    return worst


@contextmanager
def _replacing(folder):
    """Yield a new folder beside `folder`, which takes its place when the body succeeds; else
    nothing is left of it.  An export may be replaced, anything else is refused."""
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not _is_export(folder):
        raise Refusal(f"{folder} is there and is no export: choose another folder")
    with files.atomic_folder(folder) as new:
        yield new


def _is_export(folder):
    try:
        return bool(read_card(folder))
    except Refusal:
        return False


# ----------------------------------------------------------------------------------- the model card


def _readme(card, checks, rounding):
    spec, origin, early = card["input"], card["origin"], card["early"]
    several = len(card["exits"]) > 1
    mean, std = (", ".join(f"{v:.4g}" for v in spec[key]) for key in ("mean", "std"))
    blocks = [
        f"# {origin['title']}",
        f"Image classifier, {card['costs']['params']:,} parameters, {card['costs']['macs']:,} multiply-accumulates "
        f"per image, exported by nat-kit from `{origin['study']}/{origin['name']}`. *Profile: {origin['profile']}.*"
        + (
            " A smoke run proves the path, not the claim: do not use its accuracy."
            * (origin["profile"] == "smoke")
        ),
        "## Input and output",
        f"Input: float32 (batch, {spec['channels']}, {spec['size']}, {spec['size']}), pixels 0..1, then "
        f"(pixel - mean) / std per channel, mean {mean}, std {std}. Images were resized by `{spec['resize']}` "
        "(see `nat_lib.data.Transform`).\n"
        f"Output: logits (batch, {spec['n_classes']}) of the classes "
        + _some(card["classes"])
        + "."
        + (
            " They are the weighted sum of "
            + ", ".join(f"{e['weight']:.4g} x exit {e['position']}" for e in card["exits"])
            + "."
            if several
            else ""
        ),
        "## Data and training",
        card["training"],
        "## Numbers",
        _numbers(card),
        "## Loading",
        _loading(card, checks),
    ]
    if several:
        blocks += ["## Stopping early", _stopping(card, early, checks)]
    blocks += [
        "## Checks",
        "Every file was loaded again and compared with the network it was made of, on random images and on validation "
        "images; the largest differences of a logit (early: of a probability):\n\n"
        + "\n".join(
            f"- {name}: "
            + ("not written, the extra `export` is not installed" if d is None else f"{d:.2g}")
            for name, d in checks.items()
        )
        + f"\n\nRounding to float32 alone changes the network's own logits on these images by up to {rounding:.2g}.",
        "## Licence",
        "The kit that made this network is under the MIT licence. That does not cover the data it was trained on "
        f"(`{origin['dataset']}`): its terms are its owners', and may restrict the use of these weights.",
    ]
    return "\n\n".join(blocks) + "\n"


def _some(classes):
    shown = ", ".join(f"`{c}`" for c in classes[:12])
    return shown + (
        f", ... ({len(classes)} in all, see `subnet.json`)" if len(classes) > 12 else ""
    )


def _numbers(card):
    lines = ["| number | value |", "| --- | --- |"]
    for key, name in (
        ("val_top1", "top-1, validation"),
        ("test_top1", "top-1, test"),
        ("test_top5", "top-5, test"),
    ):
        n = card["numbers"][key]
        lines.append(
            f"| {name} | "
            + (f"{n['value']:.2f} +- {n['se']:.2f} % ({n['images']} images)" if n else "not known")
            + " |"
        )
    lines += [
        f"| {name} | {card['costs'][key]:,} |"
        for key, name in (
            ("params", "parameters"),
            ("macs", "multiply-accumulates"),
            ("macs_tp", "the same, counted as in the thesis"),
        )
    ]
    t = card["latency"]
    lines.append(
        "| latency, one image | "
        + (
            f"{t['ms']:.2f} ms, measured with PyTorch on {t['device']}, threads: {t['threads']}"
            if t
            else "not measured"
        )
        + " |"
    )
    return "\n".join(lines) + (
        "\n\nThe uncertainty is the standard error that so many images leave; another training "
        "run would differ by more."
    )


def _loading(card, checks):
    spec = card["input"]
    forms = [
        (
            "`subnet.json` and `subnet.safetensors`: an ordinary `torch.nn.Module`, to go on with; needs the kit.",
            'from nat_lib.export import load_subnet\nnet = load_subnet(".")\nlogits = net(images)',
        ),
        (
            "`subnet.pt2`: needs PyTorch alone.",
            'import torch\nnet = torch.export.load("subnet.pt2").module()\nlogits = net(images)',
        ),
    ]
    if checks["onnx"] is not None:
        forms.append(
            (
                "`subnet.onnx`: needs ONNX Runtime alone.",
                'import onnxruntime\nnet = onnxruntime.InferenceSession("subnet.onnx")\n'
                f'logits = net.run(None, {{"{IMAGE}": images.numpy()}})[0]',
            )
        )
    return "\n\n".join(
        [
            f"With `images = torch.zeros(1, {spec['channels']}, {spec['size']}, {spec['size']})`, or real ones:",
            *(f"{said}\n\n```python\n{lines}\n```" for said, lines in forms),
        ]
    )


def _stopping(card, early, checks):
    shares = ", ".join(
        f"{100 * s:.1f} % at exit {e['position']}"
        for s, e in zip(early["shares"], card["exits"], strict=True)
    )
    text = [
        "After each exit the weighted vote of the exits so far becomes a softmax; when its largest probability reaches "
        f"{early['threshold']:.6g}, the network answers and computes no further stage. The threshold is the one of "
        f"fewest mean multiply-accumulates that costs at most {early['slack']} points of top-1 on the validation "
        f"split. There it has top-1 {early['val_top1']:.2f} % (all exits: {early['full_val_top1']:.2f} %), {shares} "
        f"leave, and an image takes {early['mean_macs']:,.0f} of {early['macs'][-1]:,} multiply-accumulates (mean)."
    ]
    if early["trained_on_these_images"]:
        text.append(
            "The final training included the validation images, so these shares and percentages are those of "
            "images the network has seen: expect it to leave later, and to be right less often, on new ones."
        )
    text.append(
        '```python\nfrom nat_lib.export import answer_early, load_subnet\nnet = load_subnet(".")\n'
        "probabilities, exit = answer_early(net, images[:1])\n```"
    )
    if checks["early"] is not None:
        text.append(
            "`subnet_early.onnx` is the same rule as true branches of ONNX: input `image`, one image; outputs "
            "`probabilities` and `exit`. Its metadata hold the threshold.\n\n```python\nimport onnxruntime\n"
            'net = onnxruntime.InferenceSession("subnet_early.onnx")\n'
            f'probabilities, exit = net.run(None, {{"{IMAGE}": images[:1].numpy()}})\n```'
        )
    return "\n\n".join(text)


# ------------------------------------------------------------------------------ from finished cells


def from_search(cell, code, folder, data=None):
    """Export a subnet of a finished search with the weights that the search left; returns what
    `write` does.

    cell : its folder;  code : genotype as in archive.csv, "0 1 4 ...".  Batch norms are
           recalibrated as for scoring
    data : `data.Data` that was searched on; None: `find_data(cell)`
    """
    import pandas as pd

    from nat_lib import cost, supernet
    from nat_lib.arch import Space
    from nat_lib.evaluate import recalibrate

    cell = finished(cell, SEARCH)
    p, report, space = cell.params, cell.report(), Space.from_dict(cell.params["space"])
    x, arch = _decoded(space, code)
    data = _same(cell, data) if data else find_data(cell)
    nets = supernet.Supernets(space, p["n_classes"])
    nets.load_state_dict(files.load_weights(cell.path("supernets.safetensors")))
    network = recalibrate(nets.extract(arch), data.calibration_batches(arch.resolution))
    subnets, archive = (pd.read_csv(cell.path(f"{name}.csv")) for name in ("subnets", "archive"))
    same = _rows(space, subnets, x)
    scored = _rows(space, archive[archive.iteration == archive.iteration.max()], x)
    row = same.iloc[0].to_dict() if len(same) else {}
    macs_tp = int(cost.count([arch], space, p["n_classes"]).macs_tp.iloc[0])
    numbers = {
        **{key: row.get(key) for key in ("test_top1", "test_top5")},
        "macs_tp": macs_tp,
        "val_top1": 100 - scored.error.iloc[0] if len(scored) else None,
    }
    latency = (
        {"ms": row["latency_ms"], "device": report["device"], "threads": report["threads"]}
        if row
        else None
    )
    origin = _origin(
        cell,
        f"{p['supernet']} subnet for {p['dataset']}",
        arch=arch,
        space=space,
        code=as_text(x),
    )
    training = (
        f"{_found(space, arch, p)}. Its weights are those of the supernet after the search; its batch norms were "
        f"recalibrated on {data.calibration[0]} training images."
    )
    return write(
        Source(
            network,
            (1.0,),
            (arch.exit,),
            data,
            arch.resolution,
            cost.layers(arch, space, p["n_classes"]),
            numbers,
            latency,
            training,
            origin,
        ),
        folder,
    )


def from_post(cell, folder, data=None):
    """Export the final network of a finished post-processing cell, with its exits; returns what
    `write` does.

    data : `data.Data` that it was trained on; None: `find_data(cell)`
    """
    from nat_lib import cost
    from nat_lib.arch import Space
    from nat_lib.studies import post
    from nat_lib.supernet import Network

    cell = finished(cell, POST)
    p, report = cell.params, cell.report()
    search = finished(_outputs(cell) / SEARCH / PurePosixPath(cell.name).parent, SEARCH)
    if search.hash != p["search"]:
        raise Refusal(
            f"{cell.folder} belongs to another search than {search.folder}: run notebook 05 again"
        )
    space, n_classes = Space.from_dict(search.params["space"]), search.params["n_classes"]
    arch = _decoded(space, p["code"])[1]
    data = _same(cell, data) if data else find_data(cell)
    exits, _, votes = post.attached(space, arch, p["method"], p["weights"])
    network = Network(space, arch, n_classes, exits)
    network.load_state_dict(files.load_weights(cell.path("network.safetensors")))
    network = network.to(memory_format=torch.channels_last)
    metrics, final = report["metrics"], p["budget"]["final"]
    original, known = metrics["original"] or {}, search.report()
    # Fine-tuning changes no layer; exits attached again do, and their latency was not measured.
    timed = len(exits) == 1 and original.get("latency_ms") is not None
    latency = timed and {
        "ms": original["latency_ms"],
        "device": known["device"],
        "threads": known["threads"],
    }
    numbers = {
        **{key: metrics["after"].get(key) for key in ("val_top1", "test_top1", "test_top5")},
        "macs_tp": metrics["macs_tp"],
    }
    origin = _origin(
        cell,
        f"{p['supernet']} subnet for {p['dataset']}, fine-tuned",
        arch=arch,
        space=space,
        code=p["code"],
    )
    training = (
        f"{_found(space, arch, p)}, then fine-tuned: method `{p['method']}`, {p['optimizer']}, learning rate "
        f"{p['lr']:g}"
        + (f", exit weights {p['weights']}" if p["weights"] else "")
        + f", {metrics['best_epoch']} epochs on {final.replace('+', ' and ')}. The validation top-1 below is that of "
        "the first stage, which trained on train alone."
    )
    return write(
        Source(
            network.eval(),
            votes,
            exits,
            data,
            arch.resolution,
            cost.layers(arch, space, n_classes, exits),
            numbers,
            latency or None,
            training,
            origin,
            seen="val" in final,
        ),
        folder,
    )


def from_aep(cell, folder, pruned=True, data=None):
    """Export the network of a finished cell of the AEP study; returns what `write` does.

    pruned : its best subset of exits; False: all of them.  A single-exit baseline has nothing to
             prune
    data   : `data.Data` that it was trained on; None: `find_data(cell)`
    """
    from nat_lib import backbones
    from nat_lib.exits import exit_weights
    from nat_lib.studies import aep

    cell = finished(cell, AEP)
    p, metrics = cell.params, cell.report()["metrics"]
    single = p["mode"] == aep.SINGLE
    data = _same(cell, data) if data else find_data(cell)
    with torch.random.fork_rng(devices=()):  # the weights that it starts with are of no interest
        network = backbones.build(
            p["network"], p["n_classes"], single, p["channels"], hidden=p["hidden"]
        )
    network.load_state_dict(files.load_weights(cell.path("best.safetensors")))
    positions = network.positions
    votes = (1.0,) if single else exit_weights(p["mode"], len(positions))[1]
    numbers, kept = metrics, positions
    if pruned and not single:
        numbers, kept = metrics["pruned"], tuple(metrics["pruned"]["subset"])
        network = backbones.extract(network, kept)
        votes = tuple(votes[positions.index(i)] for i in kept)
    network = network.to(memory_format=torch.channels_last)
    training = (
        f"{p['network']} of torchvision with an exit behind "
        + (
            "its last stage"
            if single
            else f"each of {len(positions)} stages, trained jointly with exit weights {p['mode']}"
        )
        + f", on `{p['dataset']}` ({_sizes(p)}), scenario {p['scenario']}, "
        + (f"from weights of {p['pretrained_on']}" if p["pretrained_on"] else "from random weights")
        + f", best of {metrics['epochs']} epochs, seed {p['seed']}."
        + (
            f" Of its exits {', '.join(map(str, kept))} are kept: the subset that is best on validation."
            if kept != positions
            else ""
        )
    )
    return write(
        Source(
            network.eval(),
            votes,
            kept,
            data,
            p["image_size"],
            backbones.parts(network, p["image_size"], p["channels"]),
            {key: numbers[key] for key in ("val_top1", "test_top1", "test_top5", "macs_tp")},
            {key: numbers["latency"][key] for key in ("ms", "device", "threads")},
            training,
            _origin(cell, f"{p['network']} for {p['dataset']}"),
        ),
        folder,
    )


def finished(folder, study=None):
    """The finished cell in a folder: `runs.Cell`; a Refusal if there is none, or it is of another
    study."""
    folder = Path(os.path.abspath(folder))
    if not (folder / "report.json").exists():
        raise Refusal(
            f"{folder} holds no finished cell, it has no report.json: give the folder of one, such as "
            "outputs/smoke/natv2_phases/digits_turned/EE_D_p4_acc+macs_s0"
        )
    report = files.read_json(folder / "report.json")
    try:
        cell = Cell(folder, report["study"], report["name"], report["params"])
    except (KeyError, TypeError):
        cell = None
    if cell is None or not cell.report():
        raise Refusal(
            f"{folder}/report.json is damaged: delete the folder and run again, the cell is made anew"
        )
    if study not in (None, cell.study):
        raise Refusal(
            f"{folder} is a cell of {cell.study}, not of {study}: use the function for that study"
        )
    return cell


def recommended(cell):
    """Genotype of the subnet to take home from a finished search (`runs.Cell`): of the returned
    ones the most accurate.

    That is, the highest validation top-1; of equal ones the fewest MACs.
    """
    import pandas as pd

    subnets = pd.read_csv(cell.path("subnets.csv")).query("returned")
    return subnets.sort_values(
        ["val_top1", "macs_tp"], ascending=[False, True], kind="stable"
    ).code.iloc[0]


def find_data(cell, params=None):
    """The data set of a finished cell (`runs.Cell`), on the CPU, checked to be the same images in
    the same split.

    params : what it was run with, as `plan.load_params` has it; None: what the driver left beside
             the cell, else the profile of the cell's name
    """
    told = []
    for settings in [params] if params else _settings(cell):
        try:
            return _same(cell, _loaded(cell, settings | {"device": "cpu"}))
        except Refusal as refusal:
            told.append(str(refusal))
    why = told[0] if told else "what it was run with is not recorded beside it"
    raise Refusal(
        f"the images of {cell.name} were not found ({why}): say with --profile FILE and --set data_dir=DIR "
        "what it was run with, or give data="
    )


def _settings(cell):
    """The parameters that the cell may have been run with: those of the driver's jobs, then those
    of its profile."""
    from nat_lib.run.params import load_params

    key, different = "aep_scenarios" if cell.study == AEP else "target", {}
    for path in sorted(_outputs(cell).glob("jobs/*.params.json")):
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
        yield load_params(cell.params["profile"], cell.study)


def _loaded(cell, settings):
    from nat_lib.studies import aep, searches

    if cell.study == AEP:
        return aep.load_data(settings, cell.params["dataset"])
    return searches.load_target(settings | {"target": cell.params["dataset"]})


def _same(cell, data):
    """`data`, on the CPU, if it is what the cell was made with."""
    from nat_lib.studies.eps import identity

    if files.plain(identity(data)) != cell.params["data"]:
        raise Refusal(
            f"{data.name} as loaded here is not that of {cell.name}, it has other images, another split or "
            "calibration: load it with the parameters of that run"
        )
    return data if data.device.type == "cpu" else data.to("cpu")


def _outputs(cell):
    """The outputs folder that a cell lies in."""
    return cell.folder.parents[len(PurePosixPath(cell.name).parts)]


def _origin(cell, title, **more):
    report = cell.report()
    return {
        "title": title,
        "study": cell.study,
        "name": cell.name,
        "hash": cell.hash,
        **{key: cell.params[key] for key in ("dataset", "profile", "seed")},
        **{key: report[key] for key in ("commit", "versions", "device", "threads")},
        **more,
    }


def _decoded(space, code):
    """(genotype (V,), Arch) of a genotype written as text."""

    try:
        X = from_text([code])
    except ValueError:
        raise Refusal(
            f"code {code!r} is no genotype: give {space.n_var} whole numbers with blanks between, as in "
            "archive.csv"
        ) from None
    return X[0], space.decode(X)[0]


def _rows(space, frame, x):
    """The rows of a table whose code is the same subnet as the genotype x."""

    return frame[
        (space.active(from_text(frame.code)) == space.active(x[None])).all(axis=1)
    ]


def _found(space, arch, p):
    has = [
        what
        for what, there in (
            ("early exits", space.early_exits),
            ("dense skips", space.dense),
            ("parallel blocks", space.parallel),
        )
        if there
    ]
    return (
        f"A subnet of the supernet {space.name} ("
        + (", ".join(has) or "one exit, plain blocks")
        + f") at width {arch.width:g}, found on `{p['dataset']}` ({_sizes(p)}) by a search of phase {p['phase']} "
        f"for {p['objectives'].replace('+', ', ')} with seed {p['seed']}"
    )


def _sizes(p):
    return ", ".join(f"{n:,} {part}" for part, n in p["data"]["sizes"].items()) + " images"


# ------------------------------------------------------------------------------------- command line


def main(argv=None):
    """Export the network of a finished cell (search, post-processing or AEP study) into a folder.

    python -m nat_lib.export outputs/smoke/natv2_phases/digits_turned/EE_D_p4_acc+macs_s0 my_subnet
    """
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="python -m nat_lib.export", description=main.__doc__.splitlines()[0]
    )
    parser.add_argument("cell", help="folder of the finished cell")
    parser.add_argument("out", help="folder of the export; an earlier export there is replaced")
    parser.add_argument(
        "--code",
        help="of a search: genotype as in archive.csv; default: of the subnets that the "
        "search returned the one with the highest validation top-1",
    )
    parser.add_argument("--all-exits", action="store_true", help="of the AEP study: do not prune")
    parser.add_argument(
        "--profile", help="with --set: what the cell was run with, if its data set is not found"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    try:
        found = _from_cell(finished(given.cell), given)
    except Refusal as refusal:
        print(f"nat_lib.export: {refusal}", file=sys.stderr)
        return 2
    print(f"{found['folder']}: {', '.join(found['files'])}")
    print(
        "largest differences: "
        + ", ".join(
            f"{name} {'not written' if d is None else f'{d:.2g}'}"
            for name, d in found["checks"].items()
        )
    )
    return 0


def _from_cell(cell, given):
    from nat_lib.run.params import assignments, load_params

    if cell.study not in STUDIES:
        raise Refusal(f"{cell.folder} is a cell of {cell.study}: give one of {', '.join(STUDIES)}")
    if given.code and cell.study != SEARCH:
        raise Refusal(
            f"--code is for searches, and {cell.name} is a cell of {cell.study}: leave it out"
        )
    if given.all_exits and cell.study != AEP:
        raise Refusal(
            f"--all-exits is for the AEP study, and {cell.name} is a cell of {cell.study}: leave it out"
        )
    params = None
    if given.profile or given.set:
        params = load_params(
            given.profile or cell.params["profile"], cell.study, assignments(given.set)
        )
    data = find_data(cell, params)
    if cell.study == SEARCH:
        return from_search(cell.folder, given.code or recommended(cell), given.out, data)
    if cell.study == POST:
        return from_post(cell.folder, given.out, data)
    return from_aep(cell.folder, given.out, not given.all_exits, data)
