"""Memory of a training step before any training: the step is run with fake tensors, which have no data.

The same operations run as in training, on tensors that know their shape only, and are counted as `dbl.memory` counts
the real ones. So a plan costs seconds and no memory, whatever the network.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Adafactor
from torch.utils._python_dispatch import TorchDispatchMode

from dbl.baselines import EndToEndViT
from dbl.block import DiffusionBlock, NoisyBatch
from dbl.contract import Contract, Terms
from dbl.data_spec import DataSpec
from dbl.diffusion import corrupt
from dbl.memory import MemoryTracker
from dbl.networks import ViT
from dbl.noise import NoiseDistribution
from dbl.partition import Cut
from dbl.training import Recipe, TrainedPart

MakePart = Callable[[], TrainedPart]


@dataclass(frozen=True)
class Row:
    """One way to train.

    Args:
        name: for people.
        num_blocks: B, or None end to end.
        num_layers: layers that are in memory at once.
        make_part: what is trained.
    """

    name: str
    num_blocks: int | None
    num_layers: int
    make_part: MakePart


@dataclass(frozen=True)
class Planner:
    """Plans training steps for one config.

    Args:
        terms: what the blocks agree on; its partition is replaced by the one that is planned.
        data: shape and classes.
        recipe: how a part is trained.
        precision: of the trainer, `32-true` or `bf16-mixed`.
        device: whose kernels are planned, `cpu` or `cuda`.
    """

    terms: Terms
    data: DataSpec
    recipe: Recipe
    precision: str = "32-true"
    device: str = "cpu"

    def end_to_end(self, recipe: Recipe) -> MakePart:
        """The baseline: all layers at once."""
        if isinstance(self.terms.network, ViT):
            contract = self._contract(Cut(num_blocks=1))
            return lambda: EndToEndViT(contract, recipe)
        return self.block(Cut(num_blocks=1), recipe)

    def block(self, cut: Cut, recipe: Recipe) -> MakePart:
        """The block with the most layers of a partition."""
        contract = self._contract(cut)
        layers = contract.partition.layers
        return lambda: DiffusionBlock(contract, layers.index(max(layers)), recipe)

    def rows(self, numbers_of_blocks: list[int]) -> list["Row"]:
        """What a user could train instead of another: end to end and in blocks, with activation checkpointing or not.

        The optimizer is that of the recipe; Adafactor stands for optimizers with a smaller state.
        """
        saving = replace(self.recipe, activation_checkpointing=True)
        smaller = replace(saving, optimizer=Adafactor)
        layers = self.terms.network.num_layers
        rows = [
            Row("end to end", None, layers, self.end_to_end(replace(saving, activation_checkpointing=False))),
            Row("end to end, checkpointing", None, layers, self.end_to_end(saving)),
            Row("end to end, checkpointing, Adafactor", None, layers, self.end_to_end(smaller)),
        ]
        for num in numbers_of_blocks:
            cut = self.cut(num)
            largest = max(self._contract(cut).partition.layers)
            name = f"{num} block" + "s" * (num > 1)
            rows.append(Row(name, num, largest, self.block(cut, replace(saving, activation_checkpointing=False))))
            rows.append(Row(f"{name}, checkpointing", num, largest, self.block(cut, saving)))
        return rows

    def cut(self, num_blocks: int) -> Cut:
        """The config's own partition for its own number of blocks, an even one for others."""
        own = self.terms.partition
        return own if num_blocks == own.num_blocks else Cut(num_blocks=num_blocks, overlap=own.overlap)

    def _contract(self, cut: Cut) -> Contract:
        return replace(self.terms, partition=cut, noise=self._noise).settle(self.data)

    @cached_property
    def _noise(self) -> NoiseDistribution:
        """The law, fitted once for all partitions."""
        table = self.terms.target.make_table(self.data, self.terms.seed)
        return self.terms.noise.fit(table, torch.tensor(self.data.class_frequencies))

    def peak(self, make_part: MakePart, batch_size: int) -> dict[str, int]:
        """Category -> bytes at the peak of one training step, the optimizer's state being there."""
        with ExitStack() as active:
            active.enter_context(_no_warning_of_fake_data())
            for mode in (FakeTensorMode(allow_non_fake_inputs=True), _StandInScalars(), torch.device(self.device)):
                active.enter_context(mode)
            part = make_part().train()
            average = [torch.empty_like(tensor) for tensor in (*part.parameters(), *part.buffers())]
            part.prepare_network()
            optimizer = part.recipe.optimizer(part.trained.parameters())
            _make_state(part, optimizer)
            batch = _fake_batch(part, self.data, batch_size)
            tracker = MemoryTracker()
            tracker.watch(part, optimizer, average, batch)
            with tracker:
                self._step(part, optimizer, batch)
        return tracker.peak

    def _step(self, part: TrainedPart, optimizer: torch.optim.Optimizer, batch: Any) -> None:
        """As `TrainedPart.training_step`; of accumulated batches two, the second of which meets the first's gradients."""
        for _ in range(min(part.recipe.accumulate, 2)):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
                loss = part.losses(batch).per_sample.mean()
            (loss / part.recipe.accumulate).backward()
        nn.utils.clip_grad_norm_(part.trained.parameters(), part.recipe.clip_norm or torch.inf)
        optimizer.step()
        optimizer.zero_grad()

    def largest_batch(self, make_part: MakePart, limit_bytes: int) -> int:
        """The largest batch whose step stays within `limit_bytes`; 0 if one image does not fit.

        The peak grows almost linearly with the batch, so each guess is where the line through two known batches meets
        the limit.
        """
        size_of = lru_cache(maxsize=None)(lambda size: sum(self.peak(make_part, size).values()))
        return largest_within(size_of, limit_bytes)


def largest_within(size_of: Callable[[int], int], limit: int) -> int:
    """The largest n >= 1 with `size_of(n) <= limit` for a growing `size_of`; 0 if there is none.

    Few calls where the growth is nearly linear: each guess is where the line through two known sizes meets the limit,
    and one more tells whether it is the answer. A bisection in each round bounds the calls for any other growth.
    """
    fits = lru_cache(maxsize=None)(lambda n: size_of(n) <= limit)
    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        beyond = int(1.01 * _crossing(size_of, limit, low, high)) + 1
        low, high = high, min(max(2 * high, beyond), 16 * high)  # small batches may all cost the same
    while high - low > 1:
        guess = _crossing(size_of, limit, low, high)
        for n in (guess, guess + 1, (low + high) // 2):
            if low < n < high:
                low, high = (n, high) if fits(n) else (low, n)
    return low


def _crossing(size_of: Callable[[int], int], limit: int, low: int, high: int) -> int:
    """Where the line through two sizes reaches the limit."""
    slope = (size_of(high) - size_of(low)) / (high - low)
    return int(low + (limit - size_of(low)) / max(slope, 1e-9))


class _StandInScalars(TorchDispatchMode):
    """Answers 1 where an optimizer asks for a number, which a fake tensor does not have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _no_warning_of_fake_data() -> Iterator[None]:
    """Metrics copy their (fake) start values, of which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def _make_state(part: TrainedPart, optimizer: torch.optim.Optimizer) -> None:
    """Take one step, so that the optimizer has its state."""
    for parameter in part.trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _fake_batch(part: TrainedPart, data: DataSpec, size: int) -> Any:
    """What a part is given in training."""
    labels = torch.zeros(size, dtype=torch.int64)
    images = torch.zeros(size, *data.shape, dtype=torch.uint8 if data.shape[0] in (1, 3) else torch.float32)
    batch: dict[str, Tensor] = {"image": images, "label": labels, "index": labels.clone()}
    if not isinstance(part, DiffusionBlock):
        return batch
    clean, sigma = part.space.encode(batch), torch.ones(size)
    return NoisyBatch(clean, corrupt(clean.clean, torch.zeros_like(clean.clean), sigma), sigma)
