"""Train one supernet from the command line, on one process or on several GPUs; notebooks then find
it finished.

    python -m nat_lib.shrink --supernet EE_D --phase ND2
    torchrun --nproc-per-node 4 -m nat_lib.shrink --profile paper --supernet EE_D --teacher pet
"""

import sys
from argparse import ArgumentParser

from nat_lib import machine
from nat_lib.distill import TEACHERS
from nat_lib.distributed import first_rank_first, process_group, ranks
from nat_lib.errors import Refusal
from nat_lib.run import jobs
from nat_lib.run.params import assignments, load_params
from nat_lib.studies import eps


def main(argv=None):
    """The exit code: 0, or 2 after one line that says what was wrong."""
    parser = ArgumentParser(prog="python -m nat_lib.shrink", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke", help="name or file of a profile")
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--teacher", choices=TEACHERS, default="pet")
    parser.add_argument("--phase", help="only this one, e.g. ND2; those before it are finished")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="outputs folder; default outputs/<profile>")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change a parameter"
    )
    given = parser.parse_args(argv)
    try:
        params = load_params(given.profile, "ofav2_eps", assignments(given.set))
        out = jobs.outputs_folder(params, given.out)
        with process_group(params["device"]):
            machine.start(params["threads"], given.seed)
            with first_rank_first():
                data = eps.load_data(params)
            asked = (given.supernet, given.width, given.teacher, given.seed, data, out)
            for report in eps.run(params, *asked, given.phase):
                if ranks()[0] == 0:
                    print(line_of(report))
    except Refusal as refusal:
        print(f"nat_lib.shrink: {refusal}", file=sys.stderr)
        return 2
    return 0


def line_of(report):
    grid = report["metrics"]["grid"]
    return f"{report['name']}: avg {grid['avg']:.2f}, best {grid['best']:.2f} ({grid['n']} subnets)"


if __name__ == "__main__":
    sys.exit(main())
