"""The weights of a trained model from which the blocks of a run start."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dbl.denoising.denoiser import Denoiser
from dbl.networks import Architecture
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder, file_hash
from dbl.run.start import Origin
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
    origin = start.origin(block, contract.partition)
    if origin is None:
        return None
    path = run.start_model(start) / f"block_{origin.block}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist, from which block {block} starts: {start.remedy}")
    weights = read_tensors(path)
    if file_hash(path) != contract.start_sha256[origin.block]:
        raise _another(path)
    return StartWeights(weights_of(weights, origin, contract.config.network), path)


def source_network(run: RunFolder, contract: Contract) -> Denoiser:
    """The whole network from which the blocks of a converted run start; errors as in `start_weights`."""
    return start_model(run.start_model(contract.config.start), contract).denoiser(0)


def start_model(
    folder: Path, contract: Contract, trusted: Collection[str] = (), shown: Path | None = None
) -> ModelFolder:
    """The model from which the blocks of a run start. Raises UserError if it is damaged, or not the agreed one.

    Args:
        folder: its folder.
        contract: contract of the run.
        trusted: packages of your own that it may import; see `BlockStack.from_pretrained`.
        shown: name of the folder in messages; None: the folder itself.
    """
    model = ModelFolder(folder, trusted)
    if tuple(model.block_hashes) != contract.start_sha256:
        raise _another(shown or folder)
    return model


def _another(path: Path) -> UserError:
    return UserError(
        f"{path} is not the one on which the blocks of this run agreed: restore it, or start another run (--run.name)"
    )


def weights_of(weights: Mapping[str, Tensor], origin: Origin, network: Architecture) -> dict[str, Tensor]:
    """Weights of a denoiser with the layers of an origin, in their order there; what is in no layer stays."""
    if origin.layers is None:
        return dict(weights)
    place = {layer: number for number, layer in enumerate(origin.layers)}
    chosen, prefix = {}, f"network.{network.layer_list}."
    of_layer = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    for name, tensor in weights.items():
        found = of_layer.match(name)
        if found is None:
            chosen[name] = tensor
        elif (layer := int(found[1])) in place:
            chosen[f"{prefix}{place[layer]}.{name[found.end() :]}"] = tensor
    return chosen
