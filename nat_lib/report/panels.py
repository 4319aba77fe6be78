"""Grids of panels with seaborn: titles and labels in one place, one legend, and a line of text that
names what was not run instead of empty panels.

A figure is a `seaborn.objects.Plot` of rows that are computed already: what is drawn is what
`figure.rows` holds. Error bars and bands come with the rows.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from nat_lib.report.style import COLOURS, GREY
from nat_lib.results.names import NOT_RUN, name_of
from nat_lib.results.stats import binomial_se
from nat_lib.search import objectives

TITLES = {
    "dataset": name_of,
    "objectives": objectives.title,
    "phase": "phase {}".format,
    "wm": "width {}".format,
}
WIDE = 8.5  # characters of small text on an inch
# a layer of error bars on the rows of `with_errors`: dark, or in the colour of its points
ERRORS = so.Range(color="#333333", linewidth=0.8)
OWN_ERRORS = so.Range(linewidth=0.8)
POINT, LINE = so.Dot(pointsize=4), so.Line(linewidth=1.4)
OF_ERRORS = {"ymin": "low", "ymax": "high", "group": "at", "legend": False}


def title(column, value):
    """The title of a panel that shows the rows with this value in this column."""
    return TITLES.get(column, str)(value)


def plot(rows, **variables):
    """A `seaborn.objects.Plot` in the style of all figures."""
    theme = {name: plt.rcParams[name] for name in so.Plot.config.theme}
    return so.Plot(rows, **variables).theme(theme)


def empty(message):
    """A figure that says why it is empty."""
    fig, ax = plt.subplots(figsize=(6, 1.2))
    ax.axis("off")
    fig.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
    fig.rows = pd.DataFrame()
    return fig


def wrapped(drawn, column, names, size, ylabel, columns=2, **share):
    """Panels in rows of `columns`, one per value of a column, each under its title.

    drawn  : `plot` with its layers;  size : inches of one panel;  share : x, y as in `Plot.share`
    ylabel : of the first panel of every row
    returns : figure, {value: axes}
    """
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    fig = plt.figure(figsize=(size[0] * columns, size[1] * rows + 0.4), layout="constrained")
    drawn = drawn.facet(col=column, order=names, wrap=columns).share(**share)
    drawn.label(x="", y="").on(fig).plot()
    axes = dict(zip(names, fig.axes, strict=True))
    for name, ax in axes.items():
        ax.set_title(title(column, name), color=COLOURS.get(name, "black"))
        ax.tick_params(labelbottom=True)
    for ax in fig.axes[::columns]:
        ax.set_ylabel(ylabel)
        ax.yaxis.label.set_visible(True)
    return fig, axes


def single(drawn, size, x_text, y_text):
    """One panel without a title: (figure, its axes); size in inches."""
    fig = plt.figure(figsize=size, layout="constrained")
    drawn.label(x="", y="").on(fig).plot()
    [ax] = fig.axes
    ax.set_ylabel(y_text)
    xlabel(ax, x_text)
    return fig, ax


def coloured(rows, x, y, color, colours, texts, marks=(POINT,), log=False):
    """One plot in colours, its legend beside it.

    x, y, color : columns of `rows`;  colours : {value of the column `color`: colour}
    texts       : labels of both axes;  marks : of POINT and LINE;  log : is x logarithmic?
    """
    drawn = plot(rows, x=x, y=y, color=color)
    for mark in marks:
        drawn = drawn.add(mark, legend=False)
    drawn = drawn.scale(color=colours, **({"x": "log"} if log else {}))
    fig, ax = single(drawn, (6.4, 4.0), *texts)
    if log:
        log_ticks(ax)
    legend(fig, *of_colours(colours))
    fig.rows = rows
    return fig


def grid(drawn, frame, rows, columns, size, ylabel, x=False, y="row", why=NOT_RUN):
    """Panels for every row and column of which `frame` has something; the others are named below.

    drawn         : `plot` with its layers
    rows, columns : (column of the frame, its values in order)
    size          : inches of one panel;  x, y : what they share, as in `Plot.share`
    ylabel        : of the first panel of every row; {row: label} names the rows as well
    why           : what is said of the panels that are not there
    returns       : figure, {(value of the row, value of the column): axes}
    """
    (row, row_values), (column, column_values) = rows, columns
    there = set(zip(frame[row], frame[column], strict=True))
    row_order = [r for r in row_values if any((r, c) in there for c in column_values)]
    order = [c for c in column_values if any((r, c) in there for r in row_values)]
    inches = (max(size[0] * len(order) + 0.3, 5), size[1] * len(row_order) + 0.7)
    fig = plt.figure(figsize=inches, layout="constrained")
    drawn = drawn.facet(col=column, row=row, order={"col": order, "row": row_order})
    drawn.share(x=x, y=y).label(x="", y="").on(fig).plot()
    places = np.reshape(fig.axes, (len(row_order), len(order)))
    for ax in places.flat:
        ax.set_title("")
    for value, ax in zip(order, places[0], strict=True):
        ax.set_title(title(column, value), loc="center", color=COLOURS.get(value, "black"))
    axes = {}
    for i, r in enumerate(row_order):
        drawn_here = [j for j, c in enumerate(order) if (r, c) in there]
        axes |= {(r, order[j]): places[i, j] for j in drawn_here}
        for j in set(range(len(order))) - set(drawn_here):
            places[i, j].set_axis_off()
        first = places[i, drawn_here[0]]
        first.tick_params(labelleft=True)
        first.set_ylabel(ylabel[r] if isinstance(ylabel, dict) else ylabel)
        first.yaxis.label.set_visible(True)
        if not isinstance(ylabel, dict):
            _name_row(places[i, 0], title(row, r))
    note(fig, _missing(there, rows, columns, why))
    return fig, axes


def _name_row(ax, text):
    """Write what a row of panels shows to the left of its first place."""
    ax.annotate(
        text.replace(" & ", " &\n"),
        (0, 0.5),
        (-54, 0),
        "axes fraction",
        "offset points",
        rotation=90,
        ha="center",
        va="center",
        fontweight="bold",
        fontsize=8.5,
    )


def last_of_columns(axes):
    """{column: its last panel} of `grid`."""
    return {column: ax for (_, column), ax in axes.items()}


def _missing(there, rows, columns, why):
    """What of the rows and columns is not there, in words; "" if all is."""
    (row, row_values), (column, column_values) = rows, columns
    found = [c for c in column_values if any((r, c) in there for r in row_values)]
    missing = [title(column, c) for c in column_values if c not in found]
    for r in row_values:
        lacks = [title(column, c) for c in found if (r, c) not in there]
        if len(lacks) == len(found):
            missing.append(title(row, r))
        elif lacks:
            missing.append(f"{title(row, r)}: {', '.join(lacks)}")
    return f"{why}: {'; '.join(missing)}" if missing else ""


def note(fig, text):
    """A line of small grey text below a figure."""
    if text:
        wide = int(WIDE * 2 * fig.get_figwidth())
        fig.supxlabel(textwrap.fill(text, wide), fontsize=7, color=GREY)


def legend(fig, *handles, **options):
    """The legend of a figure, above it and not wider; handles: see `line`, `marker`, `patch`."""
    inches = [0.068 * len(handle.get_label()) + 0.5 for handle in handles]
    columns = len(handles)
    if sum(inches) > fig.get_figwidth():
        columns = max(1, int(fig.get_figwidth() / max(inches)))
    fig.legend(handles=handles, loc="outside upper center", ncols=columns, **options)


def line(text, colour=GREY, **style):
    """A line or a marker for the legend."""
    return Line2D([], [], label=text, color=colour, **style)


def marker(text, shape, colour=GREY, **style):
    """A marker without a line for the legend."""
    return line(text, colour, ls="", marker=shape, ms=5, **style)


def patch(text, colour=GREY, **style):
    """A filled box for the legend."""
    return Patch(fc=colour, label=text, **style)


def of_colours(palette, shape="o"):
    """Legend entries of {name: colour}."""
    return [
        line(name, colour, marker=shape, ms=4.5, mec="white") for name, colour in palette.items()
    ]


def with_errors(rows, y, error=None):
    """Rows with `low` and `high` around y, and `at`, which tells them apart (a `Range` joins what
    is not told apart).

    error : its column, or None: the standard error of the test split, which is added as
            `uncertainty`
    """
    if error is None:
        error = "uncertainty"
        rows = rows.assign(
            uncertainty=binomial_se(rows[y].astype(float), rows.n_test.astype(float))
        )
    return rows.assign(low=rows[y] - rows[error], high=rows[y] + rows[error], at=range(len(rows)))


def log_ticks(ax):
    """Plain numbers at 1, 2 and 5 of every decade of a logarithmic x axis."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())


def xlabel(ax, text, whole=False):
    """Write the label of an x axis, also where a shared axis would hide it; whole: no fractions."""
    if whole:
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel(text, labelpad=1)
    ax.xaxis.label.set_visible(True)
    ax.tick_params(labelbottom=True)
