"""Memory of a training step, predicted by running it on fake tensors, which have a shape and no data.

The operations are those of training, and `tracker` counts their tensors as it counts real ones. So planning any network
takes seconds and no memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Adafactor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dbl.data.spec import DataSpec
from dbl.diffusion.noise import NoiseDistribution
from dbl.diffusion.partition import PartitionConfig
from dbl.networks.layers import layers_of
from dbl.run.contract import Contract, ContractConfig
from dbl.run.start import RandomStart
from dbl.training.baselines import baseline_of
from dbl.training.block import DiffusionBlock
from dbl.training.config import TrainingConfig
from dbl.training.memory.alternatives import ALTERNATIVES, OFFLOADING, MakeFromRecipe, MakePart, with_lora
from dbl.training.memory.synthetic_step import SyntheticStep
from dbl.training.recipes import RECIPES
from dbl.utils.errors import UserError

# A line through two small sizes may be almost flat, so a guess exceeds the largest known fit by at most this factor.
_FARTHEST = 4096
# FLOPs from the shapes of arguments, for the kernels that torch's counter does not know.
_ATTENTION_ON_CPU: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def largest_within(size_of: Callable[[int], int], limit: int, near: int) -> int:
    """Find the largest n >= 1 with `size_of(n) <= limit`; 0 if there is none.

    Each guess extrapolates the last two sizes linearly to the limit: four calls for linear growth, a few more if it is
    piecewise linear. Every sixth guess bisects, so that the search is fast for any growth.

    Args:
        size_of: increasing, unbounded function of n; it may be slow.
        limit: maximum size.
        near: first guess, doubled.
    """
    low, high = 0, math.inf  # low fits or is 0, high does not fit
    seen: list[tuple[int, int]] = []
    guess = max(near // 2, 1)
    while True:
        seen.append((guess, size_of(guess)))
        low, high = (max(low, guess), high) if seen[-1][1] <= limit else (low, min(high, guess))
        if high - low <= 1:
            return low
        if len(seen) % 6 == 0 and high < math.inf:
            guess = (low + int(high)) // 2
        else:
            guess = _crossing(seen[-2], seen[-1], limit) if len(seen) > 1 else 2 * guess
        guess = int(min(max(guess, low + 1), high - 1 if high < math.inf else _FARTHEST * low))


def _crossing(earlier: tuple[int, int], latest: tuple[int, int], limit: int) -> int:
    """Solve for the n at which the line through two points (n, size) reaches the limit."""
    slope = (latest[1] - earlier[1]) / (latest[0] - earlier[0])
    return int(latest[0] + (limit - latest[1]) / max(slope, 1e-9))  # a flat line never reaches it


class Row(NamedTuple):
    """One row of a plan."""

    name: str
    num_blocks: int | None  # None end to end
    num_layers: int  # in memory at once
    make_part: MakePart
    later_phases: tuple[MakePart, ...] = ()  # of a training whose memory changes; what needs most is planned
    uses_host: bool = False


@dataclass(frozen=True)
class Planner:
    """Plans training steps for one config, without `torch.compile`, which hides internal tensors."""

    config: ContractConfig  # its partition is replaced by the planned one
    data: DataSpec
    recipe: TrainingConfig
    precision: str = "32-true"  # of the trainer, `32-true` or `bf16-mixed`
    device: str = "cpu"  # type of the device whose kernels are planned, `cpu` or `cuda`

    def end_to_end(self, recipe: TrainingConfig) -> MakePart:
        """The baseline: all layers at once."""
        if recipe.lora is not None:
            return with_lora(recipe, self.end_to_end)
        baseline = baseline_of(self.config.network)
        if baseline is not None:
            contract = self._contract(PartitionConfig(num_blocks=1))
            return lambda: baseline(contract, replace(recipe, compile=False))  # type: ignore[arg-type, call-arg]
        return self.block(PartitionConfig(num_blocks=1), recipe)

    def block(self, partition: PartitionConfig, recipe: TrainingConfig) -> MakePart:
        """The block with the most layers of a partition."""
        if recipe.lora is not None:
            return with_lora(recipe, partial(self.block, partition))
        contract = self._contract(partition)
        layers = contract.partition.layers
        teacher = self._contract(PartitionConfig(num_blocks=1)) if recipe.distillation else None

        def make() -> DiffusionBlock:
            block = DiffusionBlock(contract, layers.index(max(layers)), replace(recipe, compile=False))
            if teacher is not None:
                block.learn_from(teacher.denoiser(0))
            return block

        return make

    def rows(self, numbers_of_blocks: list[int], rivals: Sequence[str] = ()) -> list[Row]:
        """List the alternatives: end to end and in blocks, with and without activation checkpointing.

        The optimizer is the recipe's; Adafactor represents optimizers with a smaller state. If the recipe has adapters,
        they have rows beside full training. A network without an attribute `layers` cannot be checkpointed and has no
        such rows.

        Args:
            numbers_of_blocks: values of B.
            rivals: names in `RECIPES`; each changes the recipe, with its own `activation_checkpointing`.
        """
        saving = replace(self.recipe, activation_checkpointing=True, lora=None)
        recipes = {
            "": replace(saving, activation_checkpointing=False),
            ", checkpointing": saving,
            ", checkpointing, Adafactor": replace(saving, optimizer=Adafactor),
        }
        if self.recipe.lora is not None:
            adapting = replace(saving, lora=self.recipe.lora)
            recipes |= {
                ", LoRA": replace(adapting, activation_checkpointing=False),
                ", checkpointing, LoRA": adapting,
            }
        whole = self.end_to_end(recipes[""])
        with self._without_data():
            if layers_of(whole().backbone) is None:
                recipes = {"": recipes[""]}
        layers = self.config.network.num_layers
        rows = _rows_of("end to end", None, layers, self.end_to_end, recipes)
        rows += [self._rival(name, "end to end", None, layers, self.end_to_end) for name in rivals]
        for num in numbers_of_blocks:
            partition, name = self.partition_config(num), f"{num} block" + "s" * (num > 1)
            largest = max(self._contract(partition).partition.layers)
            make = partial(self.block, partition)
            rows += _rows_of(name, num, largest, make, recipes)
            rows += [self._rival(rival, name, num, largest, make) for rival in rivals]
        named: dict[str, Row] = {}
        for row in rows:
            named.setdefault(row.name, row)
        return list(named.values())

    def _rival(self, rival: str, name: str, num_blocks: int | None, layers: int, make: MakeFromRecipe) -> Row:
        """The row of a rival; that of `checkpointing` is among the others, too."""
        recipes = [RECIPES[rival].apply(self.recipe, phase) for phase in RECIPES[rival].phases]
        how = ["checkpointing"] * recipes[0].activation_checkpointing + [rival] * (rival != "checkpointing")
        makers = [ALTERNATIVES[rival](recipe, make) if rival in ALTERNATIVES else make(recipe) for recipe in recipes]
        uses_host = rival in OFFLOADING
        return Row(", ".join([name, *how]), num_blocks, layers, makers[0], tuple(makers[1:]), uses_host)

    def neediest_phase(self, rival: str, make: MakeFromRecipe, batch_size: int) -> Mapping[str, Any]:
        """The phase of a rival, see `Recipe.phases`, in which a part needs the most memory."""
        recipe = RECIPES[rival]
        peaks = [sum(self.peak(make(recipe.apply(self.recipe, phase)), batch_size).values()) for phase in recipe.phases]
        return recipe.phases[peaks.index(max(peaks))]

    def refusal(self, rival: str) -> str | None:
        """Why the whole network cannot be trained, or planned, with the recipe of a rival; None if it can."""
        try:
            make_part = self._rival(rival, "", None, 0, self.end_to_end).make_part
            with self._without_data():
                part = make_part()
                part.prepare_network()
                part.recipe.make_optimizer(part)
        except UserError as error:
            return str(error)
        return None

    def partition_config(self, num_blocks: int) -> PartitionConfig:
        """Return the config's own partition for its number of blocks, an even one for others."""
        own = self.config.partition
        return own if num_blocks == own.num_blocks else PartitionConfig(num_blocks=num_blocks, overlap=own.overlap)

    def _contract(self, partition: PartitionConfig) -> Contract:
        if repr(partition) not in self._contracts:
            # Where weights come from changes no size, but an ancestor may not fit another number of blocks.
            config = replace(self.config, partition=partition, noise=self._noise, start=RandomStart())
            self._contracts[repr(partition)] = config.build(self.data)
        return self._contracts[repr(partition)]

    @cached_property
    def _contracts(self) -> dict[str, Contract]:
        """Those that were built: the table of a large vocabulary takes seconds."""
        return {}

    @cached_property
    def _noise(self) -> NoiseDistribution:
        """The noise distribution, fitted once for all partitions."""
        table = self.config.target.make_table(self.data, self.config.seed)
        return self.config.noise.fit(table, torch.tensor(self.data.class_frequencies))

    def peak(self, make_part: MakePart, batch_size: int) -> dict[str, int]:
        """Plan one training step after the first: category -> bytes at the peak."""
        with self._without_data():
            return self._step(make_part, batch_size).peak()

    def flops(self, make_part: MakePart, batch_size: int) -> int:
        """Count the FLOPs of matrix products, convolutions and attention for one batch, forward and backward."""
        with self._without_data():
            step = self._step(make_part, batch_size)
            step.num_batches = 1
            with FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU) as counter:
                step()
            return counter.get_total_flops()

    def host_bytes(self, make_part: MakePart, batch_size: int) -> int:
        """Plan what the same step keeps in the memory of the host."""
        with self._without_data():
            step = self._step(make_part, batch_size)
            step()
            return sum(int(getattr(holder, "host_bytes", 0)) for holder in (step.part, step.optimizer))

    def _step(self, make_part: MakePart, batch_size: int) -> SyntheticStep:
        part = make_part()
        # The weights are made on the planned device; tables were made with the contract and are still elsewhere.
        for module in part.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.device))
        return SyntheticStep(part, self.data, batch_size, self.precision)

    @contextmanager
    def _without_data(self) -> Iterator[None]:
        """Make tensors created inside fake, on the planned device."""
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake, _StandInScalars(), _CopiesOfTensors(), torch.device(self.device):
            yield

    def largest_batch(self, make_part: MakePart, limit_bytes: int, near: int) -> int:
        """Find the largest batch whose step fits into `limit_bytes`, starting near `near`; 0 if no batch fits."""
        return largest_within(lambda size: sum(self.peak(make_part, size).values()), limit_bytes, near)


def plan_rows(
    planner: Planner,
    numbers_of_blocks: list[int],
    batch_size: int,
    limit_bytes: int | None = None,
    rivals: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Plan all rows of `Planner.rows` and return them as JSON values.

    Args:
        planner: planner for a config.
        numbers_of_blocks: values of B to plan.
        batch_size: number of samples in a step.
        limit_bytes: memory that the largest batch may use; None skips the search for it.
        rivals: names of rivals to plan as well, see `Planner.rows`.

    Returns:
        For each row `name`, `num_blocks` (null end to end), `num_layers` (in memory at once), `bytes` (category ->
        bytes at the peak), `peak_bytes`, `ratio` (to the first row) and, with a limit, `largest_batch`; for rivals that
        use the memory of the host also `host_bytes`.
    """
    found: list[dict[str, Any]] = []
    for row in planner.rows(numbers_of_blocks, rivals):
        planned = {make: planner.peak(make, batch_size) for make in (row.make_part, *row.later_phases)}
        make_part, peak = max(planned.items(), key=lambda item: sum(item[1].values()))
        total = sum(peak.values())
        facts = {"name": row.name, "num_blocks": row.num_blocks, "num_layers": row.num_layers, "bytes": peak}
        first_total = found[0]["peak_bytes"] if found else total
        found.append(facts | {"peak_bytes": total, "ratio": round(total / first_total, 4)})
        if row.uses_host:
            found[-1]["host_bytes"] = planner.host_bytes(make_part, batch_size)
        if limit_bytes is not None:
            found[-1]["largest_batch"] = planner.largest_batch(make_part, limit_bytes, batch_size)
    return found


def _rows_of(
    name: str, num_blocks: int | None, layers: int, make: MakeFromRecipe, recipes: Mapping[str, TrainingConfig]
) -> list[Row]:
    return [Row(name + how, num_blocks, layers, make(recipe)) for how, recipe in recipes.items()]


class _StandInScalars(TorchDispatchMode):
    """Returns 1 when an optimizer reads the value of a scalar, which a fake tensor does not have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class _CopiesOfTensors(TorchFunctionMode):
    """Replaces deep copies of fake tensors, which in torch copy the whole mode and count its memory as freed twice.

    Metrics copy their initial values, and networks are often built from copies of one layer.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone().requires_grad_(tensor.requires_grad))
