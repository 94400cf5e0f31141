"""The assembled model on disk, read with checks against damage and later changes."""

import hashlib
import json
import math
import re
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from dbl.data.text.tokenizer import Tokenizer
from dbl.denoising.denoiser import Denoiser
from dbl.diffusion.partition import Partition
from dbl.run.contract import Contract
from dbl.run.inference import default_inference
from dbl.run.model_config import check_inside, inference_of, not_ours, read_model_config
from dbl.run.stored_tokenizer import tokenizer_in
from dbl.utils.errors import UserError, reason_of
from dbl.utils.files import read_metadata, read_tensor, read_tensors
from dbl.utils.folders import set_aside
from dbl.utils.stored_values import brief

Network = TypeVar("Network", bound=nn.Module)

# A model that is replaced while it is read is read again.
_ATTEMPTS, _PAUSE_S = 20, 0.05
_REMEDY = "train this block anew with --from_scratch"
_MOST_LAYERS = 1000  # of a block with fewer tensors than layers
_FILE_NAME = re.compile(r"block_(0|[1-9]\d{0,8})\.safetensors|table\.safetensors|tokenizer\.json", re.ASCII)


class ModelFolder:
    """An assembled model. Raises UserError if it is incomplete, or a file is not the one that was assembled.

    The folder is data: no code of its choice is run, and no file outside is read.

    Args:
        path: folder written by `assemble`.
        trusted: packages of your own that its contract may import; see `BlockStack.from_pretrained`.

    Attributes:
        config: contents of `config.json`; see `assemble`.
        contract: contract of the blocks.
        inference: settings of its use, as chosen at the assembly; `default_inference` in models that do not say.
        available: indices of the blocks in the folder; a partial model lacks some.
    """

    def __init__(self, path: str | Path, trusted: Collection[str] = ()) -> None:
        self.path = Path(path)
        self._trusted = trusted
        for _ in range(_ATTEMPTS):
            try:
                self._open(trusted)
                return
            except (UserError, FileNotFoundError):
                if not self._was_replaced():
                    raise
                time.sleep(_PAUSE_S)
        self._open(trusted)

    def _open(self, trusted: Collection[str]) -> None:
        self._opened = self._folder()
        self.config = read_model_config(self.path)
        self._verified: dict[str, tuple[int, ...]] = {}
        for name in self.config["files"]:
            self._verify(name)
        plain = self.config["contract"]
        needs_table = isinstance(plain, dict) and plain.get("table_sha256")
        table = read_tensor(self._file("table.safetensors"), "table") if needs_table else None
        self.contract = Contract.from_plain(plain, table, str(self.path / "config.json"), trusted)
        self.inference = inference_of(self.path, self.config, self.contract) or default_inference(self.contract)
        if len(self.config["blocks"]) != self.contract.partition.num_blocks:
            raise not_ours(self.path, "another number of blocks than its contract")
        self.available = tuple(block for block, facts in enumerate(self.config["blocks"]) if facts is not None)
        for block in self.available:
            path = self._file(f"block_{block}.safetensors")
            if read_metadata(path) != block_metadata(self.contract, block, self.config["weights"]):
                raise UserError(f"{path} is of another block or another contract: run dbl assemble again")

    @property
    def block_hashes(self) -> list[str]:
        """SHA-256 of the file of each block. Raises UserError if the model lacks blocks."""
        num_blocks = self.contract.partition.num_blocks
        require_blocks(self.contract.partition, self.available, range(num_blocks), "starting from it")
        return [self.config["files"][f"block_{block}.safetensors"] for block in range(num_blocks)]

    def _was_replaced(self) -> bool:
        """Whether another model took the place of the one that was opened, or is about to."""
        now = self._folder()
        return now != self._opened or (now is None and set_aside(self.path.resolve()).is_dir())

    def _folder(self) -> tuple[int, int] | None:
        """What tells this folder from one that takes its place; None if there is none at the moment."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns  # a number alone may be that of a folder that was removed

    def _file(self, name: str) -> Path:
        """Path of a file of the model. Raises UserError if it is not listed, absent, or outside the folder."""
        listed = self.config["files"]
        if name not in listed or not _FILE_NAME.fullmatch(name):
            problem = f"lists {brief(name)}, which is no file of a model" if name in listed else f"lists no {name}"
            raise UserError(f"{self.path / 'config.json'}: files {problem}: run dbl assemble again")
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path} does not exist: run dbl assemble again")
        check_inside(self.path, path)
        return path

    def _verify(self, name: str) -> None:
        """Compare a file with its SHA-256, skipped if by inode, time and size it is that of an earlier check."""
        path = self._file(name)
        status = path.stat()
        seen = status.st_ino, status.st_mtime_ns, status.st_size
        if self._verified.get(name) == seen:
            return
        if file_hash(path) != self.config["files"][name]:
            if self._was_replaced():
                raise UserError(f"{self.path} was assembled anew since it was opened: load it again")
            raise UserError(
                f"{path} is damaged or was changed (its SHA-256 is not that in config.json): run dbl assemble again"
            )
        self._verified[name] = seen

    def denoiser(self, block: int) -> Denoiser:
        """Load the denoiser of one block for inference. Raises UserError if the model lacks it."""
        require_blocks(self.contract.partition, self.available, [block], "loading")
        path = self._file(f"block_{block}.safetensors")
        self._verify(path.name)  # again: blocks are loaded on demand, long after the folder was opened
        weights = read_tensors(path)
        self._verify(path.name)  # that the file was not replaced in between
        return load_denoiser(self.contract, block, weights, path).eval().requires_grad_(False)

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer of a model of text. Raises UserError if it has none, or that of other data."""
        path = self._file("tokenizer.json")
        self._verify(path.name)
        return tokenizer_in(path, self.contract.data, self._trusted)


def block_metadata(contract: Contract, block: int, weights: str) -> dict[str, str]:
    """Metadata of a block's file."""
    # A single entry: safetensors writes several in an order that differs between calls, and so would the file's hash.
    return {"dbl": json.dumps({"contract": contract.hash, "block": block, "weights": weights})}


def load_denoiser(
    contract: Contract, block: int, weights: dict[str, Tensor], path: Path, remedy: str = _REMEDY
) -> Denoiser:
    """Build the denoiser of a block and load its weights; errors as in `load_into`."""
    if _is_of_dbl(contract):
        _check_without_memory(contract, block, weights, path, remedy)
    return load_into(contract.denoiser(block), weights, path, remedy)


def _check_without_memory(contract: Contract, block: int, weights: dict[str, Tensor], path: Path, remedy: str) -> None:
    """Compare with a network that has sizes only: sizes in a file from elsewhere could ask for all memory there is."""
    check_weights(_without_memory(contract, block, len(weights), str(path)), weights, path, remedy)


def _without_memory(contract: Contract, block: int, num_tensors: int, source: str) -> Denoiser:
    """A block that has sizes only. Raises UserError if it cannot be built, or has many more layers than tensors."""
    num_layers = len(contract.partition.layer_range(block))
    if num_layers > max(num_tensors, _MOST_LAYERS):
        raise UserError(
            f"{source} does not fit the network of the contract: {num_layers} layers of {num_tensors} tensors"
        )
    try:
        with torch.device("meta"):
            return contract.denoiser(block)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise UserError(f"{source}: its network cannot be built ({reason_of(error)}): restore the contract") from None


def network_bytes(contract: Contract, block: int, source: str) -> float:
    """Bytes of the weights of a block, found without memory; infinity for classes that may need real tensors."""
    if not _is_of_dbl(contract):
        return math.inf
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in _without_memory(contract, block, 0, source).state_dict().values()
    )


def _is_of_dbl(contract: Contract) -> bool:
    """Whether the network is built by classes of `dbl` alone, which need no real tensors for it."""
    parts = (contract.config.network, contract.config.target)
    return all(type(part).__module__.startswith("dbl.") for part in parts)


def load_into(network: Network, weights: dict[str, Tensor], path: Path, remedy: str = _REMEDY) -> Network:
    """Load weights. Raises UserError on a missing, additional or mismatched tensor, and on NaN and infinity."""
    check_weights(network, weights, path, remedy)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: tensor {name} has values that are NaN or infinite: {remedy}")
    network.load_state_dict(weights)
    return network


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path, remedy: str = _REMEDY) -> None:
    """Raise UserError unless these are the tensors of a network, of its types and shapes."""
    # Not by `load_state_dict` alone: it would convert other types in silence, and report all tensors in many lines.
    expected = network.state_dict()
    for name in {**expected, **weights}:
        found, wanted = _type_and_shape(weights, name), _type_and_shape(expected, name)
        if found != wanted:
            raise UserError(
                f"{path} does not fit the network of the contract: tensor {name} is {found} here and {wanted} there; "
                f"{remedy}"
            )


def _type_and_shape(tensors: Mapping[str, Tensor], name: str) -> str:
    if name not in tensors:
        return "absent"
    return f"{str(tensors[name].dtype).removeprefix('torch.')} {list(tensors[name].shape)}"


def is_model_file(name: str) -> bool:
    """Whether a model folder may hold a file of this name."""
    return name == "config.json" or _FILE_NAME.fullmatch(name) is not None


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
