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

import numpy as np
import pandas as pd

from nat_lib.blocks import Layer, after, conv_layer, gate_layer, level_layers, pooling

METRICS = ("params", "macs", "macs_tp")
COLUMNS = pd.Index(METRICS)  # made once: half the time of a small table goes into its labels
CHUNK = 8192  # subnets per pass: what a pass touches stays in the cache


def count(archs, space, n_classes=200, exits=None) -> pd.DataFrame:
    """params, macs, macs_tp of many subnets: a DataFrame with one row per subnet.

    archs : list of Arch, or genotypes (n, n_var), which is the fast way (millions per second)
    exits : None = the classifier of the subnet's own exit; "all", or ascending positions such as
            (1, 2, 3) = a network with these classifiers and the stages up to the last of them
    """
    kept = space.kept(exits)
    if isinstance(archs, np.ndarray):
        X = space.genotypes(archs)
        resolutions, ir, iw, codes = space.resolutions, X[:, 0], X[:, 1], X[:, space.first :]
        answering = [space.votes[c] for c in X[:, 2]] if _several(space) else None
        last = _last(space, X)
    else:
        resolution, iw, exit, codes = space.columns(archs, stages=kept and kept[-1])
        sizes, ir = np.unique(resolution, return_inverse=True)
        resolutions, last = tuple(sizes.tolist()), exit - 1
        answering = [a.answering for a in archs] if any(a.also for a in archs) else None
        codes = codes.reshape(len(codes), space.slots * space.n_stages)
    tables = _tables(space, n_classes, resolutions)
    place = ir * len(space.widths) + iw
    total = np.empty((len(METRICS), len(codes)), dtype=np.int64)
    for lo in range(0, len(codes), CHUNK):
        part = slice(lo, lo + CHUNK)
        total[:, part] = _sum_entries(
            tables, place[part], last[part], codes[part], kept, space.slots
        )
    if answering and kept is None:
        total += _further_heads(tables[1], place, answering)
    return pd.DataFrame(total.T, columns=COLUMNS, copy=False)


def _several(space):
    """May several exits of a subnet answer?"""
    return len(space.votes) > len(space.exits)


def _last(space, X):
    """(n,) stage of the last exit that answers, from 0."""
    if not space.early_exits:
        return np.full(len(X), space.n_stages - 1)
    return space.last_exits[X[:, 2]] - 1


def _further_heads(tails, place, answering):
    """(3, n): the exits that answer beside the last one.  tails (3, R * W, S)"""
    others = np.zeros((len(place), tails.shape[2]), dtype=np.int64)
    for row, some in zip(others, answering, strict=True):
        row[[e - 1 for e in some[:-1]]] = 1
    return (tails[:, place] * others).sum(axis=2)


def _sum_entries(tables, place, last, codes, kept, slots):
    """(3, n): stem, exits and blocks of n subnets.

    place (n,): resolution and width, row of the tables; last (n,): stage of the exit, from 0; codes
    (n, S * 4)
    """
    stem, tails, levels = tables
    n_slots, n_codes = levels.shape[2:]
    if kept is None:
        fixed = (stem[:, :, None] + tails)[:, place, last]
        behind = np.arange(n_slots) // slots > last[:, None]
        codes = np.where(behind, 0, codes)
    else:
        fixed = (stem + tails[:, :, [i - 1 for i in kept]].sum(axis=2))[:, place]
        codes = codes[:, : kept[-1] * slots]
    row = np.arange(codes.shape[1])[:, None] * n_codes + place * (n_slots * n_codes)
    at = codes.T + row  # (slots, n)
    return fixed + np.stack([metric.reshape(-1).take(at).sum(axis=0) for metric in levels])


def layers(arch, space, n_classes=200, exits=None) -> pd.DataFrame:
    """What a subnet consists of, a DataFrame with one row per layer: stage (0 = stem), block and
    the fields of `Layer`.

    Blocks count from 1; the layers of an exit have block 0 of the stage they follow.
    """
    kept = space.kept(exits) or arch.answering
    space.columns([arch], stages=kept[-1])
    layout, rows = space.layout(arch.width), []
    for part in space.parts(arch, kept):
        if part.what == "stem":
            found = _stem(layout, part.side)
        elif part.what == "exit":
            found = _exit(layout.stages[part.stage - 1], part.side, n_classes)
        else:
            choice = arch.kernel[part.slot], arch.expand[part.slot], arch.level[part.slot]
            found = level_layers(part.place, part.side, *choice)
        rows += [(part.stage, part.block, *layer) for layer in found]
    return pd.DataFrame(rows, columns=["stage", "block", *Layer._fields])


# ------------------------------------------------------------ the parts that are no blocks


def _stem(layout, side):
    head = layout.head
    c, (stride, second), (outer, inner) = head.conv, head.strides, head.acts
    size, last = after(stride, side), head.side(side)
    gate = [gate_layer(c, last, head.gate)] if head.gate else []
    return [
        conv_layer("stem conv", 3, c, 3, size, stride=stride, act=outer),
        conv_layer("stem depthwise", c, c, 3, last, stride=second, act=inner, groups=c),
        *gate,
        conv_layer("stem project", c, head.out, 1, last),
    ]


def _exit(stage, side, n_classes):
    widths, act, bias = stage.tail
    wide, *mixed = widths
    first = conv_layer("exit conv1", stage.c_out, wide, 1, side, act=act)
    # the pooling that follows has no row of its own
    first = first._replace(macs_tp=first.macs_tp + pooling(wide, side))
    return [
        first,
        *(conv_layer("exit conv2", wide, t, 1, 1, act=act, bias=bias, bn=False) for t in mixed),
        conv_layer("exit linear", widths[-1], n_classes, 1, 1, bias=True, bn=False),
    ]


# -------------------------------------------------------------------------------- tables


def _sum(rows):
    return [sum(getattr(row, m) for row in rows) for m in METRICS]


@lru_cache(maxsize=256)
def entries(space, n_classes, width, resolution):
    """Costs of the stem (3,), of the exits (S, 3) and of every block code in every slot (S * 4, M +
    1, 3), int64."""
    layout = space.layout(width)
    stem, tails, levels = _sum(_stem(layout, resolution)), [], []
    side = layout.head.side(resolution)
    for stage in layout.stages:
        for first in (True, False):
            place = stage.place(first)
            costs = [
                _sum(level_layers(place, side, *code)) for code in space.code_table[1:].tolist()
            ]
            levels += [[[0, 0, 0], *costs]] * (1 if first else space.slots - 1)
            side = after(place.stride, side)
        tails.append(_sum(_exit(stage, side, n_classes)) if stage.tail else [0, 0, 0])
    return tuple(np.array(part, dtype=np.int64) for part in (stem, tails, levels))


@lru_cache(maxsize=64)
def _tables(space, n_classes, resolutions):
    """The tables of every resolution and width, metric first: (3, R * W), (3, R * W, S), (3, R * W,
    S * 4, M + 1)."""
    parts = zip(
        *(entries(space, n_classes, w, r) for r, w in product(resolutions, space.widths)),
        strict=True,
    )
    return [np.ascontiguousarray(np.moveaxis(np.stack(part), -1, 0)) for part in parts]
