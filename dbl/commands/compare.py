"""`dbl compare`: blocks and their rivals at equal compute, over one or several seeds, in one report."""

import shutil

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.arms.derived_runs import one_block_of, train_ancestors
from dbl.commands.arms.paper import PART as PAPER
from dbl.commands.arms.rivals import check_learning_rates, rivals_to_train, train_rivals
from dbl.commands.arms.whole_network import train_whole_network, trained_stack
from dbl.commands.console import compare_summary, header
from dbl.commands.evaluate import evaluate_stack
from dbl.commands.launch.launcher import Launch, add_launch_options
from dbl.commands.memory_plan import memory_plan_of
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, write_config
from dbl.commands.schema import add_from_scratch, config_parser
from dbl.commands.spelling import whole_numbers
from dbl.evaluation.quality_by_steps import step_numbers
from dbl.evaluation.report import Arm, write_report
from dbl.run.assembly import assemble
from dbl.run.folder import RunFolder
from dbl.training.baselines import RIVALS
from dbl.training.recipes import RECIPES
from dbl.utils.errors import UserError
from dbl.utils.locks import Lock


def build_parser() -> LightningArgumentParser:
    """The parser of a config, with where to train and the seeds."""
    parser = config_parser("compare")
    add_from_scratch(parser)
    add_launch_options(parser)
    parser.add_argument(
        "--seeds",
        type=list[int] | str | None,
        default=None,
        help="Seeds of training, such as 0,1,2; by default contract.seed alone.",
    )
    parser.add_argument(
        "--rivals",
        type=list[str] | str | None,
        default=None,
        help="Further rivals: all, or some of " + ", ".join([*RECIPES, PAPER, *RIVALS]) + "; paper, the paper's own "
        "training, is for images and classes, windows for all but recurrent depth, those from forward_forward on for "
        "classes; blocks+NAME trains the blocks with the recipe NAME.",
    )
    parser.add_argument(
        "--rival_lr",
        type=dict[str, float] | None,
        default=None,
        help="Learning rates of rivals, such as --rival_lr.muon=1e-3; by default they follow from that of the config.",
    )
    return parser


def main(arguments: list[str]) -> None:
    """Train what is missing of all arms and for each seed, with equal compute, and report."""
    options = parse(build_parser(), arguments[1:])
    config, launch = RunConfig(options), Launch.from_options(options)
    launch.settle_devices(config.values.trainer)
    devices = config.values.trainer.devices
    if devices not in (1, "auto") and not (isinstance(devices, list) and len(devices) == 1):
        raise UserError(
            f"trainer.devices={devices}: dbl compare trains the end-to-end network in this process, on 1 device; "
            "use dbl train for the blocks alone"
        )
    with Lock(config.run.launcher_lock, f"the run in {config.run.path}").acquire():
        _compare(config, launch, options)


def _compare(config: RunConfig, launch: Launch, options: Namespace) -> None:
    from_scratch = options.from_scratch
    by_seed = _config_of_each_seed(config, options.seeds)
    for of_seed in by_seed.values():
        of_seed.check()
    rivals = rivals_to_train(options.rivals, next(iter(by_seed.values())))
    rates = check_learning_rates(options.rival_lr, rivals.names)
    print(header(next(iter(by_seed.values())), launch.backend), *rivals.lines(), sep="\n", flush=True)
    for of_seed in by_seed.values():
        train_ancestors(of_seed, launch, from_scratch)
        of_seed.write()
    first = next(iter(by_seed.values()))
    memory_plan = memory_plan_of(first)
    arms = {seed: _all_arms(of_seed, launch, rivals.names, rates, from_scratch) for seed, of_seed in by_seed.items()}
    run = config.run
    if first is not config:
        write_config(run.config, config.plain())
        _copy_pictures(first.run, run)
    num_test_samples = len(first.data.split("test"))
    report = write_report(run, first.contract, config.inference.sampler, arms, num_test_samples, memory_plan)
    print(compare_summary(report, run))


def _config_of_each_seed(config: RunConfig, seeds: str | list[int] | None) -> dict[int, RunConfig]:
    """The given config alone without `--seeds`, else one for each seed, whose run folder is `seed_<s>` in the run."""
    if seeds is None:
        return {config.contract_config.seed: config}
    numbers = whole_numbers("--seeds", seeds, "whole numbers such as 0,1,2")
    return {seed: _with_seed(config, seed) for seed in dict.fromkeys(numbers)}


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    folder, plain = RunFolder(f"seed_{seed}", str(config.run.path)), config.plain()
    plain["run"] = {"name": folder.name, "root": folder.root}
    plain["contract"]["seed"] = seed
    write_config(folder.config, plain)
    return RunConfig.load(folder.config)


def _all_arms(
    config: RunConfig, launch: Launch, rivals: list[str], rates: dict[str, float], from_scratch: bool
) -> list[Arm]:
    run, partition = config.run, config.contract.partition
    launch.train(run, list(range(partition.num_blocks)), config.steps, from_scratch)
    assemble(run)
    steps = step_numbers(partition.num_blocks, config.inference.sampler.num_steps)
    whole = train_whole_network(config, run.baseline(), "end_to_end", steps, from_scratch)
    arms = [evaluate_stack(run, "blocks", steps), whole]
    rival = one_block_of(config)
    if rival is not None:
        arms.append(trained_stack(rival, "one_block", steps, from_scratch))
    arms += train_rivals(config, launch, rivals, rates, steps, from_scratch)
    _check_equal_compute(arms, config.steps)
    return arms


def _check_equal_compute(arms: list[Arm], wanted: list[int]) -> None:
    """Raise UserError unless all blocks had the wanted steps, and all arms the same layer passes up to rounding."""
    steps = {part["part"]: part["steps"] for part in arms[0].parts}
    passes = {arm.name: sum(part["layer_passes"] for part in arm.all_parts) for arm in arms}
    per_step = max(part["layer_passes"] / part["steps"] for arm in arms[1:] for part in arm.parts)
    if list(steps.values()) != wanted or max(passes.values()) - min(passes.values()) > per_step:
        counts = ", ".join(f"{name}: {number:,.0f}" for name, number in (steps | passes).items())
        raise UserError(
            f"steps of the blocks or layer passes of the arms differ ({counts}): train them anew with --from_scratch"
        )


def _copy_pictures(source: RunFolder, target: RunFolder) -> None:
    """The sample grids of the first seed, for the report over all seeds."""
    runs = [(run, run.baseline(), run.one_block()) for run in (source, target)]
    for run, copy in zip(*runs, strict=True):
        if (run.report / "samples.png").is_file():
            copy.report.mkdir(parents=True, exist_ok=True)
            shutil.copy2(run.report / "samples.png", copy.report / "samples.png")
