"""Batches: images cropped, resized and augmented as whole batches from the decoded store.

What a batch holds depends on nothing but (seed, epoch, step): the same for any number of workers,
for a resumed run, for one data set on two machines.
Source: thesis section 5.2.2; Once-for-All, arXiv:1908.09791.
"""

import dataclasses
import datetime
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64, UInt8

from nat_lib import files, machine
from nat_lib.data import augment
from nat_lib.data.catalogue import Transform
from nat_lib.data.store import Store
from nat_lib.errors import Refusal

CALIBRATION_SEED = 937162211
ORDER, BATCH, CALIBRATION = range(3)  # separate the random streams of one seed
Batch = tuple[Float[torch.Tensor, "b c r r"], Int64[torch.Tensor, " b"]]


def slices(n: int, size: int) -> list[slice]:
    """Rows 0 .. n - 1 in batches of `size`. A rest of one image joins the batch before it: batch
    normalisation has no statistics of a single one."""
    edges = [*range(0, n, size), n]
    if len(edges) > 2 and n - edges[-2] == 1:
        del edges[-2]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def resolution_of(step: int, epoch: int, resolutions: Sequence[int]) -> int:
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

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.store.image(self.rows[i]).permute(1, 2, 0).cpu().numpy()

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        return self.store.labels[self.rows]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, split, ready for batches: x (B, channels, R, R) float32, channels_last,
    normalised; y (B,) int64."""

    name: str
    classes: tuple[str, ...]
    spec: Transform
    mean: tuple[float, ...]  # per channel, 0..1
    std: tuple[float, ...]
    calibration: tuple[int, int]  # (images, batch size)
    channels: int
    store: Store
    rows: dict[str, np.ndarray]  # split -> rows of the store
    home: Path  # of the store in the cache
    available: dict[str, int]  # split -> images before thinning
    official: tuple[int, int, int] | None  # full sizes of train, val, test in the literature
    fingerprint: str = ""  # of all images and labels
    left_out: str = ""  # what lay beside the images, in words
    smallest: int | None = None  # training resolution, for calibration; None: the batch's own
    memo: dict = field(default_factory=dict, repr=False)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        return self.store.pixels.device

    @property
    def train(self) -> Images:
        return Images(self.store, self.rows["train"])

    @property
    def val(self) -> Images:
        return Images(self.store, self.rows["val"])

    def to(self, device: str | torch.device) -> "Data":
        """The same data with the decoded images resident on a device, where batches are then
        made."""
        return dataclasses.replace(
            self, store=self.store._replace(pixels=self.store.pixels.to(device)), memo={}
        )

    def merged(self) -> "Data":
        """The same data whose training split is train + val: for a last training, which val can no
        longer judge."""
        rows = self.rows | {"train": np.concatenate([self.rows["train"], self.rows["val"]])}
        return dataclasses.replace(self, rows=rows, memo={})

    def describe(self) -> pd.DataFrame:
        """One row per split: images used, available before thinning, in the full data set; and one
        for what lay beside the images and was left out."""
        full = dict(zip(self.rows, self.official or (None,) * 3, strict=True))
        table: list[tuple[str, int | None, int | None, int | None]] = [
            (part, len(rows), self.available[part], full[part]) for part, rows in self.rows.items()
        ]
        if self.left_out:
            table.append((f"left out: {self.left_out}", None, None, None))
        return pd.DataFrame(table, columns=["split", "images", "available", "official"])

    def n_batches(self, batch_size: int) -> int:
        """Training batches of an epoch."""
        return len(slices(len(self.rows["train"]), batch_size))

    def train_batches(
        self,
        epoch: int,
        batch_size: int,
        resolutions: Sequence[int],
        seed: int = 0,
        workers: int = 0,
    ) -> Iterator[Batch]:
        """Iterate over (x, y) of one epoch. Order and augmentation depend on (seed, epoch, step)
        only.

        resolutions : sizes in pixels; each batch has one, see `resolution_of`
        workers     : threads that prepare batches ahead
        """
        self._check(max(resolutions))
        order = np.random.default_rng((ORDER, seed, epoch)).permutation(len(self.rows["train"]))
        rows = self.rows["train"][order]
        batches = slices(len(rows), batch_size)

        def batch(step: int) -> Batch:
            some = rows[batches[step]]
            rng = np.random.default_rng((BATCH, seed, epoch, step))
            size = resolution_of(step, epoch, resolutions)
            return self._augmented(some, size, min(resolutions), rng), self._y(some)

        return _ahead(batch, len(batches), workers)

    def calibration_batches(self, resolution: int) -> list[Float[torch.Tensor, "b c r r"]]:
        """Training images, augmented once and for all, for batch-norm recalibration: list of x.

        Images (of the training split only) and crops are the same in every process.  Source:
        Once-for-All; thesis 3.3.
        """
        if ("calibration", resolution) not in self.memo:
            count, batch_size = self.calibration
            rows = self.rows["train"]
            generator = torch.Generator().manual_seed(CALIBRATION_SEED)
            chosen = rows[torch.randperm(len(rows), generator=generator)[:count].numpy()]
            self.memo["calibration", resolution] = [
                self._augmented(
                    chosen[some],
                    resolution,
                    self.smallest or resolution,
                    np.random.default_rng((CALIBRATION, CALIBRATION_SEED, step)),
                )
                for step, some in enumerate(slices(len(chosen), batch_size))
            ]
        return self.memo["calibration", resolution]

    def eval_batches(self, split: str, resolution: int, batch_size: int) -> Iterator[Batch]:
        """Iterate over (x, y) of "train" or "val" in the split's order, without randomness."""
        if split not in ("train", "val"):
            raise Refusal(
                f"eval_batches has no split {split!r}: choose train or val (the test split: "
                "test_batches)"
            )
        return self._in_order(split, resolution, batch_size)

    def test_batches(self, resolution: int, batch_size: int, why: str) -> Iterator[Batch]:
        """Iterate over (x, y) of the test split. Every use leaves a line in test_uses.log in the
        cache folder."""
        now = datetime.datetime.now().isoformat(timespec="seconds")
        images = len(self.rows["test"])
        files.append_text(
            self.home.parent / "test_uses.log", f"{now}\t{images} images\t{resolution} px\t{why}\n"
        )
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
            kind = files.hash_of([rows.tolist(), self.spec.evaluate])
            path = self.home / f"{split}-{size}-{kind}.u8"
            if not path.exists():
                step = 256 if self.store.uniform else 1
                starts = machine.progress(
                    range(0, len(rows), step), f"{split} images at {size} pixels"
                )
                with files.atomic(path) as temporary, open(temporary, "wb") as file:
                    for start in starts:
                        levels = self._plain(rows[start : start + step], size)
                        file.write(levels.byte().cpu().numpy().data)
            pixels = np.memmap(path, np.uint8, "c", shape=(len(rows), size, size, 3))
            self.memo[split, size] = torch.from_numpy(pixels).to(self.device)
        return self.memo[split, size]

    def _check(self, size):
        shrunk = (self.store.side < self.store.original).any(1)
        if shrunk.any() and size > self.store.side[shrunk].min():
            raise Refusal(
                f"images of {self.name} were kept with {self.store.side[shrunk].min()} pixels, too "
                f"few for resolution {size}: load(..., store={3 * size})"
            )

    def _plain(self, rows, size):
        """The deterministic transform, rounded to whole levels as in the published pipelines: (B,
        R, R, 3), 0..255."""
        store, mode = self.store, self.spec.evaluate
        axes = augment.eval_axes(mode, store.side[rows], store.original[rows], size)
        images, y, x = augment.gather(store, rows, *axes)
        return augment.resize(images, y, x, size, cubic=mode == "square_bicubic").round_()

    def _augmented(self, rows, size, smallest, rng):
        """x of a training batch. smallest: of all training resolutions, the unit of RandAugment's
        translations."""
        if self.spec.scale is None:
            return self._x(self._plain(rows, size))
        y, x = self._crops(rows, size, rng)
        flip = rng.random(len(rows)) < 0.5 if self.spec.flip else np.zeros(len(rows), bool)
        if self.spec.extra == "affine":  # moves the whole image, before the crop
            return self._x(self._moved(rows, size, y, x, flip, rng))
        images, y, x = augment.gather(self.store, rows, y, x)
        if self.spec.extra is None:
            affine = self._affine(size)
            return self._planes(augment.resize(images, y, x, size, flip=flip, affine=affine))
        images = augment.resize(images, y, x, size, flip=flip).round_().byte().permute(0, 3, 1, 2)
        if self.spec.extra == "AA":
            images = augment.apply(images, augment.auto_augment(len(rows), size, rng))
        else:
            slots = augment.rand_augment(len(rows), smallest, rng)
            fill = [round(255 * m) for m in self.mean]
            images = augment.apply(images, slots, cubic=True, fill=fill)
        return self._x(images.permute(0, 2, 3, 1))

    def _crops(self, rows, size, rng):
        """(vertical, horizontal) `Axis` of one random resized crop of every image."""
        original = self.store.original[rows]
        boxes = augment.random_boxes(original, self.spec.scale, self.spec.ratio, rng)
        top, left, height, width = boxes
        factor = self.store.side[rows] / original
        y = augment.crop_axis(top, height, size, factor[:, 0])
        x = augment.crop_axis(left, width, size, factor[:, 1])
        return y, x

    def _moved(self, rows, size, y, x, flip, rng):
        """(B, R, R, 3) levels of images that are each moved as a whole, then cropped."""
        moved = []
        for i, draws in enumerate(rng.random((len(rows), 4))):
            image = augment.random_affine(self.store.image(rows[i]), draws)
            columns = image.permute(2, 1, 0)[None]
            crop = augment.resize(columns, y.of(i), x.of(i), size, flip=flip[i : i + 1])
            moved.append(crop)
        return torch.cat(moved)

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


def _ahead(make: Callable[[int], Batch], n: int, workers: int) -> Iterator[Batch]:
    """make(0), ..., make(n - 1) in order; `workers` threads prepare the next ones. 0: nothing is
    prepared ahead."""
    if not workers:
        yield from map(make, range(n))
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Batch]] = deque()
        try:
            for i in range(n + workers):
                if i < n:
                    pending.append(pool.submit(make, i))
                if i >= workers:
                    yield pending.popleft().result()
        finally:
            for job in pending:  # the consumer stopped early
                job.cancel()
