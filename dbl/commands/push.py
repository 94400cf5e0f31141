"""`dbl push`: a run on the hub, for others to train blocks of it."""

from pathlib import Path

from jsonargparse import ArgumentParser

from dbl.commands.help import HELP
from dbl.commands.parsing import parse
from dbl.commands.spelling import whole_numbers
from dbl.commands.trust import add_trust_option, import_trusted, trusted_packages
from dbl.run.folder import RunFolder
from dbl.run.hub.push import Pushed, push_blocks, push_new_run
from dbl.run.hub.shared_run import HubRun, holds_run
from dbl.run.hub.shared_training import SharedTraining
from dbl.utils.errors import UserError
from dbl.utils.yaml_files import read_keys


def build_parser() -> ArgumentParser:
    """The parser of `dbl push`."""
    parser = ArgumentParser(prog="dbl push", description=HELP["push"].summary, exit_on_error=False)
    parser.add_argument("run", type=Path, help="run folder, such as runs/digits_dit")
    parser.add_argument("repository", type=str, help="name on the Hugging Face hub, such as owner/digits_dit")
    parser.add_argument("--blocks", type=list[int] | str, help="blocks to push, such as 0,2; by default all finished")
    parser.add_argument("--private", action="store_true", help="a new repository that only its owner may read")
    parser.add_argument(
        "--create_pr", action="store_true", help="propose blocks as a pull request, without write access"
    )
    parser.add_argument("--replace", action="store_true", help="with --blocks: put them in the place of those there")
    add_trust_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Upload a run, or to a repository that holds it the blocks that it lacks."""
    options = parse(build_parser(), arguments[1:])
    run, trusted = RunFolder.at(options.run), trusted_packages(options.trust)
    import_trusted(run, trusted)
    blocks = None if options.blocks is None else whole_numbers("--blocks", options.blocks, "numbers such as 0,2")
    if options.replace and blocks is None:
        raise UserError("--replace needs --blocks: say which blocks on the hub are to be replaced")
    if holds_run(options.repository):
        if options.private:
            raise UserError(f"--private is for a new repository: {options.repository} exists and holds a run")
        there = HubRun(options.repository, trusted)
        pushed = push_blocks(run, there, blocks, options.create_pr, options.replace)
    elif options.create_pr or options.replace:
        raise UserError(f"{options.repository} holds no run: push it first, without --create_pr and --replace")
    else:
        pushed = push_new_run(run, options.repository, _training(run), blocks, options.private)
    print(summary(pushed))


def summary(pushed: Pushed) -> str:
    """What was uploaded, and where it is."""
    if not pushed.is_new and not pushed.blocks:
        return f"nothing to push: {pushed.address} has all finished blocks of this run"
    parts = [*(["the run"] if pushed.is_new else []), *(f"block {block}" for block in pushed.blocks)]
    return f"pushed: {', '.join(parts)} to {pushed.address}"


def _training(run: RunFolder) -> SharedTraining:
    """How the blocks of a run are trained, from its config as data: no class that it names is imported."""
    return SharedTraining.of_config(read_keys(run.config), run.load_contract(), str(run.config))
