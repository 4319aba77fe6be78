"""What the thesis prints: its tables and the numbers in its text, from `reference/`."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from nat_lib.results.values import Store

REFERENCE = Path(__file__).parent / "reference"
EPS_DIMS = ("wm", "supernet", "teacher", "step", "stat")

# metric: (table, column of the value, dimensions)
PRINTED_METRICS = {
    "aep.top1_change_by_network": (
        "table_4_3_4_4_network",
        "top1_change_pct",
        "scenario network mode pruned",
    ),
    "aep.top1_change_by_dataset": (
        "table_4_3_4_4_dataset",
        "top1_change_pct",
        "scenario dataset mode pruned",
    ),
    "aep.top1_change": ("table_4_5", "top1_change_pct", "scenario mode pruned"),
    "aep.pruned_gain": ("table_4_6", "top1_change_pct_vs_full_ensemble", "scenario mode"),
    "aep.exit_change": ("table_4_7", "top1_change_pct", "scenario mode exit"),
    "aep.params_change": ("table_4_8", "params_change_pct", "scenario mode pruned"),
    "aep.macs_change": ("table_4_9", "macs_change_pct", "scenario mode pruned"),
    "aep.latency_change": ("table_4_10", "latency_change_pct", "scenario mode pruned"),
    "aep.scenario_change": ("table_4_11", "top1_change_pct", "comparison mode pruned"),
}


@cache
def printed(name: str) -> pd.DataFrame:
    """A CSV of the printed numbers as text, digits as printed; an empty place is ''."""
    return pd.read_csv(REFERENCE / f"{name}.csv", dtype=str, keep_default_na=False)


def table_5_3_5_4():
    """Tables 5.3 and 5.4 as one frame of text."""
    return pd.concat([printed("table_5_3"), printed("table_5_4")], ignore_index=True)


@cache
def printed_store() -> Store:
    """Every number that the thesis prints, without noise: the rules on it give the column
    holds_on_paper."""
    store = Store()
    for metric, (table, column, dims) in PRINTED_METRICS.items():
        rows = printed(table)
        if "is_average" in rows:  # Tables 4.3 and 4.4 print averages as rows: those are Table 4.5
            rows = rows[rows.is_average == "0"]
        for row in rows.to_dict("records"):
            store.add(metric, {name: row[name] for name in dims.split()}, float(row[column]))
    for row in table_5_3_5_4().query("applicable == '1'").to_dict("records"):
        store.add("eps.top1", {name: row[name] for name in EPS_DIMS}, float(row["top1_pct"]))
    for told in printed("text_values").itertuples():
        where = dict(part.split("=", 1) for part in told.dims.split(";") if part)
        store.add(told.metric, where, float(told.value))
    return store


def printed_value(metric, **dims):
    """The number that the thesis prints for a metric, NaN if it prints none."""
    store = printed_store()
    return next((store.values[i].value for i in store.select(metric, dims)), np.nan)


def value_rows(metrics):
    """The printed numbers of several metrics as a list of dicts: metric, dimensions, printed."""
    store = printed_store()
    return [
        {"metric": metric, **store.values[i].dims, "printed": store.values[i].value}
        for metric in metrics
        for i in store.by_metric[metric]
    ]
