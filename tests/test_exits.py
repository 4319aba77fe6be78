"""Exit weights, the joint loss and ensembles against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from nat_lib.errors import Refusal
from nat_lib.exit_weights import (
    DESC5,
    MODES,
    WEIGHT_LAWS,
    exit_weights,
    falling,
    supernet_weights,
)
from nat_lib.exits import ensemble, joint_loss
from nat_lib.studies.exit_training import Watched

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


# -------------------------------------------------------------------- weights that change meanwhile


@pytest.mark.parametrize("law", WEIGHT_LAWS.values(), ids=WEIGHT_LAWS)
@pytest.mark.parametrize("n", [1, 4, 7])
def test_loss_weights_keep_their_sum_whatever_their_law(law, n):
    for done, losses in ((0.0, None), (0.3, [1.0 + i for i in range(n)]), (1.0, [0.5] * n)):
        weights = law(falling(n), done, losses)
        assert sum(weights) == pytest.approx(1) and min(weights) > 0


def test_reversing_ends_at_the_reverse_and_lagging_follows_the_loss():
    start = falling(4)
    assert WEIGHT_LAWS["reversing"](start, 0.0, None) == pytest.approx(start)
    assert WEIGHT_LAWS["reversing"](start, 0.5, None) == pytest.approx([0.25] * 4)
    assert WEIGHT_LAWS["reversing"](start, 1.0, None) == pytest.approx(start[::-1])
    found = WEIGHT_LAWS["lagging"]((0.5, 0.5), 0.5, [1.0, 3.0])
    assert found == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("law", WEIGHT_LAWS)
def test_weights_of_an_epoch_come_from_the_rows_before_it(law):
    """As a resumed run finds them: the columns of the history hold weighted losses."""
    watched = Watched.__new__(Watched)
    watched.law, watched.loss_weights = WEIGHT_LAWS[law], (0.6, 0.4)
    watched.recipe, watched.rows, expected = {"epochs": 3}, [], []
    for epoch, losses in enumerate(([2.0, 1.0], [1.0, 1.5], [0.5, 0.1])):
        expected.append(watched._weights(epoch))
        rows = {
            f"train_loss_{i}": w * v for i, w, v in zip((1, 2), expected[-1], losses, strict=True)
        }
        watched.rows.append(rows)
    assert [watched._weights(e) for e in range(3)] == expected
    before = None if law != "lagging" else [1.0, 1.5]
    assert expected[2] == pytest.approx(WEIGHT_LAWS[law]((0.6, 0.4), 1.0, before))
