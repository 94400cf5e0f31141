"""What `test_distributed.py` looks at: trainings on two processes, one after another, by one start of the processes.

`distributed_runs.py FOLDER` leaves their checkpoints in `FOLDER/<name>` and what each rank saw in
`FOLDER/<name>.rank<r>.pt`. The processes are forked after the imports, which take longer than the trainings; before a
fork nothing may be computed, so this is not done in the process of the tests.
"""

import math
import os
import signal
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from torch.multiprocessing import start_processes
from toy import DIT, Stripes, fit, recipe
from toy_text import fit_text, text_contract

from dbl.denoising import vocabulary
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.partition import PartitionConfig
from dbl.networks.adapters import LoRA
from dbl.run.contract import Contract, ContractConfig
from dbl.run.start import Ancestor
from dbl.training.block import DiffusionBlock
from dbl.training.config import TrainingConfig
from dbl.utils.errors import Interrupted, UserError

WORLD_SIZE = 2
STEPS = 6  # an epoch has 3 batches on two ranks
KILLED = 5  # the last checkpoint is of step 4, in the middle of the second epoch


def contract() -> Contract:
    return ContractConfig(network=DIT, target=PixelTarget(), partition=PartitionConfig(num_blocks=3)).build(
        Stripes().spec
    )


def sgd(**changes: Any) -> TrainingConfig:
    """A recipe without clipping and without Adam's division, which both hide gradients of a wrong size."""
    return TrainingConfig(
        lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9), clip_norm=None, **changes
    )


class Watch(L.Callback):
    """Keep what this rank drew, held and ended with; break off at a step if asked."""

    def __init__(
        self, killed_at: int | None = None, signalled_at: int | None = None, counts: list[int] | None = None
    ) -> None:
        self.killed_at = killed_at
        self.signalled_at = signalled_at
        self.counts = [] if counts is None else counts
        self.batches: list[dict[str, torch.Tensor]] = []
        self.seen: dict[str, Any] = {"batches": self.batches}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: Any) -> None:
        if trainer.global_step == self.killed_at:
            raise RuntimeError("killed")
        if trainer.global_step == self.signalled_at:
            os.kill(os.getpid(), signal.SIGTERM)
        unit = (batch.noisy - batch.clean.clean) / batch.sigma.reshape(-1, 1, 1, 1)
        self.batches.append({"clean": batch.clean.clean, "noise": unit, "sigma": batch.sigma})

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        named = pl_module.named_parameters()
        trained = {name: value.grad for name, value in named if value.grad is not None}
        self.seen.setdefault("gradients", {name: _whole(gradient).clone() for name, gradient in trained.items()})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.seen.setdefault("exchanges", []).append(len(self.counts))
        self.seen["weights"] = {name: _whole(value).detach().clone() for name, value in pl_module.named_parameters()}
        self.seen["held"] = sum(_share(value).numel() for value in pl_module.parameters())
        self.seen["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}


def _counted(function: Any, counts: list[int]) -> Any:
    return lambda *args, **options: (counts.append(1), function(*args, **options))[1]


def _whole(value: Any) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[no-any-return]


def _share(value: Any) -> torch.Tensor:
    return value.to_local() if hasattr(value, "to_local") else value  # type: ignore[no-any-return]


class Runs:
    """Trainings of this rank."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.contract = contract()

    def train(
        self, name: str, strategy: str, train: TrainingConfig | None = None, steps: int = STEPS, **options: Any
    ) -> None:
        """Train block 1 into `folder/name`, in one go."""
        block = DiffusionBlock(self.contract, 1, train or recipe())
        self._fit(name, block, strategy, steps=steps, **options)

    def broken_off(self, name: str, strategy: str) -> None:
        """The same, killed in the middle and resumed."""
        self.train(name, strategy, watch=Watch(KILLED))
        self.train(name, strategy, resume=True)

    def adapted(self, strategy: str) -> None:
        """Adapters of block 1, started from block 0, in one go and broken off; a resume reads a checkpoint alone."""
        contract = replace(self.contract.config, start=Ancestor()).build(self.contract.data, ["of the ancestor"])
        for name, watch, resume in (("whole", None, False), ("resumed", Watch(KILLED), False), ("resumed", None, True)):
            block = DiffusionBlock(contract, 1, recipe(lora=LoRA(rank=2)))
            if not resume:
                block.start_from(contract.denoiser(0).state_dict(), Path("start.safetensors"))
            self._fit(f"{strategy}_adapted_{name}", block, strategy, watch, resume=resume)

    def with_nan(self, name: str, strategy: str) -> None:
        """The same; on rank 1 alone, a loss is not a number."""
        block = DiffusionBlock(self.contract, 1, recipe())
        compute = block.denoiser.loss
        block.denoiser.loss = lambda *batch: (
            compute(*batch)
            * (  # type: ignore[method-assign]
                math.nan if self.rank == 1 and block.batches_seen == 3 else 1
            )
        )
        self._fit(name, block, strategy)

    def with_signal(self, name: str, strategy: str) -> None:
        """The same; rank 1 alone is sent a signal in step 4, which it tells rank 0."""
        self.train(name, strategy, watch=Watch(signalled_at=3 if self.rank == 1 else None), log_every_n_steps=50)

    def count_exchanges(self, name: str, strategy: str) -> None:
        """The same, with the number of exchanges beside those of gradients up to the end of each step."""
        counts: list[int] = []
        with ExitStack() as patches:
            for function in ("all_reduce", "broadcast", "all_gather_object", "broadcast_object_list", "barrier"):
                original = getattr(torch.distributed, function)
                patches.enter_context(patch.object(torch.distributed, function, _counted(original, counts)))
            self.train(name, strategy, watch=Watch(counts=counts), limit_val_batches=0, log_every_n_steps=50)

    def text(self, kind: str, strategy: str, rows_of_chunk: int | None) -> None:
        """Train block 1 of a text into `folder/<strategy>_<kind>_<rows of a chunk of logits>`."""
        usual = vocabulary._rows_of_chunk
        if rows_of_chunk is not None:
            vocabulary._rows_of_chunk = lambda num_classes, features: rows_of_chunk
        block = DiffusionBlock(text_contract(kind), 1, sgd())
        folder = self.folder / f"{strategy}_{kind}_{rows_of_chunk}"
        fit_text(block, folder, strategy=strategy, devices=WORLD_SIZE)
        vocabulary._rows_of_chunk = usual

    def _fit(self, name: str, block: DiffusionBlock, strategy: str, watch: Watch | None = None, **options: Any) -> None:
        watch = watch or Watch()
        try:
            fit(block, self.folder / name, strategy=strategy, devices=WORLD_SIZE, callbacks=[watch], **options)
        except (RuntimeError, UserError, Interrupted) as error:
            if watch.killed_at is None and not isinstance(error, UserError | Interrupted):
                raise
            watch.seen["error"] = str(error)
        torch.save(watch.seen, self.folder / f"{name}.rank{self.rank}.pt")


def run_all(rank: int, folder: Path, port: int) -> None:
    """All trainings of one rank."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    runs = Runs(folder, rank)
    for strategy in ("ddp", "fsdp2"):
        runs.train(f"{strategy}_whole", strategy)
        runs.broken_off(f"{strategy}_resumed", strategy)
        # The test put a checkpoint of one process into this folder.
        runs.train(f"{strategy}_from_one", strategy, resume=True)
        if find_spec("peft"):
            runs.adapted(strategy)
    runs.train("ddp_accumulated", "ddp", sgd(accumulate=2), steps=3)
    # Activation checkpointing changes no result, but its second forward pass must find the weights gathered.
    runs.train("fsdp2_accumulated", "fsdp2", sgd(accumulate=2, activation_checkpointing=True), steps=3)
    runs.with_nan("nan", "ddp")
    runs.with_signal("signal", "ddp")
    runs.count_exchanges("exchanges", "ddp")
    for kind in ("two", "masked"):
        for strategy, rows in (("ddp", None), ("ddp", 10), ("fsdp2", 10)):
            runs.text(kind, strategy, rows)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    start_processes(run_all, (Path(sys.argv[1]), _free_port()), nprocs=WORLD_SIZE, start_method="fork")
