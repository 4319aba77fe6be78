"""Row 6, the distributions of all variables: `distributions.fit` against the procedure of the
thesis, one process.

22 variables of 150 genotypes as a search leaves them: the best tenth of a random sample by a
formula, so that some columns are concentrated and some nearly flat.  The peer is the loop the
thesis describes, on scipy: every variable, every continuous family, maximum likelihood, the
smallest sum of squared errors.  One call of it takes two minutes on a quiet core, a run of this
script ten.  Also prints how far each law is from the observed frequencies.

    python benchmarks/bench_distributions.py [--rounds 1] [--clock wall|cpu] [--json PATH]
"""

import warnings

import numpy as np
import timing
from scipy import stats

from nat_lib.arch import Space
from nat_lib.search import distributions

ROWS, PROCESSES = 150, 2
TARGETS, RATIO = (
    {"sse": 1000.0, "empirical": 1.0, "uniform_range": 1.0},
    0.6,
)  # milliseconds; ours / peer


def genotypes(space, rng):
    X = space.sample_genotypes(10 * ROWS, rng, by="architecture")
    score = X[:, space.first :].sum(axis=1) + 5 * X[:, 1] + rng.normal(0, 8, len(X))
    return X[np.argsort(score)[-ROWS:]]


def peer(X):
    """The name chosen for every column."""
    chosen = []
    for column in X.T.astype(float):
        heights, edges = np.histogram(column, bins="auto", density=True)
        centres, errors = (edges[1:] + edges[:-1]) / 2, {}
        for name in distributions.ALL:
            family = getattr(stats, name)
            try:
                error = np.sum((family.pdf(centres, *family.fit(column)) - heights) ** 2)
            except (ValueError, ArithmeticError, RuntimeError):
                continue
            if np.isfinite(error):
                errors[name] = error
        chosen.append(min(errors, key=errors.get))
    return chosen


def main():
    chosen = timing.options(__doc__, rounds=1)
    warnings.simplefilter("ignore")
    space = Space("BASE")
    X, bounds = genotypes(space, np.random.default_rng(0)), (space.lower, space.upper)
    quick = timing.interleave(
        {law: lambda law=law: distributions.fit(X, *bounds, law=law) for law in TARGETS},
        max(5, chosen.rounds),
        chosen.clock,
    )
    rows = []
    for law, target in TARGETS.items():
        took = 1000 * quick[law].median()
        rows.append(
            {
                "what": f"6 {law}, {space.n_var} variables",
                "ms": took,
                "best ms": 1000 * quick[law].min(),
                "target": target,
                "met": took <= target,
                "rounds": len(quick),
            }
        )

    slow = timing.interleave(
        {  # always by the wall: the work is done in other processes
            "ours": lambda: distributions.fit(X, *bounds, families="all", processes=PROCESSES),
            "peer": lambda: peer(X),
        },
        chosen.rounds,
    )
    what = f"6 all families, {space.n_var} variables, {PROCESSES} processes"
    timing.show([*rows, timing.compare(slow, "ours", "peer", what, RATIO)], chosen)

    seen = [
        np.bincount(c - low, minlength=k) / len(c)
        for c, low, k in zip(X.T, space.lower, space.categories, strict=True)
    ]
    for law in TARGETS:
        found = distributions.fit(X, *bounds, law=law)
        apart = [
            abs(np.array(m.probabilities) - share).sum() / 2
            for m, share in zip(found, seen, strict=True)
        ]
        print(
            f"{law}: total variation from the frequencies {np.mean(apart):.3f} on average, "
            f"families {', '.join(sorted({m.family for m in found}))}"
        )


if __name__ == "__main__":
    main()
