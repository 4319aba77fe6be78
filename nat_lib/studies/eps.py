"""Extended Progressive Shrinking: the twelve phases that turn one maximal network into an elastic
supernet.  Other curricula (`curricula.CURRICULA`) run here as well.

Each phase is a cell: it starts from the best weights of the phase before it, opens one more kind of
choice, trains sampled subnets with distillation, and is reported on a grid of constant subnets.
Fixed and progressively extracted teachers share the phases that no teacher can influence (Full and
KS).
Source: OFAv2, arXiv:2302.01888; thesis 5.1.2 to 5.3, Table 5.2.
"""

from functools import cache, partial
from typing import NamedTuple

import pandas as pd

from nat_lib import cells, files, machine, starts
from nat_lib.arch import Space
from nat_lib.cells import Cell, open_cell
from nat_lib.curricula import CURRICULA, Phase, choices_after, extremes_of, phases_for
from nat_lib.distill import TEACHERS, Teacher, distilled
from nat_lib.distributed import first_rank_first, ranks
from nat_lib.errors import Refusal
from nat_lib.evaluate import prepare, score_exits
from nat_lib.exit_weights import supernet_weights
from nat_lib.exits import joint
from nat_lib.growth import identities
from nat_lib.optimizers import sgd
from nat_lib.recipes import MOMENTUM, RECIPES, Recipe
from nat_lib.samplers import BY_LOSS, SAMPLERS, Judge
from nat_lib.schedules import schedule_of
from nat_lib.studies import probing
from nat_lib.studies.grids import KINDS, mean_score, subset, test_rows
from nat_lib.studies.inputs import identity, load_data, space_of  # noqa: F401  (chapter 5 loads by it)
from nat_lib.studies.judging import MANY, by_loss, by_predictor
from nat_lib.studies.phases import batches_of, recipe_for
from nat_lib.studies.remembering import importance, pulled_back
from nat_lib.studies.sizes import training_resolutions
from nat_lib.supernet import Supernet, with_width
from nat_lib.train import compiled, fit

STUDY = "ofav2_eps"
# -------------------------------------------------------------------------------------------- cells


class Link(NamedTuple):
    """A phase of one supernet as a cell, with the links it starts from and takes its teacher from
    (None: random weights; no teacher, or one in place)."""

    phase: Phase
    space: Space
    width: float
    cell: Cell
    parent: "Link | None"
    teacher: "Link | None"
    kind: str  # of its teacher, a key of TEACHERS
    start: str  # of the first phase, as in `starts`

    @property
    def recipe(self):
        return self.cell.params["recipe"]

    @property
    def optimised(self) -> Recipe:
        return RECIPES[self.recipe["recipe"]]

    @property
    def votes(self):
        """Weights of all exits, in the loss of Full, in its vote and in the teacher's."""
        return supernet_weights(self.recipe["exit_weights"], len(self.space.exits))

    @property
    def joint_votes(self):
        """Of a maximal network, which is scored with all its exits; None: of a single exit."""
        return self.votes if self.phase.maximal else None


def chain(params, supernet, width, teacher, seed, data, out, opened=open_cell):
    """The cells of one supernet, in order; a cell's parameters hold the hashes of the cells it
    depends on.

    teacher : "fixed" (the Full network teaches every phase) | "pet" (the result of the phase
              before; with pet_lag = 1 of the one before that, as in the published code) | any row
              of TEACHERS.  Phases that come out equal for all of them are "any".
    opened  : what makes a cell of a folder, study, name, parameters and module
    """
    space = space_of(params, supernet, params["train_resolutions"], (1.0, 1.2))
    links = []
    for i, phase in enumerate(phases_for(space, params["curriculum"])):
        kind = phase.teacher or teacher
        source = TEACHERS[kind].source
        taught_by = links[source(i, params["pet_lag"])] if i and source else None
        mode = "any" if phase.maximal or (i == 1 and source) else kind
        parent = links[-1] if links else None
        values = {
            "supernet": supernet,
            "width": width,
            "teacher": mode,
            "phase": phase.name,
            "dataset": data.name,
            "seed": seed,
            "n_classes": data.n_classes,
            "space": space.to_dict(),
            "data": identity(data),
            "recipe": recipe_for(phase, params, kind),
            "compile": params["compile"],
            "parent": parent and parent.cell.hash,
            "teacher_source": taught_by and taught_by.cell.hash,
            "profile": params["profile"],
        }
        if parent is None:
            values |= starts.identity(params["start"])
        name = f"{data.name}/{supernet}_w{width}_s{seed}/{mode}-{phase.name}"
        with first_rank_first():
            cell = opened(out, STUDY, name, values, __name__)
        links.append(Link(phase, space, width, cell, parent, taught_by, kind, params["start"]))
    return links


def selected(params):
    """(supernet, width, teacher, seed) of every cell chain that the profile runs."""
    fixed = {p.teacher for p in CURRICULA[params["curriculum"]]} - {None}
    return [
        (supernet, float(width), teacher, seed)
        for width, supernets in params["supernets"].items()
        if float(width) in params["widths"]
        for supernet in supernets
        for seed in params["seeds"]
        for teacher in (sorted(fixed) or params["teachers"])
    ]


def run(params, supernet, width, teacher, seed, data, out, phase=None):
    """Train (or find finished) the phases of one supernet; returns their reports, in order.

    phase : name of the only one that is run, those before it being finished; None: all of them
    """
    links = chain(params, supernet, width, teacher, seed, data, out)
    if phase is not None:
        links = [one_of(links, phase)]
    return [run_phase(link, data, params["workers"]) for link in links]


def one_of(links, phase):
    """The link of a phase by its name, what it starts from being finished."""
    named = {link.phase.name: link for link in links}
    if phase not in named:
        raise Refusal(f"phase {phase!r} of this supernet: use one of {', '.join(named)}")
    link = named[phase]
    for needed in (link.parent, link.teacher):
        if needed and not needed.cell.report():
            raise Refusal(
                f"{phase} starts from {needed.phase.name}, which is not trained: run it first"
            )
    return link


# ---------------------------------------------------------------------------------------- one phase


def load_supernet(link, dropout):
    """A supernet with the best weights of a finished link."""
    params = link.cell.params
    net = Supernet(link.space, link.width, params["n_classes"], params["seed"], dropout)
    weights = files.load_weights(link.cell.path("best.safetensors"))
    if link.phase.maximal:
        net.load_maximal(weights)
    else:
        net.load_state_dict(weights)
    return net


def taught_exits(link):
    """Positions of the exits that the teacher of a phase keeps."""
    recipe, source = link.recipe, link.teacher.phase
    if source.maximal or recipe["stale_exits"] or recipe["kd"] == "e2e":
        return link.space.exits
    return choices_after(link.space, source).exit


def make_teacher(link, data):
    """(Teacher, its quality as rows) of one phase: validation scores at the largest size, ensemble
    and exits."""
    recipe, space, source = link.recipe, link.space, link.teacher
    positions = taught_exits(link)
    net = load_supernet(source, 0.0).to(data.device)
    teacher = Teacher.of(net, positions, link.votes, recipe["kd"], data.device)
    before = link.parent.cell.path("teacher.csv")
    if link.parent.teacher == source and before.exists():  # the same network, scored already
        return teacher, pd.read_csv(before)
    size = max(recipe["eval_resolutions"])
    tested = prepare(net, with_width(space.largest, link.width), data, size, exits=positions)
    batches = data.eval_batches("val", size, recipe["eval_batch_size"])
    scores = score_exits(tested, batches, teacher.weights)
    rows = [{"exit": e, **s._asdict()} for e, s in zip((0, *positions), scores, strict=True)]
    return teacher, pd.DataFrame(rows)


def starting_net(link, data):
    """The supernet as a phase starts to train it."""
    if link.parent is None:
        seed = link.cell.params["seed"]
        shape = link.space, link.width, data.n_classes
        net = starts.start(link.start, *shape, seed, link.phase.dropout)
        if link.phase.zero_init and link.start == "scratch":
            identities(net)
        return net.to(data.device)
    net = load_supernet(link.parent, link.phase.dropout)
    if link.phase.opens == "expand":
        sizes = choices_after(link.space, link.phase).expand
        net.sort_channels([e for e in sizes if min(sizes) < e < max(sizes)])
    return net.to(data.device)


def maximal_losses(net, link):
    """Losses of the Full phase: the maximal network, all exits jointly (AEP), or its only one."""
    largest = with_width(net.space.largest, net.width)
    body = compiled(net.body, link.cell.params["compile"])
    # the compiled body and the views of the supernet compute the same
    forward = body if body is not net.body else lambda x: net(x, largest, exits="all")
    return joint(forward, link.votes, label_smoothing=link.optimised.smoothing, network=net.body)


def elastic_losses(net, link, teacher, data=None):
    """Losses of every other phase: seeded draws per batch, each with distillation.

    teacher : `Teacher`; None: the first subnet of a step teaches the others
    data    : that a predictor which judges candidates is fitted on
    """
    recipe, seed = link.recipe, link.cell.params["seed"]
    choices, draw = choices_after(link.space, link.phase), SAMPLERS[recipe["sampler"]]

    @cache
    def predictor():
        sizes, size = training_resolutions(recipe), recipe["eval_batch_size"]
        asked = (recipe["judge"], net, choices, link.width, sizes, data, link.cell, size)
        return by_predictor(*asked)

    def subnets(x, y, step):
        rng = machine.stream(seed, "shrinking subnets", step)
        judge = by_loss(net, x, y, link.optimised.smoothing)
        if recipe["judge"] != BY_LOSS:
            judge = Judge(MANY, lambda archs: predictor().scores(archs))
        return draw(link.space, choices, link.width, x.shape[-1], rng, recipe["subnets"], judge)

    return distilled(
        net,
        subnets,
        teacher,
        loss=recipe["loss"],
        weights=link.votes,
        kd=recipe["kd"],
        mix=recipe["mix"],
        all_exits=link.phase.all_exits,
        smoothing=link.optimised.smoothing,
        largest_only=link.phase.largest_only,
    )


def run_phase(link, data, workers=0):
    """Train and report one phase; a finished one is only read.  Returns its report.

    workers : threads that prepare batches ahead; the numbers do not depend on it
    """
    reads = {"parent": link.parent.cell.path("best.safetensors")} if link.parent else {}
    work = partial(_train_and_report, link, data, workers)
    return cells.compute(link.cell, work, reads, drops=("importance.safetensors",))


def _train_and_report(link, data, workers):
    """Do one phase; returns its metrics."""
    recipe, phase, seed = link.recipe, link.phase, link.cell.params["seed"]
    machine.seed_all(seed)
    net, told = starting_net(link, data), None
    net.transforms.requires_grad_(recipe["kernel_matrices"])
    if phase.maximal:
        trained, losses = net.body, maximal_losses(net, link)
    else:
        teacher = None
        if link.teacher:
            teacher, quality = make_teacher(link, data)
            teacher.network = compiled(teacher.network, link.cell.params["compile"])
            _write(link.cell, "teacher.csv", quality)
            first, *exits = quality.top1
            told = {"ensemble_top1": first, "exit_top1": exits}
        trained, losses = net, elastic_losses(net, link, teacher, data)
        if recipe["remember"] and link.parent:
            known = choices_after(link.space, link.parent.phase)
            matters = importance(net, known, batches_of(recipe, data, seed)[0], link.cell)
            losses = pulled_back(losses, net, matters, recipe["remember"])
    members, size = test_members(link, "val"), recipe["eval_batch_size"]
    batches, n_batches = batches_of(recipe, data, seed, workers)
    probes = probing.panel(link.space, link.width, recipe["eval_resolutions"], recipe["probes"])
    now = choices_after(link.space, phase)

    def probed():
        return probing.scores(net, probes, now, data, size, link.cell.name)

    schedule = schedule_of(link.optimised, recipe["lr"], recipe["epochs"], recipe["warmup"])
    watch = probing.Watch(link.cell, batches, probed, recipe["probe_every"])
    history, best = fit(
        trained,
        losses,
        watch.batches,
        watch.after(lambda _: mean_score(net, members, data, size, link.joint_votes)),
        schedule,
        sgd(trained, link.optimised.decay, MOMENTUM),
        n_batches,
        link.cell,
        recipe["precision"],
        link.cell.name,
        clip_value=link.optimised.clip,
    )
    trained.load_state_dict(best)
    grid, full = report_grid(net, link, data)
    _write(link.cell, "grid.csv", grid)
    return {
        "grid": _summary_of(grid) | {"n_full": full},
        "val_top1": history.val_top1.max(),
        "best_epoch": int(history.epoch[history.val_top1.idxmax()]),
        "epochs": len(history),
        "steps": round(schedule.total * n_batches),
        "processes": ranks()[1],  # batch statistics are each one's own: the numbers depend on it
        "n_test": len(data.rows["test"]),
        "teacher": told,
        "probes": probed(),
        "seconds": history.seconds.sum(),
    }


def _summary_of(grid):
    top = grid.loc[grid.top1.idxmax()]
    return {
        "avg": grid.top1.mean(),
        "best": top.top1,
        "n": len(grid),
        "best_arch": top[["resolution", *KINDS]].to_dict(),
    }


def _write(cell, name, frame):
    if ranks()[0] == 0:
        files.write_csv(cell.path(name), frame)


def test_members(link, kind):
    """The constant subnets that a phase is validated on ("val": extremes, at most val_subnets) or
    reported on ("grid")."""
    recipe, phase, space = link.recipe, link.phase, link.space
    sizes = recipe["eval_resolutions"]
    if kind == "grid" or phase.maximal:
        members = space.grid(choices_after(space, phase), sizes, link.width)
    else:
        ends = sorted({min(sizes), max(sizes)})
        members = space.grid(extremes_of(space, phase), ends, link.width)
    return subset(members, recipe["grid_subnets" if kind == "grid" else "val_subnets"])


def report_grid(net, link, data):
    """(one row per reported subnet on the test split, size of the whole grid).  Thesis 5.3."""
    recipe, name, members = link.recipe, link.cell.name, test_members(link, "grid")
    grid = test_rows(net, members, data, recipe["eval_batch_size"], name, link.joint_votes)
    choices = choices_after(link.space, link.phase)
    whole = link.space.grid(choices, recipe["eval_resolutions"], link.width)
    return grid, len(whole)
