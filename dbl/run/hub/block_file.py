"""A trained block as one safetensors file: what assembly needs of its checkpoint, and nothing that resumes it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from dbl.run.checkpoints import Stamp, StoredTraining, counts
from dbl.utils.errors import UserError
from dbl.utils.files import parse_json, read_metadata, read_tensors, write_tensors

# The averaged weights, and the live ones of a training that averages.
_WEIGHTS = ("state_dict", "current_model_state")
_OF_BLOCK = "denoiser."  # names of other tensors of a checkpoint begin otherwise


def write_block_file(path: Path, stored: StoredTraining) -> None:
    """Write the weights of a block under their names in the checkpoint, with its stamp, steps and seconds."""
    tensors = {
        f"{key}.{name}": tensor.clone()  # safetensors refuses tensors that share memory
        for key in _WEIGHTS
        for name, tensor in stored.content.get(key, {}).items()
        if name.startswith(_OF_BLOCK)
    }
    facts = {"step": stored.step, "seconds": stored.seconds, "stamp": asdict(stored.stamp)}
    write_tensors(path, tensors, {"dbl": json.dumps(facts)})


def read_block_file(path: Path) -> StoredTraining:
    """Read what `write_block_file` wrote. Raises UserError if it is absent, damaged, or another structure."""
    facts = parse_json(read_metadata(path).get("dbl", "null"), path)
    try:
        stamp, step, seconds = _training(facts)
        return StoredTraining(_content(read_tensors(path)), stamp, step, seconds)
    except ValueError as error:
        raise UserError(f"{path} is not a block that dbl push wrote ({error}): push it again") from None


def _training(facts: Any) -> tuple[Stamp, int, float]:
    """Stamp, steps and seconds. Raises ValueError if they are not such."""
    if not isinstance(facts, dict) or facts.keys() != {"step", "seconds", "stamp"}:
        raise ValueError("no facts about its training")
    if not counts(facts["step"]) or not counts(facts["seconds"], whole=False):
        raise ValueError("its steps or seconds are not a number")
    return Stamp.of({"dbl": facts["stamp"]}), facts["step"], float(facts["seconds"])


def _content(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    content: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key, _, rest = name.partition(".")
        if key not in _WEIGHTS or not rest.startswith(_OF_BLOCK):
            raise ValueError(f"tensor {name[:60]!r}")
        content.setdefault(key, {})[rest] = tensor
    if "state_dict" not in content:
        raise ValueError("no weights")
    return content
