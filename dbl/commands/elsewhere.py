"""Sources of `dbl convert` that are no runs of `dbl`: transformers of diffusers, and weights of own classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dbl.commands.run_config import RunConfig
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.partition import PartitionConfig
from dbl.diffusion.preconditioning import VP
from dbl.run.assembly import write_source
from dbl.run.contract import ContractConfig
from dbl.run.diffusers_folder import DiffusersSource, is_diffusers, read_diffusers
from dbl.run.hub.library import find_pipeline
from dbl.run.start import RandomStart
from dbl.utils.errors import UserError
from dbl.utils.files import read_tensors
from dbl.utils.serialization import to_plain


def read_elsewhere(source: str, config: Path, folder: Path) -> dict[str, Any]:
    """Write the network of a source as a model of one block; returns the config of the new run as plain values.

    A file of weights is of the network that the config names. A transformer of diffusers brings its own sizes and the
    levels and prediction that it was trained for; all else is as in the config.

    Raises UserError if the source is neither, or does not fit the data of the config.

    Args:
        source: folder, hub name, or .safetensors file.
        config: config of a run.
        folder: new folder for the model.
    """
    parsed = RunConfig.load(config)
    plain, chosen = parsed.plain(), parsed.contract_config
    if source.endswith(".safetensors"):
        weights, path = read_tensors(Path(source)), Path(source)
    else:
        found = _transformer(source)
        if found.shape != tuple(getattr(parsed.data.declared_spec, "shape", ())):
            raise UserError(
                f"{found.path} is for images {list(found.shape)}, and data {parsed.data.name} has "
                f"{list(getattr(parsed.data.declared_spec, 'shape', ()))}: choose other data in {config}"
            )
        chosen = _adapted(chosen, found)
        weights, path = found.weights, found.path
        plain["contract"] |= {key: to_plain(getattr(chosen, key)) for key in ("network", "target", "noise")}
    whole = replace(chosen, partition=PartitionConfig(num_blocks=1), start=RandomStart())
    write_source(whole.build(parsed.data.spec), weights, path, folder)
    return plain


def _transformer(source: str) -> DiffusersSource:
    folder = find_pipeline(source)
    if not folder.is_dir():
        raise UserError(f"there is no folder {source}: give one, a hub name owner/name, or a .safetensors file")
    if not is_diffusers(folder):
        raise UserError(f"{source} is no folder of diffusers: a run of dbl is converted without --config")
    return read_diffusers(folder)


def _adapted(chosen: ContractConfig, found: DiffusersSource) -> ContractConfig:
    """The choices of a config with the network of a source, and the levels and targets that it was trained for."""
    target = chosen.target
    if not isinstance(target, PixelTarget):
        raise UserError(f"contract.target {type(target).__name__} is not what the source makes: use dbl.PixelTarget")
    own = target.preconditioning if target.preconditioning.gives_steps else VP()
    preconditioning = found.preconditioning or own
    noise = chosen.noise
    if preconditioning.range is not None:
        low, high = preconditioning.range
        noise = replace(noise, sigma_min=low, sigma_max=high)
    target = replace(target, preconditioning=preconditioning, standardise=False)
    return replace(chosen, network=found.network, target=target, noise=noise)
