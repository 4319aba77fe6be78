"""The AEP study: early-exit networks trained jointly, read as ensembles, pruned to their best
subset of exits.

A cell is one training on one data set.  Pruning needs one pass over the validation split: the
logits of all exits are kept, and what a subset of exits would answer is a weighted sum of them.
The test split is read at the very end.
Source: thesis chapter 4; AEP, arXiv:2301.12168; where both are silent, the notebook published with
        them.
"""

import math
import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from nat_lib import backbones, cells, files, latency, machine
from nat_lib.backbone_table import baseline_of
from nat_lib.cells import open_cell
from nat_lib.data.batches import load
from nat_lib.errors import Refusal
from nat_lib.evaluate import correct, in_memory, score, score_exits
from nat_lib.exits import MODES, exit_weights
from nat_lib.search.pareto import front
from nat_lib.studies import eps
from nat_lib.studies.models import OTHERS
from nat_lib.train import fit

STUDY, PRETRAINING = "aep_study", "aep_pretraining"
SINGLE = "SE"  # the mode of the single-exit baselines
LR = 1e-4  # thesis 4.2.2
CLASS_WEIGHTED = ("eurosat", "gtsrb")  # rare classes weigh more in their training loss
GREY = ("fashion_mnist",)  # one channel; all others have three
COSTS = ("params", "macs", "macs_tp", "latency_ms")
# What decides between subsets of exits, in turn, the smallest first; "-": the largest.
TIES = {
    "smaller": ("-val_top1", "-val_top5", "macs_tp", "exits", "number"),
    "published": ("-val_top1", "-val_top5", "number"),
}
CHUNK = 2**22  # numbers that are computed at a time


class Constant(NamedTuple):
    """A learning rate that stays as it is."""

    lr: float
    epochs: int

    @property
    def total(self):
        return self.epochs

    def at(self, step, n_batches):
        return self.lr


class Outputs(NamedTuple):
    """What a network's exits say about a split: logits (E, N, K) float32, shallow to deep; labels
    (N,) int64."""

    logits: torch.Tensor
    labels: torch.Tensor


class Pruned(NamedTuple):
    """The best subset of exits: original positions, percent right on validation, what decided,
    extracted network."""

    exits: list
    val_top1: float
    ties: dict
    network: nn.Module
    subsets: pd.DataFrame  # all of them, see `subset_table`


# -------------------------------------------------------------------------------------------- cells


def selected(params):
    """(dataset, network, scenario, mode, seed) of every cell that the profile runs.

    Networks that differ in their exits alone share one single-exit baseline (mode "SE"), which
    comes first.
    """
    networks = params["aep_networks"]
    trained = [
        *((n, SINGLE) for n in dict.fromkeys(map(baseline_of, networks))),
        *((n, mode) for n in networks for mode in MODES),
    ]
    return [
        (dataset, network, scenario, mode, seed)
        for seed in params["seeds"]
        for dataset in params["aep_datasets"]
        for scenario in params["aep_scenarios"]
        for network, mode in trained
    ]


def load_data(params, dataset):
    """A data set as chapter 4 splits and prepares it, on the device that the parameters name."""
    if params["device"] == "cuda" and not torch.cuda.is_available():
        raise Refusal(
            "device is cuda but torch sees no GPU: set device to cpu, or run on a machine with one"
        )
    found = load(
        dataset,
        root=params["data_dir"] and files.ROOT / params["data_dir"],
        protocol="aep",
        **{f"{part}_images": params[f"aep_{part}_images"] for part in ("train", "val", "test")},
        channels=1 if dataset in GREY else 3,
        download=params["download"],
        store=max(192, 3 * max(params["aep_scenarios"].values())),
    )
    return found if params["device"] == "cpu" else found.to(params["device"])


def check_weights(params):
    """Find or fetch the ImageNet weights of all selected cells, or refuse before the first of them
    is trained."""
    for network in dict.fromkeys(
        baseline_of(network)
        for dataset, network, scenario, *_ in selected(params)
        if scenario.startswith("FT") and not proxy_of(params, dataset)
    ):
        backbones.imagenet_file(network, params["weights_dir"], params["download"])


def proxy_of(params, dataset):
    """The data set on which backbones are pre-trained that are fine-tuned on this one; None:
    ImageNet."""
    return params["aep_proxy"].get(dataset, params["aep_proxy"].get(OTHERS))


def recipe(params, dataset):
    """What a training depends on besides network, exit weights, first weights and images."""
    return {
        "lr": LR * params["aep_lr_factor"],
        "class_weights": dataset in CLASS_WEIGHTED,
        **{
            key: params[f"aep_{key}"]
            for key in (
                "epochs",
                "patience",
                "batch_size",
                "max_steps",
                "bn_momentum",
                "eval_batch_size",
            )
        },
        "precision": params["precision"],
    }


def run(params, dataset, network, scenario, mode, seed, data, out):
    """Train, prune and test one network (or find it finished); returns the report of its cell.

    scenario : "TR-224" | "TR-64" | "FT-224" | "FT-64": from scratch or fine-tuned; the profile says
               at how many pixels
    mode     : a mode of `exits.exit_weights`, or "SE": the baseline that the network shares with
               its siblings
    data     : `load_data(params, dataset)`
    """
    for what, value, legal in (
        ("scenario", scenario, params["aep_scenarios"]),
        ("mode", mode, (SINGLE, *MODES)),
    ):
        if value not in legal:
            raise Refusal(f"{what} {value!r} of the AEP study: use one of {', '.join(legal)}")
    network, size = (
        baseline_of(network) if mode == SINGLE else network,
        params["aep_scenarios"][scenario],
    )
    start, file = _start(params, dataset, network, scenario, size, seed, out)
    cell = open_cell(
        out,
        STUDY,
        f"{dataset}/{network}_{scenario}_{mode}_s{seed}",
        {
            **_identity(params, network, size, seed, data),
            "scenario": scenario,
            "mode": mode,
            **start,
            **{k: params[k] for k in ("hidden", "keep_stem", "ties", "aep_latency_runs")},
        },
        __name__,
    )
    if done := cell.report():
        return done
    weights = file()
    return cells.compute(
        cell,
        lambda: _study(cell, data, weights, params["workers"]),
        weights and {"start": weights},
        drops=["epochs.json"],
    )


def _identity(params, network, size, seed, data):
    return {
        "dataset": data.name,
        "network": network,
        "image_size": size,
        "seed": seed,
        "profile": params["profile"],
        "n_classes": data.n_classes,
        "channels": data.channels,
        "data": eps.identity(data),
        "recipe": recipe(params, data.name),
    }


def _start(params, dataset, network, scenario, size, seed, out):
    """(what a cell says of its first weights, function that makes sure of their file; None: random
    weights).

    proxy : pre-trained by `_pretrain` on another data set, not on ImageNet;  start : tells these
            weights from others
    """
    if scenario.startswith("TR"):
        return {"proxy": False, "pretrained_on": None, "start": None}, lambda: None
    if not proxy_of(params, dataset):
        name = Path(backbones.imagenet_url(network)).name
        return {
            "proxy": False,
            "pretrained_on": "ImageNet",
            "start": name,
        }, lambda: backbones.imagenet_file(network, params["weights_dir"], params["download"])
    data = load_data(params, proxy_of(params, dataset))
    network = baseline_of(network)
    cell = open_cell(
        out,
        PRETRAINING,
        f"{data.name}/{network}_{size}px_s{seed}",
        _identity(params, network, size, seed, data),
        __name__,
    )
    return {"proxy": True, "pretrained_on": data.name, "start": cell.hash}, lambda: _pretrain(
        cell, data, params["workers"]
    )


def _pretrain(cell, data, workers):
    """Train a baseline from scratch, or find it finished; returns the file of its weights.  No test
    image is read."""

    def work():
        p = cell.params
        machine.seed_all(p["seed"])
        network = backbones.build(p["network"], p["n_classes"], single=True, channels=p["channels"])
        return _summary(train(cell, network, data, (1.0,), (1.0,), workers))

    cells.compute(cell, work, drops=["epochs.json"])
    return cell.path("best.safetensors")


def _study(cell, data, file, workers):
    p, single = cell.params, cell.params["mode"] == SINGLE
    size, batch_size = p["image_size"], p["recipe"]["eval_batch_size"]
    machine.seed_all(p["seed"])
    weights = _weights(p, file)
    network = backbones.build(
        p["network"],
        p["n_classes"],
        single,
        p["channels"],
        weights,
        p["hidden"],
        p["keep_stem"] and weights is not None,
    )
    table, exits = backbones.parts(network, size, p["channels"]), network.positions
    loss_weights, votes = ((1.0,), (1.0,)) if single else exit_weights(p["mode"], len(exits))
    history = train(cell, network, data, loss_weights, votes, workers)

    val = exit_outputs(network, data.eval_batches("val", size, batch_size))
    speed = {"latency": measured(network, p)._asdict()}
    if not single:
        table["latency_ms"] = part_latencies(network, p)
        pruned = prune(network, val, votes, table, p["ties"])
        pruned_speed = {"latency": measured(pruned.network, p)._asdict()}
        patterns = {
            "OPTIMAL": optimal_weights(val),
            **{mode: exit_weights(mode, len(exits))[1] for mode in MODES},
        }

    # All is decided: from here on the test split is read.
    test = exit_outputs(network, data.test_batches(size, batch_size, why=cell.name))
    top1, top5 = accuracies(test, [votes, *np.eye(len(exits))]).T
    metrics = {
        **_summary(history),
        "test_top1": top1[0],
        "test_top5": top5[0],
        "exits": [{"top1": a, "top5": b} for a, b in zip(top1[1:], top5[1:], strict=True)],
        **_cost(network, p),
        **speed,
        "n_test": len(test.labels),
    }
    if not single:
        tested = score(
            pruned.network,
            data.test_batches(size, batch_size, why=f"{cell.name}, pruned"),
            [votes[exits.index(i)] for i in pruned.exits],
        )
        metrics["pruned"] = {
            "subset": pruned.exits,
            "val_top1": pruned.val_top1,
            "ties": pruned.ties,
            "test_top1": tested.top1,
            "test_top5": tested.top5,
            **_cost(pruned.network, p),
            **pruned_speed,
        }
        metrics["output_weights"] = compared(patterns, val, test)
        files.write_csv(cell.path("subsets.csv"), pruned.subsets)
        files.write_csv(cell.path("parts.csv"), table)
    return metrics


def _weights(p, file):
    """The weights of stem and stages that a cell starts from; None: random ones."""
    if p["proxy"]:
        return backbones.backbone_weights(files.load_weights(file))
    return file and backbones.imagenet(p["network"], file.parent)


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


# ----------------------------------------------------------------------------------------- training


def stacked(out):
    """What a network returns, one tensor or a list of them, as (E, B, K) float32."""
    return torch.stack(tuple(out) if isinstance(out, list) else (out,)).float()


def exit_losses(logits, labels, class_weights=None):
    """Cross-entropy of every exit: logits (E, B, K), labels (B,) -> (E,).  Thesis eq. 4.1.

    class_weights : (K,); the mean over the batch is then the weighted mean
    """
    each = F.cross_entropy(
        logits.flatten(0, 1), labels.repeat(len(logits)), class_weights, reduction="none"
    )
    total = len(labels) if class_weights is None else class_weights[labels].sum()
    return each.view(len(logits), -1).sum(1) / total


def class_weights(data):
    """(K,) float32: images / (classes * images of the class), on the training split."""
    counts = np.bincount(data.train.labels, minlength=data.n_classes)
    return torch.tensor(
        counts.sum() / (data.n_classes * np.maximum(counts, 1)), dtype=torch.float32
    )


def train(cell, network, data, loss_weights, votes, workers=0, also=None):
    """Train all exits jointly and leave the weights of the best epoch in the network; returns the
    history.

    loss_weights, votes : of the exits, shallow to deep.  The epoch with the highest validation
                          top-1 of the weighted sum of logits is the best; the sum of the weighted
                          losses decides when to stop
    also                : (E, B, K) logits -> a further term of the loss, such as the diversity of
                          the exits; None: none
    history             : per epoch, for train and val: loss, top1, top5 of the ensemble and of each
                          exit (loss_1 is already weighted), mean over the images; seconds of
                          training, val_seconds.  Thesis 4.2.2
    """
    p, recipe, device = cell.params, cell.params["recipe"], data.device
    network.to(device, memory_format=torch.channels_last)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d) and recipe["bn_momentum"]:
            m.momentum = recipe["bn_momentum"]
    n_batches = min(data.n_batches(recipe["batch_size"]), recipe["max_steps"] or data.n_batches(1))
    alpha, beta = (torch.tensor(w, device=device) for w in (loss_weights, votes))
    balance = class_weights(data).to(device) if recipe["class_weights"] else None
    # One row per epoch, written before `fit` saves its state: an epoch that is done again replaces
    # its row.
    saved = cell.path("epochs.json")
    rows, now = files.read_json(saved) if saved.exists() else [], {}

    def batches(epoch):
        now.update(epoch=epoch, sums=0, began=time.perf_counter())
        return islice(
            data.train_batches(epoch, recipe["batch_size"], [p["image_size"]], p["seed"], workers),
            n_batches,
        )

    def losses(x, y, step):
        logits = stacked(network(x))
        each, vote = alpha * exit_losses(logits, y, balance), (beta[:, None, None] * logits).sum(0)
        now["sums"] += _sums(each.detach(), torch.cat([vote[None], logits]).detach(), y)
        yield each.sum() + (also(logits) if also else 0), vote

    def validate(network):
        seconds, epoch = time.perf_counter() - now["began"], now["epoch"]
        images = data.eval_batches("val", p["image_size"], recipe["eval_batch_size"])
        scores = score_exits(network.eval(), images, votes)
        each = [a * s.loss for a, s in zip(loss_weights, scores[1:] or scores, strict=True)]
        loss, total = sum(each), now["sums"].double()
        if not math.isfinite(loss):
            raise Refusal(
                f"{cell.name}: the validation loss is not a number in epoch {epoch + 1}; lower aep_lr_factor "
                "in the profile"
            )
        rows[epoch:] = [
            {
                "epoch": epoch + 1,
                **_columns("train", (total / total[:, -1:])[:, :-1].tolist()),
                **_columns(
                    "val",
                    [
                        (value, s.top1, s.top5)
                        for value, s in zip((loss, *each), scores, strict=False)
                    ],
                ),
                "seconds": seconds,
                "val_seconds": time.perf_counter() - now["began"] - seconds,
            }
        ]
        files.write_json(saved, rows)
        # A tie is no improvement here, unlike elsewhere: `fit` gets to see a loss that is higher by
        # a hair.
        tie = loss == min((row["val_loss"] for row in rows[:epoch]), default=math.inf)
        return math.nextafter(loss, math.inf) if tie else loss, scores[0].top1

    history, best = fit(
        network,
        losses,
        batches,
        validate,
        Constant(recipe["lr"], recipe["epochs"]),
        torch.optim.Adam(network.parameters(), fused=True),
        n_batches,
        cell,
        recipe["precision"],
        cell.name,
        patience=recipe["patience"],
    )
    if len(rows) != len(history):
        raise Refusal(
            f"{saved} is damaged: delete the folder it lies in and run again, the cell is made anew"
        )
    network.load_state_dict(best)
    network.eval()
    history = pd.DataFrame(rows).assign(lr=history.lr, is_best=history.is_best)
    files.write_csv(cell.path("history.csv"), history)
    return history


def _sums(losses, outputs, y):
    """(1 + E, 4) sums over a batch of loss, 100 * right, 100 * right in five, images: the ensemble,
    then each exit."""
    n = y.new_full((len(outputs), 1), len(y))
    return torch.cat(
        [len(y) * torch.cat([losses.sum()[None], losses])[:, None], 100.0 * correct(outputs, y), n],
        1,
    )


def _columns(split, rows):
    """{"val_loss": ..., "val_top1_2": ...}; a single exit is not told twice."""
    told = rows if len(rows) > 2 else rows[:1]
    return {
        f"{split}_{key}_{i}".removesuffix("_0"): value
        for i, row in enumerate(told)
        for key, value in zip(("loss", "top1", "top5"), row, strict=True)
    }


# ------------------------------------------------------------------------------- ensembles of exits


@torch.inference_mode()
def exit_outputs(network, batches):
    """`Outputs` of a network in one pass over (images, labels) batches."""
    network.eval()
    pieces = (piece for x, y in batches for piece in in_memory(network, x, y))
    logits, labels = zip(*((stacked(network(x)), y) for x, y in pieces), strict=True)
    found = Outputs(torch.cat(logits, 1), torch.cat(labels))
    if not torch.isfinite(found.logits).all():
        raise Refusal(
            "the network's outputs are not numbers: lower aep_lr_factor in the profile and train it again"
        )
    return found


@torch.inference_mode()
def accuracies(outputs, weights):
    """Percent right and percent right in five of weighted sums of exits: weights (S, E) -> (S, 2)
    float64."""
    W = torch.tensor(np.array(weights), dtype=torch.float32, device=outputs.logits.device)
    _, n, n_classes = outputs.logits.shape
    step, right = max(1, CHUNK // (len(W) * n_classes)), 0
    for i in range(0, n, step):
        sums = torch.einsum("se,enk->snk", W, outputs.logits[:, i : i + step])
        right = right + correct(sums, outputs.labels[i : i + step])
    return (100.0 * right.double() / n).cpu().numpy()


def all_subsets(n_exits):
    """(2^n - 1, n) bool: every subset of the exits but the empty one.

    In the published order: row i is the number i + 1 in binary, its most significant digit the
                            first exit.
    """
    numbers = np.arange(1, 2**n_exits)[:, None]
    return (numbers >> np.arange(n_exits)[::-1]) & 1 == 1


def subset_table(outputs, votes, table):
    """Every subset of the exits, scored and costed: DataFrame in the published order.  Thesis
    4.1.3.

    outputs : of the validation split;  votes : the exits' output weights, which a subset keeps as
              they are
    table   : `backbones.parts` of the network, with or without a column latency_ms
    columns : number (1, 2, ...), subset (positions joined by blanks), exits (how many), val_top1,
              val_top5, costs, and front_<cost>: is no other subset both cheaper and as accurate, or
              more accurate and as cheap
    """
    masks = all_subsets(len(votes))
    body, heads = table[table.part != "exit"], table[table.part == "exit"]
    positions = heads.position.to_numpy()
    deepest = np.where(masks, positions, 0).max(1)
    top1, top5 = accuracies(outputs, masks * np.array(votes)).T
    found = pd.DataFrame(
        {
            "number": np.arange(1, len(masks) + 1),
            "subset": [" ".join(map(str, positions[m])) for m in masks],
            "exits": masks.sum(1),
            "val_top1": top1,
            "val_top5": top5,
        }
    )
    for name in (c for c in COSTS if c in table):
        found[name] = body[name].cumsum().to_numpy()[deepest] + masks @ heads[name].to_numpy()
        found[f"front_{name}"] = front(np.column_stack([100 - top1, found[name]]))
    return found


def choose(subsets, ties="smaller"):
    """(row of the best subset, {"rule": the column that decided, "tied": subsets that share the
    highest top-1}).

    ties : "smaller" (top-1, top-5, fewer MACs, fewer exits, order) | "published" (top-1, top-5,
           order)
    """
    if ties not in TIES:
        raise Refusal(f"ties {ties!r}: use one of {', '.join(TIES)}")
    left, tied = subsets, int((subsets.val_top1 == subsets.val_top1.max()).sum())
    for rule in TIES[ties]:
        values = -left[rule[1:]] if rule.startswith("-") else left[rule]
        left = left[values == values.min()]
        if len(left) == 1:
            return left.iloc[0], {"rule": rule.removeprefix("-"), "tied": tied}


def prune(network, outputs, votes, table, ties="smaller"):
    """The subset of exits that is best on the validation split, extracted: `Pruned`.  Thesis 4.1.3;
    see `subset_table`.

    A pruned network can be pruned again: exits keep their positions.
    """
    subsets = subset_table(outputs, votes, table)
    best, how = choose(subsets, ties)
    exits = [int(i) for i in best.subset.split()]
    return Pruned(exits, float(best.val_top1), how, backbones.extract(network, exits), subsets)


# ----------------------------------------------------------------------------------- output weights


def optimal_weights(outputs):
    """(E,) weights >= 0 of sum 1 whose weighted sum of logits has the lowest cross-entropy: a
    convex problem."""
    logits, labels = outputs.logits.double(), outputs.labels
    n_exits, n, _ = logits.shape
    own = logits.gather(2, labels.expand(n_exits, -1)[..., None])[
        ..., 0
    ]  # (E, N) logit of the right class

    def loss(w):
        """Mean cross-entropy and its gradient, (E,)."""
        w = torch.from_numpy(w).to(logits.device)
        z = torch.einsum("e,enk->nk", w, logits)
        value = (z.logsumexp(1) - w @ own).mean()
        slope = (torch.einsum("nk,enk->e", z.softmax(1), logits) - own.sum(1)) / n
        return value.item(), slope.cpu().numpy()

    found = minimize(
        loss,
        np.full(n_exits, 1 / n_exits),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n_exits,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
        options={"maxiter": 300, "ftol": 1e-12},
    )
    w = np.clip(found.x, 0, 1)
    return w / w.sum()


def compared(patterns, val, test):
    """{"weights": {name: output weights}, "scores": {name: val_loss, val_top1, test_top1,
    test_top5}}."""
    rows = list(patterns.values())
    losses = [
        F.cross_entropy(
            torch.einsum(
                "e,enk->nk", torch.tensor(w, device=val.labels.device).float(), val.logits
            ),
            val.labels,
        ).item()
        for w in rows
    ]
    scores = np.column_stack([losses, accuracies(val, rows)[:, 0], accuracies(test, rows)]).tolist()
    names = ("val_loss", "val_top1", "test_top1", "test_top5")
    return {
        "weights": patterns,
        "scores": {
            key: dict(zip(names, s, strict=True)) for key, s in zip(patterns, scores, strict=True)
        },
    }


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
        laps = latency.lap_times(links, x, min(latency.WARMUP, n_runs), n_runs, time.perf_counter)
    return np.median(laps, axis=0)
