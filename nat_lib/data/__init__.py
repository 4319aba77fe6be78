"""Data sets: `load(name, ...)` returns the splits of one, decoded once and served in batches."""


def __getattr__(name):
    """`load`, imported when it is asked for: the catalogue need not wait for torch."""
    if name != "load":
        raise AttributeError(f"nat_lib.data has no {name}")
    from nat_lib.data.loading import load

    return load
