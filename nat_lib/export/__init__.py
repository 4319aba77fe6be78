"""Networks as files that run elsewhere.

`load_subnet`, `read_card` and `answer_early` need neither searches nor data sets; `from_search`,
`from_post` and `from_aep` write what they read. Each is imported when it is asked for.
"""

from importlib import import_module

WHERE = {
    "load_subnet": "nat_lib.export.subnet",
    "read_card": "nat_lib.export.subnet",
    "answer_early": "nat_lib.early",
    "from_search": "nat_lib.export.sources",
    "from_post": "nat_lib.export.sources",
    "from_aep": "nat_lib.export.sources",
}


def __getattr__(name):
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)
