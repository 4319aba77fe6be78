"""`python -m nat_lib cell KIND ...`: one phase, one search, one training by itself.

    python -m nat_lib cell eps --supernet EE_D --phase ND2
    python -m nat_lib cell aep --network MobileNetV3Small --scenario TR-64 --mode DESC
    python -m nat_lib cell search --supernet EE_D --phase 4 --objectives acc+macs
    python -m nat_lib cell predictors --supernet BASE
    python -m nat_lib cell post --supernet EE_D --version 4 --objectives acc+macs

The notebooks then find the cell finished; nothing is drawn.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from nat_lib.errors import Refusal
from nat_lib.run.params import Values, assignments, load_params

# --------------------------------------------------------------------------------- what can be done


def _aep(params: Values, given: Namespace, out: Path) -> list[Values]:
    from nat_lib.studies import aep

    dataset = given.dataset or params["aep_datasets"][0]
    params = params | {"aep_datasets": [dataset], "aep_networks": [given.network]}
    aep.check_weights(params)
    chosen = [cell for cell in aep.selected(params) if cell[2:4] == (given.scenario, given.mode)]
    if not chosen:
        modes = dict.fromkeys(cell[3] for cell in aep.selected(params))
        raise Refusal(
            f"--scenario, --mode: {given.scenario}, {given.mode} is not among "
            f"{', '.join(params['aep_scenarios'])} and {', '.join(modes)}"
        )
    data = aep.load_data(params, dataset)
    dataset, network, scenario, mode, _ = chosen[0]
    return [aep.run(params, dataset, network, scenario, mode, given.seed, data, out)]


def _predictors(params: Values, given: Namespace, out: Path) -> list[Values]:
    from nat_lib.studies.predictors import run_predictors
    from nat_lib.studies.searches import load_target

    return _reports(run_predictors(params, given.supernet, given.seed, load_target(params), out))


def _post(params: Values, given: Namespace, out: Path) -> list[Values]:
    from nat_lib.studies import post, searches

    data = searches.load_target(params)
    cell = given.kind, given.supernet, given.version, given.objectives, given.seed
    return _reports(post.run_posts(params, *cell, data, out))


def _reports(found: Any) -> list[Values]:
    """Whatever a study returns, as a list of reports."""
    rows = found if isinstance(found, list) else [found]
    return [row for row in rows if isinstance(row, dict)]


# --------------------------------------------------------------------------------------- the table


class Kind(NamedTuple):
    """study: whose parameters; run: does it; options: (flag, keywords of `add_argument`)."""

    study: str
    run: Callable[[Values, Namespace, Path], list[Values]]
    options: tuple[tuple[str, dict[str, Any]], ...]


SUPERNET = ("--supernet", {"required": True})
VERSION = ("--version", {"type": int, "choices": (1, 2, 3, 4), "default": 4})
OBJECTIVES = ("--objectives", {"default": "acc+macs"})
# Commands of their own, which torchrun can start on several GPUs.
COMMANDS = {"eps": "nat_lib.shrink", "search": "nat_lib.nat"}
KINDS = {
    "aep": Kind(
        "aep_study",
        _aep,
        (
            ("--network", {"required": True}),
            ("--scenario", {"required": True, "help": "such as TR-64"}),
            ("--mode", {"required": True, "help": "SE, DESC, ASC, MIX or UNIF"}),
            ("--dataset", {"help": "default: the profile's first"}),
        ),
    ),
    "predictors": Kind("predictors", _predictors, (SUPERNET,)),
    "post": Kind(
        "post_processing",
        _post,
        (
            SUPERNET,
            VERSION,
            OBJECTIVES,
            ("--kind", {"choices": ("grid", "final"), "default": "final"}),
        ),
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Do one cell by itself; prints the name and the numbers of its report as JSON."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return import_module(COMMANDS[argv[0]]).main(argv[1:])
    kinds_told = ", ".join([*COMMANDS, *KINDS])
    parser = ArgumentParser(prog="python -m nat_lib cell", description=main.__doc__)
    kinds = parser.add_subparsers(dest="cell", required=True, metavar="KIND", help=kinds_told)
    for name, kind in KINDS.items():
        one = kinds.add_parser(name, help=f"of {kind.study}")
        for flag, how in kind.options:
            one.add_argument(flag, **how)
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--profile", default="smoke", help="name or file of a profile")
        one.add_argument("--out", help="outputs folder; default outputs/<profile>")
        one.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    kind = KINDS[given.cell]
    try:
        params = load_params(given.profile, kind.study, assignments(given.set))
        reports = _done(kind, params, given)
    except Refusal as refusal:
        print(f"nat_lib cell: {refusal}", file=sys.stderr)
        return 2
    for report in reports:
        print(json.dumps({"name": report.get("name"), "metrics": report.get("metrics")}))
    return 0


def _done(kind: Kind, params: Values, given: Namespace) -> list[Values]:
    from nat_lib import machine
    from nat_lib.run.jobs import outputs_folder

    machine.start(params["threads"], given.seed)
    return kind.run(params, given, outputs_folder(params, given.out))
