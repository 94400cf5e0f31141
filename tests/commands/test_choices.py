"""What a run leaves for TensorBoard: its config, and the choices by which runs are compared."""

from pathlib import Path

import yaml
from event_files import choices_in, events_in, layout_in, texts_in

from .conftest import Run


def test_the_log_of_a_block_holds_its_config_and_choices(dbl: Run, tmp_path: Path) -> None:
    """Catches choices of another block, values that are lost as they are whole numbers, and a config of defaults."""
    options = ["--relative_steps=[1,1,2]", "--model.recipe.optimizer.lr=0.003", "--loss_by_level.num_bins=2"]
    assert dbl("train", "digits_dit", *options) == 0
    run = tmp_path / "runs" / "digits_dit"
    ((_, text),) = texts_in(run / "block_2")["train/config"]
    config = yaml.safe_load(text.strip("`").removeprefix("yaml"))
    assert config == yaml.safe_load((run / "block_2" / "config.yaml").read_text())
    choices = choices_in(run / "block_2")
    assert (choices["part"], choices["max_steps"]) == ("block_2", config["trainer"]["max_steps"] * 3 / 2)
    expected = {
        "num_blocks": 3,
        "num_layers": 3,
        "width": 16,
        "lr": 0.003,
        "seed": 0,
        "overlap": 0.05,
        "scheme": "equal_probability",
    }
    expected |= {"network": "DiT", "optimizer": "AdamW", "samples_per_step": 32, "ema_decay": 0.999, "data": "digits"}
    assert {name: choices.get(name) for name in expected} == expected
    (_, bins) = layout_in(run / "block_2").values()
    assert len(bins) == 2


def test_the_log_of_the_report_holds_choices_and_results(dbl: Run, tmp_path: Path) -> None:
    """Catches results without the choices that led to them, and charts of one point."""
    assert dbl("train", "digits_dit") == 0
    report = tmp_path / "runs" / "digits_dit" / "report"
    choices = choices_in(report)
    assert choices["num_blocks"] == 3
    assert choices["test/loss"] > 0
    assert "part" not in choices
    assert events_in(report).Tags()["scalars"] == []


def test_a_baseline_has_no_choices_of_blocks(dbl: Run, tmp_path: Path) -> None:
    """Catches a whole network that is listed with the number of blocks of its rival."""
    assert dbl("compare", "digits_vit", "--contract.network.mlp_width=32") == 0
    baseline = tmp_path / "runs" / "digits_vit" / "baseline"
    trained, tested = choices_in(baseline / "end_to_end"), choices_in(baseline / "report")
    assert trained["part"] == "end_to_end"
    assert "test/accuracy" in tested
    assert not {"num_blocks", "overlap"} & {*trained, *tested}


def test_no_previews_if_they_are_off(dbl: Run, tmp_path: Path) -> None:
    """Catches a group of the config that reaches no callback."""
    assert dbl("fit", "digits_dit", "--previews.num_samples=8") == 0
    log = tmp_path / "runs" / "digits_dit" / "block_0"
    assert "val_samples/denoised" in events_in(log).Tags()["images"]
    assert dbl("fit", "digits_dit", "--from_scratch") == 0  # the tiny config turns them off
    assert "val_samples/denoised" not in events_in(log).Tags()["images"]
