"""The assembled network as users see it: a run from its folder, images, classes and text."""

from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dbl.data.spec import VectorSpec
from dbl.data.text.tokenizer import Tokenizer
from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.targets.classes import condition_of
from dbl.inference.chain import BlockChain
from dbl.inference.labels import Labels, labels_in_turn
from dbl.inference.pixels import to_raw, to_unit
from dbl.inference.precision import computing_in
from dbl.inference.vectors import to_vectors
from dbl.inference.writing import Writer
from dbl.run.contract import Contract
from dbl.run.hub.library import find_model
from dbl.run.inference import InferenceConfig
from dbl.run.model_config import Weights
from dbl.run.model_folder import ModelFolder
from dbl.utils.checks import SEED, check_number, check_numbers
from dbl.utils.errors import UserError

# What a stack makes -> how it is asked for.
_METHODS = {"images": "generate()", "classes": "classify()", "text": "write()"}


class BlockStack(BlockChain):
    """All blocks of a run as one denoiser that samples, classifies and writes text.

    To evaluate it with a Lightning Trainer, wrap it in `dbl.StackEvaluation`. Raises UserError if `inference` does not
    fit the contract, or needs all blocks of a stack that lacks some.

    Args:
        contract: contract of the blocks.
        load: function that gives the denoiser of a block, ready for inference.
        inference: settings of its use; None: `default_inference`, the sampler of the contract's target.
        weights: kind of weights that `load` gives, for reports: `ema` or `live`.
        available: blocks that `load` can give; None: all. A stack that lacks blocks refuses their levels.
        load_tokenizer: function that gives the tokenizer of the texts that the stack writes.

    `stack.to("cuda")` moves it, and `stack.to(torch.bfloat16)` converts the parameters of its networks: it then takes
    half of their memory, and answers up to rounding as before. Tables and statistics of the data stay in float32.

    Example:
        >>> import dbl, torch
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> blocks = [dbl.DiffusionBlock(contract, block) for block in range(3)]  # not trained here
        >>> sampler = dbl.Sampler(num_steps=6)
        >>> stack = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval(), dbl.InferenceConfig(sampler))
        >>> images = stack.generate(labels=[3, 7], seed=0, num_images=4)  # of classes 3, 7, 3, 7
        >>> images.shape, bool(images.min() >= 0), bool(images.max() <= 1)
        (torch.Size([4, 1, 8, 8]), True, True)
        >>> dbl.image_grid(images, num_columns=2).shape
        torch.Size([3, 102, 102])
        >>> contract = dbl.ContractConfig(dbl.ViT(3, width=32, num_heads=2), dbl.ClassTarget(dim=16)).build(data.spec)
        >>> blocks = [dbl.DiffusionBlock(contract, block) for block in range(3)]  # not trained here
        >>> classifier = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval())
        >>> raw = data.split("test").images[torch.arange(5)]  # uint8
        >>> classifier.classify(raw).shape  # probabilities
        torch.Size([5, 10])
    """

    def __init__(
        self,
        contract: Contract,
        load: Callable[[int], Denoiser],
        inference: InferenceConfig | None = None,
        weights: Weights = "live",
        available: Iterable[int] | None = None,
        load_tokenizer: Callable[[], Tokenizer] | None = None,
    ) -> None:
        super().__init__(contract, load, inference, available)
        self.weights = weights
        self._load_tokenizer = load_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        inference: InferenceConfig | None = None,
        revision: str | None = None,
        trusted: Collection[str] = (),
    ) -> Self:
        """The stack of a run that is assembled, of a model folder, or of a copy of one on the Hugging Face hub.

        It is in evaluation mode, on the CPU, and samples as the report of its run did.

        A model is data: no code of its choice is run, and no file outside its folder is read. Its classes are those of
        `dbl`, and those of yours that are already imported or whose package you trust.

        Raises UserError if there is no such model, the run is not assembled, the model is damaged, its parts do not
        belong together, or it names a class of a module that is neither imported nor trusted.

        Args:
            name_or_folder: run folder, such as runs/digits_dit, or model folder; if there is none, a string
                `owner/name` is looked up on the hub.
            inference: settings of its use; None: those chosen when it was assembled, hence of its report. Models of
                earlier versions do not say: of them, None means the sampler of their target.
            revision: branch, tag or commit on the hub; by default its main branch.
            trusted: packages with classes of your own that the model may import, e.g. ["my_package"]: this one and the
                modules inside it. Their code is run.
        """
        model = ModelFolder(find_model(name_or_folder, revision), trusted)
        inference = model.inference if inference is None else inference
        stack = cls(
            *(model.contract, model.denoiser, inference, model.config["weights"], model.available),
            load_tokenizer=model.tokenizer,
        )
        return stack.eval()

    def generate(
        self,
        labels: Labels = None,
        *,
        num_images: int | None = None,
        seed: int | None = None,
        num_steps: int | None = None,
        batch_size: int = 64,
    ) -> Tensor:
        """Draw images.

        Image i is the same for any number of images and any batch size. Raises UserError if the stack makes no images,
        lacks a block, or there is no such class.

        Args:
            labels: classes to draw, in turn, such as [3, 7]; None: all.
            num_images: number of images; None: one for each label.
            seed: random seed of the start noise; None: that of `inference`.
            num_steps: steps of the sampler; None: as in `inference`.
            batch_size: number of images drawn together.

        Returns:
            [num_images, channels, height, width] float32 from 0 (black) to 1; of data that are no pixels, such as
            latents, their raw values.
        """
        data = self._spec_of("images")
        _check_call(seed, batch_size)
        chosen = labels_in_turn(labels, data.num_classes, num_images).to(self.device)
        numbers = torch.arange(len(chosen), device=self.device)
        batches = zip(chosen.split(batch_size), numbers.split(batch_size), strict=True)
        drawn = [self.sample_images(*batch, seed=seed, num_steps=num_steps) for batch in batches]
        return to_unit(torch.cat(drawn), data)

    def classify(
        self, images: Any, *, seed: int | None = None, num_steps: int | None = None, batch_size: int = 256
    ) -> Tensor:
        """Classify raw images or vectors, as the data set has them: normalisation is the stack's own affair.

        The most probable class is the answer that the accuracy of the report counts. Raises UserError if the stack
        classifies nothing, lacks a block, or the images are of another size, type or range than is said below.

        Args:
            images: [N, channels, height, width] pixels, uint8 from 0 to 255 or floats from 0 (black) to 1: a tensor, an
                array or nested lists. Or a picture of Pillow, or a list of them, of any size: they are resized and cut
                as `dbl.HubImages` does it. Of a stack for vectors: [N, features] finite numbers.
            seed: random seed of the start noise, without effect where the sampler's temperature is 0; None: that of
                `inference`. Start noise i belongs to image i.
            num_steps: steps of the sampler; None: as in `inference`.
            batch_size: number of images that are classified together.

        Returns:
            [N, C] probabilities of the classes.
        """
        data = self._spec_of("classes")
        _check_call(seed, batch_size)
        raw = to_vectors(images, data) if isinstance(data, VectorSpec) else to_raw(images, data)
        scale = condition_of(data)[1].to(self.device)
        places = torch.arange(len(raw)).split(batch_size)
        parts = [
            self.sample_classes(scale(part.to(self.device)), numbers, seed=seed, num_steps=num_steps)
            for part, numbers in zip(raw.split(batch_size), places, strict=True)
        ]
        return torch.cat(parts)

    def write(
        self,
        prompt: str = "",
        max_tokens: int | None = None,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: str = "",
        num_steps: int | None = None,
    ) -> str:
        """Write a text that begins with a prompt: the text that `dbl sample RUN --prompt` prints.

        Raises UserError if the stack writes no text, lacks a block or a tokenizer, the tokenizer cannot express the
        prompt, or the text is too long for a network of masked text.

        Args:
            prompt: text to continue; if empty, the beginning of a document.
            max_tokens: most tokens to write; None: 200, of masked text at most what its sequences hold. Text from left
                to right may go beyond the network's context, of which it then reads the end.
            seed: random seed; None: that of `inference`.
            temperature: divisor of the network's logits; less than 1 makes probable tokens more probable.
            top_k: number of most probable tokens to choose from; None: all.
            top_p: total probability of the most probable tokens to choose from.
            stop: one token that ends the text; if empty, the end of a document, where the tokenizer has one.
            num_steps: steps of the sampler for each token (of masked text for all of them, of recurrent depth:
                iterations); None: as in `inference`.
        """
        self._spec_of("text")
        seed = self.inference.seed if seed is None else seed
        _check_call(seed)
        check_number("max_tokens", max_tokens, at_least=1, whole=True, optional=True)
        generator = self.text_generator(Decoding(temperature, top_k, top_p), num_steps, seed)
        with computing_in(self.blocks.dtype, self.device):
            return Writer(generator, self.tokenizer, self.device).texts(prompt, max_tokens, 1, stop)[0]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the network's texts; UserError if the stack has none."""
        found = None if self._load_tokenizer is None else self._load_tokenizer()
        if found is None:
            raise UserError("this stack has no tokenizer: give BlockStack one, or load a run that was trained with dbl")
        return found

    def _spec_of(self, wanted: str) -> Any:
        """The facts about the data; UserError if the stack answers with another kind of thing than is wanted."""
        made = self.target.generates
        if made != wanted:
            instead = f": use stack.{_METHODS[made]}" if made in _METHODS else ""
            raise UserError(f"stack.{_METHODS[wanted]} is for {wanted}, and this stack makes {made}{instead}")
        return self.contract.data


def _check_call(seed: int | None, batch_size: int = 1) -> None:
    """Raise UserError unless these are a seed, or None, and a number of samples."""
    if seed is not None:
        check_numbers("stack", {"seed": seed}, seed=SEED)
    check_number("batch_size", batch_size, at_least=1, whole=True)
