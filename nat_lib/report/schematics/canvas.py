"""Where schematics are drawn: boxes, arrows, signs, piles of channels; shapes with matplotlib."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nat_lib.report import shapes
from nat_lib.report.shapes import BOX, KERNEL_COLOUR, LINE, PALE, PALE_LINE, PALE_TEXT

TINTS = LinearSegmentedColormap.from_list(
    "tints", list(KERNEL_COLOUR.values())
)  # light to dark, of 0 to 1

SHAPES = torch.device(
    "meta"
)  # layers made there have shapes and no numbers: nothing is drawn at random


def canvas(width, height, title=""):
    """A figure of width x height units (0.5 inch each), origin at the lower left, without axes."""
    fig, ax = plt.subplots(figsize=(width / 2, height / 2), layout="constrained")
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    ax.set_title(title)
    return fig, ax


def paint(ax, drawn):
    """Draw shapes of `report.shapes` in a canvas."""
    for s in drawn:
        if isinstance(s, shapes.Box):
            box(ax, s.x, s.y, s.wide, s.high, s.text, s.colour, s.colour is None, s.size)
        elif isinstance(s, shapes.Frame):
            edge = "#bbbbbb" if s.used else "#e5e5e5"
            ax.add_patch(plt.Rectangle((s.x, s.y), s.wide, s.high, fc="none", ec=edge, lw=0.8))
        elif isinstance(s, shapes.Arrow):
            arrow(ax, (s.x, s.y), (s.to_x, s.to_y), pale=not s.used)
        else:
            colour, side = (LINE if s.used else PALE_TEXT), ("center" if s.centred else "left")
            ax.text(s.x, s.y, s.text, ha=side, va="center", fontsize=s.size, color=colour)


def box(ax, x, y, w, h, text="", colour=BOX, pale=False, size=7.5):
    """A box centred on (x, y). Pale: there, but not used."""
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.08",
            fc=PALE if pale else colour,
            ec=PALE_LINE if pale else LINE,
            lw=0.8,
            ls=(0, (2, 2)) if pale else "-",
            zorder=2,
        )
    )
    ax.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=size,
        color=PALE_TEXT if pale else "#111111",
        zorder=3,
    )


def arrow(ax, start, end, bend=0.0, colour=LINE, pale=False, label=""):
    """An arrow between two points; bend > 0 curves to the right of its direction."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=7,
            lw=0.9,
            shrinkA=0,
            shrinkB=0,
            color="#d0d0d0" if pale else colour,
            connectionstyle=f"arc3,rad={bend}",
            zorder=1,
        )
    )
    if label:
        ax.text(
            (start[0] + end[0]) / 2,
            (start[1] + end[1]) / 2 + 0.14,
            label,
            ha="center",
            fontsize=6.5,
            color=colour,
        )


def plus(ax, x, y, sign="+"):
    """The sign of a sum, or of a product."""
    ax.add_patch(plt.Circle((x, y), 0.16, fc="white", ec=LINE, lw=0.8, zorder=4))
    ax.text(x, y, sign, ha="center", va="center", fontsize=8, zorder=5)


def sheets(ax, x, y, side, colours, cells=1):
    """Channels one behind the other, the first in front and the pile centred on (x, y), each of
    cells x cells."""
    step = 0.22 * side
    for i, colour in reversed(list(enumerate(colours))):
        left, low = (at - side / 2 + (i - (len(colours) - 1) / 2) * step for at in (x, y))
        ax.add_patch(plt.Rectangle((left, low), side, side, fc=colour, ec=LINE, lw=0.8, zorder=2))
        for k in np.arange(1, cells) * side / cells:
            ax.plot(
                [left + k] * 2,
                [low, low + side],
                [left, left + side],
                [low + k] * 2,
                color=LINE,
                lw=0.4,
                zorder=2,
            )


def bars(ax, x, y, parts, top, apart=2.6):
    """A row of bars from x: parts [(text below, channels, colour)], as high as their channels;
    `top` channels: 1.35."""
    for i, (text, channels, colour) in enumerate(parts):
        box(ax, x + apart * i, y, 0.7, 0.25 + 1.1 * channels / top, str(channels), colour)
        ax.text(x + apart * i, y - 0.76, text, ha="center", va="top", fontsize=6.5)
        if i:
            arrow(ax, (x + apart * i - apart + 0.4, y), (x + apart * i - 0.4, y))
