"""Notebook 05 opens runs of all kinds; here its code runs without Jupyter, and each slider is moved once."""

from collections.abc import Callable
from typing import Any

import pytest
from trained_runs import KINDS, trained_runs

import dbl

from .pages import NOTEBOOKS, ROOT, code_of

# Kind of run -> what a slider is moved to, and what it then shows.
_MOVED: dict[str, dict[str, Any]] = {
    "image": {"label": 3, "seed": 5, "num_steps": 2},
    "class": {"image": 4, "num_steps": 2},
    "text": {"prompt": "If ", "max_tokens": 10, "temperature": 0.5, "seed": 5},
}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name of a function with sliders -> the function, and what each slider offers."""
    found = {}

    def interact(draw: Callable[..., Any], **choices: Any) -> None:
        found[draw.__name__] = (draw, choices)

    monkeypatch.setattr("dbl.utils.controls.interact", interact)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_notebook_opens_a_run_of_each_kind(
    kind: str,
    shown: dict[str, tuple[Callable[..., Any], dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a report that lacks what the notebook shows, and sliders for arguments that there are not."""
    folder = trained_runs(tmp_path_factory) / kind
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("DBL_RUN_FOLDER", str(folder / "runs" / kind))
    (notebook,) = (path for path in NOTEBOOKS if path.stem == "05_your_run")
    displayed: list[Any] = []
    exec(code_of(notebook), {"display": displayed.append})
    assert ("by_steps" in shown) == (kind == "class")  # measured of classes; these images are not judged
    name = {"image": "images", "class": "classes", "text": "text"}[kind]
    assert shown.keys() & {"images", "classes", "text"} == {name}
    draw, choices = shown[name]
    assert choices.keys() == _MOVED[kind].keys()
    assert draw() is not None
    moved = draw(**_MOVED[kind])
    if kind == "text":
        assert moved.startswith("If ")
    for heading in shown["section"][1]["heading"]:
        assert shown["section"][0](heading).data
    assert len(displayed) >= 2  # pictures of memory and of what each block does


def test_the_data_of_a_run_are_those_it_was_trained_with(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Catches data of another seed or split, on which a network is judged that has seen them in training."""
    run = trained_runs(tmp_path_factory) / "class" / "runs" / "class"
    data = dbl.load_data(run)
    assert isinstance(data, dbl.Digits)
    assert data.batch_size == 32
    assert data.spec == dbl.BlockStack.from_pretrained(run).contract.data
