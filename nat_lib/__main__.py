"""`python -m nat_lib COMMAND ...`: one door to all that runs. A command imports what it uses."""

import os
import sys
from collections.abc import Callable


def _run(argv: list[str]) -> int:
    """what ./run_all.sh does, in an environment that stands"""
    from nat_lib.run import drive

    return drive.main(argv)


def _job(argv: list[str]) -> int:
    """one job of the plan in this folder (for Snakemake)"""
    from nat_lib.run import server

    return server.ask(argv[0], os.getcwd())


def _cell(argv: list[str]) -> int:
    """one phase, one search or one training by itself"""
    from nat_lib.run import cell

    return cell.main(argv)


def _search(argv: list[str]) -> int:
    """one search of chapter 6, on one process or with torchrun on several"""
    from nat_lib import nat

    return nat.main(argv)


def _export(argv: list[str]) -> int:
    """a subnet of a finished search as files that run elsewhere"""
    from nat_lib.export import command

    return command.main(argv)


def _pack(argv: list[str]) -> int:
    """finished results without weights as one archive, for ./run_all.sh --show"""
    from nat_lib.run import pack

    return pack.main(argv)


def _gauge(argv: list[str]) -> int:
    """how large the library is, in syntax-tree nodes and lines"""
    from nat_lib.run import gauge

    return gauge.main(argv)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "job": _job,
    "cell": _cell,
    "search": _search,
    "export": _export,
    "pack": _pack,
    "gauge": _gauge,
}


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments to a command; without one, list them."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    asked = not argv or argv[0] in ("-h", "--help")
    print(
        "python -m nat_lib COMMAND ... (each with --help)", file=sys.stdout if asked else sys.stderr
    )
    for name, command in COMMANDS.items():
        print(f"  {name:8} {command.__doc__}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
