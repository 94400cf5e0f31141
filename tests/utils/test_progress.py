"""Bars of long evaluations: in commands alone, of items rather than batches."""

import pytest
import torch

from dbl.utils.progress import progress_shown, tracked


def test_a_bar_counts_items_and_is_shown_where_a_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a bar in a notebook that asked for none, one of batches, and batches that are lost."""
    batches = torch.arange(5).split(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr.isatty", lambda: True)
        assert torch.cat(list(tracked(batches, "images", "image"))).tolist() == [0, 1, 2, 3, 4]
        assert capsys.readouterr().err == ""
        with progress_shown():
            assert len(list(tracked(batches, "images", "image"))) == 3
            with progress_shown(False):
                list(tracked(batches, "others", "image"))
        list(tracked(batches, "others", "image"))
    shown = capsys.readouterr().err
    assert "images: 100%" in shown
    assert "5/5" in shown
    assert "others" not in shown


def test_a_short_evaluation_leaves_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a log file with a line for each of hundreds of short bars."""
    with progress_shown():
        list(tracked(torch.arange(5).split(2), "images", "image"))
    assert capsys.readouterr().err == ""
