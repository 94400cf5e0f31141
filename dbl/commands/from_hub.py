"""The options of `dbl fit` for a block of somebody else's run: its contract from the hub, and the block back to it."""

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from dbl.commands.push import summary
from dbl.commands.run_config import RunConfig, write_config
from dbl.commands.spelling import with_underscores
from dbl.commands.trust import add_trust_option, trusted_in, trusted_packages
from dbl.run.folder import RunFolder
from dbl.run.hub.push import check_absent, push_blocks
from dbl.run.hub.shared_run import HubRun
from dbl.utils.errors import UserError, one_line


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add `--from_hub` and the options that go with it."""
    parser.add_argument(
        "--from_hub",
        metavar="OWNER/NAME",
        type=str,
        help="Train a block of this run on the Hugging Face hub: its contract, start, data and training.",
    )
    parser.add_argument("--push", action="store_true", help="With --from_hub: add the trained block there.")
    parser.add_argument(
        "--create_pr", action="store_true", help="With --push: propose it as a pull request, without write access."
    )
    parser.add_argument("--replace", action="store_true", help="With --push: put it in the place of one there.")
    add_trust_option(parser)


def run_on_hub(arguments: list[str]) -> HubRun | None:
    """The run that `--from_hub` names in a command line, which says how the rest is parsed; None without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--from_hub", nargs="?")
    words = with_underscores(arguments)
    name = parser.parse_known_args(words)[0].from_hub
    return HubRun(name, trusted_in(words)) if name else None


@contextmanager
def config_of(there: HubRun | None, arguments: list[str]) -> Iterator[list[str]]:
    """The words of a command line that give the config of a run on the hub; what follows them overrides it.

    Raises UserError if the data are such that a run on the hub cannot name them, and the command line does not.

    Args:
        there: the run.
        arguments: the command line.
    """
    if there is None:
        yield []
        return
    if there.training.data is None and not any(re.match(r"--data|--config|-c", word) for word in arguments):
        raise UserError(
            f"{there.repo_id} was trained on data that it cannot name ({one_line(there.contract.data.name, 40)}): give "
            "them with --data and its arguments, or in a config with --config"
        )
    with tempfile.TemporaryDirectory(prefix="dbl_from_hub_") as folder:
        path = Path(folder, "config.yaml")
        write_config(path, there.training.config(there.contract, there.repo_id.rpartition("/")[2]))
        yield ["--config", str(path)]


def prepare(there: HubRun | None, options: Namespace, config: RunConfig) -> None:
    """Check what is to be trained, and write the files of a run on the hub into its folder here.

    Raises UserError if options are given without the one that they need, the run has no such block, has it already,
    or the folder holds another run.
    """
    if there is None and options.push:
        raise UserError("--push needs --from_hub owner/name: give it, or use dbl push RUN owner/name")
    if not options.push and (options.create_pr or options.replace):
        raise UserError("--create_pr and --replace are for --push: give it too, or leave them out")
    if there is None:
        return
    block = config.values.model.block
    there.contract.partition.check_block(block)
    if options.push:
        check_absent(there, [block], options.replace)
        _check_length(there, block, config.steps[block])
    there.settle(RunFolder(config.values.run.name, config.values.run.root))
    rank_zero_only(print)(f"{there.repo_id}  block {block}: {there.training.describe(there.contract, block)}")


def _check_length(there: HubRun, block: int, steps: int) -> None:
    """Raise UserError, before the training and not after it, if its block could not be pushed."""
    if steps != there.steps[block]:
        raise UserError(
            f"trainer.max_steps gives block {block} {steps} steps, and {there.repo_id} says {there.steps[block]}: "
            "leave it as it is there, or train without --push"
        )


@rank_zero_only
def push_trained(there: HubRun, options: Namespace, config: RunConfig) -> None:
    """Upload the block that was trained, to the repository as it is now: others push while a block is trained."""
    now, block = HubRun(there.repo_id, trusted_packages(options.trust)), config.values.model.block
    pushed = push_blocks(config.run, now, [block], options.create_pr, options.replace)
    print(summary(pushed))
