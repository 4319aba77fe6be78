"""Targets of attentive sampling: MACs that a random subnet has, and subnets drawn at a target.

A target is an exit and a bin of MACs.  Targets are drawn as often as a pool of random subnets meets
them; at a target every gene is drawn by itself from the law that it has among the pool's subnets
there, until the subnet's MACs lie in the bin.
Source: AttentiveNAS, arXiv:2011.09011.  Its targets are MACs alone; exits, each with MACs of its
own, would otherwise be all that a target says.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nat_lib.cost import count
from nat_lib.plans import one_of

POOL, BINS, TRIES = 20_000, 70, 101  # subnets; bins per exit; draws at one target, the last counts
SEED = 2011


class Genes(NamedTuple):
    """Subnets as independent genes, before a depth hides a slot: exit (n,), depth (n, S), and the
    indices of kernel, expand and level (3, n, S * slots)."""

    exit: np.ndarray
    depth: np.ndarray
    picks: np.ndarray


class Targets(NamedTuple):
    """Everything that is drawn from: the pool, the target of each of its subnets, and the subnets
    of each target."""

    space: object
    head: tuple  # of every genotype: indices of image size and width
    pool: Genes
    edges: np.ndarray  # (exits, 2): the least MACs of an exit's subnets, and the width of a bin
    target: np.ndarray  # (POOL,)
    members: dict[int, np.ndarray]

    def draw(self, rng, k):
        """(archs of k subnets at one target, how many of them missed it)."""
        target = int(self.target[rng.integers(POOL)])
        found = [self._one(target, rng) for _ in range(k)]
        return self.space.decode(np.stack([x for x, _ in found])), sum(not hit for _, hit in found)

    def _one(self, target, rng):
        """(genotype, does it lie in the bin) of one subnet at a target."""
        X = self.genotypes(self._genes(target, rng))
        hits = np.flatnonzero(self.targets_of(X) == target)
        return (X[hits[0]], True) if len(hits) else (X[-1], False)

    def _genes(self, target, rng):
        """TRIES subnets whose genes are drawn by themselves from those of the target's members;
        kernel, expand and level from members that use the slot."""
        members = self.members[target]
        stages = np.arange(self.space.n_stages)
        rows = members[rng.integers(len(members), size=(TRIES, len(stages)))]
        picks = np.empty((3, TRIES, self.pool.picks.shape[2]), np.int64)
        for slot in range(picks.shape[2]):
            s, b = divmod(slot, self.space.slots)
            using = members[self.pool.depth[members, s] > b]
            using = using if len(using) else members
            for gene in range(3):
                at = using[rng.integers(len(using), size=TRIES)]
                picks[gene, :, slot] = self.pool.picks[gene, at, slot]
        exit = np.full(TRIES, self.pool.exit[members[0]])
        return Genes(exit, self.pool.depth[rows, stages], picks)

    def genotypes(self, genes):
        """(n, n_var) genotypes of genes."""
        space, (kernel, expand, level) = self.space, genes.picks
        codes = 1 + (level * len(space.expands) + expand) * len(space.kernels) + kernel
        used = np.arange(space.slots) < genes.depth[..., None]
        codes = codes * used.reshape(codes.shape)
        head = np.tile(self.head, (len(codes), 1))
        exits = [genes.exit - 1] if space.early_exits else []
        return np.column_stack([head, *exits, codes])

    def targets_of(self, X):
        """(n,) number of the target that each genotype meets."""
        macs = count(X, self.space).macs.to_numpy(float)
        exit = X[:, 2] if self.space.early_exits else np.zeros(len(X), np.int64)
        least, step = self.edges[exit].T
        return exit * (BINS + 2) + np.rint((macs - least) / step).clip(-1, BINS + 1).astype(int)


@lru_cache(maxsize=64)
def targets(space, choices, width, size) -> Targets:
    """The targets among the open choices at one width and image size."""
    one_of("image size of attentive sampling", size, space.resolutions)
    head = space.resolutions.index(size), space.widths.index(width)
    rng = np.random.default_rng(SEED)
    pool = _pool(space, choices, rng)
    edges = np.tile([0.0, 1.0], (space.n_stages, 1))
    made = Targets(space, head, pool, edges, np.empty(0, int), {})
    X = made.genotypes(pool)
    macs = count(X, space).macs.to_numpy(float)
    for exit in np.unique(pool.exit):
        of_exit = macs[pool.exit == exit]
        row = exit - 1 if space.early_exits else 0
        edges[row] = of_exit.min(), max(1.0, np.ptp(of_exit) / BINS)
    target = made.targets_of(X)
    members = {int(t): np.flatnonzero(target == t) for t in np.unique(target)}
    return made._replace(target=target, members=members)


def _pool(space, choices, rng):
    """Random subnets as uniform sampling draws them."""
    n_slots = space.n_stages * space.slots
    exits = rng.choice(choices.exit, POOL)
    depth = rng.choice(choices.depth, (POOL, space.n_stages))
    legal = (space.kernels, space.expands, space.levels)
    opened = (choices.kernel, choices.expand, choices.level)
    picks = [
        rng.choice([every.index(v) for v in values], (POOL, n_slots))
        for every, values in zip(legal, opened, strict=True)
    ]
    return Genes(exits, depth, np.stack(picks))


def missed(space, choices, width, size, draws=500) -> float:
    """Share of subnets that come out beside their target after TRIES draws."""
    rng, pool = np.random.default_rng(SEED + 1), targets(space, choices, width, size)
    return sum(pool.draw(rng, 1)[1] for _ in range(draws)) / draws
