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
from scipy.stats import chisquare

from nat_lib import attentive, curricula, distill, machine, samplers
from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.exit_weights import DESC5
from nat_lib.exits import ensemble, exit_losses
from nat_lib.plans import NETWORKS
from nat_lib.studies import judging
from nat_lib.supernet import Supernet, with_width

SIZES = (16, 20, 24)
JUDGE = samplers.Judge(3, lambda archs: [float(sum(arch.kernel)) for arch in archs])


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
        return list(samplers.SAMPLERS[sampler](space, choices, 1.0, 20, rng, n, JUDGE))

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


def sandwich_of(space, sampler, judge, step=0, n=5):
    rng = np.random.default_rng((1, step))
    return list(samplers.SAMPLERS[sampler](space, space.choices, 1.0, 24, rng, n, judge))


def test_attentive_subnets_are_the_best_and_the_worst_of_their_candidates():
    space, asked = space_of("EE_DP"), []

    def scores(archs):
        asked.append(archs)
        return [float(sum(arch.expand)) for arch in archs]

    for sampler, end in (("best_up", min), ("worst_up", max)):
        asked.clear()
        first, *middle, last = sandwich_of(space, sampler, samplers.Judge(4, scores))
        assert first == with_width(space.largest, 1.0) and last.exit == 1
        assert [len(archs) for archs in asked] == [4, 4, 4]
        for arch, archs in zip(middle, asked, strict=True):
            assert arch in archs and sum(arch.expand) == end(sum(a.expand) for a in archs)
            assert len({a.exit for a in archs}) == 1
    both = [sandwich_of(space, "best_or_worst", JUDGE, step)[1] for step in range(30)]
    ends = [
        [sandwich_of(space, s, JUDGE, step)[1] for step in range(30)]
        for s in ("best_up", "worst_up")
    ]
    hits = [sum(a == b for a, b in zip(both, end, strict=True)) for end in ends]
    assert min(hits) > 5 and sum(hits) >= 30


def test_a_target_is_met_and_drawn_as_often_as_uniform_sampling_meets_it():
    space = space_of("EE_D")
    pool = attentive.targets(space, space.choices, 1.0, 20)
    macs = count(pool.genotypes(pool.pool), space).macs.to_numpy()
    rng, fell, drawn = np.random.default_rng(0), 0, []
    for _ in range(300):
        archs, missed = pool.draw(rng, 3)
        fell += missed
        drawn += archs[:1]
        if not missed:  # all in one bin of one exit
            found = count(archs, space).macs
            assert np.ptp(found) <= pool.edges[archs[0].exit - 1, 1]
            assert len({arch.exit for arch in archs}) == 1
    assert fell == pytest.approx(900 * attentive.missed(space, space.choices, 1.0, 20), abs=90)
    exits = np.bincount([arch.exit for arch in drawn], minlength=6)[1:]
    assert chisquare(exits).pvalue > 1e-3
    rows = np.quantile(macs, (0.25, 0.5, 0.75))
    shares = [np.mean(count(drawn, space).macs.to_numpy() < q) for q in rows]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.09)
    closed = space.choices._replace(depth=(4,), exit=(5,))
    assert {a.depth for a in attentive.targets(space, closed, 1.0, 20).draw(rng, 3)[0]} == {
        (4,) * 5
    }


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


GOLDEN = (  # student logits; D(1), D(-1) clipped and not; gradient.  Teacher logits (2, 0, -1)
    ((0.5, 0.2, -0.3), 0.327569, 0.625444, 0.625444, (-0.780666, 0.240546, 0.540120)),
    ((0.0, 0.0, 0.0), 0.574346, 0.885670, 1.374771, (-0.792100, 0.049213, 0.742887)),
)
TEACHER = torch.tensor([[2.0, 0.0, -1.0]])


@pytest.mark.parametrize("logits, kl, clipped, whole, gradient", GOLDEN)
def test_adaptive_alpha_has_the_golden_values(logits, kl, clipped, whole, gradient):
    student = torch.tensor([logits], requires_grad=True)
    for pair, value in (((1, 1), kl), ((-1, -1), clipped), ((-1, 1), clipped)):
        found = distill.alpha(student, TEACHER, *pair)
        torch.testing.assert_close(found.item(), value, atol=2e-6, rtol=0)
    unclipped = distill.alpha(student, TEACHER, -1, -1, cap=1e9)
    torch.testing.assert_close(unclipped.item(), whole, atol=2e-6, rtol=0)
    distill.alpha(student, TEACHER).backward()
    torch.testing.assert_close(student.grad, torch.tensor([gradient]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("a", [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
def test_unclipped_the_gradient_of_a_divergence_is_its_derivative(a):
    p, s = randn(4, 6, seed=1).softmax(1), randn(4, 6).requires_grad_()
    q = s.softmax(1)
    ratio = p / q
    if a == 1:
        exact = (p * ratio.log()).sum(1)
    elif a == 0:
        exact = -(q * ratio.log()).sum(1)
    else:
        exact = (q * (ratio**a - 1)).sum(1) / (a * (a - 1))
    (wanted,) = torch.autograd.grad(exact.mean(), s)
    value = distill.alpha(s, p.log(), a, a, cap=1e30)
    torch.testing.assert_close(value, exact.mean())
    torch.testing.assert_close(*torch.autograd.grad(value, s), wanted)


def test_adaptive_alpha_chooses_by_sample_and_ties_go_to_kl():
    missing, lost = torch.tensor([[9.0, 0.0, -9.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    for student in (missing, lost):  # too sure of itself, and on a wrong class
        branches = [distill.alpha(student, TEACHER, a, a) for a in (-1, 1)]
        torch.testing.assert_close(distill.alpha(student, TEACHER), max(branches))
    both = distill.alpha(torch.cat([missing, lost]), TEACHER.expand(2, -1))
    each = [distill.alpha(s, TEACHER) for s in (missing, lost)]
    torch.testing.assert_close(both, sum(each) / 2)
    same = TEACHER.clone().requires_grad_()
    distill.alpha(same, TEACHER).backward()
    assert torch.equal(same.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("gap", [20.0, 120.0, 1e4])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_alpha_is_finite_at_any_logits(gap, low):
    sure, flat = torch.tensor([[gap, 0.0, -gap]]), torch.zeros(1, 3)
    for student, teacher in ((sure, flat), (flat, sure), (sure, -sure)):
        student = student.clone().requires_grad_()
        value = distill.alpha(student, teacher, low)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(student.grad).all() and value > 0


def test_exits_that_disagree_are_diverse_by_at_most_log_2():
    logits = randn(4, 6, 3)
    p = logits.softmax(2)
    pairs = [
        (p[i] * (p[i] / m).log() + p[j] * (p[j] / m).log()).sum(1).mean() / 2
        for i, j in combinations(range(4), 2)
        for m in [(p[i] + p[j]) / 2]
    ]
    torch.testing.assert_close(distill.alike(logits, None), -sum(pairs) / 6)
    assert distill.alike(logits[:1], None) == 0 and distill.alike(logits[[0, 0]], None) == 0
    apart = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]], requires_grad=True)
    value = distill.alike(apart, None)
    value.backward()
    assert value.item() == pytest.approx(-np.log(2)) and torch.isfinite(apart.grad).all()
    grown = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distill.alike(z, None), grown, atol=1e-3, eps=1e-3)


def test_exits_learn_from_their_own_vote_which_gets_no_gradient():
    logits = randn(3, 6, 4).requires_grad_()
    votes = (0.5, 0.3, 0.2)
    distill.own_ensemble(logits, votes).backward()
    vote = ensemble(logits.detach(), votes)
    wanted = torch.stack([z.softmax(1) - vote.softmax(1) for z in logits.detach()]) / (3 * 6)
    torch.testing.assert_close(logits.grad, wanted)
    both = distill.further({"diversity": 0.1, "self_distillation": 2.0}, votes)(logits)
    torch.testing.assert_close(
        both, 0.1 * distill.alike(logits, votes) + 2 * distill.own_ensemble(logits, votes)
    )
    assert distill.further({}, votes) is None  # without terms nothing is added, to the bit


def test_targets_are_of_the_ensemble_or_of_the_same_exit():
    logits = [randn(4, 3, seed=i) for i in range(5)]
    one = distill.TARGETS["ensemble"]((1, 2, 3, 4, 5), logits, DESC5)
    assert all(torch.equal(one(e), ensemble(logits, DESC5)) for e in range(1, 6))
    own = distill.TARGETS["e2e"]((1, 2, 3, 4, 5), logits, DESC5)
    assert all(torch.equal(own(e), logits[e - 1]) for e in range(1, 6))


# ----------------------------------------------------------------------------------- one step of it


def subnets_of(space, n=3):
    def subnets(x, y, step):
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
    first, *others = subnets(x, y, 3)
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
        net, lambda x, y, step: [arch, arch], weights=DESC5, mix=(0.0, 1.0), all_exits=True
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


def test_one_pass_opens_all_exits_in_one_phase_and_the_sandwich_needs_no_teacher():
    space = space_of("EE_B")
    names = [p.name for p in curricula.phases_for(space, "eps_one_pass")]
    assert names == ["Full", "KS", "ND4", "D1", "D2", "E1", "E2"]
    exits = curricula.choices_after(space, curricula.phases_for(space, "eps_one_pass")[2]).exit
    assert exits == (1, 2, 3, 4, 5)
    full, *others = curricula.phases_for(space, "eps_sandwich")
    assert full == curricula.EPS[0]
    assert {(p.teacher, p.sampler) for p in others} == {("in_place", "sandwich")}
    assert [samplers.least(name) for name in ("uniform", "sandwich", "best_up")] == [1, 2, 2]


def test_an_unknown_curriculum_is_refused():
    with pytest.raises(Refusal, match="use one of eps, eps_sandwich"):
        curricula.phases_for(Space("EE_D"), "shrinking")


def test_only_the_teaching_subnet_drops_where_a_curriculum_says_so():
    space = space_of("EE_B")
    net = Supernet(space, 1.0, 4, dropout=0.9).train()
    x, y, arch = randn(6, 3, 24, 24), torch.arange(6) % 4, space.arch(resolution=24)

    def logits_of(largest_only):
        losses = distill.distilled(
            net,
            lambda x, y, step: [arch, arch, arch],
            weights=DESC5,
            mix=(0.0, 1.0),
            largest_only=largest_only,
        )
        return [logits.detach() for _, logits, _ in losses(x, y, 0)]

    torch.manual_seed(0)
    first, one, other = logits_of(True)
    assert torch.equal(one, other) and not torch.allclose(first, one)
    assert not torch.equal(*logits_of(False)[1:])
    assert all(m.training for m in net.modules())


# --------------------------------------------------------------------------- judges of candidates


def test_judging_by_loss_leaves_no_trace_and_is_the_loss():
    space = space_of("EE_DP")
    net = Supernet(space, 1.0, 5, dropout=0.5).train()
    x, y = randn(8, 3, 24, 24), torch.arange(8) % 5
    archs = sandwich_of(space, "uniform", None, n=3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(4)
    state = torch.get_rng_state()
    found = judging.by_loss(net, x, y, 0.1).scores(archs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert all(m.training for m in net.modules())
    with torch.no_grad(), judging.unseen(net):
        wanted = [F.cross_entropy(net(x, a), y, label_smoothing=0.1).item() for a in archs]
    assert found == wanted and len(set(found)) == 3
    with pytest.raises(ZeroDivisionError), judging.unseen(net):
        raise ZeroDivisionError
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.momentum == 0.1 for m in norms) and all(m.training for m in net.modules())


# ------------------------------------------------------------------------------------------ replay


def test_replay_recalls_what_lies_farthest_apart():
    """By brute force: new draws, then greedily the earlier ones that differ most."""
    space = space_of("EE_D")

    def drawn(step, n):
        rng = machine.stream(3, "replayed", step)
        return list(samplers.uniform(space, space.choices, 1.0, 20, rng, n))

    rng = machine.stream(3, "replayed", 6)
    found = list(samplers.replay(space, space.choices, 1.0, 20, rng, 4))
    chosen, seen = drawn(6, 2), [arch for step in range(6) for arch in drawn(step, 2)]
    for _ in range(2):

        def apart(arch):
            codes = space.encode([arch, *chosen])
            return (codes[1:] != codes[0]).sum(1).min()

        chosen.append(max(seen, key=apart))
    assert found == chosen
    first = machine.stream(3, "replayed", 0)
    assert list(samplers.replay(space, space.choices, 1.0, 20, first, 4)) == drawn(0, 4)
