"""The command `dbl`: the table of its commands, and what becomes of their errors.

Heavy packages are imported only by the command that needs them, so that `dbl --help` prints at once.
"""

import logging
import os
import sys
import threading
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from dbl.commands.environment import check_environment
from dbl.commands.help import HELP
from dbl.utils.errors import Interrupted, TrainingFailed, UserError, as_known_error, one_line, suggestion

_HELP = """usage: dbl COMMAND [options]     (dbl COMMAND --help: its options; dbl --version)

Train a network in independent blocks by diffusion, assemble it, evaluate it, sample from it.

whole runs
  train       train all blocks of a run, then assemble, evaluate and report
  sweep       train for each combination of choices, or trials of a study; one table over all runs
  compare     the same beside the end-to-end network at equal compute, in one report
  plan        memory of a training step by category, before any training
  bench       time of a training step beside the whole network's, and its share of the device's peak
  assemble    check the blocks of a run and merge them into its model folder
  sample      draw images or write text with an assembled network
  convert     a run whose blocks start from the layers of a trained network
  push        put a run on the Hugging Face hub, for others to train blocks of it
  export      write an assembled network as programs that torch runs without dbl
  tokenizer   train a byte-pair tokenizer on text files
  completion  print a script that completes commands and options in a shell

single parts, with every option of Lightning's Trainer
  fit         train one block:             dbl fit --config configs/digits_dit.yaml --model.block 1
  validate    evaluate the assembled network on the validation split
  test        evaluate the assembled network on the test split
  predict     labels or images from the assembled network for the test split
"""

# Command -> module with its `build_parser()` and `main(arguments)`.
_WHOLE_RUNS = (
    *("train", "sweep", "compare", "plan", "bench", "assemble", "sample", "convert", "push", "export"),
    *("tokenizer", "completion"),
)
COMMANDS = dict.fromkeys(("fit", "validate", "test", "predict"), "dbl.commands.fit") | {
    name: f"dbl.commands.{name}" for name in _WHOLE_RUNS
}

_HELP_ALL = ("--help_all", "--help-all")
_EXIT_CODES = {UserError: 2, TrainingFailed: 1, Interrupted: 130}

# Warnings of Lightning that do not apply to `dbl`, and why.
_SILENCED = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning and torch
    "You're resuming from a checkpoint that ended before the epoch ended",  # our data order resumes at the next batch
    "The number of training batches .* is smaller than the logging interval",  # log lines are counted in steps
    "The '.*_dataloader' does not have many workers",  # sets in memory need none
)


def _answer(arguments: list[str]) -> str | None:
    """What needs nothing but the command line: a help text or the version; None if a command is to run."""
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", *_HELP_ALL):
        return _HELP
    if first == "--version":
        return f"dbl {_version()}"
    if first in HELP and not {"-h", "--help"}.isdisjoint(arguments):
        return HELP[first].text(first)
    return None


def _version() -> str:
    try:
        return version("dbl")
    except PackageNotFoundError:
        return "(not installed: run from a folder)"


def _reduce_output() -> None:
    """Print a warning as one line, and no banner of Lightning for each block."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, category, *_: f"dbl: {category.__name__}: {message}\n"
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
    threading.excepthook = _print_unknown_error


def _print_unknown_error(failure: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, unless it is told in one line: TensorBoard's writer raises it here again."""
    if as_known_error(failure.exc_value) is None:
        threading.__excepthook__(failure)


def main(arguments: list[str] | None = None) -> int:
    """Run one command of `dbl`.

    Args:
        arguments: the command and its options, such as `["plan", "--config", "my.yaml"]`; None: those of this process.

    Returns:
        The exit code: 0, 2 for an error in the input, 1 for failed blocks, 130 if it was stopped.

    Example:
        >>> import dbl
        >>> dbl.main(["--help"])  # doctest: +ELLIPSIS
        usage: dbl COMMAND [options]...
        0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    answer = _answer(arguments)
    if answer is not None:
        print(answer)
        return 0
    if arguments[0] not in COMMANDS:
        remedy = suggestion(arguments[0], COMMANDS) or ": dbl --help lists them"
        print(one_line(f"dbl: there is no command {arguments[0]!r}{remedy}"), file=sys.stderr)
        return 2
    try:
        check_environment(os.environ)
        command = import_module(COMMANDS[arguments[0]])
        _reduce_output()  # after the import, in which Lightning sets the level of its log
        command.main(["--help" if word in _HELP_ALL else word for word in arguments])
    except KeyboardInterrupt:
        print("dbl: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        known = as_known_error(error)
        if known is None:
            raise
        print(one_line(f"dbl: {known}"), file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES.items() if isinstance(known, kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
