"""The rules of `reference/claims.csv`: Python expressions over measured values.

A rule runs once over all noisy copies of our values: what it names (`Asked`) hands out numbers of
`quantities`.
`and`, `a < b < c` and `in` cannot be overloaded: `evaluate` rewrites them into calls first.

    q(metric, **dims)     the values that match, a list       one(metric, **dims)   the only one
    rank(metric, over=dimension, among=labels, **dims)        labels, highest mean first
    best(...), worst(...)                                     its first, its last
    mean min max sum abs len sorted all any count             as in Python, over the copies
"""

import ast
import itertools
from typing import NamedTuple

import numpy as np

from nat_lib.errors import Refusal
from nat_lib.results.names import CONSTANTS
from nat_lib.results.printed import printed_store
from nat_lib.results.quantities import FUNCTIONS, Condition, Label, Number, Ranking, condition


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
            **FUNCTIONS,
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
    """`a and b`, `a < b < c` and `a in b` as calls of `both`, `in_turn` and `is_in`."""

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        if not isinstance(node.op, ast.And):
            raise Refusal("a rule joins conditions with `and`")
        return _call("both", node.values)

    def visit_Compare(self, node):
        self.generic_visit(node)
        if any(not isinstance(op, COMPARISONS) for op in node.ops):
            raise Refusal("a rule compares with < <= > >= == or in")
        if isinstance(node.ops[0], ast.In):
            return _call("is_in", [node.left, *node.comparators])
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, node.comparators, strict=False)
        parts = [ast.Compare(left, [op], [right]) for left, op, right in pairs]
        return _call("in_turn", parts) if len(parts) > 1 else parts[0]


COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.In)


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
        said = condition(eval(code, asked.names()))
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"not a rule: {rule[:80]!r}: {error}") from None
    missing = [(metric, dict(dims)) for metric, dims in sorted(asked.missing)]
    return Outcome(said, sorted(asked.found), missing)
