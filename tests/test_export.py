"""Exports: every format answers as the network does, loads without the supernet, and is written
whole or not at all."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from itertools import cycle

import nbconvert
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
from nat_lib.early import AGGREGATORS, POLICIES, answer_early, confidences
from nat_lib.errors import Refusal
from nat_lib.evaluate import prepare
from nat_lib.exit_weights import exit_weights
from nat_lib.exits import ensemble
from nat_lib.export import card as cards
from nat_lib.export import command, formats, sources, write
from nat_lib.export.subnet import FORMAT, Subnet, load_subnet, read_card
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
        "safetensors": load_subnet(folder),
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
    cell = sources.finished(out / searches.STUDY / "digits_turned/EE_D_p1_acc+macs_s0")
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
    return sources.finished(out / searches.STUDY / "digits_turned/EE_D_p1_acc+macs_s0")


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
    return folder, sources.from_aep(aep_cell, folder, pruned=False, data=aep_data)


# --------------------------------------------------------------------------------- exports of cells


def test_a_searched_subnet_answers_as_the_search_scored_it(search, searching, tmp_path, capsys):
    """From the command line, which finds the data set and the recommended subnet by itself."""
    subnets = pd.read_csv(search.path("subnets.csv"))
    best = (
        subnets[subnets.returned]
        .sort_values(["val_top1", "macs_tp"], ascending=[False, True])
        .iloc[0]
    )
    assert sources.recommended(search) == best.code
    assert command.main([str(search.folder), str(tmp_path / "subnet")]) == 0
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
    card = read_card(tmp_path / "subnet")
    assert from_text([card["origin"]["code"]]).tolist() == from_text([best.code]).tolist()
    costs = cost.count([arch], space, 5).iloc[0]
    assert card["costs"] == {key: costs[key] for key in ("params", "macs", "macs_tp")}
    assert card["classes"] == list(data.classes) and card["input"]["size"] == arch.resolution
    assert card["input"]["mean"] == pytest.approx(data.mean) and card["input"][
        "std"
    ] == pytest.approx(data.std)
    assert card["numbers"]["val_top1"]["value"] == pytest.approx(best.val_top1)
    assert card["numbers"]["test_top1"]["value"] == pytest.approx(best.test_top1)
    known = card["numbers"]["test_top1"]
    assert known["low"] <= known["value"] <= known["high"] and known["images"] == 40
    assert card["numbers"]["test_top5"] is None  # of five classes the first five are always right
    network, right = load_subnet(tmp_path / "subnet"), 0
    with torch.no_grad():
        for x, y in data.eval_batches("val", arch.resolution, 40):
            right += (network(x).argmax(1) == y).sum().item()
    assert 100 * right / 40 == pytest.approx(
        best.val_top1
    )  # preparation, weights and table are those of the score
    text = (tmp_path / "subnet/README.md").read_text()
    assert (
        f"{best.test_top1:.2f} % of 40 images" in text
        and "top-5" not in text
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
    found = sources.from_post(post_cell(out, "ens"), tmp_path / "subnet", data=searching[1])
    same_answers(tmp_path / "subnet", answer, 3, arch.resolution)
    card = read_card(tmp_path / "subnet")
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
    monkeypatch.setattr(sources, "write", lambda source, folder: source)


@torch.no_grad()
def test_a_network_fine_tuned_alone_keeps_its_exit_and_its_latency(out, taken):
    report, _, arch, _, answer = described(out, "std")
    source = sources.from_post(post_cell(out, "std"), "nowhere")  # finds the data set by itself
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
    card, metrics = read_card(folder), files.read_json(aep_cell / "report.json")["metrics"]
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
    source = sources.from_aep(tmp_path / "cell", "nowhere", data=aep_data)
    x = images(2, 3, PIXELS)
    close(
        ensemble(source.network(x), source.votes),
        votes[0] * network(x)[0] + votes[2] * network(x)[2],
        1e-4,
    )
    assert source.positions == (1, 3) and len(source.network.stages) == 3 and not source.seen


# --------------------------------------------------------------------------- one network, described


def card_of(made, positions, votes, channels, size, n_classes):
    """What subnet.json has to say of a network, at least."""
    return {
        "format": FORMAT,
        "network": made,
        "input": {
            "channels": channels,
            "size": size,
            "mean": [0.0] * channels,
            "std": [1.0] * channels,
            "resize": "square",
            "n_classes": n_classes,
        },
        "classes": [str(i) for i in range(n_classes)],
        "exits": [
            {"position": p, "weight": float(w)} for p, w in zip(positions, votes, strict=True)
        ],
        "early": None,
    }


def stored(folder, network, card):
    files.write_json(folder / "subnet.json", card)
    files.save_weights(folder / "subnet.safetensors", network.state_dict())
    return folder


@torch.no_grad()
def same_in_onnx(subnet, x):
    program, wanted = formats.exported(subnet, x), subnet(x)
    blob = formats.onnx_bytes(program, subnet.card)
    run = onnxruntime.InferenceSession(blob)
    for n in (len(x), 1):
        close(run.run(None, {"image": x[:n].numpy()})[0], wanted[:n], 1e-4)
    weights = sum(v.numel() * v.element_size() for v in subnet.state_dict().values())
    assert len(blob) < 1.2 * weights + 200_000  # the weights once, and little besides


@pytest.mark.parametrize("name", ["SE_DP", "EE_DP", "BASE"])
def test_any_subnet_is_made_again_from_its_space_and_arch(name, tmp_path):
    space = Space(name, base_channels=(8, 8, 16, 8), widths=(1.0,), resolutions=(31,))
    net = Supernet(space, 1.0, 4)
    for arch in space.sample(3, np.random.default_rng(0)):
        network = net.extract(arch, exits="all").eval()
        votes = np.arange(1, len(space.exits) + 1.0)
        votes /= votes.sum()
        made = {"kind": "subnet", "space": space.to_dict(), "arch": arch.to_dict()}
        made |= {"n_classes": 4, "exits": list(space.exits)}
        card = card_of(made, space.exits, votes, 3, 31, 4)
        subnet = load_subnet(stored(tmp_path, network, card))
        x = images(2, 3, 31)
        with torch.no_grad():
            found = list(subnet.exit_logits(x))
            assert [position for position, _ in found] == list(space.exits)
            for (_, ours), theirs in zip(found, network(x), strict=True):
                close(ours, theirs, 1e-6)
            close(subnet(x), ensemble(network(x), votes), 1e-6)
        kept = [space.exits[: i + 1] for i in range(len(space.exits))]
        macs = [cost.count([arch], space, 4, exits=exits).macs.item() for exits in kept]
        assert subnet.macs_until(3, 31) == macs
    if name == "EE_DP":
        same_in_onnx(subnet, x)


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet169", "EfficientNetB5"])
def test_every_backbone_is_made_again(name, tmp_path):
    torch.manual_seed(0)
    # Two stages show every kind of layer; more would only take longer.
    network = backbones.extract(backbones.build(name, 3).eval(), [1, 2])
    made = {"kind": "backbone", "name": name, "n_classes": 3, "channels": 3}
    made |= {"hidden": "measured", "single": False, "kept": [1, 2]}
    subnet = load_subnet(stored(tmp_path, network, card_of(made, (1, 2), (0.3, 0.7), 3, 33, 3)))
    x = images(2, 3, 33)
    with torch.no_grad():
        wanted = ensemble(network(x), (0.3, 0.7))
        close(subnet(x), wanted, 1e-6)
    assert subnet.macs_until(3, 33)[-1] == backbones.parts(network, 33).macs.sum()


# ------------------------------------------------------------------------------------------ loading


def test_loading_needs_neither_supernet_nor_search(aep_export):
    folder, _ = aep_export
    code = (
        "import sys, torch; x = torch.ones(2, 3, 32, 32); "
        "one = torch.export.load('subnet.pt2').module()(x); "
        "assert not [m for m in sys.modules if m.startswith('nat_lib')]; "
        "from nat_lib.export import load_subnet; net = load_subnet('.'); assert not net.training; "
        "assert (net(x) - one).abs().max() < 1e-4 * one.abs().max(); "
        "print(*(m for m in sys.modules if m.startswith(('nat_lib.', 'pymoo', 'onnx'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env=os.environ | {"PYTHONPATH": str(files.ROOT)},
    )
    assert done.returncode == 0, done.stderr
    strangers = ("search", "studies", "results", "report", "run", "data", "train", "evaluate")
    found = {m.removeprefix("nat_lib.").split(".")[0] for m in done.stdout.split()}
    assert "early" in found and not found & {*strangers, "pymoo", "onnx", "onnxruntime"}


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


NASTY = (
    "<img src=x onerror=alert(1)>",
    "a`b``c",
    "| a | [b](c) *d* _e_",
    "",
    "two\nlines",
    "\udcff",
)


def test_names_of_strangers_mean_nothing_in_the_card(source, no_onnx, tmp_path):
    """R6: class names, data set, profile and origin are text of somebody's folders and files."""
    names = [*NASTY, *map(str, range(10 - len(NASTY)))]
    origin = {key: NASTY[0] + NASTY[2] for key in source.origin}
    spoiled = source._replace(
        data=dataclasses.replace(source.data, classes=tuple(names)), origin=origin
    )
    write.write(spoiled, tmp_path / "a")
    page = nbconvert.filters.markdown2html((tmp_path / "a/README.md").read_text(encoding="utf-8"))
    assert "<img" not in page and "<em>d</em>" not in page and 'href="c"' not in page
    assert page.count("<table>") == 1 and "&lt;img src=x" in page
    for name in (NASTY[1], r"two\nlines", r"\udcff"):
        assert f"<code>{name}</code>" in page
    assert load_subnet(tmp_path / "a").card["classes"][4:6] == [r"two\nlines", r"\udcff"]


def test_few_images_leave_a_wide_interval():
    """W15: all right of 21 is no 100.00 +- 0.00 %."""
    found = cards.proportion(100.0, 21)
    assert found["high"] == 100 and found["low"] == pytest.approx(84.5, abs=0.1)
    for right, n in ((0, 21), (7, 21), (50, 100), (1, 3)):  # the interval solves Wilson's equation
        found = cards.proportion(100 * right / n, n)
        for end in (found["low"] / 100, found["high"] / 100):
            if 0 < end < 1:
                distance = abs(end - right / n) / (end * (1 - end) / n) ** 0.5
                assert distance == pytest.approx(1.96, abs=0.01)


def test_the_card_counts_its_images(source, no_onnx, tmp_path):
    write.write(source, tmp_path / "a")
    text = (tmp_path / "a/README.md").read_text()
    labels = source.data.store.labels[source.data.rows["test"]]
    assert f"100.00 % of {len(labels)} images" in text
    assert f"smallest class: {np.bincount(labels, minlength=10).min()} images" in text


def test_a_damaged_export_is_refused(aep_export, tmp_path):
    folder, _ = aep_export
    with pytest.raises(Refusal, match=r"subnet\.json"):
        load_subnet(tmp_path)
    for name in ("subnet.json", "subnet.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    card = files.read_json(tmp_path / "subnet.json")

    def changed(path, value):
        """The card with one value replaced, or without it."""
        new = json.loads(json.dumps(card))
        *parents, last = path.split(".")
        place = new
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return new

    for path, value in (
        ("format", 0),
        ("format", 1),  # of the kit before: layers in place of a network
        ("network", [1]),
        ("network.kind", "table"),
        ("network.name", "ResNet50"),
        ("network.name", "LeNet"),
        ("network.n_classes", 0),
        ("network.n_classes", -1),
        ("network.n_classes", 10**12),
        ("network.channels", 0),
        ("network.kept", [9]),
        ("network.kept", None),
        ("network.stride", 0),
        ("input.size", 0),
        ("input.size", -3),
        ("input.channels", "three"),
        ("input", None),
        ("exits", []),
        ("exits.0.position", 0),
        ("exits.0.position", 9),
        ("exits.0.weight", "much"),
        ("early.threshold", "high"),
        ("early.policy", "luck"),
        ("classes", None),
    ):
        files.write_json(tmp_path / "subnet.json", changed(path, value))
        with pytest.raises(Refusal) as refused:
            load_subnet(tmp_path)
        assert str(refused.value).count("\n") == 0
    files.write_json(tmp_path / "subnet.json", card)
    weights = bytearray((folder / "subnet.safetensors").read_bytes())
    weights[-5] ^= 1
    (tmp_path / "subnet.safetensors").write_bytes(weights)
    with pytest.raises(Refusal, match="damaged"):
        load_subnet(tmp_path)


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


def test_early_stopping_in_onnx_and_torch_is_one_rule(aep_export, aep_cell, aep_data):
    folder, found = aep_export
    subnet, network = load_subnet(folder), full_network(aep_cell)
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


@pytest.fixture(scope="module")
def three_exits():
    """(network, card without a rule to stop, images) of three exits that rarely agree."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, 2)
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU()) for _ in "123"
            )
            self.exits = nn.ModuleDict(
                {e: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)) for e in "123"}
            )

    torch.manual_seed(0)
    network = Small().eval()
    card = card_of({}, (1, 2, 3), (0.2, 0.3, 0.5), 3, 20, 4)
    x = 3 * images(40, 3, 20)
    with torch.no_grad():
        list(Subnet(network, card).exit_logits(x))  # the lazy layers take their sizes
        for tail in network.exits.values():
            tail[1].weight *= 5
    return network, card, x


@pytest.mark.parametrize(
    ("policy", "aggregator"), [*zip(POLICIES, cycle(AGGREGATORS), strict=False)]
)
@torch.no_grad()
def test_every_policy_and_aggregator_is_one_rule_in_onnx_and_torch(three_exits, policy, aggregator):
    network, card, x = three_exits
    logits = torch.stack([z for _, z in Subnet(network, card).exit_logits(x)])
    sure = confidences(logits, (0.2, 0.3, 0.5), policy, aggregator)[0][:2]
    values = sure.unique()
    middle = len(values) // 2
    threshold = values[middle - 1 : middle + 1].mean().item()  # some leave, some stay
    card = card | {"early": {"threshold": threshold, "policy": policy, "aggregator": aggregator}}
    subnet = Subnet(network, card)
    run = onnxruntime.InferenceSession(formats.early_onnx_bytes(subnet))
    left = []
    for i in range(len(x)):
        theirs, position = run.run(None, {"image": x[i : i + 1].numpy()})
        ours, expected = answer_early(subnet, x[i : i + 1])
        if ((sure[:, i] - threshold).abs() < 1e-4).any():
            continue
        assert position.tolist() == [expected]
        np.testing.assert_allclose(theirs, ours, atol=1e-4)
        left.append(expected)
    assert len(set(left)) > 1


def test_an_early_answer_computes_no_later_stage(aep_export):
    subnet = load_subnet(aep_export[0])
    x = images(1, 3, PIXELS)
    deep = [
        m
        for name, m in subnet.named_modules()
        if name.startswith("network.stages.2") and isinstance(m, nn.Conv2d)
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
    """Something small to export: a subnet of one stage for ten classes."""
    space = Space("BASE", base_channels=(8, 8), widths=(1.0,), resolutions=(12,))
    arch = space.smallest
    made = {"kind": "subnet", "space": space.to_dict(), "arch": arch.to_dict()}
    return write.Source(
        Supernet(space, 1.0, 10).extract(arch).eval(),
        made | {"n_classes": 10, "exits": None},
        (1.0,),
        (1,),
        aep_data,
        12,
        pd.DataFrame(),
        {"val_top1": 10.0, "test_top1": 100.0, "test_top5": None, "macs_tp": 1},
        None,
        "Not trained.",
        {"title": "T", "study": "s", "name": "n", "profile": "smoke", "dataset": "digits"},
    )


@pytest.fixture
def no_onnx(monkeypatch):
    """Without the packages of the extra `export`: quicker, where ONNX is not the point."""
    monkeypatch.setitem(sys.modules, "onnx", None)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_an_export_is_replaced_and_anything_else_is_not(source, no_onnx, tmp_path):
    with torch.no_grad():
        write.write(source, tmp_path / "a")
        first = content(tmp_path / "a")
        source.network.stem.conv.weight += 1
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


def test_without_onnx_the_other_formats_are_written(source, no_onnx, tmp_path):
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
    exported = formats.exported

    def otherwise(subnet, x):
        return exported(nn.Sequential(subnet, nn.ReLU()), x)

    if form == "onnx":
        onnx_bytes, x = formats.onnx_bytes, torch.zeros(2, 3, 12, 12)
        monkeypatch.setattr(
            formats,
            "onnx_bytes",
            lambda _, card: onnx_bytes(otherwise(load_subnet(tmp_path / "a"), x), card),
        )
    else:
        monkeypatch.setattr(formats, "exported", otherwise)
    for name in ("a", "new"):
        with pytest.raises(Refusal, match=f"the {form} form"):
            write.write(source, tmp_path / name)
    assert content(tmp_path / "a") == before and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("moment", ["readme", "rename"])
def test_a_kill_leaves_the_export_that_was_there(source, no_onnx, tmp_path, moment):
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
    source.network.exits["1"].linear.bias.data += float(
        "nan"
    )  # the next export fails: the old one is there again
    with pytest.raises(Refusal):
        write.write(source, tmp_path / "a")
    assert content(tmp_path / "a") == before and [p.name for p in tmp_path.iterdir()] == ["a"]


# --------------------------------------------------------------------------------- the command line


def test_images_that_moved_are_named_alone(search, searching, monkeypatch):
    """W16: what the cell was run with is stored, so only what is other now has to be said."""
    asked = []

    def load_target(settings):
        asked.append(settings)
        return searching[1]

    monkeypatch.setattr(searches, "load_target", load_target)
    stored = files.read_json(search.out / "jobs/04.params.json")
    assert sources.find_data(search, changes={"data_dir": "/moved"}) is searching[1]
    moved = {"data_dir": "/moved", "target_dir": None, "device": "cpu"}
    assert asked == [stored | moved]


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
        ("legal are", search.folder, "--code", sources.recommended(search)[:-1] + "99"),
        ("--code", aep_cell, "--code", "1 2 3"),
        ("--all-exits", search.folder, "--all-exits"),
        ("not found", aep_cell),
        ("unknown", search.folder, "--set", "no_such_key=1"),
        ("data_dir", search.folder, "--set", "data_dir=[5]"),
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
        assert command.main([str(given[0]), str(tmp_path / "x"), *given[1:]]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("nat_lib.export: ") and said in error, (
            error
        )
    assert command.main([str(search.folder), str(tmp_path / "full")]) == 2
    assert not (tmp_path / "x").exists()
    with pytest.raises(Refusal, match="not of"):
        sources.from_aep(search.folder, tmp_path / "x")
