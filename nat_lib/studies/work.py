"""All cells of a study, finished or done now: what a notebook's cell and a part's job both call.

Each function takes the parameters of its study (one flat dict) and the outputs folder, and skips
what is finished. Torch and the studies are imported inside, so that the table of studies is light.
"""

from pathlib import Path
from typing import Any

from nat_lib.studies.parts import chosen_by_thesis, on_target, targets_of


def aep_study(params: dict[str, Any], out: Path) -> None:
    """Train every network of chapter 4 that the parameters name."""
    from nat_lib.machine import progress
    from nat_lib.studies import aep

    aep.check_weights(params)
    for dataset in params["aep_datasets"]:
        data = aep.load_data(params, dataset)
        chosen = aep.selected(params | {"aep_datasets": [dataset]})
        for cell in progress(chosen, f"{dataset}, trainings"):
            aep.run(params, *cell, data, out)


def ofav2_eps(params: dict[str, Any], out: Path) -> None:
    """Train every supernet of chapter 5, phase by phase."""
    from nat_lib.machine import progress
    from nat_lib.studies import eps

    data = eps.load_data(params)
    for cell in progress(eps.selected(params), "supernets"):
        eps.run(params, *cell, data, out)


def training_strategies(params: dict[str, Any], out: Path) -> None:
    """Train every arm, then the subnets that stand alone."""
    from nat_lib.studies import eps, strategies

    strategies.run(params, eps.load_data(params), out)


def search_strategies(params: dict[str, Any], out: Path) -> None:
    """Make exact tables and run every search strategy on them."""
    from functools import partial

    from nat_lib.studies import bakeoff, eps

    bakeoff.run(params, partial(eps.load_data, params), out)


def predictors(params: dict[str, Any], out: Path) -> None:
    """Score subnets and fit every predictor to them."""
    from nat_lib.studies.predictors import run_predictors
    from nat_lib.studies.searches import load_target

    here = on_target(params, chosen_by_thesis(params, "predictors"))
    data = load_target(here)
    for seed in here["seeds"]:
        for supernet in here["predictor_supernets"]:
            run_predictors(here, supernet, seed, data, out)


def natv2_phases(params: dict[str, Any], out: Path) -> None:
    """Run every search of chapter 6, on one data set after the other."""
    from nat_lib.studies import searches

    for target in targets_of(params):
        here = on_target(params, target)
        data = searches.load_target(here)
        for cell in searches.selected(here):
            searches.run_search(here, *cell, data, out)


def post_processing(params: dict[str, Any], out: Path) -> None:
    """Train on the subnets that the searches returned: the grid of settings, then the final one."""
    from nat_lib.studies import post, searches

    for target in targets_of(params):
        here = on_target(params, target)
        data = searches.load_target(here)
        for kind in ("grid", "final"):
            for cell in post.post_selected(here, kind):
                post.run_posts(here, kind, *cell, data, out)


def take_home(params: dict[str, Any], out: Path) -> None:
    """Train the baselines and score the uniform subnets beside every judged search."""
    from nat_lib.studies import take_home as study
    from nat_lib.studies.searches import load_target

    for target in targets_of(params):
        here = on_target(params, target)
        data = load_target(here)
        study.run(here, data, out)
