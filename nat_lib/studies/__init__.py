"""The studies of the kit, a row each: what it takes, what it follows, its jobs, and what it does.

A notebook `NN_<study>.ipynb` shows the study of that name; its parameters are those of the row's
models. A new study is a row here, its two models, its parts and its work.
"""

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from nat_lib.data.shown import FOLDER
from nat_lib.studies import models, parts, switches
from nat_lib.studies.parts import Part


class Study(NamedTuple):
    """One study.

    switches : model of params/experiments/<study>.yaml: what it does
    sizes    : model of the share of a profile it takes: how much; None: it trains nothing
    after    : studies whose cells it reads
    parts    : (parameters) -> its jobs beside the notebook's own
    work     : "module:function" of (parameters, out) that does its cells; imported when called
    last     : reads what all the others leave
    """

    switches: type[models.Strict]
    sizes: type[models.Machine] | None = None
    after: tuple[str, ...] = ()
    parts: Callable[[dict[str, Any]], Iterable[Part]] = parts.whole
    work: str | None = None
    last: bool = False


STUDIES = {
    "start_here": Study(switches.StartHere),
    "aep_study": Study(
        switches.AepStudy,
        models.Pruning,
        parts=parts.aep,
        work="nat_lib.studies.work:aep_study",
    ),
    "ofav2_eps": Study(
        switches.Ofav2Eps,
        models.Shrinking,
        parts=parts.eps,
        work="nat_lib.studies.work:ofav2_eps",
    ),
    "predictors": Study(
        switches.Predictors,
        models.Comparing,
        after=("ofav2_eps",),
        parts=parts.predictors,
        work="nat_lib.studies.work:predictors",
    ),
    "natv2_phases": Study(
        switches.Natv2Phases,
        models.Worth,  # its notebook shows what stands beside a search, too
        after=("ofav2_eps",),
        parts=parts.searches,
        work="nat_lib.studies.work:natv2_phases",
    ),
    "post_processing": Study(
        switches.PostProcessing,
        models.Posting,
        after=("natv2_phases",),
        parts=parts.posts,
        work="nat_lib.studies.work:post_processing",
    ),
    "pareto_browser": Study(
        switches.ParetoBrowser, after=("natv2_phases", "post_processing", "take_home")
    ),
    "training_strategies": Study(
        switches.TrainingStrategies,
        models.Arming,
        parts=parts.arms,
        work="nat_lib.studies.work:training_strategies",
    ),
    "search_strategies": Study(
        switches.SearchStrategies,
        models.Tabling,
        # stop rules are replayed on the curves of the first, its searches stand beside the tables
        after=("aep_study", "ofav2_eps", "natv2_phases"),
        parts=parts.tables,
        work="nat_lib.studies.work:search_strategies",
    ),
    "take_home": Study(
        switches.TakeHome,
        models.Worth,
        after=("natv2_phases",),
        work="nat_lib.studies.work:take_home",
    ),
    "thesis_report": Study(switches.ThesisReport, last=True),
}


def run(study: str, params: dict[str, Any], out: str | Path) -> None:
    """Do (or find finished) all cells of a study that `params` name, under the folder `out`.

    Where results are only shown (`./run_all.sh --show`), nothing is done.
    """
    if os.environ.get(FOLDER):
        return
    module, _, function = str(STUDIES[study].work).partition(":")
    getattr(import_module(module), function)(params, Path(out))
