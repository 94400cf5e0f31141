"""Devices of a block: `trainer.devices` with the meaning that it has in Lightning, from YAML and command line alike.

A command line gives text: `2` is a number of devices, `-1` all GPUs, `0,1` and `[0, 1]` are GPUs by number.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch

from dbl.utils.errors import UserError

Devices = int | str | list[int]

# Variables that are set where a launcher has started a process on each node.
_NODES = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")


def read_devices(value: Any) -> Devices:
    """The value of `trainer.devices` as `auto`, a number of devices (-1: all) or a list of the numbers of GPUs.

    Raises UserError if it is nothing of these.
    """
    if isinstance(value, str) and value.strip() == "auto":
        return "auto"
    listed = isinstance(value, list | tuple) or (isinstance(value, str) and "," in value)
    items = value.strip().strip(",").split(",") if isinstance(value, str) else value if listed else [value]
    numbers = [_number(item) for item in items]
    found = [number for number in numbers if number is not None and number >= (0 if listed else -1)]
    if not found or len(found) < len(numbers) or len(set(found)) < len(found) or (found == [0] and not listed):
        raise UserError(f"trainer.devices ({str(value)[:40]}) must be a number of at least 1, auto, -1 or a list")
    return found if listed else found[0]


def _number(value: Any) -> int | None:
    """A whole number, which may be text; None if it is none."""
    try:
        return None if isinstance(value, bool) or int(value) != float(value) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def num_devices(trainer: Mapping[str, Any]) -> int:
    """How many devices one block takes on this machine; for `auto` one, as commands for whole runs use it.

    Raises UserError if they are not here.

    Args:
        trainer: the config group `trainer`.
    """
    accelerator, devices = trainer["accelerator"], read_devices(trainer["devices"])
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here |= {"gpu": any(here.values())}
    if isinstance(accelerator, str) and not here.get(accelerator, True):
        raise UserError(f"trainer.accelerator={accelerator} is not there: choose auto or cpu")
    if accelerator in ("auto", *here) and here["gpu"]:
        return _num_gpus(devices, torch.accelerator.device_count())
    if isinstance(devices, list) or devices == -1:
        raise UserError(f"trainer.devices={devices} names GPUs, and this is a CPU: give a number of processes")
    count = 1 if isinstance(devices, str) else devices
    # Processes on a CPU may share a core; many more than there are cores only wait for each other.
    limit = 2 * (os.cpu_count() or 1)
    if count > limit:
        raise UserError(f"trainer.devices={count}: there are {limit} here, at two for each core")
    return count


def _num_gpus(devices: Devices, available: int) -> int:
    if isinstance(devices, str):
        return 1
    wanted = devices if isinstance(devices, list) else range(available if devices == -1 else devices)
    if max(wanted, default=0) >= available:
        raise UserError(f"trainer.devices={devices}: there are {available} here")
    return len(wanted)


def check_nodes(trainer: Mapping[str, Any]) -> None:
    """Raise UserError if there are to be several nodes, but no launcher has started a process on each."""
    if trainer["num_nodes"] > 1 and not any(name in os.environ for name in _NODES):
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']} needs a process on every node: start them with srun or torchrun"
        )


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Raise UserError if the devices or nodes that the Trainer would use are not here.

    Called where the Trainer is made, which may be another machine than the one where a config is read.
    """
    num_devices(trainer)
    check_nodes(trainer)
