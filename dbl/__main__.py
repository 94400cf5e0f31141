"""`python -m dbl`, the same as the command `dbl`."""

import sys

from dbl.commands.main import main

sys.exit(main())
