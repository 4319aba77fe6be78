"""Crop, resize and augment whole batches of uint8 images, on any device.

What is random is drawn by the caller's numpy generator; the tensor code is deterministic, for any
number of threads.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.v2 import functional as V

# bytes of one intermediate result on a CPU: several fit into its cache, which is twice as fast
CHUNK = 2**19


# ---------------------------------------------------------------------------------- crop and resize


class Axis(NamedTuple):
    """Where a resized row or column comes from, per image (B,), in pixels of the stored image.

    Output pixel j covers start + j * step .. start + (j + 1) * step; source pixels outside low ..
    high are not seen.
    """

    start: np.ndarray
    step: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def of(self, i):
        """The axis of image i alone."""
        return Axis(*(v[i : i + 1] for v in self))


def random_boxes(shape, scale, ratio, rng):
    """Random resized crops: (top, left, height, width), each (B,) int64.  The law of torchvision's
    RandomResizedCrop.

    shape : (B, 2) heights and widths.  Ten draws of area and log-uniform aspect per image; the
            first that fits counts, otherwise the largest central crop of admissible aspect.
    """
    height, width = shape.T
    area = height * width * rng.uniform(scale, 1.0, (10, len(shape)))
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), (10, len(shape))))
    place = rng.random((2, len(shape)))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first, any_fits, column = fits.argmax(0), fits.any(0), np.arange(len(shape))
    h = np.where(any_fits, h[first, column], np.minimum(height, np.rint(width / ratio[0])))
    w = np.where(any_fits, w[first, column], np.minimum(width, np.rint(height * ratio[1])))
    top = np.where(any_fits, np.floor(place[0] * (height - h + 1)), (height - h) // 2)
    left = np.where(any_fits, np.floor(place[1] * (width - w + 1)), (width - w) // 2)
    return tuple(v.astype(np.int64) for v in (top, left, h, w))


def crop_axis(low, length, size, factor):
    """Axis of crops `low`, `length` (pixels of the original) resized to `size`; factor: stored /
    original side."""
    return Axis(
        low * factor,
        length * factor / size,
        np.floor(low * factor + 1e-6),
        np.ceil((low + length) * factor - 1e-6),
    )


def eval_axes(mode, side, original, size):
    """(vertical, horizontal) Axis of the deterministic transform `mode`.  side, original: (B, 2)
    heights and widths."""
    whole = [np.zeros(len(side)), np.zeros(len(side))]
    if mode != "CC":
        return tuple(Axis(zero, n / size, zero, n) for zero, n in zip(whole, side.T, strict=True))
    short, axes = original.min(1), []
    for zero, n, length in zip(whole, side.T, original.T, strict=True):
        # pixels of this side after the resize
        resized = math.ceil(size / 0.875) * length // short
        axes.append(Axis(np.rint((resized - size) / 2) * n / resized, n / resized, zero, n))
    return tuple(axes)


def gather(store, rows, y, x):
    """The images `rows` as uint8 (B, W, H, 3), and the axes in its coordinates.

    Images of one size are copied whole. Others only as far as their axes see, onto a common black
    canvas.
    """
    if store.uniform:
        height, width = store.side[0].tolist()
        images = store.pixels.view(-1, width, height, 3)
        return images.index_select(0, torch.from_numpy(rows).to(images.device)), y, x
    top, bottom, left, right = (v.astype(int) for v in (y.low, y.high, x.low, x.high))
    canvas = store.pixels.new_zeros(len(rows), (right - left).max(), (bottom - top).max(), 3)
    for i, row in enumerate(rows):
        seen = store.image(row)[:, top[i] : bottom[i], left[i] : right[i]]
        canvas[i, : seen.shape[2], : seen.shape[1]] = seen.permute(2, 1, 0)
    return canvas, *(Axis(a.start - a.low, a.step, a.low - a.low, a.high - a.low) for a in (y, x))


def resize(images, y, x, size, cubic=False, flip=None, affine=None):
    """Antialiased separable resize of a batch: uint8 (B, W, H, 3) -> float32 (B, size, size, 3),
    levels 0..255.

    The same weights as torchvision's (and Pillow's) bilinear or bicubic resize with antialias. Both
    passes are weighted sums of contiguous rows, so a handful of taps is read where a matrix product
    would read the whole side.
    flip   : (B,) bool, mirror these images
    affine : (gain, bias), each (size * 3,), applied to the levels of every row before they are
             stored
    """
    batch, width, height, _ = images.shape
    step = batch if images.is_cuda else max(1, CHUNK // (12 * height * max(width, size)))
    columns, rows = (
        _taps(x, width, size, cubic, flip, step, images),
        _taps(y, height, size, cubic, None, step, images),
    )
    out = torch.empty(batch, size, size, 3, device=images.device)
    for i in range(0, batch, step):
        some = slice(i, i + step)
        table = _sum_rows(images[some].reshape(-1, height * 3).float(), columns, some, cubic)
        # (b, x, h, c) -> (b, h, x, c); channel by channel is faster
        table = table.view(-1, size, height, 3)
        table = torch.stack([table[..., c].transpose(1, 2) for c in range(3)], 3).view(-1, size * 3)
        levels = _sum_rows(table, rows, some, cubic)
        target = out[some].view(-1, size * 3)
        torch.addcmul(affine[1], levels, affine[0], out=target) if affine else target.copy_(levels)
    return out


def _sum_rows(table, taps, some, cubic):
    index, weight = (t[some].flatten(0, 1) for t in taps)
    out = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    # a cubic kernel overshoots; Pillow clips after each pass, too
    return out.clamp_(0, 255) if cubic else out


def _taps(axis, n, size, cubic, flip, chunk, images):
    """Which of n source rows make up each output row, and their weights: both (B, size, taps).

    Row r of image i is number i % chunk * n + r: `chunk` images at a time form one table of rows.
    """
    device = images.device
    start, step, low, high = (
        torch.as_tensor(v, dtype=torch.float32).to(device)[:, None] for v in axis
    )
    batch, reach = len(start), 2 if cubic else 1
    n_taps = math.ceil(2 * reach * max(axis.step.max(), 1))
    j = torch.arange(size, device=device, dtype=torch.float32).expand(batch, size)
    if flip is not None:
        j = torch.where(torch.from_numpy(flip).to(device)[:, None], size - 1 - j, j)
    # (B, size)
    centre, wide = start + (j + 0.5) * step, step.clamp(min=1)
    first = (centre - reach * wide + 0.5).floor().maximum(low)
    # (B, size, taps)
    at = first[..., None] + torch.arange(n_taps, device=device, dtype=torch.float32)
    distance = ((at + 0.5 - centre[..., None]) / wide[..., None]).abs()
    weight = (_cubic(distance) if cubic else (1 - distance).clamp(min=0)) * (at < high[..., None])
    index = (
        at.clamp(max=n - 1).long() + n * (torch.arange(batch, device=device) % chunk)[:, None, None]
    )
    return index, weight / weight.sum(2, keepdim=True)


def _cubic(t, a=-0.5):
    """Keys' cubic convolution kernel at distances t >= 0."""
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, a * (((t - 5) * t + 8) * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


# ------------------------------------------------------------------------------- extra augmentation


def apply(x, slots, cubic=False, fill=(0, 0, 0)):
    """Apply (name, value) operations to a batch (B, 3, R, R) uint8: one per image and slot, None
    for no operation.

    cubic, fill : how geometric operations interpolate (nearest otherwise), and the colour from
                  beyond the border
    """
    for slot in slots:
        groups = {}
        for i, operation in enumerate(slot):
            if operation:
                groups.setdefault(operation, []).append(i)
        for (name, value), at in groups.items():
            tone = TONES.get(name)
            x[at] = (
                tone(x[at], value)
                if tone
                else warp(x[at], MAPS[name](value, x.shape[-1]), cubic, fill)
            )
    return x


def warp(x, matrix, cubic, fill):
    """Affine map of a batch (n, 3, R, R) uint8.  matrix (2, 3): output offset from the centre ->
    input offset (px)."""
    theta = torch.tensor(matrix, dtype=torch.float32, device=x.device)
    theta[:, 2] *= 2 / x.shape[-1]
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    fill = torch.tensor(fill, dtype=torch.float32, device=x.device)[:, None, None]
    moved = (
        F.grid_sample(x - fill, grid, "bicubic" if cubic else "nearest", align_corners=False) + fill
    )
    return moved.round().clamp(0, 255).to(torch.uint8)


def _rotation(degrees, _):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, -s, 0), (s, c, 0)


# (value, R) -> matrix of `warp`; shears hold the top left corner, as in the published policies
MAPS = {
    "ShearX": lambda v, size: ((1, v, v * size / 2), (0, 1, 0)),
    "ShearY": lambda v, size: ((1, 0, 0), (v, 1, v * size / 2)),
    "TranslateX": lambda v, _: ((1, 0, -v), (0, 1, 0)),
    "TranslateY": lambda v, _: ((1, 0, 0), (0, 1, -v)),
    "Rotate": _rotation,
}
TONES = {  # (uint8 batch, value) -> uint8 batch
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


def auto_augment(batch, size, rng):
    """Two slots of AutoAugment's CIFAR-10 policy: one of 25 sub-policies per image.  Source:
    arXiv:1805.09501."""
    chosen, chance, sign = (
        rng.integers(25, size=batch),
        rng.random((batch, 2)),
        rng.choice((-1, 1), (batch, 2)),
    )
    slots = [], []
    for i, policy in enumerate(chosen):
        for k, (name, probability, level) in enumerate(POLICIES[policy]):
            t = (level or 0) / 9
            st = float(sign[i, k] * t)
            px = int(150 / 331 * size * st)
            value = {
                "Rotate": 30 * st,
                "ShearX": 0.3 * st,
                "ShearY": 0.3 * st,
                "TranslateX": px,
                "TranslateY": px,
                "Posterize": round(8 - 4 * t),
                "Solarize": 255 * (1 - t),
            }.get(name, 1 + 0.9 * st)
            slots[k].append((name, value) if chance[i, k] <= probability else None)
    return slots


def rand_augment(batch, smallest, rng):
    """Two slots of RandAugment "rand-m9-mstd0.5": 15 operations, each applied with p = 0.5, at
    level N(9, 0.5) of 10.

    smallest : smallest training resolution; translations reach floor(0.45 * smallest) pixels
    Source   : arXiv:1909.13719 in the notation and ranges of the timm library
    """
    names = (*MAPS, *TONES)
    chosen, chance = rng.integers(len(names), size=(2, batch)), rng.random((2, batch))
    level, sign = rng.normal(9, 0.5, (2, batch)).clip(0, 10) / 10, rng.choice((-1, 1), (2, batch))
    reach = math.floor(0.45 * smallest)

    def value(name, t, st):
        return {
            "Rotate": 30 * st,
            "ShearX": 0.3 * st,
            "ShearY": 0.3 * st,
            "TranslateX": reach * st,
            "TranslateY": reach * st,
            "Posterize": int(4 * t),
            "Solarize": int(256 * t),
            "SolarizeAdd": int(110 * t),
        }.get(name, 0.1 + 1.8 * t)

    return [
        [
            (names[c], value(names[c], t, s * t)) if p < 0.5 else None
            for c, p, t, s in zip(*(v.tolist() for v in slot), strict=True)
        ]
        for slot in zip(chosen, chance, level, sign, strict=True)
    ]


def random_affine(image, draws):
    """Rotation up to 45 degrees, shift up to 0.4 of a side, scale 0.75 to 1.5; bilinear on black.
    (3, H, W) uint8.

    draws : four numbers in 0..1
    """
    shift = [
        round((2 * u - 1) * 0.4 * n)
        for u, n in zip(draws[1:3], (image.shape[2], image.shape[1]), strict=True)
    ]
    return V.affine(
        image,
        90 * draws[0] - 45,
        shift,
        0.75 + 0.75 * draws[3],
        [0.0, 0.0],
        V.InterpolationMode.BILINEAR,
    )
