"""`dbl train`: all blocks of a run, then assemble, evaluate and report."""

import gc

from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.evaluate import evaluate_stack
from dbl.commands.launch_options import LaunchCLI
from dbl.commands.run_config import RunCLI
from dbl.evaluation.report import write_report
from dbl.run.assembly import assemble, unfinished_blocks
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError
from dbl.utils.locks import holding


class TrainCLI(LaunchCLI):
    """Parses the config of a run, where to train and which blocks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options of a launch, and which blocks."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--blocks", type=str, default="all", help="Blocks to train: all, or a list such as 0,2.")
        parser.add_argument("--dry-run", action="store_true", help="With slurm: print the scripts, submit nothing.")

    def chosen_blocks(self) -> list[int]:
        """The blocks that `--blocks` names; UserError if there is no such block."""
        text = str(self.config.blocks)
        if text == "all":
            return list(range(self.contract.partition.num_blocks))
        try:
            blocks = [int(part) for part in text.split(",")]
        except ValueError:
            raise UserError(f"--blocks {text} must be `all` or block numbers such as 0,2") from None
        for block in blocks:
            self.contract.partition.check_block(block)
        return blocks


def main(arguments: list[str]) -> None:
    """Train; blocks that are trained already are left alone, those that were stopped go on."""
    cli = TrainCLI(arguments[1:])
    run, launch, from_scratch = cli.run, cli.launch, cli.config.from_scratch
    with holding(run.launcher, f"the run in {run.path}"):
        cli.freeze()
        blocks = cli.blocks_to_train(cli.chosen_blocks())
        del cli
        gc.collect()  # data and tables: the workers have them, the launcher does not need them while it waits
        launch.train(run, blocks, from_scratch)
        if not launch.dry_run:
            _finish(run)


def _finish(run: RunFolder) -> None:
    """Assemble, evaluate and report, if all blocks are there."""
    cli = RunCLI(["--config", str(run.config)])
    missing = unfinished_blocks(run, cli.contract)
    if missing:
        others = ",".join(map(str, missing))
        print(
            f"not assembled yet: train the other blocks with --blocks {others}, or copy their folders into {run.path}"
        )
        return
    assemble(run)
    sides = {cli.contract_config.seed: [evaluate_stack(run, "blocks")]}
    write_report(run, cli.contract, cli.inference.sampler, sides, len(cli.data.split("test")))
    print(f"report: {run.report / 'report.md'}")
