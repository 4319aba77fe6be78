"""Figures of thesis chapter 6, made from the frames of `results.chapter6` and of nothing else.

The panels are those of the thesis; what was not run is named below them. Printed numbers are
diamonds. The error bar of a single subnet is the standard error of the test split; the runs of
several seeds are drawn one by one. Figures carry what they plot as `figure.rows` (see style.save).
"""

from nat_lib.report.figures6.fronts import fig_6_7, fig_6_8, fig_6_9, fig_6_11, points_printed
from nat_lib.report.figures6.posts import fig_6_6, fig_6_10
from nat_lib.report.figures6.predictors import fig_6_3, fig_6_4, fig_6_5
from nat_lib.report.figures6.progress import archive_shift, hypervolume_curves, predictor_quality

__all__ = [
    "archive_shift",
    "fig_6_3",
    "fig_6_4",
    "fig_6_5",
    "fig_6_6",
    "fig_6_7",
    "fig_6_8",
    "fig_6_9",
    "fig_6_10",
    "fig_6_11",
    "hypervolume_curves",
    "points_printed",
    "predictor_quality",
]
