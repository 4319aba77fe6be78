"""The measured values that the claims of thesis chapter 6 ask for: a `values.Store` from finished
cells.

Metrics, dimensions and labels are those of reference/metrics.csv; a value that was not measured is
left out, so its claims show as not run. Metrics without a data set pool all of them, over the four
sets of objectives and the eight supernets of the thesis.
"""

import numpy as np
import pandas as pd

from nat_lib.results import chapter6, comparisons, stats
from nat_lib.results.advantages import (
    PLACE,
    class_trend,
    compared,
    depth_shares,
    dominance,
    reductions,
    relative_second,
    trend_rows,
)
from nat_lib.results.chapter6 import FITTED, SEARCH, SUBNET
from nat_lib.results.comparisons import STRATEGY, comparable
from nat_lib.results.frames import preferred
from nat_lib.results.names import (
    NAT_SUPERNETS,
    OBJECTIVES,
    SUPERNETS,
    name_of,
)
from nat_lib.results.values import Store


def store6(out, predictors_on=None, strategies_on=None) -> Store:
    """Store of pred.*, post.* and nat.* from the finished cells under `out`.

    predictors_on, strategies_on : data set of the two studies where they did not run on the
                                   thesis's (CIFAR-10 and CIFAR-100), to be named only where there
                                   are several
    """
    fits, posts = chapter6.predictor_fits(out), chapter6.posts(out)
    found, steps = chapter6.returned(out), chapter6.iterations(out)
    found, posts = (
        rows[rows.objectives.isin(OBJECTIVES) & rows.supernet.isin(SUPERNETS)]
        for rows in (found, posts)
    )
    fits = preferred(fits[fits.supernet.isin(SUPERNETS)], "predictors", predictors_on)
    grid = preferred(posts[posts.study == "grid"], "strategies", strategies_on)
    fits, grid, found, posts, steps = (
        rows.assign(dataset=rows.dataset.map(name_of)) for rows in (fits, grid, found, posts, steps)
    )
    store = Store()
    add_predictors(store, fits)
    add_strategies(store, grid)
    add_costs(store, posts)
    versions = chapter6.versions(found, posts)
    best = chapter6.best(versions)
    classes = found.drop_duplicates("dataset").set_index("dataset").n_classes
    add_searches(store, versions, best, classes)
    add_gains(store, best, chapter6.final_posts(posts))
    add_durations(store, steps)
    for dims, share, noise in depth_shares():
        store.add("nat.depth_share", dims, share, noise)
    return store


def _comparable(rows, keys):
    """{keys, comparable}: were all runs behind a value made as the thesis's, and complete?"""
    whole = rows.whole if "whole" in rows else True
    rows = rows.assign(comparable=comparable(rows) & whole)
    return rows.groupby(keys, as_index=False).comparable.all()


# --------------------------------------------------------------------------------------- predictors


def add_predictors(store, fits):
    """pred.*: means over the repetitions of one data set, and for rho the width of their 95 %
    confidence interval.

    Noise: standard error over seeds of the supernets, or over the repetitions of one seed, in which
    all predictors learn from the same subnets; of the width of an interval of n normal values, its
    share 1 / sqrt(2 (n - 1)). A value behind which there is one repetition only is left out.
    """
    if fits.empty:
        return
    metrics = {f"pred.{name}": name for name in ("spearman", "pearson", "kendall", "rmse")}
    for metric, column in (metrics | {"pred.fit_seconds": "seconds"}).items():
        means = _predictor_means(fits, column)
        kept = means.groupby(FITTED, as_index=False).comparable.all()
        found = stats.over_seeds(means, FITTED, "mean", "error")
        found["by_seed"] = _seeds_or_repeats(found, fits, column)
        store.fill(metric, found.merge(kept), FITTED[2:])
        if column == "spearman":
            widths = stats.over_seeds(means, FITTED, "width", "width_error")
            store.fill("pred.spearman_ci", widths.merge(kept), FITTED[2:])


def _predictor_means(fits, column):
    """`chapter6.predictor_means` of every seed: mean, error, width, width_error, comparable."""
    as_thesis = fits.assign(comparable=(fits.differs == "") & (fits.dataset == "CIFAR-10"))
    keys = [*FITTED, "seed"]
    kept = as_thesis.groupby(keys, as_index=False).comparable.all()
    parts = [
        chapter6.predictor_means(rows, column).assign(seed=seed)
        for seed, rows in fits.groupby("seed")
    ]
    means = pd.concat(parts).merge(kept, "left", keys)
    few = np.sqrt(2 * (means.n - 1).clip(lower=1))
    return means.assign(
        error=means.sd / np.sqrt(means.n), width=2 * means.half, width_error=2 * means.half / few
    )


def _seeds_or_repeats(found, fits, column):
    """{seed: number} of every row of `found`; of a single seed {repetition: number}."""
    repeat = [*zip(fits.supernet, fits.n_train, fits.repeat, strict=True)]
    rows = fits.assign(value=chapter6.fitted(fits, column), seed=repeat)
    repeats = stats.by_seed(found, rows, FITTED, "value")
    return [
        seeds if len(seeds) > 1 else repeated
        for seeds, repeated in zip(found.by_seed, repeats, strict=True)
    ]


# ---------------------------------------------------------------------------------- post-processing


def add_strategies(store, grid):
    """post.mean_top1, post.ens_wins and post.ens_trials: the study of strategies on one data set.

    A mean over part of the studied subnets is left out: it would be compared with means over all of
    them.
    """
    as_thesis = (grid.differs == "") & (grid.dataset == "CIFAR-100")
    paper = bool(len(grid)) and bool(as_thesis.all())
    table = comparisons.strategies(grid)
    table = table[table.n == table.studied].rename(columns={"top1": "ours"})
    store.fill("post.mean_top1", table.assign(comparable=paper), STRATEGY)
    for dataset, rows in compared(grid).groupby("dataset"):
        for metric, count in (("post.ens_wins", rows.wins.sum()), ("post.ens_trials", len(rows))):
            store.add(metric, {"dataset": dataset}, count, 0.0, rows.seed.nunique(), paper)


def add_costs(store, posts):
    """post.cost_change: mean over all post-processed subnets; a count, so without noise."""
    once = posts.drop_duplicates([*SUBNET, "method"])
    for column, cost in (("params", "params"), ("macs_tp", "macs")):
        change = 100 * (once[column] / once[f"original_{column}"] - 1)
        for method, rows in once.assign(change=change).groupby("method"):
            store.add(
                "post.cost_change",
                {"method": method, "cost": cost},
                rows.change.mean(),
                0.0,
                rows.seed.nunique(),
                bool(comparable(rows).all()),
            )


# ----------------------------------------------------------------------------------------- searches


def add_searches(store, versions, best, classes):
    """nat.* of what the searches returned, before (post = none) and after the final post-processing
    (std, ens).

    versions, best : of `chapter6`;  classes : number of classes by data set
    """
    keys, found = [*PLACE, "post"], best[best.post == "none"]
    kept = _comparable(best, keys)
    for metric, column in (("nat.best_top1", "top1"), ("nat.second_of_best", "second")):
        rows = stats.over_seeds(best, keys, column, f"{column}_noise").merge(kept)
        store.fill(metric, rows, keys)
    several = found[found.n > 2]
    for rows, column in ((relative_second(found), "second_mean"), (several, "second_spread")):
        values = stats.over_seeds(rows, PLACE, column, f"{column}_noise")
        store.fill(f"nat.{column}", values.merge(_comparable(found, PLACE)), PLACE)
    dominates = dominance(versions).rename(columns={"dominates": "ours"}).assign(noise=0.0)
    store.fill("nat.dominates_base", dominates.merge(kept), keys)
    behind, smaller = reductions(versions)
    keys = ["phase", "objectives"]
    smaller = smaller.merge(_comparable(behind, keys), on=keys)
    store.fill("nat.max_reduction_at_base_accuracy", smaller, keys)
    trend = class_trend(found, classes).merge(_comparable(trend_rows(found), ["phase"]), on="phase")
    store.fill("nat.gain_vs_classes_spearman", trend, ["phase"])
    _add_headline(store, best)


def _add_headline(store, best):
    """nat.headline_top1; ens: AEP-based post-processing is allowed, not demanded."""
    keys = ["phase", "dataset", "group", "post"]
    runs = comparisons.headline_runs(best).query("sets == 2")
    runs = runs.assign(post=np.where(runs.group == "full", "ens", "none"))
    rows = stats.over_seeds(runs, keys, "top1", "top1_noise").merge(_comparable(runs, keys))
    store.fill("nat.headline_top1", rows, keys)


def add_gains(store, best, final):
    """nat.phase_gain (of all four NAT_SUPERNETS, or left out), nat.post_gain and
    nat.ens_win_share."""
    for phase in (2, 3, 4):
        both = comparisons.pairs(best, phase, phase - 1)
        both = both[both.supernet.isin(NAT_SUPERNETS)].assign(phase=phase)
        if set(both.supernet) == set(NAT_SUPERNETS):
            rows = stats.mean_over_seeds(both, ["phase"], "gain", "gain_noise")
            store.fill("nat.phase_gain", rows.merge(_comparable(both, ["phase"])), ["phase"])
    keys = ["phase", "method"]
    noise = np.hypot(stats.noise_of(final), stats.noise_of(final, "original_top1"))
    final = final.assign(gain=final.test_top1 - final.original_top1, single=noise)
    rows = stats.mean_over_seeds(final, keys, "gain", "single").merge(_comparable(final, keys))
    store.fill("nat.post_gain", rows, keys)
    for dataset, rows in compared(final[final.phase == 4]).groupby("dataset"):
        per_seed = rows.groupby("seed").wins.mean()
        noise = np.fmax(
            per_seed.std() / np.sqrt(len(per_seed)), stats.share_se(rows.wins.sum(), len(rows))
        )
        store.add(
            "nat.ens_win_share",
            {"dataset": dataset},
            per_seed.mean(),
            noise,
            len(per_seed),
            bool(comparable(rows).all()),
        )


def add_durations(store, steps):
    """nat.duration_ratio: run time with one validation of the supernet per iteration over that with
    one per epoch.

    From the measured times of the very same iterations, of several epochs each, and of their
    validations: the median over the iterations of a search, then the mean over searches. Noise for
    one seed: standard error over searches.
    """
    keys = ["validation"]
    steps = steps[(steps.epochs > 1) & steps.validation_seconds.notna()]
    steps = steps.assign(validation="last_epoch")
    once = steps.seconds - (steps.validations - 1) * steps.validation_seconds
    steps["ratio"] = once / (once + (steps.epochs - 1) * steps.validation_seconds)
    searches = steps.groupby([*keys, *SEARCH], as_index=False)
    rows = searches.agg(ratio=("ratio", "median"), differs=("differs", "first"))
    rows["single"] = rows.groupby("seed").ratio.transform("std")
    found = stats.mean_over_seeds(rows, keys, "ratio", "single").merge(_comparable(rows, keys))
    store.fill("nat.duration_ratio", found, keys)
