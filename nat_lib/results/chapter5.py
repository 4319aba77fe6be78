"""What the supernets of chapter 5 reached, as frames."""

import numpy as np
import pandas as pd

from nat_lib import curricula
from nat_lib.cells import read_report
from nat_lib.results import stats
from nat_lib.results.frames import load, metrics_of, one_dataset, params_of, picked
from nat_lib.results.names import PRINTED_TEACHERS, RUN_ON
from nat_lib.results.printed import table_5_3_5_4

ANY = "any"  # teacher of phases that no teacher can influence
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
    "differs",
    "folder",
]


def eps_phases(out, dataset=None) -> pd.DataFrame:
    """One row per finished phase of extended progressive shrinking under the folder `out`, e.g.
    outputs/smoke.

    `last`: the phase ends its step, so it enters Tables 5.3 and 5.4. `teacher` is "any" where it
    cannot matter. A phase of no known curriculum is a step of its own, and its last. An
    output folder without such cells gives an empty frame.
    """
    steps = curricula.steps()
    closing = curricula.closing()
    rows = picked(
        load(out, "ofav2_eps", dataset),
        {
            **params_of("dataset", "seed", "supernet", "teacher", "phase", "profile"),
            **metrics_of("avg", "best", "n", "n_full", where="metrics.grid"),
            **metrics_of("n_test", "val_top1", "epochs", "steps", "seconds"),
            **metrics_of("ensemble_top1", "exit_top1", where="metrics.teacher"),
            **metrics_of("lr", "warmup", "subnets", "batch_size", where="params.recipe"),
            "recipe_epochs": "params.recipe.epochs",
            "wm": "params.width",
            "differs": "differs",
            "folder": "folder",
        },
    )
    return rows.assign(
        wm=[str(float(width)) for width in rows.wm],
        step=[steps.get(phase, phase) for phase in rows.phase],
        last=[phase in closing or phase not in steps for phase in rows.phase],
        exit_top1=[top1 if isinstance(top1, list) else [] for top1 in rows.exit_top1],
    )[PHASE_COLUMNS]


def forgetting(out, dataset=None) -> pd.DataFrame:
    """What each phase forgot: one row per (supernet, width, teacher, seed, phase) with probes of
    earlier phases.

    A phase of no known curriculum comes last.
    forgot : mean over these probes of their best validation top-1 after any earlier phase, minus
             that after this one, in points
    """
    places, rows = {phase: i for i, phase in enumerate(curricula.steps())}, []
    keys = ["dataset", "supernet", "wm", "seed"]
    cells = picked(
        load(out, "ofav2_eps", dataset),
        params_of("dataset", "supernet", "seed", "teacher", "phase")
        | {"wm": "params.width", "folder": "folder"},
    )
    for chain, some in cells.groupby(keys, sort=False):
        order = sorted(some.itertuples(), key=lambda cell: places.get(cell.phase, len(places)))
        for teacher in dict.fromkeys(some.teacher[some.teacher != ANY]):
            best: dict = {}
            for cell in order:
                if cell.teacher not in (ANY, teacher):
                    continue
                now = read_report(cell.folder)["metrics"].get("probes", {})
                lost = [best[code] - top1 for code, top1 in now.items() if code in best]
                told = dict(zip(keys, chain, strict=True)) | {"teacher": teacher}
                if lost:
                    told |= {"phase": cell.phase, "probes": len(lost), "forgot": np.mean(lost)}
                    rows.append(told)
                best |= {code: max(top1, best.get(code, 0.0)) for code, top1 in now.items()}
    return pd.DataFrame(rows, columns=[*keys, "teacher", "phase", "probes", "forgot"])


def eps_results(out, dataset=None) -> pd.DataFrame:
    """The grid of every finished phase, tidy: one row per (data set, seed, width, supernet,
    teacher, phase, stat).

    Phases that the teacher cannot influence appear under both teachers, marked `shared`.
    """
    phases = eps_phases(out, dataset).assign(shared=lambda f: f.teacher == ANY)
    phases["teacher"] = phases.teacher.map(lambda t: list(PRINTED_TEACHERS) if t == ANY else [t])
    about = ["dataset", "seed", "wm", "supernet", "teacher", "phase", "step", "last", "shared"]
    about += ["n", "n_full", "n_test", "profile", "differs"]
    tidy = phases.explode("teacher").melt(about, ["avg", "best"], "stat", "top1")
    return tidy.astype({"top1": float})


def eps_cells(results, dataset=None) -> pd.DataFrame:
    """Every place of Tables 5.3 and 5.4 with our value beside the printed one; one row each, 384
    rows, and after them what was run and the tables do not have.

    dataset     : whose results (may be left out when there is only one)
    ours        : mean over the seeds, in per cent;  seeds: how many;  difference: ours - printed
    uncertainty : standard deviation over seeds; for one seed the binomial standard error of the
                  test split
    noise       : standard deviation of `ours` as an estimate;  by_seed: {seed: value} behind it
    verdict     : `stats.verdicts`; judged only on Tiny ImageNet, made as the thesis made it, with
                  the whole grid of subnets scored.  X: the supernet does not have the step
    """
    cells = table_5_3_5_4()
    cells["printed"] = cells.pop("top1_pct").replace("", None).astype(float)
    keys = ["wm", "supernet", "teacher", "step", "stat"]
    results = one_dataset(results, dataset)
    table = results[results["last"].astype(bool)].assign(
        comparable=lambda r: (r.dataset == RUN_ON["eps"]) & (r.differs == "") & (r.n == r.n_full)
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
    found["by_seed"] = stats.by_seed(found, table, keys, "top1")
    cells = cells.drop(columns="bold_in_text").merge(found, how="left", on=keys)
    places = pd.MultiIndex.from_frame(cells[keys])
    others = found[~pd.MultiIndex.from_frame(found[keys]).isin(places)]
    if len(others):
        cells = pd.concat([cells, others.assign(applicable="1")], ignore_index=True)
    cells[["shared", "comparable"]] = cells[["shared", "comparable"]] == True  # noqa: E712  (missing is not true)
    several = cells.seeds > 1
    error = stats.binomial_se(cells.ours, cells.n_test)
    cells["uncertainty"] = np.where(several, cells.sd, error)
    cells["noise"] = np.where(
        several, cells.sd / np.sqrt(cells.seeds), stats.single_run_noise(cells.ours, cells.n_test)
    )
    cells["difference"] = cells.ours - cells.printed
    verdict = stats.verdicts(cells.ours, cells.printed, cells.noise, cells.comparable)
    cells["verdict"] = np.where(cells.applicable == "0", "X", verdict)
    return cells.drop(columns="sd")
