"""What `dbl sample` and `dbl tokenizer` read from a run folder and where they write: refused before the work."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Outcome, run_dbl
from tiny_run import TINY

from dbl.run.contract import plain_hash

CONFIG = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"
RUN = "runs/digits_dit"
FAST = ["--num_images=1", "--device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    short = ["--trainer.max_steps=2", "--contract.partition.num_blocks=1", "--diagnostics.num_samples=0"]
    short.append("--inference.sampler.num_steps=3")
    outcome = run_dbl(folder, "train", "--config", str(CONFIG), *TINY, *short)
    assert outcome.code == 0, outcome
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def sample(folder: Path, *options: str) -> Outcome:
    return run_dbl(folder, "sample", RUN, *FAST, *options)


def _with(**inference: Any) -> bytes:
    return yaml.safe_dump({"inference": inference}).encode()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--num_images=many", "num_images (many)"),
        ("--sampler.method=magic", "sampler.method (magic) must be euler"),
        ("--classes=cats", "--classes cats must be class numbers such as 3,7"),
        ("--classes=3,11", "there are classes 0 to 9"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(option: str, named: str, folder: Path) -> None:
    """Catches a traceback, and a picture of other classes than those asked for."""
    outcome = sample(folder, option)
    assert outcome.problem() is None
    assert named in outcome.errors


def test_classes_are_given_with_commas_or_as_a_list(folder: Path) -> None:
    """Catches one of the two forms that draws other classes."""
    for number, option in enumerate(("--classes=3,7", "--classes=[3,7]", "--classes=3")):
        assert sample(folder, option, "--num-images=2", f"--output={number}.png").code == 0
    first, second, other = ((folder / f"{number}.png").read_bytes() for number in range(3))
    assert first == second != other


CONFIGS = {
    "binary": (bytes(range(128, 256)), "is not UTF-8 text"),
    "no YAML": (b"inference: [", "not YAML"),
    "a list": (b"- inference\n", "holds no keys"),
    "nested": (1000 * b"[" + 1000 * b"]", "is nested too deeply"),
    "an object of Python": (b"inference: !!python/object/apply:os.system [touch called]\n", "not YAML"),
    "no group": (b"run: {name: a}\n", "has no group `inference`"),
    "a group that is text": (b"inference: fast\n", "has no group `inference`"),
    "a sampler that is a path": (_with(sampler="/etc/hostname"), "has no group `inference`"),
    "a class": (_with(class_path="this.Thing", init_args={}), "inference: there is no 'class_path'"),
    "a sampler that is a class": (_with(sampler={"class_path": "this.Thing"}), "there is no 'class_path'"),
    "a class below a key": (_with(seed={"class_path": "this.Thing"}), "inference.seed must be a single value"),
    "a key with a dot": (_with(**{"sampler.class_path": "this.Thing"}), "there is no 'sampler.class_path'"),
    "a reference": (_with(seed="${oc.env:HOME}"), "inference.seed ('${oc.env:HOME}') must be a whole number"),
    "text for a number": (_with(sampler={"num_steps": "many"}), "inference.sampler.num_steps ('many') must be a whole"),
    "a number that cannot be": (_with(sampler={"num_steps": -1}), "num_steps (-1)"),
    "null for a number": (_with(sampler={"num_steps": None}), "inference.sampler.num_steps (None) must be"),
    "an unknown key": (
        _with(sampler={"num_step": 3}),
        "no 'num_step'; did you mean num_steps?",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_with_other_content_is_named(case: str, folder: Path) -> None:
    """Catches a traceback, a class that is imported, and a reference or path in it that is followed."""
    content, named = CONFIGS[case]
    (folder / RUN / "config.yaml").write_bytes(content)
    outcome = run_dbl(folder, "assemble", RUN)
    assert outcome.problem() is None
    assert f"{RUN}/config.yaml" in outcome.errors
    assert named in outcome.errors
    assert not (folder / "called").exists()
    assert "Zen of Python" not in outcome.output  # what the module `this` prints when it is imported


def test_the_model_says_how_it_is_sampled(folder: Path) -> None:
    """Catches pictures made with other settings than those of the report, once the config is changed or gone."""
    config = folder / RUN / "config.yaml"
    config.write_text(config.read_text().replace("num_steps: 3\n", "num_steps: 5\n"))
    outcomes = [sample(folder, "--output=a.png")]
    config.unlink()
    outcomes.append(sample(folder, "--output=b.png"))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert "calls of blocks 0 to 0 in one sample: 3\n" in outcomes[0].output
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()


def test_a_model_of_an_earlier_version_is_sampled_as_the_config_says(folder: Path) -> None:
    """Catches a model without settings that is refused, or sampled with the defaults although its config is there."""
    path = folder / RUN / "model" / "config.json"
    plain = json.loads(path.read_text())
    del plain["inference"], plain["sha256"]
    path.write_text(json.dumps(plain | {"sha256": plain_hash(plain)}))
    outcome = sample(folder)
    assert outcome.code == 0, outcome
    assert "calls of blocks 0 to 0 in one sample: 3\n" in outcome.output


OUTPUTS = {
    "a device": ("pipe", "is no ordinary file"),
    "a folder": (".", "is a folder"),
    "nothing": ("", "is a folder"),
    "another kind of picture": ("a.bogus", "must end in .png"),
    "in a file": (f"{RUN}/config.yaml/a.png", "cannot make its folder"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_picture_goes_to_a_file_only(case: str, folder: Path) -> None:
    """Catches a device that is replaced by a file, and an error after all the work."""
    output, named = OUTPUTS[case]
    os.mkfifo(folder / "pipe")
    if case == "a device":
        (folder / "pipe.png").symlink_to("pipe")
        output = "pipe.png"
    outcome = sample(folder, f"--output={output}")
    assert outcome.problem() is None
    assert "--output" in outcome.errors
    assert named in outcome.errors
    assert (folder / "pipe").is_fifo()
    assert "calls of blocks" not in outcome.output


def test_a_tokenizer_goes_to_a_file_only(tmp_path: Path) -> None:
    """Catches a device that is replaced by a file, after the tokenizer was trained."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.txt").write_text("a b")
    for output, named in (("pipe", "is no ordinary file"), (".", "is a folder")):
        outcome = run_dbl(tmp_path, "tokenizer", "--files=a.txt", "--vocab_size=260", f"--output={output}")
        assert outcome.problem() is None
        assert f"--output {output} {named}" in outcome.errors
    assert (tmp_path / "pipe").is_fifo()
