"""The images of a study: loaded on the device of its parameters, told from others by a hash."""

from dataclasses import replace

import torch

from nat_lib import data, files, precision
from nat_lib.arch import SINGLE, Space
from nat_lib.data.shown import shown
from nat_lib.errors import Refusal
from nat_lib.plans import named
from nat_lib.recipes import RECIPES


def load(params, name, **options):
    """A data set on the device that the parameters name.

    params  : "device" and "data_dir" are read
    options : of `data.load`
    """
    if params["device"] == "cuda":
        if not torch.cuda.is_available():
            raise Refusal(
                "device is cuda but torch sees no GPU: set device to cpu, or run on a machine with "
                "one"
            )
        precision.exact()
    root = params["data_dir"] and files.ROOT / params["data_dir"]
    found = data.load(name, root=root, **options)
    return found if params["device"] == "cpu" else found.to(params["device"])


def load_data(params):
    """The data set of chapters 5 and 6 that the parameters name."""
    elsewhere = shown(params["dataset"])
    if elsewhere:
        return elsewhere
    keys = ("train_images", "val_images", "test_images", "calibration_images")
    options = {k: params[k] for k in keys}
    found = load(params, params["dataset"], smallest=min(params["train_resolutions"]), **options)
    return augmented(found, RECIPES[params["recipe"]])


def augmented(found, recipe):
    """The data set with the augmentation of a recipe."""
    if recipe.crop is None:
        return found
    return replace(found, spec=found.spec._replace(scale=recipe.crop, extra=None), memo={})


def space_of(params, supernet, resolutions, widths, answers=SINGLE):
    """The space of one supernet, as the parameters name its plan and channels."""
    channels = params["base_channels"]
    return Space(
        supernet,
        tuple(resolutions),
        tuple(widths),
        channels and tuple(channels),
        params["tail_scaling"],
        named(params["plan"]),
        answers,
    )


def identity(data):
    """What tells one state of a data set from another: sizes, a hash of the split, classes and
    normalisation, the fingerprint of the images."""
    return {
        "sizes": {part: len(rows) for part, rows in data.rows.items()},
        "split": files.hash_of([data.rows, data.classes, data.mean, data.std, data.calibration]),
        "images": data.fingerprint,
        "smallest": data.smallest,
    }
