"""A transformer in a folder of the library diffusers, read as data: sizes, preconditioning and weights.

Neither diffusers nor code in the folder runs for this, and weights are read from safetensors alone.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dbl.diffusion.preconditioning import VP, Flow, Preconditioning
from dbl.networks import DiffusersDiT
from dbl.run.model_config import check_inside
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, read_tensors
from dbl.utils.serialization import from_plain
from dbl.utils.stored_values import brief

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SIZES = {field.name for field in fields(DiffusersDiT)} - {"learns_variance", "cond_dropout"}
_SHAPE = ("in_channels", "out_channels", "sample_size")
# Keys that change nothing with these values; all others must be null or false, which turns an extension off.
_WITHOUT_EFFECT = {"norm_type": "ada_norm_zero", "attention_type": "default"}
_NEVER_READ = {"norm_num_groups"}


class DiffusersSource(NamedTuple):
    """A trained transformer.

    Attributes:
        network: its sizes.
        shape: [channels, height, width] of its images.
        preconditioning: kind of its prediction, as its scheduler says; None if the folder has no scheduler.
        weights: weights by name in the network of `dbl.DiffusersDiT`, float32.
        path: its folder, for messages.
    """

    network: DiffusersDiT
    shape: tuple[int, int, int]
    preconditioning: Preconditioning | None
    weights: dict[str, Tensor]
    path: Path


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is a pipeline or a model that diffusers saved."""
    if (folder / "model_index.json").is_file():
        return True
    config = folder / "config.json"
    return config.is_file() and "_diffusers_version" in _mapping(config)


def read_diffusers(folder: Path) -> DiffusersSource:
    """Read a pipeline's folder, or that of its transformer.

    Raises UserError if it has no transformer of a class that `dbl` knows, or a file is absent, damaged or a link that
    leads out of the folder.
    """
    inner = folder / "transformer"
    place = inner if inner.is_dir() else folder
    network, shape = _sizes(_read(folder, place / "config.json"), place / "config.json")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    preconditioning = _preconditioning(_read(folder, scheduler), scheduler) if scheduler.is_file() else None
    weights = _weights(folder, place)
    return DiffusersSource(network, shape, preconditioning, weights, place)


def _sizes(config: Mapping[str, Any], path: Path) -> tuple[DiffusersDiT, tuple[int, int, int]]:
    name = config.get("_class_name")
    # The published pipelines of DiT have the older name.
    if name != "DiTTransformer2DModel" and (name, config.get("norm_type")) != ("Transformer2DModel", "ada_norm_zero"):
        raise _unknown_class(path, name)
    for key, value in config.items():
        is_ours = key in _SIZES or key in _SHAPE or key in _NEVER_READ or key.startswith("_")
        if not is_ours and value not in (None, False, _WITHOUT_EFFECT.get(key)):
            raise UserError(f"{path}: {key[:40]} ({brief(value)}) is nothing that dbl.DiffusersDiT has")
    channels, size = (_whole(config, key, path) for key in ("in_channels", "sample_size"))
    outputs = channels if config.get("out_channels") is None else _whole(config, "out_channels", path)
    if outputs not in (channels, 2 * channels):
        raise UserError(f"{path}: out_channels ({outputs}) must be in_channels ({channels}), or twice that")
    plain = {key: config[key] for key in _SIZES & config.keys()} | {"learns_variance": outputs != channels}
    try:
        network = from_plain({"class_path": "dbl.DiffusersDiT", "init_args": plain}, DiffusersDiT)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return network, (channels, size, size)


def _unknown_class(path: Path, name: Any) -> UserError:
    if path.is_file() or not (path.parent / "unet").is_dir():
        found = f"{path} is of class {brief(name)}"
    else:
        found = f"{path.parent} is a pipeline with a U-Net"
    return UserError(
        f"{found}: dbl convert cuts DiTTransformer2DModel alone; a U-Net's skips cross a cut (docs/converting.md)"
    )


def _preconditioning(config: Mapping[str, Any], path: Path) -> Preconditioning:
    """What the scheduler says that the network was trained for."""
    name = str(config.get("_class_name"))
    steps = _whole(config, "num_train_timesteps", path)
    if name.startswith("FlowMatch"):
        return Flow(steps)
    if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
        raise UserError(f"{path}: trained_betas and rescale_betas_zero_snr are not supported; make them null and false")
    prediction = config.get("prediction_type", "epsilon")
    plain = {"prediction": prediction, "num_steps": steps} | {
        ours: config[theirs]
        for ours, theirs in (("schedule", "beta_schedule"), ("beta_start", "beta_start"), ("beta_end", "beta_end"))
        if theirs in config
    }
    try:
        return from_plain({"class_path": "dbl.VP", "init_args": plain}, VP)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _weights(folder: Path, place: Path) -> dict[str, Tensor]:
    index = place / f"{_WEIGHTS}.index.json"
    names = [_WEIGHTS]
    if index.is_file():
        shards = _read(folder, index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{index} does not say which file holds which tensor: restore it from a copy")
        names = sorted(set(shards.values()))
    elif not (place / _WEIGHTS).is_file() and any(place.glob("*.bin")):
        raise UserError(
            f"{place} has its weights in a .bin file, which could run code: load it with diffusers, and save_pretrained"
        )
    weights: dict[str, Tensor] = {}
    for name in names:
        check_inside(folder, place / name)
        weights |= {key: tensor.float() for key, tensor in read_tensors(place / name).items()}
    weights.pop("pos_embed.pos_embed", None)  # of older versions: a function of the sizes
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def _read(folder: Path, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _unknown_class(path, None)
    check_inside(folder, path)
    return _mapping(path)


def _mapping(path: Path) -> dict[str, Any]:
    plain = read_json(path)
    if not isinstance(plain, dict):
        raise UserError(f"{path} is not a config of diffusers: restore it from a copy")
    return plain


def _whole(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**20:
        raise UserError(f"{path}: {key} ({brief(value)}) must be a whole number above 0")
    return value
