"""Finds losses and gradients that are not finite, without making the host wait for the device."""

import math
from collections import deque
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class _Values(NamedTuple):
    step: int
    values: Tensor  # [3] or [4] on the CPU: loss, mean loss, gradient norm, share of ranks that are asked to stop
    sigma: Tensor | None
    copied: torch.Event | None  # None: the values are there


class NotFinite(NamedTuple):
    """A batch whose loss or gradient is not finite.

    Attributes:
        step: number of optimizer steps done before it.
        name: `loss` or `gradient`.
        here: its value on this rank.
        everywhere: its value over all ranks.
        sigma: [N] noise levels of this rank.
    """

    step: int
    name: Literal["loss", "gradient"]
    here: float
    everywhere: float
    sigma: Tensor | None


class FiniteCheck:
    """Loss and gradient norm of the last batches, read when the device has long computed them.

    Reading a number makes the host wait for the device, which then waits for the host. So a batch is read while the
    next one is computed, when its optimizer step is already done: read all of them before anything is written.
    """

    def __init__(self) -> None:
        self._pending: deque[_Values] = deque()
        self.stop_asked = False  # on any rank, in a batch that was read

    def add(
        self,
        step: int,
        loss: Tensor,
        mean_loss: Tensor,
        norm: Tensor | None,
        sigma: Tensor | None,
        asked: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            step: number of optimizer steps done before it.
            loss: loss on this rank.
            mean_loss: mean over ranks; it is not finite if one of them is not, so that all ranks stop together.
            norm: norm of the gradient, which all ranks share; None while gradients are accumulated.
            sigma: [N] noise levels of this rank.
            asked: share of the ranks that are asked to stop; None for 0.
        """
        numbers = [loss, mean_loss, mean_loss if norm is None else norm, *([] if asked is None else [asked])]
        values = torch.stack([value.detach().float() for value in numbers])
        copied = None
        if values.device.type != "cpu":
            values = values.to("cpu", non_blocking=True)
            copied = torch.Event(loss.device)
            copied.record()
        self._pending.append(_Values(step, values, sigma, copied))

    def first_problem(self, keep: int = 0) -> NotFinite | None:
        """Read all batches but the `keep` last; the first that is not finite, or None."""
        while len(self._pending) > keep:
            batch = self._pending.popleft()
            if batch.copied is not None:
                batch.copied.synchronize()
            loss, mean_loss, norm, *asked = batch.values.tolist()
            self.stop_asked |= any(asked)
            if not math.isfinite(mean_loss):
                return NotFinite(batch.step, "loss", loss, mean_loss, batch.sigma)
            if not math.isfinite(norm):
                return NotFinite(batch.step, "gradient", norm, norm, batch.sigma)
        return None
