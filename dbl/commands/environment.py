"""Variables of the environment: `dbl` takes no options from them, and says so where one looks like an option."""

from collections.abc import Mapping

from dbl.utils.errors import UserError

_PREFIX = "DBL_"
# Groups and keys of a config, and options of commands, of one word. DBL_DATA is a folder of local copies of data sets.
KEYS = (
    *("trainer", "model", "run", "contract", "inference", "image_quality", "text_quality", "likelihood", "diagnostics"),
    *("ema", "checkpoint", "loss_by_level", "previews", "memory", "config"),
    *("seed_everything", "float32_matmul_precision", "relative_steps", "num_blocks", "cut", "rivals", "rival_lr"),
    *("from_scratch", "backend", "workers", "blocks", "seeds", "ray", "slurm"),
    *("from_hub", "push", "create_pr", "replace"),
)


def check_environment(variables: Mapping[str, str]) -> None:
    """Raise UserError if a variable such as DBL_TRAINER__MAX_STEPS is set, which other tools take for an option.

    A config has the last word over such variables there, so that they would change nothing in most runs.
    """
    for name in sorted(variables):
        key = name.removeprefix(_PREFIX).lower()
        if name.startswith(_PREFIX) and ("__" in key or key in KEYS):
            option = key.strip("_").replace("__", ".")
            raise UserError(f"{name} is set, but dbl takes no options from variables: give --{option}, and unset it")
