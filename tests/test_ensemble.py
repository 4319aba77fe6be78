"""Subnets whose exits vote: genotype, network, cost, search, export (thesis, chapter 7)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from test_nat import folder, searched

from nat_lib.arch import Arch, Space
from nat_lib.cost import count, layers
from nat_lib.errors import Refusal
from nat_lib.evaluate import evaluate, prepare, score, score_many
from nat_lib.exit_weights import DESC5
from nat_lib.export import load_subnet
from nat_lib.export.sources import from_search
from nat_lib.studies.post import attached
from nat_lib.supernet import Supernet

SINGLE = Space("EE_D", (16, 20), (1.0,), (8, 8, 16, 24, 32, 40))
VOTING = replace(SINGLE, answers="DESC")


def drawn(n, seed=0):
    return VOTING.sample(n, np.random.default_rng(seed), "architecture")


def test_the_genotype_names_any_set_of_exits():
    assert len(VOTING.votes) == 31 and VOTING.size * 5 == SINGLE.size * 31
    assert VOTING.votes[0] == (1,) and VOTING.votes[-1] == (1, 2, 3, 4, 5)
    assert VOTING.votes[0b10110 - 1] == (2, 3, 5)
    archs = drawn(200)
    X = VOTING.encode(archs)
    assert VOTING.decode(X) == archs and len({a.answering for a in archs}) > 25
    last = [VOTING.votes[x[2]][-1] for x in X]
    assert [a.exit for a in archs] == last
    assert np.array_equal(VOTING.active(X), VOTING.active(VOTING.encode(VOTING.decode(X))))


def test_a_predictor_sees_which_exits_answer():
    archs = drawn(50)
    Z = VOTING.features(VOTING.encode(archs))
    assert Z.shape == (50, VOTING.n_var - 1 + 5)
    wanted = [[e in arch.answering for e in VOTING.exits] for arch in archs]
    assert np.array_equal(Z[:, -5:], wanted)
    assert SINGLE.features(SINGLE.encode([SINGLE.arch()])).shape == (1, SINGLE.n_var)


def test_what_lies_behind_the_last_exit_has_no_effect():
    arch = VOTING.arch(exit=2, also=(1,))
    other = replace(arch, kernel=(*arch.kernel[:8], *[3] * 12))
    assert arch.canonical() == other.canonical() != VOTING.arch(exit=2).canonical()
    X = VOTING.active(VOTING.encode([arch, other]))
    assert np.array_equal(X[0], X[1])


def test_values_go_to_json_and_back_and_single_exits_as_before():
    arch = VOTING.arch(exit=5, also=(2, 3))
    assert Arch.from_dict(arch.to_dict()) == arch
    assert Space.from_dict(VOTING.to_dict()) == VOTING != SINGLE
    assert "also" not in SINGLE.arch().to_dict() and "answers" not in SINGLE.to_dict()
    assert Arch.from_dict(SINGLE.arch().to_dict()) == SINGLE.arch()


@pytest.mark.parametrize("also", [(3, 2), (5,), (2, 2), (6,)])
def test_sets_that_are_none_are_refused(also):
    with pytest.raises(Refusal, match="ascending exits before exit 5"):
        VOTING.arch(exit=5, also=also)
    with pytest.raises(Refusal, match="answering exits"):
        SINGLE.arch(exit=5, also=(1,))


def test_the_answer_is_the_weighted_vote_and_the_extracted_network_gives_it():
    net = Supernet(VOTING, 1.0, 10, seed=0).eval()
    x = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    for arch in drawn(12):
        logits = net(x, arch, exits=arch.answering)
        mine = np.array([DESC5[e - 1] for e in arch.answering])
        wanted = sum(w * z for w, z in zip(mine / mine.sum(), logits, strict=True))
        assert torch.allclose(net(x, arch), wanted, atol=1e-5)
        assert torch.allclose(net.extract(arch)(x), wanted, atol=1e-5)


def test_costs_are_those_of_the_extracted_network_heads_included():
    net = Supernet(VOTING, 1.0, 10)
    archs = drawn(40, seed=1)
    listed, coded = count(archs, VOTING, 10), count(VOTING.encode(archs), VOTING, 10)
    pd.testing.assert_frame_equal(listed, coded)
    for arch, params, macs, macs_tp in zip(archs, *listed.to_numpy().T, strict=True):
        network = net.extract(arch)
        assert params == sum(p.numel() for p in network.parameters())
        table = layers(arch, VOTING, 10)
        assert (macs, macs_tp) == (table.macs.sum(), table.macs_tp.sum())
        assert set(network.exits) == set(map(str, arch.answering))


def test_a_vote_of_one_costs_and_scores_as_the_single_exit(digits):
    net = Supernet(VOTING, 1.0, digits.n_classes, seed=1)
    alone = Supernet(SINGLE, 1.0, digits.n_classes, seed=1)
    for exit in VOTING.exits:
        a, b = VOTING.arch(exit=exit), SINGLE.arch(exit=exit)
        assert evaluate(net, a, digits, 32)[1:] == evaluate(alone, b, digits, 32)[1:]


def test_scores_of_many_are_those_of_one(digits):
    net = Supernet(VOTING, 1.0, digits.n_classes, seed=1)
    archs = [a for a in drawn(60) if a.exit <= 3][:8]
    archs += [replace(archs[0], also=()), replace(archs[0], also=(), exit=1)]

    def batches(side):
        return digits.eval_batches("val", side, 32)

    for i, found in score_many(net, archs, digits, batches):
        network = prepare(net, archs[i], digits, archs[i].resolution)
        assert found.top1 == score(network, batches(archs[i].resolution)).top1


@pytest.fixture(scope="module")
def digits():
    from nat_lib import data

    return data.load("digits", train_images=120, val_images=60, test_images=40)


def test_post_processing_trains_the_exits_that_vote():
    arch = VOTING.arch(exit=4, also=(2,))
    exits, losses, votes = attached(VOTING, arch, "std", None)
    assert exits == (2, 4) and losses == votes == VOTING.vote((2, 4))
    assert attached(SINGLE, SINGLE.arch(exit=4), "std", None) == ((4,), (1.0,), (1.0,))


# ---------------------------------------------------------------------------------------- searched


@pytest.fixture(scope="module")
def found(searching, tmp_path_factory):
    """(outputs folder, the cell's folder) of a search of phase 4 whose subnets vote."""
    out = tmp_path_factory.mktemp("voting")
    searched(searching, out, 4, exits="ensemble")
    return out, folder(out, 4)


def test_a_search_finds_sets_of_exits_and_says_which(found):
    subnets = pd.read_csv(found[1] / "subnets.csv", dtype={"exits": str})
    assert all(int(e.split()[-1]) == x for e, x in zip(subnets.exits, subnets.exit, strict=True))
    archive = pd.read_csv(found[1] / "archive.csv")
    assert (archive.code.str.split().str[2].astype(int) > 4).any()


def test_a_finished_search_is_found_and_a_single_one_is_another(found, searching):
    out, _ = found
    once, again = (searched(searching, out, 4, exits="ensemble") for _ in range(2))
    assert once == again and once["params"]["space"]["answers"] == "DESC"


def test_it_is_exported_with_its_votes_and_stops_early(found, searching, tmp_path):
    _, data, _ = searching
    subnets = pd.read_csv(found[1] / "archive.csv")
    code = next(c for c in subnets.code if int(c.split()[2]) == 30)
    from_search(found[1], code, tmp_path / "net", data)
    network = load_subnet(tmp_path / "net")
    assert network.positions == (1, 2, 3, 4, 5)
    assert network.votes == pytest.approx(DESC5)
    assert network.card["early"] and (tmp_path / "net" / "subnet_early.onnx").exists()
    macs = network.card["early"]["macs"]
    assert all(a < b for a, b in pairwise(macs))
