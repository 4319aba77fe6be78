"""Optimisers, a row each: network -> optimiser of all its parameters.

The learning rate comes from a schedule (`schedules`).
"""

from functools import partial

import torch
from torch import nn


class Ranger(torch.optim.RAdam):
    """RAdam on centred gradients under Lookahead; no weight decay.

    Centring: every gradient of two or more dimensions loses its mean over all but the first (the
              outputs).
    Lookahead: after every k-th step slow weights go the share alpha of the way to the weights,
               which restart there.
    They are part of state_dict. Source: arXiv:1908.03265, arXiv:2004.01461, arXiv:1907.08610;
    values: published code.
    """

    k, alpha = 6, 0.5

    def __init__(self, params, lr=1e-3, betas=(0.95, 0.999), eps=1e-5):
        super().__init__(params, lr=lr, betas=betas, eps=eps)

    @torch.no_grad()
    def step(self):
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in trained:
            if p.ndim > 1:
                p.grad -= p.grad.mean(tuple(range(1, p.ndim)), keepdim=True)
        first = {
            p: p.clone() for p in trained if p not in self.state
        }  # slow weights start where the first step does
        super().step()
        for p in trained:
            state = self.state[p]
            if p in first:
                state["slow"] = first[p]
            if int(state["step"]) % self.k == 0:
                p.copy_(state["slow"].lerp_(p, self.alpha))


def sgd(network, weight_decay, momentum=0.9, nesterov=True, exempt=True):
    """SGD over all parameters; with exempt, BN affine parameters and every bias do not decay (by
    type, not by name)."""
    free = (
        {
            id(p)
            for m in network.modules()
            for n, p in m.named_parameters(recurse=False)
            if isinstance(m, nn.BatchNorm2d) or n == "bias"
        }
        if exempt
        else set()
    )
    params = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if id(p) not in free], "weight_decay": weight_decay},
        {"params": [p for p in params if id(p) in free], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=1.0, momentum=momentum, nesterov=nesterov, fused=True
    )


# row: network -> optimiser of all its parameters; the learning rate comes from the schedule
OPTIMIZERS = {
    # decay as in the search (thesis 6.2.4); the published scripts have 5e-4
    "SGD": partial(sgd, weight_decay=3e-4, nesterov=False, exempt=False),
    "AdamW": lambda network: torch.optim.AdamW(network.parameters(), fused=True),
    "Ranger": lambda network: Ranger(network.parameters()),
}
