"""Results of thesis chapter 4 as frames: the trainings of the AEP study, their exits and their
curves.

Everything is read, nothing is run. What the thesis's tables average over these trainings is in
`changes`.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib.backbone_table import baseline_of
from nat_lib.cells import read_report
from nat_lib.results.frames import joined, load, metrics_of, params_of, picked
from nat_lib.results.names import (
    AEP_DATASETS,
    MODES,
    NETWORKS,
    SCENARIOS,
    name_of,
    ranks,
)
from nat_lib.results.stats import noise_of

FOUR = 4  # exits of the networks that Table 4.7 is about, five in the thesis
IQR = 1.349  # interquartile range of a standard normal law
SINGLE = "SE"  # the mode of the single-exit baseline
MOST_EXITS = 7  # of a network of the thesis
EXIT_COLUMNS = [f"exit_{i}" for i in range(1, MOST_EXITS + 1)]
TESTED = ("test_top1", "test_top5", "params", "macs_tp")
RUN = ["dataset", "network", "scenario", "mode", "seed"]


def trainings(out, datasets=None) -> pd.DataFrame:
    """One row per finished training of the AEP study; `pruned_*`: of its pruned network.

    datasets : which ones (names as in data.load), None: all.  An average over the thesis's data
               sets and others is comparable with no printed one: name them here
    exit_1.. : test top-1 of the single exits;  subset : the exits that pruning kept
    start    : stands for the first weights
    """
    found = load(out, "aep_study", datasets)
    rows = of_cells(found)
    folders = [folder.relative_to(out).as_posix() for folder in rows.folder]
    return rows.assign(folder=pd.Series(folders, dtype=object))


def of_cells(found) -> pd.DataFrame:
    """The columns of `trainings` from cells as `frames.load` has them, folders as they are."""
    rows = picked(
        found,
        {
            **params_of(*RUN, "profile", "image_size", "proxy", "pretrained_on", "start"),
            **metrics_of("n_test", "epochs", "best_epoch", "val_top1", *TESTED),
            "latency_ms": "metrics.latency.ms",
            "latency_iqr": "metrics.latency.iqr",
            "seconds": "metrics.seconds_per_epoch",
            "exits": "metrics.exits",
            "subset": "metrics.pruned.subset",
            "pruned_val_top1": "metrics.pruned.val_top1",
            **metrics_of(*TESTED, before="pruned_", where="metrics.pruned"),
            "pruned_latency_ms": "metrics.pruned.latency.ms",
            "pruned_latency_iqr": "metrics.pruned.latency.iqr",
            "recipe": "recipe",
            "differs": "differs",
            "folder": "folder",
        },
    )
    rows = rows.assign(
        baseline=[baseline_of(network) for network in rows.network],
        start=rows.start.fillna(""),
        latency_on=_machines(found, "metrics.latency."),
        seconds_on=_machines(found, ""),
        n_exits=[len(exits) for exits in rows.exits],
        subset=[" ".join(map(str, s)) if isinstance(s, list) else None for s in rows["subset"]],
    )
    most = max([MOST_EXITS, *rows.n_exits])
    for i in range(most):
        rows[f"exit_{i + 1}"] = [e[i]["top1"] if i < len(e) else np.nan for e in rows.exits]
    return rows.drop(columns="exits")


def _machines(found, where):
    """Where a number was timed, as text, per cell."""
    columns = (f"{where}device", f"{where}threads")
    rows = found.reindex(columns=[*columns])
    return [
        f"{device}, {threads} thread{'s' if threads > 1 else ''}"
        for device, threads in rows.itertuples(index=False)
    ]


def _in_thesis_order(found):
    """Early-exit runs in the order of the thesis; networks that it does not have come last."""
    places = ranks(*NETWORKS, *SCENARIOS, *MODES)

    def key(column):
        if column.name not in ("network", "scenario", "mode"):
            return column
        return column.map(lambda name: places.get(name, len(places)))

    rows = found[found["mode"] != SINGLE]
    return rows.sort_values(
        ["dataset", "network", "scenario", "mode", "seed"],
        key=key,
        kind="stable",
        ignore_index=True,
    )


def subsets(out, found) -> pd.DataFrame:
    """Every subset of exits of every early-exit run: the columns of its subsets.csv, RUN, and
    `chosen` by pruning.

    found : `trainings` of the same folder
    """
    rows = _in_thesis_order(found)
    parts = [
        pd.read_csv(Path(out) / run.folder / "subsets.csv", dtype={"subset": str}).assign(
            **{name: getattr(run, name) for name in RUN},
            chosen=lambda t, kept=run.subset: t.subset == kept,
        )
        for run in rows.itertuples()
    ]
    if not parts:
        return pd.DataFrame(columns=[*RUN, "subset", "chosen"])
    return pd.concat(parts, ignore_index=True)


def output_weights(out, found) -> pd.DataFrame:
    """The same exits voting with other output weights, one row per early-exit run and votes.

    found : `trainings` of the same folder
    votes : a mode of the thesis, or "OPTIMAL": lowest cross-entropy on the validation split
    """
    rows = []
    for run in _in_thesis_order(found).itertuples():
        told = read_report(Path(out) / run.folder)["metrics"]["output_weights"]
        rows += [
            {
                **{name: getattr(run, name) for name in RUN},
                "votes": votes,
                **scores,
                "weights": " ".join(f"{w:.2f}" for w in told["weights"][votes]),
            }
            for votes, scores in told["scores"].items()
        ]
    columns = [*RUN, "votes", "val_loss", "val_top1", "test_top1", "weights"]
    return pd.DataFrame(rows, columns=columns)


def curves(out, found) -> pd.DataFrame:
    """Learning curves of the AEP study: one row per training, epoch, split and exit.

    found   : `trainings` of the same folder
    returns : RUN, epoch, split ("train" | "val"), exit (0: the whole ensemble, or the only exit),
              loss, top1, lr, is_best (the epoch whose weights were kept)
    """
    parts = []
    for run in found.itertuples():
        history = pd.read_csv(Path(out) / run.folder / "history.csv")
        for split, i in product(("train", "val"), range(run.n_exits + 1)):
            loss, top1 = (f"{split}_{what}" + (f"_{i}" if i else "") for what in ("loss", "top1"))
            if loss in history:
                kept = history[["epoch", loss, top1, "lr", "is_best"]]
                part = kept.rename(columns={loss: "loss", top1: "top1"})
                of = {name: getattr(run, name) for name in RUN}
                parts.append(part.assign(**of, split=split, exit=i))
    columns = [*RUN, "epoch", "split", "exit", "loss", "top1", "lr", "is_best"]
    return joined(parts, columns)


# ------------------------------------------------------------------------- every network tested

WITH_BASELINE = [  # what a run and its baseline share
    "dataset",
    "baseline",
    "scenario",
    "seed",
    "image_size",
    "recipe",
    "start",
]
KEPT = ["seed", "scenario", "mode", "profile", "image_size", "proxy", "start", "recipe", "differs"]
KEPT += ["n_test", "latency_on", "seconds", "seconds_on"]


def tested(found) -> pd.DataFrame:
    """Every network that was tested, one row each; a baseline once for every network that shares
    it.

    found   : `trainings`
    columns : mode ("SE" for the baseline), pruned ("0" | "1"), exit ("" | "1" ..: this exit alone,
              of networks with exactly four), top1, params, macs, latency, seconds, and what is
              needed to compare them
    """
    early, single = found[found["mode"] != SINGLE], found[found["mode"] == SINGLE]
    siblings = early[["dataset", "network", "baseline"]].drop_duplicates()
    single = single.drop(columns="network").merge(siblings, on=["dataset", "baseline"])
    four = early[early.n_exits == FOUR]
    parts = [
        _networks(single, "", "0"),
        _networks(early, "", "0"),
        _networks(early, "*", "1", "pruned_"),
    ]
    for i in range(1, FOUR + 1):
        alone = _networks(four, f" exit {i}", "0")
        parts.append(alone.assign(exit=str(i), top1=four[f"exit_{i}"]))
    rows = pd.concat(parts, ignore_index=True)
    pixels = rows.scenario.str.split("-").str[-1]
    names = rows.dataset.map(name_of)
    proxy = rows.proxy.astype(bool)
    return rows.assign(
        top1_noise=noise_of(rows, "top1"),
        dataset=names,
        proxy=proxy,
        comparable=(rows.differs == "")
        & ~proxy
        & (rows.image_size.astype(str) == pixels)
        & names.isin(AEP_DATASETS)
        & rows.network.isin(NETWORKS),
    )


def _networks(rows, suffix, pruned, prefix=""):
    return rows[["dataset", "network", *KEPT]].assign(
        run=rows.folder + suffix,
        pruned=pruned,
        exit="",
        top1=rows[f"{prefix}test_top1"],
        params=rows[f"{prefix}params"],
        macs=rows[f"{prefix}macs_tp"],
        latency=rows[f"{prefix}latency_ms"],
        latency_noise=rows[f"{prefix}latency_iqr"] / IQR,
    )


def exit_accuracies(found) -> pd.DataFrame:
    """One row per early-exit run of `trainings`, its baseline beside it; NaN where that is not
    finished.

    returns : DataFrame dataset, network, scenario, mode, seed, single (test top-1 of the baseline),
              exit_1 .., ensemble (all exits), pruned, subset (the exits kept), params_change and
              macs_change (%, pruned against baseline)
    """
    early, single = found[found["mode"] != SINGLE], found[found["mode"] == SINGLE]
    both = early.merge(
        single[[*WITH_BASELINE, "test_top1", "params", "macs_tp"]],
        "left",
        WITH_BASELINE,
        suffixes=("", "_single"),
    )
    cost = {
        f"{name}_change": 100
        * (both[f"pruned_{column}"] / both[f"{column}_single"] - 1).astype(float)
        for name, column in (("params", "params"), ("macs", "macs_tp"))
    }
    rows = both.assign(**cost).rename(
        columns={
            "test_top1_single": "single",
            "test_top1": "ensemble",
            "pruned_test_top1": "pruned",
        }
    )
    exits = [name for name in found.columns if name.startswith("exit_")]
    return rows[[*RUN, "single", *exits, "ensemble", "pruned", "subset", *cost]]
