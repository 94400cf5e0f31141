"""The paper's own training as a rival: one training of all blocks, assembled and evaluated as a run of blocks is."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dbl.commands.arms.derived_runs import derived_plain, total_passes
from dbl.commands.evaluate import evaluate_stack
from dbl.commands.fit import fit_and_free
from dbl.commands.run_config import RunConfig, write_config
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import ClassTarget
from dbl.denoising.targets.gaussian import GaussianTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.evaluation.report import Arm
from dbl.run.assembly import BlockReader, PartCheckpoint, assemble, read_part
from dbl.run.contract import Contract, ContractConfig
from dbl.run.folder import RunFolder
from dbl.run.model_config import Weights
from dbl.run.model_folder import load_into
from dbl.run.start import RandomStart
from dbl.training.baselines.paper import PaperTraining
from dbl.training.history import read_history
from dbl.training.memory.stored import read_memory
from dbl.utils.files import write_tensors
from dbl.utils.serialization import to_plain

PART = PaperTraining.part_name
_TABLE = "table"


@dataclass(frozen=True)
class Variant:
    """A training of all blocks together that differs from the paper's in some choices.

    Args:
        options: arguments of `PaperTraining`.
        own_noise: whether noise distribution, cuts and overlap are those of the run, not the paper's.
        own_target: whether readout and loss weight are those of the run, not the paper's.
        own_start: whether the sampler starts where that of the run does, not at noise.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    own_noise: bool = False
    own_target: bool = False
    own_start: bool = False

    def contract(self, chosen: ContractConfig) -> ContractConfig:
        """What the blocks agree on, from what those of the run do."""
        noise, partition, target = chosen.noise, chosen.partition, chosen.target
        if not self.own_noise:  # that of EDM; the paper's cuts and overlap (Sec. 3.3 and App. C)
            partition = replace(partition, scheme="equal_probability", boundaries=None, overlap=0.05)
            noise = LogNormalNoise(sigma_min=0.002, sigma_max=80.0, p_mean=-1.2, p_std=1.2)
        if not self.own_target and isinstance(target, GaussianTarget):
            read_by: dict[str, Any] = {"kind": "linear"} if isinstance(target, ClassTarget) else {}
            target = replace(target, sigma_data=0.5, weight="edm", **read_by)
        return replace(chosen, noise=noise, partition=partition, target=target, start=RandomStart())

    def sampler(self, chosen: Sampler) -> Sampler:
        """The sampler, from that of the run; it has its steps."""
        return chosen if self.own_start else replace(chosen, temperature=1.0)


PAPER = Variant()


def train_paper(
    config: RunConfig, run: RunFolder, steps: list[int], from_scratch: bool, variant: Variant = PAPER
) -> Arm:
    """Train all blocks of a run together, in this process, with the compute of the whole run, and evaluate them.

    Each block has, on average, the run's number of steps in its warm-up, and the run's horizon of the moving average: a
    step of this training is a step of one of B blocks.

    Args:
        config: config of the run.
        run: folder of the training, inside that of the run; the assembled network is in the run folder `blocks` there.
        steps: numbers of sampler steps with which to measure the quality as well.
        from_scratch: train anew what is trained already.
        variant: choices that differ from the paper's.
    """
    plain = _plain(config, run, variant)
    of_training = deepcopy(plain)
    del of_training["model"]["block"]
    of_training["model"] |= variant.options
    write_config(run.config, of_training)
    training = RunConfig.load(run.config, PaperTraining)
    print(f"{run.name}:", flush=True)
    fit_and_free(training, from_scratch)
    part = training.build().model
    stack = _assembled(part, load_training(part, run), run, plain)
    arm = evaluate_stack(stack, PART, steps)
    own, trained = config.contract_config, part.contract.config
    if (own.noise, own.target) != (trained.noise, trained.target):
        arm.test.pop("test/loss", None)  # of other levels, with another weight
    return _as_one_training(arm, part, run)


def _plain(config: RunConfig, run: RunFolder, variant: Variant) -> dict[str, Any]:
    """The plain values of a config for the network that is trained, as one of ordinary blocks."""
    contract = variant.contract(config.contract_config)
    num_blocks, layers = contract.partition.num_blocks, contract.partition.split(contract.network.num_layers)
    passes = sum(map(contract.network.layer_passes, layers)) / num_blocks
    plain = derived_plain(config, run, max(1, round(total_passes(config) / passes)))
    plain["contract"] |= {"noise": to_plain(contract.noise), "target": to_plain(contract.target)}
    plain["contract"]["partition"] = asdict(contract.partition)
    plain["inference"]["sampler"] = asdict(variant.sampler(config.inference.sampler))
    warmup = {"warmup_steps": num_blocks * config.recipe.warmup_steps}
    plain["model"]["recipe"] = (plain["model"]["recipe"] or {}) | warmup
    plain["ema"]["decay"] **= 1 / num_blocks
    return plain


def load_training(part: PaperTraining, run: RunFolder, weights: Weights = "ema") -> PartCheckpoint:
    """Load a trained network into its module, copies of shared parts averaged. Raises UserError if it is not there.

    Args:
        part: module of this training.
        run: its run folder.
        weights: averaged (`ema`) or live weights.
    """
    path = run.checkpoint(PART)
    checkpoint = read_part(path, PART, part.contract, "network.", weights)
    load_into(part.network, checkpoint.weights, path)
    part.network.synchronise()
    return checkpoint


def _assembled(part: PaperTraining, checkpoint: PartCheckpoint, run: RunFolder, plain: dict[str, Any]) -> RunFolder:
    """Write the trained blocks as the assembled network of a run of its own, which `dbl test` and others take."""
    stack, plain, table = RunFolder("blocks", str(run.path)), deepcopy(plain), part.contract.table
    plain["run"] = {"name": stack.name, "root": stack.root}
    rows = part.network.rows()
    if rows is not None:
        table, path = rows.detach(), run.part(PART) / "table.safetensors"
        write_tensors(path, {_TABLE: table})
        plain["contract"]["target"]["init_args"] |= {"table_file": str(path), "table_name": _TABLE}
    write_config(stack.config, plain)
    trained, chosen = part.contract, RunConfig.load(stack.config).contract_config
    # Not built anew: levels that were fitted to the first table are those of the training.
    stack.write_contract(Contract(chosen, trained.data, trained.noise, trained.partition, table))
    assemble(stack, read=_reader(part, checkpoint))
    return stack


def _reader(part: PaperTraining, checkpoint: PartCheckpoint) -> BlockReader:
    """What `assemble` reads of each block: its weights, and the share of the training in which it learned."""
    numbers = [0] * part.contract.partition.num_blocks
    for step in range(checkpoint.step):
        numbers[part.block_of(step)] += 1

    def read(_run: RunFolder, _contract: Contract, block: int, _weights: Weights) -> PartCheckpoint:
        share = numbers[block] / checkpoint.step
        return PartCheckpoint(
            step=numbers[block],
            max_steps=numbers[block] if checkpoint.complete else checkpoint.max_steps,
            samples=round(share * checkpoint.samples),
            layer_passes=checkpoint.layer_passes,
            seconds=share * checkpoint.seconds,
            weights=part.network.denoisers[block].state_dict(),
        )

    return read


def _as_one_training(arm: Arm, part: PaperTraining, run: RunFolder) -> Arm:
    """The arm with the parameters and the memory of all blocks at once, and the speed and losses of their training."""
    at_once = {"parameters": sum(parameter.numel() for parameter in part.network.parameters())}
    history = read_history(run.metrics(PART))
    arm.parts = [facts | at_once | history | {"part": f"{PART}/{facts['part']}"} for facts in arm.parts]
    arm.memory = [read_memory(run.memory(PART))] * len(arm.parts)
    return arm
