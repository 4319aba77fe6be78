"""What the supernets of chapter 5 reached, as frames."""

from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib import files
from nat_lib.errors import Refusal
from nat_lib.report.style import PAPER
from nat_lib.results import claims
from nat_lib.results.claims import printed
from nat_lib.results.stats import NOT_JUDGED, NOT_RUN

TEACHERS = {"fixed": "fixed", "pet": "progressive"}


# ------------------------------------------------------------------------------ what the cells left

PHASE_COLUMNS = [
    "dataset",
    "seed",
    "wm",
    "supernet",
    "teacher",
    "phase",
    "step",
    "last",
    "avg",
    "best",
    "n",
    "n_full",
    "n_test",
    "val_top1",
    "epochs",
    "steps",
    "ensemble_top1",
    "exit_top1",
    "lr",
    "recipe_epochs",
    "warmup",
    "subnets",
    "batch_size",
    "seconds",
    "profile",
    "folder",
]


def eps_phases(out):
    """One row per finished phase of extended progressive shrinking under the folder `out`, e.g.
    outputs/smoke.

    `last`: the phase ends its step, so it enters Tables 5.3 and 5.4. `teacher` is "any" where it
    cannot matter. An output folder without such cells gives an empty frame.
    """
    table = printed("table_5_2")
    step, last = (
        dict(zip(table.phase, table.step, strict=True)),
        set(table.groupby("step").phase.last()),
    )
    rows = []
    for path in sorted((Path(out) / "ofav2_eps").glob("*/*/*/report.json")):
        report = files.read_json(path)
        p, m = report["params"], report["metrics"]
        teacher = m["teacher"] or {"ensemble_top1": np.nan, "exit_top1": []}
        rows.append(
            {
                **{k: p[k] for k in ("dataset", "seed", "supernet", "teacher", "phase", "profile")},
                **{k: m["grid"][k] for k in ("avg", "best", "n", "n_full")},
                **{k: m[k] for k in ("n_test", "val_top1", "epochs", "steps", "seconds")},
                **teacher,
                **{k: p["recipe"][k] for k in ("lr", "warmup", "subnets", "batch_size")},
                "recipe_epochs": p["recipe"]["epochs"],
                "wm": str(float(p["width"])),
                "step": step[p["phase"]],
                "last": p["phase"] in last,
                "folder": path.parent,
            }
        )
    return pd.DataFrame(rows, columns=PHASE_COLUMNS)


def eps_results(out):
    """The grid of every finished phase, tidy: one row per (data set, seed, width, supernet,
    teacher, phase, stat).

    Phases that the teacher cannot influence appear under both teachers, marked `shared`.
    """
    phases = eps_phases(out).assign(shared=lambda f: f.teacher == "any")
    phases["teacher"] = phases.teacher.map(lambda t: list(TEACHERS) if t == "any" else [t])
    keys = [
        "dataset",
        "seed",
        "wm",
        "supernet",
        "teacher",
        "phase",
        "step",
        "last",
        "shared",
        "n",
        "n_full",
        "n_test",
        "profile",
    ]
    return (
        phases.explode("teacher")
        .melt(keys, ["avg", "best"], "stat", "top1")
        .astype({"top1": float})
    )


def eps_cells(results, dataset=None):
    """Every cell of Tables 5.3 and 5.4 with our value beside the printed one; one row per cell, 384
    rows.

    dataset     : whose results (may be left out when there is only one)
    ours        : mean over the seeds, in per cent;  seeds: how many;  difference: ours - printed
    uncertainty : standard deviation over seeds; for one seed the binomial standard error of the
                  test split
    noise       : standard deviation of `ours` as an estimate (see claims.py);  by_seed: {seed:
                  value} behind it
    verdict     : "reproduced" within 1.5 points or twice the combined noise of ours and of the
                  printed value, else "above" or "below"; only on Tiny ImageNet at the paper profile
                  with the whole grid of subnets scored
    """
    cells = pd.concat([printed("table_5_3"), printed("table_5_4")], ignore_index=True)
    cells["printed"] = cells.pop("top1_pct").replace("", None).astype(float)
    keys = ["wm", "supernet", "teacher", "step", "stat"]
    results = one_dataset(results, dataset)
    table = results[results["last"].astype(bool)].assign(
        comparable=lambda r: (r.dataset == PAPER) & (r.profile == "paper") & (r.n == r.n_full)
    )
    found = table.groupby(keys, as_index=False).agg(
        ours=("top1", "mean"),
        sd=("top1", "std"),
        seeds=("seed", "nunique"),
        n=("n", "min"),
        n_full=("n_full", "max"),
        n_test=("n_test", "min"),
        shared=("shared", "all"),
        comparable=("comparable", "all"),
    )
    found["by_seed"] = claims.by_seed(found, table, keys, "top1")
    cells = cells.drop(columns="bold_in_text").merge(found, how="left", on=keys)
    cells[["shared", "comparable"]] = cells[["shared", "comparable"]] == True  # noqa: E712  (missing is not true)
    single = cells.seeds == 1
    error = [claims.binomial_se(t, n) for t, n in zip(cells.ours, cells.n_test, strict=True)]
    cells["uncertainty"] = cells.sd.where(~single, error)
    cells["noise"] = (cells.sd / np.sqrt(cells.seeds)).where(
        ~single, np.hypot(error, claims.run_to_run_sd())
    )
    cells["difference"] = cells.ours - cells.printed
    tolerance = (2 * np.hypot(cells.noise, claims.run_to_run_sd())).clip(lower=claims.TOLERANCE)
    cells["verdict"] = np.select(
        [
            cells.applicable == "0",
            cells.ours.isna(),
            ~cells.comparable,
            cells.difference.abs() <= tolerance,
            cells.difference > 0,
        ],
        ["X", NOT_RUN, NOT_JUDGED, "reproduced", "above"],
        "below",
    )
    return cells.drop(columns="sd")


def one_dataset(frame, dataset=None):
    """The rows of one data set; which one must be said when there are several."""
    names = sorted(frame.dataset.unique())
    if dataset is None and len(names) > 1:
        raise Refusal(f"there are results for {', '.join(names)}: name one of them as dataset")
    return frame if dataset is None else frame[frame.dataset == dataset]
