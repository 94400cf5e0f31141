"""`dbl convert`: a run whose blocks start from a network that was trained whole, here or elsewhere."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from dbl.commands.elsewhere import read_elsewhere
from dbl.commands.help import HELP
from dbl.commands.parsing import parse
from dbl.commands.run_config import check_run_name, write_config
from dbl.commands.trust import add_trust_option, import_trusted, trusted_packages
from dbl.diffusion.partition import PartitionConfig
from dbl.run.contract import Contract
from dbl.run.diffusers_folder import is_diffusers
from dbl.run.folder import RunFolder
from dbl.run.hub.library import find_model
from dbl.run.model_folder import ModelFolder, load_denoiser
from dbl.run.start import Cut, Pretrained
from dbl.run.start_weights import weights_of
from dbl.utils.errors import UserError
from dbl.utils.files import temporary_folder
from dbl.utils.serialization import to_plain
from dbl.utils.yaml_files import read_keys


def build_parser() -> ArgumentParser:
    """The parser of `dbl convert`."""
    parser = ArgumentParser(prog="dbl convert", description=HELP["convert"].summary, exit_on_error=False)
    parser.add_argument(
        "source",
        type=str,
        help="run folder of one block, such as runs/digits_dit/baseline; folder or hub name of diffusers; or weights "
        "of the network in --config, a .safetensors file",
    )
    parser.add_argument(
        "--config", type=Path, help="config with data and recipe, for a source that is no run of dbl", default=None
    )
    parser.add_argument("--num_blocks", type=int, required=True, help="number of blocks of the new run")
    parser.add_argument(
        "--cut",
        type=Cut | list[list[int]],
        default="interleaved",
        help="interleaved, contiguous, or the layers of each block, such as [[0,3],[1,4],[2,5]]",
    )
    parser.add_class_arguments(RunFolder, "run")
    add_trust_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Write the folder of a run with its config and the network from which its blocks start; train nothing."""
    options = parse(build_parser(), arguments[1:])
    run = RunFolder(options.run.name, options.run.root)
    check_run_name(run.name)
    if run.path.exists() or run.path.is_symlink():
        raise UserError(f"{run.path} exists already: give another --run.name, or remove it")
    partition, start = PartitionConfig(num_blocks=options.num_blocks), Pretrained(options.cut)
    trusted = trusted_packages(options.trust)
    with temporary_folder(run.path) as folder:
        kept = folder / start.folder / "model"
        if options.config is None:
            plain = _copy_run(options.source, trusted, kept)
        else:
            plain = read_elsewhere(options.source, options.config, kept)
        contract = _converted(ModelFolder(kept), partition, start, options.source)
        plain["run"] = {"name": run.name, "root": run.root}
        plain["contract"] |= {"partition": asdict(partition), "start": to_plain(start)}
        plain["model"]["block"] = 0
        write_config(folder / run.config.name, plain)
        folder.rename(run.path)
    print(_summary(options.source, run, contract, start))


def _copy_run(source: str, trusted: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Copy the whole network of a run of `dbl`; returns its config as plain values."""
    if source.endswith(".safetensors") or is_diffusers(Path(source)):
        raise UserError(f"{source} is no run of dbl: give --config with the data and recipe of the new run")
    run = RunFolder.at(Path(source))
    if run.part("end_to_end").is_dir() and not run.model.exists():
        raise UserError(
            f"{run.path} is a plain network, which knows no noise level: train one for all levels as a run of its "
            "own, with --contract.partition.num_blocks 1"
        )
    import_trusted(run, trusted)
    model = ModelFolder(find_model(run.path))
    plain = _config_of(run)
    _copy(model, folder)
    return plain


def _converted(model: ModelFolder, partition: PartitionConfig, start: Pretrained, source: str) -> Contract:
    """The contract of the new run. Raises UserError if a network cannot be cut so."""
    own = model.contract
    if own.partition.num_blocks != 1:
        raise UserError(
            f"{source} is a network in {own.partition.num_blocks} blocks: dbl convert needs one that was trained "
            "as one, such as the folder baseline in a run of dbl compare"
        )
    contract = replace(own.config, partition=partition, start=start).build(own.data, model.block_hashes)
    weights = model.denoiser(0).state_dict()
    for block in range(partition.num_blocks):
        chosen = weights_of(weights, start.origin(block, contract.partition), own.config.network)
        load_denoiser(contract, block, chosen, Path(source), "dbl convert needs layers of equal shapes")
    return contract


def _config_of(source: RunFolder) -> dict[str, Any]:
    """The plain values of a run's config: read as data, no class that it names is imported."""
    plain = read_keys(source.config)
    if not all(isinstance(plain.get(group), dict) for group in ("run", "contract", "model")):
        raise UserError(f"{source.config} is not the config of a run: restore it")
    return plain


def _copy(model: ModelFolder, folder: Path) -> None:
    """Copy the files of a model, none of which may have changed since it was opened."""
    folder.mkdir(parents=True)
    for name in model.config["files"]:
        shutil.copyfile(model.path / name, folder / name)
    (folder / "config.json").write_text(json.dumps(model.config), encoding="utf-8")
    ModelFolder(folder)  # raises


def _summary(source: str, run: RunFolder, contract: Contract, start: Pretrained) -> str:
    partition = contract.partition
    lines = [f"{run.path}: {partition.num_blocks} blocks from the {sum(partition.layers)} layers of {source}"]
    for block in range(partition.num_blocks):
        layers = start.origin(block, partition).layers
        lines.append(f"  block {block}: layers {', '.join(map(str, layers or []))}")
    return "\n".join([*lines, f"next: dbl train --config {run.config} --trainer.max_steps N"])
