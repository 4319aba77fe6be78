"""The search without a network: a formula for the errors, fronts known exactly, runs repeated and
resumed."""

from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pytest

from nat_lib.arch import Space
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.search import pareto
from nat_lib.search.archive import VERSIONS, Budget, Iteration, Version, distinct, initial, renew
from nat_lib.search.candidates import propose, select_subset, unevenness
from nat_lib.search.guided import nat
from nat_lib.search.task import Task

TWO_STAGES = Space("BASE", resolutions=(48, 64), base_channels=(8, 8, 8))  # 2 * 2 * 7371^2 subnets
EXITS = Space("EE_DP", resolutions=(48, 64), base_channels=(8, 8, 8))
SMALL = Version("integer", "architecture", "fill", 1, 40, 10, "replace", "fixed", "last")
QUICK = Budget(
    iterations=3, top=15, population=20, generations=5, subset_population=30, subset_generations=10
)


class Formula:
    """Errors and costs of genotypes as sums over their variables: the supernet, and a perfect
    predictor of it.

    table : (V, codes, M), what every value of every variable adds to every objective;  base : (M,)
    """

    name, note = "formula", ""

    def __init__(self, table, base):
        self.table, self.base, self.seen = table, np.asarray(base, float), []
        self.costs = [lambda X, k=k: self.scores(X)[:, k] for k in range(1, table.shape[2])]

    def scores(self, X):
        """(n, M) at the present weights."""
        return self.base + self.table[np.arange(X.shape[1]), X].sum(axis=1)

    def predict(self, X):
        self.seen.append(X.copy())
        return self.scores(X)[:, 0]

    def fit(self, X, errors, rng):
        return self

    def task(self, space, version, budget=None, seed=0, adapt=lambda X, number: None, **more):
        """The `Task` of a search of this formula; `more` replaces its fields."""
        known = space, self.scores, adapt, self.fit, self.costs
        task = Task(*known, version, budget or QUICK, seed, cheap=lambda X, share: self.scores(X))
        return task._replace(**more)

    def run(self, space, version, budget, seed=0, start=None, **more):
        return list(nat(self.task(space, version, budget, seed, **more), start))


def any_formula(space, M, seed=0):
    """Random sums; the more a value saves in error the more it costs, roughly."""
    rng = np.random.default_rng(seed)
    size = np.linspace(0, 1, space.n_codes + 1)[:, None]
    table = rng.uniform(0, 1, (space.n_var, space.n_codes + 1, M)) + size * [-1, 1, 1, 1][:M]
    return Formula(table, [60, 5, 8, 3][:M])


def stepped_formula(M):
    """Coarse sums on TWO_STAGES with few distinct fronts; most variables are only worth their
    smallest value."""
    kernel, expand, _ = TWO_STAGES.code_table.T
    used = (np.arange(10) > 0) * 1.0
    K, E = used * (kernel - 3) / 2, used * np.searchsorted((3, 4, 6), expand)
    saved = np.zeros((2, 4, 10)) + 2 * used
    saved[1] += used
    saved[0, 0] += 2 * K
    saved[0, 1] += E
    saved[1, 1] += 3 * E
    cost = np.zeros((2, 4, 10)) + 3 * used + E
    cost[1] += 2 * used
    other = np.zeros((2, 4, 10)) + 2 * used + K
    table = np.zeros((10, 10, 3))
    table[2:] = np.stack([-saved, cost, other], axis=-1).reshape(8, 10, 3)
    table[0, 1], table[1, 1] = (0, 1, 1), (-1, 4, 5)
    return Formula(table[..., :M], [80, 10, 10][:M])


def true_front(formula, space):
    """All distinct objective values on the front, by combining the fronts of the parts: sums keep
    dominance."""

    def best(F):
        F = np.unique(F, axis=0)
        return F[pareto.front(F)]

    blocks = np.array(
        [
            c
            for c in product(range(space.n_codes + 1), repeat=4)
            if c[0] and c[1] and (c[2] or not c[3])
        ]
    )
    parts = [formula.table[v, : space.upper[v] + 1] for v in range(space.first)]
    parts += [
        formula.table[np.arange(lo, lo + 4), blocks].sum(axis=1)
        for lo in range(space.first, space.n_var, 4)
    ]
    total = formula.base[None]
    for part in parts:
        total = best((total[:, None] + best(part)[None]).reshape(-1, len(formula.base)))
    return total


def rows(F):
    return {tuple(row) for row in np.asarray(F).tolist()}


def same(a, b):
    """Two iterations are equal to the bit."""
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(a[:8], b[:8], strict=True)
    ) and (a.predictor == b.predictor and repr(a.quality) == repr(b.quality))


# ---------------------------------------------------------------------------------- the four phases


def test_the_phases_score_as_many_subnets_as_in_the_thesis():
    total = {
        p: v.multiplier * v.archive + Budget().iterations * v.candidates
        for p, v in VERSIONS.items()
    }
    assert total == {1: 100 + 30 * 8, 2: 300 + 750, 3: 3000 + 750, 4: 3000 + 750}
    assert Budget() == (30, 150, 100, 20, 500, 200)
    assert [VERSIONS[p][:3] for p in (1, 2, 3, 4)] == [("one_hot", "search", "push")] + [
        ("integer", "architecture", "fill")
    ] * 3
    assert [v.policy for v in VERSIONS.values()] == ["append", "replace", "replace", "replace"]
    assert [v.teacher for v in VERSIONS.values()] == ["fixed", "fixed", "fixed", "pet"]


# -------------------------------------------------------------------------------- the first archive


@pytest.mark.parametrize("space", [TWO_STAGES, EXITS], ids=["BASE", "EE_DP"])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_the_first_archive_holds_distinct_subnets_and_both_extremes(space, multiplier):
    formula, scored = any_formula(space, 2), []

    def evaluate(X):
        scored.append(len(X))
        return formula.scores(X)

    X, F = initial(space, SMALL._replace(multiplier=multiplier), evaluate, np.random.default_rng(1))
    assert len(X) == 40 and sum(scored) == 40 * multiplier
    assert len(distinct(space, X)) == 40 and np.array_equal(F, formula.scores(X))
    assert np.array_equal(X[-2:], [space.lower, space.upper])
    assert space.decode(X[-2:]) == [space.smallest, space.largest]


def test_a_multiplier_keeps_the_best_of_the_samples():
    formula, every = any_formula(TWO_STAGES, 1), []
    _, F = initial(
        TWO_STAGES,
        SMALL._replace(multiplier=5),
        lambda X: every.append(X) or formula.scores(X),
        np.random.default_rng(1),
    )
    assert set(F[:-2, 0]) == set(np.sort(formula.scores(every[0])[:, 0])[:38])


def test_the_first_archive_follows_the_sampling_law_of_the_phase():
    def deepest(phase, **more):
        version, scores = (
            VERSIONS[phase]._replace(archive=1500, multiplier=1),
            any_formula(TWO_STAGES, 1).scores,
        )
        X, _ = initial(TWO_STAGES, version, scores, np.random.default_rng(0), **more)
        return np.mean([a.depth for a in TWO_STAGES.decode(X)] == np.array(4))

    assert deepest(1) == pytest.approx(
        0.81, abs=0.03
    )  # thesis 3.3.4: every variable uniform, pushed
    assert deepest(2) == pytest.approx(1 / 3, abs=0.03)  # thesis 6.2.3: depths evenly distributed
    assert deepest(2, depth_prior="author") == pytest.approx(4 / 9, abs=0.03)


def test_an_archive_larger_than_the_space_is_refused():
    tiny = Space("BASE", resolutions=(48,), widths=(1.0,), base_channels=(8, 8))
    with pytest.raises(Refusal, match="smaller archive or multiplier"):
        initial(
            tiny,
            SMALL._replace(archive=8000),
            any_formula(tiny, 1).scores,
            np.random.default_rng(0),
        )
    with pytest.raises(Refusal, match="at least 3"):
        initial(
            tiny, SMALL._replace(archive=2), any_formula(tiny, 1).scores, np.random.default_rng(0)
        )


# --------------------------------------------------------------------------- archive and candidates


def test_an_archive_of_constant_size_keeps_it_and_has_no_copies():
    formula, rng = any_formula(EXITS, 2), np.random.default_rng(0)
    X = EXITS.sample_genotypes(60, rng, "architecture")
    X[:, 2] = 0  # exit 1: the second stage does not matter
    other = X.copy()
    other[:, EXITS.first + 4 :] = EXITS.upper[EXITS.first + 4 :]
    X, other = X[:40], other[30:]  # ten copies in other words
    new, F = renew(EXITS, SMALL, X, formula.scores(X), other, formula.scores(other), rng)
    assert (
        len(new) == 40
        and len(distinct(EXITS, new)) == 40
        and np.array_equal(F, formula.scores(new))
    )
    grown, _ = renew(
        EXITS,
        SMALL._replace(policy="append"),
        X,
        formula.scores(X),
        other,
        formula.scores(other),
        rng,
    )
    assert len(grown) == 60 and np.array_equal(grown, np.concatenate([X, other[10:]]))


def test_copies_leave_before_survival_and_take_no_place():
    formula, rng = any_formula(TWO_STAGES, 1), np.random.default_rng(0)
    X = TWO_STAGES.sample_genotypes(50, rng)
    best = X[[formula.scores(X)[:, 0].argmin()]].repeat(30, axis=0)
    new, F = renew(TWO_STAGES, SMALL, X, formula.scores(X), best, formula.scores(best), rng)
    assert set(F[:, 0]) == set(np.sort(formula.scores(X)[:, 0])[:40]) and len(new) == 40


@pytest.mark.parametrize("repair", ["push", "fill"])
@pytest.mark.parametrize("crossover", ["uniform", "two_point"])
def test_whatever_is_predicted_costed_or_proposed_is_a_repaired_genotype(repair, crossover):
    formula, rng, costed = any_formula(EXITS, 2), np.random.default_rng(0), []
    version = SMALL._replace(repair=repair)
    X, F = initial(EXITS, version, formula.scores, rng)
    costs = [lambda X: costed.append(X) or formula.scores(X)[:, 1]]
    found = propose(EXITS, formula.predict, X, F, costs, version, QUICK, rng, crossover)
    for part in (*formula.seen, *costed, found):
        assert (
            np.array_equal(EXITS.repair(EXITS.genotypes(part), repair), part)
            and part.dtype == np.int64
        )
    head = np.concatenate(formula.seen)[:, : EXITS.first]
    assert np.array_equal([head.min(axis=0), head.max(axis=0)], [EXITS.lower[:3], EXITS.upper[:3]])


@pytest.mark.parametrize("M", [1, 2, 3])
def test_candidates_are_new_and_differ_where_it_matters(M):
    """Whatever follows the exit is no difference: such a subnet was scored already."""
    formula, rng = any_formula(EXITS, M), np.random.default_rng(2)
    formula.table[EXITS.first + 4 :] = 0  # as if nobody ever left by the second exit
    formula.table[2] = np.array([-20, 0, 0])[:M] * [[1]] + np.arange(64)[:, None]
    X, F = initial(EXITS, SMALL, formula.scores, rng)
    for _ in range(4):
        found = propose(EXITS, formula.predict, X, F, formula.costs, SMALL, QUICK, rng)
        assert (found[:, 2] == 0).any()  # the case at hand does occur
        both = np.concatenate([X, found])
        assert len(distinct(EXITS, both)) == len(both) and len(found) <= SMALL.candidates
        X, F = both, formula.scores(both)


def test_a_space_that_is_all_known_gives_no_candidates_and_the_run_goes_on():
    tiny = Space("BASE", resolutions=(64,), widths=(1.0,), base_channels=(8, 8))
    blocks = [c for c in product(range(10), repeat=4) if c[0] and c[1] and (c[2] or not c[3])]
    X = np.array([(0, 0, *c) for c in blocks])
    assert len(X) == tiny.size
    formula = any_formula(tiny, 2)
    whole = Iteration(0, X, formula.scores(X), np.array([90.0, 90.0]))
    first, second = formula.run(
        tiny, SMALL._replace(archive=len(X)), QUICK._replace(iterations=2), start=whole
    )
    assert (
        first.candidates.shape == (0, tiny.n_var)
        and first.measured.shape == (0, 2)
        and len(first.predicted) == 0
    )
    assert np.isnan(list(first.quality.values())).all() and len(second.X) == len(X)


@pytest.mark.parametrize(("repair", "shallow"), [("push", 0.01), ("fill", 0.10)])
def test_the_first_population_favours_no_value_and_is_repaired_as_the_phase_says(repair, shallow):
    """Rounding a Latin hypercube on the plain bounds would halve the share of the smallest and
    largest values."""
    formula, first, version = any_formula(TWO_STAGES, 2), [], SMALL._replace(repair=repair)
    X, F = initial(TWO_STAGES, version, formula.scores, np.random.default_rng(0))
    for seed in range(20):
        formula.seen.clear()
        propose(
            TWO_STAGES,
            formula.predict,
            X,
            F,
            formula.costs,
            version,
            QUICK._replace(population=90, generations=1),
            np.random.default_rng(seed),
        )
        first.append(formula.seen[0])
    first = np.concatenate(first)
    share = np.bincount(first[:, TWO_STAGES.first], minlength=10)[1:] / len(first)
    assert share == pytest.approx(np.full(9, 1 / 9), abs=0.02)
    assert (first[:, TWO_STAGES.first + 2] == 0).mean() == pytest.approx(
        shallow, abs=0.02
    )  # two blocks deep


# -------------------------------------------------------------------------------- choosing a subset


def slow_unevenness(archive, candidates, members):
    """The definition: the largest, over the objectives, of the standard deviation of the gaps of
    the union."""
    if archive.shape[1] > 1:
        both = np.concatenate([archive, candidates])
        archive, candidates = (pareto.unit(c, like=both) for c in (archive, candidates))
    union = np.concatenate([archive, candidates[members]])
    return max(np.diff(np.sort(cost)).std() for cost in union.T)


@pytest.mark.parametrize("costs", [1, 2, 3])
@pytest.mark.parametrize("a", [1, 2, 30])
def test_unevenness_is_its_definition(costs, a):
    rng = np.random.default_rng(a)
    for _ in range(20):
        archive, candidates = (
            rng.integers(0, 30, (a, costs)) / 4,
            rng.integers(-9, 40, (25, costs)) / 4,
        )
        members = np.array([rng.choice(25, 6, replace=False) for _ in range(8)])
        wanted = [slow_unevenness(archive, candidates, m) for m in members]
        np.testing.assert_allclose(unevenness(archive, candidates)(members), wanted, atol=1e-7)


@pytest.mark.parametrize("costs", [1, 2])
def test_the_subset_is_the_most_even_one(costs):
    rng = np.random.default_rng(7)
    archive, candidates, predicted = rng.random((6, costs)), rng.random((12, costs)), rng.random(12)
    best = min(slow_unevenness(archive, candidates, list(s)) for s in combinations(range(12), 4))
    found = select_subset(archive, candidates, predicted, 4, rng, 100, 40)
    assert slow_unevenness(archive, candidates, found) == pytest.approx(best)


def test_a_subset_has_k_members_or_all_there_are():
    rng = np.random.default_rng(0)
    for P, k, costs in product((1, 5, 6, 7, 30, 200), (1, 5, 6), (0, 1, 3)):
        found = select_subset(
            rng.random((9, costs)), rng.random((P, costs)), rng.random(P), k, rng, 20, 6
        )
        assert (
            found.tolist() == sorted(set(found.tolist()))
            and len(found) == min(P, k)
            and set(found) <= set(range(P))
        )
        assert P > k or found.tolist() == list(range(P))


def test_equal_costs_do_not_stop_the_choice():
    rng = np.random.default_rng(0)
    assert len(select_subset(np.ones((4, 2)), np.ones((20, 2)), rng.random(20), 5, rng, 20, 5)) == 5


def test_without_costs_the_smallest_predicted_errors_are_chosen():
    predicted, none = np.array([5.0, 1, 4, 1, 3, 2]), np.empty((6, 0))
    assert select_subset(none, none, predicted, 3, np.random.default_rng(0)).tolist() == [1, 3, 5]


def test_the_units_of_the_costs_do_not_decide():
    rng = np.random.default_rng(0)
    archive, candidates, predicted = rng.random((20, 2)), rng.random((60, 2)), rng.random(60)
    found = [
        select_subset(
            archive * u, candidates * u, predicted, 10, np.random.default_rng(1), 60, 30
        ).tolist()
        for u in ([1, 1], [1024, 1 / 1024])
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("M", [1, 2, 3])
def test_candidates_are_a_subset_of_what_was_found(M):
    """Chosen beside the front of the archive, cost by cost in the same order."""
    formula, rng = any_formula(TWO_STAGES, M), np.random.default_rng(0)
    X, F = initial(TWO_STAGES, SMALL, formula.scores, rng)
    budget = QUICK._replace(population=40, subset_population=60, subset_generations=40)
    found, candidates = (
        propose(
            TWO_STAGES,
            formula.predict,
            X,
            F,
            formula.costs,
            SMALL._replace(candidates=k),
            budget,
            np.random.default_rng(3),
        )
        for k in (40, 6)
    )
    assert len(found) > 30 and len(candidates) == 6 and rows(candidates) <= rows(found)
    rng = np.random.default_rng(3)
    rng.integers(2**31)  # the seed of the genetic algorithm
    scores = formula.scores(found)
    chosen = select_subset(F[pareto.front(F), 1:], scores[:, 1:], scores[:, 0], 6, rng, 60, 40)
    assert np.array_equal(candidates, found[chosen])


@pytest.mark.parametrize("M", [2, 3])
def test_the_units_of_the_costs_do_not_decide_what_is_found(M):
    formula = any_formula(TWO_STAGES, M)
    X, _ = initial(TWO_STAGES, SMALL, formula.scores, np.random.default_rng(0))
    small = Formula(formula.table * [1, 2**-14, 2**-14][:M], formula.base * [1, 2**-14, 2**-14][:M])
    for seed in range(4):
        found = [
            propose(
                TWO_STAGES,
                f.predict,
                X,
                f.scores(X),
                f.costs,
                SMALL,
                QUICK._replace(generations=10),
                np.random.default_rng(seed),
            )
            for f in (formula, small)
        ]
        assert np.array_equal(*found)


# --------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("M", "points", "seed"), [(2, 16, 0), (2, 16, 1), (3, 28, 0)])
def test_the_search_finds_the_front_of_a_space_small_enough_to_combine(M, points, seed):
    """NSGA-II and NSGA-III, from 60 of 2.2e8 subnets, with the formula itself as predictor."""
    formula = stepped_formula(M)
    wanted = true_front(formula, TWO_STAGES)
    assert len(wanted) == points
    budget = Budget(
        iterations=8,
        top=60,
        population=60,
        generations=60,
        subset_population=60,
        subset_generations=40,
    )
    version = SMALL._replace(archive=60, candidates=25)
    steps = nat(formula.task(TWO_STAGES, version, budget, seed))
    assert len(rows(wanted) & rows(next(steps).F)) < points / 4  # nothing that sampling finds
    assert any(rows(it.F[pareto.front(it.F)]) == rows(wanted) for it in steps)


def test_combining_parts_gives_the_front_of_the_listed_space():
    tiny = Space("BASE", resolutions=(48, 64), base_channels=(8, 8))
    blocks = [c for c in product(range(10), repeat=4) if c[0] and c[1] and (c[2] or not c[3])]
    X = np.array([(r, w, *c) for r in (0, 1) for w in (0, 1) for c in blocks])
    formula = stepped_formula(3)
    formula.table = formula.table[:6]
    F = np.unique(formula.scores(X), axis=0)
    assert rows(true_front(formula, tiny)) == rows(F[pareto.front(F)])


@pytest.mark.parametrize("M", [1, 2, 3, 4])
@pytest.mark.parametrize("phase", [1, 2])
def test_the_same_seed_gives_the_same_run_and_another_seed_another(M, phase):
    version = VERSIONS[phase]._replace(archive=30, candidates=6)
    runs = [any_formula(EXITS, M).run(EXITS, version, QUICK, seed) for seed in (0, 0, 1)]
    assert [it.number for it in runs[0]] == [0, 1, 2, 3]
    assert all(same(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not np.array_equal(runs[0][0].X, runs[2][0].X) and not np.array_equal(
        runs[0][3].X, runs[2][3].X
    )
    sizes = [len(it.X) for it in runs[0]]
    assert sizes == (
        [30] * 4
        if phase == 2
        else np.cumsum([30] + [len(it.candidates) for it in runs[0][1:]]).tolist()
    )
    for it in runs[0]:
        assert it.F.shape == (len(it.X), M) and 0 < it.hypervolume < 1


def test_a_run_depends_on_no_global_generator_and_changes_none():
    import random

    runs = []
    for noise in (1, 2):
        np.random.seed(noise)  # noqa: NPY002
        random.seed(noise)
        before = np.random.get_state(), random.getstate()  # noqa: NPY002
        runs.append(any_formula(TWO_STAGES, 3).run(TWO_STAGES, SMALL, QUICK))
        after = np.random.get_state(), random.getstate()  # noqa: NPY002
        assert (
            before[1] == after[1]
            and before[0][2] == after[0][2]
            and (before[0][1] == after[0][1]).all()
        )
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("M", [1, 2, 3])
def test_every_iteration_starts_from_another_random_state(M):
    """Also where fitting, as in the published code, would leave every iteration with the same
    generator."""
    formula, drawn = any_formula(TWO_STAGES, M), []

    def fit(X, errors, rng):
        drawn.append(rng.random())
        return formula

    starts = []
    for _ in nat(formula.task(TWO_STAGES, SMALL, fit=fit)):
        starts += [formula.seen[0].tobytes()] if formula.seen else []
        formula.seen.clear()
    assert len(set(starts)) == 3 and len(set(drawn)) == 3


@pytest.mark.parametrize("M", [1, 2, 3])
@pytest.mark.parametrize("phase", [1, 2])
def test_a_resumed_run_is_the_straight_run(M, phase):
    """Weights drift, so that scores and the maxima of the archive move; the reference point does
    not."""
    version, budget = (
        VERSIONS[phase]._replace(archive=30, candidates=6),
        QUICK._replace(iterations=4),
    )

    def run(start=None):
        formula = any_formula(TWO_STAGES, M)

        def adapt(X, number):
            formula.table[..., 0] = any_formula(TWO_STAGES, 1, seed=number).table[..., 0]

        adapt(None, start.number if start else 0)
        return formula.run(TWO_STAGES, version, budget, adapt=adapt, start=start)

    straight = run()
    for stop in (0, 2, 3):
        left = Iteration(*straight[stop][:4])  # what a file of the archive gives back
        resumed = run(left)
        assert [it.number for it in resumed] == list(range(stop + 1, 5))
        assert all(same(a, b) for a, b in zip(straight[stop + 1 :], resumed, strict=True))
        if stop:
            assert not np.array_equal(1.01 * left.F.max(axis=0), straight[0].reference)
    for it in straight:
        assert np.array_equal(it.reference, 1.01 * straight[0].F.max(axis=0))
        assert it.hypervolume == pareto.hypervolume(it.F, straight[0].reference)


def test_an_iteration_measures_again_after_the_adaptation():
    """Candidates are scored at the old weights, the archive at the new ones; the callee sees the
    survivors."""
    formula, told = any_formula(TWO_STAGES, 2), []

    def adapt(X, number):
        told.append((number, X))
        formula.base[0] -= 1

    first, *later = formula.run(TWO_STAGES, SMALL, QUICK, adapt=adapt)
    assert [number for number, _ in told] == [1, 2, 3]
    for (_, X), before, it in zip(told, [first, *later], later, strict=False):
        at_first = any_formula(TWO_STAGES, 2).scores
        np.testing.assert_allclose(it.F[:, 0], at_first(it.X)[:, 0] - it.number)
        np.testing.assert_allclose(it.measured[:, 0], at_first(it.candidates)[:, 0] - before.number)
        assert len(X) == QUICK.top and rows(X) <= rows(it.X) <= rows(before.X) | rows(it.candidates)
        assert (
            it.quality["spearman"] == pytest.approx(1) and it.quality["rmse"] == 0
        )  # predicted at those weights
        front = it.X[pareto.front(it.F)]
        assert rows(front) <= rows(X) or len(front) > QUICK.top
        assert it.predictor == ("formula", "")


@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_hypervolume_never_falls_while_the_weights_stay(M):
    """The archive is large enough for its front; one that is not must give up some of it."""
    run = any_formula(EXITS, M).run(
        EXITS, SMALL._replace(policy="append"), QUICK._replace(iterations=5)
    )
    volumes = [it.hypervolume for it in run]
    assert (np.diff(volumes) >= 0).all() and volumes[-1] > volumes[0]
    if M < 3:
        run = any_formula(EXITS, M).run(
            EXITS, SMALL._replace(archive=80), QUICK._replace(iterations=5)
        )
        assert all(pareto.front(it.F).sum() < 80 for it in run)
        assert (np.diff([it.hypervolume for it in run]) >= 0).all()


def test_a_run_for_accuracy_alone_ends_at_the_best_subnet():
    formula = stepped_formula(1)
    budget = Budget(iterations=3, top=10, population=40, generations=40)
    last = formula.run(TWO_STAGES, SMALL, budget)[-1]
    best = true_front(formula, TWO_STAGES).item()
    assert last.F.shape == (40, 1) and last.F.min() == best
    assert last.hypervolume == pytest.approx(1 - best / last.reference[0])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_every_column_belongs_to_the_cost_in_its_place(order):
    """Real costs in very different units; the columns of what is proposed, measured and kept are
    those of `costs`."""
    formula = any_formula(TWO_STAGES, 1)
    named = [
        lambda X: count(X, TWO_STAGES).params.to_numpy() / 1e6,
        lambda X: count(X, TWO_STAGES).macs_tp.to_numpy() / 1e6,
        lambda X: X.sum(axis=1) / 100.0,
    ]
    costs = [named[i] for i in order]

    def evaluate(X):
        return np.column_stack([formula.scores(X), *(c(X) for c in costs)])

    for it in nat(formula.task(TWO_STAGES, SMALL, evaluate=evaluate, costs=costs)):
        for part, F in ((it.X, it.F), (it.candidates, it.measured)):
            assert all(np.array_equal(F[:, 1 + k], cost(part)) for k, cost in enumerate(costs))


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("F", "what"),
    [
        (lambda n: np.ones((n, 3)), "the error and the 1 costs"),
        (lambda n: np.ones((n - 1, 2)), "returned shape"),
        (lambda n: np.full((n, 2), np.nan), "objective 0 of subnet 0 is nan"),
    ],
)
def test_scores_that_do_not_fit_are_refused(F, what):
    formula = any_formula(TWO_STAGES, 2)
    with pytest.raises(Refusal, match=what):
        next(nat(formula.task(TWO_STAGES, SMALL, evaluate=lambda X: F(len(X)))))


def test_an_archive_of_another_run_and_an_unknown_crossover_are_refused():
    formula = any_formula(TWO_STAGES, 2)
    start = next(nat(formula.task(TWO_STAGES, SMALL)))
    for wrong in (start._replace(F=start.F[:, :1]), start._replace(X=start.X[:-1])):
        with pytest.raises(Refusal, match="this very run"):
            formula.run(TWO_STAGES, SMALL, QUICK, start=wrong)
    with pytest.raises(Refusal, match="uniform or two_point"):
        formula.run(TWO_STAGES, SMALL, QUICK, start=start, crossover="one_point")


def test_the_name_and_note_of_a_fallback_are_kept():
    formula = any_formula(TWO_STAGES, 2)
    used = SimpleNamespace(predict=formula.predict, name="Ridge", note="LGBM predicts a constant")
    budget = QUICK._replace(iterations=1)
    it = list(nat(formula.task(TWO_STAGES, SMALL, budget, fit=lambda X, errors, rng: used)))[1]
    assert it.predictor == ("Ridge", "LGBM predicts a constant")


# ------------------------------------------------------------------------------ degenerate ranges


@pytest.mark.parametrize("M", [1, 2, 3, 4])
@pytest.mark.parametrize("flat", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("value", [0.0, 37.5])
def test_objectives_that_do_not_vary_work(M, flat, value):
    """A perfect archive, whose errors are all 0, and costs that all subnets share."""
    formula = any_formula(EXITS, M)
    for k in flat[:M]:
        if k < M:
            formula.table[..., k], formula.base[k] = 0, value
    for version in (SMALL, SMALL._replace(policy="append")):
        steps = formula.run(EXITS, version, QUICK)
        assert all(0 < step.hypervolume <= 1 for step in steps)
        assert (steps[0].reference > 0).all() and all(len(s.candidates) for s in steps[1:])
    front = steps[-1].F[pareto.front(steps[-1].F)]
    assert len(pareto.high_tradeoff(front, 4)) == min(4, len(front))


def test_a_negative_objective_is_refused_before_anything_is_trained():
    formula = any_formula(EXITS, 2)
    formula.base[1] = -50
    trained = []
    with pytest.raises(Refusal, match=r"objective 1 is negative.*0 or more"):
        formula.run(EXITS, SMALL, QUICK, adapt=lambda X, number: trained.append(number))
    assert not trained
