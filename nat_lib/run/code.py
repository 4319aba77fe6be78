"""What a result depends on besides parameters: code that made it, images and files it read."""

import hashlib
from functools import lru_cache
from pathlib import Path

from nat_lib.data.folders import originals
from nat_lib.errors import Refusal
from nat_lib.files import ROOT, hash_of, read_json
from nat_lib.plans import named
from nat_lib.run.params import Values, source_text
from nat_lib.starts import identity
from nat_lib.studies import STUDIES
from nat_lib.studies.parts import targets_of

LIBRARY = ROOT / "nat_lib"


def of_notebook(path: Path) -> str:
    """Hash of all that a notebook says."""
    cells = read_json(path)["cells"]
    return hash_of([[cell["cell_type"], source_text(cell)] for cell in cells])


@lru_cache
def of_library() -> str:
    """Hash of everything in nat_lib that a table or figure can depend on."""
    files = sorted([*LIBRARY.rglob("*.py"), *LIBRARY.rglob("reference/*.csv")])
    return hash_of(
        [[p.relative_to(LIBRARY), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]
    )


def images_of(study: str, sizes: Values) -> Values:
    """{data set: fingerprint of its folder} of what a study reads; {} if it reads none."""
    model = STUDIES[study].sizes
    keys = model.model_fields if model else ()
    places: dict[str, str | None] = {}
    if "aep_datasets" in keys:
        places |= dict.fromkeys(sizes["aep_datasets"], sizes["data_dir"])
    if "dataset" in keys:
        places[sizes["dataset"]] = sizes["data_dir"]
    if "target" in keys:
        for name in targets_of(sizes):
            places[name] = sizes["target_dir"] or sizes["data_dir"]
    return {name: fingerprint(name, place) for name, place in places.items()}


def files_of(sizes: Values, switches: Values) -> Values:
    """{key: content} of the files that parameters name besides images: those of a plan and of the
    weights to start from."""
    found: Values = {"plan": named(sizes["plan"]).to_dict()}
    return found | identity(switches.get("start", "scratch"))


@lru_cache
def fingerprint(name: str, root: str | None) -> str | None:
    """Hash of the names, sizes and times of the files of a data set; None if it is embedded or not
    there.  Pixels are not read, so it is quick."""
    try:
        return originals(name, root)
    except Refusal:
        return None
