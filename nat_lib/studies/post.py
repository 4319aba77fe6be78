"""Post-processing: the subnets that a search returned, fine-tuned alone.

Source: thesis 6.1.5, 6.2.4 and 6.3.2.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import pandas as pd
from torch import nn

from nat_lib import cells, files, machine
from nat_lib.arch import Space
from nat_lib.cells import Cell, open_cell
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.evaluate import recalibrate, score
from nat_lib.exit_weights import MODES, exit_weights
from nat_lib.exits import joint
from nat_lib.genotypes import from_text
from nat_lib.optimizers import OPTIMIZERS
from nat_lib.schedules import Annealed
from nat_lib.search import objectives
from nat_lib.studies import inputs, searches
from nat_lib.supernet import Supernets
from nat_lib.train import epochs, fit

POST = "post_processing"
METHODS, FINALS = ("std", "ens"), ("train+val", "train")
# of the study of strategies: thesis 6.3.2, METHODS 3.10
STUDIED = ("BASE", "SE_D", "EE_B", "EE_D")
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


class Setting(NamedTuple):
    """How a subnet is fine-tuned.

    method    : "std" (its own exit) | "ens" (exits 1 .. its own, joint loss, weighted sum of
                logits; not for networks of one exit)
    optimizer : a key of OPTIMIZERS;  lr : at the start of both stages
    weights   : of the exits for "ens", a key of `exit_weights.MODES`; None for "std"
    """

    method: str
    optimizer: str
    lr: float
    weights: str | None = None

    @property
    def name(self):
        lr = f"{self.lr:.0e}".replace("e-0", "e-")
        return "-".join(filter(None, (self.method, self.optimizer, lr, self.weights)))


# early exits or not: what was found best on CIFAR-100, then used for every final subnet (6.2.4)
BEST = {
    False: [Setting("std", "SGD", 1e-4)],
    True: [Setting("std", "AdamW", 1e-4), Setting("ens", "AdamW", 1e-4, "UNIF")],
}


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


# -------------------------------------------------------------------------------------------- cells


def settings(kind, early_exits, params):
    """The `Setting`s of the study of strategies ("grid") or of the final networks ("final")."""
    if kind == "final":
        return BEST[early_exits]
    both = list(product(OPTIMIZERS, params["post_learning_rates"]))
    attached = product(both, MODES) if early_exits else ()
    standard = [Setting("std", *setting) for setting in both]
    return standard + [Setting("ens", *setting, weights) for setting, weights in attached]


def post_selected(params, kind):
    """(supernet, phase, objectives, seed) of the searches whose subnets are post-processed.

    "grid": of STUDIED in phase 1, where thesis 6.3.2 compares the strategies; "final": phase 4.
    """
    phase = {"grid": "1", "final": "4"}[kind]
    return [
        (supernet, int(phase), text, seed)
        for seed in params["seeds"]
        for supernet in params["nat_supernets"].get(phase, ())
        if kind == "final" or supernet in STUDIED
        for text in params["post_searches"].get(phase, ())
    ]


def finished_search(out, dataset, supernet, phase, text, seed):
    """The finished cell of a search under `out`: `cells.Cell`."""
    names = "+".join(objectives.names(text))
    name = searches.cell_name(dataset, supernet, phase, names, seed)
    return cells.finished(out, searches.STUDY, name, "run notebook 04 with these parameters first")


def run_posts(params, kind, supernet, phase, text, seed, data, out):
    """Post-process the returned subnets of one finished search, all settings of the kind; returns
    the reports, one per cell.

    A subnet that leaves at exit 1 has no exit before its own: what "ens" does is what "std" does,
    and the cell of "std" stands for both (`stands_for` in its parameters).
    """
    search = finished_search(out, data.name, supernet, phase, text, seed)
    space = Space.from_dict(search.params["space"])
    subnets = pd.read_csv(search.path("subnets.csv")).query("returned")
    subnets = subnets.sort_values("val_top1", ascending=False, kind="stable")
    subnets = subnets.head(params["post_subnets"]).to_dict("records")
    nets = Supernets(space, search.params["n_classes"])
    nets.load_state_dict(files.load_weights(search.path("supernets.safetensors")))
    budget = budget_of(params)
    todo = []
    for number, row in enumerate(subnets):
        arch = space.decode(from_text([row["code"]]))[0]
        every = settings(kind, space.early_exits, params)
        for setting, others in shared(every, arch.exit):
            values = {
                "supernet": supernet,
                "phase": phase,
                "objectives": search.params["objectives"],
                "dataset": data.name,
                "seed": seed,
                "profile": params["profile"],
                "search": search.hash,
                "subnet": number,
                "code": row["code"],
                **setting._asdict(),
                "stands_for": [other._asdict() for other in others],
                "study": kind,
                "budget": {k: v for k, v in budget._asdict().items() if k != "workers"},
                "data": inputs.identity(data),
            }
            name = f"{search.name}/{number}-{setting.name}"
            cell = open_cell(out, POST, name, values, __name__)
            todo.append((arch, setting, cell, {k: row[k] for k in ORIGINAL}))
    return [
        post_process(nets, arch, data, setting, budget, cell, seed, original)
        for arch, setting, cell, original in machine.progress(
            todo, f"{search.name}, post-processing"
        )
    ]


def budget_of(params):
    return Budget(
        params["post_epochs"],
        params["post_patience"],
        params["post_batch_size"],
        params["post_epochs"],
        params["post_max_steps"],
        params["nat_eval_batch_size"],
        params["post_final"],
        params["workers"],
    )


def shared(settings, exit):
    """[(setting that is trained, settings that come out the same)] for a subnet of this exit."""
    if exit > 1:
        return [(setting, []) for setting in settings]
    alone = [s._replace(method="std", weights=None) for s in settings]
    return [
        (one, [s for s, same in zip(settings, alone, strict=True) if same == one and s != one])
        for one in dict.fromkeys(alone)
    ]


# ------------------------------------------------------------------------------------- one network


def post_process(net, arch, data, setting, budget, cell, seed, original=None):
    """Fine-tune one subnet of a searched supernet; a finished cell is only read. Returns its
    report.

    net       : where the weights come from: a `Supernet`, or anything with .extract(arch, exits),
                .space, .n_classes
    cell      : keeps stage1.csv, stage2.csv and network.safetensors (last epoch of stage 2); a
                killed run resumes there
    original  : what is known of the subnet as the search returned it, a dict; goes into the metrics
                as it is
    metrics   : before.val_top1 (as extracted), after.val_top1 (best of stage 1), after.test_top1,
                test_top5, test_loss, best_epoch (the length of stage 2), epochs (of stage 1),
                params, macs, macs_tp, n_test
    """
    kept, weights, votes = attached(net.space, arch, setting.method, setting.weights)
    for what, value, legal in (
        ("optimizer", setting.optimizer, OPTIMIZERS),
        ("final", budget.final, FINALS),
    ):
        if value not in legal:
            raise Refusal(f"{what} {value!r} of post-processing: use one of {', '.join(legal)}")
    tuned = Tuning(arch, kept, weights, votes, setting, budget, cell, seed)
    work = partial(_two_stages, tuned, net, data, original)
    return cells.compute(cell, work, drops=["stage1", "stage2"])


class Tuning(NamedTuple):
    """One subnet with its exits, loss weights and votes, and how it is trained."""

    arch: object
    exits: tuple
    weights: tuple
    votes: tuple
    setting: Setting
    budget: Budget
    cell: Cell
    seed: int

    def score(self, network, batches):
        return score(network.eval(), batches, self.votes)

    def validate(self, network, data):
        size, batch_size = self.arch.resolution, self.budget.eval_batch_size
        return self.score(network, data.eval_batches("val", size, batch_size))

    def train(self, network, data, n_epochs, stage, **watched):
        """`train.fit` of one stage: (history, best weights)."""
        b, sizes = self.budget, [self.arch.resolution]
        batches, n = epochs(data, b.batch_size, sizes, self.seed, b.max_steps_per_epoch, b.workers)
        machine.seed_all(self.seed)
        return fit(
            network,
            joint(network, self.weights, self.votes),
            batches,
            schedule=Annealed(self.setting.lr, n_epochs, b.period),
            n_batches=n,
            optimizer=OPTIMIZERS[self.setting.optimizer](network),
            cell=replace(self.cell, folder=self.cell.path(stage)),
            say=f"{self.cell.name}, {stage}",
            **watched,
        )


def _two_stages(tuned, net, data, original):
    """Find the number of epochs, train anew for as many, test; returns the metrics."""
    arch, budget, cell = tuned.arch, tuned.budget, tuned.cell
    network = start(net, arch, tuned.exits, data)
    before = tuned.validate(network, data).top1
    stage1, _ = tuned.train(
        network,
        data,
        budget.max_epochs,
        "stage1",
        validate=lambda network: tuned.validate(network, data),
        patience=budget.patience,
    )
    best_epoch = int(stage1.epoch[stage1.val_top1.idxmax()])  # the first of the highest

    network = start(net, arch, tuned.exits, data)
    both = data.merged() if budget.final == "train+val" else data
    stage2, _ = tuned.train(network, both, best_epoch, "stage2", validate=None)
    batches = data.test_batches(arch.resolution, budget.eval_batch_size, why=cell.name)
    test = tuned.score(network, batches)

    files.save_weights(cell.path("network.safetensors"), network.state_dict())
    files.write_csv(cell.path("stage1.csv"), stage1)
    unseen = ["val_loss", "val_top1", "val_top5", "is_best"]
    files.write_csv(cell.path("stage2.csv"), stage2.drop(columns=unseen))
    cost = count([arch], net.space, net.n_classes, exits=tuned.exits).iloc[0]
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
    whatever the method; "std" trains those that answer.

    The exits that "ens" attaches again are those before the subnet's own.  Source: thesis 6.1.5;
    weights: Table 4.2.
    """
    if method not in METHODS:
        raise Refusal(f"method {method!r} of post-processing: use one of {', '.join(METHODS)}")
    if method == "std":
        if weights is not None:
            raise Refusal(
                f"exit weights {weights!r} for method std, which has one exit: leave them out "
                "(None)"
            )
        return arch.answering, *(space.vote(arch.answering),) * 2
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
