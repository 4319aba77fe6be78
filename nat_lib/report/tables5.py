"""Tables of thesis chapter 5: the subnets after every step, and the phases that made them."""

import html

import pandas as pd

from nat_lib.report import tables
from nat_lib.report.style import TEACHER_WORDS
from nat_lib.report.tables import NO_RUN, Table, X, entry, grey, number, paired
from nat_lib.results.names import MISSING, extended
from nat_lib.results.printed import printed

STEPS = {
    "ER": "Resolution",
    "EKS": "Kernel size",
    "EL": "Level",
    "EX": "Exit",
    "ED": "Depth",
    "EW": "Width",
}
# what a phase is made of: (heading, attribute of a phase, column of Table 5.2)
SETTINGS = [
    ("learning rate", "lr", "learning_rate"),
    ("epochs", "epochs", "epochs"),
    ("warm-up", "warmup", "warmup_epochs"),
    ("subnets", "subnets", "subnets_per_batch"),
]
OF_RUNS = {
    "lr": "lr",
    "epochs": "recipe_epochs",
    "warmup": "warmup",
    "batch": "batch_size",
    "steps": "steps",
}


def provenance(results):
    """Where numbers come from, with a word where only part of the subnets was scored."""
    part = [] if (results.n == results.n_full).all() else ["only part of the subnets scored"]
    return tables.provenance(results, *part)


def table_eps(cells, width, note=""):
    """Table 5.3 (width "1.0") or 5.4 ("1.2") in the layout of the thesis: `Table`.

    cells : `chapter5.eps_cells`.  X: the supernet does not have the step;  note : plain text
    """
    rows = cells[cells.wm == str(width)]
    rows = rows.assign(
        entry=[_entry(c) for c in rows.itertuples()],
        step=[STEPS.get(step, step) for step in rows.step],
        teacher=[TEACHER_WORDS.get(teacher, teacher) for teacher in rows.teacher],
    )
    heads = [(s, k) for s in extended(STEPS.values(), rows.step) for k in ("avg", "best")]
    title = {"1.0": "Table 5.3", "1.2": "Table 5.4"}.get(str(width), "Another width")
    caption = (
        f"<b>{title}</b>, width {width}: test top-1 (%) of the subnets after each step; "
        f"{grey('printed value below')}. {html.escape(note)}"
    )
    return paired(rows, ["supernet", "teacher"], ["step", "stat"], caption, heads)


def _entry(c):
    if c.applicable == "0":
        return X
    ours = number(c.ours, c.uncertainty)
    tip = "" if ours is None else f"{c.difference:+.2f} points, {c.n:.0f} of {c.n_full:.0f} subnets"
    return entry(
        ours,
        number(c.printed),
        verdict=c.verdict,
        tip=tip,
        bold=True,
        small=tables.of_seeds(c.seeds),
    )


def table_5_2(configured, phases):
    """The phases of extended progressive shrinking: printed, as the code has them, and as the runs
    used them.

    configured : rows with name, step, lr, epochs, warmup, subnets (curricula.PHASES)
    phases     : `eps_phases` of the runs (may be empty), or what is configured: rows with phase,
                 lr, recipe_epochs, warmup, batch_size, steps
    returns    : DataFrame, one row per phase; `same`: the code has the printed values
    """
    paper = printed("table_5_2").set_index("phase")
    rows = []
    for p in configured:
        known = p.name in paper.index
        row = {"phase": p.name, "step": p.step, "same": known and paper.step[p.name] == p.step}
        for _, attribute, column in SETTINGS:
            row[f"{column}_printed"] = float(paper.loc[p.name, column]) if known else float("nan")
            row[column] = getattr(p, attribute)
            row["same"] &= row[f"{column}_printed"] == row[column]
        run = phases[phases.phase == p.name]
        for name, column in OF_RUNS.items():
            used = " / ".join(f"{x:g}" for x in sorted(run[column].unique()))
            row[f"{name}_run"] = used or MISSING
        rows.append(row)
    return pd.DataFrame(rows)


def show_table_5_2(table):
    """`table_5_2` for a notebook: printed values in grey, then the code's, then the runs'."""
    view = {("", "step"): table.step.map(html.escape)}
    for head, _, column in SETTINGS:
        pairs = zip(table[column], table[f"{column}_printed"], strict=True)
        view["thesis and code", head] = [f"{ours:g} {grey(f'{paper:g}')}" for ours, paper in pairs]
    view["", "same"] = table.same.map({True: "yes", False: "no"})
    for name in OF_RUNS:
        view["this profile", name] = table[f"{name}_run"].replace(MISSING, NO_RUN)
    title = "<b>Table 5.2</b>, phases of extended progressive shrinking"
    frame = pd.DataFrame(view).set_axis(list(table.phase))
    return Table(frame, f"{title}; {grey('printed values in grey')}")
