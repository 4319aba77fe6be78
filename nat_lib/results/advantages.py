"""What the claims of chapter 6 ask for beyond its tables: who dominates whom, how much smaller a
network may be, whether gains grow with the number of classes.

Every function takes the frames of `chapter6` and gives ours, noise, seeds by the dimensions of a
metric of reference/metrics.csv.
"""

from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from nat_lib.arch import Space
from nat_lib.results import stats
from nat_lib.results.chapter6 import SUBNET
from nat_lib.results.names import EXITS

PLACE = ["phase", "dataset", "objectives", "supernet"]
CLOSE = 0.5  # points: "about as accurate as the best baseline subnet"
FEWEST_DATASETS = 4  # for a rank correlation over data sets; the three main ones show no trend
COPIES = 1000


def compared(posts) -> pd.DataFrame:
    """One row per early-exit subnet that was post-processed by both methods, with as many settings
    as any other.

    wins : is its best AEP-based version more accurate than its best standard one, and than the
           subnet as found?
    """
    rows = posts[posts.supernet.isin(EXITS)]
    best = rows.pivot_table(index=SUBNET, columns="method", values="test_top1", aggfunc="max")
    if not {"std", "ens"} <= set(best.columns):
        return pd.DataFrame(columns=[*SUBNET, "differs", "wins"])
    grouped = rows.groupby(SUBNET)
    best = best[grouped.size() == grouped.size().max()].dropna()
    first = grouped[["original_top1", "differs"]].first().loc[best.index]
    wins = best.ens > np.maximum(best["std"], first.original_top1)
    return best.assign(wins=wins, differs=first.differs).reset_index()


def relative_second(found) -> pd.DataFrame:
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
    rows = versions[(versions.supernet == "BASE") & (versions.post == "none")]
    rows = rows[rows.second.notna()]
    rows = rows.sort_values(["top1", "second"], ascending=[False, True]).drop_duplicates(keys)
    return rows[[*keys, "top1", "second", "n_test"]]


def dominance(versions) -> pd.DataFrame:
    """Does a returned subnet dominate the most accurate phase-1 BASE subnet?  One row per PLACE and
    post.

    dominates : 1 if, in most seeds, some subnet is at least as accurate and not more expensive, and
                one of these strictly
    margin    : points by which the best subnet that is not more expensive leads, mean over seeds
                (NaN where all are more expensive), margin_noise
    Phase-1 BASE is not compared with itself.
    """
    first, keys = ["dataset", "objectives", "seed"], [*PLACE, "post"]
    base = _best_base(versions[versions.phase == 1], first).drop(columns="n_test")
    both = versions.merge(base, on=first, suffixes=("", "_base"))
    both = both[(both.supernet != "BASE") | (both.phase > 1)]
    lead, cheap = both.top1 - both.top1_base, both.second <= both.second_base
    strictly = (lead > 0) | (both.second < both.second_base)
    noise = np.hypot(stats.noise_of(both, "top1"), stats.noise_of(both, "top1_base"))
    both = both.assign(
        dominates=(lead >= 0) & cheap & strictly, margin=lead.where(cheap), margin_noise=noise
    )
    seeds = both.groupby([*keys, "seed"], as_index=False).agg(
        dominates=("dominates", "any"),
        margin=("margin", "max"),
        margin_noise=("margin_noise", "mean"),
    )
    table = seeds.groupby(keys, as_index=False).agg(
        dominates=("dominates", "mean"), seeds=("seed", "nunique")
    )
    margin = stats.over_seeds(seeds, keys, "margin", "margin_noise")
    margin = margin.rename(columns={"ours": "margin", "noise": "margin_noise"})
    margin = margin[[*keys, "margin", "margin_noise"]]
    return table.assign(dominates=(table.dominates > 0.5).astype(int)).merge(margin, "left", keys)


def reductions(versions) -> pd.DataFrame:
    """Largest reduction of the second objective at the accuracy of the best BASE subnet; by phase
    and objectives.

    ours : over the data sets, second objective of the most accurate BASE subnet of the phase over
           that of the cheapest EE_B or EE_D subnet at most CLOSE points less accurate; 0 where none
           is.  One seed: noise by the jackknife
    """
    keys, base = ["phase", "objectives"], ["dataset", "objectives", "seed", "phase"]
    rows = versions[versions.supernet.isin(EXITS) & (versions.post == "none")]
    both = rows.merge(_best_base(versions, base), on=base, suffixes=("", "_base"))
    close = both.top1 >= both.top1_base - CLOSE
    both = both.assign(ratio=(both.second_base / both.second).where(close, 0.0))
    return both, stats.over_seeds(
        both.groupby([*keys, "seed"], as_index=False).ratio.agg(
            largest="max", single=lambda r: stats.jackknife(r.to_numpy(), np.max)
        ),
        keys,
        "largest",
        "single",
    )


def class_trend(found, classes) -> pd.DataFrame:
    """Rank correlation over data sets of classes and gain: best EE_B or EE_D subnet over best BASE
    subnet, per phase.

    found   : `chapter6.best` as found;  classes : number of classes by data set
    Over all objectives that a data set has for all three; FEWEST_DATASETS data sets are needed.
    Noise for one seed: the standard deviation over COPIES noisy copies of the gains.
    """
    keys = ["phase", "dataset", "seed"]
    rows = trend_rows(found)
    group = np.where(rows.supernet == "BASE", "base", "exits")
    rows = rows.assign(group=group).sort_values("top1", ascending=False)
    top = rows.drop_duplicates([*keys, "group"])
    top = top.pivot(index=keys, columns="group", values=["top1", "top1_noise"])
    results = []
    for (phase, seed), part in top.groupby(level=["phase", "seed"]):
        n = classes[part.index.get_level_values("dataset")].to_numpy(float)
        if len(part) >= FEWEST_DATASETS and len(set(n)) > 1:
            gain = (part.top1.exits - part.top1.base).to_numpy(float)
            noise = np.hypot(part.top1_noise.exits, part.top1_noise.base).to_numpy(float)
            normal = np.random.default_rng((0, int(phase))).standard_normal((COPIES, len(gain)))
            trend = _spearman(n, np.vstack([gain, gain + noise * normal]))
            of = {"phase": phase, "seed": seed}
            results.append(of | {"trend": trend[0], "single": trend[1:].std()})
    table = pd.DataFrame(results, columns=["phase", "seed", "trend", "single"])
    return stats.over_seeds(table, ["phase"], "trend", "single")


def trend_rows(found) -> pd.DataFrame:
    """The searches behind `class_trend`: of data sets and objectives that have all three."""
    rows = found[found.supernet.isin(["BASE", *EXITS])]
    there = rows.groupby(["phase", "dataset", "seed", "objectives"]).supernet.transform("nunique")
    return rows[there == 3]


def _spearman(x, rows):
    """Rank correlation of x, (n,), with every row of an array (m, n): (m,)."""
    a, b = rankdata(x), rankdata(rows, axis=1)
    a, b = a - a.mean(), b - b.mean(axis=1, keepdims=True)
    return b @ a / np.sqrt((a**2).sum() * (b**2).sum(axis=1))


@cache
def depth_shares(n=10_000, seed=0) -> tuple:
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
