"""Files that are whole and have the right checksums, but were made to break what reads them: one line, at once."""

import json
import os
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Outcome, run_dbl
from trained_runs import trained_runs

import dbl
from dbl.run.assembly import read_part
from dbl.run.checkpoints import Checkpoints, read_training
from dbl.run.contract import plain_hash
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder, file_hash
from dbl.utils.errors import UserError, one_line
from dbl.utils.files import read_json, read_tensors, write_tensors

LIMIT_S = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the trained runs, not to be changed."""
    return trained_runs(tmp_path_factory)


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the run of classes, which has a table; its path is relative to the current folder."""
    return _copy(runs, tmp_path, monkeypatch, "class")


@pytest.fixture
def text_run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the run of text."""
    return _copy(runs, tmp_path, monkeypatch, "text")


def _copy(runs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> RunFolder:
    shutil.copytree(runs / kind / "runs" / kind, folder / "runs" / kind)
    monkeypatch.chdir(folder)
    return RunFolder(kind)


def _line(read: Callable[[], object]) -> str:
    """The line of the UserError that a reader must raise."""
    with pytest.raises(UserError) as caught:
        read()
    line = one_line(f"dbl: {caught.value}")
    assert len(line) <= 200
    return line


def _sealed(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file and give it the checksum that fits."""
    plain = json.loads(path.read_text())
    change(plain)
    plain["sha256"] = plain_hash({key: value for key, value in plain.items() if key != "sha256"})
    path.write_text(json.dumps(plain))


# JSON that is none, or that breaks what parses it

TEXTS = {
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "text": '"contract"',
    "lists, 200,000 deep": "[" * 200_000 + "]" * 200_000,
    "dicts, 100,000 deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "lists, 100 deep": "[" * 100 + "]" * 100,
    "a number of 10,000 digits": '{"version": ' + "9" * 10_000 + "}",
    "NaN": '{"version": NaN}',
    "infinity": '{"version": -Infinity}',
    "a float that overflows": '{"version": 1e999}',
    "a repeated key": '{"version": 3, "version": 3}',
    "half a pair": '{"version": "\\ud800"}',
    "a null character": "\0",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_json_is_refused_by_name(text: str, run: RunFolder, text_run: RunFolder) -> None:
    """Catches RecursionError, ValueError of `int`, TypeError of a list in place of a dict, and what is no JSON."""
    for folder, path in (
        (run, run.path / "contract.json"),
        (run, run.model / "config.json"),
        (text_run, text_run.tokenizer),
    ):
        path.write_text(text)
        command = {"contract.json": run.load_contract, "config.json": lambda: dbl.BlockStack.from_pretrained(run.model)}
        assert path.name in _line(command.get(path.name, lambda: dbl.load_tokenizer(text_run.tokenizer)))
        assert folder.path.is_dir()


@pytest.mark.parametrize("command", ["assemble", "sample"])
@pytest.mark.parametrize("name", ["lists, 200,000 deep", "a number of 10,000 digits", "null"])
def test_commands_refuse_such_json(name: str, command: str, text_run: RunFolder, tmp_path: Path) -> None:
    """Catches a command that reads a file in another way than the loaders."""
    path = text_run.path / "contract.json" if command == "assemble" else text_run.model / "config.json"
    path.write_text(TEXTS[name])
    assert run_dbl(tmp_path, command, "runs/text", time_limit_s=LIMIT_S).problem() is None


# Values of the wrong type, number or size


def _inference(plain: Any) -> Any:
    return plain["inference"]["init_args"]


CONFIGS: dict[str, Callable[[Any], object]] = {
    "contract a list": lambda plain: plain.update(contract=[]),
    "contract null": lambda plain: plain.update(contract=None),
    "blocks null": lambda plain: plain.update(blocks=None),
    "blocks a dict": lambda plain: plain.update(blocks={"0": {}}),
    "no blocks": lambda plain: plain.update(blocks=[]),
    "one block too few": lambda plain: plain["blocks"].pop(),
    "one block too many": lambda plain: plain["blocks"].append(plain["blocks"][0]),
    "no block that is there": lambda plain: plain.update(blocks=[None] * len(plain["blocks"])),
    "numbers as blocks": lambda plain: plain.update(blocks=[1, 2, 3]),
    "a summary of text": lambda plain: plain["blocks"][0].update(steps="4"),
    "a negative summary": lambda plain: plain["blocks"][0].update(seconds=-1.0),
    "files a list": lambda plain: plain.update(files=list(plain["files"])),
    "files null": lambda plain: plain.update(files=None),
    "checksums of another type": lambda plain: plain["files"].update({"block_0.safetensors": 3}),
    "a block without a checksum": lambda plain: plain["files"].pop("block_0.safetensors"),
    "the table without a checksum": lambda plain: plain["files"].pop("table.safetensors"),
    "weights of another kind": lambda plain: plain.update(weights="best"),
    "weights a list": lambda plain: plain.update(weights=["ema"]),
    "another version": lambda plain: plain["contract"].update(version="3"),
    "inference null": lambda plain: plain.update(inference=None),
    "inference a list": lambda plain: plain.update(inference=[]),
    "a sampler that is a class of another module": lambda plain: _inference(plain).update(
        sampler={"class_path": "this.Thing", "init_args": {}}
    ),
    "a sampler that is a network": lambda plain: _inference(plain)["sampler"].update(class_path="dbl.DiT"),
    "a sampler of text": lambda plain: _inference(plain).update(sampler="euler"),
    "an unknown method": lambda plain: _inference(plain)["sampler"]["init_args"].update(method="rk45"),
    "a method for masked text": lambda plain: _inference(plain)["sampler"]["init_args"].update(method="ancestral"),
    "steps without end": lambda plain: _inference(plain)["sampler"]["init_args"].update(num_steps=10**9),
    "a seed of text": lambda plain: _inference(plain).update(seed="0"),
    "an ensemble of classifiers": lambda plain: _inference(plain).update(ensemble=True),
    "a setting that is none": lambda plain: _inference(plain).update(hook="os.system"),
    "a table that is not there": lambda plain: plain["contract"].update(table_sha256=None),
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS.keys())
def test_values_of_a_model_are_checked(change: Callable[[Any], object], run: RunFolder) -> None:
    """Catches KeyError, TypeError and AttributeError of values that a right checksum vouches for."""
    _sealed(run.model / "config.json", change)
    assert "model" in _line(lambda: dbl.BlockStack.from_pretrained(run.model))


def _network(plain: Any) -> Any:
    return plain["config"]["init_args"]["network"]["init_args"]


def _partition(plain: Any) -> Any:
    return plain["partition"]["init_args"]


CONTRACTS: dict[str, Callable[[Any], object]] = {
    "fewer layers": lambda plain: _partition(plain).update(layers=[1, 1, 2]),
    "more blocks": lambda plain: _partition(plain).update(layers=[1, 1, 1, 1]),
    "fewer boundaries": lambda plain: _partition(plain)["boundaries"].pop(1),
    "rising boundaries": lambda plain: _partition(plain)["boundaries"].reverse(),
    "boundaries that end elsewhere": lambda plain: _partition(plain)["boundaries"].__setitem__(0, 1e6),
    "another number of blocks": lambda plain: plain["config"]["init_args"]["partition"]["init_args"].update(
        num_blocks=2
    ),
    "a negative width": lambda plain: _network(plain).update(width=-16),
    "no width": lambda plain: _network(plain).update(width=0),
    "a width of text": lambda plain: _network(plain).update(width="16"),
    "classes without frequencies": lambda plain: plain["data"]["init_args"].update(num_classes=10**9),
    "a list in place of the network": lambda plain: plain["config"]["init_args"].update(network=[]),
    "null in place of the noise": lambda plain: plain.update(noise=None),
}


@pytest.mark.parametrize("change", CONTRACTS.values(), ids=CONTRACTS.keys())
def test_values_of_a_contract_are_checked(change: Callable[[Any], object], run: RunFolder) -> None:
    """Catches a contract whose parts do not fit together, although its checksum is right."""
    _sealed(run.path / "contract.json", change)
    assert "contract.json" in _line(run.load_contract)


HUGE: dict[str, Callable[[Any], object]] = {
    "a width of 10^9": lambda plain: _network(plain).update(width=10**9, num_heads=1),
    "a width of 10^6": lambda plain: _network(plain).update(width=10**6, num_heads=1),
    "an MLP of 10^9": lambda plain: _network(plain).update(mlp_width=10**9),
    "10^9 layers": lambda plain: (
        _network(plain).update(num_layers=10**9),
        _partition(plain).update(layers=[10**9 - 2, 1, 1]),
    ),
    "10^5 layers": lambda plain: (
        _network(plain).update(num_layers=10**5),
        _partition(plain).update(layers=[10**5 - 2, 1, 1]),
    ),
    "images of 10^9 rows": lambda plain: plain["data"]["init_args"].update(shape=[1, 4 * 10**9, 8]),
}


@pytest.mark.parametrize("change", HUGE.values(), ids=HUGE.keys())
def test_sizes_are_compared_before_memory_is_allocated(
    change: Callable[[Any], object], run: RunFolder, tmp_path: Path
) -> None:
    """Catches a network of a size that nothing in the folder backs, which is built before its weights are looked at."""
    _sealed(run.path / "contract.json", change)
    contract = json.loads((run.path / "contract.json").read_text())
    digest = contract.pop("sha256")
    for block in range(3):
        path = run.checkpoint(f"block_{block}")
        stored = torch.load(path, weights_only=True)
        stored["dbl"]["contract"] = digest
        torch.save(stored, path)
    outcome = run_dbl(tmp_path, "assemble", "runs/class", time_limit_s=LIMIT_S, spare_bytes=2**30)
    assert outcome.problem() is None
    assert "out of memory" not in outcome.errors


# Tensors


def _safetensors(header: Any, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def _entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


TENSORS = {
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "no header": b"",
    "seven bytes": b"\0" * 7,
    "a header that is no JSON": _safetensors(b"{{{{"),
    "a deep header": _safetensors(b"[" * 200_000),
    "a header that is not UTF-8": _safetensors(b"\xff\xfe{}"),
    "a list": _safetensors([]),
    "a type that is none": _safetensors({"table": _entry("F31")}, bytes(8)),
    "a type that is a number": _safetensors({"table": _entry(3)}, bytes(8)),
    "a shape that is larger": _safetensors({"table": _entry(shape=(10**9, 10**9))}, bytes(8)),
    "a shape that overflows": _safetensors({"table": _entry(shape=(2**63, 2**63))}, bytes(8)),
    "a negative shape": _safetensors({"table": _entry(shape=(-2,))}, bytes(8)),
    "offsets beyond the file": _safetensors({"table": _entry(offsets=(0, 10**12))}, bytes(8)),
    "offsets in the wrong order": _safetensors({"table": _entry(offsets=(8, 0))}, bytes(8)),
    "tensors that overlap": _safetensors({"table": _entry(), "other": _entry(offsets=(4, 12))}, bytes(12)),
    "metadata of numbers": _safetensors({"__metadata__": {"dbl": 3}, "table": _entry()}, bytes(8)),
    "metadata that is a list": _safetensors({"__metadata__": [], "table": _entry()}, bytes(8)),
    "another name": _safetensors({"other": _entry()}, bytes(8)),
    "one tensor more": _safetensors({"table": _entry(), "other": _entry(offsets=(8, 16))}, bytes(16)),
    "NaN": _safetensors({"table": _entry()}, struct.pack("<ff", float("nan"), 0)),
}


@pytest.mark.parametrize("content", TENSORS.values(), ids=TENSORS.keys())
@pytest.mark.parametrize("name", ["table.safetensors", "block_0.safetensors"])
def test_tensors_of_a_model_are_checked(content: bytes, name: str, run: RunFolder) -> None:
    """Catches a file that its checksum kept from the parser until an attacker computed a new one."""
    (run.model / name).write_bytes(content)
    digest = file_hash(run.model / name)
    _sealed(run.model / "config.json", lambda plain: plain["files"].update({name: digest}))
    assert name in _line(lambda: ModelFolder(run.model).denoiser(0))


def test_metadata_that_is_no_json_is_refused(run: RunFolder) -> None:
    """Catches metadata that are parsed rather than compared, and weights of another block."""
    path = run.model / "block_0.safetensors"
    weights = read_tensors(path)
    for metadata in ({"dbl": "[" * 200_000}, {}, {"dbl": "null"}, {"dbl": '{"block": 0}', "more": "x"}):
        write_tensors(path, weights, metadata)
        digest = file_hash(path)
        _sealed(run.model / "config.json", lambda plain, digest=digest: plain["files"].update({path.name: digest}))  # type: ignore[misc]
        assert path.name in _line(lambda: ModelFolder(run.model))


def test_weights_of_a_model_that_are_not_numbers_are_refused(run: RunFolder) -> None:
    """Catches a model whose samples are all NaN, without a word."""
    path = run.model / "block_0.safetensors"
    weights, stamp = (
        read_tensors(path),
        json.dumps({"contract": run.load_contract().hash, "block": 0, "weights": "ema"}),
    )
    next(iter(weights.values())).view(-1)[0] = float("nan")
    write_tensors(path, weights, {"dbl": stamp})
    digest = file_hash(path)
    _sealed(run.model / "config.json", lambda plain: plain["files"].update({path.name: digest}))
    assert "NaN" in _line(lambda: ModelFolder(run.model).denoiser(0))


# Checkpoints


def _first(stored: Any, key: str = "state_dict") -> str:
    return str(next(iter(stored[key])))


def _set(*path: Any) -> Callable[[Any], object]:
    """A change that sets the value at a path, its last element, in a checkpoint."""

    def change(stored: Any) -> None:
        *holders, key, value = path
        for holder in holders:
            stored = stored[holder]
        stored[key] = value

    return change


CHECKPOINTS: dict[str, Callable[[Any], object]] = {
    **{
        f"{key} {name}": _set(key, value)
        for key in ("dbl", "state_dict", "global_step")
        for name, value in (
            ("null", None),
            ("a list", [1]),
            ("text", "x"),
            ("nothing", {}),
            ("not a number", float("nan")),
            ("-1", -1),
            ("10^400", 10**400),
        )
    },
    "callbacks text": _set("callbacks", "x"),
    "the timer a list": _set("callbacks", "Timer", [1]),
    "a time of text": _set("callbacks", "Timer", "time_elapsed", "train", "soon"),
    "a negative time": _set("callbacks", "Timer", "time_elapsed", "train", -5.0),
    **{
        f"dbl.{key} {value!r}": _set("dbl", key, value)
        for key in ("batches_seen", "samples", "max_steps")
        for value in (None, "4", -1, 2.5, float("nan"), True, 2**70)
    },
    "dbl.part a list": _set("dbl", "part", ["block_0"]),
    "dbl.contract null": _set("dbl", "contract", None),
    "layer passes that are infinite": _set("dbl", "layer_passes", float("inf")),
    "a number as a weight": lambda stored: stored["state_dict"].update({_first(stored): 3.0}),
    "numbers as names": lambda stored: stored["state_dict"].update({7: torch.zeros(2)}),
    "a sparse weight": lambda stored: stored["state_dict"].update({_first(stored): torch.eye(3).to_sparse()}),
    "a weight without memory": lambda stored: stored["state_dict"].update(
        {_first(stored): torch.empty(3, device="meta")}
    ),
    "a weight of 10^12 numbers": lambda stored: stored["state_dict"].update(
        {_first(stored): torch.zeros(1).expand(10**6, 10**6)}
    ),
    "a weight of another shape": lambda stored: stored["state_dict"].update({_first(stored): torch.zeros(2)}),
    "one weight more": lambda stored: stored["state_dict"].update({"denoiser.more": torch.zeros(2)}),
    "one weight less": lambda stored: stored["state_dict"].pop(_first(stored)),
    "a NaN weight": lambda stored: stored["state_dict"][_first(stored)].view(-1).__setitem__(0, float("nan")),
    "an infinite weight": lambda stored: stored["state_dict"][_first(stored)].view(-1).__setitem__(0, float("inf")),
    "10^4 weights more": lambda stored: stored["state_dict"].update(
        {f"denoiser.{number}": torch.zeros(1) for number in range(10**4)}
    ),
    "10^6 keys": lambda stored: stored["dbl"].update({"part": dict.fromkeys(range(10**6))}),
}


def _rewrite(path: Path, change: Callable[[Any], object]) -> None:
    stored = torch.load(path, weights_only=True)
    change(stored)
    torch.save(stored, path)


@pytest.mark.parametrize("change", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_values_of_a_checkpoint_are_checked(change: Callable[[Any], object], run: RunFolder) -> None:
    """Catches a checkpoint that is assembled, or breaks the command, although it is none of `dbl`."""
    contract, path = run.load_contract(), run.checkpoint("block_0")
    _rewrite(path, change)
    before = json.loads((run.model / "config.json").read_text())
    assert "last.ckpt" in _line(lambda: dbl.run.assembly.assemble(run))
    assert json.loads((run.model / "config.json").read_text()) == before
    assert contract.hash == run.load_contract().hash


def _merge_groups(stored: Any) -> None:
    """As versions wrote it in which everything decayed."""
    first, second = stored["optimizer_states"][0]["param_groups"]
    first["params"] += second["params"]
    stored["optimizer_states"][0]["param_groups"] = [first]


STATES: dict[str, Callable[[Any], object]] = {
    "no optimizer": lambda stored: stored.pop("optimizer_states"),
    "no state of an optimizer": _set("optimizer_states", []),
    "an optimizer of text": _set("optimizer_states", ["x"]),
    "two optimizers": lambda stored: stored["optimizer_states"].append(stored["optimizer_states"][0]),
    "no schedule": lambda stored: stored.pop("lr_schedulers"),
    "a schedule of nothing": _set("lr_schedulers", []),
    "no loops": lambda stored: stored.pop("loops"),
    "loops of another kind": _set("loops", {"validate_loop": {}}),
    "no callbacks": lambda stored: stored.pop("callbacks"),
    "another number of weights": lambda stored: stored["optimizer_states"][0]["param_groups"][0]["params"].pop(),
    "one group for all weights": _merge_groups,
    "groups of text": _set("optimizer_states", 0, "param_groups", "x"),
    "loops of text": _set("loops", "fit_loop", {"state_dict": "x"}),
    "callbacks of text": _set("callbacks", "EMA", "x"),
    "an average without its weights": lambda stored: stored.pop("averaging_state"),
    "an average of text": _set("averaging_state", "x"),
    "no live weights": lambda stored: stored.pop("current_model_state"),
    "live weights of another network": _set("current_model_state", {"other": torch.zeros(2)}),
    "weights of another network": _set("state_dict", {"other": torch.zeros(2)}),
    "another part": _set("dbl", "part", "block_1"),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_a_training_resumes_no_such_state(change: Callable[[Any], object], run: RunFolder, tmp_path: Path) -> None:
    """Catches a traceback of Lightning, and states that it leaves as they were where the checkpoint has none."""
    files = run.checkpoints("block_0")
    for path in (files.last, files.previous):
        _rewrite(path, change)
    before = {path: path.read_bytes() for path in (files.last, files.previous)}
    outcome = _resume(tmp_path)
    assert outcome.problem() is None
    assert {path: path.read_bytes() for path in before} == before


def _resume(folder: Path) -> Outcome:
    arguments = ("--config", "runs/class/config.yaml", "--model.block=0", "--trainer.max_steps=6")
    return run_dbl(folder, "fit", *arguments, time_limit_s=LIMIT_S)


def test_a_checkpoint_without_optimizer_gives_way_to_the_previous(run: RunFolder, tmp_path: Path) -> None:
    """Catches a training that stops although an older checkpoint is whole."""
    files = run.checkpoints("block_0")
    _rewrite(files.last, STATES["no optimizer"])
    outcome = _resume(tmp_path)
    assert outcome.code == 0
    assert "training goes on from runs/class/block_0/checkpoints/previous.ckpt (step 2)" in outcome.errors
    assert read_training(files.last, to_resume=True).step == 6


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**8)


def _overlapping(path: Path) -> None:
    """Ten thousand names of one record."""
    content = b"0" * 10**6
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        (first,) = archive.filelist
        archive.filelist.extend([first] * 10**4)


def _larger_than_its_record(path: Path) -> None:
    """A tensor of 100 numbers over a record of one, as torch would resize it."""
    stored = torch.load(path, weights_only=True)
    small = torch.zeros(1)
    stored["state_dict"][_first(stored)] = small
    torch.save(stored, path)
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content if name.endswith("pkl") or "/data/" not in name else content[:4])


@pytest.mark.parametrize("make", [_bomb, _overlapping, _larger_than_its_record])
def test_archives_hold_no_more_than_they_seem_to(make: Callable[[Path], object], run: RunFolder) -> None:
    """Catches an archive that fills the memory, or a tensor that shows what lies in it."""
    path = run.checkpoint("block_0")
    make(path)
    contract = run.load_contract()
    assert "last.ckpt" in _line(lambda: read_part(path, "block_0", contract, "denoiser."))


# Pipes, sockets, devices and names


def _socket(path: Path) -> None:
    folder = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have a hundred characters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(folder)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a sparse file of 2^40 bytes": lambda path: (path.touch(), os.truncate(path, 2**40)),
}
FILES = {
    "contract.json": "assemble",
    "table.safetensors": "assemble",
    "block_0/checkpoints/last.ckpt": "assemble",
    "tokenizer.json": "sample",
    "model/config.json": "sample",
    "model/block_0.safetensors": "sample",
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_not_waited_for(kind: str, text_run: RunFolder, tmp_path: Path) -> None:
    """Catches a reader that opens whatever has the name of a file, and waits for ever."""
    for name, command in FILES.items():
        path = text_run.path / name
        if "sparse" in kind and path.suffix != ".json":
            continue  # of the others the checksum is computed, however long that takes
        whole = path.read_bytes()
        path.unlink()
        SPECIAL[kind](path)
        outcome = run_dbl(tmp_path, command, "runs/text", time_limit_s=LIMIT_S)
        assert outcome.problem() is None, f"{name}: {outcome}"
        path.unlink()
        path.write_bytes(whole)


def test_names_with_newlines_stay_in_one_line(runs: Path, tmp_path: Path) -> None:
    """Catches a message that a name breaks into several lines, or colours."""
    folder = tmp_path / "a\nb\x1b[31m"
    shutil.copytree(runs / "class" / "runs" / "class", folder)
    (folder / "contract.json").write_text("[]")
    for command in ("assemble", "sample"):
        outcome = run_dbl(tmp_path, command, str(folder))
        assert outcome.problem() is None
        assert "\x1b" not in outcome.errors


def test_valid_files_are_still_read(run: RunFolder) -> None:
    """Catches checks that refuse what `dbl` itself writes, which all tests above would not notice."""
    assert read_json(run.model / "config.json")["weights"] == "ema"
    assert Checkpoints(run.checkpoint("block_0")).newest() is not None
    assert dbl.BlockStack.from_pretrained(run.model).available == (0, 1, 2)
