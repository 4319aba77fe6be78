"""Genotypes: the subnets of a space as rows of integers.

A row is [resolution, width, exit if there are exits, 4 block codes per stage]; block code 0 is a
skipped block.  `Genotypes` is the part of `arch.Space` that encodes, decodes, repairs and samples;
`as_text` and `from_text` are how a row stands in files.  Source: thesis 6.1.1 and Fig. 6.1.
"""

from functools import cached_property
from itertools import product

import numpy as np

from nat_lib.blocks import elastic_bits
from nat_lib.codes import Codes, constant
from nat_lib.errors import Refusal
from nat_lib.plans import one_of
from nat_lib.subnet import Arch


def as_text(genotype) -> str:
    """A genotype (n_var,) as numbers with spaces between."""
    return " ".join(map(str, genotype))


def from_text(codes) -> np.ndarray:
    """Genotypes (n, n_var) int64 of such texts."""
    return np.array([code.split() for code in codes], dtype=np.int64)


def vote_sets(exits, several: bool):
    """Tuples of exits: each by itself, or, where several may answer, all sets but the empty one in
    the order of their numbers in binary, whose lowest digit is the first exit."""
    if not several:
        return tuple((exit,) for exit in exits)
    numbers = range(1, 2 ** len(exits))
    return tuple(tuple(e for i, e in enumerate(exits) if n >> i & 1) for n in numbers)


class Genotypes(Codes):
    """What a space knows of genotypes; see `arch.Space`, which has the legal values."""

    @cached_property
    def first(self):
        """Index of the first block variable."""
        return 3 if self.early_exits else 2

    @cached_property
    def n_codes(self):
        """Largest block code M: 9, or 63 with parallel blocks."""
        return len(self.levels) * len(self.expands) * len(self.kernels)

    @cached_property
    def n_var(self):
        return self.first + self.slots * self.n_stages

    @cached_property
    def lower(self):
        must = [1 if b < self.depths[0] else 0 for b in range(self.slots)]
        return constant([0] * self.first + must * self.n_stages)

    @cached_property
    def upper(self):
        ends = [len(v) - 1 for v in (self.resolutions, self.widths, self.votes)][: self.first]
        return constant(ends + [self.n_codes] * self.slots * self.n_stages)

    @cached_property
    def votes(self):
        """The exits that answer, per value of the variable of exits: see `vote_sets`."""
        return vote_sets(self.exits, self.answers != "single")

    @cached_property
    def last_exits(self):
        """(k,) position of the last exit that answers, per value of the variable of exits."""
        return constant([some[-1] for some in self.votes])

    @cached_property
    def size(self):
        """Number of valid genotypes, an exact int."""
        per_stage = sum(self.n_codes**d for d in self.depths)
        heads = len(self.resolutions) * len(self.widths) * len(self.votes)
        return heads * per_stage**self.n_stages

    @cached_property
    def code_table(self):
        """(M + 1, 3) int64: kernel, expand, level of every block code; code 0 (skipped) shows the
        smallest values."""
        rows = [(k, e, lv) for lv, e, k in product(self.levels, self.expands, self.kernels)]
        return constant(rows[:1] + rows)

    def genotypes(self, X):
        """X as (n, n_var) int64. Refuses codes out of bounds, and a skipped block before a used one
        (repair first)."""
        X = super().genotypes(X)
        skipped = X[:, self.first :].reshape(len(X), self.n_stages, self.slots) == 0
        if (skipped[..., :-1] & ~skipped[..., 1:]).any():
            raise Refusal(
                "genotypes hold a skipped block before a used one: call space.repair(X, how) first"
            )
        return X

    def repair(self, X, how="push"):
        """Genotypes without a skipped block before a used one, as a new array.

        "push": used codes keep their order and move to the front, (a, b, 0, d) -> (a, b, d, 0):
                NAT, NATv2 phase 1.
        "fill": everything after the first skipped block is skipped, (a, b, 0, d) -> (a, b, 0, 0):
                NATv2 from phase 2.
        """
        one_of("repair", how, ("push", "fill"))
        X = self.integers(X).copy()
        codes = X[:, self.first :].reshape(len(X), self.n_stages, self.slots)
        if how == "fill":
            fixed = codes * np.logical_and.accumulate(codes != 0, axis=2)
        else:
            fixed = np.take_along_axis(codes, np.argsort(codes == 0, axis=2, kind="stable"), axis=2)
        X[:, self.first :] = fixed.reshape(len(X), self.slots * self.n_stages)
        return X

    def active(self, X):
        """Repaired genotypes with the lowest code wherever it has no effect: equal rows if and only
        if equal subnets.

        Blocks behind the exit, and K and E of levels without the inverted residual block, are such
        places.
        """
        X = self.genotypes(X).copy()
        codes = X[:, self.first :]
        per_level = len(self.expands) * len(self.kernels)
        plain = (codes > 0) & (self.code_table[codes, 2] & elastic_bits() == 0)
        codes[plain] = (codes[plain] - 1) // per_level * per_level + 1
        if self.early_exits:
            last = self.last_exits[X[:, 2:3]] - 1
            behind = np.repeat(np.arange(self.n_stages) > last, self.slots, axis=1)
            codes[...] = np.where(behind, self.lower[self.first :], codes)
        return X

    def sample_genotypes(self, n, rng, by="search", depth_prior="uniform", repair=None):
        """Genotypes of n subnets, (n, n_var) int64.

        by          : "search" = every variable uniform over its categories, then repaired (deep
                      stages dominate); "architecture" = depth first, then the codes uniform
        depth_prior : of "architecture": "uniform", or "author" = 1/3, 2/9, 4/9 for D = 2, 3, 4
        repair      : "push" | "fill"; by default push for "search" and fill for "architecture"
        """
        one_of("by", by, ("search", "architecture"))
        one_of("depth_prior", depth_prior, ("uniform", "author"))
        X = rng.integers(self.lower, self.upper + 1, size=(n, self.n_var))
        if by == "architecture":
            shape = (n, self.n_stages, self.slots)
            codes = rng.integers(1, self.n_codes + 1, size=shape)
            if depth_prior == "uniform":
                keep = np.arange(self.slots) < rng.choice(self.depths, size=shape[:2])[..., None]
            else:
                keep = (np.arange(self.slots) < self.depths[0]) | (rng.random(shape) >= 1 / 3)
            X[:, self.first :] = (codes * keep).reshape(n, self.slots * self.n_stages)
        return self.repair(X, repair or {"search": "push", "architecture": "fill"}[by])

    def encode(self, archs):
        """Genotypes of a list of Arch, (n, n_var) int64. Numbers that have no effect may be 0 (see
        Arch.canonical)."""
        resolution, iw, _, codes = self.columns(archs)
        ir, legal = _index(resolution, self.resolutions)
        if not legal.all():
            one_of("resolution", int(resolution[~legal][0]), self.resolutions)
        head = [ir, iw, [self.votes.index(arch.answering) for arch in archs]][: self.first]
        return np.column_stack([*head, codes.reshape(len(archs), self.slots * self.n_stages)])

    def columns(self, archs, stages=None):
        """Checked arrays of a list of Arch: resolution (n,), width index (n,), exit (n,), block
        codes (n, S, 4).

        Numbers behind the exit may be 0; with `stages` given, behind that many stages instead.
        """
        n, s = len(archs), self.n_stages
        for a in archs:
            if len(a.depth) != s:
                raise Refusal(
                    f"depth has {len(a.depth)} values: {self.name} here has {s} stages, give {s}"
                )
        resolution = np.array([a.resolution for a in archs], dtype=np.int64)
        width, exit = (
            np.array([a.width for a in archs]),
            np.array([a.exit for a in archs], dtype=np.int64),
        )
        depth = np.array([a.depth for a in archs], dtype=np.int64).reshape(n, s)
        kernel, expand, level = (
            np.array([getattr(a, name) for a in archs], dtype=np.int64).reshape(n, s, self.slots)
            for name in ("kernel", "expand", "level")
        )
        if (resolution <= 0).any():
            raise Refusal(f"resolution = {resolution.min()}: give a positive number of pixels")
        stage_used = np.arange(s) < (exit[:, None] if stages is None else stages)
        iw, _ = self._legal("width", width, self.widths)
        self._legal("exit", exit, self.exits)
        for a in archs:
            if a.also and a.answering not in self.votes:
                one_of("answering exits", a.answering, self.votes, f" in {self.name}")
        _, known = self._legal(
            "depth", depth, self.depths, may_be_0=np.broadcast_to(~stage_used, (n, s))
        )
        depth = np.where(known, depth, self.depths[0])
        used = (np.arange(self.slots) < depth[..., None]) & stage_used[..., None]
        il, _ = self._legal("level", level, self.levels, may_be_0=~used)
        no_irb = ~used | (level & elastic_bits() == 0)
        ik, _ = self._legal("kernel", kernel, self.kernels, may_be_0=no_irb)
        ie, _ = self._legal("expand", expand, self.expands, may_be_0=no_irb)
        codes = 1 + (il * len(self.expands) + ie) * len(self.kernels) + ik
        return resolution, iw, exit, np.where(np.arange(self.slots) < depth[..., None], codes, 0)

    def _legal(self, name, values, legal, may_be_0=False):
        """(index into `legal`, or 0; whether it is there). Refuses other values, save 0 where it
        has no effect."""
        index, known = _index(values, legal)
        wrong = ~known & ~((values == 0) & may_be_0)
        if wrong.any():
            place = int(np.argmax(wrong)) % (
                wrong.size // len(wrong)
            )  # inside the first wrong subnet
            where = name if values.ndim == 1 else f"{name}[{place}]"
            one_of(where, values[wrong][0].item(), legal, f" in {self.name}")
        return index, known

    def decode(self, X):
        """Arch of every genotype, a pure function: skipped blocks get the smallest values. Repair
        first."""
        X = self.genotypes(X)
        codes = X[:, self.first :]
        depth = (codes.reshape(len(X), self.n_stages, self.slots) > 0).sum(axis=2).tolist()
        kernel, expand, level = (self.code_table[codes, i].tolist() for i in range(3))
        exits = [(self.n_stages,)] * len(X)
        if self.early_exits:
            exits = [self.votes[code] for code in X[:, 2].tolist()]
        return [
            Arch(
                self.resolutions[X[i, 0]],
                self.widths[X[i, 1]],
                exits[i][-1],
                depth[i],
                kernel[i],
                expand[i],
                level[i],
                exits[i][:-1],
            )
            for i in range(len(X))
        ]

    def sample(self, n, rng, by="search", depth_prior="uniform", repair=None):
        """n subnets: list of Arch, of the genotypes of `sample_genotypes`."""
        return self.decode(self.sample_genotypes(n, rng, by, depth_prior, repair))


def _index(values, legal):
    """Position of each value in `legal` (0 where it is not there), and whether it is there."""
    same = values[..., None] == np.array(legal)
    return same.argmax(axis=-1), same.any(axis=-1)
