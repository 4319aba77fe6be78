"""Distillation: losses that compare a student with a teacher, and where teachers come from.

A teacher hands over logits; what becomes of them is the loss's affair.  A new loss, target or
teacher is a function and a row of DISTILL, TARGETS or TEACHERS.  The tables import no torch.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

from nat_lib import ledger

# ------------------------------------------------------------------------------------------- losses


def soft_ce(student, teacher):
    """Batch mean of -sum_c softmax(teacher)_c log softmax(student)_c; logits (B, K) of both.

    Source: Once-for-All, arXiv:1908.09791.
    """
    from torch.nn import functional as F

    return F.cross_entropy(student.float(), teacher.detach().float().softmax(1))


def kl(student, teacher, temperature=4.0):
    """T^2 times the batch mean of KL(softmax(teacher / T) || softmax(student / T)).

    Source: Hinton et al., arXiv:1503.02531.
    """
    from torch.nn import functional as F

    wanted = (teacher.detach().float() / temperature).log_softmax(1)
    found = (student.float() / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def alpha(student, teacher, low=-1.0, high=1.0, cap=5.0):
    """Batch mean of the larger of two alpha-divergences, sample by sample: that of `high` is large
    where the student misses what the teacher has, that of `low` where it has what the teacher
    lacks.

    cap : of the power of the ratio of probabilities that weights a class, but where alpha is 1
    The value is the divergence of the larger branch, on ties that of `high`; its gradient takes the
    weights of the classes as constants.
    Source: AlphaNet, arXiv:2102.07954.
    """
    import torch

    with torch.no_grad():
        below, pull_below = _divergence(student, teacher, low, cap)
        above, pull_above = _divergence(student, teacher, high, cap)
        lower = below > above
        value = torch.where(lower, below, above)
        pull = torch.where(lower[:, None], pull_below, pull_above)
    along = (student.float() * pull).sum(1)
    return (value + along - along.detach()).mean()


def takes_low(student, teacher, low=-1.0, high=1.0, cap=5.0):
    """(B,) bool: on which samples `alpha` takes the divergence of `low`."""
    below, _ = _divergence(student, teacher, low, cap)
    above, _ = _divergence(student, teacher, high, cap)
    return below > above


def _divergence(student, teacher, alpha, cap):
    """(divergence (B,) of the teacher's p from the student's q, its gradient (B, K) with respect to
    the student's logits), from log-probabilities: finite whatever the logits are."""
    log_q = student.float().log_softmax(1)
    log_p = teacher.float().log_softmax(1)
    q, ratio = log_q.exp(), log_p - log_q
    if alpha == 1:
        p = log_p.exp()
        return (p * ratio).sum(1), q - p
    if alpha == 0:
        ratio = ratio.clamp(max=math.log(cap))
        value, weight = -(q * ratio).sum(1), ratio - 1
    else:
        power = (alpha * ratio).clamp(max=math.log(cap)).exp()
        value, weight = (q * (power - 1)).sum(1) / (alpha * (alpha - 1)), power / alpha
    return value, q * ((weight * q).sum(1, keepdim=True) - weight)


# (student logits, teacher logits), both (B, K) -> mean loss, least at the teacher, which gets no
# gradient
DISTILL = {"soft_ce": soft_ce, "kl": kl, "alpha": alpha}


# ----------------------------------------------------------------- further terms of a joint loss


def alike(logits, votes):
    """Minus the mean Jensen-Shannon divergence of two exits: least where exits disagree; logits (E,
    B, K) -> from -log 2 to 0.

    Weights up to 0.1 keep the cross-entropy ahead.  Source of the idea: thesis chapter 7.
    """
    import torch

    log_p = logits.float().log_softmax(2)
    if len(log_p) < 2:
        return 0 * log_p.sum()
    one, other = (log_p[i] for i in torch.triu_indices(len(log_p), len(log_p), 1))
    mixed = torch.logaddexp(one, other) - math.log(2)
    return -sum((p.exp() * (p - mixed)).sum(2).mean() for p in (one, other)) / 2


def own_ensemble(logits, votes):
    """Every exit learns from the vote of all exits of the same pass: logits (E, B, K) -> mean soft
    cross-entropy.

    Source: exit-ensemble distillation, H. Lee and J.-S. Lee 2021.
    """
    from nat_lib.exits import ensemble

    vote = ensemble(logits.detach(), votes)
    return sum(soft_ce(exit, vote) for exit in logits) / len(logits)


# (logits of all exits (E, B, K), their votes) -> a term that is added to the joint loss
TERMS = {"diversity": alike, "self_distillation": own_ensemble}


def further(weights, votes):
    """logits -> the weighted sum of some TERMS, {name: weight}; None where there are none."""
    if not weights:
        return None
    return lambda logits: sum(w * TERMS[name](logits, votes) for name, w in weights.items())


# ------------------------------------------------------------------------------------------ targets


def of_ensemble(positions, logits, weights):
    """Every exit learns from the weighted sum of the teacher's exits.  Thesis 5.1.4: ENS-KD."""
    from nat_lib.exits import ensemble

    vote = ensemble(logits, weights)
    return lambda position: vote


def of_same_exit(positions, logits, weights):
    """Every exit learns from the teacher's own at its position.  Thesis 5.1.4: E2E-KD."""
    return dict(zip(positions, logits, strict=True)).__getitem__


# (positions of exits, list of their logits, weights) -> function: position -> (B, K) to learn from
TARGETS = {"ensemble": of_ensemble, "e2e": of_same_exit}


# ----------------------------------------------------------------------------------------- teachers


class Teach(NamedTuple):
    """Where the logits come from that students learn from.

    label  : in tables and figures
    source : (number of the phase, lag) -> number of the earlier phase whose maximal network
             teaches; None: in place, the first subnet of a step teaches the others
    mix    : weights of the images' labels and of the teacher in a student's loss
    sampler, least : of the subnets of a step, where the teacher asks for it
    """

    label: str
    source: Callable[[int, int], int] | None
    mix: tuple[float, float] = (1.0, 1.0)
    sampler: str | None = None
    least: int = 0


TEACHERS = {
    "fixed": Teach("fixed", lambda phase, lag: 0),
    "pet": Teach("progressive", lambda phase, lag: max(0, phase - 1 - lag)),
    "in_place": Teach("in place", None, mix=(0.0, 1.0), sampler="sandwich", least=2),
}


def shares(weights, positions):
    """The weights of the exits at these positions (1, 2, ...) of all, divided by their sum."""
    chosen = [weights[-1]] if len(weights) == 1 else [weights[p - 1] for p in positions]
    total = sum(chosen)
    return [w / total for w in chosen]


class Teacher:
    """A maximal network as teacher: batch statistics in BN, no dropout, no gradient.

    Batch statistics make one teacher valid at every resolution.
    positions : of the exits it keeps;  weights : of all exits of its space, renormalised over them
    kd        : a key of TARGETS
    """

    def __init__(self, network, positions, weights, kd="ensemble"):
        from torch import nn

        self.network, self.positions = network.eval(), tuple(positions)
        self.counted = self.network  # `network` may be compiled later
        self.weights, self.kd = shares(weights, positions), kd
        for m in network.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean = m.running_var = None  # torch then normalises with the batch

    def logits(self, x):
        """List of (B, K) float32, one per exit that it keeps."""
        import torch

        ledger.passed(self.counted, x)
        with torch.no_grad():
            return [o.float() for o in self.network(x)]

    def targets(self, x):
        """Function: the exit at which a subnet leaves -> the logits (B, K) that it learns from."""
        return TARGETS[self.kd](self.positions, self.logits(x), self.weights)

    @classmethod
    def of(cls, net, positions, weights, kd, device):
        """The largest subnet of a supernet as teacher, with its exits at `positions`."""
        from nat_lib.supernet import with_width

        network = net.extract(with_width(net.space.largest, net.width), exits=positions)
        return cls(network.to(device), positions, weights, kd)


# ---------------------------------------------------------------------------------------- the step


def distilled(
    net,
    subnets,
    teacher=None,
    *,
    loss="soft_ce",
    weights=None,
    kd="ensemble",
    mix=(1.0, 1.0),
    all_exits=False,
    smoothing=0.0,
    part=None,
    largest_only=False,
):
    """The losses of one step of a supernet (see `train.fit`): thesis Alg. 5.1, or in place.

    net     : net(x, arch, exits=positions) -> list of logits
    subnets : (images, labels, step) -> the archs that the step trains
    teacher : its targets are asked for once per step.  None: in place, the first subnet learns from
              the labels alone, with all its exits (`weights`), and its logits teach the others
    loss, kd : keys of DISTILL and TARGETS
    mix     : weights of the labels and of the teacher in a student's loss
    all_exits : students train all exits up to their own in one pass, by the mean of their losses;
                otherwise those that answer
    part    : arch -> the module whose gradients its pass filled, where that is not all of the net
    largest_only : students drop nothing
    """
    from torch.nn import functional as F

    from nat_lib.exits import ensemble, joint_loss
    from nat_lib.modules import quiet

    compare, (hard, soft) = DISTILL[loss], mix

    def student(logits, y, wanted):
        apart = soft * compare(logits, wanted) if soft else 0.0
        if not hard:
            return apart
        return hard * F.cross_entropy(logits, y, label_smoothing=smoothing) + apart

    def losses(x, y, step):
        target = teacher.targets(x) if teacher else None
        for arch in subnets(x, y, step):
            several = all_exits or target is None
            positions = exits_until(net.space, arch) if several else arch.answering
            ledger.passed_subnet(net, arch, positions, x, ledger.TRAINING)
            with quiet(net) if largest_only and target else nullcontext():
                logits = [o.float() for o in net(x, arch, exits=positions)]
            trained = part(arch) if part else net
            if target is None:
                own = shares(weights, positions)
                yield joint_loss(logits, y, own, smoothing), ensemble(logits, own), trained
                target = TARGETS[kd](positions, [o.detach() for o in logits], own)
            else:
                each = [
                    student(o, y, target(position))
                    for position, o in zip(positions, logits, strict=True)
                ]
                yield sum(each) / len(each), logits[-1], trained

    return losses


def exits_until(space, arch):
    """Positions of the exits that the backbone of a subnet passes, its own included."""
    return tuple(position for position in space.exits if position <= arch.exit)
