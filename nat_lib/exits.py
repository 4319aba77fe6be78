"""Exit weights, the joint loss of a multi-exit network, and the ensemble of its exits.

Tensors in, tensors out.  Source: AEP, arXiv:2301.12168; thesis chapter 4, equations 4.1 to 4.3.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from nat_lib.errors import Refusal
from nat_lib.export.layers import SLACK

# ----------------------------------------------------------------------------------- stopping early


class Early(NamedTuple):
    """When a network with several exits stops, chosen on the validation split.

    threshold : the running vote leaves at the first exit where its largest softmax probability is
                at least this; above 1 no image leaves before the last exit
    val_top1, full_val_top1 : percent right of the images as they leave, and of the vote of all
                              exits
    shares    : of the images, that leave at each exit;  macs : of leaving there;  mean_macs : over
                the images
    """

    threshold: float
    val_top1: float
    full_val_top1: float
    shares: list
    macs: list
    mean_macs: float


def running_votes(logits, votes):
    """The answer after each exit: (E, N, K) logits of the exits -> (E, N, K), sum_{j<=i} w_j z_j /
    sum_{j<=i} w_j."""
    w = torch.tensor(votes, dtype=torch.float32)
    return (w[:, None, None] * logits).cumsum(0) / w.cumsum(0)[:, None, None]


def confidences(logits, votes):
    """(E, N) largest softmax probability of the running vote, and (E, N) the class that has it."""
    return tuple(running_votes(logits, votes).softmax(2).max(2))


def leaves_at(confidence, threshold):
    """(N,) index of the exit where each image leaves, of (E, N) confidences; the last answers in
    any case."""
    sure = confidence >= threshold
    sure[-1] = True
    return sure.byte().argmax(0)


def choose_threshold(logits, labels, votes, macs, slack=SLACK):
    """The threshold of fewest mean MACs whose top-1 is at most `slack` points below that of all
    exits: `Early`.

    logits : (E, N, K) of the exits on the validation split;  labels : (N,);  macs : (E,) of leaving
             at each exit

    Between two neighbouring confidences no threshold differs from another, so all that differ are
    counted; the one in the middle is taken.  An image is still inside behind exit e as long as its
    largest confidence so far is below the
    threshold: counts of sorted numbers say how many are, and how many of those that leave are
               right.
    """
    confidence, chosen = confidences(logits, votes)
    right, highest = (chosen == labels).numpy(), confidence.cummax(0).values.numpy()
    n_exits, n = right.shape
    ends = np.unique(
        np.append(highest[:-1], np.float32(2))
    )  # every threshold in (previous, this] does the same
    inside, hits = np.full(len(ends), n), 0
    before, shares = np.full(n, -np.inf), []
    for e in range(n_exits):
        after = highest[e] if e < n_exits - 1 else np.full(n, np.inf)
        still, (came, stay) = (
            _below(after, ends),
            (_below(v[right[e]], ends) for v in (before, after)),
        )
        hits = hits + came - stay
        shares.append((inside - still) / n)
        inside, before = still, after
    mean_macs = np.array(macs, float) @ np.array(shares)
    full = right[-1].sum()
    allowed = np.flatnonzero(hits >= full - slack / 100 * n - 1e-9)
    best = allowed[np.lexsort((-allowed, -hits[allowed], mean_macs[allowed]))[0]]
    low, high = ends[best - 1] if best else np.float32(0), ends[best]
    middle = (low + high) / np.float32(2)  # rounding must not carry it out of the interval
    threshold = float(middle if low < middle <= high else high)
    return Early(
        threshold,
        100.0 * float(hits[best]) / n,
        100.0 * float(full) / n,
        [float(s[best]) for s in shares],
        list(map(int, macs)),
        float(mean_macs[best]),
    )


def _below(values, ends):
    """How many of the values are below each end."""
    return np.searchsorted(np.sort(values), ends)


@torch.no_grad()
def answer_early(subnet, x, threshold=None):
    """((1, K) probabilities, position of the exit that gave them) of one image (1, C, R, R).

    subnet    : from `load_subnet`, with several exits: stages behind the answering exit are not
                computed
    threshold : None: the one of the export
    """
    exits = {e["row"]: e for e in subnet.card["exits"]}
    if len(exits) < 2 or len(x) != 1:
        raise Refusal(
            f"{len(exits)} exits and {len(x)} images: stopping early takes several exits and one image"
        )
    threshold = subnet.card["early"]["threshold"] if threshold is None else threshold
    vote, weight = 0, 0.0
    for name, value in subnet.values(x):
        if name in exits:
            vote, weight = vote + exits[name]["weight"] * value, weight + exits[name]["weight"]
            probabilities = (vote / weight).softmax(1)
            if probabilities.max() >= threshold or name == [*exits][-1]:
                return probabilities, exits[name]["position"]


def macs_until(card):
    """MACs of leaving at each exit: all rows up to it."""
    rows = [row["name"] for row in card["layers"]]
    total = np.cumsum([row["macs"] for row in card["layers"]])
    return [int(total[rows.index(e["row"])]) for e in card["exits"]]


# ------------------------------------------------------------------------------------------ weights

# OFAv2 and NATv2 write them out for five exits; the formula gives i/15
DESC5 = (0.34, 0.27, 0.20, 0.13, 0.06)


def rising(n: int) -> tuple[float, ...]:
    """n weights of sum 1 that grow linearly."""
    total = n * (n + 1) // 2
    return tuple(i / total for i in range(1, n + 1))


def falling(n: int) -> tuple[float, ...]:
    return rising(n)[::-1]


def flat(n: int) -> tuple[float, ...]:
    return (1 / n,) * n


# mode: laws of the loss weights and of the vote weights, number of exits -> weights of sum 1
MODES = {
    "DESC": (falling, falling),
    "ASC": (rising, rising),
    "MIX": (falling, rising),
    "UNIF": (flat, flat),
}


def exit_weights(mode, n_exits):
    """Loss and vote weights of the exits, shallow to deep; each sums to 1.

    mode    : a key of MODES
    returns : (loss, vote), two tuples of n_exits numbers
    Source  : thesis Table 4.2; AEP, arXiv:2301.12168.  MIX trains like DESC and votes like ASC.
    """
    if mode not in MODES or n_exits < 1:
        raise Refusal(
            f"exit weights {mode!r} for {n_exits} exits: use one of {', '.join(MODES)} and at "
            "least one exit"
        )
    loss, vote = MODES[mode]
    return loss(n_exits), vote(n_exits)


def supernet_weights(mode, n_exits):
    """Exit weights of OFAv2 and NATv2, for loss, ensemble output and ENS-KD alike: DESC5 or its
    reverse for five exits.

    mode    : "DESC" (thesis 5.1.4) | "ASC" (the order in the published training code)
    returns : tuple of n_exits numbers, shallow to deep; other numbers of exits follow
              `exit_weights`
    """
    if mode not in ("DESC", "ASC"):
        raise Refusal(f"exit_weights {mode!r}: use DESC or ASC")
    if n_exits != len(DESC5):
        return exit_weights(mode, n_exits)[0]
    return DESC5 if mode == "DESC" else DESC5[::-1]


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


def joint(forward, weights, votes=None, label_smoothing=0.0):
    """The losses of a step (see `train.fit`) that trains all exits together: thesis Alg. 4.1.

    forward : images -> list of the logits of all exits
    weights : of the exits in the loss;  votes : in the ensemble, None: the same
    """
    votes = weights if votes is None else votes

    def losses(x, y, step):
        logits = forward(x)
        yield joint_loss(logits, y, weights, label_smoothing), ensemble(logits, votes)

    return losses
