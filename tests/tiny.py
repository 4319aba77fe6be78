"""The one small profile of the tests, tests/tiny.yaml, and what is changed of it."""

import json
import sys
from pathlib import Path

import pandas as pd
import yaml

from nat_lib.run import params

PROFILE = Path(__file__).with_name("tiny.yaml")


def tiny(study, **changes):
    """The parameters of a study at tiny size, as a notebook gets them."""
    return params.load_params(PROFILE, study, changes)


def write_profile(path, **changes):
    """A profile of one's own at `path`: the tiny one with some keys changed."""
    values = yaml.safe_load(PROFILE.read_text())
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return path


# ------------------------------------------------------------------------------- golden numbers

GOLDEN = Path(__file__).parent / "golden" / "tiny.csv"  # python tests/tiny.py OUT > GOLDEN
# Where a few steps at a high rate turn another machine's rounding into other networks, and searches
# into other choices, what is counted stays: all of chapter 4's numbers, of the others' these.
COUNTED = ("epochs", "n", "n_full", "n_test", "processes", "steps", "evaluations", "fits", "scored")
CLOCKED = ("seconds", "latency", "duration", "ms", "share")  # read off a clock, or chosen by one


def numbers(out):
    """{(cell, key): number} of all finished cells under `out`, without what a clock or another
    machine's rounding decides."""
    found = {}
    for path in sorted(Path(out).rglob("report.json")):
        cell = path.parent.relative_to(out).as_posix()
        # what fine-tunes several exits is there where a search returned a subnet with several
        passing = "latency" in cell or "-ens-" in cell
        if not cell.startswith((".", "notebooks")) and not passing:
            report = json.loads(path.read_text(encoding="utf-8"))
            for key, value in _flat(report["metrics"]):
                kept = cell.startswith("aep") or key.rpartition(".")[2] in COUNTED
                if kept and not any(word in key for word in CLOCKED):
                    found[cell, key] = value
    return found


def _flat(value, key=""):
    """(dotted key, number) of all numbers in nested dictionaries and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


if __name__ == "__main__":
    rows = [(*place, value) for place, value in numbers(sys.argv[1]).items()]
    print(pd.DataFrame(rows, columns=["cell", "key", "value"]).to_csv(index=False), end="")
