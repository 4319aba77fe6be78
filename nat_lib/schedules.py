"""Learning rates over a training: values that know their epochs and the rate of every step."""

import math
from typing import NamedTuple


class Schedule(NamedTuple):
    """Cosine per iteration after a warm-up that comes in addition to the epochs.  Source: thesis
    5.2.2, Table 5.2."""

    lr: float
    epochs: float
    warmup: float = 0
    warmup_lr: float | None = (
        None  # None: the warm-up holds lr constant, as one device does in the published code
    )

    @property
    def total(self):
        return self.warmup + self.epochs

    def at(self, step, n_batches):
        """Learning rate of one optimiser step; step counts from 0 over the whole phase."""
        t, low = (
            step - self.warmup * n_batches,
            self.lr if self.warmup_lr is None else self.warmup_lr,
        )
        if t < 0:
            return low + (self.lr - low) * step / (self.warmup * n_batches)
        return 0.5 * self.lr * (1 + math.cos(math.pi * t / (self.epochs * n_batches)))


class Ramped(NamedTuple):
    """Cosine per epoch whose first `warmup` epochs are a ramp from 1e-4; both count as `epochs`.
    Source: NAT.

    stop : end after so many epochs of the curve, to go on later; None: all of it
    """

    lr: float
    epochs: int
    warmup: int = 0
    stop: int | None = None

    @property
    def total(self):
        return self.epochs if self.stop is None else self.stop

    def at(self, step, n_batches):
        epoch = step // n_batches
        if epoch < self.warmup:
            return 1e-4 + epoch * (self.lr - 1e-4) / self.warmup
        return 0.5 * self.lr * (1 + math.cos(math.pi * epoch / self.epochs))


class Annealed(NamedTuple):
    """Cosine per batch from lr to `minimum` over `period` epochs, of which `epochs` are run.
    Source: thesis 6.2.5."""

    lr: float
    epochs: int
    period: int = 150
    minimum: float = 1e-8

    @property
    def total(self):
        return self.epochs

    def at(self, step, n_batches):
        turned = math.cos(math.pi * step / (self.period * n_batches))
        return self.minimum + 0.5 * (self.lr - self.minimum) * (1 + turned)


class Constant(NamedTuple):
    """A learning rate that stays as it is."""

    lr: float
    epochs: int

    @property
    def total(self):
        return self.epochs

    def at(self, step, n_batches):
        return self.lr


class OneCycle(NamedTuple):
    """One line up to lr over a share of all epochs and one line down to 0, by step: for budgets of
    a few thousand steps.  Source: arXiv:1708.07120, without its cycle of momentum."""

    lr: float
    epochs: float
    share: float = 0.2

    @property
    def total(self):
        return self.epochs

    def at(self, step, n_batches):
        done = (step + 0.5) / (self.epochs * n_batches)
        return self.lr * min(done / self.share, (1 - done) / (1 - self.share))


class Floored(NamedTuple):
    """`Schedule` that never falls below a share of lr, so that the last epochs still move.  Source:
    BigNAS, arXiv:2003.11142."""

    lr: float
    epochs: float
    warmup: float = 0
    share: float = 0.05

    @property
    def total(self):
        return self.warmup + self.epochs

    def at(self, step, n_batches):
        falling = Schedule(self.lr, self.epochs, self.warmup)
        return max(falling.at(step, n_batches), self.share * self.lr)


# name: (lr, epochs, warm-up before them) -> schedule
SCHEDULES = {
    "cosine": Schedule,
    "one_cycle": lambda lr, epochs, warmup: OneCycle(lr, epochs + warmup),
    "floored": Floored,
}


def schedule_of(recipe, lr, epochs, warmup=0):
    """The schedule that a recipe has; `epochs` and the `warmup` before them are one budget."""
    return SCHEDULES[recipe.schedule](lr, epochs, warmup)
