"""Seeds, generators, progress, memory, and what a report says of the machine."""

import ctypes
import importlib.metadata
import os
import platform
import random
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sized
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nat_lib.files import ROOT

T = TypeVar("T")
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "pymoo",
    "moocore",
    "lightgbm",
    "safetensors",
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 1 << 30  # bytes of freed memory that a process keeps
_began = time.perf_counter()


# --------------------------------------------------------------------------------------- randomness


def seed_all(seed: int) -> None:
    """Seed torch, Python's random and numpy's global generator."""
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries draw from it)


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of one purpose ("mutate", "subnets", ...) at these numbers (iteration, step).

    It depends on nothing else, so work can be left and gone on with anywhere; and without the word
    two purposes with the same numbers would draw the same.
    """
    return np.random.default_rng((seed, zlib.crc32(purpose.encode()), *numbers))


def rng_state() -> dict[str, Any]:
    """State of the global generators as tensors and plain values, fit for `save_state`."""
    import torch

    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        # Asking for the state would start CUDA in a process that does not use it. Of the GPUs only
        # the present one: a run goes on where there are fewer, and each process on its own.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": (
            name,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global generators where `rng_state` found them."""
    import torch

    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002


def start(threads: int | None = None, seed: int = 0) -> None:
    """First call of a notebook: threads torch may use (None: as the environment says), the global
    seed, and the clock of `elapsed`."""
    import torch

    global _began
    _began = time.perf_counter()

    if threads:
        torch.set_num_threads(threads)
    seed_all(seed)


def elapsed() -> float:
    """Seconds since `start`."""
    return time.perf_counter() - _began


# ------------------------------------------------------------------------------- what the user sees


def note(line: str) -> None:
    """A line for whoever watches the run."""
    print(line, file=sys.stderr, flush=True)


def progress(
    iterable: Iterable[T], desc: str, total: int | None = None, every: float = 10.0
) -> Iterable[T]:
    """Iterate with a progress bar; in batch (NAT_BATCH=1), or where nobody watches (standard error
    is a file), with a line of text at most every `every` seconds."""
    watched = "ipykernel" in sys.modules or sys.stderr.isatty()
    if os.environ.get("NAT_BATCH") == "1" or not watched:
        return _progress_lines(iterable, desc, total, every)
    from tqdm.auto import tqdm

    return tqdm(iterable, desc=desc, total=total, leave=False)


def _progress_lines(
    iterable: Iterable[T], desc: str, total: int | None, every: float
) -> Iterator[T]:
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    began = said = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if done and now - said >= every:
            rest = f"/{total}, {(total - done) * (now - began) / done:.0f} s left" if total else ""
            note(f"{desc}: {done}{rest}, {now - began:.0f} s so far")
            said = now
        yield item


def environment() -> dict[str, Any]:
    """Where numbers come from: Python and package versions, commit, threads, and the device this
    process used."""
    import torch

    used_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
        "device": f"cuda ({torch.cuda.get_device_name()})" if used_gpu else f"cpu ({cpu_name()})",
        "threads": torch.get_num_threads(),
    }


@lru_cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@lru_cache
def _commit() -> str:
    """The commit of the checkout, with "-dirty" if tracked files differ from it; "unknown" outside
    a checkout."""
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(
            [
                "git",
                "-C",
                str(ROOT),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=40",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def keep_memory() -> None:
    """Let the allocator of this process reuse freed memory instead of giving it back.

    A training step frees and asks for the same large tensors again and again; glibc returns each to
    the system, and thousands of page faults per step follow (a tenth of a narrow network's step).
    Other C libraries have no such switch and stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(option, KEPT)


@lru_cache
def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text("utf-8")) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
