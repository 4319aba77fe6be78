"""Chapter 4 from cells written here by hand: plausible numbers, no training behind them."""

import json
import zlib
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from nat_lib.backbone_table import BACKBONES, baseline_of
from nat_lib.report import figures4, structure, style, tables, tables4
from nat_lib.results import changes, chapter4, claims, names, recomputed, stores
from nat_lib.results.claims import judge
from nat_lib.results.names import BY_THESIS, MODES
from nat_lib.results.printed import printed, printed_store
from nat_lib.results.stats import single_run_noise

NETWORKS, SCENARIOS, CONFIGS = (names.CONSTANTS[k] for k in ("NETWORKS", "SCENARIOS", "CONFIGS"))
DATASETS = [BY_THESIS[name] for name in names.CONSTANTS["DATASETS"]]
SMALL = ("MobileNetV3Small", "MobileNetV3Smallfull")
COSTS = ("params", "macs", "latency")
START = {"TR-224": 60.0, "TR-64": 50.0, "FT-224": 80.0, "FT-64": 70.0}
GAIN = {"SE": 0, "DESC": 4, "ASC": 3, "MIX": 5, "UNIF": 3.5}


def rng_of(*key):
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def write_run(
    out,
    dataset="digits",
    network="VGG16",
    scenario="TR-64",
    mode="DESC",
    seed=0,
    profile="smoke",
    image_size=32,
    proxy=False,
    recipe="a",
    n_test=10_000,
    device="a GPU",
    exits=None,
    subset=None,
    **metrics,
):
    """A finished cell of the study as far as chapter 4 looks; returns its metrics.

    metrics : instead of plausible ones; "pruned_...": of the pruned network
    """
    rng, n = rng_of(dataset, network, scenario, mode, seed), len(BACKBONES[network].stages)
    top1 = START[scenario] + GAIN[mode] + 3 * NETWORKS.index(network) / 8 + rng.normal(0, 0.5)
    exits = [top1] if mode == "SE" else exits or [top1 - 20 + 20 * i / n for i in range(1, n + 1)]
    size = 1000 * (10 + NETWORKS.index(baseline_of(network)))
    found = {
        "test_top1": top1,
        "params": size,
        "macs_tp": 10 * size,
        "ms": 5.0,
        "iqr": 0.1,
        "seconds": 20.0,
    }
    if mode != "SE":
        subset = subset or sorted({int(rng.integers(1, n)), n - int(rng.integers(2))})
        less = max(subset) / n
        found |= {
            "params": size + 300 * n,
            "macs_tp": 10 * size + 400 * n,
            "ms": 5.3,
            "seconds": 21.0,
            "pruned_test_top1": top1 + rng.normal(0.4, 0.2),
            "pruned_params": less * size,
            "pruned_macs_tp": 10 * less * size,
            "pruned_ms": 5 * less,
            "pruned_iqr": 0.1,
        }
    found |= metrics

    def speed(prefix=""):
        return {
            "latency": {
                "ms": found[f"{prefix}ms"],
                "iqr": found[f"{prefix}iqr"],
                "device": device,
                "threads": 1,
            }
        }

    report = {
        "n_test": n_test,
        "epochs": 9,
        "best_epoch": 7,
        "val_top1": top1,
        "test_top5": 99.0,
        **speed(),
        "seconds_per_epoch": found["seconds"],
        "exits": [{"top1": t, "top5": 99.0} for t in exits],
        **{k: found[k] for k in ("test_top1", "params", "macs_tp")},
    }
    if mode != "SE":
        report["pruned"] = {
            "subset": subset,
            "val_top1": top1,
            "ties": {},
            "test_top5": 99.0,
            **speed("pruned_"),
            **{k: found[f"pruned_{k}"] for k in ("test_top1", "params", "macs_tp")},
        }
    fine = scenario.startswith("FT")
    folder = out / f"aep_study/{dataset}/{network}_{scenario}_{mode}_s{seed}"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(
        json.dumps(
            {
                "metrics": report,
                "device": device,
                "threads": 1,
                "params": {
                    "dataset": dataset,
                    "network": network,
                    "scenario": scenario,
                    "mode": mode,
                    "seed": seed,
                    "profile": profile,
                    "image_size": image_size,
                    "proxy": fine and proxy,
                    "recipe": {"named": recipe},
                    "data": dataset,
                    "pretrained_on": ("digits_turned" if proxy else "ImageNet") if fine else None,
                    "hidden": "measured",
                    "start": f"{baseline_of(network)} weights" if fine else None,
                    "keep_stem": False,
                },
            }
        )
    )
    return found


def write_grid(
    out, datasets=("digits",), networks=SMALL, scenarios=("TR-64", "FT-64"), seeds=(0,), **options
):
    """Baselines and all modes; {(dataset, network, scenario, mode, seed): metrics}."""
    return {
        (dataset, network, scenario, mode, seed): write_run(
            out, dataset, network, scenario, mode, seed, **options
        )
        for dataset, scenario, seed in product(datasets, scenarios, seeds)
        for network, mode in [
            *((n, "SE") for n in dict.fromkeys(map(baseline_of, networks))),
            *product(networks, MODES),
        ]
    }


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """(store, metrics by cell, values, runs) of everything that the thesis ran, once."""
    out, written = tmp_path_factory.mktemp("full"), {}
    for scenario in SCENARIOS:
        written |= write_grid(
            out,
            DATASETS,
            NETWORKS,
            (scenario,),
            profile="paper",
            image_size=int(scenario.split("-")[1]),
        )
    found = chapter4.trainings(out)
    return stores.aep_store(out), written, changes.values(found), found


def average(out, quantity, config):
    """The one average over all that was run of a quantity, for a mode, pruned with a star; out:
    folder or changes."""
    rows = out if isinstance(out, pd.DataFrame) else changes.changes(chapter4.trainings(out))
    rows = rows[rows.quantity == quantity]
    rows = rows[
        (rows["mode"] == config.rstrip("*")) & (rows.pruned == str(int(config.endswith("*"))))
    ]
    return changes.averages(rows, ["scenario", "mode"]).squeeze(axis=0)


def change(a, b):
    return 100 * (b - a) / a


# ----------------------------------------------------------------------------- the thesis's numbers


def test_our_averaging_gives_the_averages_that_the_thesis_prints():
    checks = recomputed.recomputed()
    assert dict(checks.table.value_counts()) == {"4.5": 64, "4.8": 4, "4.9": 4}
    assert (checks[checks.table == "4.5"].difference.abs() < 0.0005 + 1e-9).all()
    assert (checks[checks.table == "4.8"].difference.abs() < 0.0005).all()
    assert (checks[checks.table == "4.9"].difference.abs() < 0.01).all()
    assert (
        checks[checks.table == "4.8"].recomputed.nunique() == 1
    )  # to the bit: claim A30 asks for equality
    assert tables4.table_recomputed(checks).to_html().count(">yes<") == 4


def test_the_change_of_means_would_not_give_them():
    costs = recomputed.structure()
    means = costs.groupby(costs["mode"] == "SE").params.mean()
    assert abs(change(means[True], means[False]) - 2.876) > 0.5


# ------------------------------------------------------------------------------------ the full grid


def test_every_average_of_the_full_grid_is_the_plain_mean_of_the_changes(full):
    _, written, values, _ = full

    def of(dataset, network, scenario, config, name="test_top1"):
        mode = config.rstrip("*")
        cell = written[
            dataset, baseline_of(network) if mode == "SE" else network, scenario, mode, 0
        ]
        return cell["pruned_" * config.endswith("*") + name]

    def mean(f, networks=NETWORKS, datasets=DATASETS):
        return pytest.approx(np.mean([f(d, n) for d, n in product(datasets, networks)]), abs=1e-9)

    got = {
        (
            r.metric.removeprefix("aep."),
            r.scenario or r.comparison,
            r.network or r.dataset,
            r.config,
            r.exit,
        ): r.ours
        for r in values.itertuples()
    }
    assert len(got) == len(values) and not np.isnan(list(got.values())).any()
    for s, config in product(SCENARIOS, CONFIGS):
        gain = lambda d, n, s=s, k=config: change(of(d, n, s, "SE"), of(d, n, s, k))  # noqa: E731
        assert got["top1_change", s, "", config, ""] == mean(gain)
        for n in NETWORKS:
            assert got["top1_change_by_network", s, n, config, ""] == mean(gain, networks=[n])
        for name, d in zip(names.CONSTANTS["DATASETS"], DATASETS, strict=True):
            assert got["top1_change_by_dataset", s, name, config, ""] == mean(gain, datasets=[d])
        for cost, name in zip(COSTS, ("params", "macs_tp", "ms"), strict=True):
            label = config if config.endswith("*") else "ALL"
            assert got[f"{cost}_change", s, "", label, ""] == mean(
                lambda d, n, s=s, k=config, c=name: change(of(d, n, s, "SE", c), of(d, n, s, k, c))
            )
    for s, mode in product(SCENARIOS, MODES):
        assert got["pruned_gain", s, "", f"{mode}*", ""] == mean(
            lambda d, n, s=s, k=mode: change(of(d, n, s, k), of(d, n, s, k + "*"))
        )
        four = [n for n in NETWORKS if len(BACKBONES[n].stages) == 4]
        assert len(four) == 5
        for i in range(1, 5):
            assert got["exit_change", s, "", mode, str(i)] == mean(
                lambda d, n, s=s, k=mode, i=i: change(
                    of(d, n, s, "SE"), of(d, n, s, k) - 20 + 5 * i
                ),
                four,
            )
    for pair, config in product(names.CONSTANTS["COMPARISONS"], ("SE", *CONFIGS)):
        after, before = pair.split(" vs ")
        assert got["scenario_change", pair, "", config, ""] == mean(
            lambda d, n, a=before, b=after, k=config: change(of(d, n, a, k), of(d, n, b, k))
        )
        if config == "SE":
            once = values[(values.comparison == pair) & (values.config == "SE")].once.item()
            assert once == mean(
                lambda d, n, a=before, b=after: change(of(d, n, a, "SE"), of(d, n, b, "SE")),
                [n for n in NETWORKS if baseline_of(n) == n],
            )
    assert got["epoch_time_change", "", "", "", ""] == pytest.approx(5)


def test_the_full_grid_is_comparable_and_its_claims_are_all_judged(full):
    store, _, values, _ = full
    assert values.comparable.all() and values.whole.all() and not values.proxy.any()
    assert set(values.verdict) == {"reproduced", "above", "below"}
    judged = judge(store, claims.about("aep"), copies=20).set_index("id")
    assert len(judged) == 56 and not judged.verdict.str.contains("profile").any()
    assert judged.verdict["A30"] == "reproduced" and (judged.have == judged.asked).all()
    assert judged.verdict["A01"] == "reproduced" and judged.verdict["A29"] == "contradicted"


def test_all_metrics_have_the_dimensions_that_the_claims_name(full):
    store, paper = full[0], printed_store()
    for metric in changes.METRICS:
        ours, printed_ones = (
            sorted(tuple(sorted(s.values[i].dims.items())) for i in s.by_metric[metric])
            for s in (store, paper)
        )
        assert ours == printed_ones
    described = (
        printed("metrics")
        .set_index("metric")
        .dimensions.str.replace(" (config)", "")
        .str.split(";")
    )
    assert {m: described[m] for m in changes.METRICS} == changes.DIMENSIONS


# -------------------------------------------------------------------------------- parts of the grid


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: f.assign(differs="profile laptop"),
        lambda f: f.assign(differs="recipe.epochs 3 instead of 100"),
        lambda f: f.assign(image_size=32),
        lambda f: f.assign(proxy=True),
        lambda f: f[f.dataset != "gtsrb"],
        lambda f: f[f.network != "ResNet50"],
        lambda f: pd.concat([f, f[f.dataset == "gtsrb"].assign(dataset="digits")]),
    ],
    ids=[
        "another profile",
        "another recipe",
        "smaller images",
        "other first weights",
        "a data set less",
        "a network less",
        "a data set more",
    ],
)
def test_only_the_whole_grid_of_the_thesis_is_comparable_with_it(full, wrong):
    found = full[3].query("scenario == 'TR-64' and mode in ['SE', 'MIX']")
    averages = changes.values(wrong(found)).query("metric == 'aep.top1_change' and cells > 0")
    assert len(averages) == 2 and averages.whole.all() and not averages.comparable.any()
    assert set(averages.verdict) == {names.NOT_JUDGED}


def test_data_sets_can_be_named(tmp_path):
    write_grid(tmp_path, ("digits", "cifar10"), scenarios=("TR-64",))
    assert set(chapter4.trainings(tmp_path, ["cifar10"]).dataset) == {"cifar10"}
    assert (
        len(stores.aep_store(tmp_path, ["cifar10"]).select("aep.top1_change_by_dataset", {})) == 8
    )


def test_an_average_over_part_of_what_was_run_is_shown_but_not_judged(tmp_path):
    write_grid(tmp_path, ("digits", "cifar10"))
    for path in (tmp_path / "aep_study/cifar10").glob("*FT-64_MIX*"):
        (path / "report.json").unlink()
    values, store = changes.values(chapter4.trainings(tmp_path)), stores.aep_store(tmp_path)
    partial = values[values.ours.notna() & ~values.whole]
    # MIX and MIX*: in all and by network (a data set is missing as a whole), MIX: gain, exits,
    # MIX*: costs
    assert set(partial.scenario) | set(partial.comparison) == {"FT-64", "FT-64 vs TR-64", ""}
    assert set(partial["mode"]) == {"MIX"} and (partial.cells * 2 == partial.of).all()
    assert len(partial) == 2 + 2 * 2 + 1 + 4 + 3 + 2
    assert not store.select("aep.top1_change", {"scenario": "FT-64", "mode": "MIX"})
    assert store.select("aep.top1_change", {"scenario": "FT-64", "mode": "ASC"})
    assert "2/4</small>" in tables4.table(values, "4.5").to_html()


def test_nothing_is_compared_across_recipes_seeds_or_first_weights(tmp_path):
    write_run(tmp_path, mode="SE")
    for seed, recipe in ((0, "b"), (1, "a")):
        write_run(tmp_path, seed=seed, recipe=recipe)
    found = chapter4.trainings(tmp_path)
    assert len(found) == 3 and changes.changes(found).query("quantity != 'gain'").empty
    assert chapter4.exit_accuracies(found).single.isna().all()
    assert "2 early-exit runs without a finished baseline" in tables4.provenance(found)
    write_run(tmp_path, mode="ASC")
    found = chapter4.trainings(tmp_path)
    assert set(changes.changes(found).query("quantity == 'top1'")["mode"]) == {"ASC"}
    for column in ("start", "image_size"):
        other = found.assign(**{column: found[column].where(found["mode"] == "SE", 1)})
        assert changes.changes(other).query("quantity == 'top1'").empty


def test_times_of_two_machines_are_not_compared(tmp_path):
    write_run(tmp_path, mode="SE", device="a CPU")
    write_run(tmp_path)
    assert set(changes.changes(chapter4.trainings(tmp_path)).quantity) == {
        "top1",
        "exit",
        "params",
        "macs",
        "gain",
    }


def test_a_baseline_that_is_never_right_gives_no_percentage(tmp_path):
    write_run(tmp_path, mode="SE", test_top1=0.0)
    write_run(tmp_path)
    assert set(changes.changes(chapter4.trainings(tmp_path)).quantity) == {
        "params",
        "macs",
        "latency",
        "seconds",
        "gain",
    }


def test_a_baseline_alone_leaves_everything_to_be_run(tmp_path):
    write_run(tmp_path, mode="SE")
    values = changes.values(chapter4.trainings(tmp_path))
    assert set(values.verdict) == {names.NOT_RUN} and not stores.aep_store(tmp_path).values


# -------------------------------------------------------------------------------------------- noise


def test_one_seed_carries_the_single_run_noise_through_the_change(tmp_path):
    write_run(tmp_path, mode="SE", test_top1=50.0, n_test=400)
    write_run(tmp_path, test_top1=60.0, pruned_test_top1=63.0, n_test=400)
    found = average(tmp_path, "top1", "DESC")
    assert found.ours == pytest.approx(20) and found.seeds == 1
    draws = np.random.default_rng(0)
    a, b = (t + single_run_noise(t, 400) * draws.normal(size=200_000) for t in (50.0, 60.0))
    assert found.noise == pytest.approx(np.std(change(a, b)), rel=0.03)
    gain = average(tmp_path, "gain", "DESC*")
    assert gain.ours == pytest.approx(5) and np.isnan(gain.sd) and gain.noise > 3


def test_networks_that_share_a_baseline_share_its_noise(tmp_path):
    for network, top1 in zip(("VGG16", "VGG16full"), (60.0, 70.0), strict=True):
        write_run(tmp_path, network=network, test_top1=top1)
    write_run(tmp_path, mode="SE", test_top1=50.0)
    noise = {t: single_run_noise(t, 10_000) for t in (50.0, 60.0, 70.0)}
    shared = 100 * (60 + 70) / 50**2 * noise[50.0] / 2
    own = 100 / 50 * np.hypot(noise[60.0], noise[70.0]) / 2
    assert average(tmp_path, "top1", "DESC").noise == pytest.approx(np.hypot(shared, own))


def test_several_seeds_give_their_own_noise(tmp_path):
    written = write_grid(tmp_path, seeds=(0, 1, 2), scenarios=("TR-64",))
    per_seed = [
        np.mean(
            [
                change(
                    written["digits", "MobileNetV3Small", "TR-64", "SE", seed]["test_top1"],
                    written["digits", n, "TR-64", "UNIF", seed]["test_top1"],
                )
                for n in SMALL
            ]
        )
        for seed in range(3)
    ]
    found = average(tmp_path, "top1", "UNIF")
    assert found.ours == pytest.approx(np.mean(per_seed)) and found.seeds == 3
    assert found.sd == pytest.approx(np.std(per_seed, ddof=1))
    assert found.noise == pytest.approx(found.sd / 3**0.5)
    stored = stores.aep_store(tmp_path)
    (i,) = stored.select("aep.top1_change", {"config": "UNIF"})
    assert stored.values[i].seeds == 3 and stored.values[i].noise == pytest.approx(found.noise)
    values = changes.values(chapter4.trainings(tmp_path))
    row = values.query(
        "metric == 'aep.top1_change' and config == 'UNIF' and scenario == 'TR-64'"
    ).iloc[0]
    low, high = scipy.stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
    assert (row.ours - row.interval, row.ours + row.interval) == pytest.approx((low, high))
    assert f"95 % interval {low:.2f} to {high:.2f}" in tables4.table(values, "4.5").to_html()


def test_a_seed_that_is_not_finished_counts_where_it_is_but_gives_no_noise(tmp_path):
    written = write_grid(tmp_path, seeds=(0, 1), scenarios=("TR-64",))
    gone = "digits", "MobileNetV3Smallfull", "TR-64", "ASC", 1
    (tmp_path / "aep_study/digits/MobileNetV3Smallfull_TR-64_ASC_s1/report.json").unlink()
    gains = {
        n: [
            change(
                written["digits", "MobileNetV3Small", "TR-64", "SE", s]["test_top1"],
                written["digits", n, "TR-64", "ASC", s]["test_top1"],
            )
            for s in (0, 1)
            if ("digits", n, "TR-64", "ASC", s) != gone
        ]
        for n in SMALL
    }
    found = average(tmp_path, "top1", "ASC")
    assert found.ours == pytest.approx(np.mean([np.mean(g) for g in gains.values()]))
    assert found.seeds == 1 and np.isnan(found.sd) and 0.5 < found.noise < 2


def test_noise_of_costs(tmp_path):
    """Counts of full networks have none; what pruning chose has the spread over pairs, or, of one
    pair, no number."""
    write_grid(tmp_path / "one", networks=("ResNet50",), scenarios=("TR-64",))
    write_grid(tmp_path / "two", scenarios=("TR-64",))
    one, two = (changes.changes(chapter4.trainings(tmp_path / name)) for name in ("one", "two"))
    for quantity in ("params", "macs"):
        assert average(one, quantity, "ALL").noise == 0 == average(two, quantity, "ALL").noise
        assert np.isnan(average(one, quantity, "MIX*").noise)
    full, sd = average(one, "latency", "ALL"), 0.1 / 1.349
    assert full.noise == pytest.approx(
        100 / 5 * np.hypot(sd / 2, 5.3 / 5 * sd)
    )  # mean of four against one baseline
    pair = two[(two.quantity == "params") & (two["mode"] == "MIX")].change
    assert average(two, "params", "MIX*").noise == pytest.approx(abs(np.diff(pair)).item() / 2)
    stored = stores.aep_store(tmp_path / "one").by_metric
    assert "aep.epoch_time_change" not in stored and len(stored["aep.params_change"]) == 1


# ---------------------------------------------------------------------------- tables and the figure


def all_tables(out):
    found = chapter4.trainings(out)
    values, note = changes.values(found), tables4.provenance(found)
    made = {number: tables4.table(values, number, note) for number in tables4.TABLES}
    made |= {number: tables4.table_by_cell(values, number, note) for number in ("4.3", "4.4")}
    made["exits"] = tables4.table_exits(chapter4.exit_accuracies(found), *found.dataset[:1])
    return {name: table.to_html() for name, table in made.items()}, values


def test_nothing_run_gives_every_table_and_the_printed_half_of_the_figure(tmp_path):
    made, values = all_tables(tmp_path)
    assert all(names.NOT_RUN in text for text in made.values())
    for number, table in (
        ("4.5", "table_4_5"),
        ("4.7", "table_4_7"),
        ("4.11", "table_4_11"),
        ("4.8", "table_4_8"),
    ):
        rows = printed(table)
        column = next(c for c in rows if "change_pct" in c)
        assert all(text in made[number] for text in rows[column])
    figure = figures4.fig_4_2(values)
    assert figure.get_supxlabel() == f"{names.NOT_RUN}: ours" and len(figure.rows) == 48
    assert set(figure.rows.source) == {"printed"}
    plt.close(figure)


def test_tables_have_the_rows_and_columns_of_the_thesis(full):
    values = full[2]
    shapes = {
        "4.5": (4, 8),
        "4.6": (4, 4),
        "4.7": (16, 4),
        "4.8": (4, 5),
        "4.9": (4, 5),
        "4.10": (4, 5),
        "4.11": (4, 9),
    }
    for number, shape in shapes.items():
        data = tables4.table(values, number).data
        assert data.shape == shape and data.map(
            lambda cell: "<span" in cell and "<br>" in cell
        ).all(axis=None)
    for number, start in (("4.3", "TR"), ("4.4", "FT")):
        data = tables4.table_by_cell(values, number).data
        assert data.shape == (2 * (9 + 7), 8) and list(data.columns) == list(CONFIGS)
        assert data.index[0][0] == f"{start}-224, by network"
        assert list(data.loc[f"{start}-64, by data set"].index) == [
            *names.CONSTANTS["DATASETS"],
            "Average",
        ]
        for network in ("network", "data set"):  # both averages are the same number
            average = data.loc[(f"{start}-64, by {network}", "Average")]
            assert (average == tables4.table(values, "4.5").data.loc[f"{start}-64"]).all()


def test_bold_is_the_best_of_a_row(full):
    data = tables4.table(full[2], "4.5").data.loc["TR-64"]
    ours = (
        full[2]
        .query("metric == 'aep.top1_change' and scenario == 'TR-64'")
        .set_index("config")
        .ours
    )
    assert [k for k in CONFIGS if "font-weight:bold" in data[k]] == [ours.idxmax()]
    assert [k for k in CONFIGS if "<b>" in data[k]] == ["DESC*"]  # printed: 14.999
    assert tables4.table(full[2], "4.11").data.SE.str.contains("once each").all()
    costs = tables4.table(full[2], "4.8").data.loc["TR-64"]
    assert [k for k in costs.index if "<b>" in costs[k]] == ["MIX*"]  # printed: -41.018


def test_tables_of_a_small_profile_tell_what_they_rest_on(tmp_path):
    write_grid(tmp_path, proxy=True, seeds=(0, 1), n_test=360)
    made, values = all_tables(tmp_path)
    assert "FT-64\N{DAGGER}" in made["4.5"] and "TR-64\N{DAGGER}" not in made["4.5"]
    assert "FT-64 vs TR-64\N{DAGGER}" in made["4.11"]
    assert "over 1 network, 1 data set;" in made["4.7"]
    assert "over 2 networks, 1 data set;" in made["4.5"] and "(2)" in made["4.5"]
    note = tables4.provenance(chapter4.trainings(tmp_path))
    for text in (
        "Profile: smoke",
        "networks: MobileNetV3Small, MobileNetV3Smallfull",
        "seeds: 0, 1",
        "36 trainings",
        "360 test images",
        "TR-64 at 32 pixels",
        "pre-trained on digits_turned instead of ImageNet",
    ):
        assert text in note and text in made["4.5"]
    assert ">digits<" in made["4.3"] and ">digits\N{DAGGER}<" in made["4.4"]
    shown = values.query(
        "metric == 'aep.top1_change' and scenario == 'FT-64' and config == 'MIX*'"
    ).iloc[0]
    assert (
        f">{shown.ours:.2f}</span>&plusmn;{shown.sd:.2f}" in made["4.5"] and "3.550" in made["4.5"]
    )


def test_exits_of_every_run_and_those_that_pruning_kept(tmp_path):
    write_run(tmp_path, mode="SE", test_top1=50.0)
    for seed, subset in ((0, [1, 3]), (1, [2, 3])):
        write_run(
            tmp_path,
            seed=seed,
            exits=[10.0 + seed, 20.0, 30.0, 40.0],
            subset=subset,
            test_top1=41.0,
            pruned_test_top1=42.0,
            pruned_params=8250,
            pruned_macs_tp=99_000,
        )
    write_run(tmp_path, network="VGG16full", exits=[5.0] * 5, subset=[5])
    rows = chapter4.exit_accuracies(chapter4.trainings(tmp_path))
    assert list(rows.subset) == ["1 3", "2 3", "5"] and list(rows.exit_1) == [10, 11, 5]
    assert rows.params_change[0] == pytest.approx(-25) and np.isnan(
        rows.params_change[1]
    )  # seed 1: no baseline
    data = tables4.table_exits(rows).data
    line = data.loc[("VGG16", "TR-64", "DESC")]
    assert (
        line["exit 1"] == "10.50"
        and line["exit 3"] == "<b>30.00</b>"
        and line["kept"] == "1+3 / 2+3"
    )
    assert line["single exit"] == "50.00" and line["parameters"] == "-25.0" and line["exit 5"] == ""
    assert list(data.columns)[:6] == ["single exit", *(f"exit {i}" for i in range(1, 6))]


def test_the_figure_shows_printed_and_our_points(full, tmp_path):
    figure = figures4.fig_4_2(full[2])
    points = figure.rows
    assert dict(points.groupby(["source", "cost"]).size()) == {
        (s, c): 16 for s in ("ours", "printed") for c in COSTS
    }
    mix = points.query("source == 'printed' and scenario == 'TR-64' and mode == 'MIX'").set_index(
        "cost"
    )
    assert list(mix.x[list(COSTS)]) == [-41.018, -17.952, -16.325] and set(mix.y) == {13.310}
    ours = points.query(
        "source == 'ours' and scenario == 'FT-64' and mode == 'ASC' and cost == 'macs'"
    ).iloc[0]
    row = (
        full[2]
        .query("metric == 'aep.macs_change' and scenario == 'FT-64' and config == 'ASC*'")
        .iloc[0]
    )
    assert ours.x == row.ours and ours.x_uncertainty == row.noise and ours.y_uncertainty > 0
    assert len({ax.get_ylim() for ax in figure.axes}) == 1  # comparable, so on the same axes
    for folder, again in zip("ab", (figure, figures4.fig_4_2(full[2])), strict=True):
        style.save(again, tmp_path / folder, "fig_4_2")
    for name in ("fig_4_2.png", "fig_4_2.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    plt.close("all")


def test_a_small_profile_has_its_own_axes_and_its_daggers(tmp_path):
    write_grid(tmp_path, proxy=True)
    figure = figures4.fig_4_2(changes.values(chapter4.trainings(tmp_path)))
    assert figure.get_supxlabel() == "" and len(figure.rows) == 48 + 3 * 8
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels[:4] == ["TR-224", "TR-64", "FT-224", "FT-64\N{DAGGER}"]
    assert figure.axes[0].get_ylim() != figure.axes[3].get_ylim()
    plt.close(figure)


def test_table_4_2_is_what_the_code_does():
    ours, paper = structure.table_4_2()
    pd.testing.assert_frame_equal(ours, paper)
    assert "all 12 entries" in tables.side_by_side(ours, paper, "Table 4.2").caption


def test_learning_curves_are_those_of_the_history(tmp_path):
    write_run(tmp_path, mode="SE", network="VGG16")
    write_run(tmp_path, mode="MIX", network="VGG16")
    for path in tmp_path.glob("aep_study/*/*/report.json"):
        exits = [""] if "_SE_" in path.parent.name else ["", "_1", "_2", "_3", "_4"]
        columns = {
            f"{s}_{w}{i}": [0.5, 0.4]
            for s in ("train", "val")
            for w in ("loss", "top1")
            for i in exits
        }
        history = pd.DataFrame({"epoch": [1, 2], "lr": 0.1, "is_best": [False, True]} | columns)
        if len(exits) > 1:
            history["val_top1_3"] = [61.0, 62.0]
        history.to_csv(path.parent / "history.csv", index=False)
    curves = chapter4.curves(tmp_path, chapter4.trainings(tmp_path))
    third = curves.query("mode == 'MIX' and split == 'val' and exit == 3")
    assert third.top1.tolist() == [61.0, 62.0] and third.is_best.tolist() == [False, True]
    assert set(curves.query("mode == 'SE'").exit) == {0}
    assert len(curves) == 2 * 2 * (1 + 5)
