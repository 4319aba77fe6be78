"""`python -m nat_lib.export`: see `nat_lib.export.command`."""

import sys

from nat_lib.export.command import main

if __name__ == "__main__":
    sys.exit(main())
