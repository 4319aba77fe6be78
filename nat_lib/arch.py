"""Subnets as values, and the spaces they live in.

`Arch` is one subnet as plain numbers. `Space` is the set of all subnets of one supernet type: it
knows the legal values and the layout, and how to draw, list and check; its other half, rows of
integers for the search, is in `genotypes`. No tensor appears here.
Source: thesis Tables 3.1 and 5.1, section 5.1 (networks), 5.3 (grids), 6.1.1 and Fig. 6.1
        (genotypes).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np

from nat_lib import exit_weights
from nat_lib.blocks import BRANCHES, Branch, Place, after, levels_of, round8
from nat_lib.errors import Refusal
from nat_lib.exit_weights import MODES
from nat_lib.genotypes import Genotypes
from nat_lib.plans import NETWORKS, THESIS, Head, Layout, Plan, Stage, Tail, Value, one_of
from nat_lib.subnet import Arch, Choices

SINGLE = "single"  # one exit answers
RESOLUTIONS = (48, 52, 56, 60, 64)
WIDTHS = (1.0, 1.2)


class Part(NamedTuple):
    """One part of a network, in the order in which an image passes them.

    what  : "stem" (stage 0, block 0), "block" (both from 1) or "exit" (block 0 of its stage)
    slot  : of a block, index into kernel, expand and level
    place : of a block
    side  : of the part's input, pixels
    """

    what: str
    stage: int
    block: int
    slot: int | None
    place: Place | None
    side: int


@dataclass(frozen=True)
class Space(Genotypes, Value):
    """All subnets of one supernet type. Two spaces are equal when they were made from the same
    arguments.

    name          : a key of NETWORKS
    resolutions   : input sides the search may pick, ascending: five in thesis Fig. 6.1, (48, 56,
                    64) in its code
    widths        : width multipliers, one supernet each, ascending
    base_channels : stem and stages at width 1.0, before rounding to 8; fewer or narrower stages
                    make a smaller space; None: those of the plan
    tail_scaling  : "once" (default) or "twice" as the author's staged networks have it: at width
                    1.2 their tails are multiplied by 1.2 twice, which makes them wider than those
                    of the baseline
    plan          : strides, activations, gates, legal choices and branches
    answers       : "single" = a subnet answers by its last exit; or the weights, a key of
                    `exit_weights.MODES`, by which any set of its exits votes
    """

    name: str
    resolutions: tuple[int, ...] = RESOLUTIONS
    widths: tuple[float, ...] = WIDTHS
    base_channels: tuple[int, ...] | None = None
    tail_scaling: str = "once"
    plan: Plan = THESIS
    answers: str = SINGLE

    def __post_init__(self):
        one_of("space name", self.name, NETWORKS)
        one_of("tail_scaling", self.tail_scaling, ("once", "twice"))
        one_of("answers", self.answers, (SINGLE, *MODES))
        if self.base_channels is None:
            object.__setattr__(self, "base_channels", self.plan.channels)
        examples = {"resolutions": RESOLUTIONS, "widths": WIDTHS, "base_channels": THESIS.channels}
        for name, example in examples.items():
            kind = type(example[0])
            given = np.atleast_1d(getattr(self, name)).tolist()
            wrong = [v for v in given if not isinstance(v, int | float) or v != kind(v) or v <= 0]
            if wrong or not given:
                raise Refusal(
                    f"{name} = {getattr(self, name)}: give positive numbers, e.g. {example}"
                )
            object.__setattr__(self, name, tuple(map(kind, given)))
        for name in ("resolutions", "widths"):
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise Refusal(
                    f"{name} = {getattr(self, name)}: give distinct values in ascending order"
                )
        most = len(self.plan.strides)
        if not 2 <= len(self.base_channels) <= most + 1:
            n = len(self.base_channels)
            raise Refusal(f"base_channels has {n} values: give the head and 1 to {most} stages")

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the plan of the thesis and single exits go without saying."""
        d = super().to_dict()
        if self.answers == SINGLE:
            del d["answers"]
        if self.plan == THESIS:
            del d["plan"]
        else:
            d["plan"] = self.plan.to_dict()
        return d

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        plan = Plan.from_dict(d["plan"]) if "plan" in d else THESIS
        return super().from_dict({"answers": SINGLE, **d, "plan": plan})

    # ---- what the network is

    thesis_name = property(lambda self: NETWORKS[self.name].thesis_name)
    early_exits = property(lambda self: NETWORKS[self.name].early_exits)
    dense = property(lambda self: NETWORKS[self.name].dense)
    parallel = property(lambda self: NETWORKS[self.name].parallel)
    n_stages = property(lambda self: len(self.base_channels) - 1)
    slots = property(lambda self: self.plan.depths[-1])
    kernels = property(lambda self: self.plan.kernels)
    expands = property(lambda self: self.plan.expands)
    depths = property(lambda self: self.plan.depths)

    @property
    def branches(self) -> dict[str, Branch]:
        """The rows of `blocks.BRANCHES` that its levels combine, by name."""
        names = self.plan.branches if self.parallel else self.plan.branches[:1]
        return {name: BRANCHES[name] for name in names}

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Codes of the combinations of branches that a level may have."""
        return levels_of(self.branches)

    @cached_property
    def exits(self) -> tuple[int, ...]:
        """Positions of the classifiers, from 1."""
        return tuple(range(1, self.n_stages + 1)) if self.early_exits else (self.n_stages,)

    def vote(self, exits) -> tuple[float, ...]:
        """Weights of sum 1 by which these exits (positions) vote."""
        if len(exits) == 1:
            return (1.0,)
        mode = exit_weights.DEFAULT if self.answers == SINGLE else self.answers
        every = exit_weights.votes(mode, self.n_stages)
        mine = [every[i - 1] for i in exits]
        return tuple(w / sum(mine) for w in mine)

    @cached_property
    def choices(self) -> Choices:
        return Choices(self.kernels, self.expands, self.depths, self.levels, self.exits)

    def kept(self, exits) -> tuple[int, ...] | None:
        """The argument `exits` of all functions as positions: None stays None (the subnet's own
        exit), "all", or ascending positions such as (1, 3)."""
        if exits is None:
            return None
        kept = self.exits if isinstance(exits, str) and exits == "all" else tuple(exits)
        if not kept or list(kept) != sorted(set(kept)) or not set(kept) <= set(self.exits):
            legal = ", ".join(map(str, self.exits))
            raise Refusal(
                f"exits = {exits!r}: give None, 'all' or ascending positions out of {legal}"
            )
        return kept

    def layout(self, width: float) -> Layout:
        """Channels, strides, activations and tails at one width (thesis Table 3.1: t1 = 6 c, t2 =
        8 c)."""
        one_of("width", width, self.widths)
        plan, wide = self.plan, [round8(c * width) for c in self.base_channels]
        # The author's staged networks scale the tails of the already widened stage a second time.
        twice = self.tail_scaling == "twice" and NETWORKS[self.name].modular
        base = wide if twice else [round8(c) for c in self.base_channels]
        stages, end = [], plan.padding == "end"
        for s in range(1, self.n_stages + 1):
            tail = None
            if s in self.exits:
                widths = tuple(round8(times * base[s] * width) for times in plan.tail)
                tail = Tail(widths, plan.tail_act, plan.tail_bias)
            gate = plan.gate if plan.gates[s - 1] else ""
            row = plan.strides[s - 1], plan.acts[s - 1], gate, tail, end
            stages.append(Stage(wide[s - 1], wide[s], *row))
        stem, gate = round8(plan.stem_wide * wide[0]), plan.gate if plan.stem_gate else ""
        head = Head(stem, wide[0], plan.stem_strides, plan.stem_acts, gate, end)
        return Layout(head, tuple(stages))

    def parts(self, arch: Arch, exits=None) -> Iterator[Part]:
        """What a subnet consists of, in the order in which an image passes: stem, blocks, and exits
        behind their stages; `exits` as in `kept`."""
        kept = self.kept(exits) or arch.answering
        layout, side = self.layout(arch.width), arch.resolution
        yield Part("stem", 0, 0, None, None, side)
        side = layout.head.side(side)
        for s, stage in enumerate(layout.stages[: kept[-1]]):
            for b in range(arch.depth[s]):
                place = stage.place(b == 0)
                yield Part("block", s + 1, b + 1, s * self.slots + b, place, side)
                side = after(place.stride, side)
            if s + 1 in kept:
                yield Part("exit", s + 1, 0, None, None, side)

    # ---- single subnets

    def arch(
        self,
        resolution=None,
        width=None,
        exit=None,
        depth=None,
        kernel=None,
        expand=None,
        level=None,
        also=(),
    ):
        """A checked Arch of this space; one number means "the same everywhere", a missing one the
        largest value.  also : earlier exits that answer with the exit, none by default"""
        n = self.n_stages
        full = Arch(
            resolution=self.resolutions[-1] if resolution is None else resolution,
            width=self.widths[-1] if width is None else width,
            exit=n if exit is None else exit,
            depth=_spread(self.depths[-1] if depth is None else depth, n),
            kernel=_spread(self.kernels[-1] if kernel is None else kernel, n * self.slots),
            expand=_spread(self.expands[-1] if expand is None else expand, n * self.slots),
            level=_spread(self.levels[-1] if level is None else level, n * self.slots),
            also=tuple(also),
        )
        return self.check(full)

    @property
    def largest(self):
        return self.arch()

    @property
    def smallest(self):
        axes = (
            self.resolutions,
            self.widths,
            self.exits,
            self.depths,
            self.kernels,
            self.expands,
            self.levels,
        )
        return self.arch(*(values[0] for values in axes))

    def check(self, arch):
        """`arch` itself if it is a subnet of this space (at any resolution); else a Refusal naming
        the legal values."""
        self.columns([arch])
        return arch

    def draw(self, choices, rng, width, resolution):
        """One subnet for a training step: independent uniform draws for every slot, every stage and
        the exit."""

        def pick(values, n):
            return tuple(values[i] for i in rng.integers(len(values), size=n))

        n = self.n_stages
        kernel, expand, level = (
            pick(v, n * self.slots) for v in (choices.kernel, choices.expand, choices.level)
        )
        depth, exit = pick(choices.depth, n), pick(choices.exit, 1)[0]
        return Arch(resolution, width, exit, depth, kernel, expand, level)

    def grid(self, choices, resolutions, width):
        """Every constant subnet: the same K, E, L in all slots, the same D in all stages (thesis
        5.3).

        Resolutions vary slowest, then kernel, level, exit, depth, expand. At the end of shrinking
        with three
        resolutions: 81 (SE), 567 (SE_P), 405 (EE), 2835 (EE_P) subnets.
        """
        axes = (
            resolutions,
            choices.kernel,
            choices.level,
            choices.exit,
            choices.depth,
            choices.expand,
        )
        return [
            self.arch(resolution=r, width=width, exit=x, depth=d, kernel=k, expand=e, level=lv)
            for r, k, lv, x, d, e in product(*axes)
        ]


def _spread(value, n):
    return (value,) * n if np.isscalar(value) else tuple(value)
