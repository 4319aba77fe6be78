"""The decoded store: every image of a data set once, in one flat file of pixels.

`open_store` decodes into a memory-mapped uint8 file under a cache folder, and reads nothing else
until the originals change.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageCms, ImageOps

from nat_lib import files, machine
from nat_lib.data.readers import Raw
from nat_lib.errors import Refusal

VERSION = 2  # of the store; another number decodes everything again
WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow would clip these to white
NAMED = 10  # unusable images named in one refusal


class Store(NamedTuple):
    """Decoded images in one flat uint8 tensor (memory-mapped, or on a device), every image column
    by column.

    Image i is pixels[offset[i]:][:W * H * 3] as (W, H, 3) with (H, W) = side[i]. Columns come first
    because the first pass of a resize is the horizontal one and then adds contiguous rows.
    original[i] is (H, W) before shrinking.
    """

    pixels: UInt8[torch.Tensor, " bytes"]
    side: Int64[np.ndarray, "n 2"]
    original: Int64[np.ndarray, "n 2"]
    offset: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    uniform: bool  # all images have the same size

    def image(self, i: int) -> UInt8[torch.Tensor, "3 h w"]:
        """Image i: a view."""
        height, width = self.side[i].tolist()
        start = int(self.offset[i])
        columns = self.pixels[start : start + width * height * 3].view(width, height, 3)
        return columns.permute(2, 1, 0)


class Meta(NamedTuple):
    """What a store says of its images.

    sizes       : {part: images}; rows of the store are the parts one after the other
    names       : hash of the list of files and labels
    fingerprint : hash of all image files, or pixels where there are none, and of all labels
    left_out    : what lies beside the images and is not used, in words
    scans       : as in `readers.Raw`
    home        : folder of the store
    """

    classes: list[str]
    sizes: dict[str, int]
    names: str
    fingerprint: str
    left_out: str
    scans: tuple[int, list[int]] | None
    home: Path


def open_store(
    folder: Path, sign: Any, read_raw: Callable[[], Raw], side: int, root: Path | None
) -> tuple[Store, Meta]:
    """The store of a data set: built under `folder` if it is not there, or if `sign`, the
    originals, changed.

    sign     : value that tells whether the originals are still the same
    read_raw : called only to build
    side     : images are shrunk, antialiased, until their shorter side has this many pixels; none
               is enlarged
    """
    home = folder / f"store{side}-{files.hash_of([VERSION, side, sign])}"
    with _locked(folder):
        if not (home / "meta.json").exists():
            for outdated in folder.glob(f"store{side}-*"):
                shutil.rmtree(outdated)
            for killed in folder.glob(".tmp-new-store*"):
                shutil.rmtree(killed)
            with files.atomic_folder(home) as fresh:
                _build(fresh, read_raw(), side, root)
    meta, pixels = files.read_json(home / "meta.json"), home / "pixels.u8"
    if pixels.stat().st_size != meta.pop("bytes"):
        raise Refusal(f"{pixels} is damaged: delete the folder {home}, it is made again")
    # Copy-on-write keeps the file safe and torch content; nobody writes.
    flat = torch.from_numpy(np.memmap(pixels, np.uint8, "c"))
    with np.load(home / "table.npz") as table:
        sides, original, offset, labels = (
            table[key] for key in ("side", "original", "offset", "labels")
        )
    uniform = bool((sides == sides[0]).all())
    return Store(flat, sides, original, offset, labels, uniform), Meta(**meta, home=home)


def _locked(folder: Path) -> Any:
    """One builder at a time; a cache folder that may not be written is a Refusal."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise Refusal(
            f"cannot use the cache folder {folder} ({error.strerror}): name another in the "
            "environment variable NAT_CACHE, or give load(..., cache=)"
        ) from error
    return files.locked(folder / ".lock")


# ----------------------------------------------------------------------------------------- building


def _build(fresh: Path, raw: Raw, side: int, root: Path | None) -> None:
    if raw.left_out:
        machine.note(f"{root}: {raw.left_out} left out")
    labels = np.concatenate([labels for _, labels in raw.parts.values()])
    digest = hashlib.sha256(labels.tobytes())
    stored: list[tuple[int, int]] = []
    original: list[tuple[int, int]] = []
    unusable: list[str] = []
    with open(fresh / "pixels.u8", "wb") as file:
        for part, (images, _) in raw.parts.items():
            decoded = _decoded(images, side, raw.as_shown)
            for found in machine.progress(decoded, f"decoding {part} images once", len(images)):
                if isinstance(found, str):
                    unusable.append(found)
                    continue
                file.write(found.pixels.data)
                digest.update(found.digest)
                stored.append((found.pixels.shape[1], found.pixels.shape[0]))
                original.append(found.size)
    if unusable:
        raise Refusal(_all_told(unusable))
    sides = np.asarray(stored, np.int64)
    sizes_in_bytes = 3 * sides.prod(1)
    np.savez(
        fresh / "table.npz",
        side=sides,
        original=np.asarray(original, np.int64),
        labels=labels,
        offset=np.cumsum(sizes_in_bytes) - sizes_in_bytes,
    )
    meta = {
        "classes": raw.classes,
        "sizes": {part: len(part_labels) for part, (_, part_labels) in raw.parts.items()},
        "names": _names(raw, root),
        "fingerprint": digest.hexdigest()[:12],
        "left_out": raw.left_out,
        "scans": raw.scans,
        "bytes": int(sizes_in_bytes.sum()),
    }
    files.write_json(fresh / "meta.json", meta)


def _all_told(unusable: list[str]) -> str:
    """All images that cannot be used, in one line."""
    if len(unusable) == 1:
        return unusable[0]
    rest = f"; and {len(unusable) - NAMED} more" if len(unusable) > NAMED else ""
    return f"{len(unusable)} images cannot be used: {'; '.join(unusable[:NAMED])}{rest}"


def _names(raw: Raw, root: Path | None) -> str:
    """Hash of which images there are: the files relative to `root`, so that a data set may move,
    and the labels."""
    listed = []
    for part, (images, labels) in raw.parts.items():
        named = isinstance(images, Sequence)
        names = [os.path.relpath(file, root) for file in images] if named else len(images)
        listed.append([part, np.asarray(labels).tolist(), names])
    return files.hash_of(listed)


# ----------------------------------------------------------------------------------------- decoding


class Decoded(NamedTuple):
    """One image: RGB pixels as columns, its own (H, W) before shrinking, SHA-256 of its file."""

    pixels: UInt8[np.ndarray, "w h 3"]
    size: tuple[int, int]
    digest: bytes


def _decoded(images: Sequence | np.ndarray, side: int, as_shown: bool) -> Iterator[Decoded | str]:
    """Every image in order, or why it cannot be used; as many threads as torch may use."""
    if not isinstance(images, Sequence):
        for image in images:
            digest = hashlib.sha256(image.tobytes()).digest()
            yield Decoded(np.ascontiguousarray(image.transpose(1, 0, 2)), image.shape[:2], digest)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(lambda path: _decoded_or_why(path, side, as_shown), images)


def _decoded_or_why(path: Path, side: int, as_shown: bool) -> Decoded | str:
    try:
        return decode(path, side, as_shown)
    except Refusal as why:
        return str(why)


def decode(path: Path, side: int, as_shown: bool = False) -> Decoded:
    """One image file, shrunk to a shorter side of at most `side` pixels; a Refusal says what is
    wrong with it and what to do."""
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in WIDE_MODES:
                raise Refusal(
                    f"{path} has more than 8 bits per channel (mode {image.mode}): "
                    "convert it to 8-bit RGB first"
                )
            rgb = shown(image) if as_shown else image.convert("RGB")
    except Refusal:
        raise
    except FileNotFoundError as error:
        raise Refusal(
            f"{path} is missing: unpack the archive again, or restore the file"
        ) from error
    except Image.DecompressionBombError as error:
        raise Refusal(f"{path} is too large ({error}): make it smaller or delete it") from error
    except Exception as error:
        raise Refusal(
            f"{path} cannot be read as an image ({error}): replace it or delete it"
        ) from error
    width, height = rgb.size
    factor = side / min(width, height)
    if factor < 1:
        smaller = (max(round(width * factor), 1), max(round(height * factor), 1))
        rgb = rgb.resize(smaller, Image.Resampling.BILINEAR)
    pixels = np.ascontiguousarray(np.asarray(rgb).transpose(1, 0, 2))
    return Decoded(pixels, (height, width), hashlib.sha256(data).digest())


def shown(image: Image.Image) -> Image.Image:
    """An image as a viewer shows it: turned as its EXIF says, its colours as its profile says,
    transparent parts on white. RGB."""
    profile = image.info.get("icc_profile")
    with suppress(Exception):  # EXIF that is damaged says nothing; damaged pixels are told below
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    elif profile is None:
        return image.convert("RGB")
    return _in_srgb(image, profile) if profile else image


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Colours of an embedded profile (Adobe RGB, Display P3, CMYK ...) in sRGB; a profile that is
    damaged or not of the image's kind is ignored, as viewers do."""
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(theirs).lower():
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(
            image, theirs, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB")
    return image.convert("RGB") if converted is None else converted
