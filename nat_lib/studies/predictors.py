"""The study of predictors: scored subnets, then fits of every predictor.  Thesis 6.2.2."""

import time
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from nat_lib import cells, files
from nat_lib.cells import open_cell
from nat_lib.errors import Refusal
from nat_lib.genotypes import as_text, from_text
from nat_lib.machine import progress, stream
from nat_lib.search import ensemble
from nat_lib.search.ensemble import METRICS, quality
from nat_lib.search.predictors import ENCODINGS, PREDICTORS, Unfit, check
from nat_lib.studies import inputs, scoring, searches, warmup

STUDY = "predictors"


# --------------------------------------------------------------------------------------- predictors


def run_predictors(params, supernet, seed, data, out):
    """Score the subnets of the study once, then fit every predictor on them; returns the report of
    the cell."""
    space, _, warm = searches.warm_up(params, supernet, "fixed", seed, data, out)
    batch_size = params["nat_eval_batch_size"]
    common = {
        "supernet": supernet,
        "dataset": data.name,
        "seed": seed,
        "profile": params["profile"],
        "space": space,
        "start": warm["supernets"].hash,
        "data": inputs.identity(data),
        "n_classes": data.n_classes,
        "sizes": params["predictor_sizes"],
        "repeats": params["predictor_repeats"],
        "n_test": params["predictor_tests"],
        "draw_seed": params["draw_seed"],
        "eval_batch_size": batch_size,
    }
    home = f"{data.name}/{supernet}_s{seed}"
    scored = open_cell(out, STUDY, f"{home}/scores", common, __name__)
    cells.compute(
        scored,
        lambda: _score(scored, space, warm, data, batch_size),
        {"start": warm["supernets"].path("best.safetensors")},
    )
    fits = open_cell(
        out,
        STUDY,
        f"{home}/fits",
        {
            **common,
            "scores": scored.hash,
            "predictors": params["predictors"],
            "encodings": params["encodings"],
            "threads": params["threads"],
        },
        __name__,
    )
    return cells.compute(fits, lambda: _fit(fits, space, pd.read_csv(scored.path("scores.csv"))))


def _score(cell, space, warm, data, batch_size):
    p = cell.params
    nets = warmup.warmed_up(space, warm).to(data.device)
    X_test, trainings = draw_study(space, p["sizes"], p["repeats"], p["n_test"], p["draw_seed"])
    sets = [("test", 0, 0, X_test), *(("train", size, repeat, X) for size, repeat, X in trainings)]
    whole = np.concatenate([X for *_, X in sets])
    errors = scoring.errors(nets, whole, 0, scoring.error_memory(cell), data, batch_size)
    ends = np.cumsum([len(X) for *_, X in sets])
    frames = [
        pd.DataFrame(
            {
                "set": kind,
                "size": size,
                "repeat": repeat,
                "code": [as_text(x) for x in X],
                "error": errors[end - len(X) : end],
            }
        )
        for (kind, size, repeat, X), end in zip(sets, ends, strict=True)
    ]
    files.write_csv(cell.path("scores.csv"), pd.concat(frames))
    return {"scored": len(errors), "mean_error": errors.mean(), "sd_error": errors.std()}


def _fit(cell, space, scored):
    p = cell.params

    def part(rows):
        return from_text(rows.code), rows.error.to_numpy()

    tests = part(scored[scored.set == "test"])
    trainings = [
        (size, repeat, *part(rows))
        for (size, repeat), rows in scored[scored.set == "train"].groupby(["size", "repeat"])
    ]
    fits = study(
        space, tests, trainings, p["predictors"], p["encodings"], p["draw_seed"], p["threads"]
    )
    files.write_csv(cell.path("fits.csv"), fits)
    best = (
        fits[fits["size"] == fits["size"].max()].groupby(["predictor", "encoding"]).spearman.mean()
    )
    return {"fits": len(fits), "spearman": {f"{k}/{e}": v for (k, e), v in best.items()}}


def draw_study(space, sizes, repeats, n_test, seed=420):
    """Architectures of the comparison, uniform per variable of the search space: (X_test, [(size,
    repeat, X), ...]).

    The test set is one for all; every training set is drawn by itself, so more sizes or repeats
    change no other.
    Source: thesis 6.2.2
    """

    def draw(n, purpose, *numbers):
        return space.sample_genotypes(n, stream(seed, purpose, *numbers), by="search")

    trainings = [(n, r, draw(n, "predictor training", n, r)) for n in sizes for r in range(repeats)]
    return draw(n_test, "predictor tests"), trainings


def study(space, tests, trainings, keys=None, encodings=tuple(ENCODINGS), seed=0, threads=1):
    """Every predictor with every encoding on every training set, judged on the same test set.

    keys      : of PREDICTORS, None = all
    tests     : (X, errors);  trainings : [(size, repeat, X, errors), ...]
    encodings : "integer", "onehot"; predictors that cannot use one have no row for it
    returns   : DataFrame predictor (label), encoding, size, repeat, rmse, pearson, spearman,
                kendall, seconds (of features, fit and prediction together), note. What cannot be
                fitted has NaN and a note, no fallback
    Source    : thesis 6.2.2. All predictors get the same parts of a training set, so their rows can
                be paired.
    """
    for name in encodings:
        if name not in ENCODINGS:
            raise Refusal(f"encoding {name!r} is not known: choose from {', '.join(ENCODINGS)}")
    keys = list(PREDICTORS) if keys is None else keys
    for key in keys:
        check(key)
    usable = [
        (encoding, key)
        for encoding in encodings
        for key in keys
        if ENCODINGS[encoding] in PREDICTORS[key].encodings
    ]
    rows = []
    for (size, repeat, X, errors), (encoding, key) in progress(
        [*product(trainings, usable)], f"{space.name}, fits"
    ):
        began, found, note = time.perf_counter(), dict.fromkeys(METRICS, np.nan), ""
        try:
            made = ensemble.fit(
                key,
                space,
                X,
                errors,
                rng=stream(seed, "predictor folds", size, repeat),
                features=ENCODINGS[encoding],
                fallback=None,
                threads=threads,
            )
            predicted = made.predict(tests[0])
            seconds = time.perf_counter() - began
            found = quality(predicted, tests[1])
        except Unfit as error:
            seconds, note = time.perf_counter() - began, str(error)
        rows.append(
            {
                "predictor": PREDICTORS[key].label,
                "encoding": encoding,
                "size": size,
                "repeat": repeat,
                **found,
                "seconds": seconds,
                "note": note,
            }
        )
    return pd.DataFrame(rows)


def intervals(fits, by=("predictor", "encoding", "size")):
    """Mean, population standard deviation and 95 % confidence interval of the mean over the
    repeats, per metric.

    fits    : frame of `study`;  by : the columns that tell the groups apart, e.g. with "supernet"
    returns : DataFrame *by, metric, repeats, mean, sd, low, high. The interval is Student's; one
              repeat has none
    """
    long = fits.melt(list(by), [*METRICS, "seconds"], var_name="metric")
    table = (
        long.groupby([*by, "metric"], sort=False)["value"]
        .agg(repeats="count", mean="mean", sd=lambda v: v.std(ddof=0))
        .reset_index()
    )
    n = table.repeats.where(table.repeats > 1)
    half = stats.t.ppf(0.975, n - 1) * table.sd / np.sqrt(n - 1)
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def winner(
    fits,
    metric="spearman",
    among=("predictor", "encoding"),
    paired=("size", "repeat"),
    seed=0,
    resamples=2000,
):
    """How surely the best predictor beats each other one; all were fitted to the same training
    sets.

    fits    : frame of `study`;  among : columns that name a competitor;  paired : columns that name
              a training set
    returns : DataFrame, best first: *among, mean; behind (the best's mean advantage over this one);
              low, high (95 % confidence interval of it, Student's over the pairs); wins (share of
              the pairs that the best wins, ties half); first (share of bootstrap resamples of the
              training sets in which this one has the best mean: it accounts for having chosen among
              many). What could not be fitted everywhere comes last and cannot win
    """
    among, paired = list(among), list(paired)
    if fits.duplicated(among + paired).any():
        raise Refusal(
            f"several fits have the same {', '.join(among + paired)}: name the columns that tell "
            "them apart"
        )
    scores = fits.pivot(index=paired, columns=among, values=metric)
    whole = scores.dropna(axis="columns")
    if whole.empty:
        raise Refusal(
            f"no predictor has {metric} for every training set: choose fewer of {', '.join(paired)}"
        )
    sign = -1.0 if metric in ("rmse", "seconds") else 1.0
    order = (sign * whole.mean()).sort_values(ascending=False, kind="stable").index
    values = sign * whole[order].to_numpy()  # (pairs, competitors), best first
    gap, n = values[:, :1] - values, len(values)
    draws = stream(seed, "resamples").integers(n, size=(resamples, n))
    leaders = np.argmax(np.stack([values[d].mean(axis=0) for d in draws]), axis=1)
    half = stats.t.ppf(0.975, n - 1) * gap.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    table = order.to_frame(index=False).assign(
        mean=sign * values.mean(axis=0),
        behind=gap.mean(axis=0),
        low=gap.mean(axis=0) - half,
        high=gap.mean(axis=0) + half,
        wins=((gap > 0) + (gap == 0) / 2).mean(axis=0),
        first=np.bincount(leaders, minlength=len(order)) / resamples,
    )
    table.loc[0, ["behind", "low", "high", "wins"]] = np.nan  # the best against itself
    partly = scores.drop(columns=whole.columns).mean().rename("mean").reset_index()
    return pd.concat([table, partly], ignore_index=True) if len(partly) else table
