"""Error predictors: twelve regressors from genotypes to top-1 error.

The error of a subnet takes seconds to measure and microseconds to predict, and a search asks for
two thousand of them per iteration. A new predictor is one function and one row of PREDICTORS.
Source: thesis 3.3.2, 3.3.4 step 2, 6.2.2 and 6.3.1; NATv2, arXiv:2307.00960.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nat_lib.errors import Refusal

INTEGER, ONE_HOT = "integer", "one_hot"  # kinds of features, see Space.features
ENCODINGS = {"integer": INTEGER, "onehot": ONE_HOT}  # names in the study: kinds of features
FEWEST = 3  # rows below which nothing but their mean can be said
LEAF = 20  # rows in a leaf of LightGBM, its default

Features = Float[np.ndarray, "n m"]
Targets = Float[np.ndarray, " n"]
Expert = Callable[[Features], Targets]  # (k, m) features -> (k,) predictions


class Unfit(Refusal):
    """A predictor that cannot be fitted to the rows it was given."""


# -------------------------------------------------------------------------------- single regressors
# (Z, y, seed, threads) -> Expert. Libraries are imported where they are used: the table of
# predictors is read by whatever needs a name or a colour.


def _fitted(model: Any, Z: Features, y: Targets) -> Expert:
    """The prediction function of a scikit-learn regressor; threads would change nothing for any of
    those used here."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # The 200 iterations of the MLP are the thesis's setting.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(Z, y).predict


def mlp(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """A network of one hidden layer."""
    from sklearn.neural_network import MLPRegressor

    return _fitted(MLPRegressor(random_state=seed), Z, y)


def gaussian_process(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """A linear model with noise, as a Gaussian process."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import DotProduct, WhiteKernel

    kernel = DotProduct() + WhiteKernel()
    return _fitted(GaussianProcessRegressor(kernel, random_state=seed), Z, y)


def support_vectors(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """Support vector regression with a radial kernel."""
    from sklearn.svm import SVR

    return _fitted(SVR(), Z, y)


def ridge(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """Linear regression with a penalty on the slopes."""
    from sklearn.linear_model import Ridge

    return _fitted(Ridge(random_state=seed), Z, y)


def bayesian_ridge(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """Ridge regression that chooses its penalty."""
    from sklearn.linear_model import BayesianRidge

    return _fitted(BayesianRidge(), Z, y)


def neighbours(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """The mean of the five nearest rows."""
    from sklearn.neighbors import KNeighborsRegressor

    return _fitted(KNeighborsRegressor(), Z, y)


def lightgbm(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """Gradient boosting by LightGBM with the Huber loss, where nothing is random.

    Rows that are too few to be split into two leaves of 20 get leaves of a quarter of them: with
    the default all trees would be a single leaf. Archives of the thesis are never that small.
    """
    from lightgbm import LGBMRegressor
    from lightgbm.basic import LightGBMError

    leaves: dict[str, Any] = {"min_child_samples": LEAF}
    if len(y) < 2 * LEAF:
        leaves = {"min_child_samples": max(1, len(y) // 4), "min_data_in_bin": 1}
    model = LGBMRegressor(objective="huber", n_jobs=threads, verbose=-1, **leaves)
    try:
        # Straight to the booster, on one thread: the checks around it and further threads cost
        # more than the prediction.
        predict: Any = partial(model.fit(Z, y).booster_.predict, num_threads=1)
    except LightGBMError as error:
        raise ValueError(str(error)) from error
    return predict


def catboost(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """Gradient boosting by CatBoost, which is an optional package."""
    from catboost import CatBoostError, CatBoostRegressor

    model = CatBoostRegressor(
        thread_count=threads, random_seed=seed, verbose=False, allow_writing_files=False
    )
    try:
        return model.fit(Z, y).predict
    except CatBoostError as error:
        raise ValueError(str(error)) from error


def tree(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """A decision tree with scikit-learn's defaults, without its checks of the input: E2EPP grows
    10 000 of them."""
    from sklearn import config_context
    from sklearn.tree import DecisionTreeRegressor

    with config_context(skip_parameter_validation=True):
        grown = DecisionTreeRegressor(random_state=seed)
        grown.fit(Z.astype(np.float32), y, check_input=False)
    return lambda Q: grown.predict(Q.astype(np.float32), check_input=False)


def forest(Z: Features, y: Targets, seed: int, threads: int) -> Expert:
    """A random forest, the predictor of AttentiveNAS, arXiv:2011.09011."""
    from sklearn.ensemble import RandomForestRegressor

    return _fitted(RandomForestRegressor(random_state=seed, n_jobs=threads), Z, y)


def interpolant(Z: Features, y: Targets, seed: int, threads: int, merge: bool = False) -> Expert:
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
    axes = axes[:, spread > 1e-9 * max(spread[-1], 1.0)]  # (m, d): in which the rows vary

    def tail(Q):  # (k, m) -> (k, 1 + d)
        return np.column_stack([np.ones(len(Q)), (Q - centre) @ axes])

    n, P = len(points), tail(points)
    system = np.zeros((n + P.shape[1], n + P.shape[1]))
    system[:n, :n] = _cubes(points, points)
    system[:n, n:] = P
    system[n:, :n] = P.T
    right = np.zeros(len(system))
    right[:n] = np.bincount(which.ravel(), y) / count  # numpy 2.0 alone gives `which` as a column
    weights = np.linalg.solve(system, right)
    return lambda Q: _cubes(Q, points) @ weights[:n] + tail(Q) @ weights[n:]


def _cubes(A: Float[np.ndarray, "a m"], B: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "a b"]:
    """|a - b|^3 of all rows a of A and b of B. Features are whole numbers, so the squared distances
    are exact."""
    lengths_A, lengths_B = np.einsum("ij,ij->i", A, A), np.einsum("ij,ij->i", B, B)
    squares = lengths_A[:, None] + lengths_B - 2 * (A @ B.T)
    return squares * np.sqrt(squares)


def subspaces(Z: Features, y: Targets, seed: int, threads: int, one: Callable, size: int) -> Expert:
    """Mean of `size` regressors `one`, each on all rows and a random subset of the features.

    The number of features is uniform in 1..m, they are drawn without replacement.
    """
    rng, m = np.random.default_rng(seed), Z.shape[1]
    chosen = [rng.permutation(m)[: rng.integers(1, m + 1)] for _ in range(size)]
    seeds = rng.integers(2**31, size=size)

    def grow(part):
        return [one(Z[:, chosen[i]], y, seeds[i], 1) for i in part]

    shares = np.array_split(range(size), threads)  # to wait for single members takes longer
    with ThreadPoolExecutor(threads) as pool:
        members = [member for grown in pool.map(grow, shares) for member in grown]

    def mean(Q):
        predictions = (member(Q[:, used]) for member, used in zip(members, chosen, strict=True))
        return sum(predictions) / size

    return mean


def interpolants(Z: Features, y: Targets, seed: int, threads: int, size: int = 500) -> Expert:
    """Radial basis function interpolants in random subspaces, where rows may repeat."""
    return subspaces(Z, y, seed, threads, partial(interpolant, merge=True), size)


def trees(Z: Features, y: Targets, seed: int, threads: int, size: int = 1000) -> Expert:
    """E2EPP: trees in random subspaces."""
    return subspaces(Z, y, seed, threads, tree, size)


# --------------------------------------------------------------------------------------- the table


class Predictor(NamedTuple):
    """One row of the table. What a function does not set has the default value of its library.

    function  : (Z (n, m), y (n,), seed, threads) -> function of (k, m) features giving (k,) values;
                ValueError, ArithmeticError or Unfit where it cannot be fitted
    label     : its name in tables, figures and claims
    colour    : in figures. Trees warm, linear models blue and green, radial basis functions violet
    encodings : kinds of features that it can use. Indicator columns sum to 1, which makes a linear
                tail singular
    fewest    : rows below which it cannot be fitted
    package   : an optional package that it needs
    """

    function: Callable[[Features, Targets, int, int], Expert]
    label: str
    colour: str
    encodings: tuple[str, ...] = (INTEGER, ONE_HOT)
    fewest: int = FEWEST
    package: str = ""


PREDICTORS = {
    "rbf": Predictor(interpolant, "RBF", "#AA4499", (INTEGER,)),
    "rbfs": Predictor(interpolants, "RBFs", "#6E2A8C", (INTEGER,)),
    "mlp": Predictor(mlp, "MLP", "#888888"),
    "e2epp": Predictor(trees, "E2EPP", "#DDAA33"),
    "carts": Predictor(tree, "CARTS", "#997700"),
    "forest": Predictor(forest, "Forest", "#BBAA44"),
    "gp": Predictor(gaussian_process, "GP", "#88CCEE"),
    "svr": Predictor(support_vectors, "SVR", "#BBBBBB"),
    "ridge": Predictor(ridge, "Ridge", "#3377BB"),
    "knn": Predictor(neighbours, "KNN", "#555555"),
    "bayesian": Predictor(bayesian_ridge, "BayesianRidge", "#1B3A6B"),
    "lgb": Predictor(lightgbm, "LGBM", "#CC3311", fewest=8),
    "catboost": Predictor(catboost, "CatBoost", "#EE7733", package="catboost"),
}


def check(key: str, features: str = INTEGER) -> None:
    """Refuse a predictor that is not in the table, cannot use these features or misses its
    package."""
    if key not in PREDICTORS:
        raise Refusal(f"predictor {key!r} is not known: choose one of {', '.join(PREDICTORS)}")
    row = PREDICTORS[key]
    if features in ENCODINGS.values() and features not in row.encodings:
        raise Refusal(
            f"predictor {key} cannot use {features} features, whose columns sum to one: choose "
            f"features {row.encodings[0]}"
        )
    if row.package and find_spec(row.package) is None:
        raise Refusal(
            f"predictor {key} needs the package {row.package}: run `pip install {row.package}`, "
            "or choose another predictor, such as lgb"
        )
