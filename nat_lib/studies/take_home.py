"""Is a search worth it?  What a person would do instead, on the same images, with the same recipe.

A search is judged per seed: of those that the parameters name, the one with the subnet that is best
on the validation split.  Beside it stand hand-made networks (`baselines`), trained
for a share of what supernet and search took, and of the same supernets the uniformly scaled subnets
and the best of as many random ones as the search scored.
Source of the uniform family: compound scaling, arXiv:1905.11946.
"""

import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from torch.nn.functional import cross_entropy

from nat_lib import backbones, baselines, cells, files, ledger, machine
from nat_lib.arch import Space
from nat_lib.cells import open_cell, read_report
from nat_lib.cost import count
from nat_lib.evaluate import fold, prepare, score
from nat_lib.optimizers import sgd
from nat_lib.recipes import MOMENTUM, RECIPES
from nat_lib.search.archive import VERSIONS, sample
from nat_lib.search.compound import family
from nat_lib.search.pareto import front
from nat_lib.studies import inputs, scoring, searches
from nat_lib.studies.alone import train_alone
from nat_lib.studies.budgets import BUDGETS
from nat_lib.supernet import Supernets
from nat_lib.train import epochs

STUDY = "take_home"
ORIGINS = ("start", "source", "parent", "maximal")  # parameters that name the cells it came from
TIMED = 8  # steps from which the seconds of an epoch are estimated


# ------------------------------------------------------------------------------------ the searches


def judged(params, data, out):
    """Folders of the searches to be judged, one per seed: {seed: folder}."""
    best = {}
    for supernet, phase, text, seed in searches.selected(params):
        folder = (
            Path(out) / searches.STUDY / searches.cell_name(data.name, supernet, phase, text, seed)
        )
        if "macs" in text.split("+") and (folder / "report.json").is_file():
            quality = read_report(folder)["metrics"]["best_top1"]
            best[seed] = max(best.get(seed, (0.0, folder)), (quality, folder))
    return {seed: folder for seed, (_, folder) in best.items()}


def lineage(out, folder):
    """Reports of a search and of all that it came from, the search first."""
    known = {}
    for path in Path(out).rglob("report.json"):
        report = read_report(path.parent)
        known[report.get("hash")] = report
    found, left = {}, [read_report(folder)]
    while left:
        report = left.pop(0)
        found[report["hash"]] = report
        for name in ORIGINS:
            value = report["params"].get(name) or []
            hashes = [value] if isinstance(value, str) else value
            left += [known[key] for key in hashes if key in known and key not in found]
    return list(found.values())


# ----------------------------------------------------------------------------------- the baselines


def run(params, data, out):
    """Train every baseline, score every uniform family and random search; returns nothing."""
    for seed, folder in judged(params, data, out).items():
        run_uniform(folder, data, out)
        if params["worth_random"]:
            run_random(folder, data, out)
        whole = lineage(out, folder)
        for kind in params["worth_budgets"]:
            budget = BUDGETS[kind].amount(whole, params["worth_take"])
            for text in params["worth_baselines"]:
                run_baseline(params, folder, text, kind, budget, seed, data, out)


def run_baseline(params, folder, text, kind, budget, seed, data, out):
    """Train one baseline for a budget of one kind; the report of its cell."""
    report, name = read_report(folder), f"{Path(folder).name}/{text.replace(':', '_')}_{kind}"
    p, side = report["params"], max(report["params"]["space"]["resolutions"])
    network, wanted = baselines.parsed(text)
    wanted = _best(folder).macs if wanted == baselines.MATCH else wanted
    width = baselines.scaled(network, wanted, data.n_classes, side)[0] if wanted else 1.0
    values = {
        "dataset": data.name,
        "search": report["hash"],
        "baseline": text,
        "network": network,
        "width": width,
        "n_classes": data.n_classes,
        "size": side,
        "seed": seed,
        "kind": kind,
        "budget": budget,
        "most_epochs": params["worth_most_epochs"],
        "batch_size": p["recipe"]["nat_batch_size"],
        "recipe": RECIPES[params["recipe"]]._asdict() | {"recipe": params["recipe"]},
        "data": inputs.identity(data),
        "profile": params["profile"],
    }
    cell = open_cell(out, STUDY, f"{data.name}/{name}", values, __name__)
    return cells.compute(cell, partial(_baseline, cell, data), drops=("epochs.json",))


def _best(folder):
    """The row of the returned subnet that is best on the validation split."""
    table = pd.read_csv(Path(folder) / "subnets.csv")
    return table.loc[table.val_top1.idxmax()]


def _baseline(cell, data):
    """Train and score a baseline; the metrics of its cell."""
    p = cell.params
    recipe, shape = RECIPES[p["recipe"]["recipe"]], (p["network"], p["n_classes"], p["size"])
    macs = baselines.macs(*shape, p["width"])
    n_epochs = _epochs_of(cell, data, macs)
    made = baselines.build(*shape, p["width"], p["seed"])
    asked = p["size"], n_epochs, recipe, p["batch_size"], p["seed"]
    network = train_alone(made, *asked, data, cell)
    network, size = fold(network), p["batch_size"]
    val = score(network, data.eval_batches("val", p["size"], size))
    test = score(network, data.test_batches(p["size"], size, cell.name))
    told = baselines.BASELINES[p["network"]].label
    whole = backbones.cost_of_whole(baselines.build(*shape, p["width"]), p["size"])
    return {
        "label": told if p["width"] == 1.0 else f"{told} at {macs / 1e6:.2g} M MACs",
        "epochs": n_epochs,
        **whole._asdict(),
        "val_top1": val.top1,
        "test_top1": test.top1,
        "n_test": len(data.rows["test"]),
    }


def _epochs_of(cell, data, macs):
    """For how many epochs a budget is enough; what a resumed run has measured once, it keeps."""
    place, budget = cell.path("epochs.json"), cell.params["budget"]
    if place.is_file():
        return files.read_json(place)
    if "cost" in budget:
        affordable = budget["cost"] / (ledger.TRAINING * macs * len(data.rows["train"]))
    else:
        affordable = budget["seconds"] / _seconds_of_an_epoch(cell, data)
    found = min(max(1, round(affordable)), cell.params["most_epochs"])
    files.write_json(place, found)
    return found


def _seconds_of_an_epoch(cell, data):
    """Processor seconds of one epoch, from a few steps."""
    p = cell.params
    network = baselines.build(p["network"], p["n_classes"], p["size"], p["width"]).to(data.device)
    batches, n_batches = epochs(data, p["batch_size"], [p["size"]], p["seed"])
    optimizer, times = sgd(network, 0.0, MOMENTUM), [time.process_time()]
    for x, y in islice(batches(0), TIMED):
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()
        times.append(time.process_time())
    later = times[len(times) // 4 :]  # the first steps prepare themselves
    return (later[-1] - later[0]) / max(1, len(later) - 1) * n_batches


# --------------------------------------------------- subnets of the same supernets, not searched


def run_uniform(folder, data, out):
    """Score the uniformly scaled subnets of a search's last supernets; the report of the cell."""
    return _run_subnets("uniform", folder, data, out, _uniform)


def run_random(folder, data, out):
    """Score as many random subnets of a search's last supernets as the search scored, and test
    their front; the report of the cell."""
    return _run_subnets("random", folder, data, out, _random)


def _run_subnets(name, folder, data, out, choose):
    """choose(space, report, scores) -> the archs that are tested; scores(X) -> errors (n,) on the
    validation split."""
    report = read_report(folder)
    values = {"dataset": data.name, "search": report["hash"], "seed": report["seed"]}
    values |= {"data": inputs.identity(data), "profile": report["params"]["profile"]}
    cell = open_cell(out, STUDY, f"{data.name}/{Path(folder).name}/{name}", values, __name__)
    weights = Path(folder) / "supernets.safetensors"
    work = partial(_subnets, cell, report, weights, data, choose)
    return cells.compute(cell, work, {"search": weights})


def _subnets(cell, report, weights, data, choose):
    """Choose subnets, score and test them; the metrics of the cell."""
    p = report["params"]
    space, size = Space.from_dict(p["space"]), p["recipe"]["nat_eval_batch_size"]
    nets = Supernets(space, p["n_classes"])
    nets.load_state_dict(files.load_weights(weights))
    nets.to(data.device)
    memory = scoring.error_memory(cell)

    def scores(X):
        return scoring.errors(nets, X, scoring.NO_WEIGHTS, memory, data, size)

    archs = choose(space, report, scores)
    codes = space.encode(archs)
    tops, rows = 100 - scores(codes), []
    costs = count(codes, space, p["n_classes"]).to_dict("records")
    of_each = zip(archs, tops, costs, strict=True)
    for arch, top, cost in machine.progress(of_each, f"{cell.name}, test", len(archs)):
        network = prepare(nets, arch, data, arch.resolution)
        test = score(network, data.test_batches(arch.resolution, size, cell.name))
        rows.append(cost | {"val_top1": top, "test_top1": test.top1})
    return {"rows": rows, "n_test": len(data.rows["test"]), "scored": len(memory.known)}


def _uniform(space, report, scores):
    return family(space, report["params"]["n_classes"])


def _random(space, report, scores):
    """The front, in error and MACs, of random subnets drawn like a first archive."""
    p, n = report["params"], report["metrics"]["evaluations"]
    version, ends = VERSIONS[p["phase"]], np.stack([space.lower, space.upper])
    rng = machine.stream(p["seed"], "random search beside", 0)
    X = np.concatenate([ends, sample(space, version, n - len(ends), ends, rng, p["depth_prior"])])
    macs = count(X, space, p["n_classes"]).macs.to_numpy(float)
    on_front = front(np.column_stack([scores(X), macs]))
    return space.decode(X[on_front])
