"""The option `--device`."""

import torch

from dbl.errors import UserError


def device_of(name: str | None) -> torch.device:
    """The device of that name; by default an accelerator if there is one. UserError if it is not there."""
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not there: choose cpu, or leave it out") from None
