"""The main program of a worker process: `dbl fit`, until its launcher ends.

A worker whose launcher was killed would keep running unseen and lock its block. So it reads its standard input, which
closes when the launcher ends, and then stops as at SIGTERM: the running step is saved.
"""

import os
import signal
import sys
import threading

from dbl.commands.main import main


def work(options: list[str]) -> int:
    """Train as `dbl fit` with these options does, and stop when the standard input closes. Returns the exit code."""
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    return main(["fit", *options])


def _stop_with_launcher() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends, which aborts it
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
