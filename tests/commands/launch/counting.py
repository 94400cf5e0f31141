"""Jobs whose workers count instead of training, so that what a backend does to them shows within seconds."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbl.commands.launch.job import Job


@dataclass
class CountingRun:
    """A run folder with one counting job for each plan; see `counting_worker`."""

    path: Path

    def jobs(self, *plans: dict[str, Any]) -> list[Job]:
        worker = self.path.parent / "cwd/dbl/commands/launch/worker.py"
        worker.parent.mkdir(parents=True)
        for package in (worker.parent, worker.parents[1], worker.parents[2]):
            (package / "__init__.py").touch()
        shutil.copy(Path(__file__).with_name("counting_worker.py"), worker)
        self.path.mkdir()
        (self.path / "config.yaml").touch()
        (self.path / "plan.json").write_text(json.dumps(dict(enumerate(plans))))
        return [Job(self.path, block, from_scratch=False, cwd=self.path.parent / "cwd") for block in range(len(plans))]

    def file(self, block: int, name: str) -> Path:
        return self.path / f"block_{block}" / name

    def log(self, block: int) -> list[dict[str, Any]]:
        """One entry for each time that the worker of a block ran."""
        return [json.loads(line) for line in self.file(block, "log.jsonl").read_text().splitlines()]

    def result(self, block: int) -> int:
        return int(self.file(block, "result").read_text())

    def when_at(self, block: int, step: int, do: Callable[[], None]) -> threading.Thread:
        """Do something, beside the test, as soon as a block has come to a step."""

        def wait() -> None:
            while not (self.file(block, "step").exists() and int(self.file(block, "step").read_text() or 0) >= step):
                time.sleep(0.02)
            do()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


def counted(steps: int) -> int:
    """What a worker that was never disturbed comes to."""
    value = 1
    for step in range(steps):
        value = (value * 31 + step) % 1_000_003
    return value
