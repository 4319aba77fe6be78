"""Colours, sizes and the saving of figures."""

import html
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, Image, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Picture

from nat_lib import files
from nat_lib.distill import TEACHERS
from nat_lib.results.printed import printed
from nat_lib.search import predictors

# One colour per supernet, everywhere: single-exit cool, early-exit warm (the muted scheme of Paul
# Tol, safe for all common kinds of colour blindness).
COLOURS = {
    "BASE": "#555555",
    "SE_B": "#BBBBBB",
    "SE_D": "#88CCEE",
    "SE_P": "#44AA99",
    "SE_DP": "#332288",
    "EE_B": "#DDAA33",
    "EE_D": "#CC6677",
    "EE_P": "#AA4499",
    "EE_DP": "#882255",
}
EXIT_COLOURS, EXITS = plt.get_cmap("viridis"), range(1, 6)
GREY = "#8a8a8a"
PREDICTOR_COLOURS = {row.label: row.colour for row in predictors.PREDICTORS.values()}
METHODS = {"none": "as found", "std": "standard", "ens": "AEP-based"}
METHOD_COLOURS = {"none": "#444444", "std": "#117733", "ens": "#CC3311"}  # as the thesis has them
METHOD_MARKERS = {"none": "o", "std": "^", "ens": "s"}
WEIGHT_MARKERS = {"ASC": "^", "DESC": "v", "UNIF": "s", "MIX": "X", "-": "o"}
OPTIMIZER_COLOURS = {"-": "#444444", "SGD": "#117733", "AdamW": "#CC3311", "Ranger": "#33668F"}
TEACHER_WORDS = {"any": "before the teachers differ"} | {k: t.label for k, t in TEACHERS.items()}
ENCODINGS = {"integer": "integer", "onehot": "one-hot"}
DPI, SHOWN = 130, 96  # pixels per inch of a saved figure, and as a notebook shows it
STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a dollar sign in a name of the user's is a dollar sign
}


def colour_of(supernet):
    """The colour of a supernet; one that has none of its own is grey."""
    return COLOURS.get(supernet, GREY)


def palette(names, colours=COLOURS):
    """{name: colour}: those of the table that occur, in its order, then in grey what it lacks."""
    names = list(dict.fromkeys(names))
    known = [name for name in colours if name in names]
    return {name: colours.get(name, GREY) for name in dict.fromkeys([*known, *names])}


def in_order(supernets):
    """The supernets in the order of the thesis; those that it does not have come last."""
    return list(palette(supernets))


def exit_colour(exit):
    """The colour of an exit, from 1: light exits are shallow."""
    return EXIT_COLOURS(1 - exit / 6)


def thesis_style(draw):
    """Decorator: a function that draws, under the one style of all figures."""
    return plt.rc_context(STYLE)(draw)


def save(thing, folder, name):
    """Keep a figure (name.png, and its plotted rows as name.csv) or a frame (name.csv) in `folder`.

    Figures of this kit carry what they plot as `figure.rows`. Equal input gives equal bytes: no
    dates, no versions.
    returns : the frame, or the picture that was saved, which a notebook shows without drawing it
              again
    """
    rows = thing.rows if isinstance(thing, Figure) else thing
    if "by_seed" in rows:
        rows = rows.assign(
            by_seed=rows.by_seed.map(
                lambda numbers: "; ".join(
                    f"{seed}: {number:.6g}" for seed, number in numbers.items()
                ),
                na_action="ignore",
            )
        )
    files.write_text(
        Path(folder) / f"{name}.csv",
        rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    )
    if not isinstance(thing, Figure):
        return thing
    thing.set_dpi(DPI)
    canvas, file = FigureCanvasAgg(thing), io.BytesIO()
    canvas.draw()
    plt.close(thing)
    # 256 colours are enough for lines, markers and text, and take a third of the bytes.
    pixels = Picture.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    pixels.quantize(256, dither=Picture.Dither.NONE).save(file, "png")
    files.write_bytes(Path(folder) / f"{name}.png", file.getvalue())
    return Image(
        file.getvalue(),
        format="png",
        width=round(SHOWN * thing.get_figwidth()),
        alt=name.replace("_", " "),
    )


def show(number, figure, folder):
    """Save a figure of the thesis by its number, as fig_6_7.png and .csv, and show it below its
    title."""
    title = printed("figures").set_index("id").title[f"F{number}"]
    picture = save(figure, folder, "fig_" + number.replace(".", "_"))
    picture.alt = f"Figure {number}, {title}"
    display(HTML(f"<b>Figure {number}</b>, {html.escape(title)}"), picture)
