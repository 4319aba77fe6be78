"""A cell and its report: folders, atomic files, checkpoints, seeds, progress.

A cell is one scientific unit (study, supernet, width, teacher, data set, seed, ...). It lives in
`outputs/<profile>/<study>/<name>/` and is finished when `report.json`, always written last, carries the hash of its
parameters. Torch is imported by the functions that need it: the driver reads plans and reports without waiting for it.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import pickle
import platform
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "pymoo", "moocore", "lightgbm",
            "safetensors")
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG,
                errno.ENOTDIR, errno.EEXIST}
_temporary = itertools.count()


class Refusal(ValueError):
    """Bad input or a bad machine, told in one line that names the remedy."""


# ---------------------------------------------------------------------------------------------- values and hashes

def plain(obj):
    """`obj` as JSON values: string keys, lists, Python numbers. NaN becomes None (not measured)."""
    if hasattr(obj, "to_dict") and not isinstance(obj, type):
        obj = obj.to_dict()
    if isinstance(obj, dict):
        return {str(k): plain(v) for k, v in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(v) for v in obj]
    if isinstance(obj, np.ndarray):
        return plain(obj.tolist())
    if isinstance(obj, np.generic):
        return plain(obj.item())
    if isinstance(obj, Path):
        return obj.as_posix()
    if isinstance(obj, float) and math.isnan(obj):
        return None
    if obj is None or isinstance(obj, str | bool | int | float):
        return obj
    raise TypeError(f"{type(obj).__name__} has no JSON form")


def hash_of(obj):
    """12 hex characters of the canonical JSON of `obj`: the same for any order of keys, and after a round trip."""
    text = json.dumps(plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sha256_of(path):
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------- files, all or nothing

@contextmanager
def atomic(path):
    """Yield a temporary path beside `path` (same suffix); it takes the place of `path` only if the body succeeds.

    The bytes are on the disk before the name changes, so a kill or a power cut leaves the old file or the new one.
    A disk that is full or may not be written is a Refusal; any error removes the temporary file.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{next(_temporary)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise Refusal(f"cannot write {path}: {error.strerror}. Free some space or choose another folder (--out), "
                      "then start again: finished work is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path, data):
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text):
    write_bytes(path, text.encode())


def write_json(path, obj):
    """Readable JSON in the given order of keys; numpy values and tuples become plain, NaN becomes null."""
    write_text(path, json.dumps(plain(obj), indent=1, allow_nan=False) + "\n")


def write_csv(path, frame):
    """A DataFrame without its index; floats as their shortest exact text, so that equal numbers are equal bytes."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise Refusal(f"{path} does not exist: run the notebook that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise Refusal(f"{path} is not valid JSON: delete it and run again") from None


# ---------------------------------------------------------------------------------------------- cells

@dataclass(frozen=True)
class Cell:
    """One unit of work and its folder. `params` decides everything that the numbers depend on."""

    folder: Path
    study: str
    name: str
    params: dict

    @property
    def hash(self):
        return hash_of(self.params)

    def path(self, name):
        return self.folder / name

    def report(self):
        """The finished report as a dict; None if there is none, or if it belongs to other parameters."""
        try:
            report = read_json(self.path("report.json"))
        except Refusal:
            return None
        return report if isinstance(report, dict) and report.get("hash") == self.hash else None

    def finish(self, metrics, reads=None, *, seconds):
        """Write report.json, which declares the cell finished, and return it.

        reads   : {name: path} of the files the numbers came from; their SHA-256 is recorded
        seconds : wall-clock of the work, summed over resumed runs by the caller
        """
        machine = environment()
        report = {
            "study": self.study, "name": self.name, "hash": self.hash, "params": self.params, "metrics": metrics,
            "seed": self.params.get("seed"), "seconds": round(seconds, 3), "device": machine["device"],
            "threads": machine["threads"], "commit": machine["commit"], "versions": machine["versions"],
            "reads": {key: sha256_of(path) for key, path in (reads or {}).items()},
        }
        write_json(self.path("report.json"), report)
        return plain(report)


def cell(out, study, name, params):
    """The cell `name` of a study under the folder `out`, ready to be worked in; its folder exists afterwards.

    What lies there from other parameters is never resumed: it moves to `out/.other/` under its own hash, and moves
    back when its parameters are asked for again, so that trying another value loses no finished work.
    """
    out = Path(out)
    made = Cell(out / study / name, study, name, plain(params))
    attic = out / ".other" / study
    found = _hash_in(made.folder)
    if found != made.hash:
        if found:
            _move(made.folder, attic / f"{name}@{found}")
        if (attic / f"{name}@{made.hash}").exists():
            _move(attic / f"{name}@{made.hash}", made.folder)
        else:
            write_json(made.path("params.json"), {"hash": made.hash, "study": study, "name": name, "params": params})
    for leftover in made.folder.glob(".tmp-*"):     # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)
    if listing := os.environ.get("NAT_CELLS"):      # nbrun asks which cells a notebook used
        with open(listing, "a") as file:
            file.write(f"{made.folder.resolve()}\n")
    return made


@contextmanager
def alone(cell):
    """Hold the cell's lock during the body; yields False if another process has finished the cell meanwhile.

    The system frees the lock when its holder dies.  Of the processes of one torchrun the first holds it for all.
    """
    with open(cell.path(".lock"), "w") as file:
        if os.environ.get("RANK", "0") == "0":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield not cell.report()


def _hash_in(folder):
    """Hash of the parameters a folder was made with; "unknown" if it holds files without saying; None if empty."""
    try:
        return read_json(folder / "params.json")["hash"]
    except (Refusal, KeyError, TypeError):
        held = [p for p in folder.glob("*") if not p.name.startswith(".tmp-")]
        return "unknown" if held else None


def _move(source, target):
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


# ---------------------------------------------------------------------------------------------- checkpoints

def save_state(path, state):
    """Resume state: nested dicts, lists and tuples of tensors and plain values. Nothing else could be read back."""
    import torch

    data = io.BytesIO()         # not straight to the file: torch.save hides the OSError of a full disk
    torch.save(_storable(state, "state", torch.Tensor), data)
    write_bytes(path, data.getbuffer())


def _storable(value, where, tensor):
    if isinstance(value, dict):
        return {key: _storable(item, f"{where}[{key!r}]", tensor) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_storable(item, f"{where}[{i}]", tensor) for i, item in enumerate(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tensor) or value is None or type(value) in (int, float, str, bool, bytes):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}: a resume state holds tensors and plain values only")


def load_state(path, device="cpu"):
    """What `save_state` wrote. The archive's checksums are verified and nothing but tensors and values is unpickled."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise Refusal(f"{path} does not exist: run the step that writes it first") from None
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError,
            KeyError):
        pass
    raise Refusal(f"{path} is damaged: delete it and start again, the cell begins anew")


def save_weights(path, state_dict):
    """Weights as safetensors, with a checksum of the numbers in its metadata."""
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    write_bytes(path, save(tensors, {"crc32": _crc32(save(tensors))}))


def load_weights(path):
    """{name: tensor} of a safetensors file, on the CPU; its checksum is verified if it has one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        blob = Path(path).read_bytes()
        tensors = load(blob)
    except FileNotFoundError:
        raise Refusal(f"{path} does not exist: run the notebook that trains these weights first") from None
    except (SafetensorError, ValueError, KeyError):
        tensors = None
    if tensors is None or _header(blob).get("__metadata__", {}).get("crc32", _crc32(blob)) != _crc32(blob):
        raise Refusal(f"{path} is damaged: delete the folder it lies in and run again, the cell is made anew")
    return tensors


def _header(blob):
    """The JSON header of a safetensors file: 8 bytes of length, then the text, then the numbers."""
    return json.loads(blob[8:8 + int.from_bytes(blob[:8], "little")])


def _crc32(blob):
    return f"{zlib.crc32(blob[8 + int.from_bytes(blob[:8], 'little'):]):08x}"


# ---------------------------------------------------------------------------------------------- randomness

def seed_all(seed):
    """Seed torch, Python's random and numpy's global generator."""
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)                    # noqa: NPY002  (libraries draw from it)


def rng_state():
    """State of the global generators as tensors and plain values, fit for `save_state`."""
    import torch

    name, keys, position, has_gauss, cached = np.random.get_state()     # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        # Asking for the state would start CUDA in a process that does not use it.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
    }


def set_rng_state(state):
    """Put the global generators where `rng_state` found them."""
    import torch

    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))    # noqa: NPY002


def start(threads=None, seed=0):
    """First call of a notebook: threads torch may use (None: as the environment says) and the global seed."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    seed_all(seed)


# ---------------------------------------------------------------------------------------------- what the user sees

def progress(iterable, desc, total=None, every=10.0):
    """Iterate with a progress bar; in batch (NAT_BATCH=1) with a line of text at most every `every` seconds."""
    if os.environ.get("NAT_BATCH") == "1":
        return _progress_lines(iterable, desc, total, every)
    from tqdm.auto import tqdm

    return tqdm(iterable, desc=desc, total=total, leave=False)


def _progress_lines(iterable, desc, total, every):
    total = total if total is not None else len(iterable) if hasattr(iterable, "__len__") else None
    began = said = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if done and now - said >= every:
            rest = f"/{total}, {(total - done) * (now - began) / done:.0f} s left" if total else ""
            print(f"{desc}: {done}{rest}, {now - began:.0f} s so far", file=sys.stderr, flush=True)
            said = now
        yield item


def environment():
    """Where numbers come from: Python and package versions, commit, threads, and the device this process used."""
    import torch

    used_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": platform.python_version(), "versions": _versions(), "commit": _commit(),
        "device": f"cuda ({torch.cuda.get_device_name()})" if used_gpu else f"cpu ({cpu_name()})",
        "threads": torch.get_num_threads(),
    }


@lru_cache
def _versions():
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@lru_cache
def _commit():
    """The commit of the checkout, with "-dirty" if tracked files differ from it; "unknown" outside a checkout."""
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                              capture_output=True, text=True, env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"}, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


@lru_cache
def cpu_name():
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
