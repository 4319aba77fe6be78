"""Exit weights, the joint loss, ensembles and distillation against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from nat_lib.distill import soft_cross_entropy
from nat_lib.errors import Refusal
from nat_lib.exits import DESC5, ensemble, exit_weights, joint_loss, supernet_weights

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


def test_distillation_is_soft_cross_entropy_without_gradient_to_the_teacher():
    logits, teacher = LOGITS[0].clone().requires_grad_(), LOGITS[1].clone().requires_grad_()
    loss = soft_cross_entropy(logits, F.softmax(teacher, 1))
    torch.testing.assert_close(
        loss, -(F.softmax(teacher, 1) * F.log_softmax(logits, 1)).sum(1).mean()
    )
    loss.backward()
    assert teacher.grad is None and logits.grad is not None


def test_distillation_from_one_hot_targets_is_cross_entropy():
    hard = F.one_hot(LABELS, 4).float()
    torch.testing.assert_close(
        soft_cross_entropy(LOGITS[0], hard), F.cross_entropy(LOGITS[0], LABELS)
    )


def test_an_ensemble_teacher_with_all_weight_on_one_exit_is_that_exit():
    soft = F.softmax(ensemble(LOGITS, (0.0, 0.0, 0.0, 0.0, 1.0)), 1)
    single = F.softmax(LOGITS[4], 1)
    torch.testing.assert_close(
        soft_cross_entropy(LOGITS[0], soft), soft_cross_entropy(LOGITS[0], single)
    )
