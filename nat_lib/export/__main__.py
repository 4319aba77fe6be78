"""`python -m nat_lib.export`: see `nat_lib.export.write`."""

import sys

from nat_lib.export.write import main

if __name__ == "__main__":
    sys.exit(main())
