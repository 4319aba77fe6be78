"""Make a kit: the supernet of a finished phase as a folder that others start from.

    python -m nat_lib.kit CELL FOLDER

Then `--set plan=auto start=kit:FOLDER`, on any images.  A kit holds weights, plan and report: what
it was trained on, how, and how good it is.
"""

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


def make(cell: Path, folder: Path) -> Path:
    """Copy a finished phase of a supernet into a folder; returns the folder."""
    report = read_report(cell)
    if "space" not in report["params"] or not (cell / WEIGHTS).is_file():
        raise Refusal(f"{cell} is no finished phase of a supernet: name a cell of ofav2_eps")
    space = Space.from_dict(report["params"]["space"])
    plan = space.plan.to_dict() | {"name": folder.name, "channels": list(space.base_channels)}
    plan |= {key: plan[key][: space.n_stages] for key in ("strides", "acts", "gates")}
    if folder.exists():
        raise Refusal(f"{folder} is there already: delete it, or give the kit another name")
    with atomic_folder(folder) as new:
        save_weights(new / WEIGHTS, load_weights(cell / WEIGHTS))
        write_text(new / PLAN_FILE, yaml.safe_dump(plan, sort_keys=False))
        write_json(new / "report.json", report)
    return folder


def main(argv=None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", type=Path, help="folder of a finished phase of chapter 5")
    parser.add_argument("folder", type=Path, help="of the kit, new")
    given = parser.parse_args(argv)
    try:
        print(f"start=kit:{make(given.cell, given.folder)}")
    except Refusal as refusal:
        print(f"nat_lib.kit: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
