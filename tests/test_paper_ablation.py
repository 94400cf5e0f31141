"""The ablation from the paper's training to the blocks: its rows, and a tiny run of some of them."""

from pathlib import Path

import pytest
from tiny_run import TINY

from benchmarks.paper_ablation import config_of_seed, report_of, rows_of, summary
from benchmarks.starts import figures
from dbl.utils.files import read_json

_CONFIGS = Path(__file__).parents[1] / "configs"
_SYNCHRONISED = ["sync_10", "sync_100", "sync_never"]  # of 1,000 steps there are not so many


def test_a_row_changes_something() -> None:
    """Catches rows that train the same twice, such as a frozen table of images, and one that is left out."""
    of_images = rows_of(config_of_seed(_CONFIGS / "digits_dit.yaml", 0, []))
    assert of_images == ["paper", "private_parts", "blocks", *_SYNCHRONISED]
    of_classes = rows_of(config_of_seed(_CONFIGS / "digits_vit.yaml", 0, []))
    chain = ["paper", "private_parts", "frozen_table", "own_noise", "own_readout", "own_start"]
    assert of_classes == [*chain, "blocks", *_SYNCHRONISED]
    longer = config_of_seed(_CONFIGS / "digits_dit.yaml", 0, ["--trainer.max_steps=1001"])
    assert rows_of(longer, ["sync_1000", "paper"]) == ["paper", "sync_1000"]


def test_what_cannot_be_compared_is_refused() -> None:
    """Catches a row that is passed over, and a config of text that fails after a training."""
    with pytest.raises(SystemExit, match="there is no row foo"):
        rows_of(config_of_seed(_CONFIGS / "digits_dit.yaml", 0, []), ["foo"])
    with pytest.raises(SystemExit, match=r"cannot be made of contract\.network MaskedLM"):
        rows_of(config_of_seed(_CONFIGS / "pydoc_mdm.yaml", 0, []))


def test_rows_are_trained_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a row without a report, one that is trained again, and a start that is trained anew."""
    monkeypatch.chdir(tmp_path)
    config = config_of_seed(_CONFIGS / "digits_vit.yaml", 3, TINY)
    report = report_of(config, "own_start")
    assert report == Path("runs/paper_ablation/digits_vit_seed_3/rivals/own_start/report/report.json")
    before = Path("runs/paper_ablation/digits_vit_seed_3/rivals/own_readout")
    copied = [run / "paper/checkpoints/last.ckpt" for run in (before, report.parents[1])]
    assert copied[0].read_bytes() == copied[1].read_bytes()
    values = read_json(report)
    assert values["seeds"] == [3]
    assert values["sampler"]["temperature"] == 0
    assert read_json(before / "report/report.json")["sampler"]["temperature"] == 1
    written = report.stat().st_mtime_ns
    assert report_of(config, "own_start").stat().st_mtime_ns == written
    rows = {"own_start": [figures(values["sides"][0])] * 2}
    assert "| own\\_start |" in summary(rows) or "| own_start |" in summary(rows)
    assert f"{values['sides'][0]['quality']['accuracy']['mean']:.4g}" in summary(rows)
