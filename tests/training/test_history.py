"""Loss curves and speed of a part, from its `metrics.csv`."""

from pathlib import Path

import pytest

from dbl.training.history import read_history
from dbl.utils.errors import DblWarning


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["step,train/loss,train/steps_per_second,train/samples_per_second,val/loss", *lines]))
    return path


def test_the_speed_is_a_median_without_the_start(tmp_path: Path) -> None:
    """Catches a mean that a busy hour of the machine changes, and a start that counts like any other step."""
    rows = [f"{step},1.0,{speed},{64 * speed}," for step, speed in ((10, 1), (20, 8), (30, 8), (40, 0.01), (50, 10))]
    found = read_history(_write(tmp_path / "metrics.csv", *rows))
    assert found["step_seconds"] == pytest.approx(1 / 8)
    assert found["samples_per_second"] == pytest.approx(512)


def test_curves_hold_training_and_validation(tmp_path: Path) -> None:
    """Catches losses at wrong steps, and values that are not finite, which JSON cannot hold."""
    found = read_history(_write(tmp_path / "metrics.csv", "10,3.0,,,", "20,nan,,,", "20,,,,2.5", "30,2.0,,,"))
    assert found["losses"] == {
        "train": [{"step": 10, "loss": 3.0}, {"step": 30, "loss": 2.0}],
        "validation": [{"step": 20, "loss": 2.5}],
    }
    assert found["step_seconds"] is None


def test_a_long_curve_is_thinned_by_means(tmp_path: Path) -> None:
    """Catches a report of megabytes, an end that is cut off, and a curve of single noisy values."""
    rows = [f"{step},{step % 2},,," for step in range(1, 1001)]
    points = read_history(_write(tmp_path / "metrics.csv", *rows))["losses"]["train"]
    assert len(points) == 100
    assert {point["loss"] for point in points} == {0.5}
    assert points[-1]["step"] == 1000


@pytest.mark.parametrize(
    "content", ["step\n1,2,3\n", "a,b\n1,2\n", "step,train/loss\nx,1\n", "step,train/loss\n1.5,1\n"]
)
def test_a_damaged_file_is_left_out_with_a_word(content: str, tmp_path: Path) -> None:
    """Catches a report that is lost because of a log, and one that silently lacks its curves."""
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.warns(DblWarning, match="is damaged: the report leaves its curves out"):
        assert read_history(path)["losses"] == {"train": [], "validation": []}


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    """Catches a logger of the user's own that makes the report fail."""
    assert read_history(tmp_path / "metrics.csv")["step_seconds"] is None
