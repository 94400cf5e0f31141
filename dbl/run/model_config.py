"""`config.json` of an assembled model, read with checks: the contract, how the network is used, and the files."""

from pathlib import Path
from typing import Any, Literal, get_args

from dbl.run.contract import Contract, plain_hash
from dbl.run.inference import InferenceConfig, restore_inference
from dbl.utils.errors import UserError
from dbl.utils.files import read_json

Weights = Literal["ema", "live"]

_KEYS = {"contract", "inference", "weights", "blocks", "files", "sha256"}
_ADDED = {"inference"}  # which models of earlier versions lack
_FACTS = {"steps", "samples", "layer_passes", "seconds", "parameters"}  # of each block


def read_model_config(folder: Path) -> dict[str, Any]:
    """The contents of `config.json`; see `assemble`. Raises UserError if it is absent, damaged or was changed."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not an assembled model: it has no config.json; run dbl assemble on its run")
    check_inside(folder, path)
    config = read_json(path)
    if not isinstance(config, dict) or config.keys() | _ADDED != _KEYS:
        raise not_ours(folder, "no checksums of a model that was assembled")
    if config["sha256"] != plain_hash({key: value for key, value in config.items() if key != "sha256"}):
        raise UserError(f"{path} was changed or is damaged (SHA-256 differs): run dbl assemble again")
    if config["weights"] not in get_args(Weights):
        raise not_ours(folder, "another kind of weights than ema and live")
    files, blocks = config["files"], config["blocks"]
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise not_ours(folder, "no names of files with their checksums")
    if not isinstance(blocks, list) or not any(blocks) or not all(map(_is_summary, blocks)):
        raise not_ours(folder, "no summary of each block")
    return config


def inference_of(folder: Path, config: dict[str, Any], contract: Contract) -> InferenceConfig | None:
    """How the network is used, as chosen at the assembly; None in a model of an earlier version, which does not say.

    Raises UserError if it is not such a choice, or does not fit the contract.

    Args:
        folder: model folder.
        config: contents of its `config.json`.
        contract: contract of its blocks.
    """
    if "inference" not in config:
        return None
    return restore_inference(config["inference"], contract, str(folder / "config.json"))


def not_ours(folder: Path, found: str) -> UserError:
    """The error for a `config.json` that `dbl` did not write."""
    return UserError(f"{folder / 'config.json'} has {found}: run dbl assemble again")


def check_inside(folder: Path, path: Path) -> None:
    """Raise UserError if a file is a link that leads out of the model's folder.

    In the cache of huggingface_hub, a snapshot links to the blobs of the same repository. The folder itself may be
    a link to another disk.
    """
    folder, target = folder.resolve(), path.resolve()
    is_snapshot = folder.parent.name == "snapshots"
    allowed = [folder, *([folder.parents[1] / "blobs"] if is_snapshot else [])]
    if not any(target.is_relative_to(place) for place in allowed):
        raise UserError(f"{path} is a link to a file outside of the model's folder: put the file itself there")


def _is_summary(facts: Any) -> bool:
    """Whether `assemble` wrote this about a block."""
    if not isinstance(facts, dict):
        return facts is None
    return facts.keys() == _FACTS and all(type(value) in (int, float) and value >= 0 for value in facts.values())
