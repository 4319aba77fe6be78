"""Exit weights, the joint loss of a multi-exit network, and the ensemble of its exits.

Tensors in, tensors out.  Source: AEP, arXiv:2301.12168; thesis chapter 4, equations 4.1 to 4.3.
When a network may stop early is told by `POLICIES` and `AGGREGATORS` of `nat_lib.early`.
"""

import torch
import torch.nn.functional as F

from nat_lib import ledger
from nat_lib.early import AGGREGATORS as AGGREGATORS
from nat_lib.early import POLICIES as POLICIES

# --------------------------------------------------------------------------------- votes and losses


def stacked(logits):
    """What a network returns, one tensor or a list of E tensors (B, K), as (E, B, K) float32."""
    return torch.stack(tuple(logits) if isinstance(logits, list | tuple) else (logits,)).float()


def ensemble(logits, weights):
    """Weighted sums of the exits' raw logits, float32 also under autocast.  Thesis eq. 4.3; raw
    logits, not softmax.

    logits  : list of E tensors (B, K), or one (E, B, K)
    weights : E numbers -> (B, K); or S rows of E numbers -> (S, B, K)
    """
    z = logits if isinstance(logits, torch.Tensor) else stacked(logits)
    with torch.autocast(z.device.type, enabled=False):
        w = torch.as_tensor(weights, dtype=torch.float32, device=z.device)
        return torch.einsum("...e,enk->...nk", w, z.float())


def exit_losses(logits, labels, class_weights=None, label_smoothing=0.0):
    """Cross-entropy of every exit: logits (E, B, K), labels (B,) -> (E,).  Thesis eq. 4.1.

    class_weights : (K,); the mean over the batch is then the weighted mean
    """
    each = F.cross_entropy(
        logits.flatten(0, 1),
        labels.repeat(len(logits)),
        class_weights,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    total = len(labels) if class_weights is None else class_weights[labels].sum()
    return each.view(len(logits), -1).sum(1) / total


def joint_loss(logits, labels, weights, label_smoothing=0.0, class_weights=None):
    """sum_i weights[i] * CE(logits[i], labels); one softmax over all exits.  Thesis eq. 4.1 and
    4.2.

    logits : list of E tensors (B, K);  labels : (B,) int64;  weights : E numbers
    """
    losses = exit_losses(stacked(logits), labels, class_weights, label_smoothing)
    return (losses * torch.tensor(weights, device=losses.device)).sum()


def joint(forward, weights, votes=None, label_smoothing=0.0, network=None):
    """The losses of a step (see `train.fit`) that trains all exits together: thesis Alg. 4.1.

    forward : images -> list of the logits of all exits
    weights : of the exits in the loss;  votes : in the ensemble, None: the same
    network : whose passes these are, for the ledger; None: `forward` itself
    """
    votes = weights if votes is None else votes
    network = forward if network is None else network

    def losses(x, y, step):
        ledger.passed(network, x, ledger.TRAINING)
        logits = forward(x)
        yield joint_loss(logits, y, weights, label_smoothing), ensemble(logits, votes)

    return losses
