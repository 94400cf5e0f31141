"""Which values of Lightning's Trainer options `dbl` supports: one table, checked before any file is written.

Lightning checks some of them late, some with a traceback, and some (two nodes of which one never comes) by waiting.
"""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dbl.commands.devices import read_devices
from dbl.training.distributed import check_strategy
from dbl.utils.errors import UserError

Allows = Callable[[Any], bool]

_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_PROFILERS = ("simple", "advanced", "pytorch")
# More steps, batches or epochs than any training has.
_MANY = 10**12


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(least: int, *others: Any) -> Allows:
    """A whole number from `least` on, or one of the others."""
    return lambda value: (
        (_is_number(value) and value == int(value) and least <= value <= _MANY)
        or any(type(value) is type(other) and value == other for other in others)
    )


def _batches(value: Any) -> bool:
    """A number of batches, or a share of them."""
    return value is None or (_is_number(value) and 0 <= value <= _MANY and (value <= 1 or value == int(value)))


def _some_batches(value: Any) -> bool:
    return _batches(value) and value != 0


def _duration(value: Any) -> bool:
    """A positive time, in one of the forms that Lightning reads."""
    if isinstance(value, Namespace):
        value = vars(value)
    if not isinstance(value, str | dict | timedelta):
        return False
    try:
        seconds = Timer(duration=value).time_remaining()
    except (MisconfigurationException, TypeError, OverflowError):
        return False
    return seconds is not None and seconds > 0


def _interval(value: Any) -> bool:
    return value is None or _some_batches(value) or _duration(value)


def _one_of(*choices: str) -> Allows:
    return lambda value: not isinstance(value, str) or value in choices


def _is(*choices: Any) -> Allows:
    return lambda value: any(value is choice or (value == choice and value is not True) for choice in choices)


_TIME = "a time such as 00:12:00:00 (days, hours, minutes, seconds)"
_SHARE = "a number of batches, or a share from 0 to 1"
_RULES: dict[str, tuple[Allows, str]] = {
    "accelerator": (_one_of(*_ACCELERATORS), f"one of {', '.join(_ACCELERATORS)}"),
    "num_nodes": (_count(1), "a whole number of at least 1"),
    "max_steps": (_count(1, -1), "the number of optimizer steps, at least 1"),
    "min_steps": (_count(0, None), "a whole number of at least 0, or null"),
    "max_epochs": (_count(1, -1, None), "a whole number of at least 1, or -1 for no limit"),
    "min_epochs": (_count(0, None), "a whole number of at least 0, or null"),
    "max_time": (lambda value: value is None or _duration(value), f"{_TIME}, or null"),
    "limit_train_batches": (_some_batches, f"{_SHARE}, and not 0"),
    "limit_val_batches": (_batches, _SHARE),
    "limit_test_batches": (_batches, _SHARE),
    "limit_predict_batches": (_batches, _SHARE),
    "overfit_batches": (lambda value: value is not None and _batches(value), _SHARE),
    "fast_dev_run": (lambda value: isinstance(value, bool) or _count(0)(value), "true, false or a number of batches"),
    "val_check_interval": (_interval, f"a number of batches of at least 1, or {_TIME}"),
    "check_val_every_n_epoch": (_count(1, None), "a whole number of at least 1, or null"),
    "num_sanity_val_steps": (_count(0, -1, None), "a number of batches, or -1 for all"),
    "log_every_n_steps": (_count(1, None), "a whole number of at least 1"),
    "reload_dataloaders_every_n_epochs": (_count(0), "a whole number of at least 0"),
    "profiler": (_one_of(*_PROFILERS), f"one of {', '.join(_PROFILERS)}, or null"),
    "enable_checkpointing": (_is(True, None), "true or null: dbl writes the checkpoints from which it resumes"),
    "barebones": (_is(False), "false: it turns off the checkpoints and logs that dbl needs"),
    # Blocks are trained by manual optimization.
    "gradient_clip_val": (_is(None), "null, as it is for automatic optimization: set model.recipe.clip_norm instead"),
    "gradient_clip_algorithm": (_is(None), "null: gradients are clipped by norm, see model.recipe.clip_norm"),
    "accumulate_grad_batches": (
        _is(1),
        "1, as it is for automatic optimization: set model.recipe.accumulate instead",
    ),
}

# Callback that needs automatic optimization -> what there is instead.
_AUTOMATIC = {
    "LearningRateFinder": "try several values of the learning rate",
    "BatchSizeFinder": "dbl plan --fit finds the largest batch",
    "GradientAccumulationScheduler": "set model.recipe.accumulate",
}


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise UserError if an option of the Trainer has a value that no command supports on any machine.

    Args:
        options: the config group `trainer`; options that are absent are not checked.
    """
    for name, (allows, allowed) in _RULES.items():
        if name in options and not allows(options[name]):
            raise UserError(f"trainer.{name} ({_shown(options[name])}) must be {allowed}")
    if isinstance(options.get("strategy"), str):
        check_strategy(options["strategy"])
    _check_interval_with_epochs(options)
    _check_callbacks(options.get("callbacks"))
    read_devices(options.get("devices", 1))


def _check_interval_with_epochs(options: Mapping[str, Any]) -> None:
    interval = options.get("val_check_interval")
    if isinstance(interval, float) and options.get("check_val_every_n_epoch", 1) is None:
        raise UserError(
            f"trainer.val_check_interval ({interval}) counts batches: give a whole number, or set "
            "trainer.check_val_every_n_epoch for a share of the epoch"
        )


def _check_callbacks(chosen: Any) -> None:
    """Refuse callbacks that change what a manual optimization does itself."""
    for callback in chosen if isinstance(chosen, list) else [chosen]:
        name = str(getattr(callback, "class_path", "")).rpartition(".")[2]
        if name in _AUTOMATIC:
            needs = f"trainer.callbacks: {name} needs automatic optimization, which blocks do not use"
            raise UserError(f"{needs}: leave it out; {_AUTOMATIC[name]}")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)[:40]
