"""Recipes: how networks are optimised, the same for a supernet and for what is compared with it.

A new one is a row of RECIPES.  "short" was chosen on a validation split for budgets of a few
thousand steps (docs/DECISIONS.md, A recipe for short budgets).
Source of "thesis": section 5.2.2; label smoothing as in Once-for-All, arXiv:1908.09791.  Of
"bignas": arXiv:2003.11142.
"""

from typing import NamedTuple


class Recipe(NamedTuple):
    """rate      : of all learning rates of a curriculum; its rows are for batches of `images`
    images    : None: the rates hold for batches of any size; otherwise they grow with the batch
    schedule  : a key of schedules.SCHEDULES
    decay     : weight decay of all but biases and batch norms
    smoothing : of labels
    clip      : of every entry of a step's gradient; None: none
    crop      : smallest share of the area that a random crop keeps, nothing else being random but
                the data set's flips; None: the data set's own augmentation
    """

    rate: float = 1.0
    images: int | None = None
    schedule: str = "cosine"
    decay: float = 3e-5
    smoothing: float = 0.1
    clip: float | None = None
    crop: float | None = None

    def lr(self, lr: float, batch_size: int) -> float:
        """The learning rate for a phase's own and a batch size."""
        return lr * self.rate * (batch_size / self.images if self.images else 1.0)


RECIPES = {
    "thesis": Recipe(),
    "bignas": Recipe(schedule="floored", decay=1e-5, clip=1.0),
    "short": Recipe(rate=3.75, images=64, schedule="one_cycle", decay=3e-4, clip=1.0, crop=0.6),
}
MOMENTUM = 0.9
