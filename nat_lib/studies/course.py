"""The course of a search in files: one per iteration, from which tables are made and a killed
search goes on."""

import numpy as np
import pandas as pd

from nat_lib import files
from nat_lib.errors import Refusal
from nat_lib.genotypes import as_text, from_text
from nat_lib.search import pareto
from nat_lib.search.archive import Iteration

# Of the adaptation of an iteration; seconds of one validation.
TIMED = ("epochs", "validations", "validation_seconds")


def save(cell, step, **more):
    """Leave the file of an iteration; `more`: what the tables say of it besides."""
    values = {
        "number": step.number,
        "codes": [as_text(x) for x in step.X],
        "F": step.F,
        "reference": step.reference,
        "hypervolume": step.hypervolume,
        "candidates": [as_text(x) for x in step.candidates],
        "predicted": step.predicted,
        "measured": step.measured,
        "predictor": step.predictor,
        "quality": step.quality,
    }
    learnt = {"state": step.state} if step.state else {}
    files.write_json(cell.path(f"iterations/{step.number:02d}.json"), values | learnt | more)


def paths(cell):
    """Files of the iterations, in order."""
    return sorted(cell.path("iterations").glob("[0-9]*.json"))


def finished(cell, space, m):
    """The iterations that a killed search has finished, in order.

    m : number of objectives;  a Refusal that names the first damaged file
    """
    found = []
    for number, path in enumerate(paths(cell)):
        try:
            step = _iteration(files.read_json(path), space, m)
        except (Refusal, KeyError, ValueError, TypeError, AttributeError):
            step = None
        if step is None or step.number != number:
            raise Refusal(
                f"{path} is damaged: delete it and every later one, the search goes on from the "
                "one before"
            )
        found.append(step)
    return found


def _iteration(row, space, m):
    """An iteration from its file's values, checked: legal genotypes, finite numbers."""
    X, F = space.genotypes(from_text(row["codes"])), pareto.points(row["F"])
    reference = np.array(row["reference"], float)
    if F.shape != (len(X), m) or reference.shape != (m,) or not (reference > 0).all():
        raise ValueError("objective values of another search")
    quality = {name: np.nan if v is None else v for name, v in row["quality"].items()}
    return Iteration(
        row["number"],
        X,
        F,
        reference,
        row["hypervolume"],
        from_text(row["candidates"]).reshape(-1, space.n_var),
        np.array(row["predicted"], float),
        np.array(row["measured"], float).reshape(-1, m),
        tuple(row["predictor"]),
        quality,
        {name: np.array(v, float) for name, v in row["state"].items()} if "state" in row else None,
    )


# ----------------------------------------------------------------------------------------- tables


def tables(cell, space, names, n):
    """{"iterations", "archive", "candidates": DataFrame} over the first n iterations.

    names : objectives, "acc" first
    """
    overview, archive, candidates, born = [], [], [], {}
    for path in paths(cell)[:n]:
        row = files.read_json(path)
        step = _iteration(row, space, len(names))
        born = {c: born.get(c, step.number) for c in row["codes"]}
        of_archive = {"iteration": step.number, "code": row["codes"], **columns(names, step.F)}
        archive.append(pd.DataFrame(of_archive | {"born": list(born.values())}))
        proposed = {"iteration": step.number, "code": row["candidates"]}
        proposed |= {"predicted": step.predicted, **columns(names, step.measured)}
        candidates.append(pd.DataFrame(proposed))
        overview.append(_overview(row, step, space))
    return {
        "iterations": pd.DataFrame(overview),
        "archive": pd.concat(archive),
        "candidates": pd.concat(candidates),
    }


def columns(names, F):
    """{column: values} of objective values F (n, M): the error, and each cost by its name."""
    return dict(zip(("error", *names[1:]), F.T, strict=True))


def _overview(row, step, space):
    """One line of iterations.csv."""
    return {
        "iteration": step.number,
        "hypervolume": step.hypervolume,
        "archive": len(step.X),
        "front": int(pareto.front(step.F).sum()),
        "candidates": len(step.candidates),
        **step.quality,
        "predictor": step.predictor[0],
        "note": step.predictor[1],
        "best_top1": 100 - step.F[:, 0].min(),
        "mean_top1": 100 - step.F[:, 0].mean(),
        "supernet_top1": row.get("supernet_top1"),
        **shares(space, step.X),
        "seconds": row["seconds"],
        **{key: row.get(key) for key in TIMED},
    }


def shares(space, X):
    """{"depth_2": ..., "exit_1": ...}: shares of depths among the active stages and of exits among
    the subnets."""
    archs = space.decode(X)
    depths = np.array([d for a in archs for d in a.depth[: a.exit]])
    exits = np.array([a.exit for a in archs])
    of_depths = {f"depth_{d}": float((depths == d).mean()) for d in space.depths}
    stages = range(1, space.n_stages + 1)
    return of_depths | {f"exit_{e}": float((exits == e).mean()) for e in stages}
