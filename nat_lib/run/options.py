"""The options of ./run_all.sh: one table for parsing, help and early refusals.

Only the standard library is imported: `python3 -m nat_lib.run.options ...` checks a command line
before there is an environment. What values mean (keys, data sets, notebooks) is checked later.
"""

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nat_lib.errors import Refusal

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "params" / "profiles"
SHOWN = 100  # exit code of the check where the help was shown: nothing is left to do
LISTED = "(--help lists the options)"


# --------------------------------------------------------------------------------------- values


def text(value: str) -> str:
    """Anything but nothing."""
    if not value:
        raise ArgumentTypeError(f"needs a value {LISTED}")
    return value


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ArgumentTypeError(f"{value[:80]!r} is not {what}")
        return value

    return check


def count(value: str) -> int:
    """A whole number from 1."""
    return int(_matching("[1-9][0-9]{0,5}", "a whole number from 1")(value))


def profile(value: str) -> str:
    """A file of params/profiles/, or the path of a YAML file."""
    named = re.fullmatch(r"[A-Za-z0-9_-]+", value) and (PROFILES / f"{value}.yaml").is_file()
    if not named and not Path(value).is_file():
        known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
        raise ArgumentTypeError(
            f"{value[:200]!r} is not one of {', '.join(known)} and not the path of a YAML file"
        )
    return value


def archive(value: str) -> str:
    """The path of a file."""
    if not Path(value).is_file():
        raise ArgumentTypeError(f"there is no file {value[:200]}")
    return value


numbers = _matching(r"\d{1,2}(,\d{1,2})*", "a list of notebook numbers such as 02,07")
seeds = _matching(r"\d{1,10}(,\d{1,10})*", "a list of whole numbers such as 0,1,2")
executor = _matching("[a-z0-9]+(-[a-z0-9]+)*", "the name of an executor such as slurm")
assignment = _matching(r"(?s)[^=]+=.*", "KEY=VALUE")


# ---------------------------------------------------------------------------------------- the table


class Option(NamedTuple):
    """A row: how it is written, the lines of its help, and the check of its value.

    value : None for a switch
    """

    flag: str
    value: str | None
    help: str
    check: Callable[[str], Any] = text
    default: Any = None

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


WHAT = (
    Option(
        "--profile",
        "NAME",
        "smoke (default): embedded scans of digits, minutes on two cores; it proves the path\n"
        "laptop: real images, hours on a CPU or minutes on a GPU\n"
        "own: a folder of your own images (--data-dir DIR): train, search, export\n"
        "paper: the sizes of the thesis\n"
        "or the path of a YAML file of your own, made like those in params/profiles/",
        profile,
        "smoke",
    ),
    Option("--only", "02,07", "these notebooks only, by number (default: all of them)", numbers),
    Option(
        "--dataset",
        "NAME",
        "another data set than the profile's: digits, cifar10, tiny_imagenet, ..., folder",
    ),
    Option(
        "--data-dir",
        "DIR",
        'where its images lie; for "folder": one sub-folder per class, or train/ val/ test/ of\n'
        "such",
    ),
    Option(
        "--target",
        "NAME",
        "data set to which the search moves the supernets (default: the profile's; with\n"
        "--dataset, that)",
    ),
    Option("--target-dir", "DIR", "where its images lie (default: --data-dir)"),
    Option("--seeds", "0,1,2", "random seeds, each a repetition", seeds),
    Option(
        "--set",
        "KEY=VALUE ...",
        "replace any value of params/, as it would be written there:\n"
        "--set lr_factor=2.0 device=cuda",
        assignment,
        (),
    ),
)
HOW = (
    Option(
        "--jobs",
        "N",
        "jobs side by side (default: cores divided by the profile's threads; with device=cuda\n"
        "one per GPU)",
        count,
    ),
    Option(
        "--executor",
        "NAME",
        "where Snakemake sends the jobs: local (default), slurm, ... (needs its plugin installed)",
        executor,
        "local",
    ),
    Option("--out", "DIR", "folder for the results (default outputs/<profile>)"),
    Option("--notebooks", "DIR", "folder of the notebooks (default notebooks)"),
    Option(
        "--show", "ARCHIVE", "only redraw all notebooks from packed results (see below)", archive
    ),
    Option("--dry-run", None, "only list the jobs, what is left to do, and why"),
    Option("--setup", None, "only make or repair the environment"),
)
OPTIONS = WHAT + HOW

HEAD = """\
Run the notebooks of the kit, from a fresh machine to the finished report.

  ./run_all.sh [options]

The first call makes its own environment in .venv (Python 3.11 to 3.13, packages of
requirements.lock, about 7 GB on Linux because torch brings CUDA; a few minutes). Then every
notebook that is not yet done is run, in parts side by side, and the places of the tables, figures
and the report are printed. Stop it at any moment, by any means, and call it again: finished work is
kept. When nothing is left to do it says so within seconds.
"""
TAIL = """\
  -- ARGUMENTS          given to Snakemake as they are: -- --default-resources slurm_partition=gpu
  --help                this text

Environment variable
  NAT_PYTHON=/path/to/python   use this interpreter, which has the packages already (conda, Binder);
                               no .venv is made

Examples
  ./run_all.sh
  ./run_all.sh --only 02,07 --seeds 0,1,2 --jobs 4
  ./run_all.sh --profile laptop --dataset folder --data-dir ~/pictures --set device=cuda
  python -m nat_lib pack outputs/smoke smoke.tar.xz     # finished results without weights
  ./run_all.sh --show smoke.tar.xz                      # all tables and figures, nothing trained
"""


def help_text() -> str:
    """What --help prints."""
    lines = [HEAD, "What to run", *map(_row, WHAT), "", "How to run it", *map(_row, HOW), TAIL]
    return "\n".join(lines).rstrip("\n")


def _row(option: Option) -> str:
    title = f"  {option.flag} {option.value or ''}".rstrip()
    first, *others = option.help.splitlines()
    return "\n".join([f"{title:23} {first}", *(f"{'':24}{line}" for line in others)])


# -------------------------------------------------------------------------------------- parsing


class _Parser(ArgumentParser):
    def error(self, message: str):
        """Argparse's words as ours: `--jobs: '0' is not a whole number from 1`."""
        flag, _, said = message.removeprefix("argument ").partition(": ")
        if said.startswith("expected"):
            raise Refusal(f"{flag} needs a value {LISTED}")
        if said.startswith("needs a value"):
            raise Refusal(f"{flag} {said}")
        raise Refusal(f"{flag}: {said}" if said else f"{message} {LISTED}")


def parse(argv: list[str]) -> Namespace:
    """The options as a namespace, with `only` as a list and `passed_on` for Snakemake.

    A Refusal says what is wrong with the first bad one.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = _Parser(prog="run_all.sh", add_help=False, allow_abbrev=False)
    for option in OPTIONS:
        if option.value is None:
            parser.add_argument(option.flag, action="store_true")
        elif option.flag == "--set":
            parser.add_argument("--set", nargs="+", action="extend", default=[], type=option.check)
        else:
            parser.add_argument(option.flag, type=option.check, default=option.default)
    parser.add_argument("--help", "-h", action="store_true")
    chosen, unknown = parser.parse_known_args(argv[:cut])
    if chosen.help:
        return chosen
    if unknown:
        raise Refusal(f"unknown option {unknown[0][:200]!r} {LISTED}")
    chosen.only = [n.zfill(2) for n in chosen.only.split(",")] if chosen.only else None
    chosen.seeds = [int(seed) for seed in chosen.seeds.split(",")] if chosen.seeds else None
    chosen.passed_on = argv[cut + 1 :]
    return chosen


def main() -> int:
    """Check a command line: 0 to go on, SHOWN after the help, 2 with a line on standard error."""
    try:
        chosen = parse(sys.argv[1:])
    except Refusal as refusal:
        print(f"run_all.sh: {refusal}", file=sys.stderr)
        return 2
    if chosen.help:
        print(help_text())
        return SHOWN
    return 0


if __name__ == "__main__":
    sys.exit(main())
