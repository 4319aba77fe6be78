"""Scores of many subnets of one supernet: what validation and reports look at."""

import numpy as np
import pandas as pd

from nat_lib import machine
from nat_lib.cost import count
from nat_lib.distributed import gathered, ranks
from nat_lib.evaluate import prepare, score_exits, score_many

KINDS = ("kernel", "level", "exit", "depth", "expand")
SEED = 937162211  # of the members that are drawn from a grid


def subset(members, n, seed=SEED):
    """n of the members (all of them if n is None), drawn once by seed, in their own order.

    The draw depends on their number alone, so all teachers and seeds are compared on the same ones.
    """
    if n is None or n >= len(members):
        return list(members)
    return [members[i] for i in sorted(np.random.default_rng(seed).permutation(len(members))[:n])]


def joint_score(network, batches, weights):
    """`Score` of a network of several exits in eval mode: top-1 and top-5 of their weighted sum, as
    loss the weighted sum of theirs."""
    vote, *each = score_exits(network, batches, weights)
    return vote._replace(loss=sum(w * s.loss for w, s in zip(weights, each, strict=True)))


def scored(net, archs, data, batches, weights=None):
    """(index, `Score`) of many subnets, in any order, BN recalibrated at their resolutions.

    batches : function of the resolution: (images, labels) batches
    weights : None: of its own exit; otherwise of all exits, which these weights join
    """
    if not weights:
        yield from score_many(net, archs, data, batches)
        return
    for i, arch in enumerate(archs):
        network = prepare(net, arch, data, arch.resolution, exits="all")
        yield i, joint_score(network, batches(arch.resolution), weights)


def mean_score(net, members, data, batch_size, weights=None):
    """(loss, top1, top5) on the validation split, averaged over the members; shared among processes
    when there are any."""
    rank, world = ranks()
    found = scored(
        net,
        members[rank::world],
        data,
        lambda resolution: data.eval_batches("val", resolution, batch_size),
        weights,
    )
    mine = [score for _, score in sorted(found)]
    columns = zip(*gathered(mine), strict=True)
    return tuple(sum(column) / len(members) for column in columns)


def test_rows(net, members, data, batch_size, name, weights=None):
    """One row per constant subnet: its choices, its scores on the test split, its exact cost."""
    rank, world = ranks()
    mine, rows = members[rank::world], []
    costs = count(mine, net.space, data.n_classes, exits=weights and "all").itertuples()
    found = scored(
        net,
        mine,
        data,
        lambda resolution: data.test_batches(resolution, batch_size, why=name),
        weights,
    )
    results = sorted(machine.progress(found, f"{name}, test grid", len(mine)))
    for arch, cost, (_, result) in zip(mine, costs, results, strict=True):
        slots = {kind: getattr(arch, kind) for kind in KINDS}
        rows.append(
            {
                "resolution": arch.resolution,
                **{k: v if isinstance(v, int) else v[0] for k, v in slots.items()},
                **{k: getattr(result, k) for k in ("top1", "top5", "loss")},
                **{k: int(getattr(cost, k)) for k in ("params", "macs", "macs_tp")},
            }
        )
    return pd.DataFrame(gathered(rows))
