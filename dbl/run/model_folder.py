"""The assembled model on disk, read with checks against damage and later changes."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dbl.denoising.denoiser import Denoiser
from dbl.diffusion.partition import Partition
from dbl.run.contract import Contract, plain_hash
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, read_metadata, read_tensors
from dbl.utils.folders import set_aside

Weights = Literal["ema", "live"]

# A model that is replaced while it is read is read again.
_ATTEMPTS, _PAUSE_S = 20, 0.05
_KEYS = {"contract", "weights", "blocks", "files", "sha256"}


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
        for _ in range(_ATTEMPTS):
            try:
                self._open()
                return
            except UserError:
                if not self._was_replaced():
                    raise
                time.sleep(_PAUSE_S)
        self._open()

    def _open(self) -> None:
        self.config: dict[str, Any] = {}
        self.config = self._read_config()
        self._verified: dict[str, tuple[int, ...]] = {}
        for name in self.config["files"]:
            self._verify(name)
        plain = self.config["contract"]
        table = read_tensors(self.path / "table.safetensors")["table"] if plain["table_sha256"] else None
        self.contract = Contract.from_plain(plain, table, source=str(self.path / "config.json"))
        self.available = tuple(block for block, facts in enumerate(self.config["blocks"]) if facts is not None)
        for block in self.available:
            path = self.path / f"block_{block}.safetensors"
            if read_metadata(path) != block_metadata(self.contract, block, self.config["weights"]):
                raise UserError(f"{path} is of another block or another contract: run dbl assemble again")

    def _was_replaced(self) -> bool:
        """Whether another model took the place of this one after its `config.json` was read, or is about to."""
        if not self.config:
            return not self.path.is_dir() and set_aside(self.path.resolve()).is_dir()
        try:
            return bool(read_json(self.path / "config.json")["sha256"] != self.config["sha256"])
        except (UserError, KeyError, TypeError):
            return not self.path.is_dir()

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.json"
        if not path.is_file():
            raise UserError(
                f"{self.path} is not an assembled model: it has no config.json; run dbl assemble on its run"
            )
        config = read_json(path)
        if not isinstance(config, dict) or config.keys() != _KEYS:
            raise UserError(f"{path} has no checksums of a model that was assembled: run dbl assemble again")
        if config["sha256"] != plain_hash({key: value for key, value in config.items() if key != "sha256"}):
            raise UserError(f"{path} was changed or is damaged (SHA-256 differs): run dbl assemble again")
        return config

    def _verify(self, name: str) -> None:
        """Compare a file with its SHA-256, skipped if by inode, time and size it is that of an earlier check."""
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path} does not exist: run dbl assemble again")
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
        path = self.path / f"block_{block}.safetensors"
        self._verify(path.name)  # again: blocks are loaded on demand, long after the folder was opened
        weights = read_tensors(path)
        self._verify(path.name)  # that the file was not replaced in between
        return load_into(self.contract.denoiser(block), weights, path).eval().requires_grad_(False)


def block_metadata(contract: Contract, block: int, weights: str) -> dict[str, str]:
    """Metadata of a block's file."""
    # A single entry: safetensors writes several in an order that differs between calls, and so would the file's hash.
    return {"dbl": json.dumps({"contract": contract.hash, "block": block, "weights": weights})}


def load_into(denoiser: Denoiser, weights: dict[str, Tensor], path: Path) -> Denoiser:
    """Load weights into a denoiser. Raises UserError on a missing, additional or mismatched tensor."""
    # Not by `load_state_dict` alone: it would convert other types in silence, and report all tensors in many lines.
    expected = denoiser.state_dict()
    for name in {**expected, **weights}:
        found, wanted = _type_and_shape(weights, name), _type_and_shape(expected, name)
        if found != wanted:
            raise UserError(
                f"{path} does not fit the network of the contract: tensor {name} is {found} here and {wanted} there; "
                "train this block anew"
            )
    denoiser.load_state_dict(weights)
    return denoiser


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
