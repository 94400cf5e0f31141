"""The config of a whole run: parsed, its contract settled, its parts trained one after another in this process."""

import gc
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from dbl.block import DiffusionBlock
from dbl.callbacks import ImageQuality, TextQuality
from dbl.commands.block_cli import BlockCLI
from dbl.contract import Contract, Terms
from dbl.data import OrderedData
from dbl.errors import UserError
from dbl.files import write_text
from dbl.run_folder import RunFolder
from dbl.stack import Inference
from dbl.targets import PixelTarget
from dbl.training import Recipe, TrainedPart, check_precision


class RunCLI(BlockCLI):
    """Parses the config of a whole run.

    Args:
        arguments: the command line without program and command.

    Attributes:
        run: where the files go.
        terms: what the blocks agree on, as chosen.
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
        self.terms: Terms = built.contract
        self.data: OrderedData = built.data
        self.inference: Inference = built.inference
        self.image_quality: ImageQuality = built.image_quality
        self.text_quality: TextQuality = built.text_quality

    @cached_property
    def contract(self) -> Contract:
        """What the blocks agree on; UserError if it differs from that of blocks that are trained already."""
        return self.run.settle(self.terms, self.data.spec)

    @cached_property
    def recipe(self) -> Recipe:
        """How a part is trained."""
        if self.config.model.get("recipe") is None:
            return Recipe()
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Recipe, "recipe")
        built = parser.instantiate_classes(parser.parse_object({"recipe": self.config.model.recipe}))
        return cast(Recipe, built.recipe)

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """What the trainer will use, as far as memory can be planned for it."""
        wants_gpu = self.config.trainer.accelerator in ("auto", "gpu", "cuda")
        return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"

    def freeze(self) -> None:
        """Write `contract.json` and `config.yaml`, once what could fail after the training is checked.

        Raises:
            UserError: if the assembled network could not be used as `inference` asks, or several devices are asked for.
        """
        if self.config.trainer.devices not in (1, "1", "auto"):
            raise UserError(
                f"trainer.devices={self.config.trainer.devices}: use 1 here, or dbl fit for a block on several"
            )
        check_precision(self.config.trainer.precision)
        limit = self.config.trainer.limit_test_batches
        if limit is not None and not (isinstance(limit, float) and limit == 1):  # the number 1 is one batch
            raise UserError(
                "trainer.limit_test_batches would leave test samples out of the report: use it with dbl test"
            )
        self.inference.check(self.contract)
        self.image_quality.prepare(self.data, isinstance(self.terms.target, PixelTarget))
        self.text_quality.prepare(self.data)
        self.inference.sampler.calls_per_block(self.contract.noise, self.contract.partition)  # warns
        self.run.write_contract(self.contract)
        write_text(self.run.config, yaml.safe_dump(self.resolved(), sort_keys=False))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The groups of a run, and which blocks to train where."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--blocks", type=str, default="all", help="Blocks to train: all, or a list such as 0,2.")
        parser.add_argument(
            "--backend",
            type=Literal["inline"],
            default="inline",
            help="inline: one block after another in this process.",
        )

    def chosen_blocks(self) -> list[int]:
        """The blocks that `--blocks` names; UserError if there is no such block."""
        text = str(self.config.blocks)
        if text == "all":
            return list(range(self.contract.partition.num_blocks))
        try:
            blocks = [int(part) for part in text.split(",")]
        except ValueError:
            raise UserError(f"--blocks {text} must be `all` or block numbers such as 0,2") from None
        for block in blocks:
            self.contract.partition.check_block(block)
        return blocks


def fit_part(config: Path, options: list[str], part: type[TrainedPart] = DiffusionBlock) -> None:
    """Run `dbl fit` with a resolved config: the one way in which any part of any run is trained."""
    BlockCLI(["fit", "--config", str(config), *options], part)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fit_blocks(run: RunFolder, blocks: list[int], from_scratch: bool = False) -> None:
    """Train blocks one after another in this process, freeing each; those that are trained already are left alone."""
    for block in blocks:
        fit_part(run.config, ["--model.block", str(block), "--from_scratch", str(from_scratch).lower()])
