"""`dbl assemble`: check the blocks of a run and merge them."""

from pathlib import Path

from jsonargparse import auto_cli

from dbl.assembly import Weights, assemble
from dbl.run_folder import RunFolder


def main(arguments: list[str]) -> None:
    """Parse the command line and assemble."""
    auto_cli(assemble_run, args=arguments[1:], as_positional=True)


def assemble_run(run: Path, weights: Weights = "ema") -> None:
    """Check the blocks of a run and merge them into its model folder.

    Args:
        run: run folder, such as runs/digits_dit.
        weights: the moving average or the live weights.
    """
    print(f"assembled: {assemble(RunFolder.at(run), weights)}")
