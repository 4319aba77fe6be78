"""Statistics that all chapters share: errors, means over seeds, intervals, verdicts."""

from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student

from nat_lib.results.names import NOT_JUDGED, NOT_PRINTED, NOT_RUN
from nat_lib.results.printed import table_5_3_5_4

TOLERANCE = 1.5  # points: the thesis's own repeats differ by up to 1.2
EXACT = 0.02  # how well a count (or a percentage of counts) agrees with the printed one
NORMAL_95 = 1.96  # half of the middle 95 % of a standard normal law


# ----------------------------------------------------------------------------- noise of one number


@cache
def run_to_run_sd() -> float:
    """Standard deviation of one EPS result between repeated runs, in points, from the thesis
    itself.

    In the first two steps fixed and progressive teacher are the same training run twice, so the
    variance of one run is half the mean squared difference of the two rows (Tables 5.3 and 5.4; 64
    pairs).
    """
    rows = table_5_3_5_4()
    rows = rows[rows.step.isin(["ER", "EKS"])].assign(top1=lambda r: r.top1_pct.astype(float))
    pair = rows.pivot_table(
        index=["wm", "supernet", "step", "stat"], columns="teacher", values="top1"
    )
    return float(np.sqrt(((pair.fixed - pair.pet) ** 2).mean() / 2))


def binomial_se(top1, n_images) -> Float[np.ndarray, "..."]:
    """Standard error, in points, of a top-1 of `top1` per cent measured on n_images images."""
    top1 = np.clip(np.asarray(top1, float), 0, 100)
    return np.sqrt(top1 * (100 - top1) / np.asarray(n_images, float))


def single_run_noise(top1, n_images) -> Float[np.ndarray, "..."]:
    """Noise of a top-1 known from one seed: the finite test split and the run-to-run spread, in
    points."""
    return np.hypot(binomial_se(top1, n_images), run_to_run_sd())


def noise_of(rows, column="test_top1"):
    """`single_run_noise` of a column of top-1 of a frame that also has n_test, an array."""
    return single_run_noise(rows[column], rows.n_test)


def share_se(successes, n):
    """Standard error of a share: Agresti and Coull's, not certain even where all or none
    succeed."""
    guess = (successes + 2) / (n + 4)
    return np.sqrt(guess * (1 - guess) / (n + 4))


def jackknife(values, statistic) -> float:
    """Standard error of statistic(values) from leaving out one value at a time; 0 for a single
    value.

    It says how much a number hangs on single subnets, where one seed does not tell what another
    search would return.
    """
    n = len(values)
    if n < 2:
        return 0.0
    left = np.array([statistic(np.delete(values, i)) for i in range(n)])
    return float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))


def spread(values):
    """(max - min) / mean."""
    return (values.max() - values.min()) / values.mean()


# -------------------------------------------------------------------------------- means over seeds


def by_seed(found, rows, keys, value) -> list[dict]:
    """{seed: number} for every row of `found`; `rows` holds one number per `keys` and seed."""
    numbers = {
        key: dict(zip(part.seed, part[value].astype(float).tolist(), strict=True))
        for key, part in rows.groupby(keys)
    }
    return [numbers[key] for key in zip(*(found[k] for k in keys), strict=True)]


def over_seeds(rows, keys, value, single):
    """Mean of one number per seed: DataFrame of `keys`, ours, sd, seeds, noise, by_seed ({seed:
    number}).

    rows   : one row per `keys` and seed;  value : column, rows without a number are left out
    single : column with the noise of the number where only one seed is known
    """
    rows = rows[rows[value].notna()]
    groups = rows.groupby(keys)
    found = pd.DataFrame(
        {
            "ours": groups[value].mean(),
            "sd": groups[value].std(),
            "seeds": groups.seed.nunique(),
            "single": groups[single].mean(),
        }
    ).reset_index()
    return found.assign(
        noise=(found.sd / np.sqrt(found.seeds)).where(found.seeds > 1, found.single),
        by_seed=by_seed(found, rows, keys, value),
    ).drop(columns="single")


def mean_over_seeds(rows, keys, value, noise):
    """Mean within every seed, then over seeds (`over_seeds`), with n, the rows behind it;
    independent noise within a seed averages out."""
    grouped = rows[rows[value].notna()].groupby([*keys, "seed"])
    per_seed = pd.DataFrame(
        {
            "value": grouped[value].mean(),
            "n": grouped.size(),
            "single": grouped[noise].agg(lambda s: np.sqrt((s**2).sum()) / len(s)),
        }
    ).reset_index()
    counts = per_seed.groupby(keys, as_index=False).n.sum()
    return over_seeds(per_seed, keys, "value", "single").merge(counts, on=keys)


def half_width(error, n):
    """Half the 95 % confidence interval of a mean of n numbers with standard error `error`, by
    Student's law; NaN for one number."""
    n = np.asarray(n, float)
    return student.ppf(0.975, np.where(n > 1, n - 1, np.nan)) * error


# ------------------------------------------------------------------------------------ the verdict


def tolerance(noise, printed, printed_noise):
    """How far ours and a printed number may lie apart and still count as the same.

    1.5 points (but at most half of the printed number, lest no effect pass for one), or twice the
    combined noise of both; EXACT for counts, which have none.
    """
    floor = np.minimum(TOLERANCE, np.abs(printed) / 2)
    wide = np.maximum(floor, 2 * np.hypot(noise, printed_noise))
    return np.where(np.asarray(noise, float) > 0, wide, EXACT)


def verdicts(ours, printed, noise, comparable, printed_noise=None):
    """The verdict on numbers of ours beside printed ones, an array of text: "reproduced", "above",
    "below", or why there is none.

    printed_noise : standard deviation of the printed number; None: of one run of the thesis
    """
    printed_noise = run_to_run_sd() if printed_noise is None else printed_noise
    difference = ours - printed
    return np.select(
        [
            ours.isna(),
            printed.isna(),
            ~comparable,
            difference.abs() <= tolerance(noise, printed, printed_noise),
            difference > 0,
        ],
        [NOT_RUN, NOT_PRINTED, NOT_JUDGED, "reproduced", "above"],
        "below",
    )
