"""What a result depends on besides parameters: the code that made it, and the images it read."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

from nat_lib.data.catalogue import EMBEDDED
from nat_lib.files import ROOT, hash_of, read_json
from nat_lib.run.params import Values, source_text
from nat_lib.studies import STUDIES

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
    places = {}
    if "aep_datasets" in keys:
        places |= dict.fromkeys(sizes["aep_datasets"], sizes["data_dir"])
    if "dataset" in keys:
        places[sizes["dataset"]] = sizes["data_dir"]
    if "target" in keys:
        places[sizes["target"]] = sizes["target_dir"] or sizes["data_dir"]
    return {name: fingerprint(place) for name, place in places.items() if name not in EMBEDDED}


@lru_cache
def fingerprint(root: str) -> str:
    """Hash of the names, sizes and times of all files under a folder, links followed.

    Pixels are not read, so it is quick; a folder that cannot be read has a fingerprint, too.
    """
    found, seen = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:  # a link that leads back
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for entry in os.scandir(folder):
            if entry.name in names and entry.is_file():
                facts = entry.stat()
                place = os.path.relpath(entry.path, root)
                found.append([place, facts.st_size, facts.st_mtime_ns])
    text = json.dumps(sorted(found)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:12]
