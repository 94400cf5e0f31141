"""The `dbl` command: LightningCLI for single parts and stacks, own commands for whole runs.

Heavy packages are imported only by the command that needs them, so that `dbl --help` answers at once.
"""

import sys
from importlib import import_module

from dbl.errors import Interrupted, UserError

_HELP = """usage: dbl COMMAND [options]     (dbl COMMAND --help explains the options)

Train a network in independent blocks by diffusion, assemble it, evaluate it, sample from it.

whole runs
  train     train all blocks of a run, then assemble, evaluate and report
  compare   the same beside the end-to-end network at equal compute, in one report
  assemble  check the blocks of a run and merge them into its model folder
  sample    draw images from an assembled network

single parts, with every option of Lightning's Trainer
  fit       train one block:             dbl fit --config configs/digits_dit.yaml --model.block 1
  validate  evaluate the assembled network on the validation split
  test      evaluate the assembled network on the test split
  predict   labels or images from the assembled network for the test split
"""

# command -> module that holds its `main(arguments)`
_COMMANDS = {
    "fit": "dbl.commands.parts",
    "validate": "dbl.commands.parts",
    "test": "dbl.commands.parts",
    "predict": "dbl.commands.parts",
    "train": "dbl.commands.train",
    "compare": "dbl.commands.compare",
    "assemble": "dbl.commands.assemble",
    "sample": "dbl.commands.sample",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for a fault of the input, 130 when the user stopped it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if arguments[0] not in _COMMANDS:
        print(f"dbl: there is no command {arguments[0]!r}: choose {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    try:
        import_module(_COMMANDS[arguments[0]]).main(arguments)
    except UserError as error:
        print(f"dbl: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"dbl: {stop}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
