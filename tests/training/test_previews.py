"""Previews: what a block makes of the same validation samples while it trains."""

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import pytest
import torch
from event_files import events_in, texts_in
from lightning.pytorch.loggers import TensorBoardLogger
from toy import Stripes, assert_equal_states, checkpoint, fit, recipe
from toy_text import SEQ_LEN, ChainText, fit_text, known_denoiser, text_contract

from dbl.data import Characters
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.previews import Previews, _clean, _texts, denoised_at_levels
from dbl.training.noisy_data import NoisyData
from dbl.training.preview_text import LevelText, denoising_text
from dbl.utils.errors import UserError


def _logger(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(str(folder), name="", version="")


def _steps(folder: Path, kind: str = "images") -> list[int]:
    events = events_in(folder)
    return [event.step for tag in events.Tags()[kind] for event in events.Images(tag)]


def test_images_are_logged_at_each_validation(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a picture of one validation alone, and one with too few rows or columns."""
    fit(DiffusionBlock(dit_contract, 1, recipe()), tmp_path, logger=_logger(tmp_path), callbacks=[Previews(3)])
    pictures = events_in(tmp_path).Images("val_samples/denoised")
    assert [picture.step for picture in pictures] == [3, 6]
    # Three images of 6 x 4 pixels, enlarged eight times, in 1 + 2 * 3 rows, beside the titles.
    assert (pictures[0].width, pictures[0].height) == (3 * (48 + 2) + 2 + 90, 7 * (32 + 2) + 2)
    assert pictures[0].encoded_image_string != pictures[1].encoded_image_string


@pytest.mark.parametrize("kind", ["clean", "two", "recurrent", "masked"])
def test_texts_are_logged_at_each_validation(kind: str, tmp_path: Path) -> None:
    """Catches a kind of text whose predictions have another form."""
    block = DiffusionBlock(text_contract(kind), 0)
    fit_text(block, tmp_path, 6, False, Previews(8), logger=_logger(tmp_path))
    found = texts_in(tmp_path)["val_samples/predicted"]
    assert [step for step, _ in found] == [3, 6]
    assert found[0][1].count("text ") == 2  # not eight: texts are long
    assert found[0][1].count(" right") == 2 * 3


def test_training_does_not_depend_on_previews(dit_contract: Contract, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a preview that draws from a stream of training, or leaves the block in another state."""
    for name, callbacks in {"with": [Previews(4)], "without": []}.items():
        block = DiffusionBlock(dit_contract, 1, recipe(warmup_steps=2))
        fit(block, tmp_path / name, steps=12, logger=_logger(tmp_path / name), callbacks=callbacks)
    stored = [checkpoint(tmp_path / name, "block_1") for name in ("with", "without")]
    for key in ("state_dict", "current_model_state", "optimizer_states", "dbl"):
        assert_equal_states(stored[0][key], stored[1][key])
    assert _steps(tmp_path / "with")
    assert not _steps(tmp_path / "without")


class _Weights(L.Callback):
    """Keep a weight with which the block is validated, and one with which it is trained."""

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.validated = next(pl_module.parameters()).clone()


def test_previews_are_those_of_the_averaged_weights(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a preview before the average is put in place, in training mode or with gradients."""
    block, seen, weights = DiffusionBlock(dit_contract, 1, recipe()), [], _Weights()
    predict = block.denoiser.predict

    def spy(*args: Any) -> Any:
        seen.append((next(block.parameters()).clone(), block.training, torch.is_grad_enabled(), len(args[0])))
        return predict(*args)

    monkeypatch.setattr(block.denoiser, "predict", spy)
    fit(block, tmp_path, logger=_logger(tmp_path), callbacks=[Previews(3), weights])
    previews = [call for call in seen if call[3] == 3]
    assert len(previews) == 6
    assert torch.equal(previews[-1][0], weights.validated)
    assert not any(training or gradients for _, training, gradients, _ in previews)


def test_levels_decrease_within_the_interval_and_the_noise_is_that_of_a_sample(dit_contract: Contract) -> None:
    """Catches levels of another block, and noise that changes with the number of samples."""
    block, data = DiffusionBlock(dit_contract, 1).eval(), Stripes()
    four, one = (
        [*denoised_at_levels(block, _clean(block, data, index), index)]
        for index in (torch.tensor([0, 1, 2, 3]), torch.tensor([2]))
    )
    levels = [row.level for row in four]
    assert levels == sorted(levels, reverse=True)
    assert block.interval.low < levels[-1] < levels[0] < block.interval.high
    assert all(torch.equal(many.noisy[2], single.noisy[0]) for many, single in zip(four, one, strict=True))


@pytest.mark.parametrize("case", ["off", "another rank", "sanity check", "no logger"])
def test_nothing_is_denoised_in_vain(
    case: str, dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches work on ranks that write nothing, and an option that is read nowhere."""
    block, logger = DiffusionBlock(dit_contract, 1), False if case == "no logger" else _logger(tmp_path)
    monkeypatch.setattr("dbl.training.callbacks.previews._preview", lambda *_: pytest.fail("denoised"))
    trainer = L.Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False)
    trainer.sanity_checking = case == "sanity check"
    if case == "another rank":
        monkeypatch.setattr(L.Trainer, "is_global_zero", False)
    trainer.datamodule = NoisyData(Stripes(), block)  # type: ignore[attr-defined]
    Previews(0 if case == "off" else 3).on_validation_epoch_start(trainer, block)


def test_classes_have_no_preview(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a picture of vectors."""
    fit(DiffusionBlock(vit_contract, 1, recipe()), tmp_path, logger=_logger(tmp_path), callbacks=[Previews(3)])
    assert not _steps(tmp_path)
    assert "val_samples/predicted" not in texts_in(tmp_path)


def test_a_text_stands_above_what_is_read_and_predicted() -> None:
    """Catches a prediction that is shown at another place, padding that counts, and lines that run into each other."""
    tokenizer = Characters("ab\n")
    labels = torch.tensor([0, 1, 2, 0, -100])
    rows = [
        LevelText(0.75, torch.tensor([1, 1, 2, 0, 0]), torch.tensor([True, False, True, False, True])),
        LevelText(0.5, torch.tensor([0, 1, 2, 0, 0]), None),
    ]
    assert denoising_text(labels, rows, tokenizer).splitlines() == [
        "```",
        "text                       ab\N{RETURN SYMBOL}a",
        "level 0.75                 \N{LIGHT SHADE}b\N{LIGHT SHADE}a",
        "  predicted, 1 of 2 right  bb\N{RETURN SYMBOL}a",
        "level 0.5, 4 of 4 right    ab\N{RETURN SYMBOL}a",
        "```",
    ]


def test_long_texts_are_cut_into_lines(tmp_path: Path) -> None:
    """Catches a line that a browser does not show whole."""
    labels = torch.arange(250) % 2
    shown = denoising_text(labels, [LevelText(0.5, labels, None)], Characters("ab"))
    assert max(map(len, shown.splitlines())) < 130
    assert shown.count("text") == 3
    assert sum(line.count("ab") for line in shown.splitlines() if line.startswith("text")) == 125


def test_a_block_that_knows_predicts_the_text_at_low_noise() -> None:
    """Catches predictions of other positions, which would be wrong, and the clean text itself, which would be right."""
    shares = []
    for number in (0, 2):
        block, data = DiffusionBlock(text_contract("clean"), number).eval(), ChainText()
        block.denoiser = known_denoiser()
        shown = "".join(_texts(block, data, torch.arange(2), data.tokenizer))
        shares.append([int(right) / SEQ_LEN for right in re.findall(rf"(\d+) of {SEQ_LEN} right", shown)])
    assert len(shares[0]) == len(shares[1]) == 6
    assert fmean(shares[1]) > 0.9
    assert fmean(shares[0]) < 0.8


@pytest.mark.parametrize("num_samples", [-1, 2000])
def test_impossible_numbers_are_refused(num_samples: int) -> None:
    """Catches a number that fails at the first validation."""
    with pytest.raises(UserError, match=r"previews\.num_samples"):
        Previews(num_samples)
