"""The study of predictors: scored subnets, then fits of every predictor."""

import time

import numpy as np
import pandas as pd

from nat_lib import cells, files
from nat_lib.cells import open_cell
from nat_lib.search import predictors
from nat_lib.studies import eps, searches, warmup

PREDICTORS = "predictors"


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
        "data": eps.identity(data),
        "n_classes": data.n_classes,
        "sizes": params["predictor_sizes"],
        "repeats": params["predictor_repeats"],
        "n_test": params["predictor_tests"],
        "draw_seed": params["draw_seed"],
        "eval_batch_size": batch_size,
    }
    home = f"{data.name}/{supernet}_s{seed}"
    scored = open_cell(out, PREDICTORS, f"{home}/scores", common)
    with cells.alone(scored) as mine:
        if mine:
            _score(scored, space, warm, data, batch_size)
    fits = open_cell(
        out,
        PREDICTORS,
        f"{home}/fits",
        {
            **common,
            "scores": scored.hash,
            "predictors": params["predictors"],
            "encodings": params["encodings"],
            "threads": params["threads"],
        },
    )
    with cells.alone(fits) as mine:
        if mine:
            _fit(fits, space, pd.read_csv(scored.path("scores.csv")))
    return fits.report()


def _score(cell, space, warm, data, batch_size):
    began, p = time.perf_counter(), cell.params
    nets = warmup.warmed_up(space, warm).to(data.device)
    X_test, trainings = predictors.draw_study(
        space, p["sizes"], p["repeats"], p["n_test"], p["draw_seed"]
    )
    sets = [("test", 0, 0, X_test), *(("train", size, repeat, X) for size, repeat, X in trainings)]
    whole = np.concatenate([X for *_, X in sets])
    errors = searches.scores(nets, whole, 0, searches.Memory(cell, "evaluations"), data, batch_size)
    ends = np.cumsum([len(X) for *_, X in sets])
    frames = [
        pd.DataFrame(
            {
                "set": kind,
                "size": size,
                "repeat": repeat,
                "code": [searches.code(x) for x in X],
                "error": errors[end - len(X) : end],
            }
        )
        for (kind, size, repeat, X), end in zip(sets, ends, strict=True)
    ]
    files.write_csv(cell.path("scores.csv"), pd.concat(frames))
    cell.finish(
        {"scored": len(errors), "mean_error": errors.mean(), "sd_error": errors.std()},
        {"start": warm["supernets"].path("best.safetensors")},
        seconds=time.perf_counter() - began,
    )


def _fit(cell, space, scored):
    began, p = time.perf_counter(), cell.params

    def part(rows):
        return searches.genotypes(rows.code), rows.error.to_numpy()

    tests = part(scored[scored.set == "test"])
    trainings = [
        (size, repeat, *part(rows))
        for (size, repeat), rows in scored[scored.set == "train"].groupby(["size", "repeat"])
    ]
    fits = predictors.study(
        space, tests, trainings, p["predictors"], p["encodings"], p["draw_seed"], p["threads"]
    )
    files.write_csv(cell.path("fits.csv"), fits)
    best = (
        fits[fits["size"] == fits["size"].max()].groupby(["predictor", "encoding"]).spearman.mean()
    )
    cell.finish(
        {"fits": len(fits), "spearman": {f"{k}/{e}": v for (k, e), v in best.items()}},
        seconds=time.perf_counter() - began,
    )
