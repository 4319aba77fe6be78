"""One training loop for every network of the kit: `fit` receives the losses, the batches and the
validation.

It resumes after a kill to the bit (a checkpoint every epoch), runs on one process or on several
(torchrun), in any of `precision.PRECISIONS`.  The weights it keeps are those of the best epoch.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import NamedTuple

import pandas as pd
import torch
from torch import distributed as dist
from torch import nn

from nat_lib import files, ledger, machine
from nat_lib.distributed import average_buffers, ranks, share
from nat_lib.errors import Refusal
from nat_lib.precision import autocast
from nat_lib.precision import scaler as scaler_of


def epochs(data, batch_size, sizes, seed, max_steps=None, workers=0):
    """(function of the epoch: its training batches, how many they are).

    sizes     : image sizes in pixels, each batch has one; or a function of the epoch that returns
                them
    max_steps : of an epoch, None: all of them
    """
    whole = data.n_batches(batch_size)
    n = min(whole, max_steps or whole)

    def of(epoch):
        some = sizes(epoch) if callable(sizes) else sizes
        return islice(data.train_batches(epoch, batch_size, some, seed, workers), n)

    return of, n


def compiled(network, wanted):
    """The network, compiled if that is wanted: faster on a GPU after minutes of preparation, and
    equal up to rounding only; needs a C++ compiler."""
    return torch.compile(network) if wanted else network


def flat_gradients(params):
    """One zero vector whose slices become the .grad of every parameter: zeroed, reduced and kept as
    one.

    Gradients are zero, never None, so decay and momentum also act on weights that no sampled subnet
    used in a step.
    """
    params = list(params)
    flat = torch.zeros(sum(p.numel() for p in params), device=params[0].device)
    offset = 0
    for p in params:
        p.grad = flat.as_strided(p.shape, p.stride(), offset)  # the parameter's own memory format
        offset += p.numel()
    return flat


def clip(network, norm):
    """Clip the gradient that has gathered in a network to a norm; of all processes together when
    there are several.

    Each process is then left with an equal share of the clipped gradient, so that their sum is what
    one would have.
    """
    _, world = ranks()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    if world > 1:
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for g, whole in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(whole.view_as(g))
    nn.utils.clip_grad_norm_(network.parameters(), norm)
    if world > 1:
        torch._foreach_div_(grads, world)


def fit(
    network,
    losses,
    batches,
    validate,
    schedule,
    optimizer,
    n_batches,
    cell,
    precision="fp32",
    say="training",
    every=1,
    patience=None,
    clip_norm=None,
    clip_value=None,
):
    """Train, validate, keep the best epoch's weights; returns (history, best state_dict).

    losses(x, y, step)  -> iterator of (loss, logits) or (loss, logits, part): one per forward; each
                           is back-propagated before the next is computed, gradients add up, one
                           optimiser step follows.  Thesis Alg. 3.1 and 5.1
    batches(epoch)      -> iterator of (images, labels)
    validate(network)   -> (loss, top1) or (loss, top1, top5) on the validation split, after every
                           `every` epochs and the last one; the highest top1 is the best, the first
                           on ties.  None: the last epoch's weights are returned
    schedule            -> .total epochs, the last of which may be a share of one; .at(step,
                           n_batches) is the learning rate of a step
    cell                -> place of state.pt (every epoch), best.safetensors, history.csv; a killed
                           run resumes there, and a longer schedule goes on from there; `cost` of
                           the history is that of the training alone, in the ledger's unit
    precision           -> a key of precision.PRECISIONS
    patience            -> stop when the validation loss has not improved for so many epochs (a tie
                           improves it)
    clip_norm           -> after each forward the gradient that has gathered in the part that it
                           names (the network, if none) is clipped to this norm
    clip_value          -> before its step every entry of the gradient is clipped to +- this value
    """
    rank, world = ranks()
    scaler = scaler_of(next(network.parameters()).device.type, precision)
    flat = flat_gradients(p for group in optimizer.param_groups for p in group["params"])
    state = _resume(network, optimizer, scaler, cell)
    while state["epoch"] < schedule.total and not _stale(state["history"], patience):
        epoch, began = state["epoch"], time.perf_counter()
        title = f"{say}, epoch {epoch + 1}/{math.ceil(schedule.total)}"
        left = max(1, round(schedule.total * n_batches) - epoch * n_batches)
        shown = machine.progress(islice(batches(epoch), left), title, min(n_batches, left))
        rate = partial(schedule.at, n_batches=n_batches)
        network.train()
        before = ledger.spent()
        step = Step(network, losses, optimizer, scaler, flat, precision, clip_norm, clip_value)
        train_loss, train_top1 = _one_epoch(step, shown, epoch * n_batches, rate)
        cost = ledger.spent() - before
        average_buffers(network)
        if not math.isfinite(train_loss):
            raise Refusal(
                f"{say}: the loss is not a number in epoch {epoch + 1}; lower lr_factor in the "
                f"profile (learning rate now {optimizer.param_groups[0]['lr']:.3g})"
            )
        due = validate and ((epoch + 1) % every == 0 or epoch + 1 >= schedule.total)
        val_loss, val_top1, *more = validate(network) if due else (math.nan, math.nan)
        is_best = val_top1 > state["best_top1"]
        state["history"].append(
            {
                "epoch": epoch + 1,
                "lr": rate(epoch * n_batches),
                "train_loss": train_loss,
                "train_top1": train_top1,
                "val_loss": val_loss,
                "val_top1": val_top1,
                "val_top5": more[0] if more else math.nan,
                "is_best": is_best,
                "cost": cost,
                "seconds": time.perf_counter() - began,
            }
        )
        if is_best:
            state["best_top1"] = val_top1
        state["epoch"] = epoch + 1
        if rank == 0:
            if is_best:
                files.save_weights(cell.path("best.safetensors"), network.state_dict())
            _save(state, network, optimizer, scaler, cell)
    if world > 1:
        dist.barrier()
    history = pd.DataFrame(state["history"])
    if rank == 0:
        files.write_csv(cell.path("history.csv"), history)
    if not validate:
        return history, network.state_dict()
    return history, files.load_weights(cell.path("best.safetensors"))


class Step(NamedTuple):
    """What one optimiser step needs; see `fit`."""

    network: nn.Module
    losses: Callable
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    flat: torch.Tensor  # all gradients
    precision: str
    clip_norm: float | None
    clip_value: float | None

    def __call__(self, x, y, step, lr, sums):
        """Train on one batch; adds loss and top-1 of every forward to `sums`, returns their
        number."""
        _, world = ranks()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.flat.zero_()
        x, y, weight = share(x, y)
        forwards, context = 0, autocast(self.flat.device.type, self.precision)
        for loss, logits, *part in _under(context, self.losses(x, y, step)):
            self.scaler.scale(weight * loss).backward()
            sums += torch.stack([loss.detach(), 100.0 * (logits.argmax(1) == y).float().mean()])
            forwards += 1
            if self.clip_norm:
                clip(part[0] if part else self.network, self.clip_norm * self._scale())
        if world > 1:
            dist.all_reduce(self.flat)
        if self.clip_value:
            limit = self.clip_value * self._scale()
            self.flat.clamp_(-limit, limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return forwards

    def _scale(self):
        """By which the gathered gradients are too large."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else 1.0


def _one_epoch(step, batches, first, rate):
    """(mean loss, mean top-1) over all forwards of an epoch whose first step has this number."""
    sums, forwards = torch.zeros(2, device=step.flat.device), 0
    for number, (x, y) in enumerate(batches, first):
        if len(y) == 1:
            raise Refusal("one image has no batch statistics: train on two or more at a time")
        forwards += step(x, y, number, rate(number), sums)
    return (sums / max(forwards, 1)).tolist()


def _stale(history, patience):
    """Has the validation loss not improved during the last `patience` epochs?"""
    losses = [row["val_loss"] for row in history]
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) > min(losses[:-patience])


def _under(context, pairs):
    """Compute each next pair inside the autocast context, but leave it while the consumer
    back-propagates."""
    pairs = iter(pairs)
    while True:
        with context:
            pair = next(pairs, None)
        if pair is None:
            return
        yield pair


def _save(state, network, optimizer, scaler, cell):
    """Leave everything that a killed run goes on from."""
    parts = {"network": network, "optimizer": optimizer, "scaler": scaler}
    states = {name: part.state_dict() for name, part in parts.items()}
    files.save_state(cell.path("state.pt"), state | states | {"rng": machine.rng_state()})
    ledger.save()


def _resume(network, optimizer, scaler, cell):
    """The state a killed run left, loaded into network, optimiser and generators; a fresh one if
    there is none."""
    if not cell.path("state.pt").exists():
        return {"epoch": 0, "best_top1": -1.0, "history": []}
    path = cell.path("state.pt")
    state = files.load_state(path, device=next(network.parameters()).device)
    try:
        for name, part in (("network", network), ("optimizer", optimizer), ("scaler", scaler)):
            part.load_state_dict(state.pop(name))
        machine.set_rng_state(state.pop("rng"))
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError):
        raise Refusal(
            f"{path} is not of this network: delete it and start again, the cell begins anew"
        ) from None
    return state
