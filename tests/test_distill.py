"""Contracts of the tables of training: samplers, distillation losses, targets, teachers, curricula.

Every row is asked, so a row that somebody adds is tested too.
"""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nat_lib import curricula, distill, samplers
from nat_lib.arch import Space
from nat_lib.errors import Refusal
from nat_lib.exits import DESC5, ensemble, exit_losses
from nat_lib.plans import NETWORKS
from nat_lib.supernet import Supernet, with_width

SIZES = (16, 20, 24)


def space_of(name):
    return Space(name, base_channels=(8,) * 6, widths=(1.0,), resolutions=SIZES)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_tables_import_no_torch():
    modules = "curricula, distill, precision, samplers"
    code = f"import sys; from nat_lib import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ----------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("name", ["BASE", "SE_P", "EE_DP"])
def test_a_sampler_yields_legal_subnets_that_depend_on_seed_and_step_alone(sampler, name):
    space, n = space_of(name), 4

    def drawn(seed, step, choices=space.choices):
        rng = np.random.default_rng((seed, step))
        return list(samplers.SAMPLERS[sampler](space, choices, 1.0, 20, rng, n))

    assert drawn(0, 7) == drawn(0, 7) and len(drawn(0, 7)) == n
    assert drawn(0, 7) != drawn(0, 8) and drawn(0, 7) != drawn(1, 7)
    for arch in drawn(0, 7):
        assert space.check(arch) == arch and (arch.resolution, arch.width) == (20, 1.0)
    closed = space.choices._replace(depth=(4,), kernel=(7,), expand=(6,))
    for arch in drawn(3, 1, closed):
        assert set(arch.depth) == {4} and set(arch.kernel) == {7} and set(arch.expand) == {6}


def test_uniform_sampling_draws_as_written_out():
    space = space_of("EE_DP")
    wanted = [space.draw(space.choices, np.random.default_rng((3, 9, j)), 1.0, 16) for j in (0, 1)]
    for n in (2, 5):  # the first subnets do not depend on how many there are
        rng = np.random.default_rng((3, 9))
        assert list(samplers.uniform(space, space.choices, 1.0, 16, rng, n))[:2] == wanted


def test_a_sandwich_is_the_largest_some_and_the_smallest():
    space, rng = space_of("EE_DP"), np.random.default_rng((0, 0))
    first, *middle, last = samplers.sandwich(space, space.choices, 1.0, 24, rng, 4)
    assert first == with_width(space.largest, 1.0) and len(set(middle)) == 2
    assert last == space.arch(24, 1.0, 1, 2, 3, 3, 1)
    with pytest.raises(Refusal, match="the largest and the smallest"):
        list(samplers.sandwich(space, space.choices, 1.0, 24, rng, 1))


# ------------------------------------------------------------------------------- losses and targets


@pytest.mark.parametrize("name", distill.DISTILL)
def test_a_distillation_loss_is_least_at_the_teacher_which_gets_no_gradient(name):
    loss, teacher = distill.DISTILL[name], randn(6, 5).requires_grad_()
    student = teacher.detach().clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.shape == () and teacher.grad is None
    torch.testing.assert_close(student.grad, torch.zeros(6, 5), atol=1e-6, rtol=0)
    for seed in range(5):
        assert loss(student + 0.5 * randn(6, 5, seed=seed + 1), teacher) > value
    one = torch.stack([loss(s[None], t[None]) for s, t in zip(2 * student, teacher, strict=True)])
    torch.testing.assert_close(loss(2 * student, teacher), one.mean())


def test_soft_cross_entropy_and_kl_are_their_formulas():
    s, t = randn(6, 5), randn(6, 5, seed=1)
    p = t.softmax(1)
    torch.testing.assert_close(distill.soft_ce(s, t), -(p * F.log_softmax(s, 1)).sum(1).mean())
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(distill.kl(s, t, 1.0), distill.soft_ce(s, t) - entropy)
    hot = F.log_softmax(t / 4, 1), F.log_softmax(s / 4, 1)
    torch.testing.assert_close(
        distill.kl(s, t), 16 * (hot[0].exp() * (hot[0] - hot[1])).sum(1).mean()
    )


def test_targets_are_of_the_ensemble_or_of_the_same_exit():
    logits = [randn(4, 3, seed=i) for i in range(5)]
    one = distill.TARGETS["ensemble"]((1, 2, 3, 4, 5), logits, DESC5)
    assert all(torch.equal(one(e), ensemble(logits, DESC5)) for e in range(1, 6))
    own = distill.TARGETS["e2e"]((1, 2, 3, 4, 5), logits, DESC5)
    assert all(torch.equal(own(e), logits[e - 1]) for e in range(1, 6))


# ----------------------------------------------------------------------------------- one step of it


def subnets_of(space, n=3):
    def subnets(x, step):
        rng = np.random.default_rng((0, step))
        return samplers.sandwich(space, space.choices, 1.0, x.shape[-1], rng, n)

    return subnets


@pytest.mark.parametrize("name", ["SE_D", "EE_D"])
def test_in_place_the_largest_teaches_all_exits_of_the_others(name):
    """Written out: the largest from labels by the joint loss, each other one by the mean over its
    exits of the loss against the largest's detached ensemble; gradients add up."""
    torch.set_num_threads(1)
    space = space_of(name)
    net, x, y = Supernet(space, 1.0, 4).train(), randn(6, 3, 16, 16), torch.arange(6) % 4
    weights = DESC5 if space.early_exits else (1.0,)
    subnets = subnets_of(space)
    losses = distill.distilled(
        net, subnets, weights=weights, mix=(0.0, 1.0), all_exits=True, smoothing=0.1
    )
    for loss, _, part in losses(x, y, 3):
        assert part is net
        loss.backward()
    found = [p.grad for p in net.parameters()]
    net.zero_grad()
    first, *others = subnets(x, 3)
    logits = net(x, first, exits="all")
    each = exit_losses(torch.stack(logits), y, label_smoothing=0.1)
    total = (torch.tensor(weights) * each).sum()
    wanted = ensemble(logits, weights).detach().softmax(1)
    for arch in others:
        kept = [e for e in space.exits if e <= arch.exit]
        out = net(x, arch, exits=kept)
        total = total + sum(F.cross_entropy(o, wanted) for o in out) / len(out)
    total.backward()
    for a, p in zip(found, net.parameters(), strict=True):
        if p.grad is None:
            assert a is None
        else:
            torch.testing.assert_close(a, p.grad, atol=1e-5, rtol=1e-3)


def test_one_pass_trains_all_exits_of_a_backbone(monkeypatch):
    space = space_of("EE_D")
    net, x, y = Supernet(space, 1.0, 4).train(), randn(4, 3, 16, 16), torch.arange(4)
    passes, forward = [], Supernet.forward
    monkeypatch.setattr(
        Supernet, "forward", lambda *a, **k: (passes.append(k["exits"]), forward(*a, **k))[1]
    )
    arch = space.largest
    losses = distill.distilled(
        net, lambda x, step: [arch, arch], weights=DESC5, mix=(0.0, 1.0), all_exits=True
    )
    assert len(list(losses(x, y, 0))) == 2 and passes == [(1, 2, 3, 4, 5)] * 2


# ----------------------------------------------------------------------------- teachers, curricula


def test_a_teacher_comes_from_an_earlier_phase_or_from_the_step_itself():
    for row in distill.TEACHERS.values():
        assert row.label
        for phase, lag in combinations(range(12), 2):
            assert row.source is None or 0 <= row.source(phase + 1, lag) <= phase
    assert {row.label for row in distill.TEACHERS.values()} >= {"fixed", "progressive", "in place"}


@pytest.mark.parametrize("name", curricula.CURRICULA)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_curriculum_opens_everything_with_rows_that_exist(name, network):
    space = Space(network)
    phases = curricula.phases_for(space, name)
    opened = curricula.choices_after(space, phases[-1])
    assert all(set(a) == set(b) for a, b in zip(opened, space.choices, strict=True))
    for phase in phases:
        assert phase.sampler in samplers.SAMPLERS and phase.loss in distill.DISTILL
        assert phase.teacher is None or phase.teacher in distill.TEACHERS
        assert curricula.steps()[phase.name] == phase.step
        members = space.grid(curricula.extremes_of(space, phase), (48, 64), 1.0)
        assert set(members) <= set(space.grid(curricula.choices_after(space, phase), (48, 64), 1.0))


def test_an_unknown_curriculum_is_refused():
    with pytest.raises(Refusal, match="use one of eps, sandwich"):
        curricula.phases_for(Space("EE_D"), "shrinking")
