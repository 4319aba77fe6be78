"""The claims of the thesis as rules, and what our own numbers say about each of them.

A rule is one Python expression over measured values; `reference/claims.csv` holds 154 of them. It
is parsed, checked node by node and turned into closures: nothing but the node types and the names
listed here can run.

How a claim is judged was fixed before any run:
  1. every value the rule asks for must exist, otherwise the claim is "not run in this profile";
  2. a claim that quotes a number of the thesis is judged only where our runs are comparable with
  the thesis's (its
     data set, at its size), otherwise it is "not comparable in this profile" and our number is
     shown;
  3. the rule is evaluated on 1000 seeded noisy copies of our values: true in 95 % of them or more
  is "reproduced", in
     5 % or fewer "contradicted", in between "tie within noise".
Noise of a value known from one seed: `single_run_noise`; rows that come from the same run (fixed
and progressive teacher before they differ) are moved by the same draw.

From two seeds on the copies are a bootstrap over seeds: every seed gets a random multiplier, the
same for all values (Wu 1986, Annals of Statistics 14, 1261-1295), and all are scaled by one draw of
Student's law over the normal law. What two values of one seed have in common then cancels in their
difference, and on one difference the verdict is that of the paired t-test, one-sided at 5 %. Two
seeds settle very little that way; run three or more. Resampling the seeds themselves would call
three seeds that happen to agree a certainty.
"""

import ast
import itertools
import operator
from functools import cache, reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nat_lib.errors import Refusal

REFERENCE = Path(__file__).parent / "reference"
COPIES, SURE = 1000, 0.95
MISSING = "\N{EN DASH}"
TOLERANCE = (
    1.5  # points: the least difference that counts as one; the thesis's repeats differ by up to 1.2
)
MODES = ("DESC", "ASC", "MIX", "UNIF")
NAT_SUPERNETS = ("BASE", "SE_D", "EE_B", "EE_D")
OBJECTIVES = ("acc", "acc+params", "acc+macs", "acc+latency")
CONSTANTS = {
    "SCENARIOS": ("TR-224", "TR-64", "FT-224", "FT-64"),
    "MODES": MODES,
    "CONFIGS": (*MODES, *(f"{mode}*" for mode in MODES)),
    "NETWORKS": (
        "ResNet50",
        "VGG16",
        "VGG16full",
        "DenseNet169",
        "MobileNetV3Small",
        "MobileNetV3Smallfull",
        "EfficientNetB5",
        "EfficientNetB5full",
    ),
    "DATASETS": ("CIFAR-10", "CIFAR-100", "EuroSAT", "FashionMNIST", "GTSRB", "Tiny ImageNet"),
    "COMPARISONS": ("FT-224 vs TR-224", "FT-64 vs TR-64", "TR-224 vs TR-64", "FT-224 vs FT-64"),
    "WMS": ("1.0", "1.2"),
    "TEACHERS": ("fixed", "pet"),
    "STATS": ("avg", "best"),
    "STEPS": ("ER", "EKS", "EL", "EX", "ED", "EW"),
    "SUPERNETS": (*NAT_SUPERNETS, "SE_P", "SE_DP", "EE_P", "EE_DP"),
    "NAT_SUPERNETS": NAT_SUPERNETS,
    "NAT_DATASETS": ("CIFAR-10", "CIFAR-100", "Tiny ImageNet"),
    "OTHER_DATASETS": (
        "CINIC-10",
        "STL-10",
        "Food-101",
        "Stanford Cars",
        "FGVC Aircraft",
        "DTD",
        "Oxford-IIIT Pets",
        "Oxford Flowers102",
    ),
    "OBJECTIVES": OBJECTIVES,
    "BI_OBJECTIVES": OBJECTIVES[1:3],
    "PREDICTORS": (
        "RBF",
        "RBFs",
        "MLP",
        "E2EPP",
        "CARTS",
        "GP",
        "SVR",
        "Ridge",
        "KNN",
        "BayesianRidge",
        "LGBM",
        "CatBoost",
    ),
    "PRED_SUPERNETS": ("BASE", "EE_B", "SE_P"),
    "OPTIMIZERS": ("SGD", "AdamW", "Ranger"),
}


EPS_DIMS = ("wm", "supernet", "teacher", "step", "stat")


@cache
def printed(name):
    """A CSV of the printed numbers as a DataFrame of text, digits as printed; an empty cell is
    ''."""
    return pd.read_csv(REFERENCE / f"{name}.csv", dtype=str, keep_default_na=False)


# ---------------------------------------------------------------------------------- measured values


class NoData(Exception):
    """A rule asks for a value that was not measured."""


class Value(NamedTuple):
    dims: dict  # {dimension: text}
    value: float
    noise: float  # standard deviation of `value`; 0 for a count
    seeds: int
    comparable: bool  # measured on the thesis's data set at its size
    # {seed: number} whose mean is `value`; fewer than two: the noise is not known from seeds
    by_seed: dict
    draw: object  # else values with the same `draw` come from the same runs and share their noise


class Store:
    """Measured values by metric and dimensions; the names of both are those of
    `reference/metrics.csv`."""

    def __init__(self):
        self.values, self.by_metric, self.found = [], {}, {}

    def add(
        self, metric, dims, value, noise=0.0, seeds=1, comparable=True, by_seed=None, draw=None
    ):
        dims = {key: str(text) for key, text in dims.items()}
        if {"mode", "pruned"} <= dims.keys():
            dims.setdefault("config", dims["mode"] + ("*" if dims["pruned"] == "1" else ""))
        if not (np.isfinite(value) and np.isfinite(noise) and noise >= 0):
            raise Refusal(
                f"{metric} {dims}: value {value!r} with noise {noise!r} cannot be judged: leave it out"
            )
        index, by_seed = len(self.values), by_seed or {}
        if by_seed and not np.isclose(np.mean([*by_seed.values()]), value):
            raise Refusal(f"{metric} {dims}: {value!r} is not the mean of {by_seed}")
        self.values.append(
            Value(
                dims,
                float(value),
                float(noise),
                seeds,
                comparable,
                by_seed,
                index if draw is None else draw,
            )
        )
        self.by_metric.setdefault(metric, []).append(index)
        self.found.clear()

    def select(self, metric, dims):
        """Indices of the values of `metric` that match `dims`; a list or tuple as the wanted text
        means any of them."""
        key = (
            metric,
            *((k, tuple(w) if isinstance(w, list | tuple) else w) for k, w in dims.items()),
        )
        if key not in self.found:
            wanted = [
                (k, {str(x) for x in w} if isinstance(w, list | tuple) else {str(w)})
                for k, w in dims.items()
            ]
            self.found[key] = [
                i
                for i in self.by_metric.get(metric, ())
                if all(self.values[i].dims.get(k) in w for k, w in wanted)
            ]
        return self.found[key]

    def copies(self, n=COPIES, seed=0):
        """(n, len(values)) noisy copies: from seeds (see above), or value + noise * normal, one
        draw per `draw`."""
        keys = {
            key: column for column, key in enumerate(dict.fromkeys(v.draw for v in self.values))
        }
        z = np.random.default_rng((seed, 154)).standard_normal((n, len(keys)))
        copies = np.array([v.value for v in self.values]) + 0.0 * z[:, :1]
        seeds = {
            s: row for row, s in enumerate(dict.fromkeys(s for v in self.values for s in v.by_seed))
        }
        rng = np.random.default_rng((seed, 155))
        multipliers, students = rng.standard_normal((n, len(seeds))), {}
        for i, v in enumerate(self.values):
            k = len(v.by_seed)
            if k < 2:
                copies[:, i] += v.noise * z[:, keys[v.draw]]
                continue
            if k not in students:
                students[k] = np.sqrt(
                    (k - 1) / np.random.default_rng((seed, 156, k)).chisquare(k - 1, n)
                )
            numbers = np.array([*v.by_seed.values()])
            shifts = (numbers - numbers.mean()) / np.sqrt(k * (k - 1))
            copies[:, i] += students[k] * (multipliers[:, [seeds[s] for s in v.by_seed]] @ shifts)
        return copies


def by_seed(found, rows, keys, value):
    """{seed: number} for every row of `found`, a list; `rows` holds one number per `keys` and
    seed."""
    numbers = {
        key: dict(zip(part.seed, part[value].astype(float).tolist(), strict=True))
        for key, part in rows.groupby(keys)
    }
    return [numbers[key] for key in zip(*(found[k] for k in keys), strict=True)]


def merged(stores):
    """One store of the values of several, each with its own noise."""
    whole = Store()
    for k, store in enumerate(stores):
        for metric, indices in store.by_metric.items():
            for v in (store.values[i] for i in indices):
                whole.add(metric, v.dims, *v[1:-1], draw=(k, v.draw))
    return whole


@cache
def run_to_run_sd():
    """Standard deviation of one EPS result between repeated runs, in points, from the thesis
    itself.

    In the first two steps fixed and progressive teacher are the same training run twice, so the
    variance of one run is half the mean squared difference of the two rows (Tables 5.3 and 5.4; 64
    pairs).
    """
    rows = pd.concat([printed("table_5_3"), printed("table_5_4")])
    rows = rows[rows.step.isin(["ER", "EKS"])].assign(top1=lambda r: r.top1_pct.astype(float))
    pair = rows.pivot_table(
        index=["wm", "supernet", "step", "stat"], columns="teacher", values="top1"
    )
    return float(np.sqrt(((pair.fixed - pair.pet) ** 2).mean() / 2))


def binomial_se(top1, n_images):
    """Standard error, in points, of a top-1 of `top1` per cent measured on n_images images."""
    return float(np.sqrt(np.clip(top1, 0, 100) * np.clip(100 - top1, 0, 100) / n_images))


def single_run_noise(top1, n_images):
    """Noise of a top-1 known from one seed: the finite test split and the run-to-run spread, in
    points."""
    return float(np.hypot(binomial_se(top1, n_images), run_to_run_sd()))


def eps_store(cells):
    """Store of eps.top1 from the cells of Tables 5.3 and 5.4 (`report.eps_cells`) that were run, of
    one data set."""
    store = Store()
    for c in cells[cells.ours.notna()].itertuples():
        # Before the teachers differ, both rows of the table are one run: one draw moves them
        # together.
        draw = (c.wm, c.supernet, "any" if c.shared else c.teacher, c.step, c.stat)
        store.add(
            "eps.top1",
            {k: getattr(c, k) for k in EPS_DIMS},
            c.ours,
            c.noise,
            int(c.seeds),
            c.comparable,
            c.by_seed,
            draw,
        )
    return store


def as_printed(cells, n_images=10_000):
    """The same cells holding the printed numbers, each a single run: what our rule would say of the
    thesis itself."""
    noise = [single_run_noise(top1, n_images) for top1 in cells.printed]
    return cells.assign(
        ours=cells.printed, noise=noise, seeds=1, comparable=True, shared=False, by_seed=None
    )


# metric: (table, column of the value, dimensions)
PRINTED_METRICS = {
    "aep.top1_change_by_network": (
        "table_4_3_4_4_network",
        "top1_change_pct",
        "scenario network mode pruned",
    ),
    "aep.top1_change_by_dataset": (
        "table_4_3_4_4_dataset",
        "top1_change_pct",
        "scenario dataset mode pruned",
    ),
    "aep.top1_change": ("table_4_5", "top1_change_pct", "scenario mode pruned"),
    "aep.pruned_gain": ("table_4_6", "top1_change_pct_vs_full_ensemble", "scenario mode"),
    "aep.exit_change": ("table_4_7", "top1_change_pct", "scenario mode exit"),
    "aep.params_change": ("table_4_8", "params_change_pct", "scenario mode pruned"),
    "aep.macs_change": ("table_4_9", "macs_change_pct", "scenario mode pruned"),
    "aep.latency_change": ("table_4_10", "latency_change_pct", "scenario mode pruned"),
    "aep.scenario_change": ("table_4_11", "top1_change_pct", "comparison mode pruned"),
}


@cache
def printed_store():
    """Every number that the thesis prints, without noise: the rules on it give the column
    holds_on_paper."""
    store = Store()
    for metric, (table, column, dims) in PRINTED_METRICS.items():
        rows = printed(table)
        if (
            "is_average" in rows
        ):  # tables 4.3 and 4.4 print their averages as rows: those are table 4.5
            rows = rows[rows.is_average == "0"]
        for row in rows.to_dict("records"):
            store.add(metric, {k: row[k] for k in dims.split()}, float(row[column]))
    for row in (
        pd.concat([printed("table_5_3"), printed("table_5_4")])
        .query("applicable == '1'")
        .to_dict("records")
    ):
        store.add("eps.top1", {k: row[k] for k in EPS_DIMS}, float(row["top1_pct"]))
    for row in printed("text_values").itertuples():
        store.add(
            row.metric,
            dict(part.split("=", 1) for part in row.dims.split(";") if part),
            float(row.value),
        )
    return store


# -------------------------------------------------------------------------------- the rule language


def _times(a, b):
    if isinstance(a, int | float) and isinstance(
        b, int | float
    ):  # 'x' * 10**9 would be a way to fill the memory
        return a * b
    raise Refusal("a rule multiplies numbers only")


BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: _times, ast.Div: operator.truediv}
COMPARE = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.In: lambda a, b: a in b,
}
FILTERED = {"q", "one", "rank", "best", "worst"}  # these take dimensions as keywords
PLAIN = {"mean", "min", "max", "abs", "sum", "len", "sorted", "all", "any", "count"}
RANKING = {"rank", "best", "worst", "sorted"}
FLAGS = {"all", "any", "count"}  # of which these take truth values
PROBE = "<probe>"  # put into a tree by `_widened`; no text parses to this name


def parse(rule):
    """The syntax tree of a rule, every node of it allowed; a Refusal for anything else."""
    try:
        tree = ast.parse(rule, mode="eval").body
        _closure(tree, frozenset())
    except Refusal:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refusal(
            f"not a rule: {rule[:80]!r}. A rule is one expression over the values of metrics.csv"
        ) from None
    return tree


def _closure(node, bound):
    """`node` as a function of a namespace {name: value}; `bound` are the loop names in scope."""
    kind = type(node)
    if kind not in CLOSURES:
        raise Refusal(f"not allowed in a rule: {kind.__name__}")
    return CLOSURES[kind](node, bound)


def _constant(node, bound):
    if type(node.value) not in (int, float, str):
        raise Refusal(f"not allowed in a rule: the constant {node.value!r}")
    return lambda names: node.value


def _name(node, bound):
    if node.id not in bound and node.id not in CONSTANTS:
        raise Refusal(f"a rule does not know the name {node.id!r}")
    return lambda names: names[node.id]


def _call(node, bound):
    name = node.func.id if isinstance(node.func, ast.Name) else None
    if name not in FILTERED | PLAIN | {PROBE} or (node.keywords and name not in FILTERED):
        raise Refusal(f"a rule cannot call {ast.unparse(node.func)} like this")
    if any(k.arg is None for k in node.keywords):
        raise Refusal("a rule writes every dimension as name=value")
    positional = [_closure(a, bound) for a in node.args]
    keywords = [(k.arg, _closure(k.value, bound)) for k in node.keywords]
    return lambda names: names[name](
        *[f(names) for f in positional], **{k: f(names) for k, f in keywords}
    )


def _sequence(node, bound):
    parts = [
        (isinstance(e, ast.Starred), _closure(e.value if isinstance(e, ast.Starred) else e, bound))
        for e in node.elts
    ]
    return lambda names: [x for star, f in parts for x in (f(names) if star else [f(names)])]


def _generator(node, bound):
    scopes, inner = _scopes(node.generators, bound)
    element = _closure(node.elt, inner)
    return lambda names: (element(scope) for scope in scopes(names))


def _scopes(generators, bound):
    """The `for` parts of a comprehension: a function from a namespace to the namespaces of its
    elements."""
    loops = []
    for g in generators:
        targets = g.target.elts if isinstance(g.target, ast.Tuple) else [g.target]
        if g.ifs or g.is_async or not all(isinstance(t, ast.Name) for t in targets):
            raise Refusal("a rule loops with plain `for name in values`")
        loops.append(
            ([t.id for t in targets], isinstance(g.target, ast.Tuple), _closure(g.iter, bound))
        )
        bound = bound | {t.id for t in targets}

    def scopes(names, depth=0):
        if depth == len(loops):
            yield names
            return
        targets, unpack, values = loops[depth]
        for item in values(names):
            yield from scopes(
                {**names, **dict(zip(targets, item if unpack else [item], strict=True))}, depth + 1
            )

    return scopes, bound


def _binary(node, bound):
    if type(node.op) not in BINARY:
        raise Refusal(f"not allowed in a rule: {type(node.op).__name__}")
    apply, left, right = (
        BINARY[type(node.op)],
        _closure(node.left, bound),
        _closure(node.right, bound),
    )
    return lambda names: apply(left(names), right(names))


def _minus(node, bound):
    if not isinstance(node.op, ast.USub):
        raise Refusal(f"not allowed in a rule: {type(node.op).__name__}")
    operand = _closure(node.operand, bound)
    return lambda names: -operand(names)


def _compare(node, bound):
    if not all(type(op) in COMPARE for op in node.ops):
        raise Refusal("a rule compares with < <= > >= == or in")
    operations = [COMPARE[type(op)] for op in node.ops]
    sides = [_closure(side, bound) for side in (node.left, *node.comparators)]

    def compare(names):
        values = [side(names) for side in sides]
        return names["all"](
            op(a, b) for op, a, b in zip(operations, values, values[1:], strict=False)
        )

    return compare


def _and(node, bound):
    if not isinstance(node.op, ast.And):
        raise Refusal("a rule joins conditions with `and`")
    parts = [_closure(part, bound) for part in node.values]
    return lambda names: names["all"](part(names) for part in parts)


def _subscript(node, bound):
    value = _closure(node.value, bound)
    ends = (
        [node.slice.lower, node.slice.upper] if isinstance(node.slice, ast.Slice) else [node.slice]
    )
    if getattr(node.slice, "step", None) is not None:
        raise Refusal("a rule slices without a step")
    ends = [None if end is None else _closure(end, bound) for end in ends]
    if len(ends) == 1:
        return lambda names: value(names)[ends[0](names)]
    return lambda names: value(names)[slice(*(None if end is None else end(names) for end in ends))]


CLOSURES = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Call: _call,
    ast.List: _sequence,
    ast.Tuple: _sequence,
    ast.GeneratorExp: _generator,
    ast.BinOp: _binary,
    ast.UnaryOp: _minus,
    ast.Compare: _compare,
    ast.BoolOp: _and,
    ast.Subscript: _subscript,
}


# --------------------------------------------------------------------------------------- evaluation


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def count(flags):
    return sum(1 for flag in flags if flag)


def _namespace(store, numbers):
    """What a rule can name, over `numbers`: one number per value of the store (the values, or a
    noisy copy)."""

    def pick(metric, dims):
        found = store.select(metric, dims)
        if not found:
            raise NoData(f"{metric} {dims}")
        return found

    def q(metric, **dims):
        return [numbers[i] for i in pick(metric, dims)]

    def one(metric, **dims):
        found = pick(metric, dims)
        if len(found) > 1:
            raise Refusal(
                f"{len(found)} values for {metric} {dims}: the rule asks for one, name more dimensions"
            )
        return numbers[found[0]]

    def rank(metric, over, among, **dims):
        """Labels of the dimension `over`, highest mean first; every label needs a value."""
        groups = {str(label): [] for label in among}
        for i in pick(metric, dims):
            groups.get(store.values[i].dims.get(over), []).append(numbers[i])
        if not all(groups.values()):
            raise NoData(f"{metric} {dims}: a label of {over} has no value")
        return sorted(groups, key=lambda label: -mean(groups[label]))

    def best(metric, over, among, **dims):
        return rank(metric, over, among, **dims)[0]

    def worst(metric, over, among, **dims):
        return rank(metric, over, among, **dims)[-1]

    return {
        **CONSTANTS,
        "q": q,
        "one": one,
        "rank": rank,
        "best": best,
        "worst": worst,
        "mean": mean,
        "count": count,
        "min": min,
        "max": max,
        "abs": abs,
        "sum": sum,
        "len": len,
        "sorted": sorted,
        "all": all,
        "any": any,
    }


def check(rule, store):
    """Does the rule hold on the values of the store?  NoData if it asks for one that is not
    there."""
    return bool(
        _closure(parse(rule), frozenset())(_namespace(store, [v.value for v in store.values]))
    )


def asked(tree, store):
    """(found, missing): indices of the store's values that the rule uses, and the (metric, dims)
    that it lacks.

    `one` asks for one value; `q`, `rank`, `best` and `worst` ask for every value that the thesis
    prints under their filters, so that a mean over half a table is not taken for a mean over the
    table.
    """
    found, missing = set(), set()

    def want(metric, dims, whole):
        lists = [
            [(k, x) for x in w] if isinstance(w, list | tuple) else [(k, w)]
            for k, w in dims.items()
        ]
        for combination in map(dict, itertools.product(*lists)):
            rows = printed_store().select(metric, combination) if whole else ()
            for wanted in [printed_store().values[i].dims for i in rows] or [combination]:
                here = store.select(metric, wanted)
                found.update(here)
                missing.update(
                    []
                    if here
                    else [(metric, tuple(sorted((k, str(x)) for k, x in wanted.items())))]
                )

    def rank(metric, over, among, **dims):
        want(metric, {**dims, over: list(among)}, True)
        return [str(label) for label in among]

    def every(flags):  # no short cut: each element says what it asks for
        return bool([*flags] and None)

    nan = float("nan")
    names = _namespace(store, ()) | {
        "q": lambda metric, **dims: want(metric, dims, True) or [nan],
        "one": lambda metric, **dims: want(metric, dims, False) or nan,
        "rank": rank,
        "best": lambda *a, **k: rank(*a, **k)[0],
        "worst": lambda *a, **k: rank(*a, **k)[-1],
        "all": every,
        "any": every,
        "count": every,
    }
    _closure(tree, frozenset())(names)
    return sorted(found), [(metric, dict(dims)) for metric, dims in sorted(missing)]


def _printed_number(node):
    """Is this node `abs(ours - printed) < tolerance`, both plain numbers?"""
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Call)
        and node.left.func.id == "abs"
        and isinstance(node.left.args[0], ast.BinOp)
        and isinstance(node.left.args[0].right, ast.Constant)
        and isinstance(node.ops[0], ast.Lt)
        and isinstance(node.comparators[0], ast.Constant)
    )


def _over_copies(store, copies):
    """A namespace in which every number is an array over the noisy copies: one pass evaluates a
    rule on all of them.

    It knows no order of labels: rules that rank are evaluated copy by copy.
    """

    def fold(operation):
        return lambda *values: reduce(operation, values if len(values) > 1 else values[0])

    return _namespace(store, copies.T) | {
        "min": fold(np.minimum),
        "max": fold(np.maximum),
        "all": fold(np.logical_and),
        "any": fold(np.logical_or),
        "count": lambda flags: sum(np.asarray(flag, int) for flag in flags),
    }


def _outcomes(tree, store, copies):
    """Does the rule hold?  Truth values, one per row of `copies`."""
    return _on_each(_closure(tree, frozenset()), _ranking(tree), store, copies)


def _ranking(tree):
    """The calls in a rule that put labels in order."""
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func.id in RANKING
    ]


def _on_each(run, one_by_one, store, copies):
    """What a function of a namespace gives for every row of `copies`; in one pass, unless it needs
    one by one."""
    if one_by_one:
        return [run(_namespace(store, numbers)) for numbers in copies.tolist()]
    return np.broadcast_to(run(_over_copies(store, copies)), len(copies))


def _widened(tree, store, copies):
    """The tree with every `abs(ours - printed) < t` at a tolerance that noise allows, and those
    tolerances.

    t becomes max(t, 1.5 points, 2 standard deviations of ours minus printed); the printed number is
    taken to be as noisy as ours. A standard deviation is read off the middle 95 % of the copies:
    Student's law with few seeds has none. Without noise (counts of parameters) the rule's own
    tolerance stays.
    """
    tree = ast.parse(ast.unparse(tree), mode="eval").body
    places = [node for node in ast.walk(tree) if _printed_number(node)]
    seen = [[] for _ in places]
    for k, node in enumerate(places):
        difference = node.left.args[0]
        difference.left = ast.Call(ast.Name(PROBE), [ast.Constant(k), difference.left], [])
    if places:
        first = {
            "best": lambda metric, over, among, **_: among[0]
        }  # which label leads does not matter here
        probe = {PROBE: lambda k, x: seen[k].append(x) or x}
        _closure(tree, frozenset())(_over_copies(store, copies) | first | probe)
    tolerances = []
    for values, node in zip(seen, places, strict=True):
        noise = max(float(np.diff(np.percentile(x, [2.5, 97.5]))[0]) / (2 * 1.96) for x in values)
        tolerance = node.comparators[0].value
        tolerances.append(max(tolerance, TOLERANCE, 2 * 2**0.5 * noise) if noise else tolerance)
        node.comparators[0] = ast.Constant(tolerances[-1])
        node.left.args[0].left = node.left.args[0].left.args[1]
    return tree, tolerances


# -------------------------------------------------------------------------- what we found, in words


def ours(tree, store):
    """The rule's main expression on our values as text: a number, a label, or how many cases hold
    and by how much."""
    names = _namespace(store, [v.value for v in store.values])
    return _shown(tree, names)


def _shown(node, names):
    if isinstance(node, ast.BoolOp):
        return "; ".join(filter(None, (_shown(part, names) for part in node.values)))
    if (
        isinstance(node, ast.Call)
        and node.func.id in FLAGS
        and isinstance(node.args[0], ast.GeneratorExp)
    ):
        return _tally(node.args[0], names)
    if (
        isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Call)
        and node.left.func.id == "count"
    ):
        return _shown(node.left, names)
    if _printed_number(node):
        return _shown(node.left.args[0].left, names)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return " against ".join(
            _shown(s, names) for s in sides if any(isinstance(n, ast.Call) for n in ast.walk(s))
        )
    try:
        return _text(_closure(node, frozenset(names))(names))
    except NoData:
        return MISSING


def _text(value):
    return (
        ", ".join(map(_text, value))
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else f"{value:.2f}"
    )


def _tally(node, names):
    """`k of n hold`, the range of the numbers or of the margins (negative: fails), and how many
    were not run."""
    scopes, bound = _scopes(node.generators, frozenset(names))
    element, size = _closure(node.elt, bound), _size(node.elt, bound)
    holds, sizes, missing = [], [], 0
    try:
        cases = list(scopes(names))
    except NoData:
        return MISSING
    for scope in cases:
        try:
            holds.append(element(scope))
            sizes.append(size(scope))
        except NoData:
            missing += 1
    if not holds:
        return MISSING
    what = "value" if _printed_number(node.elt) else "margin"
    sizes = [s for s in sizes if s is not None]
    spread = f", {what} {min(sizes):.2f} to {max(sizes):.2f}" if sizes else ""
    return f"{sum(holds)} of {len(holds)} hold{spread}" + (
        f" ({missing} not run)" if missing else ""
    )


# By how much a comparison holds, from the difference of its sides.
MARGINS = {
    ast.Gt: operator.pos,
    ast.GtE: operator.pos,
    ast.Lt: operator.neg,
    ast.LtE: operator.neg,
    ast.Eq: lambda d: 0.0 - abs(d),
}


def _extreme(operation, sizes):
    """np.minimum or np.maximum over several sizes, numbers or arrays over noisy copies; None if
    there is none."""
    sizes = [size for size in sizes if size is not None]
    return reduce(operation, sizes) if sizes else None


def _size(node, bound):
    """Function of a namespace: our number in `abs(ours - printed) < t`, or by how much an
    inequality holds."""
    if _printed_number(node):
        return _closure(node.left.args[0].left, bound)
    if isinstance(node, ast.BoolOp):
        parts = [_size(part, bound) for part in node.values]
        return lambda names: _extreme(np.minimum, (part(names) for part in parts))
    if isinstance(node, ast.Compare) and all(type(op) in MARGINS for op in node.ops):
        sides = [_closure(side, bound) for side in (node.left, *node.comparators)]
        signs = [MARGINS[type(op)] for op in node.ops]

        def margin(names):
            values = [side(names) for side in sides]
            numbers = all(isinstance(v, int | float | np.ndarray) for v in values)
            return _extreme(
                np.minimum,
                (
                    sign(a - b)
                    for sign, a, b in zip(signs, values, values[1:], strict=False)
                    if numbers
                ),
            )

        return margin
    return lambda names: None


# ----------------------------------------------------------------------------------------- verdicts


def judge(store, claims=None, copies=COPIES, seed=0):
    """One row per claim: what the thesis says and prints, what we found, and the verdict by the
    rule above.

    claims  : rows of reference/claims.csv; default all
    returns : DataFrame  id, reference, kind, statement, paper_value, ours, verdict, share (of the
              noisy copies on which the rule holds; empty where none were made), tolerance (where it
              was widened), seeds (fewest behind a value), margin, low, high (see `_effect`; empty
              where none were made or the rule has no number), have, asked (values), holds_on_paper,
              needs, source, section, note
    """
    drawn = store.copies(copies, seed)
    rows = [
        row._asdict() | _judged(row, store, drawn)
        for row in (printed("claims") if claims is None else claims).itertuples(index=False)
    ]
    order = [
        "id",
        "reference",
        "kind",
        "statement",
        "paper_value",
        "ours",
        "verdict",
        "share",
        "tolerance",
        "seeds",
        "margin",
        "low",
        "high",
        "have",
        "asked",
        "holds_on_paper",
        "needs",
        "source",
        "section",
        "note",
    ]
    return pd.DataFrame(rows, columns=order).astype(
        dict.fromkeys(("share", "tolerance", "seeds", "margin", "low", "high"), float)
    )


def _judged(claim, store, copies):
    if not claim.rule:
        return {"ours": "", "verdict": "informative", "have": 0, "asked": 0}
    tree = parse(claim.rule)
    found, missing = asked(tree, store)
    used = [store.values[i] for i in found]
    row = {
        "ours": ours(tree, store),
        "have": len(found),
        "asked": len(found) + len(missing),
        "seeds": min((v.seeds for v in used), default=None),
    }
    if missing:
        return row | {"verdict": "not run in this profile"}
    if quotes(claim, tree) and not all(v.comparable for v in used):
        return row | {"verdict": "not comparable in this profile"}
    if not any(v.noise for v in used):
        copies = copies[:1]
    tree, tolerances = _widened(tree, store, copies)
    share = float(np.mean(_outcomes(tree, store, copies)))
    verdict = (
        "reproduced"
        if share >= SURE
        else "contradicted"
        if share <= 1 - SURE
        else "tie within noise"
    )
    return row | {
        "verdict": verdict,
        "share": share,
        "tolerance": max(tolerances, default=None),
        **_effect(tree, store, copies),
    }


def quotes(claim, tree):
    """Does a claim compare with a number that the thesis prints, so that only comparable runs can
    settle it?"""
    return claim.kind == "value" or any(_printed_number(node) for node in ast.walk(tree))


def _effect(tree, store, copies):
    """{"margin", "low", "high"}: by how much the rule holds (negative: fails), and between where on
    95 % of copies.

    In the unit of the values. Of conditions that must all hold it is the smallest margin, of `any`
    the largest, of `abs(ours - printed) < t` what is left of t. A rule on labels alone has none.
    """
    leads = [
        node.left for node in ast.walk(tree) if _names_first(node)
    ]  # `_lead` puts nothing in order
    orders = [call for call in _ranking(tree) if call not in leads]
    sizes = _on_each(
        _margin(tree, frozenset()),
        orders,
        store,
        np.vstack([[v.value for v in store.values], copies]),
    )
    if sizes[0] is None:
        return {}
    low, high = np.percentile(sizes[1:], [2.5, 97.5])
    return {"margin": float(sizes[0]), "low": float(low), "high": float(high)}


def _margin(node, bound):
    """Function of a namespace: the margin of a condition, None where it has no number."""
    if isinstance(node, ast.BoolOp):
        parts = [_margin(part, bound) for part in node.values]
        return lambda names: _extreme(np.minimum, (part(names) for part in parts))
    if (
        isinstance(node, ast.Call)
        and node.func.id in ("all", "any")
        and isinstance(node.args[0], ast.GeneratorExp)
    ):
        scopes, inner = _scopes(node.args[0].generators, bound)
        element, pick = (
            _margin(node.args[0].elt, inner),
            np.minimum if node.func.id == "all" else np.maximum,
        )
        return lambda names: _extreme(pick, map(element, scopes(names)))
    if _printed_number(node):
        difference, tolerance = _closure(node.left.args[0], bound), node.comparators[0].value
        return lambda names: tolerance - abs(difference(names))
    return _lead(node, bound) if _names_first(node) else _size(node, bound)


def _names_first(node):
    """Is this node `best(...) == label` or `worst(...) == label`?"""
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.ops[0], ast.Eq)
        and isinstance(node.left, ast.Call)
        and node.left.func.id in ("best", "worst")
    )


def _lead(node, bound):
    """Function of a namespace: by how much the named label leads (best) or trails (worst) all
    others of its rank."""
    call, sign = node.left, 1 if node.left.func.id == "best" else -1
    metric, label = _closure(call.args[0], bound), _closure(node.comparators[0], bound)
    given = {k.arg: _closure(k.value, bound) for k in call.keywords}

    def lead(names):
        dims = {k: f(names) for k, f in given.items()}
        over, among = dims.pop("over"), dims.pop("among")
        mean_of = {
            str(x): sign * mean(names["q"](metric(names), **dims, **{over: x})) for x in among
        }
        return mean_of.pop(label(names)) - _extreme(np.maximum, mean_of.values())

    return lead
