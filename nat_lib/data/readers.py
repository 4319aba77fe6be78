"""From what lies on a disk to one flat file of pixels: archive formats, folders of images, the
decoded store.

A reader turns a data set into `Raw`: class names and, per part, images and labels. `open_store`
decodes every image once into a memory-mapped uint8 file under a cache folder, and reads nothing
else until the originals change. Formats that torchvision knows are parsed, fetched and verified by
torchvision.
"""

import fcntl
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import datasets as tv
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from nat_lib import machine
from nat_lib.errors import Refusal
from nat_lib.files import atomic, hash_of, read_json, write_json

VERSION = 1  # of the store; another number decodes everything again
SUFFIXES = {s.lower() for s in tv.folder.IMG_EXTENSIONS}
WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow would clip these to white


class Raw(NamedTuple):
    """A data set before it is decoded. parts: {"train" | "val" | "test": (images, labels)}, at
    least train.

    images : a list of files, or a uint8 array (N, H, W, 3) where the archive holds pixels;  labels
             : (N,) int64
    """

    classes: list
    parts: dict


class Store(NamedTuple):
    """Decoded images in one flat uint8 tensor (memory-mapped, or on a device), every image column
    by column.

    Image i is pixels[offset[i]:][:W * H * 3] as (W, H, 3) with (H, W) = side[i]. Columns come first
    because the first pass of a resize is the horizontal one and then adds contiguous rows.
    original[i] is (H, W) before shrinking.
    """

    pixels: torch.Tensor
    side: np.ndarray  # (N, 2) int64
    original: np.ndarray  # (N, 2) int64
    offset: np.ndarray  # (N,) int64
    labels: np.ndarray  # (N,) int64
    uniform: bool  # all images have the same size

    def image(self, i):
        """Image i as a (3, H, W) uint8 tensor: a view."""
        height, width = self.side[i].tolist()
        start = int(self.offset[i])
        return (
            self.pixels[start : start + width * height * 3].view(width, height, 3).permute(2, 1, 0)
        )


# ------------------------------------------------------------------------------------------ readers


def read_digits(root, download):
    """The 1 797 scans of 8x8 pixels that come with scikit-learn; grey levels 0..16 become 0..255 in
    three channels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Raw([str(c) for c in digits.target_names], {"train": (_coloured(grey), digits.target)})


def read_digits_turned(root, download):
    """The odd digits among the same scans, black on white and turned by a quarter: another task,
    with five classes."""
    raw = read_digits(root, download)
    images, labels = raw.parts["train"]
    odd = labels % 2 == 1
    return Raw(
        raw.classes[1::2], {"train": (255 - np.rot90(images[odd], axes=(1, 2)), labels[odd] // 2)}
    )


EMBEDDED = (read_digits, read_digits_turned)  # they need no folder


def read_folder(root, download):
    """Class sub-folders of images, or train/, val/ and test/ that hold them (val and test may be
    missing)."""
    if not (root / "train").is_dir() or not _folders(root / "train"):
        classes, part = _tree(root)
        return Raw(classes, {"train": part})
    unknown = [f.name for f in _folders(root) if f.name not in ("train", "val", "test")]
    if unknown:
        raise Refusal(
            f"{root / unknown[0]} lies beside {root / 'train'}: rename it to val or test, or move it away"
        )
    return _parts(
        {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    )


def read_cinic10(root, download):
    return _parts({"train": root / "train", "val": root / "valid", "test": root / "test"})


def read_tiny_imagenet(root, download):
    """The layout of the archive. Classes are wnids; the labelled official validation set serves as
    the test set."""
    classes, train = _tree(_present(root / "train"))
    notes = _present(root / "val" / "val_annotations.txt")
    rows = [line.split("\t")[:2] for line in notes.read_text().splitlines() if line.strip()]
    unknown = sorted({wnid for _, wnid in rows} - set(classes))
    if unknown:
        raise Refusal(
            f"class {unknown[0]} of {notes} has no images in {root / 'train'}: unpack the archive again"
        )
    labels = [classes.index(wnid) for _, wnid in rows]
    return Raw(
        classes,
        {"train": train, "test": ([root / "val" / "images" / name for name, _ in rows], labels)},
    )


def read_cifar(dataset):
    def read(root, download):
        train, test = (dataset(root, train=flag, download=download) for flag in (True, False))
        return Raw(
            train.classes, {"train": (train.data, train.targets), "test": (test.data, test.targets)}
        )

    return read


def read_stl10(root, download):
    train, test = (tv.STL10(root, split=part, download=download) for part in ("train", "test"))
    return Raw(
        train.classes,
        {
            part: (d.data.transpose(0, 2, 3, 1), d.labels)
            for part, d in (("train", train), ("test", test))
        },
    )


def read_fashion_mnist(root, download):
    train, test = (tv.FashionMNIST(root, train=flag, download=download) for flag in (True, False))
    return Raw(
        train.classes,
        {
            part: (_coloured(d.data.numpy()), d.targets)
            for part, d in (("train", train), ("test", test))
        },
    )


def read_listed(dataset, *splits):
    """Reader of a torchvision class that lists files and labels; `splits` are its names of train (,
    val), test."""

    def read(root, download):
        found = [dataset(root, split=split, download=download) for split in splits]
        names = ("train", "val", "test") if len(splits) == 3 else ("train", "test")
        return Raw(
            list(found[0].classes),
            {n: (d._image_files, d._labels) for n, d in zip(names, found, strict=True)},
        )

    return read


def read_flowers102(root, download):
    """The 2 040 images of the official train and val parts are one pool, to be split. Thesis Table
    6.1."""
    train, val, test = (
        tv.Flowers102(root, split=part, download=download) for part in ("train", "val", "test")
    )
    return Raw(
        train.classes,
        {
            "train": (train._image_files + val._image_files, train._labels + val._labels),
            "test": (test._image_files, test._labels),
        },
    )


def read_pets(root, download):
    train, test = (
        tv.OxfordIIITPet(root, split=part, download=download) for part in ("trainval", "test")
    )
    return Raw(
        train.classes,
        {"train": (train._images, train._labels), "test": (test._images, test._labels)},
    )


def read_cars(root, download):
    train, test = (tv.StanfordCars(root, split=part) for part in ("train", "test"))
    return Raw(train.classes, {"train": _columns(train._samples), "test": _columns(test._samples)})


def read_gtsrb(root, download):
    train, test = (tv.GTSRB(root, split=part, download=download) for part in ("train", "test"))
    return Raw(
        [f"{c:02d}" for c in range(43)],
        {"train": _columns(train._samples), "test": _columns(test._samples)},
    )


def read_eurosat(root, download):
    found = tv.EuroSAT(root, download=download)
    return Raw(found.classes, {"train": _columns(found.samples)})


def _coloured(grey):
    return np.repeat(grey[..., None], 3, axis=3)


def _columns(samples):
    return [path for path, _ in samples], [label for _, label in samples]


def _present(path):
    if not path.exists():
        raise Refusal(f"{path} is missing: unpack the archive again, or correct the root")
    return path


def _folders(root):
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _tree(root):
    """(class names, (files, labels)) of a folder of class folders; files in the order of their
    names."""
    folders = _folders(root)
    if not folders:
        raise Refusal(
            f"{root} holds no class folders: give the folder whose sub-folders are the classes"
        )
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(
            p
            for p in folder.rglob("*")
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        )
        if not found:
            raise Refusal(
                f"class folder {folder} holds no images ({' '.join(sorted(SUFFIXES))}): fill or remove it"
            )
        files += found
        labels += [label] * len(found)
    return [f.name for f in folders], (files, labels)


def _parts(folders):
    trees = {part: _tree(_present(folder)) for part, folder in folders.items()}
    classes = trees["train"][0]
    for part, (names, _) in trees.items():
        alone = sorted(set(names) ^ set(classes))
        if alone:
            has, lacks = (part, "train") if alone[0] in names else ("train", part)
            raise Refusal(
                f"class {alone[0]} is in {folders[has]} but not in {folders[lacks]}: "
                "every split needs the same class folders"
            )
    return Raw(classes, {part: listed for part, (_, listed) in trees.items()})


# --------------------------------------------------------------------------- reading, with refusals


class Archive(NamedTuple):
    """An archive that torchvision does not know."""

    url: str
    md5: str


def read(reader, root, home, archive=None, download=False, hint=""):
    """Raw of a data set; whatever is wrong with it becomes one line that names file and remedy.

    home : the folder under `root` that holds it (None: `root` itself, or nothing on the disk);
           archive : `Archive`
    hint : what to put where, for data sets that cannot be downloaded
    """
    if download and hint:
        raise Refusal(f"this data set cannot be downloaded any more: {hint}")
    remedy = hint or (
        "check the network" if download else "correct the root, or load(..., download=True)"
    )
    remedy += f" ({root / home})" if home else ""
    try:
        if archive:
            _unpack(root, home, archive, download)
        raw = reader(root / home if archive else root, download)
    except Refusal:
        raise
    # missing or damaged files, a checksum that differs, any failure of the network
    except Exception as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise Refusal(f"cannot read the data under {root} ({what}): {remedy}") from error
    parts = {
        part: (images, np.asarray(labels, np.int64)) for part, (images, labels) in raw.parts.items()
    }
    _check_classes(raw.classes, parts, root)
    return Raw(list(raw.classes), parts)


def _check_classes(classes, parts, root):
    if len(classes) < 2:
        raise Refusal(
            f"{root} holds one class only ({classes[0]}): a classifier needs at least two class folders"
        )
    for part, (_, labels) in parts.items():
        missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if len(missing):
            raise Refusal(
                f"class {classes[missing[0]]} has no images in the {part} part of {root}: "
                "unpack the archive again, or remove the class everywhere"
            )


def _unpack(root, home, archive, download):
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
    fresh = root / f".tmp-{home}"
    shutil.rmtree(fresh, ignore_errors=True)
    extract_archive(file, fresh)
    inner = fresh / home
    (inner if inner.is_dir() else fresh).rename(root / home)
    shutil.rmtree(fresh, ignore_errors=True)


# ---------------------------------------------------------------------------------------- the store


def signature(root):
    """[(name, bytes, mtime in ns), ...] of all files under `root`, hidden ones left out, in the
    order of names."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(f for f in files if not f.startswith(".")):
            status = os.stat(os.path.join(folder, name))
            found.append(
                (
                    os.path.relpath(os.path.join(folder, name), root),
                    status.st_size,
                    status.st_mtime_ns,
                )
            )
    return found


def open_store(folder, sign, read_raw, side, root):
    """(Store, meta) of a data set: built under `folder` if it is not there, or if `sign`, the
    originals, changed.

    sign     : value that tells whether the originals are still the same;  read_raw() -> Raw, called
               only to build
    side     : images are shrunk, antialiased, until their shorter side has this many pixels; none
               is enlarged
    meta     : {"classes", "sizes" {part: images}, "names" (hash of the list of files and labels),
               "home" (folder)}; rows of the store are the parts one after the other
    """
    key = hash_of([VERSION, side, sign])
    home = folder / f"store{side}-{key}"
    with _alone(folder):
        if not (home / "meta.json").exists():
            # outdated, or of a killed build
            for old in [*folder.glob(f"store{side}-*"), *folder.glob(".tmp-*")]:
                shutil.rmtree(old)
            _build(home, read_raw(), side, root)
    meta, pixels = read_json(home / "meta.json"), home / "pixels.u8"
    if pixels.stat().st_size != meta["bytes"]:
        raise Refusal(f"{pixels} is damaged: delete the folder {home}, it is made again")
    # Copy-on-write keeps the file safe and torch content; nobody writes.
    flat = torch.from_numpy(np.memmap(pixels, np.uint8, "c"))
    with np.load(home / "table.npz") as table:
        side, original, offset, labels = (
            table[k] for k in ("side", "original", "offset", "labels")
        )
    return Store(flat, side, original, offset, labels, bool((side == side[0]).all())), meta | {
        "home": str(home)
    }


@contextmanager
def _alone(folder):
    """One builder at a time; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise Refusal(
            f"cannot use the cache folder {folder} ({error.strerror}): choose another, cache=..."
        ) from error
    with lock:
        yield


def _build(home, raw, side, root):
    fresh = home.with_name(f".tmp-{home.name}")
    sizes, original, labels = [], [], np.concatenate([labels for _, labels in raw.parts.values()])
    with atomic(fresh / "pixels.u8") as temporary, open(temporary, "wb") as file:
        for part, (images, _) in raw.parts.items():
            for pixels, shape in machine.progress(
                _decoded(images, side), f"decoding {part} images once", len(images)
            ):
                file.write(pixels.data)
                sizes.append(pixels.shape[1::-1])
                original.append(shape)
    sizes = np.asarray(sizes, np.int64)
    sizes_in_bytes = 3 * sizes.prod(1)
    with atomic(fresh / "table.npz") as temporary:
        np.savez(
            temporary,
            side=sizes,
            original=np.asarray(original, np.int64),
            labels=labels,
            offset=np.cumsum(sizes_in_bytes) - sizes_in_bytes,
        )
    write_json(
        fresh / "meta.json",
        {
            "classes": raw.classes,
            "sizes": {part: len(labels) for part, (_, labels) in raw.parts.items()},
            "names": _names(raw, root),
            "bytes": int(sizes_in_bytes.sum()),
        },
    )
    fresh.rename(home)


def _names(raw, root):
    """Hash of which images there are: the files relative to `root`, so that a data set may move,
    and the labels."""
    return hash_of(
        [
            [
                part,
                labels.tolist(),
                [os.path.relpath(f, root) for f in images]
                if isinstance(images, Sequence)
                else len(images),
            ]
            for part, (images, labels) in raw.parts.items()
        ]
    )


def _decoded(images, side):
    """(columns-first pixels (W, H, 3), original (H, W)) of every image, in order; as many threads
    as torch may use."""
    if not isinstance(images, Sequence):
        for image in images:
            yield np.ascontiguousarray(image.transpose(1, 0, 2)), image.shape[:2]
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(lambda path: decode(path, side), images)


def decode(path, side):
    """One image file as uint8 RGB (W, H, 3), shrunk to a shorter side of at most `side` pixels, and
    its own (H, W)."""
    try:
        with Image.open(path) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except FileNotFoundError as error:
        raise Refusal(
            f"{path} is missing: unpack the archive again, or restore the file"
        ) from error
    except Exception as error:
        raise Refusal(
            f"{path} cannot be read as an image ({error}): replace it or delete it"
        ) from error
    if mode in WIDE_MODES:
        raise Refusal(
            f"{path} has more than 8 bits per channel (mode {mode}): convert it to 8-bit RGB first"
        )
    width, height = rgb.size
    factor = side / min(width, height)
    if factor < 1:
        rgb = rgb.resize(
            (max(round(width * factor), 1), max(round(height * factor), 1)),
            Image.Resampling.BILINEAR,
        )
    return np.ascontiguousarray(np.asarray(rgb).transpose(1, 0, 2)), (height, width)
