"""The training loop: schedule, optimiser groups, zero-filled gradients, resuming, several
processes."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nat_lib import precision
from nat_lib.cells import open_cell
from nat_lib.distributed import average_buffers, first_rank_first, gathered
from nat_lib.errors import Refusal
from nat_lib.optimizers import OPTIMIZERS, sgd
from nat_lib.schedules import Schedule
from nat_lib.train import epochs, fit, flat_gradients

ENDLESS = 10**6


def toy(norm=True, seed=0):
    torch.manual_seed(seed)
    extra = [nn.BatchNorm2d(4), nn.Dropout(0.2)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batches(epoch, n=4, size=12):
    for i in range(n):
        g = torch.Generator().manual_seed(100 * epoch + i)
        y = torch.randint(0, 3, (size,), generator=g)
        yield torch.randn(size, 1, 8, 8, generator=g) + y.view(-1, 1, 1, 1), y


def train(folder, network, epochs=4, stop=ENDLESS, lr=0.05, clipped=None, **options):
    """fit on the toy problem; the batch iterator raises after `stop` batches, as a kill would."""
    seen = []
    with first_rank_first():
        cell = open_cell(folder, "toy", "a", {"epochs": epochs})

    def losses(x, y, step):
        seen.append(step)
        if len(seen) > stop:
            raise KeyboardInterrupt
        logits = network(x)
        yield F.cross_entropy(logits, y), logits

    def validate(net):
        net.eval()
        with torch.no_grad():
            x, y = next(batches(99, 1, 64))
            logits = net(x)
        return F.cross_entropy(logits, y).item(), 100 * (
            logits.argmax(1) == y
        ).float().mean().item()

    torch.manual_seed(7)
    options = {"validate": validate, "clip_norm": clipped, **options}
    return fit(
        network,
        losses,
        batches,
        schedule=Schedule(lr, epochs),
        optimizer=sgd(network, 1e-4),
        n_batches=4,
        cell=cell,
        **options,
    )


def test_training_lowers_the_loss_and_keeps_the_best_epoch(tmp_path):
    history, best = train(tmp_path, toy(), epochs=8)
    assert history.train_loss.iloc[-1] < history.train_loss.iloc[0]
    assert history.val_top1[history.is_best].iloc[-1] == history.val_top1.max()
    assert set(best) == set(toy().state_dict())


@pytest.mark.parametrize("stop", [1, 6, 13])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, stop):
    wanted, weights = train(tmp_path / "straight", toy())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", toy(), stop=stop)
    history, resumed = train(
        tmp_path / "killed", toy(seed=5)
    )  # what it starts from comes from the checkpoint alone
    if stop < 4:
        history, resumed = train(tmp_path / "again", toy())
    assert history.drop(columns="seconds").equals(wanted.drop(columns="seconds"))
    assert all(torch.equal(resumed[k], weights[k]) for k in weights)


def test_eps_schedule_is_constant_then_cosine_to_zero():
    s, n = Schedule(lr=0.03, epochs=120, warmup=5), 10
    assert s.total == 125
    assert [s.at(t, n) for t in (0, 17, 49)] == [0.03] * 3
    assert s.at(50, n) == pytest.approx(0.03)
    assert s.at(50 + 600, n) == pytest.approx(0.015)
    assert s.at(50 + 300, n) == pytest.approx(0.5 * 0.03 * (1 + math.cos(math.pi / 4)))
    assert 0 < s.at(s.total * n - 1, n) < 1e-6
    ramp = Schedule(lr=0.1, epochs=2, warmup=2, warmup_lr=0.0)
    assert ramp.at(0, n) == 0 and ramp.at(10, n) == pytest.approx(0.05)


def test_decay_is_exempt_by_type():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(2, 2)
    )
    decayed, free = (g["params"] for g in sgd(network, 3e-5).param_groups)
    assert {id(p) for p in decayed} == {id(network[0].weight), id(network[3].weight)}
    assert len(free) == 4
    assert len(sgd(network, 3e-4, exempt=False).param_groups) == 1


def test_unused_weights_still_decay_and_coast():
    network = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    optimizer = sgd(network, weight_decay=0.5, nesterov=False)
    optimizer.param_groups[0]["lr"] = 0.1
    flat, before = flat_gradients(network.parameters()), network[1].weight.detach().clone()
    for _ in range(2):
        flat.zero_()
        network[0](torch.ones(1, 2)).sum().backward()
        optimizer.step()
    once = before - 0.1 * 0.5 * before
    torch.testing.assert_close(
        network[1].weight.detach(), once - 0.1 * (0.9 * 0.5 * before + 0.5 * once)
    )
    assert flat.data_ptr() == network[0].weight.grad.data_ptr()


def test_a_loss_that_is_not_a_number_is_refused(tmp_path):
    with pytest.raises(Refusal, match="lower lr_factor"):
        train(tmp_path, toy(), lr=1e30)


def _worker(rank, folder):
    torch.set_num_threads(1)
    os.environ["NAT_BATCH"] = "1"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    assert gathered(list(range(7))[rank::2]) == list(range(7))  # shares come back in order
    for norm in (False, True):
        network = toy(norm)
        train(f"{folder}/{norm}", network, epochs=2)
        torch.save(network.state_dict(), f"{folder}/{norm}{rank}.pt")
    network = toy(norm=False)
    train(f"{folder}/clipped", network, epochs=2, clipped=0.1)
    torch.save(network.state_dict(), f"{folder}/clipped{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_like_one_on_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    names = ("False0", "False1", "True0", "True1", "clipped0")
    a, b, c, d, e = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in names)
    assert all(torch.equal(a[k], b[k]) for k in a) and all(
        torch.equal(c[k], d[k]) for k in c
    )  # replicas stay equal
    for together, norm in ((a, None), (e, 0.1)):
        alone = toy(norm=False)  # with batch norm the statistics are each process's own
        train(tmp_path / f"alone{norm}", alone, epochs=2, clipped=norm)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(together[key], value, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(a["0.weight"], e["0.weight"])


def test_without_validation_the_last_weights_are_returned(tmp_path):
    network = toy()
    history, last = train(tmp_path, network, epochs=3, validate=None)
    assert history.val_top1.isna().all() and not (tmp_path / "toy/a/best.safetensors").exists()
    assert all(torch.equal(v, last[k]) for k, v in network.state_dict().items())


def test_validation_every_few_epochs_and_after_the_last(tmp_path):
    asked = []
    history, _ = train(
        tmp_path, toy(), epochs=5, every=2, validate=lambda net: asked.append(1) or (1.0, 50.0)
    )
    assert list(history.epoch[history.val_top1.notna()]) == [2, 4, 5] and len(asked) == 3
    assert list(history.is_best) == [False, True, False, False, False]


def test_patience_counts_a_tie_as_an_improvement(tmp_path):
    losses = iter([3.0, 2.0, 2.5, 2.0, 2.1, 2.2, 1.0])
    history, _ = train(
        tmp_path, toy(), epochs=7, patience=2, validate=lambda net: (next(losses), 50.0)
    )
    assert len(history) == 6  # 2.0 again in epoch 4, then two without an improvement
    again, _ = train(
        tmp_path, toy(), epochs=7, patience=2, validate=lambda net: (next(losses), 50.0)
    )
    assert len(again) == 6  # a resumed run has had enough too


def test_buffers_of_one_process_stay_as_they_are():
    network = toy()
    before = {k: v.clone() for k, v in network.named_buffers()}
    average_buffers(network)
    assert all(torch.equal(v, before[k]) for k, v in network.named_buffers())


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_every_precision_trains_clips_and_resumes(tmp_path, name):
    """Clipping sees gradients without the scale of float16: no step is larger than lr times it."""
    if name == "fp16" and not torch.amp.autocast_mode.is_autocast_available("cpu"):
        pytest.skip("no float16 on this CPU")
    wanted, weights = train(tmp_path / "straight", toy(), precision=name)
    assert wanted.train_loss.iloc[-1] < wanted.train_loss.iloc[0]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", toy(), precision=name, stop=6)
    _, resumed = train(tmp_path / "killed", toy(seed=5), precision=name)
    assert all(torch.equal(resumed[k], weights[k]) for k in weights)
    network, start = toy(norm=False), toy(norm=False)
    options = {"precision": name, "clipped": 1e-3, "validate": None}
    train(tmp_path / "clipped", network, epochs=1, lr=1e-2, **options)
    pairs = zip(network.parameters(), start.parameters(), strict=True)
    moved = sum((a - b).square().sum() for a, b in pairs)
    assert 0 < moved.sqrt() < 1e-3


def test_float16_skips_a_step_whose_gradients_overflow(tmp_path):
    network, scale = toy(norm=False), precision.scaler("cpu", "fp16").get_scale()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    cell = open_cell(tmp_path, "toy", "a", {})

    def losses(x, y, step):
        z = network(x)
        yield F.cross_entropy(z, y) + (1e36 * (z - z.detach())).sum(), z

    fit(
        network,
        losses,
        lambda epoch: batches(epoch, 1),
        None,
        Schedule(0.1, 1),
        sgd(network, 1e-4),
        1,
        cell,
        "fp16",
    )
    assert scale > 1 and all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(Refusal, match="use one of fp32, bf16, fp16"):
        train(tmp_path, toy(), precision="fp8")


def test_epochs_are_cut_at_the_steps_asked_for():
    data = SimpleNamespace(
        n_batches=lambda size: 5, train_batches=lambda epoch, *rest: iter([(epoch, rest)] * 5)
    )
    for asked, wanted in ((None, 5), (3, 3), (9, 5)):
        images, n = epochs(data, 8, [16], 7, asked, workers=2)
        assert n == wanted and list(images(4)) == [(4, (8, [16], 7, 2))] * wanted


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_of_optimisers_takes_all_parameters(name):
    network = toy()
    held = [p for group in OPTIMIZERS[name](network).param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("damage", [lambda s: s.pop("optimizer"), lambda s: s.update(rng=3)])
def test_a_state_without_its_parts_is_refused(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, toy(), stop=6)
    path = tmp_path / "toy/a/state.pt"
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(Refusal, match="is not of this network: delete it and start again"):
        train(tmp_path, toy())


def test_a_state_of_another_network_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, toy(), stop=6)
    with pytest.raises(Refusal, match="is not of this network"):
        train(tmp_path, toy(norm=False))


FAILING = """
import torch
from nat_lib.distributed import PATIENCE, process_group, ranks
with process_group("cpu"):
    assert PATIENCE.total_seconds() > 3600
    if ranks()[0] == 1:
        raise SystemExit("rank 1 fails")
    torch.distributed.all_reduce(torch.zeros(1))  # waits for the other one
"""


def test_an_exception_on_one_rank_ends_the_others(tmp_path):
    """Not after torch's limit on waiting, but when the connection is gone."""
    (tmp_path / "failing.py").write_text(FAILING)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29519", "WORLD_SIZE": "2"}
    runs = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "failing.py")],
            env=os.environ | place | {"RANK": str(rank)},
            stderr=subprocess.DEVNULL,
        )
        for rank in (0, 1)
    ]
    try:
        assert all(run.wait(timeout=120) != 0 for run in runs)
    finally:
        for run in runs:
            run.kill()


def test_an_epoch_may_be_a_share_of_one_and_resumes(tmp_path):
    whole, best = train(tmp_path / "a", toy(), epochs=2.75)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", toy(), epochs=2.75, stop=10)
    _, again = train(tmp_path / "b", toy(), epochs=2.75)
    assert len(whole) == 3
    schedule = Schedule(0.05, 2.75)
    assert schedule.at(11, 4) == 0 and schedule.at(0, 4) == 0.05  # step 11 would be the twelfth
    for key in best:
        assert torch.equal(best[key], again[key])
