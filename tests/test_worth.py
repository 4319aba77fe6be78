"""A search is judged against what a person would do: at equal MACs, at equal cost, with an
interval."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny

from nat_lib import baselines, ledger, studies
from nat_lib.arch import Space
from nat_lib.browser import table
from nat_lib.browser.handmade import handmade
from nat_lib.cells import read_report
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.export.sources import finished, from_search, recommended
from nat_lib.report import worth as drawn
from nat_lib.results import worth
from nat_lib.search.compound import diagonal, family
from nat_lib.studies import searches, take_home
from nat_lib.studies.budgets import BUDGETS

FRONT = ((1e5, 50.0), (1e6, 60.0), (4e6, 70.0))  # MACs, test top-1


def points(*baselines, seeds=3, spread=0.2, kind="baseline"):
    """A search per seed and baselines (label, MACs, top-1) beside it; both vary over seeds."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        shared = {"search": f"s{seed}", "seed": seed, "n_test": 10_000, "budget": "core"}
        for macs, top in FRONT:
            told = {"kind": "search", "label": "EE_D", "val_top1": top, "macs": macs}
            rows.append(shared | told | {"test_top1": top + rng.normal(0, spread)})
        for label, macs, top in baselines:
            told = {"kind": kind, "name": f"{label} {macs}", "label": label, "macs": macs}
            told |= {"val_top1": top, "budget": "core" if kind == "baseline" else ""}
            rows.append(shared | told | {"test_top1": top + rng.normal(0, spread)})
    return pd.DataFrame(rows).reindex(columns=worth.COLUMNS)


def test_a_search_beats_ties_and_loses():
    judged = worth.differences(
        points(("weak", 1e6, 55.0), ("same", 1e6, 60.0), ("strong", 4e6, 75))
    )
    assert dict(zip(judged.label, judged.verdict, strict=True)) == {
        "weak": "beats",
        "same": "ties with",
        "strong": "loses to",
    }
    weak = judged.iloc[0]
    assert weak.low < 5 < weak.high and weak.seeds == 3 and weak.high - weak.low < 2
    told = worth.sentence(points(("weak", 1e6, 55.0), ("strong", 4e6, 75.0)))
    assert told.startswith("The search loses to the best baseline at equal MACs (strong, 4.00 M")
    assert ("by 5." in told or "by 4." in told) and told.endswith("its subnet has 4.00 M MACs.")


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_search_that_is_the_baseline_itself_ties(seeds):
    same = points(seeds=seeds)
    copy = same.assign(kind="baseline", label="itself", name=same.macs.astype(str))
    judged = worth.differences(pd.concat([same, copy], ignore_index=True))
    assert set(judged.verdict) == {"ties with"} and (judged.difference == 0).all()


def test_the_search_is_read_by_validation_and_at_most_the_macs():
    table = pd.DataFrame({"macs": [1, 2, 3], "val_top1": [5, 9, 7], "test_top1": [1, 2, 3]})
    assert [worth.at_most(table, m).test_top1 for m in (1, 2, 3, 9)] == [1, 2, 2, 2]
    assert worth.at_most(table, 0.5) is None
    found = worth.front(points())
    assert found.at_most.tolist() == [m for m in worth.AT if m >= 1e5]
    assert found.macs.tolist() == [1e5, 1e5, 1e6, 1e6, 4e6, 4e6]


def test_a_baseline_below_all_subnets_is_not_judged_and_nothing_is_said_plainly():
    assert worth.differences(points(("tiny", 1e4, 90.0))).empty
    assert "not judged" in worth.sentence(points(("tiny", 1e4, 90.0)))
    assert "Nothing was searched" in worth.sentence(points(seeds=0))


def test_uniform_subnets_are_judged_one_by_one():
    some = points(("uniform", 1e6, 55.0), ("uniform", 4e6, 70.0), kind="uniform")
    judged = worth.differences(some, "uniform")
    assert judged.macs.tolist() == [1e6, 4e6] and judged.seeds.tolist() == [3, 3]
    assert judged.verdict.tolist() == ["beats", "ties with"]


def test_a_baseline_that_is_scaled_to_each_search_is_one_of_several_seeds():
    some = points(("ResNet-8", 1e6, 55.0))
    there = some.kind == "baseline"
    scaled = some.assign(macs=some.macs + there * 1e4 * some.seed)
    scaled.loc[there, "label"] = "ResNet-8 at " + scaled.macs[there].astype(str)
    judged = worth.differences(scaled).iloc[0]
    assert judged.seeds == 3 and judged.macs == 1.01e6 and judged.verdict == "beats"


def test_what_a_start_gives_is_paired_by_seed():
    ours, theirs = points(seeds=3, spread=0.0), points(seeds=3, spread=0.0)
    theirs.loc[theirs.val_top1 == 70, "test_top1"] += [4.0, 5.0, 6.0]
    found = worth.gains({"scratch": (ours, 1e9), "lite0": (theirs, 2e9)})
    assert found.start.tolist() == ["scratch", "lite0"] and found.cost.tolist() == [1e9, 2e9]
    assert found.gain.isna().tolist() == [True, False] and found.gain[1] == pytest.approx(5.0)
    assert found.low[1] == pytest.approx(5 - 4.303 / 3**0.5, abs=1e-3)  # Student, two degrees
    once = worth.gains({"scratch": (ours, 0), "one": (theirs[theirs.seed == 1], 0)})
    assert once.pairs[1] == 1 and once.low[1] < 5 < once.high[1]
    assert worth.gains({"nothing yet": (ours.iloc[:0], 0)}).seeds.tolist() == [0]


def test_the_figure_shows_every_point():
    some = points(("ResNet-8", 1e6, 55.0), seeds=2)
    figure = drawn.front(some)
    assert len(figure.rows) == len(some) and len(figure.axes) == 2
    assert len(drawn.front(some.iloc[:0]).axes) == 1
    whole = some[some.kind == "baseline"].assign(budget="whole")
    both = drawn.front(pd.concat([some, whole], ignore_index=True))
    told = [text.get_text() for text in both.legends[0].get_texts()]
    assert "ResNet-8, whole of the ledger cost" in told and len(told) == 3


@pytest.mark.parametrize(
    "text", ["resnet9", "resnet8:", "resnet8:big", "resnet8:0", "resnet8:-1", "resnet8:nan", ""]
)
def test_a_baseline_that_is_none_is_told(text):
    with pytest.raises(Refusal, match="is not one of resnet8"):
        baselines.parsed(text)


def test_how_baselines_are_written():
    assert baselines.parsed("resnet20") == ("resnet20", None)
    assert baselines.parsed("resnet8:2e6") == ("resnet8", 2e6)
    assert baselines.parsed("resnet8:match") == ("resnet8", baselines.MATCH)


def test_narrow_baselines_train_without_writing_beyond_their_memory():
    for width in (0.2, 0.34):
        network = baselines.build("resnet8", 5, 32, width).train()
        x = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            network(x).square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("name, widths", [("BASE", (1.0,)), ("EE_DP", (1.0, 1.2))])
def test_the_uniform_family_ascends(name, widths):
    space = Space(name, (24, 28, 32), widths)
    members = family(space, 10)
    macs = count(members, space, 10).macs.to_numpy()
    assert (np.diff(macs) > 0).all() and len(members) >= 3
    assert set(members) <= set(diagonal(space)) and len(diagonal(space)) >= len(members)
    assert members[0].depth[0] == 2 and members[-1].depth[0] == 4


def test_what_a_budget_is():
    whole = [{"seconds": 30.0, "cost": 6e9}, {"seconds": 10.0, "cost": None}]
    found = {kind: row.amount(whole, 4) for kind, row in BUDGETS.items()}
    assert found == {"core": {"seconds": 10.0}, "share": {"cost": 1.5e9}, "whole": {"cost": 6e9}}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(parameters, outputs) of a tiny supernet, its search, and what stands beside it."""
    out = tmp_path_factory.mktemp("worth")
    changes = {
        "supernets": {"1.0": ["EE_D"], "1.2": []},
        "nat_supernets": {"1": ["EE_D"], "2": [], "3": [], "4": []},
        "searches": {"1": ["acc+macs"], "2": [], "3": [], "4": []},
        "worth_baselines": ["resnet8:1e5", "resnet8:match"],
        "worth_budgets": ["core", "share", "whole"],
        "worth_most_epochs": 30,
    }
    studies.run("ofav2_eps", tiny("ofav2_eps", **changes), out)
    studies.run("natv2_phases", tiny("natv2_phases", **changes), out)
    params = tiny("take_home", **changes)
    studies.run("take_home", params, out)
    return params, out


def test_baselines_cost_what_their_budget_says(judged):
    params, out = judged
    reports = [read_report(p.parent) for p in out.glob("take_home/*/*/resnet8*/report.json")]
    assert len(reports) == 6
    folders = take_home.judged(params, searches.load_target(params), out)
    whole = sum(r["cost"] for r in take_home.lineage(out, folders[0]))
    for report in reports:
        p, m = report["params"], report["metrics"]
        epoch = ledger.TRAINING * m["macs"] * p["data"]["sizes"]["train"]
        assert 1 <= m["epochs"] <= 30
        if "cost" in p["budget"]:
            assert p["budget"]["cost"] == pytest.approx(whole / (1 if p["kind"] == "whole" else 4))
            if 1 < m["epochs"] < 30:
                assert abs(m["epochs"] * epoch - p["budget"]["cost"]) <= 0.51 * epoch
        scoring = m["macs"] * (p["data"]["sizes"]["val"] + m["n_test"])
        assert report["cost"] == m["epochs"] * epoch + scoring


def test_everything_that_was_made_is_a_point(judged):
    params, out = judged
    data = searches.load_target(params)
    folders = take_home.judged(params, data, out)
    found = worth.points(out, data.name, folders)
    assert set(found.kind) == {"search", "uniform", "random", "baseline"}
    tried = read_report(out / "take_home" / data.name / folders[0].name / "random")
    searched = read_report(folders[0])["metrics"]["evaluations"]
    assert 0.9 * searched <= tried["metrics"]["scored"] <= searched  # no subnet twice
    front = found[found.kind == "random"].sort_values("macs")
    assert (np.diff(front.macs) > 0).all() and (np.diff(front.val_top1) > 0).all()
    assert len(worth.differences(found, "random")) == len(worth.read_at(found, "random"))
    assert (found.kind == "baseline").sum() == 6 and found.test_top1.between(0, 100).all()
    subnets = pd.read_csv(folders[0] / "subnets.csv")
    best = subnets.loc[subnets.val_top1.idxmax()]
    matched = found[found.label.str.startswith("ResNet-8 at")].macs
    assert (np.abs(np.log(matched / best.macs)) < 0.7).any()
    assert worth.sentence(found).startswith("The search ")
    assert worth.starts(take_home.lineage(out, folders[0])) == ["random weights"]
    beside = handmade(out, table.load(out))
    assert set(beside.label) == {
        f"{row.label}, {BUDGETS[row.budget].words}"
        for row in found[found.kind == "baseline"].itertuples()
    }
    assert (beside.macs > found[found.kind == "baseline"].macs.to_numpy() / 1e6).all()
    before = {p: p.read_bytes() for p in out.rglob("take_home/**/report.json")}
    studies.run("take_home", params, out)
    assert before == {p: p.read_bytes() for p in out.rglob("take_home/**/report.json")}
    assert all(json.loads(blob)["metrics"] for blob in before.values())


def test_the_card_of_a_network_says_what_stands_beside_it(judged, tmp_path):
    params, out = judged
    folder = take_home.judged(params, searches.load_target(params), out)[0]
    code = recommended(finished(folder))
    from_search(folder, code, tmp_path / "net", searches.load_target(params))
    told = json.loads((tmp_path / "net" / "subnet.json").read_text())["worth"]
    assert told == worth.sentence(worth.points(out, "digits_turned", {0: folder}))
    card = (tmp_path / "net" / "README.md").read_text()
    assert "## Beside networks made by hand" in card and told.split(" (")[0] in card
