"""Folders from elsewhere that name modules, classes and files: nothing is imported, run or read because of it.

Each case is the folder of a tiny run, changed as an attacker would change it, checksums included.
"""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from toy import fit, recipe
from watched import Seen, watch

import dbl
from dbl.data import Characters
from dbl.data.images.decode import ImageDecoder
from dbl.data.sources.records import ParquetRecords
from dbl.run.assembly import assemble
from dbl.run.contract import Contract, plain_hash
from dbl.run.folder import RunFolder
from dbl.run.model_folder import file_hash
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError

Change = Callable[[Any], object]

CANARY = "canary"  # made in the current folder by code that must not run
CODE = f'open("{CANARY}", "w").close()\n'


@pytest.fixture(scope="module")
def originals(dit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `image`, trained for two steps and assembled, and the tokenizer of a run `text`."""
    folder = tmp_path_factory.mktemp("originals")
    run = RunFolder("image", str(folder))
    run.write_contract(dit_contract)
    for block in range(3):
        fit(DiffusionBlock(dit_contract, block, recipe()), run.path, steps=2)
    assemble(run)
    (folder / "text").mkdir()
    Characters("aböd\n").save(folder / "text/tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def usual(originals: Path) -> dict[str, Seen]:
    """What each action imports and opens for a run as it was made."""
    seen = {action: watch(originals, action, *arguments) for action, arguments in ACTIONS.items()}
    assert {action: one.outcome.problem() for action, one in seen.items()} == dict.fromkeys(ACTIONS, "accepted")
    return seen


ACTIONS = {
    "from_pretrained": ("image/model",),
    "load_tokenizer": ("text/tokenizer.json",),
    "assemble": ("image",),
    "sample": ("image", "--device=cpu", "--num_images=1", "--batch_size=1", "--sampler.num_steps=6"),
}


@pytest.fixture
def runs(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the runs, with a module beside them on the path, and a file outside of them."""
    for name in ("image", "text"):
        shutil.copytree(originals / name, tmp_path / name)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/ours.py").write_text(CODE)
    lazy = f"def __getattr__(name):\n    {CODE}    raise AttributeError(name)\n"
    (tmp_path / "beside/lazy.py").write_text(lazy)
    (tmp_path / "secret.json").write_text('{"password": 1}')
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    return tmp_path


def refused(runs: Path, usual: dict[str, Seen], action: str, *named: str, imported: tuple[str, ...] = ()) -> None:
    """Check that an action ends in one line that names all of `named`, and touches nothing that it usually does not."""
    seen = watch(runs, action, *ACTIONS[action], imported=imported)
    assert seen.outcome.problem() is None
    for text in named:
        assert text in seen.outcome.errors
    untouched(runs, usual[action], seen)


def untouched(runs: Path, usual: Seen, seen: Seen) -> None:
    """Check that nothing was imported or opened beyond what is usual, and no code ran."""
    assert not (runs / CANARY).exists()
    assert seen.modules - usual.modules == set()
    places = [runs / "image", runs / "text", *map(Path, (sys.base_prefix, sys.prefix, dbl.__file__, "/proc", "/sys"))]
    inside = tuple(os.path.realpath(place if place.is_dir() else place.parent) + os.sep for place in places)
    assert {file for file in seen.files - usual.files if not f"{file}{os.sep}".startswith(inside)} == set()


def rewrite(path: Path, change: Change) -> None:
    """Change a JSON file, and give it the checksum that fits."""
    plain = json.loads(path.read_text())
    change(plain)
    if "sha256" in plain:
        plain["sha256"] = plain_hash({key: value for key, value in plain.items() if key != "sha256"})
    path.write_text(json.dumps(plain))


NAMES: dict[str, Any] = {
    "beside": "ours.Network",
    "lazy": "lazy.Network",
    "unittest": "unittest.__main__.Network",
    "venv": "venv.__main__.Network",
    "antigravity": "antigravity.Network",
    "this": "this.Network",
    "idle": "idlelib.idle.Network",
    "ipython": "IPython.__main__.Network",
    "function": "os.system",
    "class of the library": "subprocess.Popen",
    "builtin": "builtins.dict",
    "bare builtin": "dict",
    "class of torch": "torch.nn.Linear",
    "two dots": "..ours.Network",
    "dots inside": "dbl..DiT",
    "parent": "../beside/ours.Network",
    "trailing dot": "dbl.DiT.",
    "module of dbl": "dbl.commands.main.main",
    "function of dbl": "dbl.main",
    "import of dbl": "dbl.os",
    "private": "dbl._STUB",
    "dunder": "dbl.__loader__",
    "attribute": "dbl.DiT.__class__",
    "nested": "dbl.ContractConfig.network",
    "full path": "dbl.networks.dit.DiT",
    "not a network": "dbl.Sampler",
    "abstract": "dbl.Architecture",
    "NUL": "dbl.DiT\0",
    "line end": "dbl.DiT\n",
    "empty": "",
    "dot": ".",
    "long": "a" * 100_000 + ".b",
    "null": None,
    "number": 7,
    "list": ["dbl", "DiT"],
    "mapping": {"class_path": "ours.Network", "init_args": {}},
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("action", ["from_pretrained", "assemble", "load_tokenizer"])
def test_a_stored_name_imports_nothing(runs: Path, usual: dict[str, Seen], action: str, name: Any) -> None:
    """Catches a loader that imports the module which a file names before it checks the class."""
    file = {"from_pretrained": "image/model/config.json", "assemble": "image/contract.json"}.get(action)
    if file is None:
        file = ACTIONS[action][0]
        rewrite(runs / file, lambda plain: plain.update(class_path=name))
    else:
        rewrite(runs / file, lambda plain: _contract(plain)["config"]["init_args"]["network"].update(class_path=name))
    refused(runs, usual, action, "class_path", Path(file).name, imported=("lazy",))


def _contract(plain: Any) -> Any:
    return plain.get("contract", plain)


PLACES: dict[str, Callable[[Any], Any]] = {
    "config": lambda plain: plain["config"],
    "target": lambda plain: plain["config"]["init_args"]["target"],
    "chosen noise": lambda plain: plain["config"]["init_args"]["noise"],
    "chosen partition": lambda plain: plain["config"]["init_args"]["partition"],
    "data": lambda plain: plain["data"],
    "noise": lambda plain: plain["noise"],
    "partition": lambda plain: plain["partition"],
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("action", ["from_pretrained", "sample"])
def test_no_place_of_a_contract_imports(
    runs: Path, usual: dict[str, Seen], action: str, place: Callable[[Any], Any]
) -> None:
    """Catches a class that is checked at the top of a contract and not inside, or by one command and not by another."""
    file = "image/contract.json" if action == "sample" else "image/model/config.json"
    rewrite(runs / file, lambda plain: place(_contract(plain)).update(class_path="ours.Network"))
    refused(runs, usual, action, "may not import module ours", "--trust ours", Path(file).name)


def _network(plain: Any) -> Any:
    return _contract(plain)["config"]["init_args"]["network"]["init_args"]


VALUES: dict[str, tuple[Change, str]] = {
    "text for a number": (lambda plain: _network(plain).update(width="16"), "config.network.width"),
    "fraction for a whole number": (lambda plain: _network(plain).update(width=16.0), "config.network.width"),
    "true for a number": (lambda plain: _network(plain).update(num_layers=True), "config.network.num_layers"),
    "null for a number": (lambda plain: _network(plain).update(width=None), "config.network.width"),
    "a list for a number": (lambda plain: _network(plain).update(width=[16]), "config.network.width"),
    "a class for a number": (
        lambda plain: _network(plain).update(width={"class_path": "ours.Network", "init_args": {}}),
        "config.network.width",
    ),
    "NaN": (lambda plain: _network(plain).update(mlp_ratio=float("nan")), "NaN is not a finite number"),
    "infinity": (lambda plain: _network(plain).update(cond_dropout=float("inf")), "Infinity is not a finite number"),
    "a huge number": (lambda plain: _network(plain).update(width=10**30), "config.network.width"),
    "a huge number for a fraction": (lambda plain: _network(plain).update(mlp_ratio=10**400), "config.network.mlp"),
    "an unknown field": (lambda plain: _network(plain).update(command="rm"), "config.network.command"),
    "a dunder field": (lambda plain: _network(plain).update(__class__="ours"), "config.network.__class__"),
    "arguments as a list": (
        lambda plain: _contract(plain)["config"]["init_args"]["network"].update(init_args=[16]),
        "config.network.init_args",
    ),
    "a key beside the class": (
        lambda plain: _contract(plain)["config"]["init_args"]["network"].update(run="ours"),
        "config.network",
    ),
    "a key beside the contract": (lambda plain: _contract(plain).update(run="ours"), "run"),
    "a network as text": (
        lambda plain: _contract(plain)["config"]["init_args"].update(network="ours.Network"),
        "config.network",
    ),
    "a choice that there is not": (
        lambda plain: _contract(plain)["config"]["init_args"]["target"]["init_args"].update(weight="ours"),
        "config.target.weight",
    ),
    "a text among numbers": (
        lambda plain: _contract(plain)["partition"]["init_args"].update(layers=[1, "1", 1]),
        "partition.layers[1]",
    ),
    "NaN among numbers": (
        lambda plain: _contract(plain)["data"]["init_args"].update(class_frequencies=[float("nan"), 0.5, 0.5]),
        "NaN is not a finite number",
    ),
    "a list of another length": (
        lambda plain: _contract(plain)["data"]["init_args"].update(shape=[1, 4, 6, 1]),
        "data.shape",
    ),
    "a missing field": (lambda plain: _contract(plain)["data"]["init_args"].pop("name"), "data.name"),
}


@pytest.mark.parametrize(("change", "key"), VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("action", ["from_pretrained", "assemble"])
def test_a_stored_value_has_the_type_of_its_field(
    runs: Path, usual: dict[str, Seen], action: str, change: Change, key: str
) -> None:
    """Catches a dataclass that is filled with whatever a file holds."""
    file = "image/contract.json" if action == "assemble" else "image/model/config.json"
    rewrite(runs / file, change)
    refused(runs, usual, action, key, Path(file).name)


FILES: dict[str, str] = {
    "parent": "../../secret.json",
    "absolute": "/etc/passwd",
    "through a folder": "sub/../../../secret.json",
    "dot": ".",
    "dots": "..",
    "empty": "",
    "NUL": "block_0.safetensors\0",
    "backslash": "..\\secret.json",
    "the config itself": "config.json",
    "pattern": "*",
    "another block's number": "block_00.safetensors",
    "a digit of another script": "block_١.safetensors",
}


@pytest.mark.parametrize("name", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("action", ["from_pretrained", "sample"])
def test_a_model_lists_its_own_files_only(runs: Path, usual: dict[str, Seen], action: str, name: str) -> None:
    """Catches a name that leads out of the folder, is hashed there, and is uploaded with the next push."""
    model = runs / "image/model"
    path = model / name if "\0" not in name else model
    digest = file_hash(path) if path.is_file() else "0" * 64
    rewrite(model / "config.json", lambda config: config["files"].update({name: digest}))
    refused(runs, usual, action, "config.json: files lists", "no file of a model")


@pytest.mark.parametrize("name", ["config.json", "block_0.safetensors", "block_2.safetensors"])
@pytest.mark.parametrize("action", ["from_pretrained", "sample"])
def test_a_link_out_of_a_model_is_refused(runs: Path, usual: dict[str, Seen], action: str, name: str) -> None:
    """Catches a file of the user's that is read through a link, although its checksum fits."""
    file = runs / "image/model" / name
    file.rename(runs / f"outside-{name}")
    file.symlink_to(f"../../outside-{name}")
    refused(runs, usual, action, name, "is a link to a file outside")


def test_a_link_to_a_device_is_refused(runs: Path, usual: dict[str, Seen]) -> None:
    """Catches a read that never ends."""
    file = runs / "image/model/block_0.safetensors"
    file.unlink()
    file.symlink_to("/dev/zero")
    refused(runs, usual, "from_pretrained", "block_0.safetensors")


def test_a_model_may_be_a_link_to_another_disk(runs: Path) -> None:
    """Catches a check of links that refuses the folder itself, or a link to a neighbour inside."""
    (runs / "image/model").rename(runs / "disk")
    (runs / "image/model").symlink_to(runs / "disk")
    (runs / "disk/block_1.safetensors").rename(runs / "disk/weights")
    (runs / "disk/block_1.safetensors").symlink_to("weights")
    assert watch(runs, "from_pretrained", "image/model").outcome.problem() == "accepted"


def _snapshot(runs: Path) -> Path:
    """The model as the cache of huggingface_hub keeps it: links to blobs, in the folder of the repository."""
    repository = runs / "image/models--somebody--model"
    snapshot = repository / "snapshots/0123abcd"
    snapshot.mkdir(parents=True)
    shutil.move(runs / "image/model", repository / "blobs")
    for blob in sorted((repository / "blobs").iterdir()):
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_a_snapshot_of_the_hub_is_read(runs: Path) -> None:
    """Catches a check of links that refuses every model of the hub."""
    snapshot = _snapshot(runs)
    assert watch(runs, "from_pretrained", str(snapshot)).outcome.problem() == "accepted"


@pytest.mark.parametrize("way", ["another repository", "its blobs are elsewhere", "a class"])
def test_a_hostile_snapshot_is_refused(runs: Path, usual: dict[str, Seen], way: str) -> None:
    """Catches a snapshot that may link anywhere, since its files are links anyway."""
    snapshot = _snapshot(runs)
    blobs = snapshot.parents[1] / "blobs"
    if way == "another repository":
        (snapshot / "block_0.safetensors").unlink()
        shutil.move(blobs / "block_0.safetensors", runs / "outside")
        (snapshot / "block_0.safetensors").symlink_to(runs / "outside")
    elif way == "its blobs are elsewhere":
        shutil.move(blobs, runs / "outside")
        blobs.symlink_to(runs / "outside")
    else:
        config = blobs / "config.json"
        rewrite(config, lambda plain: plain["contract"]["noise"].update(class_path="ours.Network"))
    seen = watch(runs, "from_pretrained", str(snapshot))
    assert seen.outcome.problem() is None
    untouched(runs, usual["from_pretrained"], seen)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.json", "/dev/zero", "text/tokenizer.json", ""])
def test_a_stored_tokenizer_reads_no_other_file(runs: Path, usual: dict[str, Seen], path: str) -> None:
    """Catches a tokenizer whose content is a file of the reader's machine."""
    stored = {"class_path": "dbl.TokenizerFile", "init_args": {"path": path, "content": None}, "identity": "0"}
    (runs / "text/tokenizer.json").write_text(json.dumps(stored))
    refused(runs, usual, "load_tokenizer", "tokenizer.json: tokenizer.content is null")


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, function: Callable[..., object], argument: str) -> None:
        self.reduced = function, (argument,)

    def __reduce__(self) -> Any:
        return self.reduced


def _with_payload(path: Path, payload: object) -> None:
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"hyper_parameters": payload}, path)


def _legacy(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"extra": Payload(exec, CODE)}, path, _use_new_zipfile_serialization=False)


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "exec": lambda path: _with_payload(path, Payload(exec, CODE)),
    "system": lambda path: _with_payload(path, Payload(os.system, f"touch {CANARY}")),
    "import": lambda path: _with_payload(path, Payload(__import__, "antigravity")),
    "load": lambda path: _with_payload(path, Payload(torch.load, "secret.json")),
    "plain pickle": lambda path: path.write_bytes(pickle.dumps({"state_dict": Payload(exec, CODE)})),
    "global of a module": lambda path: path.write_bytes(b"cours\nNetwork\n."),
    "legacy format": _legacy,
    "TorchScript": lambda path: torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), path),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("write", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_runs_nothing(runs: Path, usual: dict[str, Seen], write: Callable[[Path], object]) -> None:
    """Catches a checkpoint that is unpickled."""
    write(runs / "image/block_1/checkpoints/last.ckpt")
    refused(runs, usual, "assemble", "last.ckpt")


CONFIGS: dict[str, str] = {
    "python object": f"inference: {{sampler: !!python/object/apply:os.system ['touch {CANARY}']}}",
    "python module": "inference: {sampler: {method: !!python/module:ours ''}}",
    "class": "inference: {sampler: {class_path: ours.Network, init_args: {}}}",
    "class for a word": "inference: {sampler: {method: {class_path: ours.Network, init_args: {}}}}",
    "variable": "inference: {sampler: {method: '${oc.env:PATH}'}}",
    "decoded variable": "inference: {sampler: {num_steps: '${oc.decode:${oc.env:STEPS}}'}}",
    "reference": "inference: {sampler: {num_steps: '${run.steps}'}}\nrun: {steps: 6}",
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_config_of_a_run_folder_is_data(runs: Path, usual: dict[str, Seen], text: str) -> None:
    """Catches a command that is given a run folder alone, and imports, evaluates or looks up what its config names."""
    (runs / "image/config.yaml").write_text(text)
    seen = watch(runs, "assemble", "image")
    assert seen.outcome.problem() is None
    assert os.environ["PATH"] not in seen.outcome.errors + seen.outcome.output
    untouched(runs, usual["assemble"], seen)


@pytest.mark.parametrize(
    ("command", "file"),
    [("test", "model/config.json"), ("validate", "contract.json"), ("predict", "model/config.json")],
)
def test_evaluation_runs_nothing(runs: Path, command: str, file: str, dit_contract: Contract) -> None:
    """Catches a config of the user's own, used on a folder from elsewhere."""
    network = dit_contract.to_plain()["config"]["init_args"]["network"]
    config = {
        "run": {"name": "image", "root": "."},
        "contract": {"network": network, "target": {"class_path": "dbl.PixelTarget"}},
        "data": {"class_path": "toy.Stripes"},
        "model": {"block": 0},
        "trainer": {"accelerator": "cpu", "logger": False},
        "inference": {"num_images": 1},
    }
    (runs / "mine.yaml").write_text(yaml.safe_dump(config))
    rewrite(runs / "image" / file, lambda plain: _contract(plain)["partition"].update(class_path="ours.Network"))
    seen = watch(runs, command, "--config", "mine.yaml")
    assert seen.outcome.problem() is None
    assert "may not import module ours" in seen.outcome.errors
    assert "ours" not in seen.modules
    assert not (runs / CANARY).exists()


CELLS = {
    "absolute": lambda folder: str(folder / "secret.png"),
    "parent": lambda folder: "../secret.png",
    "a link": lambda folder: "link.png",
    "a folder": lambda folder: "..",
    "a device": lambda folder: "/dev/zero",
    "empty": lambda folder: "",
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_a_cell_of_a_parquet_file_names_files_beside_it(tmp_path: Path, cell: Callable[[Path], str]) -> None:
    """Catches a data set that makes images of files elsewhere on the reader's machine."""
    import PIL.Image

    (tmp_path / "data").mkdir()
    for place in ("secret.png", "data/own.png"):
        PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / place)
    (tmp_path / "data/link.png").symlink_to("../secret.png")

    def images(path: str) -> list[Any]:
        cells = [{"bytes": None, "path": path}]
        pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": [0]}), tmp_path / "data/train.parquet")
        return list(ImageDecoder("image", "label", 4, 1).chunks(ParquetRecords([tmp_path / "data/train.parquet"])))

    with pytest.raises(UserError, match=r"no readable image in row 0 .*inside the folder"):
        images(cell(tmp_path))
    assert len(images("own.png")) == len(images(str(tmp_path / "data/own.png"))) == 1
