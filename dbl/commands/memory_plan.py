"""The planned memory of a run's blocks and of what could be trained instead, for its report."""

import warnings
from typing import Any

from dbl.commands.run_config import RunConfig
from dbl.training.memory.planner import Planner, plan_rows
from dbl.utils.errors import DblWarning


def memory_plan_of(config: RunConfig) -> dict[str, Any]:
    """Memory of the whole network and of a block, with the batch of this run, with and without checkpointing."""
    precision, batch_size = str(config.values.trainer.precision), config.data.batch_size
    planner = Planner(config.contract_config, config.data.spec, config.recipe, precision, config.device)
    rows = plan_rows(planner, [config.contract_config.partition.num_blocks], batch_size)
    return {"batch_size": batch_size, "precision": planner.precision, "device": planner.device, "rows": rows}


def memory_plan_or_none(config: RunConfig) -> dict[str, Any] | None:
    """The same; None, with a warning, for a network that cannot be planned: its blocks are trained by now."""
    try:
        return memory_plan_of(config)
    except Exception as error:  # a network of one's own may do anything without data
        message = f"the memory of the whole network cannot be planned, and the report lacks it: {error}"
        warnings.warn(message.splitlines()[0], DblWarning, stacklevel=2)
        return None
