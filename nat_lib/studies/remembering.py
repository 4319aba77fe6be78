"""A penalty on moving weights that mattered, so that later phases forget less.

Source: weight plasticity loss, Benyahia et al., arXiv:1902.08232; the diagonal of the Fisher
information after Kirkpatrick et al., arXiv:1612.00796.
"""

from itertools import islice

import torch
from torch.nn import functional as F

from nat_lib import files, ledger, machine
from nat_lib.samplers import uniform
from nat_lib.studies.judging import unseen

BATCHES = 10  # from which it is told which weights matter


def importance(net, choices, batches, cell):
    """{parameter: mean squared gradient of the cross-entropy of random open subnets}, of mean 1
    over all weights; a resumed phase reads it.

    choices : what was open before the phase;  batches : function of the epoch
    """
    place = cell.path("importance.safetensors")
    if place.is_file():
        return files.load_weights(place)
    named = dict(net.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    with unseen(net.train()):
        for step, (x, y) in enumerate(islice(batches(0), BATCHES)):
            rng = machine.stream(cell.params["seed"], "what matters", step)
            [arch] = uniform(net.space, choices, net.width, x.shape[-1], rng, 1)
            ledger.passed_subnet(net, arch, (arch.exit,), x, ledger.TRAINING)
            loss = F.cross_entropy(net(x, arch), y)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient.square()
    mean = sum(t.sum() for t in sums.values()) / sum(t.numel() for t in sums.values())
    found = {name: total / mean for name, total in sums.items()}
    files.save_weights(place, found)
    return found


def pulled_back(losses, net, matters, strength):
    """Losses of a step, see `train.fit`, of which the first also pays strength / 2 times the mean
    over all weights of importance * (weight - where it was)^2."""
    pairs = [(p, matters[name], p.detach().clone()) for name, p in net.named_parameters()]
    n = sum(p.numel() for p, _, _ in pairs)

    def penalised(x, y, step):
        penalty = sum((weight * (p - before).square()).sum() for p, weight, before in pairs)
        for loss, *rest in losses(x, y, step):
            yield loss + strength / 2 * penalty / n, *rest
            penalty = 0.0

    return penalised
