"""Data sets, splits and batches: every archive format in miniature, every law, every refusal."""

import csv
import dataclasses
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import struct
import tarfile
import urllib.request
import zipfile
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image, ImageCms
from torchvision import datasets as tv
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from nat_lib.data import augment, folders, load, store
from nat_lib.data.batches import BATCH, ORDER, resolution_of, slices
from nat_lib.data.catalogue import AEP, CIFAR_MEAN, DATASETS, PLAIN, Transform
from nat_lib.data.loading import split_rows
from nat_lib.errors import Refusal
from nat_lib.studies import inputs

PARTS = ("train", "val", "test")
SIZES = (48, 52, 56, 60, 64)


def colour(label, part):
    """A colour that says which class and which part an image is from."""
    return 2 * label + 20, 240 - 2 * label, 40 + 70 * PARTS.index(part)


def paint(path, label, part="train", size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour(label, part)).save(path, quality=95)


def photo(path, rng, height=16, width=20):
    """A smooth random picture, stored without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)


def folder_of_photos(root, rng, classes=("ant", "bee", "cat"), n=12, sizes=((16, 20),)):
    for c in classes:
        for i in range(n):
            photo(root / c / f"{i:02d}.png", rng, *sizes[i % len(sizes)])
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def levels(x, d):
    """Normalised batch -> levels 0..255."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (d.mean, d.std))
    return (x * std + mean) * 255


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(p, q) and torch.equal(u, v) for (p, u), (q, v) in zip(a, b, strict=True)
    )


# ---------------------------------------------------------------------------- archives in miniature
# Each builder writes what the original archive unpacks to, two images per class and part, and
# returns the class count.


def cifar(root, monkeypatch, dataset, classes, key, names):
    home = root / dataset.base_folder
    home.mkdir(parents=True)
    labels = [*range(classes), *range(classes)]
    files = [(f, "train") for f, _ in dataset.train_list] + [
        (f, "test") for f, _ in dataset.test_list
    ]
    for file, part in files:
        pixels = np.array(
            [colour(c, part) for c in labels], np.uint8
        )  # red, then green, then blue plane
        entry = {"data": np.repeat(pixels, 1024, axis=1), key: labels}
        (home / file).write_bytes(pickle.dumps(entry))
    (home / dataset.meta["filename"]).write_bytes(
        pickle.dumps({names: [f"class {c}" for c in range(classes)]})
    )
    monkeypatch.setattr(dataset, "train_list", [[f, None] for f, _ in dataset.train_list])
    monkeypatch.setattr(dataset, "test_list", [[f, None] for f, _ in dataset.test_list])
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": None})
    return classes


def cifar10(root, monkeypatch):
    return cifar(root, monkeypatch, tv.CIFAR10, 10, "labels", "label_names")


def cifar100(root, monkeypatch):
    return cifar(root, monkeypatch, tv.CIFAR100, 100, "fine_labels", "fine_label_names")


def stl10(root, monkeypatch):
    home = root / "stl10_binary"
    home.mkdir(parents=True)
    labels = np.array([*range(10)] * 2, np.uint8)
    for part in ("train", "test"):
        pixels = np.array([colour(int(c), part) for c in labels], np.uint8)
        np.repeat(pixels, 96 * 96, axis=1).tofile(home / f"{part}_X.bin")
        (labels + 1).tofile(home / f"{part}_y.bin")
    (home / "unlabeled_X.bin").write_bytes(b"")
    (home / "class_names.txt").write_text("\n".join(f"class {c}" for c in range(10)))
    monkeypatch.setattr(tv.STL10, "train_list", [[f, None] for f, _ in tv.STL10.train_list])
    monkeypatch.setattr(tv.STL10, "test_list", [[f, None] for f, _ in tv.STL10.test_list])
    return 10


def fashion_mnist(root, monkeypatch):
    home = root / "FashionMNIST" / "raw"
    home.mkdir(parents=True)
    labels = np.array([*range(10)] * 2, np.uint8)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels = np.repeat(np.array([colour(int(c), part)[0] for c in labels], np.uint8), 28 * 28)
        (home / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, 20, 28, 28) + pixels.tobytes()
        )
        (home / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, 20) + labels.tobytes()
        )
    return 10


def food101(root, monkeypatch):
    home, names = root / "food-101", ["apple_pie", "baklava", "waffles"]
    for part in ("train", "test"):
        listed = {name: [f"{name}/{part}{i}" for i in range(2)] for name in names}
        (home / "meta").mkdir(parents=True, exist_ok=True)
        (home / "meta" / f"{part}.json").write_text(json.dumps(listed))
        for label, name in enumerate(names):
            for i in range(2):
                paint(home / "images" / name / f"{part}{i}.jpg", label, part, (20 + 4 * i, 16))
    return 3


def cars(root, monkeypatch):
    home = root / "stanford_cars"
    (home / "devkit").mkdir(parents=True)
    for part, file in (
        ("train", home / "devkit" / "cars_train_annos.mat"),
        ("test", home / "cars_test_annos_withlabels.mat"),
    ):
        rows = np.zeros(8, [("class", object), ("fname", object)])
        for i in range(8):
            rows[i] = (i % 4 + 1, f"{i:05d}.jpg")
            paint(home / f"cars_{part}" / f"{i:05d}.jpg", i % 4, part, (20 + i, 16))
        scipy.io.savemat(file, {"annotations": rows})
    names = np.array([f"car {c}" for c in range(4)], object)
    scipy.io.savemat(home / "devkit" / "cars_meta.mat", {"class_names": names})
    return 4


def aircraft(root, monkeypatch):
    home = root / "fgvc-aircraft-2013b" / "data"
    home.mkdir(parents=True)
    names = ["707-320", "A300 B4", "Yak-42"]
    (home / "variants.txt").write_text("\n".join(names))
    for part in PARTS:
        with open(home / f"images_variant_{part}.txt", "w") as file:
            for i in range(6):
                image = f"{1 + PARTS.index(part)}{i:06d}"
                file.write(f"{image} {names[i % 3]}\n")
                paint(home / "images" / f"{image}.jpg", i % 3, part, (20 + i, 16))
    return 3


def dtd(root, monkeypatch):
    home, names = root / "dtd" / "dtd", ["banded", "dotted", "woven"]
    (home / "labels").mkdir(parents=True)
    for part in PARTS:
        with open(home / "labels" / f"{part}1.txt", "w") as file:
            for i in range(6):
                image = f"{names[i % 3]}/{part}_{i}.jpg"
                file.write(image + "\n")
                paint(home / "images" / image, i % 3, part, (20, 16 + i))
    return 3


def pets(root, monkeypatch):
    home, names = root / "oxford-iiit-pet", ["Abyssinian", "american_bulldog", "Bengal"]
    (home / "annotations").mkdir(parents=True)
    for part, file in (("train", "trainval"), ("test", "test")):
        with open(home / "annotations" / f"{file}.txt", "w") as lines:
            for i in range(6):
                image = f"{names[i % 3]}_{i + 6 * (part == 'test')}"
                lines.write(f"{image} {i % 3 + 1} 1 1\n")
                paint(home / "images" / f"{image}.jpg", i % 3, part, (20, 16 + i))
    return 3


def flowers102(root, monkeypatch):
    home = root / "flowers-102"
    home.mkdir(parents=True)
    labels = np.tile(np.arange(1, 103), 3)
    numbers = np.arange(1, 307).reshape(3, 102)
    scipy.io.savemat(home / "imagelabels.mat", {"labels": labels[None]})
    scipy.io.savemat(
        home / "setid.mat",
        {key: numbers[i][None] for i, key in enumerate(("trnid", "valid", "tstid"))},
    )
    for i, label in enumerate(labels - 1):
        paint(home / "jpg" / f"image_{i + 1:05d}.jpg", int(label), PARTS[i // 102], (10, 12))
    files = tv.Flowers102._file_dict
    monkeypatch.setattr(
        tv.Flowers102, "_file_dict", {key: (name, None) for key, (name, _) in files.items()}
    )
    return 102


def eurosat(root, monkeypatch):
    for label, name in enumerate(("AnnualCrop", "Forest", "SeaLake")):
        for i in range(6):
            paint(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", label, "train", (16, 16))
    return 3


def gtsrb(root, monkeypatch):
    home = root / "gtsrb"
    for label in range(43):
        for i in range(2):
            paint(
                home / "GTSRB/Training" / f"{label:05d}" / f"{i:05d}.ppm",
                label,
                "train",
                (15 + label, 18),
            )
            paint(
                home / "GTSRB/Final_Test/Images" / f"{2 * label + i:05d}.ppm",
                label,
                "test",
                (18, 15 + label),
            )
    with open(home / "GT-final_test.csv", "w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerows([("Filename", "ClassId")] + [(f"{i:05d}.ppm", i // 2) for i in range(86)])
    return 43


def tiny_imagenet(root, monkeypatch):
    home, wnids = root / "tiny-imagenet-200", ["n01443537", "n01629819", "n01641577"]
    lines = []
    for label, wnid in enumerate(wnids):
        for i in range(8):
            paint(home / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", label, "train", (16, 16))
        (home / "train" / wnid / f"{wnid}_boxes.txt").write_text("not read")
    for i in range(6):
        paint(home / "val" / "images" / f"val_{i}.JPEG", i % 3, "test", (16, 16))
        lines.append(f"val_{i}.JPEG\t{wnids[i % 3]}\t0\t0\t9\t9")
    (home / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (home / "wnids.txt").write_text("\n".join(reversed(wnids)))
    return 3


def cinic10(root, monkeypatch):
    for part in PARTS:
        for label, name in enumerate(("airplane", "cat", "truck")):
            for i in range(2):
                folder = root / "CINIC-10" / ("valid" if part == "val" else part) / name
                paint(folder / f"{i}.png", label, part, (16, 16))
    return 3


ARCHIVES = (
    cifar10,
    cifar100,
    cinic10,
    stl10,
    food101,
    cars,
    aircraft,
    dtd,
    pets,
    flowers102,
    eurosat,
    fashion_mnist,
    gtsrb,
    tiny_imagenet,
)


@pytest.mark.parametrize("build", ARCHIVES, ids=lambda f: f.__name__)
def test_every_format_is_parsed_and_gives_batches(build, root, cache, monkeypatch):
    classes, name = build(root, monkeypatch), build.__name__
    official = DATASETS[name].valid is None
    shares = {} if official else {"valid": 1} | ({"test": 1} if name == "eurosat" else {})
    d = load(name, root, cache=cache, calibration_images=5, **shares)
    assert d.n_classes == len(d.classes) == classes

    split_off = ("train", "val") if name == "flowers102" else ("train",)
    official = {"test"} if not official else set(PARTS)
    official -= {"test"} if name == "eurosat" else set()
    for part, rows in d.rows.items():  # every pixel belongs to its label, every image to its part
        source = (part,) if part in official else split_off
        for row in rows:
            shown = d.store.image(row).float().mean((1, 2))
            wanted = torch.tensor(
                [colour(int(d.store.labels[row]), p) for p in source], dtype=torch.float32
            )
            channels = 1 if name == "fashion_mnist" else 3
            assert (shown - wanted)[:, :channels].abs().amax(1).min() < 4, (part, shown, wanted)

    batches = (
        list(d.train_batches(0, 8, (16, 24), seed=1))
        + list(d.eval_batches("val", 16, 8))
        + list(d.test_batches(16, 8, "a test of the format"))
    )
    for x, y in batches:
        assert (
            x.shape == (len(y), 3, x.shape[2], x.shape[2])
            and x.dtype == torch.float32
            and y.dtype == torch.int64
        )
        assert x.is_contiguous(memory_format=torch.channels_last) and x.isfinite().all()
    assert (
        sum(len(y) for _, y in d.train_batches(0, 8, (16,)))
        == len(d.train)
        == d.describe().images[0]
    )
    assert sum(map(len, d.calibration_batches(16))) == min(5, len(d.train))


def test_archives_are_unpacked_when_their_checksum_is_right(root, cache, monkeypatch):
    for build, file, home in (
        (cinic10, "CINIC-10.tar.gz", "CINIC-10"),
        (tiny_imagenet, "tiny-imagenet-200.zip", "tiny-imagenet-200"),
    ):
        name = build.__name__
        build(root, monkeypatch)
        if file.endswith(".zip"):
            with zipfile.ZipFile(root / file, "w") as archive:
                for path in (root / home).rglob("*"):
                    archive.write(path, path.relative_to(root))
        else:
            with tarfile.open(
                root / file, "w:gz"
            ) as archive:  # CINIC-10's has no folder of its own
                for path in (root / home).iterdir():
                    archive.add(path, path.name)
        shutil.rmtree(root / home)
        with pytest.raises(Refusal, match=f"{file} is damaged.*MD5"):
            load(name, root, cache=cache)
        archive = DATASETS[name].archive._replace(md5=tv.utils.calculate_md5(root / file))
        monkeypatch.setitem(DATASETS, name, DATASETS[name]._replace(archive=archive))
        assert load(name, root, cache=cache).n_classes == 3
        assert (
            load(name, root / home, cache=cache).n_classes == 3
        )  # the folder itself is a root, too


def test_turned_digits_are_the_odd_ones_inverted_and_turned_by_a_quarter(cache):
    plain, turned = (load(name, cache=cache) for name in ("digits", "digits_turned"))
    assert turned.classes == ("1", "3", "5", "7", "9")
    assert (
        turned.describe().images.tolist() == [606, 107, 193]
        and turned.describe().available.sum() == 906
    )
    odd = np.flatnonzero(plain.store.labels % 2)
    assert turned.store.labels.tolist() == [
        turned.classes.index(str(c)) for c in plain.store.labels[odd]
    ]
    for row, original in enumerate(odd):
        image = plain.store.image(original).numpy()  # (3, H, W)
        assert (turned.store.image(row).numpy() == 255 - np.rot90(image, axes=(1, 2))).all()
    x, y = next(turned.eval_batches("val", 16, 8))
    assert x.shape == (8, 3, 16, 16) and y.tolist() == turned.val.labels[:8].tolist()
    assert plain.home.parent != turned.home.parent  # neither splits nor logs are shared


def test_data_sets_made_from_the_same_scans_share_none_across_splits(cache):
    """A network pre-trained on one may be tested on the other."""
    for protocol in ("nat", "aep"):
        plain, turned = (
            load(name, cache=cache, protocol=protocol) for name in ("digits", "digits_turned")
        )
        odd = np.flatnonzero(plain.store.labels % 2)
        for part in PARTS:
            scans = set(odd[turned.rows[part]])
            assert scans and scans <= set(plain.rows[part])


# ------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("name", [n for n, what in DATASETS.items() if what.official])
def test_splits_have_the_sizes_of_the_thesis(name):
    what = DATASETS[name]
    train, val, test = what.official
    sizes = {"train": train + (val if what.valid else 0) + (test if what.test else 0)}
    sizes |= {} if what.valid else {"val": val}
    sizes |= {} if what.test else {"test": test}
    rows = split_rows(sizes, what.valid, what.test, 2147483647)
    assert tuple(len(rows[part]) for part in PARTS) == what.official
    assert np.array_equal(
        np.sort(np.concatenate(list(rows.values()))), np.arange(train + val + test)
    )


def test_validation_is_the_head_of_once_for_alls_permutation():
    rows = split_rows({"train": 100000, "test": 10000}, 0.15, None, 2147483647)
    order = torch.randperm(100000, generator=torch.Generator().manual_seed(2147483647))
    assert (
        rows["val"].tolist() == order[:15000].tolist()
        and rows["train"].tolist() == order[15000:].tolist()
    )


def test_thinned_splits_are_nested_and_reported(cache):
    small, large, full = (
        load("digits", cache=cache, train_images=n, val_images=n, test_images=n)
        for n in (20, 50, None)
    )
    for part in PARTS:
        assert (
            small.rows[part].tolist()
            == large.rows[part][:20].tolist()
            == full.rows[part][:20].tolist()
        )
    assert small.describe().images.tolist() == [20, 20, 20]
    assert (
        small.describe().available.tolist() == full.describe().images.tolist() == [1223, 215, 359]
    )


def test_other_seeds_split_differently_and_statistics_are_recorded(cache):
    a, b = load("digits", cache=cache), load("digits", cache=cache, seed=1)
    assert set(a.rows["val"]) != set(b.rows["val"]) and a.mean != b.mean
    pixels = np.stack([a.train[i] for i in range(len(a.train))]) / 255
    np.testing.assert_allclose(a.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(a.std, pixels.std((0, 1, 2)))


def test_a_named_data_set_may_lie_as_class_folders_and_keeps_its_own_rules(root, cache, rng):
    for part, n in (("train", 30), ("test", 4)):
        folder_of_photos(root / "cifar10" / part, rng, n=n, sizes=((32, 32),))
    data = load("cifar10", root, cache=cache)
    assert data.name == "cifar10" and data.classes == ("ant", "bee", "cat")
    assert {part: len(rows) for part, rows in data.rows.items()} == {
        "train": 81,
        "val": 9,
        "test": 12,
    }
    assert data.spec.extra == "AA" and data.mean == CIFAR_MEAN  # the table's, not those of "folder"


def test_folder_keeps_the_parts_it_has(root, cache, rng):
    folder_of_photos(root / "train", rng)
    folder_of_photos(root / "test", rng, n=2)
    d = load("folder", root, cache=cache, valid=0.25)
    assert d.describe().images.tolist() == [27, 9, 6]
    folder_of_photos(root / "val", rng, n=3)
    assert load("folder", root, cache=cache).describe().images.tolist() == [36, 9, 6]
    with pytest.raises(Refusal, match="its own val images"):
        load("folder", root, cache=cache, valid=0.25)


def test_aep_protocol_has_its_own_split_and_no_augmentation(root, cache, monkeypatch):
    tiny_imagenet(root, monkeypatch)
    d = load("tiny_imagenet", root, cache=cache, protocol="aep", valid=0.25)
    assert d.spec == PLAIN and AEP["tiny_imagenet"]["valid"] == 0.1
    order = torch.randperm(24, generator=torch.Generator().manual_seed(420))
    assert d.rows["val"].tolist() == order[:6].tolist()
    trained = torch.cat([x for x, _ in d.train_batches(0, 8, (24,))])
    plain = torch.cat([x for x, _ in d.eval_batches("train", 24, 8)])
    order = np.random.default_rng((ORDER, 0, 0)).permutation(len(plain))
    torch.testing.assert_close(trained, plain[order])


def test_grey_images_come_as_one_channel_on_request(root, cache, monkeypatch):
    fashion_mnist(root, monkeypatch)
    one, three = (load("fashion_mnist", root, cache=cache, channels=n) for n in (1, 3))
    x, _ = next(one.eval_batches("val", 32, 3))
    assert x.shape == (3, 1, 32, 32)
    torch.testing.assert_close(x, next(three.eval_batches("val", 32, 3))[0][:, :1])


# ------------------------------------------------------------------------------------------ batches


def test_resolutions_follow_the_published_law():
    for step, epoch in ((0, 0), (12, 7), (3, 119)):
        random.seed(int(str(step) + str(epoch).zfill(3)))
        assert resolution_of(step, epoch, SIZES) == random.choices(SIZES)[0]
    drawn = [resolution_of(step, epoch, SIZES) for step in range(100) for epoch in range(20)]
    assert set(drawn) == set(SIZES) and min(drawn.count(size) for size in SIZES) > 300


def test_drawing_resolutions_leaves_the_global_generators_alone(cache):
    d = load("digits", cache=cache, train_images=50)
    random.seed(3), torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    wanted = random.random(), torch.rand(1), np.random.rand()  # noqa: NPY002
    random.seed(3), torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    list(d.train_batches(0, 20, (16, 20), workers=2)), d.calibration_batches(16)
    assert wanted == (random.random(), torch.rand(1), np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize("extra", [None, "AA", "RA", "affine"])
def test_batches_depend_on_seed_epoch_and_step_only(extra, root, cache, rng):
    folder_of_photos(root, rng, sizes=((16, 20), (24, 18)))
    d = load("folder", root, cache=cache, transform=Transform(0.5, extra=extra))
    runs = [list(d.train_batches(3, 7, (16, 20, 24), seed=5, workers=n)) for n in (0, 1, 4)]
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])
    for epoch in range(4):  # epoch 3 after 0..2, and by another object on another thread count
        after = list(d.train_batches(epoch, 7, (16, 20, 24), seed=5))
    assert same(runs[0], after)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    again = load("folder", root, cache=cache, transform=Transform(0.5, extra=extra)).to("cpu")
    assert same(runs[0], list(again.train_batches(3, 7, (16, 20, 24), seed=5)))
    torch.set_num_threads(threads)
    assert [len(y) for _, y in after] == [7, 7, 7, 4] and d.n_batches(7) == 4
    assert sorted(torch.cat([y for _, y in after])) == sorted(d.train.labels)
    assert not same(after, list(d.train_batches(3, 7, (16, 20, 24), seed=6)))
    assert not same(after, list(d.train_batches(2, 7, (16, 20, 24), seed=5)))


def test_a_consumer_may_stop_early(cache):
    d = load("digits", cache=cache, train_images=60)
    first = [next(iter(d.train_batches(0, 10, (16,), workers=n))) for n in (0, 3)]
    assert same(first[:1], first[1:])


def test_calibration_is_fixed_and_drawn_from_training_images(cache):
    d = load("digits", cache=cache, train_images=90, calibration_images=25, transform=PLAIN)
    x = torch.cat(d.calibration_batches(16))
    chosen = torch.randperm(90, generator=torch.Generator().manual_seed(937162211))[:25]
    torch.testing.assert_close(
        x, torch.cat([b for b, _ in d.eval_batches("train", 16, 50)])[chosen]
    )
    moving = [
        load("digits", cache=cache, calibration_images=250).calibration_batches(20)
        for _ in range(2)
    ]
    assert [len(b) for b in moving[0]] == [100, 100, 50]
    assert all(torch.equal(a, b) for a, b in zip(*moving, strict=True))


def test_each_use_of_the_test_split_is_logged(cache):
    d = load("digits", cache=cache)
    assert not hasattr(d, "test")
    with pytest.raises(Refusal, match="test_batches"):
        next(d.eval_batches("test", 16, 8))
    for why in ("final table", "front of the search"):
        assert sum(len(y) for _, y in d.test_batches(16, 100, why)) == 359
    lines = (cache / "digits" / "test_uses.log").read_text().splitlines()
    assert [line.split("\t")[1:] for line in lines] == [
        ["359 images", "16 px", "final table"],
        ["359 images", "16 px", "front of the search"],
    ]


# --------------------------------------------------------------------------------------- transforms


def test_a_training_batch_is_torchvisions_crop_flip_and_resize(root, cache, rng):
    folder_of_photos(root, rng, sizes=((40, 50), (61, 33), (48, 48)))
    spec = Transform(0.3)
    d = load("folder", root, cache=cache, transform=spec)
    for step, (x, y) in enumerate(d.train_batches(1, 8, (24, 48, 64), seed=2)):
        size, n = x.shape[2], len(y)
        order = np.random.default_rng((ORDER, 2, 1)).permutation(len(d.train))
        order = order[slices(len(d.train), 8)[step]]
        draw = np.random.default_rng((BATCH, 2, 1, step))
        boxes = augment.random_boxes(
            d.store.original[d.rows["train"][order]], spec.scale, spec.ratio, draw
        )
        flips = draw.random(n) < 0.5
        for i, (top, left, height, width) in enumerate(zip(*boxes, strict=True)):
            image = torch.from_numpy(d.train[order[i]].copy()).permute(2, 0, 1)
            wanted = V.resized_crop(image, top, left, height, width, [size, size], antialias=True)
            wanted = V.horizontal_flip(wanted) if flips[i] else wanted
            assert (levels(x, d)[i] - wanted).abs().max() <= 1.01
            assert y[i] == d.train.labels[order[i]]


@pytest.mark.parametrize(
    "mode, reference",
    [
        (
            "CC",
            lambda r: v2.Compose(
                [v2.Resize(math.ceil(r / 0.875), antialias=True), v2.CenterCrop(r)]
            ),
        ),
        ("square_bilinear", lambda r: v2.Resize([r, r], antialias=True)),
        (
            "square_bicubic",
            lambda r: v2.Resize([r, r], v2.InterpolationMode.BICUBIC, antialias=True),
        ),
    ],
)
def test_evaluation_is_torchvisions(mode, reference, root, cache, rng):
    folder_of_photos(root, rng, sizes=((64, 64), (40, 57), (91, 50), (32, 32)))
    d = load("folder", root, cache=cache, transform=Transform(0.85, evaluate=mode))
    for size in SIZES:
        x = torch.cat([b for b, _ in d.eval_batches("train", size, 5)])
        for i, got in enumerate(levels(x, d)):
            wanted = reference(size)(torch.from_numpy(d.train[i].copy()).permute(2, 0, 1))
            assert (got - wanted).abs().max() <= 1.01


def test_central_crops_come_from_the_sizes_of_the_thesis():
    for size, resized in zip(SIZES, (55, 60, 64, 69, 74), strict=True):
        square = np.array([[64, 64]])
        axis, _ = augment.eval_axes("CC", square, square, size)
        assert round(64 / axis.step[0]) == resized and axis.start[0] / axis.step[0] == round(
            (resized - size) / 2
        )


def test_boxes_obey_torchvisions_law(rng):
    shape = np.tile([[90, 60]], (4000, 1))
    ours = np.stack(augment.random_boxes(shape, 0.25, (3 / 4, 4 / 3), rng), 1)
    torch.manual_seed(0)
    theirs = np.array(
        [
            v1.RandomResizedCrop.get_params(torch.zeros(1, 90, 60), [0.25, 1.0], [3 / 4, 4 / 3])
            for _ in range(4000)
        ]
    )
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.8)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.8)
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= [90, 60]).all()


@pytest.mark.parametrize("height, width", [(10, 100), (100, 10), (30, 40), (77, 50)])
def test_boxes_of_the_whole_area_fall_back_to_a_central_crop(height, width, rng):
    top, left, h, w = augment.random_boxes(
        np.array([[height, width]] * 5), 1.0, (3 / 4, 4 / 3), rng
    )
    if max(height, width) / min(height, width) > 4 / 3:
        wanted = v1.RandomResizedCrop.get_params(
            torch.zeros(1, height, width), [1.0, 1.0], [3 / 4, 4 / 3]
        )
        assert all(box == wanted for box in zip(top, left, h, w, strict=True))
    square = augment.random_boxes(np.array([[height, height]] * 5), 1.0, (1.0, 1.0), rng)
    assert all(box == (0, 0, height, height) for box in zip(*square, strict=True))


def test_large_images_are_kept_small_but_cropped_as_if_whole(root, cache, rng):
    folder_of_photos(root, rng, n=6, sizes=((300, 420), (500, 260)))
    spec = Transform(0.6, flip=False)
    whole, kept = (load("folder", root, cache=cache, transform=spec, store=n) for n in (600, 96))
    assert (
        kept.store.side.min() == kept.store.side.min(1).max() == 96
        and (whole.store.side > 96).all()
    )
    np.testing.assert_array_equal(kept.store.original, whole.store.original)
    for (a, _), (b, _) in zip(
        whole.train_batches(0, 6, (32,)), kept.train_batches(0, 6, (32,)), strict=True
    ):
        assert (
            levels(a, whole) - levels(b, kept)
        ).abs().mean() < 2  # two resizes, slightly smoother than one
    with pytest.raises(Refusal, match="store=384"):
        kept.train_batches(0, 6, (64, 128))


@pytest.mark.parametrize(
    "name, value",
    [
        ("ShearX", 0.213),
        ("ShearY", -0.17),
        ("TranslateX", 9),
        ("TranslateY", -7),
        ("Rotate", 13.3),
        ("Brightness", 1.6),
        ("Color", 0.4),
        ("Contrast", 1.7),
        ("Sharpness", 0.2),
        ("Posterize", 5),
        ("Solarize", 200),
        ("AutoContrast", 0),
        ("Equalize", 0),
        ("Invert", 0),
    ],
)
def test_operations_are_torchvisions(name, value, rng):
    x = torch.from_numpy(rng.integers(0, 256, (2, 3, 24, 24), dtype=np.uint8))
    theirs = {
        "Solarize": value / 255,
        "Brightness": value - 1,
        "Color": value - 1,
        "Contrast": value - 1,
        "Sharpness": value - 1,
    }.get(name, value)
    wanted = v2.AutoAugment()._apply_image_or_video_transform(
        x.clone(), name, theirs, v2.InterpolationMode.NEAREST, {torch.Tensor: None}
    )
    got = augment.apply(x.clone(), [[(name, value)] * 2])
    assert (got.int() - wanted.int()).abs().max() <= 1
    only_second = augment.apply(x.clone(), [[None, (name, value)]])
    assert torch.equal(only_second[0], x[0]) and torch.equal(only_second[1], got[1])


def test_policies_draw_what_they_should(rng):
    first, second = augment.auto_augment(4000, 64, rng)
    used = {op[0] for op in first + second if op}
    assert used == {name for policy in augment.POLICIES for name, p, _ in policy if p > 0}
    assert (
        abs(
            sum(op is not None for op in first) / 4000
            - np.mean([p[0][1] for p in augment.POLICIES])
        )
        < 0.03
    )
    first, second = augment.rand_augment(4000, 48, rng)
    names = [op[0] for op in first + second if op]
    assert len(set(names)) == 15 and abs(len(names) / 8000 - 0.5) < 0.03
    values = {
        name: [abs(op[1]) for op in first + second if op and op[0] == name] for name in set(names)
    }
    assert (
        abs(np.mean(values["TranslateX"]) - 21 * 0.9) < 0.2
        and abs(np.mean(values["Rotate"]) - 27) < 0.3
    )
    assert abs(np.mean(values["Color"]) - 1.72) < 0.02 and set(values["Posterize"]) <= {2, 3, 4}


def test_affine_moves_the_whole_image(rng):
    image = torch.from_numpy(rng.integers(0, 256, (3, 30, 40), dtype=np.uint8))
    assert torch.equal(augment.random_affine(image, (0.5, 0.5, 0.5, 1 / 3)), image)
    shifted = augment.random_affine(image, (0.5, 1.0, 0.5, 1 / 3))
    assert torch.equal(shifted[:, :, 16:], image[:, :, :24]) and not shifted[:, :, :16].any()


def test_calibration_translates_by_the_smallest_training_size(root, cache, rng, monkeypatch):
    folder_of_photos(root, rng)
    seen, draw = [], augment.rand_augment
    monkeypatch.setattr(
        augment,
        "rand_augment",
        lambda n, smallest, rng: seen.append(smallest) or draw(n, smallest, rng),
    )
    spec = Transform(0.3, extra="RA")
    load("folder", root, cache=cache, transform=spec, smallest=16).calibration_batches(24)
    load("folder", root, cache=cache, transform=spec).calibration_batches(24)
    assert seen == [16, 24]


@pytest.mark.parametrize(
    "n, size", [(147, 146), (9, 8), (294, 100), (17, 4), (8, 4), (1, 4), (5, 9)]
)
def test_a_rest_of_one_image_joins_the_batch_before_it(n, size):
    parts = slices(n, size)
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in parts]
    assert set(lengths[:-1]) <= {size} and (lengths[-1] > 1 or n == 1)
    assert lengths[-1] <= size + 1


def test_no_batch_that_is_normalised_holds_one_image(root, cache, rng):
    folder_of_photos(root, rng)  # 25 training images
    d = load("folder", root, cache=cache)
    assert len(d.train) == 25
    assert [len(y) for _, y in d.train_batches(0, 12, (16,))] == [12, 13]
    assert d.n_batches(12) == 2 and d.n_batches(10) == 3
    calibrated = dataclasses.replace(d, calibration=(17, 8))
    assert [len(x) for x in calibrated.calibration_batches(16)] == [8, 9]
    assert [len(y) for _, y in d.eval_batches("train", 16, 12)] == [12, 12, 1]


def test_a_constant_channel_is_normalised_by_one(root, cache, rng):
    for c in ("ant", "bee"):
        for i in range(12):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            pixels[..., 2] = 77
            (root / c).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / c / f"{i}.png")
    d = load("folder", root, cache=cache)
    assert d.std[2] == 1.0 and d.mean[2] == pytest.approx(77 / 255) and 0.2 < d.std[0] < 0.4
    x, _ = next(d.train_batches(0, 8, (8,)))
    assert x.isfinite().all() and x[:, 2].abs().max() < 1e-3


# -------------------------------------------------------------------- what lies in people's folders


def upright(path, how):
    """A picture whose upper half is red, stored as `how` says; a viewer shows them all alike."""
    picture = Image.new("RGB", (20, 30), "blue")
    picture.paste("red", (0, 0, 20, 15))
    kept = {}
    if how.startswith("exif"):
        kept["exif"] = Image.Exif()
        kept["exif"][0x0112] = 6
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    elif how == "transparent":
        alpha = Image.new("L", picture.size, 255)
        alpha.paste(0, (0, 15, 20, 30))
        picture.putalpha(alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **kept)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_a_viewer_turns_them(root, suffix):
    for how in ("plain", "exif"):
        upright(root / f"{how}.{suffix}", how)
    plain, turned = (
        store.decode(root / f"{how}.{suffix}", 192, as_shown=True) for how in ("plain", "exif")
    )
    assert turned.size == plain.size == (30, 20)
    assert np.abs(turned.pixels.astype(int) - plain.pixels).mean() < 12
    if suffix != "tif":  # which Pillow always turns
        lying = store.decode(root / f"exif.{suffix}", 192)  # as the published pipelines read it
        assert lying.size == (20, 30)


def test_damaged_exif_says_nothing(root):
    upright(root / "a.jpg", "plain")
    with Image.open(root / "a.jpg") as image:
        image.save(root / "b.jpg", exif=b"Exif\0\0no such thing")
    assert store.decode(root / "b.jpg", 192, as_shown=True).size == (30, 20)


def test_transparent_parts_are_white_and_profiles_are_followed(root):
    upright(root / "a.png", "transparent")
    pixels = store.decode(root / "a.png", 192, as_shown=True).pixels  # (W, H, 3)
    assert (pixels[:, :15] == (255, 0, 0)).all() and (pixels[:, 15:] == 255).all()
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for name, profile in (("lab", wide), ("broken", b"no profile")):
        Image.new("RGB", (8, 8), (200, 100, 50)).save(root / f"{name}.png", icc_profile=profile)
        assert store.decode(root / f"{name}.png", 192, as_shown=True).pixels.shape == (8, 8, 3)


def test_what_pillow_reads_is_read_and_the_rest_is_named(root, cache, rng, capsys):
    for c in ("ant", "bee"):
        for i, (name, kind) in enumerate(
            [("jfif", "JPEG"), ("JPE", "JPEG"), ("gif", "GIF"), ("", "PNG"), ("dat", "PNG")] * 2
        ):
            path = root / c / (f"{i}.{name}" if name else f"{i}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(path, kind)
        (root / c / "notes.txt").write_text("not an image")
        (root / c / "Thumbs.db").write_bytes(b"\0")
        photo(root / c / ".thumbnails" / "0.png", rng)
        (root / c / "gone.png").symlink_to(root / "nowhere.png")
    d = load("folder", root, cache=cache)
    assert len(d.store.labels) == 20
    words = "4 hidden or system, 2 .txt, 2 dead link"
    assert f"{words} left out" in capsys.readouterr().err
    assert d.describe().split.tolist() == [*PARTS, f"left out: {words}"]


def test_links_are_followed_and_their_changes_are_noticed(root, cache, rng, tmp_path):
    away = folder_of_photos(tmp_path / "away", rng, classes=("a", "b"), n=10)
    folder_of_photos(root, rng, classes=("ant",), n=10)
    (root / "bee").symlink_to(away / "a")  # a class that is a link
    (root / "ant" / "more").symlink_to(away / "b")  # and a linked sub-folder
    (root / "ant" / "more" / "round").symlink_to(root / "ant")  # which leads back
    before = load("folder", root, cache=cache)
    assert np.bincount(before.store.labels).tolist() == [20, 10]
    seen = folders.originals("folder", root)
    photo(away / "a" / "00.png", rng, 30, 31)
    assert folders.originals("folder", root) != seen
    assert load("folder", root, cache=cache).fingerprint != before.fingerprint


def test_images_that_change_under_their_names_change_identity_and_statistics(root, cache, rng):
    folder_of_photos(root, rng)
    before, known = (
        load("folder", root, cache=cache),
        inputs.identity(load("folder", root, cache=cache)),
    )
    assert known == inputs.identity(load("folder", root, cache=cache, store=12))  # of the originals
    for path in sorted(root.rglob("*.png")):
        photo(path, rng)
    after = load("folder", root, cache=cache)
    assert after.rows["train"].tolist() == before.rows["train"].tolist()
    assert inputs.identity(after) != known and after.mean != before.mean
    again = load("folder", root, cache=cache)
    assert (again.mean, again.fingerprint) == (after.mean, after.fingerprint)


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("train_set", "valid_set", "test_set"),
        ("TRAIN-IMAGES", "dev", "test"),
    ],
)
def test_parts_of_a_split_are_known_by_any_usual_name(names, root, cache, rng):
    for name, n in zip(names, (6, 2, 3), strict=True):
        folder_of_photos(root / name, rng, n=n)
    d = load("folder", root, cache=cache)
    assert d.classes == ("ant", "bee", "cat") and d.describe().images.tolist() == [18, 6, 9]


def test_a_class_may_be_called_like_a_part(root, cache, rng):
    folder_of_photos(root, rng, classes=("plane", "train"))
    assert load("folder", root, cache=cache).classes == ("plane", "train")


def test_parts_of_other_names_are_not_taken_for_classes(root, cache, rng):
    for name in ("fold1", "fold2"):
        folder_of_photos(root / name, rng)
    with pytest.raises(
        Refusal, match=r"all folders of .* \(fold1, fold2\) hold the same sub-folders"
    ):
        load("folder", root, cache=cache)


def test_a_part_that_is_there_twice_is_refused(root, cache, rng):
    for name in ("train", "Training"):
        folder_of_photos(root / name, rng)
    with pytest.raises(Refusal, match="both the train part"):
        load("folder", root, cache=cache)


def test_a_class_name_that_is_not_utf8_is_refused(root, cache, rng):
    folder_of_photos(root, rng)
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(Refusal, match=r"caf.*is not UTF-8: rename it"):
        load("folder", root, cache=cache)


def test_all_images_that_cannot_be_used_are_told_at_once(root, cache, rng, monkeypatch):
    folder_of_photos(root, rng)
    for name in ("ant/00.png", "bee/03.png"):
        (root / name).write_bytes(b"no image")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    photo(root / "cat" / "05.png", rng, 60, 60)
    with pytest.raises(Refusal) as refusal:
        load("folder", root, cache=cache)
    line = str(refusal.value)
    assert line.startswith("3 images cannot be used") and "\n" not in line
    assert all(name in line for name in ("ant/00.png", "bee/03.png"))
    assert re.search(r"cat/05\.png is too large .*: make it smaller or delete it", line)
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(Refusal, match=r"36 images cannot be used: .*; and 26 more$"):
        load("folder", root, cache=cache)


def test_the_cache_lies_where_the_environment_says(root, rng, tmp_path, monkeypatch):
    folder_of_photos(root, rng)
    monkeypatch.setenv("NAT_CACHE", str(tmp_path / "elsewhere"))
    assert tmp_path / "elsewhere" in load("folder", root).home.parents


# -------------------------------------------------------------------------------------------- cache


def test_images_are_decoded_once_and_again_when_they_change(root, cache, rng, monkeypatch):
    folder_of_photos(root, rng)
    decoded, decode = [], store.decode
    monkeypatch.setattr(
        store, "decode", lambda path, *how: decoded.append(path) or decode(path, *how)
    )
    first = load("folder", root, cache=cache)
    assert (
        load("folder", root, cache=cache).train[0].tolist() == first.train[0].tolist()
        and len(decoded) == 36
    )
    photo(root / "ant" / "00.png", rng, 17, 21)
    second = load("folder", root, cache=cache)
    assert len(decoded) == 72 and len(list(cache.glob("folder-*/store192-*"))) == 1
    assert (
        second.rows["train"].tolist() == first.rows["train"].tolist()
    )  # pixels changed, the split did not
    load("folder", root, cache=cache, store=64)
    assert len(decoded) == 108 and len(list(cache.glob("folder-*/store*"))) == 2
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    load("folder", root, cache=cache)
    assert len(decoded) == 144


def test_a_killed_build_leaves_nothing_that_counts(root, cache, rng, monkeypatch):
    folder_of_photos(root, rng)
    decode, last = store.decode, root / "cat" / "11.png"
    pid = os.fork()
    if pid == 0:
        store.decode = lambda path, *how: (
            os.kill(os.getpid(), signal.SIGKILL) if path == last else decode(path, *how)
        )
        load("folder", root, cache=cache)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    left = [p.name for p in cache.glob("folder-*/*")]
    assert any(name.startswith(".tmp-") for name in left) and not any(
        name.startswith("store") for name in left
    )
    assert len(load("folder", root, cache=cache).store.labels) == 36
    assert not list(cache.glob("folder-*/.tmp-*"))


def test_an_interrupted_build_starts_anew(root, cache, rng, monkeypatch):
    folder_of_photos(root, rng)
    with monkeypatch.context() as patch:
        patch.setattr(store, "decode", lambda path, *how: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load("folder", root, cache=cache)
    assert len(load("folder", root, cache=cache).store.labels) == 36


def test_a_split_is_refused_once_the_list_of_images_changed(root, cache, rng):
    folder_of_photos(root, rng)
    load("folder", root, cache=cache)
    photo(root / "ant" / "99.png", rng)
    with pytest.raises(Refusal, match="added, removed or renamed"):
        load("folder", root, cache=cache)
    next(cache.glob("folder-*/split-*.json")).unlink()
    assert len(load("folder", root, cache=cache).store.labels) == 37


def test_damaged_cache_files_are_refused(cache):
    home = load("digits", cache=cache).home
    path = next(cache.glob("digits/split-*.json"))
    text = path.read_text()
    path.write_text(text.replace('"train": [\n  ', '"train": [\n  1'))
    with pytest.raises(Refusal, match="is damaged: delete it"):
        load("digits", cache=cache)
    path.write_text(text)
    (home / "pixels.u8").write_bytes(b"short")
    with pytest.raises(Refusal, match="is damaged: delete the folder"):
        load("digits", cache=cache)


# ----------------------------------------------------------------------------------------- refusals


def spoil(kind, root, rng):
    folder_of_photos(root, rng, n=4)
    image = root / "bee" / "01.png"
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:-200])
    elif kind == "not an image":
        image.write_text("hello")
    elif kind == "deep":
        Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(image)
    elif kind == "empty class":
        (root / "wasp").mkdir()
    elif kind == "one class":
        shutil.rmtree(root / "ant"), shutil.rmtree(root / "cat")
    elif kind == "no classes":
        for folder in list(root.iterdir()):
            shutil.rmtree(folder)
        photo(root / "picture.png", rng)
    elif kind == "rare class":
        for i in range(1, 4):
            (root / "ant" / f"0{i}.png").unlink()
    else:
        (root.parent / "all").mkdir()
        shutil.move(root, root.parent / "all" / "train")
        shutil.move(root.parent / "all", root)
        folder_of_photos(root / "test", rng, n=2)
        if kind == "one split":
            photo(root / "test" / "wasp" / "00.png", rng)
        elif kind == "missing in test":
            shutil.rmtree(root / "test" / "bee")
        elif kind == "odd split":
            folder_of_photos(root / "holdout", rng, n=2)


@pytest.mark.parametrize(
    "kind, line",
    [
        ("truncated", r"bee/01\.png cannot be read as an image .*replace it or delete it"),
        ("not an image", r"bee/01\.png cannot be read as an image"),
        ("deep", r"bee/01\.png has more than 8 bits per channel"),
        ("empty class", r"class folder .*wasp holds no images"),
        ("one class", r"one class only \(bee\)"),
        ("no classes", r"holds no class folders"),
        ("one split", r"class wasp is in .*test but not in .*train"),
        ("missing in test", r"class bee is in .*train but not in .*test"),
        ("odd split", r"holdout lies beside .*train: rename it to val or test"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(kind, line, root, cache, rng):
    spoil(kind, root, rng)
    with pytest.raises(Refusal, match=line) as refusal:
        load("folder", root, cache=cache)
    assert "\n" not in str(refusal.value)
    assert not list(cache.glob("folder-*/store*/meta.json"))


def test_a_class_that_falls_into_one_split_is_refused(root, cache, rng):
    spoil("rare class", root, rng)
    seed = next(s for s in range(99) if 0 not in split_rows({"train": 9}, 0.3, 0.3, s)["train"])
    with pytest.raises(
        Refusal, match="class ant has 1 images and none of them fell into the training split"
    ):
        load("folder", root, cache=cache, seed=seed, valid=0.3, test=0.3)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("imagenet",), "unknown data set 'imagenet': choose one of digits, digits_turned, folder"),
        (("cifar10",), "cifar10 needs root=.*cifar-10-batches-py"),
        (("folder", "/no/such/folder"), "/no/such/folder is not a folder"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, line, cache):
    with pytest.raises(Refusal, match=line):
        load(*arguments, cache=cache)


def test_wrong_options_are_refused(cache, root, rng):
    with pytest.raises(Refusal, match="protocol"):
        load("digits", cache=cache, protocol="ofa")
    with pytest.raises(Refusal, match="evaluate one of"):
        load("digits", cache=cache, transform=Transform(1.0, evaluate="center"))
    cache.mkdir()
    (cache / "digits").write_text("a file where the cache should be")
    with pytest.raises(Refusal, match="cannot use the cache folder"):
        load("digits", cache=cache)
    (cache / "digits").unlink()
    with pytest.raises(Refusal, match="train_images is 0"):
        load("digits", cache=cache, train_images=0)
    with pytest.raises(Refusal, match="too few to take 5000"):
        load("digits", cache=cache, valid=5000)
    folder_of_photos(root, rng, n=1)
    with pytest.raises(Refusal, match="3 images are too few"):
        load("folder", root, cache=cache)


@pytest.mark.parametrize("name", [n for n, what in DATASETS.items() if what.home])
def test_a_root_without_the_data_set_says_where_it_belongs(name, root, cache):
    root.mkdir()
    with pytest.raises(Refusal, match=DATASETS[name].home) as refusal:
        load(name, root, cache=cache)
    assert "\n" not in str(refusal.value) and ("download=True" in str(refusal.value)) == (
        name != "cars"
    )


@pytest.mark.parametrize(
    "name", ["food101", "cifar10", "fashion_mnist", "flowers102", "tiny_imagenet", "cinic10"]
)
def test_a_download_without_network_is_one_line(name, root, cache, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    root.mkdir()
    with pytest.raises(Refusal, match="check the network") as refusal:
        load(name, root, cache=cache, download=True)
    assert "\n" not in str(refusal.value)


def test_stanford_cars_says_what_to_put_where(root, cache):
    root.mkdir()
    with pytest.raises(
        Refusal, match=r"cannot be downloaded any more: put cars_train/.*stanford_cars/"
    ):
        load("cars", root, cache=cache, download=True)


def test_a_corrupt_archive_file_is_named_by_its_checksum(root, cache, monkeypatch):
    cifar10(root, monkeypatch)
    monkeypatch.undo()
    with pytest.raises(Refusal, match="corrupted"):
        load("cifar10", root, cache=cache)
