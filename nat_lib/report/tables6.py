"""Tables of thesis chapter 6, made from the frames of `results.chapter6` and of nothing else."""

import html
from itertools import product

import numpy as np
import pandas as pd

from nat_lib.report import tables
from nat_lib.report.style import ENCODINGS, METHODS, PREDICTOR_COLOURS, in_order
from nat_lib.report.tables import NO_RUN, Table, X, decimals, entry, grey, number, paired
from nat_lib.results import chapter6
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import NOT_PRINTED, PHASES, PREDICTOR_SUPERNETS, extended, name_of
from nat_lib.search.objectives import title

FAMILIES = {"SE": "single-exit supernets", "EE": "early-exit supernets"}


# --------------------------------------------------------------------------------------- predictors


def studied(fits):
    """The supernets of the thesis's study of predictors, and whatever else was run."""
    return extended(PREDICTOR_SUPERNETS, in_order(fits.supernet))


def samples(fits, n_train=None):
    """The size of the training set to show: 300 as in the thesis, or the largest that was run."""
    return n_train or (300 if fits.empty or 300 in set(fits.n_train) else int(fits.n_train.max()))


def table_predictors(fits, n_train=None):
    """What each predictor reaches with n_train samples (default: see `samples`): `Table`.

    Mean over all repetitions and its 95 % confidence interval, that of a correlation cut at 1;
    seconds to fit and predict.
    """
    fits = one_dataset(fits)
    n_train = samples(fits, n_train)
    rows = fits[fits.n_train == n_train]
    columns = {}
    for metric, digits in (("spearman", 3), ("rmse", 2), ("seconds", 2)):
        means = chapter6.predictor_means(rows, metric)
        keys = zip(means.supernet, means.encoding, means.predictor, strict=True)
        text = dict(zip(keys, [_mean(m, metric, digits) for m in means.itertuples()], strict=True))
        known = list(ENCODINGS) if metric == "spearman" else ["integer"]
        for supernet, encoding in product(studied(fits), known):
            heads = {"rmse": "RMSE", "spearman": f"rho, {ENCODINGS[encoding]}"}
            columns[supernet, heads.get(metric, metric)] = [
                text.get((supernet, encoding, name)) or NO_RUN for name in names_of(fits)
            ]
    view = pd.DataFrame(columns, index=names_of(fits))[studied(fits)]
    caption = (
        f"<b>Predictors on {n_train} samples</b>: Spearman's rho; RMSE (points) and seconds with "
        "integer features; mean and 95 % confidence interval over repetitions. "
    )
    return Table(view, caption + html.escape(tables.provenance(fits)))


def names_of(fits):
    """The predictors of the thesis in its order, then those that only we ran."""
    return extended(PREDICTOR_COLOURS, fits.predictor)


def _mean(m, metric, digits):
    if metric != "spearman" or np.isnan(m.half):
        return number(m.mean, m.half, digits)
    return f"{number(m.mean, digits=digits)} <small>[{m.low:.2f}, {m.high:.2f}]</small>"


# ----------------------------------------------------------------------------------------- searches


def table_search(cells):
    """`comparisons.search_cells` in the layout of figure 6.9: `Table`.

    Test top-1 (%) of the most accurate returned subnet, and its second objective. X: neither here
    nor in the thesis.
    """
    name = html.escape(name_of(cells.dataset.iloc[0]))
    rows = cells.assign(
        entry=[_search(c) for c in cells.itertuples()],
        objectives=cells.objectives.map(title),
        column=[_version(c.phase, c.post) for c in cells.itertuples()],
    )
    heads = [_version(p, "none") for p in PHASES] + [_version(4, "std"), _version(4, "ens")]
    spread = "standard error of the test split"
    if (cells.seeds > 1).any():
        spread = "standard deviation over seeds (in brackets)"
    below = "printed value below" if cells.printed.notna().any() else NOT_PRINTED
    caption = (
        f"<b>{name}</b>: test top-1 (%) of the most accurate "
        f"returned subnet at its second objective (M or ms); {grey(below)}. "
        f"&plusmn;: {spread}; of a cost: its noise."
    )
    return paired(rows, ["objectives", "supernet"], ["column"], caption, heads, missing=X)


def _version(phase, post):
    return f"phase {phase}" + (f", {METHODS.get(post, post)}" if post != "none" else "")


def _search(c):
    if c.verdict == "X":
        return X
    paper = number(c.printed)
    if paper and not np.isnan(c.printed_second):
        paper += f" at {c.printed_second:g}"
    cost = number(c.second, c.second_noise, decimals(c.second))
    return entry(
        number(c.ours, c.uncertainty),
        paper or "",
        after=f"<br>at {cost}" if cost else "",
        verdict=c.verdict,
        tip=f"best of {c.n:.0f} subnets, validation picks one of {c.by_val:.2f}",
        bold=True,
        small=tables.of_seeds(c.seeds),
    )


def table_headline(table):
    """`comparisons.headline` beside the printed values: `Table`."""

    def pair(row, group, sign=""):
        return entry(
            number(row[group], row[f"{group}_noise"], sign=sign),
            number(row[f"{group}_printed"], sign=sign),
            verdict=row.verdict if group == "gain" else "",
            bold=True,
        )

    rows = []
    for _, row in table.iterrows():
        both = not np.isnan(row.baseline_by_val) and not np.isnan(row.full_by_val)
        rows.append(
            {
                "phase-1 baseline": pair(row, "baseline"),
                "full NATv2": pair(row, "full"),
                "gain (points)": pair(row, "gain", "+"),
                "picked on validation": f"{row.baseline_by_val:.2f} &rarr; {row.full_by_val:.2f}"
                if both
                else NO_RUN,
                "searches": NO_RUN if np.isnan(row.sets) else f"{int(row.sets)} of 2",
                "seeds": NO_RUN if np.isnan(row.seeds) else int(row.seeds),
                "verdict": html.escape(row.verdict),
            }
        )
    caption = (
        "<b>Full NATv2 against the phase-1 baseline</b>: test top-1 (%) of the most accurate "
        "subnet over accuracy &amp; parameters and accuracy &amp; MACs, AEP-based post-processing "
        f"allowed; {grey('printed value below')}. &plusmn;: standard error over seeds, or for one "
        "seed the noise of the test split and of repeated runs."
    )
    return Table(pd.DataFrame(rows, index=table.name.tolist()), caption)


def table_phases(table):
    """`comparisons.phase_comparison` with its intervals, a column per comparison: `Table`."""
    head = "<b>Phases compared</b>"
    if table.empty:
        return tables.nothing(head)
    rows = table.assign(
        entry=[_gain(r) for r in table.itertuples()],
        dataset=table.dataset.map(name_of),
        objectives=[o if o == "all" else title(o) for o in table.objectives],
        phases=[f"{p} against {a}" for p, a in zip(table.phase, table.against, strict=True)],
    )
    caption = (
        f"{head}, the same supernet, objectives and seed in both: mean gain of the best top-1 "
        "(points) and its 95 % interval over seeds (for one seed from the noise of the test split "
        f"and of repeated runs); {grey('change of the second objective, pairs of runs')}."
    )
    rows = rows.sort_values(["dataset", "objectives"], kind="stable")
    heads = sorted(set(rows.phases))
    return paired(rows, ["dataset", "objectives"], ["phases"], caption, heads)


def _gain(r):
    change = number(r.change, r.change_noise, 0, "+")
    below = f"{change} %, " if change else ""
    return entry(
        number(r.gain, sign="+"),
        f"{below}{int(r.pairs)} pairs",
        after=f" [{r.low:+.2f}, {r.high:+.2f}]",
        bold=True,
    )


# ---------------------------------------------------------------------------------- post-processing


def table_strategies(table):
    """`comparisons.strategies`: mean top-1 and gain of every setting, the printed averages in grey:
    `Table`."""
    head = "<b>Post-processing strategies</b>"
    if table.empty:
        return tables.nothing(head)
    rates = list(dict.fromkeys(table.lr[table.method != "none"]))
    rows = table.assign(
        entry=[_strategy(r) for r in table.itertuples()],
        method=[METHODS.get(m, m) for m in table.method],
        family=[FAMILIES.get(f, f) for f in table.family],
        rate=table.lr.replace("-", rates[0] if rates else "-").map("lr {}".format),
    )
    keys = ["method", "optimizer", "weights"]
    known = extended(METHODS.values(), rows.method)
    by_method = rows.sort_values("method", key=lambda m: m.map(known.index), kind="stable")
    order = list(by_method[keys].itertuples(index=False, name=None))
    caption = (
        f"{head}: mean test top-1 (%) of the studied subnets, in brackets the gain over the same "
        f"subnets as found; {grey('printed averages below')}. &plusmn;: noise of the mean; "
        "unchanged: every subnet answers as before, the steps were too small to move it."
    )
    return paired(rows, keys, ["family", "rate"], caption, order=order, missing="")


def _strategy(r):
    found = r.method == "none"
    paper = number(r.printed)
    if paper and not found:
        paper += f" ({r.printed_gain:+.2f})"
    gain = "unchanged" if r.gain == 0 else number(r.gain, r.gain_noise, sign="+")
    return entry(
        number(r.top1, r.noise if found else np.nan),
        paper,
        after="" if found else f" ({gain})",
        bold=True,
        small=() if r.n == r.studied else (f"{int(r.n)} of {int(r.studied)} subnets",),
    )
