"""The config of a whole run: parsed, its contract settled, what could fail later checked."""

from functools import cached_property
from typing import Literal, cast

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.fit import BlockCLI
from dbl.data import ResumableDataModule
from dbl.data.spec import ImageSpec, TextSpec
from dbl.evaluation.callbacks.image_quality import ImageQuality
from dbl.evaluation.callbacks.text_quality import TextQuality
from dbl.inference.settings import InferenceConfig
from dbl.run.contract import Contract, ContractConfig
from dbl.run.folder import RunFolder
from dbl.training.config import TrainingConfig, check_precision
from dbl.utils.errors import UserError
from dbl.utils.files import write_text


class RunCLI(BlockCLI):
    """Parses the config of a whole run.

    Args:
        arguments: the command line without program and command.

    Attributes:
        run: where the files go.
        contract_config: what the blocks agree on, as chosen.
        data: the clean DataModule; nothing is read before it is asked for.
        inference: how the assembled network is used.
        image_quality: how generated images are judged.
        text_quality: how generated text is judged.

    Raises:
        UserError: if the config is wrong.
    """

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments, run=False)
        built = self.without_part()
        self.run: RunFolder = built.run
        self.contract_config: ContractConfig = built.contract
        self.data: ResumableDataModule = built.data
        self.inference: InferenceConfig = built.inference
        self.image_quality: ImageQuality = built.image_quality
        self.text_quality: TextQuality = built.text_quality

    @cached_property
    def contract(self) -> Contract:
        """What the blocks agree on; UserError if it differs from that of blocks that are trained already."""
        return self.run.load_or_build_contract(self.contract_config, self.data.spec)

    @cached_property
    def recipe(self) -> TrainingConfig:
        """How a part is trained."""
        if self.config.model.get("recipe") is None:
            return TrainingConfig()
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_class_arguments(TrainingConfig, "recipe")
        built = parser.instantiate_classes(parser.parse_object({"recipe": self.config.model.recipe}))
        return cast(TrainingConfig, built.recipe)

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """What the trainer will use, as far as memory can be planned for it."""
        wants_gpu = self.config.trainer.accelerator in ("auto", "gpu", "cuda")
        return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"

    def check_task(self) -> None:
        """Raise UserError if the commands for whole runs cannot plan or report this training."""
        check_precision(self.config.trainer.precision)
        if not isinstance(self.data.declared_spec, ImageSpec | TextSpec):
            raise UserError(
                f"data.class_path: {type(self.data).__name__} has neither images nor text, and whole runs are reported "
                "on for these alone: use dbl fit for each block, then dbl assemble and dbl test"
            )

    def freeze(self) -> None:
        """Write `contract.json` and `config.yaml`, once what could fail after the training is checked.

        Raises:
            UserError: if the assembled network could not be used as `inference` asks.
        """
        self.check_task()
        limit = self.config.trainer.limit_test_batches
        if limit is not None and not (isinstance(limit, float) and limit == 1):  # the number 1 is one batch
            raise UserError(
                "trainer.limit_test_batches would leave test samples out of the report: use it with dbl test"
            )
        self.inference.check(self.contract)
        self.image_quality.prepare(self.data, self.contract_config.target.generates == "images")
        self.text_quality.prepare(self.data)
        self.inference.sampler.calls_per_block(self.contract.noise, self.contract.partition)  # warns
        self.run.write_contract(self.contract)
        write_text(self.run.config, yaml.safe_dump(self.resolved(), sort_keys=False))
