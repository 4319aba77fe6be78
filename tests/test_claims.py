"""Rules, noise and verdicts: the language runs nothing else, and a verdict follows from the numbers
alone."""

import ast

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nat_lib.errors import Refusal
from nat_lib.results import claims, coverage
from nat_lib.results.claims import NoData, Store, check, judge, printed
from nat_lib.run.params import load_profile


def claim(rule, kind="ranking"):
    return pd.DataFrame(
        [dict.fromkeys(printed("claims").columns, "") | {"id": "X1", "rule": rule, "kind": kind}]
    )


def verdict(rule, store, kind="ranking"):
    return judge(store, claim(rule, kind)).iloc[0]


def two(a, b, noise=0.5, **kind):
    store = Store()
    store.add("m", {"net": "a"}, a, noise, **kind)
    store.add("m", {"net": "b"}, b, noise, **kind)
    return store


AB = "one('m', net='a') > one('m', net='b')"


# ------------------------------------------------------------------------------------ the reference


def test_every_rule_says_of_the_printed_numbers_what_the_reference_says():
    rows, wrong = printed("claims"), []
    assert len(rows) == 154
    for row in rows.itertuples():
        try:
            status = (
                ("yes" if check(row.rule, claims.printed_store()) else "no")
                if row.rule
                else "no_rule"
            )
        except NoData:
            status = "no_data"
        wrong += [row.id] if status != row.holds_on_paper else []
    assert wrong == []


def test_one_pass_over_all_copies_equals_a_pass_per_copy():
    store, rules = (
        Store(),
        [r for r in printed("claims").query("holds_on_paper in ['yes', 'no']").rule],
    )
    for metric, rows in claims.printed_store().by_metric.items():
        for v in (claims.printed_store().values[i] for i in rows):
            store.add(metric, v.dims, v.value, noise=0.3)
    copies, compared = store.copies(20, seed=3), 0
    for tree in map(claims.parse, rules):
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call)}
        if not called & claims.RANKING:
            run = claims._closure(tree, frozenset())
            slow = [run(claims._namespace(store, numbers)) for numbers in copies.tolist()]
            np.testing.assert_array_equal(claims._outcomes(tree, store, copies), slow)
            compared += 1
        if (
            called & claims.RANKING <= {"best", "worst"} and claims._names_first(tree)
        ) or not called & claims.RANKING:
            size = claims._margin(tree, frozenset())
            slow = [size(claims._namespace(store, numbers)) for numbers in copies.tolist()]
            np.testing.assert_array_equal(claims._on_each(size, [], store, copies), slow)
            compared += 1
    assert compared > 120


def test_run_to_run_noise_is_half_the_mean_squared_difference_of_repeated_runs():
    rows = pd.concat([printed("table_5_3"), printed("table_5_4")])
    rows = rows[rows.step.isin(["ER", "EKS"])]
    key = ["wm", "supernet", "step", "stat"]
    fixed, pet = (
        rows[rows.teacher == t].sort_values(key).top1_pct.astype(float).to_numpy()
        for t in ("fixed", "pet")
    )
    assert len(fixed) == 64
    assert claims.run_to_run_sd() == pytest.approx(np.sqrt(np.mean((fixed - pet) ** 2) / 2))
    assert claims.single_run_noise(50.0, 10_000) == pytest.approx(
        np.hypot(0.5, claims.run_to_run_sd())
    )


# ------------------------------------------------------------------------------------- the language


@pytest.mark.parametrize(
    "rule",
    [
        "__import__('os').system('true')",
        "().__class__",
        "q.__globals__",
        "lambda: 1",
        "open('x')",
        "eval('1')",
        "exec('1')",
        "[x for x in WMS]",
        "{1: 2}",
        "{1}",
        "f'{1}'",
        "2 ** 99",
        "1 // 0",
        "WMS.count('1.0')",
        "q",
        "names",
        "1 if 1 else 2",
        "not 1",
        "1 or 2",
        "(y := 1)",
        "one(**{'a': 1})",
        "max([1], key=abs)",
        "all(x for x in WMS if x)",
        "1 != 2",
        "b'a'",
        "None",
        "1j",
        "WMS[::2]",
        "print(1)",
        "getattr(1, 'real')",
        "all(x for x.y in WMS)",
        "1; 2",
        "import os",
        "",
        "probe(1)",
        "(" * 300 + "1" + ")" * 300,
        "+".join("1" * 5000),
        "min(WMS)(1)",
        "WMS[0:open]",
    ],
)
def test_anything_that_no_rule_uses_is_refused_before_it_runs(rule):
    with pytest.raises(Refusal):
        claims.parse(rule)


def test_text_is_not_multiplied():
    with pytest.raises(Refusal, match="numbers"):
        check("len('a' * 1000000000) > 1", Store())


def test_loop_names_end_with_their_loop():
    with pytest.raises(Refusal, match="'w'"):
        claims.parse("all(w == '1.0' for w in WMS) and w == '1.0'")


def test_one_wants_exactly_one_value_and_rank_wants_every_label():
    store = two(1, 2)
    store.add("m", {"net": "a", "seed": 1}, 3)
    with pytest.raises(Refusal, match="2 values"):
        check("one('m', net='a') > 0", store)
    with pytest.raises(NoData):
        check("rank('m', over='net', among=['a', 'c'])[0] == 'a'", store)
    with pytest.raises(NoData):
        check("mean(q('m', net='z')) > 0", store)
    assert check(
        "rank('m', over='net', among=['b', 'a']) == ['b', 'a']", store
    )  # means 2 and 2: order of `among`


def test_a_value_that_is_not_a_number_is_refused():
    with pytest.raises(Refusal, match="leave it out"):
        Store().add("m", {}, float("nan"))


# ----------------------------------------------------------------------------------------- verdicts


def test_clear_win_clear_loss_tie_and_missing():
    assert verdict(AB, two(60, 50)).verdict == "reproduced"
    assert verdict(AB, two(50, 60)).verdict == "contradicted"
    tie = verdict(AB, two(50, 50.1))
    assert tie.verdict == "tie within noise" and 0.05 < tie.share < 0.95
    alone = Store()
    alone.add("m", {"net": "a"}, 60, 0.5)
    missing = verdict(AB, alone)
    assert missing.verdict == "not run in this profile" and (missing.have, missing.asked) == (1, 2)
    assert np.isnan(missing.share)
    assert verdict("", two(1, 2)).verdict == "informative"


def test_the_share_is_that_of_the_normal_law():
    """P(a > b) for a - b ~ N(1, 2 * 1) is 0.760."""
    assert verdict(AB, two(51, 50, noise=1.0)).share == pytest.approx(0.760, abs=0.04)


def test_values_of_the_same_run_move_together():
    rule = "one('m', net='a') == one('m', net='b')"
    assert verdict(rule, two(50, 50, draw="the same runs")).verdict == "reproduced"
    assert verdict(rule, two(50, 50)).verdict == "contradicted"


def seeds(a, b):
    """A store of the means of numbers by seed."""
    store = Store()
    for name, numbers in (("a", a), ("b", b)):
        store.add(
            "m",
            {"net": name},
            np.mean(numbers),
            stats.sem(numbers),
            len(numbers),
            by_seed=dict(enumerate(numbers)),
        )
    return store


@pytest.mark.parametrize("n", [3, 5, 20])
def test_over_seeds_the_share_is_that_of_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    common = 5 * rng.standard_normal(n)  # what a seed does to both is none of their difference
    a, b = (50 + common + lead + rng.standard_normal(n) for lead in (0.5, 0.0))
    share = judge(seeds(a, b), claim(AB), copies=40_000).share[0]
    assert share == pytest.approx(1 - stats.ttest_rel(a, b, alternative="greater").pvalue, abs=0.01)


def test_every_value_keeps_the_standard_error_of_its_seeds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(50, 2, (2, 30))
    store = seeds(a, b)
    store.add("m", {"net": "c"}, 40, 0.7)  # known from one seed: as before
    copies = store.copies(50_000)
    np.testing.assert_allclose(copies.std(axis=0), [stats.sem(a), stats.sem(b), 0.7], rtol=0.05)
    assert np.corrcoef(copies.T)[0, 1] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=0.02)


def test_two_seeds_settle_little_and_numbers_must_belong_to_their_mean():
    assert verdict(AB, seeds([51.0, 52.0], [49.9, 50.0])).verdict == "tie within noise"
    assert verdict(AB, seeds([51.0, 52.0, 51.5], [49.9, 50.0, 49.9])).verdict == "reproduced"
    with pytest.raises(Refusal, match="is not the mean of"):
        Store().add("m", {}, 50.0, 1.0, 2, by_seed={0: 49.0, 1: 50.0})


def test_stores_are_merged_with_their_noise():
    one, other = claims.Store(), claims.Store()
    for store, value in ((one, 1.0), (other, 2.0)):
        for which in ("a", "b"):
            store.add(
                "m.x",
                {"which": which, "of": value},
                value,
                noise=0.5,
                seeds=3,
                comparable=False,
                draw="run",
            )
    whole = claims.merged([one, other])
    assert [v[:-1] for v in whole.values] == [v[:-1] for v in one.values + other.values]
    a, b, c, d = whole.copies(50).T - np.array([1, 1, 2, 2])[:, None]
    assert (
        (a == b).all() and (c == d).all() and (a != c).all()
    )  # what shares a run moves together, nothing else


def test_without_noise_one_evaluation_decides():
    assert verdict(AB, two(50.001, 50, noise=0)).verdict == "reproduced"


def test_a_printed_number_is_compared_at_the_tolerance_of_noise_and_only_where_runs_are_comparable():
    rule = "abs(one('m', net='a') - one('m', net='b') - 12.07) < 0.005"
    near = verdict(rule, two(51.5, 40.0, noise=0.3), "value")
    assert (
        near.verdict == "reproduced"
        and near.tolerance == pytest.approx(1.5)
        and near.ours == "11.50"
    )
    assert verdict(rule, two(60.0, 40.0, noise=0.3), "value").verdict == "contradicted"
    loose = verdict(rule, two(51.5, 40.0, noise=1.0), "value")
    assert loose.tolerance == pytest.approx(
        2 * 2, rel=0.1
    )  # the difference has standard deviation sqrt(2)
    other = verdict(rule, two(51.5, 40.0, comparable=False), "value")
    assert other.verdict == "not comparable in this profile" and other.ours == "11.50"
    assert (
        verdict(AB, two(51.5, 40.0, comparable=False)).verdict == "reproduced"
    )  # a ranking holds anywhere


def test_counts_keep_the_tolerance_of_the_rule():
    rule = "abs(one('m', net='a') - 2.88) < 0.01"
    assert verdict(rule, two(2.876, 0, noise=0), "value").verdict == "reproduced"
    assert verdict(rule, two(2.9, 0, noise=0), "value").verdict == "contradicted"


def test_a_mean_over_half_a_printed_table_is_not_taken_for_the_whole():
    store = Store()
    for v in (
        claims.printed_store().values[i] for i in claims.printed_store().by_metric["eps.top1"]
    ):
        if v.dims["supernet"] != "SE_P":
            store.add("eps.top1", v.dims, v.value, 0.5)
    row = verdict("max(q('eps.top1', wm='1.0', step='EW', stat='best')) > 0", store)
    assert row.verdict == "not run in this profile" and (row.have, row.asked) == (14, 16)


def test_our_side_is_told_in_numbers_labels_and_counts():
    store = two(60, 50)
    assert verdict(AB, store).ours == "60.00 against 50.00"
    assert verdict("best('m', over='net', among=['a', 'b']) == 'b'", store).ours == "a"
    assert (
        verdict("all(one('m', net=n) > 55 for n in ['a', 'b'])", store).ours
        == "1 of 2 hold, margin -5.00 to 5.00"
    )
    assert (
        verdict("all(one('m', net=n) > 55 for n in ['a', 'c'])", store).ours
        == "1 of 1 hold, margin 5.00 to 5.00 (1 not run)"
    )


def test_the_same_seed_gives_the_same_table():
    store = claims.printed_store()
    pd.testing.assert_frame_equal(judge(store), judge(store))


# ------------------------------------------------------------------------------------------ effects


@pytest.mark.parametrize(
    ("rule", "margin"),
    [
        ("one('m', net='a') > one('m', net='b')", 2.0),
        ("one('m', net='a') < one('m', net='b')", -2.0),
        ("one('m', net='a') > 1 and one('m', net='b') > 2.5", 0.5),
        ("all(one('m', net=w) > 1 for w in ['a', 'b'])", 2.0),
        ("any(one('m', net=w) > 1 for w in ['a', 'b'])", 4.0),
        ("best('m', over='net', among=['a', 'b']) == 'a'", 2.0),
        ("worst('m', over='net', among=['a', 'b']) == 'a'", -2.0),
        ("rank('m', over='net', among=['a', 'b']) == ['a', 'b']", None),
    ],
)
def test_the_margin_of_a_rule(rule, margin):
    row = judge(two(5.0, 3.0, noise=0.5), claim(rule)).iloc[0]
    if margin is None:
        assert np.isnan([row.margin, row.low, row.high]).all()
    else:
        assert row.margin == margin and row.low < margin < row.high
        assert (row.verdict == "reproduced") == (row.low > 0) or abs(row.share - 0.95) < 0.05


def test_the_interval_of_a_margin_is_that_of_the_normal_law():
    row = judge(two(5.0, 3.0, noise=0.5), claim("one('m', net='a') > one('m', net='b')")).iloc[0]
    assert abs((row.high - row.low) / (2 * 1.96 * 0.5 * 2**0.5) - 1) < 0.2


def test_the_margin_of_a_printed_number_is_what_is_left_of_the_tolerance():
    row = judge(
        two(5.0, 3.0, noise=0.1), claim("abs(one('m', net='a') - 4.0) < 0.5", "value")
    ).iloc[0]
    assert row.tolerance == claims.TOLERANCE and abs(row.margin - (claims.TOLERANCE - 1)) < 1e-9


# ---------------------------------------------------------------------------------- who can test it


def test_every_claim_has_a_cheapest_profile():
    found = coverage.cheapest()
    assert len(found) == 154
    assert {text.split(",")[0] for text in found.values()} == {
        *coverage.SIZES,
        coverage.ITS_OWN,
        "",
    }
    assert found["O27"] == found["N51"] == "smoke"  # read off the code's structures
    assert found["A01"] == "paper"  # 224 pixels
    assert found["N50"] == "paper"  # several epochs of adaptation
    rows = printed("claims").set_index("id")
    quoting = [
        i for i in found if rows.rule[i] and claims.quotes(rows.loc[i], claims.parse(rows.rule[i]))
    ]
    assert len(quoting) > 20 and all(
        found[i].split(",")[0] in ("paper", "smoke", coverage.ITS_OWN) for i in quoting
    )


def test_a_profile_covers_what_it_runs():
    smoke = load_profile("smoke")
    eps = {"supernet": "EE_DP", "teacher": "pet", "step": "EW", "stat": "best"}
    assert coverage.covers(smoke, "eps.top1", eps | {"wm": "1.0"})
    assert not coverage.covers(smoke, "eps.top1", eps | {"wm": "1.2"})
    assert coverage.covers(
        smoke, "aep.top1_change", {"scenario": "TR-64", "mode": "ASC", "pruned": "1"}
    )
    assert not coverage.covers(
        smoke, "aep.top1_change", {"scenario": "TR-224", "mode": "ASC", "pruned": "1"}
    )
    assert not coverage.covers(
        smoke, "aep.scenario_change", {"comparison": "FT-224 vs FT-64", "mode": "SE"}
    )
    assert coverage.covers(
        smoke, "aep.scenario_change", {"comparison": "FT-64 vs TR-64", "mode": "SE"}
    )
    assert not coverage.covers(
        smoke | {"nat_supernets": {"1": ["BASE"]}, "searches": {"1": ["acc"]}},
        "nat.best_top1",
        {"phase": "1", "supernet": "EE_D"},
    )
    assert not coverage.covers(
        smoke | {"post_searches": {"1": []}}, "post.mean_top1", {"family": "SE"}
    )
    assert not coverage.covers(
        smoke | {"predictors": ["ridge"]}, "pred.spearman", {"predictor": "LGBM"}
    )
