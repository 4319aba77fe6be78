"""Images in folders: one walk that lists them, names what it leaves out, and tells when they
change.

Links are followed. Hidden files and folders, and those that systems leave behind, are no images.
Torch and Pillow are imported by nobody who only asks whether the images changed.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nat_lib.data.catalogue import DATASETS, Dataset
from nat_lib.errors import Refusal
from nat_lib.files import hash_of

SYSTEM = {
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}
NOT_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow knows them but shows nothing
PART_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class Tree(NamedTuple):
    """A folder of class folders: class names, files and labels in the order of their names, and how
    many files of which kind were left out."""

    classes: list[str]
    files: list[Path]
    labels: list[int]
    left_out: Counter[str]


# ------------------------------------------------------------------------------------------ walking


def walk(root: str | Path, left_out: Counter[str] | None = None) -> Iterator[os.DirEntry[str]]:
    """All files under a folder in the order of their names; `left_out` counts what is passed over.

    Raises Refusal for a name that is not UTF-8, and OSError for what cannot be read.
    """
    yield from _visit(str(root), (), Counter() if left_out is None else left_out)


def _visit(
    folder: str, above: tuple[tuple[int, int], ...], left_out: Counter[str]
) -> Iterator[os.DirEntry[str]]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        left_out["link to a folder above it"] += 1
        return
    for entry in _entries(folder, left_out):
        if entry.is_dir():
            yield from _visit(entry.path, (*above, here), left_out)
        elif entry.is_file():
            yield entry
        else:
            left_out["dead link"] += 1


def _entries(folder: str | Path, left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what is hidden or of the system."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    shown = []
    for entry in entries:
        if not entry.name.isascii() and not _is_unicode(entry.name):
            raise Refusal(f"the name of {entry.path!a} is not UTF-8: rename it")
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
            left_out["hidden or system"] += 1
        else:
            shown.append(entry)
    return shown


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def signature(root: Path) -> list[tuple[str, int, int]]:
    """[(name, bytes, time of the last change in ns), ...] of all files under a folder, by name."""
    found = []
    for entry in walk(root):
        status = entry.stat()
        found.append((os.path.relpath(entry.path, root), status.st_size, status.st_mtime_ns))
    return found


# ------------------------------------------------------------------------------------ class folders


def tree(root: Path) -> Tree:
    """The images of a folder whose sub-folders are the classes, at any depth."""
    found = Tree([], [], [], Counter())
    for folder in _folders(root):
        before, left_out = len(found.files), Counter[str]()
        for entry in walk(folder, left_out):
            if kind := _no_image(entry):
                left_out[kind] += 1
            else:
                found.files.append(Path(entry.path))
                found.labels.append(len(found.classes))
        if len(found.files) == before:
            beside = f" (but {told(left_out)})" if left_out else ""
            raise Refusal(f"class folder {folder} holds no images{beside}: fill it or remove it")
        found.classes.append(folder.name)
        found.left_out.update(left_out)
    if not found.classes:
        raise Refusal(
            f"{root} holds no class folders: give the folder whose sub-folders are the classes"
        )
    return found


def told(left_out: Counter[str]) -> str:
    """Counts in words: "3 .txt, 1 dead link", most frequent first."""
    ranked = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {kind}" for kind, n in ranked)


def _folders(root: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(root, Counter()) if entry.is_dir()]


def _no_image(entry: os.DirEntry[str]) -> str:
    """ "" for a file that Pillow reads; otherwise its kind: the suffix.  A file whose suffix says
    nothing is opened."""
    from PIL import Image

    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in _image_suffixes():
        return ""
    try:
        with Image.open(entry.path) as image:
            return "" if image.format not in NOT_PIXELS else suffix
    except Exception:  # Pillow's plugins raise what they like
        return suffix or "without suffix"


@lru_cache
def _image_suffixes() -> frozenset[str]:
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(
        suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NOT_PIXELS
    )


# --------------------------------------------------------------------------------------- the splits


def part_of(name: str) -> str | None:
    """ "train", "val" or "test" if a folder's name says so in any usual way ("Train", "train_set",
    "validation"); else None."""
    word = re.sub(r"[^a-z]", "", name.lower())
    word = re.sub(r"(set|split|data|images)$", "", word)
    return next((part for part, names in PART_NAMES.items() if word in names), None)


def parts(root: Path) -> dict[str, Path]:
    """{"train", "val", "test": folder}, as far as a folder is divided so; {} if its sub-folders are
    the classes."""
    folders = _folders(root)
    found: dict[str, Path] = {}
    for folder in folders:
        part = part_of(folder.name)
        if part in found:
            raise Refusal(
                f"{found[part]} and {folder} are both the {part} part: join or rename them"
            )
        if part:
            found[part] = folder
    if "train" not in found or not _folders(found["train"]):
        _check_not_parts(root, folders)
        return {}
    unknown = [folder for folder in folders if folder not in found.values()]
    if unknown:
        raise Refusal(
            f"{unknown[0]} lies beside {found['train']}: rename it to val or test, or move it away"
        )
    return {part: found[part] for part in PART_NAMES if part in found}


def _check_not_parts(root: Path, folders: list[Path]) -> None:
    """Folders that all hold the same sub-folders are parts of a split, not classes."""
    inner = [[inside.name for inside in _folders(folder)] for folder in folders]
    if len(inner) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        names = ", ".join(folder.name for folder in folders[:4])
        raise Refusal(
            f"all folders of {root} ({names}) hold the same sub-folders "
            f"({', '.join(inner[0][:4])}): name them train, val and test, or give "
            "the one whose sub-folders are the classes"
        )


# ---------------------------------------------------------------------------------- where it lies


def located(name: str, what: Dataset, root: str | Path | None) -> tuple[Dataset, Path | None]:
    """(the data set as it lies under `root`, the folder that its reader gets); None: embedded.

    A data set with a folder of its own may also lie as `<name>/train/<class>/...`.
    """
    if what.embedded:
        return what, None
    if root is None:
        raise Refusal(
            f"{name} needs root=...: the folder that holds {what.home or 'the class folders'}"
        )
    root = Path(root).expanduser().resolve()
    if what.home and root.name == what.home:
        root = root.parent
    if not root.is_dir():
        raise Refusal(f"{root} is not a folder: correct the root of {name}")
    as_classes = root / name
    if what.home and not (root / what.home).is_dir() and (as_classes / "train").is_dir():
        return what._replace(reader="read_folder", home=None, archive=None), as_classes
    return what, root


def originals(name: str, root: str | Path | None) -> str | None:
    """Hash of names, sizes and dates of the files of a data set, for whoever wants to know whether
    they changed; None if it is embedded or not there yet."""
    what, place = located(name, DATASETS[name], root)
    if place is None or not (place / (what.home or "")).is_dir():
        return None
    return hash_of(signature(place / (what.home or "")))
