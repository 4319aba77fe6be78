"""Cheaper views of subnets: many looked at on few images, few on all; what corrects the cheap view.

Source: successive halving, Jamieson and Talwalkar 2016, arXiv:1502.07943; transfer series
expansion, Hu et al. 2019.
"""

import numpy as np
from jaxtyping import Float

from nat_lib.errors import Refusal
from nat_lib.search import pareto
from nat_lib.search.evolution import bred, by_rule
from nat_lib.search.task import steps

RATIO = 3  # of subnets from a rung to the next, and of images
SHARES = (1 / 9, 1 / 3)  # of the images, of the rungs before the last
PENALTY = 1e-6  # of the ridge that corrects, per row


def halving(task, start=None):
    """NSGA-II with successive halving: nine times as many children are looked at on a ninth of the
    images, the best third of them on a third, the best third of these on all.

    An iteration costs as much as `version.candidates` evaluations: three rungs of equal cost.
    """
    if task.cheap is None:
        raise Refusal("halving needs evaluations on a share of the images: choose another strategy")

    def propose(task, now, rng):
        final = max(1, task.version.candidates // (len(SHARES) + 1))
        first = final * RATIO ** len(SHARES)
        wide = task._replace(version=task.version._replace(candidates=first))
        X = bred(wide, now, rng)
        for share in SHARES:
            X = X[top_third(task.cheap(X, share), rng)] if len(X) else X
        return X

    return steps(task, start, propose, keep=by_rule("crowding"))


def top_third(F, rng):
    """Indices of the third (at least one) that survives, by non-dominated rank and crowding."""
    return pareto.survive(F, max(1, len(F) // RATIO), rng, rule="crowding")


def cost_of(candidates: int) -> float:
    """Full evaluations that an iteration of halving costs at most."""
    final = max(1, candidates // (len(SHARES) + 1))
    rungs = [final * RATIO ** (len(SHARES) - i) * share for i, share in enumerate(SHARES)]
    return final + sum(rungs)


def corrected(
    cheap: Float[np.ndarray, " n"],
    full: Float[np.ndarray, " n"],
    features: Float[np.ndarray, "n m"],
    others: Float[np.ndarray, "k m"],
    cheap_others: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, " k"], bool]:
    """(errors of other subnets that were only seen cheaply, corrected; whether that helps).

    The difference of full and cheap errors of n subnets is a ridge regression on their features and
    the cheap error.  If, each left out in turn, it does not come nearer than no correction, there
    is none.
    """
    Z = _design(features, cheap)
    gap = full - cheap
    inverse = np.linalg.inv(Z.T @ Z + PENALTY * len(Z) * np.eye(Z.shape[1]))
    hat = Z @ inverse @ Z.T
    left_out = (gap - hat @ gap) / np.maximum(1 - np.diag(hat), 1e-9)  # residuals of n refits
    if (left_out**2).mean() >= (gap**2).mean():
        return cheap_others.copy(), False
    return cheap_others + _design(others, cheap_others) @ (inverse @ Z.T @ gap), True


def _design(features, cheap):
    return np.column_stack([np.ones(len(cheap)), features, cheap])
