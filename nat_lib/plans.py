"""Plans: the numbers that a family of networks is made from, as data.

A `Plan` holds channels, strides, activations, gates and legal choices; a `Space` is made from one.
Nothing elsewhere knows a number of one network.  The thesis's networks are the plan `thesis`; what
tells its nine supernets apart stands in `NETWORKS`.
Source: thesis Tables 3.1 and 5.1.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from nat_lib.blocks import ACTS, BRANCHES, GATES, Place, after
from nat_lib.errors import Refusal
from nat_lib.files import ROOT

PADDINGS = ("both", "end")


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
    stem_wide       : channels of the first convolution, as a multiple of the stem's
    stem_strides, stem_acts : of the first convolution and of the fixed block behind it
    stem_gate       : squeeze-and-excitation in the fixed block?
    strides, acts, gates : per stage: stride of its first block, activation, squeeze-and-excitation?
    gate            : which squeeze-and-excitation, a row of `blocks.GATES`
    kernels, expands, depths : legal values, ascending; the largest depth is the number of slots
    branches        : rows of `blocks.BRANCHES` that a parallel level may combine; the first one is
                      the block of all other networks
    tail            : widths of the one or two convolutions of an exit, as multiples of its channels
    tail_act, tail_bias : their activation; has the second one a bias?
    padding         : "both" ends, or as TensorFlow "end", of even sides before a stride of 2
    bn_eps          : added to the variance by batch norm
    """

    name: str = "thesis"
    channels: tuple[int, ...] = (16, 24, 40, 80, 112, 160)
    stem_wide: float = 1.0
    stem_strides: tuple[int, ...] = (2, 1)
    stem_acts: tuple[str, ...] = ("h_swish", "relu")
    stem_gate: bool = False
    strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    acts: tuple[str, ...] = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    gates: tuple[bool, ...] = (False, True, False, True, True)
    gate: str = "mobilenet_v3"
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    branches: tuple[str, ...] = ("irb", "pointwise", "transform")
    tail: tuple[float, ...] = (6.0, 8.0)
    tail_act: str = "h_swish"
    tail_bias: bool = False
    padding: str = "both"
    bn_eps: float = 1e-5

    def __post_init__(self):
        n = len(self.strides)
        lengths = {"channels": n + 1, "acts": n, "gates": n, "stem_acts": 2, "stem_strides": 2}
        for name, wanted in lengths.items():
            given = len(getattr(self, name))
            if given != wanted:
                raise Refusal(
                    f"plan {self.name}: {name} has {given} values for {n} stages, give {wanted}"
                )
        for act in (*self.acts, *self.stem_acts, self.tail_act):
            one_of(f"plan {self.name}: activation", act, ACTS)
        one_of(f"plan {self.name}: gate", self.gate, GATES)
        one_of(f"plan {self.name}: padding", self.padding, PADDINGS)
        one_of(f"plan {self.name}: number of values of tail", len(self.tail), (1, 2))
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
        if min(*self.stem_strides, *self.strides) < 1:
            raise Refusal(f"plan {self.name}: strides are 1 or more")
        if self.padding == "end" and max(*self.stem_strides, *self.strides) > 2:
            raise Refusal(f"plan {self.name}: padding 'end' is for strides of 1 and 2")
        if min(*self.tail, self.stem_wide, self.bn_eps) <= 0:
            raise Refusal(f"plan {self.name}: tail, stem_wide and bn_eps are above 0")


THESIS = Plan()
# Nothing is lost in the stem: 28 to 40 pixels end as 4x4.  At 32 pixels EE_D has 1.6 to 29 million
# MACs: from an eighth of a ResNet-8 to two thirds of a ResNet-20.
SMALL = Plan("small", (8, 16, 24, 40, 56, 80), stem_strides=(1, 1), strides=(2, 2, 1, 2, 1))
# MobileNetV2 (arXiv:1801.04381) with choices around it: its own subnet has kernel 3, expand 6.
MOBILENET_V2 = Plan(
    "mobilenet_v2",
    (16, 24, 32, 64, 96, 160, 320),
    stem_wide=2.0,
    stem_acts=("relu6", "relu6"),
    strides=(2, 2, 2, 1, 2, 1),
    acts=("relu6",) * 6,
    gates=(False,) * 6,
    kernels=(3, 5),
    depths=(1, 2, 3, 4),
    tail=(4.0,),
    tail_act="relu6",
)
# EfficientNet-Lite0: MobileNetV2's parts, EfficientNet's channels (arXiv:1905.11946), no gates.
LITE0 = replace(
    MOBILENET_V2,
    name="lite0",
    channels=(16, 24, 40, 80, 112, 192, 320),
    padding="end",
    bn_eps=1e-3,
)
EFFICIENTNET_B0 = replace(
    LITE0,
    name="efficientnet_b0",
    stem_acts=("silu", "silu"),
    stem_gate=True,
    acts=("silu",) * 6,
    gates=(True,) * 6,
    gate="efficientnet",
    tail_act="silu",
    padding="both",
    bn_eps=1e-5,
)
# MobileNetV3 (arXiv:1905.02244) as torchvision has it.  The thesis's is its large one without the
# bias of the last but one layer.
MOBILENET_V3_LARGE = replace(
    THESIS,
    name="mobilenet_v3_large",
    depths=(1, 2, 3, 4),
    tail_bias=True,
    bn_eps=1e-3,
)
MOBILENET_V3_SMALL = replace(
    MOBILENET_V3_LARGE,
    name="mobilenet_v3_small",
    channels=(16, 24, 40, 48, 96),
    stem_strides=(2, 2),
    stem_gate=True,
    strides=(2, 2, 1, 2),
    acts=("relu", "h_swish", "h_swish", "h_swish"),
    gates=(False, True, True, True),
    tail=(6.0, 32 / 3),
)
# The space of Once-For-All (arXiv:1908.09791), whose published weights fit it, is the thesis's.
OFA = replace(THESIS, name="ofa")
# The thesis's networks at less than half of its channels, for images of 28 to 40 pixels.
SLIM = replace(THESIS, name="slim", channels=(8, 16, 24, 32, 48, 64))
# thesis chapter 7 asks for richer parallel levels
FUSED = replace(THESIS, name="fused", branches=(*THESIS.branches, "fused"))

PLANS = {
    plan.name: plan
    for plan in (
        *(THESIS, SLIM, SMALL, FUSED, OFA, LITE0),
        *(MOBILENET_V2, MOBILENET_V3_LARGE, MOBILENET_V3_SMALL, EFFICIENTNET_B0),
    )
}
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
        return isinstance(value, list) and all(_alike(v, like[0]) for v in value)
    return type(value) is type(like) or (type(value) is int and type(like) is float)


class Head(NamedTuple):
    """The stem at one width: channels of its convolution and behind its fixed block; strides and
    activations of both; the block's gate; as in a `Place`: end."""

    conv: int
    out: int
    strides: tuple[int, int]
    acts: tuple[str, str]
    gate: str
    end: bool

    @property
    def place(self) -> Place:
        """Where its fixed block stands."""
        first = not self.residual
        return Place(self.conv, self.out, self.strides[1], self.acts[1], self.gate, first, self.end)

    @property
    def residual(self) -> bool:
        """Is there an identity to add?"""
        return self.conv == self.out and self.strides[1] == 1

    def side(self, pixels: int) -> int:
        """Side of its output."""
        return after(self.strides[1], after(self.strides[0], pixels))


class Tail(NamedTuple):
    """An exit at one width: channels of its one or two convolutions, their activation, bias of the
    second."""

    widths: tuple[int, ...]
    act: str
    bias: bool


class Stage(NamedTuple):
    """One stage of the body at one width. `tail`: the exit behind it; None where there is none."""

    c_in: int
    c_out: int
    stride: int
    act: str
    gate: str
    tail: Tail | None
    end: bool

    def place(self, first: bool) -> Place:
        """Where its first block stands, or one of the others."""
        if first:
            return Place(self.c_in, self.c_out, self.stride, self.act, self.gate, True, self.end)
        return Place(self.c_out, self.c_out, 1, self.act, self.gate, False, self.end)


class Layout(NamedTuple):
    """All channel numbers of a supernet at one width."""

    head: Head
    stages: tuple[Stage, ...]
