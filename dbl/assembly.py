"""From the checkpoints of separately trained blocks to one model folder, with checks, and back to denoisers."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dbl.contract import Contract
from dbl.denoiser import Denoiser
from dbl.errors import UserError
from dbl.files import read_checkpoint, read_json, read_metadata, read_tensors, write_json, write_tensors
from dbl.run_folder import RunFolder

Weights = Literal["ema", "live"]


@dataclass(frozen=True)
class PartState:
    """What a checkpoint says of a trained part.

    Args:
        step: optimizer steps done.
        max_steps: optimizer steps asked for.
        samples: consumed in training, over all resumes.
        layer_passes: passes through a layer for one sample in a training step.
        seconds: wall time spent in training, over all resumes.
        weights: names and tensors of the trained module.
    """

    step: int
    max_steps: int
    samples: int
    layer_passes: float
    seconds: float
    weights: dict[str, Tensor]

    @property
    def complete(self) -> bool:
        """Whether the training came to its end."""
        return self.step >= self.max_steps

    def facts(self) -> dict[str, Any]:
        """Steps, samples consumed, compute, seconds and number of parameters, for reports."""
        return {
            "steps": self.step,
            "samples": self.samples,
            "layer_passes": self.samples * self.layer_passes,
            "seconds": round(self.seconds, 1),
            "parameters": sum(tensor.numel() for tensor in self.weights.values()),
        }


def read_part(path: Path, part: str, contract: Contract, prefix: str, weights: Weights = "ema") -> PartState:
    """Read a checkpoint and check that it belongs where it lies.

    Args:
        path: of the checkpoint.
        part: the part that it must be of, such as `block_0`.
        contract: the contract that it must carry.
        prefix: of the trained module's names, such as `denoiser.`.
        weights: the average or the live weights.

    Raises:
        UserError: if the file is absent, damaged, or of another part or contract.
    """
    checkpoint = read_checkpoint(path)
    stamp = checkpoint.get("dbl")
    if not isinstance(stamp, dict) or "layer_passes" not in stamp or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of dbl")
    if stamp["part"] != part:
        raise UserError(
            f"{path} holds {stamp['part']}, not {part}: put each checkpoint into the folder of its own block"
        )
    if stamp["contract"] != contract.hash:
        raise UserError(
            f"{path} was trained under another contract ({stamp['contract'][:12]}, this run has {contract.hash[:12]}): "
            f"train {part} in this run"
        )
    state = checkpoint["state_dict"]
    if weights == "live":
        state = checkpoint.get("current_model_state", state)
    return PartState(
        step=checkpoint["global_step"],
        max_steps=stamp["max_steps"],
        samples=stamp["samples"],
        layer_passes=stamp["layer_passes"],
        seconds=_training_seconds(checkpoint),
        weights={name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)},
    )


def _training_seconds(checkpoint: dict[str, Any]) -> float:
    timer = checkpoint.get("callbacks", {}).get("Timer", {})
    return float(timer.get("time_elapsed", {}).get("train", 0.0))


def read_block(run: RunFolder, contract: Contract, block: int, weights: Weights = "ema") -> PartState:
    """The checkpoint of one block; errors as in `read_part`."""
    part = f"block_{block}"
    return read_part(run.checkpoint(part), part, contract, "denoiser.", weights)


def unfinished_blocks(run: RunFolder, contract: Contract) -> list[int]:
    """Blocks of a run that have no checkpoint yet, or one that is not at its end."""
    return [
        block
        for block in range(contract.partition.num_blocks)
        if not (run.checkpoint(f"block_{block}").is_file() and read_block(run, contract, block).complete)
    ]


def assemble(run: RunFolder, weights: Weights = "ema") -> Path:
    """Check the blocks of a run and write its model folder; an older one is replaced only when the new one is whole.

    Args:
        run: the run folder.
        weights: the average (`ema`) or the live weights.

    Returns:
        The model folder: `config.json`, `block_<b>.safetensors`, and `table.safetensors` if there is a table.

    Raises:
        UserError: if a checkpoint is absent, damaged, unfinished, or of another contract or block.
    """
    contract = run.load_contract()
    temporary = run.path / ".model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        blocks = [
            _store_block(run, contract, block, weights, temporary) for block in range(contract.partition.num_blocks)
        ]
        if contract.table is not None:
            write_tensors(temporary / "table.safetensors", {"table": contract.table})
        if run.tokenizer.is_file():
            shutil.copy2(run.tokenizer, temporary / run.tokenizer.name)
        write_json(temporary / "config.json", {"contract": contract.to_plain(), "weights": weights, "blocks": blocks})
        shutil.rmtree(run.model, ignore_errors=True)
        temporary.rename(run.model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return run.model


def _store_block(run: RunFolder, contract: Contract, block: int, weights: Weights, folder: Path) -> dict[str, Any]:
    state = read_block(run, contract, block, weights)
    path = run.checkpoint(f"block_{block}")
    if not state.complete:
        raise UserError(f"{path} is at step {state.step} of {state.max_steps}: finish this block with dbl train")
    _load_into(contract.denoiser(block), state.weights, path)
    metadata = {"contract": contract.hash, "block": str(block), "weights": weights}
    write_tensors(folder / f"block_{block}.safetensors", state.weights, metadata)
    return state.facts()


def _load_into(denoiser: Denoiser, weights: dict[str, Tensor], path: Path) -> Denoiser:
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the network of the contract: {detail}") from None
    return denoiser


class ModelFolder:
    """An assembled network on disk.

    Args:
        path: folder written by `assemble`.

    Raises:
        UserError: if it is not one, or its parts do not belong together.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "config.json").is_file():
            raise UserError(
                f"{self.path} is not an assembled model: it has no config.json; run dbl assemble on its run"
            )
        self.config: dict[str, Any] = read_json(self.path / "config.json")
        plain = self.config["contract"]
        table = read_tensors(self.path / "table.safetensors")["table"] if plain["table_sha256"] else None
        self.contract = Contract.from_plain(plain, table, source=str(self.path / "config.json"))
        for block in range(self.contract.partition.num_blocks):
            self._check(block)

    def _check(self, block: int) -> None:
        path = self.path / f"block_{block}.safetensors"
        stored = read_metadata(path)
        if (stored.get("contract"), stored.get("block")) != (self.contract.hash, str(block)):
            raise UserError(f"{path} is block {stored.get('block')} of another contract: run dbl assemble again")

    def denoiser(self, block: int) -> Denoiser:
        """Load the denoiser of one block, for inference."""
        path = self.path / f"block_{block}.safetensors"
        return _load_into(self.contract.denoiser(block), read_tensors(path), path).eval().requires_grad_(False)
