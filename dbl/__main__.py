"""`python -m dbl`, the same as the command `dbl`."""

import sys

from dbl.cli import main

sys.exit(main())
