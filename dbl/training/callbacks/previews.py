"""What a block makes of a few validation samples, seen in TensorBoard while it trains."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.module import ResumableDataModule
from dbl.data.spec import ImageSpec
from dbl.data.splits import evenly_spaced
from dbl.data.text.tokenizer import Tokenizer
from dbl.denoising.readout import Prediction, RowPrediction
from dbl.denoising.targets import Clean
from dbl.training.block import DiffusionBlock
from dbl.training.distributed import ShardedStrategy
from dbl.training.event_log import event_writers
from dbl.training.noisy_data import NoisyData
from dbl.training.preview_figure import denoising_figure
from dbl.training.preview_text import LevelText, denoising_text
from dbl.utils.checks import check_numbers, whole
from dbl.utils.seeding import SampleDraws

_NUM_LEVELS = 3
_MOST_TEXTS = 2


class Denoised(NamedTuple):
    """Samples with noise of one level, and what the block made of them.

    Attributes:
        level: noise level.
        noisy: [N, *target_shape].
        prediction: prediction of the clean targets.
    """

    level: float
    noisy: Tensor
    prediction: Prediction


class Previews(L.Callback):
    """Denoises the same validation samples, with the same noise, at every validation of a block.

    Each is denoised at three levels, in the middles of three equally probable parts of the block's training interval,
    with the averaged weights. The log has images as `val_samples/denoised`, texts as `val_samples/predicted`; other
    targets, such as classes, have none. Nothing that training draws depends on it. On several devices the first one
    does it alone, and a sharded block, which one device does not have, is left alone.

    Args:
        num_samples: number of validation samples, evenly spaced over the split, of texts two at most; 0 turns the
            previews off.
    """

    def __init__(self, num_samples: int = 8) -> None:
        self.num_samples = num_samples
        check_numbers("previews", self, num_samples=whole(0, 1000))

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Denoise and log, after `EMA` has put the averaged weights into the block."""
        writers, batches = event_writers(trainer), getattr(trainer, "datamodule", None)
        if not (writers and self.num_samples and isinstance(batches, NoisyData)):
            return
        assert isinstance(pl_module, DiffusionBlock)
        data = batches.data
        if (
            trainer.sanity_checking
            or isinstance(trainer.strategy, ShardedStrategy)
            or not len(data.split("validation"))
        ):
            return
        # Callbacks run outside the context that gives validation steps the trainer's precision. Uncompiled, since
        # another number of samples would be compiled for itself.
        with trainer.precision_plugin.val_step_context(), torch.compiler.set_stance("force_eager"):
            preview = _preview(pl_module, data, self.num_samples)
        for writer in writers:
            if isinstance(preview, str):
                writer.add_text("val_samples/predicted", preview, trainer.global_step)
            elif preview is not None:
                writer.add_figure("val_samples/denoised", preview, trainer.global_step)


@torch.no_grad()
def _preview(block: DiffusionBlock, data: ResumableDataModule, num_samples: int) -> Any:
    """A figure of images, a text of texts, None of other targets."""
    kind, spec = block.contract.config.target.generates, block.contract.data
    if kind == "images" and isinstance(spec, ImageSpec):
        index = evenly_spaced(len(data.split("validation")), num_samples)
        return denoising_figure(*_pictures(block, data, index), spec)
    tokenizer = getattr(data, "tokenizer", None)
    if kind == "text" and isinstance(tokenizer, Tokenizer):
        index = evenly_spaced(len(data.split("validation")), min(num_samples, _MOST_TEXTS))
        return "\n\n".join(_texts(block, data, index, tokenizer))
    return None


def denoised_at_levels(block: DiffusionBlock, clean: Clean, index: Tensor) -> Iterator[Denoised]:
    """Noise of each level is added to samples and taken away again, levels decreasing; the noise is that of a sample.

    Args:
        block: block on the device of the samples.
        clean: samples.
        index: [N] their indices in the split, on which their noise depends.
    """
    fractions = (torch.arange(_NUM_LEVELS, dtype=torch.float64).flip(0) + 0.5) / _NUM_LEVELS
    like = clean.clean.new_empty(clean.clean.shape, dtype=torch.float32)
    noise = SampleDraws(block.seed, ("preview noise", block.stream), index).normal(like)
    for level in block.contract.noise.quantile_within(block.interval, fractions).tolist():
        sigma = torch.full((len(index),), level, device=like.device)
        noisy = block.space.corrupt(clean.clean, noise, sigma)
        yield Denoised(level, noisy, block.denoiser.predict(noisy, sigma, clean.cond))


def _clean(block: DiffusionBlock, data: ResumableDataModule, index: Tensor) -> Clean:
    batch = data.batch("validation", index)
    on_device = {name: value.to(block.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return block.space.encode(on_device)


def _pictures(block: DiffusionBlock, data: ResumableDataModule, index: Tensor) -> tuple[list[str], list[Tensor]]:
    """Titles of rows of images, and the raw images [N, channels, height, width] of each row."""
    clean = _clean(block, data, index)
    titles, rows, deviation = ["clean"], [clean.clean], clean.clean.float().std()
    for level, noisy, prediction in denoised_at_levels(block, clean, index):
        titles += [f"sigma {level:.3g}", "denoised"]
        # As the network sees it, at the deviation of images: else it would be black and white.
        rows += [noisy * (deviation / (deviation**2 + level**2).sqrt()), prediction.denoised]
    return titles, [block.space.decode(row).cpu() for row in rows]


def _texts(block: DiffusionBlock, data: ResumableDataModule, index: Tensor, tokenizer: Tokenizer) -> Iterator[str]:
    """For each text, what the block reads in it and predicts for it at each level."""
    clean = _clean(block, data, index)
    reads_masks = block.contract.config.target.in_any_order
    found = []
    for level, noisy, prediction in denoised_at_levels(block, clean, index):
        predicted = prediction.denoised if reads_masks else _most_probable(prediction)
        found.append((level, predicted.cpu(), (noisy != clean.clean).cpu() if reads_masks else None))
    for number in range(len(index)):
        rows = [
            LevelText(level, predicted[number], None if hidden is None else hidden[number])
            for level, predicted, hidden in found
        ]
        yield denoising_text(clean.labels[number].cpu(), rows, tokenizer)


def _most_probable(prediction: Prediction) -> Tensor:
    """Tokens [N, T]; a large vocabulary is gone through in chunks."""
    if isinstance(prediction, RowPrediction):
        return prediction.map(lambda logits: logits.argmax(dim=-1))
    assert prediction.logits is not None
    return prediction.logits.argmax(dim=-1)
