"""Readers: from what lies on a disk to `Raw`, class names with images and labels per part.

Formats that torchvision knows are fetched, verified and listed by torchvision. A reader is a
function (root, download) -> Raw; `read` calls it and turns whatever goes wrong into one line.
"""

import csv
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision import datasets as tv
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from nat_lib import files
from nat_lib.data import folders
from nat_lib.data.catalogue import Archive, Dataset
from nat_lib.errors import Refusal

Listed = tuple[Sequence | np.ndarray, Sequence | np.ndarray]  # (images, labels) of a part


class Raw(NamedTuple):
    """A data set before it is decoded.

    parts    : {"train" | "val" | "test": (images, labels)}, at least train; images are a list of
               files, or a uint8 array (N, H, W, 3) where the archive holds pixels; labels (N,)
    left_out : what lies beside the images and is not used, in words
    scans    : (n, rows): the training images are those rows of a larger set of n, which is split as
               a whole, so that two data sets made from it never share images across splits
    as_shown : whether files are turned, coloured and laid on white as a viewer shows them; official
               data sets are read as the published pipelines read them
    """

    classes: Sequence[str]
    parts: Mapping[str, Listed]
    left_out: str = ""
    scans: tuple[int, Sequence[int]] | None = None
    as_shown: bool = False


# ----------------------------------------------------------------------------------------- embedded


def read_digits(root: Path | None, download: bool) -> Raw:
    """The 1 797 scans of 8x8 pixels that come with scikit-learn; grey levels 0..16 become 0..255 in
    three channels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Raw([str(c) for c in digits.target_names], {"train": (_coloured(grey), digits.target)})


def read_digits_turned(root: Path | None, download: bool) -> Raw:
    """The odd digits among the same scans, black on white and turned by a quarter: another task,
    with five classes, whose images fall into the same splits as the scans they come from."""
    raw = read_digits(root, download)
    images, labels = map(np.asarray, raw.parts["train"])
    odd = np.flatnonzero(labels % 2 == 1)
    turned = 255 - np.rot90(images[odd], axes=(1, 2))
    return Raw(
        raw.classes[1::2],
        {"train": (turned, labels[odd] // 2)},
        scans=(len(labels), odd.tolist()),
    )


# ------------------------------------------------------------------------------- folders of classes


def read_folder(root: Path, download: bool) -> Raw:
    """Class sub-folders of images, or train, val and test folders that hold them (val and test may
    be missing)."""
    found = folders.parts(root)
    if found:
        return _parts(found)._replace(as_shown=True)
    tree = folders.tree(root)
    return Raw(
        tree.classes,
        {"train": (tree.files, tree.labels)},
        left_out=folders.told(tree.left_out),
        as_shown=True,
    )


def read_cinic10(root: Path, download: bool) -> Raw:
    return _parts({"train": root / "train", "val": root / "valid", "test": root / "test"})


def read_tiny_imagenet(root: Path, download: bool) -> Raw:
    """The layout of the archive. Classes are wnids; the labelled official validation set serves as
    the test set."""
    train = folders.tree(_present(root / "train"))
    notes = _present(root / "val" / "val_annotations.txt")
    rows = [line.split("\t")[:2] for line in files.read_text(notes).splitlines() if line.strip()]
    unknown = sorted({wnid for _, wnid in rows} - set(train.classes))
    if unknown:
        raise Refusal(
            f"class {unknown[0]} of {notes} has no images in {root / 'train'}: "
            "unpack the archive again"
        )
    images = [root / "val" / "images" / name for name, _ in rows]
    labels = [train.classes.index(wnid) for _, wnid in rows]
    return Raw(train.classes, {"train": (train.files, train.labels), "test": (images, labels)})


def _parts(where: dict[str, Path]) -> Raw:
    trees = {part: folders.tree(_present(folder)) for part, folder in where.items()}
    classes = trees["train"].classes
    for part, tree in trees.items():
        alone = sorted(set(tree.classes) ^ set(classes))
        if alone:
            has, lacks = (part, "train") if alone[0] in tree.classes else ("train", part)
            raise Refusal(
                f"class {alone[0]} is in {where[has]} but not in {where[lacks]}: "
                "every split needs the same class folders"
            )
    left_out = sum((tree.left_out for tree in trees.values()), start=Counter())
    return Raw(
        classes,
        {part: (tree.files, tree.labels) for part, tree in trees.items()},
        left_out=folders.told(left_out),
    )


def _present(path: Path) -> Path:
    if not path.exists():
        raise Refusal(f"{path} is missing: unpack the archive again, or correct the root")
    return path


# -------------------------------------------------------------- formats that torchvision knows


def read_cifar10(root: Path, download: bool) -> Raw:
    return _cifar(tv.CIFAR10, root, download)


def read_cifar100(root: Path, download: bool) -> Raw:
    return _cifar(tv.CIFAR100, root, download)


def _cifar(dataset: type, root: Path, download: bool) -> Raw:
    train, test = (dataset(root, train=flag, download=download) for flag in (True, False))
    parts = {"train": (train.data, train.targets), "test": (test.data, test.targets)}
    return Raw(train.classes, parts)


def read_stl10(root: Path, download: bool) -> Raw:
    found = {part: tv.STL10(root, split=part, download=download) for part in ("train", "test")}
    parts = {part: (d.data.transpose(0, 2, 3, 1), d.labels) for part, d in found.items()}
    return Raw(found["train"].classes, parts)


def read_fashion_mnist(root: Path, download: bool) -> Raw:
    train, test = (tv.FashionMNIST(root, train=flag, download=download) for flag in (True, False))
    parts = {
        part: (_coloured(d.data.numpy()), d.targets)
        for part, d in (("train", train), ("test", test))
    }
    return Raw(train.classes, parts)


def read_food101(root: Path, download: bool) -> Raw:
    return _listed(tv.Food101, ("train", "test"), root, download)


def read_aircraft(root: Path, download: bool) -> Raw:
    return _listed(tv.FGVCAircraft, ("train", "val", "test"), root, download)


def read_dtd(root: Path, download: bool) -> Raw:
    return _listed(tv.DTD, ("train", "val", "test"), root, download)


def read_cars(root: Path, download: bool) -> Raw:
    return _listed(tv.StanfordCars, ("train", "test"), root, False)


def read_flowers102(root: Path, download: bool) -> Raw:
    """The 2 040 images of the official train and val parts are one pool, to be split. Thesis Table
    6.1."""
    raw = _listed(tv.Flowers102, ("train", "val", "test"), root, download)
    pool = [[*a, *b] for a, b in zip(raw.parts["train"], raw.parts["val"], strict=True)]
    return Raw(raw.classes, {"train": (pool[0], pool[1]), "test": raw.parts["test"]})


def read_eurosat(root: Path, download: bool) -> Raw:
    found = tv.EuroSAT(root, download=download, loader=Path)
    return Raw(found.classes, {"train": _items(found)})


def _listed(dataset: type, splits: Sequence[str], root: Path, download: bool) -> Raw:
    """Raw of a torchvision class that lists files; `splits` are its names of our parts."""
    found = {split: dataset(root, split=split, download=download, loader=Path) for split in splits}
    return Raw(list(found["train"].classes), {split: _items(d) for split, d in found.items()})


def _items(dataset: Sequence) -> Listed:
    """Files and labels of a torchvision data set whose loader is `Path`."""
    items = [dataset[i] for i in range(len(dataset))]
    return [path for path, _ in items], [label for _, label in items]


def read_pets(root: Path, download: bool) -> Raw:
    """torchvision verifies the archive, whose lists say "<image> <class, from 1> ..."."""
    home, parts = root / "oxford-iiit-pet", {}
    for part, split in (("train", "trainval"), ("test", "test")):
        found = tv.OxfordIIITPet(root, split=split, download=download)
        lines = files.read_text(home / "annotations" / f"{split}.txt").splitlines()
        rows = [line.split() for line in lines]
        images = [home / "images" / f"{row[0]}.jpg" for row in rows]
        parts[part] = (images, [int(row[1]) - 1 for row in rows])
    return Raw(found.classes, parts)


def read_gtsrb(root: Path, download: bool) -> Raw:
    """torchvision verifies the archives: training images in class folders, test labels in a
    table."""
    for split in ("train", "test"):
        tv.GTSRB(root, split=split, download=download)
    home = root / "gtsrb"
    train = folders.tree(home / "GTSRB" / "Training")
    table = files.read_text(home / "GT-final_test.csv").splitlines()
    rows = list(csv.DictReader(table, delimiter=";"))
    images = [home / "GTSRB" / "Final_Test" / "Images" / row["Filename"] for row in rows]
    labels = [int(row["ClassId"]) for row in rows]
    parts = {"train": (train.files, train.labels), "test": (images, labels)}
    return Raw([f"{c:02d}" for c in range(43)], parts)


def _coloured(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=3)


# --------------------------------------------------------------------------- reading, with refusals


def read(what: Dataset, root: Path | None, download: bool = False) -> Raw:
    """Raw of a data set; whatever is wrong with it becomes one line that names file and remedy."""
    if download and what.hint:
        raise Refusal(f"this data set cannot be downloaded any more: {what.hint}")
    remedy = what.hint or (
        "check the network" if download else "correct the root, or load(..., download=True)"
    )
    if root is not None and what.home:
        remedy += f" ({root / what.home})"
    reader = globals()[what.reader] if isinstance(what.reader, str) else what.reader
    try:
        if what.archive and root is not None and what.home:
            _unpack(root, what.home, what.archive, download)
            root = root / what.home
        raw = reader(root, download)
    except Refusal:
        raise
    # missing or damaged files, a checksum that differs, any failure of the network
    except Exception as error:
        told = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise Refusal(f"cannot read the data under {root} ({told}): {remedy}") from error
    parts = {
        part: (images, np.asarray(labels, np.int64)) for part, (images, labels) in raw.parts.items()
    }
    _check_classes(raw.classes, parts, root)
    return raw._replace(classes=list(raw.classes), parts=parts)


def _check_classes(
    classes: Sequence[str], parts: dict[str, tuple[Sequence, np.ndarray]], root: Path | None
) -> None:
    if len(classes) < 2:
        raise Refusal(
            f"{root} holds one class only ({classes[0]}): "
            "a classifier needs at least two class folders"
        )
    for part, (_, labels) in parts.items():
        missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if len(missing):
            raise Refusal(
                f"class {classes[missing[0]]} has no images in the {part} part of {root}: "
                "unpack the archive again, or remove the class everywhere"
            )


def _unpack(root: Path, home: str, archive: Archive, download: bool) -> None:
    """Unpack root/<archive> to root/home, all or nothing; fetch it first where that was asked
    for."""
    if (root / home).is_dir():
        return
    file = root / archive.url.rsplit("/", 1)[1]
    if download:
        download_url(archive.url, root, file.name, archive.md5)
    if not file.exists():
        raise FileNotFoundError(f"neither {home} nor {file.name}")
    if not check_integrity(file, archive.md5):
        raise Refusal(
            f"{file} is damaged (its MD5 is not {archive.md5}): delete it and download it again"
        )
    with files.atomic_folder(root / home) as fresh:
        extract_archive(file, fresh)
        inner = fresh / home
        if inner.is_dir():  # some archives hold the folder itself
            for item in inner.iterdir():
                shutil.move(item, fresh)
            inner.rmdir()
