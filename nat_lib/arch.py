"""Subnets as values, and the nine spaces they live in.

`Arch` is one subnet as plain numbers. `Space` is the set of all subnets of one supernet type: it
knows the legal values, the channel plan, the genotypes of the search, and how to draw, list and
repair. No tensor appears here.
Source: thesis Tables 3.1 and 5.1, section 5.1 (networks), 5.3 (grids), 6.1.1 and Fig. 6.1
        (genotypes).
"""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

from nat_lib.errors import Refusal

SLOTS = 4  # places for a block in every stage
KERNELS = (3, 5, 7)
EXPANDS = (3, 4, 6)
DEPTHS = (2, 3, 4)
IRB, POINTWISE, TRANSFORM = 4, 2, 1  # the branches of a parallel level are the bits of its code
LEVELS = (
    1,
    2,
    4,
    3,
    5,
    6,
    7,
)  # by number of active branches, then by code: the order of the genotype
RESOLUTIONS = (48, 52, 56, 60, 64)
WIDTHS = (1.0, 1.2)
CHANNELS = (16, 24, 40, 80, 112, 160)  # head, S1..S5 at width 1.0 (thesis Table 3.1)


class Network(NamedTuple):
    """What distinguishes one supernet type from another (thesis Table 5.1)."""

    thesis_name: str
    modular: (
        bool  # made of stage objects; in the author's code only these have the doubly scaled tails
    )
    early_exits: bool
    dense: bool
    parallel: bool


NETWORKS = {
    #                                            modular  exits  dense  parallel
    "BASE": Network("OFAMobileNetV3", False, False, False, False),
    "SE_B": Network("SE_B_OFAMobileNetV3", True, False, False, False),
    "SE_D": Network("SE_D_OFAMobileNetV3", True, False, True, False),
    "SE_P": Network("SE_P_OFAMobileNetV3", True, False, False, True),
    "SE_DP": Network("SE_DP_OFAMobileNetV3", True, False, True, True),
    "EE_B": Network("EE_B_OFAMobileNetV3", True, True, False, False),
    "EE_D": Network("EE_D_OFAMobileNetV3", True, True, True, False),
    "EE_P": Network("EE_P_OFAMobileNetV3", True, True, False, True),
    "EE_DP": Network("EE_DP_OFAMobileNetV3", True, True, True, True),
}
#            stride of the first block, activation, SaE: S1 .. S5
BODY = (
    (2, "relu", False),
    (2, "relu", True),
    (2, "h_swish", False),
    (1, "h_swish", True),
    (2, "h_swish", True),
)


class Stage(NamedTuple):
    """One stage of the body. `tail` = (t1, t2) are the widths of the exit behind it; None where
    there is no exit."""

    c_in: int
    c_out: int
    stride: int
    act: str
    se: bool
    tail: tuple[int, int] | None


class Plan(NamedTuple):
    """All channel numbers of a supernet at one width; `stem` is the width of the head convolution
    and head block."""

    stem: int
    stages: tuple[Stage, ...]


class Choices(NamedTuple):
    """The values that may be picked, per kind: everything a space has, or what an EPS phase has
    opened so far."""

    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    depth: tuple[int, ...]
    level: tuple[int, ...]
    exit: tuple[int, ...]


def round8(v):
    """Nearest multiple of 8, at least 8, and never below 0.9 v: the channel rounding of OFA."""
    near = max(8, int(v + 4) // 8 * 8)
    return near + 8 if near < 0.9 * v else near


def middle(c_in, expand):
    """Channels inside an inverted residual block with c_in input channels."""
    return round8(round(c_in * expand))


def se_hidden(mid):
    """Hidden channels of the squeeze-and-excitation module on `mid` channels: reduction 4."""
    return round8(mid // 4)


class _Value:
    """A frozen dataclass of numbers, text and tuples as a JSON-able dictionary, and back,
    exactly."""

    def to_dict(self):
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, d):
        names = [f.name for f in fields(cls)]
        if sorted(d) != sorted(names):
            raise Refusal(
                f"{cls.__name__} with keys {', '.join(map(str, d))}: give exactly {', '.join(names)}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in d.items()})


@dataclass(frozen=True)
class Arch(_Value):
    """One subnet as plain numbers. Slots past a stage's depth, or past the exit, do not matter.

    resolution : side of the square input, pixels
    width      : which of the supernets, 1.0 or 1.2
    exit       : stages kept, 1 .. S; the classifier behind stage `exit` answers
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

    def __post_init__(self):
        object.__setattr__(self, "width", float(self.width))
        for name in ("resolution", "exit"):
            object.__setattr__(self, name, _whole(name, (getattr(self, name),))[0])
        for name in ("depth", "kernel", "expand", "level"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        n = len(self.depth)
        for name in ("kernel", "expand", "level"):
            given = len(getattr(self, name))
            if given != n * SLOTS:
                raise Refusal(
                    f"{name} has {given} values for {n} stages: give {SLOTS} per stage, {n * SLOTS}"
                )

    def canonical(self):
        """The same subnet with 0 wherever a number has no effect: equal subnets compare, hash and
        store as one."""
        depth = tuple(d if s < self.exit else 0 for s, d in enumerate(self.depth))
        used = [b < d for d in depth for b in range(SLOTS)]
        level = tuple(v if u else 0 for v, u in zip(self.level, used, strict=True))
        kernel = tuple(k if v & IRB else 0 for k, v in zip(self.kernel, level, strict=True))
        expand = tuple(e if v & IRB else 0 for e, v in zip(self.expand, level, strict=True))
        return Arch(self.resolution, self.width, self.exit, depth, kernel, expand, level)


@dataclass(frozen=True)
class Space(_Value):
    """All subnets of one supernet type. Two spaces are equal when they were made from the same
    arguments.

    name          : a key of NETWORKS
    resolutions   : input sides the search may pick, ascending: five in thesis Fig. 6.1, (48, 56,
                    64) in its code
    widths        : width multipliers, one supernet each, ascending
    base_channels : head and stages at width 1.0, before rounding to 8; fewer or narrower stages
                    make a smaller space
    tail_scaling  : "once" (default) or "twice" as the author's staged networks have it: at width
                    1.2 their tails are multiplied by 1.2 twice, which makes them wider than those
                    of the baseline
    """

    name: str
    resolutions: tuple[int, ...] = RESOLUTIONS
    widths: tuple[float, ...] = WIDTHS
    base_channels: tuple[int, ...] = CHANNELS
    tail_scaling: str = "once"

    def __post_init__(self):
        _one_of("space name", self.name, NETWORKS)
        _one_of("tail_scaling", self.tail_scaling, ("once", "twice"))
        for name, kind in (("resolutions", int), ("widths", float), ("base_channels", int)):
            given = np.atleast_1d(getattr(self, name)).tolist()
            if not given or any(
                not isinstance(v, int | float) or v != kind(v) or v <= 0 for v in given
            ):
                raise Refusal(
                    f"{name} = {getattr(self, name)}: give positive numbers, e.g. {_DEFAULTS[name]}"
                )
            object.__setattr__(self, name, tuple(map(kind, given)))
        for name in ("resolutions", "widths"):
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise Refusal(
                    f"{name} = {getattr(self, name)}: give distinct values in ascending order"
                )
        if not 2 <= len(self.base_channels) <= len(BODY) + 1:
            n = len(self.base_channels)
            raise Refusal(
                f"base_channels has {n} values: give the head and 1 to {len(BODY)} stages"
            )

    # ---- what the network is
    # -------------------------------------------------------------------------------------

    thesis_name = property(lambda self: NETWORKS[self.name].thesis_name)
    early_exits = property(lambda self: NETWORKS[self.name].early_exits)
    dense = property(lambda self: NETWORKS[self.name].dense)
    parallel = property(lambda self: NETWORKS[self.name].parallel)
    n_stages = property(lambda self: len(self.base_channels) - 1)
    slots = SLOTS
    kernels = KERNELS
    expands = EXPANDS
    depths = DEPTHS
    levels = property(lambda self: LEVELS if self.parallel else (IRB,))
    exits = property(
        lambda self: tuple(range(1, self.n_stages + 1)) if self.early_exits else (self.n_stages,)
    )
    choices = property(
        lambda self: Choices(self.kernels, self.expands, self.depths, self.levels, self.exits)
    )

    def plan(self, width):
        """Channels, strides, activations and tails at one width (thesis Table 3.1): t1 = 6 c, t2 =
        8 c."""
        _one_of("width", width, self.widths)
        wide = [round8(c * width) for c in self.base_channels]
        # The author's staged networks scale the tails of the already widened stage a second time.
        twice = self.tail_scaling == "twice" and NETWORKS[self.name].modular
        base = wide if twice else [round8(c) for c in self.base_channels]
        stages = []
        for s, (stride, act, se) in enumerate(BODY[: self.n_stages], start=1):
            tail = (
                (round8(6 * base[s] * width), round8(8 * base[s] * width))
                if s in self.exits
                else None
            )
            stages.append(Stage(wide[s - 1], wide[s], stride, act, se, tail))
        return Plan(wide[0], tuple(stages))

    # ---- single subnets
    # ------------------------------------------------------------------------------------------

    def arch(
        self,
        resolution=None,
        width=None,
        exit=None,
        depth=None,
        kernel=None,
        expand=None,
        level=None,
    ):
        """A checked Arch of this space; one number means "the same everywhere", a missing one the
        largest value."""
        n = self.n_stages
        full = Arch(
            resolution=self.resolutions[-1] if resolution is None else resolution,
            width=self.widths[-1] if width is None else width,
            exit=n if exit is None else exit,
            depth=_spread(self.depths[-1] if depth is None else depth, n),
            kernel=_spread(self.kernels[-1] if kernel is None else kernel, n * SLOTS),
            expand=_spread(self.expands[-1] if expand is None else expand, n * SLOTS),
            level=_spread(self.levels[-1] if level is None else level, n * SLOTS),
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
            pick(v, n * SLOTS) for v in (choices.kernel, choices.expand, choices.level)
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

    # ---- genotypes: [R, W, X if there are exits, 4 block codes per stage]; code 0 = skipped
    # (thesis Fig. 6.1) ----

    @property
    def first(self):
        """Index of the first block variable."""
        return 3 if self.early_exits else 2

    @property
    def n_codes(self):
        """Largest block code M: 9, or 63 with parallel blocks."""
        return len(self.levels) * len(self.expands) * len(self.kernels)

    @property
    def n_var(self):
        return self.first + SLOTS * self.n_stages

    @property
    def lower(self):
        must = [1 if b < self.depths[0] else 0 for b in range(SLOTS)]
        return np.array([0] * self.first + must * self.n_stages, dtype=np.int64)

    @property
    def upper(self):
        ends = [len(v) - 1 for v in (self.resolutions, self.widths, self.exits)][: self.first]
        return np.array(ends + [self.n_codes] * SLOTS * self.n_stages, dtype=np.int64)

    @property
    def categories(self):
        """Number of values of each variable, (n_var,); their sum is the length of the one-hot
        features."""
        return self.upper - self.lower + 1

    @property
    def size(self):
        """Number of valid genotypes, an exact int."""
        per_stage = sum(self.n_codes**d for d in self.depths)
        return len(self.resolutions) * len(self.widths) * len(self.exits) * per_stage**self.n_stages

    @cached_property
    def code_table(self):
        """(M + 1, 3) int64: kernel, expand, level of every block code; code 0 (skipped) shows the
        smallest values."""
        rows = [(k, e, lv) for lv, e, k in product(self.levels, self.expands, self.kernels)]
        return np.array(rows[:1] + rows, dtype=np.int64)

    def encode(self, archs):
        """Genotypes of a list of Arch, (n, n_var) int64. Numbers that have no effect may be 0 (see
        Arch.canonical)."""
        resolution, iw, exit, codes = self.columns(archs)
        ir, legal = _index(resolution, self.resolutions)
        if not legal.all():
            _one_of("resolution", int(resolution[~legal][0]), self.resolutions)
        head = [ir, iw, exit - 1][: self.first]
        return np.column_stack([*head, codes.reshape(len(archs), SLOTS * self.n_stages)])

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
            np.array([getattr(a, name) for a in archs], dtype=np.int64).reshape(n, s, SLOTS)
            for name in ("kernel", "expand", "level")
        )
        if (resolution <= 0).any():
            raise Refusal(f"resolution = {resolution.min()}: give a positive number of pixels")
        stage_used = np.arange(s) < (exit[:, None] if stages is None else stages)
        iw, _ = self._legal("width", width, self.widths)
        self._legal("exit", exit, self.exits)
        _, known = self._legal(
            "depth", depth, self.depths, may_be_0=np.broadcast_to(~stage_used, (n, s))
        )
        depth = np.where(known, depth, self.depths[0])
        used = (np.arange(SLOTS) < depth[..., None]) & stage_used[..., None]
        il, _ = self._legal("level", level, self.levels, may_be_0=~used)
        no_irb = ~used | (level & IRB == 0)
        ik, _ = self._legal("kernel", kernel, self.kernels, may_be_0=no_irb)
        ie, _ = self._legal("expand", expand, self.expands, may_be_0=no_irb)
        codes = 1 + (il * len(self.expands) + ie) * len(self.kernels) + ik
        return resolution, iw, exit, np.where(np.arange(SLOTS) < depth[..., None], codes, 0)

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
            _one_of(where, values[wrong][0].item(), legal, f" in {self.name}")
        return index, known

    def genotypes(self, X):
        """X as (n, n_var) int64. Refuses codes out of bounds, and a skipped block before a used one
        (repair first)."""
        X = self._integers(X)
        out = (X < self.lower) | (X > self.upper)
        if out.any():
            i, v = np.argwhere(out)[0]
            raise Refusal(
                f"genotype {i}: variable {v} = {X[i, v]}, legal are {self.lower[v]}..{self.upper[v]}"
            )
        skipped = X[:, self.first :].reshape(len(X), self.n_stages, SLOTS) == 0
        if (skipped[..., :-1] & ~skipped[..., 1:]).any():
            raise Refusal(
                "genotypes hold a skipped block before a used one: call space.repair(X, how) first"
            )
        return X

    def _integers(self, X):
        given = np.asarray(X)
        if given.ndim != 2 or given.shape[1] != self.n_var:
            raise Refusal(
                f"genotypes have shape {given.shape}: {self.name} needs (n, {self.n_var})"
            )
        whole = given.astype(np.int64, copy=False)
        if given.dtype.kind == "f" and (whole != given).any():
            raise Refusal("genotypes hold fractions: round them to integers first")
        return whole

    def decode(self, X):
        """Arch of every genotype, a pure function: skipped blocks get the smallest values. Repair
        first."""
        X = self.genotypes(X)
        codes = X[:, self.first :]
        depth = (codes.reshape(len(X), self.n_stages, SLOTS) > 0).sum(axis=2).tolist()
        kernel, expand, level = (self.code_table[codes, i].tolist() for i in range(3))
        exits = (X[:, 2] + 1).tolist() if self.early_exits else [self.n_stages] * len(X)
        return [
            Arch(
                self.resolutions[X[i, 0]],
                self.widths[X[i, 1]],
                exits[i],
                depth[i],
                kernel[i],
                expand[i],
                level[i],
            )
            for i in range(len(X))
        ]

    def repair(self, X, how="push"):
        """Genotypes without a skipped block before a used one, as a new array.

        "push": used codes keep their order and move to the front, (a, b, 0, d) -> (a, b, d, 0):
                NAT, NATv2 phase 1.
        "fill": everything after the first skipped block is skipped, (a, b, 0, d) -> (a, b, 0, 0):
                NATv2 from phase 2.
        """
        _one_of("repair", how, ("push", "fill"))
        X = self._integers(X).copy()
        codes = X[:, self.first :].reshape(len(X), self.n_stages, SLOTS)
        if how == "fill":
            fixed = codes * np.logical_and.accumulate(codes != 0, axis=2)
        else:
            fixed = np.take_along_axis(codes, np.argsort(codes == 0, axis=2, kind="stable"), axis=2)
        X[:, self.first :] = fixed.reshape(len(X), SLOTS * self.n_stages)
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
        plain = (codes > 0) & (self.code_table[codes, 2] & IRB == 0)
        codes[plain] = (codes[plain] - 1) // per_level * per_level + 1
        if self.early_exits:
            behind = np.repeat(np.arange(self.n_stages) > X[:, 2:3], SLOTS, axis=1)
            codes[...] = np.where(behind, self.lower[self.first :], codes)
        return X

    def features(self, X, kind="integer", mask_after_exit=False):
        """Inputs of a predictor, (n, n_var) or (n, sum(categories)) float64.

        mask_after_exit shows the predictor `active(X)`: what lies behind the exit is then constant.
        """
        _one_of("features", kind, ("integer", "one_hot"))
        X = self.active(X) if mask_after_exit else self.genotypes(X)
        if kind == "integer":
            return X.astype(np.float64)
        starts = np.cumsum(self.categories) - self.categories
        hot = np.zeros((len(X), self.categories.sum()))
        np.put_along_axis(hot, starts + X - self.lower, 1.0, axis=1)
        return hot

    def sample(self, n, rng, by="search", depth_prior="uniform", repair=None):
        """n subnets: list of Arch, of the genotypes of `sample_genotypes`."""
        return self.decode(self.sample_genotypes(n, rng, by, depth_prior, repair))

    def sample_genotypes(self, n, rng, by="search", depth_prior="uniform", repair=None):
        """Genotypes of n subnets, (n, n_var) int64.

        by          : "search" = every variable uniform over its categories, then repaired (deep
                      stages dominate); "architecture" = depth first, then the codes uniform
        depth_prior : of "architecture": "uniform", or "author" = 1/3, 2/9, 4/9 for D = 2, 3, 4
        repair      : "push" | "fill"; by default push for "search" and fill for "architecture"
        """
        _one_of("by", by, ("search", "architecture"))
        _one_of("depth_prior", depth_prior, ("uniform", "author"))
        X = rng.integers(self.lower, self.upper + 1, size=(n, self.n_var))
        if by == "architecture":
            shape = (n, self.n_stages, SLOTS)
            codes = rng.integers(1, self.n_codes + 1, size=shape)
            if depth_prior == "uniform":
                keep = np.arange(SLOTS) < rng.choice(self.depths, size=shape[:2])[..., None]
            else:
                keep = (np.arange(SLOTS) < self.depths[0]) | (rng.random(shape) >= 1 / 3)
            X[:, self.first :] = (codes * keep).reshape(n, SLOTS * self.n_stages)
        return self.repair(X, repair or {"search": "push", "architecture": "fill"}[by])


_DEFAULTS = {"resolutions": RESOLUTIONS, "widths": WIDTHS, "base_channels": CHANNELS}


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


def _spread(value, n):
    return (value,) * n if np.isscalar(value) else tuple(value)


def _one_of(what, value, legal, where=""):
    if value not in legal:
        raise Refusal(
            f"{what} = {value!r} is not allowed{where}: choose one of {', '.join(map(str, legal))}"
        )


def _index(values, legal):
    """Position of each value in `legal` (0 where it is not there), and whether it is there."""
    same = values[..., None] == np.array(legal)
    return same.argmax(axis=-1), same.any(axis=-1)
