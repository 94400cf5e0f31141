"""Rivals that `dbl compare --rivals` trains beside the blocks, each with the compute of the whole run."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from dbl.commands.arms.derived_runs import as_one_block, derived_plain, total_passes, train_ancestors
from dbl.commands.arms.paper import PART as PAPER, train_paper
from dbl.commands.arms.whole_network import steps_of_whole_network, train_whole_network, trained_stack
from dbl.commands.evaluate import evaluate_baseline, evaluate_stack
from dbl.commands.fit import fit_and_free
from dbl.commands.launch.launcher import Launch
from dbl.commands.run_config import RunConfig, write_config
from dbl.evaluation.report import Arm
from dbl.run.assembly import assemble
from dbl.run.folder import RunFolder
from dbl.training.baselines import RIVALS, PaperTraining, rival_of
from dbl.training.baselines.windows import WindowedDenoiser
from dbl.training.memory.planner import Planner
from dbl.training.recipes import RECIPES
from dbl.utils.checks import Number
from dbl.utils.errors import UserError, suggestion

# Before the name of a recipe: the blocks of the run with it, instead of the whole network.
IN_BLOCKS = "blocks+"
_LR = Number(above=0, at_most=1000)
_ROUNDS = 3  # of BAdam over all layers, at least, in a training that is long enough


class Rivals(NamedTuple):
    """The rivals of a run.

    Attributes:
        names: those to train or plan, in the order in which they were given.
        left_out: those that `all` leaves out, and why.
    """

    names: list[str]
    left_out: dict[str, str]

    def lines(self) -> list[str]:
        """What was left out, a line each."""
        return [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]


def choose_rivals(chosen: str | list[str] | None, known: Iterable[str], against: Callable[[str], str | None]) -> Rivals:
    """The rivals that `--rivals` names; `all` names all that are known and nothing is against.

    Raises UserError if there is no such rival, or something is against one that is named.

    Args:
        chosen: value of the option.
        known: names without `blocks+`.
        against: reason for which a rival cannot be had here, if there is any.
    """
    known, names = list(known), list[str]()
    left_out: dict[str, str] = {}
    for name in chosen.split(",") if isinstance(chosen, str) else chosen or []:
        if name == "all":
            reasons = {each: against(each) for each in known}
            left_out |= {each: reason for each, reason in reasons.items() if reason}
            names += [each for each, reason in reasons.items() if not reason]
            continue
        if name.removeprefix(IN_BLOCKS) not in known:
            raise UserError(f"--rivals: there is no {name[:40]!r}{suggestion(name, known)}")
        reason = against(name)
        if reason:
            raise UserError(f"--rivals {name}: {reason}")
        names.append(name)
    return Rivals(list(dict.fromkeys(names)), left_out)


def rivals_to_train(chosen: str | list[str] | None, config: RunConfig) -> Rivals:
    """Those that `dbl compare` trains; see `choose_rivals`."""
    contract = config.contract
    planner = Planner(contract.config, contract.data, config.recipe)

    def against(name: str) -> str | None:
        if name in RIVALS:
            network = contract.config.network
            return None if rival_of(name, network) else _unsuited(network)
        if name == PAPER:
            return PaperTraining.refusal(contract)
        if name.removeprefix(IN_BLOCKS) in (PAPER, *RIVALS):
            return "it has no blocks of its own"
        recipe = RECIPES[name.removeprefix(IN_BLOCKS)]
        return recipe.only_planned or recipe.missing() or planner.refusal(name.removeprefix(IN_BLOCKS))

    return choose_rivals(chosen, [PAPER, *RIVALS, *RECIPES], against)


def rivals_to_plan(chosen: str | list[str] | None, planner: Planner) -> Rivals:
    """Those that `dbl plan` plans, end to end and in blocks; see `choose_rivals`."""
    return choose_rivals(chosen, RECIPES, lambda name: _against_planning(name, planner))


def _against_planning(name: str, planner: Planner) -> str | None:
    if name.startswith(IN_BLOCKS):
        return f"name it {name.removeprefix(IN_BLOCKS)}, which is planned in blocks too"
    return RECIPES[name].missing() or planner.refusal(name)


def _unsuited(network: object) -> str:
    return f"it cannot be made of contract.network {type(network).__name__}"


def check_learning_rates(rates: Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    """The learning rates of `--rival_lr`. Raises UserError if one is not positive, or for no rival that is trained."""
    trained = {name.removeprefix(IN_BLOCKS) for name in names}
    optimizers = [name for name in trained if name in RECIPES and RECIPES[name].optimizer]
    for name, rate in (rates or {}).items():
        if name not in optimizers:
            raise UserError(f"--rival_lr.{name[:40]}: --rivals names no such optimizer{suggestion(name, optimizers)}")
        if not _LR.allows(rate):
            raise UserError(f"--rival_lr.{name} ({rate}) must be {_LR}")
    return dict(rates or {})


def train_rivals(
    config: RunConfig,
    launch: Launch,
    names: list[str],
    rates: Mapping[str, float],
    steps: list[int],
    from_scratch: bool,
) -> list[Arm]:
    """Train and evaluate each rival in a run folder of its own: blocks by the backend, all others in this process.

    Args:
        config: config of the run.
        launch: place where blocks are trained.
        names: names of the rivals.
        rates: learning rates of those that do not use their default one.
        steps: numbers of sampler steps with which to measure the quality as well.
        from_scratch: train anew what is trained already.
    """
    arms = []
    for name in names:
        if name in RIVALS:
            arms.append(_train_method(config, name, steps, from_scratch))
            continue
        if name == PAPER:
            arms.append(train_paper(config, config.run.rival(name), steps, from_scratch))
            continue
        recipe = _changes(config, name, rates)
        print(f"{name}: {_described(config, recipe)}", flush=True)
        if name.startswith(IN_BLOCKS):
            arms.append(_train_blocks(config, launch, name, recipe, steps, from_scratch))
        else:
            run = config.run.rival(name)
            arms.append(train_whole_network(config, run, name, steps, from_scratch, recipe))
    return arms


def _changes(config: RunConfig, name: str, rates: Mapping[str, float]) -> dict[str, Any]:
    """The keys of `model.recipe` in which a rival differs from the run."""
    short = name.removeprefix(IN_BLOCKS)
    recipe = RECIPES[short]
    changes: dict[str, Any] = {"activation_checkpointing": True} if recipe.checkpointing else {}
    if recipe.optimizer is None:
        return changes
    arguments = recipe.arguments(getattr(config.recipe.optimizer, "keywords", {}), rates.get(short))
    if short == "badam":
        layers = config.contract.config.network.num_layers
        shortest = min(config.steps) if name.startswith(IN_BLOCKS) else steps_of_whole_network(config)
        arguments["switch_every"] = min(50, max(1, shortest // (_ROUNDS * (layers + 1))))
        arguments |= _first_phase(config, short, name.startswith(IN_BLOCKS))
    return {"optimizer": {"class_path": recipe.optimizer, "init_args": arguments}, **changes}


def _first_phase(config: RunConfig, name: str, in_blocks: bool) -> Mapping[str, Any]:
    """The phase to begin with, so that the measured step is one that needs the most memory."""
    precision = str(config.values.trainer.precision)
    planner = Planner(config.contract.config, config.contract.data, config.recipe, precision, config.device)
    make = partial(planner.block, config.contract_config.partition) if in_blocks else planner.end_to_end
    return planner.neediest_phase(name, make, config.data.batch_size)


def _described(config: RunConfig, changes: Mapping[str, Any]) -> str:
    """What a rival changes, for the reader of the log."""
    if "optimizer" not in changes:
        return "the run's own optimizer, activation checkpointing"
    optimizer = changes["optimizer"]
    own = getattr(config.recipe.optimizer, "keywords", {}).get("lr")
    kind, arguments = optimizer["class_path"].rpartition(".")[2], optimizer["init_args"]
    return f"{kind}, learning rate {arguments['lr']:.3g} (the run's own: {own})"


def _train_method(config: RunConfig, name: str, steps: list[int], from_scratch: bool) -> Arm:
    """A network of another method."""
    run, kind = config.run.rival(name), rival_of(name, config.contract_config.network)
    assert kind is not None
    if issubclass(kind, WindowedDenoiser):
        return _train_windows(config, run, name, steps, from_scratch)
    passes = kind(config.contract).layer_passes  # type: ignore[call-arg, arg-type]
    plain = derived_plain(config, run, max(1, round(total_passes(config) / passes)))
    del plain["model"]["block"]
    write_config(run.config, plain)
    print(f"{name}:", flush=True)
    fit_and_free(RunConfig.load(run.config, kind), from_scratch)
    return evaluate_baseline(run, name)


def _train_windows(config: RunConfig, run: RunFolder, name: str, steps: list[int], from_scratch: bool) -> Arm:
    """The whole network as one denoiser for all levels, in windows of the size of a block."""
    width = max(config.contract.partition.layers)
    passes = config.contract_config.network.layer_passes(width)
    plain = derived_plain(config, run, max(1, round(total_passes(config) / passes)))
    as_one_block(plain)
    del plain["model"]["block"]
    write_config(run.config, plain)
    training = RunConfig.load(run.config, WindowedDenoiser)
    training.values.model.width = width  # not in the file, which is that of a run of one block
    return trained_stack(training, name, steps, from_scratch)


def _train_blocks(
    config: RunConfig, launch: Launch, name: str, recipe: dict[str, Any], steps: list[int], from_scratch: bool
) -> Arm:
    """The blocks of the run, and what comes before them, with another recipe."""
    run, plain = config.run.rival(name), config.plain()
    plain["run"] = {"name": run.name, "root": run.root}
    plain["model"]["recipe"] = {**(plain["model"]["recipe"] or {}), **recipe}
    write_config(run.config, plain)
    of_rival = RunConfig.load(run.config)
    train_ancestors(of_rival, launch, from_scratch)
    of_rival.write()
    launch.train(run, list(range(of_rival.contract.partition.num_blocks)), of_rival.steps, from_scratch)
    assemble(run)
    return evaluate_stack(run, name, steps)
