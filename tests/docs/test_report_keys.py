"""docs/report.md explains every key of `report.json`, and no key that there is not."""

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TINY

from dbl.commands.main import main
from dbl.evaluation.features import in_domain

from ..commands.text_runs import compared
from .pages import ROOT

Keys = dict[str, set[str]]

# What a user chose stands there as in the config, under the names of docs/configuration.md.
_CHOSEN = {"network", "target", "noise", "partition", "start", "sampler"}
# Objects whose keys are names of metrics or of categories of memory.
_NAMES = {
    "sides[].test": "<metric>",
    "sides[].quality": "<metric>",
    "sides[].quality_by_steps[].metrics": "<metric>",
    "sides[].image_quality.metrics": "<metric>",
    "sides[].image_quality.real_test_images": "<metric>",
    "sides[].text_quality.metrics": "<metric>",
    "sides[].text_quality.real": "<metric>",
    "sides[].memory.bytes": "<category>",
    "memory_plan.rows[].bytes": "<category>",
}
# Objects that the page says have the keys of another one.
_LIKE = {"sides[].quality_by_steps[].metrics.<metric>": "sides[].quality.<metric>"}


def documented(page: str) -> Keys:
    """Path of an object -> its keys, from the tables under the headings of its section."""
    keys: Keys = {}
    for section in re.split(r"^### ", page.partition("## The keys of")[2], flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        cells = re.findall(r"^\| (`[^|]+) \|", body, re.MULTILINE)
        path = "" if heading == "The top" else heading.strip("`")
        keys[path] = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    return keys


def objects(value: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Path and keys of every object inside a JSON value."""
    if isinstance(value, list):
        for item in value:
            yield from objects(item, f"{path}[]")
    if not isinstance(value, dict) or path in _CHOSEN:
        return
    if path not in _NAMES:
        yield _LIKE.get(path, path), set(value)
    for key, item in value.items():
        yield from objects(item, f"{path}.{_NAMES.get(path, key)}".lstrip("."))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Path of an object -> its keys, in the reports of an image generator and of a language model."""
    keys: Keys = defaultdict(set)
    for run in (_images(tmp_path_factory.mktemp("images")), compared("pydoc_ar", tmp_path_factory)):
        for path, names in objects(json.loads((run / "report" / "report.json").read_text())):
            keys[path] |= names
    return keys


def _images(folder: Path) -> Path:
    """The run of a comparison that judges images by a classifier of ten steps."""
    options = ["--image_quality.features=in_domain", "--image_quality.num_images=70", "--inference.sampler.num_steps=6"]
    options.append("--trainer.log_every_n_steps=2")  # else nothing is logged in so few steps
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setattr("sys.argv", ["dbl"])
        patch.setattr(in_domain, "RECIPE", replace(in_domain.RECIPE, steps=10))
        assert main(["compare", "--config", str(ROOT / "configs" / "digits_dit.yaml"), *TINY, *options]) == 0
    return folder / "runs" / "digits_dit"


def test_every_key_is_explained_and_every_explained_key_exists(found: Keys) -> None:
    """Catches a key that was added, renamed or removed without a word in docs/report.md."""
    explained = documented((ROOT / "docs" / "report.md").read_text(encoding="utf-8"))
    assert {"", "sides[].image_quality", "sides[].text_quality", "sides[].likelihood", "pictures"} <= found.keys()
    missing = {path: names - explained.get(path, set()) for path, names in found.items()}
    assert {path: names for path, names in missing.items() if names} == {}
    stale = {path: names - found[path] for path, names in explained.items() if path in found}
    assert {path: names for path, names in stale.items() if names} == {}
    # What only a GPU fills; all other objects have been seen.
    assert explained.keys() - found.keys() == {"sides[].memory.cuda"}


def test_a_key_without_a_word_is_found() -> None:
    """Catches a walk that skips lists or nested objects, and a page that is read as empty."""
    head = "## The keys of x\n\n### The top\n\n| key | meaning |\n|---|---|\n"
    page = f"{head}| `a`, `b` | two |\n\n### `a[]`\n\n| `c` | |\n"
    assert documented(page) == {"": {"a", "b"}, "a[]": {"c"}}
    assert dict(objects({"a": [{"c": {"d": 1}}], "network": {"x": 1}})) == {
        "": {"a", "network"},
        "a[]": {"c"},
        "a[].c": {"d"},
    }
