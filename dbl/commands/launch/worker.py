"""What a launched process runs: `dbl fit`, until its launcher is gone.

A worker whose launcher was killed would go on unseen and keep the next launcher from its block. So it watches its
standard input, which ends with the launcher, and then stops as if it had been told to: the running step is saved.
"""

import os
import signal
import sys
import threading

from dbl.commands.main import main


def _stop_with_launcher() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends, which aborts it
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    sys.exit(main(["fit", *sys.argv[1:]]))
