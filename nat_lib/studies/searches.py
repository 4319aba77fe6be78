"""NATv2 on supernets: the cells of chapter 6.  `search` knows no network; here it meets weights,
images and files.

A search cell leaves one file per iteration and one line per evaluation, so a killed search goes on
from the last evaluated subnet.  The study of predictors and the post-processing of found subnets
are cells of the same supernets.
Source: NATv2, arXiv:2307.00960; thesis 3.3 and chapter 6.
"""

import sys
import time
from functools import partial
from typing import NamedTuple

from nat_lib import files, machine
from nat_lib.arch import SINGLE, Space
from nat_lib.cells import Cell, compute, open_cell
from nat_lib.distributed import first_rank_first, process_group, ranks
from nat_lib.errors import Refusal
from nat_lib.plans import NETWORKS
from nat_lib.search import objectives
from nat_lib.search.archive import VERSIONS, Budget, Version
from nat_lib.search.objectives import OBJECTIVES
from nat_lib.search.strategies import DEFAULT, STRATEGIES
from nat_lib.search.task import Task
from nat_lib.studies import course, inputs, scoring, warmup
from nat_lib.studies.adaptation import Evaluate
from nat_lib.studies.returned import returned

STUDY = scoring.TABLES
KEPT = 3  # iterations whose supernets are kept
SWITCHES = (
    "adaptation_epochs",
    "predictor",
    "fallback",
    "crossover",
    "depth_prior",
    "distribution_law",
    "distribution_families",
    "mask_after_exit",
    "latency",
    "latency_runs",
    "tradeoff_reduce",
    "tradeoff_normalise",
)


# --------------------------------------------------------------------------------- what is searched


class Search(NamedTuple):
    """One search: its cell, and what decides its course."""

    cell: Cell
    space: Space
    n_classes: int
    names: tuple[str, ...]  # objectives, "acc" first
    version: Version
    budget: Budget
    strategy: str  # in STRATEGIES


def space_of(params, supernet):
    """The space of the search: of the widths that the profile trains, with all training
    resolutions."""
    widths = tuple(
        float(w) for w, names in sorted(params["supernets"].items()) if supernet in names
    )
    if not widths:
        raise Refusal(
            f"{supernet} is trained at no width: list it under `supernets` in the profile"
        )
    resolutions = params["search_resolutions"] or params["train_resolutions"]
    votes = params["exits"] == "ensemble" and NETWORKS[supernet].early_exits
    answers = params["exit_weights"] if votes else SINGLE
    return inputs.space_of(params, supernet, resolutions, widths, answers)


def load_target(params):
    """The data set to which the supernets are moved, on the device of the parameters."""
    return inputs.load_data(
        params
        | {
            "dataset": params["target"],
            "data_dir": params["target_dir"] or params["data_dir"],
            **{
                f"{part}_images": params[f"target_{part}_images"]
                for part in ("train", "val", "test")
            },
        }
    )


def warm_up(params, supernet, teacher, seed, data, out):
    """(space, source cells, warm-up cells) of a supernet on the target data set, the warm-up
    done."""
    space = space_of(params, supernet)
    if data.n_classes < 2:
        raise Refusal(f"{data.name} has {data.n_classes} class: a classifier needs two or more")
    sources = {
        w: warmup.trained_cell(
            out, params["dataset"], space, w, teacher, seed, params["curriculum"]
        )
        for w in space.widths
    }
    values = {
        "recipe": warmup.recipe(params),
        "data": inputs.identity(data),
        "profile": params["profile"],
    }
    return (
        space,
        sources,
        warmup.warm_up(space, sources, teacher, seed, data, values, out, params["workers"]),
    )


def version_of(params, number):
    """What one of the four versions does, at this profile's sizes."""
    version = VERSIONS[number]
    late = version.policy == "replace"
    return version._replace(
        archive=params["archive_sizes"][late],
        candidates=params["candidates"][late],
        multiplier=params["multiplier"] if version.multiplier > 1 else 1,
    )


def selected(params):
    """(supernet, phase, objectives, seed) of every search that the profile runs, phase by phase."""
    return [
        (supernet, int(phase), text, seed)
        for seed in params["seeds"]
        for phase in sorted(params["searches"])
        for supernet in params["nat_supernets"][phase]
        for text in params["searches"][phase]
    ]


def cell_name(dataset, supernet, phase, text, seed, strategy=DEFAULT):
    """The name of the cell of a search; `text`: its objectives in the order of the table."""
    told = "" if strategy == DEFAULT else f"_{strategy}"
    return f"{dataset}/{supernet}_p{phase}_{text}{told}_s{seed}"


def settle(params, supernet, number, text, seed, data, out):
    """(`Search`, warm-up cells) of these parameters; the warm-up is done or found finished.

    number : of the version;  text : objectives, "acc+macs"
    """
    names, version = objectives.names(text), version_of(params, number)
    space, _, warm = warm_up(params, supernet, version.teacher, seed, data, out)
    budget = Budget(**{k: params[k] for k in Budget._fields})
    strategy = params["strategy"]
    values = {
        "supernet": supernet,
        "phase": number,
        "objectives": "+".join(names),
        "dataset": data.name,
        "seed": seed,
        "profile": params["profile"],
        "space": space,
        "n_classes": data.n_classes,
        "version": {"phase": number, **version._asdict()},
        "budget": budget._asdict(),
        "start": warm["supernets"].hash,
        "data": inputs.identity(data),
        "recipe": warmup.recipe(params),
        **{k: params[k] for k in SWITCHES},
    }
    if strategy != DEFAULT:
        values["strategy"] = strategy
    name = cell_name(data.name, supernet, number, values["objectives"], seed, strategy)
    with first_rank_first():
        cell = open_cell(out, STUDY, name, values, __name__)
    return Search(cell, space, data.n_classes, names, version, budget, strategy), warm


# ------------------------------------------------------------------------------------- one search


def run_search(params, supernet, number, text, seed, data, out):
    """Search (or find finished); returns the report of the cell.  Thesis Alg. 3.2 and 6.2."""
    run, warm = settle(params, supernet, number, text, seed, data, out)
    processes = params["fit_processes"] or default_processes(params)
    reads = {"start": warm["supernets"].path("best.safetensors")}
    work = partial(_search, run, warm, data, params["workers"], processes, out)
    return compute(run.cell, work, reads)


def default_processes(params):
    """Processes that fit distributions: all cores of this process where the whole list of families
    is fitted, which takes seconds per variable; otherwise starting them takes longer."""
    cores = machine.cores() if params["distribution_families"] == "all" else 1
    return max(1, cores // ranks()[1])


def _search(run, warm, data, workers, processes, out):
    """Do or resume a search, leave its files; returns the metrics."""
    cell, p, strategy = run.cell, run.cell.params, STRATEGIES[run.strategy]
    machine.seed_all(p["seed"])
    done = course.finished(cell, run.space, len(run.names))
    evaluate = Evaluate(run, warm, data, workers, processes, out)
    if done and strategy.adapts:
        evaluate.version = done[-1].number
    known = run.space, evaluate, evaluate.adapt, evaluate.fit, evaluate.costs
    how = run.version, run.budget, p["seed"], p["crossover"], p["depth_prior"]
    task = Task(*known, *how, cheap=evaluate.cheap, relax=evaluate.relax)
    steps = strategy.function(task, done[-1] if done else None)
    began, left = time.perf_counter(), run.budget.iterations + 1 - len(done)
    for step in machine.progress(steps, f"{cell.name}, iterations", left):
        if ranks()[0] == 0:
            if strategy.adapts:
                _keep_weights(cell, evaluate.nets, step.number)
            seconds = time.perf_counter() - began
            course.save(cell, step, seconds=seconds, **evaluate.noted)
        done.append(step)
        began, evaluate.noted = time.perf_counter(), {}
    subnets = returned(run, evaluate.nets, done[-1], data)
    if ranks()[0] > 0:
        return {}
    return _leave(run, evaluate, done, subnets)


def _keep_weights(cell, nets, number):
    """The supernets of this iteration beside its file; those of the last KEPT stay."""
    files.save_weights(cell.path(f"iterations/{number:02d}.safetensors"), nets.state_dict())
    for path in sorted(cell.path("iterations").glob("[0-9]*.safetensors"))[:-KEPT]:
        path.unlink()


def _leave(run, evaluate, done, subnets):
    """Leave the last weights and the tables; returns the metrics."""
    cell = run.cell
    files.save_weights(cell.path("supernets.safetensors"), evaluate.nets.state_dict())
    frames = course.tables(cell, run.space, run.names, len(done))
    for name, frame in {**frames, "subnets": subnets}.items():
        files.write_csv(cell.path(f"{name}.csv"), frame)
    timed = any(OBJECTIVES[name].timed for name in run.names[1:])
    return {
        "hypervolume": [step.hypervolume for step in done],
        "reference": done[-1].reference,
        "front": len(subnets),
        "best_top1": subnets.val_top1.max(),
        "evaluations": len(evaluate.memory.known),
        "n_test": len(evaluate.data.rows["test"]),
        "seconds": frames["iterations"].seconds.sum(),
        "latency": cell.params["latency"] if timed else None,
    }


def main(argv=None):
    """Search from the command line, on one process or on several GPUs; the notebooks then find the
    search finished.

    torchrun --nproc-per-node 4 -m nat_lib.nat --profile paper --supernet EE_D --phase 4
    --objectives acc+macs
    """
    from argparse import ArgumentParser

    from nat_lib.run import jobs
    from nat_lib.run.params import assignments, load_params

    parser = ArgumentParser(prog="python -m nat_lib.nat", description=main.__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke", help="name or file of a profile")
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--phase", type=int, choices=VERSIONS, default=4)
    parser.add_argument("--objectives", default="acc+macs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="outputs folder; default outputs/<profile>")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change a parameter"
    )
    given = parser.parse_args(argv)
    try:
        params = load_params(given.profile, "natv2_phases", assignments(given.set))
        with process_group(params["device"]):
            machine.start(params["threads"], given.seed)
            with first_rank_first():
                data = load_target(params)
            report = run_search(
                params,
                given.supernet,
                given.phase,
                given.objectives,
                given.seed,
                data,
                jobs.outputs_folder(params, given.out),
            )
            if ranks()[0] == 0:
                found = report["metrics"]
                print(
                    f"{report['name']}: {found['front']} subnets on the front, best validation "
                    f"top-1 {found['best_top1']:.2f}, hypervolume {found['hypervolume'][-1]:.4f}"
                )
    except Refusal as refusal:
        print(f"nat_lib.nat: {refusal}", file=sys.stderr)
        return 2
    return 0
