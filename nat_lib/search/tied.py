"""The tied view of a space: one kernel, expansion, depth and level per network, any of its exits.

Small enough to be listed.  A genotype is one number per axis, of `Tied.axes`; to strategies and
predictors it is a space like `arch.Space`.
"""

from functools import cached_property

import numpy as np

from nat_lib.arch import Space
from nat_lib.codes import Codes, constant
from nat_lib.errors import Refusal


class Tied(Codes):
    """All constant subnets of a space, an `arch.Space`, whose `answers` say what may vote."""

    def __init__(self, space: Space):
        self.space, self.name, self.votes = space, f"{space.name}, tied", space.votes
        self.resolutions, self.widths, self.exits = space.resolutions, space.widths, space.exits
        self.kernels, self.expands, self.depths = space.kernels, space.expands, space.depths
        self.arch = space.arch

    @cached_property
    def axes(self) -> dict:
        """{name: its values}, an axis per variable, in the order of the genotype."""
        space = self.space
        return {
            "resolution": space.resolutions,
            "width": space.widths,
            "exits": self.votes,
            "kernel": space.kernels,
            "expand": space.expands,
            "depth": space.depths,
            "level": space.levels,
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Values per axis."""
        return tuple(map(len, self.axes.values()))

    @property
    def size(self) -> int:
        """Number of networks."""
        return int(np.prod(self.shape))

    n_var = first = property(lambda self: len(self.shape))  # no variable is a block

    @cached_property
    def lower(self):
        return constant([0] * self.n_var)

    @cached_property
    def upper(self):
        return constant([n - 1 for n in self.shape])

    def index(self, X):
        """(n,) place of every genotype among all of them."""
        return np.ravel_multi_index(tuple(self.genotypes(X).T), self.shape)

    def every(self):
        """(size, n_var) all genotypes, the last variable fastest."""
        return np.stack(np.unravel_index(np.arange(self.size), self.shape), axis=1)

    def repair(self, X, how="push"):
        """Every genotype in bounds is legal: a copy."""
        return self.integers(X).copy()

    def active(self, X):
        """Every variable matters: the genotypes themselves."""
        return self.genotypes(X)

    def sample_genotypes(self, n, rng, by="search", depth_prior="uniform", repair=None):
        """(n, n_var): every variable uniform, whatever the other arguments say."""
        return rng.integers(self.lower, self.upper + 1, size=(n, self.n_var))

    def decode(self, X):
        """Archs of genotypes."""
        found = []
        for row in self.genotypes(X).tolist():
            value = {name: v[i] for (name, v), i in zip(self.axes.items(), row, strict=True)}
            *also, exit = value.pop("exits")
            found.append(self.space.arch(exit=exit, also=also, **value))
        return found

    def encode(self, archs):
        """Genotypes (n, n_var) of constant Archs."""
        rows = []
        for arch in archs:
            value = {name: getattr(arch, name) for name in ("resolution", "width")}
            value["exits"] = arch.answering
            value |= {name: _one(arch, name) for name in ("kernel", "expand", "depth", "level")}
            rows.append([values.index(value[name]) for name, values in self.axes.items()])
        return np.array(rows, dtype=np.int64).reshape(-1, self.n_var)


def _one(arch, name):
    """The value that an Arch has everywhere."""
    values = set(getattr(arch, name))
    if len(values) > 1:
        raise Refusal(f"{name} = {getattr(arch, name)}: a tied space has one value per network")
    return values.pop()
