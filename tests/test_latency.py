"""Latency: the measuring protocol, and tables whose every number can be foretold.

Tables are built under a clock that counts work instead of time: a convolution or a classifier takes
one tick per multiplication.  A sum of blocks must then be the whole network exactly.
"""

import dataclasses
import datetime
import json
import re
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from networks import counting_work
from torch import nn

from nat_lib import evaluate, files, latency, latency_table
from nat_lib.arch import Space
from nat_lib.blocks import active
from nat_lib.cells import Cell
from nat_lib.errors import Refusal
from nat_lib.latency import Latency, measure
from nat_lib.latency_table import build_table, load_table, save_table
from nat_lib.studies import scoring
from nat_lib.supernet import Supernet, Supernets, with_width

NAMES = ("BASE", "SE_P", "EE_D", "EE_DP")
BUDGET = {"runs": 2, "warmup": 1, "rounds": 2, "networks": 6}


def small(name, **more):
    return Space(name, **{"resolutions": (16, 20), "base_channels": (8, 8, 16)} | more)


@pytest.fixture(scope="module")
def tables():
    with counting_work("thread_time"):
        return {name: build_table(small(name), 5, **BUDGET) for name in NAMES}


@pytest.fixture(params=NAMES)
def table(request, tables):
    return tables[request.param]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def genotypes(space, n, rng):
    return space.sample_genotypes(n, rng, by="architecture")


def pulled_apart(table):
    """The table with other numbers in its rows, all different, so that no two parts can be taken
    for each other."""
    rng = np.random.default_rng(1)
    calibration = table.calibration.assign(intercept=rng.random(len(table.calibration)), slope=1.25)
    return dataclasses.replace(
        table, rows=table.rows.assign(ms=rng.random(len(table.rows))), calibration=calibration
    )


def row(table, arch, stage, block, part, kernel=0, expand=0):
    r = table.rows
    found = r.ms[
        (r.width == arch.width)
        & (r.resolution == arch.resolution)
        & (r.stage == stage)
        & (r.block == block)
        & (r.part == part)
        & (r.kernel == kernel)
        & (r.expand == expand)
    ]
    assert len(found) == 1
    return found.item()


def added_up(table, arch):
    """Sum of the rows of one subnet, block by block."""
    space, total = (
        table.space,
        row(table, arch, 0, "", "stem") + row(table, arch, arch.exit, "", "exit"),
    )
    for s in range(arch.exit):
        sums = 0
        for b in range(arch.depth[s]):
            slot, which = 4 * s + b, "other" if b else "first"
            level = arch.level[slot]
            for name, branch in active(level):
                choice = (arch.kernel[slot], arch.expand[slot]) if branch.elastic else ()
                total += row(table, arch, s + 1, which, name, *choice)
            sums += bin(level).count("1") - 1
        if space.dense:
            sums += {2: 0, 3: 1, 4: 3}[arch.depth[s]]  # y3 + y1, then y4 + y2 + y1
        total += sums * row(table, arch, s + 1, "", "sum") if sums else 0
    return total


# ---------------------------------------------------------------------------------------- measuring


class Counting(nn.Module):
    """Remembers what it was given, and in which mode it was."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.frozen, self.seen = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
            [],
        )

    def forward(self, x):
        modes = self.training, self.bn.training, self.frozen.training
        self.seen.append(
            (
                tuple(x.shape),
                modes,
                torch.is_inference_mode_enabled(),
                torch.get_num_threads(),
                x.is_contiguous(memory_format=torch.channels_last),
            )
        )
        return self.frozen(self.bn(self.conv(x)))


@pytest.mark.parametrize("warmup, runs", [(0, 1), (3, 4)])
def test_a_measurement_runs_as_often_as_asked_in_evaluation_mode(warmup, runs):
    network = Counting()
    found = measure(network, 12, warmup, runs)
    assert network.seen == [((1, 3, 12, 12), (False,) * 3, True, torch.get_num_threads(), True)] * (
        warmup + runs
    )
    assert found.runs == runs and found.ms > 0 and (found.iqr >= 0 if runs > 1 else found.iqr == 0)


def test_a_measurement_says_where_and_when(monkeypatch):
    ticks = iter([0, 0.010, 1, 1.030, 2, 2.020, 3, 3.090, 4, 4.040])
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks))
    found = measure(Counting(), 12, 0, 5, threads=1)
    assert (found.ms, found.iqr) == pytest.approx((30, 20)) and found.runs == 5  # of 10 20 30 40 90
    assert found.device.startswith("cpu (") and found.threads == 1
    assert datetime.datetime.fromisoformat(found.date).date() <= datetime.date.today()


def test_a_measurement_leaves_the_network_and_the_process_as_they_were():
    network = Counting().train()
    network.frozen.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    measure(network, 12, 1, 1, threads=threads + 1)
    assert {s[3] for s in network.seen} == {threads + 1} and torch.get_num_threads() == threads
    assert (network.training, network.bn.training, network.frozen.training) == (True, True, False)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    network.conv = nn.Conv2d(4, 4, 3)  # cannot take an image
    with pytest.raises(RuntimeError):
        measure(network, 12, 1, 1, threads=threads + 1)
    assert network.training and not network.frozen.training and torch.get_num_threads() == threads


def test_no_runs_are_refused():
    with pytest.raises(Refusal, match="at least one run"):
        measure(Counting(), 12, runs=0)


def test_evaluation_measures_the_network_before_its_batch_norms_are_folded(monkeypatch):
    space, seen = small("BASE", widths=(1.0,)), []
    x, y = torch.randn(6, 3, 16, 16), torch.arange(6) % 5
    data = SimpleNamespace(
        calibration_batches=lambda resolution: [x], eval_batches=lambda *how: [(x, y)]
    )
    net, arch = Supernet(space, 1.0, 5), space.arch(resolution=16)

    def recorded(network, resolution):
        seen.append((sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()), resolution))
        return Latency(7.5, 0.0, 1, "", 1, "")

    monkeypatch.setattr(evaluate, "measure", recorded)
    plain, timed = (
        evaluate.evaluate(net, arch, data, measure_latency=flag) for flag in (False, True)
    )
    assert seen == [(sum(isinstance(m, nn.BatchNorm2d) for m in net.extract(arch).modules()), 16)]
    assert plain.latency_ms is None and timed == plain._replace(latency_ms=7.5)


# ---------------------------------------------------------------------------------------- the table


def test_a_sum_of_blocks_is_the_whole_network(table):
    assert table.error.percent < 1e-6 and table.error.spearman == pytest.approx(1)
    np.testing.assert_allclose(table.calibration.slope, 1)
    np.testing.assert_allclose(table.calibration.intercept, 0, atol=1e-9)
    for half in (table.fitted, table.check):
        np.testing.assert_allclose(half.predicted, half.measured)
        assert len(half) == BUDGET["networks"] and (half.iqr.abs() < 1e-9).all()


def test_latency_is_the_sum_of_the_rows_of_the_decoded_blocks(table, rng):
    table = pulled_apart(table)
    X = genotypes(table.space, 60, rng)
    by_exit = table.calibration.set_index("exit")
    wanted = [by_exit.intercept[a.exit] + 1.25 * added_up(table, a) for a in table.space.decode(X)]
    np.testing.assert_allclose(table.latency(X), wanted)
    one_by_one = np.concatenate([table.latency(X[i : i + 1]) for i in range(len(X))])
    assert np.array_equal(table.latency(X), one_by_one) and table.latency(X[:0]).shape == (0,)


def test_one_more_block_costs_its_row_and_what_its_skips_add(table):
    table = pulled_apart(table)
    space, arch = table.space, table.space.arch(depth=2)
    for depth, skips in ((3, 1), (4, 2)):
        deeper = dataclasses.replace(arch, depth=(depth, *arch.depth[1:]))
        gained = np.diff(table.latency(space.encode([arch, deeper]))).item()
        irb = row(table, arch, 1, "other", "irb", 7, 6)
        others = (
            (
                row(table, arch, 1, "other", "pointwise")
                + row(table, arch, 1, "other", "transform")
                + 2 * row(table, arch, 1, "", "sum")
            )
            if space.parallel
            else 0
        )
        dense = skips * row(table, arch, 1, "", "sum") if space.dense else 0
        assert gained == pytest.approx(1.25 * (irb + others + dense)) and gained > 0
        arch = deeper


def test_what_lies_behind_the_exit_costs_nothing(tables, rng):
    for name in ("EE_D", "EE_DP"):
        table = pulled_apart(tables[name])
        X = genotypes(table.space, 40, rng)
        assert np.array_equal(table.latency(X), table.latency(table.space.active(X)))
        shallow = X[X[:, 2] == 0]
        assert len(shallow) > 5 and (table.space.active(shallow) != shallow).any()


def test_every_part_is_timed_once_in_every_slot_of_every_round(table):
    space, rows = table.space, table.rows
    parts = [("irb", k, e) for k, e in product(space.kernels, space.expands)]
    parts += [("pointwise", 0, 0), ("transform", 0, 0)] if space.parallel else []
    once = BUDGET["runs"] * BUDGET["rounds"]
    wanted = {(0, "", "stem", 0, 0): once * len(parts)}
    for s in (1, 2):
        wanted |= {(s, "first", *part): once for part in parts} | {
            (s, "other", *part): 3 * once for part in parts
        }
        wanted |= {(s, "", "exit", 0, 0): once * len(parts)} if s in space.exits else {}
        wanted |= {(s, "", "sum", 0, 0): once * len(parts)} if space.dense or space.parallel else {}
    places = product(space.widths, space.resolutions, wanted.items())
    wanted = {(w, r, *key): n for w, r, (key, n) in places}
    found = dict(
        zip(rows[latency_table.KEY].itertuples(index=False, name=None), rows.runs, strict=True)
    )
    assert found == wanted and len(rows) == len(wanted)


def test_the_chain_that_is_timed_is_the_network(rng):
    space = small("SE_P", widths=(1.0,))
    net, x = Supernet(space, 1.0, 5).eval(), torch.randn(1, 3, 20, 20)
    for _, arch in latency_table._tours(space, rng):
        network, h = net.extract(arch, exits="all"), x
        for _, module, goes_on in latency_table._links(network, arch, space):
            y = module(h)
            h = y if goes_on else h
        torch.testing.assert_close(y, network(x)[-1])


def test_the_networks_held_out_are_others_and_cover_all_exits(table):
    space = table.space
    X, held_out = (
        np.array([c.split() for c in half.code], dtype=np.int64)
        for half in (table.fitted, table.check)
    )
    assert (
        len(np.unique(space.active(np.concatenate([X, held_out])), axis=0))
        == 2 * BUDGET["networks"]
    )
    assert space.decode(X[:2]) == [with_width(space.smallest, space.widths[0]), space.largest]
    if space.early_exits:
        assert set(X[:, 2]) == set(held_out[:, 2]) == {0, 1}
    np.testing.assert_array_equal(table.latency(held_out), table.check.predicted)


def test_the_error_is_that_of_the_networks_held_out(table):
    check = pd.DataFrame({"measured": [10.0, 20.0, 40.0], "predicted": [11.0, 19.0, 40.0]})
    error = dataclasses.replace(table, check=check).error
    assert (error.percent, error.spearman) == pytest.approx((5, 1))
    assert (
        dataclasses.replace(table, check=check.assign(predicted=[3.0, 2.0, 1.0])).error.spearman
        == -1
    )


def test_calibration_finds_a_slope_and_an_intercept_per_exit(rng):
    exits, sums = np.repeat([1, 3], 6), rng.random(12) + 1
    found = latency_table._calibrate(
        (1, 2, 3), exits, sums, np.where(exits == 1, 0.5, -0.25) + 1.5 * sums
    )
    np.testing.assert_allclose(
        found.to_numpy(), [[1, 0.5, 1.5], [2, 0, 1.5], [3, -0.25, 1.5]], atol=1e-12
    )
    with pytest.raises(Refusal, match="too busy to measure"):
        latency_table._calibrate((1, 3), exits, sums, 5 - sums)


def test_a_table_says_how_it_was_made(table):
    assert table.device.startswith("cpu (") and table.threads == 1 and table.clock == "processor"
    assert (
        datetime.datetime.fromisoformat(table.date).date() <= datetime.date.today()
        and table.seconds > 0
    )


def test_several_threads_are_timed_by_wall_clock():
    space, threads = small("BASE", resolutions=(16,), widths=(1.0,)), torch.get_num_threads()
    with counting_work("perf_counter"):
        table = build_table(space, 5, runs=1, warmup=0, rounds=1, networks=3, threads=2)
    assert table.clock == "wall" and table.threads == 2 and torch.get_num_threads() == threads
    assert table.error.percent < 1e-6


def test_a_table_by_the_real_clock():
    state = torch.get_rng_state()
    table = build_table(small("EE_B", resolutions=(16, 32)), 5, runs=3, rounds=2, networks=15)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        (table.rows.ms > 0).all()
        and (table.rows.iqr >= 0).all()
        and (table.check.measured > 0).all()
    )
    assert np.isfinite(table.error).all()


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"rounds": 0}, {"networks": 2}])
def test_too_small_budgets_are_refused(wrong):
    with pytest.raises(Refusal, match="give at least 1, 0, 1 and 3"):
        build_table(small("EE_B"), 5, **wrong)


def test_more_networks_than_the_space_has_are_refused(monkeypatch):
    space = small("BASE")
    monkeypatch.setattr(
        Space, "sample_genotypes", lambda self, n, rng, by: self.encode([self.smallest] * n)
    )
    with pytest.raises(Refusal, match="too few subnets to compare 4"):
        build_table(space, 5, networks=2)


# -------------------------------------------------------------------------------------------- files


def test_a_saved_table_comes_back_exactly(table, tmp_path, rng):
    save_table(tmp_path / "table.json", table)
    back = load_table(tmp_path / "table.json", small(table.space.name), 5)
    for field in dataclasses.fields(table):
        a, b = getattr(table, field.name), getattr(back, field.name)
        if isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b, check_exact=True)
        else:
            assert a == b
    X = genotypes(table.space, 20, rng)
    assert np.array_equal(table.latency(X), back.latency(X)) and back.error == table.error


def test_a_table_of_something_else_is_refused(tables, tmp_path):
    path = tmp_path / "table.json"
    save_table(path, tables["BASE"])
    for space, n_classes in (
        (small("SE_B"), 5),
        (small("BASE", resolutions=(16, 24)), 5),
        (small("BASE"), 6),
    ):
        with pytest.raises(
            Refusal, match=f"{re.escape(str(path))} was measured for .*BASE, 5 classes.*delete it"
        ):
            load_table(path, space, n_classes)


def test_a_table_of_another_machine_is_refused(tables, tmp_path):
    path, here = tmp_path / "table.json", latency.machine_of(torch.device("cpu"))
    save_table(path, tables["BASE"])
    assert load_table(path, small("BASE"), 5, here).device == here
    save_table(path, dataclasses.replace(tables["BASE"], device="cpu (another)"))
    assert load_table(path, small("BASE"), 5).device == "cpu (another)"  # to look at
    with pytest.raises(Refusal, match=r"measured on cpu \(another\), this is .*delete it"):
        load_table(path, small("BASE"), 5, here)


def test_latencies_of_another_machine_are_measured_again(tmp_path):
    space = small("BASE", widths=(1.0,))
    cell, X = Cell(tmp_path, "", "", {}), space.encode([space.smallest, space.largest])
    nets = Supernets(space, 5)
    first = scoring.latencies(nets, 1, cell)(X)
    assert np.array_equal(scoring.latencies(nets, 1, cell)(X), first)  # remembered
    path = tmp_path / "latencies.0.jsonl"
    here = latency.machine_of(torch.device("cpu"))
    path.write_text(path.read_text().replace(here, "cpu (another)"))
    again = scoring.latencies(nets, 1, cell)(X)
    assert not np.array_equal(again, first)
    assert np.array_equal(scoring.latencies(nets, 1, cell)(X), again)


def test_damaged_files_are_refused(tables, tmp_path):
    path = tmp_path / "table.json"
    with pytest.raises(Refusal, match="does not exist"):
        load_table(path, small("BASE"), 5)
    save_table(path, tables["BASE"])
    text = path.read_text()
    edited = json.loads(text)
    edited["rows"]["ms"][3] += 1
    older = json.loads(text) | {"format": 0}
    older["hash"] = files.hash_of({k: v for k, v in older.items() if k != "hash"})
    for wrong in (text[: len(text) // 2], "", json.dumps(edited), json.dumps(older), "[]", "{}"):
        path.write_text(wrong)
        with pytest.raises(
            Refusal, match=r"table\.json is (damaged|not valid JSON).*delete it and run again"
        ):
            load_table(path, small("BASE"), 5)
