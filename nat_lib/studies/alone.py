"""Training one plain network by itself, as a hand-made one or a subnet beside its supernet."""

from nat_lib import machine
from nat_lib.exits import joint
from nat_lib.optimizers import sgd
from nat_lib.recipes import MOMENTUM
from nat_lib.schedules import schedule_of
from nat_lib.train import epochs, fit

LR = 8e-2  # of one stage of a supernet: the recipe makes both rates of it


def train_alone(network, side, n_epochs, recipe, batch_size, seed, data, cell):
    """Train a network of one exit in the folder of a cell; returns it, with its last weights.

    side : of the images, in pixels;  recipe : of `recipes`, that of the supernet it stands beside
    """
    machine.seed_all(seed)
    network.to(data.device)
    batches, n_batches = epochs(data, batch_size, [side], seed)
    schedule = schedule_of(recipe, recipe.lr(LR, batch_size), n_epochs)
    losses = joint(lambda x: [network(x)], [1.0], None, recipe.smoothing, network)
    optimizer = sgd(network, recipe.decay, MOMENTUM)
    fit(
        *(network, losses, batches, None, schedule, optimizer, n_batches, cell),
        clip_value=recipe.clip,
        say=cell.name,
    )
    return network.eval()
