"""`python -m nat_lib.nbrun`: see `nat_lib.run.notebook`."""

import sys

from nat_lib.run.notebook import main

if __name__ == "__main__":
    sys.exit(main())
