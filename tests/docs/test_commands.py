"""Every command and every Python block in the pages works as written.

Each ```bash line is run, with tiny configs and two steps a block; each ```python block is run, with short trainings. A
block that this machine cannot run has `<!-- needs: gpu -->`, `network`, `cluster` or `DBL_DATA` on the line before its
fence; of such lines those that take a config are still parsed.
"""

from pathlib import Path
from typing import Any

import lightning as L
import pytest

from .pages import NEEDS, Fence, all_pages, fences
from .sandbox import Sandbox, UnknownCommand, dbl_arguments, names_of_runs

# Trainings longer than the first number are cut to the second; shorter ones may need all of their steps.
_MOST_STEPS, _CUT_STEPS = 150, 10

SHELL = [fence for page in all_pages() for fence in fences(page, "bash")]
PYTHON = [fence for page in all_pages() for fence in fences(page, "python")]


def _lines(shell: list[Fence], marked: bool) -> dict[str, str]:
    """Command line -> where it stands first, of blocks with or without a mark."""
    found: dict[str, str] = {}
    for fence in shell:
        for line in fence.commands() if bool(fence.needs) == marked else []:
            found.setdefault(line, fence.place)
    return found


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("pages"), list(_lines(SHELL, marked=False)))


def _named(lines: dict[str, str]) -> list[Any]:
    return [pytest.param(line, id=f"{place} {line}") for line, place in lines.items()]


@pytest.mark.parametrize("line", _named(_lines(SHELL, marked=False)))
def test_a_command_of_a_page_works(line: str, sandbox: Sandbox) -> None:
    """Catches an option, a config, a target of make or a run folder that was renamed, and a command that fails."""
    assert sandbox.run(line) == 0


@pytest.mark.parametrize("line", _named(_lines(SHELL, marked=True)))
def test_a_command_that_cannot_run_here_is_parsed(line: str, sandbox: Sandbox) -> None:
    """Catches an option or a config that was renamed in commands for clusters, GPUs and large data."""
    sandbox.parse(line)


@pytest.mark.parametrize("fence", [fence for fence in PYTHON if not fence.needs], ids=lambda fence: fence.place)
def test_python_of_a_page_works(fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches code that uses a name, an argument or a shape that is not there any more."""
    monkeypatch.chdir(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L.Trainer, "__init__", _short(L.Trainer.__init__))
        exec(compile(fence.text, fence.place, "exec"), {"__name__": "__main__"})


def _short(made: Any) -> Any:
    def short(trainer: L.Trainer, **options: Any) -> None:
        if not 0 < options.get("max_steps", -1) <= _MOST_STEPS:
            options["max_steps"] = _CUT_STEPS
        made(trainer, **{"accelerator": "cpu", "enable_progress_bar": False, **options})

    return short


def test_pages_have_commands_and_marks_are_known() -> None:
    """Catches a search that finds nothing, and a misspelt mark that would hide a command for ever."""
    assert SHELL
    assert PYTHON
    assert {need for fence in (*SHELL, *PYTHON) if fence.needs for need in fence.needs.split(", ")} <= NEEDS


def test_a_fence_is_read_with_its_mark(tmp_path: Path) -> None:
    """Catches a mark that counts for the wrong block, and comments or joined lines that are taken for commands."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- needs: gpu -->\n```bash\ndbl train \\\n  --a 1  # why\n\n# only a comment\n```\n\n"
        "```bash\nmake test\n```\n"
    )
    first, second = fences(page, "bash")
    assert (first.needs, second.needs) == ("gpu", None)
    assert (first.commands(), second.commands()) == (["dbl train --a 1"], ["make test"])
    assert first.place == "page.md:2"


def test_make_tells_the_command_of_a_target() -> None:
    """Catches a target that is taken for a command that it does not run, and targets that do not exist."""
    assert dbl_arguments('make train CONFIG=c.yaml ARGS="--a 1"') == ["train", "--config", "c.yaml", "--a", "1"]
    assert dbl_arguments("make lint") is None
    with pytest.raises(AssertionError, match="tarin"):
        dbl_arguments("make tarin")


def test_an_unknown_command_is_a_failure(sandbox: Sandbox) -> None:
    """Catches commands that are silently skipped."""
    for line in ("frobnicate runs", "dbl sample runs/nobody_made_it"):
        with pytest.raises(UnknownCommand, match="mark it"):
            sandbox.run(line)
    assert sandbox.run("dbl train --config configs/digits_dit.yaml --no.such.option 1") == 2


def test_runs_that_a_command_needs_are_found() -> None:
    """Catches commands that would be run without the run folder that they read."""
    assert names_of_runs(["sample", "runs/a", "--num_images", "4"]) == ["a"]
    assert names_of_runs(["test", "--config", "configs/b.yaml", "--run.name=c"]) == ["c"]
    assert names_of_runs(["train", "--config", "runs/d/config.yaml"]) == ["d"]
    assert names_of_runs(["train", "--config", "configs/b.yaml", "--run.name", "c"]) == []
