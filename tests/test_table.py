"""Exact tables: the tied space, what a table knows, how one is made, strategies judged on it."""

import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from laboratory import lay_search
from matplotlib.colors import to_hex
from scipy.special import softmax

from nat_lib import cells, data, files
from nat_lib.arch import Space
from nat_lib.codes import EXITS
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.evaluate import evaluate, prepare, score
from nat_lib.report import bakeoff as drawn
from nat_lib.report.style import GREY
from nat_lib.results import bakeoff as results
from nat_lib.search import evolution, fidelity, growing, guided, pareto, policies, ties
from nat_lib.search import table as tables
from nat_lib.search.archive import Budget, Version
from nat_lib.search.strategies import STRATEGIES, tabular
from nat_lib.search.table import CHEAP, Table, load, shipped
from nat_lib.search.task import Task
from nat_lib.search.tied import Tied
from nat_lib.studies import bakeoff, tabling
from nat_lib.supernet import Supernet

SPACE = Space("EE_D", (16, 20, 24, 28, 32), (1.0,), (8, 8, 16, 24, 32, 40), answers="DESC")
GROWS = Version("integer", "search", "fill", 1, 20, 10, "append", "fixed", "last")


def synthetic(space=SPACE, seed=0):
    """A table whose errors are a curve of the choices, and noise."""
    tied, rng = Tied(space), np.random.default_rng(seed)
    X = tied.every()
    share = X / np.maximum(tied.upper, 1)
    exits = np.array([len(some) for some in tied.votes])[X[:, EXITS]]
    last = np.array([some[-1] for some in tied.votes])[X[:, EXITS]]
    size = share @ [1.0, 0, 0, 0.3, 0.4, 0.5, 0] + last / 5 + 0.1 * exits
    error = 70 - 12 * size + 3 * (size - 2) ** 2 + rng.normal(0, 0.6, tied.size)
    macs = (1 + 3 * share[:, 0]) * (1 + share[:, 4]) * (1 + share[:, 5]) * last * 1e5 + 2e4 * exits
    columns = {"val_error": error.astype(np.float32), "macs_tp": macs.astype(np.int64)}
    columns["test_error"] = (error + rng.normal(0, 0.5, tied.size)).astype(np.float32)
    for share, name in CHEAP.items():
        columns[name] = (error + rng.normal(0, 0.3 / share**0.5, tied.size)).astype(np.float32)
    columns["params"] = (macs / 10).astype(np.int64)
    about = {"name": "synthetic", "space": space.to_dict()}
    return Table(columns, np.array(["0"] * (tied.size // len(tied.votes))), about)


@pytest.fixture(scope="module")
def table():
    return synthetic()


# --------------------------------------------------------------------------------- the tied space


def test_a_tied_space_is_listed_encoded_and_decoded():
    tied = Tied(SPACE)
    assert tied.size == 5 * 31 * 27 == 4185
    X = tied.every()
    assert np.array_equal(tied.index(X), np.arange(tied.size))
    assert len({arch.canonical() for arch in tied.decode(X)}) == tied.size
    assert np.array_equal(tied.encode(tied.decode(X)), X)
    single = Tied(replace(SPACE, answers="single"))
    assert single.size == 675 and single.votes == tuple((e,) for e in SPACE.exits)


def test_both_widths_have_as_many_networks_as_the_specification_says():
    both = Tied(replace(SPACE, widths=(1.0, 1.2)))
    assert both.size == 8370 and both.size // len(both.votes) == 270


def test_what_is_not_tied_or_not_there_is_refused():
    mixed = SPACE.arch(kernel=(3, *[5] * 19))
    with pytest.raises(Refusal, match="one value per network"):
        Tied(SPACE).encode([mixed])
    with pytest.raises(Refusal, match="answers"):
        replace(SPACE, answers="several")
    with pytest.raises(Refusal, match="legal are"):
        Tied(SPACE).index([[9, 0, 0, 0, 0, 0, 0]])


def test_a_predictor_sees_which_exits_answer():
    tied = Tied(SPACE)
    Z = tied.features(tied.every())
    assert Z.shape == (tied.size, tied.n_var - 1 + 5)
    assert np.array_equal(Z[:, -5:].sum(1), [len(a.answering) for a in tied.decode(tied.every())])


# --------------------------------------------------------------------------------- what it knows


def test_a_query_is_a_look_up_in_the_units_of_the_objectives(table):
    X = table.space.every()[[7, 4000]]
    F = table.query(X, "acc+params+macs", "test")
    at = table.space.index(X)
    assert np.array_equal(F[:, 0], table.columns["test_error"][at])
    assert np.array_equal(F[:, 1], table.columns["params"][at] / 1e6)
    assert np.array_equal(F[:, 2], table.columns["macs_tp"][at] / 1e6)
    with pytest.raises(Refusal, match="holds no latency"):
        table.query(X, "acc+latency")


def test_the_true_front_is_that_of_brute_force(table):
    F = table.values()
    worse = (F[:, None, :] >= F[None]).all(2) & (F[:, None, :] > F[None]).any(2)
    wanted = {tuple(x) for x in table.space.every()[~worse.any(1)]}
    assert {tuple(x) for x in table.front()} == wanted
    assert table.hypervolume(table.front()) == 1.0
    assert table.hypervolume(table.space.every()) == pytest.approx(1.0)
    assert table.hypervolume(table.space.every()[:0]) == 0.0


def test_several_exits_are_never_worse_than_one(table):
    """By inclusion."""
    X = table.space.every()
    singles = X[[len(table.space.votes[code]) == 1 for code in X[:, EXITS]]]
    assert len(singles) == 675 and table.hypervolume(singles) <= 1.0


def test_regret_is_what_the_best_cheap_network_is_better(table):
    F = table.values()
    cheap = F[F[:, 1] <= 0.25 * F[:, 1].max(), 0]
    X = table.space.every()[:40]
    mine = table.query(X)
    found = mine[mine[:, 1] <= 0.25 * F[:, 1].max(), 0].min()
    assert table.regret(X, limit=0.25) == pytest.approx(found - cheap.min())
    assert table.regret(table.front()) == 0
    assert table.regret(X[:0]) == np.inf


def test_a_table_comes_back_from_its_file_and_damage_is_told(table, tmp_path):
    path = tmp_path / "some.npz"
    table.save(path)
    back = load(str(path))
    assert back.hash == table.hash and np.array_equal(back.values(), table.values())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(Refusal, match="is no table"):
        load(str(path))
    with pytest.raises(Refusal, match="or a file"):
        load("nowhere")


def test_a_table_ships_under_a_name_of_its_own(table, tmp_path, monkeypatch, capsys):
    table.save(tmp_path / "table.npz")
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "tables")
    (tmp_path / "tables").mkdir()
    assert tables.main([str(tmp_path / "table.npz"), "mine"]) == 0
    assert shipped() == ["mine"] and load("mine").about["name"] == "mine"
    assert load("mine").hash == table.hash
    assert tables.main([str(tmp_path / "table.npz"), "mine"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped())
def test_tables_that_ship_are_whole(name):
    found = load(name)
    assert found.about["name"] == name and len(found.front()) > 5
    assert all(np.isfinite(v).all() for v in map(np.asarray, found.columns.values()))
    assert len(found.digests) == found.space.size // len(found.space.votes)


# ----------------------------------------------------------------------------------- how it is made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(params, data, net, table) of an untrained supernet with two sizes and two stages."""
    place = tmp_path_factory.mktemp("table")
    space = Space("EE_D", (16, 20), (1.0,), (8, 8, 16), answers="DESC")
    found = data.load("digits", train_images=200, val_images=60, test_images=60)
    net = Supernet(space, 1.0, found.n_classes, seed=3)
    params = {"eval_batch_size": 32, "table_latency": False}
    params |= {"profile": "test", "threads": 1}
    nets = {1.0: lambda: net}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabling, "supernets", lambda *args: (space, nets, {"1.0": "seed 3"}))
        path = tabling.run_table(params, found, place)
        again = tabling.run_table(params, found, place / "again")
    return found, net, load(str(path)), load(str(again)), path


def test_a_table_regenerates_to_the_bit(made):
    *_, first, again, _ = made
    assert first.hash == again.hash and np.array_equal(first.digests, again.digests)
    for column in CHEAP.values():
        assert np.array_equal(first.columns[column], again.columns[column])


def test_a_cheap_error_is_that_of_every_third_or_ninth_image(made):
    found, net, table, *_ = made
    tied = table.space
    x = tied.encode([tied.arch()])
    network = prepare(net, tied.arch(), found, tied.arch().resolution)
    [(images, labels)] = found.eval_batches("val", tied.arch().resolution, 60)
    for share in CHEAP:
        some = slice(None, None, round(1 / share))
        wanted = 100 - score(network, [(images[some], labels[some])]).top1
        assert table.cheap(x, share)[0, 0] == pytest.approx(wanted, abs=1e-4)


def test_a_single_exit_scores_as_the_subnet_does(made):
    found, net, table, *_ = made
    tied = table.space
    X = tied.every()
    for x in X[[len(tied.votes[code]) == 1 for code in X[:, EXITS]]][::9]:
        [arch] = tied.decode(x[None])
        record = evaluate(net, arch, found, 32)
        [error] = table.columns["val_error"][tied.index(x[None])]
        assert error == np.float32(100 - record.val_top1)
        assert table.columns["params"][tied.index(x[None])] == record.params
        assert table.columns["macs_tp"][tied.index(x[None])] == record.macs_tp


def test_several_exits_score_and_cost_as_the_extracted_network(made):
    found, net, table, *_ = made
    tied = table.space
    X = tied.every()
    for x in X[[len(tied.votes[code]) == 2 for code in X[:, EXITS]]][::11]:
        [arch] = tied.decode(x[None])
        exits = arch.answering
        network = prepare(net, arch, found, arch.resolution)
        top1 = score(network, found.eval_batches("val", arch.resolution, 32)).top1
        assert table.columns["val_error"][tied.index(x[None])] == np.float32(100 - top1)
        [cost] = count([arch], tied.space, found.n_classes, exits=exits).itertuples()
        assert table.columns["params"][tied.index(x[None])] == cost.params
        trained = sum(p.numel() for p in net.extract(arch, exits).parameters())
        assert cost.params == trained


def test_a_killed_making_goes_on_with_the_next_backbone(made, tmp_path, monkeypatch):
    found, net, table, _, path = made
    lines = (path.parent / "backbones.0.jsonl").read_text().splitlines(keepends=True)
    params = {"eval_batch_size": 32, "table_latency": False}
    params |= {"profile": "test", "threads": 1}
    space = table.space.space
    given = space, {1.0: lambda: net}, {"1.0": "seed 3"}
    monkeypatch.setattr(tabling, "supernets", lambda *args: given)
    passes = []
    usual = tabling.prepare

    def counted(*args, **kwargs):
        if len(passes) == 10:
            raise KeyboardInterrupt
        passes.append(args)
        return usual(*args, **kwargs)

    monkeypatch.setattr(tabling, "prepare", counted)
    with pytest.raises(KeyboardInterrupt):
        tabling.run_table(params, found, tmp_path)
    passes.clear()
    monkeypatch.setattr(tabling, "prepare", lambda *a, **k: passes.append(a) or usual(*a, **k))
    assert load(str(tabling.run_table(params, found, tmp_path))).hash == table.hash
    assert len(passes) == len(lines) - 10


# ------------------------------------------------------------------------------ strategies on it


def task_on(table, version=GROWS, budget=None, seed=0, predict=None):
    """A `Task` on a table whose predictor knows the truth, unless told otherwise."""

    class Exact:
        name, note = "exact", ""

        def predict(self, X):
            return table.query(X)[:, 0]

    costs = [lambda X: table.query(X)[:, 1]]
    known = table.space, table.query, lambda X, n: None, lambda X, y, rng: predict or Exact(), costs
    budget = budget or Budget(10, 20, 20, 5, 30, 10)
    return Task(*known, version, budget, seed, cheap=table.cheap)


@pytest.mark.parametrize("name", tabular())
def test_every_strategy_runs_on_a_table_and_again_the_same(table, name):
    rows = bakeoff.one_run(table, name, 60, 0.0, 0, "ridge")
    assert rows == bakeoff.one_run(table, name, 60, 0.0, 0, "ridge")
    volumes = [row["hypervolume"] for row in rows]
    assert [row["evaluations"] for row in rows] == bakeoff.looks(60)
    assert volumes == sorted(volumes) and 0 < volumes[0] and volumes[-1] <= 1


def test_a_run_counts_networks_once_and_scores_no_more_than_it_may(table):
    seen = bakeoff.Seen(table, 0.0, 0)
    X = table.space.every()[:5]
    assert np.array_equal(seen(X), seen(X[::-1])[::-1])
    assert len(seen.X) == 5
    noisy = bakeoff.Seen(table, 2.0, 0)
    assert np.array_equal(noisy(X), noisy(X)) and not np.array_equal(noisy(X), seen(X))
    assert np.array_equal(noisy(X)[:, 1], seen(X)[:, 1])


def test_a_noisy_run_is_judged_by_the_truth(table):
    rows = bakeoff.one_run(table, "random", 60, 30.0, 0, "ridge")
    assert all(row["hypervolume"] <= 1 for row in rows)
    assert (
        rows[-1]["hypervolume"]
        < bakeoff.one_run(table, "random", 60, 0.0, 0, "ridge")[-1]["hypervolume"]
    )


def test_random_search_is_its_own_prefix(table):
    seen = [bakeoff.Seen(table, 0.0, 0) for _ in range(2)]
    for some, iterations in zip(seen, (2, 5), strict=True):
        budget = Budget(iterations, 20, 20, 5, 30, 10)
        list(evolution.random_search(task_on(table, budget=budget)._replace(evaluate=some)))
    assert np.array_equal(seen[0].X, seen[1].X[: len(seen[0].X)])


def test_pnas_without_limits_lists_the_whole_space():
    tiny = synthetic(replace(SPACE, resolutions=(16, 20), base_channels=(8, 8, 16)))
    n = tiny.space.size
    version = GROWS._replace(archive=5, candidates=n)
    budget = Budget(tiny.space.n_var, 20, 20, 5, 30, 10)
    *_, last = growing.pnas(task_on(tiny, version, budget), beam=n)
    assert sorted(tiny.space.index(last.X)) == list(range(n))


def test_ofa_proposes_nothing_above_its_limit(table):
    first, *others = guided.ofa(task_on(table))
    limits = first.state["limits"]
    assert len(limits) == 3 and all(len(step.candidates) for step in others)
    for step in others:
        assert (step.measured[:, 1] <= limits[step.number % 3]).all()


def test_one_elite_lives_in_a_bin_and_none_gets_worse(table):
    first, *others = evolution.binned_elites(task_on(table))
    best = {}
    for step in others:
        bins = np.digitize(np.log(step.F[:, 1]), first.state["edges"])
        assert len(set(bins)) == len(bins)
        for at, error in zip(bins, step.F[:, 0], strict=True):
            assert error <= best.get(at, np.inf)
            best[at] = error


def test_halving_keeps_exactly_the_best_third_of_every_rung_and_costs_what_it_says(table):
    rungs, seen = [], bakeoff.Seen(table, 0.0, 0)

    def cheap(X, share):
        F = seen.cheap(X, share)
        rungs.append((share, X, F))
        return F

    task = task_on(table, GROWS._replace(candidates=9))._replace(evaluate=seen, cheap=cheap)
    before = None
    for step in fidelity.halving(task):
        if before is not None:
            (ninth, X, F), (third, Y, _) = rungs
            assert (ninth, third) == (1 / 9, 1 / 3) and (len(X), len(Y)) == (27, 9)
            order = pareto.rank(F)
            assert sorted(order)[8] >= max(order[[x.tolist() in Y.tolist() for x in X]])
            assert {x.tobytes() for x in step.candidates} <= {y.tobytes() for y in Y}
            assert len(step.candidates) == 3
            assert seen.total - before <= fidelity.cost_of(9) + 1e-9 == 9 + 1e-9
        before = seen.total
        rungs.clear()
    with pytest.raises(Refusal, match="share of the images"):
        next(fidelity.halving(task._replace(cheap=None)))


def test_a_correction_finds_a_planted_bias_and_switches_itself_off_without_one():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 4))
    full = rng.uniform(10, 40, 60)
    cheap = full - (3 + Z @ [1.0, -2.0, 0.5, 0.0])
    found, helps = fidelity.corrected(cheap[:40], full[:40], Z[:40], Z[40:], cheap[40:])
    assert helps and np.allclose(found, full[40:], atol=1e-2)
    noise = full + rng.normal(0, 1, 60)
    kept, helps = fidelity.corrected(noise[:20], full[:20], Z[:20], Z[40:], noise[40:])
    assert not helps and np.array_equal(kept, noise[40:])


def test_nsganet_on_a_table_is_nat_with_a_growing_archive(table):
    a, b = ([s.X for s in f(task_on(table))] for f in (guided.nat, guided.nsganet))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_motif_moves_all_of_its_variables():
    space = Space("EE_D", base_channels=(8, 8, 16))
    whole, stages, blocks = ties.levels(space)
    assert [len(g) for g in whole] == [1, 1, 1, 8, 4, 2]
    assert [len(g) for g in stages] == [4, 2, 1, 4, 2, 1]
    assert [len(g) for g in blocks] == [1] * 8
    [single] = ties.levels(Tied(space))
    assert [g.tolist() for g in single] == [[v] for v in range(7)]


def test_compound_scaling_begins_with_the_family_of_the_largest_exit(table):
    _, second, *_ = growing.compound(task_on(table))
    found = table.space.decode(second.candidates)
    assert all(a.answering == (5,) for a in found)
    middle = [a.kernel[0] == 5 for a in found]
    assert sum(middle) > 3 and middle == sorted(middle, reverse=True)
    macs = second.measured[middle, 1].tolist()
    assert macs == sorted(macs)


def test_greedy_growth_adds_one_exit(table):
    space = table.space
    grown = growing._one_more(space, np.array([0, 0, 0b00101 - 1, 0, 0, 0, 0]))
    assert [space.votes[x[2]] for x in grown] == [(1, 2, 3), (1, 3, 4), (1, 3, 5)]
    one = Space("EE_D", base_channels=(8, 8, 16))
    x = one.encode([one.arch(exit=1)])[0]
    assert [y[2] for y in growing._one_more(one, x)] == [1]


# --------------------------------------------------------------------------------- learnt policies


def test_the_policy_gradient_is_the_enumerated_one():
    """Two variables of two and three values: the mean over draws and the exact sum."""
    categories, rng = np.array([2, 3]), np.random.default_rng(0)
    logits = rng.normal(size=(2, 3))
    value = rng.normal(size=(2, 3))
    law = policies.probabilities(logits, categories)
    assert law[0, 2] == 0 and np.allclose(law.sum(1), 1)
    exact = np.zeros((2, 3))
    for a, b in product(range(2), range(3)):
        hot = np.zeros((2, 3))
        hot[0, a] = hot[1, b] = 1
        exact += law[0, a] * law[1, b] * value[a, b] * (hot - law)
    codes = policies.drawn(law, 200_000, rng)
    rewards = value[codes[:, 0], codes[:, 1]]
    found = policies.policy_gradient(logits, categories, codes, rewards)
    assert np.abs(found - exact).max() < 0.01 < np.abs(exact).max()


def test_the_entropy_gradient_is_that_of_differences():
    logits, categories = np.array([[0.3, -1.0, 0.5]]), np.array([3])

    def entropy(z):
        p = softmax(z[0])
        return -(p * np.log(p)).sum()

    slopes = [
        (entropy(logits + 1e-6 * hot) - entropy(logits - 1e-6 * hot)) / 2e-6 for hot in np.eye(3)
    ]
    assert np.allclose(policies.entropy_gradient(logits, categories)[0], slopes, atol=1e-6)


def test_mnasnets_reward_prefers_the_cheaper_of_equal_accuracy():
    F = np.array([[20.0, 1.0], [20.0, 2.0], [20.0, 4.0]])
    rewards = policies.reward(F, 2.0)
    assert rewards[1] == 80 and np.allclose(rewards, 80 * (F[:, 1] / 2) ** -0.07)
    assert np.array_equal(policies.reward(F[:, :1], 1.0), [80, 80, 80])


def test_learnt_policies_find_the_optimum_of_a_separable_reward():
    categories, rng = np.array([3, 4, 2]), np.random.default_rng(0)
    best = np.array([2, 1, 1])
    values = np.zeros((3, 4, 4))
    logits = np.zeros((3, 4))
    for number in range(200):
        rows = policies.walked(values, categories, max(0.1, 1 - number / 100), 10, rng)
        for row in rows:
            policies.update(values, categories, row, (row == best).mean())
        codes = policies.drawn(policies.probabilities(logits, categories), 10, rng)
        gains = (codes == best).mean(1) - 0.5
        logits += policies.RATE * policies.policy_gradient(logits, categories, codes, gains)
    assert np.array_equal(policies.walked(values, categories, 0.0, 1, rng)[0], best)
    assert np.array_equal(logits.argmax(1), best)


def test_strategies_that_learn_keep_what_they_know_in_the_file_of_the_iteration(table):
    for name in ("reinforce", "q_learning", "binned_elites", "ofa", "ga", "compound"):
        first, *_ = STRATEGIES[name].function(task_on(table))
        assert first.state and all(isinstance(v, np.ndarray) for v in first.state.values())
        files.plain(first.state)


def test_what_a_front_is_worth_elsewhere(table, tmp_path):
    itself = bakeoff.transferred(table, table)
    assert (itself["tau"], itself["hypervolume"], itself["regret"]) == (1, 1, 0)
    other = synthetic(seed=5)
    found = bakeoff.transferred(table, other)
    assert 0.5 < found["tau"] < 1 and 0.5 < found["hypervolume"] < 1
    params = {"table_seeds": 3, "table_evaluations": 60, "predictor": "ridge", "profile": "test"}
    bakeoff.run_transfer(params, table, other, tmp_path)
    [row] = results.transfers(tmp_path).to_dict("records")
    assert row["tau"] == found["tau"] and row["front"] <= row["random"]
    runs = pd.read_csv(tmp_path / "search_strategies/synthetic/to_synthetic/warmed.csv")
    first = runs[runs.evaluations == 12].groupby("begin").hypervolume.mean()
    assert first["front"] > first["random"]


def test_a_first_archive_begins_with_what_it_is_given(table):
    front = table.front()[:6]
    start = next(evolution.nsga2(task_on(table)._replace(begin=front)))
    assert {x.tobytes() for x in front} <= {x.tobytes() for x in start.X} and len(start.X) == 20


# -------------------------------------------------------------------------- what is made of them


@pytest.fixture(scope="module")
def compared(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    params = {"tables": ["one"], "table_strategies": ["nsga2", "compound", "random"]}
    params |= {"table_noise": [0, 2], "table_seeds": 4, "table_evaluations": 100}
    params |= {"predictor": "ridge", "profile": "test"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bakeoff, "table_of", lambda *args: table)
        bakeoff.run(params, None, out)
    return out


def test_means_intervals_and_evaluations_to_a_share(compared):
    found = results.runs(compared)
    assert len(found) == 2 * 3 * 4 * len(bakeoff.looks(100))
    means = results.anytime(found)
    assert (means.low <= means.hypervolume).all() and means.seeds.eq(4).all()
    some = found[(found.strategy == "nsga2") & (found.noise == 0)]
    last = some[some.evaluations == 100].hypervolume
    row = means[(means.strategy == "nsga2") & (means.noise == 0)].iloc[-1]
    assert row.hypervolume == pytest.approx(last.mean())
    half = row.hypervolume - row.low
    assert half == pytest.approx(3.182446 * last.std() / 2, rel=1e-5)  # Student's, three degrees
    share = last.min() * 0.999
    reached = results.reached(found, share).set_index(["strategy", "noise"])
    first = some[some.hypervolume >= share].groupby("seed").evaluations.min()
    assert reached.evaluations["nsga2", 0] == first.median() and reached.seeds["nsga2", 0] == 1
    assert np.isinf(results.reached(found, 2.0).evaluations).all()


def test_ranks_and_the_critical_difference(compared):
    ranks = results.ranks(results.runs(compared))
    quiet = ranks[ranks.noise == 0].set_index("strategy")
    assert quiet["rank"].sum() == 1 + 2 + 3 and quiet["rank"].idxmin() == "nsga2"
    # Demsar's table 5: q = 2.343 for three and 2.728 for five at 0.05
    assert results.critical(3, 6) == pytest.approx(2.343 * (3 * 4 / 36) ** 0.5, abs=1e-3)
    assert results.critical(5, 10) == pytest.approx(2.728 * (5 * 6 / 60) ** 0.5, abs=1e-3)
    assert 0 <= quiet.p_value.iloc[0] <= 1
    one = results.runs(compared).query("strategy == 'nsga2'")
    assert results.ranks(one).empty


def test_bars_join_what_the_seeds_cannot_part():
    assert drawn.cliques([1.0, 1.5, 2.4, 5.0], 1.0) == [(1.0, 1.5), (1.5, 2.4)]
    assert drawn.cliques([1.0, 1.5, 1.9], 1.0) == [(1.0, 1.9)]
    assert drawn.cliques([1.0, 3.0], 1.0) == []


def test_claims_are_judged_where_their_strategies_ran(compared):
    found = results.runs(compared)
    verdicts = results.judged(found, compared).set_index("id").verdict
    assert verdicts["T06"] == "reproduced"
    assert verdicts["T01"].startswith("not run")
    store = results.store(found, compared)
    last = found[(found.strategy == "random") & (found.noise == 0) & (found.evaluations == 100)]
    dims = {"strategy": "random", "errors": "exact", "at": "end"}
    [i] = store.select("bakeoff.hypervolume", dims)
    assert store.values[i].value == pytest.approx(last.hypervolume.mean())


def test_figures_show_every_strategy_that_ran_and_say_where_none_did(compared):
    found = results.runs(compared)
    shown = drawn.anytime(results.anytime(found)).rows
    assert set(shown.label) == {"NSGA-II", "compound scaling", "random search"}
    assert set(shown.noise) == {0}
    assert len(drawn.fronts(results.fronts(compared)).rows) == 2 * len(results.fronts(compared))
    assert len(drawn.critical_difference(results.ranks(found)).rows) == 3
    for figure in (drawn.anytime, drawn.fronts, drawn.critical_difference):
        assert figure(results.anytime(found)[:0])


def test_a_strategy_without_a_row_is_shown_last_and_in_grey(compared, tmp_path):
    shutil.copytree(compared, tmp_path / "out")
    for path in (tmp_path / "out" / results.STUDY).glob("*/random*/*"):
        if path.name in ("report.json", "runs.csv"):
            path.write_text(path.read_text().replace("random", "brand_new"))
    found = results.runs(tmp_path / "out")
    assert list(found.label.unique()) == ["NSGA-II", "compound scaling", "brand_new"]
    figure = drawn.anytime(results.anytime(found))
    assert figure.legends[0].texts[-1].get_text() == "brand_new"
    assert to_hex(figure.legends[0].legend_handles[-1].get_color()) == GREY


def test_one_seed_alone_is_not_judged(compared):
    found = results.runs(compared).query("seed == 0")
    store = results.store(found, compared)
    assert not store.by_metric.get("bakeoff.hypervolume")
    assert store.by_metric["bakeoff.single"]


def test_searches_on_supernets_are_compared_by_one_reference(tmp_path):
    rng = np.random.default_rng(0)
    lay_search(tmp_path, rng, archive=12)
    lay_search(tmp_path, rng, archive=12, seed=1)
    lay_search(tmp_path, rng, objectives="acc+params")
    found = results.supernets(tmp_path)
    assert list(found.strategy) == ["nat"] * 3 and (found.kept >= 12).all()
    macs = found[found.objectives == "acc+macs"]
    F = []
    for seed in (0, 1):
        path = tmp_path / f"natv2_phases/digits_turned/EE_D_p4_acc+macs_s{seed}/archive.csv"
        archive = pd.read_csv(path)
        F.append(archive[archive.iteration == 2][["error", "macs"]].to_numpy())
    point = pareto.reference(np.concatenate(F))
    assert macs.hypervolume.tolist() == [pareto.hypervolume(f, point) for f in F]
    assert results.supernets(tmp_path / "nothing").empty


def test_the_study_leaves_cells_that_know_their_table(table, tmp_path):
    params = {"table_seeds": 2, "table_evaluations": 50, "predictor": "ridge", "profile": "test"}
    report = bakeoff.run_strategy(params, table, "nsga2", 0.0, tmp_path)
    assert 0 < report["metrics"]["hypervolume"] <= 1
    assert report["params"]["hash"] == table.hash
    again = bakeoff.run_strategy(params, table, "nsga2", 0.0, tmp_path)
    assert again == report
    assert cells.read_report(tmp_path / "search_strategies/synthetic/nsga2") == report
