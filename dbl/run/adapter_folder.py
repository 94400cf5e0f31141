"""The adapters of the blocks of a run, as peft reads them."""

import json
from pathlib import Path

from dbl.networks.adapters import EXTRA, adapter_ranks
from dbl.run.assembly import PartCheckpoint, read_block
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError, optional_package
from dbl.utils.files import temporary_folder, write_tensors
from dbl.utils.folders import replace_folder

_WITHIN = "network."  # a denoiser, from whose network peft counts names


def export_adapters(run: RunFolder, folder: Path) -> Path:
    """Write the averaged adapters of a run: a folder `block_<b>` for each block, in peft's format.

    `peft.PeftModel.from_pretrained(network, folder / "block_0")` puts those of block 0 on the network from which it
    started. The metadata of a file of weights says under `dbl` which contract, block, source (its SHA-256) and layers
    of the source it belongs to. The folder is new and appears whole.

    Raises UserError if a block is not trained to its end, or was trained without adapters.

    Args:
        run: run folder with the checkpoints of all blocks.
        folder: folder to make.

    Returns:
        The folder.
    """
    contract = run.load_contract()
    with temporary_folder(folder) as temporary:
        for block in range(contract.partition.num_blocks):
            part = read_block(run, contract, block)
            if not part.complete:
                raise UserError(f"block {block} is at step {part.step} of {part.max_steps}: finish it with dbl train")
            if not part.adapters:
                raise UserError(f"block {block} was trained without model.recipe.lora: there are no adapters to export")
            _write(part, contract, block, temporary / f"block_{block}")
        replace_folder(folder, temporary)
    return folder


def _write(part: PartCheckpoint, contract: Contract, block: int, folder: Path) -> None:
    peft = optional_package("peft", EXTRA, "an export of adapters")
    named = {name.removeprefix(_WITHIN): tensor for name, tensor in part.adapters.items()}
    ranks = adapter_ranks(named)
    folder.mkdir()
    config = peft.LoraConfig(r=max(ranks.values()), lora_alpha=part.lora_alpha, target_modules=list(ranks))
    config.save_pretrained(folder)
    weights = {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in named.items()}
    write_tensors(folder / "adapter_model.safetensors", weights, _metadata(contract, block))


def _metadata(contract: Contract, block: int) -> dict[str, str]:
    origin = contract.config.start.origin(block, contract.partition)
    assert origin is not None
    source = {"start_sha256": contract.start_sha256[origin.block], "layers": origin.layers}
    return {"dbl": json.dumps({"contract": contract.hash, "block": block, **source})}
