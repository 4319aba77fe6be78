"""What the exits of a network say together, how sure they are, and when it may stop asking.

Tensors in, tensors out; a row of `AGGREGATORS` or `POLICIES` serves the search of the threshold,
the loop in torch and the ONNX graph alike.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from nat_lib.errors import Refusal

SLACK = 0.5  # points of validation top-1 that stopping early may cost

# ------------------------------------------------------------------- what the exits say together


class Aggregator(NamedTuple):
    """One way to make one answer of the exits so far; another way is another row of `AGGREGATORS`.

    answers : (logits (E, N, K), weights (E,)) -> (E, N, K), the answer after each exit, whose
              softmax are probabilities. Row e depends on the exits up to e only.
    """

    label: str
    answers: Callable


def running_votes(
    logits: Float[torch.Tensor, "e n k"], votes: Sequence[float] | torch.Tensor
) -> Float[torch.Tensor, "e n k"]:
    """The weighted vote after each exit: sum_{j<=i} w_j z_j / sum_{j<=i} w_j.  Thesis eq. 4.3."""
    w = torch.as_tensor(votes, dtype=torch.float32)[:, None, None]
    return (w * logits).cumsum(0) / w.cumsum(0)


def last_exit(logits, votes):
    """Each exit answers alone."""
    return logits


def product_of_probabilities(logits, votes):
    """Logarithm of prod_{j<=i} p_j ^ w_j, not normalised: like the vote at the last exit, flatter,
    and so less sure, before it.  Source: geometric ensemble of Zero Time Waste, arXiv:2106.05409.
    """
    w = torch.as_tensor(votes, dtype=torch.float32)[:, None, None]
    return (w * logits.log_softmax(2)).cumsum(0)


def mean_of_probabilities(logits, votes):
    """Logarithm of the weighted mean of the exits' probabilities."""
    w = torch.as_tensor(votes, dtype=torch.float32)[:, None, None]
    return ((w * logits.softmax(2)).cumsum(0) / w.cumsum(0)).clamp(min=SMALLEST).log()


def majority(logits, votes):
    """Logarithm of the shares of the classes among the exits' choices; every exit has one voice.

    A tie goes to the class of the deepest exit in it: deeper voices count a trace more, each a
    larger one than all shallower ones together (up to 16 exits).
    """
    n_exits, _, n_classes = logits.shape
    chosen = logits.argmax(2, keepdim=True) == torch.arange(n_classes)  # (E, N, K)
    voices = 1 + 2.0 ** (torch.arange(n_exits) - 17)
    counts = (voices[:, None, None] * chosen).cumsum(0)
    return (counts / counts.sum(2, keepdim=True)).clamp(min=SMALLEST).log()


SMALLEST = 1e-9  # probability whose logarithm is still a number
AGGREGATORS = {
    "vote": Aggregator("weighted vote", running_votes),
    "last": Aggregator("last exit", last_exit),
    "geometric": Aggregator("product of probabilities", product_of_probabilities),
    "mean": Aggregator("mean of probabilities", mean_of_probabilities),
    "majority": Aggregator("majority", majority),
}


# ----------------------------------------------------------------------------- when to stop asking


class Policy(NamedTuple):
    """One way to say how sure the exits so far are; another way is another row of `POLICIES`.

    sure : answers (E, N, K) of an aggregator -> (E, N), 0 to 1. Row e depends on the answers up to
           e only. Written with torch alone, so that it can become part of an ONNX graph.
    """

    label: str
    sure: Callable


def confidence(answers):
    """The largest probability."""
    return answers.softmax(2).amax(2)


def margin(answers):
    """The largest probability minus the second."""
    first, second = answers.softmax(2).topk(2, dim=2).values.unbind(2)
    return first - second


def entropy(answers):
    """1 minus the entropy of the probabilities as a share of the largest possible.
    Source: BranchyNet, arXiv:1709.01686.
    """
    logs = answers.log_softmax(2)
    return (1 + (logs.exp() * logs).sum(2) / math.log(answers.shape[2])).clamp(min=0)


def agreement(answers):
    """Share of the exits before that chose the class of this one; 0 at the first."""
    chosen = answers.argmax(2)
    sure = [torch.zeros_like(chosen[0], dtype=answers.dtype)]
    for e in range(1, len(chosen)):
        sure.append((chosen[:e] == chosen[e]).to(answers.dtype).mean(0))
    return torch.stack(sure)


def patience(answers):
    """s / (s + 1) after s exits in a row that did not change the class: 1/2 is a patience of one.
    Source: PABEE, arXiv:2006.04152.
    """
    chosen = answers.argmax(2)
    unchanged = [torch.zeros_like(chosen[0], dtype=answers.dtype)]
    for e in range(1, len(chosen)):
        same = (chosen[e] == chosen[e - 1]).to(answers.dtype)
        unchanged.append(same * (unchanged[-1] + 1))
    streak = torch.stack(unchanged)
    return streak / (streak + 1)


POLICIES = {
    "confidence": Policy("largest probability", confidence),
    "margin": Policy("largest probability minus the second", margin),
    "entropy": Policy("entropy of the probabilities", entropy),
    "agreement": Policy("agreement with the exits before", agreement),
    "patience": Policy("exits in a row with one answer", patience),
}


class Early(NamedTuple):
    """When a network with several exits stops, chosen on the validation split.

    threshold : an image leaves at the first exit that is at least so sure; above 1 none leaves
                before the last exit
    val_top1, full_val_top1 : percent right of the images as they leave, and of the answer of all
                              exits
    shares    : of the images, that leave at each exit;  macs : of leaving there;  mean_macs : over
                the images
    policy, aggregator : keys of `POLICIES` and `AGGREGATORS`
    """

    threshold: float
    val_top1: float
    full_val_top1: float
    shares: list
    macs: list
    mean_macs: float
    policy: str = "confidence"
    aggregator: str = "vote"


def confidences(
    logits: Float[torch.Tensor, "e n k"],
    votes: Sequence[float] | torch.Tensor,
    policy: str = "confidence",
    aggregator: str = "vote",
) -> tuple[Float[torch.Tensor, "e n"], Int[torch.Tensor, "e n"]]:
    """How sure the answer after each exit is, and its class."""
    _known("policy", policy, POLICIES)
    _known("aggregator", aggregator, AGGREGATORS)
    answers = AGGREGATORS[aggregator].answers(logits, votes)
    return POLICIES[policy].sure(answers), answers.argmax(2)


def _known(what, name, rows):
    if name not in rows:
        raise Refusal(f"unknown {what} {name!r}: choose one of {', '.join(rows)}")


def leaves_at(confidence: Float[torch.Tensor, "e n"], threshold: float) -> Int[torch.Tensor, " n"]:
    """Index of the exit where each image leaves; the last answers in any case."""
    sure = confidence >= threshold
    sure[-1] = True
    return sure.byte().argmax(0)


def choose_threshold(
    logits: Float[torch.Tensor, "e n k"],
    labels: Int[torch.Tensor, " n"],
    votes: Sequence[float],
    macs: Sequence[int],
    slack: float = SLACK,
    policy: str = "confidence",
    aggregator: str = "vote",
) -> Early:
    """The threshold of fewest mean MACs whose top-1 is at most `slack` points below that of all
    exits.

    logits : of the exits on the validation split;  macs : of leaving at each exit

    An image arrives at exit e while the surest answer before was below the threshold, and goes on
    behind it while the surest answer so far is. So between two neighbouring values of how sure an
    image was no threshold differs from another, and counts of sorted values say of every threshold
    that differs how many images leave at each exit, and how many of those are right.
    """
    sure, chosen = confidences(logits, votes, policy, aggregator)
    right = (chosen == labels).numpy()  # (E, N)
    surest = sure.cummax(0).values.numpy()[:-1]  # (E-1, N)
    n = right.shape[1]
    # Every threshold in (the end before, this end] does the same; there are T of them.
    ends = np.unique(np.append(surest, np.float32(2)))
    arrives = np.vstack([np.full(n, -np.inf), surest])
    goes_on = np.vstack([surest, np.full(n, np.inf)])
    leave = np.array(
        [_below(a, ends) - _below(g, ends) for a, g in zip(arrives, goes_on, strict=True)]
    )
    hits = sum(
        _below(a[r], ends) - _below(g[r], ends)
        for a, g, r in zip(arrives, goes_on, right, strict=True)
    )
    shares = leave / n  # (E, T)
    mean_macs = np.array(macs, float) @ shares
    of_all_exits = right[-1].sum()
    allowed = np.flatnonzero(hits >= of_all_exits - slack / 100 * n - 1e-9)
    # Of equally cheap ones the most accurate, of those the highest threshold.
    best = allowed[np.lexsort((-allowed, -hits[allowed], mean_macs[allowed]))[0]]
    return Early(
        _inside(ends[best - 1] if best else np.float32(0), ends[best]),
        100.0 * float(hits[best]) / n,
        100.0 * float(of_all_exits) / n,
        shares[:, best].tolist(),
        list(map(int, macs)),
        float(mean_macs[best]),
        policy,
        aggregator,
    )


def _below(values, ends):
    """How many of the values are below each end."""
    return np.searchsorted(np.sort(values), ends)


def _inside(low, high):
    """The middle of the interval (low, high], which rounding must not carry out of it."""
    middle = (low + high) / np.float32(2)
    return float(middle if low < middle <= high else high)


@torch.no_grad()
def answer_early(subnet, x: Float[torch.Tensor, "1 c r r"], threshold: float | None = None):
    """((1, K) probabilities, position of the exit that gave them) of one image.

    subnet    : from `export.load_subnet`, with several exits: stages behind the answering exit are
                not computed
    threshold : None: the one of the export
    """
    early = subnet.card["early"]
    if early is None or len(x) != 1:
        raise Refusal(
            f"{len(subnet.positions)} exits and {len(x)} images: stopping early takes several "
            "exits and one image"
        )
    threshold = early["threshold"] if threshold is None else threshold
    so_far = []
    for position, logits in subnet.exit_logits(x):
        so_far.append(logits)
        answer, sure = last_answer(torch.stack(so_far), subnet.votes, early)
        if sure >= threshold or position == subnet.positions[-1]:
            return answer.softmax(1), position


def last_answer(
    logits: Float[torch.Tensor, "e n k"], votes: Sequence[float] | torch.Tensor, early: dict
) -> tuple[Float[torch.Tensor, "n k"], Float[torch.Tensor, " n"]]:
    """The answer of the exits so far, and how sure it is.

    votes : of all exits;  early : with the keys "policy" and "aggregator"
    """
    answers = AGGREGATORS[early["aggregator"]].answers(logits, votes[: len(logits)])
    return answers[-1], POLICIES[early["policy"]].sure(answers)[-1]
