"""Exit weights, the joint loss of a multi-exit network, and the ensemble of its exits.

Tensors in, tensors out.  Source: AEP, arXiv:2301.12168; thesis chapter 4, equations 4.1 to 4.3.
"""

import torch
import torch.nn.functional as F

from nat_lib.runs import Refusal

DESC5 = (0.34, 0.27, 0.20, 0.13, 0.06)  # OFAv2 and NATv2 write them out for five exits; the formula gives i/15
MODES = ("DESC", "ASC", "MIX", "UNIF")


def exit_weights(mode, n_exits):
    """Loss and vote weights of the exits, shallow to deep; each sums to 1.

    mode    : "DESC" | "ASC" | "MIX" | "UNIF"
    returns : (loss, vote), two tuples of n_exits numbers
    Source  : thesis Table 4.2; AEP, arXiv:2301.12168.  MIX trains like DESC and votes like ASC.
    """
    if mode not in MODES or n_exits < 1:
        raise Refusal(f"exit weights {mode!r} for {n_exits} exits: use one of {', '.join(MODES)} and at least one exit")
    total = n_exits * (n_exits + 1) // 2
    up = tuple(i / total for i in range(1, n_exits + 1))
    laws = {"DESC": up[::-1], "ASC": up, "UNIF": (1 / n_exits,) * n_exits}
    return laws.get(mode, laws["DESC"]), laws.get(mode, laws["ASC"])


def supernet_weights(mode, n_exits):
    """Exit weights of OFAv2 and NATv2, for loss, ensemble output and ENS-KD alike: DESC5 or its reverse for five exits.

    mode    : "DESC" (thesis 5.1.4) | "ASC" (the order in the published training code)
    returns : tuple of n_exits numbers, shallow to deep; other numbers of exits follow `exit_weights`
    """
    if mode not in ("DESC", "ASC"):
        raise Refusal(f"exit_weights {mode!r}: use DESC or ASC")
    if n_exits != len(DESC5):
        return exit_weights(mode, n_exits)[0]
    return DESC5 if mode == "DESC" else DESC5[::-1]


def ensemble(logits, weights):
    """Weighted sum of the exits' raw logits: list of (B, C) -> (B, C).  Thesis eq. 4.3; raw logits, not softmax."""
    return torch.einsum("ebc,e->bc", torch.stack(tuple(logits)).float(), torch.tensor(weights, device=logits[0].device))


def joint_loss(logits, labels, weights, label_smoothing=0.0):
    """sum_i weights[i] * CE(logits[i], labels); one softmax over all exits.  Thesis eq. 4.1 and 4.2.

    logits : list of E tensors (B, C);  labels : (B,) int64;  weights : E numbers
    """
    stacked = torch.stack(tuple(logits)).float()  # (E, B, C)
    losses = F.cross_entropy(stacked.flatten(0, 1), labels.repeat(len(stacked)), reduction="none",
                             label_smoothing=label_smoothing).view(len(stacked), -1).mean(1)
    return (losses * torch.tensor(weights, device=losses.device)).sum()


def soft_cross_entropy(logits, soft):
    """Distillation loss: batch mean of -sum_c soft_c log softmax(logits)_c, temperature 1.

    Source: Once-for-All, arXiv:1908.09791.

    logits, soft : (B, C); soft holds the teacher's probabilities and takes no gradient
    """
    return F.cross_entropy(logits.float(), soft.detach())
