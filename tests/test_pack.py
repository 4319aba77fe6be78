"""Finished results as one archive without weights, and what is refused to be shown."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from nat_lib.errors import Refusal
from nat_lib.files import ROOT, read_json, write_json
from nat_lib.run import pack

PLAN = {"jobs": []}


@pytest.fixture
def out(tmp_path):
    """One finished cell with weights, one unfinished, one put aside."""
    out = tmp_path / "out"
    for name in ("ofav2_eps/digits/a", "ofav2_eps/digits/unfinished", ".other/ofav2_eps/b"):
        folder = out / name
        folder.mkdir(parents=True)
        (folder / "grid.csv").write_text("top1\n90.0\n")
        (folder / "best.safetensors").write_bytes(bytes(1000))
        write_json(folder / "params.json", {"params": {"dataset": "digits"}})
        if "unfinished" not in name:
            write_json(folder / "report.json", {"hash": "abc"})
    write_json(out / "plan.json", PLAN)
    (out / "jobs").mkdir()
    write_json(out / "jobs" / "x.json", {})
    return out


def test_an_archive_holds_the_tables_of_finished_cells_and_nothing_else(out, tmp_path):
    assert pack.pack(out, tmp_path / "a.tar.xz") == 1
    with tarfile.open(tmp_path / "a.tar.xz") as tar:
        assert tar.getnames() == ["plan.json"] + [
            f"ofav2_eps/digits/a/{name}" for name in ("grid.csv", "params.json", "report.json")
        ]
    os.utime(out / "plan.json", (0, 0))
    pack.pack(out, tmp_path / "b.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()


def test_unpacked_it_is_what_was_packed_and_another_one_is_refused(out, tmp_path):
    pack.pack(out, tmp_path / "a.tar.xz")
    shown = tmp_path / "shown"
    identity = pack.unpack(tmp_path / "a.tar.xz", shown)
    assert (shown / "ofav2_eps/digits/a/grid.csv").read_bytes() == b"top1\n90.0\n"
    assert read_json(shown / "plan.json") == PLAN
    assert pack.unpack(tmp_path / "a.tar.xz", shown) == identity
    write_json(out / "ofav2_eps/digits/a/more.json", {})
    pack.pack(out, tmp_path / "b.tar.xz")
    with pytest.raises(Refusal, match="shows another archive"):
        pack.unpack(tmp_path / "b.tar.xz", shown)
    with pytest.raises(Refusal, match="holds other results"):
        pack.unpack(tmp_path / "a.tar.xz", out)


def test_an_outputs_folder_without_finished_cells_is_not_packed(tmp_path):
    write_json(tmp_path / "out" / "plan.json", PLAN)
    with pytest.raises(Refusal, match="holds no finished cell"):
        pack.pack(tmp_path / "out", tmp_path / "a.tar.xz")


def test_a_place_that_cannot_hold_it_is_one_line(out, tmp_path):
    pack.pack(out, tmp_path / "a.tar.xz")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(Refusal, match="choose another folder with --out"):
            pack.unpack(tmp_path / "a.tar.xz", place)


def archive_of(path, *entries):
    with tarfile.open(path, "w:xz") as tar:
        for name, blob, changes in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(blob)
            for key, value in changes.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(blob))
    return path


FOREIGN = {
    "climbs": ("../evil.json", b"{}", {}),
    "climbs inside": ("a/../../evil.json", b"{}", {}),
    "absolute": ("/tmp/evil.json", b"{}", {}),
    "link": ("a.json", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
    "hard link": ("a.json", b"", {"type": tarfile.LNKTYPE, "linkname": "plan.json"}),
    "device": ("a.json", b"", {"type": tarfile.CHRTYPE}),
    "program": ("a.py", b"import os", {}),
    "hidden": (".other/a.json", b"{}", {}),
    "weights": ("best.safetensors", b"0", {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_pack_would_not_write_is_not_unpacked(tmp_path, kind):
    plan = ("plan.json", b'{"jobs": []}', {})
    archive = archive_of(tmp_path / "a.tar.xz", plan, FOREIGN[kind])
    with pytest.raises(Refusal, match="is no table of results"):
        pack.unpack(archive, tmp_path / "shown")
    assert not (tmp_path / "shown").exists() and not (tmp_path / "evil.json").exists()


def test_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "LARGEST", 100)
    archive = archive_of(tmp_path / "a.tar.xz", ("plan.json", bytes(200), {}))
    with pytest.raises(Refusal, match="is no table of results"):
        pack.unpack(archive, tmp_path / "shown")


def show(archive, *more):
    return subprocess.run(
        [ROOT / "run_all.sh", "--show", archive, *more],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NAT_PYTHON": sys.executable},
    )


def test_a_damaged_archive_is_one_line(out, tmp_path):
    archive = tmp_path / "a.tar.xz"
    pack.pack(out, archive)
    blob = archive.read_bytes()
    damaged = {
        "cut": blob[: len(blob) // 2],
        "changed": blob[:100] + bytes([blob[100] ^ 255]) + blob[101:],
        "empty": b"",
        "text": b"no archive",
    }
    for kind, bytes_ in damaged.items():
        (tmp_path / f"{kind}.tar.xz").write_bytes(bytes_)
        with pytest.raises(Refusal, match="is damaged"):
            pack.unpack(tmp_path / f"{kind}.tar.xz", tmp_path / kind)
    done = show(tmp_path / "cut.tar.xz", "--out", tmp_path / "x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is damaged" in done.stderr
    done = show(tmp_path / "none.tar.xz")
    assert done.returncode == 2 and "there is no file" in done.stderr


@pytest.mark.parametrize(
    "plan",
    [b"{}", b"[]", b'{"jobs": [1]}', b'{"jobs": [{"notebook": "x"}]}', b'{"jobs": null}'],
)
def test_a_damaged_plan_is_one_line(tmp_path, plan):
    archive = archive_of(tmp_path / "a.tar.xz", ("plan.json", plan, {}))
    identity = pack.unpack(archive, tmp_path / "shown")
    with pytest.raises(Refusal, match="is damaged"):
        pack.shown_jobs(tmp_path / "shown", identity, "shown")


def test_only_notebooks_of_this_kit_are_shown(tmp_path):
    row = {"id": "../../x", "study": "start_here", "notebook": "/tmp/x.ipynb", "params": {}}
    write_json(tmp_path / "plan.json", {"jobs": [row]})
    with pytest.raises(Refusal, match="which is no notebook of this kit"):
        pack.shown_jobs(tmp_path, "abc", "shown")
