"""`dbl assemble`: check the blocks of a run and merge them; upload the result if asked to."""

from pathlib import Path
from typing import get_args

from jsonargparse import ArgumentParser

from dbl.commands.help import HELP
from dbl.commands.parsing import parse
from dbl.commands.trust import add_trust_option, import_trusted, trusted_packages
from dbl.run.assembly import assemble
from dbl.run.folder import RunFolder
from dbl.run.hub.library import check_repo_id, hub_library, is_on_hub, push_to_hub
from dbl.run.hub.shared_run import HubRun
from dbl.run.model_config import Weights
from dbl.run.model_folder import ModelFolder
from dbl.utils.errors import UserError


def build_parser() -> ArgumentParser:
    """The parser of `dbl assemble`."""
    parser = ArgumentParser(prog="dbl assemble", description=HELP["assemble"].summary, exit_on_error=False)
    parser.add_argument("run", type=Path, help="run folder, such as runs/digits_dit, or a run on the hub: owner/name")
    parser.add_argument(
        "--weights", choices=get_args(Weights), default="ema", help="the moving average or the live weights"
    )
    parser.add_argument(
        "--allow_partial", action="store_true", help="leave out blocks that are not finished; their levels are refused"
    )
    parser.add_argument(
        "--push", metavar="OWNER/NAME", type=str, help="upload the model to this name on the Hugging Face hub"
    )
    parser.add_argument("--private", action="store_true", help="with --push: a model that only its owner may read")
    add_trust_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Check the blocks of a run, merge them into its model folder, print what was made, and upload it if asked to."""
    options = parse(build_parser(), arguments[1:])
    if options.push is not None:
        check_repo_id(options.push)
        hub_library()  # raises before the work if it is not installed
    elif options.private:
        raise UserError("--private is for --push owner/name: give both or neither")
    trusted = trusted_packages(options.trust)
    if is_on_hub(options.run):
        model = ModelFolder(_gather(HubRun(str(options.run), trusted), options.weights, options.allow_partial))
    else:
        run = RunFolder.at(options.run)
        import_trusted(run, trusted)
        model = ModelFolder(assemble(run, options.weights, options.allow_partial))
    print(f"assembled: {_summary(model)}")
    if options.push is not None:
        print(f"pushed: {push_to_hub(model.path, options.push, options.private)}")


def _gather(there: HubRun, weights: Weights, allow_partial: bool) -> Path:
    """Assemble the blocks of a run on the hub in a run folder of its name here, and say who trained them."""
    run = RunFolder(there.repo_id.rpartition("/")[2])
    there.settle(run)
    model = assemble(run, weights, allow_partial, there.training.inference, there.read_block)
    for block in there.blocks:
        print(f"block {block}: {there.steps[block]} steps, committed by {there.authors[block]}")
    return model


def _summary(model: ModelFolder) -> str:
    """The folder, the kind of its weights, and the blocks that a partial model lacks."""
    partition = model.contract.partition
    missing = sorted(set(range(partition.num_blocks)) - set(model.available))
    lacks = f", partial, without {partition.describe(missing)}" if missing else ""
    return f"{model.path} ({model.config['weights']} weights{lacks})"
