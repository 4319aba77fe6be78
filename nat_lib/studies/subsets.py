"""Subsets of the exits of a trained network: which is best, what weights would be.

One pass over a split keeps the logits of all exits; what a subset of them would answer is a
weighted sum.
Source: thesis 4.1.3; AEP, arXiv:2301.12168; where both are silent, the notebook published with
them.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

from nat_lib import backbones
from nat_lib.errors import Refusal
from nat_lib.evaluate import correct, in_memory
from nat_lib.exits import ensemble, stacked
from nat_lib.search.pareto import front

COSTS = ("params", "macs", "macs_tp", "latency_ms")
# What decides between subsets of exits, in turn, the smallest first; "-": the largest.
TIES = {
    "smaller": ("-val_top1", "-val_top5", "macs_tp", "exits", "number"),
    "published": ("-val_top1", "-val_top5", "number"),
}
CHUNK = 2**22  # numbers that are computed at a time


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


@torch.inference_mode()
def exit_outputs(network, batches):
    """`Outputs` of a network in one pass over (images, labels) batches."""
    network.eval()
    pieces = (piece for x, y in batches for piece in in_memory(network, x, y))
    logits, labels = zip(*((stacked(network(x)), y) for x, y in pieces), strict=True)
    found = Outputs(torch.cat(logits, 1), torch.cat(labels))
    if not torch.isfinite(found.logits).all():
        raise Refusal(
            "the network's outputs are not numbers: lower aep_lr_factor in the profile and train "
            "it again"
        )
    return found


@torch.inference_mode()
def accuracies(outputs, weights):
    """Percent right and percent right in five of weighted sums of exits: weights (S, E) -> (S, 2)
    float64."""
    W = np.array(weights)
    _, n, n_classes = outputs.logits.shape
    step, hits = max(1, CHUNK // (len(W) * n_classes)), 0
    for i in range(0, n, step):
        some = slice(i, i + step)
        hits = hits + correct(ensemble(outputs.logits[:, some], W), outputs.labels[some])
    return (100.0 * hits.double() / n).cpu().numpy()


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
    losses = [F.cross_entropy(ensemble(val.logits, w), val.labels).item() for w in rows]
    scores = np.column_stack([losses, accuracies(val, rows)[:, 0], accuracies(test, rows)]).tolist()
    names = ("val_loss", "val_top1", "test_top1", "test_top5")
    return {
        "weights": patterns,
        "scores": {
            key: dict(zip(names, s, strict=True)) for key, s in zip(patterns, scores, strict=True)
        },
    }
