"""The images of a study: loaded on the device of its parameters, told from others by a hash."""

import torch

from nat_lib import files, precision
from nat_lib.data import batches
from nat_lib.errors import Refusal


def load(params, name, **options):
    """A data set on the device that the parameters name.

    params  : "device" and "data_dir" are read
    options : of `data.batches.load`
    """
    if params["device"] == "cuda":
        if not torch.cuda.is_available():
            raise Refusal(
                "device is cuda but torch sees no GPU: set device to cpu, or run on a machine with "
                "one"
            )
        precision.exact()
    root = params["data_dir"] and files.ROOT / params["data_dir"]
    data = batches.load(name, root=root, **options)
    return data if params["device"] == "cpu" else data.to(params["device"])


def load_data(params):
    """The data set of chapters 5 and 6 that the parameters name."""
    keys = ("train_images", "val_images", "test_images", "calibration_images")
    return load(params, params["dataset"], **{k: params[k] for k in keys})


def identity(data):
    """What tells one state of a data set from another: sizes and a hash of the split, classes and
    normalisation."""
    return {
        "sizes": {part: len(rows) for part, rows in data.rows.items()},
        "split": files.hash_of([data.rows, data.classes, data.mean, data.std, data.calibration]),
    }
