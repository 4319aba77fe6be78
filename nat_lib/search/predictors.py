"""Error predictors: twelve regressors from genotypes to top-1 error, each used as the mean of ten
experts.

The error of a subnet takes seconds to measure and microseconds to predict, and a search asks for
two thousand of them
per iteration.  Source: thesis 3.3.2, 3.3.4 step 2, 6.2.2 and 6.3.1; NATv2, arXiv:2307.00960.
"""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor
from lightgbm.basic import LightGBMError
from scipy import stats
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, WhiteKernel
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from nat_lib.errors import Refusal
from nat_lib.machine import progress

FOLDS = 10
METRICS = ("rmse", "pearson", "spearman", "kendall")
ENCODINGS = {
    "integer": "integer",
    "onehot": "one_hot",
}  # names in the study: names of Space.features
FEWEST = 3  # rows below which nothing but their mean can be said


class Unfit(Refusal):
    """A predictor that cannot be fitted to the rows it was given."""


# -------------------------------------------------------------------------------- single regressors
# Each is a function (Z (n, m), y (n,), seed, threads, **settings) -> function of (k, m) features
# giving (k,) values.


def regressor(Z, y, seed, threads, model, **settings):
    """A scikit-learn regressor; `threads` would change nothing for any of those used here."""
    made = model(**settings)
    if "random_state" in made.get_params():
        made.set_params(random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # the 200 iterations of the MLP are the thesis's setting
        return made.fit(Z, y).predict


def lightgbm(Z, y, seed, threads, **settings):
    """Gradient boosting by LightGBM, where nothing is random with these settings.

    Predictions go straight to the booster, on one thread: the checks around it and further threads
    cost more than it.
    """
    made = LGBMRegressor(n_jobs=threads, verbose=-1, **settings)
    return partial(made.fit(Z, y).booster_.predict, num_threads=1)


def catboost(Z, y, seed, threads, **settings):
    """Gradient boosting by CatBoost, which is an optional package."""
    from catboost import CatBoostError, CatBoostRegressor

    made = CatBoostRegressor(
        thread_count=threads, random_seed=seed, verbose=False, allow_writing_files=False, **settings
    )
    try:
        return made.fit(Z, y).predict
    except CatBoostError as error:
        raise ValueError(str(error)) from error


def tree(Z, y, seed, threads):
    """A decision tree with scikit-learn's defaults, without its checks of the input: E2EPP grows 10
    000 of them."""
    with config_context(skip_parameter_validation=True):
        made = DecisionTreeRegressor(random_state=seed).fit(
            Z.astype(np.float32), y, check_input=False
        )
    return lambda Q: made.predict(Q.astype(np.float32), check_input=False)


def interpolant(Z, y, seed, threads, merge=False):
    """The cubic radial basis function interpolant with a linear tail: it passes through every row
    of Z.

    s(x) = sum_i a_i |x - z_i|^3 + b . x + c  with  sum_i a_i = 0  and  sum_i a_i z_i = 0

    In directions in which the rows do not vary (a constant column) the tail has no slope.
    merge : equal rows become one with their mean target; otherwise they are an error, as no
            interpolant exists
    """
    points, which, count = np.unique(Z, axis=0, return_inverse=True, return_counts=True)
    if len(points) < len(Z) and not merge:
        raise Unfit(f"{len(Z) - len(points)} of {len(Z)} rows repeat another")
    centre = points.mean(axis=0)
    spread, axes = np.linalg.eigh((points - centre).T @ (points - centre))
    axes = axes[:, spread > 1e-9 * max(spread[-1], 1.0)]

    def tail(Q):
        return np.column_stack([np.ones(len(Q)), (Q - centre) @ axes])

    n, P = len(points), tail(points)
    system = np.zeros((n + P.shape[1],) * 2)
    system[:n, :n], system[:n, n:], system[n:, :n] = _cubes(points, points), P, P.T
    right = np.zeros(len(system))
    right[:n] = np.bincount(which.ravel(), y) / count  # numpy 2.0 alone gives `which` as a column
    weights = np.linalg.solve(system, right)
    return lambda Q: _cubes(Q, points) @ weights[:n] + tail(Q) @ weights[n:]


def _cubes(A, B):
    """|a - b|^3 of all rows a of A and b of B. Features are whole numbers, so the squared distances
    are exact."""
    squares = np.einsum("ij,ij->i", A, A)[:, None] + np.einsum("ij,ij->i", B, B) - 2 * (A @ B.T)
    return squares * np.sqrt(squares)


def subspaces(Z, y, seed, threads, one, size, **settings):
    """Mean of `size` regressors `one`, each on all rows and a random subset of the features.

    The number of features is uniform in 1..m, they are drawn without replacement.
    """
    rng, m = np.random.default_rng(seed), Z.shape[1]
    chosen = [rng.permutation(m)[: rng.integers(1, m + 1)] for _ in range(size)]
    seeds = rng.integers(2**31, size=size)

    def grow(part):
        return [one(Z[:, chosen[i]], y, seeds[i], 1, **settings) for i in part]

    with ThreadPoolExecutor(
        threads
    ) as pool:  # one task per thread: to wait for single members takes longer
        members = [
            member
            for part in pool.map(grow, np.array_split(range(size), threads))
            for member in part
        ]
    return lambda Q: (
        sum(member(Q[:, used]) for member, used in zip(members, chosen, strict=True)) / size
    )


class Kind(NamedTuple):
    """One row of the table of predictors. What `settings` do not name has the default value of its
    library."""

    label: str  # as in the claims
    fit: Callable
    settings: dict
    one_hot: bool = True  # False: indicator columns sum to 1, which makes a linear tail singular
    package: str = ""  # an optional package that it needs


PREDICTORS = {
    "rbf": Kind("RBF", interpolant, {}, one_hot=False),
    "rbfs": Kind(
        "RBFs", subspaces, {"one": interpolant, "size": 500, "merge": True}, one_hot=False
    ),
    "mlp": Kind("MLP", regressor, {"model": MLPRegressor}),
    "e2epp": Kind("E2EPP", subspaces, {"one": tree, "size": 1000}),
    "carts": Kind("CARTS", tree, {}),
    "gp": Kind(
        "GP", regressor, {"model": GaussianProcessRegressor, "kernel": DotProduct() + WhiteKernel()}
    ),
    "svr": Kind("SVR", regressor, {"model": SVR}),
    "ridge": Kind("Ridge", regressor, {"model": Ridge}),
    "knn": Kind("KNN", regressor, {"model": KNeighborsRegressor}),
    "bayesian": Kind("BayesianRidge", regressor, {"model": BayesianRidge}),
    "lgb": Kind("LGBM", lightgbm, {"objective": "huber"}),
    "catboost": Kind("CatBoost", catboost, {}, package="catboost"),
}
NAMES = {key: kind.label for key, kind in PREDICTORS.items()}


# ------------------------------------------------------------------------------------- the ensemble


class Predictor(NamedTuple):
    """A fitted ensemble.

    name  : label of the predictor really used, "mean" for the mean of the targets
    note  : why it is not the one asked for, "" if it is
    folds : DataFrame fold, n, spearman, rmse: each expert on the part that it was not trained on
    """

    name: str
    note: str
    folds: pd.DataFrame
    features: Callable
    experts: tuple

    def predict(self, X):
        """Top-1 errors in per cent, (n,), of repaired genotypes X (n, n_var): the mean of the
        experts."""
        if not len(X):
            return np.empty(0)  # the libraries refuse to predict nothing
        Z = self.features(X)
        return sum(expert(Z) for expert in self.experts) / len(self.experts)


def fit(
    key,
    space,
    X,
    errors,
    *,
    rng,
    features="integer",
    folds=FOLDS,
    fallback="ridge",
    mask_after_exit=False,
    threads=1,
):
    """Ensemble of `folds` experts on archive rows; each is trained on all but one part of a random
    permutation.

    key, fallback   : names in PREDICTORS; fallback None = refuse (Unfit) where the predictor cannot
                      be fitted
    X (n, n_var), errors (n,) : repaired genotypes and their top-1 errors in per cent
    features        : "integer" | "one_hot" (not for rbf and rbfs);  mask_after_exit : see
                      Space.features
    returns         : Predictor. Where the predictor raises, has fewer rows than folds, or predicts
                      a constant although the targets vary, the fallback is used, with at most one
                      part per row. Equal targets and fewer than three rows are predicted by their
                      mean. `note` tells all of this
    Source          : thesis 3.3.4 step 2
    """
    for name in filter(None, (key, fallback)):
        _check(name, features)
    y = np.asarray(errors, dtype=np.float64)
    if len(X) != len(y) or not len(y):
        raise Refusal(
            f"{len(X)} genotypes with {len(y)} errors: give one error per genotype, and at least one"
        )
    if not np.isfinite(y).all():
        raise Refusal(
            f"the errors of {np.sum(~np.isfinite(y))} of {len(y)} genotypes are not finite: leave these out"
        )
    if folds < 2:
        raise Refusal(f"folds = {folds}: give at least 2, since every expert leaves one part out")
    see = partial(space.features, kind=features, mask_after_exit=mask_after_exit)
    Z, order, notes = see(X), rng.permutation(len(y)), []
    attempts = (
        [(key, folds)] if fallback is None else [(key, folds), (fallback, min(folds, len(y)))]
    )
    for name, parts in dict.fromkeys(attempts):
        try:
            experts, held_out = _ensemble(name, Z, y, np.array_split(order, parts), rng, threads)
        except Unfit as error:
            notes.append(f"{NAMES[name]} not fitted: {error}")
        else:
            notes += [f"{NAMES[name]} used, {parts} folds"] if notes else []
            return Predictor(NAMES[name], "; ".join(notes), held_out, see, experts)
    if fallback is None:
        raise Unfit(f"{notes[0]}: give more or other rows, or name a fallback such as ridge")
    mean = y.mean()
    return Predictor(
        "mean",
        "; ".join([*notes, "mean of the targets used"]),
        _held_out([]),
        see,
        (lambda Z: np.full(len(Z), mean),),
    )


def _check(key, features="integer"):
    if key not in PREDICTORS:
        raise Refusal(f"predictor {key!r} is not known: choose one of {', '.join(PREDICTORS)}")
    if features == "one_hot" and not PREDICTORS[key].one_hot:
        raise Refusal(
            f"predictor {key} cannot use one_hot features, whose columns sum to one: choose features integer"
        )
    package = PREDICTORS[key].package
    if package and find_spec(package) is None:
        raise Refusal(
            f"predictor {key} needs the package {package}: run `pip install {package}`, "
            "or choose another predictor, such as lgb"
        )


def _ensemble(key, Z, y, parts, rng, threads):
    """(experts, their quality on the held-out parts); Unfit where the predictor cannot learn from
    these rows."""
    n, least = len(y), max(len(parts), FEWEST)
    if n < least:
        raise Unfit(f"{n} rows are fewer than {least}")
    if np.ptp(y) == 0:
        raise Unfit(f"all {n} targets are equal")
    kind, experts, rows, varied = PREDICTORS[key], [], [], False
    for fold, held in enumerate(parts):
        kept = np.setdiff1d(np.arange(n), held)
        try:
            expert = kind.fit(Z[kept], y[kept], int(rng.integers(2**31)), threads, **kind.settings)
            guess = expert(Z[held])
        except Unfit:
            raise
        except (ValueError, ArithmeticError, LightGBMError) as error:
            raise Unfit(" ".join(str(error).split())) from error
        if not np.isfinite(guess).all():
            raise Unfit("its predictions are not finite")
        varied |= np.ptp(guess) > 0
        experts.append(expert)
        rows.append({"fold": fold, "n": len(held), **quality(guess, y[held])})
    if not varied and np.ptp(sum(expert(Z) for expert in experts)) == 0:
        raise Unfit(f"it predicts a constant from {n} rows")
    return tuple(experts), _held_out(rows)


def _held_out(rows):
    return pd.DataFrame(rows, columns=["fold", "n", "spearman", "rmse"])


def quality(predicted, true):
    """{rmse, pearson, spearman, kendall} of two sequences; Kendall's tau-b. NaN where one has no
    value."""
    p, t = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    found = dict.fromkeys(METRICS, np.nan)
    if len(p) and np.isfinite([p, t]).all():
        found["rmse"] = float(np.sqrt(np.mean((p - t) ** 2)))
        if np.ptp(p) > 0 and np.ptp(t) > 0:
            found["pearson"] = float(np.corrcoef(p, t)[0, 1])
            found["spearman"] = float(np.corrcoef(stats.rankdata(p), stats.rankdata(t))[0, 1])
            found["kendall"] = float(stats.kendalltau(p, t).statistic)
    return found


# ----------------------------------------------------------------------------------- the comparison


def draw_study(space, sizes, repeats, n_test, seed=420):
    """Architectures of the comparison, uniform per variable of the search space: (X_test, [(size,
    repeat, X), ...]).

    The test set is one for all; every training set is drawn by itself, so more sizes or repeats
    change no other.
    Source: thesis 6.2.2
    """

    def draw(n, *purpose):
        return space.sample_genotypes(n, np.random.default_rng((seed, *purpose)), by="search")

    return draw(n_test, 0), [(n, r, draw(n, 1, n, r)) for n in sizes for r in range(repeats)]


def study(
    space, tests, trainings, keys=tuple(PREDICTORS), encodings=tuple(ENCODINGS), seed=0, threads=1
):
    """Every predictor with every encoding on every training set, judged on the same test set.

    tests     : (X, errors);  trainings : [(size, repeat, X, errors), ...]
    encodings : "integer", "onehot"; predictors that cannot use one have no row for it
    returns   : DataFrame predictor (label), encoding, size, repeat, rmse, pearson, spearman,
                kendall, seconds (of features, fit and prediction together), note. What cannot be
                fitted has NaN and a note, no fallback
    Source    : thesis 6.2.2. All predictors get the same parts of a training set, so their rows can
                be paired.
    """
    for name in encodings:
        if name not in ENCODINGS:
            raise Refusal(f"encoding {name!r} is not known: choose from {', '.join(ENCODINGS)}")
    for key in keys:
        _check(key)
    usable = [
        (encoding, key)
        for encoding in encodings
        for key in keys
        if ENCODINGS[encoding] != "one_hot" or PREDICTORS[key].one_hot
    ]
    rows = []
    for (size, repeat, X, errors), (encoding, key) in progress(
        [*product(trainings, usable)], f"{space.name}, fits"
    ):
        began, found, note = time.perf_counter(), dict.fromkeys(METRICS, np.nan), ""
        try:
            made = fit(
                key,
                space,
                X,
                errors,
                rng=np.random.default_rng((seed, size, repeat)),
                features=ENCODINGS[encoding],
                fallback=None,
                threads=threads,
            )
            predicted = made.predict(tests[0])
            seconds = time.perf_counter() - began
            found = quality(predicted, tests[1])
        except Unfit as error:
            seconds, note = time.perf_counter() - began, str(error)
        rows.append(
            {
                "predictor": NAMES[key],
                "encoding": encoding,
                "size": size,
                "repeat": repeat,
                **found,
                "seconds": seconds,
                "note": note,
            }
        )
    return pd.DataFrame(rows)


def intervals(fits, by=("predictor", "encoding", "size")):
    """Mean, population standard deviation and 95 % confidence interval of the mean over the
    repeats, per metric.

    fits    : frame of `study`;  by : the columns that tell the groups apart, e.g. with "supernet"
    returns : DataFrame *by, metric, repeats, mean, sd, low, high. The interval is Student's; one
              repeat has none
    """
    long = fits.melt(list(by), [*METRICS, "seconds"], var_name="metric")
    table = (
        long.groupby([*by, "metric"], sort=False)["value"]
        .agg(repeats="count", mean="mean", sd=lambda v: v.std(ddof=0))
        .reset_index()
    )
    n = table.repeats.where(table.repeats > 1)
    half = stats.t.ppf(0.975, n - 1) * table.sd / np.sqrt(n - 1)
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def winner(
    fits,
    metric="spearman",
    among=("predictor", "encoding"),
    paired=("size", "repeat"),
    seed=0,
    resamples=2000,
):
    """How surely the best predictor beats each other one; all were fitted to the same training
    sets.

    fits    : frame of `study`;  among : columns that name a competitor;  paired : columns that name
              a training set
    returns : DataFrame, best first: *among, mean; behind (the best's mean advantage over this one);
              low, high (95 % confidence interval of it, Student's over the pairs); wins (share of
              the pairs that the best wins, ties half); first (share of bootstrap resamples of the
              training sets in which this one has the best mean: it accounts for having chosen among
              many). What could not be fitted everywhere comes last and cannot win
    """
    among, paired = list(among), list(paired)
    if fits.duplicated(among + paired).any():
        raise Refusal(
            f"several fits have the same {', '.join(among + paired)}: name the columns that tell them apart"
        )
    scores = fits.pivot(index=paired, columns=among, values=metric)
    whole = scores.dropna(axis="columns")
    if whole.empty:
        raise Refusal(
            f"no predictor has {metric} for every training set: choose fewer of {', '.join(paired)}"
        )
    sign = -1.0 if metric in ("rmse", "seconds") else 1.0
    order = (sign * whole.mean()).sort_values(ascending=False, kind="stable").index
    values = sign * whole[order].to_numpy()  # (pairs, competitors), best first
    gap, n = values[:, :1] - values, len(values)
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    leaders = np.argmax(np.stack([values[d].mean(axis=0) for d in draws]), axis=1)
    half = stats.t.ppf(0.975, n - 1) * gap.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    table = order.to_frame(index=False).assign(
        mean=sign * values.mean(axis=0),
        behind=gap.mean(axis=0),
        low=gap.mean(axis=0) - half,
        high=gap.mean(axis=0) + half,
        wins=((gap > 0) + (gap == 0) / 2).mean(axis=0),
        first=np.bincount(leaders, minlength=len(order)) / resamples,
    )
    table.loc[0, ["behind", "low", "high", "wins"]] = np.nan  # the best against itself
    partly = scores.drop(columns=whole.columns).mean().rename("mean").reset_index()
    return pd.concat([table, partly], ignore_index=True) if len(partly) else table
