"""Cells know the code that made them: what counts as a change, and what becomes of the cell."""

import pytest

from nat_lib import cells, science
from nat_lib.cells import open_cell

STUDY = """
from nat_lib import losses
from nat_lib.errors import Refusal
RATE = 0.1
STEPS = {"short": 1, "long": 2}

def run(x: float) -> float:
    if x < 0:
        raise Refusal("x is negative")
    return RATE * losses.loss(x)
"""
LOSSES = """
def loss(x):
    return x * x
"""
HARMLESS = {
    "a comment": ("return RATE", "# the loss\n    return RATE"),
    "a docstring": ("-> float:\n", '-> float:\n    """Half of it."""\n'),
    "an annotation": ("(x: float) -> float", "(x)"),
    "the text of an error": ("is negative", "must be positive"),
    "a new function": ("def run", "def other(x):\n    return 2 * x\n\ndef run"),
    "a new constant": ("RATE =", "MOMENTUM = 0.9\nRATE ="),
    "a new row of a table": ('"long": 2', '"long": 2, "longer": 3'),
    "a new import": ("from nat_lib.errors", "import math\nfrom nat_lib.errors"),
    "layout": ("RATE * losses.loss(x)", "(\n        RATE * losses.loss(x)\n    )"),
}
CHANGES = {
    "studies.py: run": ("RATE * losses", "2 * RATE * losses"),
    "studies.py: RATE": ("RATE = 0.1", "RATE = 0"),
    "studies.py: STEPS['long']": ('"long": 2', '"long": 3'),
    "losses.py: loss; studies.py: import losses": ("import losses", "import distill as losses"),
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """write(studies, losses): a library of two modules, as a new process would see it."""
    monkeypatch.setattr(science, "ROOT", tmp_path)

    def write(studies=STUDY, losses=LOSSES):
        folder = tmp_path / "nat_lib"
        folder.mkdir(exist_ok=True)
        (folder / "studies.py").write_text(studies)
        (folder / "losses.py").write_text(losses)
        (folder / "distill.py").write_text(losses)
        (folder / "errors.py").write_text("class Refusal(ValueError):\n    pass\n")
        for cached in (science.definitions, science._module):
            cached.cache_clear()

    write()
    yield write
    for cached in (science.definitions, science._module):
        cached.cache_clear()


def opened(out):
    return open_cell(out, "study", "a", {"seed": 0}, code="nat_lib.studies")


@pytest.mark.parametrize("what", HARMLESS)
def test_what_changes_no_number_leaves_a_cell_finished(tmp_path, library, what):
    report = cells.compute(opened(tmp_path), dict)
    assert STUDY.replace(*HARMLESS[what]) != STUDY
    library(STUDY.replace(*HARMLESS[what]))
    assert opened(tmp_path).report() == report and cells.stale(tmp_path / "study/a") == ""


@pytest.mark.parametrize("why", CHANGES)
def test_a_change_of_the_science_makes_a_cell_stale_and_says_why(tmp_path, library, why):
    report = cells.compute(opened(tmp_path), dict)
    assert report["code"] == {
        "module": "nat_lib.studies",
        "version": cells.science("nat_lib.studies"),
    }
    library(STUDY.replace(*CHANGES[why]))
    assert cells.stale(tmp_path / "study/a") == why
    assert opened(tmp_path).report() is None
    library()  # the change is taken back, and with it the finished work
    assert opened(tmp_path).report() == report


def test_imported_modules_count_and_a_killed_run_of_other_code_is_not_resumed(tmp_path, library):
    cell = opened(tmp_path)
    cell.path("state.pt").write_bytes(b"half")
    library(losses=LOSSES.replace("x * x", "abs(x)"))
    assert cells.stale(cell.folder) == "losses.py: loss"
    assert not opened(tmp_path).path("state.pt").exists()


def test_whoever_reads_a_stale_cell_is_told(tmp_path, library, capsys):
    cell = opened(tmp_path)
    cells.compute(cell, dict)
    assert cells.finished(tmp_path, "study", "a", "run it") == cell
    assert capsys.readouterr().err == ""
    library(STUDY.replace("0.1", "0.2"))
    assert cells.finished(tmp_path, "study", "a", "run it") == cell
    assert "made by other code (studies.py: RATE): run its notebook" in capsys.readouterr().err


def test_a_cell_whose_code_is_not_known_is_made_anew(tmp_path, library):
    cells.compute(open_cell(tmp_path, "study", "a", {"seed": 0}), dict)
    assert opened(tmp_path).report() is None
    cells.compute(opened(tmp_path), dict)
    (details,) = (tmp_path / ".code").iterdir()
    details.write_text("{}")
    library(STUDY.replace("0.1", "0.2"))
    assert cells.stale(tmp_path / "study/a") == "the code that made it is not known"


def test_studies_depend_on_what_they_compute_and_not_on_what_reports():
    found = science.definitions("nat_lib.studies.searches")
    assert {"nat_lib.train", "nat_lib.supernet", "nat_lib.data.augment"} <= found.keys()
    assert "nat_lib.data.loading" in found  # imported when it is asked for
    assert not [m for m in found if m.split(".")[1] in ("report", "results", "browser", "run")]
