"""Chapter 6 from cells written here by hand: plausible numbers, no search and no training behind
them."""

import json
import zlib
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nat_lib.errors import Refusal
from nat_lib.report import figures6, style, tables6
from nat_lib.report.figures6 import predictors
from nat_lib.results import advantages, chapter6, claims, comparisons, names
from nat_lib.results import stats as own_stats
from nat_lib.results import store6 as stored
from nat_lib.results.claims import judge
from nat_lib.results.names import BY_THESIS, NOT_RUN
from nat_lib.results.printed import printed, printed_store
from nat_lib.results.stats import jackknife, single_run_noise
from nat_lib.results.values import Store

SUPERNETS, MAIN, OTHERS = (
    names.CONSTANTS[k] for k in ("SUPERNETS", "NAT_DATASETS", "OTHER_DATASETS")
)
FOUR, OBJECTIVES, MODES = names.NAT_SUPERNETS, names.OBJECTIVES, names.MODES
SHIFT = {
    "BASE": 0,
    "SE_D": 1.2,
    "EE_B": 6,
    "EE_D": 6.5,
    "SE_P": -3,
    "SE_DP": -2.5,
    "EE_P": 1,
    "EE_DP": 1.4,
    "SE_B": 0,
}
# data set: (top-1 of the best baseline subnet, classes)
TARGETS = {
    "cifar10": (90.7, 10),
    "cifar100": (66.9, 100),
    "tiny_imagenet": (43.4, 200),
    "cinic10": (78, 10),
    "stl10": (75, 10),
    "food101": (60, 101),
    "cars": (22, 196),
    "aircraft": (18, 100),
    "dtd": (40, 47),
    "pets": (58, 37),
    "flowers102": (62, 102),
    "digits": (95, 10),
    "digits_turned": (96, 5),
}
STRATEGIES = [(optimizer, lr) for optimizer in ("SGD", "AdamW", "Ranger") for lr in (1e-4, 1e-5)]
FINAL = {
    "SE": [("std", "SGD", 1e-4, None)],
    "EE": [("std", "AdamW", 1e-4, None), ("ens", "AdamW", 1e-4, "UNIF")],
}


# ----------------------------------------------------------------------------------- finished cells


def rng_of(*key):
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def write_cell(folder, params, metrics, **frames):
    """A finished cell as far as a report of chapter 6 looks: report.json and the CSV files beside
    it."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"params": params, "metrics": metrics}))
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)


def subnets_of(dataset, supernet, phase, objectives, seed):
    """What a search returns: costs spread over a factor of five, accuracy growing with cost, EE
    cheaper and better."""
    rng, (top1, _) = rng_of(dataset, supernet, phase, objectives, seed), TARGETS[dataset]
    n = 1 if objectives == "acc" else 4
    room = (100 - top1) / 57
    size = np.sort(rng.uniform(0.2, 1, n))[::-1] * (0.5 if supernet.startswith("EE") else 1)
    found = top1 + room * (
        SHIFT[supernet] + 0.6 * (phase - 1) + rng.normal(0, 0.3) - 4 * (size[0] - size)
    )
    test = found - rng.uniform(0, 0.4, n)
    return pd.DataFrame(
        {
            "code": [" ".join(map(str, rng.integers(0, 10, 22))) for _ in range(n)],
            "front": True,
            "high_tradeoff": n > 1,
            "returned": True,
            "resolution": 56,
            "width": 1.0,
            "exit": rng.integers(2, 6, n) if supernet.startswith("EE") else 5,
            "val_top1": found,
            "test_top1": test,
            "test_top5": np.minimum(test + 15, 99.5),
            "test_loss": 3 - test / 40,
            "params": (4.6e6 * size).astype(int),
            "macs": (24e6 * size).astype(int),
            "macs_tp": (25e6 * size).astype(int),
            "latency_ms": 5.6 * np.sqrt(size),
            "latency_iqr": 0.1,
        }
    )


def write_search(
    out,
    dataset="digits",
    supernet="BASE",
    phase=1,
    objectives="acc+params",
    seed=0,
    profile="smoke",
    subnets=None,
    n_test=10_000,
    iterations=4,
):
    """A finished search; its front holds one subnet more, the best and cheapest, which is not
    returned."""
    if subnets is None:
        subnets = subnets_of(dataset, supernet, phase, objectives, seed)
    rng, i = (
        rng_of(dataset, supernet, phase, objectives, seed, "iterations"),
        np.arange(iterations + 1),
    )
    early = supernet.startswith("EE")
    volume = (
        0.2
        + 0.02 * SHIFT[supernet]
        + (0.2 + 0.02 * phase) * (1 - np.exp(-i / 8))
        + rng.normal(0, 0.003, len(i))
    )
    depth = np.stack([0.1 + 0.02 * i / 3, 0.25 + 0.05 * i / 3, 0.65 - 0.07 * i / 3])
    quality = np.clip(0.5 + 0.02 * i + rng.normal(0, 0.1, len(i)), -1, 1)
    quality[0] = np.nan
    table = pd.DataFrame(
        {
            "iteration": i,
            "hypervolume": volume,
            "archive": 100,
            "front": 12,
            "candidates": 8,
            "rmse": 3 - 2 * quality,
            "pearson": quality,
            "spearman": quality,
            "kendall": 0.8 * quality,
            "predictor": "LGBM",
            "note": "",
            "best_top1": 60 + i,
            "mean_top1": 50 + i,
            "supernet_top1": 45 + i,
            **{f"depth_{d}": s for d, s in zip((2, 3, 4), depth, strict=True)},
            **{
                f"exit_{e}": (0.1 + 0.005 * (e - 2.5) * i if e < 5 else 0.6)
                if early
                else float(e == 5)
                for e in range(1, 6)
            },
            "seconds": 1.0,
            "epochs": 5,
            "validations": 5 if phase == 1 else 1,
            "validation_seconds": rng.uniform(0.09, 0.11, len(i)),
        }
    )
    table.loc[0, ["epochs", "validations", "validation_seconds"]] = (
        np.nan
    )  # nothing adapts in iteration 0
    other = subnets.iloc[:1].assign(
        returned=False, code="other", test_top1=99.9, params=1, macs_tp=1, latency_ms=0.01
    )
    key = {
        "supernet": supernet,
        "phase": phase,
        "objectives": objectives,
        "dataset": dataset,
        "seed": seed,
        "profile": profile,
    }
    write_cell(
        out / f"natv2_phases/{dataset}/{supernet}_p{phase}_{objectives}_s{seed}",
        {**key, "n_classes": TARGETS[dataset][1]},
        {
            "hypervolume": volume.tolist(),
            "reference": [1.0],
            "front": len(subnets) + 1,
            "seconds": 60.0,
            "n_test": n_test,
            "latency": "table",
        },
        subnets=pd.concat([subnets, other]),
        iterations=table,
    )
    return key, subnets


def gain_of(family, method, optimizer, lr, weights):
    """Points that a strategy adds, close to the averages that the thesis prints."""
    best = {("SE", "std"): 1.4, ("EE", "std"): 1.7, ("EE", "ens"): 2.7}[family, method]
    wrong = optimizer not in {"SE": ("SGD",), "EE": ("AdamW",)}[family]
    bad = (
        0.6 * (optimizer == "SGD" and family == "EE")
        + 0.2 * (weights in ("DESC", "MIX"))
        + 0.1 * (weights == "ASC")
    )
    return best - 0.3 * wrong - bad - 0.5 * (lr == 1e-5)


def write_posts(out, key, subnets, study="final", settings=None, top1=None, n_test=10_000):
    """The returned subnets of a search post-processed; the AEP-based method raises parameters and
    MACs by a tenth.

    top1 : function (number of the subnet, method, optimizer, lr, weights) -> test top-1; default
           plausible
    """
    family = "EE" if key["supernet"].startswith("EE") else "SE"
    if settings is None:
        settings = (
            FINAL[family]
            if study == "final"
            else [("std", *s, None) for s in STRATEGIES]
            + ([("ens", *s, w) for s in STRATEGIES for w in MODES] if family == "EE" else [])
        )
    for i, row in enumerate(subnets.to_dict("records")):
        for method, optimizer, lr, weights in settings:
            setting = (method, optimizer, lr, weights)
            room = 2 * (100 - row["test_top1"]) / 100
            after = (
                top1(i, *setting)
                if top1
                else row["test_top1"]
                + room
                * (gain_of(family, *setting) + rng_of(*key.values(), i, *setting).normal(0, 0.2))
            )
            more = 1.1 if method == "ens" else 1.0
            name = "-".join(
                filter(None, (str(i), method, optimizer, f"{lr:.0e}".replace("e-0", "e-"), weights))
            )
            cell = f"{key['supernet']}_p{key['phase']}_{key['objectives']}_s{key['seed']}"
            write_cell(
                out / f"post_processing/{key['dataset']}/{cell}/{name}",
                {
                    **key,
                    "subnet": i,
                    "code": row["code"],
                    "method": method,
                    "optimizer": optimizer,
                    "lr": lr,
                    "weights": weights,
                    "study": study,
                },
                {
                    "original": {
                        k: row[k]
                        for k in (
                            "val_top1",
                            "test_top1",
                            "params",
                            "macs",
                            "macs_tp",
                            "latency_ms",
                        )
                    },
                    "before": {"val_top1": row["val_top1"]},
                    "after": {
                        "val_top1": after + 0.2,
                        "test_top1": after,
                        "test_top5": 90.0,
                        "test_loss": 1.0,
                    },
                    "best_epoch": 20,
                    "epochs": 50,
                    "params": int(row["params"] * more),
                    "macs": int(row["macs"] * more),
                    "macs_tp": int(row["macs_tp"] * more),
                    "n_test": n_test,
                },
            )


# predictor: correlation with integer and one-hot features, at 300 samples (the author's stored
# results, rounded)
RHO = {
    "RBF": (0.77, None),
    "RBFs": (0.78, None),
    "MLP": (0.12, 0.79),
    "E2EPP": (0.84, 0.83),
    "CARTS": (0.83, 0.82),
    "GP": (0.70, 0.80),
    "SVR": (0.58, 0.82),
    "Ridge": (0.81, 0.81),
    "KNN": (0.08, 0.65),
    "BayesianRidge": (0.80, 0.80),
    "LGBM": (0.86, 0.85),
    "CatBoost": (0.88, 0.84),
}
SECONDS = {"RBFs": 105, "E2EPP": 62, "CatBoost": 7.1, "MLP": 3.2}


def write_fits(
    out,
    dataset="digits",
    supernet="BASE",
    seed=0,
    profile="smoke",
    sizes=(100, 200, 300),
    repeats=10,
    predictors=tuple(RHO),
    encodings=("integer", "onehot"),
):
    rows, shift = [], {"BASE": 0.0, "EE_B": 0.08, "SE_P": -0.14}[supernet]
    for name, encoding, size, repeat in product(predictors, encodings, sizes, range(repeats)):
        rho = RHO[name][encoding == "onehot"]
        if rho is not None:
            rng = rng_of(dataset, supernet, seed, name, encoding, size, repeat)
            sd = 0.02 if name in ("LGBM", "CatBoost") else 0.07
            less = (300 - size) / (4000 if supernet == "BASE" else 1500)
            rho = np.clip(rho + shift - less + rng.normal(0, sd), -1, 0.99)
            rows.append(
                {
                    "predictor": name,
                    "encoding": encoding,
                    "size": size,
                    "repeat": repeat,
                    "rmse": 1 - 0.8 * rho + abs(shift),
                    "pearson": rho,
                    "spearman": rho,
                    "kendall": 0.8 * rho,
                    "seconds": SECONDS.get(name, 0.2) * rng.uniform(0.9, 1.1),
                    "note": "",
                }
            )
    write_cell(
        out / f"predictors/{dataset}/{supernet}_s{seed}/fits",
        {
            "supernet": supernet,
            "dataset": dataset,
            "seed": seed,
            "profile": profile,
            "sizes": list(sizes),
            "repeats": repeats,
            "n_test": 25,
        },
        {},
        fits=pd.DataFrame(rows),
    )


def write_everything(out, seeds=(0,), profile="paper"):
    """All that the thesis ran: 11 data sets, 8 supernets, 4 phases, 4 sets of objectives, both
    studies."""
    ours = BY_THESIS
    for supernet, seed in product(("BASE", "EE_B", "SE_P"), seeds):
        write_fits(
            out, "cifar10", supernet, seed, profile, sizes=(100, 150, 200, 250, 300), repeats=4
        )
    for phase, dataset, supernet, objectives, seed in product(
        (1, 2, 3, 4), (*MAIN, *OTHERS), SUPERNETS, OBJECTIVES, seeds
    ):
        if (dataset in MAIN or phase == 1) and (
            supernet in FOUR or (dataset in MAIN and phase < 3)
        ):
            key, subnets = write_search(
                out, ours[dataset], supernet, phase, objectives, seed, profile, iterations=2
            )
            if phase == 4:
                write_posts(out, key, subnets)
            if (
                phase == 1
                and dataset == "CIFAR-100"
                and supernet in FOUR
                and objectives in OBJECTIVES[1:3]
            ):
                write_posts(out, key, subnets.head(1), "grid")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """(folder, store) of everything that the thesis ran, one seed; less subnets in the study of
    strategies."""
    out = tmp_path_factory.mktemp("full")
    write_everything(out)
    return out, stored.store6(out)


@pytest.fixture
def smoke(tmp_path):
    """What a small profile might leave: two supernets, phases 1 and 4, two sets of objectives, part
    of the studies."""
    for supernet, phase, objectives in product(("BASE", "EE_D"), (1, 4), ("acc", "acc+params")):
        key, subnets = write_search(
            tmp_path, "digits_turned", supernet, phase, objectives, n_test=180
        )
        if phase == 4:
            write_posts(tmp_path, key, subnets.head(2), n_test=180)
        elif objectives != "acc":
            write_posts(
                tmp_path,
                key,
                subnets,
                "grid",
                n_test=180,
                settings=[
                    ("std", "SGD", 1e-4, None),
                    *[("ens", "AdamW", 1e-4, w) for w in MODES if supernet == "EE_D"],
                ],
            )
    for supernet in ("BASE", "EE_B"):
        write_fits(
            tmp_path, "digits", supernet, sizes=(20, 40), repeats=3, predictors=("LGBM", "Ridge")
        )
    return tmp_path


def frames(out):
    returned, posts = chapter6.returned(out), chapter6.posts(out)
    versions = chapter6.versions(returned, posts)
    return returned, posts, versions, chapter6.best(versions)


def value(store, metric, **dims):
    """The one value of a metric under these dimensions."""
    (found,) = store.select(metric, dims)
    return store.values[found]


def one(rows, **key):
    for k, v in key.items():
        rows = rows[rows[k] == v]
    return rows.squeeze(axis=0)


def subnets(tops, costs, **columns):
    """Returned subnets with these test top-1 and millions of parameters (MACs: ten times as many,
    ms: twice)."""
    n = len(tops)
    return (
        subnets_of("digits", "EE_D", 1, "acc+params", 0)
        .iloc[[0] * n]
        .assign(
            code=[f"{i} 1" for i in range(n)],
            test_top1=tops,
            val_top1=tops,
            params=(np.array(costs) * 1e6).astype(int),
            macs_tp=(np.array(costs) * 1e7).astype(int),
            latency_ms=np.array(costs) * 2.0,
            **columns,
        )
    )


# ------------------------------------------------------------------------------ what the cells left


def test_only_finished_searches_and_returned_subnets_are_read(tmp_path):
    found = write_search(tmp_path, supernet="EE_D", n_test=360)[1]
    write_cell(
        tmp_path / "natv2_phases/latency/EE_D_x", {"device": "cpu"}, {"error": 0.1}
    )  # no search
    (tmp_path / "natv2_phases/digits/BASE_p1_acc_s0").mkdir()  # not finished
    rows = chapter6.returned(tmp_path)
    assert list(rows.code) == list(found.code) and "other" not in set(rows.code)
    assert (rows.second == found.params.to_numpy() / 1e6).all() and set(rows.n_test) == {360}
    assert (
        chapter6.returned(tmp_path, "cifar10").empty
        and len(chapter6.iterations(tmp_path, "digits")) == 5
    )
    assert one(chapter6.searches(tmp_path), supernet="EE_D").n_classes == 10


@pytest.mark.parametrize(
    ("objectives", "column", "unit"),
    [
        ("acc+params", "params", 1e6),
        ("acc+macs", "macs_tp", 1e6),
        ("acc+latency", "latency_ms", 1),
        ("acc", None, 1),
        ("acc+macs+latency", "macs_tp", 1e6),
    ],
)
def test_the_second_objective_comes_in_its_unit(tmp_path, objectives, column, unit):
    key, found = write_search(tmp_path, supernet="EE_B", objectives=objectives)
    write_posts(tmp_path, key, found)
    rows, posts = chapter6.returned(tmp_path), chapter6.posts(tmp_path, study="final")
    ens = posts[posts.method == "ens"].sort_values("subnet")
    if column is None:
        assert rows.second.isna().all() and posts.second.isna().all()
    else:
        assert rows.second.to_numpy() == pytest.approx(found[column].to_numpy() / unit)
        assert ens.original_second.to_numpy() == pytest.approx(rows.second.to_numpy())
        expected = np.nan if column == "latency_ms" else 1.1 * found[column].to_numpy() / unit
        assert ens.second.to_numpy() == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert set(posts.lr) == {"1e-4"} and set(posts.weights) == {"-", "UNIF"}


def test_of_several_final_settings_the_one_that_validation_prefers_counts(tmp_path):
    key, found = write_search(tmp_path, supernet="EE_D")
    write_posts(
        tmp_path,
        key,
        found,
        settings=[("std", "AdamW", 1e-4, None), ("std", "Ranger", 1e-4, None)],
        top1=lambda i, method, optimizer, *_: 90.0 + (optimizer == "Ranger"),
    )
    assert set(chapter6.final_posts(chapter6.posts(tmp_path)).optimizer) == {"Ranger"}


# ---------------------------------------------------------------------------------------- estimates


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=7)
    assert jackknife(values, np.mean) == pytest.approx(values.std(ddof=1) / np.sqrt(7))
    assert jackknife(values[:1], np.mean) == 0


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_best_top1_is_the_best_returned_subnet_averaged_over_seeds(tmp_path, seeds):
    found = [write_search(tmp_path, supernet="EE_D", seed=s, n_test=360)[1] for s in seeds]
    top1 = [f.test_top1.max() for f in found]
    store = stored.store6(tmp_path)
    v = value(store, "nat.best_top1", supernet="EE_D", dataset="digits")
    assert v.dims == {
        "phase": "1",
        "dataset": "digits",
        "objectives": "acc+params",
        "supernet": "EE_D",
        "post": "none",
    }
    assert (v.value, v.seeds) == (pytest.approx(np.mean(top1)), len(seeds)) and not v.comparable
    assert v.noise == pytest.approx(
        stats.sem(top1) if len(seeds) > 1 else single_run_noise(top1[0], 360)
    )
    cost = [
        f.params[f.test_top1.to_numpy().argmax()] / 1e6 for f in (f.reset_index() for f in found)
    ]
    assert value(store, "nat.second_of_best").value == pytest.approx(np.mean(cost))


def test_the_best_of_equals_is_the_cheapest_and_validation_may_pick_another(tmp_path):
    write_search(
        tmp_path, subnets=subnets([50, 55, 55, 40], [1, 3, 2, 4]).assign(val_top1=[60, 59, 58, 57])
    )
    row = frames(tmp_path)[3].iloc[0]
    assert (row.top1, row.second, row.n, row.val_top1, row.by_val, row.whole) == (
        55,
        2,
        4,
        60,
        50,
        True,
    )
    assert row.second_noise == pytest.approx(0.75)  # without the best one, 3 M: see the jackknife


def test_a_search_whose_subnets_were_not_all_post_processed_is_shown_and_not_comparable(tmp_path):
    key, rows = write_search(
        tmp_path, "cifar10", "EE_D", 4, profile="paper", subnets=subnets([70, 72, 74], [1, 2, 3])
    )
    write_posts(tmp_path, key, rows.head(2), top1=lambda i, *_: 80 + i)
    store = stored.store6(tmp_path)
    found = {post: value(store, "nat.best_top1", post=post) for post in ("none", "std", "ens")}
    assert {post: (v.value, v.comparable) for post, v in found.items()} == {
        "none": (74, True),
        "std": (81, False),
        "ens": (81, False),
    }


def test_cells_stand_beside_the_printed_ones(tmp_path):
    for supernet, top1 in (("BASE", 43.0), ("EE_B", 58.0)):
        write_search(
            tmp_path,
            "tiny_imagenet",
            supernet,
            profile="paper",
            subnets=subnets([30, top1], [1, 4.0]),
        )
    cells = comparisons.search_cells(frames(tmp_path)[3], "tiny_imagenet")
    base, exits = (
        one(cells, phase=1, objectives="acc+params", supernet=s, post="none")
        for s in ("BASE", "EE_B")
    )
    assert (base.printed, base.printed_second, base.second) == (43.45, 4.045, 4.0)
    assert (base.verdict, exits.verdict) == (
        "reproduced",
        "above",
    ) and base.uncertainty == pytest.approx(own_stats.binomial_se(43, 10_000))
    assert one(cells, phase=3, objectives="acc", supernet="SE_P", post="none").verdict == "X"
    assert one(cells, phase=3, objectives="acc", supernet="SE_D", post="none").verdict == NOT_RUN
    assert len(cells) == len(cells.drop_duplicates(["phase", "objectives", "supernet", "post"]))
    write_search(tmp_path, "tiny_imagenet", "SE_D", profile="paper", objectives="acc+params+macs")
    more = comparisons.search_cells(frames(tmp_path)[3], "tiny_imagenet")
    assert (
        one(more, objectives="acc+params+macs", supernet="SE_D", phase=1, post="none").verdict
        == "nothing printed"
    )


# ----------------------------------------------------------------------------------- single metrics


def dominates(new, base):
    """By definition, over lists of (top-1, cost)."""
    t, c = max(base, key=lambda s: (s[0], -s[1]))
    return any(a >= t and b <= c and (a > t or b < c) for a, b in new)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([(50, 2)], 0),
        ([(50, 1.9)], 1),
        ([(50.1, 2)], 1),
        ([(49.9, 0.1)], 0),
        ([(60, 2.1)], 0),
        ([(40, 1), (51, 1)], 1),
    ],
)
def test_dominance_over_the_best_baseline_subnet(tmp_path, new, expected):
    write_search(tmp_path, supernet="BASE", subnets=subnets([50, 50, 45], [2, 3, 1]))
    write_search(tmp_path, supernet="EE_D", subnets=subnets(*zip(*new, strict=True)))
    (row,) = advantages.dominance(frames(tmp_path)[2]).itertuples()
    assert (row.dominates, row.supernet) == (expected, "EE_D")
    assert dominates(new, [(50, 2), (50, 3), (45, 1)]) == expected


def test_dominance_against_its_definition_on_random_searches(tmp_path):
    rng, expected = np.random.default_rng(1), {}
    for objectives, phase, seed in product(OBJECTIVES[1:], (1, 4), range(3)):
        for supernet in ("BASE", "EE_B"):
            points = list(
                zip(rng.integers(40, 46, 4).tolist(), rng.integers(1, 9, 4).tolist(), strict=True)
            )
            write_search(
                tmp_path,
                "stl10",
                supernet,
                phase,
                objectives,
                seed,
                subnets=subnets(*zip(*points, strict=True)),
            )
            expected[supernet, phase, objectives, seed] = points
    store = stored.store6(tmp_path)
    assert (
        len(store.by_metric["nat.dominates_base"]) == 3 * 3
    )  # phase-1 BASE is not compared with itself
    for v in (store.values[i] for i in store.by_metric["nat.dominates_base"]):
        s, p, o = v.dims["supernet"], int(v.dims["phase"]), v.dims["objectives"]
        wins = [
            dominates(expected[s, p, o, seed], expected["BASE", 1, o, seed]) for seed in range(3)
        ]
        assert (v.value, v.seeds, v.noise) == (sum(wins) >= 2, 3, 0)


def test_margin_tells_by_how_much_a_subnet_dominates(tmp_path):
    write_search(tmp_path, supernet="BASE", subnets=subnets([50, 45], [2, 1]))
    write_search(tmp_path, supernet="EE_D", subnets=subnets([60, 53, 49], [3, 2, 1]))
    row = advantages.dominance(frames(tmp_path)[2]).iloc[0]
    assert row.margin == 3 and row.margin_noise == pytest.approx(
        np.hypot(single_run_noise(53, 10_000), single_run_noise(50, 10_000)), rel=0.02
    )


def test_spread_and_mean_of_the_second_objective(tmp_path):
    write_search(tmp_path, supernet="BASE", subnets=subnets([50, 45, 40], [4, 2, 3]))
    write_search(
        tmp_path, supernet="SE_P", phase=2, subnets=subnets([50, 45, 40, 41], [6, 1, 2, 3])
    )
    write_search(tmp_path, supernet="SE_DP", subnets=subnets([50, 45], [6, 1]))
    store = stored.store6(tmp_path)
    assert value(store, "nat.second_spread", supernet="SE_P").value == pytest.approx(5 / 3)
    mean = value(store, "nat.second_mean", supernet="SE_P")
    assert mean.value == pytest.approx(3 / 3) and mean.noise == pytest.approx(
        np.std([6, 1, 2, 3], ddof=1) / 2 / 3
    )
    assert value(store, "nat.second_mean", supernet="BASE").value == 1
    assert not store.select(
        "nat.second_spread", {"supernet": "SE_DP"}
    )  # of two subnets: no spread to speak of


def test_largest_reduction_at_the_accuracy_of_the_baseline(tmp_path):
    write_search(tmp_path, "cifar10", "BASE", subnets=subnets([60, 50], [4, 1]))
    write_search(tmp_path, "cifar10", "EE_B", subnets=subnets([59.4, 59.6, 62], [0.1, 1, 2]))
    write_search(tmp_path, "cifar10", "SE_D", subnets=subnets([70], [0.1]))
    write_search(tmp_path, "stl10", "BASE", subnets=subnets([70], [3]))
    write_search(tmp_path, "stl10", "EE_D", subnets=subnets([70, 80], [0.5, 0.7]))
    write_search(tmp_path, "cifar10", "BASE", objectives="acc+macs", subnets=subnets([60], [4]))
    write_search(tmp_path, "cifar10", "EE_B", objectives="acc+macs", subnets=subnets([50], [1]))
    store = stored.store6(tmp_path)
    v = value(store, "nat.max_reduction_at_base_accuracy", objectives="acc+params")
    assert v.value == pytest.approx(6) and v.noise > 0  # 3 / 0.5 on STL-10 beats 4 / 1 on CIFAR-10
    assert value(store, "nat.max_reduction_at_base_accuracy", objectives="acc+macs").value == 0


def test_phases_are_compared_on_the_same_runs(tmp_path):
    tops = {}
    for supernet, phase, objectives, seed in product(FOUR, (1, 2), OBJECTIVES[:2], range(3)):
        tops[supernet, phase, objectives, seed] = write_search(
            tmp_path, "cifar100", supernet, phase, objectives, seed
        )[1].test_top1.max()
    write_search(tmp_path, "cifar100", "SE_P", 2, "acc")  # without a partner in phase 1
    gains = np.array(
        [
            [tops[s, 2, o, seed] - tops[s, 1, o, seed] for s in FOUR for o in OBJECTIVES[:2]]
            for seed in range(3)
        ]
    )
    row = one(comparisons.phase_comparison(frames(tmp_path)[3]), objectives="all", phase=2)
    interval = stats.ttest_1samp(gains.mean(axis=1), 0).confidence_interval(0.95)
    assert (row.gain, row.low, row.high) == tuple(map(pytest.approx, (gains.mean(), *interval)))
    assert (row.pairs, row.seeds) == (24, 3)
    v = value(stored.store6(tmp_path), "nat.phase_gain", phase=2)
    assert (v.value, v.noise) == (
        pytest.approx(gains.mean()),
        pytest.approx(stats.sem(gains.mean(axis=1))),
    )


def test_one_seed_takes_the_interval_from_the_noise_of_both_runs(tmp_path):
    a, b = (
        write_search(tmp_path, supernet="BASE", phase=p, n_test=180)[1].test_top1.max()
        for p in (1, 2)
    )
    row = comparisons.phase_comparison(frames(tmp_path)[3]).iloc[0]
    noise = np.hypot(single_run_noise(a, 180), single_run_noise(b, 180))
    assert (row.phase, row.against, row.noise) == (2, 1, pytest.approx(noise))
    assert (row.low, row.high) == (
        pytest.approx(b - a - 1.96 * noise),
        pytest.approx(b - a + 1.96 * noise),
    )
    assert (
        "nat.phase_gain" not in stored.store6(tmp_path).by_metric
    )  # one supernet of four is not the mean


def test_gain_and_wins_of_the_final_post_processing(tmp_path):
    found = {"none": [70, 72, 74], "std": [71, 74, 75.5], "ens": [72, 73, 77]}
    key, rows = write_search(
        tmp_path, "cifar10", "EE_D", 4, subnets=subnets(found["none"], [1, 2, 3])
    )
    write_posts(tmp_path, key, rows, top1=lambda i, method, *_: found[method][i])
    store = stored.store6(tmp_path)
    for method, gain in (("std", 1.5), ("ens", 2.0)):
        noise = [single_run_noise(t, 10_000) for t in found["none"] + found[method]]
        v = value(store, "nat.post_gain", phase=4, method=method)
        assert (v.value, v.noise) == (
            pytest.approx(gain),
            pytest.approx(np.sqrt(np.sum(np.square(noise))) / 3),
        )
        best = value(store, "nat.best_top1", post=method)
        assert (best.value, value(store, "nat.second_of_best", post=method).value) == (
            max(found[method]),
            pytest.approx(3.3 if method == "ens" else 3),
        )
    share = value(store, "nat.ens_win_share", dataset="CIFAR-10")
    assert share.value == pytest.approx(2 / 3) and share.noise == pytest.approx(
        np.sqrt(4 / 7 * 3 / 7 / 7)
    )
    change = value(store, "post.cost_change", method="ens", cost="params")
    assert (change.value, change.noise) == (pytest.approx(10), 0)
    assert value(store, "post.cost_change", method="std", cost="macs").value == 0


def test_the_study_of_strategies(tmp_path):
    key, rows = write_search(
        tmp_path, "cifar100", "EE_D", profile="paper", subnets=subnets([60, 64], [1, 2])
    )
    settings = [
        ("std", "SGD", 1e-4, None),
        ("ens", "AdamW", 1e-5, "UNIF"),
        ("ens", "AdamW", 1e-5, "MIX"),
    ]
    after = {"SGD": [61, 68], "UNIF": [62, 66], "MIX": [60.5, 67]}
    write_posts(tmp_path, key, rows, "grid", settings, top1=lambda i, m, o, lr, w: after[w or o][i])
    key, rows = write_search(
        tmp_path, "cifar100", "BASE", profile="paper", subnets=subnets([50, 52], [1, 2])
    )
    write_posts(tmp_path, key, rows, "grid", settings[:1], top1=lambda *_: 55)
    write_posts(
        tmp_path, key, rows.head(1), "grid", [("std", "AdamW", 1e-4, None)], top1=lambda *_: 60
    )
    store, table = stored.store6(tmp_path), comparisons.strategies(chapter6.posts(tmp_path))
    mean = value(store, "post.mean_top1", family="EE", method="ens", weights="MIX")
    assert mean.dims == {
        "family": "EE",
        "method": "ens",
        "optimizer": "AdamW",
        "lr": "1e-5",
        "weights": "MIX",
    }
    noise = np.hypot(single_run_noise(60.5, 10_000), single_run_noise(67, 10_000)) / 2
    assert (mean.value, mean.noise, mean.comparable) == (63.75, pytest.approx(noise), True)
    assert value(store, "post.mean_top1", family="EE", method="none").value == 62
    assert value(store, "post.mean_top1", family="SE", optimizer="SGD").value == 55
    assert not store.select(
        "post.mean_top1", {"family": "SE", "optimizer": "AdamW"}
    )  # one of two subnets
    assert (
        one(table, family="SE", optimizer="AdamW").n == 1
        and one(table, family="SE", optimizer="SGD").gain == 4
    )
    wins, trials = (value(store, f"post.ens_{k}", dataset="CIFAR-100") for k in ("wins", "trials"))
    assert (wins.value, trials.value, wins.noise, trials.noise) == (
        1,
        2,
        0,
        0,
    )  # 62 > 61, but 67 < 68
    assert one(table, family="EE", method="none").printed == 65.89


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_headline_is_the_best_of_both_searches_and_both_methods(tmp_path, seeds):
    expected = {"baseline": [], "full": []}
    for seed in seeds:
        tops = []
        for k, objectives in enumerate(names.CONSTANTS["BI_OBJECTIVES"]):
            write_search(
                tmp_path,
                "cifar10",
                "BASE",
                1,
                objectives,
                seed,
                subnets=subnets([90.0 + k, 80], [2, 1]),
            )
            for supernet, top in (("EE_B", 92.0), ("EE_D", 91.5)):
                key, rows = write_search(
                    tmp_path, "cifar10", supernet, 4, objectives, seed, subnets=subnets([90], [1])
                )
                write_posts(
                    tmp_path,
                    key,
                    rows,
                    top1=lambda i, m, *_, t=top + k + 0.1 * seed: t - 3 * (m == "ens"),
                )
                tops.append(top + k + 0.1 * seed)
        expected["baseline"].append(91.0)
        expected["full"].append(max(tops))
    write_search(tmp_path, "cifar10", "SE_D", 4, "acc+params", subnets=subnets([99], [1]))
    store, row = (
        stored.store6(tmp_path),
        one(comparisons.headline(frames(tmp_path)[3]), dataset="cifar10"),
    )
    base, best = (value(store, "nat.headline_top1", group=g) for g in ("baseline", "full"))
    assert base.dims == {"phase": "1", "dataset": "CIFAR-10", "group": "baseline", "post": "none"}
    assert best.dims == {"phase": "4", "dataset": "CIFAR-10", "group": "full", "post": "ens"}
    assert (base.value, best.value) == (91, pytest.approx(np.mean(expected["full"])))
    assert not base.comparable  # the data set of the thesis, but not its profile
    assert (
        row.gain == pytest.approx(best.value - 91)
        and row.sets == 2
        and row.gain_printed == pytest.approx(2.33)
    )


def test_one_of_the_two_searches_is_shown_but_not_judged(smoke):
    row = one(comparisons.headline(frames(smoke)[3]), dataset="digits_turned")
    assert row.sets == 1 and row.full > 90 and row.verdict == "nothing printed"
    assert "nat.headline_top1" not in stored.store6(smoke).by_metric


def test_gain_grows_with_the_number_of_classes(tmp_path):
    names = ["cifar10", "pets", "dtd", "food101"]
    for k, name in enumerate(names):
        write_search(tmp_path, name, "BASE", subnets=subnets([40], [1]))
        write_search(tmp_path, name, "EE_B", subnets=subnets([42], [1]))
        if k == 3:
            assert "nat.gain_vs_classes_spearman" not in stored.store6(tmp_path).by_metric
        write_search(tmp_path, name, "EE_D", subnets=subnets([[46, 45, 47, 48][k]], [1]))
    gains, classes = [6, 5, 7, 8], [10, 37, 47, 101]
    v = value(stored.store6(tmp_path), "nat.gain_vs_classes_spearman", phase=1)
    assert v.value == pytest.approx(stats.spearmanr(gains, classes).statistic) == pytest.approx(0.8)
    assert 0 < v.noise < 0.5


# ----------------------------------------------------------------------------- predictors, sampling


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_predictor_means_and_confidence_intervals(tmp_path, seeds):
    for seed in seeds:
        write_fits(
            tmp_path, supernet="EE_B", seed=seed, sizes=(40,), repeats=5, predictors=("LGBM",)
        )
    fits = chapter6.predictor_fits(tmp_path)
    rho = fits[fits.encoding == "integer"].spearman.to_numpy(float).reshape(len(seeds), 5)
    row = one(chapter6.predictor_means(fits), encoding="integer")
    low, high = stats.t.interval(0.95, rho.size - 1, rho.mean(), stats.sem(rho.ravel()))
    assert (row["mean"], 2 * row.half) == (pytest.approx(rho.mean()), pytest.approx(high - low))
    store, dims = stored.store6(tmp_path), {"encoding": "integer"}
    mean, width = (value(store, f"pred.spearman{k}", **dims) for k in ("", "_ci"))
    assert mean.dims == {
        "predictor": "LGBM",
        "supernet": "EE_B",
        "encoding": "integer",
        "n_train": "40",
    }
    assert (mean.value, mean.seeds) == (pytest.approx(rho.mean()), len(seeds))
    assert mean.noise == pytest.approx(
        stats.sem(rho.mean(axis=1)) if len(seeds) > 1 else stats.sem(rho[0])
    )
    each = [np.diff(stats.t.interval(0.95, 4, 0, stats.sem(r)))[0] for r in rho]
    assert width.value == pytest.approx(np.mean(each)) and width.noise > 0
    for metric in ("rmse", "fit_seconds", "pearson", "kendall"):
        assert value(store, f"pred.{metric}", **dims).noise > 0


def test_a_constant_prediction_counts_as_no_correlation_and_a_failed_fit_as_not_run(tmp_path):
    write_fits(
        tmp_path, sizes=(40,), repeats=4, predictors=("LGBM", "Ridge"), encodings=("integer",)
    )
    path = tmp_path / "predictors/digits/BASE_s0/fits/fits.csv"
    fits = pd.read_csv(path)
    ridge, lgbm = (np.flatnonzero(fits.predictor == name) for name in ("Ridge", "LGBM"))
    fits.loc[ridge[0], ["spearman", "pearson", "kendall"]] = np.nan
    fits.loc[lgbm[0], ["spearman", "pearson", "kendall", "rmse"]] = np.nan
    fits.to_csv(path, index=False)
    means, store = (
        chapter6.predictor_means(chapter6.predictor_fits(tmp_path)),
        stored.store6(tmp_path),
    )
    assert one(means, predictor="Ridge")["mean"] == pytest.approx(
        fits.spearman[ridge[1:]].sum() / 4
    )
    assert np.isnan(one(means, predictor="LGBM")["mean"])
    assert not store.select("pred.spearman", {"predictor": "LGBM"})
    assert store.select("pred.rmse", {"predictor": "Ridge"}) and store.select(
        "pred.fit_seconds", {"predictor": "LGBM"}
    )


def test_a_study_is_taken_from_the_data_set_of_the_thesis_and_two_others_are_not_mixed(tmp_path):
    def write(name):
        size = {"cifar10": 40, "digits": 50, "digits_turned": 60}[name]
        write_fits(
            tmp_path, name, sizes=(size,), repeats=2, predictors=("LGBM",), encodings=("integer",)
        )

    def sizes(**chosen):
        store = stored.store6(tmp_path, **chosen)
        return [store.values[i].dims["n_train"] for i in store.by_metric["pred.rmse"]]

    write("digits")
    write("digits_turned")
    with pytest.raises(Refusal, match="digits, digits_turned"):
        sizes()
    assert sizes(predictors_on="digits") == ["50"]
    write("cifar10")
    assert sizes() == sizes(predictors_on="digits") == ["40"]


def test_depth_shares_are_those_of_the_two_sampling_laws():
    """In the search space a code is zero with probability q = 1 / (M + 1): D = 2, 3, 4 as q^2,
    2q(1-q), (1-q)^2."""
    for dims, share, noise in advantages.depth_shares():
        q = 1 / 64 if dims["parallel"] else 1 / 10
        law = {2: q * q, 3: 2 * q * (1 - q), 4: (1 - q) ** 2}
        expected = law[dims["depth"]] if dims["space"] == "search" else 1 / 3
        assert abs(share - expected) < 4 * max(noise, np.sqrt(expected * (1 - expected) / 50_000))
    assert len(advantages.depth_shares()) == 12


# --------------------------------------------------------------------------------------- all claims


def test_every_metric_of_the_reference_is_there_under_its_own_dimensions(full):
    defined = printed("metrics")
    defined = defined[defined.metric.str.match(r"(pred|post|nat)\.")]
    wanted = {
        m.metric: {d.split(" (")[0] for d in m.dimensions.split(";")} for m in defined.itertuples()
    }
    wanted |= {
        "pred.pearson": wanted["pred.spearman"],
        "pred.kendall": wanted["pred.spearman"],
        "post.ens_trials": wanted["post.ens_wins"],
    }
    store = full[1]
    assert set(store.by_metric) == set(wanted)
    for metric, dims in wanted.items():
        assert all(set(store.values[i].dims) == dims for i in store.by_metric[metric])
    keys = [
        (metric, *sorted(store.values[i].dims.items()))
        for metric, found in store.by_metric.items()
        for i in found
    ]
    assert len(keys) == len(set(keys))
    assert all(v.comparable for v in store.values)
    for v in (
        printed_store().values
    ):  # every label that the thesis prints for these metrics finds its value
        names = [
            m
            for m, rows in printed_store().by_metric.items()
            if v in [printed_store().values[i] for i in rows]
        ]
        if names[0] in wanted:
            assert len(store.select(names[0], v.dims)) == 1, (names[0], v.dims)


def test_the_run_time_ratio_follows_from_the_times_of_one_run(tmp_path):
    """1 s with 5 validations of 0.1 s is 0.6 s with one; 1 s with one is 1.4 s with five."""
    for phase in (1, 4):
        for seed in (0, 1):
            write_search(tmp_path, phase=phase, seed=seed)
    steps = chapter6.iterations(tmp_path)
    store = Store()
    stored.add_durations(
        store,
        steps.assign(validation_seconds=steps.validation_seconds.where(steps.iteration == 0, 0.1)),
    )
    assert value(store, "nat.duration_ratio", validation="last_epoch").value == pytest.approx(
        (0.6 + 1 / 1.4) / 2
    )
    stored.add_durations(empty := Store(), steps.assign(epochs=1))  # nothing to leave out
    assert not empty.values


def test_every_claim_of_the_chapter_is_judged(full):
    judged = judge(full[1], claims.about("nat", "post", "pred"), copies=50).set_index("id")
    assert len(judged) == 61 and {"S03", "S04", "S14", "S15", "S16", "S17", "N15r"} < set(
        judged.index
    )
    assert (judged.have == judged.asked).all() and judged.share.notna().all()
    for claim in ("N01", "N04", "N22", "N38", "N44", "N46", "N51", "N52"):
        assert judged.verdict[claim] == "reproduced", claim
    assert judged.ours["N25"] == "EE_D, EE_B"


def test_a_small_profile_judges_what_it_ran_and_compares_nothing_with_printed_numbers(smoke):
    store = stored.store6(smoke)
    assert not any(
        v.comparable for v in store.values if v.dims.keys() != {"space", "parallel", "depth"}
    )
    judged = judge(store, claims.about("nat", "post", "pred"), copies=50).set_index("id")
    assert judged.verdict["N15"] == "not comparable in this profile"
    assert judged.verdict["N23"] == judged.verdict["N51"] == "reproduced"
    assert (
        judged.verdict["N01"]
        == judged.verdict["N24"]
        == judged.verdict["N43"]
        == "not run in this profile"
    )


def test_nothing_run_leaves_the_sampling_claims(tmp_path):
    store = stored.store6(tmp_path)
    assert set(store.by_metric) == {"nat.depth_share"}
    verdicts = judge(store, claims.about("nat", "post", "pred"), copies=20).set_index("id").verdict
    assert set(verdicts[["N51", "N52"]]) == {"reproduced"}
    assert set(verdicts.drop(["N51", "N52"])) == {"not run in this profile"}


# ------------------------------------------------------------------------------- tables and figures


def figures(out, dataset):
    _, posts, versions, _ = frames(out)
    fits, steps = chapter6.predictor_fits(out), chapter6.iterations(out)
    return {
        "6_3": figures6.fig_6_3(fits),
        "6_4": figures6.fig_6_4(fits),
        "6_5": figures6.fig_6_5(fits),
        "6_6": figures6.fig_6_6(posts),
        "6_7": figures6.fig_6_7(versions),
        "6_8": figures6.fig_6_8(versions),
        "6_9": figures6.fig_6_9(versions, dataset),
        "6_10a": figures6.fig_6_10(posts, "a"),
        "6_10b": figures6.fig_6_10(posts, "b"),
        "6_11": figures6.fig_6_11(versions),
        "hypervolume": figures6.hypervolume_curves(steps, dataset),
        "quality": figures6.predictor_quality(steps, dataset),
        "shift": figures6.archive_shift(steps, dataset=dataset),
    }


def tables(out, dataset):
    best, posts = frames(out)[3], chapter6.posts(out)
    made = {
        "predictors": tables6.table_predictors(chapter6.predictor_fits(out)),
        "search": tables6.table_search(comparisons.search_cells(best, dataset)),
        "headline": tables6.table_headline(comparisons.headline(best)),
        "strategies": tables6.table_strategies(comparisons.strategies(posts)),
        "phases": tables6.table_phases(comparisons.phase_comparison(best)),
    }
    return {name: table.to_html() for name, table in made.items()}


def test_figures_of_a_small_profile_show_what_was_run_and_say_what_was_not(smoke, tmp_path):
    made = figures(smoke, "digits_turned")
    for name in ("6_4", "6_6", "6_10b", "shift"):
        style.save(made[name], tmp_path / "png", name)
        assert (tmp_path / f"png/{name}.png").stat().st_size > 1000
    plt.close("all")
    said = made["6_7"].get_supxlabel()  # what was not run is named; no panel stands empty
    assert said.startswith(f"{NOT_RUN}: ") and "CIFAR-10; CIFAR-100" in said
    ours = made["6_7"].rows[made["6_7"].rows.post == "none"]
    assert len(ours) == 2 * (1 + 4) and (ours.uncertainty > 0.5).all()
    assert set(made["6_11"].rows.post) == {"none", "std", "printed"} and len(made["6_3"].rows) == 4
    assert set(made["6_3"].rows.n_train) == {40} and len(made["6_4"].rows) == 4
    assert len(made["6_10b"].rows) == 3 * (1 + 2) and len(made["6_10a"].rows) == 2 * (1 + 2)
    assert len(made["6_6"].rows) == 4 * 2 + 4 * 4  # BASE: found, SGD; EE_D: two ens as well
    assert (
        set(made["hypervolume"].rows.phase) == {1, 4}
        and made["shift"].rows["mean"].between(0, 1).all()
    )
    assert made["6_8"].rows.empty and "Figure 6.8" in made["6_8"].texts[0].get_text()


def test_printed_points_stand_in_their_own_panels_only(full):
    versions = frames(full[0])[2]
    for figure, n in (
        (figures6.fig_6_7(versions), 6),
        (figures6.fig_6_9(versions), 0),
        (figures6.fig_6_9(versions, "tiny_imagenet"), 6),
        (figures6.fig_6_11(versions), 2),
    ):
        points = figure.rows[figure.rows.post == "printed"]
        assert len(points) == n and set(points.dataset) <= {"tiny_imagenet"}
        diamonds = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "D"]
        assert len(diamonds) == n
        plt.close(figure)


def test_nothing_run_gives_figures_and_tables_all_the_same(tmp_path):
    assert len(figures(tmp_path, "digits")) == 13
    plt.close("all")
    made = tables(tmp_path, "tiny_imagenet")
    assert "43.45 at 4.045" in made["search"] and "93.06" in made["headline"]
    assert NOT_RUN in made["strategies"] and NOT_RUN in made["phases"]


def test_tables_show_ours_printed_and_missing(smoke):
    made = tables(smoke, "digits_turned")
    best = one(frames(smoke)[3], supernet="EE_D", phase=4, objectives="acc+params", post="ens")
    assert f">{best.top1:.2f}</span>" in made["search"]
    assert ">not run<" in made["search"] and ">X<" in made["search"]
    assert "1 of 2" in made["headline"] and "90.73" in made["headline"]
    assert "65.90 (+1.38)" in made["strategies"] and "one-hot" in made["predictors"]
    assert "4 against 1" in made["phases"] and "2 against 1" not in made["phases"]


def test_three_objectives_and_several_seeds_are_drawn_too(tmp_path):
    for objectives, seed in product(("acc", "acc+params+macs"), (0, 3)):
        write_search(tmp_path, "cifar100", "SE_B", 2, objectives, seed)
        write_search(tmp_path, "cifar100", "EE_D", 1, objectives, seed)
    versions, steps = frames(tmp_path)[2], chapter6.iterations(tmp_path)
    assert figures6.fig_6_7(versions).axes[4].get_title() == "accuracy & parameters & MACs"
    assert len(figures6.fig_6_9(versions.assign(supernet="EE_D")).rows) == 2 * 2 * (1 + 4)
    curves = figures6.hypervolume_curves(steps).rows
    assert set(curves.runs) == {2} and (curves.se > 0).all()
    plt.close("all")


def test_what_the_thesis_does_not_have_is_drawn_in_grey_and_never_dropped(smoke):
    _, posts, versions, _ = frames(smoke)
    found = versions[versions.objectives == "acc+params"]
    more = found.assign(objectives="acc+depth", supernet="mine")
    fronts = figures6.fig_6_7(pd.concat([versions, more], ignore_index=True))
    assert "accuracy & depth" in {ax.get_title() for ax in fronts.axes}
    assert "mine" in {t.get_text() for t in fronts.legends[0].get_texts()}
    later = versions.assign(phase=5)
    phases = figures6.fig_6_9(pd.concat([versions, later], ignore_index=True), "digits_turned")
    assert "phase 5" in {ax.get_title() for ax in phases.axes}
    fits = chapter6.predictor_fits(smoke)
    both = pd.concat([fits, fits.assign(predictor="forest")], ignore_index=True)
    bars = figures6.fig_6_3(both)
    assert "forest" in {t.get_text() for t in bars.axes[0].get_xticklabels()}
    assert "forest" in set(tables6.table_predictors(both).data.index)
    assert "forest" in {t.get_text() for t in figures6.fig_6_4(both).axes[0].texts}
    odd = posts.assign(method=posts.method.replace("ens", "distilled"))
    assert "distilled" in set(figures6.fig_6_10(odd, "b").rows.method)
    assert "distilled" in set(figures6.fig_6_6(odd).rows.method)
    plt.close("all")


def test_optimisers_of_figure_6_6_differ_in_colour(smoke):
    drawn = figures6.fig_6_6(frames(smoke)[1])
    labels = {h.get_label(): h for h in drawn.legends[0].legend_handles}
    used = [labels[name].get_facecolor() for name in set(drawn.rows.optimizer) - {"-"}]
    assert len(set(used)) == len(used) > 0
    plt.close("all")


def test_saved_figures_are_equal_to_the_byte(smoke, tmp_path):
    versions = frames(smoke)[2]
    for folder in ("a", "b"):
        style.save(figures6.fig_6_7(versions), tmp_path / folder, "figure")
        style.save(
            comparisons.search_cells(frames(smoke)[3], "digits_turned"), tmp_path / folder, "cells"
        )
    for name in ("figure.png", "figure.csv", "cells.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_labels_keep_their_distance_and_order():
    heights = {"a": 0.90, "b": 0.91, "c": 0.92, "d": 0.1}
    moved = predictors.apart(heights, 0.05, 0.95)
    assert (
        sorted(moved, key=moved.get) == ["d", "a", "b", "c"] and max(moved.values()) <= 0.95 + 1e-9
    )
    assert min(abs(moved[a] - moved[b]) for a, b in combinations(moved, 2)) > 0.0499


# ------------------------------------------------------------------- what the thesis does not have


def test_an_objective_of_ones_own_has_its_column(tmp_path):
    rows = subnets_of("digits", "EE_D", 1, "acc+depth", 0).assign(depth=[9, 8, 7, 6])
    write_search(tmp_path, supernet="EE_D", objectives="acc+depth", subnets=rows)
    found = chapter6.returned(tmp_path)
    assert found.second.tolist() == [9, 8, 7, 6]
    cells = comparisons.search_cells(
        chapter6.best(chapter6.versions(found, chapter6.posts(tmp_path))), "digits"
    )
    mine = one(cells, objectives="acc+depth", supernet="EE_D", phase=1, post="none")
    assert mine.second == found.second[found.test_top1.idxmax()]


def test_strategies_average_over_the_supernets_of_the_thesis(tmp_path):
    for supernet in ("BASE", "SE_P"):
        key, subnets = write_search(tmp_path, supernet=supernet)
        write_posts(tmp_path, key, subnets, "grid")
    posts = chapter6.posts(tmp_path)
    table = comparisons.strategies(posts)
    expected = posts[posts.supernet == "BASE"].drop_duplicates("code").original_top1.mean()
    assert one(table, method="none").top1 == pytest.approx(expected)


def test_an_interval_of_correlations_stays_within_one(tmp_path):
    write_fits(tmp_path, sizes=(40,), repeats=2, predictors=("LGBM",), encodings=("integer",))
    fits = chapter6.predictor_fits(tmp_path).assign(spearman=[0.9, 0.99])
    mean = chapter6.predictor_means(fits).squeeze()
    assert mean["mean"] + mean.half > 1 and mean.high == 1 and mean.low >= -1


def test_sizes_of_splits_come_from_runs_at_paper_size(tmp_path):
    from nat_lib.results.frames import loaded_sizes

    for name, profile, train in (("cifar10", "paper", 45_000), ("dtd", "laptop", 100)):
        params = {"dataset": name, "profile": profile, "phase": 1}
        params["data"] = {"sizes": {"train": train, "val": 5_000, "test": 10_000}}
        write_cell(tmp_path / f"natv2_phases/{name}/BASE", params, {"front": 1})
    assert loaded_sizes(tmp_path) == {("nat", "cifar10"): (45_000, 5_000, 10_000)}
