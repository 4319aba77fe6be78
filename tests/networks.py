"""Supernets with other than their first weights, costs counted on a real forward, and a clock that
tells work instead of time."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from nat_lib import latency


def disturbed(net, seed=1):
    """Make every weight, BN tensor and kernel matrix different from its initial value."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in [*net.named_parameters(), *net.named_buffers()]:
            if t.is_floating_point():
                draw = torch.rand if "var" in name else torch.randn
                t.add_(0.1 * draw(t.shape, generator=g))
    return net


def hooked_cost(network, x):
    """(params, conv + linear MACs, MACs in the thesis's convention) of a plain network, counted on
    a real forward."""
    plain, extra = [], []

    def conv(m, i, o):
        plain.append(o[0].numel() * m.weight[0].numel())

    def linear(m, i, o):
        plain.append(m.weight.numel())

    def elements(m, i, o):
        extra.append(o[0].numel())

    def mean(m, i, o):
        c, h, _ = i[0].shape[1:]
        extra.append(c * h + c)

    hooks = {
        nn.Conv2d: conv,
        nn.Linear: linear,
        nn.BatchNorm2d: elements,
        nn.Hardswish: elements,
        nn.SiLU: elements,
        nn.AdaptiveAvgPool2d: mean,
    }
    handles = [
        m.register_forward_hook(hook)
        for m in network.modules()
        for kind, hook in hooks.items()
        if isinstance(m, kind)
    ]

    def gated(m, i, o):
        c, h, _ = i[0].shape[1:]
        extra.append(c * h + c + o[0].numel())

    handles += [
        m.register_forward_hook(gated)
        for m in network.modules()
        if type(m).__name__ == "SqueezeExcite"
    ]
    network(x)
    for h in handles:
        h.remove()
    return sum(p.numel() for p in network.parameters()), sum(plain), sum(plain) + sum(extra)


class Work:
    """A clock in seconds: one millisecond per million multiplications that layers have done since
    it was made."""

    def __init__(self):
        self.done = 0

    def count(self, module, inputs, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            self.done += output.numel() * module.weight[0].numel()

    def __call__(self):
        return self.done / 1e9


@contextmanager
def counting_work(clock):
    """Let `time.<clock>` tell the work done."""
    work = Work()
    hook = nn.modules.module.register_module_forward_hook(work.count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency.time, clock, work)
        yield
    hook.remove()
