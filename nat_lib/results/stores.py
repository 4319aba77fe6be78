"""All measured values that the claims ask for, from the finished cells of a run, and the verdicts.

Metrics, dimensions and labels are those of reference/metrics.csv. What was not measured is left
out, so that its claims show as not run.
"""

import numpy as np
import pandas as pd

from nat_lib import curricula
from nat_lib.arch import Space
from nat_lib.results import changes, chapter4, chapter5, frames, stats
from nat_lib.results.claims import judge
from nat_lib.results.printed import EPS_DIMS, printed_store, printed_value
from nat_lib.results.store6 import store6
from nat_lib.results.values import COPIES, Store, merged

# metrics read off the code, which need no run
STRUCTURE = ("eps.subnets_tested", "nat.depth_share", "space.codes", "space.variables")
TEST_IMAGES = 10_000  # of Tiny ImageNet, CIFAR-10 and CIFAR-100


def judged(out, chapter_5=None, target=None, copies=COPIES, seed=0) -> pd.DataFrame:
    """The verdicts on all claims (`claims.judge`) from the finished cells under `out`.

    chapter_5 : data set of extended progressive shrinking, target : of the studies of chapter 6,
                each where the thesis's own (Tiny ImageNet; CIFAR-10 and CIFAR-100) was not run; to
                be named only where several others were
    """
    return judge(everything(out, chapter_5, target), copies=copies, seed=seed)


def everything(out, chapter_5=None, target=None) -> Store:
    """The values of all chapters as one store; arguments as of `judged`."""
    results = chapter5.eps_results(out)
    eps = eps_store(chapter5.eps_cells(frames.preferred(results, "eps", chapter_5)))
    return merged([aep_store(out), eps, structure(), store6(out, target, target)])


# ---------------------------------------------------------------------------------------- chapters


def aep_store(out, datasets=None) -> Store:
    """aep.* from the finished cells under `out`; datasets: see `chapter4.trainings`.

    Left out is an average over part of what was run elsewhere (it would be compared with averages
    over all of it), and one whose noise nothing tells.
    """
    store, values = Store(), changes.values(chapter4.trainings(out, datasets))
    for metric, rows in values[values.whole].groupby("metric"):
        store.fill(metric, rows, changes.DIMENSIONS[metric])
    return store


def eps_store(cells) -> Store:
    """eps.top1 from the places of Tables 5.3 and 5.4 (`chapter5.eps_cells`) that were run, of one
    data set."""
    store = Store()
    for c in cells[cells.ours.notna() & (cells.printed.notna())].itertuples():
        # Before the teachers differ, both rows of the table are one run: one draw moves them
        # together.
        draw = (c.wm, c.supernet, "any" if c.shared else c.teacher, c.step, c.stat)
        dims = {name: getattr(c, name) for name in EPS_DIMS}
        store.add("eps.top1", dims, c.ours, c.noise, int(c.seeds), c.comparable, c.by_seed, draw)
    return store


def structure() -> Store:
    """What the claims ask of the code itself: sizes of a grid of subnets, of a gene, of a
    genotype; counts, so without noise."""
    store, space = Store(), Space("EE_B")
    phase = next(p for p in curricula.PHASES if p.name == "ND2")  # worked example of section 5.3
    grid = space.grid(curricula.choices_after(space, phase), (48, 56, 64), 1.0)
    store.add(
        "eps.subnets_tested", {"supernet": "EE_B", "step": "EX", "phase": 2}, len(grid), draw="code"
    )
    for supernet in ("BASE", "SE_P"):
        space = Space(supernet)
        blocks = space.categories[space.first :]
        store.add("space.codes", {"supernet": supernet}, int(blocks.max()), draw="code")
    for supernet in ("BASE", "EE_B"):
        n = len(Space(supernet).categories)
        store.add("space.variables", {"supernet": supernet}, n, draw="code")
    return store


# ------------------------------------------------------------------------------ the print as a run

# Pairs of a network and a data set behind a printed average of chapter 4.
PAIRS = {
    "aep.top1_change_by_network": 6,
    "aep.top1_change_by_dataset": 8,
    "aep.top1_change": 48,
    "aep.pruned_gain": 48,
    "aep.exit_change": 30,
    "aep.scenario_change": 48,
}
TOP1 = ("eps.top1", "nat.best_top1", "nat.headline_top1")


def as_printed() -> Store:
    """The printed numbers as if each were the result of single runs: what our rule would say of the
    thesis itself.

    Noise: of a top-1 `stats.single_run_noise` on 10 000 test images, of a mean over subnets by the
    root of their number; of a percentage change of chapter 4 that of two runs over the root of the
    pairs behind it, in points (of a baseline below 100 % a point is more than a per cent, so this
    is the least). Counts have none; of what else the thesis prints no noise is known and none is
    assumed.
    """
    paper, store = printed_store(), Store()
    for metric, indices in paper.by_metric.items():
        for v in (paper.values[i] for i in indices):
            store.add(metric, v.dims, v.value, _printed_noise(metric, v.value))
    return store


def _printed_noise(metric, value):
    if metric in TOP1:
        return stats.single_run_noise(value, TEST_IMAGES)
    if metric == "post.mean_top1":
        subnets = printed_value("post.ens_trials", dataset="CIFAR-100")
        return stats.single_run_noise(value, TEST_IMAGES) / np.sqrt(subnets)
    if metric in PAIRS:
        return stats.run_to_run_sd() * np.sqrt(2 / PAIRS[metric])
    return 0.0


def judged_print(copies=COPIES, seed=0) -> pd.DataFrame:
    """The verdicts on all claims from the printed numbers alone, each taken as a single run."""
    return judge(as_printed(), copies=copies, seed=seed)
