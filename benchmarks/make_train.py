"""Wall time of `make train`: all blocks of digits DiT, assembled, evaluated and reported on.

python -m benchmarks.make_train
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.timing import CONFIGS, print_figures


def figures(options: Sequence[str] = ()) -> dict[str, float]:
    """Seconds of the command from its start to its end, and those of them that it computed.

    Args:
        options: further options of `dbl train`.
    """
    config = str(CONFIGS / "digits_dit.yaml")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dbl", "train", "--config", config, f"--run.root={folder}", *options]
        start, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - start, os.times()
    computed = sum(after[2:4]) - sum(before[2:4])  # user and system time of children
    return {"seconds of make train": seconds, "seconds of make train, process time": computed}


if __name__ == "__main__":
    print_figures(figures)
