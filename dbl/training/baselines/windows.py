"""Whole networks whose layers are trained in overlapping windows: the depth of all, the memory of a few.

After Interlocking Backpropagation (Gomez et al., JMLR 2022): layers k to k + w - 1 are trained on the outputs of the
layers below, which are frozen, as if the network ended above them; then the window moves up by s. The authors train
all windows at the same time; here they are trained one after the other, each for its share of the steps, so that a step
needs the gradients, the optimizer's state and the activations of w layers alone. What is before the first layer is
trained with the first window, what is after the last one (norm, readout) with each.

A step counts as w passes through layers. Passes through the frozen layers below are forward only and are not counted:
they give the same outputs in each step, which could be kept. They take time, which a report shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from dbl.networks import CausalLM, DiT, MaskedLM, ViT
from dbl.networks.layers import layers_of
from dbl.run.checkpoints import Stamp
from dbl.run.contract import Contract
from dbl.training.baselines.causal_lm import EndToEndCausalLM
from dbl.training.baselines.classifier import EndToEndClassifier
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.ema import EMA
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule
from dbl.utils.checks import check_numbers, whole
from dbl.utils.errors import UserError


class Window(NamedTuple):
    """Layers `first` to `end - 1`, trained together; those below are frozen and those above absent."""

    first: int
    end: int


@dataclass(frozen=True)
class Windows:
    """Which layers are trained together, and for how long.

    Args:
        num_layers: number of layers of the network, L.
        width: number of layers of a window, w.
        shift: number of layers by which the window moves; the last time fewer, if it would leave the network.
    """

    num_layers: int
    width: int
    shift: int

    def __post_init__(self) -> None:
        check_numbers("model", self, width=whole(1, self.num_layers))
        check_numbers("model", self, shift=whole(1, self.width))  # none is left out

    @classmethod
    def of(cls, contract: Contract, width: int | None, shift: int | None) -> Self:
        """Those of a run: by default as wide as its largest block, moved by half of that."""
        width = max(contract.partition.layers) if width is None else width
        windows = cls(contract.config.network.num_layers, width, shift=1)
        return replace(windows, shift=max(1, width // 2) if shift is None else shift)

    @cached_property
    def all(self) -> list[Window]:
        """The windows, in turn; the last one ends with the network."""
        last = self.num_layers - self.width
        return [Window(first, first + self.width) for first in [*range(0, last, self.shift), last]]

    def start(self, number: int, total: int) -> int:
        """The first step of a window, counted from 0, out of `total` steps of all; that after the last is `total`."""
        return round(number * total / len(self.all))

    def steps(self, number: int, total: int) -> int:
        """Number of steps of a window."""
        return self.start(number + 1, total) - self.start(number, total)

    def number_at(self, step: int, total: int) -> int:
        """Which window is trained in a step."""
        return next(number for number in reversed(range(len(self.all))) if self.start(number, total) <= step)


class InWindows(TrainingModule):
    """The training of a whole network in windows of its layers, mixed into that of the network.

    At the border between two windows the weights become their moving average, if there is one (`EMA`), which begins
    anew, as do the optimizer and the schedule of the learning rate. Frozen parts are in evaluation mode.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        width: number of layers of a window; null: those of the largest block.
        shift: number of layers by which the window moves; null: half of its width, at least 1.

    Attributes:
        windows: windows of the layers of `backbone`.
        after_layers: names of the submodules behind the last layer, trained with each window.
        part_name: name of the part; None: that of the class into which this is mixed.
    """

    part_name: ClassVar[str | None] = "windows"
    windows: Windows
    after_layers: ClassVar[tuple[str, ...]]
    _number = 0  # of the window in training
    _entered: int | None = None  # the one that this process has entered

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        width: int | None = None,
        shift: int | None = None,
    ) -> None:
        windows = Windows.of(contract, width, shift)
        super().__init__(contract, recipe=recipe)  # type: ignore[call-arg, arg-type]  # of the class into which this is mixed
        self.part = self.part_name or self.part
        self.windows = windows
        self.layer_passes *= windows.width / windows.num_layers
        self._present = [nn.ModuleList(self._layers[: window.end]) for window in windows.all]

    @property
    def _layers(self) -> nn.ModuleList:
        layers = layers_of(self.backbone)
        assert isinstance(layers, nn.ModuleList)
        return layers

    @override
    def on_fit_start(self) -> None:
        """Refuse several devices, whose exchange of gradients takes for granted that each weight has one."""
        if self.trainer.world_size > 1:
            raise UserError(f"trainer.devices={self.trainer.world_size}: windows of layers are trained on 1 device")
        super().on_fit_start()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Find the window whose optimizer is stored. Raises UserError if the windows had other lengths."""
        super().on_load_checkpoint(checkpoint)
        before, now = Stamp.of(checkpoint).max_steps, self.trainer.max_steps
        if self.trainer.state.fn == TrainerFn.FITTING and before != now:
            raise UserError(
                f"{self.part} was trained for {before} steps in all, which cannot become {now}, since each window has "
                "had its share: remove its run folder, or use --from_scratch"
            )
        self._number = self.windows.number_at(max(self.steps_done - 1, 0), now)

    @override
    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """An optimizer over what the window trains; all else is frozen."""
        self._freeze(self.windows.all[self._number])
        return super().configure_optimizers()

    @property
    @override
    def schedule_steps(self) -> int:
        return self.windows.steps(self._number, self.trainer.max_steps)

    def _freeze(self, window: Window) -> None:
        layers = self._layers
        after = [self.get_submodule(name) for name in self.after_layers]
        before = [part for part in self.backbone.children() if part is not layers and part not in after]
        trained = [*layers[window.first : window.end], *after, *(before if window.first == 0 else [])]
        self._parts = {part: part in trained for part in (*before, *layers, *after)}
        for part, is_trained in self._parts.items():
            part.requires_grad_(is_trained)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begin the next window if it is time."""
        super().on_train_batch_start(batch, batch_idx)
        number = self.windows.number_at(self.steps_done, self.trainer.max_steps)
        if number == self._entered:
            return
        averages = [callback for callback in self.trainer.callbacks if isinstance(callback, EMA)]  # type: ignore[attr-defined]
        if number != self._number:
            self._number = number
            for average in averages:
                average.hand_down(self)
            self.trainer.strategy.setup_optimizers(self.trainer)  # calls `configure_optimizers`
        for average in averages:
            average.average_only(self._trained_parameters(), self)
        for part, is_trained in self._parts.items():  # only now: Lightning warns of a training that begins so
            part.train(is_trained)
        self._entered = number

    def _trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for part, is_trained in self._parts.items() if is_trained for parameter in part.parameters()]

    @override
    def losses(self, batch: Any) -> Losses:
        """As those of the network, in training without the layers above the window."""
        with self._without_layers_above():
            return super().losses(batch)  # type: ignore[safe-super]  # of the class into which this is mixed

    @contextmanager
    def _without_layers_above(self) -> Iterator[None]:
        network, layers = self.backbone, self._layers
        network.layers = layers if self._entered is None else self._present[self._entered]
        try:
            yield
        finally:
            network.layers = layers


class WindowedCausalLM(InWindows, EndToEndCausalLM):
    """The causal language model in windows of its layers; arguments as in `InWindows`."""

    serves = (CausalLM,)
    after_layers = ("network.body.head", "network.head")


class WindowedClassifier(InWindows, EndToEndClassifier):
    """The classifier in windows of its layers; arguments as in `InWindows`."""

    serves = (ViT,)
    after_layers = ("network.norm", "network.head")


class WindowedDenoiser(InWindows, DiffusionBlock):
    """A denoiser for all levels in windows of its layers: the block of a run with B = 1, which is assembled as such.

    Arguments as in `InWindows`; by default the only window is the whole network.
    """

    serves = (DiT, MaskedLM)
    after_layers = ("denoiser.network.head",)
    part_name = None
