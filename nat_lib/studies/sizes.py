"""Image sizes of a training, epoch by epoch."""

RISING = 2 / 3  # of all epochs climb to the sizes of the evaluation


def training_resolutions(recipe, epoch=None):
    """Image sizes of one epoch's batches, in pixels; None: of all of them.

    "five" : all sizes;  "three" : only those of the evaluation (the published text names three, its
    code trains on five);  "rising" : two thirds of the epochs climb through the sizes below those
    of the evaluation, the others train on these.  Source of the latter: EfficientNetV2,
    arXiv:2104.00298, whose regularisation rises as well; here it stays.
    """
    every, tested = recipe["train_resolutions"], recipe["eval_resolutions"]
    kind = recipe["training_sizes"]
    if kind == "rising" and epoch is not None:
        return _risen(every, tested, epoch / (recipe["epochs"] + recipe["warmup"]))
    return tested if kind == "three" else every


def _risen(every, tested, done):
    """Sizes for an epoch before which a share `done` of all epochs is over."""
    below = [size for size in every if size < min(tested)]
    reached = int(len(below) * done / RISING)
    return below[reached : reached + 1] or tested
