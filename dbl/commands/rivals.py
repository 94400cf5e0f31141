"""Rivals that `dbl compare --rivals` trains beside the blocks, each with the compute of the whole run."""

from dbl.commands.derived_runs import derived_plain, total_passes
from dbl.commands.evaluate import evaluate_baseline
from dbl.commands.fit import fit_and_free
from dbl.commands.run_config import RunConfig, write_config
from dbl.evaluation.report import Arm
from dbl.run.contract import Contract
from dbl.training.baselines import RIVALS
from dbl.utils.errors import UserError, suggestion


def chosen_rivals(chosen: str | list[str] | None, contract: Contract) -> list[str]:
    """The names that `--rivals` gives, of rivals that can be made of the run's network; `all` names all of these.

    Raises UserError if there is no such rival, or it serves another kind of network.
    """
    network = contract.config.network
    possible = [name for name, kind in RIVALS.items() if isinstance(network, kind.serves)]
    if chosen == "all":
        return possible
    names = chosen.split(",") if isinstance(chosen, str) else chosen or []
    for name in names:
        if name not in RIVALS:
            raise UserError(f"--rivals: there is no {name[:40]!r}{suggestion(name, RIVALS)}")
        if name not in possible:
            raise UserError(
                f"--rivals {name} cannot be made of contract.network {type(network).__name__}: leave it out"
            )
    return list(dict.fromkeys(names))


def train_rivals(config: RunConfig, names: list[str], from_scratch: bool) -> list[Arm]:
    """Train in this process, and evaluate, each rival in a run folder of its own."""
    return [_train_rival(config, name, from_scratch) for name in names]


def _train_rival(config: RunConfig, name: str, from_scratch: bool) -> Arm:
    run, kind = config.run.rival(name), RIVALS[name]
    passes = kind(config.contract).layer_passes  # type: ignore[call-arg, arg-type]
    plain = derived_plain(config, run, max(1, round(total_passes(config) / passes)))
    del plain["model"]["block"]
    write_config(run.config, plain)
    print(f"{name}:", flush=True)
    fit_and_free(RunConfig.load(run.config, kind), from_scratch)
    return evaluate_baseline(run, name)
