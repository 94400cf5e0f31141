"""Give the blocks of a run to a backend, and report how they ended."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from jsonargparse import ArgumentParser, Namespace

from dbl.commands.devices import Devices, check_devices, num_devices, read_devices
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
from dbl.utils.checks import check_number
from dbl.utils.errors import TrainingFailed, UserError

BackendName = Literal["inline", "process", "ray", "slurm"]


def add_launch_options(parser: ArgumentParser) -> None:
    """Add the options from which `Launch.from_options` is made; `--dry_run` is for the command to add."""
    parser.add_argument(
        "--backend",
        type=BackendName,
        default="inline",
        help="inline: one block after another in this process; process: several at once on this machine; ray: "
        "tasks of a Ray cluster; slurm: a job array.",
    )
    parser.add_argument("--workers", type=int | None, default=None, help="Blocks at once; by default all there is.")
    parser.add_class_arguments(RaySettings, "ray")
    parser.add_class_arguments(SlurmSettings, "slurm")


@dataclass(frozen=True)
class Launch:
    """Where the blocks of one call are trained.

    Args:
        backend: name of the backend.
        workers: number of blocks at once; None: as many as there is room for.
        devices: devices of one block, as `read_devices` gives them; `auto` is one.
        on_cpu: whether the trainer uses the CPU although there are GPUs.
        ray: settings of the backend `ray`.
        slurm: settings of the backend `slurm`.
        dry_run: print the script for Slurm and submit nothing.
    """

    backend: BackendName = "inline"
    workers: int | None = None
    devices: Devices = 1
    on_cpu: bool = False
    ray: RaySettings = field(default_factory=RaySettings)
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_number("--workers", self.workers, at_least=1, at_most=10_000, whole=True, optional=True)
        if self.backend == "inline" and self.workers is not None:
            raise UserError("--workers is for several at once: add --backend process, ray or slurm")
        if self.dry_run and self.backend != "slurm":
            raise UserError("--dry_run prints the scripts for Slurm: add --backend slurm")

    @classmethod
    def from_options(cls, parsed: Namespace) -> Self:
        """The launch that a command line asks for; UserError if its options do not fit together."""
        trainer = parsed.trainer
        return cls(
            backend=parsed.backend,
            workers=parsed.workers,
            devices=read_devices(trainer.devices),
            on_cpu=trainer.accelerator == "cpu",
            ray=RaySettings(**vars(parsed.ray)),
            slurm=SlurmSettings(**vars(parsed.slurm)),
            dry_run=parsed.get("dry_run", False),
        )

    def settle_devices(self, trainer: Namespace) -> None:
        """Set `auto` to the one device that a block takes where blocks are trained on this machine.

        Raises UserError if they are, and the machine lacks the devices of the trainer's options, or a block cannot use
        them.
        """
        if self.backend not in ("inline", "process"):
            return
        check_devices(vars(trainer))
        if self.backend == "inline" and num_devices(vars(trainer)) != 1:
            raise UserError(
                f"trainer.devices={self.devices}: blocks in this process use 1; add --backend process, or use dbl fit"
            )
        if trainer.devices == "auto":
            trainer.devices = 1

    def make_backend(self) -> Backend:
        """Make the backend; UserError if it cannot be used here."""
        if self.backend == "process":
            return ProcessBackend(self.workers, self.devices, self.on_cpu)
        if self.backend == "ray":
            return RayBackend(self.workers, self.ray)
        if self.backend == "slurm":
            return SlurmBackend(self.workers, self.slurm, self.dry_run)
        return InlineBackend()

    def train(self, run: RunFolder, blocks: list[int], steps: list[int], from_scratch: bool = False) -> None:
        """Train those blocks of a run that are not trained to the last step yet; one that fails stops no other.

        Args:
            run: run folder with its config and contract.
            blocks: numbers of the blocks.
            steps: number of steps of each block of the run when it is trained.
            from_scratch: train all of them anew.

        Raises:
            UserError: if blocks failed because of the input.
            TrainingFailed: if some failed otherwise.
            Interrupted: if the training was told to stop.
        """
        if not from_scratch:
            blocks = _untrained(run, blocks, steps)
        jobs = [Job(run.path.resolve(), block, from_scratch, Path.cwd()) for block in blocks]
        failed = [outcome for outcome in self.make_backend().run(jobs) if outcome.code] if jobs else []
        if failed:
            raise _failure(failed)


def _untrained(run: RunFolder, blocks: list[int], steps: list[int]) -> list[int]:
    """The blocks that are not trained to the last step yet; the others are printed."""
    contract = run.load_contract()
    return [block for block in blocks if not _is_trained(run, contract, block, steps[block])]


def _is_trained(run: RunFolder, contract: Contract, block: int, steps: int) -> bool:
    try:
        step = read_block(run, contract, block).step
    except UserError:  # absent, or what dbl fit has to judge
        return False
    if step >= steps > 0:
        print(already_trained(f"block_{block}", step))
    return step >= steps > 0


def _failure(failed: list[Outcome]) -> Exception:
    """Print the last lines of each block that failed, and how to resume; the exception that ends the command."""
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
