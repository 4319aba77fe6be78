"""Stopping early: every policy and every aggregator, and the threshold by trying all."""

import math

import numpy as np
import pytest
import torch

from nat_lib.early import (
    AGGREGATORS,
    POLICIES,
    choose_threshold,
    confidences,
    leaves_at,
    running_votes,
)
from nat_lib.errors import Refusal

PAIRS = [(p, "vote") for p in POLICIES] + [("confidence", a) for a in AGGREGATORS if a != "vote"]


def exits_that_know_more(seed, n_exits, n=30, n_classes=4):
    """(logits (E, N, K), labels (N,), votes (E,)); deeper exits are more often right."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(n_classes, size=n))
    logits = torch.from_numpy(rng.normal(size=(n_exits, n, n_classes))).float()
    for e in range(n_exits):
        logits[e, torch.arange(n), labels] += e + 0.5
    return logits, labels, tuple(rng.random(n_exits) + 0.1)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_answer_depends_on_the_exits_so_far(name):
    logits, _, votes = exits_that_know_more(0, 5)
    answers = AGGREGATORS[name].answers(logits, votes)
    assert answers.shape == logits.shape and AGGREGATORS[name].label
    probabilities = answers.softmax(2)
    assert torch.allclose(probabilities.sum(2), torch.ones(5, 30))
    for e in range(1, 6):
        torch.testing.assert_close(AGGREGATORS[name].answers(logits[:e], votes[:e]), answers[:e])
    first = logits[0].argmax(1)
    assert (answers[0].argmax(1) == first).all()  # one exit says what it says


@pytest.mark.parametrize("name", POLICIES)
def test_how_sure_depends_on_the_answers_so_far(name):
    logits, _, votes = exits_that_know_more(1, 5)
    answers = running_votes(logits, votes)
    sure = POLICIES[name].sure(answers)
    assert sure.shape == (5, 30) and POLICIES[name].label
    assert (sure >= 0).all() and (sure <= 1).all()
    for e in range(1, 6):
        torch.testing.assert_close(POLICIES[name].sure(answers[:e]), sure[:e])
    # A class and a different order of the classes are nothing special.
    torch.testing.assert_close(POLICIES[name].sure(answers[:, :, [2, 0, 3, 1]]), sure)


def test_policies_by_hand():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    answers = p.log()[:, None]

    def sure(name):
        return POLICIES[name].sure(answers)[:, 0].tolist()

    assert sure("confidence") == pytest.approx([0.5, 0.6, 0.8, 0.9])
    assert sure("margin") == pytest.approx([0.2, 0.4, 0.7, 0.85])
    share = -sum(v * math.log(v) for v in (0.5, 0.3, 0.2)) / math.log(3)
    assert sure("entropy")[0] == pytest.approx(1 - share, abs=1e-6)
    assert sure("agreement") == pytest.approx([0, 0, 1 / 2, 1 / 3])
    assert sure("patience") == pytest.approx([0, 0, 1 / 2, 0])


def test_aggregators_by_hand():
    z = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.5], [0.0, 3.0, -1.0]])[:, None]
    w = torch.tensor([0.2, 0.3, 0.5])
    p = z[:, 0].softmax(1)

    def probabilities(name):
        return AGGREGATORS[name].answers(z, tuple(w.tolist()))[:, 0].softmax(1)

    vote = (w @ z[:, 0]).softmax(0)
    torch.testing.assert_close(probabilities("vote")[2], vote)
    torch.testing.assert_close(probabilities("last"), p)
    torch.testing.assert_close(probabilities("mean")[2], w @ p)
    torch.testing.assert_close(probabilities("mean")[1], (w[:2] @ p[:2]) / w[:2].sum())
    product = (w[:2] @ p[:2].log()).softmax(0)
    torch.testing.assert_close(probabilities("geometric")[1], product)
    torch.testing.assert_close(probabilities("geometric")[2], vote)  # weights sum to 1: the same
    torch.testing.assert_close(
        probabilities("majority")[2], torch.tensor([1 / 3, 2 / 3, 0]), atol=1e-3, rtol=0
    )
    assert probabilities("majority")[1].argmax() == 1  # one voice each: the deeper exit wins


def test_a_tie_of_many_voices_goes_to_the_deepest_of_them():
    chosen = [0, 1, 1, 0, 2]
    z = torch.nn.functional.one_hot(torch.tensor(chosen), 3).float()[:, None]
    answers = AGGREGATORS["majority"].answers(z, (0.2,) * 5)
    assert answers[:, 0].argmax(1).tolist() == [0, 1, 1, 0, 0]


def one_by_one(answers, sure, labels, macs, threshold):
    """(percent right, exits taken, mean MACs) of the rule, written out image by image."""
    n_exits, n = sure.shape
    right, taken = 0, []
    for i in range(n):
        e = 0
        while e < n_exits - 1 and sure[e, i] < threshold:
            e += 1
        right += int(answers[e, i].argmax() == labels[i])
        taken.append(e)
    return 100 * right / n, taken, np.mean([macs[e] for e in taken])


@pytest.mark.parametrize(("policy", "aggregator"), PAIRS)
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_cheapest_that_costs_little_by_trying_all(seed, policy, aggregator):
    n_exits, slack = seed + 2, (0.5, 2.0, 5.0, 0.0)[seed]
    logits, labels, votes = exits_that_know_more(seed, n_exits)
    macs = np.cumsum(np.random.default_rng(seed).integers(10, 99, n_exits))
    chosen = choose_threshold(logits, labels, votes, macs, slack, policy, aggregator)
    answers = AGGREGATORS[aggregator].answers(logits, votes)
    sure, _ = confidences(logits, votes, policy, aggregator)
    # Between neighbouring values nothing changes: trying each of them, and one above all, is
    # trying all.
    every = [one_by_one(answers, sure, labels, macs, t) for t in [*sure.flatten().tolist(), 2.0]]
    full = one_by_one(answers, sure, labels, macs, 2.0)[0]
    cheapest = min(mean for top1, _, mean in every if top1 >= full - slack - 1e-9)
    top1, taken, mean = one_by_one(answers, sure, labels, macs, chosen.threshold)
    assert mean == pytest.approx(cheapest) == pytest.approx(chosen.mean_macs)
    assert (chosen.val_top1, chosen.full_val_top1) == pytest.approx((top1, full))
    assert top1 >= full - slack - 1e-9
    assert chosen.shares == pytest.approx((np.bincount(taken, minlength=n_exits) / 30).tolist())
    assert chosen.macs == macs.tolist()
    assert (chosen.policy, chosen.aggregator) == (policy, aggregator)
    assert leaves_at(sure, chosen.threshold).tolist() == taken


def test_the_example_has_something_to_gain():
    logits, labels, votes = exits_that_know_more(1, 3)
    chosen = choose_threshold(logits, labels, votes, (1, 2, 4), 2.0)
    assert sum(share > 0 for share in chosen.shares) > 1 and chosen.mean_macs < 4


def test_confident_errors_keep_every_image_inside():
    labels = torch.zeros(20, dtype=torch.long)
    logits = torch.zeros(2, 20, 3)
    # Sure and wrong, then right: confidence 1 in float32.
    logits[0, :, 1], logits[1, :, 0] = 50.0, 200.0
    chosen = choose_threshold(logits, labels, (0.5, 0.5), (1, 10))
    assert chosen.threshold > 1 and chosen.shares == [0, 1]
    assert chosen.mean_macs == 10 and chosen.val_top1 == 100


def test_unknown_rows_are_refused():
    logits, labels, votes = exits_that_know_more(0, 2)
    with pytest.raises(Refusal, match="unknown policy 'luck': choose one of confidence"):
        choose_threshold(logits, labels, votes, (1, 2), policy="luck")
    with pytest.raises(Refusal, match="unknown aggregator 'sum': choose one of vote"):
        choose_threshold(logits, labels, votes, (1, 2), aggregator="sum")
