"""The ledger: what training and scoring cost, in one unit, so that methods can be compared.

A pass of n images through a network of m MACs costs m * n where nothing learns, and three times as
much with its backward pass.  Whoever passes images charges it; the cell that is being worked on
holds the book (`cells.compute`) and its report tells the sum.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nat_lib.errors import Refusal
from nat_lib.files import read_json, write_json

FORWARD, TRAINING = 1, 3  # times a pass is charged: without and with its backward pass


class Book:
    """The charges of one piece of work.

    path : where it is saved with each checkpoint, so that what a kill lost and what is done again
           count once; None: nowhere
    """

    def __init__(self, path: Path | None = None):
        self.path, self.total = path, 0
        if path and path.exists():
            try:
                self.total = int(read_json(path))
            except (Refusal, TypeError, ValueError):
                raise Refusal(f"{path} is damaged: delete the folder it lies in") from None


_open: ContextVar[Book | None] = ContextVar("book", default=None)


@contextmanager
def opened(path: Path | None = None) -> Iterator[Book]:
    """A book that takes all charges made meanwhile; those of a book around it are not disturbed."""
    book = Book(path)
    before = _open.set(book)
    try:
        yield book
    finally:
        _open.reset(before)


def charge(macs: int, images: int, times: int = FORWARD) -> None:
    """Enter a pass of so many images, of `macs` each."""
    book = _open.get()
    if book:
        book.total += macs * images * times


def spent() -> int:
    """What the open book holds; 0 where none is open."""
    book = _open.get()
    return book.total if book else 0


def save() -> None:
    """Save the open book beside a checkpoint that has just been written."""
    book = _open.get()
    if book and book.path:
        write_json(book.path, book.total)


def passed(network: Any, x: Any, times: int = FORWARD) -> None:
    """Enter a pass of the images x (B, C, R, R) through a network, a module of torch."""
    if _open.get():
        charge(macs_of(network, x), len(x), times)


def passed_subnet(net: Any, arch: Any, exits: Any, x: Any, times: int = FORWARD) -> None:
    """Enter a pass of x through a subnet of a supernet with some of its exits."""
    if _open.get():
        charge(macs_of_subnet(net.space, arch, net.n_classes, exits, x.shape[-1]), len(x), times)


# --------------------------------------------------------------------------------------------- MACs


@lru_cache(maxsize=4096)
def macs_of_subnet(space, arch, n_classes: int, exits: Any, side: int) -> int:
    """MACs of one image of so many pixels; exits: as in `cost.count`, positions in a tuple."""
    from nat_lib.cost import count

    return int(count([replace(arch, resolution=side)], space, n_classes, exits).macs.iloc[0])


def macs_of(network: Any, x: Any) -> int:
    """MACs of one image of the kind in x (B, C, R, R): convolutions and linear layers.

    Of a `supernet.Network` they are counted without a pass; another module is asked once for every
    size.
    """
    if hasattr(network, "subnet"):
        return macs_of_subnet(*network.subnet, x.shape[-1])
    known = network.__dict__.setdefault("macs_by_size", {})
    if x.shape[1:] not in known:
        known[x.shape[1:]] = _watched(network, x[:1])
    return known[x.shape[1:]]


def _watched(network, image):
    """MACs of one image, added up by hooks while it passes; the network stays as it is."""
    import torch
    from torch import nn

    macs = []

    def note(module, inputs, output):
        outputs = output[0].numel() if isinstance(module, nn.Conv2d) else module.out_features
        macs.append(outputs * module.weight[0].numel())

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(note) for m in layers]
    modes = [(m, m.training) for m in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return sum(macs)
