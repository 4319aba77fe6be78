"""Results of thesis chapter 6 as frames: predictors, searches, returned and post-processed subnets.

Everything is read, nothing is run. Costs are in the units of the objectives: millions of
parameters, millions of MACs (the thesis's convention, `macs_tp`), milliseconds. What is compared
with what is in `comparisons`.
"""

import numpy as np
import pandas as pd

from nat_lib.results.frames import joined, load, metrics_of, of_files, params_of, picked
from nat_lib.results.names import CORRELATIONS, extended
from nat_lib.results.stats import half_width, jackknife, single_run_noise, spread
from nat_lib.search.objectives import OBJECTIVES, column
from nat_lib.search.strategies import DEFAULT

SEARCH = ["dataset", "profile", "supernet", "phase", "objectives", "seed"]  # one finished search
SUBNET = [*SEARCH, "code"]
FITTED = ["dataset", "profile", "supernet", "predictor", "encoding", "n_train"]
FIT_COLUMNS = [*FITTED, "seed", "repeat", "n_test", "rmse", *CORRELATIONS, "seconds", "note"]
FIT_COLUMNS += ["differs"]
RETURNED_COLUMNS = [
    *SUBNET,
    "resolution",
    "width",
    "exit",
    "val_top1",
    "test_top1",
    "test_top5",
    "test_loss",
    "params",
    "macs",
    "macs_tp",
    "latency_ms",
    "latency_iqr",
    "second",
    "n_classes",
    "n_test",
    "differs",
]
ITERATION_COLUMNS = [
    *SEARCH,
    "iteration",
    "hypervolume",
    "archive",
    "front",
    "candidates",
    "rmse",
    "pearson",
    "spearman",
    "kendall",
    "predictor",
    "note",
    "best_top1",
    "mean_top1",
    "supernet_top1",
    *(f"depth_{d}" for d in (2, 3, 4)),
    *(f"exit_{e}" for e in (1, 2, 3, 4, 5)),
    "seconds",
    "epochs",
    "validations",
    "validation_seconds",
    "differs",
]


def predictor_fits(out, dataset=None) -> pd.DataFrame:
    """Every fit of the predictor study (thesis 6.2.2), one row per predictor, supernet, encoding,
    size and repeat."""
    found = load(out, "predictors", dataset)
    of = picked(
        found,
        params_of("dataset", "profile", "supernet", "seed", "n_test") | {"differs": "differs"},
    )
    columns = ["size" if name == "n_train" else name for name in FIT_COLUMNS]
    return of_files(found, "fits.csv", columns, of).rename(columns={"size": "n_train"})


def searches(out, dataset=None, strategy=None) -> pd.DataFrame:
    """One row per finished search; hypervolumes are relative to the search's own reference
    point.

    strategy : key of STRATEGIES; None: all of them
    """
    found = load(out, "natv2_phases", dataset)
    rows = picked(
        found,
        {
            **params_of(*SEARCH, "strategy", "n_classes"),
            **metrics_of("hypervolume", "front", "seconds", "n_test", "latency"),
            "folder": "folder",
            "differs": "differs",
        },
    )
    rows = rows[rows.phase.notna()]  # the others time the space
    theirs = (
        rows.pop("strategy").astype(object).fillna(DEFAULT)
    )  # cells of the default do not name it
    if strategy is not None:
        rows = rows[theirs == strategy]
    rows = rows.reset_index(drop=True)
    volumes = rows.hypervolume
    rows.insert(len(SEARCH), "hypervolume_first", [volume[0] for volume in volumes])
    return rows.assign(hypervolume=[v[-1] for v in volumes]).astype(
        dict.fromkeys(("phase", "seed", "n_classes"), int)
    )


def iterations(out, dataset=None, strategy=DEFAULT) -> pd.DataFrame:
    """One row per iteration of every finished search by a strategy: hypervolume, predictor quality,
    shares of depths and exits (NaN for exits that a supernet does not have)."""
    found = searches(out, dataset, strategy)
    return of_files(found, "iterations.csv", ITERATION_COLUMNS, found)


def returned(out, dataset=None, strategy=DEFAULT) -> pd.DataFrame:
    """One row per returned subnet of the searches by a strategy; `second`: its second objective
    (NaN without one). An objective that is not of the thesis has its column at the end."""
    found = searches(out, dataset, strategy)
    costs = extended(OBJECTIVES, [c for text in found.objectives for c in text.split("+")[1:]])
    columns = extended(["returned", *RETURNED_COLUMNS], (_column(cost)[0] for cost in costs))
    rows = of_files(found, "subnets.csv", columns, found)
    rows = rows[rows.pop("returned").astype(bool)].reset_index(drop=True)
    return rows.assign(second=second_objective(rows))


def posts(out, dataset=None, study=None) -> pd.DataFrame:
    """One row per post-processed subnet and setting, before (`original_*`) and after.

    study : "grid", the comparison of strategies (thesis 6.3.2), "final", the last step of phase 4,
            or None: both
    second and latency_ms of an AEP-based network: its latency was not measured (NaN); the standard
    method keeps both
    """
    costs = ("params", "macs_tp")
    rows = picked(
        load(out, "post_processing", dataset),
        {
            **params_of(*SUBNET, "study", "subnet", "method", "optimizer", "lr", "weights"),
            "original_val_top1": "metrics.original.val_top1",
            "val_top1": "metrics.after.val_top1",
            "original_top1": "metrics.original.test_top1",
            "test_top1": "metrics.after.test_top1",
            **metrics_of(*costs, "latency_ms", before="original_", where="metrics.original"),
            **metrics_of(*costs, "best_epoch", "n_test"),
            "stands_for": "params.stands_for",
            "differs": "differs",
            "cell": "name",
        },
    )
    rows = rows[rows.study == study].reset_index(drop=True) if study else rows
    rows = rows.assign(latency_ms=rows.original_latency_ms.where(rows.method == "std"))
    rows = _settings(rows)
    rows = rows.assign(
        lr=[np.format_float_scientific(lr, trim="-", exp_digits=1) for lr in rows.lr],
        weights=rows["weights"].fillna("-"),
    )
    return rows.assign(
        original_second=second_objective(rows, "original_"), second=second_objective(rows)
    )


def _settings(rows):
    """A row per setting: a subnet that leaves at exit 1 is trained once for all settings that come
    out the same, which are listed in `stands_for`."""
    found = []
    for row in rows.to_dict("records"):
        others = row.pop("stands_for")
        found += [row, *(row | other for other in (others if isinstance(others, list) else []))]
    columns = [name for name in rows.columns if name != "stands_for"]
    return pd.DataFrame(found, columns=columns)


def _column(cost):
    """(column of a frame of subnets that holds an objective, how much of it is one unit); one that
    has no row stands under its own name."""
    return (column(cost), OBJECTIVES[cost].scale) if cost in OBJECTIVES else (cost, 1.0)


def second_objective(rows, prefix=""):
    """The first objective after accuracy, in its unit; NaN where accuracy is the only one, or where
    the frame does not have it."""
    first = rows.objectives.astype(str).str.split("+").str[1]
    found = np.full(len(rows), np.nan)
    for cost in first.dropna().unique():
        name, unit = _column(cost)
        if prefix + name in rows:
            here = (first == cost).to_numpy()
            found[here] = rows.loc[here, prefix + name].astype(float) / unit
    return found


# ------------------------------------------------------------------------------- means and versions


def fitted(fits, metric):
    """A metric of every fit. A constant prediction ranks nothing: correlation 0; where no fit was
    possible: NaN."""
    return (
        fits[metric]
        .where(fits.rmse.isna() | (metric not in CORRELATIONS), fits[metric].fillna(0.0))
        .astype(float)
    )


def predictor_means(fits, metric="spearman"):
    """Mean of a metric over all repetitions and its 95 % confidence interval, one row per FITTED.

    returns : FITTED, mean, sd, n, half (half width of the interval; NaN for one repetition), low,
              high (of a correlation within [-1, 1])
    A predictor that once could not be fitted has NaN (see `fitted`).
    """
    rows = (
        fits.assign(value=fitted(fits, metric))
        .groupby(FITTED, as_index=False, sort=False)
        .value.agg(mean=lambda v: v.mean(skipna=False), sd="std", n="size")
    )
    half = half_width(rows.sd / np.sqrt(rows.n), rows.n)
    rows = rows.assign(half=half, low=rows["mean"] - half, high=rows["mean"] + half)
    if metric in CORRELATIONS:
        rows = rows.assign(low=rows.low.clip(lower=-1), high=rows.high.clip(upper=1))
    return rows


def final_posts(posts):
    """The final post-processing, one row per subnet and method: of several settings the best on
    validation."""
    final = posts[posts.study == "final"].sort_values("val_top1", ascending=False, kind="stable")
    return final.drop_duplicates([*SUBNET, "method"])


def versions(returned, posts):
    """The returned subnets in every form they were tested in: as found, and after the final
    post-processing.

    returns : SUBNET, post ("none" | "std" | "ens"), top1, val_top1, second, n_test, differs
    """
    columns = [*SUBNET, "post", "test_top1", "val_top1", "second", "n_test", "differs"]
    final = final_posts(posts)
    parts = [
        part[columns]
        for part in (returned.assign(post="none"), final.assign(post=final.method))
        if len(part)
    ]
    return joined(parts, columns).rename(columns={"test_top1": "top1"})


def best(versions):
    """One row per finished search and post: its most accurate subnet on the test split, as the
    thesis picks it.

    returns : SEARCH, post, top1, second of that subnet, second_mean and second_spread over all, n
              (subnets), whole (all returned ones were post-processed), val_top1 and by_val
              (validation and test top-1 of the subnet that validation picks), n_test, and for one
              seed top1_noise (single_run_noise) and the noise of the costs (jackknife over
              the subnets)
    """
    keys = [*SEARCH, "post"]
    ordered = versions.sort_values(["top1", "second"], ascending=[False, True], kind="stable")
    rows = [
        dict(zip(keys, key, strict=True)) | _best_of(group) for key, group in ordered.groupby(keys)
    ]
    frame = pd.DataFrame(rows, columns=[*keys, *BEST_COLUMNS])
    found = frame[frame.post == "none"].set_index(SEARCH).n
    return frame.assign(
        whole=[n == found.get(tuple(key), -1) for n, *key in frame[["n", *SEARCH]].to_numpy()]
    )


BEST_COLUMNS = ["top1", "second", "second_mean", "second_spread", "n", "val_top1", "by_val"]
BEST_COLUMNS += ["n_test", "top1_noise", "second_noise", "second_mean_noise"]
BEST_COLUMNS += ["second_spread_noise", "differs"]


def _best_of(group):
    """The row of `best` of one search and post; the group is in order of top-1."""
    top1, costs = group.top1.to_numpy(), group.second.to_numpy(float)
    n_test, by_val = group.n_test.iloc[0], group.val_top1.to_numpy().argmax()
    row = {
        "top1": top1[0],
        "top1_noise": single_run_noise(top1[0], n_test),
        "n": len(group),
        "n_test": n_test,
        "val_top1": group.val_top1.iloc[by_val],
        "by_val": top1[by_val],
        "differs": "; ".join(dict.fromkeys(text for text in group.differs if text)),
    }
    statistics = {"second": lambda c: c[0], "second_mean": np.mean, "second_spread": spread}
    for name, statistic in statistics.items():
        row |= {name: statistic(costs), f"{name}_noise": jackknife(costs, statistic)}
    return row
