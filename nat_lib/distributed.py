"""Several processes of one torchrun: ranks, shares, gathered results."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist


def ranks():
    """(rank, number of processes) of this run; (0, 1) when not started by torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


# Processes wait for the first one while it decodes images or times networks: hours, not torch's ten
# minutes.
PATIENCE = timedelta(hours=24)


@contextmanager
def process_group(device):
    """Join the processes that torchrun started, if it did, for the duration of the body.

    After an error the group is not left in order, which would wait for the other processes: this
    one ends, and with it the connections that the others wait on.
    """
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def first_rank_first():
    """Body run by process 0 alone, then by the others: for what must exist before it is read."""
    rank, world = ranks()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and world > 1:
        dist.barrier()


def share(x, y):
    """This process's part of a batch and its weight in the mean; a tiny last batch is computed by
    every process."""
    rank, world = ranks()
    if len(y) < 2 * world:
        return x, y, 1 / world
    return x[rank::world], y[rank::world], len(y[rank::world]) / len(y)


def gathered(mine):
    """What the processes computed for items rank::world of a list, as one list in the items' order,
    everywhere."""
    _, world = ranks()
    if world == 1:
        return mine
    parts = [None] * world
    dist.all_gather_object(parts, mine)
    return [parts[i % world][i // world] for i in range(sum(map(len, parts)))]


def average_buffers(network):
    """Give all processes the mean of the floating-point buffers (BN statistics), in one flat
    all-reduce."""
    _, world = ranks()
    buffers = [b for b in network.buffers() if b.is_floating_point()]
    if world > 1 and buffers:
        flat = torch.cat([b.flatten() for b in buffers]) / world
        dist.all_reduce(flat)
        for b, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            b.copy_(mean.view_as(b))
