import json

import numpy as np
import pytest
from scipy import stats

from nat_lib.arch import Space
from nat_lib.errors import Refusal
from nat_lib.search.distributions import ALL, LAWS, SHORT, Marginal, fit, sample

LOW, HIGH = 1, 9
CATEGORIES = np.arange(LOW, HIGH + 1)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def space():
    return Space("EE_B", base_channels=(16, 24, 40))


def columns_of(laws, n, rng):
    """(n, len(laws)) rounded and clipped draws of scipy distributions, as adaptation would see
    them."""
    draws = np.column_stack([law.rvs(size=n, random_state=rng) for law in laws])
    return np.clip(np.rint(draws), LOW, HIGH).astype(np.int64)


def fitted(X, **options):
    return fit(X, [LOW] * X.shape[1], [HIGH] * X.shape[1], **options)


def frequencies(column):
    return np.bincount(column - LOW, minlength=len(CATEGORIES)) / len(column)


def histogram(column):
    """(heights, centres) with one bin per category: what the automatic rule gives for few
    categories and many rows."""
    centres = np.arange(column.min(), column.max() + 1)
    return (column[:, None] == centres).mean(axis=0), centres


KNOWN = [stats.norm(4, 1), stats.expon(0.6, 1.5), stats.uniform(0.5, 9), stats.triang(1, 0.5, 9)]


# ------------------------------------------------------------------------------ the choice of a law


def test_the_family_with_the_smallest_error_wins_not_the_first_name(rng):
    names = ("ksone", "norm", "expon", "triang", "uniform")
    for column in columns_of(
        [law for law in KNOWN if law.dist.name != "uniform"], 400, rng
    ).T:  # ksone is flat too
        heights, centres = histogram(column)
        laws = {name: getattr(stats, name) for name in names}
        errors = {
            name: np.sum((law.pdf(centres, *law.fit(column)) - heights) ** 2)
            for name, law in laws.items()
        }
        (found,) = fitted(column[:, None], families=names)
        assert found.family == min(errors, key=errors.get) != "ksone"
        assert found.error == pytest.approx(min(errors.values())) and found.error < errors["ksone"]


def test_a_longer_list_is_never_worse(rng):
    X = columns_of(KNOWN[:2], 100, rng)
    names = ALL[::12]
    some, more = fitted(X, families=names[:3]), fitted(X, families=names)
    assert all(b.error <= a.error for a, b in zip(some, more, strict=True)) and some != more


def test_the_short_list_recovers_the_law_that_the_data_came_from(rng):
    X = columns_of(KNOWN, 4000, rng)
    assert SHORT.keys() == {
        "norm",
        "uniform",
        "beta",
        "gamma",
        "expon",
        "lognorm",
        "triang",
        "truncnorm",
    }
    for law, found in zip(KNOWN, fitted(X), strict=True):
        true = np.diff([0, *law.cdf(CATEGORIES[:-1] + 0.5), 1])
        assert found.family in SHORT and abs(np.array(found.probabilities) - true).sum() / 2 < 0.05


@pytest.mark.parametrize("family", ["triang", "truncnorm"])
def test_our_own_likelihoods_are_at_their_maximum(family, rng):
    x = columns_of([stats.norm(6, 2)], 200, rng)[:, 0].astype(float)
    best = SHORT[family](x, LOW - 0.5, HIGH + 0.5)
    law = getattr(stats, family)
    if family == "triang":
        others = [(c, *best[1:]) for c in np.linspace(0, 1, 201)]
    else:
        centres = [(best[2] + d, best[3] * f) for d in (-0.3, 0, 0.3) for f in (0.9, 1, 1.1)]
        others = [((0.5 - m) / s, (9.5 - m) / s, m, s) for m, s in centres]
    assert law.logpdf(x, *best).sum() >= max(law.logpdf(x, *o).sum() for o in others) - 1e-4


def test_a_rare_value_of_a_binary_variable_stays_rare():
    column = np.repeat([0, 1], [10, 140])[:, None]  # bins from 0 to 1 would put both into one
    for law in ("sse", "empirical"):
        (found,) = fit(column, [0], [1], law=law)
        assert 0.8 < found.probabilities[1] < 1 and sum(found.probabilities) == pytest.approx(1)


def test_all_means_every_continuous_family_of_scipy_but_two():
    continuous = {
        name for name in dir(stats) if isinstance(getattr(stats, name), stats.rv_continuous)
    }
    assert continuous - set(ALL) == {"levy_stable", "studentized_range"} and set(SHORT) < set(ALL)


# --------------------------------------------------------------------------- the other laws, guards


def test_a_constant_column_gives_its_value(space, rng):
    value = space.upper.copy()
    X = np.tile(value, (20, 1))
    for law in LAWS:
        marginals = fit(X, space.lower, space.upper, law=law)
        assert {m.family for m in marginals} == {"constant"}
        assert (sample(marginals, 50, rng, space, "fill") == value).all()


def test_empirical_is_the_frequencies_and_uniform_range_covers_what_was_seen(rng):
    X = columns_of(KNOWN, 150, rng)
    for column, empirical, flat in zip(
        X.T, fitted(X, law="empirical"), fitted(X, law="uniform_range"), strict=True
    ):
        np.testing.assert_allclose(empirical.probabilities, frequencies(column))
        inside = (CATEGORIES >= column.min()) & (CATEGORIES <= column.max())
        np.testing.assert_allclose(flat.probabilities, inside / inside.sum())


class Broken:
    """A family that fits the histogram perfectly, whose distribution function (`cdf`) or density is
    unusable."""

    def __init__(self, column, cdf, factor=1.0):
        self.heights = factor * histogram(column)[0]
        self.cdf = cdf

    def fit(self, x):
        return ()

    def pdf(self, centres):
        return self.heights


def no_numbers(x):
    return np.full(len(x), np.nan)


def raises(*_):
    raise ArithmeticError("diverges")


@pytest.mark.parametrize(
    ("cdf", "factor"),
    [
        (no_numbers, 1),
        (raises, 1),
        (lambda x: -x, 1),
        (lambda x: np.linspace(0.1, 0.9, len(x)), np.nan),
    ],
)
def test_a_family_with_unusable_numbers_is_passed_over(cdf, factor, rng, monkeypatch):
    X = columns_of(KNOWN[:1], 100, rng)
    monkeypatch.setattr(stats, "ksone", Broken(X[:, 0], cdf, factor))
    assert fitted(X, families=("ksone", "norm"))[0].family == "norm"
    (left,) = fitted(X, families=["ksone"])
    assert left.family == "empirical"
    np.testing.assert_allclose(left.probabilities, frequencies(X[:, 0]))


def test_families_that_cannot_be_fitted_leave_the_frequencies(rng, monkeypatch):
    X = columns_of(KNOWN[:1], 100, rng)
    monkeypatch.setattr(stats.norm, "fit", raises)
    assert fitted(X, families=("norm",))[0].family == "empirical"
    assert fitted(X, families=("norm", "expon"))[0].family == "expon"


# --------------------------------------------------------------------------- order of the variables


def test_laws_stay_with_their_variables_whatever_process_is_ready_first(rng):
    X = np.column_stack([columns_of(KNOWN[:1], 150, rng), *(np.full(150, k) for k in CATEGORIES)])
    together = fitted(X, processes=2)  # the constants are ready long before the first column
    assert together == fitted(X)
    assert [np.argmax(m.probabilities) + LOW for m in together[1:]] == CATEGORIES.tolist()


def test_a_variable_does_not_depend_on_the_others(rng):
    X = columns_of(KNOWN, 100, rng)
    assert fitted(X[:, ::-1])[::-1] == fitted(X)


# ----------------------------------------------------------------------------------------- sampling


def test_probabilities_are_those_of_rounded_and_clipped_draws(rng):
    (found,) = fitted(columns_of([stats.norm(8, 2)], 500, rng), families=("norm",))
    draws = stats.norm(*found.params).rvs(size=200_000, random_state=rng)
    clipped = np.clip(np.rint(draws), LOW, HIGH).astype(int)
    np.testing.assert_allclose(frequencies(clipped), found.probabilities, atol=0.005)


@pytest.mark.parametrize("repair", ["push", "fill"])
def test_samples_follow_the_marginals_and_are_repaired(space, rng, repair):
    best = space.sample_genotypes(150, rng, by="architecture")
    marginals = fit(best, space.lower, space.upper)
    X = sample(marginals, 20_000, rng, space, repair)
    assert X.dtype == np.int64 and np.array_equal(X, space.repair(space.genotypes(X), repair))
    kept = [
        v for v in range(space.n_var) if space.lower[v] or v < space.first
    ]  # those that repair does not move
    for v in kept:
        seen = np.bincount(X[:, v] - space.lower[v], minlength=space.categories[v]) / len(X)
        np.testing.assert_allclose(seen, marginals[v].probabilities, atol=0.02)


def test_samples_are_seeded_and_marginals_survive_json(space):
    best = space.sample_genotypes(50, np.random.default_rng(1))
    marginals = fit(best, space.lower, space.upper)
    again = [Marginal(*row) for row in json.loads(json.dumps(marginals))]
    first, second = (
        sample(m, 20, np.random.default_rng(3), space, "fill") for m in (marginals, again)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, sample(marginals, 20, np.random.default_rng(4), space, "fill"))


def test_nothing_touches_the_global_generator(space, rng):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    X = columns_of(KNOWN, 60, rng)
    fitted(X, families=("norm", "beta", "gamma"))
    sample(fit(space.sample_genotypes(30, rng), space.lower, space.upper), 5, rng, space)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"law": "best"}, "law 'best'.*sse"),
        ({"families": "most"}, "'most'.*short, all"),
        ({"families": ("norm", "cauchi")}, "'cauchi'"),
        ({"families": []}, "short, all"),
        ({"X": np.zeros((0, 2), int)}, "at least one row"),
        ({"X": np.full((4, 2), 12)}, "inside the bounds"),
        ({"X": np.ones((4, 3), int)}, r"\(4, 3\) for 2 variables"),
        ({"X": np.full((4, 2), 1.5)}, "whole numbers"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, told):
    with pytest.raises(Refusal, match=told) as caught:
        fit(**{"X": np.ones((4, 2), int), "lower": [1, 1], "upper": [9, 9], **change})
    assert "\n" not in str(caught.value)


def test_distributions_of_another_space_are_refused(space, rng):
    other = Space("EE_P", base_channels=(16, 24, 40))
    marginals = fit(space.encode([space.largest, space.smallest]), space.lower, space.upper)
    with pytest.raises(Refusal, match="fit them"):
        sample(marginals, 3, rng, other)
    with pytest.raises(Refusal, match="fit them"):
        sample(marginals[:-1], 3, rng, space)
