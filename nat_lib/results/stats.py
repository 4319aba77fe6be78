"""Statistics that several chapters share: means over seeds, intervals, spread."""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from nat_lib.results import claims

NOT_RUN, NOT_JUDGED = "not run in this profile", "other data set or size: shown, not judged"


# ---------------------------------------------------------------------------------------- estimates


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
        by_seed=claims.by_seed(found, rows, keys, value),
    ).drop(columns="single")


def half_width(sd, n):
    """Half the 95 % confidence interval of a mean of n numbers, by Student's law."""
    return student.ppf(0.975, np.maximum(n, 2) - 1) * sd / np.sqrt(n)


def jackknife(values, statistic):
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
    return (values.max() - values.min()) / values.mean()
