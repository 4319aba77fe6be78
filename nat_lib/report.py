"""Tables and figures beside the printed ones, made from the reports of finished cells and from nothing else.

A cell that was not run is shown as such (a dash), a step a supernet does not have as X, as the thesis prints it.
Whatever a table or figure shows also goes to a CSV: `save`. The same reports give the same bytes.
"""

import html
import io
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Image, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image as Picture

from nat_lib import claims, runs
from nat_lib.claims import MISSING, printed

# One colour per supernet, everywhere: single-exit cool, early-exit warm (the muted scheme of Paul Tol, safe for all
# common kinds of colour blindness).
COLOURS = {"BASE": "#555555", "SE_B": "#BBBBBB", "SE_D": "#88CCEE", "SE_P": "#44AA99", "SE_DP": "#332288",
           "EE_B": "#DDAA33", "EE_D": "#CC6677", "EE_P": "#AA4499", "EE_DP": "#882255"}
EXIT_COLOURS = plt.get_cmap("viridis")      # of 1 - exit / 6: light exits are shallow
GREY, PAPER = "#8a8a8a", "tiny_imagenet"
DPI, SHOWN = 130, 96        # pixels per inch of a saved figure, and as a notebook shows it
STYLE = {"font.size": 8.5, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left",
         "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#666666", "axes.grid": True, "axes.grid.axis": "y",
         "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "legend.frameon": False,
         "legend.fontsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "lines.linewidth": 1.4}
STEPS = {"ER": "Resolution", "EKS": "Kernel size", "EL": "Level", "EX": "Exit", "ED": "Depth", "EW": "Width"}
TEACHERS = {"fixed": "fixed", "pet": "progressive"}
NOT_RUN, NOT_JUDGED = "not run in this profile", "other data set or size: shown, not judged"


def thesis_style(draw):
    """Decorator: a function that draws, under the one style of all figures."""
    return plt.rc_context(STYLE)(draw)


def save(thing, folder, name):
    """Keep a figure (name.png, and its plotted rows as name.csv) or a frame (name.csv) in `folder`.

    Figures of this kit carry what they plot as `figure.rows`. Equal input gives equal bytes: no dates, no versions.
    returns : the frame, or the picture that was saved, which a notebook shows without drawing it again
    """
    rows = thing.rows if isinstance(thing, Figure) else thing
    if "by_seed" in rows:
        rows = rows.assign(by_seed=rows.by_seed.map(
            lambda numbers: "; ".join(f"{seed}: {number:.6g}" for seed, number in numbers.items()), na_action="ignore"))
    runs.write_text(Path(folder) / f"{name}.csv", rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    if not isinstance(thing, Figure):
        return thing
    thing.set_dpi(DPI)
    canvas, file = FigureCanvasAgg(thing), io.BytesIO()
    canvas.draw()
    plt.close(thing)
    # 256 colours are enough for lines, markers and text, and take a third of the bytes.
    pixels = Picture.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    pixels.quantize(256, dither=Picture.Dither.NONE).save(file, "png")
    runs.write_bytes(Path(folder) / f"{name}.png", file.getvalue())
    return Image(file.getvalue(), format="png", width=round(SHOWN * thing.get_figwidth()), alt=name.replace("_", " "))


def show(number, figure, folder):
    """Save a figure of the thesis by its number, as fig_6_7.png and .csv, and show it below its title."""
    title = printed("figures").set_index("id").title[f"F{number}"]
    picture = save(figure, folder, "fig_" + number.replace(".", "_"))
    picture.alt = f"Figure {number}, {title}"
    display(HTML(f"<b>Figure {number}</b>, {html.escape(title)}"), picture)


# ---------------------------------------------------------------------------------------------- what the cells left

PHASE_COLUMNS = ["dataset", "seed", "wm", "supernet", "teacher", "phase", "step", "last", "avg", "best", "n", "n_full",
                 "n_test", "val_top1", "epochs", "steps", "ensemble_top1", "exit_top1", "lr", "recipe_epochs", "warmup",
                 "subnets", "batch_size", "seconds", "profile", "folder"]


def eps_phases(out):
    """One row per finished phase of extended progressive shrinking under the folder `out`, e.g. outputs/smoke.

    `last`: the phase ends its step, so it enters Tables 5.3 and 5.4. `teacher` is "any" where it cannot matter.
    An output folder without such cells gives an empty frame.
    """
    table = printed("table_5_2")
    step, last = dict(zip(table.phase, table.step, strict=True)), set(table.groupby("step").phase.last())
    rows = []
    for path in sorted((Path(out) / "ofav2_eps").glob("*/*/*/report.json")):
        report = runs.read_json(path)
        p, m = report["params"], report["metrics"]
        teacher = m["teacher"] or {"ensemble_top1": np.nan, "exit_top1": []}
        rows.append({
            **{k: p[k] for k in ("dataset", "seed", "supernet", "teacher", "phase", "profile")},
            **{k: m["grid"][k] for k in ("avg", "best", "n", "n_full")},
            **{k: m[k] for k in ("n_test", "val_top1", "epochs", "steps", "seconds")}, **teacher,
            **{k: p["recipe"][k] for k in ("lr", "warmup", "subnets", "batch_size")},
            "recipe_epochs": p["recipe"]["epochs"], "wm": str(float(p["width"])), "step": step[p["phase"]],
            "last": p["phase"] in last, "folder": path.parent})
    return pd.DataFrame(rows, columns=PHASE_COLUMNS)


def eps_results(out):
    """The grid of every finished phase, tidy: one row per (data set, seed, width, supernet, teacher, phase, stat).

    Phases that the teacher cannot influence appear under both teachers, marked `shared`.
    """
    phases = eps_phases(out).assign(shared=lambda f: f.teacher == "any")
    phases["teacher"] = phases.teacher.map(lambda t: list(TEACHERS) if t == "any" else [t])
    keys = ["dataset", "seed", "wm", "supernet", "teacher", "phase", "step", "last", "shared", "n", "n_full", "n_test",
            "profile"]
    return phases.explode("teacher").melt(keys, ["avg", "best"], "stat", "top1").astype({"top1": float})


def eps_cells(results, dataset=None):
    """Every cell of Tables 5.3 and 5.4 with our value beside the printed one; one row per cell, 384 rows.

    dataset     : whose results (may be left out when there is only one)
    ours        : mean over the seeds, in per cent;  seeds: how many;  difference: ours - printed
    uncertainty : standard deviation over seeds; for one seed the binomial standard error of the test split
    noise       : standard deviation of `ours` as an estimate (see claims.py);  by_seed: {seed: value} behind it
    verdict     : "reproduced" within 1.5 points or twice the combined noise of ours and of the printed value, else
                  "above" or "below"; only on Tiny ImageNet at the paper profile with the whole grid of subnets scored
    """
    cells = pd.concat([printed("table_5_3"), printed("table_5_4")], ignore_index=True)
    cells["printed"] = cells.pop("top1_pct").replace("", None).astype(float)
    keys = ["wm", "supernet", "teacher", "step", "stat"]
    results = one_dataset(results, dataset)
    table = results[results["last"].astype(bool)].assign(
        comparable=lambda r: (r.dataset == PAPER) & (r.profile == "paper") & (r.n == r.n_full))
    found = table.groupby(keys, as_index=False).agg(
        ours=("top1", "mean"), sd=("top1", "std"), seeds=("seed", "nunique"), n=("n", "min"), n_full=("n_full", "max"),
        n_test=("n_test", "min"), shared=("shared", "all"), comparable=("comparable", "all"))
    found["by_seed"] = claims.by_seed(found, table, keys, "top1")
    cells = cells.drop(columns="bold_in_text").merge(found, how="left", on=keys)
    cells[["shared", "comparable"]] = cells[["shared", "comparable"]] == True      # noqa: E712  (missing is not true)
    single = cells.seeds == 1
    error = [claims.binomial_se(t, n) for t, n in zip(cells.ours, cells.n_test, strict=True)]
    cells["uncertainty"] = cells.sd.where(~single, error)
    cells["noise"] = (cells.sd / np.sqrt(cells.seeds)).where(~single, np.hypot(error, claims.run_to_run_sd()))
    cells["difference"] = cells.ours - cells.printed
    tolerance = (2 * np.hypot(cells.noise, claims.run_to_run_sd())).clip(lower=claims.TOLERANCE)
    cells["verdict"] = np.select(
        [cells.applicable == "0", cells.ours.isna(), ~cells.comparable, cells.difference.abs() <= tolerance,
         cells.difference > 0], ["X", NOT_RUN, NOT_JUDGED, "reproduced", "above"], "below")
    return cells.drop(columns="sd")


def one_dataset(frame, dataset=None):
    """The rows of one data set; which one must be said when there are several."""
    names = sorted(frame.dataset.unique())
    if dataset is None and len(names) > 1:
        raise runs.Refusal(f"there are results for {', '.join(names)}: name one of them as dataset")
    return frame if dataset is None else frame[frame.dataset == dataset]


def provenance(results):
    """One line on where a table's numbers come from: profile, data set, seeds, share of the grid, sizes."""
    if results.empty:
        return "No finished run yet: every cell is " + NOT_RUN + "."
    def listed(column):
        return ", ".join(str(x) for x in sorted(results[column].unique()))
    part = "" if (results.n == results.n_full).all() else "; only part of the grid of subnets scored"
    return (f"Profile: {listed('profile')}; data set: {listed('dataset')}; seeds: {listed('seed')}; "
            f"{listed('n_test')} test images{part}.")


# ---------------------------------------------------------------------------------------------- tables

CELL_COLOUR = {"reproduced": "#1b7837", "above": "#b35806", "below": "#b35806"}
TABLE_CSS = [{"selector": "th", "props": "text-align:center; font-weight:600; padding:3px 7px"},
             {"selector": "td", "props": "text-align:center; padding:3px 7px; white-space:nowrap"},
             {"selector": "caption", "props": "caption-side:top; text-align:left; padding-bottom:6px"},
             {"selector": "", "props": "font-size:88%; border-collapse:collapse"}]


def grey(text):
    return f'<span style="color:{GREY}">{text}</span>'


def styled(frame, caption):
    """A frame of HTML cells as a table that reads well in a notebook."""
    return frame.style.set_uuid(runs.hash_of(caption)).set_table_styles(TABLE_CSS).set_caption(caption)


def table_eps(cells, width, caption=""):
    """Table 5.3 (width "1.0") or 5.4 ("1.2") in the layout of the thesis, ours above the printed value in grey.

    cells   : of `eps_cells`.  X: the supernet does not have the step.  Dash: not run in this profile
    returns : pandas Styler; its `.data` is the table
    """
    rows = cells[cells.wm == str(width)]
    text = rows.assign(cell=[_cell_html(c) for c in rows.itertuples()], step=rows.step.map(STEPS),
                       supernet=rows.supernet.astype(pd.CategoricalDtype(list(dict.fromkeys(rows.supernet)))),
                       teacher=rows.teacher.map(TEACHERS))
    table = text.pivot(index=["supernet", "teacher"], columns=["step", "stat"], values="cell")
    table = table[[(s, k) for s in STEPS.values() for k in ("avg", "best")]]
    table.columns.names = table.index.names = [None, None]
    number = {"1.0": "5.3", "1.2": "5.4"}[str(width)]
    return styled(table, f"<b>Table {number}</b>, width {width}: test top-1 (%) of the subnets after each step; "
                         f"{grey('printed value below')}. {html.escape(caption)}")


def _cell_html(c):
    if c.applicable == "0":
        return grey("X")
    if np.isnan(c.ours):
        return f"{MISSING}<br>{grey(f'{c.printed:.2f}')}"
    spread = f"&plusmn;{c.uncertainty:.1f}" + (f" <small>({int(c.seeds)})</small>" if c.seeds > 1 else "")
    colour = CELL_COLOUR.get(c.verdict, "inherit")
    return (f'<span title="{c.verdict}, {c.difference:+.2f} points, {int(c.n)} of {int(c.n_full)} subnets" '
            f'style="color:{colour}"><b>{c.ours:.2f}</b>{spread}</span><br>{grey(f"{c.printed:.2f}")}')


def table_5_2(configured, phases):
    """The phases of extended progressive shrinking: printed, as the code has them, and as the runs used them.

    configured : rows with name, step, lr, epochs, warmup, subnets (shrink.PHASES)
    phases     : `eps_phases` of the runs (may be empty), or what is configured: rows with phase, lr, recipe_epochs,
                 warmup, batch_size, steps
    returns    : DataFrame, one row per phase; `same`: the code has the printed values
    """
    names = ("learning_rate", "epochs", "warmup_epochs", "subnets_per_batch")
    paper = printed("table_5_2").set_index("phase")
    run_columns = {"lr": "lr", "epochs": "recipe_epochs", "warmup": "warmup", "batch": "batch_size", "steps": "steps"}
    rows = []
    for p in configured:
        run = phases[phases.phase == p.name]
        row = {"phase": p.name, "step": p.step, "same": paper.step[p.name] == p.step}
        for name, value in zip(names, (p.lr, p.epochs, p.warmup, p.subnets), strict=True):
            row |= {f"{name}_printed": float(paper.loc[p.name, name]), name: value}
            row["same"] &= row[f"{name}_printed"] == value
        rows.append(row | {f"{name}_run": " / ".join(f"{x:g}" for x in sorted(run[column].unique())) or MISSING
                           for name, column in run_columns.items()})
    return pd.DataFrame(rows)


def show_table_5_2(table):
    """`table_5_2` for a notebook: printed values in grey, then the code's, then the runs'."""
    pairs = {"learning rate": "learning_rate", "epochs": "epochs", "warm-up": "warmup_epochs",
             "subnets": "subnets_per_batch"}
    view = pd.DataFrame({("", "step"): table.step, **{
        ("thesis and code", k): [f"{ours:g} {grey(f'{paper:g}')}" for ours, paper in
                                 zip(table[c], table[f"{c}_printed"], strict=True)] for k, c in pairs.items()},
        ("", "same"): table.same.map({True: "yes", False: "no"}),
        **{("this profile", k): table[f"{k}_run"] for k in ("lr", "epochs", "warmup", "batch", "steps")}})
    view.index = table.phase
    return styled(view, f"<b>Table 5.2</b>, phases of extended progressive shrinking; {grey('printed values in grey')}")


def side_by_side(ours, paper, caption, remarks=None):
    """Our table with every cell that differs from the printed one in colour, and the count of cells that agree.

    ours, paper : DataFrames of text with equal rows and columns
    remarks     : {(row from 0, column): why the cell differs}, e.g. a known misprint
    """
    different = ours.to_numpy(str) != paper.to_numpy(str)
    def cell(a, b):
        if a == b:
            return html.escape(a)
        return f'<b style="color:{CELL_COLOUR["above"]}">{html.escape(a)}</b> {grey(f"<s>{html.escape(b)}</s>")}'
    cells = [[cell(*pair) for pair in zip(*rows, strict=True)]
             for rows in zip(ours.to_numpy(str), paper.to_numpy(str), strict=True)]
    notes = "".join(f"<br>{grey(html.escape(f'row {i + 1}, {c}: {why}'))}" for (i, c), why in (remarks or {}).items())
    agree = f"{different.size - different.sum()} of {different.size} cells as printed, the others in colour with the " \
            "printed text struck out" if different.any() else f"all {different.size} cells as printed"
    table = styled(pd.DataFrame(cells, columns=ours.columns, index=range(1, len(cells) + 1)),
                   f"<b>{caption}</b>: {agree}.{notes}")
    return table.hide(axis="index") if "row" in ours else table


def show_claims(judged, thesis=None, cheapest=None):
    """Verdict table for a notebook: one row per claim, the verdict in words and colour.

    thesis   : `claims.judge` of the printed numbers (`claims.as_printed`), shown as what the same rule says of them
    cheapest : `coverage.cheapest`; None: what the claim needs, as the reference names it
    """
    colours = {"reproduced": "#1b7837", "contradicted": "#b2182b", "tie within noise": "#8c6d1f"}
    def verdict(row):
        share = "" if np.isnan(row.share) else f" <small>{100 * row.share:.0f} %</small>"
        return f'<b style="color:{colours.get(row.verdict, GREY)}">{row.verdict}</b>{share}'
    def text(value):
        return html.escape(str(value))
    def margin(row):
        return "" if np.isnan(row.margin) else f"{row.margin:+.2f} <small>[{row.low:.2f}, {row.high:.2f}]</small>"
    shares = {} if thesis is None else dict(zip(thesis.id, thesis.share, strict=True))
    def printed_share(claim):
        share = shares.get(claim, np.nan)
        return "" if np.isnan(share) else f"<br>{grey(f'printed numbers: {100 * share:.0f} %')}"
    view = pd.DataFrame({
        "claim": [f"<b>{r.id}</b> {text(r.statement)} {grey(text(r.reference))}" for r in judged.itertuples()],
        "thesis": [f"{text(r.paper_value)}" + (" <i>(its own numbers say no)</i>" if r.holds_on_paper == "no" else "")
                   + printed_share(r.id) for r in judged.itertuples()],
        "ours": [text(r.ours) for r in judged.itertuples()],
        "verdict": [verdict(r) for r in judged.itertuples()],
        "margin": [margin(r) for r in judged.itertuples()],
        "seeds": [MISSING if np.isnan(r.seeds) else int(r.seeds) for r in judged.itertuples()],
        "values": [f"{r.have}/{r.asked}" for r in judged.itertuples()],
        "needs": [text(cheapest[r.id] if cheapest else r.needs) for r in judged.itertuples()]},
        index=pd.RangeIndex(1, len(judged) + 1))
    wrap = [{"selector": "td.col0, td.col1, td.col2", "props": "white-space:normal; text-align:left; max-width:26em"}]
    tally = "; ".join(f"{n} {v}" for v, n in judged.verdict.value_counts().sort_index().items())
    have, asked = judged.have.sum(), judged.asked.sum()
    return styled(view, f"<b>{len(judged)} claims</b>: {tally}. Counted claim by claim they ask for {asked} values, of "
                        f"which {have} exist. The percentage is the share of noisy copies of our values on which a "
                        "claim holds; margin: by how much it holds (negative: fails), and where 95 % of the copies "
                        "lie.").set_table_styles(wrap, overwrite=False).hide(axis="index")


# ---------------------------------------------------------------------------------------------- structure of networks

def table_2_1(network):
    """Table 2.1 from a torchvision MobileNetV3Large for 224-pixel images, all cells as text."""
    rows, size = [], 224
    for m in network.features:
        block = getattr(m, "block", None)
        convs = [c for c in m.modules() if type(c).__name__ == "Conv2d"]
        acts = [type(a).__name__ for a in m.modules() if type(a).__name__ in ("Hardswish", "ReLU")]
        spatial = [c for c in convs if c.kernel_size[0] > 1] or convs[:1]
        stride = max(c.stride[0] for c in convs)
        rows.append([size, convs[0].in_channels, "bneck" if block else "conv2d", spatial[0].kernel_size[0],
                     spatial[0].in_channels if block else "", convs[-1].out_channels,
                     int(any("SqueezeExcitation" in type(c).__name__ for c in m.modules())),
                     {"Hardswish": "Hswish", "ReLU": "ReLU"}[acts[0]], stride, 1])
        size = -(-size // stride)
    hidden, last = network.classifier[0], network.classifier[-1]
    rows += [[size, convs[-1].out_channels, "pool", size, "", "", 0, "", 1, 0],
             [1, hidden.in_features, "conv2d", 1, "", hidden.out_features, 0, "Hswish", 1, 0],
             [1, last.in_features, "conv2d", 1, "", "k", 0, "", 1, 0]]
    frame = pd.DataFrame(rows, columns=printed("table_2_1").columns[1:])
    frame.insert(0, "row", range(1, len(rows) + 1))
    return frame.astype(str)


def table_3_1(space, width=1.0):
    """Table 3.1 from the channel plan of a space: stem, five stages of four blocks, tail; all cells as text."""
    plan, names = space.plan(width), {"relu": "ReLU", "h_swish": "Hswish"}
    rows = [["Head", 1, "conv3x3", plan.stem, 2, "Hswish", 1, 0], ["Head", 2, "IRB", plan.stem, 1, "ReLU", 1, 0]]
    for s, stage in enumerate(plan.stages, 1):
        rows += [[f"Stage {s}", b + 1, "IRB" if b else "IB", stage.c_out, 1 if b else stage.stride, names[stage.act], 1,
                  int(stage.se)] for b in range(space.slots)]
    t1, t2 = plan.stages[-1].tail
    rows += [["Tail", 1, "conv1x1", t1, 1, "Hswish", 1, 0], ["Tail", 2, "GAP", t1, "", "", "", ""],
             ["Tail", 3, "conv1x1", t2, 1, "Hswish", 0, 0], ["Tail", 4, "Linear", "n_classes", "", "", "", ""]]
    frame = pd.DataFrame(rows, columns=printed("table_3_1").columns[1:])
    frame.insert(0, "row", range(1, len(rows) + 1))
    return frame.astype(str)


def table_5_1(networks):
    """Table 5.1 from the table of flags of the code (arch.NETWORKS), all cells as text."""
    rows = [[n.thesis_name, name, *(int(f) for f in (n.modular, n.early_exits, n.dense, n.parallel))]
            for name, n in networks.items()]
    return pd.DataFrame(rows, columns=printed("table_5_1").columns).astype(str)


# name in the thesis: name in data.DATASETS
DATASETS = {"Tiny ImageNet": "tiny_imagenet", "CINIC-10": "cinic10", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100",
            "STL-10": "stl10", "Food-101": "food101", "Stanford Cars": "cars", "FGVC Aircraft": "aircraft",
            "DTD": "dtd", "Oxford-IIIT Pets": "pets", "Oxford Flowers102": "flowers102",
            "EuroSAT": "eurosat", "FashionMNIST": "fashion_mnist", "GTSRB": "gtsrb"}
MISPRINTS = {
    ("3.2", "ImageNet", "train"): "not part of the kit",
    ("3.2", "CINIC-10", "test"): "its test part has 90 000 images, as Table 6.1 says",
    ("3.2", "Oxford-IIIT Pets", "test"): "3 669, as Table 6.1 says",
    ("6.1", "Food-101", "train"): "75 750 - 11 362 = 64 388",
    ("4.1", "GTSRB", "train"): "torchvision's training archive has 26 640 images; published class weights fit 20 640",
}


def table_splits(official, official_aep):
    """Tables 3.2, 6.1 and 4.1: sizes of the splits, (ours, printed) as text, and the remarks for `side_by_side`.

    official, official_aep : {name of a data set: (train, val, test)} for chapters 3, 5, 6 and for chapter 4
    """
    ours, paper = [], []
    for number, sizes in (("3.2", official), ("6.1", official), ("4.1", official_aep)):
        for row in printed(f"table_{number.replace('.', '_')}").to_dict("records"):
            train, val, test = sizes.get(DATASETS.get(row["dataset"]), (MISSING,) * 3)
            if number == "3.2" and train != MISSING:        # this table has no validation part
                train, val = train + val, ""
            ours.append([number, row["dataset"], train, val, test])
            paper.append([number, row["dataset"], row["train_images"], row.get("validation_images", val),
                          row["test_images"]])
    ours, paper = (pd.DataFrame(r, columns=["table", "data set", "train", "validation", "test"]).astype(str)
                   for r in (ours, paper))
    remarks = {(i, column): why for i, row in enumerate(ours.itertuples(index=False))
               for (number, name, column), why in MISPRINTS.items() if (row[0], row[1]) == (number, name)}
    return ours, paper, remarks


# ---------------------------------------------------------------------------------------------- figures

def _panels(n, columns, size, **options):
    """n axes in rows of `columns`, the unused ones hidden; size: inches of one panel."""
    rows = -(-n // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), layout="constrained",
                             squeeze=False, **options)
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:n])


def _nothing(message):
    """A figure that says why it is empty."""
    fig, ax = plt.subplots(figsize=(6, 1.2))
    ax.axis("off")
    fig.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
    fig.rows = pd.DataFrame()
    return fig


def _line(teacher):
    """Fixed teachers are dashed with open markers, in every figure."""
    return {"ls": "--", "mfc": "white", "lw": 1.0} if teacher == "fixed" else {"ls": "-", "lw": 1.4}


def _ordered(supernets):
    return [s for s in COLOURS if s in set(supernets)]


@thesis_style
def learning_curves(phases, width):
    """Validation top-1 over all epochs of a supernet's phases, fixed against progressive teacher; a panel per supernet.

    phases : `eps_phases` of one data set. Every phase is validated on its own subnets, hence the steps between phases.
    """
    here = phases[phases.wm == str(width)]
    if here.empty:
        return _nothing(f"Learning curves at width {width}: {NOT_RUN}")
    names = _ordered(here.supernet)
    fig, axes = _panels(len(names), 2, (5.2, 2.3), sharey=True)
    order, plotted = list(printed("table_5_2").phase), []
    tight = here.groupby("supernet").phase.nunique().max() > 8
    for ax, name in zip(axes, names, strict=True):
        mine = here[here.supernet == name]
        lengths = mine.groupby("phase").epochs.max()
        start = dict(zip(lengths.reindex(order).dropna().index, np.cumsum([0, *lengths.reindex(order).dropna()]),
                         strict=False))
        for i, (phase, at) in enumerate(start.items()):
            ax.axvspan(at, at + lengths[phase], color="#f3f3f3" if i % 2 else "white", lw=0, zorder=0)
            ax.text(at + lengths[phase] / 2, 1.01, phase, transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                    fontsize=6.5, color="#666666", rotation=35 if tight else 0)
        for p in mine.itertuples():
            curve = pd.read_csv(Path(p.folder) / "history.csv")
            x = start[p.phase] + curve.epoch - 0.5          # the middle of the epoch
            ax.plot(x, curve.val_top1, **_line(p.teacher), marker="o" if len(x) < 12 else None, ms=3,
                    color="#222222" if p.teacher == "any" else COLOURS[name])
            plotted.append(pd.DataFrame({"supernet": name, "wm": p.wm, "seed": p.seed, "teacher": p.teacher,
                                         "phase": p.phase, "epoch": x, "val_top1": curve.val_top1}))
        whole = pd.concat(plotted[-len(mine):])
        for teacher, seed in product(sorted(set(whole.teacher) - {"any"}), sorted(set(whole.seed))):
            line = whole[whole.teacher.isin(["any", teacher]) & (whole.seed == seed)].sort_values("epoch")
            ax.plot(line.epoch, line.val_top1, **_line(teacher) | {"lw": 0.5}, alpha=0.5, color=COLOURS[name], zorder=1)
        ax.set_title(name, pad=22 if tight else 14, color=COLOURS[name])
        ax.set_xlim(0, sum(lengths))
    for ax in axes[::2]:
        ax.set_ylabel("validation top-1 (%)")
    fig.supxlabel("epoch, all phases in a row", fontsize=8.5)
    fig.legend(handles=[Line2D([], [], color="#222222", label="before the teachers differ"),
                        Line2D([], [], color=GREY, ls="--", label="fixed teacher"),
                        Line2D([], [], color=GREY, label="progressive teacher")], loc="outside upper center", ncols=3)
    fig.rows = pd.concat(plotted, ignore_index=True)
    return fig


@thesis_style
def best_bars(cells):
    """Best subnet of every supernet at the end of training: ours as bars (fixed, progressive), printed as markers."""
    end = cells[(cells.step == "EW") & (cells.stat == "best")]
    names = _ordered(end.supernet)
    fig, axes = _panels(2, 2, (5.0, 3.0), sharey=True)
    for ax, width in zip(axes, claims.CONSTANTS["WMS"], strict=True):
        for i, name in enumerate(names):
            for side, teacher in ((-0.2, "fixed"), (0.2, "pet")):
                cell = end[(end.wm == width) & (end.supernet == name) & (end.teacher == teacher)].iloc[0]
                if np.isnan(cell.ours):
                    ax.text(i + side, 1, "not run", rotation=90, ha="center", va="bottom", fontsize=6.5, color=GREY)
                else:
                    ax.bar(i + side, cell.ours, 0.36, yerr=cell.uncertainty, color=COLOURS[name], lw=0.8,
                           alpha=0.5 if teacher == "fixed" else 1, hatch="////" if teacher == "fixed" else None,
                           edgecolor="white", error_kw={"lw": 0.8, "ecolor": "#333333"})
                ax.plot(i + side, cell.printed, "D", ms=4, mfc="black", mec="white", mew=0.7, zorder=5)
        ax.set_title(f"width {width}")
        ax.set_ylim(bottom=0)
        ax.set_xticks(range(len(names)), names, rotation=30)
    axes[0].set_ylabel("best subnet, test top-1 (%)")
    fig.legend(handles=[Patch(fc=GREY, alpha=0.5, hatch="////", ec="white", label="fixed teacher"),
                        Patch(fc=GREY, label="progressive teacher"),
                        Line2D([], [], ls="", marker="D", color="black", ms=4, label="printed in the thesis")],
               loc="outside upper center", ncols=3)
    fig.rows = end[["wm", "supernet", "teacher", "ours", "uncertainty", "seeds", "printed", "verdict"]]
    return fig


@thesis_style
def best_per_step(cells, width):
    """Best top-1 per supernet and step (executive summary, Figure 4): printed on the left, ours on the right.

    A step that a supernet does not execute repeats the last value.
    """
    rows = cells[(cells.wm == str(width)) & (cells.stat == "best")].copy()
    rows["order"] = rows.step.map(list(STEPS).index)
    rows = rows.sort_values("order", kind="stable")
    filled = rows.groupby(["supernet", "teacher"])[["printed", "ours"]].ffill()
    # Carried on only over a step the supernet does not have: a step that was not run stays a gap.
    rows[["printed", "ours"]] = filled.where(rows.applicable == "0", rows[["printed", "ours"]])
    fig, axes = _panels(2, 2, (5.0, 3.2))
    for ax, column, title in zip(axes, ("printed", "ours"), ("printed in the thesis", "ours"), strict=True):
        for (name, teacher), line in rows.groupby(["supernet", "teacher"]):
            ax.plot(line.order, line[column], **_line(teacher), marker="o", ms=3, color=COLOURS[name])
        ax.set_title(f"{title}, width {width}")
        ax.set_xticks(range(len(STEPS)), list(STEPS.values()))
    if rows.ours.isna().all():
        axes[1].text(0.5, 0.5, NOT_RUN, transform=axes[1].transAxes, ha="center", color=GREY)
    axes[0].set_ylabel("best subnet, test top-1 (%)")
    fig.legend(handles=[Line2D([], [], color=COLOURS[n], label=n) for n in _ordered(rows.supernet)]
               + [Line2D([], [], color=GREY, ls="--", label="fixed"), Line2D([], [], color=GREY, label="progressive")],
               loc="outside right upper")
    fig.rows = rows[["wm", "supernet", "teacher", "step", "applicable", "printed", "ours", "seeds"]]
    return fig


@thesis_style
def teacher_quality(phases, width):
    """Validation top-1 of the teacher at the start of every phase: its ensemble and each of its exits.

    A progressive teacher of an early-exit supernet carries exits that no phase has trained since Full; the figure shows
    how far they have fallen behind. A fixed teacher is the same network in every phase.
    """
    here = phases[(phases.wm == str(width)) & phases.ensemble_top1.notna()]
    if here.empty:
        return _nothing(f"Teacher quality at width {width}: {NOT_RUN}")
    names, plotted = _ordered(here.supernet), []
    fig, axes = _panels(len(names), 2, (5.2, 2.3), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        mine = here[here.supernet == name]
        order = [p for p in printed("table_5_2").phase if p in set(mine.phase)]
        for teacher in TEACHERS:
            mean = _teacher_rows(mine[mine.teacher.isin(["any", teacher])])
            for e, line in mean.groupby("exit"):
                line = line.set_index("phase").reindex(order)
                colour = COLOURS[name] if e == 0 else EXIT_COLOURS(1 - e / 6)
                ax.plot(range(len(order)), line.top1, **_line(teacher) | {"lw": 2 if e == 0 else 0.9}, color=colour,
                        marker="o", ms=3.5 if e == 0 else 2, zorder=3 if e == 0 else 2)
            plotted.append(mean.assign(supernet=name, wm=str(width), teacher=teacher))
        ax.set_title(name, color=COLOURS[name])
        ax.set_xticks(range(len(order)), order, rotation=0 if len(order) < 9 else 30)
    for ax in axes[::2]:
        ax.set_ylabel("validation top-1 (%)")
    fig.legend(handles=[Line2D([], [], color=GREY, lw=2, label="ensemble (what teaches)")] + [
        Line2D([], [], color=EXIT_COLOURS(1 - e / 6), label=f"exit {e}") for e in range(1, 6)] + [
        Line2D([], [], color=GREY, ls="--", label="fixed"), Line2D([], [], color=GREY, label="progressive")],
        loc="outside upper center", ncols=4)
    fig.rows = pd.concat(plotted, ignore_index=True)
    return fig


def _teacher_rows(phases):
    """Mean over seeds of teacher.csv: exit (0 = ensemble), phase, top1; a single exit is its own ensemble."""
    frames = [pd.read_csv(Path(p.folder) / "teacher.csv").assign(phase=p.phase) for p in phases.itertuples()]
    rows = pd.concat(frames or [pd.DataFrame({"exit": [], "phase": [], "top1": []})])
    rows = rows[rows.exit == 0] if rows.exit.nunique() == 2 else rows
    return rows.groupby(["exit", "phase"], as_index=False).top1.mean()
