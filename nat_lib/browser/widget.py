"""The Pareto browser as a widget: choose searches and limits, watch the front move, pick, compare
and export subnets.

What it shows stands in `table` and `words`, the controls in `controls`, the traces in `plot`.
"""

import html
import os
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nat_lib.browser import handmade, plot
from nat_lib.browser.controls import Controls, button
from nat_lib.browser.picking import (
    archive_of,
    most_searched,
    of_runs,
    ordered_front,
    recommended,
    select,
)
from nat_lib.browser.plot import MARKERS, limits_of, listed, thinned
from nat_lib.browser.printed import on_axes, printed
from nat_lib.browser.static import kind_of, lines_of
from nat_lib.browser.table import axes, proposals
from nat_lib.browser.words import (
    beside_its_front,
    drawing,
    export_row,
    exported_line,
    in_a_line,
    side_by_side,
)
from nat_lib.errors import Refusal
from nat_lib.report.style import GREY

CSS = f"""<style>
.nat-table {{ border-collapse: collapse; font-size: 11.5px; line-height: 1.35 }}
.nat-table caption {{ caption-side: top; text-align: left; font-weight: 600; padding-bottom: 2px }}
.nat-table th, .nat-table td {{ text-align: left; padding: 1px 8px 1px 0; vertical-align: top }}
.nat-table th[scope=row] {{ color: {GREY}; font-weight: 400 }}
.nat-said {{ font-size: 12px }}
.nat-status {{ font-size: 12px; color: #555 }}
.nat-line {{ font-size: 12.5px; line-height: 1.35; display: block; max-width: 600px }}
</style>"""
PINS = "ABCD"  # names of pinned subnets
NEEDED = [
    *("search", "iteration", "last", "dataset", "supernet", "phase", "objectives", "seed"),
    *("strategy", "code", "resolution", "exit", "front", "knee"),
]


def app(
    points: pd.DataFrame,
    folder: str | Path,
    dataset: str | None = None,
    objectives: str | None = None,
    made: pd.DataFrame | None = None,
) -> "Browser | None":
    """The browser over the rows of `table.load`; exports go to `folder`. Where there is nobody to
    click (a batch run): None.

    dataset, objectives : what it shows first; None: the first data set, and what most searches on
                          it minimise
    made : baselines, `handmade.handmade`
    """
    if os.environ.get("NAT_BATCH") == "1":
        print("The browser opens in JupyterLab and in voila; a batch run keeps the figure above.")
        return None
    return Browser(points, folder, dataset, objectives, made)


class Browser(widgets.VBox):
    """Choices on the left, the front in the middle, the chosen subnet on the right and drawn below.

    All it remembers are the chosen subnet, the pinned ones and what is shown; everything else
    stands in its widgets. It begins with the search of the recommended subnet.
    """

    def __init__(
        self,
        points: pd.DataFrame,
        folder: str | Path,
        dataset: str | None = None,
        objectives: str | None = None,
        made: pd.DataFrame | None = None,
    ):
        self.made = pd.DataFrame(columns=handmade.COLUMNS) if made is None else made
        self.points, self.folder = points.reset_index(drop=True), Path(folder)
        if dataset not in set(points.dataset):
            dataset = points.dataset.iloc[0]
        best = recommended(self.points, dataset, objectives or most_searched(points, dataset))
        self.axes, self.lines_of = axes(points), lines_of(points)
        few = self.points[[*NEEDED, *self.axes]]  # few columns: quick to pick from
        self.drawable = few.assign(colour=plot.colours(self.points))
        self.pins: list[pd.Series] = []
        self.chosen: pd.Series | None = None
        self.walked: Any = ()
        self.controls = Controls(self.points, best)
        self.figure, self.predictions = plot.front_figure(self.lines_of), plot.predictions_figure()
        self._name_traces()
        self._make_buttons()
        self._show_runs()
        self.choose(self.points.loc[best.name])
        self._make_live()
        self.controls.on_runs(self._show_runs)
        self.controls.on_rows(self._show)
        middle = widgets.VBox(
            [
                self.line,
                widgets.HBox([self.controls.x, self.controls.y]),
                self.figure,
                self.status,
                self.walk,
                self.buttons,
                self.said,
            ]
        )
        right = widgets.VBox(
            [self.numbers, self.predictions], layout={"flex": "1 1 330px", "max_width": "560px"}
        )
        above = widgets.HBox(
            [self.controls.column(), middle, right], layout={"flex_flow": "row wrap"}
        )
        super().__init__([widgets.HTML(CSS), above, self.drawn, self.pinned])
        self.add_class("nat-browser")

    # ---- what it consists of

    def _name_traces(self):
        n = len(self.lines_of)
        self.lines = dict(zip(self.lines_of, self.figure.data[:n], strict=True))
        points = self.figure.data[n : n + len(MARKERS)]
        self.kinds = dict(zip(MARKERS, points, strict=True))
        marked = self.figure.data[n + len(MARKERS) :]
        self.diamonds, self.by_hand, self.best, self.squares, self.ring = marked

    def _make_live(self):
        """Turn the filled figures into widgets: a page that connects later gets what they held when
        they were made."""
        self.figure = go.FigureWidget(self.figure)
        self.predictions = go.FigureWidget(self.predictions)
        self._name_traces()
        for kind, trace in self.kinds.items():
            trace.on_click(lambda _, at, __, kind=kind: self._clicked(kind, at.point_inds))
        self.figure._config = self.figure._config | {"displaylogo": False}
        self.predictions._config = self.predictions._config | {"displayModeBar": False}

    def _make_buttons(self):
        self.place = widgets.IntSlider(
            min=0,
            max=0,
            description="front point",
            continuous_update=True,
            layout={"width": "330px"},
            style={"description_width": "76px"},
        )
        self.place.observe(lambda change: self._walked(change.new), "value")
        back = button("previous", "The next front point to the left", lambda: self._step(-1))
        on = button("next", "The next front point to the right", lambda: self._step(1))
        self.walk = widgets.HBox([self.place, back, on])
        self.buttons = widgets.HBox(
            [
                button("Pin", "Keep the chosen subnet for comparison; up to four", self.pin),
                button("Unpin all", "Empty the comparison", self.unpin),
                button(
                    "Export", "Write the chosen subnet as files that need no supernet", self.export
                ),
            ]
        )
        self.line, self.status, self.numbers = (widgets.HTML() for _ in range(3))
        self.drawn, self.said, self.pinned = (widgets.HTML() for _ in range(3))
        self.said.add_class("nat-said")

    # ---- what happens

    def _show_runs(self):
        """Other searches, axes or printed points: new ranges, which then stay while the iterations
        move."""
        x, y = self.controls.x.value, self.controls.y.value
        runs = self.points[of_runs(self.points, self.controls.choices())]
        paper, groups = on_axes(printed(self.controls.paper.value), x, y)
        made = handmade.on_axes(self.made, self.controls.dataset.value, x, y)
        with self.figure.batch_update():
            layout = self.figure.layout
            layout.xaxis.update(plot.axis(runs, x, self.axes[x], [*paper.x, *made.x]))
            layout.yaxis.update(plot.axis(runs, y, self.axes[y], [*paper.y, *groups.top1, *made.y]))
            self._show_made(made)
            self._show_printed(paper, groups, limits_of([*runs[x], *paper.x], layout.xaxis.type))
        self._show()

    def _show_made(self, made):
        """Squares where the baselines are."""
        self.by_hand.x, self.by_hand.y = listed(made.x), listed(made.y)
        self.by_hand.text = listed(made.label)
        self.by_hand.showlegend = len(made) > 0

    def _show_printed(self, paper, groups, ends):
        """Diamonds where the thesis prints a point, lines from end to end where a group of them."""
        self.diamonds.x, self.diamonds.y = listed(paper.x), listed(paper.y)
        self.diamonds.text = listed(paper.label)
        self.diamonds.marker.color = listed(plot.colours(paper), 0)
        self.diamonds.showlegend, self.best.showlegend = len(paper) > 0, len(groups) > 0
        self.best.x = listed([at for _ in groups.index for at in (*ends, None)])
        self.best.y = listed([at for top1 in groups.top1 for at in (top1, top1, None)])
        self.best.text = listed([text for label in groups.label for text in (label, "", "")])

    def _show(self):
        """Other limits or iteration: other rows."""
        rows = select(self.drawable, self.controls.choices())
        x, y = self.controls.x.value, self.controls.y.value
        rows = rows[rows[x].notna() & rows[y].notna()]
        kinds, front = kind_of(rows), ordered_front(rows, x)
        self.shown, self.indices = rows, {kind: rows.index[kinds == kind] for kind in MARKERS}
        self.indices["dominated"] = thinned(rows.loc[self.indices["dominated"], [x, y]]).index
        with self.figure.batch_update():
            for kind, trace in self.kinds.items():
                here = rows.loc[self.indices[kind]]
                trace.x, trace.y = listed(here[x]), listed(here[y])
                trace.marker.color = listed(here.colour, 0)
                trace.customdata = here[["phase", "exit", "resolution"]].to_numpy().tolist()
            for (strategy, phase), trace in self.lines.items():
                part = front[(front.strategy == strategy) & (front.phase == phase)]
                trace.x, trace.y = plot.joined(part, x, y)
                trace.showlegend = len(part) > 0
            self._mark()
        self.walked = ()  # while the length of the slider changes nobody walks
        self.place.max = max(len(front) - 1, 0)
        self.walked = front.index.to_numpy()
        self.status.value = f"<span class='nat-status'>{plot.status(rows)}</span>"
        same = rows.index[self._is_chosen()]
        if len(same):  # the same subnet, at the weights of this iteration
            self.choose(self.points.loc[same[0]])

    def _clicked(self, kind, at):
        if at:
            self.choose(self.points.loc[self.indices[kind][at[0]]])

    def _mark(self):
        """The ring around the chosen subnet and the squares around the pinned ones, where they are
        now."""
        x, y = self.controls.x.value, self.controls.y.value
        here = self.shown[self._is_chosen()]
        self.ring.x, self.ring.y = listed(here[x]), listed(here[y])
        self.squares.x = listed([row[x] for row in self.pins])
        self.squares.y = listed([row[y] for row in self.pins])
        self.squares.text = listed(PINS[: len(self.pins)])

    def _is_chosen(self):
        if self.chosen is None:
            return np.zeros(len(self.shown), bool)
        return (self.shown.search == self.chosen.search) & (self.shown.code == self.chosen.code)

    def choose(self, row: pd.Series) -> None:
        """Show one subnet: its numbers beside those of its neighbours on the front or of what
        dominates it, its drawing, its prediction."""
        other_search = self.chosen is None or self.chosen.search != row.search
        self.chosen = row
        self.line.value = f"<span class='nat-line'>{in_a_line(row)}</span>"
        self.numbers.value = beside_its_front(archive_of(self.points, row), row)
        self.drawn.value = drawing(row)
        with self.figure.batch_update():
            self._mark()
        with self.predictions.batch_update():
            line, cloud, here = self.predictions.data
            if other_search:
                tried = thinned(proposals(row.folder)[["predicted", "measured"]])
                cloud.x, cloud.y = listed(tried.predicted), listed(tried.measured)
                line.x = line.y = limits_of([*tried.predicted, *tried.measured])
            here.x, here.y = listed([row.predicted]), listed([row.measured])
        at = np.flatnonzero(self.walked == row.name)
        if len(at):
            self.place.value = int(at[0])

    def _walked(self, place):
        if place >= len(self.walked):
            return
        if self.chosen is None or self.walked[place] != self.chosen.name:
            self.choose(self.points.loc[self.walked[place]])

    def _step(self, by):
        """To the front point beside the chosen one."""
        if len(self.walked):
            place = int(np.clip(self.place.value + by, 0, len(self.walked) - 1))
            self.choose(self.points.loc[self.walked[place]])

    def pin(self) -> None:
        """Keep the chosen subnet for comparison."""
        same = any(row.name == self.chosen.name for row in self.pins)
        full = len(self.pins) == len(PINS)
        if not same and not full:
            self.pins.append(self.chosen)
        told = "Four are pinned: unpin all to compare others." if full and not same else ""
        self._show_pins(told)

    def unpin(self) -> None:
        """Empty the comparison."""
        self.pins.clear()
        self._show_pins()

    def _show_pins(self, said=""):
        self.pinned.value = ""
        if self.pins:
            names = list(PINS[: len(self.pins)])
            self.pinned.value = side_by_side(self.pins, names, "Pinned subnets")
        self.said.value = said
        with self.figure.batch_update():
            self._mark()

    def export(self) -> None:
        """Write the chosen subnet as files, and say in a line what came of it."""
        self.said.value = (
            "Exporting: the batch norms are recalibrated and every file is read back ..."
        )
        try:
            said = f"Exported {exported_line(export_row(self.chosen, self.folder))}"
        except Refusal as refusal:
            said = f"Not exported: {refusal}"
        self.said.value = html.escape(said)
