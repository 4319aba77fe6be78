"""The AEP study: early-exit networks trained jointly, read as ensembles, pruned to their best
subset of exits.

A cell is one training on one data set.  The test split is read at the very end.
Source: thesis chapter 4; AEP, arXiv:2301.12168; where both are silent, the notebook published with
them.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from nat_lib import backbones, cells, files, imagenet, latency, latency_table, machine
from nat_lib.backbone_table import baseline_of
from nat_lib.cells import open_cell
from nat_lib.distill import further
from nat_lib.errors import Refusal
from nat_lib.evaluate import score
from nat_lib.exit_weights import MODES, exit_weights
from nat_lib.studies import inputs, subsets
from nat_lib.studies.exit_training import train
from nat_lib.studies.models import OTHERS

STUDY, PRETRAINING = "aep_study", "aep_pretraining"
SINGLE = "SE"  # the mode of the single-exit baselines
LR = 1e-4  # thesis 4.2.2
CLASS_WEIGHTED = ("eurosat", "gtsrb")  # rare classes weigh more in their training loss
GREY = ("fashion_mnist",)  # one channel; all others have three
RECIPE = ("epochs", "patience", "batch_size", "max_steps", "bn_momentum", "eval_batch_size")


# -------------------------------------------------------------------------------------------- cells


def selected(params):
    """(dataset, network, scenario, mode, seed) of every cell that the profile runs.

    Networks that differ in their exits alone share one single-exit baseline (mode "SE"), which
    comes first.
    """
    networks = params["aep_networks"]
    baselines = [(network, SINGLE) for network in dict.fromkeys(map(baseline_of, networks))]
    trained = baselines + [(network, mode) for network in networks for mode in MODES]
    return [
        (dataset, network, scenario, mode, seed)
        for seed in params["seeds"]
        for dataset in params["aep_datasets"]
        for scenario in params["aep_scenarios"]
        for network, mode in trained
    ]


def load_data(params, dataset):
    """A data set as chapter 4 splits and prepares it, on the device that the parameters name."""
    return inputs.load(
        params,
        dataset,
        protocol="aep",
        **{f"{part}_images": params[f"aep_{part}_images"] for part in ("train", "val", "test")},
        channels=1 if dataset in GREY else 3,
        download=params["download"],
        store=max(192, 3 * max(params["aep_scenarios"].values())),
    )


def check_weights(params):
    """Find or fetch the ImageNet weights of all selected cells, or refuse before the first of them
    is trained."""
    for network in dict.fromkeys(
        baseline_of(network)
        for dataset, network, scenario, *_ in selected(params)
        if scenario.startswith("FT") and not proxy_of(params, dataset)
    ):
        imagenet.file_of(network, params["weights_dir"], params["download"])


def proxy_of(params, dataset):
    """The data set on which backbones are pre-trained that are fine-tuned on this one; None:
    ImageNet."""
    return params["aep_proxy"].get(dataset, params["aep_proxy"].get(OTHERS))


def recipe(params, dataset):
    """What a training depends on besides network, exit weights, first weights and images."""
    return {
        "lr": LR * params["aep_lr_factor"],
        "class_weights": dataset in CLASS_WEIGHTED,
        **{key: params[f"aep_{key}"] for key in RECIPE},
        "precision": params["precision"],
        "compile": params["compile"],
    }


EXITS = ("exit_terms", "exit_law")  # how they are trained together


def run(params, dataset, network, scenario, mode, seed, data, out):
    """Train, prune and test one network (or find it finished); returns the report of its cell.

    scenario : "TR-224" | "TR-64" | "FT-224" | "FT-64": from scratch or fine-tuned; the profile says
               at how many pixels
    mode     : a mode of `exit_weights.MODES`, or "SE": the baseline that the network shares with
               its siblings
    data     : `load_data(params, dataset)`
    """
    for what, value, legal in (
        ("scenario", scenario, params["aep_scenarios"]),
        ("mode", mode, (SINGLE, *MODES)),
    ):
        if value not in legal:
            raise Refusal(f"{what} {value!r} of the AEP study: use one of {', '.join(legal)}")
    network = baseline_of(network) if mode == SINGLE else network
    size = params["aep_scenarios"][scenario]
    start = _start(params, dataset, network, scenario, size, seed, out)
    values = {
        **_identity(params, network, size, seed, data),
        "scenario": scenario,
        "mode": mode,
        "proxy": start.proxy,
        "pretrained_on": start.on,
        "start": start.name,
        **{k: params[k] for k in ("hidden", "keep_stem", "ties", "aep_latency_runs", *EXITS)},
    }
    name = f"{dataset}/{network}_{scenario}_{mode}_s{seed}"
    cell = open_cell(out, STUDY, name, values, __name__)
    if done := cell.report():
        return done
    file = start.file()
    work = partial(_study, cell, data, file, params["workers"])
    return cells.compute(cell, work, {"start": file} if file else {}, drops=("epochs.json",))


def _identity(params, network, size, seed, data):
    return {
        "dataset": data.name,
        "network": network,
        "image_size": size,
        "seed": seed,
        "profile": params["profile"],
        "n_classes": data.n_classes,
        "channels": data.channels,
        "data": inputs.identity(data),
        "recipe": recipe(params, data.name),
    }


class Start(NamedTuple):
    """The first weights of a cell.

    on    : what they were trained on; None: nothing, they are random
    name  : tells them from others
    proxy : trained here, on another data set instead of ImageNet
    file  : makes sure of their file, and returns it; None: there is none
    """

    on: str | None = None
    name: str | None = None
    proxy: bool = False
    file: Callable[[], Path | None] = lambda: None


def _start(params, dataset, network, scenario, size, seed, out):
    proxy = proxy_of(params, dataset)
    if scenario.startswith("TR"):
        return Start()
    if not proxy:
        given = (network, params["weights_dir"], params["download"])
        name = Path(imagenet.url_of(network)).name
        # looked up when it is called: an attribute of the module
        return Start("ImageNet", name, file=lambda: imagenet.file_of(*given))
    data, network = load_data(params, proxy), baseline_of(network)
    values = _identity(params, network, size, seed, data)
    name = f"{data.name}/{network}_{size}px_s{seed}"
    cell = open_cell(out, PRETRAINING, name, values, __name__)
    return Start(data.name, cell.hash, True, partial(_pretrained, cell, data, params["workers"]))


def _pretrained(cell, data, workers):
    """The file of a baseline trained from scratch, made or found.  No test image is read."""

    def work():
        p = cell.params
        machine.seed_all(p["seed"])
        network = backbones.build(p["network"], p["n_classes"], single=True, channels=p["channels"])
        return _summary(train(cell, network, data, (1.0,), (1.0,), workers))

    cells.compute(cell, work, drops=("epochs.json",))
    return cell.path("best.safetensors")


def _study(cell, data, file, workers):
    """Train, prune and test one network; returns the metrics."""
    p, single = cell.params, cell.params["mode"] == SINGLE
    size, batch_size = p["image_size"], p["recipe"]["eval_batch_size"]
    machine.seed_all(p["seed"])
    network = _network(p, file)
    table, exits = backbones.parts(network, size, p["channels"]), network.positions
    loss_weights, votes = ((1.0,), (1.0,)) if single else exit_weights(p["mode"], len(exits))
    also = None if single else further(p["exit_terms"], votes)
    law = "steady" if single else p["exit_law"]
    history = train(cell, network, data, loss_weights, votes, workers, also, law)

    val = subsets.exit_outputs(network, data.eval_batches("val", size, batch_size))
    speed = {"latency": measured(network, p)._asdict()}
    if not single:
        table["latency_ms"] = part_latencies(network, p)
        pruned = subsets.prune(network, val, votes, table, p["ties"])
        pruned_speed = {"latency": measured(pruned.network, p)._asdict()}
        patterns = {"OPTIMAL": subsets.optimal_weights(val)}
        patterns |= {mode: exit_weights(mode, len(exits))[1] for mode in MODES}

    # All is decided: from here on the test split is read.
    batches = data.test_batches(size, batch_size, why=cell.name)
    test = subsets.exit_outputs(network, batches)
    top1, top5 = subsets.accuracies(test, [votes, *np.eye(len(exits))]).T
    metrics = {
        **_summary(history),
        "test_top1": top1[0],
        "test_top5": top5[0],
        "exits": [{"top1": a, "top5": b} for a, b in zip(top1[1:], top5[1:], strict=True)],
        **_cost(network, p),
        **speed,
        "n_test": len(test.labels),
    }
    if single:
        return metrics
    batches = data.test_batches(size, batch_size, why=f"{cell.name}, pruned")
    tested = score(pruned.network, batches, [votes[exits.index(i)] for i in pruned.exits])
    metrics["pruned"] = {
        "subset": pruned.exits,
        "val_top1": pruned.val_top1,
        "ties": pruned.ties,
        "test_top1": tested.top1,
        "test_top5": tested.top5,
        **_cost(pruned.network, p),
        **pruned_speed,
    }
    metrics["output_weights"] = subsets.compared(patterns, val, test)
    files.write_csv(cell.path("subsets.csv"), pruned.subsets)
    files.write_csv(cell.path("parts.csv"), table)
    return metrics


def _network(p, file):
    """The network of a cell with its first weights."""
    weights = None
    if p["proxy"]:
        weights = backbones.backbone_weights(files.load_weights(file))
    elif file:
        weights = imagenet.weights(p["network"], file.parent)
    keep_stem = p["keep_stem"] and weights is not None
    single = p["mode"] == SINGLE
    return backbones.build(
        p["network"], p["n_classes"], single, p["channels"], weights, p["hidden"], keep_stem
    )


def _summary(history):
    best = history[history.is_best].iloc[-1]
    return {
        "val_top1": best.val_top1,
        "epochs": len(history),
        "best_epoch": int(best.epoch),
        "seconds_per_epoch": history.seconds.median(),
    }


def _cost(network, p):
    return backbones.cost(network, p["image_size"], p["channels"])._asdict()


# ------------------------------------------------------------------------------------------ latency


class FirstChannel(nn.Module):
    """Colour images to grey ones."""

    def forward(self, x):
        return x[:, :1]


def measured(network, p):
    """`latency.Latency` of a network as in the thesis: one image, evaluation mode, after a
    warm-up."""
    n_runs = p["aep_latency_runs"]
    timed = network if p["channels"] == 3 else nn.Sequential(FirstChannel(), network)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return latency.measure(timed, p["image_size"], min(latency.WARMUP, n_runs), n_runs)


def part_latencies(network, p):
    """Median milliseconds of every part in place, in the order of `backbones.parts`: what subsets
    are summed from."""
    links = [("stem", network.stem, True)]
    for i, stage in enumerate(network.stages, 1):
        links.append((f"stage {i}", stage, True))
        if i in network.positions:
            links.append((f"exit {i}", network.exits[str(i)], False))
    x = latency.random_image(p["image_size"], next(network.parameters()).device)[:, : p["channels"]]
    n_runs = p["aep_latency_runs"]
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        laps = latency_table.lap_times(
            links, x, min(latency.WARMUP, n_runs), n_runs, time.perf_counter
        )
    return np.median(laps, axis=0)
