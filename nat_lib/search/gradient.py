"""Strategies that follow a gradient through frozen weights: FBNet, ProxylessNAS and DARTS.

A subnet is drawn from laws, one per choice; `task.relax` moves them along the gradient of the loss
and of the expected MACs (`nat_lib.relaxed`).  A front needs several prices of MACs: they take
turns, each with laws of its own.
"""

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.search.task import fresh, steps

PRICES = (0.1, 0.5, 2.0)  # of the expected MACs, in nats for those of the largest subnet
DROPPED = -1e9  # logit of a value that is no longer drawn


def fbnet(task, start=None):
    """Straight-through Gumbel samples of every choice.  Source: FBNet, arXiv:1812.03443."""
    return _followed(task, start, "gumbel")


def proxyless(task, start=None):
    """Two values of every choice at a time, one of them computed.  Source: ProxylessNAS,
    arXiv:1812.00332."""
    return _followed(task, start, "two_paths")


def darts(task, start=None):
    """Mixtures of all values; after each turn the least likely value of every choice is dropped.
    Source: DARTS, arXiv:1806.09055; P-DARTS, arXiv:1904.12760."""
    return _followed(task, start, "softmax", drops=True)


def _followed(task, start, estimator, drops=False):
    if task.relax is None or task.space.parallel:
        raise Refusal(
            "a gradient search needs the supernet itself, and one kind of block: choose another "
            "strategy, or a supernet without parallel blocks"
        )

    def begin(task, now):
        n = len(PRICES)
        return {kind: np.zeros((n, *shape)) for kind, shape in shapes(task.space).items()}

    def propose(task, now, rng):
        laws = {kind: v[_turn(now)] for kind, v in now.state.items()}
        best, drawn = genotypes(task.space, laws), []

        def draw(n):
            if not drawn:  # the likeliest subnet comes first
                drawn.append(n)
                return np.concatenate([best, genotypes(task.space, laws, n - 1, rng)])
            return genotypes(task.space, laws, n, rng)

        return fresh(task, now.X, draw)

    def learn(task, now, candidates, measured):
        state, turn = {k: v.copy() for k, v in now.state.items()}, _turn(now)
        laws = {kind: v[turn] for kind, v in state.items()}
        for kind, law in task.relax(laws, estimator, PRICES[turn], now.number + 1).items():
            state[kind][turn] = without_least(law) if drops else law
        return state

    return steps(task, start, propose, begin=begin, learn=learn)


def _turn(now):
    """Which of the prices the iteration after `now` is for."""
    return (now.number + 1) % len(PRICES)


def shapes(space) -> dict[str, tuple[int, ...]]:
    """{kind of choice: shape of its logits}, the values last."""
    slots = space.n_stages * space.slots
    return {
        "resolution": (len(space.resolutions),),
        "width": (len(space.widths),),
        "exit": (len(space.exits),),
        "depth": (space.n_stages, len(space.depths)),
        "kernel": (slots, len(space.kernels)),
        "expand": (slots, len(space.expands)),
    }


def genotypes(space, laws, n: int = 1, rng=None):
    """(n, V) genotypes drawn from the laws; without a generator the likeliest."""
    picks = {kind: _picked(logits, n, rng) for kind, logits in laws.items()}
    codes = 1 + picks["expand"] * len(space.kernels) + picks["kernel"]
    depth = np.array(space.depths)[picks["depth"]]
    used = np.arange(space.slots) < depth[..., None]
    codes = codes.reshape(n, space.n_stages, space.slots) * used
    single = np.array([space.votes.index((exit,)) for exit in space.exits])
    head = [picks["resolution"], picks["width"], single[picks["exit"]]][: space.first]
    return np.column_stack([*head, codes.reshape(n, -1)])


def _picked(logits, n, rng):
    """(n, ...) values of choices whose laws have these logits (..., values)."""
    if rng is None:
        return np.broadcast_to(logits.argmax(axis=-1), (n, *logits.shape[:-1]))
    return (logits + rng.gumbel(size=(n, *logits.shape))).argmax(axis=-1)


def without_least(logits):
    """Logits (..., values) whose least likely value is dropped, unless it is the last one left."""
    found = logits.copy()
    left = found > DROPPED / 2
    least = np.where(left, found, np.inf).argmin(axis=-1)[..., None]
    several = left.sum(axis=-1, keepdims=True) > 1
    values = np.where(several, DROPPED, np.take_along_axis(found, least, axis=-1))
    np.put_along_axis(found, least, values, axis=-1)
    return found
