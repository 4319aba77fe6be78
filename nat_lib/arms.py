"""Arms: ways to train a supernet that are compared at equal cost.  A new one is a row of ARMS.

An arm says what it does otherwise than the experiment of notebook 02; budget, data, panel and seeds
are those of all.  Rows of CROSSED cross sampler, loss and teacher within Extended Progressive
Shrinking.
"""

from itertools import product
from typing import Any, NamedTuple


class Arm(NamedTuple):
    """label   : in tables and figures
    changes : {parameter of notebook 02: value}"""

    label: str
    changes: dict[str, Any]


def _in_place(curriculum: str, **changes: Any) -> dict[str, Any]:
    """One phase in which the largest subnet of a step teaches the others."""
    return {"curriculum": curriculum, "teachers": ["in_place"]} | changes


EQUAL = 0.01  # share of the budget that the cost of an arm may miss
LABELS = [1.0, 0.0]  # of labels and teacher in a student's loss: the labels alone

ARMS = {
    # thesis chapter 5
    "eps": Arm("EPS", {"curriculum": "eps", "teachers": ["fixed"]}),
    "eps_progressive": Arm("EPS, progressive", {"curriculum": "eps", "teachers": ["pet"]}),
    "eps_sandwich": Arm("EPS, sandwich", _in_place("eps_sandwich")),
    "eps_one_pass": Arm("EPS, one pass", {"curriculum": "eps_one_pass", "teachers": ["fixed"]}),
    # docs/DECISIONS.md, A recipe for short budgets
    "one_stage": Arm("one stage", _in_place("one_stage")),
    # arXiv:2003.11142
    "sandwich": Arm("sandwich, KL", _in_place("sandwich", distill="soft_ce")),
    "bignas": Arm("BigNAS", _in_place("bignas")),
    # what distillation and the extremes are worth by themselves
    "labels": Arm("sandwich, labels", _in_place("sandwich", mix=LABELS)),
    "uniform_labels": Arm("uniform, labels", _in_place("sandwich", mix=LABELS, sampler="uniform")),
    # arXiv:2102.07954
    "alpha": Arm("sandwich, alpha", _in_place("sandwich", distill="alpha")),
    # arXiv:2011.09011
    "best_up": Arm("BestUp, KL", _in_place("sandwich", distill="soft_ce", sampler="best_up")),
    "worst_up": Arm("WorstUp, KL", _in_place("sandwich", distill="soft_ce", sampler="worst_up")),
    "best_up_alpha": Arm(
        "BestUp, alpha", _in_place("sandwich", distill="alpha", sampler="best_up")
    ),
}

# {factor: its levels}, the first of each being what the others are compared with
FACTORS = {
    "sampler": {"uniform": "uniform", "sandwich": "sandwich", "best_up": "BestUp"},
    "loss": {"soft_ce": "KL", "alpha": "alpha"},  # the former has the gradient of KL
    "teacher": {"fixed": "fixed", "pet": "progressive", "in_place": "in place"},
}
# {arm: its level of each factor}
CROSSED = {"_".join(("eps", *levels)): levels for levels in product(*FACTORS.values())}


def _crossed(sampler: str, loss: str, teacher: str) -> Arm:
    """One of the arms of the factorial; where the largest teaches in place, every sampler draws
    it."""
    drawn = "largest_first" if (sampler, teacher) == ("uniform", "in_place") else sampler
    changes = {"curriculum": "eps", "sampler": drawn, "distill": loss, "teachers": [teacher]}
    words = zip(FACTORS.values(), (sampler, loss, teacher), strict=True)
    return Arm("EPS: " + ", ".join(names[level] for names, level in words), changes)


ARMS |= {name: _crossed(*levels) for name, levels in CROSSED.items()}
