"""The assembled model on disk, read with checks against damage and later changes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from dbl.denoising.denoiser import Denoiser
from dbl.diffusion.partition import Partition
from dbl.run.contract import Contract, plain_hash
from dbl.utils.errors import UserError, reason_of
from dbl.utils.files import read_json, read_metadata, read_tensor, read_tensors

Weights = Literal["ema", "live"]
Network = TypeVar("Network", bound=nn.Module)

_KEYS = {"contract", "weights", "blocks", "files", "sha256"}
_FACTS = {"steps", "samples", "layer_passes", "seconds", "parameters"}  # of each block


class ModelFolder:
    """An assembled model. Raises UserError if it is incomplete, or a file is not the one that was assembled.

    Args:
        path: folder written by `assemble`.

    Attributes:
        config: contents of `config.json`; see `assemble`.
        contract: contract of the blocks.
        available: indices of the blocks in the folder; a partial model lacks some.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self._read_config()
        self._verified: dict[str, tuple[int, int]] = {}
        for name in self.config["files"]:
            self._verify(name)
        plain = self.config["contract"]
        needs_table = isinstance(plain, dict) and plain.get("table_sha256")
        table = read_tensor(self.path / "table.safetensors", "table") if needs_table else None
        self.contract = Contract.from_plain(plain, table, source=str(self.path / "config.json"))
        if len(self.config["blocks"]) != self.contract.partition.num_blocks:
            raise self._not_ours("another number of blocks than its contract")
        self.available = tuple(block for block, facts in enumerate(self.config["blocks"]) if facts is not None)
        for block in self.available:
            path = self.path / f"block_{block}.safetensors"
            if path.name not in self.config["files"]:
                raise self._not_ours(f"no checksum of {path.name}")
            if read_metadata(path) != block_metadata(self.contract, block, self.config["weights"]):
                raise UserError(f"{path} is of another block or another contract: run dbl assemble again")

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.json"
        if not path.is_file():
            raise UserError(
                f"{self.path} is not an assembled model: it has no config.json; run dbl assemble on its run"
            )
        config = read_json(path)
        if not isinstance(config, dict) or config.keys() != _KEYS:
            raise self._not_ours("no checksums of a model that was assembled")
        if config["sha256"] != plain_hash({key: value for key, value in config.items() if key != "sha256"}):
            raise UserError(f"{path} was changed or is damaged (SHA-256 differs): run dbl assemble again")
        if config["weights"] not in get_args(Weights):
            raise self._not_ours("another kind of weights than ema and live")
        files, blocks = config["files"], config["blocks"]
        if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
            raise self._not_ours("no names of files with their checksums")
        if not isinstance(blocks, list) or not any(blocks) or not all(map(_is_summary, blocks)):
            raise self._not_ours("no summary of each block")
        return config

    def _not_ours(self, found: str) -> UserError:
        return UserError(f"{self.path / 'config.json'} has {found}: run dbl assemble again")

    def _verify(self, name: str) -> None:
        """Compare a file with its SHA-256, skipped if its time and size are those of an earlier check."""
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path} does not exist: run dbl assemble again")
        status = path.stat()
        seen = status.st_mtime_ns, status.st_size
        if self._verified.get(name) == seen:
            return
        if file_hash(path) != self.config["files"][name]:
            raise UserError(
                f"{path} is damaged or was changed (its SHA-256 is not that in config.json): run dbl assemble again"
            )
        self._verified[name] = seen

    def denoiser(self, block: int) -> Denoiser:
        """Load the denoiser of one block for inference. Raises UserError if the model lacks it."""
        require_blocks(self.contract.partition, self.available, [block], "loading")
        path = self.path / f"block_{block}.safetensors"
        self._verify(path.name)  # again: blocks are loaded on demand, long after the folder was opened
        return load_denoiser(self.contract, block, read_tensors(path), path).eval().requires_grad_(False)


def _is_summary(facts: Any) -> bool:
    """Whether `assemble` wrote this about a block."""
    if not isinstance(facts, dict):
        return facts is None
    return facts.keys() == _FACTS and all(type(value) in (int, float) and value >= 0 for value in facts.values())


def block_metadata(contract: Contract, block: int, weights: str) -> dict[str, str]:
    """Metadata of a block's file."""
    # A single entry: safetensors writes several in an order that differs between calls, and so would the file's hash.
    return {"dbl": json.dumps({"contract": contract.hash, "block": block, "weights": weights})}


def load_denoiser(contract: Contract, block: int, weights: dict[str, Tensor], path: Path) -> Denoiser:
    """Build the denoiser of a block and load its weights; errors as in `load_into`."""
    parts = (contract.config.network, contract.config.target)
    if all(type(part).__module__.startswith("dbl.") for part in parts):  # others may need real tensors to be built
        _check_without_memory(contract, block, weights, path)
    return load_into(contract.denoiser(block), weights, path)


def _check_without_memory(contract: Contract, block: int, weights: dict[str, Tensor], path: Path) -> None:
    """Compare with a network that has sizes only: sizes in a file from elsewhere could ask for all memory there is."""
    try:
        with torch.device("meta"):
            denoiser = contract.denoiser(block)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: its network cannot be built ({reason_of(error)}): restore the contract") from None
    check_weights(denoiser, weights, path)


def load_into(network: Network, weights: dict[str, Tensor], path: Path) -> Network:
    """Load weights. Raises UserError on a missing, additional or mismatched tensor, and on NaN and infinity."""
    check_weights(network, weights, path)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path} holds NaN or infinity in tensor {name}: train this block anew")
    network.load_state_dict(weights)
    return network


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless these are the tensors of a network, of its types and shapes."""
    # Not by `load_state_dict` alone: it would convert other types in silence, and report all tensors in many lines.
    expected = network.state_dict()
    for name in {**expected, **weights}:
        found, wanted = _type_and_shape(weights, name), _type_and_shape(expected, name)
        if found != wanted:
            raise UserError(
                f"{path} does not fit the network of the contract: tensor {name} is {found} here and {wanted} there; "
                "train this block anew"
            )


def _type_and_shape(tensors: Mapping[str, Tensor], name: str) -> str:
    if name not in tensors:
        return "absent"
    return f"{str(tensors[name].dtype).removeprefix('torch.')} {list(tensors[name].shape)}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_blocks(partition: Partition, available: Iterable[int], needed: Iterable[int], purpose: str) -> None:
    """Raise UserError if the `available` blocks of a partial model lack a needed one; `purpose` says what needs it."""
    missing = sorted(set(needed) - set(available))
    if missing:
        raise UserError(
            f"{purpose} needs {partition.describe(missing)}, which this partial model lacks: train with dbl train "
            f"--blocks {','.join(map(str, missing))} and run dbl assemble again"
        )
