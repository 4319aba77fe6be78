"""The claims of the thesis as rules, and what our own numbers say about each of them.

`reference/claims.csv` holds 154 claims; the rule of each is an expression over measured values
(`rules`). How a claim is judged was fixed before any run:

  1. every value the rule asks for must exist, otherwise the claim is "not run in this profile";
  2. a claim that quotes a number of the thesis is judged only where our runs are comparable with
     the thesis's, otherwise it is "not comparable in this profile" and our number is shown;
  3. the rule is evaluated on 1000 seeded noisy copies of our values (`values`): true in 95 % of
     them or more is "reproduced"; true in 5 % or fewer, and not true of the values as measured
     either, is "contradicted"; everything else is "tie within noise". (The noise of a copy comes on
     top of that of the values: a conjunction of many comparisons that all hold can fail on most
     copies, which says that noise decides, not that the claim is wrong.)
"""

import numpy as np
import pandas as pd

from nat_lib.results.names import NOT_RUN
from nat_lib.results.printed import printed
from nat_lib.results.rules import evaluate
from nat_lib.results.values import COPIES, Store

SURE = 0.95
NOT_COMPARABLE = "not comparable in this profile"
COLUMNS = [
    "id",
    "reference",
    "kind",
    "statement",
    "paper_value",
    "ours",
    "verdict",
    "share",
    "tolerance",
    "seeds",
    "margin",
    "low",
    "high",
    "have",
    "asked",
    "holds_on_paper",
    "needs",
    "source",
    "section",
    "note",
]
NUMBERS = ("share", "tolerance", "seeds", "margin", "low", "high")


def about(*families: str) -> pd.DataFrame:
    """The claims on metrics of some families ("aep", "eps", "nat" ..): rows of claims.csv."""
    claims = printed("claims")
    return claims[claims.metric.str.contains(rf"\b(?:{'|'.join(families)})\.")]


def judge(store: Store, claims: pd.DataFrame | None = None, copies=COPIES, seed=0) -> pd.DataFrame:
    """One row per claim: what the thesis says and prints, what we found, and the verdict by the
    rule above.

    claims  : rows of reference/claims.csv; default all
    returns : DataFrame  id, reference, kind, statement, paper_value, ours, verdict, share (of the
              noisy copies on which the rule holds; empty where none were made), tolerance (where it
              was widened), seeds (fewest behind a value), margin, low, high (by how much the rule
              holds, and between where on 95 % of the copies; negative: fails; in the unit of the
              values; empty where the rule has no number), have, asked (values), holds_on_paper,
              needs, source, section, note
    """
    claims = printed("claims") if claims is None else claims
    drawn = store.copies(copies, seed)
    rows = [row._asdict() | _judged(row, store, drawn) for row in claims.itertuples(index=False)]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float))


def _judged(claim, store, copies):
    if not claim.rule:
        return {"ours": "", "verdict": "informative", "have": 0, "asked": 0}
    outcome = evaluate(claim.rule, store, copies)
    condition, used = outcome.condition, [store.values[i] for i in outcome.found]
    row = {
        "ours": condition.text,
        "have": len(used),
        "asked": len(used) + len(outcome.missing),
        "seeds": min((v.seeds for v in used), default=None),
    }
    if outcome.missing:
        return row | {"verdict": NOT_RUN}
    if quotes(claim, outcome) and not all(v.comparable for v in used):
        return row | {"verdict": NOT_COMPARABLE}
    measured, *noisy = np.broadcast_to(condition.holds, len(copies) + 1)
    share = float(np.mean(noisy))
    return row | {
        "verdict": verdict(share, bool(measured)),
        "share": share,
        "tolerance": condition.tolerance,
        **_effect(condition.margin),
    }


def quotes(claim, outcome) -> bool:
    """Does a claim compare with a number that the thesis prints, so that only comparable runs can
    settle it?"""
    return claim.kind == "value" or outcome.quotes


def verdict(share: float, measured: bool) -> str:
    """The verdict from the share of copies on which a rule holds, and whether it holds as
    measured."""
    if share >= SURE:
        return "reproduced"
    if share <= 1 - SURE and not measured:
        return "contradicted"
    return "tie within noise"


def _effect(margin):
    """{"margin", "low", "high"} of a condition's margin over the copies; {} where it has none."""
    if margin is None:
        return {}
    low, high = np.percentile(margin[1:], [2.5, 97.5])
    return {"margin": float(margin[0]), "low": float(low), "high": float(high)}
