"""Data sets, splits, batches: images decoded once, cropped and resized as whole batches.

One table says what each data set is; `load` returns a `Data` whose batches depend on nothing but
(seed, epoch, step): the same for any number of workers, for a resumed run, for one data set on two
machines.
Source: thesis Tables 3.2, 4.1, 6.1 and section 5.2.2; Once-for-All, arXiv:1908.09791.
"""

import dataclasses
import datetime
import math
import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import sklearn
import torch
from torchvision import datasets as tv

from nat_lib import files, machine
from nat_lib.data import augment, readers
from nat_lib.data.readers import Archive, Store
from nat_lib.errors import Refusal

# thesis chapters 3, 5, 6 follow Once-for-All; chapter 4 has its own
SPLIT_SEED = {"nat": 2147483647, "aep": 420}
CALIBRATION_SEED = 937162211
ORDER, BATCH, CALIBRATION = range(3)  # separate the random streams of one seed
# see Transform
EXTRAS, MODES = (None, "AA", "RA", "affine"), ("CC", "square_bilinear", "square_bicubic")


# ---------------------------------------------------------------------------------------- the table


class Transform(NamedTuple):
    """Pre-processing of a data set.

    scale    : smallest share of the area that a random resized crop keeps; None: the whole image,
               nothing random
    ratio    : aspect of the crop, smallest and largest;  flip : mirror every second image
    extra    : "AA" (AutoAugment, CIFAR-10 policy), "RA" (RandAugment, rand-m9-mstd0.5), "affine",
               or None
    evaluate : "CC" (shorter side to ceil(R / 0.875), bilinear, central R x R), "square_bilinear",
               "square_bicubic"
    """

    scale: float | None
    ratio: tuple = (3 / 4, 4 / 3)
    flip: bool = True
    extra: str | None = None
    evaluate: str = "CC"


class Dataset(NamedTuple):
    """What a data set is. Shares are counts, or fractions of the images at hand, rounded down.

    reader, home : how to read it, and the folder under the root that holds it (None: the root
                   itself)
    valid, test  : validation images taken from the training part, test images taken before that;
                   None: official part
    mean, std    : per channel, 0..1; None: computed on the training split
    calibration  : (images, batch size) for batch-norm recalibration;  official : its full (train,
                   val, test) sizes
    """

    reader: object
    home: str | None
    valid: float | int | None
    test: float | int | None
    transform: Transform
    mean: tuple | None
    std: tuple | None
    calibration: tuple
    official: tuple | None = None
    archive: Archive | None = None
    hint: str = ""


# AEP: no augmentation, also in training
PLAIN = Transform(None, flip=False, evaluate="square_bicubic")
CIFAR = ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
FOLDER = Transform(0.85)

DATASETS = {
    "digits": Dataset(
        readers.read_digits,
        None,
        0.15,
        0.2,
        Transform(0.85, flip=False, evaluate="square_bilinear"),
        None,
        None,
        (500, 100),
    ),
    "digits_turned": Dataset(
        readers.read_digits_turned,
        None,
        0.15,
        0.2,
        Transform(0.85, flip=False, evaluate="square_bilinear"),
        None,
        None,
        (500, 100),
    ),
    "folder": Dataset(readers.read_folder, None, 0.15, 0.2, FOLDER, None, None, (1000, 100)),
    "tiny_imagenet": Dataset(
        readers.read_tiny_imagenet,
        "tiny-imagenet-200",
        0.15,
        None,
        FOLDER,
        (0.4802, 0.4481, 0.3975),
        (0.2770, 0.2691, 0.2821),
        (1000, 100),
        (85000, 15000, 10000),
        Archive(
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
        ),
    ),
    "cifar10": Dataset(
        readers.read_cifar(tv.CIFAR10),
        "cifar-10-batches-py",
        0.1,
        None,
        Transform(1.0, (1.0, 1.0), extra="AA", evaluate="square_bicubic"),
        *CIFAR,
        (960, 100),
        (45000, 5000, 10000),
    ),
    "cifar100": Dataset(
        readers.read_cifar(tv.CIFAR100),
        "cifar-100-python",
        0.1,
        None,
        Transform(1.0, (1.0, 1.0), extra="AA", evaluate="square_bicubic"),
        *CIFAR,
        (960, 100),
        (45000, 5000, 10000),
    ),
    "cinic10": Dataset(
        readers.read_cinic10,
        "CINIC-10",
        None,
        None,
        Transform(1.0, evaluate="square_bicubic"),
        (0.47889522, 0.47227842, 0.43047404),
        (0.24205776, 0.23828046, 0.25874835),
        (4500, 100),
        (90000, 90000, 90000),
        Archive(
            "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
            "6ee4d0c996905fe93221de577967a372",
        ),
    ),
    "stl10": Dataset(
        readers.read_stl10,
        "stl10_binary",
        0.15,
        None,
        Transform(0.75),
        (0.44671097, 0.4398105, 0.4066468),
        (0.2603405, 0.25657743, 0.27126738),
        (100, 100),
        (4250, 750, 8000),
    ),
    "food101": Dataset(
        readers.read_listed(tv.Food101, "train", "test"),
        "food-101",
        0.15,
        None,
        Transform(1.0, extra="AA", evaluate="square_bilinear"),
        (0.5577418, 0.4423735, 0.3271720),
        (0.2591201, 0.2631173, 0.2658912),
        (1000, 100),
        (64388, 11362, 25250),
    ),
    "cars": Dataset(
        readers.read_cars,
        "stanford_cars",
        0.15,
        None,
        Transform(0.25, extra="RA", evaluate="square_bicubic"),
        (0.4105215, 0.3857436, 0.3959629),
        (0.2861146, 0.2801378, 0.2852009),
        (250, 100),
        (6923, 1221, 8041),
        hint="put cars_train/, cars_test/, devkit/ (cars_meta.mat, cars_train_annos.mat) and "
        "cars_test_annos_withlabels.mat into stanford_cars/ under the root, from a copy of the original archives",
    ),
    "aircraft": Dataset(
        readers.read_listed(tv.FGVCAircraft, "train", "val", "test"),
        "fgvc-aircraft-2013b",
        None,
        None,
        Transform(0.35, extra="RA"),
        (0.4893359, 0.5183537, 0.5387914),
        (0.2238888, 0.2164164, 0.2461561),
        (200, 100),
        (3334, 3333, 3333),
    ),
    "dtd": Dataset(
        readers.read_listed(tv.DTD, "train", "val", "test"),
        "dtd",
        None,
        None,
        Transform(0.2, extra="RA", evaluate="square_bicubic"),
        (0.5329876, 0.4742608, 0.4262728),
        (0.2654976, 0.2547355, 0.2631728),
        (100, 100),
        (1880, 1880, 1880),
    ),
    "pets": Dataset(
        readers.read_pets,
        "oxford-iiit-pet",
        0.15,
        None,
        Transform(1.0, extra="RA"),
        (0.4828895, 0.4448395, 0.3956656),
        (0.2592566, 0.2532760, 0.2598102),
        (125, 100),
        (3128, 552, 3669),
    ),
    "flowers102": Dataset(
        readers.read_flowers102,
        "flowers-102",
        1000,
        None,
        Transform(1.0, flip=False, extra="affine", evaluate="square_bilinear"),
        (0.5178362, 0.4106749, 0.3286417),
        (0.2972239, 0.2497605, 0.2853331),
        (150, 100),
        (1040, 1000, 6149),
    ),
    "eurosat": Dataset(
        readers.read_eurosat,
        "eurosat",
        4000,
        5500,
        PLAIN,
        (0.5,) * 3,
        (0.25,) * 3,
        (1000, 100),
        (17500, 4000, 5500),
    ),
    "fashion_mnist": Dataset(
        readers.read_fashion_mnist,
        "FashionMNIST",
        0.15,
        None,
        PLAIN,
        (0.5,) * 3,
        (0.5,) * 3,
        (1000, 100),
        (51000, 9000, 10000),
    ),
    "gtsrb": Dataset(
        readers.read_gtsrb,
        "gtsrb",
        6000,
        None,
        PLAIN,
        (0.3337, 0.3064, 0.3171),
        (0.2672, 0.2564, 0.2629),
        # of the 26 640 that torchvision fetches
        (1000, 100),
        (20640, 6000, 12630),
    ),
}
# thesis Table 4.1 where it differs
AEP = {"tiny_imagenet": {"valid": 0.1, "official": (90000, 10000, 10000)}}


# ------------------------------------------------------------------------------------------ loading


def load(
    name,
    root=None,
    seed=None,
    train_images=None,
    val_images=None,
    test_images=None,
    cache=None,
    download=False,
    protocol="nat",
    valid=None,
    test=None,
    transform=None,
    calibration_images=None,
    store=192,
    channels=3,
):
    """A data set by name, decoded and split: `Data`.

    root         : folder that holds the data set's own folder, as torchvision has it, or its
                   archive, or the images as <name>/{train,test}/<class>/; for "folder": what holds
                   the class folders, or train/, val/ and test/ with class folders in each
    seed         : of the split, None: the thesis's (2147483647; 420 for AEP)
    *_images     : keep the first so many of a split, which is in a seeded order; None: all
    cache        : folder for decoded images and splits, None: outputs/cache;  download : fetch what
                   is missing
    protocol     : "nat" (chapters 5 and 6) or "aep" (chapter 4: its seed and split, no
                   augmentation)
    valid, test, transform : instead of the table's;  calibration_images : likewise, the batch size
                             stays
    store        : larger images are kept with a shorter side of so many pixels; 3 times the
                   resolution is plenty
    channels     : 3, or 1 to get a grey data set as one channel

    Where a part of `folder` is missing it is split off: test 20 % of all, then val 15 % of the
    rest.
    """
    if name not in DATASETS:
        raise Refusal(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if protocol not in SPLIT_SEED:
        raise Refusal(f"unknown protocol {protocol!r}: choose nat or aep")
    what = DATASETS[name]
    if protocol == "aep":
        what = what._replace(transform=PLAIN, **AEP.get(name, {}))
    asked = {"valid": valid, "test": test, "transform": transform}
    what = what._replace(**{key: value for key, value in asked.items() if value is not None})
    if what.transform.extra not in EXTRAS or what.transform.evaluate not in MODES:
        raise Refusal(
            f"{what.transform} is unknown: extra is one of {EXTRAS}, evaluate one of {MODES}"
        )
    seed = SPLIT_SEED[protocol] if seed is None else seed
    root = _root(name, what, root)
    if root and what.home and not (root / what.home).is_dir() and (root / name / "train").is_dir():
        what = what._replace(reader=readers.read_folder, home=None, archive=None)
        root = root / name
    folder = Path(cache or files.ROOT / "outputs" / "cache") / (
        f"{name}-{files.hash_of(root)}" if root else name
    )
    kept, meta = _open(what, root, folder, download, store)
    for part, share in (("val", valid), ("test", test)):
        if share is not None and part in meta["sizes"]:
            raise Refusal(
                f"{name} comes with its own {part} images: leave that share out of load(...)"
            )
    split = _split(folder, kept, meta, what, seed)
    limits = {"train": train_images, "val": val_images, "test": test_images}
    for part, limit in limits.items():
        if limit is not None and limit < 1:
            raise Refusal(f"{part}_images is {limit}: give a positive number, or None for all")
    count, batch = what.calibration
    return Data(
        name=name,
        classes=tuple(meta["classes"]),
        spec=what.transform,
        mean=tuple(split["mean"]),
        std=tuple(split["std"]),
        calibration=(calibration_images or count, batch),
        channels=channels,
        store=kept,
        home=Path(meta["home"]),
        rows={part: np.asarray(split[part][: limits[part]]) for part in limits},
        available={part: len(split[part]) for part in limits},
        official=what.official,
    )


def _root(name, what, root):
    if what.reader in readers.EMBEDDED:
        return None
    if root is None:
        raise Refusal(
            f"{name} needs root=...: the folder that holds {what.home or 'the class folders'}"
        )
    root = Path(root).expanduser().resolve()
    if what.home and root.name == what.home:
        root = root.parent
    if not root.is_dir():
        raise Refusal(f"{root} is not a folder: correct the root of {name}")
    return root


def _open(what, root, folder, download, store):
    def read():
        return readers.read(what.reader, root, what.home, what.archive, download, what.hint)

    if root is None:
        return readers.open_store(folder, sklearn.__version__, read, store, root)
    home = root / (what.home or "")
    fetched = None if home.is_dir() else read()  # also unpacks, or refuses
    return readers.open_store(
        folder, readers.signature(home), lambda: fetched or read(), store, root
    )


# ------------------------------------------------------------------------------------------- splits


def split_rows(sizes, valid, test, seed):
    """{"train", "val", "test": rows of the store}, each in a seeded random order.  Source:
    Once-for-All.

    sizes       : {part: images} of the official parts, which lie in the store one after the other
    valid, test : share taken from the training part where there is no official one: test first,
                  then val of the rest
    """
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    order = {
        part: starts[part]
        + torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
        for part, n in sizes.items()
    }
    for part, share in (("test", test), ("val", valid)):
        if part not in order:
            pool = order["train"]
            n = share if isinstance(share, int) else math.floor(share * len(pool))
            if not 0 < n < len(pool):
                raise Refusal(
                    f"{len(pool)} images are too few to take {share} of them as the {part} split: "
                    "add images, or give load(..., valid=, test=)"
                )
            order[part], order["train"] = pool[:n], pool[n:]
    return {part: order[part] for part in ("train", "val", "test")}


def _split(folder, store, meta, what, seed):
    """The split as a dict of lists with mean and std: made once, kept as a file, refused when the
    images changed."""
    rule = {"seed": seed, "valid": what.valid, "test": what.test}
    path = folder / f"split-{files.hash_of(rule)}.json"
    if not path.exists():
        rows = split_rows(meta["sizes"], what.valid, what.test, seed)
        _check_training_images(rows["train"], store, meta["classes"])
        mean, std = (what.mean, what.std) if what.mean else statistics(store, rows["train"])
        values = {
            **{part: r.tolist() for part, r in rows.items()},
            "mean": list(mean),
            "std": list(std),
        }
        files.write_json(
            path, {"rule": rule, "names": meta["names"], "hash": files.hash_of(values), **values}
        )
    split = files.read_json(path)
    values = {key: split.get(key) for key in ("train", "val", "test", "mean", "std")}
    if split.get("hash") != files.hash_of(values):
        raise Refusal(f"{path} is damaged: delete it, the same split is made again from its seed")
    if split["names"] != meta["names"]:
        raise Refusal(
            f"images were added, removed or renamed since the split {path} was made: restore them, or delete "
            "that file to split anew (results from before are then not comparable)"
        )
    return values


def _check_training_images(rows, store, classes):
    missing = np.flatnonzero(np.bincount(store.labels[rows], minlength=len(classes)) == 0)
    if len(missing):
        raise Refusal(
            f"class {classes[missing[0]]} has {(store.labels == missing[0]).sum()} images and none of them "
            "fell into the training split: add images to it, or remove the class"
        )


def statistics(store, rows):
    """(mean, std) per channel, 0..1, over all pixels of some images; from integer counts, so exact
    in any order."""
    counts = np.zeros((3, 256), np.int64)
    for i in machine.progress(rows, "mean and std of the training images"):
        pixels = store.image(i).flatten(1).numpy()
        for channel in range(3):
            counts[channel] += np.bincount(pixels[channel], minlength=256)
    share, level = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ level
    return mean.tolist(), np.sqrt(share @ level**2 - mean**2).tolist()


# ------------------------------------------------------------------------------------------ batches


def resolution_of(step, epoch, resolutions):
    """Resolution of one training batch, in pixels: uniform, drawn by a private generator seeded
    with step and epoch.

    Batch 12 of epoch 7 has seed 12007: all networks and phases share the sequence.  Source:
    Once-for-All; thesis 5.2.2.
    """
    return random.Random(int(f"{step}{epoch:03d}")).choices(sorted(resolutions))[0]


@dataclass(frozen=True)
class Images:
    """A split: rows of the store in the split's order. [i] is image i as uint8 (H, W, 3); labels
    are int64 (N,)."""

    store: Store
    rows: np.ndarray

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.store.image(self.rows[i]).permute(1, 2, 0).cpu().numpy()

    @property
    def labels(self):
        return self.store.labels[self.rows]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, split, ready for batches: x (B, channels, R, R) float32, channels_last,
    normalised; y (B,) int64."""

    name: str
    classes: tuple  # names
    spec: Transform
    mean: tuple  # per channel, 0..1
    std: tuple
    calibration: tuple  # (images, batch size)
    channels: int
    store: Store
    rows: dict  # split -> rows of the store
    home: Path  # of the store in the cache
    available: dict  # split -> images before thinning
    official: tuple | None  # full sizes of train, val, test in the literature
    memo: dict = field(default_factory=dict, repr=False)

    @property
    def n_classes(self):
        return len(self.classes)

    @property
    def device(self):
        return self.store.pixels.device

    @property
    def train(self):
        return Images(self.store, self.rows["train"])

    @property
    def val(self):
        return Images(self.store, self.rows["val"])

    def to(self, device):
        """The same data with the decoded images resident on a device, where batches are then
        made."""
        return dataclasses.replace(
            self, store=self.store._replace(pixels=self.store.pixels.to(device)), memo={}
        )

    def merged(self):
        """The same data whose training split is train + val: for a last training, which val can no
        longer judge."""
        rows = self.rows | {"train": np.concatenate([self.rows["train"], self.rows["val"]])}
        return dataclasses.replace(self, rows=rows, memo={})

    def describe(self):
        """DataFrame with one row per split: images used, available before thinning, in the full
        data set."""
        full = dict(zip(self.rows, self.official or (None,) * 3, strict=True))
        return pd.DataFrame(
            [
                {
                    "split": part,
                    "images": len(rows),
                    "available": self.available[part],
                    "official": full[part],
                }
                for part, rows in self.rows.items()
            ]
        )

    def n_batches(self, batch_size):
        return math.ceil(len(self.rows["train"]) / batch_size)

    def train_batches(self, epoch, batch_size, resolutions, seed=0, workers=0):
        """Iterate over (x, y) of one epoch. Order and augmentation depend on (seed, epoch, step)
        only.

        resolutions : sizes in pixels; each batch has one, see `resolution_of`
        workers     : threads that prepare batches ahead
        """
        self._check(max(resolutions))
        rows = self.rows["train"][
            np.random.default_rng((ORDER, seed, epoch)).permutation(len(self.rows["train"]))
        ]

        def batch(step):
            some = rows[step * batch_size : (step + 1) * batch_size]
            rng = np.random.default_rng((BATCH, seed, epoch, step))
            return self._augmented(
                some, resolution_of(step, epoch, resolutions), min(resolutions), rng
            ), self._y(some)

        return _ahead(batch, self.n_batches(batch_size), workers)

    def calibration_batches(self, resolution):
        """Training images, augmented once and for all, for batch-norm recalibration: list of x.

        Images (of the training split only) and crops are the same in every process.  Source:
        Once-for-All; thesis 3.3.
        """
        if ("calibration", resolution) not in self.memo:
            count, batch_size = self.calibration
            rows = self.rows["train"]
            chosen = torch.randperm(
                len(rows), generator=torch.Generator().manual_seed(CALIBRATION_SEED)
            )[:count]
            self.memo["calibration", resolution] = [
                self._augmented(
                    rows[some.numpy()],
                    resolution,
                    resolution,
                    np.random.default_rng((CALIBRATION, CALIBRATION_SEED, step)),
                )
                for step, some in enumerate(chosen.split(batch_size))
            ]
        return self.memo["calibration", resolution]

    def eval_batches(self, split, resolution, batch_size):
        """Iterate over (x, y) of "train" or "val" in the split's order, without randomness."""
        if split not in ("train", "val"):
            raise Refusal(
                f"eval_batches has no split {split!r}: choose train or val (the test split: test_batches)"
            )
        return self._in_order(split, resolution, batch_size)

    def test_batches(self, resolution, batch_size, why):
        """Iterate over (x, y) of the test split. Every use leaves a line in test_uses.log in the
        cache folder."""
        line = (
            f"{datetime.datetime.now().isoformat(timespec='seconds')}\t{len(self.rows['test'])} images\t"
            f"{resolution} px\t{why}\n"
        )
        with open(self.home.parent / "test_uses.log", "a") as log:
            log.write(line)
        return self._in_order("test", resolution, batch_size)

    def _in_order(self, split, resolution, batch_size):
        images, rows = self._resized(split, resolution), self.rows[split]
        for start in range(0, len(rows), batch_size):
            yield (
                self._x(images[start : start + batch_size]),
                self._y(rows[start : start + batch_size]),
            )

    def _resized(self, split, size):
        """A split after its deterministic resize, uint8 (N, R, R, 3): computed once, then read from
        the cache."""
        if (split, size) not in self.memo:
            self._check(size)
            rows = self.rows[split]
            path = (
                self.home
                / f"{split}-{size}-{files.hash_of([rows.tolist(), self.spec.evaluate])}.u8"
            )
            if not path.exists():
                step = 256 if self.store.uniform else 1
                with files.atomic(path) as temporary, open(temporary, "wb") as file:
                    for start in machine.progress(
                        range(0, len(rows), step), f"{split} images at {size} pixels"
                    ):
                        file.write(
                            self._plain(rows[start : start + step], size).byte().cpu().numpy().data
                        )
            pixels = np.memmap(path, np.uint8, "c", shape=(len(rows), size, size, 3))
            self.memo[split, size] = torch.from_numpy(pixels).to(self.device)
        return self.memo[split, size]

    def _check(self, size):
        shrunk = (self.store.side < self.store.original).any(1)
        if shrunk.any() and size > self.store.side[shrunk].min():
            raise Refusal(
                f"images of {self.name} were kept with {self.store.side[shrunk].min()} pixels, too few for "
                f"resolution {size}: load(..., store={3 * size})"
            )

    def _plain(self, rows, size):
        """The deterministic transform, rounded to whole levels as in the published pipelines: (B,
        R, R, 3), 0..255."""
        store, mode = self.store, self.spec.evaluate
        axes = augment.eval_axes(mode, store.side[rows], store.original[rows], size)
        return augment.resize(
            *augment.gather(store, rows, *axes), size, cubic=mode == "square_bicubic"
        ).round_()

    def _augmented(self, rows, size, smallest, rng):
        """x of a training batch. smallest: of all training resolutions, the unit of RandAugment's
        translations."""
        spec, store, n = self.spec, self.store, len(rows)
        if spec.scale is None:
            return self._x(self._plain(rows, size))
        top, left, height, width = augment.random_boxes(
            store.original[rows], spec.scale, spec.ratio, rng
        )
        factor = store.side[rows] / store.original[rows]
        y, x = (
            augment.crop_axis(top, height, size, factor[:, 0]),
            augment.crop_axis(left, width, size, factor[:, 1]),
        )
        flip = rng.random(n) < 0.5 if spec.flip else np.zeros(n, bool)
        if spec.extra == "affine":  # moves the whole image, before the crop
            moved = map(augment.random_affine, map(store.image, rows), rng.random((n, 4)))
            return self._x(
                torch.cat(
                    [
                        augment.resize(
                            image.permute(2, 1, 0)[None],
                            y.of(i),
                            x.of(i),
                            size,
                            flip=flip[i : i + 1],
                        )
                        for i, image in enumerate(moved)
                    ]
                )
            )
        images, y, x = augment.gather(store, rows, y, x)
        if spec.extra is None:
            return self._planes(
                augment.resize(images, y, x, size, flip=flip, affine=self._affine(size))
            )
        images = augment.resize(images, y, x, size, flip=flip).round_().byte().permute(0, 3, 1, 2)
        if spec.extra == "AA":
            images = augment.apply(images, augment.auto_augment(n, size, rng))
        else:
            fill = [round(255 * m) for m in self.mean]
            images = augment.apply(
                images, augment.rand_augment(n, smallest, rng), cubic=True, fill=fill
            )
        return self._x(images.permute(0, 2, 3, 1))

    def _affine(self, size):
        """(gain, bias) that normalise a row of `size` pixels: whole rows keep the arithmetic
        vectorised."""
        if ("affine", size) not in self.memo:
            mean, std = (torch.tensor(v * size, device=self.device) for v in (self.mean, self.std))
            self.memo["affine", size] = 1 / (255 * std), -mean / std
        return self.memo["affine", size]

    def _x(self, levels):
        """(B, R, R, 3) levels 0..255 -> (B, channels, R, R) normalised, channels_last."""
        gain, bias = self._affine(levels.shape[1])
        return self._planes(
            torch.addcmul(bias, levels.reshape(-1, len(bias)), gain).view(levels.shape)
        )

    def _planes(self, x):
        x = x.permute(0, 3, 1, 2)
        return x if self.channels == 3 else x[:, :1].contiguous(memory_format=torch.channels_last)

    def _y(self, rows):
        return torch.from_numpy(self.store.labels[rows]).to(self.device)


def _ahead(make, n, workers):
    """make(0), ..., make(n - 1) in order; `workers` threads prepare the next ones. 0: nothing is
    prepared ahead."""
    if not workers:
        yield from map(make, range(n))
        return
    with ThreadPoolExecutor(workers) as pool:
        pending = deque()
        try:
            for i in range(n + workers):
                if i < n:
                    pending.append(pool.submit(make, i))
                if i >= workers:
                    yield pending.popleft().result()
        finally:
            for job in pending:  # the consumer stopped early
                job.cancel()
