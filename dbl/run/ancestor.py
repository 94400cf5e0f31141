"""The weights of an ancestor, from which the blocks of a run start."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.model_folder import file_hash
from dbl.run.start import Ancestor
from dbl.utils.errors import UserError
from dbl.utils.files import read_tensors


class StartWeights(NamedTuple):
    """Weights of a denoiser by name, and their file."""

    weights: dict[str, Tensor]
    path: Path


def start_weights(run: RunFolder, contract: Contract, block: int) -> StartWeights | None:
    """The weights from which a block starts; None if they are random.

    Raises UserError if their file is absent, damaged, or not the one on which the contract agreed.
    """
    start = contract.config.start
    if not isinstance(start, Ancestor):
        return None
    source = start.source(block, contract.partition.num_blocks)
    path = run.ancestor().model / f"block_{source}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist, from which block {block} starts: copy the folder ancestor to here")
    weights = read_tensors(path)
    if file_hash(path) != contract.start_sha256[source]:
        raise UserError(
            f"{path} is not the one on which the blocks of this run agreed: restore it, or start another run "
            "(--run.name)"
        )
    return StartWeights(weights, path)
