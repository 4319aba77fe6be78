"""Plans: the numbers that a family of networks is made from, as data.

A `Plan` holds channels, strides, activations, gates and legal choices; a `Space` is made from one.
Nothing elsewhere knows a number of one network.  The thesis's networks are the plan `thesis`; what
tells its nine supernets apart stands in `NETWORKS`.
Source: thesis Tables 3.1 and 5.1.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from nat_lib.blocks import BRANCHES, Place
from nat_lib.errors import Refusal
from nat_lib.files import ROOT

ACTS = ("relu", "h_swish")


class Network(NamedTuple):
    """What distinguishes one supernet type from another (thesis Table 5.1).

    modular : made of stage objects; in the author's code only these have the doubly scaled tails
    """

    thesis_name: str
    modular: bool
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


class Value:
    """A frozen dataclass of numbers, text and tuples as a JSON-able dictionary, and back,
    exactly."""

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        names = [f.name for f in fields(cls)]
        if sorted(d) != sorted(names):
            raise Refusal(
                f"{cls.__name__} with keys {', '.join(map(str, d))}: give exactly "
                f"{', '.join(names)}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in d.items()})


def one_of(what, value, legal, where=""):
    """Refuse a value that is not legal, with the values that are."""
    if value not in legal:
        raise Refusal(
            f"{what} = {value!r} is not allowed{where}: choose one of {', '.join(map(str, legal))}"
        )


@dataclass(frozen=True)
class Plan(Value):
    """The numbers of a family of networks.

    channels        : stem and stages at width 1.0, before rounding to 8 (a space may give others)
    stem_stride     : of the first convolution;  stem_acts : after it, and inside the fixed block
    strides, acts, gates : per stage: stride of its first block, activation, squeeze-and-excitation?
    kernels, expands, depths : legal values, ascending; the largest depth is the number of slots
    branches        : rows of `blocks.BRANCHES` that a parallel level may combine; the first one is
                      the block of all other networks
    tail            : widths of the two convolutions of an exit, as multiples of its channels
    """

    name: str = "thesis"
    channels: tuple[int, ...] = (16, 24, 40, 80, 112, 160)
    stem_stride: int = 2
    stem_acts: tuple[str, ...] = ("h_swish", "relu")
    strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    acts: tuple[str, ...] = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    gates: tuple[bool, ...] = (False, True, False, True, True)
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    branches: tuple[str, ...] = ("irb", "pointwise", "transform")
    tail: tuple[int, int] = (6, 8)

    def __post_init__(self):
        n = len(self.strides)
        for name, wanted in (("channels", n + 1), ("acts", n), ("gates", n), ("stem_acts", 2)):
            given = len(getattr(self, name))
            if given != wanted:
                raise Refusal(
                    f"plan {self.name}: {name} has {given} values for {n} stages, give {wanted}"
                )
        for act in (*self.acts, *self.stem_acts):
            one_of(f"plan {self.name}: activation", act, ACTS)
        for branch in self.branches:
            one_of(f"plan {self.name}: branch", branch, BRANCHES)
        for name in ("kernels", "expands", "depths"):
            values = getattr(self, name)
            if not values or min(values) < 1 or list(values) != sorted(set(values)):
                raise Refusal(
                    f"plan {self.name}: {name} = {values}, give positive values in ascending order"
                )
        if not self.branches or any(k % 2 == 0 for k in self.kernels):
            raise Refusal(f"plan {self.name}: give at least one branch, and odd kernels")
        if min(self.stem_stride, *self.strides) < 1:
            raise Refusal(f"plan {self.name}: strides are 1 or more")


THESIS = Plan()
# Nothing is lost in the stem: 28 to 40 pixels end as 4x4.  At 32 pixels EE_D has 2 to 41 million
# MACs: from a sixth of a ResNet-8 to a ResNet-20.
SMALL = Plan("small", (8, 8, 16, 32, 48, 64), stem_stride=1, strides=(1, 2, 2, 1, 2))
PLANS = {"thesis": THESIS, "small": SMALL}
_KEYS = [field.name for field in fields(Plan)]


def named(text: str) -> Plan:
    """The plan of a row of PLANS, or of a YAML file: `name:` and whatever differs from the thesis's
    plan."""
    if not text.endswith((".yaml", ".yml")):
        one_of("plan", text, PLANS, ": give one of these, or the path of a YAML file")
        return PLANS[text]
    path = ROOT / Path(text).expanduser()
    return Plan.from_dict(THESIS.to_dict() | {"name": path.stem} | _fields_of(path))


def _fields_of(path: Path) -> dict[str, Any]:
    """What a YAML file says of a plan."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refusal(f"plan: {path} cannot be read as YAML ({type(error).__name__})") from None
    if not isinstance(given, dict):
        raise Refusal(f"plan: {path} must be lines of 'key: value'")
    for key, value in given.items():
        like = THESIS.to_dict().get(key)
        if like is None:
            raise Refusal(f"plan: {path}: unknown key {key}; the keys are {', '.join(_KEYS)}")
        if not _alike(value, like):
            raise Refusal(f"plan: {path}: {key} = {value!r}, give something like {like}")
    return given


def _alike(value: Any, like: Any) -> bool:
    """Of the same kind as the thesis's value, item by item."""
    if isinstance(like, list):
        return isinstance(value, list) and all(type(v) is type(like[0]) for v in value)
    return type(value) is type(like)


class Stage(NamedTuple):
    """One stage of the body at one width. `tail` = (t1, t2) are the widths of the exit behind it;
    None where there is no exit."""

    c_in: int
    c_out: int
    stride: int
    act: str
    se: bool
    tail: tuple[int, int] | None

    def place(self, first: bool) -> Place:
        """Where its first block stands, or one of the others."""
        if first:
            return Place(self.c_in, self.c_out, self.stride, self.act, self.se, True)
        return Place(self.c_out, self.c_out, 1, self.act, self.se, False)


class Layout(NamedTuple):
    """All channel numbers of a supernet at one width; `stem` is the width of the head convolution
    and head block, `stem_stride` and `stem_acts` are the plan's."""

    stem: int
    stem_stride: int
    stem_acts: tuple[str, str]
    stages: tuple[Stage, ...]
