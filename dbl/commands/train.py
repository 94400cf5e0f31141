"""`dbl train`: all blocks of a run, then assemble, evaluate and report."""

from dbl.assembly import assemble, unfinished_blocks
from dbl.commands.evaluate import evaluate_stack
from dbl.commands.run_cli import RunCLI, fit_blocks
from dbl.report import write_report


def main(arguments: list[str]) -> None:
    """Train; blocks that are trained already are left alone, those that were stopped go on."""
    cli = RunCLI(arguments[1:])
    blocks = cli.chosen_blocks()
    cli.freeze()
    fit_blocks(cli.run, blocks, cli.config.from_scratch)
    missing = unfinished_blocks(cli.run, cli.contract)
    if missing:
        others = ",".join(map(str, missing))
        print(
            f"not assembled yet: train the other blocks with --blocks {others}, or copy their folders into "
            f"{cli.run.path}"
        )
        return
    assemble(cli.run)
    sides = {cli.terms.seed: [evaluate_stack(cli.run, "blocks")]}
    write_report(cli.run, cli.contract, cli.inference.sampler, sides, len(cli.data.split("test")))
    print(f"report: {cli.run.report / 'report.md'}")
