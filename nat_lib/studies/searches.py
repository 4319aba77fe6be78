"""NATv2 on supernets: the cells of chapter 6.  `search` knows no network; here it meets weights,
images and files.

A search cell leaves one file per iteration and one line per evaluation, so a killed search goes on
from the last evaluated subnet.  The study of predictors and the post-processing of found subnets
are cells of the same supernets.
Source: NATv2, arXiv:2307.00960; thesis 3.3 and chapter 6.
"""

import json
import sys
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from nat_lib import cells, files, machine
from nat_lib import latency as latency_module
from nat_lib.arch import Space
from nat_lib.cells import Cell, open_cell
from nat_lib.cost import count
from nat_lib.distributed import first_rank_first, gathered, process_group, ranks
from nat_lib.errors import Refusal
from nat_lib.evaluate import evaluate, prepare, score
from nat_lib.genotypes import as_text as code
from nat_lib.genotypes import from_text as genotypes
from nat_lib.latency_table import build_table, load_table, save_table
from nat_lib.search import distributions, ensemble, objectives
from nat_lib.search.archive import VERSIONS, Budget, Iteration, Version
from nat_lib.search.objectives import OBJECTIVES
from nat_lib.search.pareto import front, high_tradeoff
from nat_lib.search.strategies import DEFAULT, STRATEGIES
from nat_lib.studies import eps, warmup

STUDY = "natv2_phases"
RETURNED = 4  # subnets with a high trade-off that a search returns (thesis 3.3.4)


TIMED = (
    "epochs",
    "validations",
    "validation_seconds",
)  # of the adaptation of an iteration; seconds of one validation


# --------------------------------------------------------------------------------- what is searched


class Search(NamedTuple):
    """One search: its cell, the cells it starts from, and what decides its course."""

    cell: Cell
    space: Space
    n_classes: int
    names: tuple  # objectives
    version: Version
    budget: Budget
    strategy: str  # in STRATEGIES
    latency: object = None  # X -> (n,) ms, once it is measured


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
    resolutions = tuple(params["search_resolutions"] or params["train_resolutions"])
    return Space(
        supernet, resolutions, widths, tuple(params["base_channels"]), params["tail_scaling"]
    )


def load_target(params):
    """The data set to which the supernets are moved, on the device of the parameters."""
    return eps.load_data(
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
        w: warmup.trained_cell(out, params["dataset"], space, w, teacher, seed)
        for w in space.widths
    }
    values = {
        "recipe": warmup.recipe(params),
        "data": eps.identity(data),
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


def settle(params, supernet, phase, text, seed, data, out):
    """(`Search`, warm-up cells) of these parameters; the warm-up is done or found finished."""
    names, version = objectives.names(text), version_of(params, phase)
    space, _, warm = warm_up(params, supernet, version.teacher, seed, data, out)
    budget = Budget(**{k: params[k] for k in Budget._fields})
    values = {
        "supernet": supernet,
        "phase": phase,
        "objectives": "+".join(names),
        "dataset": data.name,
        "seed": seed,
        "profile": params["profile"],
        "space": space,
        "n_classes": data.n_classes,
        "version": {"phase": phase, **version._asdict()},
        "budget": budget._asdict(),
        "start": warm["supernets"].hash,
        "data": eps.identity(data),
        "recipe": warmup.recipe(params),
        **{
            k: params[k]
            for k in (
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
        },
    }
    strategy = params["strategy"]
    if strategy != DEFAULT:
        values["strategy"] = strategy
    name = cell_name(data.name, supernet, phase, "+".join(names), seed, strategy)
    with first_rank_first():
        cell = open_cell(out, STUDY, name, values, __name__)
    return Search(cell, space, data.n_classes, names, version, budget, strategy), warm


# -------------------------------------------------------------------------------------- evaluations


class Memory:
    """What was measured of every (weights version, subnet): a dict, and a file to which each line
    is appended at once.

    A last line cut short by a kill is measured again; any other damage is refused.
    """

    def __init__(self, cell, name):
        self.path = cell.path(f"{name}.{ranks()[0]}.jsonl")
        self.known = {}
        for path in sorted(cell.folder.glob(f"{name}.*.jsonl")):
            *lines, last = files.read_text(path).split("\n")
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    self.known[row.pop("version"), row.pop("code")] = row
                except (json.JSONDecodeError, KeyError, AttributeError):
                    raise Refusal(
                        f"{path}, line {number}, is damaged: delete it, it is measured again"
                    ) from None
            if last and path == self.path:  # without its line end
                files.write_text(path, "".join(f"{line}\n" for line in lines))
        gathered([None])  # no process adds a line before all have read

    def measured(self, version, codes, measure):
        """The rows of all codes; measure(i) -> dict is called for codes not yet known, shared among
        processes."""
        missing = [
            i for i, c in enumerate(codes) if (version, c) not in self.known and c not in codes[:i]
        ]
        rank, world = ranks()
        fresh = []
        if missing:
            with open(self.path, "a", encoding="utf-8") as file:
                for i in machine.progress(
                    missing[rank::world], f"{self.path.parent.name}, scoring"
                ):
                    fresh.append({"version": version, "code": codes[i], **files.plain(measure(i))})
                    file.write(json.dumps(fresh[-1]) + "\n")
                    file.flush()
        for row in gathered(fresh) if missing else ():
            self.known[row["version"], row["code"]] = {
                k: v for k, v in row.items() if k not in ("version", "code")
            }
        return [self.known[version, c] for c in codes]


def scores(nets, X, version, memory, data, batch_size):
    """(n,) errors in percent of genotypes at the present weights, which are the `version`-th."""
    archs = nets.space.decode(X)

    def measure(i):
        record = evaluate(nets, archs[i], data, batch_size)
        return {
            "val_top1": record.val_top1,
            "val_top5": record.val_top5,
            "val_loss": record.val_loss,
        }

    rows = memory.measured(version, [code(x) for x in nets.space.active(X)], measure)
    return np.array([100 - row["val_top1"] for row in rows])


def latency_of(run, nets, data, memory, out):
    """The function X -> (n,) ms of this search: the machine's block table, or every subnet measured
    by itself."""
    p = run.cell.params
    if p["latency"] == "table":
        return block_table(run.space, run.n_classes, data.device, out).latency

    def measured(X):
        archs = run.space.decode(X)
        rows = memory.measured(
            -1,
            [code(x) for x in run.space.active(X)],
            lambda i: latency_module.measure(
                nets.extract(archs[i]).eval(),
                archs[i].resolution,
                p["latency_runs"],
                p["latency_runs"],
            )._asdict(),
        )
        return np.array([row["ms"] for row in rows])

    return measured


def block_table(space, n_classes, device, out):
    """The latency table of a space on this machine, built once per outputs folder."""
    machine = latency_module.machine_of(torch.device(device))
    with first_rank_first():
        cell = open_cell(
            out,
            STUDY,
            f"latency/{space.name}_{files.hash_of(space)}",
            {
                "space": space,
                "n_classes": n_classes,
                "machine": machine,
                "threads": torch.get_num_threads(),
            },
            "nat_lib.latency",
        )
        path = cell.path("table.json")

        def work():
            table = build_table(space, n_classes, device)
            save_table(path, table)
            files.write_csv(cell.path("check.csv"), table.check)
            return {"error": table.error._asdict(), "rows": len(table.rows)}

        cells.compute(cell, work)
    return load_table(path, space, n_classes, machine)


# --------------------------------------------------------------------------------------- one search


def run_search(params, supernet, phase, text, seed, data, out):
    """Search (or find finished); returns the report of the cell.  Thesis Alg. 3.2 and 6.2."""
    run, warm = settle(params, supernet, phase, text, seed, data, out)
    return cells.compute(
        run.cell,
        lambda: _search(run, warm, data, params["workers"], params["fit_processes"], out),
        {"start": warm["supernets"].path("best.safetensors")},
    )


def _search(run, warm, data, workers, processes, out):
    cell, p, space, version = run.cell, run.cell.params, run.space, run.version
    recipe, seed = p["recipe"], p["seed"]
    machine.seed_all(seed)
    nets = warmup.warmed_up(space, warm).to(data.device)
    teacher = warmup.make_teacher(space, warm, recipe["exit_weights"], data.device)
    done, trained = (
        finished_iterations(cell, run),
        _weights(nets, cell),
    )  # epochs of adaptation in the weights
    memory, members = Memory(cell, "evaluations"), warmup.reduced_grid(space, recipe)
    if "latency" in run.names:
        run = run._replace(latency=latency_of(run, nets, data, Memory(cell, "latencies"), out))
    costs = [partial(OBJECTIVES[name].function, run) for name in run.names[1:]]
    now, noted = (
        len(done) - 1 if done and STRATEGIES[run.strategy].adapts else 0,
        {},
    )  # weights version: adaptations done; noted: of this iteration
    validations = []  # (seconds, top1) since the adaptation began

    def evaluated(X):
        if trained != now * p["adaptation_epochs"] and any(
            (now, code(x)) not in memory.known for x in space.active(X)
        ):
            raise Refusal(
                f"{cell.folder}: scores of iteration {now} are missing, and the weights have moved on since: "
                "delete the folder, the search begins anew"
            )
        errors = scores(nets, X, now, memory, data, recipe["nat_eval_batch_size"])
        return np.column_stack([errors, *(cost(X) for cost in costs)])

    def fitted(X, errors, rng):
        return ensemble.fit(
            p["predictor"],
            space,
            X,
            errors,
            rng=rng,
            features=version.features,
            fallback=p["fallback"],
            mask_after_exit=p["mask_after_exit"],
        )

    def validated(_=None):
        began, found = time.perf_counter(), warmup.mean_score(nets, members, data, recipe)
        validations.append((time.perf_counter() - began, found[1]))
        return found

    def adapted(X, number):
        nonlocal trained, now
        laws = distributions.fit(
            X,
            space.lower,
            space.upper,
            law=p["distribution_law"],
            families=p["distribution_families"],
            processes=processes,
        )

        def draw(rng):
            return space.decode(distributions.sample(laws, 1, rng, space, version.repair))[0]

        validations.clear()
        warmup.adapt(
            nets,
            teacher,
            draw,
            number,
            p["adaptation_epochs"],
            run.budget.iterations,
            recipe,
            data,
            seed,
            cell,
            workers,
            validated if version.validation == "every" else None,
        )
        trained, now = number * p["adaptation_epochs"], number
        if not validations:
            validated()
        seconds, top1 = zip(*validations, strict=True)
        noted.update(
            laws=[law.family for law in laws],
            supernet_top1=top1[-1],
            epochs=p["adaptation_epochs"],
            validations=len(seconds),
            validation_seconds=sum(seconds) / len(seconds),
        )

    strategy = STRATEGIES[run.strategy]
    steps = strategy.function(
        space,
        evaluated,
        adapted,
        fitted,
        costs,
        version,
        run.budget,
        seed,
        start=done[-1] if done else None,
        crossover=p["crossover"],
        depth_prior=p["depth_prior"],
    )
    started = time.perf_counter()
    for step in machine.progress(
        steps, f"{cell.name}, iterations", run.budget.iterations + 1 - len(done)
    ):
        if ranks()[0] == 0:
            seconds = time.perf_counter() - started
            files.write_json(
                cell.path(f"iterations/{step.number:02d}.json"),
                as_json(step, seconds=seconds, **noted),
            )
        done.append(step)
        started, noted = time.perf_counter(), {}
    subnets = returned(run, nets, done[-1], data)
    frames = tables(run, len(done))
    if ranks()[0] == 0:
        files.save_weights(cell.path("supernets.safetensors"), nets.state_dict())
        for name, frame in {**frames, "subnets": subnets}.items():
            files.write_csv(cell.path(f"{name}.csv"), frame)
    return {
        "hypervolume": [step.hypervolume for step in done],
        "reference": done[-1].reference,
        "front": len(subnets),
        "best_top1": subnets.val_top1.max(),
        "evaluations": len(memory.known),
        "n_test": len(data.rows["test"]),
        "seconds": frames["iterations"].seconds.sum(),
        "latency": p["latency"] if "latency" in run.names else None,
    }


def _weights(nets, cell):
    """Load the weights that a killed search was at, if it had begun to adapt; returns the epochs of
    adaptation."""
    if not cell.path("state.pt").exists():
        return 0
    state = files.load_state(cell.path("state.pt"))
    nets.load_state_dict(state["network"])
    return state["epoch"]


# -------------------------------------------------------------------------------- files of a search


def as_json(step, **more):
    return {
        "number": step.number,
        "codes": [code(x) for x in step.X],
        "F": step.F,
        "reference": step.reference,
        "hypervolume": step.hypervolume,
        "candidates": [code(x) for x in step.candidates],
        "predicted": step.predicted,
        "measured": step.measured,
        "predictor": step.predictor,
        "quality": step.quality,
        **more,
    }


def from_json(row, run):
    m = len(run.names)
    return Iteration(
        row["number"],
        genotypes(row["codes"]),
        np.array(row["F"], float).reshape(-1, m),
        np.array(row["reference"]),
        row["hypervolume"],
        genotypes(row["candidates"]).reshape(-1, run.space.n_var),
        np.array(row["predicted"], float),
        np.array(row["measured"], float).reshape(-1, m),
        tuple(row["predictor"]),
        {k: np.nan if v is None else v for k, v in row["quality"].items()},
    )


def iteration_files(cell):
    return sorted(cell.path("iterations").glob("[0-9]*.json"))


def finished_iterations(cell, run):
    """The iterations a killed search has finished, in order."""
    found = []
    for number, path in enumerate(iteration_files(cell)):
        try:
            found.append(from_json(files.read_json(path), run))
        except (KeyError, ValueError, TypeError, AttributeError):
            found.append(None)
        if found[-1] is None or found[-1].number != number:
            raise Refusal(
                f"{path} is damaged: delete it and every later one, the search goes on from the one before"
            )
    return found


def tables(run, n):
    """{"iterations", "archive", "candidates": DataFrame} over all n iterations of a search."""
    overview, archive, candidates, born = [], [], [], {}
    for row in map(files.read_json, iteration_files(run.cell)[:n]):
        step, number = from_json(row, run), row["number"]
        born = {c: born.get(c, number) for c in row["codes"]}
        archive.append(
            pd.DataFrame(
                {
                    "iteration": number,
                    "code": row["codes"],
                    **columns(run, step.F),
                    "born": list(born.values()),
                }
            )
        )
        candidates.append(
            pd.DataFrame(
                {
                    "iteration": number,
                    "code": row["candidates"],
                    "predicted": step.predicted,
                    **columns(run, step.measured),
                }
            )
        )
        overview.append(
            {
                "iteration": number,
                "hypervolume": step.hypervolume,
                "archive": len(step.X),
                "front": int(front(step.F).sum()),
                "candidates": len(step.candidates),
                **step.quality,
                "predictor": step.predictor[0],
                "note": step.predictor[1],
                "best_top1": 100 - step.F[:, 0].min(),
                "mean_top1": 100 - step.F[:, 0].mean(),
                "supernet_top1": row.get("supernet_top1"),
                **shares(run.space, step.X),
                "seconds": row["seconds"],
                **{key: row.get(key) for key in TIMED},
            }
        )
    return {
        "iterations": pd.DataFrame(overview),
        "archive": pd.concat(archive),
        "candidates": pd.concat(candidates),
    }


def columns(run, F):
    return dict(zip(("error", *run.names[1:]), F.T, strict=True))


def shares(space, X):
    """{"depth_2": ..., "exit_1": ...}: shares of depths among the active stages and of exits among
    the subnets."""
    archs = space.decode(X)
    depths = np.array([d for a in archs for d in a.depth[: a.exit]])
    exits = np.array([a.exit for a in archs])
    return {
        **{f"depth_{d}": float((depths == d).mean()) for d in space.depths},
        **{f"exit_{e}": float((exits == e).mean()) for e in range(1, space.n_stages + 1)},
    }


def returned(run, nets, last, data):
    """The non-dominated subnets of the last archive on the test split, with all costs: DataFrame.
    Thesis 3.3.4.

    Test images are read here and nowhere else in a search.
    """
    p, on_front = run.cell.params, np.flatnonzero(front(last.F))
    _, first = np.unique(run.space.active(last.X[on_front]), axis=0, return_index=True)
    on_front = on_front[np.sort(first)]
    if len(run.names) == 1:
        knees = on_front[:1]
    else:
        knees = on_front[
            high_tradeoff(
                last.F[on_front],
                RETURNED,
                reduce=p["tradeoff_reduce"],
                normalise=p["tradeoff_normalise"],
            )
        ]
    X = last.X[on_front]
    archs, costs = run.space.decode(X), count(X, run.space, run.n_classes)
    rank, world = ranks()
    mine = list(range(len(X)))[rank::world]
    rows = [
        tested(nets, archs[i], data, p, run.cell.name)
        for i in machine.progress(mine, f"{run.cell.name}, test")
    ]
    frame = pd.DataFrame(
        {
            "code": [code(x) for x in X],
            "front": True,
            "high_tradeoff": np.isin(on_front, knees),
            "returned": np.isin(on_front, knees),
            "resolution": [a.resolution for a in archs],
            "width": [a.width for a in archs],
            "exit": [a.exit for a in archs],
            "val_top1": 100 - last.F[on_front, 0],
        }
    )
    whole = pd.concat([frame, pd.DataFrame(gathered(rows)), costs.reset_index(drop=True)], axis=1)
    for k, name in enumerate(run.names[1:], 1):
        if objectives.column(name) not in whole:
            whole[objectives.column(name)] = last.F[on_front, k] * OBJECTIVES[name].scale
    return whole


def tested(nets, arch, data, p, why):
    result = score(
        prepare(nets, arch, data, arch.resolution),
        data.test_batches(arch.resolution, p["recipe"]["nat_eval_batch_size"], why),
    )
    speed = latency_module.measure(
        nets.extract(arch).eval(), arch.resolution, p["latency_runs"], p["latency_runs"]
    )
    return {
        "test_top1": result.top1,
        "test_top5": result.top5,
        "test_loss": result.loss,
        "latency_ms": speed.ms,
        "latency_iqr": speed.iqr,
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
                    f"{report['name']}: {found['front']} subnets on the front, best validation top-1 "
                    f"{found['best_top1']:.2f}, hypervolume {found['hypervolume'][-1]:.4f}"
                )
    except Refusal as refusal:
        print(f"nat_lib.nat: {refusal}", file=sys.stderr)
        return 2
    return 0
