"""Distillation: teachers and the losses that compare a student with one."""

import torch
import torch.nn.functional as F
from torch import nn

from nat_lib.exits import ensemble


def soft_cross_entropy(logits, soft):
    """Distillation loss: batch mean of -sum_c soft_c log softmax(logits)_c, temperature 1.

    Source: Once-for-All, arXiv:1908.09791.

    logits, soft : (B, C); soft holds the teacher's probabilities and takes no gradient
    """
    return F.cross_entropy(logits.float(), soft.detach())


# ----------------------------------------------------------------------------------------- teachers


class Teacher:
    """A maximal network that turns images into soft targets; batch statistics in BN, no dropout, no
    gradient.

    logits(x) -> list of (B, C), one per exit it keeps.  Batch statistics make one teacher valid at
    every resolution.
    """

    def __init__(self, network, positions, weights, kd):
        self.network, self.positions, self.kd = network.eval(), positions, kd
        total = sum(weights[-len(positions) :])
        self.weights = [w / total for w in weights[-len(positions) :]]
        for m in network.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean = m.running_var = None  # torch then normalises with the batch

    @torch.no_grad()
    def targets(self, x):
        """{exit: probabilities (B, C)} for the exits a subnet may leave at.  Thesis 5.1.4: ENS-KD,
        E2E-KD."""
        logits = [o.float() for o in self.network(x)]
        if self.kd == "e2e":
            return {
                e: F.softmax(o, 1) for e, o in zip(self.positions, logits, strict=True)
            }.__getitem__
        soft = F.softmax(ensemble(logits, self.weights), 1)
        return lambda position: soft
