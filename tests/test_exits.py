"""Exit weights, the joint loss and ensembles against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from nat_lib.errors import Refusal
from nat_lib.exits import (
    DESC5,
    MODES,
    ensemble,
    exit_weights,
    joint_loss,
    supernet_weights,
)

LOGITS = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])


@pytest.mark.parametrize("mode", ["DESC", "ASC", "MIX", "UNIF"])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 7])
def test_exit_weights_are_positive_monotone_and_sum_to_one(mode, n):
    loss, vote = exit_weights(mode, n)
    for w in (loss, vote):
        assert min(w) > 0 and abs(sum(w) - 1) < 1e-9
    falling, rising = list(loss) == sorted(loss, reverse=True), list(vote) == sorted(vote)
    assert {"DESC": falling, "ASC": rising, "MIX": falling and rising, "UNIF": len(set(loss)) == 1}[
        mode
    ]
    assert n > 1 or (loss, vote) == ((1.0,), (1.0,))


def test_the_supernets_use_the_written_out_constants():
    assert supernet_weights("DESC", 5) == DESC5 and abs(sum(DESC5) - 1) < 1e-12
    assert supernet_weights("ASC", 5) == DESC5[::-1]
    assert supernet_weights("DESC", 1) == (1.0,)
    with pytest.raises(Refusal, match="DESC or ASC"):
        supernet_weights("MIX", 5)
    with pytest.raises(Refusal, match="DESC, ASC, MIX, UNIF"):
        exit_weights("desc", 5)


def test_joint_loss_is_the_weighted_sum_of_smoothed_cross_entropies():
    wanted = 0
    for w, o in zip(DESC5, LOGITS, strict=True):
        target = (
            0.9 * F.one_hot(LABELS, 4) + 0.1 / 4
        )  # every class, the true one too, receives 0.1 / 4
        wanted += w * -(target * F.log_softmax(o, 1)).sum(1).mean()
    torch.testing.assert_close(joint_loss(LOGITS, LABELS, DESC5, 0.1), wanted)


def test_ensemble_sums_raw_logits():
    torch.testing.assert_close(
        ensemble(LOGITS, DESC5), sum(w * o for w, o in zip(DESC5, LOGITS, strict=True))
    )
    torch.testing.assert_close(ensemble(LOGITS, (0.2,) * 5), torch.stack(LOGITS).mean(0))


def test_the_ensemble_is_exact_under_autocast():
    exact = ensemble(LOGITS, DESC5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ensemble(LOGITS, DESC5), exact)
        assert ensemble([o.bfloat16() for o in LOGITS], DESC5).dtype == torch.float32


def test_many_votes_at_once_are_one_after_the_other():
    rows = [exit_weights(mode, 5)[1] for mode in MODES]
    both = ensemble(torch.stack(LOGITS), rows)
    torch.testing.assert_close(both, torch.stack([ensemble(LOGITS, w) for w in rows]))


def test_class_weights_are_an_argument_of_the_joint_loss():
    rare = torch.tensor([1.0, 2.0, 0.5, 3.0])
    wanted = sum(w * F.cross_entropy(o, LABELS, rare) for w, o in zip(DESC5, LOGITS, strict=True))
    torch.testing.assert_close(joint_loss(LOGITS, LABELS, DESC5, class_weights=rare), wanted)


def test_a_mode_of_weights_is_a_row(monkeypatch):
    monkeypatch.setitem(MODES, "LAST", (lambda n: (0.0,) * (n - 1) + (1.0,),) * 2)
    assert exit_weights("LAST", 3) == ((0.0, 0.0, 1.0),) * 2
    with pytest.raises(Refusal, match="UNIF, LAST"):
        exit_weights("FIRST", 3)
