"""Who judges the candidates of an attentive sampler: the loss on the batch at hand, or a
predictor."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nat_lib import files, ledger, machine
from nat_lib.evaluate import evaluate
from nat_lib.modules import quiet
from nat_lib.samplers import Judge, uniform
from nat_lib.search import ensemble

FEW, MANY = 3, 50  # candidates per subnet, of a loss and of a predictor
PANEL = 100  # subnets that a predictor is fitted to, once per phase


def by_loss(net, x, y, smoothing) -> Judge:
    """Cross-entropy on a batch, with batch statistics and without dropout; nothing of the network
    changes."""

    @torch.no_grad()
    def scores(archs):
        found = []
        with unseen(net):
            for arch in archs:
                ledger.passed_subnet(net, arch, (arch.exit,), x)
                logits = net(x, arch).float()
                found.append(F.cross_entropy(logits, y, label_smoothing=smoothing).item())
        return found

    return Judge(FEW, scores)


@contextmanager
def unseen(net):
    """Forward passes in training mode that leave no trace: running statistics rest, and nothing is
    dropped, so no random number is drawn."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for m in norms:
        m.momentum = 0.0
    try:
        with quiet(net):
            yield
    finally:
        for m, (m.momentum, tracked) in zip(norms, kept, strict=True):
            m.num_batches_tracked.copy_(tracked)


def by_predictor(name, net, choices, width, sizes, data, cell, batch_size) -> Judge:
    """A predictor of the error, fitted to PANEL random subnets of the weights that a phase begins
    with; a resumed phase reads their errors.

    sizes : of the images that the phase trains at
    """
    rng = machine.stream(cell.params["seed"], "judged panel", 0)
    archs = [
        next(iter(uniform(net.space, choices, width, int(rng.choice(sizes)), rng, 1)))
        for _ in range(PANEL)
    ]
    place = cell.path("judged.json")
    if place.is_file():
        errors = files.read_json(place)
    else:
        panel = machine.progress(archs, f"{cell.name}, panel of the judge")
        errors = [100 - evaluate(net, arch, data, batch_size).val_top1 for arch in panel]
        files.write_json(place, errors)
    X = net.space.encode(archs)
    fitted = ensemble.fit(name, net.space, X, np.array(errors), rng=rng)
    return Judge(MANY, lambda some: fitted.predict(net.space.encode(some)).tolist())
