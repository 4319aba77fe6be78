"""While a search runs: hypervolume, how well the predictor foresees, where the archive moves."""

import numpy as np
import pandas as pd
import seaborn.objects as so

from nat_lib.report import panels
from nat_lib.report.figures6.fronts import objectives_of
from nat_lib.report.panels import line, of_colours
from nat_lib.report.style import exit_colour, in_order, palette, thesis_style
from nat_lib.results.frames import one_dataset
from nat_lib.results.names import NOT_RUN, PHASES, extended
from nat_lib.search.objectives import title

DEPTH_COLOURS = {2: "#a6bddb", 3: "#3690c0", 4: "#034e7b"}
QUALITY = {"spearman": "Spearman's rho", "rmse": "RMSE (points)"}
SHARES = {"depth": "share of the stages", "exit": "share of the subnets"}
BAND, LINE = so.Band(alpha=0.18, edgewidth=0), so.Line(linewidth=1.4)


def over_runs(rows, column, single=None):
    """Mean of a column over the runs at every iteration.

    single  : column with the error of one run, where there are no others to tell it
    returns : iteration, mean, se (standard error), runs, quantity (the name of the column)
    """
    groups = rows[rows[column].notna()].groupby("iteration")
    values = groups[column]
    found = pd.DataFrame(
        {
            "mean": values.mean(),
            "se": values.std() / np.sqrt(groups.size()),
            "runs": groups.size(),
        }
    )
    if single is not None:
        found["se"] = found.se.fillna(groups[single].mean())
    return found.rename_axis("iteration").reset_index().assign(quantity=column)


def _curves(rows, colours, **color):
    """Lines with their bands: mean against iteration."""
    shown = rows.assign(low=rows["mean"] - rows.se, high=rows["mean"] + rows.se)
    drawn = panels.plot(shown, x="iteration", y="mean", **color)
    drawn = drawn.add(BAND, ymin="low", ymax="high", legend=False).add(LINE, legend=False)
    return drawn.scale(color=colours), shown


@thesis_style
def hypervolume_curves(iterations, dataset=None):
    """Hypervolume of the archive after every iteration; rows: phases, columns: objectives; band:
    error over seeds.

    Every run is measured from its own reference point (1.01 times the worst of its first archive):
    compare the shapes, not the heights. The weights move while the search goes on, so a curve may
    fall.
    """
    here = one_dataset(iterations, dataset)
    if here.empty:
        return panels.empty(f"Hypervolume curves: {NOT_RUN}")
    rows, columns = extended(PHASES, sorted(set(here.phase))), objectives_of(here)
    order = {"phase": rows, "objectives": columns, "supernet": in_order(here.supernet)}
    parts = []
    for (phase, objectives, supernet), group in here.groupby(list(order)):
        line = over_runs(group, "hypervolume")
        parts.append(line.assign(supernet=supernet, phase=phase, objectives=objectives))
    found = _sorted(pd.concat(parts, ignore_index=True), order)
    drawn, shown = _curves(found, palette(here.supernet), color="supernet")
    grid = ("phase", rows), ("objectives", columns)
    fig, axes = panels.grid(drawn, shown, *grid, (2.7, 1.7), "hypervolume", y=False)
    for ax in axes.values():
        panels.xlabel(ax, "", whole=True)
    for ax in panels.last_of_columns(axes).values():
        panels.xlabel(ax, "iteration")
    panels.legend(fig, *of_colours(palette(here.supernet)))
    fig.rows = found
    return fig


def _sorted(rows, order):
    """The rows in the order of the values of several columns, iterations kept in theirs."""
    return rows.sort_values(
        list(order), key=lambda c: c.map(list(order[c.name]).index), kind="stable"
    ).reset_index(drop=True)


@thesis_style
def predictor_quality(iterations, dataset=None):
    """How well the predictor foresaw the candidates of every iteration: Spearman's rho and RMSE, a
    column per phase.

    Mean over objectives and seeds of a supernet; band: its standard error. Few candidates make rho
    coarse.
    """
    here = one_dataset(iterations, dataset)
    parts = []
    for quantity in QUALITY:
        for (phase, supernet), group in here.groupby(["phase", "supernet"]):
            if group[quantity].notna().any():
                line = over_runs(group, quantity)
                parts.append(line.assign(supernet=supernet, phase=phase))
    if not parts:
        return panels.empty(f"Predictor quality: {NOT_RUN}")
    rows = pd.concat(parts, ignore_index=True)
    phases = sorted(set(rows.phase))
    order = {"quantity": list(QUALITY), "phase": phases, "supernet": in_order(rows.supernet)}
    found = _sorted(rows, order)
    drawn, shown = _curves(found, palette(found.supernet), color="supernet")
    size = (10.4 / max(len(phases), 2), 2.0)
    grid = ("quantity", list(QUALITY)), ("phase", phases)
    fig, axes = panels.grid(drawn, shown, *grid, size, QUALITY, x=True)
    for (quantity, _), ax in axes.items():
        panels.xlabel(ax, "iteration" if quantity == "rmse" else "", whole=True)
        if quantity == "spearman":
            ax.axhline(0, color="#999999", lw=0.6, zorder=0)
            ax.set_ylim(max(ax.get_ylim()[0], -1.05), min(ax.get_ylim()[1], 1.05))
    panels.legend(fig, *of_colours(palette(found.supernet)))
    fig.rows = found
    return fig


@thesis_style
def archive_shift(iterations, phase=None, objectives=None, dataset=None):
    """Where the archive moves: shares of the depths among its active stages and of its exits, a
    column per supernet.

    phase, objectives : default the last phase and accuracy & parameters, or what was run
    Band: standard error over seeds; for one seed that of a share among the subnets of the archive.
    """
    here = one_dataset(iterations, dataset)
    if here.empty:
        return panels.empty(f"Shift of the archive: {NOT_RUN}")
    phase = max(here.phase) if phase is None else phase
    here = here[here.phase == phase]
    if objectives is None:
        objectives = "acc+params" if "acc+params" in set(here.objectives) else min(here.objectives)
    here = here[here.objectives == objectives]
    of = f"phase {phase}, {title(objectives)}"
    if here.empty:
        return panels.empty(f"Shift of the archive, {of}: {NOT_RUN}")
    names = in_order(here.supernet)
    found = pd.concat(
        [_shares(here[here.supernet == n], kind) for kind in SHARES for n in names],
        ignore_index=True,
    ).assign(phase=phase, objectives=objectives)
    colours = {f"depth_{d}": colour for d, colour in DEPTH_COLOURS.items()}
    colours |= {
        q: exit_colour(int(q.split("_")[1])) for q in found.quantity if q.startswith("exit")
    }
    colours = palette(found.quantity, colours)
    kinds = found.assign(kind=found.quantity.str.split("_").str[0])
    drawn, shown = _curves(kinds, colours, color="quantity")
    size = (10.4 / max(len(names), 2), 2.1)
    grid = ("kind", list(SHARES)), ("supernet", names)
    sharing = {"x": True, "y": True, "why": "one exit, so no shares"}
    fig, axes = panels.grid(drawn, shown, *grid, size, SHARES, **sharing)
    for (kind, _), ax in axes.items():
        ax.set_ylim(-0.02, 1.02)
        panels.xlabel(ax, "iteration" if kind == "exit" else "", whole=True)
    words = {"depth": "{} blocks".format, "exit": "exit {}".format}
    handles = [
        line(words[q.split("_")[0]](q.split("_")[1]), colour) for q, colour in colours.items()
    ]
    panels.legend(fig, *handles, title=of)
    fig.rows = found
    return fig


def _shares(mine, kind):
    """The shares of one kind in the archives of one supernet; of a network with one exit none."""
    parts = []
    columns = [c for c in mine if c.startswith(f"{kind}_")]
    supernet = mine.supernet.iloc[0]
    if kind == "exit" and not supernet.startswith("EE"):
        columns = []
    for column in columns:
        share = mine[column]
        single = np.sqrt((share * (1 - share)).clip(lower=0) / mine.archive)
        line = over_runs(mine.assign(single=single), column, "single")
        parts.append(line.assign(supernet=supernet))
    return pd.concat(parts) if parts else pd.DataFrame()
