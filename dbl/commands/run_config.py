"""The config of a run, parsed once; what it describes is built when it is first used."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.schema import config_parser, parse, run_parser
from dbl.data import ResumableDataModule
from dbl.data.spec import ImageSpec, TextSpec
from dbl.inference.settings import InferenceConfig
from dbl.run.contract import Contract, ContractConfig
from dbl.run.folder import RunFolder
from dbl.training.block import DiffusionBlock
from dbl.training.config import TrainingConfig, check_precision
from dbl.training.distributed import check_strategy
from dbl.training.module import TrainingModule
from dbl.utils.errors import UserError
from dbl.utils.files import write_text


class RunConfig:
    """The values of a config, and the objects that they describe.

    Args:
        parsed: result of a parser made by `config_parser`; options that say what one call does are left out.
        part: class under `model`.

    Raises UserError when a group is first built, if its values do not fit together.
    """

    def __init__(self, parsed: Namespace, part: type[TrainingModule] = DiffusionBlock) -> None:
        self.part = part
        self._parser = config_parser(part)
        self.values = _only_keys_of(self._parser, parsed)  # the parsed keys
        seed = self.values.seed_everything
        if seed is not False:
            self.values.seed_everything = L.seed_everything(None if seed is True else seed, workers=True)

    @classmethod
    def load(cls, path: Path, part: type[TrainingModule] = DiffusionBlock) -> Self:
        """The config in a file that `write_config` wrote. Raises UserError if it is absent or damaged."""
        try:
            return cls(parse(config_parser(part), ["--config", str(path)]), part)
        except UnicodeDecodeError as error:  # the parser knows no other encoding, and does not catch this
            raise UserError(f"{path} is not UTF-8 text ({error.reason}): restore the file") from None

    @cached_property
    def groups(self) -> Namespace:
        """The groups that need nothing trained, built; `trainer` stays a group of arguments."""
        parser = run_parser()
        return parser.instantiate(parser.parse_object(_only_keys_of(parser, self.values)))

    def build(self) -> Namespace:
        """All objects of the config, the part to train among them."""
        return self._parser.instantiate(self.values)

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
        wants_gpu = self.values.trainer.accelerator in ("auto", "gpu", "cuda")
        return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"

    def check_task(self) -> None:
        """Raise UserError if the commands for whole runs cannot plan or report this training."""
        check_precision(self.values.trainer.precision)
        if not isinstance(self.data.declared_spec, ImageSpec | TextSpec):
            raise UserError(
                f"data.class_path: {type(self.data).__name__} has neither images nor text, and whole runs are reported "
                "on for these alone: use dbl fit for each block, then dbl assemble and dbl test"
            )

    def check_and_write(self) -> None:
        """Check what would otherwise fail only after training, and write `contract.json` and `config.yaml`.

        Raises UserError if the assembled network could not be used as `inference` asks.
        """
        self.check_task()
        limit = self.values.trainer.limit_test_batches
        if limit is not None and not (isinstance(limit, float) and limit == 1):  # the number 1 is one batch
            message = "trainer.limit_test_batches would leave test samples out of the report: use it with dbl test"
            raise UserError(message)
        self.inference.check(self.contract)
        self.groups.image_quality.prepare(self.data, self.contract_config.target.generates == "images")
        self.groups.text_quality.prepare(self.data)
        self.inference.sampler.calls_per_block(self.contract.noise, self.contract.partition)  # warns
        self.run.write_contract(self.contract)
        write_config(self.run.config, self.plain())

    def plain(self) -> dict[str, Any]:
        """The whole config as plain values, with all defaults."""
        return cast(dict[str, Any], yaml.safe_load(self._parser.dump(self.values, skip_unset=False)))


def write_config(path: Path, plain: dict[str, Any]) -> None:
    """Write the plain values of a whole config as YAML, for `RunConfig.load` and for `--config`."""
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def make_trainer(groups: Namespace, callbacks: Sequence[L.Callback], training: bool) -> L.Trainer:
    """The Trainer that the built groups of a config describe; the given callbacks come before those of the config."""
    options = dict(groups.trainer)
    options["callbacks"] = [*callbacks, *(options["callbacks"] or [])]
    options["max_time"] = None  # a training has a Timer of its own, which prints nothing
    options["logger"] = False if options["logger"] is None else options["logger"]
    options["default_root_dir"] = options["default_root_dir"] or str(groups.run.path)
    check_strategy(options["strategy"], training=training)
    return L.Trainer(**options)


def _only_keys_of(parser: LightningArgumentParser, values: Namespace) -> Namespace:
    known = vars(parser.get_defaults(skip_validation=True)).keys() - {"config", "from_scratch"}
    return Namespace({key: value for key, value in vars(values).items() if key in known})
