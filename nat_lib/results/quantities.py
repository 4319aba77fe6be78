"""Numbers, conditions and rankings over the noisy copies of our values: what rules calculate with.

Every one of them is an array whose first entry is the value as measured and whose others are the
noisy copies. Operators are numpy's; a comparison makes a `Condition`, which knows on which copies
it holds, by how much, and how to tell it.
"""

from functools import reduce

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from nat_lib.errors import Refusal
from nat_lib.results import stats
from nat_lib.results.names import MISSING

AGAINST = " against "
FAINT = 1e-9  # noise below this share of a number is rounding: the number is a count


# comparison: by how much it holds, from its two sides
MARGINS = {
    np.greater: lambda a, b: a - b,
    np.greater_equal: lambda a, b: a - b,
    np.less: lambda a, b: b - a,
    np.less_equal: lambda a, b: b - a,
    np.equal: lambda a, b: 0.0 - np.abs(a - b),
}


class Number(NDArrayOperatorsMixin):
    """One number over the copies; all operators are numpy's, by `__array_ufunc__`.

    over    : (1 + copies,), entry 0 as measured
    known   : False where a value behind it was not measured
    text    : how it is told; None: as measured, with two decimals
    shifted : (x, c) of a number that was made as x - c from a plain number c
    """

    def __init__(self, over, known=True, text=None, shifted=None):
        self.over, self.known, self.shifted = np.asarray(over, float), known, shifted
        self._text = text

    @property
    def text(self):
        if self._text is not None:
            return self._text
        return f"{self.over[0]:.2f}" if self.known else MISSING

    def __array_ufunc__(self, ufunc, method, *sides):
        mine = [side for side in sides if isinstance(side, Number)]
        known = all(side.known for side in mine)
        arrays = [side.over if isinstance(side, Number) else side for side in sides]
        if ufunc in MARGINS:
            text = AGAINST.join(side.text for side in mine)
            return Condition(ufunc(*arrays), MARGINS[ufunc](*arrays), known, text)
        shifted = None
        if ufunc in (np.add, np.subtract) and not isinstance(sides[1], Number):
            shifted = (self, sides[1] if ufunc is np.subtract else -sides[1])
        return Number(ufunc(*arrays), known, shifted=shifted)

    def __abs__(self):
        return Distance(self) if self.shifted else super().__abs__()

    def __bool__(self):
        raise Refusal("a rule joins conditions with `and`, and asks nothing of a single number")


class Distance(Number):
    """`abs(ours - printed)`: a comparison with it asks whether a printed number came out."""

    def __init__(self, difference):
        super().__init__(np.abs(difference.over), difference.known)
        self.ours, self.printed = difference.shifted

    def __lt__(self, tolerance):
        """Closer than the tolerance of the rule, or than noise allows, and of the printed sign.

        A tolerance is widened as in `stats.tolerance`, the printed number taken to be as noisy as
        ours. The standard deviation of ours is read off the middle 95 % of the copies: Student's
        law with few seeds has none. A count keeps the tolerance of the rule.
        """
        if isinstance(tolerance, Number):
            return super().__lt__(tolerance)
        copies = self.ours.over[1:] if len(self.ours.over) > 1 else self.ours.over
        low, high = np.percentile(copies, [2.5, 97.5])
        noise = (high - low) / (2 * stats.NORMAL_95)
        if noise > FAINT * abs(self.printed):
            tolerance = max(tolerance, float(stats.tolerance(noise, self.printed, noise)))
        same_sign = self.ours.over * np.sign(self.printed)
        margin = np.minimum(tolerance - self.over, same_sign)
        return Condition(
            (self.over < tolerance) & (same_sign > 0),
            margin,
            self.known,
            self.ours.text,
            tolerance,
            size=self.ours.over,
        )


class Condition:
    """A condition over the copies.

    holds     : (1 + copies,) of bool
    margin    : (1 + copies,), by how much it holds (negative: fails); None where it has no number
    known     : False where a value behind it was not measured
    text      : our side of it
    tolerance : of a printed number that it compares with (of several, the widest); else None
    size      : our number, where a tally tells numbers and not margins
    """

    def __init__(self, holds, margin, known, text, tolerance=None, size=None):
        self.holds, self.margin, self.known = np.asarray(holds, bool), margin, known
        self.text, self.tolerance, self.size = text, tolerance, size

    def __bool__(self):
        raise Refusal("a rule joins conditions with `and` only")


class Ranking:
    """Labels in order, highest mean first.

    order : (1 + copies, k) of text;  means : {label: (1 + copies,)};  sign : -1 from the end
    """

    def __init__(self, order, means, known):
        self.order, self.means, self.known = order, means, known

    def __getitem__(self, place):
        if isinstance(place, slice):
            return Ranking(self.order[:, place], {}, self.known)
        return Label(self.order[:, place], self.means, self.known, sign=-1 if place < 0 else 1)

    def __eq__(self, labels):
        labels = [str(label) for label in labels]
        if len(labels) != self.order.shape[1]:
            raise Refusal(f"a rule compares {self.order.shape[1]} labels with {labels}")
        text = ", ".join(self.order[0]) if self.known else MISSING
        return Condition((self.order == np.array(labels)).all(axis=1), None, self.known, text)

    __hash__ = None  # type: ignore[assignment]


class Label:
    """The label at one place of a ranking, over the copies; `sign` -1: counted from the end."""

    def __init__(self, names, means, known, sign):
        self.names, self.means, self.known, self.sign = names, means, known, sign

    def __eq__(self, label):
        text = str(self.names[0]) if self.known else MISSING
        return Condition(self.names == label, self._lead(label), self.known, text)

    def _lead(self, label):
        """By how much a label leads (or trails, from the end) all others of its ranking."""
        means = {name: self.sign * mean for name, mean in self.means.items()}
        if label not in means or len(means) < 2:
            return None
        mine = means.pop(label)
        return mine - reduce(np.maximum, means.values())

    __hash__ = None  # type: ignore[assignment]


# --------------------------------------------------------------------------- functions of a rule


def condition(flag):
    """A plain truth value as a condition, such as `'1.0' == '1.0'`."""
    return flag if isinstance(flag, Condition) else Condition([flag], None, True, "")


def _extreme(pick, parts):
    found = [part for part in parts if part is not None]
    return reduce(pick, found) if found else None


def _combined(parts, hold, pick, text):
    return Condition(
        reduce(hold, [part.holds for part in parts]),
        _extreme(pick, [part.margin for part in parts]),
        all(part.known for part in parts),
        text,
        _extreme(max, [part.tolerance for part in parts]),
    )


def both(*parts):
    """`a and b`: told one after the other."""
    parts = [condition(part) for part in parts]
    text = "; ".join(part.text for part in parts if part.text)
    return _combined(parts, np.logical_and, np.minimum, text)


def in_turn(*parts):
    """`a < b < c` as `a < b`, `b < c`: every side told once."""
    sides = [side for part in parts for side in part.text.split(AGAINST)]
    return _combined(parts, np.logical_and, np.minimum, AGAINST.join(dict.fromkeys(sides)))


def is_in(label, labels):
    """`label in labels`."""
    parts = [condition(label == other) for other in labels]
    return _combined(parts, np.logical_or, np.maximum, parts[0].text)


def every(flags):
    parts = [condition(flag) for flag in flags]
    return _combined(parts, np.logical_and, np.minimum, tally(parts))


def some(flags):
    parts = [condition(flag) for flag in flags]
    return _combined(parts, np.logical_or, np.maximum, tally(parts))


def count(flags):
    parts = [condition(flag) for flag in flags]
    over = sum(part.holds.astype(float) for part in parts)
    return Number(over, all(part.known for part in parts), tally(parts))


def tally(parts):
    """`k of n hold`, the range of our numbers or of the margins, and how many were not run."""
    known = [part for part in parts if part.known]
    if not known:
        return MISSING
    numbers = all(part.size is not None for part in known)
    sizes = [part.size if numbers else part.margin for part in known]
    sizes = [float(size[0]) for size in sizes if size is not None]
    text = f"{sum(bool(part.holds[0]) for part in known)} of {len(known)} hold"
    if sizes:
        text += f", {'value' if numbers else 'margin'} {min(sizes):.2f} to {max(sizes):.2f}"
    missing = len(parts) - len(known)
    return f"{text} ({missing} not run)" if missing else text


def _fold(pick):
    def fold(*values):
        values = list(values if len(values) > 1 else values[0])
        over = reduce(pick, [v.over if isinstance(v, Number) else v for v in values])
        return Number(over, all(v.known for v in values if isinstance(v, Number)))

    return fold


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def in_order(ranking):
    """`sorted(ranking)`: the same labels by name, so that their order does not matter."""
    return Ranking(np.sort(ranking.order, axis=1), {}, ranking.known)


# What a rule may call, besides asking for values.
FUNCTIONS = {
    "all": every,
    "any": some,
    "count": count,
    "both": both,
    "in_turn": in_turn,
    "is_in": is_in,
    "mean": mean,
    "min": _fold(np.minimum),
    "max": _fold(np.maximum),
    "sorted": in_order,
    "sum": sum,
    "abs": abs,
    "len": len,
}
