"""`python -m nat_lib.nat`: see `nat_lib.studies.searches`."""

import sys

from nat_lib.studies.searches import main

if __name__ == "__main__":
    sys.exit(main())
