"""The figures of the widget: empty traces of plotly that the browser fills."""

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nat_lib.browser.static import Line, log_ticks, scale
from nat_lib.report.style import COLOURS, GREY, colour_of, in_order

NAMES = list(COLOURS)
PALETTE = [*COLOURS.values(), GREY]  # the last one for a supernet without a colour of its own
SCALE = [
    [edge, colour]
    for k, colour in enumerate(PALETTE)
    for edge in (k / len(PALETTE), (k + 1) / len(PALETTE))
]
MARKERS = {  # kind: symbol, size, opacity, width and colour of the edge
    "dominated": ("x-thin-open", 5, 0.7, 1, "black"),
    "front": ("circle", 9, 1, 0.7, "white"),
    "knee": ("star", 14, 1, 0.8, "black"),
}
# Of more points, which lie on each other, one is drawn per field of a grid of so many.
MANY, FIELDS = 500, (48, 27)
COLOURED = {"colorscale": SCALE, "cmin": 0, "cmax": len(PALETTE)}
# A trace forgets on the page what another one in the same message sets, so what is marked has no
# colour of its own (the layout says black) and always stands in the legend.
EDGE = {"line": {"width": 2}}
GRID = {"showgrid": True, "gridcolor": "#e8e8e8"}
PLAIN = {
    "template": "simple_white",
    "margin": {"l": 54, "r": 30, "t": 8, "b": 42},
    "font": {"size": 11},
    "hovermode": "closest",
    "modebar": {"orientation": "v"},
    "colorway": ["black"],
}
HOVER = (
    "phase %{customdata[0]}, exit %{customdata[1]}, %{customdata[2]} px<br>(%{x:.4g}, %{y:.4g})"
    "<extra></extra>"
)


def front_figure(lines: dict[tuple, Line]) -> go.Figure:
    """The large figure: a line per way to search, a trace per kind of point, printed values,
    baselines, pinned and chosen subnets."""
    traces = [
        go.Scatter(
            mode="lines",
            name=line.label,
            hoverinfo="skip",
            line={"color": line.colour or "#9a9a9a", "width": 1.2, "dash": line.plotly},
        )
        for line in lines.values()
    ]
    for kind, (symbol, size, opacity, width, colour) in MARKERS.items():
        look = {"symbol": symbol, "size": size, "opacity": opacity}
        look |= {"line": {"width": width, "color": colour}} | COLOURED
        name = "high trade-off" if kind == "knee" else kind
        traces.append(go.Scatter(mode="markers", marker=look, hovertemplate=HOVER, name=name))
    look = {"symbol": "diamond", "size": 9, "line": {"width": 1.2, "color": "black"}} | COLOURED
    hover = "%{text}: %{x:.4g}, %{y:.4g}<extra></extra>"
    traces.append(go.Scatter(mode="markers", name="printed", hovertemplate=hover, marker=look))
    look = {"symbol": "square", "size": 9, "color": "black", "line": {"width": 0}}
    traces.append(go.Scatter(mode="markers", name="made by hand", hovertemplate=hover, marker=look))
    traces.append(
        go.Scatter(
            mode="lines+text",
            name="printed best",
            line={"color": "black", "width": 1, "dash": "dash"},
            textposition="top right",
            textfont={"size": 10},
            hoverinfo="skip",
        )
    )
    traces.append(
        go.Scatter(
            mode="markers+text",
            name="pinned",
            textposition="top right",
            textfont={"size": 13},
            hoverinfo="skip",
            cliponaxis=False,
            marker={"symbol": "square-open", "size": 17, **EDGE},
        )
    )
    traces.append(
        go.Scatter(
            mode="markers",
            name="chosen",
            hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 20, **EDGE},
        )
    )
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "font": {"size": 10}}
    layout = go.Layout(height=390, width=600, xaxis=GRID, yaxis=GRID, legend=legend, **PLAIN)
    return go.Figure(traces, layout)


def predictions_figure() -> go.Figure:
    """The small figure: predicted against measured top-1 of all candidates of a search."""
    hover = "predicted %{x:.2f}, measured %{y:.2f}<extra></extra>"
    traces = [
        go.Scatter(mode="lines", line={"color": "#bbbbbb", "width": 1}, hoverinfo="skip"),
        go.Scatter(mode="markers", marker={"size": 5, "color": GREY}, hovertemplate=hover),
        go.Scatter(
            mode="markers",
            hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 17, **EDGE},
        ),
    ]
    layout = go.Layout(
        height=220,
        width=310,
        showlegend=False,
        xaxis={"title": "predicted top-1 (%)"} | GRID,
        yaxis={"title": "measured (%)"} | GRID,
        **PLAIN,
    )
    return go.Figure(traces, layout)


def colours(rows: pd.DataFrame) -> np.ndarray:
    """(n,) places of the supernets on the colour scale."""
    places = {name: k + 0.5 for k, name in enumerate(NAMES)}
    return rows.supernet.map(places).fillna(len(NAMES) + 0.5).to_numpy(float)


def axis(rows: pd.DataFrame, name: str, label: str, more) -> dict:
    """What the layout says of an axis over the column `name` and `more` values."""
    kind = scale(rows, name)
    limits = limits_of([*rows[name], *more], kind)
    if kind == "linear":
        ticks = {"range": limits, "tickmode": "auto"}
    else:
        at = log_ticks(*limits)
        text = [f"{v:g}" for v in at]
        ticks = {"range": np.log10(limits), "tickmode": "array", "tickvals": at, "ticktext": text}
    return {"title": {"text": label}, "type": kind} | ticks


def limits_of(values, scale: str = "linear") -> tuple[float, float]:
    """Limits of an axis that leave some room around the values."""
    values = np.array(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    if scale == "log":
        room = (values.max() / values.min()) ** 0.05
        return values.min() / room, values.max() * room
    room = 0.05 * (values.max() - values.min()) or 0.5
    return values.min() - room, values.max() + room


def joined(line: pd.DataFrame, x: str, y: str) -> tuple[list, list]:
    """Coordinates of the fronts of several searches, a gap after each."""
    gap = [[np.nan, np.nan]]
    parts = [np.vstack([part[[x, y]].to_numpy(float), gap]) for _, part in line.groupby("search")]
    if not parts:
        return listed([]), listed([])
    whole = np.vstack(parts)
    return listed(whole[:, 0]), listed(whole[:, 1])


def thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of two coordinates; of more than MANY the first in every field of a grid, costs on a
    logarithmic scale."""
    if len(rows) <= MANY:
        return rows
    values = np.column_stack(
        [np.log10(rows[name]) if scale(rows, name) == "log" else rows[name] for name in rows]
    )
    low, extent = values.min(axis=0), np.maximum(np.ptp(values, axis=0), 1e-12)
    fields = ((values - low) / extent * FIELDS).astype(int)
    return rows.iloc[np.sort(np.unique(fields, axis=0, return_index=True)[1])]


def listed(values, otherwise=None) -> list:
    """A list for plotly: numbers that are not known become gaps; instead of nothing [otherwise],
    for plotly forgets the look of a trace without points.
    """
    numbers = [None if isinstance(v, float) and np.isnan(v) else v for v in values]
    return numbers or [otherwise]


def status(rows: pd.DataFrame) -> str:
    """HTML: how many subnets are shown, and of which supernets."""
    if rows.empty:
        return "Nothing to show: choose other searches or widen the limits."
    names = " ".join(
        f"<b style='color:{colour_of(name)}'>&#9632;&nbsp;{html.escape(name)}</b>"
        for name in in_order(rows.supernet)
    )
    fronts = rows.search.nunique()
    return (
        f"{names} &nbsp; {len(rows)} subnets shown: {rows.front.sum()} on {fronts} "
        f"front{'s' if fronts > 1 else ''}, {(rows.knee > 0).sum()} with a high trade-off"
    )
