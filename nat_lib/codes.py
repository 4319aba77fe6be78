"""Rows of integers: what all genotypes are, whatever their variables mean."""

from functools import cached_property

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.plans import one_of

EXITS = 2  # the variable that says which exits answer, where there are several


def constant(values):
    """An array that is computed once and shared, so nobody may write to it."""
    array = np.array(values, dtype=np.int64)
    array.flags.writeable = False
    return array


class Codes:
    """Genotypes (n, n_var) whose variable v has the values lower[v] .. upper[v].

    A class has name, n_var, lower, upper, exits, votes (the exits that answer, per value of the
    variable EXITS) and `active`.
    """

    @cached_property
    def categories(self):
        """Number of values of each variable, (n_var,); their sum is the length of the one-hot
        features."""
        return constant(self.upper - self.lower + 1)

    @cached_property
    def _answering(self):
        """(sets, exits): 1 where an exit is in a set."""
        return np.array([[e in some for e in self.exits] for some in self.votes], dtype=np.int64)

    def genotypes(self, X):
        """X as (n, n_var) int64. Refuses codes out of bounds."""
        X = self.integers(X)
        out = (X < self.lower) | (X > self.upper)
        if out.any():
            i, v = np.argwhere(out)[0]
            raise Refusal(
                f"genotype {i}: variable {v} = {X[i, v]}, "
                f"legal are {self.lower[v]}..{self.upper[v]}"
            )
        return X

    def integers(self, X):
        """X as (n, n_var) int64, in bounds or not. Refuses another shape, and fractions."""
        given = np.asarray(X)
        if given.ndim != 2 or given.shape[1] != self.n_var:
            raise Refusal(
                f"genotypes have shape {given.shape}: {self.name} needs (n, {self.n_var})"
            )
        whole = given.astype(np.int64, copy=False)
        if given.dtype.kind == "f" and (whole != given).any():
            raise Refusal("genotypes hold fractions: round them to integers first")
        return whole

    def features(self, X, kind="integer", mask_after_exit=False):
        """Inputs of a predictor, (n, n_var) or (n, sum(categories)) float64.

        Where several exits may answer, whether each does is an integer feature of its own in place
        of the number of their set, which says little.

        mask_after_exit shows the predictor `active(X)`: what lies behind the exit is then constant.
        """
        one_of("features", kind, ("integer", "one_hot"))
        X = self.active(X) if mask_after_exit else self.genotypes(X)
        if kind == "integer" and len(self.votes) > len(self.exits):
            others = np.delete(X, EXITS, axis=1)
            return np.column_stack([others, self._answering[X[:, EXITS]]]).astype(np.float64)
        if kind == "integer":
            return X.astype(np.float64)
        starts = np.cumsum(self.categories) - self.categories
        hot = np.zeros((len(X), self.categories.sum()))
        np.put_along_axis(hot, starts + X - self.lower, 1.0, axis=1)
        return hot
