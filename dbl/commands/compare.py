"""`dbl compare`: blocks and the end-to-end network at equal compute, over one or several seeds, in one report."""

import shutil
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.evaluate import evaluate_baseline, evaluate_stack
from dbl.commands.launch.inline import fit_part
from dbl.commands.launch.launcher import Launch
from dbl.commands.launch_options import LaunchCLI
from dbl.commands.run_config import RunCLI
from dbl.evaluation.quality_by_steps import step_numbers
from dbl.evaluation.report import Arm, write_report
from dbl.run.assembly import assemble
from dbl.run.folder import RunFolder
from dbl.training.baselines import baseline_of
from dbl.training.memory.planner import Planner, plan_rows
from dbl.utils.errors import UserError
from dbl.utils.files import write_text
from dbl.utils.locks import holding


class CompareCLI(LaunchCLI):
    """Parses the config of a run and the seeds to compare over."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The groups of a run, and the seeds."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--seeds", type=str, default=None, help="Seeds of training, such as 0,1,2; by default contract.seed alone."
        )

    def of_each_seed(self) -> dict[int, LaunchCLI]:
        """The run of each seed: this one without `--seeds`, else one for each in a folder `seed_<s>` of its own."""
        text = self.config.seeds
        if text is None:
            return {self.contract_config.seed: self}
        try:
            seeds = list(dict.fromkeys(int(seed) for seed in str(text).split(",")))
        except ValueError:
            raise UserError(f"--seeds {text} must be whole numbers such as 0,1,2") from None
        return {seed: self._with_seed(seed) for seed in seeds}

    def _with_seed(self, seed: int) -> LaunchCLI:
        config = self.resolved()
        folder = RunFolder(f"seed_{seed}", str(self.run.path))
        config["run"] = {"name": folder.name, "root": folder.root}
        config["contract"]["seed"] = seed
        write_text(folder.config, yaml.safe_dump(config, sort_keys=False))
        return LaunchCLI(["--config", str(folder.config), *self.scratch_option])


def main(arguments: list[str]) -> None:
    """Train what is missing on both sides and for each seed, each side with the same compute, and report."""
    cli = CompareCLI(arguments[1:])
    with holding(cli.run.launcher, f"the run in {cli.run.path}"):
        _compare(cli)


def _compare(cli: CompareCLI) -> None:
    runs = cli.of_each_seed()
    for run in runs.values():
        run.freeze()
    first = next(iter(runs.values()))
    memory_plan = _memory_plan(first)
    sides = {seed: _both_sides(run, cli.launch) for seed, run in runs.items()}
    if first is not cli:
        write_text(cli.run.config, yaml.safe_dump(cli.resolved(), sort_keys=False))
        _copy_pictures(first.run, cli.run)
    num_test_samples = len(first.data.split("test"))
    write_report(cli.run, first.contract, cli.inference.sampler, sides, num_test_samples, memory_plan)
    print(f"report: {cli.run.report / 'report.md'}")


def _both_sides(cli: LaunchCLI, launch: Launch) -> list[Arm]:
    blocks = cli.blocks_to_train(list(range(cli.contract.partition.num_blocks)))
    launch.train(cli.run, blocks, cli.config.from_scratch)
    assemble(cli.run)
    steps = step_numbers(cli.contract.partition.num_blocks, cli.inference.sampler.num_steps)
    sides = [evaluate_stack(cli.run, "blocks", steps), _end_to_end(cli, steps)]
    _check_equal_compute(sides)
    return sides


def _check_equal_compute(sides: list[Arm]) -> None:
    """Blocks had the same number of steps, and both sides the same passes through layers, but for rounding to steps."""
    steps = {part["part"]: part["steps"] for part in sides[0].parts}
    passes = {side.name: sum(part["layer_passes"] for part in side.parts) for side in sides}
    per_step = max(part["layer_passes"] / part["steps"] for part in sides[1].parts)
    if len(set(steps.values())) > 1 or abs(passes["blocks"] - passes["end_to_end"]) > per_step:
        counts = ", ".join(f"{name}: {number:,.0f}" for name, number in (steps | passes).items())
        raise UserError(
            f"steps of the blocks or layer passes of both sides differ ({counts}): train them anew with --from-scratch"
        )


def _end_to_end(cli: LaunchCLI, steps: list[int]) -> Arm:
    """Train, in this process, and evaluate the baseline in a run folder of its own."""
    run, config = cli.run.baseline(), cli.resolved()
    options = ["--config", str(run.config), *cli.scratch_option]
    config["run"] = {"name": run.name, "root": run.root}
    config["trainer"]["max_steps"] = _steps_of_baseline(cli)
    baseline = baseline_of(cli.contract.config.network)
    if baseline is not None:
        del config["model"]["block"]
        write_text(run.config, yaml.safe_dump(config, sort_keys=False))
        fit_part(options, baseline)
        return evaluate_baseline(run)
    config["contract"]["partition"] = {"num_blocks": 1, "overlap": 0.0}
    config["model"]["block"] = 0
    write_text(run.config, yaml.safe_dump(config, sort_keys=False))
    fit_part(options)
    assemble(run)
    return evaluate_stack(run, "end_to_end", steps)


def _steps_of_baseline(cli: RunCLI) -> int:
    """As many steps as make the same number of passes through layers as all blocks together."""
    network = cli.contract.config.network
    of_blocks = sum(network.layer_passes(layers) for layers in cli.contract.partition.layers)
    return max(1, round(cli.config.trainer.max_steps * of_blocks / network.baseline_passes()))


def _memory_plan(cli: RunCLI) -> dict[str, Any]:
    """Memory of what a user could train instead, with the batch of this run."""
    planner = Planner(cli.contract_config, cli.data.spec, cli.recipe, str(cli.config.trainer.precision), cli.device)
    rows = plan_rows(planner, [cli.contract_config.partition.num_blocks], cli.data.batch_size)
    return {"batch_size": cli.data.batch_size, "precision": planner.precision, "device": planner.device, "rows": rows}


def _copy_pictures(source: RunFolder, target: RunFolder) -> None:
    """The sample grids of the first seed, for the report over all seeds."""
    for run, copy in ((source, target), (source.baseline(), target.baseline())):
        if (run.report / "samples.png").is_file():
            copy.report.mkdir(parents=True, exist_ok=True)
            shutil.copy2(run.report / "samples.png", copy.report / "samples.png")
