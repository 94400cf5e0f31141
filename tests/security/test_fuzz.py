"""Mutated files, with the checksums that an attacker would compute anew: a value or one line, and nothing else.

`pytest -m soak` runs 10,000 examples or more for each reader.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fuzzing import fuzz, mutated, mutated_bytes
from hypothesis import strategies as st
from toy import fit, recipe
from toy_text import text_contract, text_stack

from dbl.commands.run_config import RunConfig
from dbl.data import Bytes, Characters
from dbl.data.text.tokenizer import Tokenizer, load_tokenizer
from dbl.data.text.tokenizer_file import TokenizerFile
from dbl.denoising.decoding import Decoding
from dbl.inference.stack import BlockStack
from dbl.inference.writing import Writer
from dbl.run.assembly import assemble, read_part
from dbl.run.checkpoints import Checkpoints, read_training
from dbl.run.contract import Contract, plain_hash
from dbl.run.folder import RunFolder
from dbl.run.inference import InferenceConfig, read_inference
from dbl.run.model_folder import file_hash
from dbl.training.block import DiffusionBlock
from dbl.training.memory.stored import read_memory
from dbl.utils.errors import DblWarning
from dbl.utils.files import read_tensors, write_tensors

EXAMPLES = [250, pytest.param(10_000, marks=pytest.mark.soak)]
CONTRACTS = ["dit", "vit", "clean", "two", "recurrent", "masked"]


@pytest.fixture(scope="module")
def run(vit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with a table whose three blocks are trained and assembled."""
    run = RunFolder("vit", str(tmp_path_factory.mktemp("fuzz")))
    run.write_contract(vit_contract)
    for block in range(3):
        fit(DiffusionBlock(vit_contract, block, recipe()), run.path, steps=2)
    assemble(run)
    return run


@pytest.fixture(params=CONTRACTS)
def contract(request: pytest.FixtureRequest, dit_contract: Contract, vit_contract: Contract) -> Contract:
    """A contract of each kind."""
    return {"dit": dit_contract, "vit": vit_contract}.get(request.param) or text_contract(request.param)


def _write(path: Path, value: Any, *checksums: str) -> None:
    """Write JSON with checksums as an attacker would compute them."""
    for key in checksums:
        if isinstance(value, dict):
            value[key] = plain_hash({name: item for name, item in value.items() if name != key})
    path.write_text(json.dumps(value))


def _open(folder: Path) -> None:
    """Open a model folder and load its first block, as sampling does."""
    stack = BlockStack.from_pretrained(folder, InferenceConfig(keep_in_memory="one"))
    stack.denoiser(stack.available[0])
    stack.require_schedule()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_model_configs(examples: int, run: RunFolder) -> None:
    """Catches an unchecked field of `config.json`, behind a checksum that is right."""
    path, block = run.model / "config.json", run.model / "block_0.safetensors"
    whole, kept = path.read_text(), block.read_bytes()
    weights = read_tensors(block)

    def check(value: Any) -> None:
        if isinstance(value, dict) and isinstance(value.get("contract"), dict) and isinstance(value.get("files"), dict):
            stamp = {"contract": plain_hash(value["contract"]), "block": 0, "weights": value.get("weights")}
            write_tensors(block, weights, {"dbl": json.dumps(stamp)})
            value["files"] |= {block.name: file_hash(block)}
        _write(path, value, "sha256")
        _open(run.model)

    plain = json.loads(whole)
    plain["blocks"][1:] = [None, None]  # of the others the contract is another one
    try:
        fuzz(mutated(plain), check, examples)
    finally:
        path.write_text(whole)
        block.write_bytes(kept)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["block_0.safetensors", "table.safetensors"])
def test_model_tensors(name: str, examples: int, run: RunFolder) -> None:
    """Catches a safetensors file that only its checksum kept from the loader."""
    path, config = run.model / name, run.model / "config.json"
    kept, settings = path.read_bytes(), json.loads(config.read_text())
    size = int.from_bytes(kept[:8], "little")
    header = json.loads(kept[8 : 8 + size])

    def check(value: tuple[Any, bytes | None]) -> None:
        head, content = value
        text = json.dumps(head).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + kept[8 + size :] if content is None else content)
        _write(config, settings | {"files": settings["files"] | {name: file_hash(path)}}, "sha256")
        _open(run.model)

    strategy = st.tuples(mutated(header), st.none()) | st.tuples(st.none(), mutated_bytes(kept))
    try:
        fuzz(strategy, check, examples)
    finally:
        path.write_bytes(kept)
        _write(config, settings, "sha256")


@pytest.mark.parametrize("examples", [100, pytest.param(1_700, marks=pytest.mark.soak)])
def test_contracts(examples: int, contract: Contract, tmp_path: Path) -> None:
    """Catches a contract that is restored to something that no network can be built from."""
    run = RunFolder("run", str(tmp_path))
    run.write_contract(contract)

    def check(value: Any) -> None:
        _write(run.path / "contract.json", value, "sha256")
        run.load_contract().space()

    plain = json.loads((run.path / "contract.json").read_text())
    del plain["sha256"]
    fuzz(mutated(plain), check, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["contract.json", "table.safetensors"])
def test_bytes_of_contracts(name: str, examples: int, run: RunFolder) -> None:
    """Catches parsers that raise errors of their own."""
    path = run.path / name
    kept = path.read_bytes()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        run.load_contract()

    try:
        fuzz(mutated_bytes(kept), check, examples)
    finally:
        path.write_bytes(kept)


def _restamp(value: Any) -> Any:
    """The identity of a mutated tokenizer, where it is still one."""
    arguments = value.get("init_args") if isinstance(value, dict) else None
    if isinstance(arguments, dict):
        try:
            kinds: Any = {"dbl.Characters": Characters, "dbl.TokenizerFile": TokenizerFile}
            kind = kinds.get(value.get("class_path"), Bytes)
            value["identity"] = kind(**arguments).identity
        except Exception:
            pass
    return value


def _tokenizers() -> list[Tokenizer]:
    from tokenizers import Tokenizer as Library, decoders, models, pre_tokenizers

    words = Library(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "b": 3}, "<unk>"))
    words.add_special_tokens(["</s>"])
    pairs = Library(models.BPE({"a": 0, "b": 1, "ab": 2, "Ġ": 3}, [("a", "b")]))
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    files = [TokenizerFile("tokenizer.json", content=library.to_str()) for library in (words, pairs)]
    return [Characters("abc "), Bytes(), *files]


def _use(path: Path) -> None:
    """What commands do with a tokenizer of a run."""
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size < 10_000:  # a run's must be the number of its classes
        tokenizer.decode(tokenizer.encode("a b"))
        assert len(tokenizer.byte_lengths) == tokenizer.vocab_size
        assert tokenizer.end_id is None or tokenizer.end_id >= 0


@pytest.mark.parametrize("examples", [100, pytest.param(2_500, marks=pytest.mark.soak)])
@pytest.mark.parametrize("number", range(4))
def test_tokenizers(number: int, examples: int, tmp_path: Path) -> None:
    """Catches a tokenizer whose content is trusted because its hash is right."""
    path = tmp_path / "tokenizer.json"
    _tokenizers()[number].save(path)
    plain = json.loads(path.read_text())
    content = plain["init_args"].get("content")

    def check(value: Any) -> None:
        path.write_text(json.dumps(_restamp(value)))
        _use(path)

    strategy: Any = mutated(plain)
    if content:
        inner = mutated(json.loads(content))
        strategy |= inner.map(lambda new: plain | {"init_args": {"path": "x.json", "content": json.dumps(new)}})
    fuzz(strategy, check, examples)


# Values that a pickle holds and JSON does not.
_TENSORS = [
    torch.full((2, 3), float("nan")),
    torch.ones(2, dtype=torch.complex64),
    torch.empty(10**6, 10**6, device="meta"),
    torch.zeros(1).expand(10**6, 10**6),
    torch.eye(3).to_sparse(),
]
_STORED = st.sampled_from(
    [None, [], {}, "x", -1, 2**70, 10**400, float("nan"), True, (), b"x", {1: 2}, [None], *_TENSORS]
)


def _few_tensors(content: Any) -> Any:
    """The structure of a checkpoint, with at most three tensors in each dict, which are small."""
    if isinstance(content, torch.Tensor):
        return content.flatten()[:3].clone()
    if isinstance(content, dict):
        is_tensors = sum(isinstance(value, torch.Tensor | dict) for value in content.values()) > 20
        return {key: _few_tensors(content[key]) for key in list(content)[: 3 if is_tensors else None]}
    return [_few_tensors(value) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize("examples", EXAMPLES)
def test_checkpoints(examples: int, run: RunFolder, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches an unchecked field of a checkpoint, whose own checksums are right."""
    content = _few_tensors(torch.load(run.checkpoint("block_0"), weights_only=True))
    path = tmp_path / "last.ckpt"

    def check(value: Any) -> None:
        torch.save(value, path)
        if (found := Checkpoints(path).newest()) is not None:
            assert found.step >= 0
        read_part(path, "block_0", vit_contract, "denoiser.").summary()

    fuzz(mutated(content, _STORED), check, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_bytes_of_checkpoints(examples: int, run: RunFolder, tmp_path: Path) -> None:
    """Catches an archive or pickle that breaks what reads it."""
    path = tmp_path / "last.ckpt"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_training(path, to_resume=True)

    fuzz(mutated_bytes(run.checkpoint("block_0").read_bytes()), check, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_templates(examples: int) -> None:
    """Catches a template that no tokenizer can express, has no gap, or is longer than the network reads."""
    stack = text_stack("masked")
    generator = stack.text_generator(Decoding(), num_steps=3)
    writer = Writer(generator, Characters("aböd\n"), torch.device("cpu"))

    def check(value: tuple[str, str]) -> None:
        writer.filled(*value, num_texts=1)

    pieces = st.text("aböd\n_", max_size=9) | st.text(max_size=9)
    fuzz(st.tuples(pieces, st.sampled_from(["_", "a", "", "__", "\0"]) | st.text(max_size=2)), check, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_measured_memory(examples: int, tmp_path: Path) -> None:
    """Catches a report that a file with numbers for people can stop."""
    from dbl.evaluation.report.arm import peak_of
    from dbl.training.memory.tracker import CATEGORIES

    counts = dict.fromkeys(CATEGORIES, 5)
    whole = {"step": 3, "device": "cpu", "batch_size": 2, "bytes": counts, "peak_bytes": 35, "cuda": None}
    path = tmp_path / "memory.json"

    def check(value: Any) -> None:
        path.write_text(json.dumps(value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DblWarning)
            memory = read_memory(path)
        if memory is not None and memory["cuda"] is not None:
            peak_of(memory)

    fuzz(mutated(whole), check, examples)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plain values of a whole config, as a run keeps them."""
    path = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("config"))
        return RunConfig.load(path).plain()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_samplers_of_a_config(examples: int, config: dict[str, Any], tmp_path: Path) -> None:
    """Catches a config of a run from elsewhere that breaks `dbl assemble`, which reads the sampler from it."""
    run = RunFolder("run", str(tmp_path))
    run.path.mkdir()

    def check(value: Any) -> None:
        run.config.write_text(yaml.safe_dump(value) if not isinstance(value, bytes) else value.decode("latin-1"))
        read_inference(run.config)

    few = {"run": config["run"], "inference": config["inference"]}
    fuzz(mutated(few) | mutated_bytes(yaml.safe_dump(few).encode()), check, examples)


@pytest.mark.parametrize("examples", [40, pytest.param(10_000, marks=pytest.mark.soak)])
def test_configs(examples: int, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a config for which the parser raises an error of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"

    def check(value: Any) -> None:
        path.write_bytes(value if isinstance(value, bytes) else yaml.safe_dump(value).encode())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            RunConfig.load(path)

    fuzz(mutated(config) | mutated_bytes(yaml.safe_dump(config).encode()), check, examples)
