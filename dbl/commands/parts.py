"""`dbl fit`, `validate`, `test` and `predict`."""

from dbl.commands.block_cli import BlockCLI


def main(arguments: list[str]) -> None:
    """Run a Lightning command on a block (`fit`) or on the assembled stack."""
    BlockCLI(arguments)
