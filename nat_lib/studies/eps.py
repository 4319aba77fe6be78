"""Extended Progressive Shrinking: the twelve phases that turn one maximal network into an elastic
supernet.

Each phase is a cell: it starts from the best weights of the phase before it, opens one more kind of
                      choice, trains
sampled subnets with distillation, and is reported on a grid of constant subnets.  Fixed and
progressively extracted teachers share the phases that no teacher can influence (Full and KS).
Source: OFAv2, arXiv:2302.01888; thesis 5.1.2 to 5.3, Table 5.2.
"""

import sys
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from nat_lib import cells, files, machine
from nat_lib.arch import Space
from nat_lib.cells import Cell, open_cell
from nat_lib.cost import count
from nat_lib.curricula import PHASES, Phase, choices_after, phases_for
from nat_lib.data.batches import load
from nat_lib.distill import Teacher, soft_cross_entropy
from nat_lib.distributed import first_rank_first, gathered, process_group, ranks
from nat_lib.errors import Refusal
from nat_lib.evaluate import fold, prepare, recalibrate, score, score_exits
from nat_lib.exits import ensemble, joint_loss, supernet_weights
from nat_lib.supernet import Supernet, with_width
from nat_lib.train import Schedule, fit, sgd

STUDY = "ofav2_eps"
SMOOTHING, MOMENTUM, WEIGHT_DECAY = (
    0.1,
    0.9,
    3e-5,
)  # thesis 5.2.2; label smoothing as in Once-for-All
DROPOUT_FULL, DROPOUT_ELASTIC = 0.2, 0.1
VALIDATION_SEED = 937162211


def validation_choices(space, phase):
    """Extremes of the open choices (all three kernels in KS; for levels, the extreme numbers of
    active branches)."""
    choices = choices_after(space, phase)
    branches = [v.bit_count() for v in choices.level]
    ends = {kind: tuple(sorted({min(v), max(v)})) for kind, v in choices._asdict().items()}
    extremes = (min(branches), max(branches))
    ends["level"] = tuple(v for v, n in zip(choices.level, branches, strict=True) if n in extremes)
    if phase.opens == "kernel":
        ends["kernel"] = choices.kernel
    return choices._replace(**ends)


def subset(members, n, seed):
    """n of the members (all of them if n is None), drawn once by seed, in their own order."""
    if n is None or n >= len(members):
        return list(members)
    return [members[i] for i in sorted(np.random.default_rng(seed).permutation(len(members))[:n])]


# -------------------------------------------------------------------------------- cells and recipes


def recipe_for(phase, params):
    """Everything a phase's numbers depend on besides space and data, resolved from Table 5.2 and
    the profile."""
    share = params["epoch_fraction"]
    return {
        "lr": (phase.lr if params["learning_rates"] == "thesis" else phase.code_lr)
        * params["lr_factor"],
        "epochs": max(
            params["min_epochs"] if phase.opens else params["min_full_epochs"],
            round(phase.epochs * share),
        ),
        "warmup": round(phase.warmup * share),
        "subnets": phase.subnets,
        **{
            k: params[k]
            for k in (
                "batch_size",
                "eval_batch_size",
                "max_steps_per_epoch",
                "train_resolutions",
                "eval_resolutions",
                "training_sizes",
                "val_subnets",
                "grid_subnets",
                "exit_weights",
                "kd",
                "stale_exits",
                "precision",
            )
        },
    }


def training_resolutions(recipe):
    """All sizes, or only those of the evaluation (the published text names three, its code trains
    on five)."""
    return (
        recipe["train_resolutions"]
        if recipe["training_sizes"] == "five"
        else recipe["eval_resolutions"]
    )


def configured(params, data):
    """Table 5.2 as this profile makes it: one row per phase with its learning rate, epochs and
    optimiser steps."""
    n_batches = batches_per_epoch(params, data)
    rows = []
    for phase in PHASES:
        r = recipe_for(phase, params)
        rows.append(
            {
                "phase": phase.name,
                "lr": r["lr"],
                "recipe_epochs": r["epochs"],
                "warmup": r["warmup"],
                "batch_size": r["batch_size"],
                "steps": (r["epochs"] + r["warmup"]) * n_batches,
            }
        )
    return pd.DataFrame(rows)


def batches_per_epoch(recipe, data):
    return min(
        data.n_batches(recipe["batch_size"]), recipe["max_steps_per_epoch"] or data.n_batches(1)
    )


def load_data(params):
    """The data set that the parameters name, on the device they name."""
    if params["device"] == "cuda" and not torch.cuda.is_available():
        raise Refusal(
            "device is cuda but torch sees no GPU: set device to cpu, or run on a machine with one"
        )
    root = params["data_dir"] and files.ROOT / params["data_dir"]
    data = load(
        params["dataset"],
        root=root,
        **{
            k: params[k]
            for k in ("train_images", "val_images", "test_images", "calibration_images")
        },
    )
    return data if params["device"] == "cpu" else data.to(params["device"])


def identity(data):
    """What tells one state of a data set from another: sizes and a hash of the split, classes and
    normalisation."""
    return {
        "sizes": {part: len(rows) for part, rows in data.rows.items()},
        "split": files.hash_of([data.rows, data.classes, data.mean, data.std, data.calibration]),
    }


class Link(NamedTuple):
    """A phase of one supernet as a cell, with the cells it starts from and takes its teacher from
    (None in Full)."""

    phase: Phase
    space: Space
    width: float
    cell: Cell
    parent: Cell | None
    teacher: Cell | None
    teacher_phase: Phase | None


def chain(params, supernet, width, teacher, seed, data, out):
    """The cells of one supernet, in order; a cell's parameters hold the hashes of the cells it
    depends on.

    teacher : "fixed" (the Full network teaches every phase) | "pet" (the result of the phase
              before; with pet_lag = 1 of the one before that, as in the published code).  Phases
              that come out equal for both are "any".
    """
    space = Space(
        supernet,
        resolutions=tuple(params["train_resolutions"]),
        widths=(1.0, 1.2),
        base_channels=tuple(params["base_channels"]),
        tail_scaling=params["tail_scaling"],
    )
    links = []
    for i, phase in enumerate(phases_for(space)):
        source = {"fixed": 0, "pet": max(0, i - 1 - params["pet_lag"])}[teacher] if i else None
        mode = "any" if i < 2 else teacher
        parent = links[-1].cell if links else None
        origin = None if source is None else links[source]
        values = {
            "supernet": supernet,
            "width": width,
            "teacher": mode,
            "phase": phase.name,
            "dataset": data.name,
            "seed": seed,
            "n_classes": data.n_classes,
            "space": space.to_dict(),
            "data": identity(data),
            "recipe": recipe_for(phase, params),
            "parent": parent and parent.hash,
            "teacher_source": origin and origin.cell.hash,
            "profile": params["profile"],
        }
        with first_rank_first():
            cell = open_cell(
                out,
                STUDY,
                f"{data.name}/{supernet}_w{width}_s{seed}/{mode}-{phase.name}",
                values,
                __name__,
            )
        links.append(
            Link(phase, space, width, cell, parent, origin and origin.cell, origin and origin.phase)
        )
    return links


def selected(params):
    """(supernet, width, teacher, seed) of every cell chain that the profile runs."""
    return [
        (supernet, float(width), teacher, seed)
        for width, supernets in params["supernets"].items()
        if float(width) in params["widths"]
        for supernet in supernets
        for seed in params["seeds"]
        for teacher in params["teachers"]
    ]


def run(params, supernet, width, teacher, seed, data, out):
    """Train (or find finished) all phases of one supernet; returns their reports, in order."""
    links = chain(params, supernet, width, teacher, seed, data, out)
    return [run_phase(link, data, params["workers"]) for link in links]


def load_supernet(link, cell, phase, dropout):
    """A supernet of the link's shape with the best weights of a finished phase."""
    params = link.cell.params
    net = Supernet(link.space, link.width, params["n_classes"], params["seed"], dropout)
    weights = files.load_weights(cell.path("best.safetensors"))
    if phase.opens is None:
        net.load_maximal(weights)
    else:
        net.load_state_dict(weights)
    return net


def make_teacher(link, data, device):
    """(Teacher, its quality as rows) of one phase: validation scores at the largest size, ensemble
    and exits."""
    recipe, space = link.cell.params["recipe"], link.space
    net = load_supernet(link, link.teacher, link.teacher_phase, 0.0)
    trained = (
        choices_after(space, link.teacher_phase).exit if link.teacher_phase.opens else space.exits
    )
    positions = space.exits if recipe["stale_exits"] or recipe["kd"] == "e2e" else trained
    network = net.extract(with_width(space.largest, link.width), exits=positions).to(device)
    weights = supernet_weights(recipe["exit_weights"], len(space.exits))
    teacher = Teacher(network, positions, weights, recipe["kd"])
    size = max(recipe["eval_resolutions"])
    tested = fold(
        recalibrate(
            net.to(device).extract(with_width(space.largest, link.width), exits=positions),
            data.calibration_batches(size),
        )
    )
    scores = score_exits(
        tested, data.eval_batches("val", size, recipe["eval_batch_size"]), teacher.weights
    )
    quality = pd.DataFrame(
        [{"exit": e, **s._asdict()} for e, s in zip((0, *positions), scores, strict=True)]
    )
    return teacher, quality


# ---------------------------------------------------------------------------------------- one phase


def full_losses(net, weights):
    """Losses of the Full phase: the maximal network, all exits jointly (AEP), or its single
    exit."""
    largest = with_width(net.space.largest, net.width)

    def losses(x, y, step):
        logits = net(x, largest, exits="all")
        yield joint_loss(logits, y, weights, SMOOTHING), ensemble(logits, weights)

    return losses


def elastic_losses(net, choices, teacher, subnets, seed):
    """Losses of every later phase: `subnets` seeded draws per batch, cross-entropy plus
    distillation each."""

    def losses(x, y, step):
        soft = teacher.targets(x)
        for j in range(subnets):
            arch = net.space.draw(
                choices, np.random.default_rng((seed, step, j)), net.width, x.shape[-1]
            )
            logits = net(x, arch).float()
            loss = F.cross_entropy(logits, y, label_smoothing=SMOOTHING) + soft_cross_entropy(
                logits, soft(arch.exit)
            )
            yield loss, logits

    return losses


def run_phase(link, data, workers=0):
    """Train and report one phase; a finished one is only read.  Returns its report.

    workers : threads that prepare batches ahead; the numbers do not depend on it
    """
    read = {"parent": link.parent.path("best.safetensors")} if link.parent else {}
    return cells.compute(link.cell, lambda: _phase(link, data, workers), read)


def _phase(link, data, workers):
    """Train one phase and score what it leaves; returns the metrics of its report."""
    params, recipe, phase, space = (
        link.cell.params,
        link.cell.params["recipe"],
        link.phase,
        link.space,
    )
    device = data.device
    machine.seed_all(params["seed"])
    choices, weights = (
        choices_after(space, phase),
        supernet_weights(recipe["exit_weights"], len(space.exits)),
    )
    if phase.opens is None:
        net = Supernet(space, link.width, data.n_classes, params["seed"], DROPOUT_FULL).to(device)
        trained, losses, quality = net.body, full_losses(net, weights), None
    else:
        net = load_supernet(link, link.parent, link_before(link), DROPOUT_ELASTIC)
        if phase.opens == "expand":
            net.sort_channels(
                [e for e in choices.expand if min(choices.expand) < e < max(choices.expand)]
            )
        teacher, quality = make_teacher(link, data, device)
        trained, losses = (
            net.to(device),
            elastic_losses(net, choices, teacher, recipe["subnets"], params["seed"]),
        )
        write(link.cell, "teacher.csv", quality)
    n_batches = batches_per_epoch(recipe, data)
    schedule = Schedule(recipe["lr"], recipe["epochs"], recipe["warmup"])
    members = test_members(link, "val")
    history, best = fit(
        trained,
        losses,
        lambda epoch: islice(
            data.train_batches(
                epoch, recipe["batch_size"], training_resolutions(recipe), params["seed"], workers
            ),
            n_batches,
        ),
        lambda _: mean_score(net, phase, members, data, weights, recipe),
        schedule,
        sgd(trained, WEIGHT_DECAY, MOMENTUM),
        n_batches,
        link.cell,
        recipe["precision"],
        f"{link.cell.name}",
    )
    trained.load_state_dict(best)
    grid, full = report_grid(net, link, data, weights)
    top = grid.loc[grid.top1.idxmax()]
    write(link.cell, "grid.csv", grid)
    return {
        "grid": {
            "avg": grid.top1.mean(),
            "best": top.top1,
            "n": len(grid),
            "n_full": full,
            "best_arch": top[
                ["resolution", "kernel", "level", "exit", "depth", "expand"]
            ].to_dict(),
        },
        "val_top1": history.val_top1.max(),
        "best_epoch": int(history.epoch[history.val_top1.idxmax()]),
        "epochs": len(history),
        "steps": len(history) * n_batches,
        "n_test": len(data.rows["test"]),
        "teacher": None
        if quality is None
        else {"ensemble_top1": quality.top1[0], "exit_top1": quality.top1[1:].tolist()},
        "seconds": history.seconds.sum(),
    }


def write(cell, name, frame):
    if ranks()[0] == 0:
        files.write_csv(cell.path(name), frame)


def link_before(link):
    order = phases_for(link.space)
    return order[order.index(link.phase) - 1]


def test_members(link, kind):
    """The constant subnets that a phase is validated on ("val": extremes, at most val_subnets) or
    reported on ("grid").

    The draw depends on the grid alone, so both teachers and all seeds are compared on the same
    subnets.
    """
    recipe, phase, space = link.cell.params["recipe"], link.phase, link.space
    sizes = recipe["eval_resolutions"]
    if kind == "grid" or phase.opens is None:
        members = space.grid(choices_after(space, phase), sizes, link.width)
    else:
        members = space.grid(
            validation_choices(space, phase), sorted({min(sizes), max(sizes)}), link.width
        )
    return subset(
        members, recipe["grid_subnets" if kind == "grid" else "val_subnets"], VALIDATION_SEED
    )


def scored(net, phase, arch, batches, data, weights):
    """Score of one member: the whole ensemble in the Full phase, the single-exit subnet
    afterwards."""
    network = prepare(
        net, arch, data, arch.resolution, exits="all" if phase.opens is None else None
    )
    return score(network, batches, weights)


def mean_score(net, phase, members, data, weights, recipe):
    """(loss, top1) on the validation split, averaged over the members; shared among processes when
    there are any."""
    rank, world = ranks()
    results = gathered(
        [
            scored(
                net,
                phase,
                arch,
                data.eval_batches("val", arch.resolution, recipe["eval_batch_size"]),
                data,
                weights,
            )
            for arch in members[rank::world]
        ]
    )
    return sum(r.loss for r in results) / len(results), sum(r.top1 for r in results) / len(results)


def report_grid(net, link, data, weights):
    """(one row per reported subnet on the test split, size of the whole grid).  Thesis 5.3."""
    phase, recipe = link.phase, link.cell.params["recipe"]
    (rank, world), members, rows = ranks(), test_members(link, "grid"), []
    full = len(
        link.space.grid(choices_after(link.space, phase), recipe["eval_resolutions"], link.width)
    )
    costs = count(members, link.space, data.n_classes, exits="all" if phase.opens is None else None)
    mine = list(zip(members, costs.itertuples(), strict=True))[rank::world]
    for arch, cost in machine.progress(mine, f"{link.cell.name}, test grid"):
        batches = data.test_batches(arch.resolution, recipe["eval_batch_size"], why=link.cell.name)
        result = scored(net, phase, arch, batches, data, weights)
        rows.append(
            {
                "resolution": arch.resolution,
                "kernel": arch.kernel[0],
                "level": arch.level[0],
                "exit": arch.exit,
                "depth": arch.depth[0],
                "expand": arch.expand[0],
                "top1": result.top1,
                "top5": result.top5,
                "loss": result.loss,
                "params": int(cost.params),
                "macs": int(cost.macs),
                "macs_tp": int(cost.macs_tp),
            }
        )
    return pd.DataFrame(gathered(rows)), full


# -------------------------------------------------------------------------------- what the runs say


def best_subnets(params, data, out):
    """The best reported subnet of every supernet at the end of its training, with its choices and
    exact cost."""
    rows = []
    for supernet, width, teacher, seed in selected(params):
        link = chain(params, supernet, width, teacher, seed, data, out)[-1]
        grid = pd.read_csv(link.cell.path("grid.csv"))
        top = grid.loc[grid.top1.idxmax()]
        rows.append(
            {
                "supernet": supernet,
                "width": width,
                "teacher": teacher,
                "seed": seed,
                **top.drop("loss").to_dict(),
                "resolution": int(top.resolution),
            }
        )
    whole = ["kernel", "level", "exit", "depth", "expand", "params", "macs", "macs_tp"]
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, int))


def summary(results):
    """{"EE_D_w1.0_pet/EW_best": top-1, ...}: mean over seeds of every reported cell, for the
    notebook's report."""
    last = results[results["last"].astype(bool)]
    keys = ["supernet", "wm", "teacher", "step", "stat"]
    return {
        f"{n}_w{w}_{t}/{s}_{k}": v for (n, w, t, s, k), v in last.groupby(keys).top1.mean().items()
    }


def main(argv=None):
    """Train one supernet from the command line, on one process or on several GPUs; notebooks then
    find it finished.

    torchrun --nproc-per-node 4 -m nat_lib.shrink --profile paper --supernet EE_D --width 1.0
    --teacher pet
    """
    from argparse import ArgumentParser

    from nat_lib.run import jobs
    from nat_lib.run.params import assignments, load_params

    parser = ArgumentParser(
        prog="python -m nat_lib.shrink", description=main.__doc__.splitlines()[0]
    )
    parser.add_argument("--profile", default="smoke", help="name or file of a profile")
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--teacher", choices=("fixed", "pet"), default="pet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="outputs folder; default outputs/<profile>")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change a parameter"
    )
    given = parser.parse_args(argv)
    try:
        params = load_params(given.profile, "ofav2_eps", assignments(given.set))
        out = jobs.outputs_folder(params, given.out)
        with process_group(params["device"]):
            machine.start(params["threads"], given.seed)
            with first_rank_first():
                data = load_data(params)
            for report in run(
                params, given.supernet, given.width, given.teacher, given.seed, data, out
            ):
                if ranks()[0] == 0:
                    grid = report["metrics"]["grid"]
                    print(
                        f"{report['name']}: avg {grid['avg']:.2f}, best {grid['best']:.2f} ({grid['n']} subnets)"
                    )
    except Refusal as refusal:
        print(f"nat_lib.shrink: {refusal}", file=sys.stderr)
        return 2
    return 0
