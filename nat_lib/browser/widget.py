"""The Pareto browser as a widget: choose searches and limits, watch the front move, pick, compare
and export subnets.

What it shows, and the same without anybody to click, is made in browse.py.
"""

import html
import os
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from nat_lib.browser.table import (
    AXES,
    DASHES,
    Choices,
    cost_of,
    drawing,
    export_row,
    exported_line,
    kind_of,
    log_ticks,
    most_searched,
    neighbours,
    of_runs,
    on_axes,
    ordered_front,
    printed,
    printed_names,
    proposals,
    scale,
    select,
    side_by_side,
)
from nat_lib.errors import Refusal
from nat_lib.report.style import COLOURS, GREY, in_order

CSS = f"""<style>
.nat-table {{ border-collapse: collapse; font-size: 11.5px; line-height: 1.4; white-space: nowrap }}
.nat-table caption {{ caption-side: top; text-align: left; font-weight: 600; padding-bottom: 2px }}
.nat-table th, .nat-table td {{ text-align: left; padding: 1px 8px 1px 0; vertical-align: top }}
.nat-table th[scope=row] {{ color: {GREY}; font-weight: 400 }}
.nat-said {{ font-size: 12px }}
.nat-status {{ font-size: 12px; color: #555 }}
</style>"""
NAMES = list(COLOURS)
SCALE = [
    [edge, COLOURS[name]]
    for k, name in enumerate(NAMES)
    for edge in (k / len(NAMES), (k + 1) / len(NAMES))
]
MARKERS = {  # kind: symbol, size, opacity, width and colour of the edge
    "dominated": ("x-thin-open", 5, 0.7, 1, "black"),
    "front": ("circle", 9, 1, 0.7, "white"),
    "knee": ("star", 14, 1, 0.8, "black"),
}
PINS = "ABCD"  # names of pinned subnets
MANY, CELLS = (
    500,
    (48, 27),
)  # of more points, which lie on each other, one is drawn per cell of such a grid


def app(points, folder, dataset=None, objectives=None):
    """The browser over the rows of `load`; exports go to `folder`. Where there is nobody to click
    (a batch run): None.

    dataset, objectives : what it shows first; None: the first data set, and what most searches on
                          it minimise
    """
    if os.environ.get("NAT_BATCH") == "1":
        print("The browser opens in JupyterLab and in voila; a batch run keeps the figure above.")
        return None
    return Browser(points, folder, dataset, objectives)


class Browser(widgets.VBox):
    """Choices on the left, the front in the middle, the chosen subnet on the right and drawn below.

    All it remembers are the chosen subnet, the pinned ones and what is shown; everything else
    stands in its widgets.
    """

    def __init__(self, points, folder, dataset=None, objectives=None):
        self.points, self.folder = points.reset_index(drop=True), Path(folder)
        self.drawable = self.points[NEEDED].assign(
            colour=_colours(self.points)
        )  # few columns: quick to pick from
        self.archives = self.points.groupby(["search", "iteration"]).indices
        self.pins, self.chosen = [], None  # rows
        dataset = dataset if dataset in set(points.dataset) else points.dataset.iloc[0]
        objectives = objectives or most_searched(points, dataset)
        self._make_choices(dataset, objectives)
        self._make_figures()
        self._make_buttons()
        self._show_runs()
        best = (
            self.shown.assign(knee=self.shown.knee > 0).sort_values(["knee", "val_top1"]).index[-1]
        )
        self.choose(self.points.loc[best])
        self._make_live()
        super().__init__(
            [
                widgets.HTML(CSS),
                widgets.HBox(
                    [
                        self.left,
                        widgets.VBox(
                            [widgets.HBox([self.x, self.y]), self.figure, self.status, self.walk]
                        ),
                        widgets.VBox([self.numbers, self.predictions]),
                    ],
                    layout={"flex_flow": "row wrap"},
                ),
                self.drawn,
                self.buttons,
                self.said,
                self.pinned,
            ]
        )
        self.add_class("nat-browser")

    # ---- what it consists of

    def _make_choices(self, dataset, objectives):
        p, wide = (
            self.points,
            {"layout": {"width": "262px"}, "style": {"description_width": "76px"}},
        )
        short = {"layout": {"width": "330px"}, "style": {"description_width": "60px"}}

        def several(column, first=None):
            options = sorted(set(p[column]), key=NAMES.index if column == "supernet" else None)
            return widgets.SelectMultiple(
                options=options,
                value=options if first is None else (first,),
                rows=min(max(len(options), 2), 4),
                description=LABELS[column],
                **wide,
            )

        def limit(column, low):
            least, most = float(p[column].min()), float(p[column].max())
            step = max((most - least) / 100, 1e-9)
            return widgets.FloatSlider(
                value=least if low else most + step,
                min=least,
                max=most + step,
                step=step,
                readout_format=".3g",
                description=LABELS[column],
                **wide,
            )

        def between(column):
            options = sorted(map(int, set(p[column])))
            return widgets.SelectionRangeSlider(
                options=options, index=(0, len(options) - 1), description=LABELS[column], **wide
            )

        self.dataset = widgets.Dropdown(
            options=sorted(set(p.dataset)), value=dataset, description="data set", **wide
        )
        self.of = {name: several(name) for name in ("supernet", "phase", "seed")} | {
            "objectives": several("objectives", objectives)
        }
        axes = [(label, name) for name, label in AXES.items()]
        self.x = widgets.Dropdown(
            options=axes, value=cost_of(objectives), description="x axis", **short
        )
        self.y = widgets.Dropdown(options=axes, value="val_top1", description="y axis", **short)
        self.limits = {
            name: limit(name, name == "val_top1") for name in ("params", "macs", "val_top1")
        } | {name: between(name) for name in ("exit", "resolution")}
        last = int(p["last"].max())
        self.iteration = widgets.IntSlider(
            value=last, min=0, max=last, description="iteration", **wide
        )
        play = widgets.Play(
            min=0, max=last, value=last, interval=700, description="iterations", show_repeat=False
        )
        widgets.jslink((play, "value"), (self.iteration, "value"))
        self.paper = widgets.Dropdown(
            options=[("none", ""), *printed_names().items()], description="printed", **wide
        )
        if dataset in dict(self.paper.options).values():
            self.paper.value = dataset
        self.left = widgets.VBox(
            [
                self.dataset,
                *(self.of[name] for name in ("supernet", "phase", "objectives", "seed")),
                *self.limits.values(),
                self.paper,
                self.iteration,
                play,
            ],
            layout={"flex": "0 0 270px"},
        )
        for widget in (self.dataset, *self.of.values(), self.x, self.y, self.paper):
            widget.observe(lambda _: self._show_runs(), "value")
        for widget in (*self.limits.values(), self.iteration):
            widget.observe(lambda _: self._show(), "value")

    def _make_figures(self):
        colours = {"colorscale": SCALE, "cmin": 0, "cmax": len(NAMES)}
        # A trace forgets on the page what another one in the same message sets, so these two have
        # no colour of their own (the layout says black) and always stand in the legend.
        edge = {"line": {"width": 2}}
        hover = (
            "phase %{customdata[0]}, exit %{customdata[1]}, %{customdata[2]} px<br>(%{x:.4g}, %{y:.4g})"
            "<extra></extra>"
        )
        traces = [
            go.Scatter(
                mode="lines",
                line={"color": "#9a9a9a", "width": 1.2, "dash": dash},
                name=f"phase {p}",
                hoverinfo="skip",
            )
            for p, (_, dash) in DASHES.items()
        ]
        for kind, (symbol, size, opacity, width, colour) in MARKERS.items():
            look = {
                "symbol": symbol,
                "size": size,
                "opacity": opacity,
                "line": {"width": width, "color": colour},
            }
            traces.append(
                go.Scatter(
                    mode="markers",
                    marker=look | colours,
                    hovertemplate=hover,
                    name="high trade-off" if kind == "knee" else kind,
                )
            )
        traces += [
            go.Scatter(
                mode="markers",
                name="printed",
                hovertemplate="%{text}: %{x:.4g}, %{y:.4g}<extra></extra>",
                marker={
                    "symbol": "diamond",
                    "size": 9,
                    "line": {"width": 1.2, "color": "black"},
                    **colours,
                },
            ),
            go.Scatter(
                mode="lines+text",
                name="printed best",
                line={"color": "black", "width": 1, "dash": "dash"},
                textposition="top right",
                textfont={"size": 10},
                hoverinfo="skip",
            ),
            go.Scatter(
                mode="markers+text",
                name="pinned",
                textposition="top right",
                textfont={"size": 13},
                hoverinfo="skip",
                cliponaxis=False,
                marker={"symbol": "square-open", "size": 17, **edge},
            ),
            go.Scatter(
                mode="markers",
                name="chosen",
                hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 20, **edge},
            ),
        ]
        plain = {
            "template": "simple_white",
            "margin": {"l": 58, "r": 34, "t": 8, "b": 44},
            "font": {"size": 11},
            "hovermode": "closest",
            "modebar": {"orientation": "v"},
            "colorway": ["black"],
        }
        grid = {"showgrid": True, "gridcolor": "#e8e8e8"}
        self.figure = go.Figure(
            traces,
            go.Layout(
                height=450,
                width=690,
                xaxis=grid,
                yaxis=grid,
                **plain,
                legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "font": {"size": 10}},
            ),
        )
        self.predictions = go.Figure(
            [
                go.Scatter(mode="lines", line={"color": "#bbbbbb", "width": 1}, hoverinfo="skip"),
                go.Scatter(
                    mode="markers",
                    marker={"size": 5, "color": GREY},
                    hovertemplate="predicted %{x:.2f}, measured %{y:.2f}<extra></extra>",
                ),
                go.Scatter(
                    mode="markers",
                    hoverinfo="skip",
                    marker={"symbol": "circle-open", "size": 17, **edge},
                ),
            ],
            go.Layout(
                height=230,
                width=330,
                showlegend=False,
                xaxis={"title": "predicted top-1 (%)"} | grid,
                yaxis={"title": "measured (%)"} | grid,
                **plain,
            ),
        )
        self._name_traces()

    def _name_traces(self):
        self.lines, self.kinds = (
            self.figure.data[:4],
            dict(zip(MARKERS, self.figure.data[4:7], strict=True)),
        )
        self.diamonds, self.best, self.squares, self.ring = self.figure.data[7:]

    def _make_live(self):
        """Turn the filled figures into widgets: a page that connects later gets what they held when
        they were made."""
        self.figure, self.predictions = (
            go.FigureWidget(self.figure),
            go.FigureWidget(self.predictions),
        )
        self._name_traces()
        for kind, trace in self.kinds.items():
            trace.on_click(lambda _, at, __, kind=kind: self._clicked(kind, at.point_inds))
        self.figure._config = self.figure._config | {"displaylogo": False}
        self.predictions._config = self.predictions._config | {"displayModeBar": False}

    def _make_buttons(self):
        def button(text, tip, action):
            made = widgets.Button(
                description=text, tooltip=tip, layout={"flex": "0 0 auto", "width": "auto"}
            )
            made.on_click(lambda _: action())
            return made

        self.place = widgets.IntSlider(
            min=0,
            max=0,
            description="front point",
            continuous_update=True,
            layout={"width": "330px"},
            style={"description_width": "76px"},
        )
        self.place.observe(lambda change: self._walked(change.new), "value")
        self.walk = widgets.HBox(
            [
                self.place,
                button("previous", "The next front point to the left", lambda: self._step(-1)),
                button("next", "The next front point to the right", lambda: self._step(1)),
            ]
        )
        self.buttons = widgets.HBox(
            [
                button("Pin", "Keep the chosen subnet for comparison; up to four", self.pin),
                button("Unpin all", "Empty the comparison", self.unpin),
                button(
                    "Export", "Write the chosen subnet as files that need no supernet", self.export
                ),
            ]
        )
        self.status, self.numbers, self.drawn, self.said, self.pinned = (
            widgets.HTML() for _ in range(5)
        )
        self.said.add_class("nat-said")

    # ---- what happens

    def choices(self):
        """What the widgets say, as `Choices`."""
        runs_of = (self.of[name].value for name in ("supernet", "phase", "objectives", "seed"))
        limits = (
            self.limits[name].value for name in ("params", "macs", "val_top1", "exit", "resolution")
        )
        return Choices(self.dataset.value, *runs_of, self.iteration.value, *limits)

    def _show_runs(self):
        """Other searches, axes or printed points: new ranges, which then stay while the iterations
        move."""
        x, y = self.x.value, self.y.value
        mine = self.points[of_runs(self.points, self.choices())]
        paper, lines = on_axes(printed(self.paper.value), x, y)
        ends = _range([*mine[x], *paper.x], scale(mine, x))
        with self.figure.batch_update():
            for axis, name, at in (("xaxis", x, paper.x), ("yaxis", y, [*paper.y, *lines.top1])):
                kind = scale(mine, name)
                limits = _range([*mine[name], *at], kind)
                ticks = (
                    {"range": limits, "tickmode": "auto"}
                    if kind == "linear"
                    else {
                        "range": np.log10(limits),
                        "tickmode": "array",
                        "tickvals": log_ticks(*limits),
                        "ticktext": [f"{v:g}" for v in log_ticks(*limits)],
                    }
                )
                self.figure.layout[axis].update(title={"text": AXES[name]}, type=kind, **ticks)
            self.diamonds.x, self.diamonds.y, self.diamonds.text = map(
                _some, (paper.x, paper.y, paper.label)
            )
            self.diamonds.marker.color = _some(_colours(paper), 0)
            self.diamonds.showlegend, self.best.showlegend = bool(len(paper)), bool(len(lines))
            self.best.x = _some([at for _ in lines.index for at in (*ends, None)])
            self.best.y = _some([at for top1 in lines.top1 for at in (top1, top1, None)])
            self.best.text = _some([text for label in lines.label for text in (label, "", "")])
        self._show()

    def _show(self):
        """Other limits or iteration: other rows."""
        rows, x, y = select(self.drawable, self.choices()), self.x.value, self.y.value
        rows = rows[rows[x].notna() & rows[y].notna()]
        kinds, line = kind_of(rows), ordered_front(rows, x)
        self.shown, self.indices = rows, {kind: rows.index[kinds == kind] for kind in MARKERS}
        self.indices["dominated"] = _thinned(rows.loc[self.indices["dominated"], [x, y]]).index
        with self.figure.batch_update():
            for kind, trace in self.kinds.items():
                here = rows.loc[self.indices[kind]]
                trace.x, trace.y, trace.marker.color = (
                    _some(here[x]),
                    _some(here[y]),
                    _some(here.colour, 0),
                )
                trace.customdata = here[["phase", "exit", "resolution"]].to_numpy().tolist()
            for phase, trace in zip(DASHES, self.lines, strict=True):
                mine = line[line.phase == phase]
                trace.x, trace.y = _joined(mine, x, y)
                trace.showlegend = len(mine) > 0
            self._mark()
        self.walked = ()  # while the length of the slider changes nobody walks
        self.place.max = max(len(line) - 1, 0)
        self.walked = line.index.to_numpy()
        self.status.value = f"<span class='nat-status'>{_status(rows)}</span>"
        if self._is_chosen().any():  # the same subnet, at the weights of this iteration
            self.choose(self.points.loc[rows.index[self._is_chosen()][0]])

    def _clicked(self, kind, at):
        if at:
            self.choose(self.points.loc[self.indices[kind][at[0]]])

    def _mark(self):
        """The ring around the chosen subnet and the squares around the pinned ones, where they are
        now."""
        x, y, here = self.x.value, self.y.value, self.shown[self._is_chosen()]
        self.ring.x, self.ring.y = _some(here[x]), _some(here[y])
        self.squares.x, self.squares.y = (
            _some([row[axis] for row in self.pins]) for axis in (x, y)
        )
        self.squares.text = _some(PINS[: len(self.pins)])

    def _is_chosen(self):
        if self.chosen is None:
            return np.zeros(len(self.shown), bool)
        return (self.shown.search.to_numpy() == self.chosen.search) & (
            self.shown.code.to_numpy() == self.chosen.code
        )

    def choose(self, row):
        """Show one subnet: its numbers beside those of its neighbours on the front, its drawing,
        its prediction."""
        other, self.chosen = self.chosen is None or self.chosen.search != row.search, row
        below, above = neighbours(self.points.iloc[self.archives[row.search, row.iteration]], row)
        self.numbers.value = side_by_side(
            [below, row, above],
            ["less accurate", "chosen", "more accurate"],
            "The chosen subnet between its neighbours on the front",
        )
        self.drawn.value = drawing(row)
        with self.figure.batch_update():
            self._mark()
        with self.predictions.batch_update():
            line, cloud, here = self.predictions.data
            if other:
                tried = _thinned(proposals(row.folder)[["predicted", "measured"]])
                cloud.x, cloud.y = _some(tried.predicted), _some(tried.measured)
                line.x = line.y = _range([*tried.predicted, *tried.measured])
            here.x, here.y = _some([row.predicted]), _some([row.measured])
        at = np.flatnonzero(self.walked == row.name)
        if len(at):
            self.place.value = int(at[0])

    def _walked(self, place):
        if place < len(self.walked) and (
            self.chosen is None or self.walked[place] != self.chosen.name
        ):
            self.choose(self.points.loc[self.walked[place]])

    def _step(self, by):
        """To the front point beside the chosen one."""
        if len(self.walked):
            self.choose(
                self.points.loc[
                    self.walked[int(np.clip(self.place.value + by, 0, len(self.walked) - 1))]
                ]
            )

    def pin(self):
        same = any(
            row.search == self.chosen.search
            and row.code == self.chosen.code
            and row.iteration == self.chosen.iteration
            for row in self.pins
        )
        if not same and len(self.pins) < len(PINS):
            self.pins.append(self.chosen)
        self._show_pins(
            ""
            if len(self.pins) < len(PINS) or same
            else "Four are pinned: unpin all to compare others."
        )

    def unpin(self):
        self.pins.clear()
        self._show_pins()

    def _show_pins(self, said=""):
        self.pinned.value = (
            side_by_side(self.pins, PINS[: len(self.pins)], "Pinned subnets") if self.pins else ""
        )
        self.said.value = said
        with self.figure.batch_update():
            self._mark()

    def export(self):
        self.said.value = (
            "Exporting: the batch norms are recalibrated and every file is read back ..."
        )
        try:
            said = f"Exported {exported_line(export_row(self.chosen, self.folder))}"
        except Refusal as refusal:
            said = f"Not exported: {refusal}"
        self.said.value = html.escape(said)


NEEDED = [
    "search",
    "iteration",
    "last",
    "dataset",
    "supernet",
    "phase",
    "objectives",
    "seed",
    "code",
    "resolution",
    "exit",
    "front",
    "knee",
    *AXES,
]
LABELS = {
    "supernet": "supernets",
    "phase": "phases",
    "objectives": "objectives",
    "seed": "seeds",
    "params": "params ≤",
    "macs": "MACs ≤",
    "val_top1": "val top-1 ≥",
    "exit": "exits",
    "resolution": "pixels",
}


def _colours(rows):
    """Places of the supernets on the colour scale, (n,)."""
    return rows.supernet.map({name: k + 0.5 for k, name in enumerate(NAMES)}).to_numpy(float)


def _thinned(rows):
    """Rows of two coordinates; of more than MANY the first in every cell of a grid, costs on a
    logarithmic scale."""
    if len(rows) <= MANY:
        return rows
    values = np.column_stack(
        [np.log10(rows[name]) if scale(rows, name) == "log" else rows[name] for name in rows]
    )
    low, extent = values.min(axis=0), np.maximum(np.ptp(values, axis=0), 1e-12)
    cells = ((values - low) / extent * CELLS).astype(int)
    return rows.iloc[np.sort(np.unique(cells, axis=0, return_index=True)[1])]


def _status(rows):
    if rows.empty:
        return "Nothing to show: choose other searches or widen the limits."
    names = " ".join(
        f"<b style='color:{COLOURS[s]}'>&#9632;&nbsp;{s}</b>"
        for s in in_order(rows.supernet.unique())
    )
    return (
        f"{names} &nbsp; {len(rows)} subnets shown: {rows.front.sum()} on {rows.search.nunique()} fronts, "
        f"{(rows.knee > 0).sum()} with a high trade-off"
    )


def _joined(line, x, y):
    """Coordinates of the fronts of several searches, a gap after each."""
    parts = [
        np.vstack([part[[x, y]].to_numpy(float), [[np.nan, np.nan]]])
        for _, part in line.groupby("search")
    ]
    return map(_some, np.vstack(parts).T if parts else ([], []))


def _some(values, otherwise=None):
    """A list for plotly: numbers that are not known become gaps; instead of nothing [otherwise],
    for plotly forgets the look of a trace without points.
    """
    return [None if isinstance(v, float) and np.isnan(v) else v for v in values] or [otherwise]


def _range(values, scale="linear"):
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
