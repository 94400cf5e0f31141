"""What TensorBoard finds in the log of a part: tags that runs share, texts, choices, charts and figures."""

import re
from pathlib import Path

import lightning as L
import pytest
from event_files import choices_in, events_in, layout_in, texts_in
from tensorboard.plugins.hparams import metadata
from toy import fit, recipe

from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.loss_by_level import LossByLevel
from dbl.training.callbacks.memory import Memory
from dbl.training.callbacks.overview import Overview
from dbl.training.callbacks.previews import Previews
from dbl.training.loggers import part_loggers

_CONFIG = "contract:\n  seed: 3 # ``` is no end\n"


def _callbacks(folder: Path, num_bins: int = 4) -> list[L.Callback]:
    overview = Overview(_CONFIG, {"num_blocks": 3, "lr": 1e-2, "part": "block_1", "compile": False}, num_bins)
    return [LossByLevel(num_bins), Previews(3), Memory(str(folder / "memory.json"), step=2), overview]


def _train(contract: Contract, folder: Path, block: int = 1, steps: int = 6, resume: bool = False) -> Path:
    """Train a block; returns its log."""
    log = folder / f"log_{block}"
    part, loggers = DiffusionBlock(contract, block, recipe()), part_loggers(log, 6 if resume else 0, rank=0)
    fit(part, folder, steps, resume, logger=loggers, callbacks=_callbacks(folder))
    return log


@pytest.fixture(scope="module")
def log(dit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(dit_contract, tmp_path_factory.mktemp("run"))


def test_every_chart_is_a_curve_whose_name_holds_no_level(log: Path, dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a chart of one point, the number of the epoch, and names by which two blocks cannot share a chart."""
    events = events_in(log)
    tags = events.Tags()["scalars"]
    assert {"train/loss", "val/loss", *(f"train/loss_by_level/bin_{number}" for number in range(4))} <= {*tags}
    assert [tag for tag in tags if tag.split("/")[0] not in ("train", "val")] == []
    assert [tag for tag in tags if len(events.Scalars(tag)) < 2] == []
    assert set(events_in(_train(dit_contract, tmp_path, block=0)).Tags()["scalars"]) == set(tags)


def test_the_charts_of_the_layout_show_curves_of_the_log(log: Path) -> None:
    """Catches a regular expression that meets no curve, or more than the one of its title."""
    tags = events_in(log).Tags()["scalars"]
    charts = {title: curves for category in layout_in(log).values() for title, curves in category.items()}
    assert [*charts][:3] == ["training loss", "validation loss", "bin 0 (highest noise)"]
    for curves in charts.values():
        assert [len([tag for tag in tags if re.match(curve, tag)]) for curve in curves] == [1]


def test_the_choices_are_a_row_without_a_list_of_columns(log: Path) -> None:
    """Catches Lightning's chart `hp_metric`, and a list of columns, of which TensorBoard takes one for all logs."""
    assert choices_in(log) == {"num_blocks": 3, "lr": 1e-2, "part": "block_1", "compile": False}
    assert metadata.EXPERIMENT_TAG not in events_in(log).Tags()["tensors"]


def test_config_bins_and_memory_are_texts(log: Path, dit_contract: Contract) -> None:
    """Catches a config that its own text breaks off, ends of bins that nobody finds, and another order of the bins."""
    texts = texts_in(log)
    assert texts["train/config"] == [(0, f"````yaml\n{_CONFIG.rstrip()}\n````")]
    rows = texts["train/loss_by_level"][0][1].splitlines()[2:]
    ends = [float(cell) for row in rows for cell in row.strip("| ").split(" | ")[1:]]
    low, high = dit_contract.partition.training_interval(1)
    assert [row.split(" | ")[0] for row in rows] == ["| 0", "| 1", "| 2", "| 3"]
    assert ends == sorted(ends, reverse=True)
    assert (ends[0], ends[-1]) == pytest.approx((high, low), rel=1e-3)
    assert "| activations |" in texts["train/memory"][0][1]


def test_figures_stand_behind_the_curves(log: Path) -> None:
    """Catches a group of images that TensorBoard sorts before the curves."""
    images = events_in(log).Tags()["images"]
    assert {*images} == {"val_samples/denoised", "whole_network/partition"}
    assert min(images) > "train"


def test_a_resumed_training_logs_its_facts_once(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a config, a layout or a figure for each resume."""
    log = _train(dit_contract, tmp_path)
    _train(dit_contract, tmp_path, steps=9, resume=True)
    events = events_in(log)
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert len(texts_in(log)["train/config"]) == len(events.Images("whole_network/partition")) == 1
    assert [event.step for event in events.Images("val_samples/denoised")] == [3, 6, 9]


def test_a_training_from_scratch_replaces_the_log(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches curves of two trainings in one chart."""
    log = _train(dit_contract, tmp_path)
    _train(dit_contract, tmp_path, steps=3)
    assert [event.step for event in events_in(log).Scalars("train/loss")] == [1, 2, 3]
