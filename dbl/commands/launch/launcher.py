"""Blocks of a run to a backend, and what became of them."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dbl.commands.launch.backend import Backend, Outcome
from dbl.commands.launch.inline import InlineBackend
from dbl.commands.launch.job import Job
from dbl.commands.launch.process import ProcessBackend
from dbl.commands.launch.ray import RayBackend, RaySettings
from dbl.commands.launch.slurm import SlurmBackend, SlurmSettings
from dbl.run.assembly import read_block
from dbl.run.checkpoints import already_trained
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.utils.errors import TrainingFailed, UserError

BackendName = Literal["inline", "process", "ray", "slurm"]


@dataclass(frozen=True)
class Launch:
    """Where the blocks of one call are trained.

    Args:
        backend: name of the backend.
        workers: blocks at once; None: as many as there is room for.
        devices: of the trainer, for one block.
        on_cpu: whether the trainer uses the CPU although there are GPUs.
        ray: settings of that backend.
        slurm: settings of that backend.
        dry_run: print what would be given to Slurm.
    """

    backend: BackendName = "inline"
    workers: int | None = None
    devices: int = 1
    on_cpu: bool = False
    ray: RaySettings = field(default_factory=RaySettings)
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers} must be at least 1")
        if self.backend == "inline" and self.workers is not None:
            raise UserError("--workers is for several at once: add --backend process, ray or slurm")
        if self.backend == "inline" and self.devices != 1:
            raise UserError(
                f"trainer.devices={self.devices}: blocks in this process use 1; add --backend process, or use dbl fit"
            )
        if self.dry_run and self.backend != "slurm":
            raise UserError("--dry-run prints the scripts for Slurm: add --backend slurm")

    def make_backend(self) -> Backend:
        """The backend; UserError if it cannot be used here."""
        if self.backend == "process":
            return ProcessBackend(self.workers, self.devices, self.on_cpu)
        if self.backend == "ray":
            return RayBackend(self.workers, self.ray)
        if self.backend == "slurm":
            return SlurmBackend(self.workers, self.slurm, self.dry_run)
        return InlineBackend()

    def train(self, run: RunFolder, blocks: list[int], from_scratch: bool = False) -> None:
        """Train blocks of a run; one that fails does not stop the others.

        Args:
            run: with its config and contract.
            blocks: their numbers; of those that are trained already see `untrained`.
            from_scratch: train anew what is trained already.

        Raises:
            UserError: if blocks failed because of the input.
            TrainingFailed: if some failed otherwise.
            Interrupted: if the training was told to stop.
        """
        jobs = [Job(run.path.resolve(), block, from_scratch, Path.cwd()) for block in blocks]
        failed = [outcome for outcome in self.make_backend().run(jobs) if outcome.code] if jobs else []
        if failed:
            raise _failure(failed)


def untrained(run: RunFolder, contract: Contract, blocks: list[int], steps: int) -> list[int]:
    """Those of some blocks that have not come to their last step; says so of the others.

    Args:
        run: where the blocks lie.
        contract: of the run.
        blocks: their numbers.
        steps: that each must have.
    """
    return [block for block in blocks if not _is_trained(run, contract, block, steps)]


def _is_trained(run: RunFolder, contract: Contract, block: int, steps: int) -> bool:
    try:
        step = read_block(run, contract, block).step
    except UserError:  # absent, or what dbl fit has to judge
        return False
    if step >= steps > 0:
        print(already_trained(f"block_{block}", step))
    return step >= steps > 0


def _failure(failed: list[Outcome]) -> Exception:
    """Say of each block that failed what it said last and how to go on; the exception that ends the command."""
    if all(outcome.code == 2 and len(set(outcome.lines)) == 1 for outcome in failed):
        reasons = {outcome.lines[0] for outcome in failed}
        if len(reasons) == 1:
            return UserError(reasons.pop())
    for outcome in failed:
        print(f"\n{outcome.job.part} ended with exit code {outcome.code}:", file=sys.stderr)
        for line in outcome.lines:
            print(f"    {line}", file=sys.stderr)
        print(f"  its log: {outcome.job.log}\n  to go on: {outcome.job.resume_command}", file=sys.stderr)
    names = ", ".join(outcome.job.part for outcome in failed)
    kind = UserError if all(outcome.code == 2 for outcome in failed) else TrainingFailed
    return kind(f"failed: {names}; the same command leaves trained blocks alone and goes on with these")
