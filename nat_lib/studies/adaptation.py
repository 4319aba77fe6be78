"""The supernets of one search as its strategy sees them: they score, and they adapt."""

import time
from functools import partial

import numpy as np
import torch

from nat_lib import files
from nat_lib.errors import Refusal
from nat_lib.evaluate import prepare, score
from nat_lib.genotypes import as_text
from nat_lib.relaxed import Relaxed
from nat_lib.search import distributions, ensemble
from nat_lib.search.objectives import OBJECTIVES, Subject
from nat_lib.studies import scoring, warmup
from nat_lib.studies.judging import unseen


class Evaluate:
    """The supernets of one search as its strategy sees them: they score, and they adapt.

    version : adaptations behind the present weights, whose scores are told apart by it
    noted   : what the tables say of the adaptation of this iteration
    """

    def __init__(self, run, warm, data, workers, processes, out):
        self.run, self.data, self.workers, self.processes = run, data, workers, processes
        self.params = run.cell.params
        self.recipe = self.params["recipe"]
        self.nets = warmup.warmed_up(run.space, warm).to(data.device)
        self.teacher = warmup.make_teacher(
            run.space, warm, self.recipe["exit_weights"], data.device
        )
        self.members = warmup.reduced_grid(run.space, self.recipe)
        self.memory = scoring.error_memory(run.cell)
        self.trained = _load_weights(self.nets, run.cell)  # epochs of adaptation in the weights
        self.version, self.noted = 0, {}
        subject = Subject(run.space, run.n_classes, self._clock(out))
        self.costs = [partial(OBJECTIVES[name].function, subject) for name in run.names[1:]]

    def _clock(self, out):
        """X -> (n,) ms, the machine's block table or every subnet measured by itself; None where
        no objective needs it."""
        if not any(OBJECTIVES[name].timed for name in self.run.names[1:]):
            return None
        if self.params["latency"] == "table":
            run = self.run
            return scoring.block_table(run.space, run.n_classes, self.data.device, out).latency
        return scoring.latencies(self.nets, self.params["latency_runs"], self.run.cell)

    def __call__(self, X):
        """Objective values (n, M) of genotypes (n, V) at the present weights."""
        moved_on = self.trained != self.version * self.params["adaptation_epochs"]
        if moved_on:  # a killed adaptation: what was scored before it is remembered
            codes = [as_text(x) for x in self.run.space.active(X)]
            if any((self.version, c) not in self.memory.known for c in codes):
                raise Refusal(
                    f"{self.run.cell.folder}: scores of iteration {self.version} are missing, and "
                    "the weights have moved on since: delete the folder, the search begins anew"
                )
        size = self.recipe["nat_eval_batch_size"]
        errors = scoring.errors(self.nets, X, self.version, self.memory, self.data, size)
        return np.column_stack([errors, *(cost(X) for cost in self.costs)])

    def cheap(self, X, share):
        """As a call, on every so many-th validation image; not remembered."""
        step, space = round(1 / share), self.run.space
        errors = [self._cheap(arch, step) for arch in space.decode(X)]
        return np.column_stack([errors, *(cost(X) for cost in self.costs)])

    def _cheap(self, arch, step):
        side, size = arch.resolution, self.recipe["nat_eval_batch_size"]
        some = [
            (x[::step].contiguous(memory_format=torch.channels_last), y[::step])
            for x, y in self.data.eval_batches("val", side, size)
        ]
        return 100 - score(prepare(self.nets, arch, self.data, side), some).top1

    def relax(self, laws, estimator, price, number):
        """The laws of a gradient search, moved; see `relaxed.Relaxed`."""
        batch, turns = self.recipe["nat_batch_size"], self.run.budget.iterations
        moves = Relaxed(self.nets, self.data, batch, turns, self.params["seed"], unseen)
        return moves(laws, estimator, price, number)

    def fit(self, X, errors, rng):
        """The predictor of this search, fitted to an archive."""
        return ensemble.fit(
            self.params["predictor"],
            self.run.space,
            X,
            errors,
            rng=rng,
            features=self.run.version.features,
            fallback=self.params["fallback"],
            mask_after_exit=self.params["mask_after_exit"],
        )

    def adapt(self, X, number):
        """Train the supernets for the `number`-th time, on subnets like the best of the archive."""
        run, p = self.run, self.params
        laws = distributions.fit(
            X,
            run.space.lower,
            run.space.upper,
            law=p["distribution_law"],
            families=p["distribution_families"],
            processes=self.processes,
        )

        def draw(rng):
            drawn = distributions.sample(laws, 1, rng, run.space, run.version.repair)
            return run.space.decode(drawn)[0]

        validations = []  # (seconds, top1)

        def validate(_=None):
            began = time.perf_counter()
            found = warmup.mean_score(self.nets, self.members, self.data, self.recipe)
            validations.append((time.perf_counter() - began, found[1]))
            return found

        warmup.adapt(
            self.nets,
            self.teacher,
            draw,
            number,
            p["adaptation_epochs"],
            run.budget.iterations,
            self.recipe,
            self.data,
            p["seed"],
            run.cell,
            self.workers,
            validate if run.version.validation == "every" else None,
        )
        self.trained, self.version = number * p["adaptation_epochs"], number
        if not validations:
            validate()
        seconds, top1 = zip(*validations, strict=True)
        self.noted = {
            "laws": [law.family for law in laws],
            "supernet_top1": top1[-1],
            "epochs": p["adaptation_epochs"],
            "validations": len(seconds),
            "validation_seconds": sum(seconds) / len(seconds),
        }


def _load_weights(nets, cell):
    """Load the weights that a killed search was at, if it had begun to adapt; returns the epochs of
    adaptation."""
    if not cell.path("state.pt").exists():
        return 0
    state = files.load_state(cell.path("state.pt"))
    nets.load_state_dict(state["network"])
    return state["epoch"]
