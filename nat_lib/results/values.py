"""Measured values by metric and dimensions, and noisy copies of all of them.

Noise of a value known from one seed: `stats.single_run_noise`; values that come from the same run
(fixed and progressive teacher before they differ) are moved by the same draw.

From two seeds on the copies are a bootstrap over seeds: every seed gets a random multiplier, the
same for all values (Wu 1986, Annals of Statistics 14, 1261-1295), and all are scaled by one draw of
Student's law over the normal law. What two values of one seed have in common then cancels in their
difference, and on one difference the verdict is that of the paired t-test, one-sided at 5 %. Two
seeds settle very little that way; run three or more. Resampling the seeds themselves would call
three seeds that happen to agree a certainty.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nat_lib.errors import Refusal

COPIES = 1000


class Value(NamedTuple):
    dims: dict  # {dimension: text}
    value: float
    noise: float  # standard deviation of `value`; 0 for a count
    seeds: int
    comparable: bool  # measured on the thesis's data set at its size
    # {seed: number} whose mean is `value`; fewer than two: the noise is not known from seeds
    by_seed: dict
    draw: object  # values with the same `draw` come from the same runs and share their noise


class Store:
    """Measured values; metrics and dimensions are those of `reference/metrics.csv`."""

    def __init__(self):
        self.values: list[Value] = []
        self.by_metric: dict[str, list[int]] = {}
        self.found: dict = {}  # what `select` has answered

    def add(
        self, metric, dims, value, noise=0.0, seeds=1, comparable=True, by_seed=None, draw=None
    ):
        """Add one value; a Refusal if it is no number, or not the mean of its numbers by seed."""
        dims = {key: str(text) for key, text in dims.items()}
        if {"mode", "pruned"} <= dims.keys():
            dims.setdefault("config", dims["mode"] + ("*" if dims["pruned"] == "1" else ""))
        if not (np.isfinite(value) and np.isfinite(noise) and noise >= 0):
            raise Refusal(
                f"{metric} {dims}: value {value!r} with noise {noise!r} cannot be judged: "
                "leave it out"
            )
        index, by_seed = len(self.values), by_seed or {}
        if by_seed and not np.isclose(np.mean([*by_seed.values()]), value):
            raise Refusal(f"{metric} {dims}: {value!r} is not the mean of {by_seed}")
        draw = index if draw is None else draw
        self.values.append(
            Value(dims, float(value), float(noise), seeds, comparable, by_seed, draw)
        )
        self.by_metric.setdefault(metric, []).append(index)
        self.found.clear()

    def fill(self, metric, rows, dims):
        """Add every row of a frame that has a number and a noise.

        rows : DataFrame ours, noise, seeds, comparable, perhaps by_seed, and a column per dimension
        """
        known = rows[rows.ours.notna() & rows.noise.notna()]
        for row in known.to_dict("records"):
            self.add(
                metric,
                {name: row[name] for name in dims},
                row["ours"],
                row["noise"],
                int(row["seeds"]),
                bool(row["comparable"]),
                row.get("by_seed"),
            )

    def select(self, metric, dims):
        """Indices of the values of `metric` that match `dims`; a list or tuple means any of it."""
        wanted = {name: _texts(text) for name, text in dims.items()}
        key = (metric, *wanted.items())
        if key not in self.found:
            self.found[key] = [
                i
                for i in self.by_metric.get(metric, ())
                if all(self.values[i].dims.get(name) in texts for name, texts in wanted.items())
            ]
        return self.found[key]

    def copies(self, n=COPIES, seed=0) -> Float[np.ndarray, "n values"]:
        """Noisy copies of all values: from seeds (see above), or value + noise * normal, one draw
        per `draw`."""
        draws = {d: column for column, d in enumerate(dict.fromkeys(v.draw for v in self.values))}
        seeds = {
            s: row for row, s in enumerate(dict.fromkeys(s for v in self.values for s in v.by_seed))
        }
        normal = np.random.default_rng((seed, 154)).standard_normal((n, len(draws)))
        multipliers = np.random.default_rng((seed, 155)).standard_normal((n, len(seeds)))
        students = {}  # by number of seeds: Student's law over the normal law, (n,)
        copies = np.tile([v.value for v in self.values], (n, 1))
        for i, v in enumerate(self.values):
            k = len(v.by_seed)
            if k < 2:
                copies[:, i] += v.noise * normal[:, draws[v.draw]]
                continue
            if k not in students:
                chi_square = np.random.default_rng((seed, 156, k)).chisquare(k - 1, n)
                students[k] = np.sqrt((k - 1) / chi_square)
            numbers = np.array([*v.by_seed.values()])
            shifts = (numbers - numbers.mean()) / np.sqrt(k * (k - 1))
            mine = multipliers[:, [seeds[s] for s in v.by_seed]]  # (n, k)
            copies[:, i] += students[k] * (mine @ shifts)
        return copies


def _texts(wanted):
    return tuple(map(str, wanted)) if isinstance(wanted, list | tuple) else (str(wanted),)


def merged(stores):
    """One store of the values of several, each with its own noise."""
    whole = Store()
    for k, store in enumerate(stores):
        for metric, indices in store.by_metric.items():
            for v in (store.values[i] for i in indices):
                whole.add(metric, v.dims, *v[1:-1], draw=(k, v.draw))
    return whole
