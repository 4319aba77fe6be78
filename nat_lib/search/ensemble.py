"""A predictor as it is used: the mean of ten experts, each blind to a tenth of the rows.

Source: thesis 3.3.4 step 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from nat_lib.errors import Refusal
from nat_lib.search.predictors import (
    FEWEST,
    INTEGER,
    PREDICTORS,
    Expert,
    Targets,
    Unfit,
    check,
)

FOLDS = 10
METRICS = ("rmse", "pearson", "spearman", "kendall")


class Ensemble(NamedTuple):
    """Fitted experts.

    name    : label of the predictor really used, "mean" for the mean of the targets
    note    : why it is not the one asked for, "" if it is
    """

    name: str
    note: str
    features: Callable
    experts: tuple[Expert, ...]

    def predict(self, X: Int[np.ndarray, "n v"]) -> Targets:
        """Top-1 errors in per cent of repaired genotypes: the mean of the experts."""
        if not len(X):
            return np.empty(0)  # the libraries refuse to predict nothing
        return _mean(self.experts, self.features(X))


def _mean(experts, Z):
    return sum(expert(Z) for expert in experts) / len(experts)


def fit(
    key: str,
    space: Any,
    X: Int[np.ndarray, "n v"],
    errors: Targets,
    *,
    rng: np.random.Generator,
    features: str = INTEGER,
    folds: int = FOLDS,
    fallback: str | None = "ridge",
    mask_after_exit: bool = False,
    threads: int = 1,
) -> Ensemble:
    """`folds` experts on archive rows; each is trained on all but one part of a random permutation.

    key, fallback   : names in PREDICTORS; fallback None = refuse (Unfit) where the predictor cannot
                      be fitted
    X, errors       : repaired genotypes of `space` and their top-1 errors in per cent
    features        : "integer" | "one_hot" (not for rbf and rbfs);  mask_after_exit : see
                      Space.features
    returns         : where the predictor raises, has fewer rows than folds, or predicts a constant
                      although the targets vary, the fallback is used, with at most one part per
                      row. Equal targets and fewer than three rows are predicted by their mean.
                      `note` tells all of this
    Source          : thesis 3.3.4 step 2
    """
    attempts = [(key, folds)]
    if fallback is not None:
        attempts.append((fallback, min(folds, len(errors))))
    for name, _ in attempts:
        check(name, features)
    y = np.asarray(errors, dtype=np.float64)
    _check_rows(X, y, folds)
    see = partial(space.features, kind=features, mask_after_exit=mask_after_exit)
    Z, order = see(X), rng.permutation(len(y))
    notes: list[str] = []
    for name, parts in dict.fromkeys(attempts):
        label = PREDICTORS[name].label
        try:
            experts = _experts(name, Z, y, np.array_split(order, parts), rng, threads)
        except Unfit as error:
            notes.append(f"{label} not fitted: {error}")
        else:
            if notes:
                notes.append(f"{label} used, {parts} folds")
            return Ensemble(label, "; ".join(notes), see, experts)
    if fallback is None:
        raise Unfit(f"{notes[0]}: give more or other rows, or name a fallback such as ridge")
    mean = y.mean()
    notes.append("mean of the targets used")
    return Ensemble("mean", "; ".join(notes), see, (lambda Z: np.full(len(Z), mean),))


def _check_rows(X, y, folds):
    if len(X) != len(y) or not len(y):
        raise Refusal(
            f"{len(X)} genotypes with {len(y)} errors: give one error per genotype, and at least "
            "one"
        )
    infinite = np.sum(~np.isfinite(y))
    if infinite:
        raise Refusal(
            f"the errors of {infinite} of {len(y)} genotypes are not finite: leave these out"
        )
    if folds < 2:
        raise Refusal(f"folds = {folds}: give at least 2, since every expert leaves one part out")


def _experts(key, Z, y, parts, rng, threads):
    """One expert per part, which it has not seen; Unfit where the predictor cannot learn from these
    rows."""
    row, n = PREDICTORS[key], len(y)
    least = max(len(parts), row.fewest, FEWEST)
    if n < least:
        raise Unfit(f"{n} rows are fewer than {least}")
    if np.ptp(y) == 0:
        raise Unfit(f"all {n} targets are equal")
    experts, varied = [], False
    for held in parts:
        kept = np.setdiff1d(np.arange(n), held)
        try:
            expert = row.function(Z[kept], y[kept], int(rng.integers(2**31)), threads)
            guess = expert(Z[held])
        except Unfit:
            raise
        except (ValueError, ArithmeticError) as error:
            raise Unfit(" ".join(str(error).split())) from error
        if not np.isfinite(guess).all():
            raise Unfit("its predictions are not finite")
        varied = varied or np.ptp(guess) > 0
        experts.append(expert)
    if not varied and np.ptp(_mean(experts, Z)) == 0:
        raise Unfit(f"it predicts a constant from {n} rows")
    return tuple(experts)


def quality(predicted: Targets, true: Targets) -> dict[str, float]:
    """{rmse, pearson, spearman, kendall} of two sequences; Kendall's tau-b. NaN where one has no
    value."""
    from scipy import stats

    p, t = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    found = dict.fromkeys(METRICS, float("nan"))
    if not len(p) or not np.isfinite([p, t]).all():
        return found
    found["rmse"] = float(np.sqrt(np.mean((p - t) ** 2)))
    if np.ptp(p) > 0 and np.ptp(t) > 0:
        found["pearson"] = float(np.corrcoef(p, t)[0, 1])
        found["spearman"] = float(np.corrcoef(stats.rankdata(p), stats.rankdata(t))[0, 1])
        found["kendall"] = float(stats.kendalltau(p, t).statistic)
    return found
