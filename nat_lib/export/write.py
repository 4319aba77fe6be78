"""The way out of the kit: a trained network as a folder that needs neither supernet nor search.

An export is a description of the network, its weights, and what was made of them. Every file is
loaded again and compared before the folder takes its name. A network with several exits answers
with the weighted sum of their logits; besides, it can stop as soon as the exits so far are sure
enough.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from nat_lib import files
from nat_lib.data.batches import Data
from nat_lib.early import SLACK, answer_early, choose_threshold, confidences, leaves_at
from nat_lib.errors import Refusal
from nat_lib.export import formats
from nat_lib.export.card import proportion, readme, written
from nat_lib.export.subnet import FORMAT, Subnet, load_subnet

TOLERANCE = {  # of logits (early: of probabilities), relative to the largest one
    "safetensors": 1e-5,
    "pt2": 1e-5,
    "onnx": 1e-4,
    "early": 1e-4,
}
ROUNDING = 4  # times what rounding alone changes in the network's own logits may differ, too
CHECKED = 64  # validation images on which the formats are compared
# Images that are so close to the threshold may leave elsewhere in another library.
MARGIN = 1e-4
BATCH = 250  # validation images per forward
LEAVING = 8  # images of every exit on which stopping early is compared


class Source(NamedTuple):
    """A network and what is known of it, ready to be exported.

    network  : in evaluation mode, on the CPU, with stem, stages and exits
    made     : how `subnet.NETWORKS` makes it again: {"kind": ..., its arguments}
    votes, positions : of the exits it answers with, shallow to deep
    data, size : the data set it was made for; pixels of its images
    parts    : its parts for a reader, as `cost.layers` or `backbones.parts` has them
    numbers  : {"val_top1": percent or None, "test_top1": ..., "test_top5", "macs_tp"}
    latency  : {"ms", "device", "threads"} of one image, or None
    training : one paragraph;  origin : what subnet.json records of the cell;  seen : was it trained
               on the validation images too?
    worth    : one sentence: is its search ahead of hand-made networks?  None: it is of no search
    """

    network: nn.Module
    made: dict[str, Any]
    votes: tuple[float, ...]
    positions: tuple[int, ...]
    data: Data
    size: int
    parts: pd.DataFrame
    numbers: dict[str, float | None]
    latency: dict[str, Any] | None
    training: str
    origin: dict[str, Any]
    seen: bool = False
    worth: str | None = None


def write(
    source: Source, folder: str | Path, policy: str = "confidence", aggregator: str = "vote"
) -> dict[str, Any]:
    """Export a `Source`: a folder with subnet.json, .safetensors, .pt2, .onnx, README.md.

    policy, aggregator : how a network with several exits stops, rows of `early.POLICIES` and
                         `AGGREGATORS`
    returns : {"folder", "files", "checks": {format: largest difference of a logit; None: not
              written}, "early": `Early` as a dict or None}.  With several exits there is a further
              check, "early", of probabilities
    """
    _check_replaceable(Path(folder))
    card = _card(source)
    network = Subnet(source.network.eval(), card)
    batches = _trial(source.data, source.size)
    wanted, rounding = _answers(network, batches)
    outputs = None
    if len(source.positions) > 1:
        card["early"], outputs = _stopping(network, source, policy, aggregator)
    with files.atomic_folder(folder) as new:
        files.write_json(new / "subnet.json", card)
        files.save_weights(new / "subnet.safetensors", source.network.state_dict())
        subnet = load_subnet(new)
        program = formats.exported(subnet, batches[0])
        files.write_bytes(new / "subnet.pt2", formats.pt2_bytes(program))
        found = {
            "safetensors": _differences(subnet, batches, wanted),
            "pt2": _differences(torch.export.load(new / "subnet.pt2").module(), batches, wanted),
            "onnx": None,
        }
        with_onnx = formats.onnx_packages() is not None
        if with_onnx:
            files.write_bytes(new / "subnet.onnx", formats.onnx_bytes(program, card))
            run = formats.session(new / "subnet.onnx")
            found["onnx"] = _differences(lambda x: torch.from_numpy(run(x)[0]), batches, wanted)
        checks = {
            name: None if worst is None else _accepted(name, worst, wanted, rounding)
            for name, worst in found.items()
        }
        if outputs is not None:
            checks["early"] = None
        if outputs is not None and with_onnx:
            files.write_bytes(new / "subnet_early.onnx", formats.early_onnx_bytes(subnet))
            run = formats.session(new / "subnet_early.onnx")
            worst = _compare_early(subnet, run, outputs, source.data)
            checks["early"] = _accepted("early", [worst], [torch.ones(1)], rounding[1:])
        files.write_text(new / "README.md", readme(card, checks, max(rounding)))
    return {
        "folder": str(folder),
        "files": sorted(p.name for p in Path(folder).iterdir()),
        "checks": checks,
        "early": card["early"],
    }


def _check_replaceable(folder):
    """An export may be replaced, an empty folder too; anything else is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    stored = folder / "subnet.json"
    if not (stored.is_file() and (folder / "subnet.safetensors").is_file()):
        raise Refusal(f"{folder} is there and is no export: choose another folder")


def _card(source):
    data, exits = source.data, zip(source.positions, source.votes, strict=True)
    card = {
        "format": FORMAT,
        "origin": source.origin,
        "training": source.training,
        "worth": source.worth,
        "network": source.made,
        "input": {
            "channels": data.channels,
            "size": source.size,
            "mean": data.mean[: data.channels],
            "std": data.std[: data.channels],
            "resize": data.spec.evaluate,
            "n_classes": data.n_classes,
        },
        "classes": [written(name) for name in data.classes],
        "exits": [{"position": p, "weight": float(w)} for p, w in exits],
    }
    macs = Subnet(source.network.eval(), card).macs_until(data.channels, source.size)
    params = sum(p.numel() for p in source.network.parameters())
    card |= {
        "costs": {"params": params, "macs": macs[-1], "macs_tp": source.numbers["macs_tp"]},
        "macs_until": macs,
        "numbers": _numbers(source),
        "latency": source.latency,
        "early": None,
        "parts": source.parts.to_dict("records"),
    }
    return files.plain(card)


def _numbers(source):
    """{name: `proportion` with the images of the smallest class, or None where it is not known}."""
    data, found = source.data, {}
    for name in ("val_top1", "test_top1", "test_top5"):
        percent, split = source.numbers[name], name.partition("_")[0]
        known = percent is not None and not np.isnan(percent)
        if name == "test_top5" and data.n_classes <= 5:
            known = False  # among so few classes the first five are always right
        found[name] = None
        if known:
            of_class = np.bincount(data.store.labels[data.rows[split]], minlength=data.n_classes)
            found[name] = proportion(percent, int(of_class.sum()))
            found[name]["smallest_class"] = int(of_class.min())
    return found


def _stopping(network, source, policy, aggregator):
    """(what the card says of stopping early, logits and labels of the validation images)."""
    from nat_lib.studies.subsets import exit_outputs

    batches = source.data.eval_batches("val", source.size, BATCH)
    outputs = exit_outputs(source.network, batches)
    early = choose_threshold(
        *outputs,
        source.votes,
        network.card["macs_until"],
        policy=policy,
        aggregator=aggregator,
    )
    return early._asdict() | {"slack": SLACK, "trained_on_these_images": source.seen}, outputs


# ---------------------------------------------------------------------------------------- checking


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
def _answers(network, batches):
    """(logits of each batch, the most that rounding to float32 changes in them: the network again
    in float64)."""
    precise = copy.deepcopy(network).double()
    wanted = [network(x) for x in batches]
    rounding = [
        (precise(x.double()) - w).abs().max().item() for x, w in zip(batches, wanted, strict=True)
    ]
    return wanted, rounding


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
    for difference, want, own in zip(differences, wanted, rounding, strict=True):
        scale = max(1.0, want.abs().max().item())
        allowed = max(TOLERANCE[name] * scale, ROUNDING * own)
        if not difference <= allowed:  # also what is not a number
            raise Refusal(
                f"the {name} form of this network differs from it by {difference:.2g} (logits up "
                f"to {scale:.2g}): nothing was exported; try other versions of torch, onnx and "
                "onnxruntime"
            )
    return max(differences)


def _compare_early(subnet, run, outputs, data):
    """The largest difference of a probability between ONNX and PyTorch, over images that leave at
    every exit; infinite where they leave at different ones."""
    early = subnet.card["early"]
    sure, _ = confidences(outputs.logits, subnet.votes, early["policy"], early["aggregator"])
    leaves = leaves_at(sure, early["threshold"])
    clear = ((sure[:-1] - early["threshold"]).abs() > MARGIN).all(0)
    some = {
        i
        for e in range(len(sure))
        for i in torch.nonzero(clear & (leaves == e))[:LEAVING, 0].tolist()
    }
    batches = data.eval_batches("val", subnet.card["input"]["size"], BATCH)
    images = (x[None] for batch, _ in batches for x in batch)
    worst = 0.0
    for i, x in enumerate(images):
        if i not in some:
            continue
        theirs, position = run(x)
        ours, expected = answer_early(subnet, x)
        if not position[0] == expected == subnet.positions[leaves[i]]:
            return float("inf")
        worst = max(worst, float(np.abs(theirs - ours.numpy()).max()))
    return worst
