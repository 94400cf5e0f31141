"""The children in which the tests of faults run commands."""

from pathlib import Path

from forked import run_dbl


def test_a_child_tells_how_it_ended(tmp_path: Path) -> None:
    """Catches a helper that takes help, a refusal and a hang for the same."""
    assert run_dbl(tmp_path, "--help").problem() == "accepted"
    refused = run_dbl(tmp_path, "assemble", "nowhere")
    assert refused.code == 2
    assert refused.problem() is None
    assert "nowhere is not a run folder" in refused.errors
    assert run_dbl(tmp_path, "assemble", "nowhere", time_limit_s=0).problem() == "hangs"
    assert not list(tmp_path.iterdir())
