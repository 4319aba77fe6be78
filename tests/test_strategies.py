"""What every row of the table of strategies keeps to, and what each one is known by."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from test_search import EXITS, QUICK, SMALL, TWO_STAGES, any_formula, same

from nat_lib import files
from nat_lib.arch import Space
from nat_lib.machine import stream
from nat_lib.run.params import load_params
from nat_lib.search import ensemble, pareto
from nat_lib.search.archive import VERSIONS, Iteration, distinct
from nat_lib.search.strategies import DEFAULT, STRATEGIES, tabular

EVERY = pytest.mark.parametrize("name", tabular())  # test_relaxed.py has the others


def run(name, formula, space=EXITS, version=SMALL, seed=0, start=None, **more):
    return list(STRATEGIES[name].function(formula.task(space, version, seed=seed, **more), start))


@EVERY
@pytest.mark.parametrize("policy", ["append", "replace"])
@pytest.mark.parametrize("M", [1, 2, 3])
def test_archives_are_legal_and_candidates_are_new(name, policy, M):
    formula, version = any_formula(EXITS, M), SMALL._replace(policy=policy, repair="push")
    steps = run(name, formula, version=version)
    assert [step.number for step in steps] == list(range(QUICK.iterations + 1))
    before = None
    for step in steps:
        assert np.array_equal(EXITS.repair(EXITS.genotypes(step.X), "push"), step.X)
        assert len(distinct(EXITS, step.X)) == len(step.X)
        assert np.array_equal(step.F, formula.scores(step.X)) and step.F.shape[1] == M
        assert np.array_equal(step.reference, pareto.reference(steps[0].F))
        assert step.hypervolume == pareto.hypervolume(step.F, step.reference)
        assert len(step.candidates) == len(step.predicted) == len(step.measured)
        if before is not None:
            both = np.concatenate([before, step.candidates])
            assert len(distinct(EXITS, both)) == len(both)
            assert 0 < len(step.candidates) <= version.candidates
        before = step.X


@EVERY
@pytest.mark.parametrize("policy", ["append", "replace"])
def test_a_resumed_run_is_the_straight_run(name, policy):
    version = SMALL._replace(policy=policy)
    straight = run(name, any_formula(EXITS, 2), version=version)
    for stop in (0, 2):
        left = Iteration(*straight[stop][:4], state=straight[stop].state)  # what a file gives back
        resumed = run(name, any_formula(EXITS, 2), version=version, start=left)
        assert all(same(a, b) for a, b in zip(straight[stop + 1 :], resumed, strict=True))
    other = run(name, any_formula(EXITS, 2), version=version, seed=1)
    assert not np.array_equal(other[0].X, straight[0].X)
    assert not np.array_equal(other[-1].X, straight[-1].X)


@EVERY
def test_the_row_says_whether_the_supernet_adapts(name):
    adapted = []
    run(name, any_formula(EXITS, 2), adapt=lambda X, number: adapted.append(number))
    assert adapted == (list(range(1, 1 + QUICK.iterations)) if STRATEGIES[name].adapts else [])


@EVERY
def test_every_strategy_improves_on_its_first_archive(name):
    """Also those for one number, whose archive leaves the ends of the front."""
    first, *steps = run(name, any_formula(EXITS, 2), budget=QUICK._replace(iterations=10))
    every = np.concatenate([first.F, *(step.measured for step in steps)])
    assert pareto.hypervolume(every, first.reference) > first.hypervolume


@EVERY
def test_a_space_that_is_all_known_gives_no_candidates(name):
    tiny = Space("BASE", resolutions=(64,), widths=(1.0,), base_channels=(8, 8))
    rng = np.random.default_rng(0)
    drawn = tiny.repair(rng.integers(tiny.lower, tiny.upper + 1, (200_000, tiny.n_var)))
    X = drawn[distinct(tiny, drawn)]
    assert len(X) == tiny.size
    formula = any_formula(tiny, 2)
    whole = Iteration(0, X, formula.scores(X), np.array([90.0, 90.0]))
    version, budget = SMALL._replace(archive=len(X)), QUICK._replace(iterations=1)
    (step,) = run(name, formula, tiny, version, start=whole, budget=budget)
    assert len(step.candidates) == 0 and len(step.X) <= len(X)


def test_in_regularised_evolution_the_oldest_leave_even_when_they_are_the_best():
    steps = run("regularised_evolution", any_formula(EXITS, 2))
    for before, step in pairwise(steps):
        queue = np.concatenate([before.X, step.candidates])
        assert np.array_equal(step.X, queue[-len(before.X) :])
    first = steps[0].X[pareto.front(steps[0].F)]
    last = {x.tobytes() for x in steps[-1].X}
    assert any(x.tobytes() not in last for x in first)


def test_a_child_differs_from_a_member_in_one_variable_before_its_repair():
    version = SMALL._replace(repair="fill")
    steps = run("regularised_evolution", any_formula(TWO_STAGES, 1), TWO_STAGES, version)
    for before, step in pairwise(steps):
        for child in step.candidates:
            changed = (before.X != child).sum(axis=1).min()
            stage = (TWO_STAGES.n_var - TWO_STAGES.first) // TWO_STAGES.n_stages
            assert 1 <= changed <= stage - 1  # a skipped block takes those behind it along


def test_what_random_search_draws_does_not_depend_on_the_scores():
    low, high = (run("random", any_formula(EXITS, 2, seed=s)) for s in (0, 1))
    assert np.array_equal(low[0].candidates, high[0].candidates)
    assert np.array_equal(low[1].candidates[:3], high[1].candidates[:3])


def test_the_table_reads_in_a_moment_and_nothing_of_search_needs_torch():
    """Tables are read by whatever needs a name: no regressor, no pymoo, no pandas."""
    tables = "objectives predictors strategies archive".split()
    everything = sorted(p.stem for p in (files.ROOT / "nat_lib/search").glob("[a-z]*.py"))
    heavy = "sklearn lightgbm catboost pandas scipy pymoo torch".split()
    code = (
        "import importlib, sys\n"
        f"for name in {tables}: importlib.import_module('nat_lib.search.' + name)\n"
        f"assert not [m for m in {heavy} if m in sys.modules], 'a table is heavy'\n"
        f"for name in {everything}: importlib.import_module('nat_lib.search.' + name)\n"
        "from nat_lib.search.predictors import PREDICTORS\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=files.ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert DEFAULT in STRATEGIES


@pytest.mark.parametrize("number", VERSIONS)
@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_lightgbm_predicts_in_every_version_at_every_size(profile, number):
    """No archive is so small that another predictor has to stand in."""
    params = load_params(profile, "natv2_phases")
    late = number > 1
    version = VERSIONS[number]._replace(
        archive=params["archive_sizes"][late], candidates=params["candidates"][late], multiplier=1
    )
    formula = any_formula(EXITS, 2)

    def fit(X, errors, rng):
        return ensemble.fit("lgb", EXITS, X, errors, rng=rng, features=version.features)

    task = formula.task(EXITS, version, QUICK._replace(iterations=2), fit=fit)
    _, *steps = STRATEGIES["nat"].function(task)
    assert [step.predictor for step in steps] == [("LGBM", "")] * 2
    assert all(np.ptp(step.predicted) > 0 for step in steps)


def test_streams_of_different_purposes_differ():
    """Also where one has a number less: a generator takes missing numbers for 0."""
    words = ["search fit", "search propose", "warm-up subnets", "adaptation subnets"]
    draws = [stream(0, word, *at).random() for word in words for at in ((), (1,), (1, 2))]
    draws += [np.random.default_rng((0, *at)).random() for at in ((), (1,), (1, 2))]
    assert len(set(draws)) == len(draws)
    assert stream(0, "search fit", 1).random() == stream(0, "search fit", 1).random()
