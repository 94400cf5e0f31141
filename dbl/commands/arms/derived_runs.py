"""Runs inside a run, whose configs follow from its own: its ancestors, and one block of its size for all levels."""

import warnings
from dataclasses import asdict
from typing import Any

from dbl.commands.launch.launcher import Launch
from dbl.commands.run_config import RunConfig, write_config
from dbl.run.assembly import assemble
from dbl.run.contract import ContractConfig
from dbl.run.folder import RunFolder
from dbl.run.start import RandomStart
from dbl.utils.errors import DblWarning, UserError
from dbl.utils.serialization import to_plain


def train_ancestors(config: RunConfig, launch: Launch, from_scratch: bool = False) -> bool:
    """Train and assemble the runs from which the blocks of a run start, the first of them first.

    Once a block has started from an ancestor, it stays as it is.

    Args:
        config: config of the run.
        launch: place where blocks are trained; the ancestor's are trained like those of any run.
        from_scratch: train anew what is trained already.

    Returns:
        Whether the blocks can start; not in a dry run, which trains nothing.
    """
    ancestor = ancestor_of(config)
    if ancestor is None or config.run.is_bound():
        return True
    if not train_ancestors(ancestor, launch, from_scratch):
        return False
    ancestor.check()
    ancestor.write()
    launch.train(ancestor.run, list(range(ancestor.contract.partition.num_blocks)), ancestor.steps, from_scratch)
    if not launch.dry_run:
        assemble(ancestor.run)
    return not launch.dry_run


def ancestor_of(config: RunConfig) -> RunConfig | None:
    """The run from which the blocks of a run start; None if they start from random weights.

    Its blocks together take the configured share of the compute of the whole run, those before it included.
    """
    chosen = config.contract_config
    contract = chosen.ancestor()
    if contract is None:
        return None
    share = chosen.start.share
    steps = share / (1 - share) * sum(config.steps) * (1 - contract.start.share) / contract.partition.num_blocks
    return _derived(config, config.run.ancestor(), contract, max(1, round(steps)))


def one_block_of(config: RunConfig) -> RunConfig | None:
    """One network of the size of a block for all levels, trained with the compute of the whole run.

    It is the strongest rival of the same memory. None if the run itself has one block alone, or, with a warning, if
    the network cannot be made so small.
    """
    chosen = config.contract_config
    if chosen.partition.num_blocks == 1:
        return None
    try:
        contract = chosen.with_num_blocks(1, RandomStart())
    except UserError as error:
        warnings.warn(f"no comparison with one block for all levels: {error}", DblWarning, stacklevel=2)
        return None
    passes = contract.network.layer_passes(contract.network.num_layers)
    return _derived(config, config.run.one_block(), contract, max(1, round(total_passes(config) / passes)))


def total_passes(config: RunConfig) -> float:
    """Compute of a whole run per sample of a batch, with that of its ancestors; see `Architecture.layer_passes`."""
    chosen = config.contract_config
    layers = chosen.partition.split(chosen.network.num_layers)
    own = sum(steps * chosen.network.layer_passes(number) for steps, number in zip(config.steps, layers, strict=True))
    ancestor = ancestor_of(config)
    return own + (total_passes(ancestor) if ancestor else 0.0)


def derived_plain(config: RunConfig, run: RunFolder, max_steps: int) -> dict[str, Any]:
    """The plain values of a config for another run, of one part with a length of its own and random weights."""
    plain = config.plain()
    plain["run"] = {"name": run.name, "root": run.root}
    plain["trainer"]["max_steps"] = max_steps
    plain["relative_steps"] = None
    plain["model"]["block"] = 0
    plain["contract"]["start"] = to_plain(RandomStart())
    # There is no teacher, and nothing to adapt.
    plain["model"]["recipe"] = {**(plain["model"]["recipe"] or {}), "distillation": 0.0, "lora": None}
    return plain


def as_one_block(plain: dict[str, Any]) -> None:
    """Make the config of a run that of its whole network as one denoiser for all levels."""
    plain["contract"]["partition"] = {"num_blocks": 1, "overlap": 0.0}


def _derived(config: RunConfig, run: RunFolder, contract: ContractConfig, max_steps: int) -> RunConfig:
    """The config of a run inside a run, which differs in contract and length."""
    plain = derived_plain(config, run, max_steps)
    plain["contract"] |= _plain_contract(contract)
    write_config(run.config, plain)
    return RunConfig.load(run.config)


def _plain_contract(contract: ContractConfig) -> dict[str, Any]:
    """What a derived run has of its own, as in a config."""
    parts = {"network": to_plain(contract.network), "start": to_plain(contract.start)}
    return parts | {"partition": asdict(contract.partition)}
