"""Latency of one network, measured as in the thesis: one image, evaluation mode, batch norms not
folded, warm-up forwards before the timed ones.  Source: thesis 3.3.4."""

import datetime
import time
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from nat_lib.errors import Refusal
from nat_lib.machine import cpu_name

WARMUP, RUNS = 100, 100  # forwards of the thesis
TYPICAL = 50  # percentile: the median


class Latency(NamedTuple):
    """Milliseconds per forward of one image: median and interquartile range over `runs` forwards;
    where and when."""

    ms: float
    iqr: float
    runs: int
    device: str
    threads: int
    date: str


def measure(network, resolution, warmup=WARMUP, runs=RUNS, threads=None):
    """`Latency` of a plain network on the device it is on; its mode and the number of threads are
    restored.

    warmup, runs : untimed and timed forwards.  The thesis takes the mean of 100 after 100; the
                   median of the same forwards depends less on what else the machine does
    threads      : that torch may use meanwhile; None: as it is
    The time is wall-clock.  Networks with folded batch norms (`evaluate.prepare`) are faster than
    those of the thesis.
    """
    if runs < 1 or warmup < 0:
        raise Refusal(
            f"latency of {runs} runs after a warm-up of {warmup}: give at least one run, and 0 "
            "or more"
        )
    device = next(network.parameters()).device
    with evaluating(network), using(threads):
        times = times_of(network, random_image(resolution, device), warmup, runs, time.perf_counter)
        return Latency(
            *spread(times, TYPICAL), runs, machine_of(device), torch.get_num_threads(), now()
        )


@torch.inference_mode()
def times_of(network, x, warmup, runs, clock):
    """Milliseconds of each of `runs` forwards; a GPU is waited for before and after."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    times = []
    for i in range(warmup + runs):
        wait()
        began = clock()
        network(x)
        wait()
        times += [1000 * (clock() - began)] if i >= warmup else []
    return times


def random_image(resolution, device):
    """One random image, the same in every process."""
    x = torch.randn(1, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    return x.to(device).contiguous(memory_format=torch.channels_last)


def spread(times, percentile):
    """(that percentile, interquartile range)."""
    value, low, high = np.percentile(times, (percentile, 25, 75)).tolist()
    return value, high - low


def machine_of(device: torch.device) -> str:
    """The kind of device and its name: what a latency belongs to."""
    return (
        f"cuda ({torch.cuda.get_device_name(device)})"
        if device.type == "cuda"
        else f"cpu ({cpu_name()})"
    )


def now():
    """Date and time of this second."""
    return datetime.datetime.now().isoformat(timespec="seconds")


@contextmanager
def evaluating(network):
    """Evaluation mode meanwhile; every module then has its own mode again."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def using(threads):
    """Let torch use so many threads meanwhile; None: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
