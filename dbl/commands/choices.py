"""The choices of a config by which runs are compared, as a flat list: the columns of TensorBoard's tab HPARAMS."""

from typing import Any

from dbl.commands.run_config import RunConfig
from dbl.training.block import DiffusionBlock
from dbl.training.event_log import Choice
from dbl.training.module import TrainingModule

_OF_OPTIMIZER = ("lr", "weight_decay")


def run_choices(config: RunConfig) -> dict[str, Choice]:
    """What all parts of a run have in common; names are those of the keys, where there is one."""
    chosen, plain = config.contract_config, config.plain()
    recipe = config.recipe
    choices: dict[str, Any] = {
        "data": config.data.name,
        "network": type(chosen.network).__name__,
        "num_layers": chosen.network.num_layers,
        "width": getattr(chosen.network, "width", None),
        "target": type(chosen.target).__name__,
        "noise": type(chosen.noise).__name__,
        "start": type(chosen.start).__name__,
        "seed": chosen.seed,
        **_optimizer(plain["model"].get("recipe") or {}),
        "warmup_steps": recipe.warmup_steps,
        "decay": recipe.decay,
        "lora_rank": None if recipe.lora is None else recipe.lora.rank,
        "samples_per_step": config.data.batch_size * recipe.accumulate,
        "max_steps": int(config.values.trainer.max_steps),
        "precision": str(config.values.trainer.precision),
        "ema_decay": config.values.ema.decay,
    }
    if issubclass(config.part, DiffusionBlock):
        partition = chosen.partition
        choices |= {"num_blocks": partition.num_blocks, "scheme": partition.scheme, "overlap": partition.overlap}
    return {name: value for name, value in choices.items() if isinstance(value, Choice)}


def part_choices(config: RunConfig, part: TrainingModule) -> dict[str, Choice]:
    """Those of a part: its name and, of a block, its own number of steps are beside those of its run."""
    choices = run_choices(config) | {"part": part.part}
    return choices | {"max_steps": config.steps[part.index]} if isinstance(part, DiffusionBlock) else choices


def _optimizer(recipe: dict[str, Any]) -> dict[str, Any]:
    optimizer = recipe.get("optimizer") or {}
    arguments = optimizer.get("init_args") or {}
    own = {"optimizer": optimizer.get("class_path", "AdamW").rsplit(".", 1)[-1]}
    return own | {name: arguments[name] for name in _OF_OPTIMIZER if name in arguments}
