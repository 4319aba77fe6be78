"""Networks as files that run elsewhere."""

from importlib import import_module


def __getattr__(name):
    """What `write` and `layers` hold, imported when it is asked for."""
    if name.startswith("__"):
        raise AttributeError(name)
    write, layers = import_module("nat_lib.export.write"), import_module("nat_lib.export.layers")
    return getattr(write if hasattr(write, name) else layers, name)
