"""One thread per process, no display, and small notebooks made on the spot."""

import os

import nbformat
import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):     # before any test imports torch
    os.environ[variable] = "1"
os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture
def make_notebook():
    """make_notebook(path, {parameter: default}, code, code, ...): the last code cell but one is tagged `cells`."""
    def make(path, defaults, *codes):
        new = nbformat.v4.new_code_cell
        cells = [new("\n".join(f"{name} = {value!r}" for name, value in defaults.items())), *map(new, codes)]
        cells[0].metadata["tags"] = ["parameters"]
        if len(codes) > 1:
            cells[-2].metadata["tags"] = ["cells"]
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Prose."), *cells]), path)
        return path

    return make
