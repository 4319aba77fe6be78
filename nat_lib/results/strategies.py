"""Ways to train a supernet, compared at equal cost: what the arms of notebook 08 left, as frames.

Every number is of the same panel of subnets.  Differences are paired by seed; intervals are
Student's over seeds, at 95 %.  The claims of `reference/claims_strategies.csv` are judged as those
of the thesis are.
"""

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from nat_lib.arms import ARMS, CROSSED, EQUAL, FACTORS
from nat_lib.cells import read_report
from nat_lib.errors import Refusal
from nat_lib.results import chapter5, stats
from nat_lib.results.claims import judge
from nat_lib.results.printed import printed
from nat_lib.results.values import COPIES, Store
from nat_lib.search import pareto

STUDY = "training_strategies"
BINS = 5  # of MACs, with as many subnets each
MEASURES = {
    "panel_top1": "mean of the panel",
    "min_top1": "smallest subnet",
    "max_top1": "largest subnet",
    "hypervolume": "hypervolume",
    "spread": "best minus worst at equal MACs",
    "forgot": "forgotten at the end",
    "rank_fidelity": "tau with training alone",
    "batch_tau": "tau of one batch's loss",
    "early_tau": "tau of the first look",
    "recalibrated": "gain of recalibration",
    "below": "share of the lower branch",
}
AT = [f"top1_at_{i}" for i in range(1, BINS + 1)]  # mean of the panel in each bin of MACs
TOP1 = ("panel_top1", "min_top1", "max_top1", *AT)  # of which one seed's noise is known
COLUMNS = ["arm", "label", "seed", "cost", "budget", *MEASURES, *AT, "n_test", "folder"]


def arms(out, dataset) -> pd.DataFrame:
    """One row per finished arm and seed: cost of its training and all MEASURES (top-1 in percent on
    the test split, hypervolume as a share, taus from -1 to 1)."""
    alone, rows = _alone(out, dataset), []
    for folder in _folders(out, dataset):
        report = read_report(folder)
        params, panel = report["params"], pd.read_csv(folder / "panel.csv")
        row = {"arm": params["arm"], "label": ARMS[params["arm"]].label, "seed": params["seed"]}
        row |= {"cost": report["metrics"]["trained_for"], "budget": params["budget"]}
        row |= {"n_test": report["metrics"]["n_test"], "folder": folder}
        rows.append(row | _measured(folder, panel, alone.get(params["seed"], {})))
    found = pd.DataFrame(rows, columns=COLUMNS)
    _check(found)
    return found.sort_values(["arm", "seed"], key=_place).reset_index(drop=True)


def _place(column):
    """Arms in the order of their table."""
    return column.map(list(ARMS).index) if column.name == "arm" else column


def _folders(out, dataset):
    """Folders of the finished arms, in the order of their names."""
    return sorted(path.parent for path in (Path(out) / STUDY / dataset).glob("*/report.json"))


def _alone(out, dataset):
    """{seed: {genotype: validation top-1 of the subnet that was trained by itself}}."""
    found: dict = {}
    for path in (Path(out) / STUDY / dataset / "alone").glob("*/report.json"):
        report = read_report(path.parent)
        code, seed = report["params"]["code"], report["params"]["seed"]
        found.setdefault(seed, {})[code] = report["metrics"]["val_top1"]
    return found


def _check(found):
    """Refuse arms that cannot be compared."""
    for seed, some in found.groupby("seed"):
        if some.cost.max() > (1 + 2 * EQUAL) * some.cost.min():
            raise Refusal(
                f"the arms of seed {seed} did not cost the same: give each its own outputs folder, "
                "or run them all with one arm_epochs"
            )


def _measured(folder, panel, alone):
    """All MEASURES of an arm, and AT."""
    F = np.column_stack([100 - panel.test_top1, panel.macs])
    trained = panel.set_index("code").val_top1
    bins = [*_bins(panel)]
    raw = panel[panel.raw_top1.notna()]
    course = pd.read_csv(folder / "course.csv")
    first = course[course.cost == course.cost.min()].set_index("code").val_top1
    forgot = chapter5.forgetting(folder / "phases")
    return {
        "panel_top1": panel.test_top1.mean(),
        "min_top1": panel.test_top1[panel.macs.idxmin()],
        "max_top1": panel.test_top1[panel.macs.idxmax()],
        "hypervolume": pareto.hypervolume(F, np.array([100.0, 1.01 * panel.macs.max()])),
        "spread": np.mean([some.test_top1.max() - some.test_top1.min() for some in bins]),
        "forgot": forgot.forgot.iloc[-1] if len(forgot) else np.nan,
        "rank_fidelity": _tau(trained, pd.Series(alone, dtype=float)),
        "batch_tau": pd.Series([_tau(-some.batch_loss, some.val_top1) for some in bins]).mean(),
        "early_tau": _tau(first, trained),
        "recalibrated": (raw.val_top1 - raw.raw_top1).mean(),
        "below": panel.below[panel.macs < panel.macs.max()].mean(),
        **{name: some.test_top1.mean() for name, some in zip(AT, bins, strict=True)},
    }


def _bins(panel):
    """The panel cut by MACs into BINS parts of as many subnets."""
    order = panel.sort_values("macs", kind="stable")
    for rows in np.array_split(np.arange(len(order)), BINS):
        yield order.iloc[rows]


def _tau(one, other):
    """Kendall's tau of the values that two series have under the same names; NaN of fewer than
    two."""
    both = pd.concat([one, other], axis=1, join="inner").dropna()
    return kendalltau(*both.to_numpy().T).statistic if len(both) > 1 else np.nan


# ------------------------------------------------------------------------------------ comparisons


def summary(found) -> pd.DataFrame:
    """The mean over seeds of every measure, a row per arm in the order of their table."""
    means = found.groupby(["arm", "label"], sort=False)[[*MEASURES]].mean().reset_index()
    return means.assign(seeds=found.groupby("arm", sort=False).size().to_numpy())


def differences(found, measure, reference) -> pd.DataFrame:
    """Every arm minus `reference` in one measure: mean over the seeds that both have, and the 95 %
    interval [low, high], empty for a single seed."""
    wide = found.pivot_table(index="seed", columns="arm", values=measure, sort=False)
    rows = []
    for arm in wide.columns.drop(reference, errors="ignore"):
        if reference in wide:
            gaps = (wide[arm] - wide[reference]).dropna()
            rows.append({"arm": arm, "label": ARMS[arm].label, **interval(gaps)})
    return pd.DataFrame(rows, columns=["arm", "label", "difference", "low", "high", "seeds"])


def interval(gaps) -> dict:
    """Mean, Student's 95 % interval and number of paired differences."""
    n, mean = len(gaps), gaps.mean()
    half = stats.half_width(gaps.std() / np.sqrt(max(n, 1)), n)
    return {"difference": mean, "low": mean - half, "high": mean + half, "seeds": n}


def interactions(found, measure="hypervolume") -> pd.DataFrame:
    """Interactions of sampler, loss and teacher in the factorial: by how much the effect of the
    second changes with the first, per pair of levels, paired by seed.

    An effect of 0 means that one can be chosen without the other.
    """
    crossed = found[found.arm.isin(CROSSED)]
    levels = pd.DataFrame([CROSSED[arm] for arm in crossed.arm], crossed.index, [*FACTORS])
    table, rows = crossed[["seed", measure]].join(levels), []
    for one, other in combinations(FACTORS, 2):
        means = table.pivot_table(measure, "seed", [one, other])
        (a0, *others), (b0, *seconds) = FACTORS[one], FACTORS[other]
        for a, b in product(others, seconds):
            square = means.reindex(columns=[(a, b), (a, b0), (a0, b), (a0, b0)]).dropna()
            gaps = square @ [1, -1, -1, 1]
            rows.append({"of": f"{a} x {b}", "against": f"{a0}, {b0}", **interval(gaps)})
    return pd.DataFrame(rows, columns=["of", "against", "difference", "low", "high", "seeds"])


def course(found) -> pd.DataFrame:
    """While the arms trained: per look at the panel the cost so far, hypervolume and mean
    validation top-1 of the subnets that were open, and their number."""
    rows = []
    for cell in found.itertuples():
        looks = pd.read_csv(cell.folder / "course.csv")
        macs = pd.read_csv(cell.folder / "panel.csv").set_index("code").macs
        reference = np.array([100.0, 1.01 * macs.max()])
        for cost, some in looks.groupby("cost"):
            F = np.column_stack([100 - some.val_top1, macs[some.code]])
            told = {"arm": cell.arm, "label": cell.label, "seed": cell.seed, "cost": cost}
            told |= {"top1": some.val_top1.mean(), "open": len(some)}
            rows.append(told | {"hypervolume": pareto.hypervolume(F, reference)})
    return pd.DataFrame(
        rows, columns=["arm", "label", "seed", "cost", "top1", "open", "hypervolume"]
    )


def panels(found) -> pd.DataFrame:
    """Test top-1 and MACs of every subnet of the panel, mean over seeds, per arm."""
    parts = [
        pd.read_csv(cell.folder / "panel.csv").assign(arm=cell.arm, label=cell.label)
        for cell in found.itertuples()
    ]
    if not parts:
        return pd.DataFrame(columns=["arm", "label", "code", "macs", "exit", "test_top1"])
    keys = ["arm", "label", "code", "macs", "exit"]
    return pd.concat(parts).groupby(keys, sort=False).test_top1.mean().reset_index()


# ------------------------------------------------------------------------------------ the claims


def judged(found, copies=COPIES) -> pd.DataFrame:
    """The verdicts on the claims about training strategies, see `claims.judge`."""
    return judge(store(found), printed("claims_strategies"), copies)


def store(found) -> Store:
    """The measures of all arms: metrics arms.<measure> with the dimension arm, and for AT bin."""
    values = Store()
    noisy = found.assign(single=stats.single_run_noise(found.panel_top1, found.n_test))
    for measure in (*MEASURES, *AT):
        single = noisy if measure in TOP1 else noisy.assign(single=np.nan)
        rows = stats.over_seeds(single, ["arm"], measure, "single").assign(comparable=True)
        name, _, place = measure.partition("_at_")
        dims = ["arm", "bin"] if place else ["arm"]
        values.fill(f"arms.{name}{'_at' if place else ''}", rows.assign(bin=place), dims)
    return values
