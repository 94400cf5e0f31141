"""How the time of a run falls with the number of workers: a real run on this machine's cores, and a simulated one.

The real run (digits, ViT, 4 blocks) is trained inline and with 2 workers, one thread each. In the simulated run of
8 blocks each step waits for a device that is not there (`SimulatedDevice`), so that more workers than cores can be
compared: what remains is what the launcher, the workers' starts and the run folder cost.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.timing import config_of
from dbl.commands.launch.launcher import Launch

REAL = ["--contract.partition.num_blocks=4", "--trainer.val_check_interval=100000"]
SIMULATED = [
    *("--contract.partition.num_blocks=8", "--contract.network.init_args.num_layers=8"),
    *("--contract.network.init_args.width=16", "--contract.network.init_args.num_heads=2"),
    *("--data.init_args.batch_size=16", "--trainer.val_check_interval=100000"),
]


class SimulatedDevice(L.Callback):
    """Make each optimizer step as slow as on a device of its own, without using a core.

    Args:
        seconds: duration of a step.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any) -> None:
        """Wait."""
        time.sleep(self.seconds)


def seconds_of(options: list[str], launch: Launch, folder: Path) -> float:
    """Wall time of training all blocks of a fresh run, from the start of the backend to its end."""
    name = f"{launch.backend}_{launch.workers}"
    config = config_of("digits_vit", f"--run.root={folder}", f"--run.name={name}", *options)
    config.check()
    config.write()
    start = time.perf_counter()
    launch.train(config.run, list(range(config.contract.partition.num_blocks)), config.steps)
    return time.perf_counter() - start


def real(steps: int, folder: Path) -> dict[str, float]:
    """Inline against 2 workers with one thread each."""
    options = [*REAL, f"--trainer.max_steps={steps}", "--trainer.accelerator=cpu"]
    inline = seconds_of(options, Launch(), folder)
    workers = seconds_of(options, Launch("process", workers=2, on_cpu=True), folder)
    return {"inline": inline, "2 workers": workers, "ratio": workers / inline}


def simulated(steps: int, step_seconds: float, folder: Path) -> list[dict[str, float]]:
    """8 blocks on 1 to 8 workers: wall time, and what is above the time of the steps alone."""
    callback = json.dumps(
        [{"class_path": "benchmarks.scaling.SimulatedDevice", "init_args": {"seconds": step_seconds}}]
    )
    options = [
        *SIMULATED,
        f"--trainer.max_steps={steps}",
        f"--trainer.callbacks={callback}",
        "--trainer.accelerator=cpu",
    ]
    rows = []
    for workers in (1, 2, 4, 8):
        seconds = seconds_of(options, Launch("process", workers=workers, on_cpu=True), folder)
        rounds = 8 // workers
        overhead = (seconds - rounds * steps * step_seconds) / rounds
        rows.append({"workers": workers, "seconds": seconds, "overhead_a_round": overhead})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="of each block of the real run")
    parser.add_argument(
        "--simulated-steps", type=int, default=200, help="of each block of the simulated run; 0 leaves it out"
    )
    parser.add_argument("--step-seconds", type=float, default=0.1, help="of a simulated step")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    torch.set_num_threads(1)  # of this process, which trains inline
    with tempfile.TemporaryDirectory() as folder:
        if options.steps:
            print(json.dumps(real(options.steps, Path(folder) / "real"), indent=2))
        if options.simulated_steps:
            rows = simulated(options.simulated_steps, options.step_seconds, Path(folder) / "simulated")
            first = rows[0]["seconds"]
            print("| workers | seconds | speed-up | overhead of a round |\n| --- | --- | --- | --- |")
            for row in rows:
                speed_up = f"{first / row['seconds']:.2f}"
                print(f"| {row['workers']} | {row['seconds']:.0f} | {speed_up} | {row['overhead_a_round']:.1f} s |")


if __name__ == "__main__":
    main()
