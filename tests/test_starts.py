"""Starts: published weights compute here what they compute there, wrong ones are refused."""

import json
import shutil
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from nat_lib import kit, pretrained, starts
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.errors import Refusal
from nat_lib.files import save_weights
from nat_lib.plans import SMALL, named
from nat_lib.pretrained import PRETRAINED, from_plain
from nat_lib.run.params import load_experiment, load_profile
from nat_lib.supernet import Supernet, Supernets

WIDTHS = (1.0, 1.2)


def published(width, n_classes=7, seed=3):
    """A state dict with OFA's names, from a supernet of ours whose tensors are all random."""
    net = Supernet(Space("BASE", (64,), WIDTHS), width, n_classes, seed)
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in net.state_dict().items():
        noise = 0.2 * torch.randn(tensor.shape, generator=g)
        moved = tensor + noise if tensor.is_floating_point() else tensor
        state[name] = moved.abs() + 0.5 if name.endswith("running_var") else moved
    net.load_state_dict(state)
    return net.eval(), {starts.ofa_name(k, 5, 4): v for k, v in net.state_dict().items()}


def test_names_of_a_published_supernet_are_ours_one_to_one():
    _, state = published(1.0)
    weights = [n for n in state if "num_batches_tracked" not in n]
    assert None not in state and len(state) - len(weights) == len(
        [n for n in state if n.endswith("running_var")]
    )
    assert "blocks.7.conv.depth_conv.conv.5to3_matrix" in state


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["BASE", "SE_B", "EE_B"])
def test_subnets_of_published_weights_compute_the_same(width, name):
    theirs, state = published(width)
    space = Space(name, (64,), WIDTHS, plan=named("thesis"))
    ours = starts.from_ofa(state, space, width).eval()
    x = torch.randn(2, 3, 64, 64)
    for arch in theirs.space.sample(3, np.random.default_rng(0)):
        arch = replace(arch, width=width)
        torch.testing.assert_close(ours(x, arch), theirs(x, arch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_thirty_subnets_equal_those_of_the_published_code(width):
    networks = pytest.importorskip(
        "ofa.imagenet_classification.elastic_nn.networks",
        reason="the peer of benchmarks/requirements-peers.txt is not installed",
    )
    peer = networks.OFAMobileNetV3(
        n_classes=9,
        width_mult=width,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )
    g = torch.Generator().manual_seed(0)
    for key, tensor in peer.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=g))
            if key.endswith("running_var"):
                tensor.abs_().add_(0.5)
    ours = starts.from_ofa(peer.state_dict(), Space("BASE", (64,), WIDTHS), width).eval().double()
    peer, x = peer.eval().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for arch in ours.space.sample(30, np.random.default_rng(1)):
            peer.set_active_subnet(ks=list(arch.kernel), e=list(arch.expand), d=list(arch.depth))
            torch.testing.assert_close(ours(x, arch), peer(x), atol=1e-5, rtol=1e-5)


def test_without_their_classifier_or_for_other_classes_it_is_fresh():
    theirs, state = published(1.0)
    bare = {k: v for k, v in state.items() if "classifier" not in k}
    space = Space("EE_D", (64,), WIDTHS)
    for given in (bare, state):
        net = starts.from_ofa(given, space, 1.0, n_classes=4)
        assert net.body.exits["5"].linear.out_features == 4
        conv1 = net.body.exits["5"].conv1.weight
        assert torch.equal(conv1, theirs.body.exits["5"].conv1.weight)
    with pytest.raises(Refusal, match="no classifier"):
        starts.from_ofa(bare, space, 1.0)


def test_weights_of_another_width_or_network_are_refused(tmp_path):
    _, state = published(1.0)
    with pytest.raises(Refusal, match="plan, base_channels and width"):
        starts.from_ofa(state, Space("BASE", (64,), WIDTHS), 1.2)
    with pytest.raises(Refusal, match="no state dict of OFA's"):
        starts.from_ofa({"conv.weight": torch.zeros(1)}, Space("BASE"), 1.0, 10)
    (tmp_path / "a.pt").write_text("no weights")
    with pytest.raises(Refusal, match="no file of torch weights"):
        starts.start(f"ofa:{tmp_path}/a.pt", Space("BASE"), 1.0, 10, 0, 0.0)


@pytest.mark.parametrize("text", ["ofa", "scratch:x", "imagenet", "ofa:", "lite0:", ""])
def test_a_start_that_is_none_is_told_how_they_are_written(text):
    with pytest.raises(Refusal, match="is not one of auto, scratch, ofa:PATH"):
        starts.parsed(text)


# ------------------------------------------------------------------------ plain pretrained networks


def disturb(state):
    """Random values of a size at which every layer matters."""
    g = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=g))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return state


def lite0_state():
    """A state dict as the wheel's, with 6 classes: every layer's name and shape."""
    state = {}

    def conv(name, c_out, c_in, kernel=1):
        state[f"{name}.weight"] = torch.zeros(c_out, c_in, kernel, kernel)

    def norm(name, c):
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{kind}"] = torch.ones(c)
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for i, (c_in, c_out, kernel, _) in enumerate(LITE0):
        mid, block = c_in * (6 if i else 1), f"_blocks.{i}"
        if i:
            conv(f"{block}._expand_conv", mid, c_in)
            norm(f"{block}._bn0", mid)
        conv(f"{block}._depthwise_conv", mid, 1, kernel)
        norm(f"{block}._bn1", mid)
        conv(f"{block}._project_conv", c_out, mid)
        norm(f"{block}._bn2", c_out)
    conv("_conv_head", 1280, 320)
    norm("_bn1", 1280)
    state |= {"_fc.weight": torch.zeros(6, 1280), "_fc.bias": torch.zeros(6)}
    return disturb(state)


# (channels before and after, kernel, stride) of the blocks of EfficientNet-Lite0
LITE0 = [(32, 16, 3, 1)]
for _n, _kernel, _stride, _out in (
    *((2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80)),
    *((3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320)),
):
    for _i in range(_n):
        LITE0.append((LITE0[-1][1], _out, _kernel, 1 if _i else _stride))


def lite0(state, x):
    """EfficientNet-Lite0 written down from its definition."""

    def conv(name, x, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        rows, columns = (
            (-(-n // stride) - 1) * stride + len(weight[0, 0]) - n for n in x.shape[-2:]
        )
        rows, columns = max(rows, 0), max(columns, 0)
        ends = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return F.conv2d(F.pad(x, ends), weight, None, stride, groups=groups)

    def norm(name, x):
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{kind}"] for kind in kinds), eps=1e-3)

    x = F.relu6(norm("_bn0", conv("_conv_stem", x, 2)))
    for i, (c_in, c_out, _, stride) in enumerate(LITE0):
        block, h = f"_blocks.{i}", x
        if i:
            h = F.relu6(norm(f"{block}._bn0", conv(f"{block}._expand_conv", h)))
        h = conv(f"{block}._depthwise_conv", h, stride, h.shape[1])
        h = norm(f"{block}._bn2", conv(f"{block}._project_conv", F.relu6(norm(f"{block}._bn1", h))))
        x = x + h if stride == 1 and c_in == c_out else h
    x = F.relu6(norm("_bn1", conv("_conv_head", x))).mean((2, 3))
    return F.linear(x, state["_fc.weight"], state["_fc.bias"])


def torchvision_model(name):
    network = getattr(torchvision.models, name)(num_classes=6).eval()
    return disturb(network.state_dict()), network


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_largest_subnet_computes_what_the_pretrained_network_computes(name):
    state, compute = (lite0_state(), None) if name == "lite0" else torchvision_model(name)
    compute = compute or partial(lite0, state)
    for network, width, side in (("BASE", 1.0, 64), ("EE_B", 1.2, 56), ("SE_B", 1.0, 75)):
        space = Space(network, (side,), (1.0, 1.2), plan=named(name))
        net = from_plain(state, PRETRAINED[name].depths, space, width).eval()
        x, largest = torch.randn(2, 3, side, side), replace(space.largest, width=width)
        with torch.no_grad():
            found, wanted = net(x, largest), compute(x)
            assert wanted.std() > 0.01
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(net.extract(largest)(x), wanted, atol=1e-4, rtol=1e-4)


def test_what_a_pretrained_network_does_not_have_learns_from_the_first_step():
    space = Space("EE_B", (32,), (1.0,), plan=named("lite0"))
    net = from_plain(lite0_state(), PRETRAINED["lite0"].depths, space, n_classes=3).train()
    loss = sum(o.square().mean() for o in net(torch.randn(4, 3, 32, 32), space.largest, "all"))
    loss.backward()
    extra = net.body.stages[0].levels[3].irb
    assert extra.bn3.weight.abs().sum() == 0 and extra.bn3.weight.grad.abs().sum() > 0
    assert net.body.exits["6"].linear.out_features == 3


@pytest.mark.parametrize(
    "plan, change, words",
    [
        ("thesis", {}, "give the plan of their name"),
        ("mobilenet_v2", {"_conv_stem.weight": torch.zeros(48, 3, 3, 3)}, "give their plan"),
        ("efficientnet_b0", {}, "give the plan"),
    ],
)
def test_pretrained_weights_of_another_plan_are_refused(plan, change, words):
    space = Space("BASE", (32,), (1.0,), plan=named(plan))
    with pytest.raises(Refusal, match=words):
        from_plain(lite0_state() | change, PRETRAINED["lite0"].depths, space, n_classes=3)


def test_lite0_is_found_in_its_wheel_or_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="pip install it, or give its file as lite0:PATH"):
        starts.identity("lite0")
    (tmp_path / "models").mkdir()
    torch.save(lite0_state(), tmp_path / "models" / "lite0.pth")
    spec = ModuleSpec(pretrained.WHEEL, None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(pretrained, "find_spec", lambda name: spec)
    assert starts.best() == "lite0" and starts.plan_of("lite0") == "lite0"
    path = tmp_path / "models" / "lite0.pth"
    assert starts.identity("lite0") == starts.identity(f"lite0:{path}")
    space = Space("BASE", (32,), (1.0,), plan=named("lite0"))
    for text in ("lite0", f"lite0:{path}"):
        net = starts.start(text, space, 1.0, 4, 0, 0.0)
        assert torch.equal(net.body.stem.conv.weight, lite0_state()["_conv_stem.weight"])


@pytest.mark.parametrize(("name", "kept"), [("BASE", True), ("EE_B", True), ("EE_D", False)])
def test_a_network_that_changes_a_pretrained_one_is_told(name, kept, tmp_path, capsys):
    """Dense skips add to every block: the features of the stages are others from the start."""
    path = tmp_path / "lite0.pt"
    torch.save(lite0_state(), path)
    space = Space(name, (32,), (1.0,), plan=named("lite0"))
    plain = Space("BASE", (32,), (1.0,), plan=named("lite0"))
    x, ends = torch.randn(2, 3, 32, 32), []
    for each in (space, plain):
        net = starts.start(f"lite0:{path}", each, 1.0, 4, 0, 0.0).eval()
        with torch.no_grad():
            h = net.body.stem(x)
            for stage in net.body.stages:
                h = stage(h)
        ends.append(h)
    assert torch.allclose(*ends, atol=1e-4) == kept
    assert ("EE_B and BASE keep it" in capsys.readouterr().err) != kept


def test_auto_is_what_lies_here_and_the_plan_follows(monkeypatch, tmp_path):
    own = {"data_dir": str(tmp_path), "train_resolutions": [32], "eval_resolutions": [32]}
    auto = own | {"plan": "auto", "start": "auto"}
    for name in ("scratch", "mobilenet_v2"):
        monkeypatch.setattr(starts, "best", lambda name=name: name)
        profile = load_profile("own", auto)
        assert load_experiment("ofav2_eps", auto, profile)["start"] == name
        assert profile["plan"] == starts.plan_of(name)
    assert load_profile("own", auto | {"start": "lite0"})["plan"] == "lite0"
    assert load_profile("own", auto | {"plan": "small"})["plan"] == "small"


def test_auto_takes_a_kit_that_ships_where_no_imagenet_weights_lie(monkeypatch, tmp_path):
    monkeypatch.setattr(starts, "KITS", tmp_path)
    monkeypatch.setattr(starts, "STARTS", {"scratch": starts.STARTS["scratch"]})
    assert starts.best() == "scratch"
    for name, sizes, wanted in (
        ("cifar", [24, 32], "scratch"),
        ("tiny", [32, 64], "kit:tiny"),
        ("larger", [96], "kit:larger"),
        ("a_smaller_one", [48], "kit:larger"),
    ):
        (tmp_path / name).mkdir()
        report = {"params": {"space": {"resolutions": sizes}}}
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        assert starts.best() == wanted
    here = starts.STARTS["scratch"]._replace(here=lambda: tmp_path)
    monkeypatch.setattr(starts, "STARTS", {"lite0": here})
    assert starts.best() == "lite0"


def test_a_supernet_goes_on_from_a_finished_phase(tmp_path):
    channels = (8, 8, 16)
    deep = Space("EE_D", (16,), (1.0,), channels)
    net = Supernet(deep, 1.0, 5, seed=2)
    values = {"space": deep.to_dict(), "width": 1.0, "n_classes": 5}
    cell = open_cell(tmp_path, "ofav2_eps", "a", values)
    save_weights(cell.path("best.safetensors"), net.state_dict())
    cell.finish({}, seconds=0.0)
    text = f"cell:{cell.folder}"
    same = starts.start(text, deep, 1.0, 5, 0, 0.1)
    for name, tensor in net.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
    other = starts.start(text, Space("EE_B", (16,), (1.0,), channels), 1.0, 3, 0, 0.1)
    assert torch.equal(other.body.stem.conv.weight, net.body.stem.conv.weight)
    assert other.body.exits["1"].linear.out_features == 3
    moved = shutil.copytree(cell.folder, tmp_path / "elsewhere")
    assert starts.identity(text) == starts.identity(f"cell:{moved}") and starts.identity(text)
    assert starts.identity("scratch") == {}
    with pytest.raises(Refusal, match="plan, base_channels and width"):
        starts.start(text, Space("EE_D", (16,), (1.0,), (8, 16, 16)), 1.0, 5, 0, 0.0)


def test_a_kit_is_a_finished_phase_with_its_plan(tmp_path, capsys):
    space = Space("EE_B", (16,), (1.0,), (8, 8, 16), plan=replace(SMALL, kernels=(3, 5)))
    net = Supernet(space, 1.0, 5, seed=2)
    values = {"space": space.to_dict(), "width": 1.0, "n_classes": 5}
    cell = open_cell(tmp_path, "ofav2_eps", "a", values)
    save_weights(cell.path("best.safetensors"), net.state_dict())
    cell.finish({}, seconds=0.0)
    folder = tmp_path / "mine"
    assert kit.main([str(cell.folder), str(folder)]) == 0
    text = capsys.readouterr().out.strip().removeprefix("start=")
    plan = named(starts.plan_of(text))
    assert plan.channels == (8, 8, 16) and (plan.kernels, plan.strides) == ((3, 5), (2, 2))
    same = starts.start(text, Space("EE_B", (16,), (1.0,), plan=plan), 1.0, 3, 0, 0.0)
    stored = net.body.stem.conv.weight.half().float()
    assert torch.equal(same.body.stem.conv.weight, stored)
    assert torch.equal(same.body.stem.bn.weight, net.body.stem.bn.weight)
    assert kit.main([str(cell.folder), str(folder)]) == 2  # a kit is never replaced
    assert "another name" in capsys.readouterr().err
    with pytest.raises(Refusal, match="there is no file"):
        starts.identity("kit:nowhere")

    nets = Supernets(space, 5, seed=9)
    values = {"space": space.to_dict()}
    search = open_cell(tmp_path, "natv2_phases", "s", values)
    save_weights(search.path("supernets.safetensors"), nets.state_dict())
    for table in kit.TABLES:
        search.path(table).write_text("code,error\n")
    search.finish({}, seconds=0.0)
    after = tmp_path / "after"
    assert kit.main([str(cell.folder), str(after), "--search", str(search.folder)]) == 0
    adapted = starts.start(f"kit:{after}", Space("EE_B", (16,), (1.0,), plan=plan), 1.0, 5, 0, 0.0)
    wanted = nets.of(1.0).body.exits["1"].linear.weight.half().float()
    assert torch.equal(adapted.body.exits["1"].linear.weight, wanted)
    assert {"archive.csv", "subnets.csv", "search.json"} <= {p.name for p in after.iterdir()}
    wrong = [str(cell.folder), str(tmp_path / "no"), "--search", str(cell.folder)]
    assert kit.main(wrong) == 2 and not (tmp_path / "no").exists()
    assert "is no finished search over EE_B" in capsys.readouterr().err
