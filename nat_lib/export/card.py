"""The model card: README.md of an export, from the template `card.md.jinja`.

Names of classes, data sets and runs come from folders and files of somebody, so they are escaped
where they become Markdown.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from nat_lib.early import AGGREGATORS, POLICIES
from nat_lib.export.formats import IMAGE

TEMPLATE = Path(__file__).with_name("card.md.jinja")
SHOWN = 12  # names of classes
NORMAL = 1.959964  # quantile of the normal distribution for 95 %
NUMBERS = {
    "val_top1": "top-1, validation",
    "test_top1": "top-1, test",
    "test_top5": "top-5, test",
}
COSTS = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "macs_tp": "the same, counted as in the thesis",
}


def proportion(percent: float, n: int) -> dict[str, float]:
    """{"value", "low", "high", "images"}: percent right of n images with Wilson's 95 % interval,
    which stays honest where all images are right.  Source: E. B. Wilson, JASA 22 (1927).
    """
    share, z2 = percent / 100, NORMAL**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"value": percent, "low": 100 * low, "high": 100 * high, "images": n}


def readme(card: dict[str, Any], checks: dict[str, float | None], rounding: float) -> str:
    """The text of README.md.

    checks : {format: largest difference, or None: not written};  rounding : what float32 alone
             changes in the logits
    """
    early = card["early"]
    return _template().render(
        card=card,
        checks=checks,
        rounding=rounding,
        early=early,
        costs=COSTS,
        numbers=NUMBERS,
        image=IMAGE,
        shown=SHOWN,
        policy=POLICIES[early["policy"]].label if early else None,
        aggregator=AGGREGATORS[early["aggregator"]].label if early else None,
    )


@cache
def _template():
    from jinja2 import Environment, StrictUndefined

    rules = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    rules.filters |= {"code": code, "text": text, "digits": lambda v, form: format(v, form)}
    return rules.from_string(TEMPLATE.read_text(encoding="utf-8"))


def written(name: object) -> str:
    """A name as one line of text that every file can hold: what is not UTF-8 or not printable is
    spelled out."""
    line = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def code(name: object) -> str:
    """A name as a code span of Markdown, in which no sign means anything."""
    line = written(name)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{room}{line}{room}{fence}"


def text(name: object) -> str:
    """A name as text of Markdown: signs that mean something there are escaped."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", written(name))
