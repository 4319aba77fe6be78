"""The rules of `reference/claims.csv`: Python expressions whose numbers are arrays.

A rule runs once over all noisy copies of our values. What a rule names (`names_for`) hands out
`Number`s: arrays whose first entry is the value as measured and whose others are the noisy copies.
Their operators are numpy's; a comparison makes a `Condition`, which knows on which copies it holds,
by how much, and how to tell it. `and` and `a < b < c` and `in` cannot be overloaded: `evaluate`
rewrites them into calls first.

    q(metric, **dims)     the values that match, a list       one(metric, **dims)   the only one
    rank(metric, over=dimension, among=labels, **dims)        labels, highest mean first
    best(...), worst(...)                                     its first, its last
    mean min max sum abs len sorted all any count             as in Python, over the copies
"""

import ast
import itertools
from functools import reduce
from typing import NamedTuple

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.results import stats
from nat_lib.results.names import CONSTANTS, MISSING
from nat_lib.results.printed import printed_store

FAINT = 1e-9  # noise below this share of a number is rounding: the number is a count


class Number:
    """One number over the copies.

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

    def _with(self, other, operation, shifted=None):
        if isinstance(other, Number):
            return Number(operation(self.over, other.over), self.known and other.known)
        if not isinstance(other, int | float):
            raise Refusal(f"a rule calculates with numbers only, not with {other!r}")
        return Number(operation(self.over, other), self.known, shifted=shifted)

    def __add__(self, other):
        plain = not isinstance(other, Number)
        return self._with(other, np.add, (self, -other) if plain else None)

    def __sub__(self, other):
        plain = not isinstance(other, Number)
        return self._with(other, np.subtract, (self, other) if plain else None)

    def __mul__(self, other):
        return self._with(other, np.multiply)

    def __truediv__(self, other):
        return self._with(other, np.divide)

    def __radd__(self, other):
        return self._with(other, lambda mine, their: their + mine)

    def __rsub__(self, other):
        return self._with(other, lambda mine, their: their - mine)

    __rmul__ = __mul__

    def __neg__(self):
        return Number(-self.over, self.known)

    def __abs__(self):
        return Distance(self) if self.shifted else Number(np.abs(self.over), self.known)

    def __gt__(self, other):
        return _compared(self, other, np.greater, lambda a, b: a - b)

    def __ge__(self, other):
        return _compared(self, other, np.greater_equal, lambda a, b: a - b)

    def __lt__(self, other):
        return _compared(self, other, np.less, lambda a, b: b - a)

    def __le__(self, other):
        return _compared(self, other, np.less_equal, lambda a, b: b - a)

    def __eq__(self, other):
        return _compared(self, other, np.equal, lambda a, b: 0.0 - np.abs(a - b))

    def __bool__(self):
        raise Refusal("a rule joins conditions with `and`, and asks nothing of a single number")

    __hash__ = None


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

    __hash__ = None


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

    __hash__ = None


# --------------------------------------------------------------------------- functions of a rule


def _compared(a, b, holds, margin):
    sides = [side for side in (a, b) if isinstance(side, Number)]
    left, right = (side.over if isinstance(side, Number) else side for side in (a, b))
    return Condition(
        holds(left, right),
        margin(left, right),
        all(side.known for side in sides),
        " against ".join(side.text for side in sides),
    )


def _condition(flag):
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
    parts = [_condition(part) for part in parts]
    text = "; ".join(part.text for part in parts if part.text)
    return _combined(parts, np.logical_and, np.minimum, text)


def chained(*parts):
    """`a < b < c`, handed over as its sides and its comparisons in turn."""
    sides, comparisons = parts[::2], parts[1::2]
    pairs = [
        OPERATIONS[name](a, b) for name, a, b in zip(comparisons, sides, sides[1:], strict=False)
    ]
    text = " against ".join(side.text for side in sides if isinstance(side, Number))
    return _combined([_condition(p) for p in pairs], np.logical_and, np.minimum, text)


OPERATIONS = {
    "Gt": lambda a, b: a > b,
    "GtE": lambda a, b: a >= b,
    "Lt": lambda a, b: a < b,
    "LtE": lambda a, b: a <= b,
    "Eq": lambda a, b: a == b,
}


def is_in(label, labels):
    """`label in labels`."""
    parts = [_condition(label == other) for other in labels]
    return _combined(parts, np.logical_or, np.maximum, parts[0].text)


def every(flags):
    parts = [_condition(flag) for flag in flags]
    return _combined(parts, np.logical_and, np.minimum, tally(parts))


def some(flags):
    parts = [_condition(flag) for flag in flags]
    return _combined(parts, np.logical_or, np.maximum, tally(parts))


def count(flags):
    parts = [_condition(flag) for flag in flags]
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


# ------------------------------------------------------------------------------- what a rule names


class Asked:
    """What a rule names, over the copies of a store; it remembers which values were asked for.

    `one` asks for one value; `q`, `rank`, `best` and `worst` ask for every value that the thesis
    prints under their filters, so that a mean over half a table is not taken for a mean over the
    table.
    """

    def __init__(self, store, over):
        self.store, self.over = store, over
        self.found: set[int] = set()  # indices of the values that the rule uses
        self.missing: set[tuple] = set()  # (metric, ((dimension, text), ..)) that it lacks
        self.unknown = Number(np.full(len(over), np.nan), known=False)

    def names(self):
        """{name: what it stands for} of everything that a rule may use."""
        return {
            **CONSTANTS,
            **{"q": self.q, "one": self.one, "rank": self.rank},
            "best": lambda *what, **dims: self.rank(*what, **dims)[0],
            "worst": lambda *what, **dims: self.rank(*what, **dims)[-1],
            **{"all": every, "any": some, "count": count, "both": both, "chained": chained},
            **{"is_in": is_in, "sorted": in_order, "mean": mean, "sum": sum, "abs": abs},
            **{"min": _fold(np.minimum), "max": _fold(np.maximum), "len": len},
            "__builtins__": {},
        }

    def q(self, metric, **dims):
        """The values that match, a list; one unknown number if there is none."""
        self._want(metric, dims, whole=True)
        found = self.store.select(metric, dims)
        return [Number(self.over[:, i]) for i in found] or [self.unknown]

    def one(self, metric, **dims):
        """The only value that matches; a label that hangs on the copy may stand for a dimension."""
        open_dims = [name for name, text in dims.items() if isinstance(text, Label)]
        if open_dims:
            return self._one_per_label(metric, dims, open_dims[0])
        self._want(metric, dims, whole=False)
        found = self.store.select(metric, dims)
        if len(found) > 1:
            raise Refusal(
                f"{len(found)} values for {metric} {dims}: the rule asks for one, name more "
                "dimensions"
            )
        return Number(self.over[:, found[0]]) if found else self.unknown

    def _one_per_label(self, metric, dims, name):
        label = dims[name]
        parts = {text: self.one(metric, **{**dims, name: text}) for text in np.unique(label.names)}
        over = np.select([label.names == text for text in parts], [p.over for p in parts.values()])
        return Number(over, label.known and all(part.known for part in parts.values()))

    def rank(self, metric, over, among, **dims):
        """Labels of the dimension `over`, highest mean first; equal means keep the order of
        `among`."""
        among = [str(label) for label in among]
        self._want(metric, {**dims, over: among}, whole=True)
        groups = {name: self.store.select(metric, {**dims, over: name}) for name in among}
        if not all(groups.values()):
            order = np.tile(among, (len(self.over), 1))
            return Ranking(order, {}, known=False)
        means = {name: self.over[:, group].mean(axis=1) for name, group in groups.items()}
        places = np.argsort(-np.array([*means.values()]), axis=0, kind="stable").T
        return Ranking(np.array(among)[places], means, known=True)

    def _want(self, metric, dims, whole):
        choices = [
            [(name, x) for x in text] if isinstance(text, list | tuple) else [(name, text)]
            for name, text in dims.items()
        ]
        paper = printed_store()
        for wanted in map(dict, itertools.product(*choices)):
            rows = paper.select(metric, wanted) if whole else []
            for place in [paper.values[i].dims for i in rows] or [wanted]:
                here = self.store.select(metric, place)
                self.found.update(here)
                if not here:
                    text = tuple(sorted((name, str(x)) for name, x in place.items()))
                    self.missing.add((metric, text))


class Outcome(NamedTuple):
    """What a rule says of a store: a condition over the copies, and what it asked for."""

    condition: Condition
    found: list[int]  # indices of the store's values behind it
    missing: list[tuple]  # (metric, {dimension: text}) that it lacks

    @property
    def quotes(self):
        """Does the rule compare with a number that the thesis prints?"""
        return self.condition.tolerance is not None


class _Rewritten(ast.NodeTransformer):
    """`a and b`, `a < b < c` and `a in b` as calls of `both`, `chained` and `is_in`."""

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        if not isinstance(node.op, ast.And):
            raise Refusal("a rule joins conditions with `and`")
        return _call("both", node.values)

    def visit_Compare(self, node):
        self.generic_visit(node)
        names = [type(op).__name__ for op in node.ops]
        if names == ["In"]:
            return _call("is_in", [node.left, *node.comparators])
        if not set(names) <= OPERATIONS.keys():
            raise Refusal("a rule compares with < <= > >= == or in")
        if len(names) == 1:
            return node
        parts = [node.left]
        for name, side in zip(names, node.comparators, strict=True):
            parts += [ast.Constant(name), side]
        return _call("chained", parts)


def _call(name, arguments):
    return ast.Call(ast.Name(name, ast.Load()), arguments, [])


def evaluate(rule: str, store, copies=None) -> Outcome:
    """What a rule says of the values of a store and of noisy copies of them.

    copies  : (n, values) of `store.copies`; None: the values as measured alone
    returns : `Outcome`, whose arrays hold the value as measured first
    Raises a Refusal for a rule that cannot be evaluated.
    """
    exact = np.array([[v.value for v in store.values]])
    asked = Asked(store, exact if copies is None else np.vstack([exact, copies]))
    try:
        tree = _Rewritten().visit(ast.parse(rule.strip(), mode="eval"))
        code = compile(ast.fix_missing_locations(tree), "<rule>", "eval")
        condition = _condition(eval(code, asked.names()))
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"not a rule: {rule[:80]!r}: {error}") from None
    missing = [(metric, dict(dims)) for metric, dims in sorted(asked.missing)]
    return Outcome(condition, sorted(asked.found), missing)
