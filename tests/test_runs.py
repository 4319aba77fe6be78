import errno
import json
import random
import subprocess
import sys

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
    cell.path(".tmp-1-0-state.pt").write_bytes(b"half")
    open_cell(tmp_path, "study", "a", PARAMS)
    assert sorted(p.name for p in cell.folder.iterdir()) == ["params.json", "state.pt"]


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


def test_start_sets_threads_and_seed():
    before = torch.get_num_threads()
    machine.start(threads=1, seed=9)
    first = draw()
    machine.start(seed=9)
    assert torch.get_num_threads() == 1 and draw() == first
    torch.set_num_threads(before)


def test_plans_and_reports_are_read_without_waiting_for_torch():
    code = "import nat_lib.drive, nat_lib.nbrun, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=files.ROOT).returncode == 0


def test_a_cell_that_another_process_works_on_is_waited_for_and_then_only_read(tmp_path):
    cell = open_cell(tmp_path, "study", "x", {"seed": 0})
    worker = f"""
import time
from pathlib import Path
from nat_lib import runs
cell = runs.cell(Path({str(tmp_path)!r}), "study", "x", {{"seed": 0}})
with runs.alone(cell) as mine:
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
