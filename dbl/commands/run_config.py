"""The config of a run, parsed once; what it describes is built when it is first used."""

import re
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dbl.commands.devices import check_devices, read_devices
from dbl.commands.logs.profiling import profiler_of
from dbl.commands.logs.user_loggers import check_loggers
from dbl.commands.null_values import check_nulls
from dbl.commands.parsing import parse
from dbl.commands.schema import config_parser, run_parser
from dbl.commands.trainer_options import check_trainer_options
from dbl.data import ResumableDataModule
from dbl.data.spec import ImageSpec, TextSpec, VectorSpec
from dbl.run.contract import Contract, ContractConfig
from dbl.run.folder import RunFolder
from dbl.run.hub.shared_training import RELATIVE_STEPS, steps_of_blocks
from dbl.run.inference import InferenceConfig
from dbl.training.block import DiffusionBlock, check_adapters
from dbl.training.config import TrainingConfig, check_precision
from dbl.training.distributed import check_strategy
from dbl.training.module import TrainingModule
from dbl.utils.checks import check_number, shown
from dbl.utils.errors import UserError
from dbl.utils.files import write_text

# File systems allow 255; temporary files beside it have longer names.
_MAX_NAME_BYTES = 200


class RunConfig:
    """The values of a config, and the objects that they describe.

    Args:
        parsed: result of a parser made by `config_parser`; options that say what one call does are left out.
        part: class under `model`.

    Raises UserError for single values that cannot be meant, and, when a group is first built, if its values do not fit
    together.
    """

    def __init__(self, parsed: Namespace, part: type[TrainingModule] = DiffusionBlock) -> None:
        self.part = part
        self._parser = _parser_of(part)
        self.values = _only_keys_of(self._parser, parsed)  # the parsed keys
        self._check_values()
        seed = self.values.seed_everything
        if seed is not False:
            self.values.seed_everything = L.seed_everything(None if seed is True else seed, workers=True)

    @classmethod
    def load(cls, path: Path, part: type[TrainingModule] = DiffusionBlock) -> Self:
        """The config in a file that `write_config` wrote. Raises UserError if it is absent or damaged."""
        return cls(parse(_parser_of(part), ["--config", str(path)]), part)

    def _check_values(self) -> None:
        for name, default in vars(self._parser.get_defaults(skip_validation=True)).items():
            value = self.values.get(name)
            if isinstance(default, Namespace) and not isinstance(value, Namespace):
                raise UserError(f"{name} ({shown(value)}) must be a group of keys")
        if self.values.run.get("name") is None:
            self.values.run.name = self._name_of_run()
        check_nulls(self._parser, self.values)
        check_trainer_options(self.values.trainer)
        self.values.trainer.devices = read_devices(self.values.trainer.devices)
        check_run_name(self.values.run.name)
        check_root(self.values.run.root)
        seed = self.values.seed_everything
        if not isinstance(seed, bool):
            check_number("seed_everything", seed, at_least=0, below=2**32)

    def _name_of_run(self) -> str:
        """A name after data and network, for a run that was given none."""
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_lightning_class_args(ResumableDataModule, "data", subclass_mode=True)
        data = parser.instantiate(parser.parse_object({"data": self.values.data})).data
        network = self.values.contract.network.class_path.rpartition(".")[2]
        return re.sub(r"[^\w.-]", "_", f"{data.name}_{network.lower()}")

    @cached_property
    def groups(self) -> Namespace:
        """The groups that need nothing trained, built; `trainer` stays a group of arguments."""
        parser = _parser_of_groups()
        return parser.instantiate(parser.parse_object(_only_keys_of(parser, self._without_loggers())))

    def build(self) -> Namespace:
        """All objects of the config, the part to train among them."""
        return self._parser.instantiate(self._without_loggers())

    def _without_loggers(self) -> Namespace:
        """The values without loggers, which are built for the part that they log alone, by its name."""
        values = self.values.clone()
        values.trainer.logger = None
        if isinstance(values.trainer.callbacks, Namespace):  # one, without the brackets of a list
            values.trainer.callbacks = [values.trainer.callbacks]
        return values

    def release(self) -> None:
        """Forget what was built, such as data and tables, before others train; it is built again when it is used."""
        for name in ("groups", "contract", "recipe"):
            self.__dict__.pop(name, None)

    @property
    def logger(self) -> Any:
        """Parsed value of `trainer.logger`; UserError if a package is missing."""
        check_loggers(self.values.trainer.logger)
        return self.values.trainer.logger

    @property
    def run(self) -> RunFolder:
        """Where the files go."""
        return cast(RunFolder, self.groups.run)

    @property
    def contract_config(self) -> ContractConfig:
        """What the blocks agree on, as the user chose it."""
        return cast(ContractConfig, self.groups.contract)

    @property
    def data(self) -> ResumableDataModule:
        """The clean DataModule; it reads nothing before it is asked for a split or its spec."""
        return cast(ResumableDataModule, self.groups.data)

    @property
    def inference(self) -> InferenceConfig:
        """How the assembled network is used."""
        return cast(InferenceConfig, self.groups.inference)

    @cached_property
    def contract(self) -> Contract:
        """What the blocks agree on; UserError if blocks of this run were trained under another contract."""
        return self._build_contract()

    def _build_contract(self) -> Contract:
        return self.run.load_or_build_contract(self.contract_config, self.data.spec)

    @cached_property
    def recipe(self) -> TrainingConfig:
        """How a part is trained."""
        if self.values.model.get("recipe") is None:
            return TrainingConfig()
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_class_arguments(TrainingConfig, "recipe")
        built = parser.instantiate(parser.parse_object({"recipe": self.values.model.recipe}))
        return cast(TrainingConfig, built.recipe)

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """What the trainer will use, as far as memory can be planned for it."""
        return "cuda" if _uses_cuda(self.values.trainer.accelerator) else "cpu"

    def check_task(self) -> None:
        """Raise UserError if the commands for whole runs cannot plan or report this training."""
        check_precision(self.values.trainer.precision)
        if not isinstance(self.data.declared_spec, ImageSpec | TextSpec | VectorSpec):
            raise UserError(
                f"data.class_path: {type(self.data).__name__} has neither images, vectors nor text, and whole runs are "
                "reported on for these alone: use dbl fit for each block, then dbl assemble and dbl test"
            )

    @property
    def steps(self) -> list[int]:
        """Number of optimizer steps of each block."""
        blocks = self.contract_config.partition.num_blocks
        return steps_of_blocks(int(self.values.trainer.max_steps), blocks, self.values.get("relative_steps"))

    def check_steps(self) -> None:
        """Raise UserError if the length of the training is not set, or not that of each block."""
        if self.values.trainer.max_steps < 1:
            raise UserError("trainer.max_steps must be set: the number of optimizer steps of each block")
        blocks, relative = self.contract_config.partition.num_blocks, self.values.get("relative_steps")
        if relative is not None and (len(relative) != blocks or not all(map(RELATIVE_STEPS.allows, relative))):
            raise UserError(
                f"relative_steps ({shown(relative)}) must be null, or {blocks} numbers, each {RELATIVE_STEPS}"
            )

    def check(self) -> None:
        """Check what would otherwise fail only after training.

        Raises UserError if the assembled network could not be used as `inference` asks.
        """
        self.check_task()
        self.check_steps()
        check_loggers(self.values.trainer.logger)
        limit = self.values.trainer.limit_test_batches
        if limit is not None and not (isinstance(limit, float) and limit == 1):  # the number 1 is one batch
            message = "trainer.limit_test_batches would leave test samples out of the report: use it with dbl test"
            raise UserError(message)
        self.inference.check(self.contract)
        self.recipe.make_optimizer(_one_layer())  # refuses its arguments
        if self.recipe.lora is not None:
            check_adapters(self.contract, self.recipe)
        if "block" in self.values.model:
            self.contract.partition.check_block(self.values.model.block)
        self.groups.image_quality.prepare(self.data, self.contract_config.target.generates == "images")
        self.groups.text_quality.prepare(self.data)
        self.inference.sampler.calls_per_block(self.contract.noise, self.contract.partition)  # warns

    def write(self) -> None:
        """Write `contract.json` and `config.yaml`; the run from which the blocks start must be there by now."""
        self.contract = self._build_contract()
        self.run.write_contract(self.contract)
        write_config(self.run.config, self.plain())

    def plain(self) -> dict[str, Any]:
        """The whole config as plain values, with all defaults."""
        text = self._parser.dump(self.values, skip_unset=False, skip_validation=True)  # they were checked when parsed
        return cast(dict[str, Any], yaml.safe_load(text))


# A whole run reads a dozen configs, and each of these takes as long to make as a config to read.
_parser_of_groups = cache(run_parser)


@cache
def _parser_of(part: type[TrainingModule]) -> LightningArgumentParser:
    return config_parser(part=part)


def _one_layer() -> torch.nn.Module:
    """The smallest network with a residual layer, which some optimizers need."""
    return torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(1, 1)])})


def write_config(path: Path, plain: dict[str, Any]) -> None:
    """Write the plain values of a whole config as YAML, for `RunConfig.load` and for `--config`."""
    write_text(path, dump(plain))


def dump(plain: dict[str, Any]) -> str:
    """The plain values of a whole config as YAML."""
    return yaml.safe_dump(plain, sort_keys=False)


def check_run_name(name: str) -> None:
    """Raise UserError unless the name is that of one folder: files outside it would be written."""
    is_folder = name not in ("", ".", "..") and not set(name) & set("/\\\0") and name.isprintable()
    if not is_folder or len(name.encode()) > _MAX_NAME_BYTES:
        raise UserError(
            f"run.name ({name[:40]!r}) must be the name of one folder, of 1 to {_MAX_NAME_BYTES} bytes and without /: "
            "give its place by run.root"
        )


def check_root(root: str) -> None:
    """Raise UserError if no folder can be made there."""
    if not root or not root.isprintable():
        raise UserError(f"run.root ({root[:40]!r}) must be a folder, such as runs")
    nearest = next((path for path in (Path(root), *Path(root).parents) if path.exists()), Path())
    if not nearest.is_dir():
        raise UserError(f"run.root ({root}) must be a folder, and {nearest} is a file: give another one")


def make_trainer(groups: Namespace, callbacks: Sequence[L.Callback], training: bool, folder: Path) -> L.Trainer:
    """The Trainer that the built groups of a config describe, as yet without loggers.

    The given callbacks come before those of the config; `folder` is that of a part or a report, for a profiler. On CUDA
    it also sets the process's precision of float32 matrix products.
    """
    options = dict(groups.trainer)
    options["callbacks"] = [*callbacks, *(options["callbacks"] or [])]
    options["max_time"] = None  # a training has a Timer of its own, which prints nothing
    options["logger"] = False  # see `logging_to`
    options["profiler"] = profiler_of(options["profiler"], folder)
    options["default_root_dir"] = options["default_root_dir"] or str(groups.run.path)
    check_strategy(options["strategy"], training=training)
    check_devices(options)
    if _uses_cuda(options["accelerator"]):
        torch.set_float32_matmul_precision(groups.float32_matmul_precision)
    try:
        return L.Trainer(**options)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from error


def _uses_cuda(accelerator: object) -> bool:
    """Whether a trainer with this accelerator would use CUDA."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _only_keys_of(parser: LightningArgumentParser, values: Namespace) -> Namespace:
    known = vars(parser.get_defaults(skip_validation=True)).keys() - {"config"}
    return Namespace({key: value for key, value in vars(values).items() if key in known})
