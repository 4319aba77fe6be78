"""What a network made by hand may cost beside a search.  A new kind is a function and a row."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Reports = Iterable[dict[str, Any]]


def core(whole: Reports, take: int) -> dict[str, float]:
    """The seconds that supernet and search took, divided by the networks that are taken."""
    return {"seconds": sum(report["seconds"] for report in whole) / take}


def share(whole: Reports, take: int) -> dict[str, float]:
    """Their ledger cost, divided likewise."""
    return {"cost": sum(report["cost"] or 0 for report in whole) / take}


def everything(whole: Reports, take: int) -> dict[str, float]:
    """All of their ledger cost."""
    return share(whole, 1)


class Budget(NamedTuple):
    """amount : (reports of a search and its origins, networks that are taken) -> {"seconds": of a
    processor} or {"cost": of the ledger};  words : what of the search's it is"""

    amount: Callable[[Reports, int], dict[str, float]]
    words: str


BUDGETS = {
    "core": Budget(core, "share of the seconds"),
    "share": Budget(share, "share of the ledger cost"),
    "whole": Budget(everything, "whole of the ledger cost"),
}
