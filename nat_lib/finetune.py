"""Post-processing: fine-tuning of one returned subnet, alone ("std") or with the exits before its own ("ens").

Two stages. The first finds how long to train: on the training split, watched on the validation split. The second
takes fresh weights from the supernet, trains exactly that long on both splits, and reads the test split at its end.
Source: thesis 6.1.5, 6.2.4 and 6.2.5; NATv2, arXiv:2307.00960; joint training of exits: AEP, arXiv:2301.12168.
"""

import shutil
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from nat_lib import runs
from nat_lib.cost import count
from nat_lib.evaluate import recalibrate, score
from nat_lib.exits import ensemble, exit_weights, joint_loss
from nat_lib.train import Annealed, fit, sgd

METHODS, FINALS = ("std", "ens"), ("train+val", "train")
WEIGHT_DECAY = 3e-4  # of SGD, as in the search (thesis 6.2.4); the published scripts have 5e-4


class Budget(NamedTuple):
    """How much of the recipe of thesis 6.2.5 is run.

    max_epochs : of stage 1;  patience : epochs without a lower validation loss that end it
    period     : epochs after which the cosine would reach its minimum, in both stages
    final      : what stage 2 trains on, "train+val" or "train"
    workers    : threads that prepare batches ahead; the numbers do not depend on it
    """

    max_epochs: int = 150
    patience: int = 30
    batch_size: int = 64
    period: int = 150
    max_steps_per_epoch: int | None = None
    eval_batch_size: int = 500
    final: str = "train+val"
    workers: int = 0


class Ranger(torch.optim.RAdam):
    """RAdam on centred gradients under Lookahead; no weight decay.

    Centring: every gradient of two or more dimensions loses its mean over all but the first (the outputs).
    Lookahead: after every k-th step slow weights go the share alpha of the way to the weights, which restart there.
    They are part of state_dict. Source: arXiv:1908.03265, arXiv:2004.01461, arXiv:1907.08610; values: published code.
    """

    k, alpha = 6, 0.5

    def __init__(self, params, lr=1e-3, betas=(0.95, 0.999), eps=1e-5):
        super().__init__(params, lr=lr, betas=betas, eps=eps)

    @torch.no_grad()
    def step(self):
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in trained:
            if p.ndim > 1:
                p.grad -= p.grad.mean(tuple(range(1, p.ndim)), keepdim=True)
        first = {p: p.clone() for p in trained if p not in self.state}  # slow weights start where the first step does
        super().step()
        for p in trained:
            state = self.state[p]
            if p in first:
                state["slow"] = first[p]
            if int(state["step"]) % self.k == 0:
                p.copy_(state["slow"].lerp_(p, self.alpha))


OPTIMIZERS = {  # network -> optimiser; the learning rate comes from the schedule
    "SGD": partial(sgd, weight_decay=WEIGHT_DECAY, nesterov=False, exempt=False),
    "AdamW": lambda network: torch.optim.AdamW(network.parameters(), fused=True),
    "Ranger": lambda network: Ranger(network.parameters()),
}


def post_process(net, arch, data, method, optimizer, lr, weights, budget, cell, seed, original=None):
    """Fine-tune one subnet of a searched supernet; a finished cell is only read. Returns its report.

    net       : where the weights come from: a `Supernet`, or anything with .extract(arch, exits), .space, .n_classes
    method    : "std" (its own exit) | "ens" (exits 1 .. arch.exit, joint loss, weighted sum of logits; not for
                networks of one exit)
    optimizer : a key of OPTIMIZERS;  lr : at the start of both stages
    weights   : of the exits for "ens", a mode of `exits.exit_weights`; None for "std"
    cell      : keeps stage1.csv, stage2.csv and network.safetensors (last epoch of stage 2); a killed run resumes there
    original  : what is known of the subnet as the search returned it, a dict; goes into the metrics as it is
    metrics   : before.val_top1 (as extracted), after.val_top1 (best of stage 1), after.test_top1, test_top5, test_loss,
                best_epoch (the length of stage 2), epochs (of stage 1), params, macs, macs_tp, n_test
    """
    done = cell.report()
    if done:
        return done
    kept, loss_weights, votes = attached(net.space, arch, method, weights)
    for what, value, legal in (("optimizer", optimizer, OPTIMIZERS), ("final", budget.final, FINALS)):
        if value not in legal:
            raise runs.Refusal(f"{what} {value!r} of post-processing: use one of {', '.join(legal)}")

    def scored(network, batches):
        return score(network.eval(), batches, votes)

    def validate(network):
        return scored(network, data.eval_batches("val", arch.resolution, budget.eval_batch_size))[:2]

    def train(network, data, epochs, stage, **watched):
        def losses(x, y, step):
            logits = network(x)
            yield joint_loss(logits, y, loss_weights), ensemble(logits, votes)

        def batches(epoch):
            return islice(data.train_batches(epoch, budget.batch_size, [arch.resolution], seed, budget.workers), n)

        n = min(data.n_batches(budget.batch_size), budget.max_steps_per_epoch or data.n_batches(1))
        runs.seed_all(seed)
        return fit(network, losses, batches, schedule=Annealed(lr, epochs, budget.period), n_batches=n,
                   optimizer=OPTIMIZERS[optimizer](network), cell=replace(cell, folder=cell.path(stage)),
                   say=f"{cell.name}, {stage}", **watched)

    network = start(net, arch, kept, data)
    before = validate(network)[1]
    stage1, _ = train(network, data, budget.max_epochs, "stage1", validate=validate, patience=budget.patience)
    best_epoch = int(stage1.epoch[stage1.val_top1.idxmax()])  # the first of the highest

    network = start(net, arch, kept, data)
    both = data.merged() if budget.final == "train+val" else data
    stage2, _ = train(network, both, best_epoch, "stage2", validate=None)
    test = scored(network, data.test_batches(arch.resolution, budget.eval_batch_size, why=cell.name))

    runs.save_weights(cell.path("network.safetensors"), network.state_dict())
    runs.write_csv(cell.path("stage1.csv"), stage1)
    runs.write_csv(cell.path("stage2.csv"), stage2.drop(columns=["val_loss", "val_top1", "is_best"]))
    cost = count([arch], net.space, net.n_classes, exits=kept).iloc[0]
    report = cell.finish({
        "original": original, "before": {"val_top1": before},
        "after": {"val_top1": stage1.val_top1.max(), "test_top1": test.top1, "test_top5": test.top5,
                  "test_loss": test.loss},
        "best_epoch": best_epoch, "epochs": len(stage1), **{k: int(v) for k, v in cost.items()},
        "n_test": len(data.rows["test"])}, seconds=stage1.seconds.sum() + stage2.seconds.sum())
    for stage in ("stage1", "stage2"):
        shutil.rmtree(cell.path(stage))
    return report


def attached(space, arch, method, weights):
    """(exits that the method trains, their loss weights, their votes). One exit has the weight 1, whatever the method.

    The exits that "ens" attaches again are those before the subnet's own.  Source: thesis 6.1.5; weights: Table 4.2.
    """
    if method not in METHODS:
        raise runs.Refusal(f"method {method!r} of post-processing: use one of {', '.join(METHODS)}")
    if method == "std":
        if weights is not None:
            raise runs.Refusal(f"exit weights {weights!r} for method std, which has one exit: leave them out (None)")
        return (arch.exit,), (1.0,), (1.0,)
    if not space.early_exits:
        raise runs.Refusal(f"method ens needs early exits and {space.name} has none: use std, or an EE supernet")
    return tuple(range(1, arch.exit + 1)), *exit_weights(weights, arch.exit)


def start(net, arch, exits, data):
    """The subnet as the supernet has it, with these exits (forward returns a list): BN recalibrated, no dropout."""
    network = net.extract(arch, exits=exits).to(data.device)
    for m in network.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return recalibrate(network, data.calibration_batches(arch.resolution))
