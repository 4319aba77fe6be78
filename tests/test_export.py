"""Exports: every format answers as the network does, loads without the supernet, and is written
whole or not at all."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from tiny import tiny
from torch import nn

from nat_lib import backbones, cost, files
from nat_lib.arch import Space
from nat_lib.backbone_table import BACKBONES
from nat_lib.errors import Refusal
from nat_lib.evaluate import prepare
from nat_lib.exits import (
    answer_early,
    choose_threshold,
    confidences,
    ensemble,
    exit_weights,
    leaves_at,
)
from nat_lib.export import layers, write
from nat_lib.genotypes import from_text
from nat_lib.run.params import load_params
from nat_lib.studies import aep, searches, subsets, warmup
from nat_lib.studies.post import POST, attached, run_posts
from nat_lib.supernet import Network, Supernet

FILES = ["README.md", "subnet.json", "subnet.onnx", "subnet.pt2", "subnet.safetensors"]
PIXELS = 32
AEP = tiny(
    "aep_study",
    aep_scenarios={"TR-64": PIXELS},
    aep_proxy={},
    aep_train_images=120,
    aep_val_images=60,
    aep_test_images=20,
    aep_batch_size=20,
    aep_eval_batch_size=30,
    aep_epochs=3,
    aep_patience=12,
    aep_max_steps=None,
    aep_lr_factor=20.0,
)


def images(n, channels, size, seed=1):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def session(folder, name="subnet.onnx"):
    return onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])


def close(ours, theirs, relative):
    scale = max(1.0, theirs.abs().max().item())
    assert (torch.as_tensor(ours) - theirs).abs().max().item() <= relative * scale


@torch.no_grad()
def same_answers(folder, network, channels, size):
    """Every format of an export computes what the network computes, for one image and for
    several."""
    onnx_run = session(folder)
    forms = {
        "safetensors": layers.load_subnet(folder),
        "pt2": torch.export.load(folder / "subnet.pt2").module(),
        "onnx": lambda x: onnx_run.run(["logits"], {"image": x.numpy()})[0],
    }
    for n in (1, 3):
        x = 0.3 * images(n, channels, size)
        for form, tolerance in (("safetensors", 1e-4), ("pt2", 1e-4), ("onnx", 1e-3)):
            close(forms[form](x), network(x), tolerance)


# ------------------------------------------------------------------------------------------ sources


@pytest.fixture(scope="module")
def out(tmp_path_factory, searching):
    """An outputs folder with a finished search of EE_D and the post-processing of its best
    subnet."""
    params, data, lay = searching
    out = lay(tmp_path_factory.mktemp("outputs"), "EE_D")
    searches.run_search(params | {"iterations": 1}, "EE_D", 1, "acc+macs", 0, data, out)
    cell = write.finished(out / searches.STUDY / "digits_turned/EE_D_p1_acc+macs_s0")
    # The deepest subnet is what gets post-processed, so that there are exits to attach.
    subnets = pd.read_csv(cell.path("subnets.csv"))
    archive = pd.read_csv(cell.path("archive.csv"))
    exits = from_text(archive.code)[:, 2]
    deepest = archive.code[exits.argmax()]
    assert exits.max() >= 2
    files.write_csv(
        cell.path("subnets.csv"),
        pd.concat(
            [
                subnets,
                subnets.iloc[[0]].assign(
                    code=deepest, val_top1=99.0, returned=True, exit=exits.max() + 1
                ),
            ]
        ),
    )
    post = load_params("smoke", "post_processing") | {
        "nat_eval_batch_size": 40,
        "post_epochs": 2,
        "post_subnets": 1,
        "profile": "test",
    }
    run_posts(post, "final", "EE_D", 1, "acc+macs", 0, data, out)
    files.write_csv(cell.path("subnets.csv"), subnets)
    # What the driver leaves beside its cells, from which the data set is found again.
    files.write_json(out / "jobs/04.params.json", params)
    return out


@pytest.fixture(scope="module")
def search(out):
    return write.finished(out / searches.STUDY / "digits_turned/EE_D_p1_acc+macs_s0")


def post_cell(out, method):
    return next((out / POST).glob(f"**/*-{method}-*/report.json")).parent


@pytest.fixture(scope="module")
def aep_data():
    return aep.load_data(AEP, "digits")


@pytest.fixture(scope="module")
def aep_cell(tmp_path_factory, aep_data):
    out = tmp_path_factory.mktemp("aep")
    report = aep.run(AEP, "digits", "MobileNetV3Small", "TR-64", "ASC", 0, aep_data, out)
    return out / aep.STUDY / report["name"]


@pytest.fixture(scope="module")
def aep_export(aep_cell, aep_data):
    folder = aep_cell.parent / "all"
    return folder, write.from_aep(aep_cell, folder, pruned=False, data=aep_data)


# --------------------------------------------------------------------------------- exports of cells


def test_a_searched_subnet_answers_as_the_search_scored_it(search, searching, tmp_path, capsys):
    """From the command line, which finds the data set and the recommended subnet by itself."""
    subnets = pd.read_csv(search.path("subnets.csv"))
    best = (
        subnets[subnets.returned]
        .sort_values(["val_top1", "macs_tp"], ascending=[False, True])
        .iloc[0]
    )
    assert write.recommended(search) == best.code
    assert write.main([str(search.folder), str(tmp_path / "subnet")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path / 'subnet'}: {', '.join(FILES)}" and len(said) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["subnet"] and sorted(
        content(tmp_path / "subnet")
    ) == FILES

    _, data, _ = searching
    space = Space.from_dict(search.params["space"])
    arch = space.decode(from_text([best.code]))[0]
    nets = warmup.Supernets(space, 5)
    nets.load_state_dict(files.load_weights(search.path("supernets.safetensors")))
    same_answers(
        tmp_path / "subnet", prepare(nets, arch, data, arch.resolution), 3, arch.resolution
    )
    card = layers.read_card(tmp_path / "subnet")
    assert (
        from_text([card["origin"]["code"]]).tolist()
        == from_text([best.code]).tolist()
    )
    costs = cost.count([arch], space, 5).iloc[0]
    assert card["costs"] == {key: costs[key] for key in ("params", "macs", "macs_tp")}
    assert card["classes"] == list(data.classes) and card["input"]["size"] == arch.resolution
    assert card["input"]["mean"] == pytest.approx(data.mean) and card["input"][
        "std"
    ] == pytest.approx(data.std)
    assert card["numbers"]["val_top1"]["value"] == pytest.approx(best.val_top1)
    assert card["numbers"]["test_top1"]["value"] == pytest.approx(best.test_top1)
    share = best.test_top1 / 100
    assert card["numbers"]["test_top1"]["se"] == pytest.approx(
        100 * (share * (1 - share) / 40) ** 0.5
    )
    network, right = layers.load_subnet(tmp_path / "subnet"), 0
    with torch.no_grad():
        for x, y in data.eval_batches("val", arch.resolution, 40):
            right += (network(x).argmax(1) == y).sum().item()
    assert 100 * right / 40 == pytest.approx(
        best.val_top1
    )  # preparation, weights and table are those of the score
    text = (tmp_path / "subnet/README.md").read_text()
    assert (
        f"{best.test_top1:.2f} +- " in text
        and "MIT" in text
        and "digits_turned" in text
        and "load_subnet" in text
    )
    assert card["latency"]["device"] in text


def described(out, method):
    """(report of the post-processing, space, subnet, its exits, their votes)."""
    report = files.read_json(post_cell(out, method) / "report.json")
    search = files.read_json(out / searches.STUDY / "digits_turned/EE_D_p1_acc+macs_s0/report.json")
    space = Space.from_dict(search["params"]["space"])
    arch = space.decode(from_text([report["params"]["code"]]))[0]
    exits, _, votes = attached(space, arch, method, report["params"]["weights"])
    network = Network(space, arch, 5, exits).eval()
    network.load_state_dict(files.load_weights(post_cell(out, method) / "network.safetensors"))
    return report, space, arch, exits, lambda x: ensemble(network(x), votes)


def test_a_post_processed_network_answers_with_the_vote_of_its_exits(out, searching, tmp_path):
    report, space, arch, exits, answer = described(out, "ens")
    found = write.from_post(post_cell(out, "ens"), tmp_path / "subnet", data=searching[1])
    same_answers(tmp_path / "subnet", answer, 3, arch.resolution)
    card = layers.read_card(tmp_path / "subnet")
    assert [e["position"] for e in card["exits"]] == list(exits) and len(exits) > 1
    assert [card["costs"][k] for k in ("params", "macs")] == [
        report["metrics"][k] for k in ("params", "macs")
    ]
    assert (
        found["files"] == sorted([*FILES, "subnet_early.onnx"]) and found["early"] == card["early"]
    )
    until = [
        cost.count([arch], space, 5, exits=exits[:i]).macs.item() for i in range(1, len(exits) + 1)
    ]
    text = (tmp_path / "subnet/README.md").read_text()
    assert card["early"]["macs"] == until
    assert card["early"]["trained_on_these_images"] and "images the network has seen" in text
    assert card["latency"] is None and "not measured" in text


@pytest.fixture
def taken(monkeypatch):
    """Let the functions that take a network from a cell return the `Source` that they would
    export."""
    monkeypatch.setattr(write, "write", lambda source, folder: source)


@torch.no_grad()
def test_a_network_fine_tuned_alone_keeps_its_exit_and_its_latency(out, taken):
    report, _, arch, _, answer = described(out, "std")
    source = write.from_post(post_cell(out, "std"), "nowhere")  # finds the data set by itself
    x = images(2, 3, arch.resolution)
    close(source.network(x)[0], answer(x), 1e-4)
    assert (source.positions, source.votes, source.seen) == ((arch.exit,), (1.0,), True)
    assert source.latency["ms"] == report["metrics"]["original"]["latency_ms"]
    assert source.numbers["test_top1"] == report["metrics"]["after"]["test_top1"]


def full_network(aep_cell):
    network = backbones.build("MobileNetV3Small", 10).eval()
    network.load_state_dict(files.load_weights(aep_cell / "best.safetensors"))
    return network


def test_an_aep_network_answers_with_all_its_exits(aep_cell, aep_export):
    folder, found = aep_export
    network, votes = full_network(aep_cell), exit_weights("ASC", 4)[1]
    same_answers(folder, lambda x: ensemble(network(x), votes), 3, PIXELS)
    assert found["files"] == sorted([*FILES, "subnet_early.onnx"])
    card, metrics = layers.read_card(folder), files.read_json(aep_cell / "report.json")["metrics"]
    assert card["costs"] == {key: metrics[key] for key in ("params", "macs", "macs_tp")}
    table = backbones.parts(network, PIXELS)
    heads, body = (
        table[table.part == "exit"].macs.tolist(),
        table[table.part != "exit"].macs.cumsum().tolist(),
    )
    assert card["early"]["macs"] == [body[i] + sum(heads[:i]) for i in range(1, 5)]
    assert card["early"]["full_val_top1"] == pytest.approx(metrics["val_top1"])


@torch.no_grad()
def test_a_pruned_aep_network_answers_with_the_exits_it_kept(aep_cell, aep_data, tmp_path, taken):
    network, votes = full_network(aep_cell), exit_weights("ASC", 4)[1]
    report = files.read_json(aep_cell / "report.json")
    report["metrics"]["pruned"]["subset"] = [
        1,
        3,
    ]  # whatever was best here: one that leaves exits and stages out
    files.write_json(tmp_path / "cell/report.json", report)
    (tmp_path / "cell/best.safetensors").write_bytes((aep_cell / "best.safetensors").read_bytes())
    source = write.from_aep(tmp_path / "cell", "nowhere", data=aep_data)
    x = images(2, 3, PIXELS)
    close(
        ensemble(source.network(x), source.votes),
        votes[0] * network(x)[0] + votes[2] * network(x)[2],
        1e-4,
    )
    assert source.positions == (1, 3) and len(source.network.stages) == 3 and not source.seen


# ---------------------------------------------------------------------------------- the layer table


@pytest.mark.parametrize("name", ["SE_DP", "EE_DP", "BASE"])
def test_any_subnet_is_rebuilt_from_its_table(name):
    space = Space(name, base_channels=(8, 8, 16, 8), widths=(1.0,), resolutions=(31,))
    net = Supernet(space, 1.0, 4)
    for arch in space.sample(3, np.random.default_rng(0)):
        network = net.extract(arch, exits="all").eval()
        votes = np.arange(1, len(space.exits) + 1.0)
        rows, exits = layers.layer_table(network, votes, space.exits, 3, 31)
        subnet = layers.Subnet(json.loads(json.dumps({"layers": rows, "exits": exits}))).eval()
        subnet.load_state_dict(network.state_dict())
        x = images(2, 3, 31)
        with torch.no_grad():
            for ours, theirs in zip(subnet.exit_logits(x), network(x), strict=True):
                close(ours, theirs, 1e-6)
        costs = cost.count([arch], space, 4, exits="all").iloc[0]
        assert [sum(r[k] for r in rows) for k in ("params", "macs")] == [costs.params, costs.macs]


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet169", "EfficientNetB5"])
def test_every_backbone_has_a_table_and_an_onnx_graph(name):
    torch.manual_seed(0)
    network = backbones.build(name, 3).eval()
    # Two stages show every kind of row; more would only take longer.
    network = backbones.extract(network, [1, 2])
    rows, exits = layers.layer_table(network, (0.3, 0.7), (1, 2), 3, 33)
    card = {
        "layers": rows,
        "exits": exits,
        "early": None,
        "input": {"channels": 3, "size": 33, "n_classes": 3, "mean": [0], "std": [1]},
    }
    x = images(2, 3, 33)
    with torch.no_grad():
        wanted = ensemble(network(x), (0.3, 0.7))
    model = layers.onnx_model(card, network.state_dict())
    theirs = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"image": x.numpy()}
    )[0]
    close(theirs, wanted, 1e-4)
    assert set(BACKBONES) >= {name} and {r["kind"] for r in rows} <= set(layers.KINDS)


def test_what_has_no_row_is_refused():
    def refused(*modules):
        with pytest.raises(Refusal, match="layer table"):
            layers.layer_table(nn.Sequential(*modules), (1.0,), (1,), 3, 8)

    refused(nn.Conv2d(3, 4, 3), nn.Softplus())
    refused(nn.Conv2d(3, 4, (3, 1)))
    refused(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5))


# ------------------------------------------------------------------------------------------ loading


def test_loading_needs_neither_supernet_nor_search(aep_export):
    folder, _ = aep_export
    code = (
        "import sys, torch; x = torch.ones(2, 3, 32, 32); one = torch.export.load('subnet.pt2').module()(x); "
        "assert not [m for m in sys.modules if m.startswith('nat_lib')]; "
        "from nat_lib.export import load_subnet; net = load_subnet('.'); assert not net.training; "
        "assert (net(x) - one).abs().max() < 1e-4 * one.abs().max(); "
        "print(*sorted(m for m in sys.modules if m.split('.')[0] in ('nat_lib', 'pymoo', 'onnx', 'torchvision')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env=os.environ | {"PYTHONPATH": str(files.ROOT)},
    )
    assert done.stdout.split() == ["nat_lib", "nat_lib.export", "nat_lib.layers", "nat_lib.runs"], (
        done.stderr
    )


def test_the_lines_of_the_model_card_run(aep_export, monkeypatch):
    folder, _ = aep_export
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    blocks, found = re.findall(r"```python\n(.*?)```", text, re.DOTALL), []
    for block in blocks:
        names = {"images": images(2, 3, PIXELS)}
        assert block.count("\n") == 3
        exec(block, names)
        found.append(torch.as_tensor(names.get("logits", names.get("probabilities"))))
    assert [list(f.shape) for f in found] == [[2, 10]] * 3 + [[1, 10]] * 2
    close(found[1], found[0], 1e-5)
    close(found[2], found[0], 1e-3)
    close(found[4], found[3], 1e-4)


def test_a_damaged_export_is_refused(aep_export, tmp_path):
    folder, _ = aep_export
    with pytest.raises(Refusal, match=r"subnet\.json"):
        layers.load_subnet(tmp_path)
    for name in ("subnet.json", "subnet.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    card = files.read_json(tmp_path / "subnet.json")
    row = {"name": "a", "kind": "b", "inputs": []}
    for spoil in ({"format": 0}, {"layers": card["layers"][1:]}, {"layers": [row]}):
        files.write_json(tmp_path / "subnet.json", card | spoil)
        with pytest.raises(Refusal, match="export the network again"):
            layers.load_subnet(tmp_path)
    files.write_json(tmp_path / "subnet.json", card)
    weights = bytearray((folder / "subnet.safetensors").read_bytes())
    weights[-5] ^= 1
    (tmp_path / "subnet.safetensors").write_bytes(weights)
    with pytest.raises(Refusal, match="damaged"):
        layers.load_subnet(tmp_path)


# ----------------------------------------------------------------------------------- stopping early


def one_by_one(logits, labels, votes, macs, threshold):
    """(percent right, exits taken, mean MACs) of the rule, written out image by image."""
    right, taken = 0, []
    for i in range(logits.shape[1]):
        vote, weight = torch.zeros(logits.shape[2]), 0.0
        for e, w in enumerate(votes):
            vote, weight = vote + w * logits[e, i], weight + w
            if (vote / weight).softmax(0).max() >= threshold or e == len(votes) - 1:
                break
        right, taken = right + int(vote.argmax() == labels[i]), [*taken, e]
    return 100 * right / len(labels), taken, np.mean([macs[e] for e in taken])


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_cheapest_that_costs_little_by_trying_all(seed):
    rng = np.random.default_rng(seed)
    n_exits, n, slack = seed + 2, 30, (0.5, 2.0, 5.0, 0.0)[seed]
    labels = torch.from_numpy(rng.integers(4, size=n))
    logits = torch.from_numpy(rng.normal(size=(n_exits, n, 4))).float()
    for e in range(n_exits):  # deeper exits know more
        logits[e, torch.arange(n), labels] += e + 0.5
    votes, macs = rng.random(n_exits) + 0.1, np.cumsum(rng.integers(10, 99, n_exits))
    chosen = choose_threshold(logits, labels, tuple(votes), macs, slack)
    # Between neighbouring confidences nothing changes: trying each of them, and one above all, is
    # trying all.
    confidence, _ = confidences(logits, tuple(votes))
    every = [
        one_by_one(logits, labels, votes, macs, t) for t in [*confidence.flatten().tolist(), 2.0]
    ]
    full = one_by_one(logits, labels, votes, macs, 2.0)[0]
    cheapest = min(mean for top1, _, mean in every if top1 >= full - slack - 1e-9)
    top1, taken, mean = one_by_one(logits, labels, votes, macs, chosen.threshold)
    assert mean == pytest.approx(cheapest) == pytest.approx(chosen.mean_macs)
    assert (chosen.val_top1, chosen.full_val_top1) == pytest.approx(
        (top1, full)
    ) and top1 >= full - slack
    assert (
        chosen.shares == pytest.approx(np.bincount(taken, minlength=n_exits) / n)
        and chosen.macs == macs.tolist()
    )
    assert leaves_at(confidence, chosen.threshold).tolist() == taken
    assert len(set(taken)) > 1 and cheapest < macs[-1]  # the example has something to gain


def test_confident_errors_keep_every_image_inside():
    labels = torch.zeros(20, dtype=torch.long)
    logits = torch.zeros(2, 20, 3)
    logits[0, :, 1], logits[1, :, 0] = (
        50.0,
        200.0,
    )  # sure and wrong, then right: confidence 1 in float32
    chosen = choose_threshold(logits, labels, (0.5, 0.5), (1, 10))
    assert (
        chosen.threshold > 1
        and chosen.shares == [0, 1]
        and chosen.mean_macs == 10
        and chosen.val_top1 == 100
    )


def test_early_stopping_in_onnx_and_torch_is_one_rule(aep_export, aep_cell, aep_data):
    folder, found = aep_export
    subnet, network = layers.load_subnet(folder), full_network(aep_cell)
    votes, early = exit_weights("ASC", 4)[1], found["early"]
    model = onnx.load(folder / "subnet_early.onnx")
    meta = {p.key: p.value for p in model.metadata_props}
    assert float(meta["threshold"]) == early["threshold"] == subnet.card["early"]["threshold"]
    branches, graph = [], model.graph
    while ifs := [node for node in graph.node if node.op_type == "If"]:
        assert len(ifs) == 1 and ifs[0] is graph.node[-1]
        graph = next(a.g for a in ifs[0].attribute if a.name == "else_branch")
        branches.append(sum(node.op_type == "Conv" for node in graph.node))
    assert (
        len(branches) == 3 and min(branches) > 0
    )  # the layers of a later stage lie inside the branch
    outputs = subsets.exit_outputs(network, aep_data.eval_batches("val", PIXELS, 30))
    macs, run = early["macs"], session(folder, "subnet_early.onnx")
    x = torch.cat([x for x, _ in aep_data.eval_batches("val", PIXELS, 30)])
    top1, taken, mean = one_by_one(outputs.logits, outputs.labels, votes, macs, early["threshold"])
    assert early["val_top1"] == pytest.approx(top1) and early["mean_macs"] == pytest.approx(mean)
    left, confidence = [], confidences(outputs.logits, votes)[0]
    for i in range(len(x)):
        if ((confidence[:-1, i] - early["threshold"]).abs() < 1e-4).any():
            continue
        theirs, position = run.run(
            ["probabilities", "exit"], {"image": x[i : i + 1].contiguous().numpy()}
        )
        ours, expected = answer_early(subnet, x[i : i + 1])
        assert position.tolist() == [expected] == [taken[i] + 1]
        np.testing.assert_allclose(theirs, ours, atol=1e-4)
        weights = np.array(votes[:expected])
        vote = sum(
            w * z
            for w, z in zip(weights / weights.sum(), outputs.logits[:expected, i], strict=True)
        )
        torch.testing.assert_close(ours[0], vote.softmax(0), atol=1e-4, rtol=1e-4)
        left.append(expected)
    assert len(set(left)) > 1


def test_an_early_answer_computes_no_later_stage(aep_export):
    subnet = layers.load_subnet(aep_export[0])
    x = images(1, 3, PIXELS)
    deep = [
        m
        for name, m in subnet.named_modules()
        if name.startswith("stages.2") and isinstance(m, nn.Conv2d)
    ]
    calls = []
    for m in deep:
        m.register_forward_hook(lambda *_: calls.append(1))
    assert deep and answer_early(subnet, x, 0.0)[1] == 1 and not calls
    assert answer_early(subnet, x, 2.0)[1] == 4 and len(calls) == len(deep)
    with pytest.raises(Refusal, match="one image"):
        answer_early(subnet, images(2, 3, PIXELS))


# ----------------------------------------------------------------------------------- all or nothing


@pytest.fixture
def source(aep_data):
    """Something small to export: ten classes from one convolution."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 10),
    ).eval()
    return write.Source(
        network,
        (1.0,),
        (1,),
        aep_data,
        12,
        pd.DataFrame(),
        {"val_top1": 10.0, "test_top1": None, "test_top5": None, "macs_tp": 1},
        None,
        "Not trained.",
        {"title": "T", "study": "s", "name": "n", "profile": "smoke", "dataset": "digits"},
    )


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_an_export_is_replaced_and_anything_else_is_not(source, tmp_path):
    with torch.no_grad():
        write.write(source, tmp_path / "a")
        first = content(tmp_path / "a")
        source.network[0].weight += 1
    (tmp_path / ".tmp-new-a").mkdir()  # of a killed export
    (tmp_path / ".tmp-new-a/subnet.json").write_text("{")
    write.write(source, tmp_path / "a")
    assert content(tmp_path / "a")["subnet.safetensors"] != first["subnet.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/thesis.tex").write_text("years of work")
    (tmp_path / "c").write_text("a file")
    for name in ("b", "c"):
        with pytest.raises(Refusal, match="another folder"):
            write.write(source, tmp_path / name)
    assert (
        content(tmp_path / "b") == {"thesis.tex": b"years of work"}
        and (tmp_path / "c").read_text() == "a file"
    )


def test_without_onnx_the_other_formats_are_written(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = write.write(source, tmp_path / "a")
    assert found["files"] == [f for f in FILES if f != "subnet.onnx"]
    assert found["checks"]["onnx"] is None and found["checks"]["pt2"] <= 1e-5
    assert "not installed" in (tmp_path / "a/README.md").read_text()


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_format_that_answers_otherwise_is_refused_and_nothing_is_left(
    source, tmp_path, monkeypatch, form
):
    write.write(source, tmp_path / "a")
    before = content(tmp_path / "a")
    if form == "onnx":
        monkeypatch.setitem(layers.KINDS, "relu", layers.KINDS["relu"]._replace(op="Sigmoid"))
    else:
        exported = write._exported
        monkeypatch.setattr(
            write, "_exported", lambda subnet, x: exported(nn.Sequential(subnet, nn.ReLU()), x)
        )
    for name in ("a", "new"):
        with pytest.raises(Refusal, match=f"the {form} form"):
            write.write(source, tmp_path / name)
    assert content(tmp_path / "a") == before and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("moment", ["_readme", "rename"])
def test_a_kill_leaves_the_export_that_was_there(source, tmp_path, moment):
    write.write(source, tmp_path / "a")
    before = content(tmp_path / "a")
    child = os.fork()
    if child == 0:

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        if moment == "rename":  # the old one has been moved away, the new one not yet come
            rename, count = type(tmp_path).rename, []
            type(tmp_path).rename = lambda *given: (
                die() if count else [count.append(1), rename(*given)]
            )
        else:
            setattr(write, moment, die)
        try:
            write.write(source, tmp_path / "a")
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if moment == "rename":
        assert not (tmp_path / "a").exists()  # never something half-written
    else:
        assert content(tmp_path / "a") == before
    source.network[6].bias.data += float("nan")  # the next export fails: the old one is there again
    with pytest.raises(Refusal):
        write.write(source, tmp_path / "a")
    assert content(tmp_path / "a") == before and [p.name for p in tmp_path.iterdir()] == ["a"]


# --------------------------------------------------------------------------------- the command line


def test_bad_input_ends_in_one_line(search, aep_cell, out, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").write_text("")
    (tmp_path / "spoiled").mkdir()
    (tmp_path / "spoiled/report.json").write_text("{}")
    shrunk = next((out / "ofav2_eps").glob("**/report.json")).parent
    for said, *given in (
        ("no finished cell", tmp_path / "nothing"),
        ("damaged", tmp_path / "spoiled"),
        ("give one of", shrunk),
        ("whole numbers", search.folder, "--code", "1 two"),
        ("needs", search.folder, "--code", "1 2"),
        ("legal are", search.folder, "--code", write.recommended(search)[:-1] + "99"),
        ("--code", aep_cell, "--code", "1 2 3"),
        ("--all-exits", search.folder, "--all-exits"),
        ("not found", aep_cell),
        ("unknown", search.folder, "--set", "no_such_key=1"),
        (
            "not found",
            search.folder,
            "--profile",
            "smoke",
            "--set",
            "target=cifar10",
            "target_dir=/nowhere",
        ),
    ):
        assert write.main([str(given[0]), str(tmp_path / "x"), *given[1:]]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("nat_lib.export: ") and said in error, (
            error
        )
    assert write.main([str(search.folder), str(tmp_path / "full")]) == 2
    assert not (tmp_path / "x").exists()
    with pytest.raises(Refusal, match="not of"):
        write.from_aep(search.folder, tmp_path / "x")
