"""Jobs whose workers are small scripts in place of trainings."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from dbl.commands.launch import fork_server
from dbl.commands.launch.job import Job

# Stands in for `dbl.commands.launch.worker`: the folder where a job runs comes before all others on Python's path. The
# real fork server beside it finds nothing else to import.
_WORKER = """
import sys
from pathlib import Path

def work(options):
    block = options[options.index("--model.block") + 1]
    exec((Path.cwd() / f"script_{block}.py").read_text(), {})

if __name__ == "__main__":
    work(sys.argv[1:])
"""


class MakeJobs(Protocol):
    """One job for each script, in a run folder of their own."""

    def __call__(self, *scripts: str) -> list[Job]: ...


@pytest.fixture
def jobs(tmp_path: Path) -> MakeJobs:
    made = 0

    def make(*scripts: str) -> list[Job]:
        nonlocal made
        made += 1
        cwd, run = tmp_path / f"cwd_{made}", tmp_path / f"run_{made}"
        worker = cwd / "dbl/commands/launch/worker.py"
        worker.parent.mkdir(parents=True)
        for package in (worker.parent, worker.parents[1], worker.parents[2]):
            (package / "__init__.py").touch()
        worker.write_text(_WORKER)
        shutil.copy(fork_server.__file__, worker.parent)
        run.mkdir()
        for block, script in enumerate(scripts):
            (cwd / f"script_{block}.py").write_text(script)
        return [Job(run, block, False, cwd) for block in range(len(scripts))]

    return make


@pytest.fixture
def no_threads_chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Set the variables that choose threads and devices, and no others of them."""

    def choose(chosen: Mapping[str, str]) -> None:
        for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)

    return choose
