"""A tiny data set, tiny networks and a short training, so that a test takes a second."""

from pathlib import Path
from typing import Any

import lightning as L
import torch

from dbl.data import ImageData, ImageSet, Split
from dbl.networks import DiT, ViT
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.training.callbacks.ema import EMA
from dbl.training.config import TrainingConfig
from dbl.training.module import TrainingModule
from dbl.training.noisy_data import NoisyData


class Stripes(ImageData):
    """Three classes of noisy 1 x 4 x 6 images: the class decides which pair of columns is bright."""

    def __init__(self, batch_size: int = 8, eval_batch_size: int = 7, seed: int = 0) -> None:
        super().__init__(batch_size, eval_batch_size, seed=seed)

    def load(self, split: Split) -> ImageSet | None:
        """60 training and 15 test images."""
        if split == "validation":
            return None
        generator = torch.Generator().manual_seed(int(split == "test"))
        labels = torch.arange(60 if split == "train" else 15) % 3
        images = torch.randint(0, 80, (len(labels), 1, 4, 6), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, :, 2 * label : 2 * label + 2] += 150
        return ImageSet(images.to(torch.uint8), labels)


DIT = DiT(num_layers=3, width=16, num_heads=2, patch_size=2, cond_dropout=0.3)
VIT = ViT(num_layers=3, width=16, num_heads=2, patch_size=2, mlp_width=32, dropout=0.2)


def fit(part: TrainingModule, folder: Path, steps: int = 6, resume: bool = False, **trainer: object) -> L.Trainer:
    """Train a part on `Stripes` and keep its checkpoint at `folder`/<part>/checkpoints/last.ckpt."""
    path = folder / part.part / "checkpoints" / "last.ckpt"
    data = Stripes(seed=part.seed)
    callbacks = [EMA(0.9), LastCheckpoint(str(path), every_n_steps=2), *trainer.pop("callbacks", [])]  # type: ignore[misc]
    loop = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=trainer.pop("logger", False),  # type: ignore[arg-type]
        callbacks=callbacks,
        enable_progress_bar=bool(trainer.pop("enable_progress_bar", False)),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        **{"log_every_n_steps": 1, **trainer},  # type: ignore[arg-type]
    )
    batches = NoisyData(data, part) if isinstance(part, DiffusionBlock) else data
    loop.fit(part, datamodule=batches, ckpt_path=path if resume else None, weights_only=True)
    return loop


def recipe(**changes: object) -> TrainingConfig:
    """A recipe with a learning rate that moves tiny networks."""
    return TrainingConfig(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2), **changes)  # type: ignore[arg-type]


class Kill(L.Callback):
    """Break off the training after some steps, without any clean-up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


def checkpoint(folder: Path, part: str) -> dict[str, object]:
    """What a part's checkpoint holds."""
    stored: dict[str, object] = torch.load(folder / part / "checkpoints" / "last.ckpt", weights_only=True)
    return stored


def assert_equal_states(first: object, second: object) -> None:
    """Compare nested dicts and lists of tensors bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_states(first[key], second[key])
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        assert len(first) == len(second)
        for one, two in zip(first, second, strict=True):
            assert_equal_states(one, two)
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second
