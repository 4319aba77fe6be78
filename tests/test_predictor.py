import random
import sys
import warnings
from functools import partial
from inspect import signature

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMRegressor
from scipy import stats
from scipy.interpolate import RBFInterpolator
from sklearn.linear_model import BayesianRidge
from sklearn.tree import DecisionTreeRegressor

from nat_lib.arch import Space
from nat_lib.errors import Refusal
from nat_lib.search import predictors
from nat_lib.search.ensemble import fit, quality
from nat_lib.search.predictors import PREDICTORS, Predictor, Unfit, interpolant, subspaces
from nat_lib.studies.predictors import draw_study, intervals, study, winner

NAMES = {key: row.label for key, row in PREDICTORS.items()}

SMALL = {"rbfs": 20, "e2epp": 20}  # members instead of 500 and 1000
QUICK = ["rbf", "carts", "svr", "ridge", "knn", "bayesian", "lgb"]


@pytest.fixture(scope="module")
def space():
    return Space("EE_B", base_channels=(16, 24, 40))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def error_of(X):
    """A target that even the weak ones can learn from integers: growing in all variables, without a
    large offset."""
    return 3 + 1.5 * X[:, 1] + 1.5 * X[:, 2] + 0.25 * X[:, 3:].sum(axis=1)


def rows(space, n, seed=0):
    X = space.sample_genotypes(n, np.random.default_rng(seed), by="architecture")
    return X, error_of(X)


def small(monkeypatch, key, size=None):
    if key in SMALL:
        row = PREDICTORS[key]
        fewer = partial(row.function, size=size or SMALL[key])
        monkeypatch.setitem(PREDICTORS, key, row._replace(function=fewer))


def needs(key):
    if key == "catboost":
        pytest.importorskip("catboost")


# -------------------------------------------------------------------------------- single regressors


def test_the_twelve_predictors_have_the_names_of_the_claims():
    thesis = "rbf rbfs mlp e2epp carts gp svr ridge knn bayesian lgb catboost".split()
    assert [name for name in NAMES if name in thesis] == thesis
    assert [NAMES[name] for name in thesis] == [
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
    ]


@pytest.mark.parametrize(
    ("key", "features"), [(k, f) for k in PREDICTORS for f in PREDICTORS[k].encodings]
)
def test_every_predictor_learns_an_easy_target(key, features, space, rng, monkeypatch):
    needs(key)
    small(monkeypatch, key)
    X, errors = rows(space, 120)
    made = fit(key, space, X, errors, rng=rng, features=features, folds=3, fallback=None)
    X, errors = rows(space, 60, seed=1)
    found = quality(made.predict(X), errors)
    assert made.name == NAMES[key] and made.note == "" and found["spearman"] > 0.35
    assert found["rmse"] < 1.1 * errors.std() and len(made.experts) == 3


def fitted_model(key, n=60):
    """The library's own object behind one expert."""
    rng = np.random.default_rng(0)
    Z = rng.integers(0, 9, (n, 5)).astype(float)
    expert = PREDICTORS[key].function(Z, rng.normal(size=n), 3, 1)
    return (expert.func if isinstance(expert, partial) else expert).__self__


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        (
            "mlp",
            {
                "hidden_layer_sizes": (100,),
                "activation": "relu",
                "solver": "adam",
                "learning_rate_init": 1e-3,
                "alpha": 1e-4,
                "max_iter": 200,
                "random_state": 3,
            },
        ),
        ("svr", {"kernel": "rbf", "C": 1.0, "epsilon": 0.1, "gamma": "scale"}),
        ("ridge", {"alpha": 1.0}),
        ("knn", {"n_neighbors": 5, "weights": "uniform"}),
        ("bayesian", BayesianRidge().get_params()),
        ("gp", {"alpha": 1e-10, "normalize_y": False}),
    ],
)
def test_settings_are_those_of_the_thesis(key, settings):
    found = fitted_model(key).get_params()
    assert {name: found[name] for name in settings} == settings


def test_the_gaussian_process_adds_white_noise_to_a_dot_product():
    kernel = fitted_model("gp").kernel
    assert [type(part).__name__ for part in (kernel.k1, kernel.k2)] == ["DotProduct", "WhiteKernel"]


def test_lightgbm_grows_100_trees_with_the_huber_loss():
    booster = fitted_model("lgb")
    wanted = {
        "objective": "huber",
        "num_iterations": 100,
        "num_leaves": 31,
        "learning_rate": 0.1,
        "min_child_samples": 20,
        "num_threads": 1,
        "colsample_bytree": 1.0,
        "subsample": 1.0,
    }
    assert {name: booster.params[name] for name in wanted} == wanted and booster.num_trees() == 100


def test_catboost_has_its_defaults():
    pytest.importorskip("catboost")
    found = fitted_model("catboost").get_all_params()
    assert (found["iterations"], found["depth"], found["loss_function"]) == (1000, 6, "RMSE")


def test_ensembles_have_the_sizes_of_the_thesis():
    sizes = {key: signature(PREDICTORS[key].function).parameters["size"].default for key in SMALL}
    assert sizes == {"rbfs": 500, "e2epp": 1000}


def test_a_tree_is_the_default_regression_tree(rng):
    Z, y, Q = (
        rng.integers(0, 9, (80, 6)).astype(float),
        rng.normal(size=80),
        rng.integers(0, 9, (30, 6)).astype(float),
    )
    plain = DecisionTreeRegressor(random_state=11).fit(Z, y)
    np.testing.assert_array_equal(predictors.tree(Z, y, 11, 1)(Q), plain.predict(Q))


def test_the_interpolant_is_scipys_cubic_with_a_linear_tail(rng):
    Z, y, Q = (
        rng.integers(0, 9, (70, 6)).astype(float),
        rng.normal(size=70),
        rng.integers(0, 9, (30, 6)).astype(float),
    )
    found = interpolant(Z, y, 0, 1)
    np.testing.assert_allclose(
        found(Q), RBFInterpolator(Z, y, kernel="cubic", degree=1)(Q), atol=1e-9
    )
    np.testing.assert_allclose(found(Z), y, atol=1e-9)


def test_the_interpolant_stands_columns_that_do_not_vary(rng):
    Z, y = rng.integers(0, 9, (70, 6)).astype(float), rng.normal(size=70)
    Z[:, 2], Z[:, 4] = 3, 8 - Z[:, 0]  # constant; and a copy, turned round
    found = interpolant(Z, y, 0, 1)
    np.testing.assert_allclose(found(Z), y, atol=1e-9)
    away = found(Z + np.eye(6)[2])
    assert np.isfinite(away).all() and abs(away - y).max() < 20


def test_the_interpolant_of_a_linear_target_is_the_target(rng):
    Z, Q, slopes = (
        rng.integers(0, 9, (30, 4)),
        rng.integers(0, 99, (30, 4)),
        np.array([3.0, -1, 0, 2]),
    )
    np.testing.assert_allclose(
        interpolant(Z.astype(float), Z @ slopes + 7, 0, 1)(Q.astype(float)), Q @ slopes + 7
    )


def test_repeated_rows_are_merged_to_their_mean_or_refused(rng):
    Z, y = rng.integers(0, 9, (40, 4)).astype(float), rng.normal(size=40)
    Z[1] = Z[2] = Z[0]
    with pytest.raises(Unfit, match="2 of 40 rows repeat"):
        interpolant(Z, y, 0, 1)
    found = interpolant(Z, y, 0, 1, merge=True)
    np.testing.assert_allclose(found(Z)[:3], y[:3].mean())
    np.testing.assert_allclose(found(Z)[3:], y[3:], atol=1e-9)


def test_subspaces_draw_features_without_replacement_and_average_all_members(rng):
    Z, y, seen = np.tile(np.arange(5.0), (12, 1)), rng.normal(size=12), []

    def one(Z, y, seed, threads, scale):
        seen.append((Z[0].astype(int).tolist(), len(y), seed))
        return lambda Q: scale * Q.sum(axis=1)

    ensemble = subspaces(Z, y, 4, 2, partial(one, scale=3), 2000)
    used = [columns for columns, _, _ in seen]
    assert (
        len(seen) == 2000
        and all(n == 12 for _, n, _ in seen)
        and len({seed for _, _, seed in seen}) > 1990
    )
    assert all(len(set(columns)) == len(columns) for columns in used)
    sizes = np.bincount([len(columns) for columns in used], minlength=6)
    assert sizes[0] == 0 and abs(sizes[1:] - 400).max() < 80
    assert abs(np.bincount(np.concatenate(used), minlength=5) - 1200).max() < 120
    np.testing.assert_allclose(ensemble(Z[:1]), 3 * np.mean([sum(columns) for columns in used]))


@pytest.mark.parametrize("key", ["rbfs", "e2epp"])
def test_ensembles_do_not_depend_on_the_number_of_threads(key, space, monkeypatch):
    small(monkeypatch, key, 7)
    X, errors = rows(space, 30)
    one, three = (
        fit(key, space, X, errors, rng=np.random.default_rng(2), folds=2, threads=t) for t in (1, 3)
    )
    np.testing.assert_array_equal(one.predict(X), three.predict(X))


# -------------------------------------------------------------------------- the mean of ten experts


def test_the_prediction_is_the_mean_of_ten_experts_trained_on_all_but_one_part(
    space, rng, monkeypatch
):
    X, errors = rows(space, 57)
    trained = []

    def record(Z, y, seed, threads):
        trained.append((Z, y, seed))
        return partial(lambda k, Q: k * Q.sum(axis=1), len(trained))

    monkeypatch.setitem(PREDICTORS, "record", Predictor(record, "Record", "#000000"))
    made = fit("record", space, X, errors, rng=rng)
    np.testing.assert_allclose(made.predict(X), 5.5 * space.features(X).sum(axis=1))
    assert (
        sorted(len(y) for _, y, _ in trained) == [51] * 7 + [52] * 3
        and len({s for _, _, s in trained}) == 10
    )
    times = np.sum(
        [[(Z == z).all(axis=1).sum() for z in space.features(X)] for Z, _, _ in trained], axis=0
    )
    repeats = [(X == x).all(axis=1).sum() for x in X]
    np.testing.assert_array_equal(
        times, 9 * np.array(repeats)
    )  # every row is left out by exactly one
    assert made.predict(X[:0]).shape == (0,)


def test_the_booster_predicts_what_lightgbm_predicts(space):
    X, errors = rows(space, 100)
    made = fit("lgb", space, X, errors, rng=np.random.default_rng(9))
    plain = []
    for held in np.array_split(np.random.default_rng(9).permutation(100), 10):
        kept, Z = np.setdiff1d(np.arange(100), held), pd.DataFrame(X.astype(float))
        plain.append(
            LGBMRegressor(objective="huber", n_jobs=1, verbose=-1)
            .fit(Z.iloc[kept], errors[kept])
            .predict(Z)
        )
    np.testing.assert_allclose(made.predict(X), np.mean(plain, axis=0), rtol=1e-12)


@pytest.mark.parametrize("key", ["mlp", "e2epp", "lgb", "carts"])
def test_fits_follow_their_own_generator_and_leave_the_global_ones_alone(key, space, monkeypatch):
    small(monkeypatch, key, 5)
    X, errors = rows(space, 60)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = np.random.get_state()[1].copy(), np.random.get_state()[2], random.getstate()  # noqa: NPY002
    first, again, other = (
        fit(key, space, X, errors, rng=np.random.default_rng(s), folds=3) for s in (1, 1, 2)
    )
    after = np.random.get_state()[1], np.random.get_state()[2], random.getstate()  # noqa: NPY002
    assert np.array_equal(before[0], after[0]) and before[1:] == after[1:]
    np.testing.assert_array_equal(first.predict(X), again.predict(X))
    assert not np.array_equal(first.predict(X), other.predict(X))


def test_one_generator_gives_another_permutation_at_every_fit(space, rng):
    X, errors = rows(space, 60)
    first, second = (fit("lgb", space, X, errors, rng=rng) for _ in range(2))
    assert not np.array_equal(first.predict(X), second.predict(X))


def test_what_lies_behind_the_exit_can_be_masked(space, rng):
    X, errors = rows(space, 80)
    X[:, 2] = 0  # first exit: the second stage has no effect
    changed = X.copy()
    changed[:, space.first + 4 :] = space.lower[space.first + 4 :]
    seeing, masked = (
        fit("ridge", space, X, errors, rng=rng, mask_after_exit=m) for m in (False, True)
    )
    np.testing.assert_array_equal(masked.predict(X), masked.predict(changed))
    assert abs(seeing.predict(X) - seeing.predict(changed)).max() > 0.1


# ---------------------------------------------------------------------------- what cannot be fitted


def test_repeated_rows_make_rbf_fall_back(space, rng):
    X, errors = rows(space, 40)
    X[7] = X[3]
    made = fit("rbf", space, X, errors, rng=rng)
    assert (
        made.name == "Ridge"
        and made.note.startswith("RBF not fitted: 1 of")
        and "Ridge used" in made.note
    )
    assert quality(made.predict(X), errors)["spearman"] > 0.9 and "\n" not in made.note


def test_lightgbm_learns_from_rows_too_few_for_its_leaves(space, rng):
    """Archives of smoke have ten rows; two leaves of 20 need 40 in each expert."""
    for n in (10, 12, 30, 43, 44, 46, 60):
        X, errors = rows(space, n)
        made = fit("lgb", space, X, errors, rng=rng, fallback=None)
        assert made.name == "LGBM" and quality(made.predict(X), errors)["spearman"] > 0.3
    made = fit("lgb", space, *rows(space, 7), rng=rng)
    assert made.note == "LGBM not fitted: 7 rows are fewer than 10; Ridge used, 7 folds"
    made = fit("lgb", space, *rows(space, 7), rng=rng, folds=5)
    assert made.note == "LGBM not fitted: 7 rows are fewer than 8; Ridge used, 5 folds"


def test_a_library_that_raises_makes_the_fallback_step_in(space, rng, monkeypatch):
    def fails(Z, y, seed, threads):
        raise np.linalg.LinAlgError("Singular\nmatrix")

    def infinite(Z, y, seed, threads):
        return lambda Q: np.full(len(Q), np.inf)

    for attempt, reason in ((fails, "Singular matrix"), (infinite, "not finite")):
        monkeypatch.setitem(PREDICTORS, "gp", Predictor(attempt, "GP", "#000000"))
        made = fit("gp", space, *rows(space, 30), rng=rng, fallback="knn")
        assert made.name == "KNN" and reason in made.note and "\n" not in made.note
    with pytest.raises(Unfit, match=r"GP not fitted: its predictions.*fallback"):
        fit("gp", space, *rows(space, 30), rng=rng, fallback=None)


def test_fewer_rows_than_folds_are_cut_into_as_many_parts_as_there_are(space, rng):
    X, errors = rows(space, 7)
    for key in ("lgb", "ridge"):
        made = fit(key, space, X, errors, rng=rng)
        assert made.name == "Ridge" and len(made.experts) == 7
        assert (
            made.note == f"{NAMES[key]} not fitted: 7 rows are fewer than 10; Ridge used, 7 folds"
        )


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_rows_are_predicted_by_their_mean(n, space, rng):
    X, errors = rows(space, n)
    made = fit("lgb", space, X, errors, rng=rng)
    assert made.name == "mean" and "rows are fewer than 3; mean of the targets used" in made.note
    np.testing.assert_allclose(made.predict(rows(space, 5)[0]), errors.mean())


@pytest.mark.parametrize("key", ["rbf", "lgb", "gp", "ridge"])
def test_equal_targets_are_predicted_as_they_are(key, space, rng):
    X, _ = rows(space, 30)
    made = fit(key, space, X, np.full(30, 37.5), rng=rng)
    assert made.name == "mean" and "all 30 targets are equal" in made.note
    assert (made.predict(X) == 37.5).all()


def test_equal_genotypes_with_different_errors_are_predicted_by_their_mean(space, rng):
    X = np.tile(space.upper, (20, 1))
    made = fit("lgb", space, X, np.arange(20.0), rng=rng)
    assert made.name == "mean" and made.note.count("not fitted") == 2
    np.testing.assert_allclose(made.predict(X), 9.5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"key": "oracle"}, "'oracle' is not known.*lgb"),
        ({"fallback": "mode"}, "'mode' is not known"),
        ({"features": "one_hot", "key": "rbf"}, "choose features integer"),
        ({"features": "binary"}, "integer, one_hot"),
        ({"features": "one_hot", "fallback": "rbfs"}, "choose features integer"),
        ({"folds": 1}, "at least 2"),
        ({"errors": [1.0]}, "one error per genotype"),
        ({"X": np.zeros((0, 11), int), "errors": []}, "at least one"),
        ({"errors": [np.nan] * 12}, "12 of 12 genotypes are not finite"),
        ({"fallback": None, "key": "lgb", "folds": 13}, "LGBM not fitted.*fallback such as ridge"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, told, space, rng):
    X, errors = rows(space, 12)
    given = {"key": "ridge", "X": X, "errors": errors, **change}
    with pytest.raises(Refusal, match=told) as caught:
        fit(given.pop("key"), space, given.pop("X"), given.pop("errors"), rng=rng, **given)
    assert "\n" not in str(caught.value)


def test_catboost_that_is_not_installed_is_refused_with_the_remedy(space, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "catboost", None)
    X, errors = rows(space, 20)
    for fallback in ("ridge", None):
        with pytest.raises(Refusal, match=r"pip install catboost.*such as lgb"):
            fit("catboost", space, X, errors, rng=rng, fallback=fallback)
    with pytest.raises(Refusal, match="pip install catboost"):
        study(space, (X, errors), [(20, 0, X, errors)], keys=("ridge", "catboost"))
    assert fit("ridge", space, X, errors, rng=rng).name == "Ridge"


# ------------------------------------------------------------------------------------------ quality


def test_quality_agrees_with_scipy_and_holds_pearson(rng):
    p, t = rng.integers(0, 8, 25).astype(float), rng.integers(0, 8, 25).astype(float)
    found = quality(p, t)
    assert list(found) == ["rmse", "pearson", "spearman", "kendall"]
    assert found["pearson"] == pytest.approx(stats.pearsonr(p, t).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(p, t).statistic)
    pairs = [(np.sign(p[i] - p[j]), np.sign(t[i] - t[j])) for i in range(25) for j in range(i)]
    agree, p_differs, t_differs = (
        sum(f(a, b) for a, b in pairs)
        for f in (lambda a, b: a * b, lambda a, b: a != 0, lambda a, b: b != 0)
    )
    assert found["kendall"] == pytest.approx(agree / np.sqrt(p_differs * t_differs))  # tau-b
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((p - t) ** 2)))


@pytest.mark.parametrize(
    ("p", "t", "rmse"),
    [
        ([2, 2, 2], [1, 2, 3], np.sqrt(2 / 3)),
        ([1, 2, 3], [2, 2, 2], np.sqrt(2 / 3)),
        ([1], [3], 2),
        ([], [], np.nan),
        ([np.nan, 1], [1, 2], np.nan),
    ],
)
def test_quality_is_nan_where_it_has_no_value_and_never_warns(p, t, rmse):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = quality(p, t)
    assert found["rmse"] == pytest.approx(rmse, nan_ok=True)
    assert all(np.isnan(found[name]) for name in ("pearson", "spearman", "kendall"))


# ----------------------------------------------------------------------------------- the comparison


def test_training_sets_of_the_study_are_independent_of_each_other(space):
    X, sets = draw_study(space, [10, 20], 3, 25)
    assert X.shape == (25, space.n_var) and [(n, r, len(x)) for n, r, x in sets] == [
        (n, r, n) for n in (10, 20) for r in range(3)
    ]
    assert all(
        not np.array_equal(a[:10], b[:10])
        for i, (_, _, a) in enumerate(sets)
        for _, _, b in sets[:i]
    )
    again, more = draw_study(space, [20], 4, 25)
    assert np.array_equal(again, X) and np.array_equal(more[1][2], sets[4][2])
    assert not np.array_equal(draw_study(space, [], 0, 25, seed=1)[0], X)


def test_the_study_samples_every_variable_uniformly(space):
    X, _ = draw_study(space, [], 0, 6000)
    deep = (X[:, space.first + 3] > 0).mean()
    assert deep == pytest.approx(0.81, abs=0.02)  # both optional blocks kept, out of ten codes each
    assert np.bincount(X[:, 1]) / 6000 == pytest.approx(0.5, abs=0.03)


@pytest.fixture(scope="module")
def fits(space):
    test, sets = draw_study(space, [30, 60], 2, 25)
    trainings = [(n, r, X, error_of(X)) for n, r, X in sets]
    return study(space, (test, error_of(test)), trainings, keys=QUICK, seed=3)


def test_the_study_has_one_row_per_predictor_encoding_and_training_set(fits):
    columns = [
        "predictor",
        "encoding",
        "size",
        "repeat",
        "rmse",
        "pearson",
        "spearman",
        "kendall",
        "seconds",
        "note",
    ]
    assert list(fits) == columns and len(fits) == 4 * (7 + 6)
    assert set(fits.predictor) == {NAMES[key] for key in QUICK} and set(fits.encoding) == {
        "integer",
        "onehot",
    }
    assert (
        not (fits[fits.encoding == "onehot"].predictor == "RBF").any() and (fits.seconds > 0).all()
    )
    good = fits[fits.note == ""]
    assert good.spearman.notna().all() and good.groupby("predictor").spearman.mean().min() > 0.3


def test_the_study_says_what_could_not_be_fitted_and_hides_no_fallback(space):
    test, sets = draw_study(space, [12], 2, 25)
    trainings = [(n, r, X[:7], error_of(X[:7])) for n, r, X in sets]
    failed = study(space, (test, error_of(test)), trainings, keys=["lgb"])
    assert len(failed) == 4 and failed.spearman.isna().all() and failed.rmse.isna().all()
    assert failed.note.str.contains("7 rows are fewer than 10").all()


def test_rows_of_the_study_can_be_computed_alone(space, fits):
    test, sets = draw_study(space, [30, 60], 2, 25)
    n, r, X = sets[3]
    alone = study(
        space,
        (test, error_of(test)),
        [(n, r, X, error_of(X))],
        keys=["svr"],
        encodings=["onehot"],
        seed=3,
    )
    same = fits[
        (fits.predictor == "SVR")
        & (fits.encoding == "onehot")
        & (fits["size"] == n)
        & (fits.repeat == r)
    ]
    assert alone.spearman.item() == same.spearman.item() and alone.rmse.item() == same.rmse.item()
    with pytest.raises(Refusal, match="encoding 'hot'"):
        study(space, (test, error_of(test)), [], encodings=["hot"])


def test_intervals_are_students_over_the_repeats():
    scores = [0.5, 0.7, 0.9, 0.6]
    frame = pd.DataFrame(
        [
            {
                "predictor": "A",
                "encoding": "integer",
                "size": 100,
                "repeat": r,
                "rmse": s,
                "pearson": s,
                "spearman": s,
                "kendall": s,
                "seconds": s,
                "note": "",
            }
            for r, s in enumerate(scores)
        ]
    )
    table = intervals(frame).set_index("metric")
    low, high = stats.t.interval(0.95, 3, np.mean(scores), stats.sem(scores))
    row = table.loc["spearman"]
    assert (row["mean"], row.sd, row.low, row.high) == pytest.approx(
        (0.675, np.std(scores), low, high)
    )
    assert row.repeats == 4 and set(table.index) == {
        "rmse",
        "pearson",
        "spearman",
        "kendall",
        "seconds",
    }
    single = intervals(frame.iloc[:1]).set_index("metric").loc["rmse"]
    assert single["mean"] == 0.5 and single.sd == 0 and np.isnan(single.low)


def scores_of(**spearman):
    return pd.DataFrame(
        [
            {"predictor": name, "encoding": "integer", "size": 100, "repeat": r, "spearman": s}
            for name, values in spearman.items()
            for r, s in enumerate(values)
        ]
    )


def test_the_winner_is_compared_pair_by_pair(rng):
    base = rng.normal(size=10)  # hard and easy training sets, the same for all
    table = winner(scores_of(Bad=base - 1, Best=base, Near=base - 0.01 * np.arange(10)))
    assert table.predictor.tolist() == ["Best", "Near", "Bad"]
    near = table.iloc[1]
    assert (
        near.behind == pytest.approx(0.045)
        and 0 < near.low < 0.045 < near.high
        and near.wins == 0.95
    )
    assert table.iloc[2].low == pytest.approx(1) and np.isnan(table.iloc[0].behind)
    assert table["first"].sum() == pytest.approx(1) and table.iloc[0]["first"] > 0.99


def test_the_winner_of_a_tie_is_unsure(rng):
    noise = rng.normal(size=(2, 10))
    table = winner(scores_of(A=noise[0] - noise[0].mean(), B=noise[1] - noise[1].mean()))
    assert table["first"].between(0.3, 0.7).all() and table.iloc[1].low < 0 < table.iloc[1].high


def test_small_errors_win_and_what_failed_comes_last():
    frame = scores_of(A=[1.0, 2.0], B=[3.0, 4.0], C=[0.1, np.nan]).rename(
        columns={"spearman": "rmse"}
    )
    table = winner(frame, metric="rmse")
    assert table.predictor.tolist() == ["A", "B", "C"] and table["mean"].tolist() == [1.5, 3.5, 0.1]
    assert table.behind.iloc[1] == 2 and np.isnan(table["first"].iloc[2])


def test_fits_that_cannot_be_told_apart_are_refused():
    twice = pd.concat([scores_of(A=[1, 2]), scores_of(A=[1, 2])])
    with pytest.raises(Refusal, match="several fits"):
        winner(twice)
    both = pd.concat([scores_of(A=[1, 2], B=[0, 1]).assign(supernet=s) for s in ("BASE", "EE_B")])
    assert winner(both, paired=("supernet", "size", "repeat")).predictor.tolist() == ["A", "B"]
    with pytest.raises(Refusal, match="no predictor has spearman"):
        winner(scores_of(A=[1, np.nan], B=[np.nan, 1]))
