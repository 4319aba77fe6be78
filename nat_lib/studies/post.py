"""Cells around a search: the comparison of predictors before it and the post-processing of subnets
after it.

Source: thesis 6.2.2 and 6.3.1 (predictors), 6.1.5, 6.2.4 and 6.3.2 (post-processing).
"""

from dataclasses import replace
from functools import partial
from itertools import islice, product
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from nat_lib import cells, files, machine
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.evaluate import recalibrate, score
from nat_lib.exits import MODES, ensemble, exit_weights, joint_loss
from nat_lib.search import objectives
from nat_lib.studies import eps, searches
from nat_lib.supernet import Supernets
from nat_lib.train import Annealed, Ranger, fit, sgd

POST = "post_processing"
# thesis 6.2.4: what was found best on CIFAR-100, and then used for every final subnet
BEST = {
    "std": {False: ("SGD", 1e-4, None), True: ("AdamW", 1e-4, None)},
    "ens": {True: ("AdamW", 1e-4, "UNIF")},
}


# -----------------------------------------------------------------------------------
# post-processing


def settings(kind, early_exits, params):
    """(method, optimizer, lr, weights) of the study of strategies ("grid") or of the final networks
    ("final")."""
    if kind == "final":
        return [
            (method, *by_family[early_exits])
            for method, by_family in BEST.items()
            if early_exits in by_family
        ]
    both = [(optimizer, lr) for optimizer in OPTIMIZERS for lr in params["post_learning_rates"]]
    weighted = (
        [("ens", *setting, weights) for setting in both for weights in MODES] if early_exits else []
    )
    return [("std", *setting, None) for setting in both] + weighted


def run_posts(params, kind, supernet, phase, text, seed, data, out):
    """Post-process the returned subnets of one finished search, all settings of the kind; returns
    the reports."""
    cell = finished_search(out, data.name, supernet, phase, text, seed)
    space, batch_size = Space.from_dict(cell.params["space"]), params["nat_eval_batch_size"]
    subnets = pd.read_csv(cell.path("subnets.csv")).query("returned")
    subnets = subnets.sort_values("val_top1", ascending=False, kind="stable").head(
        params["post_subnets"]
    )
    nets = Supernets(space, cell.params["n_classes"])
    nets.load_state_dict(files.load_weights(cell.path("supernets.safetensors")))
    budget = Budget(
        params["post_epochs"],
        params["post_patience"],
        params["post_batch_size"],
        params["post_epochs"],
        params["post_max_steps"],
        batch_size,
        params["post_final"],
        params["workers"],
    )
    reports = []
    todo = [
        *product(enumerate(subnets.to_dict("records")), settings(kind, space.early_exits, params))
    ]
    for (number, row), (method, optimizer, lr, weights) in machine.progress(
        todo, f"{cell.name}, post-processing"
    ):
        arch = space.decode(searches.genotypes([row["code"]]))[0]
        name = "-".join(
            filter(
                None, (str(number), method, optimizer, f"{lr:.0e}".replace("e-0", "e-"), weights)
            )
        )
        tuned = open_cell(
            out,
            POST,
            f"{cell.name}/{name}",
            {
                "supernet": supernet,
                "phase": phase,
                "objectives": cell.params["objectives"],
                "dataset": data.name,
                "seed": seed,
                "profile": params["profile"],
                "search": cell.hash,
                "subnet": number,
                "code": row["code"],
                "method": method,
                "optimizer": optimizer,
                "lr": lr,
                "weights": weights,
                "study": kind,
                "budget": {k: v for k, v in budget._asdict().items() if k != "workers"},
                "data": eps.identity(data),
            },
            __name__,
        )
        reports.append(
            post_process(
                nets,
                arch,
                data,
                method,
                optimizer,
                lr,
                weights,
                budget,
                tuned,
                seed,
                {k: row[k] for k in ORIGINAL},
            )
        )
    return reports


def finished_search(out, dataset, supernet, phase, text, seed):
    """The finished cell of a search under `out`: `Cell`."""
    names = "+".join(objectives.names(text))
    return cells.finished(
        out,
        searches.STUDY,
        searches.cell_name(dataset, supernet, phase, names, seed),
        "run notebook 04 with these parameters first",
    )


def post_selected(params, kind):
    """(supernet, phase, objectives, seed) of the searches whose subnets are post-processed.

    "grid": phase 1, where thesis 6.3.2 compares the strategies; "final": phase 4.
    """
    phase = {"grid": "1", "final": "4"}[kind]
    return [
        (supernet, int(phase), text, seed)
        for seed in params["seeds"]
        for supernet in params["nat_supernets"].get(phase, ())
        for text in params["post_searches"].get(phase, ())
    ]


ORIGINAL = (
    "val_top1",
    "test_top1",
    "test_top5",
    "test_loss",
    "params",
    "macs",
    "macs_tp",
    "latency_ms",
)

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


OPTIMIZERS = {  # network -> optimiser; the learning rate comes from the schedule
    "SGD": partial(sgd, weight_decay=WEIGHT_DECAY, nesterov=False, exempt=False),
    "AdamW": lambda network: torch.optim.AdamW(network.parameters(), fused=True),
    "Ranger": lambda network: Ranger(network.parameters()),
}


def post_process(
    net, arch, data, method, optimizer, lr, weights, budget, cell, seed, original=None
):
    """Fine-tune one subnet of a searched supernet; a finished cell is only read. Returns its
    report.

    net       : where the weights come from: a `Supernet`, or anything with .extract(arch, exits),
                .space, .n_classes
    method    : "std" (its own exit) | "ens" (exits 1 .. arch.exit, joint loss, weighted sum of
                logits; not for networks of one exit)
    optimizer : a key of OPTIMIZERS;  lr : at the start of both stages
    weights   : of the exits for "ens", a mode of `exits.exit_weights`; None for "std"
    cell      : keeps stage1.csv, stage2.csv and network.safetensors (last epoch of stage 2); a
                killed run resumes there
    original  : what is known of the subnet as the search returned it, a dict; goes into the metrics
                as it is
    metrics   : before.val_top1 (as extracted), after.val_top1 (best of stage 1), after.test_top1,
                test_top5, test_loss, best_epoch (the length of stage 2), epochs (of stage 1),
                params, macs, macs_tp, n_test
    """
    work = partial(
        _tuned, net, arch, data, method, optimizer, lr, weights, budget, cell, seed, original
    )
    return cells.compute(cell, work, drops=["stage1", "stage2"])


def _tuned(net, arch, data, method, optimizer, lr, weights, budget, cell, seed, original):
    kept, loss_weights, votes = attached(net.space, arch, method, weights)
    for what, value, legal in (
        ("optimizer", optimizer, OPTIMIZERS),
        ("final", budget.final, FINALS),
    ):
        if value not in legal:
            raise Refusal(f"{what} {value!r} of post-processing: use one of {', '.join(legal)}")

    def scored(network, batches):
        return score(network.eval(), batches, votes)

    def validate(network):
        return scored(network, data.eval_batches("val", arch.resolution, budget.eval_batch_size))[
            :2
        ]

    def train(network, data, epochs, stage, **watched):
        def losses(x, y, step):
            logits = network(x)
            yield joint_loss(logits, y, loss_weights), ensemble(logits, votes)

        def batches(epoch):
            return islice(
                data.train_batches(
                    epoch, budget.batch_size, [arch.resolution], seed, budget.workers
                ),
                n,
            )

        n = min(data.n_batches(budget.batch_size), budget.max_steps_per_epoch or data.n_batches(1))
        machine.seed_all(seed)
        return fit(
            network,
            losses,
            batches,
            schedule=Annealed(lr, epochs, budget.period),
            n_batches=n,
            optimizer=OPTIMIZERS[optimizer](network),
            cell=replace(cell, folder=cell.path(stage)),
            say=f"{cell.name}, {stage}",
            **watched,
        )

    network = start(net, arch, kept, data)
    before = validate(network)[1]
    stage1, _ = train(
        network, data, budget.max_epochs, "stage1", validate=validate, patience=budget.patience
    )
    best_epoch = int(stage1.epoch[stage1.val_top1.idxmax()])  # the first of the highest

    network = start(net, arch, kept, data)
    both = data.merged() if budget.final == "train+val" else data
    stage2, _ = train(network, both, best_epoch, "stage2", validate=None)
    test = scored(
        network, data.test_batches(arch.resolution, budget.eval_batch_size, why=cell.name)
    )

    files.save_weights(cell.path("network.safetensors"), network.state_dict())
    files.write_csv(cell.path("stage1.csv"), stage1)
    files.write_csv(
        cell.path("stage2.csv"), stage2.drop(columns=["val_loss", "val_top1", "is_best"])
    )
    cost = count([arch], net.space, net.n_classes, exits=kept).iloc[0]
    return {
        "original": original,
        "before": {"val_top1": before},
        "after": {
            "val_top1": stage1.val_top1.max(),
            "test_top1": test.top1,
            "test_top5": test.top5,
            "test_loss": test.loss,
        },
        "best_epoch": best_epoch,
        "epochs": len(stage1),
        **{k: int(v) for k, v in cost.items()},
        "n_test": len(data.rows["test"]),
    }


def attached(space, arch, method, weights):
    """(exits that the method trains, their loss weights, their votes). One exit has the weight 1,
    whatever the method.

    The exits that "ens" attaches again are those before the subnet's own.  Source: thesis 6.1.5;
    weights: Table 4.2.
    """
    if method not in METHODS:
        raise Refusal(f"method {method!r} of post-processing: use one of {', '.join(METHODS)}")
    if method == "std":
        if weights is not None:
            raise Refusal(
                f"exit weights {weights!r} for method std, which has one exit: leave them out (None)"
            )
        return (arch.exit,), (1.0,), (1.0,)
    if not space.early_exits:
        raise Refusal(
            f"method ens needs early exits and {space.name} has none: use std, or an EE supernet"
        )
    return tuple(range(1, arch.exit + 1)), *exit_weights(weights, arch.exit)


def start(net, arch, exits, data):
    """The subnet as the supernet has it, with these exits (forward returns a list): BN
    recalibrated, no dropout."""
    network = net.extract(arch, exits=exits).to(data.device)
    for m in network.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return recalibrate(network, data.calibration_batches(arch.resolution))
