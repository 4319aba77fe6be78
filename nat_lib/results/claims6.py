"""The measured values that the claims of thesis chapter 6 ask for: a `claims.Store` from finished
cells.

Metrics, dimensions and labels are those of reference/metrics.csv; a value that was not measured is
left out, so its claims show as not run. Metrics without a data set pool all of them, over the four
sets of objectives and the eight supernets of the thesis. `comparable`: run at the paper profile on
a data set that the thesis uses for it. Noise: see results6.
"""

from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from nat_lib.arch import Space
from nat_lib.results import chapter5, chapter6, claims, stats
from nat_lib.results.chapter6 import EXITS, STRATEGY, SUBNET, SUPERNETS, name_of
from nat_lib.results.claims import NAT_SUPERNETS, OBJECTIVES, Store, printed

CELL = ["phase", "dataset", "objectives", "supernet"]
# points: "about as accurate as the best baseline subnet" (nat.max_reduction_at_base_accuracy)
CLOSE = 0.5
FEWEST_DATASETS = (
    4  # for a rank correlation over data sets; the three main ones alone show no trend
)
COPIES = 1000


def chapter_claims():
    """The claims of chapter 6, of the abstract and of the summary that these values can settle:
    rows of claims.csv."""
    rows = printed("claims")
    return rows[rows.id.str.startswith("N") | rows.metric.str.contains(r"\b(?:nat|post|pred)\.")]


def store6(out, predictors_on=None, strategies_on=None):
    """Store of pred.*, post.* and nat.* from the finished cells under `out`, for `claims.judge`.

    predictors_on, strategies_on : data set of the two studies (the thesis: CIFAR-10 and CIFAR-100),
    to be named only
                                   where there are several
    """
    fits, returned, posts = (
        read(out) for read in (chapter6.predictor_fits, chapter6.returned, chapter6.posts)
    )
    steps = chapter6.iterations(out)
    returned, posts = (
        rows[rows.objectives.isin(OBJECTIVES) & rows.supernet.isin(SUPERNETS)]
        for rows in (returned, posts)
    )
    fits = chapter5.one_dataset(fits[fits.supernet.isin(SUPERNETS)], predictors_on)
    grid = chapter5.one_dataset(posts[posts.study == "grid"], strategies_on)
    fits, grid, returned, posts = (
        rows.assign(dataset=rows.dataset.map(name_of)) for rows in (fits, grid, returned, posts)
    )
    store = Store()
    add_predictors(store, fits)
    add_strategies(store, grid)
    add_costs(store, posts)
    versions = chapter6.versions(returned, posts)
    best = chapter6.best(versions)
    add_searches(
        store, versions, best, returned.drop_duplicates("dataset").set_index("dataset").n_classes
    )
    add_gains(store, best, chapter6.final_posts(posts))
    add_durations(store, steps.assign(dataset=steps.dataset.map(name_of)))
    for dims, share, noise in depth_shares():
        store.add("nat.depth_share", dims, share, noise)
    return store


def _fill(store, metric, rows, dims):
    """Add the rows of a frame with ours, noise, seeds, comparable, perhaps by_seed, and a column
    per dimension."""
    for row in rows[rows.ours.notna() & rows.noise.notna()].to_dict("records"):
        where = {k: row[k] for k in dims}
        store.add(
            metric,
            where,
            row["ours"],
            row["noise"],
            int(row["seeds"]),
            bool(row["comparable"]),
            row.get("by_seed"),
        )


def _comparable(rows, keys):
    """{keys, comparable}: were all runs behind a value of the thesis's size and kind, and
    complete?"""
    whole = rows.whole if "whole" in rows else True
    return (
        rows.assign(comparable=chapter6.comparable(rows) & whole)
        .groupby(keys, as_index=False)
        .comparable.all()
    )


# --------------------------------------------------------------------------------------- predictors


def add_predictors(store, fits):
    """pred.*: means over the repetitions of one data set, and for rho the width of their 95 %
    confidence interval.

    Noise: standard error over seeds of the supernets, or over the repetitions of one seed, in which
           all predictors
    learn from the same subnets; of the width of an interval of n normal values, its share 1 /
    sqrt(2 (n - 1)). A value behind which there is one repetition only is left out.
    """
    keys = chapter6.FITTED
    if fits.empty:
        return
    for metric, column in (
        *((f"pred.{m}", m) for m in ("spearman", "pearson", "kendall", "rmse")),
        ("pred.fit_seconds", "seconds"),
    ):
        means = pd.concat(
            chapter6.predictor_means(rows, column).assign(seed=s)
            for s, rows in fits.groupby("seed")
        )
        means = means.assign(
            error=means.sd / np.sqrt(means.n),
            width=2 * means.half,
            width_error=2 * means.half / np.sqrt(2 * (means.n - 1).clip(lower=1)),
            comparable=(means.profile == "paper") & (means.dataset == "CIFAR-10"),
        )
        kept = means.groupby(keys, as_index=False).comparable.all()
        found = stats.over_seeds(means, keys, "mean", "error")
        repeats = claims.by_seed(
            found,
            fits.assign(
                value=chapter6.fitted(fits, column),
                seed=[*zip(fits.supernet, fits.n_train, fits.repeat, strict=True)],
            ),
            keys,
            "value",
        )
        found["by_seed"] = [
            seeds if len(seeds) > 1 else repeated
            for seeds, repeated in zip(found.by_seed, repeats, strict=True)
        ]
        _fill(store, metric, found.merge(kept), keys[2:])
        if column == "spearman":
            widths = stats.over_seeds(means, keys, "width", "width_error")
            _fill(store, "pred.spearman_ci", widths.merge(kept), keys[2:])


# -----------------------------------------------------------------------------------
# post-processing


def add_strategies(store, grid):
    """post.mean_top1, post.ens_wins and post.ens_trials: the study of strategies on one data set.

    A mean over part of the studied subnets is left out: it would be compared with means over all of
    them.
    """
    paper = bool(len(grid)) and bool(
        ((grid.profile == "paper") & (grid.dataset == "CIFAR-100")).all()
    )
    table = chapter6.strategies(grid)
    table = (
        table[table.n == table.studied].rename(columns={"top1": "ours"}).assign(comparable=paper)
    )
    _fill(store, "post.mean_top1", table, STRATEGY)
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
                bool(chapter6.comparable(rows).all()),
            )


def compared(posts):
    """One row per early-exit subnet that was post-processed by both methods, with as many settings
    as any other.

    wins : is its best AEP-based version more accurate than its best standard one, and than the
           subnet as found?
    """
    rows = posts[posts.supernet.isin(EXITS)]
    best = rows.pivot_table(index=SUBNET, columns="method", values="test_top1", aggfunc="max")
    if not {"std", "ens"} <= set(best.columns):
        return pd.DataFrame(columns=[*SUBNET, "wins"])
    grouped = rows.groupby(SUBNET)
    best = best[grouped.size() == grouped.size().max()].dropna()
    found = grouped.original_top1.first().loc[best.index]
    return best.assign(wins=best.ens > np.maximum(best["std"], found)).reset_index()


# ----------------------------------------------------------------------------------------- searches


def add_searches(store, versions, best, classes):
    """nat.* of what the searches returned, before (post = none) and after the final post-processing
    (std, ens).

    versions, best : of results6;  classes : number of classes by data set
    """
    keys, found = [*CELL, "post"], best[best.post == "none"]
    kept = _comparable(best, keys)
    for metric, column in (("nat.best_top1", "top1"), ("nat.second_of_best", "second")):
        _fill(
            store, metric, stats.over_seeds(best, keys, column, f"{column}_noise").merge(kept), keys
        )
    for rows, column in (
        (relative_second(found), "second_mean"),
        (found[found.n > 2], "second_spread"),
    ):
        values = stats.over_seeds(rows, CELL, column, f"{column}_noise").merge(
            _comparable(found, CELL)
        )
        _fill(store, f"nat.{column}", values, CELL)
    dominates = dominance(versions).rename(columns={"dominates": "ours"}).assign(noise=0.0)
    _fill(store, "nat.dominates_base", dominates.merge(kept), keys)
    _fill(
        store, "nat.max_reduction_at_base_accuracy", reductions(versions), ["phase", "objectives"]
    )
    _fill(store, "nat.gain_vs_classes_spearman", class_trend(found, classes), ["phase"])
    runs, keys = (
        chapter6.headline_runs(best).query("sets == 2"),
        ["phase", "dataset", "group", "post"],
    )
    runs = runs.assign(
        post=np.where(runs.group == "full", "ens", "none")
    )  # ens: AEP-based allowed, not demanded
    _fill(
        store,
        "nat.headline_top1",
        stats.over_seeds(runs, keys, "top1", "top1_noise").merge(_comparable(runs, keys)),
        keys,
    )


def relative_second(found):
    """`found` with the mean second objective relative to that of phase-1 BASE, same data set,
    objectives and seed.

    Only so can parameters, MACs and milliseconds be pooled, as metrics.csv asks; without that
    search: left out. The baseline is a unit here, so its own noise does not enter.
    """
    keys = ["dataset", "objectives", "seed"]
    base = found[(found.phase == 1) & (found.supernet == "BASE")].set_index(keys).second_mean
    base = base.reindex(pd.MultiIndex.from_frame(found[keys])).to_numpy()
    return found.assign(
        second_mean=found.second_mean / base, second_mean_noise=found.second_mean_noise / base
    )


def _best_base(versions, keys):
    """{keys, top1, second} of the most accurate BASE subnet as found, the cheapest of equals."""
    rows = versions[
        (versions.supernet == "BASE") & (versions.post == "none") & versions.second.notna()
    ]
    rows = rows.sort_values(["top1", "second"], ascending=[False, True]).drop_duplicates(keys)
    return rows[[*keys, "top1", "second"]]


def dominance(versions):
    """Does a returned subnet dominate the most accurate phase-1 BASE subnet?  One row per CELL and
    post.

    dominates : 1 if, in most seeds, some subnet is at least as accurate and not more expensive, and
                one of these
                strictly. margin: points by which the best subnet that is not more expensive leads,
                                  mean over seeds (NaN
                where all are more expensive), margin_noise. Phase-1 BASE is not compared with
                itself.
    """
    first, keys = ["dataset", "objectives", "seed"], [*CELL, "post"]
    both = versions.merge(
        _best_base(versions[versions.phase == 1], first), on=first, suffixes=("", "_base")
    )
    both = both[(both.supernet != "BASE") | (both.phase > 1)]
    lead, cheap = both.top1 - both.top1_base, both.second <= both.second_base
    both = both.assign(
        dominates=(lead >= 0) & cheap & ((lead > 0) | (both.second < both.second_base)),
        margin=lead.where(cheap),
        margin_noise=np.hypot(
            chapter6.noise_of(both, "top1"), chapter6.noise_of(both, "top1_base")
        ),
    )
    seeds = both.groupby([*keys, "seed"], as_index=False).agg(
        dominates=("dominates", "any"),
        margin=("margin", "max"),
        margin_noise=("margin_noise", "mean"),
    )
    table = seeds.groupby(keys, as_index=False).agg(
        dominates=("dominates", "mean"), seeds=("seed", "nunique")
    )
    margin = stats.over_seeds(seeds, keys, "margin", "margin_noise").rename(
        columns={"ours": "margin", "noise": "margin_noise"}
    )[[*keys, "margin", "margin_noise"]]
    return table.assign(dominates=(table.dominates > 0.5).astype(int)).merge(margin, "left", keys)


def reductions(versions):
    """Largest reduction of the second objective at the accuracy of the best BASE subnet; by phase
    and objectives.

    ours : over the data sets, second objective of the most accurate BASE subnet of the phase over
           that of the cheapest EE_B or EE_D subnet at most CLOSE points less accurate; 0 where none
           is.  One seed: noise by the jackknife
    """
    keys, base = ["phase", "objectives"], ["dataset", "objectives", "seed", "phase"]
    rows = versions[versions.supernet.isin(EXITS) & (versions.post == "none")]
    both = rows.merge(_best_base(versions, base), on=base, suffixes=("", "_base"))
    both = both.assign(
        ratio=(both.second_base / both.second).where(both.top1 >= both.top1_base - CLOSE, 0.0)
    )
    seeds = both.groupby([*keys, "seed"], as_index=False).ratio.agg(
        largest="max", single=lambda r: stats.jackknife(r.to_numpy(), np.max)
    )
    return stats.over_seeds(seeds, keys, "largest", "single").merge(_comparable(both, keys))


def class_trend(found, classes):
    """Rank correlation over data sets of classes and gain: best EE_B or EE_D subnet over best BASE
    subnet, per phase.

    Over all objectives that a data set has for all three; FEWEST_DATASETS data sets are needed.
    Noise for one seed: the standard deviation over COPIES noisy copies of the gains.
    """
    rows = found[found.supernet.isin(["BASE", *EXITS])]
    keys = ["phase", "dataset", "seed"]
    rows = rows[rows.groupby([*keys, "objectives"]).supernet.transform("nunique") == 3]
    rows = rows.assign(group=np.where(rows.supernet == "BASE", "base", "exits")).sort_values(
        "top1", ascending=False
    )
    top = rows.drop_duplicates([*keys, "group"]).pivot(
        index=keys, columns="group", values=["top1", "top1_noise"]
    )
    results = []
    for (phase, seed), part in top.groupby(level=["phase", "seed"]):
        n = classes[part.index.get_level_values("dataset")].to_numpy(float)
        if len(part) >= FEWEST_DATASETS and len(set(n)) > 1:
            gain = (part.top1.exits - part.top1.base).to_numpy(float)
            noise = np.hypot(part.top1_noise.exits, part.top1_noise.base).to_numpy(float)
            copies = gain + noise * np.random.default_rng((0, int(phase))).standard_normal(
                (COPIES, len(gain))
            )
            ranks = [
                r - r.mean(axis=-1, keepdims=True)
                for r in (rankdata(n), rankdata([gain, *copies], axis=1))
            ]
            trend = (
                ranks[1] @ ranks[0] / np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum(axis=1))
            )
            results.append(
                {"phase": phase, "seed": seed, "trend": trend[0], "single": trend[1:].std()}
            )
    table = pd.DataFrame(results, columns=["phase", "seed", "trend", "single"])
    return stats.over_seeds(table, ["phase"], "trend", "single").merge(
        _comparable(rows, ["phase"]), on="phase"
    )


def add_gains(store, best, final):
    """nat.phase_gain (of all four NAT_SUPERNETS, or left out), nat.post_gain and
    nat.ens_win_share."""
    for phase in (2, 3, 4):
        both = chapter6.pairs(best, phase, phase - 1)
        both = both[both.supernet.isin(NAT_SUPERNETS)].assign(phase=phase)
        if set(both.supernet) == set(NAT_SUPERNETS):
            rows = chapter6.mean_over_seeds(both, ["phase"], "gain", "gain_noise")
            _fill(store, "nat.phase_gain", rows.merge(_comparable(both, ["phase"])), ["phase"])
    final = final.assign(
        gain=final.test_top1 - final.original_top1,
        single=np.hypot(chapter6.noise_of(final), chapter6.noise_of(final, "original_top1")),
    )
    keys = ["phase", "method"]
    _fill(
        store,
        "nat.post_gain",
        chapter6.mean_over_seeds(final, keys, "gain", "single").merge(_comparable(final, keys)),
        keys,
    )
    for dataset, rows in compared(final[final.phase == 4]).groupby("dataset"):
        per_seed, n = rows.groupby("seed").wins.mean(), len(rows)
        guess = (rows.wins.sum() + 2) / (
            n + 4
        )  # of Agresti and Coull: not certain even where all or none win
        noise = np.fmax(
            per_seed.std() / np.sqrt(len(per_seed)), np.sqrt(guess * (1 - guess) / (n + 4))
        )
        store.add(
            "nat.ens_win_share",
            {"dataset": dataset},
            per_seed.mean(),
            noise,
            len(per_seed),
            bool(chapter6.comparable(rows).all()),
        )


def add_durations(store, steps):
    """nat.duration_ratio: run time with one validation of the supernet per iteration over that with
    one per epoch.

    From the measured times of the very same iterations, of several epochs each, and of their
    validations: the median over the iterations of a search, then the mean over searches. Noise for
                 one seed: standard error over searches.
    """
    steps = steps[(steps.epochs > 1) & steps.validation_seconds.notna()].assign(
        validation="last_epoch"
    )
    once = steps.seconds - (steps.validations - 1) * steps.validation_seconds
    steps["ratio"] = once / (once + (steps.epochs - 1) * steps.validation_seconds)
    rows = steps.groupby(["validation", *chapter6.SEARCH], as_index=False).ratio.median()
    rows["single"] = rows.groupby("seed").ratio.transform("std")
    keys = ["validation"]
    _fill(
        store,
        "nat.duration_ratio",
        chapter6.mean_over_seeds(rows, keys, "ratio", "single").merge(_comparable(rows, keys)),
        keys,
    )


# ----------------------------------------------------------------------------------------- sampling


@cache
def depth_shares(n=10_000, seed=0):
    """Shares of stages with 2, 3, 4 blocks among n sampled architectures: ((dims, share, standard
    error), ...).

    By both sampling laws (thesis 6.1.3), for spaces without (BASE) and with parallel blocks (SE_P).
    No run is needed.
    """
    values = []
    for parallel, network in ((0, "BASE"), (1, "SE_P")):
        for law in ("search", "architecture"):
            space = Space(network)
            X = space.sample_genotypes(n, np.random.default_rng((seed, parallel)), by=law)
            depth = (X[:, space.first :].reshape(n, space.n_stages, space.slots) > 0).sum(axis=2)
            for d in space.depths:
                share = float((depth == d).mean())
                dims = {"space": law, "parallel": parallel, "depth": d}
                values.append((dims, share, float(np.sqrt(share * (1 - share) / depth.size))))
    return tuple(values)
