"""What a user would pick instead of blocks, or with them: the same network with a recipe that needs less memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch.optim import Optimizer

from dbl.networks.adapters import EXTRA
from dbl.training.config import TrainingConfig
from dbl.utils.errors import UserError, how_to_install, reason_of

_ADAPTERS = "dbl.training.optimizers"
_DEFAULT_LR = 1e-3  # of AdamW in torch
_ONE_PHASE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Recipe:
    """A change of the recipe of a run.

    Attributes:
        optimizer: path of the class of the optimizer; None keeps the run's own.
        package: package that it needs beyond those of `dbl`.
        extra: extra of `dbl` that installs it.
        lr_factor: learning rate, in units of the run's own.
        lr: learning rate that does not depend on the run's own.
        keeps: arguments of the run's own optimizer that it takes over, beside the learning rate.
        checkpointing: recomputation of each layer in the backward pass.
        only_planned: why it is planned and not trained; None if it can be trained.
        phases: arguments that say with which phase a training begins, of those phases that can need most memory.
    """

    optimizer: str | None = None
    package: str | None = None
    extra: str | None = None
    lr_factor: float = 1.0
    lr: float | None = None
    keeps: tuple[str, ...] = ("weight_decay", "betas")
    checkpointing: bool = False
    only_planned: str | None = None
    phases: tuple[Mapping[str, Any], ...] = (_ONE_PHASE,)

    def missing(self) -> str | None:
        """What must be installed first; None if nothing is."""
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f"{self.package} is not installed: {how_to_install(self.extra or '')}"

    def optimizer_class(self) -> type[Optimizer]:
        """The class of its optimizer. Raises UserError if its package cannot be imported."""
        module, _, name = (self.optimizer or "").rpartition(".")
        try:
            kind: type[Optimizer] = getattr(import_module(module), name)
        except Exception as error:  # whatever a package does while it is imported
            message = f"{self.package} cannot be imported ({reason_of(error)}): {how_to_install(self.extra or '')}"
            raise UserError(message) from error
        return kind

    def arguments(self, own: Mapping[str, Any], chosen_lr: float | None = None) -> dict[str, Any]:
        """Arguments of its optimizer, given those of the run's own, and the learning rate if the user chose one."""
        kept = {key: own[key] for key in self.keeps if own.get(key) is not None}
        lr = self.lr if self.lr is not None else self.lr_factor * own.get("lr", _DEFAULT_LR)
        return {"lr": lr if chosen_lr is None else chosen_lr, **kept}

    def apply(self, recipe: TrainingConfig, phase: Mapping[str, Any] = _ONE_PHASE) -> TrainingConfig:
        """The recipe of a run with this change, in one of its phases. Raises UserError if its package cannot be had."""
        changed = replace(recipe, activation_checkpointing=recipe.activation_checkpointing or self.checkpointing)
        if self.optimizer is None:
            return changed
        own = getattr(recipe.optimizer, "keywords", {})
        return replace(changed, optimizer=partial(self.optimizer_class(), **self.arguments(own), **phase))


RECIPES: dict[str, Recipe] = {
    "checkpointing": Recipe(checkpointing=True),
    "adamw_8bit": Recipe(f"{_ADAPTERS}.quantized.AdamW8bit", "torchao", "torchao"),
    "adamw_4bit": Recipe(f"{_ADAPTERS}.quantized.AdamW4bit", "torchao", "torchao"),
    # A matrix takes about sqrt(128 / n) times the steps of AdamW, n being its smaller side: 0.6 at 384, 0.2 at 4,096.
    "apollo_mini": Recipe(f"{_ADAPTERS}.apollo.ApolloMini", "apollo_torch", "apollo", lr_factor=3.0),
    "badam": Recipe(f"{_ADAPTERS}.block_coordinate.BAdam", "badam", "badam", phases=({"first": 0}, {"first": 1})),
    # torch's default: a step is relative to the size of a parameter, so the learning rate of AdamW says nothing.
    "adafactor": Recipe("torch.optim.Adafactor", lr=1e-2, keeps=("weight_decay",)),
    "muon": Recipe(f"{_ADAPTERS}.muon.MuonAdamW"),
    "lora": Recipe(
        package="peft", extra=EXTRA, only_planned="it adapts trained weights, and those of a run are random at first"
    ),
    "offload_activations": Recipe(only_planned="it needs CUDA, and is planned alone"),
    "offload_optimizer": Recipe(package="torchao", extra="torchao", only_planned="it needs CUDA, and is planned alone"),
}
