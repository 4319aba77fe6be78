"""Stop rules: when a training is not worth going on with.  A new one is a function and a row.

curve  : (t,) validation top-1 so far, percent, one number per epoch
total  : epochs that the training would take
others : curves of finished trainings, whole; the best of them is what this one has to beat
returns: why it should stop, "" to go on

Rules are pure: they can be replayed on stored curves.  `gradient_evidence` needs no validation set,
only gradients.
Source: learning-curve extrapolation, Domhan et al. 2015; regression, Baker et al. 2017,
arXiv:1705.10823; local gradient statistics, Mahsereci et al. 2017, arXiv:1703.09580.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.stats import norm

Curve = Float[np.ndarray, " t"]
PATIENCE = 12  # epochs (thesis 4.2)
UNLIKELY = 0.05  # probability to beat the best below which a training stops
EARLIEST = 5  # epochs before an extrapolation
TRAINED_ON = 5  # finished trainings before a regression
COPIES = 50  # bootstrap copies of a curve
FEWEST_BATCHES = 6  # micro-batches of a gradient statistic


def patience(curve: Curve, total: int, others: Sequence[Curve], epochs: int = PATIENCE) -> str:
    """No better top-1 for so many epochs."""
    waited = len(curve) - 1 - int(np.argmax(curve))
    return f"no better for {waited} epochs" if waited >= epochs else ""


def extrapolation(curve: Curve, total: int, others: Sequence[Curve]) -> str:
    """Unlikely to end above the best finished training, by a mixture of parametric curves."""
    if len(curve) < EARLIEST or not others:
        return ""
    best = max(other.max() for other in others)
    if curve.max() >= best:
        return ""
    mean, sd = predicted(curve, total)
    chance = float(np.mean(norm.sf(best, mean, sd)))
    return f"beats the best with probability {chance:.3f}" if chance < UNLIKELY else ""


def regression(curve: Curve, total: int, others: Sequence[Curve]) -> str:
    """Unlikely to end above the best, by support vector regression of the best top-1 of finished
    trainings on their first epochs."""
    t, known = len(curve), [other for other in others if len(other) >= len(curve)]
    if t < EARLIEST or len(known) < TRAINED_ON:
        return ""
    best = max(other.max() for other in others)
    if curve.max() >= best:
        return ""
    from sklearn.svm import SVR

    starts, ends = np.stack([other[:t] for other in known]), np.array([o.max() for o in known])
    scale = starts.std() or 1.0
    model = SVR(C=10.0).fit(starts / scale, ends)
    apart = ends - model.predict(starts / scale)
    sd = max(float(apart.std(ddof=1)), 1e-6)
    chance = float(norm.sf(best, model.predict(curve[None] / scale)[0], sd))
    return f"beats the best with probability {chance:.3f}" if chance < UNLIKELY else ""


class StopRule(NamedTuple):
    """function : see the head of this file;  label : in tables"""

    function: Callable[..., str]
    label: str


STOP_RULES = {
    "patience": StopRule(patience, f"patience of {PATIENCE}"),
    "extrapolation": StopRule(extrapolation, "curve extrapolation"),
    "regression": StopRule(regression, "regression on first epochs"),
}


# ------------------------------------------------------------------------------- curves in the long


def power(t, top, gap, rate):
    """top - gap * t ** -rate"""
    return top - gap * t ** -np.abs(rate)


def exponential(t, top, gap, rate):
    """top - gap * exp(-rate * t)"""
    return top - gap * np.exp(-np.abs(rate) * t)


def log_power(t, top, gap, rate):
    """top / (1 + (t / e ** gap) ** -rate)"""
    return top / (1 + (t / np.exp(np.clip(gap, -20, 20))) ** -np.abs(rate))


def logistic(t, top, gap, rate):
    """top / (1 + gap * exp(-rate * t))"""
    return top / (1 + np.abs(gap) * np.exp(-np.abs(rate) * t))


FAMILIES = {
    power: (0.7, 0.7),
    exponential: (0.7, 0.3),
    log_power: (1.0, 0.7),
    logistic: (5.0, 0.3),
}


def predicted(curve: Curve, total: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 at the end of a training as a mixture of normal laws: (means, standard deviations), a
    part per bootstrap copy.

    Every copy draws one of FAMILIES by its likelihood, adds redrawn residuals to the fitted curve
    and is fitted again.
    """
    rng, t, y = np.random.default_rng(seed), np.arange(1.0, len(curve) + 1), curve / 100.0
    fits = {family: fitted(family, t, y, (y.max(), *start)) for family, start in FAMILIES.items()}
    errors = {family: y - family(t, *fit) for family, fit in fits.items()}
    free = max(len(t) - 3, 1)
    sd = {family: max(np.sqrt((e**2).sum() / free), 1e-4) for family, e in errors.items()}
    least = min(sd.values())
    likely = np.array([(least / s) ** len(t) for s in sd.values()])
    means, deviations = [], []
    for i in rng.choice(len(likely), COPIES, p=likely / likely.sum()):
        family = list(FAMILIES)[i]
        copy = family(t, *fits[family]) + rng.normal(0, sd[family], len(t))
        again = fitted(family, t, copy, fits[family])
        means.append(100 * float(np.clip(family(float(total), *again), 0, 1)))
        deviations.append(100 * sd[family])
    return np.array(means), np.array(deviations)


def fitted(family, t, y, start):
    """Parameters of a family that fit a curve (shares, 0 .. 1): least squares, its top within 0
    and 1."""
    low, high = (0.0, -np.inf, 1e-3), (1.0, np.inf, 5.0)
    begin = np.clip(start, (0.0, -50.0, 1e-3), (1.0, 50.0, 5.0))
    return least_squares(lambda p: family(t, *p) - y, begin, bounds=(low, high)).x


# ---------------------------------------------------------------------------------- without curves


def gradient_evidence(gradients: Float[np.ndarray, "m d"]) -> float:
    """How far a gradient stands out of its own noise, 1 on average where there is nothing but
    noise; below 1 a training may stop.

    gradients : of M >= 6 micro-batches.  M / D times the sum of squared means over variances, over
    (M - 1) / (M - 3), its mean under pure noise
    """
    M = len(gradients)
    if M < FEWEST_BATCHES:
        raise ValueError(f"{M} micro-batches: give {FEWEST_BATCHES} or more")
    mean, variance = gradients.mean(axis=0), gradients.var(axis=0, ddof=1)
    known = variance > 0
    raw = M / max(known.sum(), 1) * (mean[known] ** 2 / variance[known]).sum()
    return float(raw * (M - 3) / (M - 1))
