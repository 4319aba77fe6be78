"""What a search minimises beside the error of a subnet: one function and one row for each.

Parameters, searches, tables, figures, the browser and the claims read the row and nothing else.
Source: thesis 3.3.4 and 6.2; METHODS 3.8.1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nat_lib.errors import Refusal

ERROR = "acc"  # what the error is called where objectives are named: it is always the first
ERROR_LABEL = "accuracy"
EXAMPLE = "acc+macs"


class Subject(NamedTuple):
    """What subnets cost something for: all that a cost depends on besides genotypes.

    space     : arch.Space of the genotypes
    n_classes : outputs of the classifiers
    latency   : X (n, V) -> (n,) milliseconds for one image on this machine; None where nothing is
                measured
    """

    space: Any
    n_classes: int
    latency: Callable | None = None


Genotypes = Int[np.ndarray, "n v"]
Costs = Float[np.ndarray, " n"]


def params(subject: Subject, X: Genotypes) -> Costs:
    """Millions of trainable parameters."""
    from nat_lib.cost import count

    return count(X, subject.space, subject.n_classes).params.to_numpy() / 1e6


def macs(subject: Subject, X: Genotypes) -> Costs:
    """Millions of multiply-accumulates for one image of the subnet's own resolution, counted as in
    the thesis."""
    from nat_lib.cost import count

    return count(X, subject.space, subject.n_classes).macs_tp.to_numpy() / 1e6


def latency(subject: Subject, X: Genotypes) -> Costs:
    """Milliseconds for one image on this machine: from the table of its blocks, or of every network
    by itself."""
    if subject.latency is None:
        raise Refusal("nothing here measures latency: leave it out of the objectives")
    return subject.latency(X)


class Objective(NamedTuple):
    """One row of the table: a cost, to be minimised.

    function : (Subject, X (n, V) repaired genotypes) -> (n,) finite numbers, in `unit`. A search
               asks for two thousand subnets per iteration: arithmetic on arrays, no network
    label    : the word for it in titles
    unit     : as it stands on axes
    column   : where subnets.csv holds it, "" = in a column of the objective's own name
    scale    : how much of that column is one `unit`
    timed    : read off a clock, so it belongs to a machine and cannot be computed from a genotype
    """

    function: Callable[[Subject, Genotypes], Costs]
    label: str
    unit: str
    column: str = ""
    scale: float = 1.0
    timed: bool = False


OBJECTIVES = {
    "params": Objective(params, "parameters", "M", "params", 1e6),
    "macs": Objective(macs, "MACs", "M", "macs_tp", 1e6),
    "latency": Objective(latency, "latency", "ms", "latency_ms", timed=True),
}


def names(text: str) -> tuple[str, ...]:
    """Names in the order of the table, from "acc+macs" in any order: ("acc", "macs").

    A Refusal unless accuracy is among them once, and every other objective at most once.
    """
    given, known = text.split("+"), (ERROR, *OBJECTIVES)
    for name in given:
        if name not in known:
            raise Refusal(
                f"objective {name!r} is unknown: join {ERROR} by + with some of "
                f"{', '.join(OBJECTIVES)}"
            )
    if ERROR not in given or len(set(given)) < len(given):
        raise Refusal(
            f"objectives {text!r}: name {ERROR} once, and every other objective at most once, "
            f"such as {EXAMPLE}"
        )
    return tuple(name for name in known if name in given)


def label(name: str) -> str:
    """The word for an objective; a name without a row stands for itself."""
    if name == ERROR:
        return ERROR_LABEL
    return OBJECTIVES[name].label if name in OBJECTIVES else name


def title(text: str) -> str:
    """Objectives as the thesis writes them: "acc+params" is accuracy & parameters."""
    return " & ".join(label(name) for name in text.split("+"))


def axis(name: str) -> str:
    """The label of an axis, with the unit: "MACs (M)". A name without a row stands for itself."""
    if name not in OBJECTIVES:
        return label(name)
    return f"{OBJECTIVES[name].label} ({OBJECTIVES[name].unit})"


def column(name: str) -> str:
    """The column of subnets.csv that holds an objective (in `scale` times its unit)."""
    return OBJECTIVES[name].column or name
