"""Crop, resize and augment whole batches of uint8 images, on any device.

What is random is drawn by the caller's numpy generator; the tensor code is deterministic, for any
number of threads.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.v2 import functional as V

from nat_lib.data.store import Store

# bytes of one intermediate result on a CPU: several fit into its cache, which is twice as fast
CHUNK = 2**19
DRAWS = 10  # of a random box before the largest central one is taken
Images = UInt8[torch.Tensor, "b w h 3"]  # columns first, as the store has them
Planes = UInt8[torch.Tensor, "b 3 r r"]


# ---------------------------------------------------------------------------------- crop and resize


class Axis(NamedTuple):
    """Where a resized row or column comes from, per image (B,), in pixels of the stored image.

    Output pixel j covers start + j * step .. start + (j + 1) * step; source pixels outside low ..
    high are not seen.
    """

    start: Float[np.ndarray, " b"]
    step: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]

    def of(self, i: int) -> "Axis":
        """The axis of image i alone."""
        return Axis(*(values[i : i + 1] for values in self))

    def from_low(self) -> "Axis":
        """The axis in coordinates that begin at the first pixel it sees."""
        return Axis(self.start - self.low, self.step, self.low - self.low, self.high - self.low)


def random_boxes(
    shape: Int64[np.ndarray, "b 2"],
    scale: float,
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, " b"], ...]:
    """Random resized crops: (top, left, height, width).  The law of torchvision's
    RandomResizedCrop.

    shape : heights and widths of the images.  Ten draws of area and log-uniform aspect per image;
            the first that fits counts, otherwise the largest central crop of admissible aspect.
    """
    height, width = shape.T
    n = len(shape)
    # all draws of all images: (DRAWS, B)
    area = height * width * rng.uniform(scale, 1.0, (DRAWS, n))
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), (DRAWS, n)))
    place = rng.random((2, n))
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # the first draw that fits, or the largest central crop: (B,)
    found, first = fits.any(0), (fits.argmax(0), np.arange(n))
    h = np.where(found, heights[first], np.minimum(height, np.rint(width / ratio[0])))
    w = np.where(found, widths[first], np.minimum(width, np.rint(height * ratio[1])))
    top = np.where(found, np.floor(place[0] * (height - h + 1)), (height - h) // 2)
    left = np.where(found, np.floor(place[1] * (width - w + 1)), (width - w) // 2)
    return tuple(values.astype(np.int64) for values in (top, left, h, w))


def crop_axis(
    low: Int64[np.ndarray, " b"],
    length: Int64[np.ndarray, " b"],
    size: int,
    factor: Float[np.ndarray, " b"],
) -> Axis:
    """Axis of crops `low`, `length` (pixels of the original) resized to `size`; factor: stored /
    original side."""
    first = np.floor(low * factor + 1e-6)
    last = np.ceil((low + length) * factor - 1e-6)
    return Axis(low * factor, length * factor / size, first, last)


def eval_axes(
    mode: str, side: Int64[np.ndarray, "b 2"], original: Int64[np.ndarray, "b 2"], size: int
) -> tuple[Axis, Axis]:
    """(vertical, horizontal) Axis of the deterministic transform `mode`.

    side, original : heights and widths in the store and before it
    """
    zero, short = np.zeros(len(side)), original.min(1)

    def axis(stored: np.ndarray, length: np.ndarray) -> Axis:
        if mode != "CC":
            return Axis(zero, stored / size, zero, stored)
        resized = math.ceil(size / 0.875) * length // short  # pixels of this side, before the crop
        start = np.rint((resized - size) / 2) * stored / resized
        return Axis(start, stored / resized, zero, stored)

    return axis(side[:, 0], original[:, 0]), axis(side[:, 1], original[:, 1])


def gather(
    store: Store, rows: Int64[np.ndarray, " b"], y: Axis, x: Axis
) -> tuple[Images, Axis, Axis]:
    """The images `rows`, and the axes in their coordinates.

    Images of one size are copied whole. Others only as far as their axes see, onto a common black
    canvas.
    """
    if store.uniform:
        height, width = store.side[0].tolist()
        images = store.pixels.view(-1, width, height, 3)
        return images.index_select(0, torch.from_numpy(rows).to(images.device)), y, x
    top, bottom, left, right = (edge.astype(int) for edge in (y.low, y.high, x.low, x.high))
    canvas = store.pixels.new_zeros(len(rows), (right - left).max(), (bottom - top).max(), 3)
    for i, row in enumerate(rows):
        seen = store.image(row)[:, top[i] : bottom[i], left[i] : right[i]]
        canvas[i, : seen.shape[2], : seen.shape[1]] = seen.permute(2, 1, 0)
    return canvas, y.from_low(), x.from_low()


def resize(
    images: Images,
    y: Axis,
    x: Axis,
    size: int,
    cubic: bool = False,
    flip: Bool[np.ndarray, " b"] | None = None,
    affine: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Float[torch.Tensor, "b size size 3"]:
    """Antialiased separable resize of a batch; levels 0..255.

    The same weights as torchvision's (and Pillow's) bilinear or bicubic resize with antialias. Both
    passes are weighted sums of contiguous rows, so a handful of taps is read where a matrix product
    would read the whole side.
    flip   : mirror these images
    affine : (gain, bias), each (size * 3,), applied to the levels of every row before they are
             stored
    """
    batch, width, height, _ = images.shape
    step = batch if images.is_cuda else max(1, CHUNK // (12 * height * max(width, size)))
    columns = _taps(x, width, size, cubic, flip, step, images.device)
    rows = _taps(y, height, size, cubic, None, step, images.device)
    out = torch.empty(batch, size, size, 3, device=images.device)
    for first in range(0, batch, step):
        some = slice(first, first + step)
        # horizontal pass: rows of the table are columns of the images
        table = images[some].reshape(-1, height * 3).float()
        table = _sum_rows(table, columns, some, cubic).view(-1, size, height, 3)
        # (b, x, h, c) -> (b, h, x, c); channel by channel is faster
        table = torch.stack([table[..., c].transpose(1, 2) for c in range(3)], 3)
        # vertical pass
        levels = _sum_rows(table.view(-1, size * 3), rows, some, cubic)
        target = out[some].view(-1, size * 3)
        if affine:
            torch.addcmul(affine[1], levels, affine[0], out=target)
        else:
            target.copy_(levels)
    return out


class Taps(NamedTuple):
    """Which rows of a table make up each output row, and their weights."""

    source: Int64[torch.Tensor, "b size taps"]
    weight: Float[torch.Tensor, "b size taps"]


def _sum_rows(
    table: Float[torch.Tensor, "rows length"], taps: Taps, some: slice, cubic: bool
) -> Float[torch.Tensor, "out length"]:
    """The output rows of the images `some`, whose rows are those of the table."""
    source, weight = taps.source[some].flatten(0, 1), taps.weight[some].flatten(0, 1)
    out = F.embedding_bag(source, table, mode="sum", per_sample_weights=weight)
    # a cubic kernel overshoots; Pillow clips after each pass, too
    return out.clamp_(0, 255) if cubic else out


def _taps(
    axis: Axis,
    n: int,
    size: int,
    cubic: bool,
    flip: Bool[np.ndarray, " b"] | None,
    chunk: int,
    device: torch.device,
) -> Taps:
    """Taps of a pass over images of n rows.

    Row r of image i is number i % chunk * n + r: `chunk` images at a time form one table of rows.
    """
    start, step, low, high = (
        torch.as_tensor(values, dtype=torch.float32).to(device)[:, None] for values in axis
    )
    batch, reach = len(start), 2 if cubic else 1
    # output pixels, counted from the other end in mirrored images: (B, size)
    j = torch.arange(size, device=device, dtype=torch.float32).expand(batch, size)
    if flip is not None:
        j = torch.where(torch.from_numpy(flip).to(device)[:, None], size - 1 - j, j)
    # where their centres lie in the source, and how far the kernel reaches when it shrinks
    centre, wide = start + (j + 0.5) * step, step.clamp(min=1)
    first = (centre - reach * wide + 0.5).floor().maximum(low)
    # source pixels in reach, and their weights: (B, size, taps)
    n_taps = math.ceil(2 * reach * max(axis.step.max(), 1))
    at = first[..., None] + torch.arange(n_taps, device=device, dtype=torch.float32)
    distance = ((at + 0.5 - centre[..., None]) / wide[..., None]).abs()
    weight = _cubic(distance) if cubic else (1 - distance).clamp(min=0)
    weight = weight * (at < high[..., None])
    # as rows of the table of their chunk
    before = n * (torch.arange(batch, device=device) % chunk)
    source = at.clamp(max=n - 1).long() + before[:, None, None]
    return Taps(source, weight / weight.sum(2, keepdim=True))


def _cubic(t: torch.Tensor, a: float = -0.5) -> torch.Tensor:
    """Keys' cubic convolution kernel at distances t >= 0."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


# ------------------------------------------------------------------------------- extra augmentation


Slots = Sequence[Sequence[tuple[str, float] | None]]  # per slot and image: (operation, value)


def apply(
    x: Planes, slots: Slots, cubic: bool = False, fill: Sequence[float] = (0, 0, 0)
) -> Planes:
    """Apply (name, value) operations to a batch, in place: one per image and slot, None for no
    operation.

    cubic, fill : how geometric operations interpolate (nearest otherwise), and the colour from
                  beyond the border
    """
    for slot in slots:
        groups: dict[tuple[str, float], list[int]] = {}
        for i, operation in enumerate(slot):
            if operation:
                groups.setdefault(operation, []).append(i)
        for (name, value), at in groups.items():
            if name in TONES:
                x[at] = TONES[name](x[at], value)
            else:
                x[at] = warp(x[at], MAPS[name](value, x.shape[-1]), cubic, fill)
    return x


def warp(x: Planes, matrix: Sequence, cubic: bool, fill: Sequence[float]) -> Planes:
    """Affine map of a batch.  matrix (2, 3): output offset from the centre -> input offset (px)."""
    theta = torch.tensor(matrix, dtype=torch.float32, device=x.device)
    theta[:, 2] *= 2 / x.shape[-1]
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    colour = torch.tensor(fill, dtype=torch.float32, device=x.device)[:, None, None]
    kind = "bicubic" if cubic else "nearest"
    moved = F.grid_sample(x - colour, grid, kind, align_corners=False) + colour
    return moved.round().clamp(0, 255).to(torch.uint8)


def _rotation(degrees: float, _: int) -> Sequence:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, -s, 0), (s, c, 0)


# (value, R) -> matrix of `warp`; shears hold the top left corner, as in the published policies
MAPS: dict[str, Callable[[float, int], Sequence]] = {
    "ShearX": lambda v, size: ((1, v, v * size / 2), (0, 1, 0)),
    "ShearY": lambda v, size: ((1, 0, 0), (v, 1, v * size / 2)),
    "TranslateX": lambda v, _: ((1, 0, -v), (0, 1, 0)),
    "TranslateY": lambda v, _: ((1, 0, 0), (0, 1, -v)),
    "Rotate": _rotation,
}
TONES: dict[str, Callable[[Planes, float], Planes]] = {
    "Brightness": V.adjust_brightness,
    "Color": V.adjust_saturation,
    "Contrast": V.adjust_contrast,
    "Sharpness": V.adjust_sharpness,
    "Posterize": V.posterize,
    "Solarize": lambda x, v: torch.where(x >= v, 255 - x, x),
    "SolarizeAdd": lambda x, v: (
        torch.where(x < 128, x.int() + v, x.int()).clamp(max=255).to(torch.uint8)
    ),
    "AutoContrast": lambda x, _: V.autocontrast(x),
    "Equalize": lambda x, _: V.equalize(x),
    "Invert": lambda x, _: 255 - x,
}
# 25 times two of (name, probability, level 0..9)
POLICIES = AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def auto_augment(batch: int, size: int, rng: np.random.Generator) -> Slots:
    """Two slots of AutoAugment's CIFAR-10 policy: one of 25 sub-policies per image.

    size   : side of the images in pixels
    Source : arXiv:1805.09501
    """
    chosen = rng.integers(25, size=batch)
    chance = rng.random((batch, 2))
    sign = rng.choice((-1, 1), (batch, 2))

    def value(name: str, t: float, signed: float) -> float:
        shift = int(150 / 331 * size * signed)
        return {
            "Rotate": 30 * signed,
            "ShearX": 0.3 * signed,
            "ShearY": 0.3 * signed,
            "TranslateX": shift,
            "TranslateY": shift,
            "Posterize": round(8 - 4 * t),
            "Solarize": 255 * (1 - t),
        }.get(name, 1 + 0.9 * signed)

    slots: tuple[list, list] = ([], [])
    for i, policy in enumerate(chosen):
        for k, (name, probability, level) in enumerate(POLICIES[policy]):
            t = (level or 0) / 9
            operation = (name, value(name, t, float(sign[i, k] * t)))
            slots[k].append(operation if chance[i, k] <= probability else None)
    return slots


def rand_augment(batch: int, smallest: int, rng: np.random.Generator) -> Slots:
    """Two slots of RandAugment "rand-m9-mstd0.5": 15 operations, each applied with p = 0.5, at
    level N(9, 0.5) of 10.

    smallest : smallest training resolution; translations reach floor(0.45 * smallest) pixels
    Source   : arXiv:1909.13719 in the notation and ranges of the timm library
    """
    names = (*MAPS, *TONES)
    chosen = rng.integers(len(names), size=(2, batch))
    chance = rng.random((2, batch))
    level = rng.normal(9, 0.5, (2, batch)).clip(0, 10) / 10
    sign = rng.choice((-1, 1), (2, batch))
    reach = math.floor(0.45 * smallest)

    def value(name: str, t: float, signed: float) -> float:
        return {
            "Rotate": 30 * signed,
            "ShearX": 0.3 * signed,
            "ShearY": 0.3 * signed,
            "TranslateX": reach * signed,
            "TranslateY": reach * signed,
            "Posterize": int(4 * t),
            "Solarize": int(256 * t),
            "SolarizeAdd": int(110 * t),
        }.get(name, 0.1 + 1.8 * t)

    slots: tuple[list, list] = ([], [])
    for k, slot in enumerate(slots):
        for i in range(batch):
            name, t = names[chosen[k, i]], float(level[k, i])
            operation = (name, value(name, t, float(sign[k, i] * t)))
            slot.append(operation if chance[k, i] < 0.5 else None)
    return slots


def random_affine(
    image: UInt8[torch.Tensor, "3 h w"], draws: Sequence[float]
) -> UInt8[torch.Tensor, "3 h w"]:
    """Rotation up to 45 degrees, shift up to 0.4 of a side, scale 0.75 to 1.5; bilinear on black.

    draws : four numbers in 0..1
    """
    turn, across, down, larger = draws
    height, width = image.shape[1:]
    shift = [round((2 * across - 1) * 0.4 * width), round((2 * down - 1) * 0.4 * height)]
    degrees, scale = 90 * turn - 45, 0.75 + 0.75 * larger
    bilinear = V.InterpolationMode.BILINEAR
    return V.affine(image, degrees, shift, scale, [0.0, 0.0], bilinear)
