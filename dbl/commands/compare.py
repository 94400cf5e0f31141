"""`dbl compare`: blocks and the end-to-end network at equal compute, in one report."""

from typing import Any

import yaml

from dbl.assembly import assemble, read_part
from dbl.baselines import EndToEndViT
from dbl.commands.block_cli import BlockCLI
from dbl.commands.evaluate import evaluate_stack
from dbl.commands.run_cli import RunCLI, fit_blocks, fit_part
from dbl.errors import UserError
from dbl.files import write_text
from dbl.networks import ViT
from dbl.report import Side, write_report
from dbl.run_folder import RunFolder


def main(arguments: list[str]) -> None:
    """Train what is missing on both sides, each part with the same number of steps, and report both."""
    cli = RunCLI(arguments[1:])
    cli.freeze()
    fit_blocks(cli.run, list(range(cli.contract.partition.num_blocks)), cli.config.from_scratch)
    assemble(cli.run)
    sides = [evaluate_stack(cli.run, "blocks"), _end_to_end(cli)]
    _check_equal_compute(sides)
    write_report(cli.run, cli.contract, cli.inference.sampler, sides)
    print(f"report: {cli.run.report / 'report.md'}")


def _check_equal_compute(sides: list[Side]) -> None:
    steps = {part["part"] + f" ({side.name})": part["steps"] for side in sides for part in side.parts}
    if len(set(steps.values())) > 1:
        counts = ", ".join(f"{part}: {number}" for part, number in steps.items())
        raise UserError(
            f"the parts had different numbers of steps ({counts}): train them anew with --from_scratch=true"
        )


def _end_to_end(cli: RunCLI) -> Side:
    """Train and evaluate the baseline in a run folder of its own."""
    run, config = cli.run.baseline(), cli.resolved()
    config["run"] = {"name": run.name, "root": run.root}
    from_scratch = cli.config.from_scratch
    if isinstance(cli.contract.terms.network, ViT):
        del config["model"]["block"]
        return _end_to_end_vit(run, config, from_scratch)
    config["contract"]["partition"] = {"num_blocks": 1, "overlap": 0.0}
    config["model"]["block"] = 0
    write_text(run.config, yaml.safe_dump(config, sort_keys=False))
    fit_blocks(run, [0], from_scratch)
    assemble(run)
    return evaluate_stack(run, "end_to_end")


def _end_to_end_vit(run: RunFolder, config: dict[str, Any], from_scratch: bool) -> Side:
    write_text(run.config, yaml.safe_dump(config, sort_keys=False))
    fit_part(run.config, ["--from_scratch", str(from_scratch).lower()], EndToEndViT)
    checkpoint = run.checkpoint("end_to_end")
    cli = BlockCLI(["test", "--config", str(run.config), "--ckpt_path", str(checkpoint)], EndToEndViT)
    assert isinstance(cli.model, EndToEndViT)
    contract = cli.model.contract
    state = read_part(checkpoint, "end_to_end", contract, "network.")
    part = {
        "part": "end_to_end",
        "layers": contract.terms.network.num_layers,
        "sigma_high": None,
        "sigma_low": None,
        **state.facts(),
    }
    return Side("end_to_end", [part], calls=[1], test=dict(cli.results[0]))
