"""The controls of the widget: what can be chosen, limited and walked through."""

from collections.abc import Callable

import ipywidgets as widgets
import pandas as pd

from nat_lib.browser.picking import Choices, cost_of
from nat_lib.browser.printed import printed_names
from nat_lib.browser.table import axes
from nat_lib.report.style import in_order

WIDE = {"layout": {"width": "240px"}, "style": {"description_width": "80px"}}
SHORT = {"layout": {"width": "300px"}, "style": {"description_width": "50px"}}
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


class Controls:
    """What to show, as widgets.

    best : the recommended row, whose search is what they show first
    """

    def __init__(self, points: pd.DataFrame, best: pd.Series):
        self.points = points
        options = sorted(set(points.dataset))
        self.dataset = widgets.Dropdown(
            options=options, value=best.dataset, description="data set", **WIDE
        )
        self.of = {
            name: self._several(name, best[name])
            for name in ("supernet", "phase", "objectives", "seed")
        }
        labels = [(label, name) for name, label in axes(points).items()]
        first = cost_of(best.objectives)
        self.x = widgets.Dropdown(options=labels, value=first, description="x axis", **SHORT)
        self.y = widgets.Dropdown(options=labels, value="val_top1", description="y axis", **SHORT)
        self.limits = {
            "params": self._at_most("params"),
            "macs": self._at_most("macs"),
            "val_top1": self._at_least("val_top1"),
            "exit": self._between("exit"),
            "resolution": self._between("resolution"),
        }
        last = int(points["last"].max())
        self.iteration = widgets.IntSlider(
            value=last, min=0, max=last, description="iteration", **WIDE
        )
        self.play = widgets.Play(
            min=0, max=last, value=last, interval=700, description="iterations", show_repeat=False
        )
        widgets.jslink((self.play, "value"), (self.iteration, "value"))
        self.paper = widgets.Dropdown(
            options=[("none", ""), *printed_names().items()], description="printed", **WIDE
        )
        if best.dataset in dict(self.paper.options).values():
            self.paper.value = best.dataset

    def column(self) -> widgets.VBox:
        """The controls below each other."""
        parts = [self.dataset, *self.of.values(), *self.limits.values()]
        parts += [self.paper, self.iteration, self.play]
        return widgets.VBox(parts, layout={"flex": "0 0 248px"})

    def on_runs(self, action: Callable) -> None:
        """Call action() when other searches, axes or printed points are chosen."""
        for widget in (self.dataset, *self.of.values(), self.x, self.y, self.paper):
            widget.observe(lambda _: action(), "value")

    def on_rows(self, action: Callable) -> None:
        """Call action() when limits or the iteration change."""
        for widget in (*self.limits.values(), self.iteration):
            widget.observe(lambda _: action(), "value")

    def choices(self) -> Choices:
        """What the widgets say."""
        runs = (self.of[name].value for name in ("supernet", "phase", "objectives", "seed"))
        limits = (widget.value for widget in self.limits.values())
        return Choices(self.dataset.value, *runs, self.iteration.value, *limits)

    def _several(self, column, first):
        values = self.points[column]
        options = in_order(values) if column == "supernet" else sorted(set(values))
        return widgets.SelectMultiple(
            options=options,
            value=(first,),
            rows=min(max(len(options), 2), 4),
            description=LABELS[column],
            **WIDE,
        )

    def _at_most(self, column):
        least, most = self._ends(column)
        step = max((most - least) / 100, 1e-9)
        return self._limit(column, most + step, least, most + step, step)

    def _at_least(self, column):
        least, most = self._ends(column)
        step = max((most - least) / 100, 1e-9)
        return self._limit(column, least, least, most + step, step)

    def _ends(self, column):
        return float(self.points[column].min()), float(self.points[column].max())

    def _limit(self, column, value, least, most, step):
        return widgets.FloatSlider(
            value=value,
            min=least,
            max=most,
            step=step,
            readout_format=".3g",
            description=LABELS[column],
            **WIDE,
        )

    def _between(self, column):
        options = sorted(map(int, set(self.points[column])))
        ends = 0, len(options) - 1
        return widgets.SelectionRangeSlider(
            options=options, index=ends, description=LABELS[column], **WIDE
        )


def button(text: str, tip: str, action: Callable) -> widgets.Button:
    """A button that calls action()."""
    made = widgets.Button(
        description=text, tooltip=tip, layout={"flex": "0 0 auto", "width": "auto"}
    )
    made.on_click(lambda _: action())
    return made
