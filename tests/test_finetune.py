"""Post-processing: the two stages, exits attached again, the test split, the optimisers,
resuming."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nat_lib import exits, files, optimizers
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.cost import count
from nat_lib.data import augment, load
from nat_lib.data.batches import Data
from nat_lib.errors import Refusal
from nat_lib.evaluate import Score, recalibrate, score
from nat_lib.exit_weights import exit_weights
from nat_lib.studies import post
from nat_lib.supernet import Network, Supernet

PIXELS = 16
BUDGET = post.Budget(max_epochs=2, batch_size=32, eval_batch_size=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    return load(
        "digits",
        cache=tmp_path_factory.mktemp("cache"),
        train_images=80,
        val_images=40,
        test_images=40,
        calibration_images=40,
    )


def supernet(name="EE_B"):
    space = Space(name, base_channels=(8,) * 6, widths=(1.0,), resolutions=(PIXELS, 24))
    return Supernet(space, 1.0, 10, dropout=0.5)


@pytest.fixture(scope="module")
def net():
    return supernet()


def subnet(net, exit=2):
    return net.space.arch(resolution=PIXELS, exit=exit, depth=2, kernel=5, expand=3)


def run(
    folder,
    net,
    data,
    exit=2,
    method="ens",
    optimizer="AdamW",
    lr=1e-3,
    weights="UNIF",
    budget=BUDGET,
    seed=0,
    original=None,
):
    arch, setting = subnet(net, exit), post.Setting(method, optimizer, lr, weights)
    cell = open_cell(
        folder,
        "post_processing",
        "one",
        {
            "arch": arch,
            **setting._asdict(),
            "budget": budget._asdict(),
            "seed": seed,
        },
    )
    return cell, post.post_process(net, arch, data, setting, budget, cell, seed, original)


def left(cell):
    """What a finished cell says and holds, without wall-clock."""
    histories = [
        pd.read_csv(cell.path(f"stage{i}.csv")).drop(columns="seconds").to_csv() for i in (1, 2)
    ]
    return cell.report()["metrics"], histories, cell.path("network.safetensors").read_bytes()


def scripted(monkeypatch, scores):
    """Replace every score by the given (loss, top1), in turn; afterwards scores are real again."""
    left = [Score(loss, top1, 100.0) for loss, top1 in scores]
    monkeypatch.setattr(post, "score", lambda *given: left.pop(0) if left else score(*given))


# ------------------------------------------------------------------------------- what a cell leaves


@pytest.mark.parametrize(
    "exit, method, kept", [(3, "ens", (1, 2, 3)), (3, "std", (3,)), (1, "ens", (1,))]
)
def test_the_final_network_has_the_exits_of_its_method(tmp_path, net, data, exit, method, kept):
    cell, report = run(
        tmp_path, net, data, exit, method, weights="UNIF" if method == "ens" else None
    )
    metrics, arch = report["metrics"], subnet(net, exit)
    network = Network(net.space, arch, 10, exits=kept)
    network.load_state_dict(
        files.load_weights(cell.path("network.safetensors"))
    )  # strict: these exits and no other
    assert network.exits.keys() == set(map(str, kept)) and len(network.stages) == exit
    assert metrics["params"] == sum(p.numel() for p in network.parameters())
    assert [metrics[k] for k in ("macs", "macs_tp")] == count([arch], net.space, 10, kept)[
        ["macs", "macs_tp"]
    ].iloc[0].tolist()
    votes = (1 / len(kept),) * len(kept)
    tested = score(network.eval(), data.test_batches(PIXELS, 40, "check"), votes)
    assert [metrics["after"][f"test_{k}"] for k in ("loss", "top1", "top5")] == pytest.approx(
        tested
    )
    started = recalibrate(net.extract(arch, exits=kept), data.calibration_batches(PIXELS))
    assert (
        metrics["before"]["val_top1"]
        == score(started, data.eval_batches("val", PIXELS, 40), votes).top1
    )
    assert metrics["n_test"] == 40
    assert {p.name for p in cell.folder.iterdir()} == {
        "params.json",
        "report.json",
        "stage1.csv",
        "stage2.csv",
        "network.safetensors",
    }


def test_the_supernet_is_not_changed_and_a_finished_cell_is_only_read(
    tmp_path, net, data, monkeypatch
):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    _, report = run(
        tmp_path, net, data, original={"test_top1": np.float64(7.5), "latency_ms": math.nan}
    )
    assert report["metrics"]["original"] == {"test_top1": 7.5, "latency_ms": None}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    monkeypatch.setattr(post, "fit", None)
    assert run(tmp_path, net, data)[1] == report


@pytest.mark.parametrize("weights", ["DESC", "MIX"])
def test_one_exit_degenerates_to_the_standard_method(tmp_path, net, data, weights):
    standard, _ = run(tmp_path / "std", net, data, 1, "std", weights=None)
    ensemble, _ = run(tmp_path / "ens", net, data, 1, "ens", weights=weights)
    assert left(standard) == left(ensemble)


def test_both_stages_of_one_step_against_the_written_out_method(tmp_path, net, data):
    """One epoch of one batch: joint loss, SGD without momentum's past, weighted sum of logits,
    running statistics."""
    budget = BUDGET._replace(max_epochs=1, max_steps_per_epoch=1)
    cell, report = run(tmp_path, net, data, 3, "ens", "SGD", 0.01, "MIX", budget)
    loss_weights, votes = exit_weights("MIX", 3)
    for source, stage in ((data, 1), (data.merged(), 2)):
        network = recalibrate(
            net.extract(subnet(net, 3), (1, 2, 3)), data.calibration_batches(PIXELS)
        ).train()
        for m in network.modules():
            m.p = 0.0  # dropout, where there is one
        x, y = next(source.train_batches(0, 32, [PIXELS], 0))
        loss = sum(w * F.cross_entropy(o, y) for w, o in zip(loss_weights, network(x), strict=True))
        loss.backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.01 * (p.grad + 3e-4 * p)
        history = pd.read_csv(cell.path(f"stage{stage}.csv"))
        assert history.train_loss.tolist() == pytest.approx([loss.item()], rel=1e-5)
        if stage == 1:
            result = score(network.eval(), data.eval_batches("val", PIXELS, 40), votes)
            assert history.val_loss.tolist() == pytest.approx([result.loss], rel=1e-4)
            assert (
                report["metrics"]["after"]["val_top1"]
                == history.val_top1[0]
                == pytest.approx(result.top1)
            )
    final = files.load_weights(cell.path("network.safetensors"))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(final[name], value, atol=1e-6, rtol=1e-4)


# --------------------------------------------------------------------------- the length of training


def test_training_is_as_long_as_the_first_best_epoch(tmp_path, net, data, monkeypatch):
    """Patience 2. The loss of epoch 2 ties the best one, which counts as better: the run ends after
    4, not 3 epochs."""
    scripted(monkeypatch, [(9.0, 5.0), (1.0, 10.0), (1.0, 30.0), (1.2, 30.0), (1.1, 20.0)])
    budget = BUDGET._replace(max_epochs=8, patience=2, max_steps_per_epoch=1)
    cell, report = run(tmp_path, net, data, budget=budget)
    metrics = report["metrics"]
    assert (metrics["best_epoch"], metrics["epochs"]) == (2, 4)
    assert (metrics["before"]["val_top1"], metrics["after"]["val_top1"]) == (5.0, 30.0)
    assert len(pd.read_csv(cell.path("stage2.csv"))) == 2


def test_the_lowest_loss_does_not_choose_the_epoch(tmp_path, net, data, monkeypatch):
    scripted(monkeypatch, [(9.0, 5.0), (1.0, 10.0), (2.0, 20.0), (3.0, 40.0)])
    _, report = run(
        tmp_path, net, data, budget=BUDGET._replace(max_epochs=3, max_steps_per_epoch=1)
    )
    assert report["metrics"]["best_epoch"] == 3


def test_both_stages_are_cut_from_the_same_cosine(tmp_path, net, data, monkeypatch):
    used, lr, epochs = [], 0.01, 3

    class Recorder(torch.optim.SGD):
        def step(self):
            used.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setitem(post.OPTIMIZERS, "SGD", lambda network: Recorder(network.parameters()))
    scripted(monkeypatch, [(9.0, 5.0), (1.0, 10.0), (1.0, 10.0), (1.0, 20.0)])
    cell, _ = run(
        tmp_path, net, data, optimizer="SGD", lr=lr, budget=BUDGET._replace(max_epochs=epochs)
    )
    wanted = [
        1e-8 + (lr - 1e-8) * (1 + math.cos(math.pi * step / n / 150)) / 2
        for n in (3, 4)
        for step in range(epochs * n)
    ]  # 80 and 120 images in batches of 32
    assert used == pytest.approx(wanted, rel=1e-12)
    assert pd.read_csv(cell.path("stage2.csv")).lr.tolist() == pytest.approx(
        wanted[epochs * 3 :: 4]
    )


# --------------------------------------------------------------------------- what is read, and when


@pytest.fixture
def reads(data, monkeypatch):
    """What is asked of the data, in order: (part, images of the store that are read)."""
    seen = []
    data.calibration_batches(PIXELS)  # once and for all, from the training split

    def spy(name, part_of):
        original = getattr(Data, name)
        monkeypatch.setattr(
            Data,
            name,
            lambda self, *given, **named: (
                seen.append((part_of(*given), len(self.rows["train"]))),
                original(self, *given, **named),
            )[1],
        )

    spy("test_batches", lambda *given: "test")
    spy("eval_batches", lambda split, *given: split)
    spy("train_batches", lambda *given: "train")
    rows, original = [], augment.gather
    monkeypatch.setattr(
        augment,
        "gather",
        lambda store, some, *axes: (rows.append(some), original(store, some, *axes))[1],
    )
    return seen, rows


def test_the_test_split_is_read_once_at_the_very_end(tmp_path, net, data, reads, monkeypatch):
    seen, rows = reads
    monkeypatch.setattr(
        Data,
        "_resized",
        lambda self, split, size: (
            seen.append((split, "resized")),
            self._plain(self.rows[split], size).byte(),
        )[1],
    )  # not from the cache
    log = data.home.parent / "test_uses.log"
    uses = len(log.read_text().splitlines()) if log.exists() else 0
    run(tmp_path, net, data)
    parts = [part for part, _ in seen]
    assert (
        parts.index("test") == len(parts) - 2 and parts[-1] == "test"
    )  # asked for, then resized: the end
    assert len(log.read_text().splitlines()) == uses + 1
    last = rows.pop()
    assert sorted(last) == sorted(data.rows["test"])
    assert not np.isin(np.concatenate(rows), data.rows["test"]).any()


@pytest.mark.parametrize("final, parts", [("train+val", ("train", "val")), ("train", ("train",))])
def test_stage_two_trains_on_training_and_validation_images(
    tmp_path, net, data, reads, final, parts
):
    seen, rows = reads
    run(tmp_path, net, data, budget=BUDGET._replace(max_epochs=1, final=final))
    both = np.concatenate([data.rows[part] for part in parts])
    kinds = [(part, n) for part, n in seen if part != "test"]
    assert kinds == [
        ("val", 80),
        ("train", 80),
        ("val", 80),
        ("train", len(both)),
    ]  # no validation in stage 2
    used = np.concatenate(rows)
    assert sorted(used[:80]) == sorted(data.rows["train"]) and sorted(
        used[80 : 80 + len(both)]
    ) == sorted(both)
    assert (
        len(data.merged().rows["train"]) == 120 and len(data.rows["train"]) == 80
    )  # the data itself stays


# ---------------------------------------------------------------------------------- kill and resume


@pytest.mark.parametrize("optimizer, method", [("SGD", "std"), ("AdamW", "ens"), ("Ranger", "ens")])
def test_a_killed_and_resumed_run_is_the_straight_run(
    tmp_path, net, data, monkeypatch, optimizer, method
):
    """Stage 1 has 3 epochs of 3 steps, stage 2 (e* = 2) 2 epochs of 4: killed inside epoch 2 of
    each, then at the test."""
    given = {
        "method": method,
        "optimizer": optimizer,
        "weights": "DESC" if method == "ens" else None,
        "seed": 3,
        "budget": BUDGET._replace(max_epochs=3, period=4),
    }
    steps, joint_loss, test_batches = [], exits.joint_loss, Data.test_batches

    def until_second_epoch(
        network, *rest
    ):  # the top-1 grows with the steps trained, up to six: e* = 2
        return score(network, *rest)._replace(
            top1=float(min(network.stem.bn.num_batches_tracked - 1, 6))
        )

    def interrupt(*given, **named):
        raise KeyboardInterrupt

    def kill(at, test):
        """Let the next run end at a step of its own, or where it would read the test split."""
        steps.clear()
        monkeypatch.setattr(
            exits,
            "joint_loss",
            lambda *args: (steps.append(1), interrupt() if len(steps) == at else joint_loss(*args))[
                1
            ],
        )
        monkeypatch.setattr(Data, "test_batches", interrupt if test else test_batches)

    monkeypatch.setattr(post, "score", until_second_epoch)
    straight, _ = run(tmp_path / "straight", net, data, **given)
    for at, test, done in ((5, False, 5), (12, False, 12), (None, True, 4)):
        kill(at, test)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", net, data, **given)
        assert len(steps) == done
    kill(None, False)
    killed, report = run(tmp_path / "killed", net, data, **given)
    assert not steps and report["metrics"]["best_epoch"] == 2
    assert left(killed) == left(straight)


def test_seeds_and_workers(tmp_path, net, data):
    first, _ = run(tmp_path / "0", net, data)
    again, _ = run(tmp_path / "1", net, data, budget=BUDGET._replace(workers=2))
    other, _ = run(tmp_path / "2", net, data, seed=1)
    assert left(first) == left(again) and left(first)[2] != left(other)[2]


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["BASE", "SE_D"])
def test_a_network_of_one_exit_has_no_ensemble(tmp_path, data, name):
    single = supernet(name)
    with pytest.raises(Refusal, match=f"{name} has none: use std"):
        run(tmp_path, single, data, exit=5)
    _, report = run(tmp_path, single, data, 5, "std", "SGD", weights=None)
    assert report["metrics"]["params"] == count([subnet(single, 5)], single.space, 10).params[0]


@pytest.mark.parametrize(
    "given, line",
    [
        ({"method": "aep"}, "use one of std, ens"),
        ({"optimizer": "Adam"}, "use one of SGD, AdamW, Ranger"),
        ({"weights": None}, "use one of DESC, ASC, MIX, UNIF"),
        ({"method": "std"}, "leave them out"),
        ({"budget": BUDGET._replace(final="all")}, "use one of train\\+val, train"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, net, data, given, line):
    with pytest.raises(Refusal, match=line) as refusal:
        run(tmp_path, net, data, **given)
    assert "\n" not in str(refusal.value)


# --------------------------------------------------------------------------------------- optimisers


def problem():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    x, y = torch.randn(8, 2, 4, 4, dtype=torch.double), torch.randn(8, 2, dtype=torch.double)

    def descend(optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(network(x), y).backward()
            optimizer.step()

    return network, x, y, descend


def test_ranger_is_radam_with_lookahead_on_centred_gradients():
    network, _, _, descend = problem()
    other, x, y, _ = problem()
    lr, b1, b2, eps, n = 0.02, 0.95, 0.999, 1e-5, 20
    optimizer = optimizers.Ranger(network.parameters(), lr=lr)
    moments = [
        (torch.zeros_like(p), torch.zeros_like(p), p.detach().clone()) for p in other.parameters()
    ]
    adaptive = []
    for t in range(1, n + 1):
        gradients = torch.autograd.grad(F.mse_loss(other(x), y), list(other.parameters()))
        for p, g, (m, v, slow) in zip(other.parameters(), gradients, moments, strict=True):
            if g.ndim > 1:
                g = g - g.flatten(1).mean(1).view(-1, *[1] * (g.ndim - 1))
            m[:], v[:] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            limit = 2 / (1 - b2) - 1
            rho = limit - 2 * t * b2**t / (1 - b2**t)
            step = m / (1 - b1**t)
            if rho > 5:
                r = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
                step = step * r * math.sqrt(1 - b2**t) / (v.sqrt() + eps)
            p.data -= lr * step
            if t % 6 == 0:
                slow += 0.5 * (p.data - slow)
                p.data[:] = slow
        adaptive.append(rho > 5)
        descend(optimizer, 1)
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert {True, False} == set(adaptive)  # both regimes of RAdam, and three times the slow weights


@pytest.mark.parametrize("stop", [3, 6, 8])
def test_ranger_resumes_exactly(tmp_path, stop):
    straight, _, _, descend = problem()
    descend(optimizers.Ranger(straight.parameters(), lr=0.02), 14)
    first, _, _, descend = problem()
    optimizer = optimizers.Ranger(first.parameters(), lr=0.02)
    descend(optimizer, stop)
    files.save_state(
        tmp_path / "state.pt", {"network": first.state_dict(), "optimizer": optimizer.state_dict()}
    )
    second, _, _, descend = problem()
    optimizer, state = (
        optimizers.Ranger(second.parameters()),
        files.load_state(tmp_path / "state.pt"),
    )
    second.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    descend(optimizer, 14 - stop)
    assert all(
        torch.equal(p, q) for p, q in zip(second.parameters(), straight.parameters(), strict=True)
    )


def test_the_other_optimisers_have_the_settings_of_the_recipe():
    sgd, adamw = (post.OPTIMIZERS[name](problem()[0]) for name in ("SGD", "AdamW"))
    (group,) = sgd.param_groups  # batch norm and biases decay like the rest
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 3e-4, False)
    library = torch.optim.AdamW(problem()[0].parameters())
    assert all(
        adamw.defaults[k] == library.defaults[k]
        for k in ("lr", "betas", "eps", "weight_decay", "amsgrad")
    )
    assert adamw.defaults["weight_decay"] == 0.01


@pytest.mark.parametrize("name", post.OPTIMIZERS)
def test_every_optimiser_descends(name):
    network, x, y, descend = problem()
    before = F.mse_loss(network(x), y)
    optimizer = post.OPTIMIZERS[name](network)
    optimizer.param_groups[0]["lr"] = 0.01
    descend(optimizer, 30)
    assert F.mse_loss(network(x), y) < 0.9 * before


def test_fine_tuning_helps(tmp_path, net, data):
    """An untrained supernet: chance before, well above it after some epochs."""
    _, report = run(tmp_path, net, data, 2, lr=0.01, budget=BUDGET._replace(max_epochs=8))
    metrics = report["metrics"]
    assert metrics["after"]["test_top1"] > metrics["before"]["val_top1"] + 20
