"""Dominance, survival, hypervolume and high-tradeoff points, against brute force and by hand."""

import warnings

import numpy as np
import pytest

from nat_lib.errors import Refusal
from nat_lib.search.pareto import (
    crowding,
    directions,
    front,
    high_tradeoff,
    hypervolume,
    survive,
    unit,
)

TOY = np.array(
    [
        [1, 9],
        [2, 6],
        [3, 5],
        [4, 4],
        [9, 1],  # the front; its most crowded member is the third
        [2, 9],
        [5, 5],
        [9, 2],  # rank 1
        [9, 9],
    ],
    dtype=float,
)  # rank 2


@pytest.fixture
def rng():
    return np.random.default_rng(20230700)


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


def ranks(F):
    """Non-dominated rank of every row, by peeling fronts off."""
    rank, left = np.full(len(F), -1), set(range(len(F)))
    while left:
        best = {i for i in left if not any(dominates(F[j], F[i]) for j in left)}
        rank[list(best)] = rank.max() + 1
        left -= best
    return rank


def a_front(n, M, rng):
    """n mutually non-dominated rows: points of a sphere's inside."""
    F = np.abs(rng.normal(size=(n, M)))
    return 1 - F / np.linalg.norm(F, axis=1, keepdims=True)


# ------------------------------------------------------------------------------ dominance, crowding


@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_the_front_is_what_nothing_dominates(M, rng):
    for _ in range(20):
        F = rng.integers(0, 6, (30, M)).astype(float)  # many equal rows
        assert (front(F) == [not any(dominates(a, b) for a in F) for b in F]).all()


def test_equal_rows_are_all_in_the_front():
    assert front([[1, 2], [1, 2], [2, 1], [2, 2]]).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("F", "what"),
    [
        ([[1.0, np.nan]], "objective 1 of subnet 0"),
        ([[np.inf]], "objective 0"),
        ([1.0, 2.0], "shape"),
        (np.empty((3, 0)), "shape"),
    ],
)
def test_values_that_no_objective_can_have_are_refused(F, what, rng):
    for call in (
        front,
        crowding,
        high_tradeoff,
        lambda F: survive(F, 1, rng),
        lambda F: hypervolume(F, [1.0]),
    ):
        with pytest.raises(Refusal, match=what):
            call(F)


def test_crowding_by_hand():
    F = np.array([[0, 10], [1, 6], [4, 4], [10, 0]], dtype=float)
    assert crowding(F).tolist() == pytest.approx([np.inf, (0.4 + 0.6) / 2, (0.9 + 0.6) / 2, np.inf])
    order = [2, 0, 3, 1]
    assert crowding(F[order]).tolist() == pytest.approx(crowding(F)[order].tolist())
    assert crowding(F * [1000, 0.001] + [5, 7]) == pytest.approx(crowding(F))


def test_of_equal_rows_one_stands_for_all():
    F = np.array([[0, 10], [1, 6], [1, 6], [4, 4], [10, 0], [10, 0]], dtype=float)
    once = crowding(F[[0, 1, 3, 4]])
    assert crowding(F).tolist() == pytest.approx([once[0], once[1], 0, once[2], once[3], 0])
    assert crowding(F[:1]).tolist() == [np.inf]


def test_unit_puts_every_objective_between_0_and_1():
    F = np.array([[2.0, 5.0, 7.0], [4.0, 6.0, 7.0]])
    assert unit(F).tolist() == [[0, 0, 0], [1, 1, 0]]
    assert unit(F, like=F - [2, 0, 0]).tolist() == [[1, 0, 0], [2, 1, 0]]


# ----------------------------------------------------------------------------------------- survival


@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_survivors_are_as_many_as_asked_and_no_better_rank_leaves_before_a_worse_one(M, rng):
    F = rng.integers(0, 12, (40, M)).astype(float)
    rank = ranks(F)
    for n in (1, 2, 3, 7, 12, 39):
        kept = survive(F, n, rng)
        assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == n
        gone = np.setdiff1d(np.arange(len(F)), kept)
        assert rank[kept].max() <= rank[gone].min()


@pytest.mark.parametrize("M", [1, 2, 3])
def test_no_more_than_asked_all_stay(M, rng):
    F = rng.random((6, M))
    for n in (6, 7, 100):
        assert survive(F, n, rng).tolist() == list(range(6))


def test_one_objective_keeps_the_smallest_errors(rng):
    assert survive([[5.0], [1.0], [3.0], [1.0], [9.0]], 3, rng).tolist() == [1, 2, 3]


def test_two_objectives_keep_the_ends_and_lose_the_crowded(rng):
    assert survive(TOY, 5, rng).tolist() == [0, 1, 2, 3, 4]
    assert survive(TOY, 4, rng).tolist() == [0, 1, 3, 4]  # the third is the most crowded
    assert survive(TOY, 2, rng).tolist() == [0, 4]
    assert survive(TOY, 7, rng).tolist() == [0, 1, 2, 3, 4, 5, 7]  # the ends of the next rank
    for n in (2, 5, 20):
        F = a_front(40, 2, rng)
        assert set(F.argmin(axis=0)) <= set(survive(F, n, rng))


def test_equally_crowded_rows_leave_at_random():
    line = np.column_stack([np.arange(11.0), 10 - np.arange(11.0)])
    drawn = {tuple(survive(line, 6, np.random.default_rng(seed))) for seed in range(20)}
    assert len(drawn) > 10 and all({0, 10} <= set(kept) for kept in drawn)
    assert (
        survive(line, 6, np.random.default_rng(3)).tolist()
        == survive(line, 6, np.random.default_rng(3)).tolist()
    )


def test_copies_leave_first(rng):
    F = a_front(10, 2, rng)
    kept = survive(np.concatenate([F, F]), 10, rng)
    assert len(np.unique(np.concatenate([F, F])[kept], axis=0)) == 10


def test_three_objectives_spread_the_survivors_over_the_front(rng):
    """Their nearest neighbours among themselves are farther away than those of as many drawn at
    random."""
    F = a_front(300, 3, rng)

    def nearest(rows):
        d = np.linalg.norm(F[rows][:, None] - F[rows][None], axis=2) + 9 * np.eye(len(rows))
        return d.min(axis=1).mean()

    assert nearest(survive(F, 20, rng)) > 1.25 * np.mean(
        [nearest(rng.choice(300, 20, False)) for _ in range(50)]
    )


@pytest.mark.parametrize("M", [2, 3, 4])
def test_the_units_of_the_objectives_do_not_decide_who_survives(M, rng):
    units = np.array([30, 1e-4, 5e-3, 5.0])[
        :M
    ]  # counts of small networks in millions are that small
    for seed in range(30):
        F = a_front(60, M, rng)
        kept = [
            survive(G, 12, np.random.default_rng(seed)).tolist() for G in (F, F * units + units)
        ]
        assert kept[0] == kept[1]


def test_survival_leaves_the_global_generator_and_the_warning_filters_alone(rng):
    F, filters = a_front(40, 3, rng), list(warnings.filters)
    before = np.random.get_state()  # noqa: NPY002
    kept = survive(F, 12, np.random.default_rng(0)).tolist()
    after = np.random.get_state()  # noqa: NPY002
    assert (after[1] == before[1]).all() and after[2] == before[2] and warnings.filters == filters
    np.random.random(7)  # noqa: NPY002
    assert survive(F, 12, np.random.default_rng(0)).tolist() == kept


def test_reference_directions_lie_on_the_simplex_and_are_made_once():
    one = directions(3, 20)
    assert one is directions(3, 20) and one.shape == (20, 3)
    np.testing.assert_allclose(one.sum(axis=1), 1)
    assert one.min() >= 0 and all(
        (np.abs(one - corner) < 1e-9).all(axis=1).any() for corner in np.eye(3)
    )
    apart = np.linalg.norm(one[:, None] - one[None], axis=2) + 9 * np.eye(20)
    assert apart.min() > 0.22  # 20 even points of this triangle are about 0.26 apart


# -------------------------------------------------------------------------------------- hypervolume


def test_hypervolume_is_the_number_of_dominated_cells(rng):
    for _ in range(5):
        F = rng.integers(1, 9, (12, 2)).astype(float)
        cells = sum((F <= [i, j]).all(axis=1).any() for i in range(10) for j in range(10))
        assert hypervolume(F, [10, 10]) == pytest.approx(cells / 100)
    F = rng.integers(0, 6, (9, 3)).astype(float)
    cells = sum(
        (F <= [i, j, k]).all(axis=1).any() for i in range(6) for j in range(7) for k in range(8)
    )
    assert hypervolume(F, [6, 7, 8]) == pytest.approx(cells / (6 * 7 * 8))


@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_hypervolume_of_boxes(M, rng):
    reference = rng.uniform(1, 50, M)
    assert hypervolume(reference[None] / 1.01, reference) == pytest.approx(
        (1 - 1 / 1.01) ** M
    )  # > 0
    assert hypervolume(np.zeros((1, M)), reference) == pytest.approx(1)
    half = reference / 2
    assert hypervolume([half, reference * 0.75], reference) == pytest.approx(0.5**M)
    assert hypervolume([half, half * 0 + 100], reference) == pytest.approx(
        0.5**M
    )  # beyond adds nothing
    assert hypervolume([reference * 1.2], reference) == 0


def test_hypervolume_ignores_units_and_never_falls_with_more_rows(rng):
    F, volumes = rng.random((30, 3)), []
    for n in range(1, 31):
        volumes.append(hypervolume(F[:n], [1, 1, 1]))
        assert hypervolume(F[:n] * [10, 1e-3, 1e3], [10, 1e-3, 1e3]) == pytest.approx(volumes[-1])
    assert (np.diff(volumes) >= 0).all() and volumes[-1] > volumes[0]


@pytest.mark.parametrize("reference", [[0.0, 1.0], [-1.0, 1.0], [1.0], [np.nan, 1.0]])
def test_a_reference_without_volume_is_refused(reference):
    with pytest.raises(Refusal, match="reference"):
        hypervolume([[0.5, 0.5]], reference)


# ------------------------------------------------------------------------------------ high tradeoff


def slow_tradeoff(F, radius, reduce, average, normalise):
    """Thesis eq. 3.1 to 3.3 in loops, for a front."""
    f = unit(F) if normalise else F
    n, M = f.shape
    values = []
    for i in range(n):
        d = [np.sqrt(sum((f[j, k] - f[i, k]) ** 2 for k in range(M))) for j in range(n)]
        near = [j for j in range(n) if d[j] <= radius]
        least = min(2 * M, n - 1)
        if len(near) < least:
            near = sorted(range(n), key=lambda j: d[j])[: least + 1]
        found = []
        for j in near:
            loss = [f[j, k] - f[i, k] for k in range(M) if f[j, k] > f[i, k]]
            gain = [f[i, k] - f[j, k] for k in range(M) if f[i, k] > f[j, k]]
            if loss or gain:
                found.append(
                    (sum(loss) / len(loss)) / (sum(gain) / len(gain))
                    if average
                    else sum(loss) / sum(gain)
                )
        values.append(reduce(found))
    return np.array(values)


@pytest.mark.parametrize("M", [2, 3, 4])
@pytest.mark.parametrize("reduce", ["min", "max"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_high_tradeoff_is_equations_3_1_to_3_3(M, reduce, average, normalise, rng):
    F = a_front(40, M, rng) * [1, 30, 5, 0.1][:M]
    for radius in (0.05, 0.125, 3.0):
        value = slow_tradeoff(F, radius, {"min": min, "max": max}[reduce], average, normalise)
        found = high_tradeoff(F, 6, radius, reduce, average, normalise)
        np.testing.assert_allclose(value[found], np.sort(value)[::-1][:6])


def test_the_knee_of_a_bent_front_comes_first():
    bend = np.array(
        [[0, 10], [0.5, 8], [1, 6], [1.5, 4], [2, 2], [4, 1.5], [6, 1], [8, 0.5], [10, 0]]
    )
    assert high_tradeoff(bend)[0] == 4


def test_units_do_not_change_the_choice_unless_asked_to(rng):
    F = a_front(40, 2, rng)
    seconds = F * [100, 1e-3]  # percent and seconds
    assert high_tradeoff(F).tolist() == high_tradeoff(seconds).tolist()
    assert (
        high_tradeoff(F, normalise=False).tolist()
        != high_tradeoff(seconds, normalise=False).tolist()
    )


def test_only_the_front_is_chosen_from(rng):
    F = a_front(20, 2, rng)
    worse = np.concatenate([F[:10] + 0.1, F, F[10:] + 0.2])
    assert (high_tradeoff(worse) - 10).tolist() == high_tradeoff(F).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_front_no_larger_than_asked_is_returned_whole(n, rng):
    for M in (1, 2, 3):
        F = a_front(n, M, rng) if M > 1 else np.ones((n, 1))
        assert sorted(high_tradeoff(F).tolist()) == list(range(n))
    line = np.column_stack([np.arange(n), -np.arange(n), np.full(n, 7)])
    assert sorted(high_tradeoff(line).tolist()) == list(
        range(n)
    )  # an objective that is the same for all


def test_equal_rows_do_not_count_as_neighbours(rng):
    F = a_front(12, 2, rng)
    value = high_tradeoff(F, 1)[0]
    assert high_tradeoff(np.concatenate([F, F[[value]]]), 2).tolist() == [value, 12]
    assert high_tradeoff(np.zeros((6, 2)), 4).tolist() == [0, 1, 2, 3]


def test_an_unknown_way_to_reduce_is_refused(rng):
    with pytest.raises(Refusal, match="min or max"):
        high_tradeoff(a_front(6, 2, rng), reduce="mean")
