"""How one phase of a curriculum is trained: its rates, epochs, subnets and losses, resolved."""

from functools import partial

from nat_lib import samplers
from nat_lib.distill import TEACHERS
from nat_lib.errors import Refusal
from nat_lib.recipes import RECIPES
from nat_lib.studies.sizes import training_resolutions
from nat_lib.train import epochs

# of the profile and the experiment, what the numbers of a phase depend on
RECIPE = (
    *("batch_size", "eval_batch_size", "max_steps_per_epoch", "train_resolutions"),
    *("eval_resolutions", "training_sizes", "val_subnets", "grid_subnets"),
    *("exit_weights", "kd", "stale_exits", "precision", "recipe", "judge"),
    *("kernel_matrices", "probes", "probe_every", "remember"),
)


def recipe_for(phase, params, teacher=None):
    """Everything a phase's numbers depend on besides space and data, resolved from its row and the
    profile.

    teacher : a key of TEACHERS, which may ask for a sampler of its own
    """
    n_epochs, warmup = epochs_of(phase, params)
    lr = phase.lr if params["learning_rates"] == "thesis" else phase.code_lr
    optimised = RECIPES[params["recipe"]]
    row = TEACHERS["fixed" if phase.maximal or teacher is None else teacher]
    sampler = params["sampler"] or (not phase.teacher and row.sampler) or phase.sampler
    return {
        "lr": optimised.lr(lr, params["batch_size"]) * params["lr_factor"],
        "epochs": n_epochs,
        "warmup": warmup,
        "subnets": 0 if phase.maximal else max(phase.subnets, row.least, samplers.least(sampler)),
        "sampler": sampler,
        "loss": params["distill"] or phase.loss,
        "mix": params["mix"] or phase.mix or row.mix,
        "optimised": optimised._asdict(),
        **{k: params[k] for k in RECIPE},
    }


def epochs_of(phase, params):
    """(epochs of a phase, those of the warm-up before them): what `epochs` says of both together,
    or a share of Table 5.2."""
    if params["epochs"]:
        if phase.name not in params["epochs"]:
            raise Refusal(f"epochs: {phase.name} is not named: name every phase of the curriculum")
        share = params["epochs"][phase.name] / (phase.epochs + phase.warmup)
        return phase.epochs * share, phase.warmup * share
    share = params["epoch_fraction"]
    least = params["min_full_epochs" if phase.opens in (None, "all") else "min_epochs"]
    return max(least, round(phase.epochs * share)), round(phase.warmup * share)


def batches_of(recipe, data, seed=0, workers=0):
    """See `train.epochs`."""
    sizes, steps = partial(training_resolutions, recipe), recipe["max_steps_per_epoch"]
    return epochs(data, recipe["batch_size"], sizes, seed, steps, workers)
