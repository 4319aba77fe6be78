"""The command line of the export: `python -m nat_lib.export CELL FOLDER`."""

import sys
from argparse import ArgumentParser

from nat_lib.errors import Refusal


def main(argv: list[str] | None = None) -> int:
    """Export the network of a finished cell (search, post-processing or AEP study) into a folder.

    python -m nat_lib.export outputs/smoke/natv2_phases/digits_turned/EE_D_p4_acc+macs_s0 my_subnet
    """
    given = _parser().parse_args(argv)
    try:
        found = _exported(given)
    except Refusal as refusal:
        print(f"nat_lib.export: {refusal}", file=sys.stderr)
        return 2
    print(f"{found['folder']}: {', '.join(found['files'])}")
    checks = (
        f"{name} {'not written' if worst is None else f'{worst:.2g}'}"
        for name, worst in found["checks"].items()
    )
    print(f"largest differences: {', '.join(checks)}")
    return 0


def _parser():
    from nat_lib.early import AGGREGATORS, POLICIES

    parser = ArgumentParser(
        prog="python -m nat_lib.export", description=main.__doc__.splitlines()[0]
    )
    parser.add_argument("cell", help="folder of the finished cell")
    parser.add_argument("out", help="folder of the export; an earlier export there is replaced")
    parser.add_argument(
        "--code",
        help="of a search: genotype as in archive.csv; default: of the subnets that the "
        "search returned the one with the highest validation top-1",
    )
    parser.add_argument("--all-exits", action="store_true", help="of the AEP study: do not prune")
    parser.add_argument(
        "--policy",
        default="confidence",
        choices=POLICIES,
        help="when a network with several exits stops: how sure it is",
    )
    parser.add_argument(
        "--aggregator", default="vote", choices=AGGREGATORS, help="and what its exits say together"
    )
    parser.add_argument("--profile", help="what the cell was run with, if that is not recorded")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="what is other now than when the cell was run, such as data_dir=DIR",
    )
    return parser


def _exported(given):
    from nat_lib.export import sources
    from nat_lib.run.params import assignments

    cell = sources.finished(given.cell)
    if cell.study not in sources.STUDIES:
        raise Refusal(
            f"{cell.folder} is a cell of {cell.study}: give one of {', '.join(sources.STUDIES)}"
        )
    if given.code and cell.study != sources.SEARCH:
        raise Refusal(
            f"--code is for searches, and {cell.name} is a cell of {cell.study}: leave it out"
        )
    if given.all_exits and cell.study != sources.AEP:
        raise Refusal(
            f"--all-exits is for the AEP study, and {cell.name} is a cell of {cell.study}: leave "
            "it out"
        )
    data = sources.find_data(cell, given.profile, assignments(given.set))
    stops = {"policy": given.policy, "aggregator": given.aggregator}
    if cell.study == sources.SEARCH:
        code = given.code or sources.recommended(cell)
        return sources.from_search(cell.folder, code, given.out, data, **stops)
    if cell.study == sources.POST:
        return sources.from_post(cell.folder, given.out, data, **stops)
    return sources.from_aep(cell.folder, given.out, not given.all_exits, data, **stops)
