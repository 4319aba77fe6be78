"""What a search returns: the non-dominated subnets of its last archive, on the test split."""

import numpy as np
import pandas as pd

from nat_lib import latency, machine
from nat_lib.cost import count
from nat_lib.distributed import gathered, ranks
from nat_lib.evaluate import prepare, score
from nat_lib.genotypes import as_text
from nat_lib.search import objectives
from nat_lib.search.objectives import OBJECTIVES
from nat_lib.search.pareto import front, high_tradeoff

RETURNED = 4  # subnets with a high trade-off (thesis 3.3.4)


def returned(run, nets, last, data):
    """The non-dominated subnets of the last archive on the test split, with all costs: DataFrame.
    Thesis 3.3.4.

    Test images are read here and nowhere else in a search.
    """
    of_front = np.flatnonzero(front(last.F))
    _, first = np.unique(run.space.active(last.X[of_front]), axis=0, return_index=True)
    of_front = of_front[np.sort(first)]
    X, F = last.X[of_front], last.F[of_front]
    knees = np.isin(np.arange(len(X)), _knees(F, run.cell.params))
    archs = run.space.decode(X)
    frame = pd.DataFrame(
        {
            "code": [as_text(x) for x in X],
            "front": True,
            "high_tradeoff": knees,
            "returned": knees,
            "resolution": [a.resolution for a in archs],
            "width": [a.width for a in archs],
            "exit": [a.exit for a in archs],
            **answering(run.space, archs),
            "val_top1": 100 - F[:, 0],
        }
    )
    rank, world = ranks()
    mine = machine.progress(archs[rank::world], f"{run.cell.name}, test")
    rows = gathered([tested(nets, arch, data, run.cell) for arch in mine])
    costs = count(X, run.space, run.n_classes).reset_index(drop=True)
    frame = pd.concat([frame, pd.DataFrame(rows), costs], axis=1)
    for name, values in zip(run.names[1:], F.T[1:], strict=True):
        if objectives.column(name) not in frame:
            frame[objectives.column(name)] = values * OBJECTIVES[name].scale
    return frame


def answering(space, archs):
    """{"exits": the exits that answer, joined by blanks}; nothing where each answers alone."""
    if len(space.votes) == len(space.exits):
        return {}
    return {"exits": [" ".join(map(str, a.answering)) for a in archs]}


def _knees(F, params):
    """Indices of the rows of a front that are returned: those of high trade-off, or the most
    accurate where accuracy is all."""
    if F.shape[1] == 1:
        return [0]
    reduce, normalise = params["tradeoff_reduce"], params["tradeoff_normalise"]
    return high_tradeoff(F, RETURNED, reduce=reduce, normalise=normalise)


def tested(nets, arch, data, cell):
    """Test scores of one subnet and its measured latency, as a dict."""
    params = cell.params
    size, runs = params["recipe"]["nat_eval_batch_size"], params["latency_runs"]
    network = prepare(nets, arch, data, arch.resolution)
    result = score(network, data.test_batches(arch.resolution, size, cell.name))
    speed = latency.measure(nets.extract(arch).eval(), arch.resolution, runs, runs)
    return {
        "test_top1": result.top1,
        "test_top5": result.top5,
        "test_loss": result.loss,
        "latency_ms": speed.ms,
        "latency_iqr": speed.iqr,
    }
