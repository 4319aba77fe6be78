"""Data sets: `load(name, ...)` returns the splits of one, decoded once and served in batches."""

from importlib import import_module


def __getattr__(name):
    """`load` and all else of `batches`, imported when asked for: a table need not wait for
    torch."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("nat_lib.data.batches"), name)
