"""Assembly: from the checkpoints of separately trained blocks to one checked model folder (see `model_folder`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dbl.networks.adapters import adapter_weights, merged
from dbl.run.checkpoints import StoredTraining, read_training
from dbl.run.contract import Contract, plain_hash
from dbl.run.folder import RunFolder, run_tokenizer
from dbl.run.inference import InferenceConfig, default_inference, read_inference
from dbl.run.model_config import Weights
from dbl.run.model_folder import block_metadata, file_hash, is_model_file, load_denoiser
from dbl.utils.errors import UserError, reason_of
from dbl.utils.files import UnreadableFile, remove_unfinished, temporary_folder, write_json, write_tensors
from dbl.utils.folders import replace_folder, restore_folder
from dbl.utils.locks import Lock
from dbl.utils.serialization import to_plain

_WAIT_S = 60.0  # for another process that assembles the same model


@dataclass(frozen=True)
class PartCheckpoint:
    """Contents of the checkpoint of a block or baseline.

    Args:
        step: optimizer steps done.
        max_steps: optimizer steps requested.
        samples: samples consumed in training, over all resumes.
        layer_passes: compute of a training step per sample; see `Architecture.layer_passes`.
        seconds: wall time spent in training, over all resumes.
        weights: weights of the trained module by name, adapters merged into them.
        adapters: weights of the adapters by name, if it was trained by them.
        lora_alpha: alpha of the adapters; see `LoRA`.
        path: file that messages name; None: the checkpoint of the part in its run.
    """

    step: int
    max_steps: int
    samples: int
    layer_passes: float
    seconds: float
    weights: dict[str, Tensor]
    adapters: dict[str, Tensor] = field(default_factory=dict)
    lora_alpha: float = 0.0
    path: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether all requested steps were done."""
        return self.step >= self.max_steps

    def summary(self) -> dict[str, Any]:
        """Steps, samples, compute, seconds and number of parameters, for reports."""
        return {
            "steps": self.step,
            "samples": self.samples,
            "layer_passes": self.samples * self.layer_passes,
            "seconds": round(self.seconds, 1),
            "parameters": sum(tensor.numel() for tensor in self.weights.values()),
        }


class MissingBlock(UserError):
    """A block that nobody has trained yet."""


def read_part(path: Path, part: str, contract: Contract, prefix: str, weights: Weights = "ema") -> PartCheckpoint:
    """Read a checkpoint. Raises UserError if it is absent, damaged, or belongs to another part or contract.

    Args:
        path: checkpoint file.
        part: expected part, such as `block_0`.
        contract: expected contract.
        prefix: prefix of the trained module's parameter names, such as `denoiser.`.
        weights: averaged (`ema`) or live weights.
    """
    return checked_part(read_training(path), path, part, contract, prefix, weights)


def checked_part(
    stored: StoredTraining, path: Path, part: str, contract: Contract, prefix: str, weights: Weights
) -> PartCheckpoint:
    """What `read_part` returns, from the content of the file that messages name."""
    stamp = stored.stamp
    if stamp.part != part:
        raise UserError(f"{path} holds {stamp.part}, not {part}: put each checkpoint into the folder of its own block")
    if stamp.contract != contract.hash:
        raise UserError(
            f"{path} was trained under another contract ({stamp.contract[:12]}, this run has {contract.hash[:12]}): "
            f"train {part} in this run"
        )
    state = stored.content["state_dict"]
    if weights == "live":  # only a training with EMA keeps them apart
        state = stored.content.get("current_model_state", state)
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        whole = merged(own, stamp.lora_alpha) if stamp.lora_alpha else own
    except (KeyError, RuntimeError, ZeroDivisionError) as error:  # only of a file that was changed
        raise UserError(
            f"{path}: its adapters do not fit its weights ({reason_of(error, 40)}): train {part} anew"
        ) from None
    return PartCheckpoint(
        step=stored.step,
        max_steps=stamp.max_steps,
        samples=stamp.samples,
        layer_passes=stamp.layer_passes,
        seconds=stored.seconds,
        weights=whole,
        adapters=adapter_weights(own) if stamp.lora_alpha else {},
        lora_alpha=stamp.lora_alpha,
        path=path,
    )


def read_block(run: RunFolder, contract: Contract, block: int, weights: Weights = "ema") -> PartCheckpoint:
    """Read the checkpoint of one block; errors as in `read_part`, and MissingBlock if there is none."""
    part = f"block_{block}"
    path = run.checkpoint(part)
    try:
        return read_part(path, part, contract, "denoiser.", weights)
    except UnreadableFile as error:
        raise error if path.is_file() else MissingBlock(str(error)) from None


BlockReader = Callable[[RunFolder, Contract, int, Weights], PartCheckpoint]  # such as `read_block`


def unfinished_blocks(run: RunFolder, contract: Contract) -> list[int]:
    """List the blocks of a run without a checkpoint of their last step."""
    return [
        block
        for block in range(contract.partition.num_blocks)
        if not (run.checkpoint(f"block_{block}").is_file() and read_block(run, contract, block).complete)
    ]


def assemble(
    run: RunFolder,
    weights: Weights = "ema",
    allow_partial: bool = False,
    inference: InferenceConfig | None = None,
    read: BlockReader = read_block,
) -> Path:
    """Check the blocks of a run and write its model folder; an older one is replaced only by a complete new one.

    The same weights give the same bytes, so retraining a block changes only its own file and `config.json`. Raises
    UserError if a checkpoint is absent, damaged, unfinished, or belongs to another contract or block, if the tokenizer
    is not that of the contract, if `inference` does not fit it, or if another process assembles this model for long.

    Args:
        run: run folder; its `model` may be a link to a folder on another disk.
        weights: averaged (`ema`) or live weights.
        allow_partial: leave out unfinished blocks; at least one must be finished.
        inference: default settings of its use; None: as the config of the run says, or, without a config,
            `default_inference`.
        read: function that reads a trained block; another one for blocks that have no checkpoint each, or are on the
            hub. It raises MissingBlock if there is none.

    Returns:
        The model folder: `block_<b>.safetensors`, `table.safetensors` if there is a table, `tokenizer.json` for text,
        and `config.json`: `contract`; `inference`; `weights`; `blocks`, a summary of each block or null if it was left
        out; `files`, the SHA-256 of each other file; `sha256` of all these.
    """
    contract = run.load_contract()
    inference = _chosen_inference(run, contract) if inference is None else inference
    inference.check(contract)
    with Lock(run.model_lock, str(run.model), "assembled").acquire(_WAIT_S) as lock:
        target = _target(run.model)
        restore_folder(target)
        run.remove_leftovers()
        remove_unfinished(target.parent)
        # Built beside the model folder, so that a failure leaves the old model as it was.
        with temporary_folder(target) as temporary:
            _write_model(run, contract, inference, weights, allow_partial, temporary, read)
            lock.check()
            replace_folder(target, temporary)
    return run.model


def _chosen_inference(run: RunFolder, contract: Contract) -> InferenceConfig:
    """How the config of a run uses its network; UserError that names the config if it is damaged or does not fit."""
    if not run.config.is_file():
        return default_inference(contract)
    inference = read_inference(run.config)
    try:
        inference.check(contract)
    except UserError as error:
        raise UserError(f"{run.config}: {error}") from None
    return inference


def _target(model: Path) -> Path:
    """The folder that is replaced: the model folder, or the one on another disk to which it is a link.

    Raises UserError if the link leads nowhere, or to what is not a model: a run from elsewhere may link to anything.
    """
    target = model.resolve() if model.is_symlink() else model
    if (target.exists() and not target.is_dir()) or not target.parent.is_dir() or target.is_mount():
        raise UserError(f"{model} leads to {target}, which is no folder that can be replaced: remove or correct it")
    if target != model and target.is_dir() and not all(is_model_file(path.name) for path in target.iterdir()):
        raise UserError(f"{model} leads to {target}, which holds other files than those of a model: correct the link")
    return target


def _write_model(
    run: RunFolder,
    contract: Contract,
    inference: InferenceConfig,
    weights: Weights,
    allow_partial: bool,
    folder: Path,
    read: BlockReader,
) -> None:
    """Write the files of a model into an empty folder, `config.json` with their hashes last."""
    blocks = [
        _store_block(run, contract, block, weights, folder, allow_partial, read)
        for block in range(contract.partition.num_blocks)
    ]
    if not any(blocks):
        raise UserError(f"{run.path} has no finished block: train one with dbl train")
    if contract.table is not None:
        write_tensors(folder / "table.safetensors", {"table": contract.table})
    # A run that was made without the commands may have no tokenizer, but one that is lost must not be lost here too.
    if run.tokenizer.is_file() or (run.model / run.tokenizer.name).is_file():
        run_tokenizer(run).save(folder / run.tokenizer.name)
    _write_config(contract, inference, weights, blocks, folder)


def _write_config(
    contract: Contract,
    inference: InferenceConfig,
    weights: Weights,
    blocks: list[dict[str, Any] | None],
    folder: Path,
) -> None:
    config = {
        "contract": contract.to_plain(),
        "inference": to_plain(inference),
        "weights": weights,
        "blocks": blocks,
        "files": {path.name: file_hash(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "config.json", config | {"sha256": plain_hash(config)})


def write_source(contract: Contract, weights: dict[str, Tensor], source: Path, folder: Path) -> None:
    """Write a network that was trained elsewhere as a model of one block, from which blocks can start.

    Raises UserError if the weights are not those of the network.

    Args:
        contract: contract of one block.
        weights: weights of its network by name.
        source: file that messages name.
        folder: new folder.
    """
    named = {f"network.{name}": tensor for name, tensor in weights.items()}
    load_denoiser(contract, 0, named, source, "give the weights of this network")
    folder.mkdir(parents=True)
    write_tensors(folder / "block_0.safetensors", named, block_metadata(contract, 0, "live"))
    if contract.table is not None:
        write_tensors(folder / "table.safetensors", {"table": contract.table})
    nothing_known = PartCheckpoint(0, 0, 0, 0.0, 0.0, named).summary()
    _write_config(contract, default_inference(contract), "live", [nothing_known], folder)


def _store_block(
    run: RunFolder,
    contract: Contract,
    block: int,
    weights: Weights,
    folder: Path,
    allow_partial: bool,
    read: BlockReader,
) -> dict[str, Any] | None:
    """Write the weights of one block. Returns its summary, or None if it is unfinished and may be left out."""
    try:
        checkpoint = read(run, contract, block, weights)
    except MissingBlock:
        if allow_partial:
            return None
        raise
    if allow_partial and not checkpoint.complete:
        return None
    path = checkpoint.path or run.checkpoint(f"block_{block}")
    if not checkpoint.complete:
        raise UserError(
            f"{path} is at step {checkpoint.step} of {checkpoint.max_steps}: finish this block with dbl train, or "
            "leave it out with --allow_partial"
        )
    load_denoiser(contract, block, checkpoint.weights, path)  # refuses wrong names, types and shapes
    write_tensors(folder / f"block_{block}.safetensors", checkpoint.weights, block_metadata(contract, block, weights))
    return checkpoint.summary()
