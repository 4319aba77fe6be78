"""Finished results without weights as one archive, and all notebooks redrawn from it.

    python -m nat_lib pack outputs/smoke smoke.tar.xz
    ./run_all.sh --show smoke.tar.xz

The archive holds report.json, parameters and tables of every finished cell, and the plan of the
run: a few MiB. Showing trains nothing and needs no images.
"""

import io
import lzma
import os
import sys
import tarfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nat_lib.errors import Refusal
from nat_lib.files import atomic, hash_of, read_json, sha256_of, write_json
from nat_lib.run import code
from nat_lib.run.jobs import NAME, NOTEBOOKS, Job
from nat_lib.run.params import Values
from nat_lib.studies import STUDIES

PLAN = "plan.json"
TABLES = (".json", ".csv")
LARGEST = 1 << 30  # bytes, unpacked
NOT_PACKED = ("jobs", "notebooks")  # folders of an outputs folder that are made when shown


# -------------------------------------------------------------------------------------------- pack


def pack(out: Path, archive: Path) -> int:
    """Write the finished cells under `out` into `archive`; returns how many there are."""
    read_json(out / PLAN)  # or a Refusal
    cells = list(_finished(out))
    if not cells:
        raise Refusal(f"{out} holds no finished cell: run ./run_all.sh first")
    with atomic(archive) as temporary, tarfile.open(temporary, "w:xz") as tar:
        _add(tar, PLAN, (out / PLAN).read_bytes())
        for cell in cells:
            for path in sorted(cell.iterdir()):
                if path.is_file() and path.suffix in TABLES and not path.name.startswith("."):
                    _add(tar, path.relative_to(out).as_posix(), path.read_bytes())
    return len(cells)


def _finished(out: Path) -> Iterator[Path]:
    """Folders of the finished cells, in order; not what was put aside."""
    for report in sorted(out.glob("*/**/report.json")):
        parts = report.relative_to(out).parts
        if parts[0] not in NOT_PACKED and not any(part.startswith(".") for part in parts):
            yield report.parent


def _add(tar: tarfile.TarFile, name: str, blob: bytes) -> None:
    """A file without times and owners: equal results are equal bytes."""
    entry = tarfile.TarInfo(name)
    entry.size = len(blob)
    tar.addfile(entry, io.BytesIO(blob))


def main(argv: list[str] | None = None) -> int:
    """Pack the finished results of an outputs folder, without weights, into one archive."""
    parser = ArgumentParser(prog="python -m nat_lib pack", description=main.__doc__)
    parser.add_argument("out", type=Path, help="outputs folder, such as outputs/smoke")
    parser.add_argument("archive", type=Path, help="file to write, such as smoke.tar.xz")
    given = parser.parse_args(argv)
    try:
        n = pack(given.out, given.archive)
    except Refusal as refusal:
        print(f"nat_lib pack: {refusal}", file=sys.stderr)
        return 2
    size = given.archive.stat().st_size / 1e6
    print(f"{given.archive}: {n} finished cells, {size:.1f} MB; ./run_all.sh --show redraws them")
    return 0


# -------------------------------------------------------------------------------------------- show


def unpack(archive: Path, out: Path) -> str:
    """Put the archive's files under `out`, once; returns its hash. Nothing else is written there.

    A Refusal says in one line what is wrong with a damaged or foreign archive.
    """
    try:
        return _unpacked(archive, out)
    except OSError as error:
        raise Refusal(
            f"cannot show {archive} in {out}: {error.strerror}; choose another folder with --out"
        ) from None


def _unpacked(archive: Path, out: Path) -> str:
    identity = sha256_of(archive)
    stamp = out / ".shown.json"
    if out.exists() and any(out.iterdir()):
        if not stamp.exists():
            raise Refusal(f"{out} holds other results: choose an empty folder with --out")
        if read_json(stamp).get("archive") == identity:
            return identity
        raise Refusal(f"{out} shows another archive: delete it, or choose a folder with --out")
    for name, blob in _contents(archive).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    write_json(stamp, {"archive": identity})
    return identity


def _contents(archive: Path) -> dict[str, bytes]:
    """{name: bytes} of an archive, all of it checked before anything is written."""
    found: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(archive, "r:xz") as tar:
            for entry in tar:
                total += entry.size
                if not _is_ours(entry) or total > LARGEST:
                    raise Refusal(
                        f"{archive}: {entry.name[:200]!r} is no table of results; "
                        "show only what `python -m nat_lib pack` wrote"
                    )
                file = tar.extractfile(entry)
                assert file is not None  # it is a regular file
                found[entry.name] = file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, UnicodeError) as error:
        raise Refusal(f"{archive} is damaged ({error}): fetch or pack it again") from None
    if PLAN not in found:
        raise Refusal(f"{archive} is damaged (no {PLAN}): fetch or pack it again")
    return found


def _is_ours(entry: tarfile.TarInfo) -> bool:
    """A regular file, at a place below the folder, with a suffix of tables."""
    path = PurePosixPath(entry.name)
    climbs = path.is_absolute() or ".." in path.parts or "\0" in entry.name
    hidden = any(part.startswith(".") for part in path.parts)
    return entry.isfile() and not climbs and not hidden and path.suffix in TABLES


def shown_jobs(out: Path, identity: str, place: str) -> list[Job]:
    """The notebooks of the packed plan as jobs that only draw, the report last.

    place : how the notebooks are told `out`
    """
    try:
        rows = [row for row in read_json(out / PLAN)["jobs"] if row["notebook"]]
        jobs = [_job(row, identity, place) for row in rows]
    except (KeyError, TypeError, AttributeError):
        raise Refusal(f"{out / PLAN} is damaged: fetch or pack the archive again") from None
    others = tuple(job.id for job in jobs if not STUDIES[job.study].last)
    return [
        Job(**{**vars(job), "needs": others}) if STUDIES[job.study].last else job for job in jobs
    ]


def _job(row: Values, identity: str, place: str) -> Job:
    stem, study = row["id"], row["study"]
    notebook = NOTEBOOKS / f"{stem}.ipynb"
    if not NAME.fullmatch(stem) or study not in STUDIES or not notebook.exists():
        raise Refusal(f"the archive shows {stem[:80]!r}, which is no notebook of this kit")
    given: dict[str, Any] = row["params"] | {"out": place}
    changes = {"figures": f"{place}/{stem}", "export_recommended": False}
    given |= {key: value for key, value in changes.items() if key in given}
    return Job(
        id=stem,
        title=stem,
        study=study,
        notebook=str(notebook),
        params=given,
        needs=(),
        weight=1.0,
        threads=1,
        timeout=3600.0,
        why={
            "parameters": hash_of(given),
            "notebook": code.of_notebook(notebook),
            "library": code.of_library(),
            "archive": identity,
        },
    )


def folder_for(archive: Path) -> str:
    """Name of the outputs folder in which an archive is shown."""
    return f"{os.path.basename(archive).split('.')[0] or 'archive'}_shown"
