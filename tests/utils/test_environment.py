"""Where something was measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dbl.utils.environment import command_line, environment, git_commit, processor


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_environment_says_what_ran() -> None:
    """Catches a value that is missing or of another process."""
    found = environment()
    assert found["versions"].keys() == {"python", "dbl", "torch", "lightning"}
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or found["versions"]["torch"]
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"] == processor() != ""
    assert len(found["gpus"]) == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/a/.venv/bin/dbl", "train", "--run.name", "a b"], "dbl train --run.name 'a b'"),
        (["/a/dbl/__main__.py", "plan"], "dbl plan"),
        (["/a/script.py"], "script.py"),
    ],
)
def test_the_command_can_be_typed(argv: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches paths of this machine, and arguments whose spaces are lost."""
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == expected


def test_the_commit_is_that_of_the_folder_and_says_whether_it_was_changed(tmp_path: Path) -> None:
    """Catches the commit of a project in which the package merely lies, and changes that nobody sees."""
    project = tmp_path / "project"
    (project / "package").mkdir(parents=True)
    (project / "package" / "a.py").write_text("1")
    assert git_commit(project / "package") is None  # no repository
    _git(project, "init")
    assert git_commit(project / "package") is None  # not tracked
    _git(project, "add", ".")
    _git(project, "commit", "-m", "first")
    commit = _git(project, "rev-parse", "HEAD")
    assert git_commit(project / "package") == commit
    (project / "package" / "a.py").write_text("2")
    assert git_commit(project / "package") == f"{commit}-dirty"
