"""What chapter 6 compares: best subnets with the printed ones, one version of NATv2 with another,
the baseline with the whole, one strategy of post-processing with another.

Noise of a number: its standard error over seeds, from two seeds on; of a top-1 known from one seed
`stats.single_run_noise`; of a cost known from one seed the jackknife over the subnets behind it.
"""

from itertools import product

import numpy as np
import pandas as pd

from nat_lib.results import stats
from nat_lib.results.chapter6 import SEARCH, SUBNET
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import (
    BY_THESIS,
    CONSTANTS,
    EXITS,
    MAIN,
    MODES,
    NAT_SUPERNETS,
    OBJECTIVES,
    OPTIMIZERS,
    OTHERS,
    PHASES,
    POSTS,
    SUPERNETS,
    extended,
    name_of,
    ranks,
)
from nat_lib.results.printed import printed_value
from nat_lib.results.stats import mean_over_seeds, noise_of, over_seeds

STRATEGY = ["family", "method", "optimizer", "lr", "weights"]  # one setting of post-processing


def comparable(rows):
    """Were these results obtained as the thesis obtained its own, on a data set that it uses for
    them?"""
    return (rows.differs == "") & rows.dataset.map(name_of).isin([*MAIN, *OTHERS])


# ---------------------------------------------------------------------------- beside the printed


def search_cells(best, *datasets: str) -> pd.DataFrame:
    """Best subnet of every search on some data sets beside the printed one; a row per data set,
    phase, objectives, supernet, post.

    ours, second : mean over seeds of test top-1 (%) and second objective of the most accurate
                   returned subnet
    uncertainty, noise, difference, verdict : as in `chapter5.eps_cells`; X: neither here nor in the
    thesis
    """
    parts = [_search_cells(best[best.dataset == dataset], dataset) for dataset in datasets]
    return pd.concat(parts, ignore_index=True)


def _search_cells(rows, dataset):
    keys = ["phase", "objectives", "supernet", "post"]
    cells = _searches_of_the_thesis(rows, keys)
    cells = cells.merge(over_seeds(rows, keys, "top1", "top1_noise"), "left", keys)
    costs = over_seeds(rows, keys, "second", "second_noise")
    costs = costs.rename(columns={"ours": "second", "noise": "second_noise"})
    cells = cells.merge(costs.drop(columns=["sd", "seeds", "by_seed"]), "left", keys)
    facts = rows.assign(comparable=comparable(rows) & rows.whole).groupby(keys, as_index=False)
    facts = facts.agg(
        n_test=("n_test", "min"),
        comparable=("comparable", "all"),
        n=("n", "sum"),
        by_val=("by_val", "mean"),
    )
    cells = cells.merge(facts, "left", keys)
    cells["comparable"] = cells.comparable == True  # noqa: E712  (missing is not true)
    dims = [
        dict(zip(keys, map(str, key), strict=True), dataset=name_of(dataset))
        for key in cells[keys].to_numpy()
    ]
    for column, metric in (("printed", "nat.best_top1"), ("printed_second", "nat.second_of_best")):
        cells[column] = [printed_value(metric, **d) for d in dims]
    binomial = stats.binomial_se(cells.ours, cells.n_test)
    cells["uncertainty"] = cells.sd.where(cells.seeds > 1, binomial)
    cells["difference"] = cells.ours - cells.printed
    verdict = stats.verdicts(cells.ours, cells.printed, cells.noise, cells.comparable)
    nowhere = cells.ours.isna() & (cells.phase > _last_phase(cells.supernet, dataset))
    return cells.assign(dataset=dataset, verdict=np.where(nowhere, "X", verdict)).drop(columns="sd")


def _searches_of_the_thesis(rows, keys):
    """The searches of the thesis by `keys`, then those of `rows` that it does not have."""
    posts = [*product(PHASES, ["none"]), (4, "std"), (4, "ens")]
    wanted = pd.DataFrame(
        [
            (phase, objectives, supernet, post)
            for objectives in extended(OBJECTIVES, sorted(rows.objectives))
            for supernet in extended(SUPERNETS, rows.supernet)
            for phase, post in posts
            if post != "ens" or supernet.startswith("EE")
        ],
        columns=keys,
    )
    return pd.concat([wanted, rows[keys]], ignore_index=True).drop_duplicates()


def _last_phase(supernets, dataset):
    """The last phase in which the thesis searches these supernets on a data set."""
    among, parallel = (1, 0) if name_of(dataset) in OTHERS else (4, 2)
    return np.where(supernets.isin(NAT_SUPERNETS), among, parallel)


# --------------------------------------------------------------------- one phase against another


def pairs(best, phase, against) -> pd.DataFrame:
    """Searches run in both phases with the same data set, supernet, objectives and seed, as found.

    returns : SEARCH but phase, gain (points of the best top-1), change (per cent of the mean second
              objective), for one seed their noise, and differs
    """
    keys = [k for k in SEARCH if k != "phase"]
    found = best[best.post == "none"]
    both = found[found.phase == phase].merge(
        found[found.phase == against], on=keys, suffixes=("", "_before")
    )
    ratio = both.second_mean / both.second_mean_before
    relative = both.second_mean_noise / both.second_mean
    relative_before = both.second_mean_noise_before / both.second_mean_before
    return both[keys].assign(
        gain=both.top1 - both.top1_before,
        gain_noise=np.hypot(both.top1_noise, both.top1_noise_before),
        change=100 * (ratio - 1),
        change_noise=100 * ratio * np.hypot(relative, relative_before),
        differs=both.differs.where(both.differs != "", both.differs_before),
    )


def phase_comparison(best) -> pd.DataFrame:
    """What each phase gains over an earlier one, supernet by supernet on the same seed.

    returns : DataFrame dataset, objectives ("all": every set that both phases ran), phase, against
              (the phase before, and phase 1), gain (points of the best top-1, mean over supernets),
              noise, low and high (95 %: Student's law over seeds, or 1.96 noise for one seed),
              pairs, seeds, change and change_noise (%, second objective)
    """
    keys = ["dataset", "objectives", "phase", "against"]
    columns = [*keys, "gain", "noise", "low", "high", "pairs", "seeds", "change", "change_noise"]
    parts = []
    for phase, against in ((2, 1), (3, 2), (4, 3), (3, 1), (4, 1)):
        part = pairs(best, phase, against).assign(phase=phase, against=against)
        parts += [part, part.assign(objectives="all")] if len(part) else []
    if not parts:
        return pd.DataFrame(columns=columns)
    both = pd.concat(parts, ignore_index=True)
    gain = mean_over_seeds(both, keys, "gain", "gain_noise")
    gain = gain.rename(columns={"ours": "gain", "n": "pairs"})
    change = mean_over_seeds(both, keys, "change", "change_noise")
    change = change.rename(columns={"ours": "change", "noise": "change_noise"})
    table = gain.merge(change[[*keys, "change", "change_noise"]], "left")
    several = stats.half_width(table.noise, table.seeds)
    half = np.where(table.seeds > 1, several, stats.NORMAL_95 * table.noise)
    return table.assign(low=table.gain - half, high=table.gain + half)[columns]


# ------------------------------------------------------------------- the baseline against the whole


def headline_runs(best) -> pd.DataFrame:
    """One row per data set, seed and group of the comparison that closes section 6.3.3: top1,
    noise, by_val, sets.

    "baseline": the most accurate BASE subnet of phase 1. "full": the most accurate EE_B or EE_D
    subnet of phase 4 after post-processing by either method. Both over accuracy & parameters and
    accuracy & MACs, or (`sets` = 1) over the one of these two that both groups ran.
    """
    keys = ["dataset", "seed", "group"]
    rows = best[best.objectives.isin(CONSTANTS["BI_OBJECTIVES"])]
    is_base = (rows.phase == 1) & (rows.supernet == "BASE") & (rows.post == "none")
    is_full = (rows.phase == 4) & rows.supernet.isin(EXITS) & rows.post.isin(["std", "ens"])
    base, full = rows[is_base].assign(group="baseline"), rows[is_full].assign(group="full")
    with_ens = (full.post == "ens").groupby([full[k] for k in SEARCH]).transform("any")
    both = pd.concat([base, full[with_ens.astype(bool)]], ignore_index=True)
    shared = both.groupby(["dataset", "seed", "objectives"]).group.transform("nunique")
    both = both[shared == shared.groupby([both.dataset, both.seed]).transform("max")]
    groups = both.groupby(keys)
    both = both.assign(
        sets=groups.objectives.transform("nunique"), whole=groups.whole.transform("all")
    )
    by_val = both.sort_values("val_top1", ascending=False, kind="stable").drop_duplicates(keys)
    both = both.sort_values("top1", ascending=False, kind="stable").drop_duplicates(keys)
    return both.drop(columns="by_val").merge(by_val[[*keys, "by_val"]], on=keys)


def headline(best) -> pd.DataFrame:
    """Phase-1 baseline against full NATv2, a row per data set: ours, the printed values, both gains
    (points).

    The gain is paired by seed. by_val: test top-1 of the subnet that validation would have picked
    among the same ones; what `baseline` and `full` have above it is owed to picking on the test
    split, as the thesis does.
    """
    found = headline_runs(best)
    datasets = extended([BY_THESIS[name] for name in MAIN], found.dataset)
    table = pd.DataFrame({"dataset": [d for d in datasets if name_of(d) not in OTHERS]})
    table["name"] = table.dataset.map(name_of)
    for group, phase in (("baseline", 1), ("full", 4)):
        table = table.merge(_of_group(found[found.group == group], group), "left")
        table[f"{group}_printed"] = [
            printed_value("nat.headline_top1", dataset=name, group=group, phase=phase)
            for name in table.name
        ]
    both = found[found.group == "full"].merge(
        found[found.group == "baseline"], on=["dataset", "seed"], suffixes=("", "_base")
    )
    whole = both.whole & both.whole_base & (both.sets == 2) & (both.differs_base == "")
    both = both.assign(
        gain=both.top1 - both.top1_base,
        single=np.hypot(both.top1_noise, both.top1_noise_base),
        comparable=comparable(both) & whole,
    )
    gains = over_seeds(both, ["dataset"], "gain", "single").drop(columns=["sd", "by_seed"])
    gains = gains.rename(columns={"ours": "gain", "noise": "gain_noise"})
    facts = both.groupby("dataset", as_index=False).agg(
        sets=("sets", "min"), comparable=("comparable", "all")
    )
    table = table.merge(gains, "left").merge(facts, "left")
    table["gain_printed"] = table.full_printed - table.baseline_printed
    table["comparable"] = table.comparable == True  # noqa: E712  (missing is not true)
    return table.assign(
        verdict=stats.verdicts(table.gain, table.gain_printed, table.gain_noise, table.comparable)
    )


def _of_group(rows, group):
    """dataset, {group}, {group}_noise, {group}_by_val: the means over seeds of one group."""
    ours = over_seeds(rows, ["dataset"], "top1", "top1_noise")
    ours = ours.rename(columns={"ours": group, "noise": f"{group}_noise"})
    by_val = rows.groupby("dataset", as_index=False).by_val.mean()
    by_val = by_val.rename(columns={"by_val": f"{group}_by_val"})
    return ours.drop(columns=["sd", "seeds", "by_seed"]).merge(by_val, "left")


# -------------------------------------------------------------------- strategies of post-processing


def strategies(posts) -> pd.DataFrame:
    """The study of post-processing strategies (thesis 6.3.2): mean test top-1 by family and
    setting, over the supernets that the thesis post-processes (BASE, SE_D, EE_B, EE_D).

    returns : DataFrame STRATEGY (family: SE or EE; method "none": as found), top1, noise, gain
              (over "none", on the same subnets), gain_noise, n (subnets, over seeds), studied (of
              how many), seeds, by_seed (of top1), printed, printed_gain
    """
    grid = one_dataset(posts[(posts.study == "grid") & posts.supernet.isin(NAT_SUPERNETS)])
    found = grid.drop_duplicates(SUBNET).assign(method="none", optimizer="-", lr="-", weights="-")
    rows = pd.concat([found.assign(test_top1=found.original_top1), grid], ignore_index=True)
    before = noise_of(rows, "original_top1")
    rows = rows.assign(
        family=np.where(rows.supernet.str.startswith("EE"), "EE", "SE"),
        gain=rows.test_top1 - rows.original_top1,
        single=noise_of(rows),
        gain_single=np.where(rows.method == "none", 0.0, np.hypot(noise_of(rows), before)),
    )
    table = mean_over_seeds(rows, STRATEGY, "test_top1", "single")
    table = table.rename(columns={"ours": "top1"}).drop(columns="sd")
    gains = mean_over_seeds(rows, STRATEGY, "gain", "gain_single")
    gains = gains.rename(columns={"ours": "gain", "noise": "gain_noise"})
    table = table.merge(gains[[*STRATEGY, "gain", "gain_noise"]], on=STRATEGY)
    table["studied"] = table.groupby("family").n.transform("max")
    table["printed"] = [
        printed_value("post.mean_top1", **dict(zip(STRATEGY, key, strict=True)))
        for key in table[STRATEGY].to_numpy()
    ]
    found = {f: printed_value("post.mean_top1", family=f, method="none") for f in ("SE", "EE")}
    table["printed_gain"] = table.printed - table.family.map(found)
    return table.sort_values(STRATEGY, key=_in_order, kind="stable", ignore_index=True)


def _in_order(column):
    """Sort key of a column of STRATEGY: the thesis's order, high learning rates first."""
    if column.name == "lr":
        return -column.replace("-", "0").astype(float)
    places = ranks("SE", *POSTS, "-", *OPTIMIZERS, *MODES)
    return column.map(lambda name: places.get(name, len(places)))
