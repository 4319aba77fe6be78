"""The AEP study: cells, joint training, pruning against running every subset, output weights,
resuming."""

import copy
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import nn

from nat_lib import backbones, evaluate, exits, files, imagenet
from nat_lib.backbone_table import BACKBONES, Backbone
from nat_lib.backbones import build, cost, extract
from nat_lib.cells import open_cell
from nat_lib.data import augment, load
from nat_lib.data.batches import Data
from nat_lib.errors import Refusal
from nat_lib.evaluate import Score
from nat_lib.exit_weights import MODES, exit_weights
from nat_lib.studies import aep, exit_training, subsets

NETWORK, PIXELS = "MobileNetV3Small", 32
PARAMS = tiny(
    "aep_study",
    aep_networks=[NETWORK, "MobileNetV3Smallfull"],
    aep_scenarios={"TR-64": PIXELS, "FT-64": PIXELS},
    aep_proxy={"digits": "digits_turned"},
    aep_train_images=60,
    aep_batch_size=20,
    aep_eval_batch_size=30,
    aep_epochs=2,
    aep_patience=12,
    aep_max_steps=None,
    aep_lr_factor=20.0,
)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return aep.load_data(PARAMS, "digits")


def run(out, data, network=NETWORK, scenario="TR-64", mode="DESC", seed=0, **changes):
    """(folder of the cell, its report)."""
    report = aep.run(PARAMS | changes, "digits", network, scenario, mode, seed, data, out)
    return out / aep.STUDY / report["name"], report


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A finished cell, trained long enough that its subsets differ: (folder, report)."""
    return run(tmp_path_factory.mktemp("finished"), data, aep_epochs=4)


def trained(folder, report, single=False):
    p = report["params"]
    network = build(p["network"], p["n_classes"], single, p["channels"])
    network.load_state_dict(files.load_weights(folder / "best.safetensors"))
    return network.eval()


def timeless(value):
    """A report's metrics without what a clock said."""
    if isinstance(value, dict):
        return {
            k: timeless(v) for k, v in value.items() if k not in ("latency", "seconds_per_epoch")
        }
    return value


def left(folder, report):
    """What a finished cell says and holds, without what a clock said."""
    frames = [pd.read_csv(folder / f"{name}.csv") for name in ("history", "subsets", "parts")]
    frames = [
        f.drop(columns=[c for c in f if "latency" in c or "seconds" in c]).to_csv() for f in frames
    ]
    return timeless(report["metrics"]), frames, (folder / "best.safetensors").read_bytes()


def cell_of(folder, data, network="Tiny", **changes):
    """A cell of a training alone, with the recipe of the study."""
    return open_cell(
        folder,
        "training",
        network,
        {"image_size": PIXELS, "seed": 0, "recipe": aep.recipe(PARAMS, data.name) | changes},
    )


TINY = Backbone("squeezenet1_1", "features[0:3]", ("features[3:4]", "features[4:5]"), "linear")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "Tiny", TINY)
    monkeypatch.setitem(BACKBONES, "One", TINY._replace(stages=("features[3:5]",)))

    def make(name="Tiny", **options):
        torch.manual_seed(0)
        return build(name, 10, **options)

    return make


# -------------------------------------------------------------------------------------- which cells


def test_the_grid_of_the_thesis():
    names = ["cifar10", "cifar100", "eurosat", "fashion_mnist", "gtsrb", "tiny_imagenet"]
    cells = aep.selected(
        PARAMS
        | {
            "aep_datasets": names,
            "aep_networks": list(BACKBONES),
            "aep_scenarios": {"TR-224": 224, "TR-64": 64, "FT-224": 224, "FT-64": 64},
        }
    )
    assert len(cells) == len(set(cells)) == 888
    single = [c for c in cells if c[3] == "SE"]
    assert len(single) == 120 and not [c for c in single if BACKBONES[c[1]].baseline]
    assert aep.selected(
        PARAMS | {"seeds": [3, 4], "aep_networks": ["VGG16full"], "aep_scenarios": {"TR-64": 32}}
    ) == [
        ("digits", network, "TR-64", mode, seed)
        for seed in (3, 4)
        for network, mode in [("VGG16", "SE"), *(("VGG16full", m) for m in MODES)]
    ]


def test_networks_with_the_same_layers_share_one_baseline(tmp_path, data, monkeypatch):
    folder, report = run(tmp_path, data, mode="SE", aep_epochs=1)
    monkeypatch.setattr(exit_training, "fit", None)
    assert run(tmp_path, data, "MobileNetV3Smallfull", mode="SE", aep_epochs=1) == (folder, report)
    assert folder.name == f"{NETWORK}_TR-64_SE_s0"
    metrics = report["metrics"]
    assert "pruned" not in metrics
    assert metrics["exits"] == [{"top1": metrics["test_top1"], "top5": metrics["test_top5"]}]
    assert {p.name for p in folder.iterdir()} == {
        "params.json",
        "report.json",
        "history.csv",
        "best.safetensors",
    }
    assert [c for c in pd.read_csv(folder / "history.csv") if c.startswith("val")] == [
        "val_loss",
        "val_top1",
        "val_top5",
        "val_seconds",
    ]


# ------------------------------------------------------------------------------- what a cell leaves


def test_the_report_tells_what_the_network_does(finished, data):
    folder, report = finished
    params, metrics = report["params"], report["metrics"]
    assert {
        k: params[k]
        for k in ("dataset", "network", "scenario", "image_size", "mode", "seed", "proxy")
    } == {
        "dataset": "digits",
        "network": NETWORK,
        "scenario": "TR-64",
        "image_size": PIXELS,
        "mode": "DESC",
        "seed": 0,
        "proxy": False,
    }
    assert (
        params["data"]["sizes"] == {"train": 60, "val": 40, "test": 40}
        and params["recipe"]["lr"] == 20e-4
    )
    assert {p.name for p in folder.iterdir()} == {
        "params.json",
        "report.json",
        "history.csv",
        "subsets.csv",
        "parts.csv",
        "best.safetensors",
    }
    network = trained(folder, report)
    x, y = (torch.cat(t) for t in zip(*data.test_batches(PIXELS, 7, "check"), strict=True))
    with torch.no_grad():
        logits = network(x)

    def percent(output):
        order = output.argsort(1, descending=True)
        return [100 * (order[:, :k] == y[:, None]).any(1).float().mean().item() for k in (1, 5)]

    votes = exit_weights("DESC", 4)[1]
    assert [metrics["test_top1"], metrics["test_top5"]] == pytest.approx(
        percent(sum(w * o for w, o in zip(votes, logits, strict=True)))
    )
    assert [[e["top1"], e["top5"]] for e in metrics["exits"]] == [
        pytest.approx(percent(o)) for o in logits
    ]
    pruned = extract(network, metrics["pruned"]["subset"])
    for costs, one in ((metrics, network), (metrics["pruned"], pruned)):
        assert {k: costs[k] for k in ("params", "macs", "macs_tp")} == cost(one, PIXELS)._asdict()
        assert costs["latency"].keys() == {"ms", "iqr", "runs", "device", "threads", "date"}
        assert costs["latency"]["ms"] > 0 and costs["latency"]["runs"] == 2
    history = pd.read_csv(folder / "history.csv")
    assert (metrics["epochs"], metrics["n_test"]) == (len(history), 40) == (4, 40)
    assert (
        metrics["best_epoch"]
        == history.epoch[history.val_top1.idxmax()]
        == history.epoch[history.is_best].max()
    )
    assert metrics["val_top1"] == history.val_top1.max()
    assert metrics["seconds_per_epoch"] == history.seconds.median() > 0
    assert report["seconds"] > (history.seconds + history.val_seconds).sum()


def test_pruning_is_running_every_subset(finished, data):
    """Every subset is extracted, run and scored on its own; the best is chosen by sorting
    tuples."""
    folder, report = finished
    network, votes = trained(folder, report), exit_weights("DESC", 4)[1]
    table = pd.read_csv(folder / "subsets.csv").set_index("subset")
    batches = list(data.eval_batches("val", PIXELS, 16))
    keys = []
    for size in range(1, 5):
        for subset in itertools.combinations((1, 2, 3, 4), size):
            smaller, right = extract(network, subset), np.zeros(2)
            for x, y in batches:
                with torch.no_grad():
                    out = smaller(x)
                out = sum(
                    votes[i - 1] * o
                    for i, o in zip(subset, out if size > 1 else [out], strict=True)
                )
                order = out.argsort(1, descending=True)
                right += [(order[:, :k] == y[:, None]).sum().item() for k in (1, 5)]
            row, (params, macs, macs_tp) = (
                table.loc[" ".join(map(str, subset))],
                cost(smaller, PIXELS),
            )
            assert [row.val_top1, row.val_top5] == pytest.approx(100 * right / 40)
            assert [row.exits, row.params, row.macs, row.macs_tp] == [size, params, macs, macs_tp]
            bits = int("".join("1" if i in subset else "0" for i in (1, 2, 3, 4)), 2)
            assert row.number == bits
            keys.append((-right[0], -right[1], macs_tp, size, bits, list(subset)))
    assert len(table) == len(keys) == 15 and len(set(table.val_top1)) > 3
    pruned = report["metrics"]["pruned"]
    best = min(keys)
    assert pruned["subset"] == best[-1] and pruned["val_top1"] == pytest.approx(-100 * best[0] / 40)
    assert pruned["ties"]["tied"] == sum(key[0] == best[0] for key in keys)
    published = min(keys, key=lambda key: (*key[:2], key[4]))
    chosen, _ = subsets.choose(table.reset_index(), "published")
    assert chosen.subset == " ".join(map(str, published[-1]))


def test_the_pruned_network_is_tested_as_extracted(finished, data):
    folder, report = finished
    pruned = report["metrics"]["pruned"]
    smaller = extract(trained(folder, report), pruned["subset"])
    votes = [exit_weights("DESC", 4)[1][i - 1] for i in pruned["subset"]]
    for split, batches in (
        ("test", data.test_batches(PIXELS, 9, "check")),
        ("val", data.eval_batches("val", PIXELS, 9)),
    ):
        found = subsets.accuracies(subsets.exit_outputs(smaller, batches), [votes])[0]
        assert found[0] == pytest.approx(pruned[f"{split}_top1"])


def test_fronts_against_brute_force(finished):
    table = pd.read_csv(finished[0] / "subsets.csv")
    for name in subsets.COSTS:
        values = table[["val_top1", name]].to_numpy()
        on_front = [
            not any(a >= top1 and c <= value and (a > top1 or c < value) for a, c in values)
            for top1, value in values
        ]
        assert table[f"front_{name}"].tolist() == on_front and any(on_front)


def test_latencies_of_subsets_are_sums_of_parts(finished):
    parts, table = (pd.read_csv(finished[0] / f"{name}.csv") for name in ("parts", "subsets"))
    ms = parts.set_index(["part", "position"]).latency_ms
    assert len(ms) == 9 and (ms > 0).all()
    wanted = (
        ms["stem", 0]
        + ms["stage", 1]
        + ms["stage", 2]
        + ms["stage", 3]
        + ms["exit", 1]
        + ms["exit", 3]
    )
    assert table.set_index("subset").latency_ms["1 3"] == pytest.approx(wanted)


def test_a_finished_cell_is_only_read(tmp_path, data, monkeypatch):
    report = run(tmp_path, data, aep_epochs=1)[1]
    monkeypatch.setattr(exit_training, "fit", None)
    assert run(tmp_path, data, aep_epochs=1)[1] == report


# ------------------------------------------------------------------------------ one step, one epoch


def test_one_step_against_the_written_out_method(tmp_path, data, tiny):
    """One batch: L = sum a_i CE_i, one Adam step of all parameters, logits summed with the
    votes."""
    alpha, beta = (0.75, 0.25), (0.25, 0.75)
    network = tiny().train()
    plain = copy.deepcopy(network)
    history = aep.train(cell_of(tmp_path, data, epochs=1, max_steps=1), network, data, alpha, beta)
    x, y = next(data.train_batches(0, 20, [PIXELS], 0))
    logits = plain(x)
    each = [a * F.cross_entropy(o, y) for a, o in zip(alpha, logits, strict=True)]
    optimizer = torch.optim.Adam(plain.parameters(), lr=20e-4)
    sum(each).backward()
    optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, atol=1e-6, rtol=1e-4)
    row = history.iloc[0]

    def percent(output, y, k):
        return 100 * (output.topk(k).indices == y[:, None]).any(1).float().mean().item()

    def check(split, logits, each, y):
        outputs = [sum(b * o for b, o in zip(beta, logits, strict=True)), *logits]
        for suffix, output, loss in zip(("", "_1", "_2"), outputs, (sum(each), *each), strict=True):
            assert row[f"{split}_loss{suffix}"] == pytest.approx(loss.item(), rel=1e-4)
            assert row[f"{split}_top1{suffix}"] == pytest.approx(percent(output, y, 1))
            assert row[f"{split}_top5{suffix}"] == pytest.approx(percent(output, y, 5))

    check("train", logits, each, y)
    x, y = (torch.cat(t) for t in zip(*data.eval_batches("val", PIXELS, 30), strict=True))
    with torch.no_grad():
        logits = plain.eval()(x)
    check("val", logits, [a * F.cross_entropy(o, y) for a, o in zip(alpha, logits, strict=True)], y)
    assert row.lr == 20e-4 and row.is_best and row.epoch == 1


def test_averages_count_images_not_batches(tmp_path, data, tiny):
    """60 images in batches of 32 and 28."""
    network = tiny()
    seen = []
    network.register_forward_hook(
        lambda m, x, out: seen.append([o.detach() for o in out]) if m.training else None
    )
    history = aep.train(
        cell_of(tmp_path, data, epochs=1, batch_size=32), network, data, (0.5, 0.5), (0.5, 0.5)
    )
    logits = [torch.cat(o) for o in zip(*seen, strict=True)]
    y = torch.cat([y for _, y in data.train_batches(0, 32, [PIXELS], 0)])
    assert len(seen) == 2 and len(y) == 60
    assert history.train_loss_2[0] == pytest.approx(
        0.5 * F.cross_entropy(logits[1], y).item(), rel=1e-5
    )
    assert history.train_top1_1[0] == pytest.approx(
        100 * (logits[0].argmax(1) == y).float().mean().item()
    )


def test_one_exit_is_plain_training_bit_for_bit(tmp_path, data, tiny):
    results = []
    for mode in MODES:
        network = tiny("One")
        alpha, beta = exit_weights(mode, 1)
        aep.train(cell_of(tmp_path, data, mode, bn_momentum=None), network, data, alpha, beta)
        results.append(network.state_dict())
    plain = tiny("One").to(memory_format=torch.channels_last).train()
    plain = nn.Sequential(plain.stem, *plain.stages, *plain.exits.values())
    optimizer = torch.optim.Adam(plain.parameters(), lr=20e-4, fused=True)
    validation, kept = list(data.eval_batches("val", PIXELS, 30)), []
    for epoch in range(2):
        for x, y in data.train_batches(epoch, 20, [PIXELS], 0):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
        right = sum((plain.eval()(x).argmax(1) == y).sum().item() for x, y in validation)
        kept.append((right, -epoch, [v.clone() for v in plain.train().state_dict().values()]))
    best = max(kept, key=lambda row: row[:2])[2]
    for state in results:
        assert all(torch.equal(a, b) for a, b in zip(best, state.values(), strict=True))


def test_rare_classes_weigh_more_where_the_thesis_says_so(tmp_path, data, tiny, monkeypatch):
    weights, labels = exit_training.class_weights(data), data.train.labels
    assert weights.tolist() == pytest.approx([60 / (10 * (labels == c).sum()) for c in range(10)])
    logits, y = torch.randn(3, 8, 10), torch.arange(8)
    assert exits.exit_losses(logits, y, weights).tolist() == pytest.approx(
        [nn.CrossEntropyLoss(weights)(o, y).item() for o in logits]
    )
    assert exits.exit_losses(logits, y).tolist() == pytest.approx(
        [F.cross_entropy(o, y).item() for o in logits]
    )
    names = ("cifar10", "eurosat", "fashion_mnist", "gtsrb")
    assert [d for d in names if aep.recipe(PARAMS, d)["class_weights"]] == ["eurosat", "gtsrb"]
    monkeypatch.setattr(aep, "CLASS_WEIGHTED", ("digits",))
    network = tiny()
    plain = copy.deepcopy(network).train()
    cell = cell_of(tmp_path, data, epochs=1, max_steps=1)
    history = aep.train(cell, network, data, (0.5, 0.5), (0.5, 0.5))
    x, y = next(data.train_batches(0, 20, [PIXELS], 0))
    out = plain(x)
    assert history.train_loss[0] == pytest.approx(
        sum(F.cross_entropy(o, y, weights).item() for o in out) / 2, rel=1e-4
    )
    x, y = (torch.cat(t) for t in zip(*data.eval_batches("val", PIXELS, 30), strict=True))
    with torch.no_grad():
        unweighted = sum(F.cross_entropy(o, y).item() for o in network(x)) / 2
    assert history.val_loss[0] == pytest.approx(unweighted, rel=1e-4)


def test_a_further_term_of_the_loss(tmp_path, data, tiny):
    shapes = []

    def agreement(logits):
        shapes.append(tuple(logits.shape))
        return 10 * logits.var(0).mean()

    apart = {}
    for also in (None, agreement):
        network = tiny()
        aep.train(
            cell_of(tmp_path, data, str(also), epochs=2),
            network,
            data,
            (0.5, 0.5),
            (0.5, 0.5),
            also=also,
        )
        apart[also] = (
            subsets.exit_outputs(network, data.eval_batches("val", PIXELS, 30)).logits.var(0).mean()
        )
    assert set(shapes) == {(2, 20, 10)} and apart[agreement] < 0.7 * apart[None]


# --------------------------------------------------------------------------- the length of training


def scripted(monkeypatch, scores):
    """Replace the validation of a network of two exits: (loss of both, ensemble top-1) per
    epoch."""
    waiting = list(scores)

    def scores_of(network, batches, votes):
        loss, top1 = waiting.pop(0)
        return [Score(0.0, top1, 100.0), Score(loss, 1.0, 100.0), Score(loss, 1.0, 100.0)]

    monkeypatch.setattr(exit_training, "score_exits", scores_of)
    return waiting


def test_training_stops_after_patience_epochs_without_a_lower_loss(
    tmp_path, data, tiny, monkeypatch
):
    """A tie is no improvement. The tested epoch is the first of the highest ensemble top-1,
    whatever its loss."""
    waiting = scripted(
        monkeypatch, [(2.0, 10.0), (1.0, 20.0), (1.0, 30.0), (1.0, 30.0), (0.5, 90.0)]
    )
    cell = cell_of(tmp_path, data, epochs=9, patience=2, max_steps=1)
    history = aep.train(cell, tiny(), data, (0.5, 0.5), (0.5, 0.5))
    assert len(history) == 4 and len(waiting) == 1
    assert history.val_loss.tolist() == [2.0, 1.0, 1.0, 1.0]  # as measured
    assert history.epoch[history.is_best].tolist() == [1, 2, 3] and history.val_top1.max() == 30.0


def test_a_lower_loss_gives_the_training_its_patience_back(tmp_path, data, tiny, monkeypatch):
    scripted(monkeypatch, [(2.0, 40.0), (2.0, 10.0), (1.9, 10.0), (1.95, 10.0), (1.92, 10.0)])
    cell = cell_of(tmp_path, data, epochs=9, patience=2, max_steps=1)
    history = aep.train(cell, tiny(), data, (0.5, 0.5), (0.5, 0.5))
    assert len(history) == 5 and history.epoch[history.is_best].tolist() == [1]


def test_the_rate_is_constant_and_the_optimiser_adam(tmp_path, data, tiny, monkeypatch):
    rates, Adam = [], torch.optim.Adam

    class Recorder(Adam):
        def step(self, *given):
            rates.append(self.param_groups[0]["lr"])
            assert self.defaults["betas"] == (0.9, 0.999) and self.defaults["weight_decay"] == 0
            return super().step(*given)

    monkeypatch.setattr(torch.optim, "Adam", Recorder)
    aep.train(cell_of(tmp_path, data), tiny(), data, (0.5, 0.5), (0.5, 0.5))
    assert rates == [20e-4] * 6


# --------------------------------------------------------------------------- what is read, and when


def test_the_test_split_is_read_at_the_very_end(tmp_path, data, monkeypatch):
    seen, rows, gather, latency = [], [], augment.gather, aep.measured
    monkeypatch.setattr(
        Data,
        "_resized",
        lambda self, split, size: (seen.append(split), self._plain(self.rows[split], size).byte())[
            1
        ],
    )  # not from the cache
    monkeypatch.setattr(
        augment,
        "gather",
        lambda store, some, *axes: (rows.append(some), gather(store, some, *axes))[1],
    )
    monkeypatch.setattr(
        aep, "measured", lambda *given: (seen.append("latency"), latency(*given))[1]
    )
    log = data.home.parent / "test_uses.log"
    uses = len(log.read_text().splitlines()) if log.exists() else 0
    run(tmp_path, data, aep_epochs=1)
    assert seen == [
        "val",
        "val",
        "latency",
        "latency",
        "test",
        "test",
    ]  # the whole network, then the pruned one
    assert len(log.read_text().splitlines()) == uses + 2
    for used in rows[-2:]:
        assert sorted(used) == sorted(data.rows["test"])
    assert not np.isin(np.concatenate(rows[:-2]), data.rows["test"]).any()


# ---------------------------------------------------------------------------------- kill and resume


def test_a_killed_and_resumed_run_is_the_straight_run(tmp_path, data, monkeypatch):
    """3 epochs of 3 steps, with dropout: killed in two epochs, in a validation, before it is saved,
    before the test."""
    given = {"aep_epochs": 3, "seed": 1, "mode": "MIX"}
    straight = left(*run(tmp_path / "straight", data, **given))
    losses, scores, save, test_batches = (
        exit_training.exit_losses,
        evaluate.score_exits,
        files.save_state,
        Data.test_batches,
    )
    calls = []

    def interrupt(*given, **named):
        raise KeyboardInterrupt

    def counted(function, at):
        return lambda *given: (
            calls.append(1),
            interrupt() if len(calls) == at else function(*given),
        )[1]

    for where, at in (
        ("step", 2),
        ("save", 2),
        ("step", 2),
        ("validation", 1),
        ("step", 5),
        ("test", 1),
    ):
        calls.clear()
        monkeypatch.setattr(
            exit_training, "exit_losses", counted(losses, at) if where == "step" else losses
        )
        monkeypatch.setattr(
            exit_training, "score_exits", counted(scores, at) if where == "validation" else scores
        )
        monkeypatch.setattr(files, "save_state", counted(save, at) if where == "save" else save)
        monkeypatch.setattr(Data, "test_batches", interrupt if where == "test" else test_batches)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", data, **given)
        assert len(calls) == (at if where != "test" else 0)
    monkeypatch.setattr(Data, "test_batches", test_batches)
    monkeypatch.setattr(exit_training, "exit_losses", interrupt)  # nothing is left to train
    assert left(*run(tmp_path / "killed", data, **given)) == straight


def test_seeds_and_workers(tmp_path, data, monkeypatch):
    orders, train_batches = [], Data.train_batches
    monkeypatch.setattr(
        Data,
        "train_batches",
        lambda self, epoch, size, sides, seed, workers: (
            orders.append((seed, workers)),
            train_batches(self, epoch, size, sides, seed, workers),
        )[1],
    )
    given = {"network": "MobileNetV3Smallfull", "aep_epochs": 1, "aep_train_images": 40}
    first = left(*run(tmp_path / "0", data, **given))
    assert left(*run(tmp_path / "1", data, **given, workers=2)) == first
    assert left(*run(tmp_path / "2", data, **given, seed=1))[2] != first[2]
    assert orders == [(0, 0), (0, 2), (1, 0)]


def test_damaged_files_are_refused(tmp_path, data, tiny, monkeypatch):
    cell = cell_of(tmp_path, data, epochs=2)
    aep.train(cell, tiny(), data, (0.5, 0.5), (0.5, 0.5))
    files.write_json(cell.path("epochs.json"), [])
    with pytest.raises(Refusal, match=r"epochs\.json is damaged: delete the folder"):
        aep.train(cell, tiny(), data, (0.5, 0.5), (0.5, 0.5))
    scripted(monkeypatch, [(float("nan"), 10.0)])
    with pytest.raises(Refusal, match="not a number in epoch 1; lower aep_lr_factor"):
        aep.train(cell_of(tmp_path, data, "nan"), tiny(), data, (0.5, 0.5), (0.5, 0.5))


# ---------------------------------------------------------------------------------- where it starts


def test_fine_tuning_from_a_proxy(tmp_path, data, monkeypatch):
    """The kit trains the baseline on the other embedded data set; both cuts of the layers start
    from its weights."""
    tested, started, test_batches = [], [], Data.test_batches
    monkeypatch.setattr(
        Data,
        "test_batches",
        lambda self, *g, **n: (tested.append(self.name), test_batches(self, *g, **n))[1],
    )
    train = aep.train
    monkeypatch.setattr(
        aep,
        "train",
        lambda cell, network, *given: (
            started.append((cell.params["dataset"], copy.deepcopy(network))),
            train(cell, network, *given),
        )[1],
    )
    given = {"scenario": "FT-64", "aep_epochs": 1, "aep_train_images": 40}
    report = run(tmp_path, data, **given)[1]
    full = run(tmp_path, data, "MobileNetV3Smallfull", **given)[1]
    assert [name for name, _ in started] == ["digits_turned", "digits", "digits"]
    assert set(tested) == {"digits"}
    source = tmp_path / aep.PRETRAINING / "digits_turned" / f"{NETWORK}_{PIXELS}px_s0"
    for p in (report["params"], full["params"]):
        assert p["proxy"] is True and p["pretrained_on"] == "digits_turned"
        assert p["start"] == json.loads((source / "report.json").read_text())["hash"]
    assert report["reads"] == {"start": files.sha256_of(source / "best.safetensors")}
    given = backbones.backbone_weights(files.load_weights(source / "best.safetensors"))
    for _, network in started[1:]:
        found = backbones.backbone_weights(network.state_dict())
        same = [
            torch.equal(found[key], given[key])
            for key in given
            if not key.startswith("features.0.")
        ]
        assert all(same) and not torch.equal(
            found["features.0.0.weight"], given["features.0.0.weight"]
        )


def test_fine_tuning_without_weights_is_refused_before_training(tmp_path, data, monkeypatch):
    monkeypatch.setattr(aep, "train", None)
    given = {"aep_proxy": {}, "weights_dir": str(tmp_path / "weights")}
    with pytest.raises(Refusal, match=r"mobilenet_v3_small-047dcff4\.pth is missing: put https"):
        run(tmp_path, data, scenario="FT-64", **given)
    with pytest.raises(Refusal, match="never fine-tuned from random weights"):
        aep.check_weights(PARAMS | given)
    aep.check_weights(PARAMS)  # a proxy needs none
    aep.check_weights(PARAMS | given | {"aep_scenarios": {"TR-64": PIXELS}})


def test_fine_tuning_from_the_published_weights(tmp_path, data, monkeypatch):
    network = build(NETWORK, 10)
    started, train = [], aep.train
    monkeypatch.setattr(
        imagenet, "file_of", lambda name, folder, download: tmp_path / f"{name}.pth"
    )
    monkeypatch.setattr(
        imagenet, "weights", lambda name, folder: backbones.backbone_weights(network.state_dict())
    )
    (tmp_path / f"{NETWORK}.pth").write_bytes(b"weights")
    monkeypatch.setattr(
        aep,
        "train",
        lambda cell, network, *given: (
            started.append(copy.deepcopy(network)),
            train(cell, network, *given),
        )[1],
    )
    report = run(
        tmp_path, data, scenario="FT-64", mode="SE", aep_proxy={}, aep_epochs=1, keep_stem=True
    )[1]
    p = report["params"]
    assert (p["proxy"], p["pretrained_on"], p["start"]) == (
        False,
        "ImageNet",
        "mobilenet_v3_small-047dcff4.pth",
    )
    assert torch.equal(
        started[0].stages[0][0].block[0][0].weight, network.stages[0][0].block[0][0].weight
    )
    assert torch.equal(started[0].stem[0][0].weight, network.stem[0][0].weight)  # keep_stem


@pytest.mark.parametrize(
    "given, line",
    [
        ({"mode": "EE"}, "mode 'EE' of the AEP study: use one of SE, DESC, ASC, MIX, UNIF"),
        ({"scenario": "TR-224"}, "use one of TR-64, FT-64"),
        ({"network": "VGG19"}, "unknown network 'VGG19'"),
        ({"network": "VGG16", "aep_scenarios": {"TR-64": 16}}, "do not fit this network"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, data, given, line):
    with pytest.raises(Refusal, match=line) as refusal:
        run(tmp_path, data, **given)
    assert "\n" not in str(refusal.value)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refusal, match="set device to cpu"):
        aep.load_data(PARAMS | {"device": "cuda"}, "digits")


# ---------------------------------------------------------------------------------------- ensembles


def outputs(n_exits=4, n=50, n_classes=7, seed=0):
    """Exits that are each right about half of the time."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    logits = torch.randn(n_exits, n, n_classes, generator=generator) + 1.5 * F.one_hot(
        labels, n_classes
    )
    return subsets.Outputs(logits, labels)


def test_the_order_of_subsets_is_the_published_one():
    masks = subsets.all_subsets(3)
    assert ["".join(map(str, m.astype(int))) for m in masks] == [
        "001",
        "010",
        "011",
        "100",
        "101",
        "110",
        "111",
    ]
    assert [len(subsets.all_subsets(n)) for n in (1, 4, 5, 7)] == [1, 15, 31, 127]


def test_accuracies_are_those_of_argmax_and_topk(monkeypatch):
    found = outputs()
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 9)
    whole = subsets.accuracies(found, weights)
    monkeypatch.setattr(subsets, "CHUNK", 9 * 7 * 8)  # eight images at a time
    np.testing.assert_array_equal(subsets.accuracies(found, weights), whole)
    for w, (top1, top5) in zip(weights, whole, strict=True):
        out = sum(a * o for a, o in zip(w, found.logits, strict=True))
        best = out.topk(5).indices == found.labels[:, None]
        assert top1 == pytest.approx(100 * (out.argmax(1) == found.labels).double().mean().item())
        assert top5 == pytest.approx(100 * best.any(1).double().mean().item())


def test_equal_outputs_are_no_right_answer():
    """A network that says the same of all classes is right about the first one, as argmax reads
    it."""
    labels = torch.arange(6)
    assert subsets.accuracies(subsets.Outputs(torch.zeros(1, 6, 6), labels), [[1.0]]).tolist() == [
        [pytest.approx(100 / 6), pytest.approx(500 / 6)]
    ]
    assert (
        subsets.accuracies(subsets.Outputs(torch.zeros(1, 3, 3), labels[:3]), [[1.0]])[0, 1]
        == 100.0
    )


def test_outputs_that_are_no_numbers_are_refused():
    with pytest.raises(Refusal, match="not numbers"):
        subsets.exit_outputs(
            nn.Linear(2, 3), [(torch.full((4, 2), float("nan")), torch.zeros(4, dtype=torch.int64))]
        )


COLUMNS = ["number", "subset", "exits", "val_top1", "val_top5", "macs_tp"]


@pytest.mark.parametrize(
    "rows, wanted, rule, tied",
    [
        ([(1, "3", 1, 90, 99, 9), (2, "2", 1, 80, 99, 5)], "3", "val_top1", 1),
        ([(1, "3", 1, 90, 98, 5), (2, "2", 1, 90, 99, 9)], "2", "val_top5", 2),
        (
            [(1, "3", 1, 90, 99, 9), (2, "2", 1, 90, 99, 8), (4, "1", 1, 90, 97, 1)],
            "2",
            "macs_tp",
            3,
        ),
        ([(3, "2 3", 2, 90, 99, 9), (4, "1", 1, 90, 99, 9)], "1", "exits", 2),
        ([(3, "2 3", 2, 90, 99, 9), (5, "1 3", 2, 90, 99, 9)], "2 3", "number", 2),
    ],
)
def test_ties_go_to_the_smaller_network(rows, wanted, rule, tied):
    for order in itertools.permutations(rows):
        best, how = subsets.choose(pd.DataFrame(order, columns=COLUMNS))
        assert best.subset == wanted and how == {"rule": rule, "tied": tied}


def test_the_published_ties_go_to_late_exits():
    rows = pd.DataFrame([(4, "1", 1, 90, 99, 1), (1, "3", 1, 90, 99, 9)], columns=COLUMNS)
    best, how = subsets.choose(rows, "published")
    assert best.subset == "3" and how == {"rule": "number", "tied": 2}
    with pytest.raises(Refusal, match="use one of smaller, published"):
        subsets.choose(rows, "first")


def test_a_pruned_network_is_pruned_again(finished, data):
    network = extract(trained(*finished), (1, 3, 4))
    votes = [exit_weights("DESC", 4)[1][i - 1] for i in network.positions]
    val = subsets.exit_outputs(network, data.eval_batches("val", PIXELS, 30))
    pruned = subsets.prune(network, val, votes, backbones.parts(network, PIXELS))
    assert pruned.subsets.subset.tolist() == ["4", "3", "3 4", "1", "1 4", "1 3", "1 3 4"]
    assert pruned.network.positions == tuple(pruned.exits)
    whole = pd.read_csv(finished[0] / "subsets.csv").set_index("subset")
    for row in pruned.subsets.itertuples():
        assert (row.val_top1, row.params, row.macs) == tuple(
            whole.loc[row.subset, ["val_top1", "params", "macs"]]
        )


# ----------------------------------------------------------------------------------- output weights


@pytest.mark.parametrize("seed", range(4))
def test_optimal_weights_solve_the_convex_problem(seed):
    """On the simplex; no corner, edge or random point is better; the gradient is the same wherever
    a weight is > 0."""
    found = outputs(n_exits=4, seed=seed)
    w = subsets.optimal_weights(found)
    assert (w >= 0).all() and w.sum() == pytest.approx(1, abs=1e-12)

    def loss(w):
        return F.cross_entropy(torch.einsum("e,enk->nk", w, found.logits.double()), found.labels)

    rng = np.random.default_rng(seed)
    points = torch.from_numpy(np.concatenate([np.eye(4), rng.dirichlet(np.ones(4), 300)]))
    best = torch.from_numpy(w).requires_grad_()
    value = loss(best)
    assert value.item() <= min(loss(p).item() for p in points) + 1e-9
    slope = torch.autograd.grad(value, best)[0].numpy()
    inside = w > 1e-6
    np.testing.assert_allclose(slope[inside], slope[inside].mean(), atol=1e-4)
    assert (slope[~inside] >= slope[inside].mean() - 1e-4).all()


def test_optimal_weights_of_simple_cases():
    noise, right = outputs(1, 200), outputs(1, 200, seed=1)
    assert subsets.optimal_weights(noise).tolist() == [1.0]
    good = 4 * F.one_hot(right.labels, 7).float()
    useless = subsets.Outputs(torch.stack([good, noise.logits[0]]), right.labels)
    assert subsets.optimal_weights(useless) == pytest.approx([1, 0], abs=1e-3)
    both = subsets.Outputs(noise.logits.repeat(2, 1, 1), noise.labels)
    assert subsets.optimal_weights(both).sum() == pytest.approx(1)


def test_the_four_patterns_are_compared_with_the_optimum(finished, data):
    folder, report = finished
    found = report["metrics"]["output_weights"]
    network = trained(folder, report)
    val = subsets.exit_outputs(network, data.eval_batches("val", PIXELS, 30))
    assert found["weights"].keys() == found["scores"].keys() == {"OPTIMAL", *MODES}
    assert found["weights"]["OPTIMAL"] == pytest.approx(subsets.optimal_weights(val))
    losses = {}
    for name, w in found["weights"].items():
        out = sum(a * o for a, o in zip(w, val.logits, strict=True))
        losses[name] = F.cross_entropy(out, val.labels).item()
        assert found["scores"][name]["val_loss"] == pytest.approx(losses[name], rel=1e-4)
    assert losses["OPTIMAL"] == min(losses.values())
    assert found["weights"]["MIX"] == found["weights"]["ASC"]
    scores, metrics = found["scores"]["DESC"], report["metrics"]
    assert [scores[k] for k in ("val_top1", "test_top1", "test_top5")] == [
        metrics[k] for k in ("val_top1", "test_top1", "test_top5")
    ]


# -------------------------------------------------------------------------------------- grey images


def test_grey_images_are_measured_and_trained(tmp_path, tiny, monkeypatch):
    grey = load(
        "digits", protocol="aep", channels=1, train_images=40, val_images=20, test_images=20
    )
    report = aep.run(
        PARAMS | {"aep_epochs": 1}, "digits", "Tiny", "TR-64", "ASC", 0, grey, tmp_path
    )
    assert report["params"]["channels"] == 1 and report["metrics"]["latency"]["ms"] > 0
    monkeypatch.setattr("nat_lib.data.load", lambda name, **given: given["channels"])
    assert [aep.load_data(PARAMS, d) for d in ("fashion_mnist", "cifar10")] == [1, 3]
