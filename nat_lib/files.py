"""Files, all or nothing: hashes, JSON, CSV, weights, resume states.

Torch is imported by the functions that need it: the driver reads plans and reports without waiting
for it.
"""

import errno
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from nat_lib.errors import Refusal

PathLike = str | Path
ROOT = Path(__file__).resolve().parents[1]
CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
}
_temporary = itertools.count()


# -------------------------------------------------------------------------------- values and hashes


def plain(obj: Any) -> Any:
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


def hash_of(obj: Any) -> str:
    """12 hex characters of the canonical JSON of `obj`: the same for any order of keys, and after a
    round trip."""
    text = json.dumps(
        plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------- files, all or nothing


@contextmanager
def writing(path: PathLike) -> Iterator[None]:
    """Turn an OSError of the body that means "cannot be written" into a Refusal about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise Refusal(
            f"cannot write {path}: {error.strerror}. Free some space or choose another folder "
            "(--out), then start again: finished work is kept"
        ) from error


@contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); it takes the place of `path` only if the
    body succeeds.

    The bytes are on the disk before the name changes, so a kill or a power cut leaves the old file
    or the new one. A disk that is full or may not be written is a Refusal; any error removes the
    temporary file.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(folder: PathLike) -> Iterator[Path]:
    """Yield a new, empty folder beside `folder`; it takes the place of `folder` only if the body
    succeeds, and nothing is left of it otherwise.

    What a killed call has left is put right first; the folder's lock keeps others out meanwhile.
    """
    folder = Path(os.path.abspath(folder))
    new, old = (folder.with_name(f".tmp-{what}-{folder.name}") for what in ("new", "old"))
    lock = folder.with_name(f".{folder.name}.lock")
    with locked(lock), writing(folder):
        _put_right(folder, new, old)
        try:
            new.mkdir(parents=True)
            yield new
            for path in new.rglob("*"):
                _sync(path)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            _sync(folder.parent)
        finally:
            _put_right(folder, new, old)
            lock.unlink(missing_ok=True)  # whoever waits for it makes a new one


def _put_right(folder: Path, new: Path, old: Path) -> None:
    """As it was before: the old folder back, if it was moved away and nothing came in its place."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(path: PathLike, wait: float = -1.0) -> Iterator[bool]:
    """Hold the lock file `path` during the body: one process at a time of all that ask for it.

    wait   : seconds to wait for another holder; -1: as long as it takes
    yields : whether it is held, False only when another process held it for so long
    The system frees the lock when its holder ends, however it ends.
    """
    lock = FileLock(path)
    with writing(Path(path).parent):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            lock.acquire(timeout=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".tmp-{os.getpid()}-{next(_temporary)}-{path.name}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: PathLike, data: bytes | memoryview) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: PathLike, text: str) -> None:
    write_bytes(path, text.encode())


def append_text(path: PathLike, text: str) -> None:
    """Add text to the end of a file at once, as a log does."""
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)


def read_text(path: PathLike) -> str:
    """Text of a file in UTF-8, whatever the locale; a Refusal if there is no such text."""
    try:
        return Path(path).read_bytes().decode()
    except FileNotFoundError:
        raise Refusal(f"{path} does not exist: run the notebook that writes it first") from None
    except UnicodeDecodeError:
        raise Refusal(
            f"{path} is not text in UTF-8: save it in that encoding, or delete it"
        ) from None
    except OSError as error:
        raise Refusal(
            f"cannot read {path}: {error.strerror}. Put the file right, or remove it"
        ) from None


def write_json(path: PathLike, obj: Any) -> None:
    """Readable JSON in the given order of keys; numpy values and tuples become plain, NaN becomes
    null."""
    write_text(path, json.dumps(plain(obj), indent=1, allow_nan=False) + "\n")


def write_csv(path: PathLike, frame: Any) -> None:
    """A DataFrame without its index; floats as their shortest exact text, so that equal numbers are
    equal bytes."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_json(path: PathLike) -> Any:
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError):
        raise Refusal(f"{path} is not valid JSON: delete it and run again") from None


# -------------------------------------------------------------------------------------- checkpoints


def save_state(path: PathLike, state: Any) -> None:
    """Resume state: nested dicts, lists and tuples of tensors and plain values. Nothing else could
    be read back."""
    import torch

    data = io.BytesIO()  # not straight to the file: torch.save hides the OSError of a full disk
    torch.save(_storable(state, "state", torch.Tensor), data)
    write_bytes(path, data.getbuffer())


def _storable(value: Any, where: str, tensor: type) -> Any:
    if isinstance(value, dict):
        return {key: _storable(item, f"{where}[{key!r}]", tensor) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_storable(item, f"{where}[{i}]", tensor) for i, item in enumerate(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tensor) or value is None or type(value) in (int, float, str, bool, bytes):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a resume state holds tensors and plain values only"
    )


def load_state(path: PathLike, device: Any = "cpu") -> Any:
    """What `save_state` wrote. The archive's checksums are verified and nothing but tensors and
    values is unpickled."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise Refusal(f"{path} does not exist: run the step that writes it first") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
    ):
        pass
    raise Refusal(f"{path} is damaged: delete it and start again, the cell begins anew")


def save_weights(path: PathLike, state_dict: Mapping[str, Any]) -> None:
    """Weights as safetensors, with a checksum of the numbers in its metadata."""
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    write_bytes(path, save(tensors, {"crc32": _crc32(save(tensors))}))


def load_weights(path: PathLike) -> dict[str, Any]:
    """{name: tensor} of a safetensors file, on the CPU; its checksum is verified if it has one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        blob = Path(path).read_bytes()
        tensors = load(blob)
    except FileNotFoundError:
        raise Refusal(
            f"{path} does not exist: run the notebook that trains these weights first"
        ) from None
    except (SafetensorError, ValueError, KeyError):
        tensors = None
    if tensors is None or _header(blob).get("__metadata__", {}).get(
        "crc32", _crc32(blob)
    ) != _crc32(blob):
        raise Refusal(
            f"{path} is damaged: delete the folder it lies in and run again, the cell is made anew"
        )
    return tensors


def _header(blob: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of length, then the text, then the numbers."""
    return json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])


def _crc32(blob: bytes) -> str:
    return f"{zlib.crc32(blob[8 + int.from_bytes(blob[:8], 'little') :]):08x}"
