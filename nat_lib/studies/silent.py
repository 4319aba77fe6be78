"""What a training costs before it is run: its own steps, taken by a network that computes nothing.

Samplers, targets and ledger are those of the training, so the cost comes out as it will, subnet by
subnet.  Only the choice among the candidates of an attentive sampler is open: they have nearly the
same MACs.
"""

from collections.abc import Iterator
from itertools import count

import torch
from torch import nn

from nat_lib import ledger
from nat_lib.data.batches import resolution_of, slices
from nat_lib.distill import Teacher
from nat_lib.errors import Refusal
from nat_lib.exits import joint
from nat_lib.samplers import BY_LOSS
from nat_lib.studies import eps
from nat_lib.studies.sizes import training_resolutions
from nat_lib.supernet import with_width


class Silent(nn.Module):
    """Stands for a supernet, or for the subnet of one: logits are 0.

    subnet : what the ledger counts where the network is passed as a whole
    """

    def __init__(self, space, width, n_classes, exits=None):
        super().__init__()
        self.space, self.width, self.n_classes = space, width, n_classes
        self.subnet = (space, with_width(space.largest, width), n_classes, exits)

    def forward(self, x, arch=None, exits=None):
        logits = x.new_zeros(len(x), self.n_classes)
        asked = exits if arch else self.subnet[3]
        return logits if asked is None else [logits for _ in asked]


def step_costs(link, data) -> Iterator[int]:
    """Ledger cost of the training steps of a phase, one after the other, without end; `link` is of
    `eps.chain`, and need not be trained."""
    recipe, n = link.recipe, data.n_classes
    if recipe["judge"] != BY_LOSS:
        raise Refusal(f"judge {recipe['judge']}: only judge=loss has a cost that is known before")
    net, teacher = Silent(link.space, link.width, n), None
    if link.phase.maximal:
        losses = joint(Silent(link.space, link.width, n, link.space.exits), link.votes)
    else:
        if link.teacher:
            positions = eps.taught_exits(link)
            stands = Silent(link.space, link.width, n, positions)
            teacher = Teacher(stands, positions, link.votes, recipe["kd"])
        losses = eps.elastic_losses(net, link, teacher, data)
    for step, (images, size) in enumerate(_batches(link, data)):
        x = torch.zeros(1).expand(images, data.channels, size, size)
        y = torch.zeros(images, dtype=torch.long)
        with ledger.opened() as book:
            for _ in losses(x, y, step):
                pass
        yield book.total


def _batches(link, data):
    """(images, side in pixels) of every training batch, as `Data.train_batches` makes them."""
    recipe = link.recipe
    n = data.n_batches(recipe["batch_size"])
    n = min(n, recipe["max_steps_per_epoch"] or n)
    parts = slices(len(data.rows["train"]), recipe["batch_size"])[:n]
    for epoch in count():
        sizes = training_resolutions(recipe, epoch)
        for step, part in enumerate(parts):
            yield part.stop - part.start, resolution_of(step, epoch, sizes)
