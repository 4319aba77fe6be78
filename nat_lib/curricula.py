"""Curricula: the phases in which a supernet is trained.  Source: thesis Table 5.2."""

from typing import NamedTuple

from nat_lib.errors import Refusal


class Phase(NamedTuple):
    """One row of thesis Table 5.2: which choice it opens to which values, and its budget."""

    name: str
    step: str
    opens: str | None
    values: tuple
    lr: float  # as printed
    code_lr: float  # as in the published training scripts
    epochs: int
    warmup: int
    subnets: int  # sampled per batch; 0: the maximal network itself


PHASES = (
    Phase("Full", "ER", None, (), 1.0e-3, 8.0e-2, 180, 0, 0),
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


def phases_for(space):
    """The phases of a space, in order: those that open something it has.  A phase starts from the
    one before it."""
    return [p for p in PHASES if p.opens is None or len(getattr(space.choices, p.opens)) > 1]


def opened(space, phase):
    """The values that a phase opens in a space: as many of the largest as in Table 5.2 (of the
    levels those with several branches), and all of them in the last phase of its kind."""
    legal = getattr(space.choices, phase.opens)
    if phase == [p for p in PHASES if p.opens == phase.opens][-1]:
        return legal
    if phase.opens == "level":
        return tuple(code for code in legal if code.bit_count() > 1)
    return legal[-len(phase.values) :]


def choices_after(space, phase):
    """What a subnet may choose once `phase` has opened its values: all later kinds stay at their
    maximum."""
    choices = space.choices._make((max(values),) for values in space.choices)
    for p in phases_for(space):
        if p.opens:
            choices = choices._replace(**{p.opens: opened(space, p)})
        if p == phase:
            return choices
    raise Refusal(
        f"phase {phase.name} does not exist for {space.name}: use one of "
        f"{', '.join(p.name for p in phases_for(space))}"
    )
