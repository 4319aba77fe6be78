"""Curricula: the phases in which a supernet is trained.  A new one is a row of CURRICULA.

Source of "eps": thesis Table 5.2.  Of "sandwich" and, with its recipe, "bignas": arXiv:2003.11142.
"one_stage" is the sandwich for short budgets: one random subnet beside the extremes, and students
that learn half from the labels (docs/DECISIONS.md, A recipe for short budgets).
"""

from typing import NamedTuple

from nat_lib.errors import Refusal


class Phase(NamedTuple):
    """One phase: which choice it opens to which values, its budget, and how it trains."""

    name: str
    step: str  # the table's group of phases
    opens: str | None  # a kind of choice; "all"; None: nothing, the maximal network trains
    values: tuple
    lr: float  # as printed
    code_lr: float  # as in the published training scripts
    epochs: int
    warmup: int  # further epochs before them
    subnets: int  # sampled per batch; 0: the maximal network itself
    sampler: str = "uniform"  # a key of samplers.SAMPLERS
    loss: str = "soft_ce"  # a key of distill.DISTILL
    teacher: str | None = None  # a key of distill.TEACHERS; None: the experiment says
    all_exits: bool = False  # one pass of a sampled backbone trains all exits up to its own
    dropout: float = 0.1
    mix: tuple[float, float] | None = None  # of labels and teacher; None: the teacher's row says
    largest_only: bool = False  # dropout for the subnet that teaches, not for its students
    zero_init: bool = False  # residual blocks begin as identities

    @property
    def maximal(self) -> bool:
        return self.subnets == 0


EPS = (
    Phase("Full", "ER", None, (), 1.0e-3, 8.0e-2, 180, 0, 0, dropout=0.2),
    Phase("KS", "EKS", "kernel", (3, 5, 7), 3.0e-2, 3.0e-2, 120, 5, 1),
    Phase("NW1", "EL", "level", (3, 5, 6, 7), 2.5e-3, 2.5e-3, 25, 0, 2),
    Phase("NW2", "EL", "level", (1, 2, 4, 3, 5, 6, 7), 7.5e-3, 7.5e-3, 120, 5, 2),
    Phase("ND1", "EX", "exit", (4, 5), 2.5e-3, 1.875e-3, 25, 0, 2),
    Phase("ND2", "EX", "exit", (3, 4, 5), 7.5e-3, 3.75e-3, 60, 5, 2),
    Phase("ND3", "EX", "exit", (2, 3, 4, 5), 1.0e-2, 7.5e-3, 90, 5, 2),
    Phase("ND4", "EX", "exit", (1, 2, 3, 4, 5), 3.0e-2, 1.5e-2, 120, 5, 2),
    Phase("D1", "ED", "depth", (3, 4), 2.5e-3, 2.5e-3, 25, 0, 2),
    Phase("D2", "ED", "depth", (2, 3, 4), 7.5e-3, 7.5e-3, 120, 5, 2),
    Phase("E1", "EW", "expand", (4, 6), 2.5e-3, 2.5e-3, 25, 0, 4),
    Phase("E2", "EW", "expand", (3, 4, 6), 7.5e-3, 7.5e-3, 120, 5, 4),
)

SANDWICH = (
    Phase(
        "Sandwich",
        "All",
        "all",
        (),
        lr=8.0e-2,
        code_lr=8.0e-2,
        epochs=360,
        warmup=0,
        subnets=4,
        sampler="sandwich",
        teacher="in_place",
        all_exits=True,
        dropout=0.0,
    ),
)

ONE_STAGE = (SANDWICH[0]._replace(name="One", subnets=3, mix=(0.5, 0.5)),)

BIGNAS = (
    SANDWICH[0]._replace(
        name="Big", all_exits=False, dropout=0.2, largest_only=True, zero_init=True
    ),
)
# EPS whose phases train the extremes of what they have opened, and need no second network.
EPS_SANDWICH = tuple(
    p if p.maximal else p._replace(sampler="sandwich", subnets=p.subnets + 2, teacher="in_place")
    for p in EPS
)
# EPS that opens all exits in one phase: every pass of a backbone trains the exits on its way.
EPS_ONE_PASS = tuple(
    p._replace(all_exits=p.opens in ("exit", "depth", "expand"))
    for p in EPS
    if p.name not in ("ND1", "ND2", "ND3")
)

CURRICULA = {
    "eps": EPS,
    "eps_sandwich": EPS_SANDWICH,
    "eps_one_pass": EPS_ONE_PASS,
    "sandwich": SANDWICH,
    "bignas": BIGNAS,
    "one_stage": ONE_STAGE,
}
PHASES = EPS


def phases_for(space, curriculum="eps") -> list[Phase]:
    """The phases of a space, in order: those that open something it has.  A phase starts from the
    one before it."""
    if curriculum not in CURRICULA:
        raise Refusal(f"curriculum {curriculum!r}: use one of {', '.join(CURRICULA)}")
    return [p for p in CURRICULA[curriculum] if opened(space, p) or p.opens is None]


def opened(space, phase) -> dict[str, tuple]:
    """{kind: values} that a phase opens in a space; empty where the space has nothing to open.

    As many of the largest values as its row names (of the levels those with several branches), and
    all of them in the last phase of its kind.
    """
    if phase.opens is None:
        return {}
    if phase.opens == "all":
        return space.choices._asdict()
    legal = getattr(space.choices, phase.opens)
    if len(legal) < 2:
        return {}
    last = [p for p in CURRICULA[home_of(phase)] if p.opens == phase.opens][-1]
    if phase == last:
        return {phase.opens: legal}
    if phase.opens == "level":
        return {"level": tuple(code for code in legal if code.bit_count() > 1)}
    return {phase.opens: legal[-len(phase.values) :]}


def home_of(phase) -> str:
    """The curriculum that a phase is a row of."""
    return next((name for name, rows in CURRICULA.items() if phase in rows), "eps")


def choices_after(space, phase):
    """What a subnet may choose once `phase` has opened its values: all later kinds stay at their
    maximum."""
    curriculum = home_of(phase)
    choices = space.choices._make((max(values),) for values in space.choices)
    for p in phases_for(space, curriculum):
        choices = choices._replace(**opened(space, p))
        if p == phase:
            return choices
    raise Refusal(
        f"phase {phase.name} does not exist for {space.name}: use one of "
        f"{', '.join(p.name for p in phases_for(space, curriculum))}"
    )


def extremes_of(space, phase):
    """The extremes of what is open after a phase (all three kernels where kernels are opened; of
    the levels, those with the extreme numbers of branches): what validation looks at."""
    choices = choices_after(space, phase)
    branches = [v.bit_count() for v in choices.level]
    ends = {kind: tuple(sorted({min(v), max(v)})) for kind, v in choices._asdict().items()}
    extreme = (min(branches), max(branches))
    ends["level"] = tuple(v for v, n in zip(choices.level, branches, strict=True) if n in extreme)
    if phase.opens == "kernel":
        ends["kernel"] = choices.kernel
    return choices._replace(**ends)


def steps() -> dict[str, str]:
    """{name of a phase: its step} over all curricula, in order."""
    return {p.name: p.step for rows in CURRICULA.values() for p in rows}


def closing() -> set[str]:
    """The names of the phases that end their step, whose results the tables show."""
    ends = [{p.step: p.name for p in rows} for rows in CURRICULA.values()]
    return {name for last in ends for name in last.values()}
