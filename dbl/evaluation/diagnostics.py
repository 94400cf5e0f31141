"""What the blocks of an assembled network do at each noise level, measured on a few test samples.

- `levels`: loss of each block over its interval, with the right condition and with that of another sample;
- `condition`: whether each block uses its condition at all: a low-noise block may read the target off its input;
- `information`: `sigma^-3 E|y - D|^2` integrated over each interval, in nats (see `likelihood.py`);
- `trajectory`: norm of the denoised target along the sampler's path: one that leaves the training distribution shows
  here first;
- `boundaries`: difference between two neighbours on the same noisy target at the level where they meet.

A block *uses its condition* if its mean loss rises with another sample's condition by more than 2 standard errors
of the paired difference over samples, and by more than 1 % of its loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from dbl.data.module import ResumableDataModule
from dbl.data.spec import IGNORED
from dbl.data.splits import evenly_spaced
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.likelihood import strata
from dbl.denoising.readout import Clean, mean_over_scored
from dbl.diffusion.gaussian import corrupt
from dbl.diffusion.noise import Interval, NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.inference.stack import BlockStack
from dbl.utils.seeding import SampleDraws

_CHUNK, _CHUNK_TOKENS = 64, 2**14  # largest numbers of samples and of tokens in one network call
_NUM_PATHS = 64  # samples whose path is followed


@dataclass(frozen=True)
class Probe:
    """The samples that the blocks denoise.

    Args:
        clean: targets, conditions and labels.
        shuffled: conditions [N, ...] of other samples, of another class where there is one.
        indices: [N] numbers of the samples.
        seed: random seed; noise is a function of (seed, purpose, number of the sample).
    """

    clean: Clean
    shuffled: Tensor
    indices: Tensor
    seed: int = 0

    @classmethod
    def of(cls, clean: Clean, indices: Tensor, seed: int = 0) -> "Probe":
        """A probe whose shuffled conditions are those of `partners`."""
        return cls(clean, clean.cond[partners(clean.labels)], indices, seed)

    def noisy(self, sigma: float, *purpose: str | int) -> Tensor:
        """[N, *target_shape] targets with noise of one level."""
        noise = SampleDraws(self.seed, ("diagnostics", *purpose), self.indices).normal(self.clean.clean)
        return corrupt(self.clean.clean, noise, self._filled(sigma))

    def ask(self, denoiser: Denoiser, noisy: Tensor, sigma: float, cond: Tensor) -> "Answers":
        """The answers of a block for noisy targets of one level."""
        parts = []
        chunk = max(1, min(_CHUNK, _CHUNK_TOKENS // self.clean.labels[0].numel()))
        for rows in torch.arange(len(noisy), device=noisy.device).split(chunk):
            clean = Clean(*(tensor[rows] for tensor in self.clean))
            prediction = denoiser.predict(noisy[rows], self._filled(sigma)[rows], cond[rows])
            loss = denoiser.prediction_loss(prediction, clean, noisy[rows])
            parts.append((prediction.denoised.float(), loss.float()))
        denoised, losses = (torch.cat(part) for part in zip(*parts, strict=True))
        return Answers(denoised.cpu(), losses.cpu().double(), self.mean_square(self.clean.clean - denoised))

    def mean_square(self, values: Tensor) -> Tensor:
        """[N] float64 on the CPU: mean square over the coordinates of values [N, ...], of scored tokens only."""
        squares, labels = values.float().square().cpu().double(), self.clean.labels.cpu()
        if labels.ndim == 1:
            return squares.flatten(1).mean(1)
        return mean_over_scored(squares.mean(-1) * (labels != IGNORED), labels)

    def _filled(self, sigma: float) -> Tensor:
        return torch.full((len(self.clean.clean),), sigma, device=self.clean.clean.device)


class Answers(NamedTuple):
    """Answers of a block, on the CPU.

    Attributes:
        denoised: [N, *target_shape].
        losses: [N] losses without the weight.
        errors: [N] squared errors, mean over the coordinates of a sample.
    """

    denoised: Tensor
    losses: Tensor
    errors: Tensor


def partners(labels: Tensor) -> Tensor:
    """[N] another sample for each; of another class unless one class has more than half of all samples.

    Args:
        labels: [N] classes, or [N, T] tokens of sequences, for which any other one will do.
    """
    if labels.ndim > 1:
        return torch.arange(len(labels), device=labels.device).roll(len(labels) // 2)
    # In an order by class, half of all samples away stands another class, if none has more than half.
    order = labels.argsort(stable=True)
    found = torch.empty_like(order)
    found[order] = order.roll(len(order) // 2)
    return found


def measure_block(
    denoiser: Denoiser, block: int, interval: Interval, noise: NoiseDistribution, probe: Probe, num_levels: int
) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """Measure a block at `num_levels` levels of its interval, with both conditions and the same noise.

    The levels are the midpoints of equal shares of the training distribution in the interval.

    Returns:
        Rows of `levels`, an entry of `condition` (see `diagnose`), and the nats of the interval.
    """
    q = 1 - (torch.arange(num_levels, dtype=torch.float64) + 0.5) / num_levels
    sigmas = noise.quantile_within(interval, q)
    right, wrong = [], []
    for level, sigma in enumerate(sigmas.tolist()):
        noisy = probe.noisy(sigma, "level", block, level)
        right.append(probe.ask(denoiser, noisy, sigma, probe.clean.cond))
        wrong.append(probe.ask(denoiser, noisy, sigma, probe.shuffled))
    losses, errors = (torch.stack([getattr(answers, name) for answers in right]) for name in ("losses", "errors"))
    shuffled = torch.stack([answers.losses for answers in wrong])  # all three: S, N

    columns = (sigmas, losses.mean(1), shuffled.mean(1), denoiser.loss_weight(sigmas))
    levels = [
        {"sigma": sigma, "block": block, "loss": loss, "loss_shuffled": loss_shuffled, "weight": weight}
        for sigma, loss, loss_shuffled, weight in zip(*(column.tolist() for column in columns), strict=True)
    ]
    # The integral of sigma^-3 E|y - D|^2 d sigma by the midpoint rule: each level stands for a width in ln sigma.
    clean, widths = probe.clean, -strata(noise, interval, num_levels).log().diff()
    num_coordinates = clean.clean[0].numel() // clean.labels[0].numel()
    nats = (num_coordinates * errors.mean(1) / sigmas.square() * widths).sum().item()
    return levels, _condition(losses, shuffled), nats


def _condition(losses: Tensor, shuffled: Tensor) -> dict[str, Any]:
    """Whether a block uses its condition, from losses [S, N] with the right condition and with others' conditions."""
    loss, rises = losses.mean().item(), (shuffled - losses).mean(0)  # rises: N
    rise, num = rises.mean().item(), len(rises)
    error = rises.std().item() / num**0.5 if num > 1 else 0.0
    return {
        "loss": loss,
        "loss_shuffled": loss + rise,
        "standard_error": error,
        "uses_condition": num > 1 and rise > 2 * error and rise > 0.01 * loss,
    }


def measure_blocks(
    denoiser: Callable[[int], Denoiser],
    noise: NoiseDistribution,
    partition: Partition,
    probe: Probe,
    levels_per_block: int,
) -> dict[str, Any]:
    """`levels`, `condition`, `information` and `boundaries` of `diagnose`; each block is loaded once."""
    measures, boundaries, above = [], [], None
    for block in range(partition.num_blocks):
        current, interval = denoiser(block), partition.interval(block)
        if above is not None:
            boundaries.append(_disagreement(block - 1, interval.high, above, _at(current, probe, interval.high), probe))
        measures.append(measure_block(current, block, interval, noise, probe, levels_per_block))
        above = _at(current, probe, interval.low)
    levels, condition, nats = zip(*measures, strict=True)
    return {
        "levels": list(chain(*levels)),
        "condition": list(condition),
        "information": [{"nats": value, "share": value / sum(nats) if sum(nats) else 0.0} for value in nats],
        "boundaries": boundaries,
    }


def _at(denoiser: Denoiser, probe: Probe, sigma: float) -> Tensor:
    """Denoised samples at one end of a block's interval; neighbours are given the same noisy ones."""
    return probe.ask(denoiser, probe.noisy(sigma, "boundary"), sigma, probe.clean.cond).denoised


def _disagreement(block: int, sigma: float, above: Tensor, below: Tensor, probe: Probe) -> dict[str, Any]:
    error = probe.clean.clean.cpu() - above
    return {
        "sigma": sigma,
        "blocks": [block, block + 1],
        "difference": probe.mean_square(above - below).mean().sqrt().item(),
        "error": probe.mean_square(error).mean().sqrt().item(),
    }


@torch.no_grad()
def follow_path(stack: BlockStack, clean: Clean, indices: Tensor) -> list[dict[str, Any]]:
    """`sigma`, `block` and `norm` of each network call while the stack samples, in the order of the calls.

    Calls without the condition (for guidance) are left out. The norm is the mean Euclidean norm of the denoised
    targets, divided by that of the clean targets.
    """
    calls: list[dict[str, Any]] = []
    clean_norm = clean.clean.float().flatten(1).norm(dim=1).mean().item()

    def record(module: Any, inputs: tuple[Tensor, Tensor, Tensor], denoised: Tensor) -> None:
        _, sigma, cond = inputs
        if cond is clean.cond:
            norm = denoised.float().flatten(1).norm(dim=1).mean().item() / clean_norm
            block = int(stack.contract.partition.block_for(sigma))
            calls.append({"sigma": sigma.item(), "block": block, "norm": norm})

    hook = stack.register_forward_hook(record)
    try:
        stack.sample(clean.cond, indices)
    finally:
        hook.remove()
    return calls


@torch.no_grad()
def diagnose(
    stack: BlockStack, data: ResumableDataModule, num_samples: int, levels_per_block: int, seed: int = 0
) -> dict[str, Any]:
    """All diagnostics of a stack as JSON values.

    Args:
        stack: assembled network.
        data: data whose test split is used.
        num_samples: number of test samples, evenly spaced; all if there are fewer.
        levels_per_block: levels of each block's interval.
        seed: random seed of the noise.

    Returns:
        `num_samples`; `loss_unit` of the losses without weight; `levels`: `sigma`, `block`, `loss`, `loss_shuffled`,
        `weight` of each level, from high noise to low; `condition`: `loss`, `loss_shuffled`, `standard_error` of their
        difference and `uses_condition` of each block; `information`: `nats` and `share` of each block;
        `calls_per_block`: network calls of one sample; `trajectory`: `sigma`, `block`, `norm` of each call (none
        for text); `boundaries`: `sigma`, `blocks`, root mean square `difference` of two neighbours and `error` of the
        upper one per coordinate.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> blocks = [dbl.DiffusionBlock(contract, block) for block in range(3)]  # not trained here
        >>> stack = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval())
        >>> found = dbl.diagnose(stack, data, num_samples=16, levels_per_block=2)
        >>> [row["uses_condition"] for row in found["condition"]]  # nothing is learnt yet
        [False, False, False]
    """
    contract, chosen = stack.contract, evenly_spaced(len(data.split("test")), num_samples)
    clean = stack.space.encode(move_data_to_device(data.batch("test", chosen), stack.device))
    probe = Probe.of(clean, chosen, seed)
    few = evenly_spaced(len(chosen), _NUM_PATHS)
    start = Clean(*(tensor[few.to(stack.device)] for tensor in clean))
    return {
        "num_samples": len(chosen),
        "loss_unit": stack.target.loss_unit,
        **measure_blocks(stack.denoiser, contract.noise, contract.partition, probe, levels_per_block),
        "calls_per_block": stack.inference.sampler.calls_per_block(contract.noise, contract.partition),
        "trajectory": [] if stack.target.generates == "text" else follow_path(stack, start, chosen[few]),
    }
