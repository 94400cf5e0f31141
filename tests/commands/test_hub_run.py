"""Runs on the hub: blocks that several people train in folders of their own, assembled from one repository.

The hub is a local folder (`local_hub`); each person has another current folder and account.
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_hub import LocalHub, install
from tiny_run import TINY

from dbl.commands import fit
from dbl.commands.main import main
from dbl.inference.stack import BlockStack
from dbl.run.contract import plain_hash
from dbl.run.folder import RunFolder
from dbl.run.hub import push as hub_push
from dbl.run.model_folder import ModelFolder, file_hash
from dbl.utils.files import read_metadata, read_tensors, write_tensors

from .text_runs import ALPHABET, TINY as TINY_TEXT

CONFIGS = Path(__file__).parents[2] / "configs"
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
ANCESTOR = "--contract.start=dbl.Ancestor"
As = Callable[..., int]


class People:
    """Runs commands as somebody, in a folder of his own."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch
        self.hub = LocalHub(root / "hub")
        install(self.hub, patch)
        patch.setattr(sys, "argv", ["dbl"])

    def folder(self, name: str) -> Path:
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name

    def run(self, name: str, *arguments: str) -> int:
        """The exit code of a command that somebody gives."""
        self.hub.user = name
        self.patch.chdir(self.folder(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return main(list(arguments))

    def fit(self, name: str, block: int, *options: str, repository: str = "ada/run") -> int:
        """Train a block of a run on the hub, without any file of it."""
        return self.run(name, "fit", "--from_hub", repository, f"--model.block={block}", *CPU, *options)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    return People(tmp_path, monkeypatch)


def _image(people: People, name: str, *options: str) -> list[str]:
    return ["--config", str(CONFIGS / "digits_dit.yaml"), *TINY, *options, "--run.name=run"]


def _text(people: People, name: str) -> list[str]:
    config = yaml.safe_load((CONFIGS / "pydoc_ar.yaml").read_text())
    config["data"]["init_args"]["tokenizer"]["init_args"]["alphabet"] = ALPHABET
    (people.folder(name) / "text.yaml").write_text(yaml.safe_dump(config))
    return ["--config", "text.yaml", *TINY_TEXT["pydoc_ar"], "--run.name=run"]


def _ancestor(people: People, name: str) -> list[str]:
    relative = ["--relative_steps=[1,2,1]", "--ema.decay=0.9", "--model.recipe.accumulate=2"]
    return _image(people, name, ANCESTOR, *relative)


def _converted(people: People, name: str) -> list[str]:
    if not (people.folder(name) / "runs/run").exists():
        one = ["--contract.partition.num_blocks=1", "--contract.partition.overlap=0", "--diagnostics.num_samples=0"]
        assert people.run(name, "train", *_image(people, name, *one)[:-1], "--run.name=whole") == 0
        assert people.run(name, "convert", "runs/whole", "--num_blocks=3", "--run.name=run") == 0
    return ["--config", "runs/run/config.yaml", "--model.recipe.distillation=0.5"]


@pytest.mark.parametrize("options_of", [_text, _ancestor, _converted])
def test_blocks_trained_apart_equal_those_of_one_place(
    options_of: Callable[[People, str], list[str]], people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches anything that decides the weights and does not travel with the contract, and a file that is not pushed.

    Ada trains block 0 and pushes the run; Bob adds the next one, Cyd proposes the last; Dan assembles what is there.
    """
    ours = options_of(people, "one_place")
    assert people.run("one_place", "train", *ours) == 0
    if options_of is _converted:  # Ada has a copy of the network
        shutil.copytree(people.folder("one_place") / "runs/run/source", people.folder("ada") / "runs/run/source")
        shutil.copy(people.folder("one_place") / "runs/run/config.yaml", people.folder("ada") / "runs/run")
    ada = options_of(people, "ada")
    if options_of is _ancestor:
        assert people.run("ada", "train", *ada, "--blocks=ancestor") == 0
    assert people.run("ada", "fit", *ada, "--model.block=0") == 0
    assert people.run("ada", "push", "runs/run", "ada/run") == 0
    people.hub.writers["ada/run"] = {"bob"}
    *others, last = range(1, len(ModelFolder(people.folder("one_place") / "runs/run/model").available))
    for block in others:
        assert people.fit("bob", block, "--push") == 0
    assert people.fit("cyd", last, "--push", "--create_pr") == 0
    people.hub.merge()
    capsys.readouterr()
    assert people.run("dan", "assemble", "ada/run") == 0
    said = capsys.readouterr().out
    assert "block 0: " in said
    assert "committed by ada" in said
    assert f"block {last}: " in said
    assert "committed by cyd" in said
    model, expected = people.folder("dan") / "runs/run/model", people.folder("one_place") / "runs/run/model"
    ours_config, theirs = ModelFolder(model).config, ModelFolder(expected).config
    assert ours_config["files"] == theirs["files"]  # the SHA-256 of each
    for key in ("contract", "inference", "weights"):
        assert ours_config[key] == theirs[key]
    for file in ours_config["files"]:
        assert (model / file).read_bytes() == (expected / file).read_bytes()
    assert not [path for path in people.hub.root.rglob("*") if path.suffix in (".ckpt", ".yaml", ".pt")]
    if options_of is not _text:
        _forge_start(people, "ancestor" if options_of is _ancestor else "source")
        refused(capsys, people.fit("eve", 0), "is not the one on which the blocks of this run agreed")
        assert not (people.folder("eve") / "runs/run/contract.json").exists()


def _forge_start(people: People, folder: str) -> None:
    """Replace the network from which the blocks start by another one, with checksums that fit."""
    model = people.hub.folder("ada/run") / "run" / folder / "model"
    weights = read_tensors(model / "block_0.safetensors")
    metadata = read_metadata(model / "block_0.safetensors")
    write_tensors(model / "block_0.safetensors", {name: tensor + 1 for name, tensor in weights.items()}, metadata)
    config = json.loads((model / "config.json").read_text())
    config["files"]["block_0.safetensors"] = file_hash(model / "block_0.safetensors")
    config["sha256"] = plain_hash({key: value for key, value in config.items() if key != "sha256"})
    (model / "config.json").write_text(json.dumps(config))


@pytest.fixture
def pushed(people: People) -> People:
    """Ada's run of three blocks, of which block 0 is trained and pushed."""
    ada = _image(people, "ada")
    assert people.run("ada", "fit", *ada, "--model.block=0") == 0
    assert people.run("ada", "push", "runs/run", "ada/run") == 0
    return people


def refused(capsys: pytest.CaptureFixture[str], code: int, *texts: str) -> None:
    """Check that a command ended in one line that has these texts, and exit code 2."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "Warning" not in line]
    assert code == 2, error
    assert len(lines) == 1, error
    assert len(lines[0]) <= 200
    for text in texts:
        assert text in lines[0]


def test_what_cannot_be_pushed(pushed: People, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a block of another contract, an unfinished one, one of other steps, one that is there, no right to."""
    before = pushed.hub.folder("ada/run")
    other = [*_image(pushed, "bob"), "--contract.seed=1"]
    assert pushed.run("bob", "fit", *other, "--model.block=1") == 0
    pushed.hub.writers["ada/run"] = {"bob"}
    refused(capsys, pushed.run("bob", "push", "runs/run", "ada/run"), "ada/run holds a run of another contract")
    assert pushed.fit("bob", 1, "--push") == 2
    refused(capsys, 2, "runs/run holds another run than ada/run")
    mine = "--run.name=mine"
    assert pushed.fit("bob", 1, mine, "--trainer.max_steps=2") == 0
    refused(capsys, pushed.run("bob", "push", "runs/mine", "ada/run"), "block 1 was trained for 2 steps", "for 4")
    assert pushed.fit("bob", 2, mine, "--trainer.max_steps=2", "--push") == 2
    refused(capsys, 2, "trainer.max_steps gives block 2 2 steps, and ada/run says 4")
    _unfinish(pushed.folder("bob") / "runs/mine")
    refused(capsys, pushed.run("bob", "push", "runs/mine", "ada/run", "--blocks=1"), "block 1 is not finished")
    refused(capsys, pushed.run("bob", "push", "runs/mine", "ada/run", "--blocks=2"), "block_2", "does not exist")
    refused(capsys, pushed.run("bob", "push", "runs/mine", "ada/run", "--blocks=7"), "block 7 does not exist")
    assert pushed.fit("bob", 0, mine, "--push") == 2
    refused(capsys, 2, "block 0 of ada/run, by ada, is there already", "--replace")
    assert pushed.hub.folder("ada/run") == before


def _unfinish(run: Path) -> None:
    """Make block 1 one that was stopped after 2 of 4 steps."""
    import torch

    path = RunFolder.at(run).checkpoint("block_1")
    stored = torch.load(path, weights_only=True)
    stored["dbl"]["max_steps"] = 4
    torch.save(stored, path)


def test_without_write_access_a_block_is_proposed(pushed: People, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback of the hub after hours of training, and a remedy that does not work."""
    refused(capsys, pushed.fit("cyd", 2, "--push"), "ada/run cannot be written to", "--blocks 2 --create_pr")
    assert pushed.run("cyd", "push", "runs/run", "ada/run", "--blocks", "2", "--create_pr") == 0
    assert "https://hub/ada/run/discussions/1" in capsys.readouterr().out
    refused(capsys, pushed.run("dan", "assemble", "ada/run"), "ada/run has no block 1 yet")
    pushed.hub.merge()
    assert pushed.run("dan", "assemble", "ada/run", "--allow_partial") == 0
    assert ModelFolder(pushed.folder("dan") / "runs/run/model").available == (0, 2)


def test_others_push_while_a_block_is_trained(pushed: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a push on top of the commit that was read hours ago, which the hub refuses."""
    train = fit.fit_part

    def train_while_others_push(*arguments: Any) -> None:
        train(*arguments)
        pushed.hub.put("ada/run", {"notes.txt": b""})

    monkeypatch.setattr(fit, "fit_part", train_while_others_push)
    assert pushed.fit("ada", 1, "--push") == 0
    assert (pushed.hub.folder("ada/run") / "run/block_1.safetensors").is_file()


def test_a_push_is_refused_if_another_one_came_between(
    pushed: People, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches two people who push the same block at once, of whom the second replaces that of the first unseen."""
    assert pushed.fit("ada", 1) == 0
    check = hub_push.check_absent

    def check_before_others_push(*arguments: Any) -> None:
        check(*arguments)
        pushed.hub.put("ada/run", {"run/block_1.safetensors": b""})

    monkeypatch.setattr(hub_push, "check_absent", check_before_others_push)
    refused(capsys, pushed.run("ada", "push", "runs/run", "ada/run"), "ada/run could not be written", "412")


def test_a_link_in_a_run_folder_does_not_become_public(people: People, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a file of the user's that a run folder from elsewhere links to, and that `dbl push` uploads."""
    ada = _text(people, "ada")
    assert people.run("ada", "fit", *ada, "--model.block=0") == 0
    tokenizer = people.folder("ada") / "runs/run/tokenizer.json"
    (people.folder("ada") / "secret.json").write_text('{"password": 1}')
    tokenizer.unlink()
    tokenizer.symlink_to("../../secret.json")
    refused(capsys, people.run("ada", "push", "runs/run", "ada/run"), "tokenizer.json")
    assert not (people.hub.root / "ada/run").exists()


def test_a_block_is_replaced_where_that_is_asked_for(pushed: People, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches `--replace` that is read nowhere, and a history that still names who trained the old block."""
    pushed.hub.writers["ada/run"] = {"bob"}
    assert pushed.fit("bob", 0, "--push", "--replace", "--model.recipe.optimizer.init_args.lr=0.1") == 0
    assert pushed.run("dan", "assemble", "ada/run", "--allow_partial") == 0
    assert "block 0: 4 steps, committed by bob" in capsys.readouterr().out
    refused(capsys, pushed.run("bob", "push", "runs/run", "ada/run", "--replace"), "--replace needs --blocks")


def test_a_push_adds_what_is_missing(pushed: People, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a second push that uploads everything again, or that puts its own block in the place of another's."""
    files = pushed.hub.folder("ada/run")
    assert pushed.run("ada", "push", "runs/run", "ada/run") == 0
    assert "nothing to push" in capsys.readouterr().out
    assert pushed.hub.folder("ada/run") == files
    assert pushed.run("ada", "fit", *_image(pushed, "ada"), "--model.block=1") == 0
    assert pushed.run("ada", "push", "runs/run", "ada/run") == 0
    assert "pushed: block 1 to" in capsys.readouterr().out


def test_a_model_stands_beside_its_run(pushed: People) -> None:
    """Catches a model whose upload removes the blocks of the run, or whose download takes them along."""
    for block in (1, 2):
        assert pushed.fit("ada", block, "--push") == 0
    assert pushed.run("ada", "assemble", "ada/run", "--push", "ada/run") == 0
    assert pushed.run("dan", "assemble", "ada/run") == 0
    pushed.hub.downloads.clear()
    pushed.patch.chdir(pushed.folder("eve"))
    assert BlockStack.from_pretrained("ada/run").available == (0, 1, 2)
    assert not [name for name in pushed.hub.downloads if name.startswith("run/")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["assemble", "ada/model"], "ada/model holds no run"),
        (["assemble", "ada/nothing"], "the run ada/nothing could not be read from the hub"),
        (["assemble", "runs/nothing"], "runs/nothing is not a run folder"),
        (["fit", "--from_hub", "ada/model", "--model.block=0"], "ada/model holds no run"),
        (["fit", "--from_hub", "ada", "--model.block=0"], "'ada' is not the name of a model"),
        (["fit", "--from_hub", "ada/run", "--model.block=3"], "block 3 does not exist: this run has blocks 0 to 2"),
        (
            ["fit", "--from_hub", "ada/run", "--model.block=1", "--create_pr"],
            "--create_pr and --replace are for --push",
        ),
        (["fit", "--config", "x.yaml", "--model.block=1", "--push"], "--push needs --from_hub"),
        (["push", "runs/run", "ada"], "'ada' is not the name of a model"),
        (["push", "runs/none", "ada/run"], "runs/none is not a run folder"),
        (["push", "runs/run", "ada/model", "--create_pr"], "ada/model holds no run: push it first"),
        (["push", "runs/run", "bob/new"], "bob/new could not be written to the hub"),
        (["push", "runs/run", "ada/run", "--private"], "--private is for a new repository"),
        (["push", "runs/run", "ada/run", "--blocks=a"], "--blocks a must be numbers"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], text: str, shared: People, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, and a repository without a run that is taken for one."""
    shutil.copy(shared.folder("ada") / "runs/run/config.yaml", shared.folder("ada") / "x.yaml")
    refused(capsys, shared.run("ada", *arguments), text)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> object:
    """As `pushed`, for tests that change nothing, with a repository `ada/model` that holds no run."""
    with pytest.MonkeyPatch.context() as patch:
        people = People(tmp_path_factory.mktemp("shared"), patch)
        assert people.run("ada", "fit", *_image(people, "ada"), "--model.block=0") == 0
        assert people.run("ada", "push", "runs/run", "ada/run") == 0
        people.hub.create_repo("ada/model", exist_ok=True)
        people.hub.put("ada/model", {"config.json": b"{}"})
        yield people


def test_a_contract_from_the_hub_is_not_built_anew(pushed: People, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run folder whose contract is replaced because nothing is trained in it yet."""
    assert pushed.fit("bob", 1) == 0
    shutil.rmtree(pushed.folder("bob") / "runs/run/block_1")
    code = pushed.fit("bob", 1, "--contract.seed=5")
    refused(capsys, code, "seed is 5 here but 0 in runs/run/contract.json")


def test_data_that_a_run_cannot_name_are_given_by_who_trains(
    people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a run on the hub that reads files of whoever trains a block, and one that cannot be trained at all."""
    data = {
        "class_path": "dbl.TextFiles",
        "init_args": {
            "train": ["private.txt"],
            "tokenizer": {"class_path": "dbl.Bytes"},
            "seq_len": 16,
            "batch_size": 4,
            "eval_batch_size": 4,
        },
    }
    for name in ("ada", "bob"):
        (people.folder(name) / "private.txt").write_text("A line of text that is there to be read. " * 400)
        (people.folder(name) / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    config = yaml.safe_load((CONFIGS / "pydoc_ar.yaml").read_text()) | {"data": data}
    (people.folder("ada") / "ours.yaml").write_text(yaml.safe_dump(config))
    options = [option for option in TINY_TEXT["pydoc_ar"] if not option.startswith("--data")]
    ours = ["--config=ours.yaml", *options, "--run.name=run", "--model.block=0"]
    assert people.run("ada", "fit", *ours) == 0
    assert people.run("ada", "push", "runs/run", "ada/run") == 0
    assert "private.txt" not in (people.hub.folder("ada/run") / "run/training.json").read_text()
    refused(capsys, people.fit("bob", 1), "ada/run was trained on data that it cannot name", "--data")
    assert people.fit("bob", 1, "--config=data.yaml") == 0
    (people.folder("bob") / "private.txt").write_text("Another text. " * 900)
    refused(capsys, people.fit("bob", 0, "--config=data.yaml"), "data.", "of this run agreed")
