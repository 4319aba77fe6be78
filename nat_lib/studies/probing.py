"""What a supernet forgets: a fixed panel of subnets, scored after every phase that has opened them.

Source: multi-model forgetting, Benyahia et al., arXiv:1902.08232.
"""

import numpy as np

from nat_lib import files, machine
from nat_lib.evaluate import evaluate
from nat_lib.genotypes import as_text

SEED = 1902


def panel(space, width, sizes, n):
    """n subnets, the same for every seed and teacher: the largest, the smallest, the largest of
    every exit, then random ones of the given image sizes."""
    largest, rng = max(sizes), np.random.default_rng(SEED)
    ends = {"exit": space.exits[0], "depth": space.depths[0], "kernel": space.kernels[0]}
    ends |= {"expand": space.expands[0], "level": space.levels[0]}
    archs = [space.arch(largest, width), space.arch(min(sizes), width, **ends)]
    archs += [space.arch(largest, width, exit) for exit in space.exits]
    while len(dict.fromkeys(archs)) < n:
        archs.append(space.draw(space.choices, rng, width, int(rng.choice(sizes))))
    return list(dict.fromkeys(archs))[:n]


def is_open(arch, choices):
    """May a subnet be chosen: are all its values that have an effect among the choices?"""
    own = arch.canonical()
    return own.exit in choices.exit and all(
        set(getattr(own, kind)) - {0} <= set(getattr(choices, kind))
        for kind in ("depth", "kernel", "expand", "level")
    )


def scores(net, archs, choices, data, batch_size, say):
    """{genotype as text: validation top-1} of the archs that are open, batch norms recalibrated."""
    there = [arch for arch in archs if is_open(arch, choices)]
    codes = map(as_text, net.space.encode(there))
    shown = machine.progress(there, f"{say}, probes")
    return {
        code: evaluate(net, arch, data, batch_size).val_top1
        for code, arch in zip(codes, shown, strict=True)
    }


class Watch:
    """Scores the probes after every so many epochs of a training; 0: never.

    What it found is in probes.json, {number of the epoch: {genotype: validation top-1}}.  It is
    written before `fit` saves its state: an epoch that is done again replaces its own.
    """

    def __init__(self, cell, batches, scores, every):
        self.place, self.images, self.scores = cell.path("probes.json"), batches, scores
        self.every, self.epoch = every, 0

    def batches(self, epoch):
        self.epoch = epoch + 1
        return self.images(epoch)

    def after(self, validate):
        """A validation, see `train.fit`, that is followed by the probes when they are due."""

        def both(network):
            found = validate(network)
            if self.every and self.epoch % self.every == 0:
                known = files.read_json(self.place) if self.place.is_file() else {}
                files.write_json(self.place, known | {str(self.epoch): self.scores()})
            return found

        return both
