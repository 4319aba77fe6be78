"""Cells around a search: the comparison of predictors before it and the post-processing of subnets after it.

Source: thesis 6.2.2 and 6.3.1 (predictors), 6.1.5, 6.2.4 and 6.3.2 (post-processing).
"""

import time
from itertools import product

import numpy as np
import pandas as pd

from nat_lib import adapt, finetune, nat, predictor, runs, shrink
from nat_lib.arch import Space
from nat_lib.exits import MODES

PREDICTORS, POST = "predictors", "post_processing"
# thesis 6.2.4: what was found best on CIFAR-100, and then used for every final subnet
BEST = {"std": {False: ("SGD", 1e-4, None), True: ("AdamW", 1e-4, None)}, "ens": {True: ("AdamW", 1e-4, "UNIF")}}


# ------------------------------------------------------------------------------------------------ predictors

def run_predictors(params, supernet, seed, data, out):
    """Score the subnets of the study once, then fit every predictor on them; returns the report of the cell."""
    space, _, warm = nat.warm_up(params, supernet, "fixed", seed, data, out)
    batch_size = params["nat_eval_batch_size"]
    common = {"supernet": supernet, "dataset": data.name, "seed": seed, "profile": params["profile"], "space": space,
              "start": warm["supernets"].hash, "data": shrink.identity(data), "n_classes": data.n_classes,
              "sizes": params["predictor_sizes"], "repeats": params["predictor_repeats"],
              "n_test": params["predictor_tests"], "draw_seed": params["draw_seed"], "eval_batch_size": batch_size}
    home = f"{data.name}/{supernet}_s{seed}"
    scored = runs.cell(out, PREDICTORS, f"{home}/scores", common)
    with runs.alone(scored) as mine:
        if mine:
            _score(scored, space, warm, data, batch_size)
    fits = runs.cell(out, PREDICTORS, f"{home}/fits", {
        **common, "scores": scored.hash, "predictors": params["predictors"], "encodings": params["encodings"],
        "threads": params["threads"]})
    with runs.alone(fits) as mine:
        if mine:
            _fit(fits, space, pd.read_csv(scored.path("scores.csv")))
    return fits.report()


def _score(cell, space, warm, data, batch_size):
    began, p = time.perf_counter(), cell.params
    nets = adapt.warmed_up(space, warm).to(data.device)
    X_test, trainings = predictor.draw_study(space, p["sizes"], p["repeats"], p["n_test"], p["draw_seed"])
    sets = [("test", 0, 0, X_test), *(("train", size, repeat, X) for size, repeat, X in trainings)]
    whole = np.concatenate([X for *_, X in sets])
    errors = nat.scores(nets, whole, 0, nat.Memory(cell, "evaluations"), data, batch_size)
    ends = np.cumsum([len(X) for *_, X in sets])
    frames = [pd.DataFrame({"set": kind, "size": size, "repeat": repeat, "code": [nat.code(x) for x in X],
                            "error": errors[end - len(X):end]})
              for (kind, size, repeat, X), end in zip(sets, ends, strict=True)]
    runs.write_csv(cell.path("scores.csv"), pd.concat(frames))
    cell.finish({"scored": len(errors), "mean_error": errors.mean(), "sd_error": errors.std()},
                {"start": warm["supernets"].path("best.safetensors")}, seconds=time.perf_counter() - began)


def _fit(cell, space, scored):
    began, p = time.perf_counter(), cell.params

    def part(rows):
        return nat.genotypes(rows.code), rows.error.to_numpy()

    tests = part(scored[scored.set == "test"])
    trainings = [(size, repeat, *part(rows)) for (size, repeat), rows in
                 scored[scored.set == "train"].groupby(["size", "repeat"])]
    fits = predictor.study(space, tests, trainings, p["predictors"], p["encodings"], p["draw_seed"], p["threads"])
    runs.write_csv(cell.path("fits.csv"), fits)
    best = fits[fits["size"] == fits["size"].max()].groupby(["predictor", "encoding"]).spearman.mean()
    cell.finish({"fits": len(fits), "spearman": {f"{k}/{e}": v for (k, e), v in best.items()}},
                seconds=time.perf_counter() - began)


# ------------------------------------------------------------------------------------------------ post-processing

def settings(kind, early_exits, params):
    """(method, optimizer, lr, weights) of the study of strategies ("grid") or of the final networks ("final")."""
    if kind == "final":
        return [(method, *by_family[early_exits]) for method, by_family in BEST.items() if early_exits in by_family]
    both = [(optimizer, lr) for optimizer in finetune.OPTIMIZERS for lr in params["post_learning_rates"]]
    weighted = [("ens", *setting, weights) for setting in both for weights in MODES] if early_exits else []
    return [("std", *setting, None) for setting in both] + weighted


def run_posts(params, kind, supernet, phase, text, seed, data, out):
    """Post-process the returned subnets of one finished search, all settings of the kind; returns the reports."""
    cell = finished_search(out, data.name, supernet, phase, text, seed)
    space, batch_size = Space.from_dict(cell.params["space"]), params["nat_eval_batch_size"]
    subnets = pd.read_csv(cell.path("subnets.csv")).query("returned")
    subnets = subnets.sort_values("val_top1", ascending=False, kind="stable").head(params["post_subnets"])
    nets = adapt.Supernets(space, cell.params["n_classes"])
    nets.load_state_dict(runs.load_weights(cell.path("supernets.safetensors")))
    budget = finetune.Budget(params["post_epochs"], params["post_patience"], params["post_batch_size"],
                             params["post_epochs"], params["post_max_steps"], batch_size, params["post_final"],
                             params["workers"])
    reports = []
    todo = [*product(enumerate(subnets.to_dict("records")), settings(kind, space.early_exits, params))]
    for (number, row), (method, optimizer, lr, weights) in runs.progress(todo, f"{cell.name}, post-processing"):
        arch = space.decode(nat.genotypes([row["code"]]))[0]
        name = "-".join(filter(None, (str(number), method, optimizer, f"{lr:.0e}".replace("e-0", "e-"), weights)))
        tuned = runs.cell(out, POST, f"{cell.name}/{name}", {
            "supernet": supernet, "phase": phase, "objectives": cell.params["objectives"], "dataset": data.name,
            "seed": seed, "profile": params["profile"], "search": cell.hash, "subnet": number, "code": row["code"],
            "method": method, "optimizer": optimizer, "lr": lr, "weights": weights, "study": kind,
            "budget": {k: v for k, v in budget._asdict().items() if k != "workers"}, "data": shrink.identity(data)})
        with runs.alone(tuned) as mine:
            if mine:
                finetune.post_process(nets, arch, data, method, optimizer, lr, weights, budget, tuned, seed,
                                      {k: row[k] for k in ORIGINAL})
        reports.append(tuned.report())
    return reports


def finished_search(out, dataset, supernet, phase, text, seed):
    """The finished cell of a search under `out`: `runs.Cell`."""
    names = "+".join(nat.objectives(text))
    folder = out / nat.STUDY / dataset / f"{supernet}_p{phase}_{names}_s{seed}"
    if not (folder / "report.json").exists():
        raise runs.Refusal(f"{folder} is not there or not finished: run notebook 04 with these parameters first")
    report = runs.read_json(folder / "report.json")
    return runs.Cell(folder, nat.STUDY, report["name"], report["params"])


def post_selected(params, kind):
    """(supernet, phase, objectives, seed) of the searches whose subnets are post-processed.

    "grid": phase 1, where thesis 6.3.2 compares the strategies; "final": phase 4.
    """
    phase = {"grid": "1", "final": "4"}[kind]
    return [(supernet, int(phase), text, seed) for seed in params["seeds"]
            for supernet in params["nat_supernets"].get(phase, ()) for text in params["post_searches"].get(phase, ())]


ORIGINAL = ("val_top1", "test_top1", "test_top5", "test_loss", "params", "macs", "macs_tp", "latency_ms")
