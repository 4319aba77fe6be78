"""Tables and figures beside the printed ones, made from the reports of finished cells and from
nothing else.

A cell that was not run is shown as such (a dash), a step a supernet does not have as X, as the
thesis prints it. Whatever a table or figure shows also goes to a CSV: `save`. The same reports give
the same bytes.
"""

import html

import numpy as np
import pandas as pd

from nat_lib import files
from nat_lib.data.catalogue import BY_THESIS as DATASETS
from nat_lib.report.figures5 import STEPS
from nat_lib.report.style import GREY
from nat_lib.results.names import DATASETS, MISSING, NOT_RUN, TEACHERS
from nat_lib.results.printed import printed


def provenance(results):
    """One line on where a table's numbers come from: profile, data set, seeds, share of the grid,
    sizes."""
    if results.empty:
        return "No finished run yet: every cell is " + NOT_RUN + "."

    def listed(column):
        return ", ".join(str(x) for x in sorted(results[column].unique()))

    part = (
        "" if (results.n == results.n_full).all() else "; only part of the grid of subnets scored"
    )
    return (
        f"Profile: {listed('profile')}; data set: {listed('dataset')}; seeds: {listed('seed')}; "
        f"{listed('n_test')} test images{part}."
    )


# ------------------------------------------------------------------------------------------- tables

CELL_COLOUR = {"reproduced": "#1b7837", "above": "#b35806", "below": "#b35806"}
TABLE_CSS = [
    {"selector": "th", "props": "text-align:center; font-weight:600; padding:3px 7px"},
    {"selector": "td", "props": "text-align:center; padding:3px 7px; white-space:nowrap"},
    {"selector": "caption", "props": "caption-side:top; text-align:left; padding-bottom:6px"},
    {"selector": "", "props": "font-size:88%; border-collapse:collapse"},
]


def grey(text):
    return f'<span style="color:{GREY}">{text}</span>'


def styled(frame, caption):
    """A frame of HTML cells as a table that reads well in a notebook."""
    return (
        frame.style.set_uuid(files.hash_of(caption))
        .set_table_styles(TABLE_CSS)
        .set_caption(caption)
    )


def table_eps(cells, width, caption=""):
    """Table 5.3 (width "1.0") or 5.4 ("1.2") in the layout of the thesis, ours above the printed
    value in grey.

    cells   : of `eps_cells`.  X: the supernet does not have the step.  Dash: not run in this
              profile
    returns : pandas Styler; its `.data` is the table
    """
    rows = cells[cells.wm == str(width)]
    text = rows.assign(
        cell=[_cell_html(c) for c in rows.itertuples()],
        step=rows.step.map(STEPS),
        supernet=rows.supernet.astype(pd.CategoricalDtype(list(dict.fromkeys(rows.supernet)))),
        teacher=rows.teacher.map(TEACHERS),
    )
    table = text.pivot(index=["supernet", "teacher"], columns=["step", "stat"], values="cell")
    table = table[[(s, k) for s in STEPS.values() for k in ("avg", "best")]]
    table.columns.names = table.index.names = [None, None]
    number = {"1.0": "5.3", "1.2": "5.4"}[str(width)]
    return styled(
        table,
        f"<b>Table {number}</b>, width {width}: test top-1 (%) of the subnets after each step; "
        f"{grey('printed value below')}. {html.escape(caption)}",
    )


def _cell_html(c):
    if c.applicable == "0":
        return grey("X")
    if np.isnan(c.ours):
        return f"{MISSING}<br>{grey(f'{c.printed:.2f}')}"
    spread = f"&plusmn;{c.uncertainty:.1f}" + (
        f" <small>({int(c.seeds)})</small>" if c.seeds > 1 else ""
    )
    colour = CELL_COLOUR.get(c.verdict, "inherit")
    return (
        f'<span title="{c.verdict}, {c.difference:+.2f} points, {int(c.n)} of {int(c.n_full)} subnets" '
        f'style="color:{colour}"><b>{c.ours:.2f}</b>{spread}</span><br>{grey(f"{c.printed:.2f}")}'
    )


def table_5_2(configured, phases):
    """The phases of extended progressive shrinking: printed, as the code has them, and as the runs
    used them.

    configured : rows with name, step, lr, epochs, warmup, subnets (shrink.PHASES)
    phases     : `eps_phases` of the runs (may be empty), or what is configured: rows with phase,
                 lr, recipe_epochs, warmup, batch_size, steps
    returns    : DataFrame, one row per phase; `same`: the code has the printed values
    """
    names = ("learning_rate", "epochs", "warmup_epochs", "subnets_per_batch")
    paper = printed("table_5_2").set_index("phase")
    run_columns = {
        "lr": "lr",
        "epochs": "recipe_epochs",
        "warmup": "warmup",
        "batch": "batch_size",
        "steps": "steps",
    }
    rows = []
    for p in configured:
        run = phases[phases.phase == p.name]
        row = {"phase": p.name, "step": p.step, "same": paper.step[p.name] == p.step}
        for name, value in zip(names, (p.lr, p.epochs, p.warmup, p.subnets), strict=True):
            row |= {f"{name}_printed": float(paper.loc[p.name, name]), name: value}
            row["same"] &= row[f"{name}_printed"] == value
        rows.append(
            row
            | {
                f"{name}_run": " / ".join(f"{x:g}" for x in sorted(run[column].unique())) or MISSING
                for name, column in run_columns.items()
            }
        )
    return pd.DataFrame(rows)


def show_table_5_2(table):
    """`table_5_2` for a notebook: printed values in grey, then the code's, then the runs'."""
    pairs = {
        "learning rate": "learning_rate",
        "epochs": "epochs",
        "warm-up": "warmup_epochs",
        "subnets": "subnets_per_batch",
    }
    view = pd.DataFrame(
        {
            ("", "step"): table.step,
            **{
                ("thesis and code", k): [
                    f"{ours:g} {grey(f'{paper:g}')}"
                    for ours, paper in zip(table[c], table[f"{c}_printed"], strict=True)
                ]
                for k, c in pairs.items()
            },
            ("", "same"): table.same.map({True: "yes", False: "no"}),
            **{
                ("this profile", k): table[f"{k}_run"]
                for k in ("lr", "epochs", "warmup", "batch", "steps")
            },
        }
    )
    view.index = table.phase
    return styled(
        view,
        f"<b>Table 5.2</b>, phases of extended progressive shrinking; {grey('printed values in grey')}",
    )


def side_by_side(ours, paper, caption, remarks=None):
    """Our table with every cell that differs from the printed one in colour, and the count of cells
    that agree.

    ours, paper : DataFrames of text with equal rows and columns
    remarks     : {(row from 0, column): why the cell differs}, e.g. a known misprint
    """
    different = ours.to_numpy(str) != paper.to_numpy(str)

    def cell(a, b):
        if a == b:
            return html.escape(a)
        return f'<b style="color:{CELL_COLOUR["above"]}">{html.escape(a)}</b> {grey(f"<s>{html.escape(b)}</s>")}'

    cells = [
        [cell(*pair) for pair in zip(*rows, strict=True)]
        for rows in zip(ours.to_numpy(str), paper.to_numpy(str), strict=True)
    ]
    notes = "".join(
        f"<br>{grey(html.escape(f'row {i + 1}, {c}: {why}'))}"
        for (i, c), why in (remarks or {}).items()
    )
    agree = (
        f"{different.size - different.sum()} of {different.size} cells as printed, the others in colour with the "
        "printed text struck out"
        if different.any()
        else f"all {different.size} cells as printed"
    )
    table = styled(
        pd.DataFrame(cells, columns=ours.columns, index=range(1, len(cells) + 1)),
        f"<b>{caption}</b>: {agree}.{notes}",
    )
    return table.hide(axis="index") if "row" in ours else table


def show_claims(judged, thesis=None, cheapest=None):
    """Verdict table for a notebook: one row per claim, the verdict in words and colour.

    thesis   : `claims.judge` of the printed numbers (`claims.as_printed`), shown as what the same
               rule says of them
    cheapest : `coverage.cheapest`; None: what the claim needs, as the reference names it
    """
    colours = {"reproduced": "#1b7837", "contradicted": "#b2182b", "tie within noise": "#8c6d1f"}

    def verdict(row):
        share = "" if np.isnan(row.share) else f" <small>{100 * row.share:.0f} %</small>"
        return f'<b style="color:{colours.get(row.verdict, GREY)}">{row.verdict}</b>{share}'

    def text(value):
        return html.escape(str(value))

    def margin(row):
        return (
            ""
            if np.isnan(row.margin)
            else f"{row.margin:+.2f} <small>[{row.low:.2f}, {row.high:.2f}]</small>"
        )

    shares = {} if thesis is None else dict(zip(thesis.id, thesis.share, strict=True))

    def printed_share(claim):
        share = shares.get(claim, np.nan)
        return "" if np.isnan(share) else f"<br>{grey(f'printed numbers: {100 * share:.0f} %')}"

    view = pd.DataFrame(
        {
            "claim": [
                f"<b>{r.id}</b> {text(r.statement)} {grey(text(r.reference))}"
                for r in judged.itertuples()
            ],
            "thesis": [
                f"{text(r.paper_value)}"
                + (" <i>(its own numbers say no)</i>" if r.holds_on_paper == "no" else "")
                + printed_share(r.id)
                for r in judged.itertuples()
            ],
            "ours": [text(r.ours) for r in judged.itertuples()],
            "verdict": [verdict(r) for r in judged.itertuples()],
            "margin": [margin(r) for r in judged.itertuples()],
            "seeds": [MISSING if np.isnan(r.seeds) else int(r.seeds) for r in judged.itertuples()],
            "values": [f"{r.have}/{r.asked}" for r in judged.itertuples()],
            "needs": [text(cheapest[r.id] if cheapest else r.needs) for r in judged.itertuples()],
        },
        index=pd.RangeIndex(1, len(judged) + 1),
    )
    wrap = [
        {
            "selector": "td.col0, td.col1, td.col2",
            "props": "white-space:normal; text-align:left; max-width:26em",
        }
    ]
    tally = "; ".join(f"{n} {v}" for v, n in judged.verdict.value_counts().sort_index().items())
    have, asked = judged.have.sum(), judged.asked.sum()
    return (
        styled(
            view,
            f"<b>{len(judged)} claims</b>: {tally}. Counted claim by claim they ask for {asked} values, of "
            f"which {have} exist. The percentage is the share of noisy copies of our values on which a "
            "claim holds; margin: by how much it holds (negative: fails), and where 95 % of the copies "
            "lie.",
        )
        .set_table_styles(wrap, overwrite=False)
        .hide(axis="index")
    )


# ---------------------------------------------------------------------------- structure of networks


def table_2_1(network):
    """Table 2.1 from a torchvision MobileNetV3Large for 224-pixel images, all cells as text."""
    rows, size = [], 224
    for m in network.features:
        block = getattr(m, "block", None)
        convs = [c for c in m.modules() if type(c).__name__ == "Conv2d"]
        acts = [type(a).__name__ for a in m.modules() if type(a).__name__ in ("Hardswish", "ReLU")]
        spatial = [c for c in convs if c.kernel_size[0] > 1] or convs[:1]
        stride = max(c.stride[0] for c in convs)
        rows.append(
            [
                size,
                convs[0].in_channels,
                "bneck" if block else "conv2d",
                spatial[0].kernel_size[0],
                spatial[0].in_channels if block else "",
                convs[-1].out_channels,
                int(any("SqueezeExcitation" in type(c).__name__ for c in m.modules())),
                {"Hardswish": "Hswish", "ReLU": "ReLU"}[acts[0]],
                stride,
                1,
            ]
        )
        size = -(-size // stride)
    hidden, last = network.classifier[0], network.classifier[-1]
    rows += [
        [size, convs[-1].out_channels, "pool", size, "", "", 0, "", 1, 0],
        [1, hidden.in_features, "conv2d", 1, "", hidden.out_features, 0, "Hswish", 1, 0],
        [1, last.in_features, "conv2d", 1, "", "k", 0, "", 1, 0],
    ]
    frame = pd.DataFrame(rows, columns=printed("table_2_1").columns[1:])
    frame.insert(0, "row", range(1, len(rows) + 1))
    return frame.astype(str)


def table_3_1(space, width=1.0):
    """Table 3.1 from the channel plan of a space: stem, five stages of four blocks, tail; all cells
    as text."""
    layout, names = space.layout(width), {"relu": "ReLU", "h_swish": "Hswish"}
    rows = [
        ["Head", 1, "conv3x3", layout.stem, layout.stem_stride, names[layout.stem_acts[0]], 1, 0],
        ["Head", 2, "IRB", layout.stem, 1, names[layout.stem_acts[1]], 1, 0],
    ]
    for s, stage in enumerate(layout.stages, 1):
        rows += [
            [
                f"Stage {s}",
                b + 1,
                "IRB" if b else "IB",
                stage.c_out,
                1 if b else stage.stride,
                names[stage.act],
                1,
                int(stage.se),
            ]
            for b in range(space.slots)
        ]
    t1, t2 = layout.stages[-1].tail
    rows += [
        ["Tail", 1, "conv1x1", t1, 1, "Hswish", 1, 0],
        ["Tail", 2, "GAP", t1, "", "", "", ""],
        ["Tail", 3, "conv1x1", t2, 1, "Hswish", 0, 0],
        ["Tail", 4, "Linear", "n_classes", "", "", "", ""],
    ]
    frame = pd.DataFrame(rows, columns=printed("table_3_1").columns[1:])
    frame.insert(0, "row", range(1, len(rows) + 1))
    return frame.astype(str)


def table_5_1(networks):
    """Table 5.1 from the table of flags of the code (arch.NETWORKS), all cells as text."""
    rows = [
        [n.thesis_name, name, *(int(f) for f in (n.modular, n.early_exits, n.dense, n.parallel))]
        for name, n in networks.items()
    ]
    return pd.DataFrame(rows, columns=printed("table_5_1").columns).astype(str)


MISPRINTS = {
    ("3.2", "ImageNet", "train"): "not part of the kit",
    ("3.2", "CINIC-10", "test"): "its test part has 90 000 images, as Table 6.1 says",
    ("3.2", "Oxford-IIIT Pets", "test"): "3 669, as Table 6.1 says",
    ("6.1", "Food-101", "train"): "75 750 - 11 362 = 64 388",
    (
        "4.1",
        "GTSRB",
        "train",
    ): "torchvision's training archive has 26 640 images; published class weights fit 20 640",
}


def table_splits(official, official_aep):
    """Tables 3.2, 6.1 and 4.1: sizes of the splits, (ours, printed) as text, and the remarks for
    `side_by_side`.

    official, official_aep : {name of a data set: (train, val, test)} for chapters 3, 5, 6 and for
                             chapter 4
    """
    ours, paper = [], []
    for number, sizes in (("3.2", official), ("6.1", official), ("4.1", official_aep)):
        for row in printed(f"table_{number.replace('.', '_')}").to_dict("records"):
            train, val, test = sizes.get(DATASETS.get(row["dataset"]), (MISSING,) * 3)
            if number == "3.2" and train != MISSING:  # this table has no validation part
                train, val = train + val, ""
            ours.append([number, row["dataset"], train, val, test])
            paper.append(
                [
                    number,
                    row["dataset"],
                    row["train_images"],
                    row.get("validation_images", val),
                    row["test_images"],
                ]
            )
    ours, paper = (
        pd.DataFrame(r, columns=["table", "data set", "train", "validation", "test"]).astype(str)
        for r in (ours, paper)
    )
    remarks = {
        (i, column): why
        for i, row in enumerate(ours.itertuples(index=False))
        for (number, name, column), why in MISPRINTS.items()
        if (row[0], row[1]) == (number, name)
    }
    return ours, paper, remarks
