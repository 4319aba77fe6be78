"""One thread per process, no display, and small notebooks made on the spot."""

import os

import nbformat
import pytest

for variable in (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
):  # before any test imports torch
    os.environ[variable] = "1"
os.environ["MPLBACKEND"] = "Agg"


SLOW_FILES = {  # most of their tests train something, start notebooks or kill runs
    f"test_{name}.py"
    for name in (
        "adapt aep backbones browse browser_page cell chapter4 chapter6 data draw driver evaluate "
        "export extending finetune latency nat nbrun notebooks own_images pack report resume "
        "shrink studies"
    ).split()
}


def pytest_collection_modifyitems(items):
    """Mark as slow what takes long for a reason that is known here."""
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def make_notebook():
    """make_notebook(path, {parameter: default}, code, ..., **metadata)."""

    def make(path, defaults, *codes, **metadata):
        new = nbformat.v4.new_code_cell
        cells = [
            new("\n".join(f"{name} = {value!r}" for name, value in defaults.items())),
            *map(new, codes),
        ]
        cells[0].metadata["tags"] = ["parameters"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cells.insert(0, nbformat.v4.new_markdown_cell("Prose."))
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
        return path

    return make


@pytest.fixture(scope="session")
def searching():
    """(parameters, target data, lay): a miniature chapter 6. lay(out, supernet) leaves untrained
    supernets there."""
    import numpy as np
    import torch
    from tiny import tiny

    from nat_lib import files
    from nat_lib.cells import open_cell
    from nat_lib.studies import searches
    from nat_lib.supernet import Supernet

    torch.set_num_threads(1)
    changes = {
        "profile": "test",
        "supernets": {"1.0": ["BASE", "EE_D"], "1.2": ["BASE", "EE_D"]},
        "nat_val_subnets": 2,
        "iterations": 2,
        "latency_runs": 3,
        "population": 12,
        "generations": 3,
        "subset_population": 20,
        "subset_generations": 5,
    }
    params = tiny("natv2_phases", **changes)

    def lay(out, supernet, teachers=("fixed",)):
        space = searches.space_of(params, supernet)
        for width in space.widths:
            for teacher in teachers:
                cell = open_cell(
                    out,
                    "ofav2_eps",
                    f"digits/{supernet}_w{width}_s0/{teacher}-E2",
                    {"space": space, "width": width, "n_classes": 10, "seed": 0, "phase": "E2"},
                )
                net = Supernet(space, width, 10, seed=int(10 * width))
                with torch.no_grad():  # kernel matrices that shrinking has moved
                    for i, matrix in enumerate(net.transforms.parameters()):
                        rng = np.random.default_rng(i)
                        matrix += (
                            0.05 * torch.from_numpy(rng.normal(size=tuple(matrix.shape))).float()
                        )
                files.save_weights(cell.path("best.safetensors"), net.state_dict())
                cell.finish({}, seconds=0.0)
        return out

    return params, searches.load_target(params), lay
