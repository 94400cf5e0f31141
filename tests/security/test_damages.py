"""Damaged files of whole runs: each is refused in one line, or it is only informative and nothing changes."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Outcome, run_dbl
from trained_runs import KINDS, copies, trained_runs

from dbl.run.assembly import read_block, read_part
from dbl.run.checkpoints import read_training
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder, run_tokenizer
from dbl.run.model_folder import ModelFolder
from dbl.utils.errors import UserError, one_line

# What a file is used for: a value that depends on all of its content.
Read = Callable[[], Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Copies of the runs; each test repairs what it damages."""
    return copies(trained_runs(tmp_path_factory), tmp_path_factory.mktemp("damaged"))


def _readers(run: RunFolder) -> dict[Path, Read]:
    """The files of a run that its results depend on -> what reads them."""
    contract = run.load_contract()
    blocks = range(contract.partition.num_blocks)

    def contract_of_blocks() -> Any:
        read = run.load_contract()
        read_block(run, read, 0)
        return {**read.to_plain(), "table": read.table}

    readers: dict[Path, Read] = {run.path / "contract.json": contract_of_blocks}
    if contract.table is not None:
        readers[run.path / "table.safetensors"] = contract_of_blocks
        readers[run.model / "table.safetensors"] = lambda: ModelFolder(run.model).contract.table
    if run.tokenizer.is_file():
        readers[run.tokenizer] = lambda: run_tokenizer(run).encode("a test")
        readers[run.model / "tokenizer.json"] = lambda: ModelFolder(run.model).config
    readers[run.model / "config.json"] = lambda: ModelFolder(run.model).config
    for block in blocks:
        part = f"block_{block}"
        for path in (run.checkpoints(part).last, run.checkpoints(part).previous):
            readers[path] = partial(_training, path, part, contract)
        readers[run.model / f"{part}.safetensors"] = partial(_weights, run.model, block)
    return readers


def _training(path: Path, part: str, contract: Contract) -> Any:
    read_part(path, part, contract, "denoiser.")
    return read_training(path, to_resume=True).content


def _weights(model: Path, block: int) -> Any:
    return ModelFolder(model).denoiser(block).state_dict()


def _contents(whole: bytes, others: list[bytes], draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Damaged contents of a file, each with a name; `others` are files of the same kind."""
    size = len(whole)
    for share in (0.0, 0.01, 0.5, 0.99):
        yield f"truncated at {share:.0%}", whole[: int(share * size)]
    yield "one byte shorter", whole[:-1]
    yield "one byte longer", whole + b"\0"
    for _ in range(6):
        place, bit = draw.randrange(size), draw.randrange(8)
        yield f"bit {bit} of byte {place}", whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    place = draw.randrange(size)
    yield f"four bytes more at {place}", whole[:place] + b"1234" + whole[place:]
    yield "not UTF-8", b"\xff\xfe" + whole
    yield "zeros", bytes(size)
    for number, other in enumerate(others):
        yield f"replaced by another file {number}", other


def _judge(read: Read, expected: Any) -> str | None:
    """What is wrong with the reading of a damaged file; None if it was refused in one line or nothing changed."""
    try:
        found = read()
    except UserError as error:
        line = one_line(f"dbl: {error}")
        return None if len(line) <= 200 else f"message {line!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if _equal(found, expected) else "accepted with another content"


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_of_a_file_with_results_is_accepted(kind: str, runs: dict[str, RunFolder]) -> None:
    """Catches a file that is read without comparing its checksum, and errors of parsers that nobody catches."""
    run, draw = runs[kind], random.Random(kind)
    readers = _readers(run)
    whole = {path: path.read_bytes() for other in runs.values() for path in _readers(other)}
    problems, count = [], 0
    for path, read in readers.items():
        expected = read()
        # Not from the same folder: there an older checkpoint of the same block is no damage.
        same_kind = [other for other in whole if other.suffix == path.suffix and other.parent != path.parent]
        others = [whole[other] for other in draw.sample(same_kind, min(3, len(same_kind)))]
        for name, content in _contents(whole[path], others, draw):
            path.write_bytes(content)
            count += 1
            if problem := _judge(read, expected):
                problems.append(f"{path.relative_to(run.path)}, {name}: {problem}")
        path.unlink()
        problems += [f"{path.name}, absent: {problem}"] if (problem := _judge(read, expected)) else []
        path.mkdir()
        problems += [f"{path.name}, a folder: {problem}"] if (problem := _judge(read, expected)) else []
        path.rmdir()
        path.write_bytes(whole[path])
    assert problems == []
    assert count + 2 * len(readers) >= 150


def test_exchanged_blocks_and_models_are_refused(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    """Catches folders of other blocks and runs that are taken because each file is whole."""
    image, others = runs["image"], (runs["class"], runs["text"])
    blocks = [image.part(f"block_{block}") for block in (0, 1)]
    pairs = [(blocks[0], blocks[1]), *((image.model, other.model) for other in others)]
    pairs += [(blocks[0], other.part("block_0")) for other in others]
    for ours, theirs in pairs:
        kept = tmp_path / "kept"
        ours.rename(kept)
        shutil.copytree(theirs, ours)
        contract = image.load_contract()
        if ours == image.model:
            assert ModelFolder(ours).contract.hash != contract.hash  # whole in itself; `dbl test` compares
        else:
            with pytest.raises(UserError, match=r"holds block_1, not block_0|another contract"):
                read_block(image, contract, 0)
        shutil.rmtree(ours)
        kept.rename(ours)


def _informative(run: RunFolder) -> list[Path]:
    """The files of a run that only inform people."""
    part = run.part("block_0")
    names = ("metrics.csv", "status.json", "memory.json", "hparams.yaml", "config.yaml")
    return [*(part / name for name in names), *part.glob("events.out*"), run.report / "report.json"]


_SPOILED = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\0step",
    "other text": b'step,train/loss\n"x",1,2,3\n\0',
    "JSON of another kind": b"[[1, 2], null]",
}


@pytest.mark.parametrize("content", _SPOILED.values(), ids=_SPOILED.keys())
def test_informative_files_change_no_training(
    content: bytes, runs: dict[str, RunFolder], resumed: Any, tmp_path: Path
) -> None:
    """Catches a log file that stops a training, or that enters its results."""
    run = _copy(runs["image"], tmp_path)
    for path in _informative(run):
        path.write_bytes(content)
    outcome = _resume(run)
    assert outcome.code == 0, outcome.errors
    assert _equal(read_training(run.checkpoint("block_0")).content["state_dict"], resumed)


@pytest.fixture(scope="module")
def resumed(runs: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The weights of a block of the undamaged run after two more steps."""
    run = _copy(runs["image"], tmp_path_factory.mktemp("resumed"))
    assert _resume(run).code == 0
    return read_training(run.checkpoint("block_0")).content["state_dict"]


def _copy(run: RunFolder, folder: Path) -> RunFolder:
    shutil.copytree(run.path, folder / "runs" / run.name)
    return RunFolder(run.name, str(folder / "runs"))


def _resume(run: RunFolder) -> Outcome:
    arguments = ("--config", f"runs/{run.name}/config.yaml", "--model.block=0", "--trainer.max_steps=6")
    return run_dbl(run.path.parents[1], "fit", *arguments)


def test_the_report_leaves_out_damaged_memory_with_a_word(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    """Catches a report that a file with measurements stops, or that shows other results without it."""
    run = _copy(runs["class"], tmp_path)
    before = json.loads((run.report / "report.json").read_text())
    run.memory("block_1").write_text('{"peak_bytes": "many"}')
    outcome = run_dbl(tmp_path, "train", "--config", f"runs/{run.name}/config.yaml")
    assert outcome.code == 0, outcome.errors
    warning = f"DblWarning: {run.memory('block_1').relative_to(tmp_path)} is damaged: the report leaves it out"
    assert warning in outcome.errors
    after = json.loads((run.report / "report.json").read_text())
    assert before["sides"][0]["memory"] is not None
    assert after["sides"][0]["memory"] is None
    assert after["sides"][0]["test"] == before["sides"][0]["test"]


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("image", "contract.json", "assemble"),
        ("image", "contract.json", "sample"),
        ("image", "contract.json", "test"),
        ("image", "block_1/checkpoints/last.ckpt", "assemble"),
        ("image", "model/config.json", "sample"),
        ("image", "model/block_2.safetensors", "test"),
        ("class", "table.safetensors", "assemble"),
        ("class", "model/table.safetensors", "test"),
        ("text", "tokenizer.json", "sample"),
        ("text", "tokenizer.json", "assemble"),
        ("text", "model/block_0.safetensors", "sample"),
    ],
)
def test_commands_refuse_damage_in_one_line(
    kind: str, name: str, command: str, runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    """Catches a command that meets a damaged file before or beside the reader that would refuse it."""
    run = _copy(runs[kind], tmp_path)
    arguments = [f"runs/{kind}"] if command != "test" else ["--config", f"runs/{kind}/config.yaml"]
    path = run.path / name
    whole = path.read_bytes()
    model = {file.name: file.read_bytes() for file in run.model.iterdir()}
    third = len(whole) // 3
    for content in (whole[: len(whole) // 2], whole[:third] + b"\xff" + whole[third + 1 :]):
        path.write_bytes(content)
        assert run_dbl(tmp_path, command, *arguments).problem() is None
        path.write_bytes(whole)
    assert {file.name: file.read_bytes() for file in run.model.iterdir()} == model
