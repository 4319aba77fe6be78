"""One subnet as a value, and the values that may be picked.  No tensor appears here."""

from dataclasses import dataclass
from typing import NamedTuple

from nat_lib.blocks import elastic_bits
from nat_lib.errors import Refusal
from nat_lib.plans import Value


class Choices(NamedTuple):
    """The values that may be picked, per kind: everything a space has, or what an EPS phase has
    opened so far."""

    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    depth: tuple[int, ...]
    level: tuple[int, ...]
    exit: tuple[int, ...]


@dataclass(frozen=True)
class Arch(Value):
    """One subnet as plain numbers. Slots past a stage's depth, or past the exit, do not matter.

    resolution : side of the square input, pixels
    width      : which of the supernets, 1.0 or 1.2
    exit       : stages kept, 1 .. S; the classifier behind stage `exit` answers
    also       : earlier exits that answer with it, ascending; the answer is their weighted vote
    depth      : blocks per stage, length S
    kernel, expand, level : one number per slot, stage-major, length 4 S. `level` is the 3-bit code
                            of the active
                 branches (4 = inverted residual block, 2 = pointwise, 1 = transformation); 4
                 without parallel blocks
    """

    resolution: int
    width: float
    exit: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    level: tuple[int, ...]
    also: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "width", float(self.width))
        for name in ("resolution", "exit"):
            object.__setattr__(self, name, _whole(name, (getattr(self, name),))[0])
        for name in ("depth", "kernel", "expand", "level", "also"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if list(self.answering) != sorted(set(self.answering)):
            raise Refusal(f"also = {self.also}: give ascending exits before exit {self.exit}")
        n, whole = len(self.depth), len(self.level) // max(len(self.depth), 1)
        for name in ("kernel", "expand", "level"):
            given = len(getattr(self, name))
            if given != n * whole:
                raise Refusal(
                    f"{name} has {given} values for {n} stages: give {whole} per stage, {n * whole}"
                )

    @property
    def answering(self):
        """Positions of the exits that answer, ascending."""
        return (*self.also, self.exit)

    def to_dict(self):
        """As JSON; that one exit answers goes without saying."""
        d = super().to_dict()
        return d if self.also else {k: v for k, v in d.items() if k != "also"}

    @classmethod
    def from_dict(cls, d):
        return super().from_dict({"also": (), **d})

    def canonical(self):
        """The same subnet with 0 wherever a number has no effect: equal subnets compare, hash and
        store as one."""
        depth = tuple(d if s < self.exit else 0 for s, d in enumerate(self.depth))
        slots, elastic = len(self.level) // len(depth), elastic_bits()
        used = [b < d for d in depth for b in range(slots)]
        level = tuple(v if u else 0 for v, u in zip(self.level, used, strict=True))
        kernel = tuple(k if v & elastic else 0 for k, v in zip(self.kernel, level, strict=True))
        expand = tuple(e if v & elastic else 0 for e, v in zip(self.expand, level, strict=True))
        head = self.resolution, self.width, self.exit
        return Arch(*head, depth, kernel, expand, level, self.also)


def _whole(name, values):
    """Plain ints, so that an Arch prints, compares and goes to JSON as numbers; 3.0 is 3, 3.5 is
    refused."""
    try:
        whole = tuple(map(int, values))
        exact = whole == tuple(values)
    except (TypeError, ValueError):
        exact = False
    if not exact:
        raise Refusal(f"{name} = {values!r}: give whole numbers")
    return whole
