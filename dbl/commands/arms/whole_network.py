"""Training the network of a run end to end, beside its blocks, with its own recipe or another."""

from typing import Any

from dbl.commands.arms.derived_runs import as_one_block, derived_plain, total_passes
from dbl.commands.evaluate import evaluate_baseline, evaluate_stack
from dbl.commands.fit import fit_and_free
from dbl.commands.run_config import RunConfig, write_config
from dbl.evaluation.report import Arm
from dbl.run.assembly import assemble
from dbl.run.folder import RunFolder
from dbl.training.baselines import baseline_of


def train_whole_network(
    config: RunConfig,
    run: RunFolder,
    name: str,
    steps: list[int],
    from_scratch: bool,
    recipe: dict[str, Any] | None = None,
) -> Arm:
    """Train, in this process, and evaluate the whole network with the compute of the run, in a run folder of its own.

    Args:
        config: config of the run.
        run: folder of the training, inside that of the run.
        name: name of the arm.
        steps: numbers of sampler steps with which to measure the quality as well.
        from_scratch: train anew what is trained already.
        recipe: keys of `model.recipe` that differ from those of the run.
    """
    plain = derived_plain(config, run, steps_of_whole_network(config))
    plain["model"]["recipe"] = {**(plain["model"]["recipe"] or {}), **(recipe or {})}
    baseline = baseline_of(config.contract.config.network)
    if baseline is None:
        as_one_block(plain)
    else:
        del plain["model"]["block"]
    write_config(run.config, plain)
    if baseline is None:
        return trained_stack(RunConfig.load(run.config), name, steps, from_scratch)
    print(f"{name}:", flush=True)
    fit_and_free(RunConfig.load(run.config, baseline), from_scratch)
    return evaluate_baseline(run, name=name)


def trained_stack(config: RunConfig, name: str, steps: list[int], from_scratch: bool) -> Arm:
    """Train in this process, assemble and evaluate a network that is one block."""
    print(f"{name}:", flush=True)
    fit_and_free(config, from_scratch)
    assemble(config.run)
    return evaluate_stack(config.run, name, steps)


def steps_of_whole_network(config: RunConfig) -> int:
    """As many steps as make the same number of passes through layers as the blocks and their ancestors together."""
    return max(1, round(total_passes(config) / config.contract.config.network.baseline_passes()))
