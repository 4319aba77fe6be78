"""Make a kit: a trained supernet as a folder that others start from.

    python -m nat_lib.kit CELL FOLDER [--search SEARCH]

Then `--set plan=auto start=kit:FOLDER`, on any images.  A kit holds weights, plan and report: what
it was trained on, how, and how good it is; after a search also its archive and front.  Weights of
two and more dimensions are stored in half precision.
"""

import shutil
import sys
from argparse import ArgumentParser
from pathlib import Path

import yaml

from nat_lib.arch import Space
from nat_lib.cells import read_report
from nat_lib.errors import Refusal
from nat_lib.files import atomic_folder, load_weights, save_weights, write_json, write_text
from nat_lib.starts import PLAN_FILE

WEIGHTS = "best.safetensors"
TABLES = ("archive.csv", "subnets.csv")  # of a search


def make(cell: Path, folder: Path, search: Path | None = None) -> Path:
    """Copy a finished phase of a supernet into a folder; returns the folder.

    search : a finished search over this supernet: its weights are taken, its archive and front come
             along
    """
    report = read_report(cell)
    if "space" not in report["params"] or not (cell / WEIGHTS).is_file():
        raise Refusal(f"{cell} is no finished phase of a supernet: name a cell of ofav2_eps")
    space = Space.from_dict(report["params"]["space"])
    plan = space.plan.to_dict() | {"name": folder.name, "channels": list(space.base_channels)}
    plan |= {key: plan[key][: space.n_stages] for key in ("strides", "acts", "gates")}
    if folder.exists():
        raise Refusal(f"{folder} is there already: delete it, or give the kit another name")
    weights = load_weights(cell / WEIGHTS)
    if search:
        weights = _searched(search, space, report["params"]["width"])
    with atomic_folder(folder) as new:
        half = {name: t.half() if t.ndim > 1 else t for name, t in weights.items()}
        save_weights(new / WEIGHTS, half)
        write_text(new / PLAN_FILE, yaml.safe_dump(plan, sort_keys=False))
        write_json(new / "report.json", report)
        for table in TABLES if search else ():
            shutil.copyfile(search / table, new / table)
        if search:
            write_json(new / "search.json", read_report(search))
    return folder


def _searched(search, space, width):
    """The weights of the supernet of one width as a search left them."""
    params = read_report(search)["params"]
    theirs = Space.from_dict(params["space"]) if "space" in params else None
    place = search / "supernets.safetensors"
    if not place.is_file() or theirs is None or theirs.name != space.name:
        raise Refusal(f"{search} is no finished search over {space.name}")
    same = (theirs.plan, theirs.base_channels) == (space.plan, space.base_channels)
    if not same or width not in theirs.widths:
        raise Refusal(f"{search} searched another plan or width than the phase: name its own phase")
    own = f"members.{theirs.widths.index(width)}."
    weights = load_weights(place)
    return {name.removeprefix(own): t for name, t in weights.items() if name.startswith(own)}


def main(argv=None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", type=Path, help="folder of a finished phase of chapter 5")
    parser.add_argument("folder", type=Path, help="of the kit, new")
    parser.add_argument("--search", type=Path, help="folder of a finished search over it")
    given = parser.parse_args(argv)
    try:
        print(f"start=kit:{make(given.cell, given.folder, given.search)}")
    except Refusal as refusal:
        print(f"nat_lib.kit: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
