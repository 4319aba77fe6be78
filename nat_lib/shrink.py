"""`python -m nat_lib.shrink`: see `nat_lib.studies.eps`."""

import sys

from nat_lib.studies.eps import main

if __name__ == "__main__":
    sys.exit(main())
