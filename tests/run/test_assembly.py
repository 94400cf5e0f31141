"""From checkpoints to a model folder that can be trusted: checksums, partial models, copied and retrained blocks."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from faults.runs import left_over
from toy import Stripes, fit, recipe
from toy_text import ChainText, fit_text, known_denoiser, text_contract, text_sampler

from dbl.data import Characters
from dbl.denoising.decoding import Decoding
from dbl.denoising.sampling import Sampler
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.run.assembly import assemble
from dbl.run.contract import Contract, plain_hash
from dbl.run.folder import RunFolder, run_tokenizer
from dbl.run.inference import InferenceConfig
from dbl.run.model_folder import ModelFolder, file_hash
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError
from dbl.utils.files import read_tensors
from dbl.utils.locks import Lock

Change = Callable[[dict[str, torch.Tensor], str], None]
# A weight of every block of the toy network.
WEIGHT = "network.patches.project.weight"


def _train(contract: Contract, root: Path, name: str, blocks: tuple[int, ...] = (0, 1, 2)) -> RunFolder:
    run = RunFolder(name, str(root))
    run.write_contract(contract)
    for block in blocks:
        fit(DiffusionBlock(contract, block, recipe()), run.path)
    return run


@pytest.fixture(scope="module")
def runs(dit_contract: Contract, vit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two trained and assembled runs: `dit`, and `vit` with a table."""
    root = tmp_path_factory.mktemp("runs")
    for name, contract in {"dit": dit_contract, "vit": vit_contract}.items():
        assemble(_train(contract, root, name))
    return root


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> RunFolder:
    """A copy of the DiT run that a test may damage."""
    shutil.copytree(runs / "dit", tmp_path / "dit")
    return RunFolder("dit", str(tmp_path))


@pytest.fixture
def partial_run(run: RunFolder) -> RunFolder:
    """A run of which block 1 is missing, assembled without it."""
    run.checkpoint("block_1").unlink()
    assemble(run, allow_partial=True)
    return run


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Checksums


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", [*(f"block_{block}.safetensors" for block in range(3)), "table.safetensors"])
def test_a_flipped_bit_is_refused_when_the_folder_is_opened(
    name: str, place: float, runs: Path, tmp_path: Path
) -> None:
    """Catches a file that is read without its checksum: most flipped bits of a weight load without a word."""
    shutil.copytree(runs / "vit" / "model", tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged or was changed"):
        ModelFolder(tmp_path / "model")


def test_a_file_that_is_gone_is_named(run: RunFolder) -> None:
    """Catches a traceback, and a model that opens with a hole that its config does not record."""
    (run.model / "block_2.safetensors").unlink()
    with pytest.raises(UserError, match=r"block_2.safetensors does not exist"):
        ModelFolder(run.model)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"weights": "ema"', '"weights": "live"'),
        ('"overlap": 0.05', '"overlap": 0.06'),
        ('"steps": 6', '"steps": 7'),
        ('"sha256": "', '"sha512": "'),
    ],
)
def test_a_config_edited_by_hand_is_refused(old: str, new: str, run: RunFolder) -> None:
    """Catches a field of config.json that no checksum covers, and a checksum that can be left out."""
    path = run.model / "config.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"model/config.json .*run dbl assemble again"):
        ModelFolder(run.model)


def test_a_config_laid_out_anew_is_accepted(run: RunFolder) -> None:
    """Catches a checksum of the text instead of the values, which any formatter of JSON would break."""
    path = run.model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert ModelFolder(run.model).available == (0, 1, 2)


def test_a_file_that_is_replaced_under_an_open_folder_is_refused(run: RunFolder) -> None:
    """Catches checksums that hold at the start only: with `keep_in_memory: one` a block is loaded again much later."""
    model = ModelFolder(run.model)
    model.denoiser(0)
    shutil.copy(run.model / "block_1.safetensors", run.model / "block_0.safetensors")
    with pytest.raises(UserError, match=r"block_0.safetensors is damaged or was changed"):
        model.denoiser(0)


def test_a_file_is_hashed_once_while_it_stays_the_same(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a stack with one keep_in_memory block that hashes a file at every step."""
    model = ModelFolder(run.model)
    monkeypatch.setattr("dbl.run.model_folder.file_hash", lambda path: pytest.fail(f"{path} is hashed again"))
    for block in (0, 1, 0, 1):
        model.denoiser(block)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seed": 0', '"seed": 1'),
        ('"width": 16', '"width": 32'),
        ('"cond_dropout": 0.3', '"cond_dropout": 0.2'),
        ('"overlap": 0.05', '"overlap": 0.06'),
    ],
)
def test_a_contract_of_a_run_edited_by_hand_is_refused(old: str, new: str, run: RunFolder) -> None:
    """Catches a hash that is stored and not compared with what the file says."""
    path = run.path / "contract.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"contract\.json was changed after it was written"):
        assemble(run)


# Tensors that do not fit


def _reshape(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = state[name].unsqueeze(0)


def _round(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = state[name].bfloat16()


def _drop(state: dict[str, torch.Tensor], name: str) -> None:
    del state[name]


def _add(state: dict[str, torch.Tensor], name: str) -> None:
    state[f"{name}_2"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_reshape, rf"tensor {WEIGHT} is float32 \[1, 16, \d+.*\] here and float32 \[16, \d+.*\] there"),
        (_round, rf"tensor {WEIGHT} is bfloat16 \[16, .*\] here and float32 \[16, .*\] there"),
        (_drop, rf"tensor {WEIGHT} is absent here and float32 .* there"),
        (_add, rf"tensor {WEIGHT}_2 is float32 \[3\] here and absent there"),
    ],
)
def test_tensors_of_another_form_are_refused(change: Change, message: str, run: RunFolder) -> None:
    """Catches weights that are rounded in silence, and a page of names where one line is due."""
    path = run.checkpoint("block_1")
    stored = torch.load(path, weights_only=True)
    change(stored["state_dict"], f"denoiser.{WEIGHT}")
    torch.save(stored, path)
    with pytest.raises(UserError, match=message) as caught:
        assemble(run)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Partial models


def test_a_partial_model_has_its_finished_blocks(partial_run: RunFolder, runs: Path) -> None:
    """Catches blocks that move up to fill the hole, and a config that does not say which blocks are there."""
    model, whole = ModelFolder(partial_run.model), ModelFolder(runs / "dit" / "model")
    assert model.available == (0, 2)
    assert [facts is None for facts in model.config["blocks"]] == [False, True, False]
    assert not (partial_run.model / "block_1.safetensors").exists()
    for block in (0, 2):
        expected = whole.denoiser(block).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.denoiser(block).state_dict().items())


@pytest.mark.parametrize("keep_in_memory", ["all", "one"])
def test_a_partial_stack_serves_its_own_levels_alone(keep_in_memory: str, partial_run: RunFolder) -> None:
    """Catches a neighbour that answers for a missing block, and blocks that are counted instead of named."""
    stack = BlockStack.from_pretrained(partial_run.model, InferenceConfig(keep_in_memory=keep_in_memory)).eval()  # type: ignore[arg-type]
    partition = stack.contract.partition
    noisy, cond = torch.randn(2, 1, 4, 6), torch.tensor([0, 2])
    for block in (0, 2):
        high = torch.tensor(partition.interval(block).high, dtype=torch.float64)
        expected = ModelFolder(partial_run.model).denoiser(block)(noisy, high.float().expand(2), cond)
        assert torch.equal(stack(noisy, high, cond), expected)
    low, high = partition.interval(1)
    with pytest.raises(UserError, match=rf"block 1 \(sigma {high:.3g} to {low:.3g}\).*dbl train --blocks 1 "):
        stack(noisy, torch.tensor((low * high) ** 0.5), cond)


def test_a_schedule_that_visits_a_missing_block_is_refused_before_any_work(partial_run: RunFolder) -> None:
    """Catches a sampler that runs the first steps and then finds the hole, and one that refuses what it can do."""
    labels, indices = torch.tensor([0, 1]), torch.arange(2)
    stack = BlockStack.from_pretrained(partial_run.model, InferenceConfig(Sampler(num_steps=7)))
    stack.register_forward_hook(lambda *_: pytest.fail("a block was called"))
    with pytest.raises(UserError, match=r"sampling with 7 karras steps needs block 1 \(sigma .*partial model lacks"):
        stack.sample_images(labels, indices)
    short = BlockStack.from_pretrained(partial_run.model, InferenceConfig(Sampler(num_steps=1)))
    assert short.sample_images(labels, indices).isfinite().all()  # its only step is at the levels of block 0


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_partial_stack_is_not_evaluated(stage: str, partial_run: RunFolder) -> None:
    """Catches a loss over the levels of some blocks that is reported as that of the network."""
    stack = BlockStack.from_pretrained(partial_run.model, InferenceConfig(Sampler(num_steps=7)))
    trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(UserError, match=r"needs block 1 \(sigma"):
        getattr(trainer, stage)(StackEvaluation(stack), Stripes().test_dataloader())


def test_a_committee_needs_every_member() -> None:
    """Catches a ensemble of the blocks that happen to be there, without a word."""
    with pytest.raises(UserError, match=r"inference.ensemble needs block 1 \(sigma .*partial model lacks"):
        BlockStack(
            text_contract("clean"), lambda block: known_denoiser(), InferenceConfig(ensemble=True), available=[0, 2]
        )


@pytest.mark.parametrize("kind", ["clean", "masked"])
def test_a_partial_stack_writes_no_text(kind: str) -> None:
    """Catches a text that is begun and breaks off at the missing block."""
    contract, inference = text_contract(kind), InferenceConfig(text_sampler(kind))
    stack = BlockStack(contract, lambda block: contract.denoiser(block), inference, available=[0, 1])
    with pytest.raises(UserError, match=r"writing text needs block 2 \(sigma"):
        stack.text_generator(Decoding())


def test_a_later_assembly_replaces_a_partial_one(partial_run: RunFolder, dit_contract: Contract, runs: Path) -> None:
    """Catches files of the old model that stay, and folders that are left behind by the exchange."""
    fit(DiffusionBlock(dit_contract, 1, recipe()), partial_run.path)
    assemble(partial_run)
    assert ModelFolder(partial_run.model).available == (0, 1, 2)
    assert {path.name for path in partial_run.model.iterdir()} == {path.name for path in (runs / "dit/model").iterdir()}
    assert not list(partial_run.path.glob(".model*"))


def test_a_stopped_block_is_left_out_of_a_partial_model(run: RunFolder) -> None:
    """Catches a partial model with a block that was only begun."""
    path = run.checkpoint("block_2")
    stored = torch.load(path, weights_only=True)
    stored["dbl"]["max_steps"] = 99
    torch.save(stored, path)
    with pytest.raises(UserError, match=r"block_2/.* is at step 6 of 99: .*--allow_partial"):
        assemble(run)
    assemble(run, allow_partial=True)
    assert ModelFolder(run.model).available == (0, 1)


def test_a_partial_model_without_blocks_is_refused(run: RunFolder) -> None:
    """Catches an empty model that takes the place of a good one."""
    before = _contents(run.model)
    for block in range(3):
        run.checkpoint(f"block_{block}").unlink()
    with pytest.raises(UserError, match="has no finished block"):
        assemble(run, allow_partial=True)
    assert _contents(run.model) == before


def test_a_damaged_checkpoint_is_not_left_out_in_silence(run: RunFolder) -> None:
    """Catches `allow_partial` that hides a fault: a damaged block is not one that is yet to be trained."""
    run.checkpoint("block_1").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"block_1/checkpoints/last.ckpt is damaged"):
        assemble(run, allow_partial=True)


# Blocks that come from elsewhere or are trained anew


def test_a_block_trained_elsewhere_is_added_by_copying_its_folder(
    run: RunFolder, dit_contract: Contract, tmp_path: Path
) -> None:
    """Catches weights that depend on the run folder in which a block was trained."""
    before = read_tensors(run.model / "block_1.safetensors")
    elsewhere = _train(dit_contract, tmp_path / "elsewhere", "another_name", blocks=(1,))
    shutil.rmtree(run.part("block_1"))
    shutil.copytree(elsewhere.part("block_1"), run.part("block_1"))
    assemble(run)
    after = read_tensors(run.model / "block_1.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_copied_block_of_another_contract_is_refused(run: RunFolder, dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a folder that is taken in because its shapes fit."""
    other = replace(dit_contract.config, seed=7).build(dit_contract.data)
    elsewhere = _train(other, tmp_path / "elsewhere", "other", blocks=(1,))
    shutil.rmtree(run.part("block_1"))
    shutil.copytree(elsewhere.part("block_1"), run.part("block_1"))
    before = _contents(run.model)
    for allow_partial in (False, True):
        with pytest.raises(UserError, match=r"block_1/checkpoints/last.ckpt was trained under another contract"):
            assemble(run, allow_partial=allow_partial)
    assert _contents(run.model) == before


def test_a_block_file_in_the_place_of_another_is_refused(run: RunFolder) -> None:
    """Catches files that are told apart by their names alone: here the checksums were made to fit the exchange."""
    shutil.copy(run.model / "block_0.safetensors", run.model / "block_1.safetensors")
    config = json.loads((run.model / "config.json").read_text())
    config["files"]["block_1.safetensors"] = config["files"]["block_0.safetensors"]
    del config["sha256"]
    (run.model / "config.json").write_text(json.dumps(config | {"sha256": plain_hash(config)}))
    with pytest.raises(UserError, match=r"block_1.safetensors is of another block"):
        ModelFolder(run.model)


def test_a_retrained_block_changes_its_own_file_alone(run: RunFolder, dit_contract: Contract) -> None:
    """Catches a merge that touches other blocks, and files whose bytes differ from call to call."""
    before = _contents(run.model)
    assemble(run)
    assert _contents(run.model) == before
    fit(DiffusionBlock(dit_contract, 1, recipe(warmup_steps=4)), run.path)
    assemble(run)
    after = _contents(run.model)
    assert {name for name in after if after[name] != before[name]} == {"block_1.safetensors", "config.json"}
    old, new = (json.loads(content["config.json"])["files"] for content in (before, after))
    assert {name for name in new if new[name] != old[name]} == {"block_1.safetensors"}


def test_weights_that_are_not_finite_are_refused(run: RunFolder) -> None:
    """Catches a model that answers NaN, with valid checksums; one value of one tensor is enough."""
    before = _contents(run.model)
    path = run.checkpoint("block_1")
    stored = torch.load(path, weights_only=True)
    for value in (torch.nan, -torch.inf):
        stored["state_dict"][f"denoiser.{WEIGHT}"][3, 0] = value
        torch.save(stored, path)
        with pytest.raises(UserError, match=rf"{path}: tensor {WEIGHT} has .* NaN .*--from_scratch$"):
            assemble(run)
    assert _contents(run.model) == before


# The tokenizer


@pytest.fixture(scope="module")
def text_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a trained and assembled run of text, `text`."""
    root = tmp_path_factory.mktemp("text_runs")
    run, contract = RunFolder("text", str(root)), text_contract("clean")
    run.write_contract(contract)
    ChainText().tokenizer.save(run.tokenizer)
    for block in range(3):
        fit_text(DiffusionBlock(contract, block), run.path, steps=1)
    assemble(run)
    return root


@pytest.fixture
def text_run(text_runs: Path, tmp_path: Path) -> RunFolder:
    """A copy of the run of text that a test may damage."""
    shutil.copytree(text_runs / "text", tmp_path / "text")
    return RunFolder("text", str(tmp_path))


@pytest.mark.parametrize("change", ["absent", "another", "edited", "no JSON"])
def test_a_tokenizer_that_is_not_that_of_the_contract_is_not_taken_in(change: str, text_run: RunFolder) -> None:
    """Catches a damaged file that replaces the last good copy under a fresh checksum."""
    before = _contents(text_run.model)
    if change == "another":
        Characters("abödx").save(text_run.tokenizer)
    elif change == "edited":
        text_run.tokenizer.write_text(text_run.tokenizer.read_text().replace('"ab', '"ba'))
    elif change == "no JSON":
        text_run.tokenizer.write_text(text_run.tokenizer.read_text()[:-9])
    else:
        text_run.tokenizer.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json .*; model/tokenizer\.json there is a good copy$"):
        assemble(text_run)
    assert _contents(text_run.model) == before


def test_every_flipped_bit_of_a_tokenizer_is_refused_or_changes_nothing(text_run: RunFolder) -> None:
    """Catches a part of the file that no hash covers; white space may change, but it is not taken over."""
    good = text_run.tokenizer.read_bytes()
    refused = 0
    bits = range(0, 8 * len(good), 7)  # every bit of a byte comes in turn
    for bit in bits:
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        text_run.tokenizer.write_bytes(content)
        try:
            run_tokenizer(text_run).save(text_run.path / "copy.json")
        except UserError:
            refused += 1
        else:
            assert (text_run.path / "copy.json").read_bytes() == good
    assert refused > 0.9 * len(bits)


# Where the model is, and who else writes or reads it


def test_a_model_on_another_disk_is_replaced_there(run: RunFolder, tmp_path: Path) -> None:
    """Catches a link that is replaced by a folder, and a rename from one disk to another."""
    disk = tmp_path / "disk" / "weights"
    disk.parent.mkdir()
    run.model.rename(disk)
    run.model.symlink_to(disk)
    assemble(run, weights="live")
    assert run.model.is_symlink()
    assert ModelFolder(run.model).config["weights"] == "live"
    assert [path.name for path in disk.parent.iterdir()] == ["weights"]
    assert left_over(run.path) == []


@pytest.mark.parametrize("target", ["absent/model", "file"])
def test_a_link_to_no_folder_is_refused(target: str, run: RunFolder, tmp_path: Path) -> None:
    """Catches a disk that is not mounted and gets a model beneath its mount point, and a file that is replaced."""
    (tmp_path / "file").write_text("precious")
    shutil.rmtree(run.model)
    run.model.symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"dit/model leads to .*, which is no folder that can be replaced: remove"):
        assemble(run)
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_link_to_a_folder_of_other_files_is_refused(run: RunFolder, tmp_path: Path) -> None:
    """Catches a run from elsewhere whose `model` leads to a folder of the user, which assembling would replace."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("precious")
    shutil.rmtree(run.model)
    run.model.symlink_to(documents)
    with pytest.raises(UserError, match=r"dit/model leads to .*, which holds other files than those of a model"):
        assemble(run)
    assert (documents / "thesis.txt").read_text() == "precious"


def test_a_planted_link_is_not_followed(run: RunFolder, tmp_path: Path) -> None:
    """Catches weights that are written, or files that are deleted, where a link in the run folder leads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    for name in (".model.tmp", ".model.old", ".model.1@elsewhere.01234567.tmp"):
        (run.path / name).symlink_to(elsewhere)
    assemble(run)
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


def test_what_a_killed_assembly_left_is_removed(run: RunFolder) -> None:
    """Catches folders as large as the model that pile up, and that of a living process which is taken away."""
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {pid: run.path / f".model.{pid}@{host}.01234567.tmp" for pid in (dead.pid, os.getpid())}
    for folder in left.values():
        folder.mkdir()
        (folder / "block_0.safetensors").touch()
    assemble(run)
    assert {pid: folder.exists() for pid, folder in left.items()} == {dead.pid: False, os.getpid(): True}


def test_without_an_exchange_of_names_the_model_is_replaced_too(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model that is lost on file systems such as NFS if the process is killed between two renames."""
    monkeypatch.setattr("dbl.utils.folders._exchange", lambda *_: False)
    assemble(run, weights="live")
    assert ModelFolder(run.model).config["weights"] == "live"
    assert left_over(run.path) == []
    run.model.rename(run.path / ".model.old")  # killed here
    run.checkpoint("block_1").unlink()
    with pytest.raises(UserError, match="does not exist"):
        assemble(run)
    assert ModelFolder(run.model).config["weights"] == "live"
    assert left_over(run.path) == []


def test_a_model_that_is_assembled_by_another_process_is_left_alone(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches two processes that write one model, and a refusal that speaks of a training."""
    before = _contents(run.model)
    monkeypatch.setattr("dbl.run.assembly._WAIT_S", 0)
    with Lock(run.model_lock, "it").acquire():
        with pytest.raises(UserError, match=rf"dit/model is being assembled by process {os.getpid()} "):
            assemble(run)
        assert _contents(run.model) == before
    assemble(run)


def test_a_model_that_is_replaced_while_it_is_opened_is_opened_anew(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a reader that takes half of each of two models, or calls a whole one damaged."""
    hashed = []

    def replace_first(path: Path) -> str:
        hashed.append(path)
        if len(hashed) == 1:
            assemble(run, weights="live")
        return file_hash(path)

    monkeypatch.setattr("dbl.run.model_folder.file_hash", replace_first)
    model = ModelFolder(run.model)
    assert model.config["weights"] == "live"
    assert all(torch.isfinite(value).all() for value in model.denoiser(2).state_dict().values())


def test_a_model_that_is_about_to_be_replaced_is_waited_for(run: RunFolder) -> None:
    """Catches "not an assembled model" in the moment between two renames."""
    aside = run.path / ".model.old"
    run.model.rename(aside)
    timer = threading.Timer(0.2, lambda: aside.rename(run.model))
    timer.start()
    assert ModelFolder(run.model).available == (0, 1, 2)
    timer.join()


def test_blocks_of_two_assemblies_are_not_mixed(run: RunFolder) -> None:
    """Catches a stack with one block in memory that goes on with the weights of a later assembly."""
    stack = BlockStack.from_pretrained(run.model, InferenceConfig(Sampler(num_steps=7), keep_in_memory="one"))
    stack.denoiser(0)
    assemble(run)
    stack.denoiser(1)  # the same weights
    assemble(run, weights="live")
    with pytest.raises(UserError, match=r"dit/model was assembled anew since it was opened: load it again"):
        stack.denoiser(2)
