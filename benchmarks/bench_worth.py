"""Row 12: what a search found beside what a person would train by hand, on the same images.

Reads a finished search of a supernet that was trained on the same data set (warm_up=none), trains
hand-made networks with the same recipe, and prints test top-1 at equal MACs.  A baseline gets

core   : the processor seconds of supernet and search, divided by the networks that are taken
ledger : their ledger cost, divided likewise
whole  : all of the processor seconds

    python benchmarks/bench_worth.py OUT SEARCH [--baselines resnet8 resnet8:2e6] [--budgets core]
        [--take 4] [--json PATH]

OUT    : outputs folder, e.g. outputs/own;  SEARCH : a cell in it, e.g.
         natv2_phases/folder/EE_D_p4_acc+macs_s0
`resnet8:2e6` is a ResNet-8 whose channels are scaled to 2e6 MACs.
"""

import json
import time
from argparse import ArgumentParser
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from nat_lib import baselines, ledger, machine
from nat_lib.cells import compute, open_cell, read_report
from nat_lib.evaluate import fold, score
from nat_lib.exits import joint
from nat_lib.optimizers import sgd
from nat_lib.recipes import MOMENTUM, RECIPES
from nat_lib.run.params import load_profile
from nat_lib.schedules import OneCycle
from nat_lib.studies import inputs
from nat_lib.train import epochs, fit

MACS = (0.25e6, 0.5e6, 1e6, 2e6, 5e6, 12e6)  # at which the front is read
RECIPE = RECIPES["short"]
LR = 8e-2  # of the one stage, for the recipe's rate
BUDGETS = ("core", "ledger", "whole")
TIMED = 8  # steps from which the seconds of an epoch are estimated


def cells_of(out, search):
    """Reports of a search and of all that it started from."""
    reports = {r["hash"]: r for p in out.rglob("report.json") if (r := read_report(p.parent))}
    found, left = [], [read_report(out / search)]
    while left:
        report = left.pop()
        found.append(report)
        names = ("start", "source", "parent", "maximal")
        hashes = [report["params"].get(name) or [] for name in names]
        flat = [h for value in hashes for h in (value if isinstance(value, list) else [value])]
        left += [reports[h] for h in flat if h in reports]
    return list({r["hash"]: r for r in found}.values())


def front(table, macs):
    """The subnet of at most so many MACs that is best on the validation split, as a row."""
    fitting = table[table.macs <= macs]
    return fitting.loc[fitting.val_top1.idxmax()] if len(fitting) else None


def train(cell, network, data, size, n_epochs, batch_size, seed):
    """Train a hand-made network for so many epochs; test top-1 of its last weights."""

    def work():
        machine.seed_all(seed)
        batches, n_batches = epochs(data, batch_size, [size], seed)
        schedule = OneCycle(RECIPE.lr(LR, batch_size), n_epochs)
        losses = joint(lambda x: [network(x)], [1.0], None, RECIPE.smoothing, network)
        optimizer = sgd(network, RECIPE.decay, MOMENTUM)
        began = time.process_time()
        clip = RECIPE.clip
        fit(
            *(network, losses, batches, None, schedule, optimizer, n_batches, cell),
            clip_value=clip,
            say=cell.name,
        )
        seconds = time.process_time() - began
        result = score(fold(network), data.test_batches(size, 256, cell.name))
        return {"test_top1": result.top1, "core_seconds": seconds, "epochs": n_epochs}

    return compute(cell, work)


def seconds_of_an_epoch(network, data, size, batch_size):
    """Processor seconds, from a few steps."""
    batches, n_batches = epochs(data, batch_size, [size], 0)
    optimizer, losses = sgd(network, 0.0), joint(lambda x: [network(x)], [1.0], None, 0.1, network)
    steps = iter(batches(0))
    for step, (x, y) in enumerate(islice(steps, TIMED + 2)):
        if step == 2:
            began = time.process_time()
        optimizer.zero_grad()
        for loss, _ in losses(x, y, step):
            loss.backward()
    return (time.process_time() - began) / TIMED * n_batches


def loaded(p, data_dir):
    """The images of a search, augmented as the recipe says."""
    changes = {f"{part}_images": n for part, n in p["data"]["sizes"].items()}
    changes |= {key: p["recipe"][key] for key in ("train_resolutions", "eval_resolutions")}
    return inputs.load_data(
        load_profile("own", changes | {"data_dir": data_dir}) | {"device": "cpu"}
    )


def rows_of_search(path):
    """What the search found at each of MACS."""
    table = pd.read_csv(path)
    found = {macs: front(table, macs) for macs in MACS}
    return [
        {"what": "search", "at": macs, "macs": int(best.macs), "test_top1": best.test_top1}
        for macs, best in found.items()
        if best is not None
    ]


def row_of_baseline(text, kind, budget, out, data, p):
    """Train a baseline for a budget; its row."""
    (name, _, wanted), n_classes = text.partition(":"), data.n_classes
    size, batch, seed = max(p["space"]["resolutions"]), p["recipe"]["nat_batch_size"], p["seed"]
    width = baselines.scaled(name, float(wanted), n_classes, size)[0] if wanted else 1.0
    macs = baselines.macs(name, n_classes, size, width)
    epoch = macs * len(data.rows["train"]) * ledger.TRAINING
    if kind != "ledger":
        network = baselines.build(name, n_classes, size, width)
        epoch = seconds_of_an_epoch(network, data, size, batch)
    n_epochs = max(1, round(budget / epoch))
    values = {"width": width, "epochs": n_epochs, "seed": seed, "size": size}
    values |= {"recipe": RECIPE._asdict(), "data": p["data"], "batch_size": batch}
    cell = open_cell(out, "worth", f"{data.name}/{text}_{kind}_s{seed}", values)
    network = baselines.build(name, n_classes, size, width, seed)
    metrics = train(cell, network, data, size, n_epochs, batch, seed)["metrics"]
    return {"what": f"{text}, {kind}", "at": macs, "macs": macs, **metrics}


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("search")
    parser.add_argument("--baselines", nargs="+", default=["resnet8", "resnet8:2e6"])
    parser.add_argument("--budgets", nargs="+", default=["core"], choices=BUDGETS)
    parser.add_argument("--take", type=int, default=4)
    parser.add_argument("--data-dir")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    p, whole = read_report(given.out / given.search)["params"], cells_of(given.out, given.search)
    for report in whole:
        name = f"{report['study']}/{report['name']}"
        print(f"{name}: {report['seconds']:.0f} s, ledger {report['cost']:.3g}")
    seconds, cost = (sum(report[key] for report in whole) for key in ("seconds", "cost"))
    budgets = dict(zip(BUDGETS, (seconds / given.take, cost / given.take, seconds), strict=True))
    data = loaded(p, given.data_dir)
    rows = rows_of_search(given.out / given.search / "subnets.csv")
    for text in given.baselines:
        for kind in given.budgets:
            rows.append(row_of_baseline(text, kind, budgets[kind], given.out, data, p))
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"supernet and search: {seconds / 60:.1f} core-minutes, ledger {cost:.4g}")
    if given.json:
        told = {"seconds": seconds, "cost": cost, "rows": rows}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
