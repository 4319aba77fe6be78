import ast
import errno
import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from nat_lib import cells, files, machine
from nat_lib.cells import Cell, open_cell
from nat_lib.errors import Refusal

PARAMS = {
    "supernet": "EE_D",
    "width": 1.0,
    "sizes": (16, 32),
    "seed": 3,
    "recipe": {"lr": 1e-3, "steps": None},
}


# --------------------------------------------------------------------------------- hashes and files


def test_a_hash_depends_on_values_and_not_on_their_order_or_kind_of_sequence():
    turned = {key: PARAMS[key] for key in reversed(PARAMS)} | {
        "sizes": [np.int64(16), 32],
        "width": np.float64(1),
    }
    assert (
        files.hash_of(turned)
        == files.hash_of(PARAMS)
        == files.hash_of(json.loads(json.dumps(files.plain(PARAMS))))
    )
    assert files.hash_of(PARAMS | {"seed": 4}) != files.hash_of(PARAMS)
    assert files.hash_of({2: "a", 10: "b"}) == files.hash_of({"10": "b", "2": "a"})


def test_a_hash_is_the_same_in_every_process():
    assert files.hash_of({"a": [1, 2.5, None, True, "é"]}) == "db37d9de159d"


def test_hash_refuses_what_has_no_json_form():
    with pytest.raises(TypeError):
        files.hash_of({"a": {1, 2}})


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(type(error)), files.atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_a_full_disk_is_a_refusal_that_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    for write, content in (
        (files.write_json, {"a": 1}),
        (files.save_state, {"a": torch.zeros(2)}),
        (files.save_weights, {"a": torch.zeros(2)}),
        (files.write_csv, pd.DataFrame({"a": [1]})),
    ):
        with pytest.raises(Refusal, match=r"cannot write .*result.*No space left.*Free some space"):
            write(tmp_path / "result", content)
    assert not list(tmp_path.iterdir())


def test_a_folder_where_a_file_is_in_the_way_is_a_refusal(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot write"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "a.txt"):
        (tmp_path / "missing").read_text()


def test_json_and_csv_hold_exact_values(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": np.float32(0.5), "y": float("nan"), "z": (1, 2)})
    assert files.read_json(tmp_path / "a.json") == {"x": 0.5, "y": None, "z": [1, 2]}
    files.write_csv(tmp_path / "a.csv", pd.DataFrame({"a": [1, 2], "b": [0.1, 1 / 3]}))
    assert (tmp_path / "a.csv").read_text() == f"a,b\n1,0.1\n2,{1 / 3!r}\n"


def test_unreadable_json_is_a_refusal(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(Refusal, match=r"a\.json is not valid JSON"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(Refusal, match=r"b\.json does not exist"):
        files.read_json(tmp_path / "b.json")


# -------------------------------------------------------------------------------------------- cells


def test_a_report_counts_only_for_its_own_parameters(tmp_path):
    cell = open_cell(tmp_path, "study", "digits/EE_D", PARAMS)
    assert cell.report() is None and cell.folder == tmp_path / "study" / "digits" / "EE_D"
    cell.path("weights.bin").write_bytes(b"1")
    done = cell.finish(
        {"top1": np.float64(12.5)}, {"weights": cell.path("weights.bin")}, seconds=2.0
    )
    assert open_cell(tmp_path, "study", "digits/EE_D", PARAMS).report() == done
    assert (
        done["metrics"] == {"top1": 12.5}
        and done["seed"] == 3
        and done["hash"] == files.hash_of(PARAMS)
    )
    assert done["reads"]["weights"].startswith("6b86b273ff34") and done["versions"]["torch"]
    assert Cell(cell.folder, "study", "digits/EE_D", PARAMS | {"seed": 4}).report() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hash": "0"}'])
def test_a_damaged_report_is_no_report(tmp_path, text):
    cell = open_cell(tmp_path, "study", "a", PARAMS)
    cell.path("report.json").write_text(text)
    assert cell.report() is None


def test_state_of_other_parameters_is_never_resumed_and_never_lost(tmp_path):
    first = open_cell(tmp_path, "study", "a", PARAMS)
    files.save_state(first.path("state.pt"), {"epoch": 1})
    first.finish({}, seconds=0.0)
    other = open_cell(tmp_path, "study", "a", PARAMS | {"seed": 4})
    assert other.report() is None and not other.path("state.pt").exists()
    assert not list(
        (tmp_path / "study").rglob("report.json")
    )  # readers of the study do not see it either
    again = open_cell(tmp_path, "study", "a", PARAMS)
    assert again.report() and files.load_state(again.path("state.pt")) == {"epoch": 1}


def test_opening_a_cell_clears_what_a_killed_write_left_and_keeps_its_state(tmp_path):
    cell = open_cell(tmp_path, "study", "a", PARAMS)
    files.save_state(cell.path("state.pt"), {"epoch": 1})
    with subprocess.Popen(["true"]) as dead:
        cell.path(f".tmp-{dead.pid}-0-state.pt").write_bytes(b"half")
    open_cell(tmp_path, "study", "a", PARAMS)
    assert sorted(p.name for p in cell.folder.iterdir()) == ["params.json", "state.pt"]
    living = cell.path(f".tmp-{os.getpid()}-0-state.pt")
    living.write_bytes(b"half")
    open_cell(tmp_path, "study", "a", PARAMS)
    assert living.exists()  # its writer is not dead


def test_a_cell_is_computed_once_and_its_seconds_are_those_of_all_its_runs(tmp_path):
    cell = open_cell(tmp_path, "study", "a", PARAMS)
    source = tmp_path / "source"
    source.write_bytes(b"1")

    def killed():
        time.sleep(0.3)
        files.save_state(cell.path("state.pt"), {"epoch": 1})
        time.sleep(0.3)  # lost: nothing of it is on the disk
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cells.compute(cell, killed)
    assert cell.report() is None
    seen = []

    def resumed():
        seen.append(files.load_state(cell.path("state.pt")))
        cell.path("epochs.json").write_text("[]")
        time.sleep(0.2)
        return {"top1": np.float64(50)}

    report = cells.compute(cell, resumed, {"source": source}, drops=["epochs.json"])
    assert seen == [{"epoch": 1}] and report["metrics"] == {"top1": 50.0}
    assert 0.5 <= report["seconds"] < 0.75 and report["reads"].keys() == {"source"}
    assert {p.name for p in cell.folder.iterdir()} == {"params.json", "report.json"}
    assert cells.compute(cell, lambda: pytest.fail("computed again")) == report


def test_a_cell_that_a_process_works_in_is_not_moved_away_for_other_parameters(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cells, "OPENING", 0.1)
    cell = open_cell(tmp_path, "study", "a", PARAMS)
    with cells.alone(cell), pytest.raises(Refusal, match=r"another process works in .*wait for it"):
        open_cell(tmp_path, "study", "a", PARAMS | {"seed": 4})
    other = open_cell(tmp_path, "study", "a", PARAMS | {"seed": 4})
    with cells.alone(cell) as mine:  # opened before, and moved away by the line above
        assert mine and files.read_json(cell.path("params.json"))["hash"] == cell.hash
    assert cells.compute(other, dict)["hash"] == other.hash


def test_a_finished_cell_is_found_by_its_folder(tmp_path):
    cell = open_cell(tmp_path, "study", "a/b", PARAMS)
    with pytest.raises(Refusal, match="a/b is not there or not finished: run notebook 02"):
        cells.finished(tmp_path, "study", "a/b", "run notebook 02")
    cells.compute(cell, dict)
    assert cells.finished(tmp_path, "study", "a/b", "run notebook 02") == cell
    assert cell.out == tmp_path


@pytest.mark.parametrize("text", ["[]", '{"hash": "0"}', '{"params": {}, "metrics": []}', "\xff"])
def test_reading_a_damaged_report_is_one_clear_line(tmp_path, text):
    cell = open_cell(tmp_path, "study", "a", PARAMS)
    cell.path("report.json").write_text(text, encoding="latin-1")
    with pytest.raises(Refusal, match=r"report\.json .*(delete it|save it)"):
        cells.finished(tmp_path, "study", "a", "run notebook 02")


@pytest.mark.parametrize("place", ["study/a/report.json", "study/a/params.json"])
def test_a_folder_in_place_of_a_file_is_one_clear_line(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    with pytest.raises(Refusal, match=rf"{place} is a folder where a file should be"):
        open_cell(tmp_path, "study", "a", PARAMS)
    with pytest.raises(Refusal, match=rf"cannot read .*{place}: Is a directory"):
        files.read_json(tmp_path / place)


@pytest.mark.parametrize("place", ["study", "study/a"])
def test_a_file_in_place_of_a_folder_is_one_clear_line(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    with pytest.raises(Refusal, match=rf"{place} is a file where a folder should be"):
        open_cell(tmp_path, "study", "a", PARAMS)


# ------------------------------------------------------------------------------ folders and locks


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "a"
    with files.atomic_folder(folder) as new:
        (new / "x").write_text("1")
    with pytest.raises(RuntimeError), files.atomic_folder(folder) as new:
        (new / "x").write_text("2")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (folder / "x").read_text() == "1"
    folder.rename(tmp_path / ".tmp-old-a")  # killed between the two renames
    (tmp_path / ".tmp-new-a").mkdir()
    with pytest.raises(RuntimeError), files.atomic_folder(folder) as new:
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (folder / "x").read_text() == "1"
    with files.atomic_folder(folder) as new:
        (new / "y").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["y"]


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path):
    holder = f"""
import time
from nat_lib import files
with files.locked({str(tmp_path / "lock")!r}) as held:
    print(held, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True, cwd=files.ROOT
    ) as process:
        assert process.stdout.readline() == "True\n"
        with files.locked(tmp_path / "lock", wait=0.0) as held:
            assert not held
        process.kill()
    with files.locked(tmp_path / "lock", wait=5.0) as held:
        assert held


# -------------------------------------------------------------------------------------- checkpoints


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002


def test_state_and_random_generators_round_trip_exactly(tmp_path):
    machine.seed_all(5)
    draw()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": machine.rng_state(),
        "best": (1, 2.5),
        "history": [{"loss": np.float64(0.5), "is_best": np.bool_(True)}],
        "generator": np.random.default_rng(1).bit_generator.state,
    }
    files.save_state(tmp_path / "state.pt", state)
    expected = draw()
    loaded = files.load_state(tmp_path / "state.pt")
    machine.set_rng_state(loaded["rng"])
    assert draw() == expected
    assert loaded["best"] == (1, 2.5) and loaded["history"] == [{"loss": 0.5, "is_best": True}]
    for key, value in net.state_dict().items():
        assert torch.equal(loaded["net"][key], value)
    optimizer.load_state_dict(loaded["optimizer"])
    rng = np.random.default_rng(0)
    rng.bit_generator.state = loaded["generator"]
    assert rng.random() == np.random.default_rng(1).random()


def test_state_that_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a set"):
        files.save_state(tmp_path / "state.pt", {"a": [1, {2}]})
    assert not (tmp_path / "state.pt").exists()


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    elif how == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data = bytearray(b"")
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, how):
    files.save_state(tmp_path / "state.pt", {"a": torch.arange(5000.0)})
    files.save_weights(tmp_path / "best.safetensors", {"a": torch.arange(5000.0)})
    for name, load in (("state.pt", files.load_state), ("best.safetensors", files.load_weights)):
        damage(tmp_path / name, how)
        with pytest.raises(Refusal, match=rf"{name} is damaged: delete"):
            load(tmp_path / name)


def test_a_missing_checkpoint_is_one_clear_line(tmp_path):
    for load in (files.load_state, files.load_weights):
        with pytest.raises(Refusal, match=r"gone does not exist"):
            load(tmp_path / "gone")


def test_nothing_but_tensors_and_values_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"a": Trap()}, tmp_path / "state.pt")
    with pytest.raises(Refusal):
        files.load_state(tmp_path / "state.pt")
    assert not (tmp_path / "sprung").exists()


def test_weights_round_trip_in_any_memory_format(tmp_path):
    weights = {
        "w": torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        "n": torch.tensor(7),
    }
    files.save_weights(tmp_path / "w.safetensors", weights)
    loaded = files.load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == weights.keys() and all(
        torch.equal(loaded[key], weights[key]) for key in weights
    )


# ---------------------------------------------------------------------------------- progress, start


def test_progress_in_batch_is_rare_lines_and_changes_nothing(monkeypatch, capsys):
    monkeypatch.setenv("NAT_BATCH", "1")
    assert list(machine.progress(range(3), "work")) == [0, 1, 2] and capsys.readouterr().err == ""
    assert list(machine.progress(iter("ab"), "work", total=2, every=0.0)) == ["a", "b"]
    assert capsys.readouterr().err.startswith("work: 1/2, 0 s left")


def test_no_bars_are_drawn_where_nobody_watches(monkeypatch, capsys):
    """A bar in a log buries the line that says what is wrong."""
    monkeypatch.delenv("NAT_BATCH", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert list(machine.progress(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_seconds_of_a_notebook_begin_with_its_start():
    machine.start()
    time.sleep(0.05)
    assert 0.05 <= machine.elapsed() < 5


def test_text_is_utf8_whatever_the_locale(tmp_path):
    code = r"""
import sys
from pathlib import Path
from nat_lib import files
out, text = Path(sys.argv[1]), "\u00fc \u2014 \u2713"
files.write_json(out / "a.json", {text: text})
files.write_text(out / "b", text)
files.append_text(out / "b", text)
assert files.read_json(out / "a.json") == {text: text}
assert files.read_text(out / "b") == text + text
"""
    env = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=files.ROOT, env=env, check=True)


def test_every_text_file_is_opened_with_its_encoding():
    """Of the library: `open`, `read_text` and `write_text` say utf-8, or go through `files`."""
    silent = []
    for path in sorted((files.ROOT / "nat_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and not speaks_of_encoding(node):
                silent.append(f"{path.relative_to(files.ROOT)}:{node.lineno}")
    assert not silent


def speaks_of_encoding(call):
    """Whether a call that reads or writes text names its encoding, or is none."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name not in ("open", "read_text", "write_text") or owner in (
        "files",
        "os",
        "Image",
        "tarfile",
    ):
        return True
    if isinstance(call.func, ast.Name) and name != "open":
        return True  # our own functions, imported from `files`
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    named = any(keyword.arg == "encoding" for keyword in call.keywords)
    return named or any("b" in mode or "utf" in mode for mode in modes)


def test_start_sets_threads_and_seed():
    before = torch.get_num_threads()
    machine.start(threads=1, seed=9)
    first = draw()
    machine.start(seed=9)
    assert torch.get_num_threads() == 1 and draw() == first
    torch.set_num_threads(before)


def test_plans_and_reports_are_read_without_waiting_for_torch():
    code = "import nat_lib.run.drive, nat_lib.nbrun, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=files.ROOT).returncode == 0


def test_a_cell_that_another_process_works_on_is_waited_for_and_then_only_read(tmp_path):
    cell = open_cell(tmp_path, "study", "x", {"seed": 0})
    worker = f"""
import time
from pathlib import Path
from nat_lib import cells
cell = cells.open_cell(Path({str(tmp_path)!r}), "study", "x", {{"seed": 0}})
with cells.alone(cell) as mine:
    print(mine, flush=True)
    time.sleep(1.0)
    cell.finish({{"by": "worker"}}, seconds=0.0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True, cwd=files.ROOT
    ) as process:
        assert process.stdout.readline() == "True\n"
        assert cell.report() is None
        with cells.alone(cell) as mine:
            assert not mine and cell.report()["metrics"] == {"by": "worker"}
    with cells.alone(open_cell(tmp_path, "study", "y", {"seed": 0})) as mine:
        assert mine
