"""Choices as mixtures: what a gradient search (`search.gradient`) asks of a frozen supernet.

The mixture is in the weights: kernels are padded to the largest and added up, channels are masked,
the ends of a stage and the exits are weighted.  A pass costs that of the largest subnet, however
many choices there are, and with one-hot gates it computes the subnet itself.
Source: gradient search in entangled weights, Sukthanker et al. 2023, arXiv:2312.10440.
"""

from contextlib import contextmanager
from itertools import chain
from itertools import count as count_from

import numpy as np
import torch
from torch.nn import functional as F

from nat_lib import elastic, ledger
from nat_lib.blocks import middle, se_hidden
from nat_lib.cost import entries
from nat_lib.machine import stream
from nat_lib.modules import MBConv, depthwise_view, exit_view, stem_view
from nat_lib.search.gradient import shapes

STEPS, RATE = 20, 0.1  # batches that laws are moved by in a turn, of Adam
HOT, COLD = 5.0, 0.5  # temperatures of samples, from the first turn to the last
GATED = ("exit", "depth", "kernel", "expand")  # the other choices are drawn, not mixed


# ------------------------------------------------------------------------------------------ gates


def softmax(logits, temperature, noise):
    """All values, by their probabilities."""
    return logits.softmax(-1)


def gumbel(logits, temperature, noise):
    """One value, drawn; its gradient is that of the softened draw.  noise: two uniform numbers per
    logit, (..., values, 2)"""
    return _hard(((logits + _gumbel(noise)) / temperature).softmax(-1))


def two_paths(logits, temperature, noise):
    """Two values are drawn, then one of them; the gradient is that of a law of these two alone."""
    places = (logits.detach() + _gumbel(noise)).topk(min(2, logits.shape[-1]), -1).indices
    pair = logits.gather(-1, places).softmax(-1)
    first = noise[..., :1, 1] < pair[..., :1]
    chosen = torch.cat([first, ~first], -1)[..., : pair.shape[-1]].to(pair)
    return torch.zeros_like(logits).scatter(-1, places, pair + chosen - pair.detach())


def _gumbel(noise):
    return -torch.log(-torch.log(noise[..., 0]))


def _hard(soft):
    """One-hot at the largest value, with the gradient of the soft one."""
    hot = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
    return hot + soft - soft.detach()


ESTIMATORS = {"softmax": softmax, "gumbel": gumbel, "two_paths": two_paths}


# ---------------------------------------------------------------------------------------- the pass


def mixed(net, x, gates):
    """Logits (B, n_classes) of a supernet's mixture.

    gates : {"kernel": (slots, kernels), "expand": (slots, expansions), "depth": (S, depths),
            "exit": (exits,)}, each row of sum 1
    """
    space, x = net.space, stem_view(net.body.stem, x)
    total = 0.0
    for s, stage in enumerate(net.body.stages):
        ends, outputs = {}, []
        for b, level in enumerate(stage.levels):
            y = mixed_block(net, level.irb, x, space.slots * s + b, gates)
            x = sum(outputs[:-1], y) if space.dense else y  # as in supernet.through
            outputs.append(y)
            ends[b + 1] = x
        x = sum(g * ends[d] for g, d in zip(gates["depth"][s], space.depths, strict=True))
        if s + 1 in space.exits:
            gate = gates["exit"][space.exits.index(s + 1)]
            total = total + gate * exit_view(net.body.exits[str(s + 1)], x)
    return total


def mixed_block(net, block: MBConv, x, slot, gates):
    """An inverted residual whose kernel and expansion are mixtures."""
    space, kernels, expands = net.space, gates["kernel"][slot], gates["expand"][slot]
    mids = [middle(x.shape[1], e) for e in space.expands]
    mask = _mask(expands, mids, x)
    h = elastic.pointwise(x, block.expand.weight)
    h = block.act(elastic.batch_norm(block.bn1, h))
    h = depthwise_view(block.depthwise, h, _kernel(net, block, slot, kernels))
    h = block.act(elastic.batch_norm(block.bn2, h)) * mask[:, None, None]
    if block.se is not None:
        h = h * _gate(block.se, h, expands, mids)
    h = elastic.batch_norm(block.bn3, elastic.pointwise(h, block.project.weight))
    return x + h if block.residual else h


def _mask(gates, widths, like):
    """(widest,) share of the gates whose width reaches a channel."""
    reached = torch.arange(max(widths), device=like.device)[None] < torch.tensor(widths)[:, None]
    return (gates[:, None] * reached.to(like)).sum(0)


def _kernel(net, block, slot, gates):
    """The weighted sum of all kernels of a depthwise convolution, padded to the largest."""
    weight, largest = block.depthwise.weight, net.space.kernels[-1]
    views = [elastic.kernel_view(weight, k, net.transforms[slot]) for k in net.space.kernels]
    padded = [F.pad(v, [(largest - v.shape[-1]) // 2] * 4) for v in views]
    return sum(g * v for g, v in zip(gates, padded, strict=True))


def _gate(se, h, gates, mids):
    """Squeeze-and-excitation of masked channels, its hidden ones masked likewise."""
    hidden = _mask(gates, [se_hidden(mid, se.divisor) for mid in mids], h)
    z = se.act(se.reduce(h.mean((2, 3), keepdim=True))) * hidden[:, None, None]
    return se.gate(se.expand(z))


# -------------------------------------------------------------------------------------------- cost


def expected_macs(space, n_classes: int, laws):
    """Mean MACs of a subnet drawn from laws ({kind: probabilities}): exact, with a gradient."""
    heads = laws["resolution"][:, None] * laws["width"][None]
    total = 0.0
    for r, size in enumerate(space.resolutions):
        for w, width in enumerate(space.widths):
            total = total + heads[r, w] * _of_size(space, n_classes, width, size, laws)
    return total


def _of_size(space, n_classes, width, size, laws):
    stem, tails, levels = (torch.tensor(t[..., 1]) for t in entries(space, n_classes, width, size))
    pairs = laws["expand"][:, :, None] * laws["kernel"][:, None, :]  # (slots, E, K)
    blocks = (pairs.flatten(1) * levels[:, 1:]).sum(1).view(space.n_stages, space.slots)
    reached = torch.stack([_at_least(laws["depth"][s], space) for s in range(space.n_stages)])
    stages = (reached * blocks).sum(1)
    last = torch.zeros(space.n_stages, dtype=stages.dtype)
    last[[e - 1 for e in space.exits]] = laws["exit"]
    computed = last.flip(0).cumsum(0).flip(0)  # the exit is this stage's or a later one's
    return stem + (computed * stages).sum() + (last * tails).sum()


def _at_least(law, space):
    """(slots,) probability that a stage has a block in each slot."""
    depths = torch.tensor(space.depths)
    return torch.stack([law[depths > b].sum() for b in range(space.slots)])


# -------------------------------------------------------------------------------------- one turn


class Relaxed:
    """What moves the laws of a gradient search: `task.relax`.

    nets : `Supernets`, frozen;  data : whose training images are looked at
    turns : of the whole search, by which the temperature falls;  unseen : context in which passes
            leave no trace in a supernet
    """

    def __init__(self, nets, data, batch_size, turns, seed, unseen):
        self.nets, self.data, self.batch_size = nets, data, batch_size
        self.turns, self.seed, self.unseen = turns, seed, unseen
        space = nets.space
        whole = {k: torch.tensor(v) for k, v in ends(space).items()}
        self.largest = float(expected_macs(space, nets.n_classes, whole))

    def __call__(self, laws, estimator, price, number):
        """{kind: logits} after STEPS steps; those before are numpy arrays, too."""
        rng = stream(self.seed, "search relax", number)
        moved = {k: torch.tensor(v, requires_grad=True) for k, v in laws.items()}
        optimiser, usual = torch.optim.Adam(moved.values(), lr=RATE), None
        cold = HOT * (COLD / HOT) ** (number / self.turns)
        batches = {}  # one stream per size
        for _ in range(STEPS):
            at = {k: int(_drawn(moved[k], rng)) for k in ("resolution", "width")}
            net = self.nets.of(self.nets.space.widths[at["width"]])
            x, y = self._batch(batches, number, self.nets.space.resolutions[at["resolution"]])
            gates = {k: self._gates(moved[k], estimator, cold, rng, x) for k in GATED}
            with frozen(net), self.unseen(net):
                loss = F.cross_entropy(mixed(net, x, gates).float(), y)
            ledger.charge(self._macs(net, x), len(x), ledger.TRAINING)
            usual = loss.item() if usual is None else 0.9 * usual + 0.1 * loss.item()
            surprise = loss.item() - usual  # of what was drawn, not mixed
            drawn = sum(moved[k].log_softmax(-1)[at[k]] for k in at)
            macs = expected_macs(
                self.nets.space, self.nets.n_classes, {k: v.softmax(-1) for k, v in moved.items()}
            )
            optimiser.zero_grad()
            (loss + surprise * drawn + price * macs / self.largest).backward()
            optimiser.step()
        return {k: v.detach().numpy() for k, v in moved.items()}

    def _gates(self, logits, estimator, temperature, rng, like):
        noise = torch.tensor(rng.uniform(1e-9, 1 - 1e-9, (*logits.shape, 2)))
        return ESTIMATORS[estimator](logits, temperature, noise).to(like)

    def _batch(self, batches, number, side):
        """The next training batch of a size, around and around."""
        if side not in batches:
            given = number, self.batch_size, [side], self.seed
            batches[side] = chain.from_iterable(
                self.data.train_batches(*given) for _ in count_from(0)
            )
        return next(batches[side])

    def _macs(self, net, x):
        space = net.space
        return ledger.macs_of_subnet(space, space.largest, net.n_classes, space.exits, x.shape[-1])


@contextmanager
def frozen(net):
    """Batch statistics, and no gradient for a weight, meanwhile."""
    training, asked = net.training, [p for p in net.parameters() if p.requires_grad]
    for p in asked:
        p.requires_grad_(False)
    try:
        yield net.train()
    finally:
        net.train(training)
        for p in asked:
            p.requires_grad_(True)


def ends(space):
    """{kind: one-hot law} of the largest subnet."""
    found = {kind: np.zeros(shape) for kind, shape in shapes(space).items()}
    for law in found.values():
        law[..., -1] = 1.0
    return found


def _drawn(logits, rng):
    p = logits.detach().softmax(-1).numpy()
    return rng.choice(len(p), p=p / p.sum())
