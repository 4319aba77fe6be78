"""Strategies that learn to draw: a policy gradient, and tabular Q-learning.

Both are for one number.  A front needs several: three targets of the first cost take turns, each
with a policy of its own.
"""

import numpy as np
from jaxtyping import Float, Int

from nat_lib.search.task import fresh, steps

TARGETS = (0.25, 0.5, 0.75)  # quantiles of the first archive's first cost
EXPONENT = -0.07  # of the cost in MnasNet's reward
RATE, MEMORY, ENTROPY = 1.0, 0.9, 0.01  # of the policy gradient
STEP, REPLAYS, LEAST = 0.2, 10, 0.1  # of Q-learning: rate, passes over what was measured, epsilon


def targets(F) -> Float[np.ndarray, " t"]:
    """Costs to aim at: TARGETS of the first cost of an archive; one objective: 1."""
    return np.quantile(F[:, 1], TARGETS) if F.shape[1] > 1 else np.ones(1)


def reward(F, target: float) -> Float[np.ndarray, " n"]:
    """Accuracy in percent times (first cost / target) ** EXPONENT; one objective: the accuracy.
    Source: MnasNet, arXiv:1807.11626."""
    accuracy = 100.0 - F[:, 0]
    return accuracy * (F[:, 1] / target) ** EXPONENT if F.shape[1] > 1 else accuracy


# ---------------------------------------------------------------------------- policy gradient


def reinforce(task, start=None):
    """REINFORCE: one categorical law per variable, moved along the gradient of MnasNet's reward.

    The baseline is a moving average of rewards, advantages are scaled by their deviation, a bonus
    keeps the entropy up. Source: Williams 1992; reward as in MnasNet, arXiv:1807.11626.
    """

    def begin(task, now):
        aims, shape = targets(now.F), (task.space.n_var, max(task.space.categories))
        return {
            "targets": aims,
            "logits": np.zeros((len(aims), *shape)),
            "baseline": np.array([reward(now.F, aim).mean() for aim in aims]),
        }

    def propose(task, now, rng):
        logits = now.state["logits"][_turn(now)]
        law = probabilities(logits, task.space.categories)
        return fresh(task, now.X, lambda n: task.space.lower + drawn(law, n, rng))

    def learn(task, now, candidates, measured):
        state, turn = {k: v.copy() for k, v in now.state.items()}, _turn(now)
        if len(candidates):
            rewards = reward(measured, state["targets"][turn])
            advantage = rewards - state["baseline"][turn]
            advantage /= advantage.std() or 1.0
            codes = candidates - task.space.lower
            logits, categories = state["logits"][turn], task.space.categories
            logits += RATE * policy_gradient(logits, categories, codes, advantage)
            logits += RATE * ENTROPY * entropy_gradient(logits, categories)
            kept = MEMORY * state["baseline"][turn]
            state["baseline"][turn] = kept + (1 - MEMORY) * rewards.mean()
        return state

    return steps(task, start, propose, begin=begin, learn=learn)


def _turn(now):
    """Which of the targets the iteration after `now` is for."""
    return (now.number + 1) % len(now.state["targets"])


def probabilities(logits, categories) -> Float[np.ndarray, "v c"]:
    """The laws of all variables: softmax over the values that each has."""
    known = np.arange(logits.shape[1]) < np.asarray(categories)[:, None]
    powers = np.where(known, np.exp(logits - logits.max(axis=1, keepdims=True)), 0.0)
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(law, n: int, rng) -> Int[np.ndarray, "n v"]:
    """n rows of values, every variable by its own law (V, C)."""
    below = rng.random((n, len(law), 1)) >= law.cumsum(axis=1)[:, :-1]
    return below.sum(axis=2)


def policy_gradient(logits, categories, codes, advantage) -> Float[np.ndarray, "v c"]:
    """Mean over rows of advantage times the gradient of the row's log-probability."""
    hot = codes[:, :, None] == np.arange(logits.shape[1])
    apart = hot - probabilities(logits, categories)
    return (advantage[:, None, None] * apart).mean(axis=0)


def entropy_gradient(logits, categories) -> Float[np.ndarray, "v c"]:
    """Gradient of the sum of the laws' entropies."""
    p = probabilities(logits, categories)
    log_p = np.log(np.where(p > 0, p, 1.0))
    entropy = -(p * log_p).sum(axis=1, keepdims=True)
    return -p * (log_p + entropy)


# ---------------------------------------------------------------------------------- Q-learning


def q_learning(task, start=None):
    """Tabular Q-learning: variables are decided one after the other, the value of a choice depends
    on the one before.

    Epsilon falls from 1 to LEAST over the iterations; the reward comes with the last choice.
    Source: Baker et al. 2017, arXiv:1611.02167; reward as in MnasNet.
    """

    def begin(task, now):
        aims, C = targets(now.F), max(task.space.categories)
        usual = np.array([reward(now.F, aim).mean() for aim in aims]) / 100.0
        values = np.broadcast_to(usual[:, None, None, None], (len(aims), task.space.n_var, C, C))
        return {"targets": aims, "values": values.copy()}

    def propose(task, now, rng):
        values, last = now.state["values"][_turn(now)], max(task.budget.iterations - 1, 1)
        epsilon = max(LEAST, 1 - now.number / last)
        categories = task.space.categories
        return fresh(
            task, now.X, lambda n: task.space.lower + walked(values, categories, epsilon, n, rng)
        )

    def learn(task, now, candidates, measured):
        state, turn = {k: v.copy() for k, v in now.state.items()}, _turn(now)
        rewards = reward(measured, state["targets"][turn]) / 100.0
        codes = candidates - task.space.lower
        for _ in range(REPLAYS):
            for row, value in zip(codes, rewards, strict=True):
                update(state["values"][turn], task.space.categories, row, value)
        return state

    return steps(task, start, propose, begin=begin, learn=learn)


def walked(values, categories, epsilon: float, n: int, rng) -> Int[np.ndarray, "n v"]:
    """n rows of choices: the best by `values` (V, C before, C), or with epsilon any."""
    rows = np.zeros((n, len(values)), dtype=np.int64)
    before = np.zeros(n, dtype=np.int64)
    for v, n_values in enumerate(categories):
        best = values[v, before, :n_values].argmax(axis=1)
        explores = rng.random(n) < epsilon
        rows[:, v] = before = np.where(explores, rng.integers(n_values, size=n), best)
    return rows


def update(values, categories, row, value: float) -> None:
    """Move the values of one row's choices, from the last to the first, towards what follows."""
    before = np.concatenate([[0], row[:-1]])
    for v in reversed(range(len(row))):
        follows = value
        if v + 1 < len(row):
            follows = values[v + 1, row[v], : categories[v + 1]].max()
        values[v, before[v], row[v]] += STEP * (follows - values[v, before[v], row[v]])
