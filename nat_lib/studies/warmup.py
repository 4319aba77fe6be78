"""Supernets moved to a new data set: the warm-up before a search and the adaptation during it.

A search works on one supernet per width multiplier, `Supernets`; an arch's width says which of them
computes it.  The warm-up gives them classifiers for the new classes, fine-tunes the maximal
networks, then trains both supernets with distillation from the widest.  The adaptation goes on with
subnets drawn from what the search has found.
Source: NAT, arXiv:2005.05859; NATv2, arXiv:2307.00960; thesis 3.3.3, 3.3.4 and 6.1.2.
"""

from functools import partial

import torch
from torch import nn

from nat_lib import cells, files, machine
from nat_lib.cells import open_cell
from nat_lib.curricula import phases_for
from nat_lib.distill import Teacher, distilled
from nat_lib.distributed import first_rank_first
from nat_lib.errors import Refusal
from nat_lib.exit_weights import supernet_weights
from nat_lib.exits import joint
from nat_lib.optimizers import sgd
from nat_lib.samplers import stream
from nat_lib.schedules import Ramped
from nat_lib.studies import grids
from nat_lib.studies.eps import STUDY as SHRINKING
from nat_lib.supernet import Supernet, Supernets, with_width
from nat_lib.train import epochs, fit

STUDY = "natv2_warmup"
LR_WARMUP, LR_ADAPTATION = 7.5e-3, 2.5e-3  # thesis 6.2.5
MOMENTUM, WEIGHT_DECAY, CLIP = 0.9, 3e-4, 5.0
MAXIMAL_EPOCHS, MAXIMAL_RAMP, SUPERNET_EPOCHS, SUPERNET_RAMP = 100, 5, 150, 10
ADAPTATION_RAMP = 5 / 150  # of all its epochs
SUBNETS = 4  # sampled per batch
REPORT_EVERY = 10  # epochs between two validations of the warm-up of the supernets


# ---------------------------------------------------------------------------------- where it starts


def trained_cell(out, dataset, space, width, teacher, seed, curriculum="eps"):
    """The finished last phase of a supernet that chapter 5 left under `out`: `cells.Cell`."""
    last = phases_for(space, curriculum)[-1]
    name = f"{dataset}/{space.name}_w{width}_s{seed}/{last.teacher or teacher}-{last.name}"
    remedy = (
        f"{space.name} at width {width} was not trained on {dataset} with the {teacher} teacher "
        f"and seed {seed}; list it under `supernets` in the profile and run notebook 02 first"
    )
    return cells.finished(out, SHRINKING, name, remedy)


def trained_supernet(cell, space):
    """The supernet of a finished last phase, which must be one of `space`."""
    params = cell.params
    parts = ("name", "base_channels", "tail_scaling", "plan")
    theirs, ours = ({k: s[k] for k in parts if k in s} for s in (params["space"], space.to_dict()))
    if theirs != ours:
        raise Refusal(
            f"{cell.folder} holds a supernet of another space ({theirs} instead of {ours}): train "
            "it again with notebook 02, or give the profile its base_channels and tail_scaling"
        )
    net = Supernet(space, float(params["width"]), params["n_classes"])
    net.load_state_dict(files.load_weights(cell.path("best.safetensors")))
    return net


# ------------------------------------------------------------------------------------------ warm-up

RECIPE = (
    "nat_batch_size",
    "nat_eval_batch_size",
    "nat_epoch_fraction",
    "nat_min_epochs",
    "nat_max_steps",
    "nat_lr_factor",
    "nat_val_subnets",
    "train_resolutions",
    "eval_resolutions",
    "exit_weights",
    "distill",
    "carry_kernel_transforms",
    "precision",
    "warm_up",
)


def recipe(params):
    """What the numbers of warm-up and adaptation depend on besides space, data and start."""
    return {key: params[key] for key in RECIPE}


def epochs_of(whole, ramp, recipe):
    """(epochs, ramp inside them) of this profile's share of the thesis's epochs."""
    share = recipe["nat_epoch_fraction"]
    return max(recipe["nat_min_epochs"], round(whole * share)), round(ramp * share)


def trained(network, losses, validate, schedule, recipe, data, seed, cell, workers, **options):
    """`train.fit` with the optimiser, batches and clipping of warm-up and adaptation: no Nesterov,
    every parameter decays."""
    sizes, steps = recipe["train_resolutions"], recipe["nat_max_steps"]
    batches, n_batches = epochs(data, recipe["nat_batch_size"], sizes, seed, steps, workers)
    return fit(
        network,
        losses,
        batches,
        validate,
        schedule,
        sgd(network, WEIGHT_DECAY, MOMENTUM, nesterov=False, exempt=False),
        n_batches,
        cell,
        clip_norm=CLIP,
        **{"say": cell.name, **options},
    )[0]


def warm_up_cells(space, sources, teacher, seed, data, values, out):
    """{width: cell of its maximal network, "supernets": cell of all supernets} for one start and
    one data set.

    sources : {width: finished cell of shrinking}
    """
    common = {
        "supernet": space.name,
        "teacher": teacher,
        "dataset": data.name,
        "seed": seed,
        "space": space,
        "n_classes": data.n_classes,
        **values,
    }
    home = f"{data.name}/{space.name}_{teacher}_s{seed}"
    with first_rank_first():
        cells = {}
        for w in space.widths:
            own = {**common, "width": w, "source": sources[w].hash}
            cells[w] = open_cell(out, STUDY, f"{home}/w{w}", own, __name__)
        own = {**common, "maximal": [cells[w].hash for w in space.widths]}
        cells["supernets"] = open_cell(out, STUDY, f"{home}/supernets", own, __name__)
    return cells


def warm_up(space, sources, teacher, seed, data, values, out, workers=0):
    """Move the supernets of `sources` to `data`; returns the cells of `warm_up_cells`, all
    finished.  Thesis 6.1.2.

    values : {"recipe": `recipe`, "data": `inputs.identity`, "profile": name}; where the recipe's
             warm_up is "none" nothing is trained: the search goes on with the supernets as they are
    """
    warm = warm_up_cells(space, sources, teacher, seed, data, values, out)
    maximal, whole = WARM_UPS[values["recipe"]["warm_up"]]
    for width in space.widths:
        start, cell = sources[width], warm[width]
        work = partial(maximal, space, start, cell, seed, data, workers)
        cells.compute(cell, work, {"source": start.path("best.safetensors")})
    work = partial(whole, space, sources, warm, seed, data, workers)
    reads = {f"w{w}": warm[w].path("best.safetensors") for w in space.widths}
    cells.compute(warm["supernets"], work, reads)
    return warm


def _maximal(space, source, cell, seed, data, workers):
    """Fine-tune the maximal network of one width on the new classes, all exits jointly; returns
    the metrics."""
    recipe = cell.params["recipe"]
    machine.seed_all(seed)
    net = new_classifiers(trained_supernet(source, space), data.n_classes, seed).to(data.device)
    weights = supernet_weights(recipe["exit_weights"], len(space.exits))

    def validate(network):  # the running statistics as they are, at every evaluation size
        network.eval()
        found = []
        for size in recipe["eval_resolutions"]:
            batches = data.eval_batches("val", size, recipe["nat_eval_batch_size"])
            found.append(grids.joint_score(network, batches, weights))
        return tuple(sum(column) / len(found) for column in zip(*found, strict=True))

    epochs, ramp = epochs_of(MAXIMAL_EPOCHS, MAXIMAL_RAMP, recipe)
    schedule = Ramped(LR_WARMUP * recipe["nat_lr_factor"], epochs, ramp)
    history = trained(
        net,
        joint(net, weights),
        validate,
        schedule,
        recipe,
        data,
        seed,
        cell,
        workers,
        precision=recipe["precision"],
    )
    return {"val_top1": history.val_top1.max(), "epochs": len(history)}


def _same_maximal(space, source, cell, seed, data, workers):
    """Leave the maximal network of a supernet that was trained on this very data set."""
    trained_on = source.params["dataset"], source.params["data"]
    if trained_on != (data.name, files.plain(cell.params["data"])):
        raise Refusal(
            "warm_up=none searches a supernet on the images it was trained on, and "
            f"{source.folder} was trained on others ({trained_on[0]}): use warm_up=transfer, or "
            "make target, its images and its folder those of the supernet"
        )
    net = trained_supernet(source, space)
    network = net.extract(with_width(space.largest, net.width), exits="all")
    files.save_weights(cell.path("best.safetensors"), network.state_dict())
    return {"epochs": 0}


def _same_supernets(space, sources, cells, seed, data, workers):
    """Leave the supernets as they were trained."""
    nets = Supernets(space, data.n_classes, seed)
    for width in space.widths:
        nets.of(width).load_state_dict(trained_supernet(sources[width], space).state_dict())
    files.save_weights(cells["supernets"].path("best.safetensors"), nets.state_dict())
    return {"epochs": 0}


def new_classifiers(net, n_classes, seed):
    """The maximal network of a supernet, its exits ending in fresh linear layers (the library's
    initialisation)."""
    network = net.extract(with_width(net.space.largest, net.width), exits="all")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for tail in network.exits.values():
            tail.linear, tail.dropout = (
                nn.Linear(tail.linear.in_features, n_classes),
                nn.Dropout(0.0),
            )
    return network


def started(space, sources, cells, seed, carry):
    """Supernets that start from the fine-tuned maximal networks, channels sorted by importance.

    carry : keep the kernel matrices that shrinking learned, instead of identities (thesis: the
            supernets are new)
    """
    params = cells["supernets"].params
    nets = Supernets(space, params["n_classes"], seed)
    for width in space.widths:
        net = nets.of(width)
        net.load_maximal(files.load_weights(cells[width].path("best.safetensors")))
        if carry:
            net.transforms.load_state_dict(
                trained_supernet(sources[width], space).transforms.state_dict()
            )
        net.sort_channels(space.expands[1:-1])
    return nets


def make_teacher(space, cells, exit_weights, device):
    """The widest fine-tuned maximal network, with the ensemble of its exits: `distill.Teacher`.
    Never updated."""
    width = space.widths[-1]
    net = Supernet(space, width, cells[width].params["n_classes"])
    net.load_maximal(files.load_weights(cells[width].path("best.safetensors")))
    weights = supernet_weights(exit_weights, len(space.exits))
    return Teacher.of(net, space.exits, weights, "ensemble", device)


def _supernets(space, sources, cells, seed, data, workers):
    """Train all supernets together: per batch four subnets sampled from the search space, with
    distillation; returns the metrics."""
    cell = cells["supernets"]
    recipe = cell.params["recipe"]
    machine.seed_all(seed)
    nets = started(space, sources, cells, seed, recipe["carry_kernel_transforms"]).to(data.device)
    teacher = make_teacher(space, cells, recipe["exit_weights"], data.device)
    members, size = reduced_grid(space, recipe), recipe["nat_eval_batch_size"]
    epochs, ramp = epochs_of(SUPERNET_EPOCHS, SUPERNET_RAMP, recipe)
    history = trained(
        nets,
        sampled(nets, teacher, lambda rng: space.sample(1, rng)[0], seed, loss=recipe["distill"]),
        lambda _: grids.mean_score(nets, members, data, size),
        Ramped(LR_WARMUP * recipe["nat_lr_factor"], epochs, ramp),
        recipe,
        data,
        seed,
        cell,
        workers,
        every=REPORT_EVERY,
    )
    return {"val_top1": history.val_top1.max(), "epochs": len(history)}


# what makes the maximal networks and the supernets that a search starts from
WARM_UPS = {"transfer": (_maximal, _supernets), "none": (_same_maximal, _same_supernets)}


def warmed_up(space, cells):
    """The supernets as the warm-up left them: `Supernets` on the CPU."""
    params = cells["supernets"].params
    nets = Supernets(space, params["n_classes"])
    nets.load_state_dict(files.load_weights(cells["supernets"].path("best.safetensors")))
    return nets


# --------------------------------------------------------------------------------------- adaptation


def sampled(nets, teacher, draw, seed, purpose="warm-up subnets", loss=None):
    """Losses of a training step of all supernets: four drawn subnets, cross-entropy plus
    distillation each.

    draw(rng) -> Arch;  purpose : tells these draws from others of the same seed and step.  The
    gradient of each subnet gathers in the supernet of its width.
    loss : a row of DISTILL; None: soft cross-entropy
    """

    def subnets(x, y, step):
        rng = machine.stream(seed, purpose, step)
        return [draw(stream(rng, j)) for j in range(SUBNETS)]

    loss = loss or "soft_ce"
    return distilled(nets, subnets, teacher, loss=loss, part=lambda arch: nets.of(arch.width))


def adapt(
    nets,
    teacher,
    draw,
    number,
    epochs,
    iterations,
    recipe,
    data,
    seed,
    cell,
    workers=0,
    validate=None,
):
    """Train on for the `number`-th time of `iterations`, `epochs` epochs each, all under one
    schedule and optimiser.

    The state lies in the cell, so a killed adaptation goes on and a finished one is only loaded.
    Thesis 6.1.2.
    returns : the history so far
    """
    whole, lr = iterations * epochs, LR_ADAPTATION * recipe["nat_lr_factor"]
    schedule = Ramped(lr, whole, round(ADAPTATION_RAMP * whole), number * epochs)
    return trained(
        nets,
        sampled(nets, teacher, draw, seed, "adaptation subnets", recipe["distill"]),
        validate,
        schedule,
        recipe,
        data,
        seed,
        cell,
        workers,
        say=f"{cell.name}, adaptation {number}",
    )


# --------------------------------------------------------------------------------------- validation


def reduced_grid(space, recipe):
    """Constant subnets of the extreme choices on which supernets are validated, at most
    nat_val_subnets: thesis 6.2.3.

    Of the levels the first branch alone, and all branches.
    """

    def ends(values):
        return tuple(sorted({values[0], values[-1]}))

    choices = space.choices._replace(
        kernel=ends(space.kernels),
        expand=ends(space.expands),
        depth=ends(space.depths),
        exit=ends(space.exits),
        level=tuple(sorted({next(iter(space.branches.values())).bit, max(space.levels)})),
    )
    members = [
        arch
        for width in space.widths
        for arch in space.grid(choices, recipe["eval_resolutions"], width)
    ]
    return grids.subset(members, recipe["nat_val_subnets"])


def mean_score(nets, members, data, recipe):
    """See `grids.mean_score`."""
    return grids.mean_score(nets, members, data, recipe["nat_eval_batch_size"])
