"""The networks of the AEP study: structures and costs to the unit, extraction, weights, another row
of the table."""

import copy
import hashlib
from functools import cache
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.models as tv
from torch import nn

from nat_lib import files, imagenet
from nat_lib.backbone_table import BACKBONES, Backbone
from nat_lib.backbones import Network, backbone_weights, build, cost, extract, parts
from nat_lib.errors import Refusal
from nat_lib.modules import GlobalAverage

REFERENCE = files.ROOT / "nat_lib" / "results" / "reference"
STRUCTURE, COSTS = (
    pd.read_csv(REFERENCE / f"derived_aep_{name}.csv") for name in ("structure", "costs")
)
COUNTED = ["params", "macs", "macs_tp"]


@cache
def shape_of(name, n_classes=10, channels=3, **options):
    """A network without numbers."""
    with torch.device("meta"):
        return build(name, n_classes, channels=channels, **options)


@cache
def parts_of(name, n_classes, channels, size):
    return parts(shape_of(name, n_classes, channels), size, channels)


def baseline(table):
    """Of the parts of a network, those of its single-exit baseline."""
    return table[(table.part != "exit") | (table.position == table.position.max())]


def small(name="MobileNetV3Small", seed=0, n_classes=10, **options):
    torch.manual_seed(seed)
    return build(name, n_classes, **options).eval()


def images(n=3, channels=3, size=32):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("name", BACKBONES)
def test_every_part_of_every_network(name):
    rows = STRUCTURE[STRUCTURE.network == name]
    assert len(rows) == len(BACKBONES[name].stages) + 1
    large, little, many = (
        parts_of(name, *given).set_index(["part", "position"])
        for given in ((10, 3, 224), (10, 3, 64), (200, 3, 64))
    )
    for row in rows.itertuples():
        position = 0 if row.part == "stem" else int(row.exit_position)
        key = ("stem" if row.part == "stem" else "stage", position)
        assert (large.channels[key], large.side[key], little.side[key], large.params[key]) == (
            row.out_channels,
            row.spatial_at_224,
            row.spatial_at_64,
            row.part_params,
        )
        if position:
            assert large.params["exit", position] == row.exit_params_10_classes
            assert many.params["exit", position] == row.exit_params_200_classes
            layers = list(shape_of(name).exits[str(position)])
            widened = [m.out_channels for m in layers if isinstance(m, nn.Conv2d)]
            hidden = [m.out_features for m in layers if isinstance(m, nn.Linear)][:-1]
            for found, wanted in (
                (widened, row.exit_conv_features),
                (hidden, row.exit_hidden_features),
            ):
                assert found == ([] if np.isnan(wanted) else [wanted])


@pytest.mark.parametrize("name", BACKBONES)
def test_every_cost_of_every_network(name):
    rows = COSTS[COSTS.network == name]
    assert len(rows) == 12
    for row in rows.itertuples():
        table = parts_of(name, row.classes, row.input_channels, row.image_size)
        assert (table.part == "exit").sum() == row.exits
        for found, kind in ((table, "early_exit"), (baseline(table), "single_exit")):
            assert found[COUNTED].sum().tolist() == [
                getattr(row, f"{what}_{kind}")
                for what in ("params", "macs_conv_linear", "macs_torchprofile")
            ]


def test_the_cost_of_a_network_is_that_of_its_parts():
    single = shape_of("MobileNetV3Small", single=True)
    assert cost(single, 64) == (1025634, 5001104, 5142600)
    assert (
        cost(single, 64)._asdict()
        == baseline(parts_of("MobileNetV3Small", 10, 3, 64))[COUNTED].sum().to_dict()
    )
    assert cost(extract(shape_of("ResNet50"), [3]), 64).params == 8_553_546
    assert cost(extract(shape_of("MobileNetV3Small"), [2, 1]), 64).params == 176_676


def test_mean_overheads_are_those_of_tables_4_8_and_4_9():
    """Change of every (network, data set) cell first, then the mean; 4.8 prints 2.876, from values
    rounded to 0.001 M."""

    def mean(rows, what, digits=None):
        early, single = (rows[f"{what}_{kind}"] / 1e6 for kind in ("early_exit", "single_exit"))
        if digits:
            early, single = early.round(digits), single.round(digits)
        return (100 * (early - single) / single).mean()

    at = {size: rows for size, rows in COSTS.groupby("image_size")}
    assert mean(at[64], "params") == pytest.approx(2.878, abs=5e-4)
    assert mean(at[64], "params", 3) == pytest.approx(2.876, abs=5e-4)
    assert [mean(at[size], "macs_torchprofile", 3) for size in (64, 224)] == pytest.approx(
        [5.266, 5.451], abs=5e-4
    )
    assert [mean(at[size], "macs_conv_linear") for size in (64, 224)] == pytest.approx(
        [5.234, 5.421], abs=5e-4
    )


def test_the_proportional_hidden_layer_of_mobilenet():
    """torchvision's own head has 1024 hidden units at 96 channels; such exits would have cost 7.04
    % more parameters."""
    network = shape_of("MobileNetV3Small", hidden="proportional")
    hidden = [
        next(m for m in e if isinstance(m, nn.Linear)).out_features for e in network.exits.values()
    ]
    assert hidden == [256, 426, 512, 1024]
    changes = []
    for name, rows in COSTS[COSTS.image_size == 64].groupby("network"):
        for row in rows.itertuples():
            early, single = row.params_early_exit, row.params_single_exit
            if name.startswith("MobileNet"):
                network = shape_of(name, row.classes, row.input_channels, hidden="proportional")
                early, *shallow = (
                    sum(p.numel() for p in m.parameters())
                    for m in (network, *network.exits.values())
                )
                single = early - sum(shallow[:-1])
            changes.append(100 * (early - single) / single)
    assert np.mean(changes) == pytest.approx(7.04, abs=0.01)


# ----------------------------------------------------------------------------------------- networks


def test_a_network_returns_the_logits_of_its_exits_and_a_baseline_one_tensor():
    network, single = small(), small(single=True)
    logits = network(images())
    assert [o.shape for o in logits] == [(3, 10)] * 4 and network.positions == (1, 2, 3, 4)
    assert single.positions == (4,)
    # With one seed they start from the same weights, the shared exit included.
    assert torch.equal(single(images()), logits[-1])


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.baseline])
def test_networks_that_share_a_baseline_have_the_same_layers(name):
    row, other = shape_of(name), shape_of(BACKBONES[name].baseline)
    assert len(row.stages) > len(other.stages)
    first, second = (backbone_weights(n.state_dict()) for n in (row, other))
    assert list(first) == list(second) and all(
        first[key].shape == second[key].shape for key in first
    )
    assert (
        baseline(parts_of(name, 10, 3, 64))[COUNTED]
        .sum()
        .equals(baseline(parts_of(BACKBONES[name].baseline, 10, 3, 64))[COUNTED].sum())
    )


@pytest.mark.parametrize("builder", ["resnet50", "densenet169", "mobilenet_v3_small"])
def test_stages_are_torchvisions(builder):
    """With torchvision's stem, the stages compute what the features of the whole model compute."""
    name = next(name for name, row in BACKBONES.items() if row.builder == builder)
    torch.manual_seed(0)
    model = tv.get_model(builder, weights=None).eval()
    network = small(name, weights=model.state_dict(), keep_stem=True)
    h = network.stem(images())
    for stage in network.stages:
        h = stage(h)
    seen = []
    last = {"resnet50": "layer4", "densenet169": "features", "mobilenet_v3_small": "features.11"}[
        builder
    ]
    model.get_submodule(last).register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    model(images())
    torch.testing.assert_close(h, seen[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet169", "MobileNetV3Smallfull"])
def test_no_exit_changes_what_the_next_stage_reads(name):
    network = small(name).train()
    seen = {}
    for i, stage in enumerate(network.stages, 1):
        stage.register_forward_hook(
            lambda m, x, out, i=i: seen.update({i: (out, out.detach().clone())})
        )
        network.exits[str(i)].register_forward_hook(
            lambda m, x, out, i=i: torch.testing.assert_close(
                seen[i][0].detach(), seen[i][1], rtol=0, atol=0
            )
        )
    sum(o.square().mean() for o in network(images())).backward()
    assert len(seen) == len(network.stages)


def test_images_of_one_channel():
    network = small(channels=1)
    assert len(network(images(channels=1))) == 4
    assert network.stem[0][0].weight.shape == (16, 1, 3, 3)


@pytest.mark.parametrize("subset", [(4,), (1,), (2, 3), (1, 4), (3, 2, 1), (1, 2, 3, 4)])
def test_an_extracted_network_computes_what_those_exits_compute(subset):
    network = small()
    before, logits = copy.deepcopy(network.state_dict()), network(images())
    smaller = extract(network, subset)
    found = smaller(images())
    assert (
        smaller.positions == tuple(sorted(subset))
        and len(smaller.stages) == max(subset)
        and not smaller.training
    )
    for position, o in zip(sorted(subset), found if len(subset) > 1 else [found], strict=True):
        assert torch.equal(o, logits[position - 1])
    with torch.no_grad():
        for p in smaller.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())  # a copy


def test_a_pruned_network_can_be_pruned_again():
    network = small()
    twice = extract(extract(network, (1, 3, 4)), (1, 3))
    assert twice.positions == (1, 3) and len(twice.stages) == 3
    assert torch.equal(twice(images())[1], network(images())[2])
    with pytest.raises(Refusal, match="choose some of 1, 3"):
        extract(twice, (2,))
    with pytest.raises(Refusal, match="cannot be extracted"):
        extract(network, ())


def test_global_average_is_torchs():
    x, g = (
        images(4, 6, 7).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2)
    )
    ours, theirs = GlobalAverage()(x), nn.AdaptiveAvgPool2d(1)(g)
    torch.testing.assert_close(ours, theirs)
    for out in (ours, theirs):
        (out * images(4, 6, 1)).sum().backward()
    torch.testing.assert_close(x.grad, g.grad)


# ---------------------------------------------------------------------------------- another network

# one row each: what a user would add, and what torchvision's own model costs without its classifier
OTHERS = {
    "ResNet18": Backbone(
        "resnet18", "conv1+bn1+relu+maxpool", ("layer1", "layer2", "layer3", "layer4"), "linear"
    ),
    "SqueezeNet": Backbone(
        "squeezenet1_1",
        "features[0:3]",
        ("features[3:6]", "features[6:9]", "features[9:13]"),
        "linear",
    ),
    "ConvNeXtTiny": Backbone(
        "convnext_tiny",
        "features[0]",
        ("features[1]", "features[2:4]", "features[4:6]", "features[6:8]"),
        "linear",
    ),
    "RegNetY400": Backbone(
        "regnet_y_400mf", "stem", tuple(f"trunk_output.block{i}" for i in range(1, 5)), "linear"
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_torchvision_model_is_one_row(monkeypatch, name):
    row = OTHERS[name]
    monkeypatch.setitem(BACKBONES, name, row)
    network, model = build(name, 7), tv.get_model(row.builder, weights=None)
    classifier = {"resnet18": "fc", "regnet_y_400mf": "fc"}.get(row.builder, "classifier")
    dropped = sum(p.numel() for p in model.get_submodule(classifier).parameters())
    table = parts(network, 64)
    assert (
        table[table.part != "exit"].params.sum()
        == sum(p.numel() for p in model.parameters()) - dropped
    )
    stages, exits = table[table.part == "stage"], table[table.part == "exit"]
    assert exits.params.tolist() == [7 * (c + 1) for c in stages.channels]


def test_another_network_trains_and_is_pruned(monkeypatch):
    monkeypatch.setitem(BACKBONES, "SqueezeNet", OTHERS["SqueezeNet"])
    network = small("SqueezeNet", n_classes=7).train()
    x, y = images(8), torch.arange(8) % 7
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = sum(nn.functional.cross_entropy(o, y) for o in network(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(extract(network.eval(), (2,))(x), network(x)[1])


@pytest.mark.parametrize(
    "change, line",
    [
        ({"builder": "resnet1"}, "no model 'resnet1'"),
        ({"stem": "conv9"}, "no part 'conv9'"),
        ({"stages": ("layer1[0:9]",)}, "no part 'layer1\\[0:9\\]'"),
        ({"stages": ("layer1[a]",)}, "no part"),
        ({"stem": "bn1+relu"}, "must begin with a convolution"),
    ],
)
def test_a_wrong_row_is_told_in_one_line(monkeypatch, change, line):
    monkeypatch.setitem(BACKBONES, "Mine", OTHERS["ResNet18"]._replace(**change))
    with pytest.raises(Refusal, match=line) as refusal, torch.device("meta"):
        build("Mine", 10)
    assert "\n" not in str(refusal.value)


def test_wrong_arguments():
    with pytest.raises(Refusal, match="unknown network 'VGG19': choose one of ResNet50"):
        build("VGG19", 10)
    with pytest.raises(Refusal, match="use one of measured, proportional"):
        build("ResNet50", 10, hidden="big")
    with pytest.raises(Refusal, match="keep_stem needs"), torch.device("meta"):
        build("MobileNetV3Small", 10, channels=1, weights={}, keep_stem=True)
    with pytest.raises(Refusal, match="3 x 8 x 8 do not fit"):
        parts(shape_of("VGG16"), 8)
    with pytest.raises(Refusal, match="1 x 32 x 32 do not fit"):
        parts(shape_of("VGG16"), 32, channels=1)


# ------------------------------------------------------------------------------------------ weights


def test_given_weights_fill_all_but_the_first_module_and_the_exits():
    torch.manual_seed(5)
    model = tv.mobilenet_v3_small(weights=None)
    for p in (*model.parameters(), *model.buffers()):
        p.data = torch.rand_like(p.float()).to(p.dtype)
    given = model.state_dict()
    for name, options in (
        ("MobileNetV3Small", {}),
        ("MobileNetV3Smallfull", {"single": True, "channels": 1}),
    ):
        network, plain = small(name, weights=given, **options), small(name, **options)
        found, random = (backbone_weights(n.state_dict()) for n in (network, plain))
        first = [key for key in found if key.startswith("features.0.")]
        assert first and all(
            torch.equal(found[key], random[key]) for key in first
        )  # made anew, with its batch norm
        assert torch.equal(found["features.0.1.weight"], torch.ones(16))
        assert all(torch.equal(found[key], given[key]) for key in found.keys() - set(first))
        assert torch.equal(
            network.exits["5" if "full" in name else "4"][0].weight,
            plain.exits["5" if "full" in name else "4"][0].weight,
        )
    kept = backbone_weights(small(weights=given, keep_stem=True).state_dict())
    assert all(torch.equal(kept[key], given[key]) for key in kept)
    with pytest.raises(Refusal, match=r"do not fit features\.1 of MobileNetV3Small"):
        build(
            "MobileNetV3Small",
            10,
            weights={k: v for k, v in given.items() if not k.startswith("features.1.")},
        )


def test_the_weights_of_one_cut_fit_the_other():
    network = small("MobileNetV3Small", seed=3)
    other = small(
        "MobileNetV3Smallfull", weights=backbone_weights(network.state_dict()), keep_stem=True
    )
    assert torch.equal(*(nn.Sequential(n.stem, *n.stages)(images()) for n in (network, other)))


def test_the_files_are_the_first_imagenet_weights():
    """For ResNet50 the newer weights are the better ones, for VGG16 there are some of the features
    alone."""
    names = {
        name: tv.get_model_weights(row.builder).IMAGENET1K_V1.url.rpartition("/")[2]
        for name, row in BACKBONES.items()
        if not row.baseline
    }
    assert names == {
        "ResNet50": "resnet50-0676ba61.pth",
        "VGG16": "vgg16-397923af.pth",
        "DenseNet169": "densenet169-b2777c0a.pth",
        "MobileNetV3Small": "mobilenet_v3_small-047dcff4.pth",
        "EfficientNetB5": "efficientnet_b5_lukemelas-1a07897c.pth",
    }


@pytest.fixture
def published(tmp_path, monkeypatch):
    """(bytes of a weights file, its name): torchvision then claims to have all its weights in a
    file of that name."""
    made = tmp_path / "made.pth"
    names = ("features.denseblock1.denselayer1.norm.1.weight", "classifier.bias")
    torch.save(dict.fromkeys(names, torch.ones(2)), made)
    content = made.read_bytes()
    name = f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=f"https://example.org/{name}"))
    monkeypatch.setattr(imagenet.tv, "get_model_weights", lambda builder: weights)
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloaded without leave")
    )
    return content, name


def test_weights_are_read_from_a_folder(tmp_path, published):
    content, name = published
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / name).write_bytes(content)
    found = imagenet.weights("DenseNet169", tmp_path / "weights")
    assert list(found) == ["features.denseblock1.denselayer1.norm1.weight", "classifier.bias"]


def test_the_names_of_densenets_old_file(tmp_path, published):
    """All of them become the model's: with a number more for every layer inside a dense layer."""
    with torch.device("meta"):
        state = list(tv.densenet169(weights=None).state_dict())
    old = {
        key.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2")
        if "denselayer" in key
        else key: torch.zeros(1)
        for key in state
    }
    assert old.keys() != set(state)
    made = tmp_path / "old.pth"
    torch.save(old, made)
    imagenet.tv.get_model_weights("").IMAGENET1K_V1.url = f"model-{files.sha256_of(made)[:8]}.pth"
    made.rename(tmp_path / f"model-{files.sha256_of(made)[:8]}.pth")
    assert imagenet.weights("DenseNet169", tmp_path).keys() == set(state)


def test_missing_and_damaged_weights_are_refused(tmp_path, published, monkeypatch):
    content, name = published
    with pytest.raises(
        Refusal, match=f"{name} is missing: put https.*never fine-tuned from random"
    ) as refusal:
        imagenet.weights("ResNet50", tmp_path)
    assert "\n" not in str(refusal.value)
    (tmp_path / name).write_bytes(content[:-1])
    with pytest.raises(Refusal, match="is damaged"):
        imagenet.weights("ResNet50", tmp_path)
    monkeypatch.setattr(
        torch.hub, "get_dir", lambda: str(tmp_path / "hub")
    )  # where torch keeps what it fetched
    with pytest.raises(Refusal, match="checkpoints"):
        imagenet.weights("ResNet50")


def test_weights_are_fetched_when_allowed(tmp_path, published, monkeypatch):
    content, name = published
    folder, fetched = tmp_path / "new", []

    def download(url, path, progress):
        fetched.append(url)
        path.write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert imagenet.file_of("ResNet50", folder, download=True) == folder / name
    assert fetched == [f"https://example.org/{name}"]

    def fail(*given, **named):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(Refusal, match=r"cannot be fetched .*no network.*: fetch it elsewhere"):
        imagenet.file_of("ResNet50", tmp_path / "other", download=True)


def test_networks_are_values():
    """Exits may come in any order; a network is told by its parts alone."""
    stage = nn.Conv2d(3, 4, 1)
    network = Network(nn.Identity(), [stage, nn.Identity()], {2: nn.Flatten(), 1: nn.Flatten()})
    assert network.positions == (1, 2)
    assert [o.shape for o in network(images(2, 3, 2))] == [(2, 16), (2, 16)]
