"""`load`: a data set by name, decoded, split and ready for batches."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

from nat_lib import files, machine
from nat_lib.data import folders, readers, store
from nat_lib.data.batches import Data
from nat_lib.data.catalogue import AEP, DATASETS, EXTRAS, MODES, PLAIN, Dataset, Transform
from nat_lib.errors import Refusal

# thesis chapters 3, 5, 6 follow Once-for-All; chapter 4 has its own
SPLIT_SEED = {"nat": 2147483647, "aep": 420}
PARTS = ("train", "val", "test")


def load(
    name: str,
    root: str | Path | None = None,
    seed: int | None = None,
    train_images: int | None = None,
    val_images: int | None = None,
    test_images: int | None = None,
    cache: str | Path | None = None,
    download: bool = False,
    protocol: str = "nat",
    valid: float | int | None = None,
    test: float | int | None = None,
    transform: Transform | None = None,
    calibration_images: int | None = None,
    store: int = 192,
    channels: int = 3,
    smallest: int | None = None,
) -> Data:
    """A data set by name, decoded and split: `Data`.

    root         : folder that holds the data set's own folder, as torchvision has it, or its
                   archive, or the images as <name>/{train,test}/<class>/; for "folder": what holds
                   the class folders, or train/, val/ and test/ with class folders in each
    seed         : of the split, None: the thesis's (2147483647; 420 for AEP)
    *_images     : keep the first so many of a split, which is in a seeded order; None: all
    cache        : folder for decoded images and splits; None: the environment variable NAT_CACHE,
                   or outputs/cache
    download     : fetch what is missing
    protocol     : "nat" (chapters 5 and 6) or "aep" (chapter 4: its seed and split, no
                   augmentation)
    valid, test, transform : instead of the table's
    calibration_images     : likewise, the batch size stays
    store        : larger images are kept with a shorter side of so many pixels; 3 times the
                   resolution is plenty
    channels     : 3, or 1 to get a grey data set as one channel
    smallest     : smallest training resolution in pixels, the unit of RandAugment's translations
                   in calibration batches; None: the resolution of each of them

    Where a part of `folder` is missing it is split off: test 20 % of all, then val 15 % of the
    rest.  Whatever is wrong with names, folders or images is a Refusal.
    """
    what = _described(name, protocol, {"valid": valid, "test": test, "transform": transform})
    what, place = folders.located(name, what, root)
    home = _cache(cache) / (f"{name}-{files.hash_of(place)}" if place else name)
    kept, meta = _open(what, place, home, download, store)
    for part, share in (("val", valid), ("test", test)):
        if share is not None and part in meta.sizes:
            raise Refusal(
                f"{name} comes with its own {part} images: leave that share out of load(...)"
            )
    split = _split(home, kept, meta, what, SPLIT_SEED[protocol] if seed is None else seed)
    limits = {"train": train_images, "val": val_images, "test": test_images}
    for part, limit in limits.items():
        if limit is not None and limit < 1:
            raise Refusal(f"{part}_images is {limit}: give a positive number, or None for all")
    count, batch = what.calibration
    return Data(
        name=name,
        classes=tuple(meta.classes),
        spec=what.transform,
        mean=tuple(split["mean"]),
        std=tuple(split["std"]),
        calibration=(calibration_images or count, batch),
        channels=channels,
        store=kept,
        home=meta.home,
        rows={part: np.asarray(split[part][: limits[part]]) for part in PARTS},
        available={part: len(split[part]) for part in PARTS},
        official=what.official,
        fingerprint=meta.fingerprint,
        left_out=meta.left_out,
        smallest=smallest,
    )


def _described(name: str, protocol: str, asked: dict[str, Any]) -> Dataset:
    """The row of the catalogue, with what the protocol and the caller want otherwise."""
    if name not in DATASETS:
        raise Refusal(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if protocol not in SPLIT_SEED:
        raise Refusal(f"unknown protocol {protocol!r}: choose nat or aep")
    what = DATASETS[name]
    if protocol == "aep":
        what = what._replace(transform=PLAIN, **AEP.get(name, {}))
    what = what._replace(**{key: value for key, value in asked.items() if value is not None})
    if what.transform.extra not in EXTRAS or what.transform.evaluate not in MODES:
        raise Refusal(
            f"{what.transform} is unknown: extra is one of {EXTRAS}, evaluate one of {MODES}"
        )
    return what


def _cache(cache: str | Path | None) -> Path:
    return Path(cache or os.environ.get("NAT_CACHE") or files.ROOT / "outputs" / "cache")


def _open(
    what: Dataset, place: Path | None, home: Path, download: bool, side: int
) -> tuple[store.Store, store.Meta]:
    if place is None:
        return store.open_store(
            home, sklearn.__version__, lambda: readers.read(what, None), side, None
        )
    originals = place / (what.home or "")
    # Reading also unpacks an archive that is still whole, or refuses.
    fetched = None if originals.is_dir() else readers.read(what, place, download)
    return store.open_store(
        home,
        folders.signature(originals),
        lambda: fetched or readers.read(what, place, download),
        side,
        place,
    )


# ------------------------------------------------------------------------------------------- splits


def split_rows(
    sizes: dict[str, int],
    valid: float | int | None,
    test: float | int | None,
    seed: int,
    scans: tuple[int, list[int]] | None = None,
) -> dict[str, np.ndarray]:
    """{"train", "val", "test": rows of the store}, each in a seeded random order.  Source:
    Once-for-All.

    sizes       : {part: images} of the official parts, which lie in the store one after the other
    valid, test : share taken from the training part where there is no official one: test first,
                  then val of the rest
    scans       : (n, rows): the training images are those rows of a larger set of n, and fall where
                  that set's split puts them
    """
    if scans:
        whole = split_rows({"train": scans[0]}, valid, test, seed)
        place = {row: i for i, row in enumerate(scans[1])}
        return {
            part: np.array([place[row] for row in rows.tolist() if row in place], np.int64)
            for part, rows in whole.items()
        }
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    order = {}
    for part, n in sizes.items():
        generator = torch.Generator().manual_seed(seed)
        order[part] = starts[part] + torch.randperm(n, generator=generator).numpy()
    for part, share in (("test", test), ("val", valid)):
        if part not in order and share is not None:
            pool = order["train"]
            n = share if isinstance(share, int) else math.floor(share * len(pool))
            if not 0 < n < len(pool):
                raise Refusal(
                    f"{len(pool)} images are too few to take {share} of them as the {part} split: "
                    "add images, or give load(..., valid=, test=)"
                )
            order[part], order["train"] = pool[:n], pool[n:]
    return {part: order[part] for part in PARTS}


def _split(
    folder: Path, kept: store.Store, meta: store.Meta, what: Dataset, seed: int
) -> dict[str, Any]:
    """The split as a dict of lists with mean and std: made once, kept as a file.

    Images that came, went or have other names are a Refusal; where pixels changed under the same
    names the split stays and mean and std are those of the new pixels.
    """
    rule = {"seed": seed, "valid": what.valid, "test": what.test, "version": store.VERSION}
    path = folder / f"split-{files.hash_of(rule)}.json"
    split = files.read_json(path) if path.exists() else {}
    values = {key: split.get(key) for key in (*PARTS, "mean", "std")}
    if split and split.get("hash") != files.hash_of(values):
        raise Refusal(f"{path} is damaged: delete it, the same split is made again from its seed")
    if split and split["names"] != meta.names:
        raise Refusal(
            f"images were added, removed or renamed since the split {path} was made: restore them, "
            "or delete that file to split anew (results from before are then not comparable)"
        )
    if split and split["fingerprint"] == meta.fingerprint:
        return values
    rows = split_rows(meta.sizes, what.valid, what.test, seed, meta.scans)
    _check_training_images(rows["train"], kept, meta.classes)
    if split:
        machine.note(f"images changed since {path} was made: mean and deviation are computed anew")
    mean, std = (what.mean, what.std) if what.mean else statistics(kept, rows["train"])
    values = files.plain({**rows, "mean": mean, "std": std})
    images = {"names": meta.names, "fingerprint": meta.fingerprint}
    files.write_json(path, {"rule": rule, **images, "hash": files.hash_of(values), **values})
    return values


def _check_training_images(rows: np.ndarray, kept: store.Store, classes: list[str]) -> None:
    missing = np.flatnonzero(np.bincount(kept.labels[rows], minlength=len(classes)) == 0)
    if len(missing):
        held = (kept.labels == missing[0]).sum()
        raise Refusal(
            f"class {classes[missing[0]]} has {held} images and none of them fell into the "
            "training split: add images to it, or remove the class"
        )


def statistics(kept: store.Store, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """(mean, std) per channel, 0..1, over all pixels of some images; from integer counts, so exact
    in any order. The deviation of a constant channel counts as 1."""
    counts = np.zeros((3, 256), np.int64)
    for i in machine.progress(rows, "mean and std of the training images"):
        pixels = kept.image(i).flatten(1).numpy()
        for channel in range(3):
            counts[channel] += np.bincount(pixels[channel], minlength=256)
    share, level = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ level
    constant = (counts > 0).sum(1) == 1
    deviation = np.sqrt(np.maximum(share @ level**2 - mean**2, 0))
    return mean.tolist(), np.where(constant, 1.0, deviation).tolist()
