"""What chapter 5 says of its runs: the recipe as a table, best subnets, numbers of the report."""

from pathlib import Path

import pandas as pd

from nat_lib.curricula import CURRICULA, phases_for
from nat_lib.studies.eps import STUDY, selected
from nat_lib.studies.grids import KINDS
from nat_lib.studies.inputs import space_of
from nat_lib.studies.phases import batches_of, recipe_for


def configured(params, data, curriculum="eps"):
    """Table 5.2 as this profile makes it: one row per phase with its learning rate, epochs and
    optimiser steps; what it says of the epochs of another curriculum does not count."""
    if params["curriculum"] != curriculum:
        params = params | {"epochs": None}
    rows = []
    for phase in CURRICULA[curriculum]:
        r = recipe_for(phase, params, phase.teacher)
        steps = (r["epochs"] + r["warmup"]) * batches_of(r, data)[1]
        row = {"phase": phase.name, "lr": r["lr"], "recipe_epochs": r["epochs"]}
        rows.append(row | {k: r[k] for k in ("warmup", "batch_size")} | {"steps": steps})
    return pd.DataFrame(rows)


def best_subnets(params, data, out):
    """The best reported subnet of every supernet at the end of its training, with its choices and
    exact cost."""
    rows = []
    for supernet, width, teacher, seed in selected(params):
        space = space_of(params, supernet, params["train_resolutions"], [width])
        last = phases_for(space, params["curriculum"])[-1]
        folder = Path(out) / STUDY / data.name / f"{supernet}_w{width}_s{seed}"
        grid = pd.read_csv(folder / f"{teacher}-{last.name}" / "grid.csv")
        top = grid.loc[grid.top1.idxmax()]
        named = {"supernet": supernet, "width": width, "teacher": teacher, "seed": seed}
        rows.append(named | top.drop("loss").to_dict() | {"resolution": int(top.resolution)})
    whole = [*KINDS, "params", "macs", "macs_tp"]
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, int))


def summary(results):
    """{"EE_D_w1.0_pet/EW_best": top-1, ...}: mean over seeds of every reported cell, for the
    notebook's report."""
    last = results[results["last"].astype(bool)]
    keys = ["supernet", "wm", "teacher", "step", "stat"]
    return {
        f"{n}_w{w}_{t}/{s}_{k}": v for (n, w, t, s, k), v in last.groupby(keys).top1.mean().items()
    }
