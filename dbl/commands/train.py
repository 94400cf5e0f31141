"""`dbl train`: all blocks of a run, then assemble, evaluate and report."""

import gc

from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.arms.derived_runs import train_ancestors
from dbl.commands.console import header, train_summary
from dbl.commands.evaluate import evaluate_stack
from dbl.commands.launch.launcher import Launch, add_launch_options
from dbl.commands.memory_plan import memory_plan_or_none
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import add_from_scratch, config_parser
from dbl.commands.spelling import whole_numbers
from dbl.evaluation.quality_by_steps import step_numbers
from dbl.evaluation.report import write_report
from dbl.run.assembly import assemble, unfinished_blocks
from dbl.run.contract import Contract
from dbl.utils.errors import UserError
from dbl.utils.locks import Lock


def build_parser() -> LightningArgumentParser:
    """The parser of a config, with where to train and which blocks."""
    parser = config_parser("train")
    add_from_scratch(parser)
    add_launch_options(parser)
    parser.add_argument(
        "--blocks",
        type=list[int] | str,
        default="all",
        help="Blocks to train: all, a list such as 0,2, or ancestor for what comes before them alone.",
    )
    parser.add_argument("--dry_run", action="store_true", help="With slurm: print the scripts, submit nothing.")
    return parser


def main(arguments: list[str]) -> None:
    """Train; blocks that are trained already are left alone, those that were stopped are resumed."""
    options = parse(build_parser(), arguments[1:])
    config, launch = RunConfig(options), Launch.from_options(options)
    launch.settle_devices(config.values.trainer)
    train_run(config, launch, options.from_scratch, options.blocks)


def train_run(config: RunConfig, launch: Launch, from_scratch: bool = False, chosen: str | list[int] = "all") -> None:
    """Train the blocks of a run; once all are trained, assemble, evaluate and report.

    Args:
        config: config of the run; what it has built is released before the training.
        launch: place where blocks are trained.
        from_scratch: train anew what is trained already.
        chosen: value of `--blocks`.
    """
    run = config.run
    with Lock(run.launcher_lock, f"the run in {run.path}").acquire():
        config.check()
        if not launch.dry_run:  # which prints a script
            print(header(config, launch.backend), flush=True)
        if not train_ancestors(config, launch, from_scratch):
            print("the scripts of the blocks follow from the ancestor: submit this one first")
            return
        config.write()
        blocks, steps = _chosen_blocks(chosen, config.contract), config.steps
        config.release()
        gc.collect()  # data and tables: the workers have them, the launcher does not need them while it waits
        launch.train(run, blocks, steps, from_scratch)
        if not launch.dry_run:
            _finish(RunConfig.load(run.config))


def _chosen_blocks(chosen: str | list[int], contract: Contract) -> list[int]:
    """The blocks that `--blocks` names; UserError if there is no such block, or no ancestor."""
    partition = contract.partition
    if chosen == "all":
        return list(range(partition.num_blocks))
    if chosen == "ancestor":
        if not contract.config.start.num_parts:
            kind = type(contract.config.start).__name__
            raise UserError(f"--blocks ancestor: there is none, contract.start is {kind}")
        return []
    accepted = "`all`, `ancestor` or block numbers such as 0,2"
    blocks = list(dict.fromkeys(whole_numbers("--blocks", chosen, accepted)))
    for block in blocks:
        partition.check_block(block)
    return blocks


def _finish(config: RunConfig) -> None:
    """Assemble, evaluate and report, if all blocks are there."""
    run = config.run
    missing = unfinished_blocks(run, config.contract)
    if missing:
        others = ",".join(map(str, missing))
        print(
            f"not assembled yet: train the other blocks with --blocks {others}, or copy their folders into {run.path}"
        )
        return
    assemble(run)
    sampler, by_steps = config.inference.sampler, config.groups.image_quality.by_steps
    steps = step_numbers(config.contract.partition.num_blocks, sampler.num_steps) if by_steps else None
    arms = {config.contract_config.seed: [evaluate_stack(run, "blocks", steps)]}
    num_test_samples = len(config.data.split("test"))
    report = write_report(run, config.contract, sampler, arms, num_test_samples, memory_plan_or_none(config))
    print(train_summary(report, run))
