"""Joint training of all exits of a network, with everything that chapter 4 tracks of it.

Source: thesis 4.1.2 and 4.2.2; AEP, arXiv:2301.12168; the notebook published with them.
"""

import math
import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from nat_lib import files, ledger
from nat_lib.errors import Refusal
from nat_lib.evaluate import correct, score_exits
from nat_lib.exit_weights import WEIGHT_LAWS
from nat_lib.exits import ensemble, exit_losses, stacked
from nat_lib.schedules import Constant
from nat_lib.train import compiled, epochs, fit


def class_weights(data):
    """(K,) float32: images / (classes * images of the class), on the training split."""
    counts = np.bincount(data.train.labels, minlength=data.n_classes)
    return torch.tensor(
        counts.sum() / (data.n_classes * np.maximum(counts, 1)), dtype=torch.float32
    )


def train(cell, network, data, loss_weights, votes, workers=0, also=None, law="steady"):
    """Train all exits jointly and leave the weights of the best epoch in the network; returns the
    history.

    loss_weights, votes : of the exits, shallow to deep.  The epoch with the highest validation
                          top-1 of the weighted sum of logits is the best; the sum of the weighted
                          losses decides when to stop
    law                 : a key of WEIGHT_LAWS, by which the loss weights change with the epochs
    also                : (E, B, K) logits -> a further term of the loss, such as the diversity of
                          the exits; None: none
    history             : per epoch, for train and val: loss, top1, top5 of the ensemble and of each
                          exit (loss_1 is already weighted), mean over the images; seconds of
                          training, val_seconds.  Thesis 4.2.2
    """
    recipe = cell.params["recipe"]
    network.to(data.device, memory_format=torch.channels_last)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d) and recipe["bn_momentum"]:
            m.momentum = recipe["bn_momentum"]
    watched = Watched(cell, network, data, loss_weights, votes, workers, also, law)
    history, best = fit(
        network,
        watched.losses,
        watched.batches,
        watched.validate,
        Constant(recipe["lr"], recipe["epochs"]),
        torch.optim.Adam(network.parameters(), fused=True),
        watched.n_batches,
        cell,
        recipe["precision"],
        cell.name,
        patience=recipe["patience"],
    )
    rows = watched.rows
    if len(rows) != len(history):
        raise Refusal(
            f"{watched.saved} is damaged: delete the folder it lies in and run again, the cell is "
            "made anew"
        )
    network.load_state_dict(best)
    network.eval()
    history = pd.DataFrame(rows).assign(lr=history.lr, is_best=history.is_best)
    files.write_csv(cell.path("history.csv"), history)
    return history


class Watched:
    """Losses, batches and validation of a joint training, which keep one row per epoch.

    The rows are written before `fit` saves its state: an epoch that is done again replaces its row.
    """

    def __init__(self, cell, network, data, loss_weights, votes, workers, also, law):
        p, recipe = cell.params, cell.params["recipe"]
        self.cell, self.data, self.recipe, self.size = cell, data, recipe, p["image_size"]
        self.loss_weights, self.votes, self.also = loss_weights, votes, also
        self.law = WEIGHT_LAWS[law]
        self.balance = class_weights(data).to(data.device) if recipe["class_weights"] else None
        self.network, self.forward = network, compiled(network, recipe.get("compile", False))
        self.images, self.n_batches = epochs(
            data, recipe["batch_size"], [self.size], p["seed"], recipe["max_steps"], workers
        )
        self.saved = cell.path("epochs.json")
        self.rows = files.read_json(self.saved) if self.saved.exists() else []

    def batches(self, epoch):
        self.epoch, self.sums, self.began = epoch, 0, time.perf_counter()
        self.alpha = torch.tensor(self._weights(epoch), device=self.data.device)
        return self.images(epoch)

    def _weights(self, epoch):
        """Loss weights of an epoch, from what those before it left."""
        weights, last = self.law(self.loss_weights, 0.0, None), max(1, self.recipe["epochs"] - 1)
        if len(weights) == 1:
            return weights
        for number, row in enumerate(self.rows[:epoch], 1):
            losses = [row[f"train_loss_{i}"] / weight for i, weight in enumerate(weights, 1)]
            weights = self.law(self.loss_weights, number / last, losses)
        return weights

    def losses(self, x, y, step):
        ledger.passed(self.network, x, ledger.TRAINING)
        logits = stacked(self.forward(x))
        each = self.alpha * exit_losses(logits, y, self.balance)
        vote = ensemble(logits, self.votes)
        outputs = torch.cat([vote[None], logits]).detach()
        self.sums = self.sums + _sums(each.detach(), outputs, y)
        yield each.sum() + (self.also(logits) if self.also else 0), vote

    def validate(self, network):
        seconds = time.perf_counter() - self.began
        images = self.data.eval_batches("val", self.size, self.recipe["eval_batch_size"])
        scores = score_exits(network.eval(), images, self.votes)
        exits = scores[1:] or scores
        each = [a * s.loss for a, s in zip(self.loss_weights, exits, strict=True)]
        loss = sum(each)
        if not math.isfinite(loss):
            raise Refusal(
                f"{self.cell.name}: the validation loss is not a number in epoch {self.epoch + 1}; "
                "lower aep_lr_factor in the profile"
            )
        val = [(a, s.top1, s.top5) for a, s in zip((loss, *each), scores, strict=False)]
        total = self.sums.double()
        self.rows[self.epoch :] = [
            {
                "epoch": self.epoch + 1,
                **_columns("train", (total / total[:, -1:])[:, :-1].tolist()),
                **_columns("val", val),
                "seconds": seconds,
                "val_seconds": time.perf_counter() - self.began - seconds,
            }
        ]
        files.write_json(self.saved, self.rows)
        # A tie is no improvement here, unlike elsewhere: `fit` gets to see a loss that is higher by
        # a hair.
        before = [row["val_loss"] for row in self.rows[: self.epoch]]
        tie = loss == min(before, default=math.inf)
        return math.nextafter(loss, math.inf) if tie else loss, scores[0].top1


def _sums(losses, outputs, y):
    """(1 + E, 4) sums over a batch of loss, 100 * right, 100 * right in five, images: the ensemble,
    then each exit."""
    n = y.new_full((len(outputs), 1), len(y))
    loss = len(y) * torch.cat([losses.sum()[None], losses])[:, None]
    return torch.cat([loss, 100.0 * correct(outputs, y), n], 1)


def _columns(split, rows):
    """{"val_loss": ..., "val_top1_2": ...}; a single exit is not told twice."""
    told = rows if len(rows) > 2 else rows[:1]
    return {
        f"{split}_{key}_{i}".removesuffix("_0"): value
        for i, row in enumerate(told)
        for key, value in zip(("loss", "top1", "top5"), row, strict=True)
    }
