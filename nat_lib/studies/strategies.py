"""Ways to train a supernet, at equal cost: the arms of `arms.ARMS`, each on the same images for the
same ledger cost, all looked at through one panel of subnets.

An arm is a chain of phases of `eps`, planned (`planned`) so that its training costs what the budget
says.  Beside it the panel is scored with its weights, and a few subnets are trained by themselves.
Source of what is measured: AttentiveNAS, arXiv:2011.09011; AlphaNet, arXiv:2102.07954; multi-model
forgetting, arXiv:1902.08232.
"""

import math
from functools import cache, partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nat_lib import cells, files, ledger, machine
from nat_lib.arms import ARMS, EQUAL
from nat_lib.cells import Cell, open_cell
from nat_lib.cost import count
from nat_lib.distill import takes_low
from nat_lib.errors import Refusal
from nat_lib.evaluate import fold, prepare, score
from nat_lib.genotypes import as_text, from_text
from nat_lib.recipes import RECIPES
from nat_lib.studies import eps, inputs, probing
from nat_lib.studies.alone import train_alone
from nat_lib.studies.judging import by_loss
from nat_lib.studies.silent import step_costs
from nat_lib.supernet import Supernet, with_width

STUDY, WIDTH = "training_strategies", 1.0
WIDTHS = (1.0, 1.2)
# what an arm may say otherwise, as the experiment of notebook 02 leaves it
OPEN = {"sampler": None, "distill": None, "mix": None, "epochs": None, "curriculum": "eps"}
ROUNDS, PILOT = 3, 50  # of planning; steps of a phase that the first one looks at
RAW = 20  # subnets that are scored with and without recalibration


def run(params, data, out):
    """Train every arm for every seed, then the subnets that stand alone; returns nothing."""
    for seed in params["seeds"]:
        for arm in machine.progress(params["arms"], f"arms, seed {seed}"):
            run_arm(params, arm, seed, data, out)
        for code in stratified(params, data):
            run_alone(params, code, seed, data, out)


def space_of(params):
    """The space of all arms, as notebook 02 makes it."""
    return eps.space_of(params, params["arm_supernet"], params["train_resolutions"], WIDTHS)


def settings(params, arm):
    """The parameters of notebook 02 that an arm trains with, but for its epochs."""
    probes = {"probes": params["panel"], "probe_every": 0, "grid_subnets": 1}
    return params | OPEN | probes | ARMS[arm].changes


def chain(params, arm, seed, data, out, epochs=None, opened=open_cell):
    """The phases of an arm, see `eps.chain`, of so many `epochs` ({phase: epochs})."""
    named = settings(params, arm)
    if epochs:
        looks = math.ceil(sum(epochs.values()) / params["arm_checks"])
        named |= {"epochs": epochs, "probe_every": looks}
    of = named, named["arm_supernet"], WIDTH, named["teachers"][0], seed
    return eps.chain(*of, data, out, opened)


# ------------------------------------------------------------------------------------ equal cost


def budget(params, data):
    """Ledger cost of the training of an arm: so many epochs of the largest network alone."""
    space, side = space_of(params), max(params["train_resolutions"])
    largest = with_width(space.largest, WIDTH)
    macs = ledger.macs_of_subnet(space, largest, data.n_classes, space.exits, side)
    return round(params["arm_epochs"] * ledger.TRAINING * macs * len(data.rows["train"]))


def planned(params, arm, seed, data):
    """{phase: its epochs} with which the training of an arm costs the budget.

    Phases keep their shares of Table 5.2's epochs; the last one makes up for the rounding to whole
    steps of those before it.
    """
    wanted, n_batches = budget(params, data), _batches(params, data)

    def costs(link, n):
        return [*islice(step_costs(link, data), int(n))]

    def links(epochs=None):
        return chain(params, arm, seed, data, "", epochs, _unopened)

    phases = [link.phase for link in links()]
    shares = np.array([phase.epochs + phase.warmup for phase in phases], float)
    steps = np.full(len(phases), PILOT)
    epochs = dict.fromkeys((p.name for p in phases), 1.0)
    for _ in range(ROUNDS):
        drawn = zip(links(epochs), steps, strict=True)
        of_a_step = np.array([np.mean(costs(link, n)) for link, n in drawn])
        steps = np.maximum(1, np.rint(wanted * shares / (shares @ of_a_step))).astype(int)
        epochs = dict(zip(epochs, (steps / n_batches).tolist(), strict=True))
    *earlier, final = links(epochs)
    before = sum(sum(costs(link, n)) for link, n in zip(earlier, steps[:-1], strict=True))
    last, missed = _nearest(step_costs(final, data), wanted - before)
    if abs(missed) > EQUAL * wanted:
        raise Refusal(
            f"arm_epochs: {params['arm_epochs']} is too little for {arm}, whose steps cannot be "
            f"cut to within {EQUAL:.0%} of the budget: raise it"
        )
    return epochs | {phases[-1].name: last / n_batches}


def _nearest(costs, wanted):
    """(how many steps of these costs come nearest to what is wanted, at least one; by how much they
    miss it)."""
    below = -math.inf
    for n, total in enumerate(accumulate(costs), 1):
        if total >= wanted:
            after = total - wanted < wanted - below
            return (n, total - wanted) if after else (n - 1, below - wanted)
        below = total


def _batches(params, data):
    n = data.n_batches(params["batch_size"])
    return min(n, params["max_steps_per_epoch"] or n)


def _unopened(out, study, name, params, code):
    """A cell that is only asked for its parameters."""
    return Cell(Path(out), study, name, files.plain(params), code)


# ----------------------------------------------------------------------------------------- an arm


def run_arm(params, arm, seed, data, out):
    """Train one arm and score the panel with its weights; the report of its cell."""
    values = {
        "arm": arm,
        "dataset": data.name,
        "seed": seed,
        "n_classes": data.n_classes,
        "budget": budget(params, data),
        "checks": params["arm_checks"],
        "panel": [as_text(x) for x in panel_codes(params)],
        "phases": [p.cell.hash for p in chain(params, arm, seed, data, "", None, _unopened)],
        "profile": params["profile"],
    }
    cell = open_cell(out, STUDY, f"{data.name}/{arm}_s{seed}", values, __name__)
    return cells.compute(cell, partial(_arm, params, arm, seed, data, cell), drops=("plan.json",))


def panel_codes(params):
    """(n, n_var): the genotypes that every arm is looked at with."""
    space = space_of(params)
    return space.encode(probing.panel(space, WIDTH, params["eval_resolutions"], params["panel"]))


def _arm(params, arm, seed, data, cell):
    plan = cell.path("plan.json")
    if not plan.is_file():
        files.write_json(plan, planned(params, arm, seed, data))
    epochs = files.read_json(plan)
    links = chain(params, arm, seed, data, cell.path("phases"), epochs)
    for link in links:
        eps.run_phase(link, data, params["workers"])
    net = eps.load_supernet(links[-1], 0.0).to(data.device)
    rows = scored(net, panel_codes(params), data, params["eval_batch_size"], links[-1])
    files.write_csv(cell.path("panel.csv"), rows)
    files.write_csv(cell.path("course.csv"), course(links))
    spent = sum(pd.read_csv(link.cell.path("history.csv")).cost.sum() for link in links)
    return {"epochs": epochs, "trained_for": int(spent), "n_test": len(data.rows["test"])}


def scored(net, codes, data, batch_size, link):
    """One row per subnet of the panel, in its order.

    code, exit, params, macs; val_top1 and test_top1, recalibrated; raw_top1: on validation with the
    running statistics of the training, of the first RAW; batch_loss: on one training batch, as an
    attentive sampler judges; below: share of the validation images on which the alpha-divergence to
    the largest takes its branch of negative alpha
    """
    archs, rows = net.space.decode(codes), []
    costs = count(codes, net.space, net.n_classes).to_dict("records")

    @cache
    def images(side):
        return [*data.eval_batches("val", side, batch_size)]

    @cache
    def largest(side):
        whole = with_width(net.space.arch(side), net.width)
        return answers(prepare(net, whole, data, side), images(side))

    for i, arch in enumerate(machine.progress(archs, f"{link.cell.name}, panel")):
        side = arch.resolution
        test = data.test_batches(side, batch_size, why=link.cell.name)
        network = prepare(net, arch, data, side)
        row = {"code": as_text(codes[i]), "exit": arch.exit, **costs[i]}
        row |= {"val_top1": score(network, images(side)).top1}
        row |= {"test_top1": score(network, test).top1}
        raw = fold(net.extract(arch)) if i < RAW else None
        row["raw_top1"] = score(raw, images(side)).top1 if raw else np.nan
        x, y = next(iter(data.train_batches(0, link.recipe["batch_size"], [side], 0)))
        row["batch_loss"] = by_loss(net.train(), x, y, link.optimised.smoothing).scores([arch])[0]
        below = takes_low(answers(network, images(side)), largest(side))
        row["below"] = below.float().mean().item()
        rows.append(row)
    return pd.DataFrame(rows)


@torch.no_grad()
def answers(network, batches):
    """(N, K): the logits of a network on (images, labels) batches."""
    return torch.cat([network(x) for x, _ in batches])


def course(links):
    """One row per scoring of the panel while an arm trained: phase, epoch, cost so far, and per
    subnet that was open its genotype and validation top-1."""
    rows, before = [], 0
    for link in links:
        history = pd.read_csv(link.cell.path("history.csv"))
        spent = before + history.cost.cumsum()
        place = link.cell.path("probes.json")
        seen = files.read_json(place) if place.is_file() else {}
        seen |= {str(len(history)): link.cell.report()["metrics"]["probes"]}
        for epoch, cost in zip(history.epoch, spent, strict=True):
            told = {"phase": link.phase.name, "epoch": epoch, "cost": cost}
            found = seen.get(str(epoch), {})
            rows += [told | {"code": c, "val_top1": t} for c, t in found.items()]
        before = spent.iloc[-1]
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------- subnets that stand alone


def stratified(params, data):
    """Genotypes (as text) of the panel's subnets that are trained alone: at equal steps of their
    rank by MACs."""
    codes, space = panel_codes(params), space_of(params)
    order = np.argsort(count(codes, space, data.n_classes).macs.to_numpy(), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, params["alone"]).round().astype(int))
    return [as_text(codes[order[i]]) for i in places]


def run_alone(params, code, seed, data, out):
    """Train one subnet of the panel by itself, from random weights; the report of its cell."""
    space = space_of(params)
    values = {
        "code": code,
        "dataset": data.name,
        "seed": seed,
        "space": space.to_dict(),
        "epochs": params["alone_epochs"],
        "batch_size": params["batch_size"],
        "recipe": params["recipe"],
        "data": inputs.identity(data),
        "profile": params["profile"],
    }
    name = f"{data.name}/alone/{files.hash_of(code)}_s{seed}"
    cell = open_cell(out, STUDY, name, values, __name__)
    return cells.compute(cell, partial(_alone, cell, space, data, params["eval_batch_size"]))


def _alone(cell, space, data, batch_size):
    p = cell.params
    [arch] = space.decode(from_text([p["code"]]))
    network = Supernet(space, WIDTH, data.n_classes, p["seed"], 0.0).extract(arch)
    asked = arch.resolution, p["epochs"], RECIPES[p["recipe"]], p["batch_size"], p["seed"]
    network = fold(train_alone(network, *asked, data, cell))
    val = score(network, data.eval_batches("val", arch.resolution, batch_size))
    return {"val_top1": val.top1}
