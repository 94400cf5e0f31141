"""What a worker of `--backend process` costs beside its steps: its start, and the launcher's wait for its end.

Blocks of a few tiny steps are trained by `dbl train`, inline and by one worker after another, and a callback notes when
each block ended its first step. Nothing is assembled, since the last block of the run is left out. Linux only.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L

from benchmarks.timing import RANDOM_START

CONFIG = Path(__file__).parents[1] / "configs" / "digits_vit.yaml"
TINY = [
    RANDOM_START,
    *("--contract.network.init_args.width=16", "--contract.network.init_args.num_heads=2"),
    *("--data.init_args.batch_size=16", "--trainer.val_check_interval=100000", "--trainer.accelerator=cpu"),
    "--trainer.enable_progress_bar=false",
]


class FirstStep(L.Callback):
    """Note when the first step of a block ended.

    Args:
        folder: place of a file for each block: seconds since its process started, and the time of day.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Write the file, unless it is there."""
        file = self.folder / f"{pl_module.part}.json"
        if not file.exists():
            file.write_text(json.dumps([_age_of_this_process(), time.time()]))


def _age_of_this_process() -> float:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # from the machine's start
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def measure(blocks: int = 4, steps: int = 2, repetitions: int = 3) -> dict[str, Any]:
    """Seconds, all medians over the repetitions, in which inline and workers take turns.

    Args:
        blocks: number of blocks that are trained.
        steps: optimizer steps of each.
        repetitions: number of trainings of each kind.

    Returns:
        `wall_s` and `cpu_s` (of all processes) of a whole command; `extra_wall_s_a_worker` and `extra_cpu_s_a_worker`,
        the difference of process and inline a block; `first_step_s`, from the start of a worker to the end of its
        first step; and `first_step_of_the_run_s`, from the start of a command to the end of the first step of all.
    """
    wall: dict[str, list[float]] = {"inline": [], "process": []}
    cpu: dict[str, list[float]] = {"inline": [], "process": []}
    first: dict[str, list[float]] = {"inline": [], "process": []}
    ages: list[float] = []
    for _ in range(repetitions):
        for backend in wall:
            with tempfile.TemporaryDirectory() as folder:
                began, used = time.time(), _cpu_s_of_children()
                _train(backend, blocks, steps, Path(folder))
                wall[backend].append(time.time() - began)
                cpu[backend].append(_cpu_s_of_children() - used)
                noted = [json.loads(file.read_text()) for file in Path(folder).glob("block_*.json")]
            first[backend].append(min(when for _, when in noted) - began)
            if backend == "process":
                ages += [age for age, _ in noted]
    wall_s, cpu_s = _medians(wall), _medians(cpu)
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "extra_wall_s_a_worker": (wall_s["process"] - wall_s["inline"]) / blocks,
        "extra_cpu_s_a_worker": (cpu_s["process"] - cpu_s["inline"]) / blocks,
        "first_step_s": {"median": statistics.median(ages), "largest": max(ages)},
        "first_step_of_the_run_s": _medians(first),
    }


def _medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(one) for name, one in values.items()}


def _cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _train(backend: str, blocks: int, steps: int, folder: Path) -> None:
    """Train the first blocks of a fresh run that has one more."""
    callback = [{"class_path": "benchmarks.workers.FirstStep", "init_args": {"folder": str(folder)}}]
    options = [
        *(f"--contract.partition.num_blocks={blocks + 1}", f"--contract.network.init_args.num_layers={blocks + 1}"),
        *(f"--trainer.max_steps={steps}", f"--trainer.callbacks={json.dumps(callback)}", f"--run.root={folder}"),
        f"--blocks={','.join(map(str, range(blocks)))}",
        *(["--backend=process", "--workers=1"] if backend == "process" else []),
    ]
    command = [sys.executable, "-m", "dbl", "train", "--config", str(CONFIG), *TINY, *options]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="of each block")
    parser.add_argument("--repetitions", type=int, default=3)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
