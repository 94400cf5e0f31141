"""`dbl export`: an assembled network as programs that run without `dbl`, for diffusers, or its adapters for peft."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from dbl.commands.help import HELP
from dbl.commands.parsing import parse
from dbl.commands.trust import add_trust_option, import_trusted, trusted_packages
from dbl.inference.export import export_stack
from dbl.inference.pipeline import export_pipeline
from dbl.inference.stack import BlockStack
from dbl.run.adapter_folder import export_adapters
from dbl.run.folder import RunFolder
from dbl.run.hub.library import find_model
from dbl.run.model_folder import ModelFolder
from dbl.utils.errors import UserError

Format = Literal["programs", "diffusers", "lora"]
_FOLDERS: dict[Format, str] = {"programs": "export", "diffusers": "export", "lora": "adapters"}  # in the run folder


def build_parser() -> ArgumentParser:
    """The parser of `dbl export`."""
    parser = ArgumentParser(prog="dbl export", description=HELP["export"].summary, exit_on_error=False)
    parser.add_argument("run", type=Path, help="run folder, such as runs/digits_dit, with an assembled model")
    parser.add_argument(
        "--format",
        type=Format,
        default="programs",
        help="programs for torch; diffusers: a pipeline, of networks of dbl.DiffusersDiT; lora: the adapters of each "
        "block for peft",
    )
    parser.add_argument("--output", type=Path, help="folder to make; by default export or adapters in the run folder")
    parser.add_argument(
        "--blocks_only", action="store_true", help="leave out chain.pt2, whose size grows with the sampler's steps"
    )
    add_trust_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Export the assembled network of a run with the settings that its model keeps."""
    options = parse(build_parser(), arguments[1:])
    run = RunFolder.at(options.run)
    output = run.path / _FOLDERS[options.format] if options.output is None else options.output
    if output.exists() or output.is_symlink():
        raise UserError(f"--output {output} exists already: remove it, or give another folder")
    import_trusted(run, trusted_packages(options.trust))
    if options.format == "lora":
        print(f"exported: {export_adapters(run, output)}")
        return
    model = ModelFolder(find_model(run.path))
    inference = replace(model.inference, keep_in_memory="all")  # a chain holds all blocks
    stack = BlockStack.from_pretrained(run.path, inference)
    if options.format == "diffusers":
        folder = export_pipeline(stack, output)
    else:
        folder = export_stack(stack, output, chain=not options.blocks_only)
    print(f"exported: {folder}")
