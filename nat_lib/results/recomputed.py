"""Checks on paper: printed averages of chapter 4 made again by our own averaging."""

from itertools import product

import pandas as pd

from nat_lib.backbone_table import baseline_of
from nat_lib.results.changes import ALL, CHANGE_COLUMNS, averages, changes, printed_values
from nat_lib.results.chapter4 import SINGLE, of_cells
from nat_lib.results.names import MODES
from nat_lib.results.printed import printed
from nat_lib.results.stats import EXACT


def recomputed():
    """Printed averages made again by `averages`, from printed rows and from the structure of the
    networks alone.

    returns : DataFrame table, source, scenario, config, printed, recomputed, difference, tolerance;
              72 rows
    """
    keys = ["scenario", "mode", "pruned"]
    parts = [_from_rows(*names, keys) for names in (("network", "dataset"), ("dataset", "network"))]
    rows = changes(structure())
    for table, quantity in (("4.8", "params"), ("4.9", "macs")):
        full = rows[(rows.quantity == quantity) & (rows["mode"] == ALL)]
        parts.append(
            averages(full, keys).assign(
                table=table,
                source="structure of the networks",
                metric=f"aep.{quantity}_change",
                tolerance=EXACT,
            )
        )
    found = pd.concat(parts, ignore_index=True).rename(columns={"ours": "recomputed"})
    found = found.merge(printed_values()[["metric", *keys, "printed"]], on=["metric", *keys])
    columns = ["table", "source", "scenario", "config"]
    return found.assign(
        config=found["mode"] + found.pruned.map({"0": "", "1": "*"}),
        difference=found.recomputed - found.printed,
    )[[*columns, "printed", "recomputed", "difference", "tolerance"]]


def _from_rows(by, other, keys):
    """Table 4.5 from the rows of Tables 4.3 and 4.4 by network, or by data set."""
    table = printed(f"table_4_3_4_4_{by}")
    rows = table[table.is_average == "0"].assign(quantity="top1", seed=0, **{other: "all"})
    rows["change"] = rows.top1_change_pct.astype(float)
    name = {"network": "network", "dataset": "data set"}[by]
    return averages(_noiseless(rows), keys).assign(
        table="4.5",
        source=f"rows by {name} of Tables 4.3 and 4.4",
        metric="aep.top1_change",
        tolerance=0.0005,
    )


def _noiseless(rows):
    fixed = {
        "run": "",
        "noise": 0.0,
        "run_before": "",
        "noise_before": 0.0,
        "varies": False,
        "comparable": True,
        "proxy": False,
    }
    return rows.assign(**fixed).reindex(columns=CHANGE_COLUMNS)


def structure():
    """The costs of all networks of the thesis as rows of `chapter4.trainings`: counted, not run; in
    thousands.

    The thesis logged millions with three decimals, which is why it prints 2.876 % parameters and
    not 2.878.
    """
    rows = []
    for costs in printed("derived_aep_costs").to_dict("records"):
        baseline = baseline_of(costs["network"])
        for how, mode in product(("TR", "FT"), (SINGLE, *MODES)):
            if mode == SINGLE and baseline != costs["network"]:
                continue
            kind = "single_exit" if mode == SINGLE else "early_exit"
            scenario = f"{how}-{costs['image_size']}"
            rows.append(
                {
                    **{name: costs[name] for name in ("dataset", "network", "image_size")},
                    "baseline": baseline,
                    "scenario": scenario,
                    "mode": mode,
                    "seed": 0,
                    "proxy": False,
                    "start": "",
                    "recipe": "",
                    "params": round(int(costs[f"params_{kind}"]) / 1e3),
                    "macs_tp": round(int(costs[f"macs_torchprofile_{kind}"]) / 1e3),
                    "n_exits": int(costs["exits"]),
                    "folder": f"{costs['dataset']}/{costs['network']}_{scenario}_{mode}",
                }
            )
    return pd.DataFrame(rows).reindex(columns=of_cells(pd.DataFrame()).columns)
