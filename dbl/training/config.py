"""How a block or baseline is trained: optimizer, learning-rate schedule, and what is wrapped around the network."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, SparseAdam

from dbl.networks.adapters import LoRA
from dbl.training.weight_decay import by_decay
from dbl.utils.checks import Number, check_choice, check_numbers, whole
from dbl.utils.errors import UserError

Decay = Literal["cosine", "constant"]
# From groups of parameters, `{"params": [...]}` each.
OptimizerFactory = Callable[[Iterable[dict[str, Any]]], Optimizer]
# Kinds of step that do not fit the loop of `TrainingModule`.
_OTHER_STEPS = {LBFGS: "many backward passes a step", SparseAdam: "sparse gradients"}


def check_precision(precision: object) -> None:
    """Raise UserError unless training supports this precision of the trainer."""
    if precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"trainer.precision={precision} is not supported: use bf16-mixed or 32-true")


@dataclass
class TrainingConfig:
    """How a block or baseline is trained; blocks of one run may differ in it.

    Args:
        optimizer: factory that makes the optimizer from groups of parameters. Its `weight_decay` holds for matrices of
            linear layers and convolutions; biases, norms, embeddings and positions do not decay. On CUDA, Adam, AdamW
            and SGD step in one kernel a group (`fused: true`), unless `fused`, `foreach`, `capturable` or
            `differentiable` is set.
        warmup_steps: number of optimizer steps in which the learning rate rises linearly from 0.
        decay: schedule after the warmup; `cosine` falls to 0 at `trainer.max_steps`, `constant` stays.
        clip_norm: maximum norm of the gradient; null disables clipping.
        accumulate: number of batches whose gradients are averaged for one optimizer step.
        activation_checkpointing: recomputation of each layer from its input in the backward pass: less memory for about
            a third more time, the same result.
        compile: compilation of the network with `torch.compile`.
        distillation: share of the loss that compares a block with the network from which it started (`dbl convert`) in
            place of the data; the whole network, without gradients, is in memory too.
        lora: low-rank adapters that are trained in place of all weights, for blocks that start from a trained network;
            null: full training.

    Example:
        >>> import dbl
        >>> from functools import partial
        >>> from torch.optim import AdamW
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> recipe = dbl.TrainingConfig(optimizer=partial(AdamW, lr=2e-3), warmup_steps=50, clip_norm=None)
        >>> dbl.DiffusionBlock(contract, block=0, recipe=recipe).recipe.warmup_steps
        50
    """

    optimizer: OptimizerFactory = field(default=AdamW)
    warmup_steps: int = 0
    decay: Decay = "cosine"
    clip_norm: float | None = 1.0
    accumulate: int = 1
    activation_checkpointing: bool = False
    compile: bool = False
    distillation: float = 0.0
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        check_choice("model.recipe.decay", self.decay, get_args(Decay))
        check_numbers(
            "model.recipe",
            self,
            warmup_steps=whole(0, 10**9),
            clip_norm=Number(above=0, at_most=1e9, optional=True),
            accumulate=whole(1, 10**6),
            distillation=Number(at_least=0, at_most=1),
        )
        _check_hyperparameters(getattr(self.optimizer, "keywords", {}))  # of a `functools.partial`, as a config makes

    def make_optimizer(self, module: nn.Module) -> Optimizer:
        """Make the optimizer of the parameters of a module, of which the matrices alone decay; see `by_decay`.

        A class with `describe_groups` is given `names` and `decays` in each group beside `params`.

        Raises UserError if it refuses its arguments or needs another kind of step.
        """
        kind = _class_of(self.optimizer)
        if kind in _OTHER_STEPS:
            raise UserError(f"model.recipe.optimizer {kind.__name__} needs {_OTHER_STEPS[kind]}: choose e.g. AdamW")
        matrices, others = by_decay(module)
        groups = [{"params": group} for group in (matrices, others) if group]
        if getattr(kind, "describe_groups", False):
            groups = _described(groups, matrices, module)
        try:
            optimizer = self.optimizer(groups)
        except ValueError as error:
            raise UserError(f"model.recipe.optimizer: {error}") from None
        if others and "weight_decay" in optimizer.defaults:
            optimizer.param_groups[-1]["weight_decay"] = 0.0
        if isinstance(optimizer, Adam | SGD):  # AdamW is an Adam
            _fuse(optimizer)
        _check_hyperparameters(optimizer.defaults)
        return optimizer

    def learning_rate_factor(self, step: int, total: int) -> float:
        """Factor on the learning rate at optimizer step `step`, counted from 0, out of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.decay == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(total - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _class_of(factory: OptimizerFactory) -> Any:
    """The class behind a factory; a config's is a partial call of a function whose argument is the class."""
    found = [factory, getattr(factory, "func", None), *getattr(factory, "args", ())]
    return next((kind for kind in found if isinstance(kind, type) and issubclass(kind, Optimizer)), factory)


def _described(groups: list[dict[str, Any]], matrices: list[nn.Parameter], module: nn.Module) -> list[dict[str, Any]]:
    """Groups that also say how their parameters are called, and whether they decay."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        {
            **group,
            "names": [names[id(parameter)] for parameter in group["params"]],
            "decays": group["params"] is matrices,
        }
        for group in groups
    ]


def _fuse(optimizer: Adam | SGD) -> None:
    """Make the step one kernel where all parameters are on CUDA and the user has chosen no other way.

    The ways round differently, in the last bit. On a CPU the loop remains: fused gains a few percent of a small step.
    """
    for group in optimizer.param_groups:
        chosen = [group["fused"], group["foreach"], group.get("capturable") or None, group["differentiable"] or None]
        if chosen == [None] * 4 and all(parameter.device.type == "cuda" for parameter in group["params"]):
            group["fused"] = True


def _check_hyperparameters(values: Mapping[str, Any]) -> None:
    """Raise UserError if a number of an optimizer, such as the learning rate, is not finite or cannot be meant.

    Optimizers refuse most negative numbers themselves; NaN and infinity pass in many of them.
    """
    for name, value in values.items():
        key = f"model.recipe.optimizer.init_args.{name}"
        known = Number(at_least=0, at_most=1000) if name in ("lr", "weight_decay", "eps") else Number()
        # Other kinds of values, such as a learning rate that is a tensor, are the optimizer's business.
        items = value if isinstance(value, tuple | list) else [value]
        for item in items:
            if isinstance(item, int | float) and not isinstance(item, bool) and not known.allows(item):
                raise UserError(f"{key} ({value}) must be {known}")
