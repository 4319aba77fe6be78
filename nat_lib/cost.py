"""Parameters and MACs of subnets, exact and without building a network.

params  : weights, biases and BN affine parameters of the extracted network (kernel transformations
          vanish there)
macs    : multiply-accumulates of convolutions and linear layers, batch 1
macs_tp : macs, and one operation per BN output, per h-swish element, per element gated by
          squeeze-and-excitation and per output of every one-axis mean (a global pooling of C x H x
          W is C H + C). This is how the thesis counted: it reproduces the 50,910,976 of the largest
          single-exit network at 64 pixels to the unit.
Additions, ReLU, hard sigmoid, max-pooling and the dense skips count nothing in either.

Every level of a stage costs what its block code says, whatever its neighbours are. So `count` sums
table entries.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from nat_lib.arch import IRB, POINTWISE, TRANSFORM, middle, se_hidden
from nat_lib.errors import Refusal

METRICS = ("params", "macs", "macs_tp")
CHUNK = 8192  # subnets per pass: what a pass touches stays in the cache


class Layer(NamedTuple):
    """One layer with its BN and activation. `mid`: middle channels of the block it belongs to;
    size: output side."""

    what: str
    kernel: int
    c_in: int
    mid: int
    c_out: int
    stride: int
    size: int
    params: int
    macs: int
    macs_tp: int


def count(archs, space, n_classes=200, exits=None):
    """params, macs, macs_tp of many subnets: a DataFrame with one row per subnet.

    archs : list of Arch, or genotypes (n, n_var), which is the fast way (millions per second)
    exits : None = the classifier of the subnet's own exit; "all", or ascending positions such as
            (1, 2, 3) = a network with these classifiers and the stages up to the last of them
    """
    kept = _kept(exits, space)
    if isinstance(archs, np.ndarray):
        X = space.genotypes(archs)
        resolutions, ir, iw, codes = space.resolutions, X[:, 0], X[:, 1], X[:, space.first :]
        last = X[:, 2] if space.early_exits else np.full(len(X), space.n_stages - 1)
    else:
        resolution, iw, exit, codes = space.columns(archs, stages=kept and kept[-1])
        resolutions, ir = np.unique(resolution, return_inverse=True)
        codes, last = codes.reshape(len(codes), space.slots * space.n_stages), exit - 1
    rw, tables = (
        ir * len(space.widths) + iw,
        _tables(space, n_classes, tuple(map(int, resolutions))),
    )
    total = np.empty((len(METRICS), len(codes)), dtype=np.int64)
    for lo in range(0, len(codes), CHUNK):
        part = slice(lo, lo + CHUNK)
        total[:, part] = _sum_entries(tables, rw[part], last[part], codes[part], kept, space.slots)
    return pd.DataFrame(dict(zip(METRICS, total, strict=True)))


def _sum_entries(tables, rw, last, codes, kept, slots):
    """(3, n): stem, exits and blocks of n subnets.

    rw (n,): resolution and width, row of the tables; last (n,): stage of the exit, from 0; codes
    (n, S * 4)
    """
    stem, tails, levels = tables
    n_slots, n_codes = levels.shape[2:]
    if kept is None:
        fixed = (stem[:, :, None] + tails)[:, rw, last]
        codes = np.where(
            np.repeat(np.arange(n_slots // slots) > last[:, None], slots, axis=1), 0, codes
        )
    else:
        fixed = (stem + tails[:, :, [i - 1 for i in kept]].sum(axis=2))[:, rw]
        codes = codes[:, : kept[-1] * slots]
    at = (
        codes.T + np.arange(codes.shape[1])[:, None] * n_codes + rw * (n_slots * n_codes)
    )  # (slots, n)
    return fixed + np.stack([metric.reshape(-1).take(at).sum(axis=0) for metric in levels])


def layers(arch, space, n_classes=200, exits=None):
    """What a subnet consists of, a DataFrame with one row per layer: stage (0 = stem), block and
    the fields of `Layer`.

    Blocks count from 1; the layers of an exit have block 0 of the stage they follow.
    """
    kept = _kept(exits, space) or (arch.exit,)
    space.columns([arch], stages=kept[-1])
    plan, side = space.plan(arch.width), _after(2, arch.resolution)
    rows = [(0, 0, layer) for layer in _stem(plan, side)]
    for s, stage in enumerate(plan.stages[: kept[-1]]):
        for b in range(arch.depth[s]):
            slot = s * space.slots + b
            level = _level(
                stage, b == 0, side, arch.kernel[slot], arch.expand[slot], arch.level[slot]
            )
            rows += [(s + 1, b + 1, layer) for layer in level]
            side = level[-1].size
        if s + 1 in kept:
            rows += [(s + 1, 0, layer) for layer in _exit(stage, side, n_classes)]
    return pd.DataFrame(
        [(s, b, *layer) for s, b, layer in rows], columns=["stage", "block", *Layer._fields]
    )


# ---- the layers of each part; `side` is that of the part's input unless said otherwise
# ----------------------------


def _after(stride, side):
    """Output side of a "same"-padded convolution, and of the pooling that runs beside it: divided,
    rounded up."""
    return -(-side // stride)


def _conv(
    what, c_in, c_out, kernel, size, stride=1, act="relu", groups=1, bias=False, bn=True, mid=0
):
    """A convolution with its BN and activation; `size` is the side of the output."""
    weights, outputs = kernel * kernel * (c_in // groups) * c_out, c_out * size * size
    macs = weights * size * size
    params = weights + c_out * (bias + 2 * bn)
    return Layer(
        what,
        kernel,
        c_in,
        mid,
        c_out,
        stride,
        size,
        params,
        macs,
        macs + outputs * (bn + (act == "h_swish")),
    )


def _stem(plan, size):
    c = plan.stem
    return [
        _conv("stem conv", 3, c, 3, size, stride=2, act="h_swish"),
        _conv("stem depthwise", c, c, 3, size, groups=c),
        _conv("stem project", c, c, 1, size),
    ]


def _level(stage, first, side, kernel, expand, level):
    """The active branches of one level: the inverted residual block, the pointwise one, the
    transformation."""
    c_in, stride = (stage.c_in, stage.stride) if first else (stage.c_out, 1)
    c, act, size, rows = stage.c_out, stage.act, _after(stride, side), []
    if level & IRB:
        mid = middle(c_in, expand)
        rows.append(_conv("expand", c_in, mid, 1, side, act=act, mid=mid))
        rows.append(_conv("depthwise", mid, mid, kernel, size, stride, act, groups=mid, mid=mid))
        rows += [_gate(mid, size)] if stage.se else []
        rows.append(_conv("project", mid, c, 1, size, mid=mid))
    if level & POINTWISE:
        rows.append(_conv("pointwise", c_in, c, 1, size, stride, act))
    if level & TRANSFORM and c_in != c:
        rows.append(_conv("transform", c_in, c, 1, size, stride, act, bias=True))
    elif level & TRANSFORM:  # nothing to match: BN and activation alone
        operations = c * size * size * (1 + (act == "h_swish"))
        rows.append(Layer("transform", 0, c, 0, c, stride, size, 2 * c, 0, operations))
    return rows


def _gate(c, size):
    """Squeeze-and-excitation: pooling, two biased 1x1 convolutions on one pixel, one product per
    element."""
    hidden = se_hidden(c)
    macs = 2 * c * hidden
    return Layer(
        "gate",
        1,
        c,
        c,
        c,
        1,
        size,
        macs + hidden + c,
        macs,
        macs + _pooling(c, size) + c * size * size,
    )


def _pooling(c, size):
    """Outputs of the mean over the width, then of the mean over the height."""
    return c * size + c


def _exit(stage, side, n_classes):
    t1, t2 = stage.tail
    first = _conv("exit conv1", stage.c_out, t1, 1, side, act="h_swish")
    return [
        first._replace(
            macs_tp=first.macs_tp + _pooling(t1, side)
        ),  # the pooling that follows has no row of its own
        _conv("exit conv2", t1, t2, 1, 1, act="h_swish", bn=False),
        _conv("exit linear", t2, n_classes, 1, 1, bias=True, bn=False),
    ]


# ---- tables
# --------------------------------------------------------------------------------------------------


def _sum(rows):
    return [sum(getattr(row, m) for row in rows) for m in METRICS]


@lru_cache(maxsize=256)
def _table(space, n_classes, width, resolution):
    """Costs of the stem (3,), of the exits (S, 3) and of every block code in every slot (S * 4, M +
    1, 3), int64."""
    plan, side = space.plan(width), _after(2, resolution)
    stem, tails, levels = _sum(_stem(plan, side)), [], []
    for stage in plan.stages:
        for first in (True, False):
            costs = [
                _sum(_level(stage, first, side, *code)) for code in space.code_table[1:].tolist()
            ]
            levels += [[[0, 0, 0], *costs]] * (1 if first else space.slots - 1)
            side = _after(stage.stride, side) if first else side
        tails.append(_sum(_exit(stage, side, n_classes)) if stage.tail else [0, 0, 0])
    return tuple(np.array(part, dtype=np.int64) for part in (stem, tails, levels))


@lru_cache(maxsize=64)
def _tables(space, n_classes, resolutions):
    """The tables of every resolution and width, metric first: (3, R * W), (3, R * W, S), (3, R * W,
    S * 4, M + 1)."""
    parts = zip(
        *(_table(space, n_classes, w, r) for r, w in product(resolutions, space.widths)),
        strict=True,
    )
    return [np.ascontiguousarray(np.moveaxis(np.stack(part), -1, 0)) for part in parts]


def _kept(exits, space):
    if exits is None:
        return None
    kept = space.exits if isinstance(exits, str) and exits == "all" else tuple(exits)
    if not kept or list(kept) != sorted(set(kept)) or not set(kept) <= set(space.exits):
        legal = ", ".join(map(str, space.exits))
        raise Refusal(f"exits = {exits!r}: give None, 'all' or ascending positions out of {legal}")
    return kept
