"""Runs on the hub that were made to run code, to read files or to fill the machine of whoever uses them."""

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from local_hub import LocalHub, install
from tiny_run import TINY
from watched import Seen, watch

import dbl
from dbl.commands.main import main
from dbl.run.checkpoints import read_training
from dbl.run.contract import plain_hash
from dbl.run.folder import RunFolder
from dbl.run.hub.block_file import read_block_file, write_block_file
from dbl.run.hub.shared_training import SharedTraining
from dbl.training.config import TrainingConfig
from dbl.utils.errors import UserError
from dbl.utils.serialization import to_plain

Change = Callable[[Any], object]

CANARY = "canary"  # made in the current folder by code that must not run
CODE = f'open("{CANARY}", "w").close()\n'
OWN_NETWORK = """
from dataclasses import dataclass
from dbl import DiT

@dataclass(frozen=True)
class Own(DiT):
    pass
"""
ACTIONS = {
    "fit": (
        "--from_hub=ada/run",
        "--model.block=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ),
    "assemble": ("ada/run", "--allow_partial"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of a person and a hub that has it, with its block 0."""
    folder = tmp_path_factory.mktemp("hub_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["dbl"])
        install(LocalHub(folder / "hub"), patch)
        config = Path(__file__).parents[2] / "configs/digits_dit.yaml"
        assert main(["fit", "--config", str(config), *TINY, "--run.name=run", "--model.block=0"]) == 0
        assert main(["push", "runs/run", "ada/run"]) == 0
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who uses that hub, with a module on the path and files that are his."""
    shutil.copytree(original / "hub", tmp_path / "hub")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/ours.py").write_text(CODE)
    (tmp_path / "secret.txt").write_text("password " * 1000)
    (tmp_path / "secret.yaml").write_text("lr: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    return tmp_path


@pytest.fixture(scope="module")
def usual(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What each action imports and opens for the run as it was pushed."""
    seen = {}
    for action in ACTIONS:
        folder = tmp_path_factory.mktemp(action)
        shutil.copytree(original / "hub", folder / "hub")
        seen[action] = _use(folder, action)
        assert seen[action].outcome.problem() == "accepted", seen[action].outcome
    return seen


def _use(folder: Path, action: str, *options: str) -> Seen:
    return watch(folder, action, *ACTIONS[action], *options, imported=("installed_hub",))


def refused(place: Path, usual: dict[str, Seen], action: str, *named: str) -> None:
    """Check that an action ends in one line with these texts, runs no code and opens nothing of its user's."""
    seen = _use(place, action)
    assert seen.outcome.problem() is None, seen.outcome
    for text in named:
        assert text in seen.outcome.errors
    assert not (place / CANARY).exists()
    assert seen.modules - usual[action].modules == set()
    inside = (
        place / "hub",
        place / "runs",
        sys.base_prefix,
        sys.prefix,
        Path(dbl.__file__).parent,
        "/proc",
        "/sys",
        "/tmp/dbl_",
    )
    places = tuple(os.path.realpath(one) for one in inside)
    assert {file for file in seen.files - usual[action].files if not file.startswith(places)} <= {str(place)}


def hub_file(place: Path, name: str) -> Path:
    """A file of the run in its last commit."""
    return LocalHub(place / "hub").folder("ada/run") / "run" / name


def rewrite(place: Path, name: str, change: Change) -> None:
    """Change a JSON file of the run, and give it the checksum that fits."""
    path = hub_file(place, name)
    plain = json.loads(path.read_text())
    change(plain)
    if "sha256" in plain:
        plain["sha256"] = plain_hash({key: value for key, value in plain.items() if key != "sha256"})
    path.write_text(json.dumps(plain))


def _set(**values: Any) -> Change:
    return lambda plain: plain["init_args"].update(values)


def _data(kind: str, **arguments: Any) -> Change:
    sizes = {"batch_size": 4, "eval_batch_size": 4}
    return _set(data={"class_path": kind, "init_args": {**sizes, **arguments}})


_TEXT = {"tokenizer": {"class_path": "dbl.Bytes", "init_args": {}}, "seq_len": 8}

TRAININGS: dict[str, tuple[Change, str]] = {
    "another class": (lambda plain: plain.update(class_path="ours.Training"), "class_path"),
    "a class of dbl": (lambda plain: plain.update(class_path="dbl.TrainingConfig"), "class_path"),
    "a list": (lambda plain: plain.update(init_args=[]), "init_args"),
    "an optimizer by its path": (_set(optimizer="ours.Optimizer"), "optimizer"),
    "a function as optimizer": (_set(optimizer="os.system"), "optimizer"),
    "an optimizer of several passes": (_set(optimizer="LBFGS"), "optimizer"),
    "an optimizer as a class": (_set(optimizer={"class_path": "ours.Optimizer", "init_args": {}}), "optimizer"),
    "a class as argument": (_set(arguments={"lr": {"class_path": "ours.Rate", "init_args": {}}}), "arguments.lr"),
    "a file as argument": (_set(arguments={"lr": "secret.yaml"}), "arguments.lr"),
    "an unknown argument": (_set(arguments={"hook": 1}), "hook"),
    "the parameters as argument": (_set(arguments={"params": [1.0]}), "params"),
    "a reference": (_set(decay="${oc.env:HOME}"), "decay"),
    "callbacks": (_set(callbacks=["ours.Callback"]), "callbacks"),
    "trainer": (_set(trainer={"plugins": "ours.Plugin"}), "trainer"),
    "compilation": (_set(compile=True), "compile"),
    "a negative length": (_set(max_steps=-1), "max_steps"),
    "an endless length": (_set(max_steps=10**30), "max_steps"),
    "steps of too many blocks": (_set(relative_steps=[1.0] * 7), "relative_steps"),
    "a decay above 1": (_set(ema_decay=2.0), "ema_decay"),
    "another precision": (_set(precision="64-true"), "precision"),
    "data by its path": (_data("ours.Data"), "data.class_path"),
    "data that are files": (_data("dbl.TextFiles", **_TEXT, train=["secret.txt"]), "data.class_path"),
    "data that are a folder": (_data("dbl.ImageFolder", folder="."), "data.class_path"),
    "data that are no data": (_data("dbl.DiT"), "data.class_path"),
    "data as a name": (_set(data="dbl.Digits"), "data"),
    "data of no class": (_set(data={"class_path": None, "init_args": {}}), "data.class_path"),
    "hub data that are a file": (_data("dbl.HubText", **_TEXT, path="secret.txt"), "data.init_args.path"),
    "hub data that are a folder": (_data("dbl.HubText", **_TEXT, path="beside"), "data.init_args.path"),
    "hub data above": (_data("dbl.HubText", **_TEXT, path="../x"), "data.init_args.path"),
    "hub data at a root": (_data("dbl.HubText", **_TEXT, path="/etc"), "data.init_args.path"),
    "hub data by address": (_data("dbl.HubText", **_TEXT, path="http://x/y"), "data.init_args.path"),
    "hub data in a folder": (_data("dbl.HubText", **_TEXT, path="a/b", data_dir="/etc"), "data_dir"),
    "hub data as files": (_data("dbl.HubText", **_TEXT, path="a/b", data_files={"train": "/x"}), "data_files"),
    "a folder to write to": (_data("dbl.PyDoc", **_TEXT, cache_dir="/tmp/x"), "cache_dir"),
    "many processes": (_data("dbl.Digits", num_workers=4096), "num_workers"),
    "a tokenizer that is a file": (
        _data(
            "dbl.PyDoc", seq_len=8, tokenizer={"class_path": "dbl.TokenizerFile", "init_args": {"path": "secret.txt"}}
        ),
        "data.init_args.tokenizer",
    ),
    "a tokenizer by its path": (
        _data("dbl.PyDoc", seq_len=8, tokenizer={"class_path": "ours.Tokenizer", "init_args": {}}),
        "data.init_args.tokenizer",
    ),
    "a tokenizer as text": (_data("dbl.PyDoc", seq_len=8, tokenizer="secret.yaml"), "data.init_args.tokenizer"),
    "an alphabet that is a variable": (
        _data(
            "dbl.PyDoc", seq_len=8, tokenizer={"class_path": "dbl.Characters", "init_args": {"alphabet": "${oc.env:A}"}}
        ),
        "${",
    ),
    "an augmentation by its path": (
        _data("dbl.Digits", augmentations=[{"class_path": "ours.Flip", "init_args": {}}]),
        "may not import module ours",
    ),
    "a sampler by its path": (
        lambda plain: plain["init_args"]["inference"]["init_args"].update(
            sampler={"class_path": "ours.Sampler", "init_args": {}}
        ),
        "may not import module ours",
    ),
}


@pytest.mark.parametrize(("change", "named"), TRAININGS.values(), ids=TRAININGS.keys())
def test_how_a_run_is_trained_is_data(place: Path, usual: dict[str, Seen], change: Change, named: str) -> None:
    """Catches a setting that reaches the parser of configs, which imports classes and reads files, unchecked."""
    rewrite(place, "training.json", change)
    refused(place, usual, "fit", named)
    assert not (place / "runs").exists()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", ["ours.Network", "os.system", "dbl.main", "dbl.Architecture", "../beside/ours.N"])
def test_the_contract_of_a_run_imports_nothing(place: Path, usual: dict[str, Seen], action: str, name: str) -> None:
    """Catches a class that is imported because a contract on the hub names it."""
    rewrite(place, "contract.json", lambda plain: plain["config"]["init_args"]["network"].update(class_path=name))
    refused(place, usual, action, "ada/run/run/contract.json", "class_path")
    assert not (place / "runs").exists()


def test_a_network_of_somebody_s_own_needs_trust(place: Path, usual: dict[str, Seen]) -> None:
    """Catches trust that is given to whatever a run on the hub names, and trust that does not reach it."""
    (place / "beside/own_nets").mkdir()
    (place / "beside/own_nets/__init__.py").write_text(OWN_NETWORK)
    rewrite(
        place, "contract.json", lambda plain: plain["config"]["init_args"]["network"].update(class_path="own_nets.Own")
    )
    refused(place, usual, "fit", "ada/run/run/contract.json", "--trust own_nets")
    seen = _use(place, "fit", "--trust", "own_nets")
    assert seen.outcome.problem() == "accepted", seen.outcome
    assert {name for name in seen.modules if name.startswith("own")} == {"own_nets"}
    assert (place / "runs/run/block_1/checkpoints/last.ckpt").is_file()


TEXTS = {
    "a list": b"[]",
    "null": b"null",
    "lists, 200,000 deep": b"[" * 200_000 + b"]" * 200_000,
    "a number of 10,000 digits": b'{"class_path": ' + b"9" * 10_000 + b"}",
    "NaN": b'{"class_path": NaN}',
    "no text": b"\xff\xfe",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("name", ["contract.json", "training.json"])
def test_any_json_is_refused(place: Path, usual: dict[str, Seen], name: str, text: bytes) -> None:
    """Catches a traceback of what parses a file of somebody else's."""
    hub_file(place, name).write_bytes(text)
    refused(place, usual, "assemble", name)


def _block(place: Path) -> Path:
    return hub_file(place, "block_0.safetensors")


def _rewritten(change: Change) -> Callable[[Path], object]:
    """A block whose checkpoint was changed before it was pushed past all checks."""

    def write(place: Path) -> None:
        stored = read_block_file(_block(place))
        content = {"state_dict": dict(stored.content["state_dict"])}
        changed = {"content": content, "stamp": dict(vars(stored.stamp)), "step": stored.step}
        change(changed)
        stamp = type(stored.stamp)(**changed["stamp"])
        write_block_file(_block(place), stored._replace(content=content, stamp=stamp, step=changed["step"]))

    return write


def _first(stored: Any) -> Any:
    return next(iter(stored["content"]["state_dict"]))


def _with_metadata(text: str) -> Callable[[Path], object]:
    header = json.dumps({"__metadata__": {"dbl": text}}).encode()
    return lambda place: _block(place).write_bytes(struct.pack("<Q", len(header)) + header)


BLOCKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda place: torch.save({"state_dict": {}}, _block(place)), "block_0.safetensors"),
    "nothing": (lambda place: _block(place).write_bytes(b""), "block_0.safetensors"),
    "a header of 2^63 bytes": (
        lambda place: _block(place).write_bytes(struct.pack("<Q", 2**63)),
        "block_0.safetensors",
    ),
    "deep metadata": (_with_metadata("[" * 200_000), "block_0.safetensors"),
    "other metadata": (_with_metadata('{"step": 4}'), "no facts about its training"),
    "no stamp": (_with_metadata('{"step": 4, "seconds": 1.0, "stamp": null}'), "no key dbl"),
    "steps of text": (_with_metadata('{"step": "4", "seconds": 1.0, "stamp": {}}'), "its steps or seconds"),
    "twenty megabytes more": (
        lambda place: _block(place).write_bytes(_block(place).read_bytes() + bytes(20 * 2**20)),
        "too many for its kind",
    ),
    "another contract": (
        _rewritten(lambda stored: stored["stamp"].update(contract="0" * 64)),
        "trained under another contract",
    ),
    "another block": (_rewritten(lambda stored: stored["stamp"].update(part="block_1")), "holds block_1, not block_0"),
    "other steps": (_rewritten(lambda stored: stored["stamp"].update(max_steps=2)), "trained for 2 steps"),
    "unfinished": (_rewritten(lambda stored: stored.update(step=1)), "block 0 is not finished"),
    "another tensor": (
        _rewritten(lambda stored: stored["content"]["state_dict"].update({"denoiser.more": torch.zeros(2)})),
        "tensor more",
    ),
    "NaN": (
        _rewritten(lambda stored: stored["content"]["state_dict"][_first(stored)].view(-1).__setitem__(0, torch.nan)),
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize(("write", "named"), BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_is_checked(place: Path, usual: dict[str, Seen], write: Callable[[Path], object], named: str) -> None:
    """Catches a block of somebody else's that is unpickled, fills the memory or is assembled although it is none."""
    write(place)
    refused(place, usual, "assemble", named)
    assert not (place / "runs/run/model").exists()


def test_files_of_other_names_are_not_downloaded(place: Path, usual: dict[str, Seen]) -> None:
    """Catches programs, pickles and configs that come along, and names that lead out of a folder."""
    hub = LocalHub(place / "hub")
    names = ["config.yaml", "setup.py", "run/config.yaml", "run/block_1.ckpt", "run/block_01.safetensors"]
    names += [
        "run/block_9.safetensors",
        "run/source/model/x.py",
        "run/source/model/sub/config.json",
        "block_1.safetensors",
    ]
    hub.put("ada/run", {name: CODE.encode() for name in names})
    for action in ACTIONS:
        seen = _use(place, action)
        assert seen.outcome.problem() == "accepted", seen.outcome
        assert not (place / CANARY).exists()
    cached = {
        path.relative_to(place / "hub/cache").name for path in (place / "hub/cache").rglob("*") if path.is_symlink()
    }
    assert cached == {"contract.json", "training.json", "block_0.safetensors"}


class _Listing(LocalHub):
    """A hub that lists names and sizes of its own making."""

    names: tuple[str, ...] = ()

    def list_repo_tree(self, repo_id: str, *, recursive: bool, revision: str | None) -> Any:
        yield from super().list_repo_tree(repo_id, recursive=recursive, revision=revision)
        for name in self.names:
            yield type("Entry", (), {"path": name, "size": 10})()


def test_names_that_lead_out_of_a_folder_are_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a name that is joined to a path before it is looked at."""
    hub = _Listing(place / "hub")
    hub.names = (
        *("run/../../secret.txt", "/etc/passwd", "run//etc/passwd", "run/source/model/../../../secret.txt"),
        *("../run/contract.json", "run/source/model//etc/passwd", "run/..", "run/./block_1.safetensors"),
        *(
            "run/elsewhere/model/config.json",
            "run/block_1.safetensors\0",
            "run/block_١.safetensors",
            "RUN/block_1.safetensors",
        ),
    )
    install(hub, monkeypatch)
    from dbl.run.hub.shared_run import HubRun

    there = HubRun("ada/run")
    assert there.blocks == [0]
    assert set(there._sizes) == {"contract.json", "training.json", "block_0.safetensors"}


def test_a_link_out_of_the_cache_is_refused(place: Path, usual: dict[str, Seen]) -> None:
    """Catches a file of the user's that is read through a link in the cache."""
    _use(place, "assemble")
    link = next((place / "hub/cache").rglob("snapshots/*/run/training.json"))
    for action, target in {"assemble": place / "secret.txt", "fit": place / "hub"}.items():
        shutil.rmtree(place / "runs", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            hub = LocalHub(place / "hub")
            install(hub, patch)
            link.unlink()
            link.symlink_to(target)
            patch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(link.parents[1]))
            assert main([action, *ACTIONS[action]]) == 2
            assert not (place / "runs").exists()


def test_names_of_people_are_shown_as_text(place: Path) -> None:
    """Catches escape sequences that reach the terminal through the history of a repository."""
    path = place / "hub/ada/run/commits.json"
    commits = json.loads(path.read_text())
    commits[-1]["authors"] = ["\x1b[31mroot\x1b[0m\nassembled: everything" + "x" * 500]
    path.write_text(json.dumps(commits))
    seen = _use(place, "assemble")
    assert seen.outcome.problem() == "accepted"
    assert "\x1b" not in seen.outcome.output
    assert "\nassembled: everything" not in seen.outcome.output
    assert max(map(len, seen.outcome.output.splitlines())) < 120


def test_every_setting_of_a_training_is_shared_or_of_the_machine() -> None:
    """Catches a new argument of the training that decides the weights and does not travel with the run."""
    of_machine = {"activation_checkpointing", "compile"}
    shared = {"optimizer", "warmup_steps", "decay", "clip_norm", "accumulate", "distillation", "lora"}
    assert set(TrainingConfig.__dataclass_fields__) == shared | of_machine
    assert shared <= set(SharedTraining.__dataclass_fields__)


def test_adapters_travel_with_a_run(original: Path) -> None:
    """Catches blocks that somebody else trains in full where the run has adapters, and a rank that is no number."""
    run = RunFolder.at(original / "runs/run")
    contract, plain = run.load_contract(), yaml.safe_load(run.config.read_text())
    lora = plain["model"]["recipe"]["lora"] = {"rank": 4, "alpha": 8.0, "layers": ["qkv"]}
    shared = to_plain(SharedTraining.of_config(plain, contract, "config.yaml"))
    again = SharedTraining.restore(json.loads(json.dumps(shared)), contract, "training.json")
    assert again.config(contract, "run")["model"]["recipe"]["lora"] == lora
    shared["init_args"]["lora"]["init_args"]["rank"] = 0
    with pytest.raises(UserError, match="rank"):
        SharedTraining.restore(shared, contract, "training.json")


def test_a_block_file_keeps_every_bit(original: Path, tmp_path: Path) -> None:
    """Catches averaged and live weights that are mixed up, and numbers that are rounded."""
    stored = read_training(RunFolder.at(original / "runs/run").checkpoint("block_0"))
    write_block_file(tmp_path / "block.safetensors", stored)
    again = read_block_file(tmp_path / "block.safetensors")
    assert (again.stamp, again.step, again.seconds) == (stored.stamp, stored.step, stored.seconds)
    for key in ("state_dict", "current_model_state"):
        of_block = {name: tensor for name, tensor in stored.content[key].items() if name.startswith("denoiser.")}
        assert again.content[key].keys() == of_block.keys()
        assert all(torch.equal(tensor, of_block[name]) for name, tensor in again.content[key].items())
    live, average = stored.content["current_model_state"], stored.content["state_dict"]
    assert not all(torch.equal(tensor, average[name]) for name, tensor in live.items() if name in average)
