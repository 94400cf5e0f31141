"""The assembled network, and architecture section 4, numbers 3, 6 and 7: coverage, refusal, files."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import Stripes, fit, recipe
from toy_text import text_stack

from dbl.denoising.sampling import Sampler
from dbl.inference.stack import BlockStack
from dbl.run.assembly import assemble
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.inference import InferenceConfig
from dbl.run.model_folder import ModelFolder
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError


@pytest.fixture(scope="module")
def runs(
    dit_contract: Contract, vit_contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunFolder]:
    """A trained and assembled run for each kind of target."""
    found = {}
    for name, contract in {"dit": dit_contract, "vit": vit_contract}.items():
        run = RunFolder(name, str(tmp_path_factory.mktemp("runs")))
        run.write_contract(contract)
        for block in range(3):
            fit(DiffusionBlock(contract, block, recipe()), run.path)
        assemble(run)
        found[name] = run
    return found


@pytest.fixture
def run(runs: dict[str, RunFolder], tmp_path: Path) -> RunFolder:
    """A copy of the assembled DiT run that a test may damage."""
    shutil.copytree(runs["dit"].path, tmp_path / "dit")
    return RunFolder("dit", str(tmp_path))


def _stack(run: RunFolder, **options: object) -> BlockStack:
    sampler = Sampler(**options.pop("sampler", {"num_steps": 7}))  # type: ignore[arg-type]
    return BlockStack.from_pretrained(run.model, InferenceConfig(sampler=sampler, **options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dit", "vit"])
def test_one_block_in_memory_gives_the_same_output(kind: str, runs: dict[str, RunFolder]) -> None:
    """Catches a loaded block that is stale, or loaded in training mode."""
    batch = next(iter(Stripes().test_dataloader()))
    outputs = []
    for keep_in_memory in ("all", "one"):
        stack = _stack(runs[kind], keep_in_memory=keep_in_memory)
        outputs.append(stack.sample(stack.space.encode(batch).cond, batch["index"]))
    assert torch.equal(*outputs)


def test_one_block_in_memory_holds_one_block(runs: dict[str, RunFolder]) -> None:
    """Catches an option that keeps everything in memory all the same."""
    stack = _stack(runs["dit"], keep_in_memory="one")
    assert sum(parameter.numel() for parameter in stack.parameters()) == 0
    assert stack.denoiser(1) is stack.denoiser(1)
    assert stack.denoiser(2) is not stack.denoiser(1)


def test_a_stack_without_tensors_follows_its_device() -> None:
    """Catches noise on the CPU for blocks elsewhere: with one block loaded at a time, no parameter tells the device."""
    stack = text_stack("masked", keep_in_memory="one")
    assert not list(stack.parameters())
    assert stack.device.type == "cpu"
    assert stack.to("meta").device.type == "meta"
    assert {weights.device.type for weights in stack.denoiser(0).parameters()} == {"meta"}


def test_each_level_is_denoised_by_its_own_block(runs: dict[str, RunFolder]) -> None:
    """Catches a reversed order of blocks, or routing by the widened training intervals."""
    stack = _stack(runs["dit"])
    noisy, cond = torch.randn(2, 1, 4, 6), torch.tensor([0, 2])
    for block in range(3):
        high = torch.tensor(stack.contract.partition.boundaries[block], dtype=torch.float64)
        expected = ModelFolder(runs["dit"].model).denoiser(block)(noisy, high.float().expand(2), cond)
        assert torch.equal(stack(noisy, high, cond), expected)


def test_images_depend_on_their_index_and_not_on_the_batch(runs: dict[str, RunFolder]) -> None:
    """Catches start noise that is drawn for the batch as a whole."""
    stack = _stack(runs["dit"])
    labels, indices = torch.tensor([0, 1, 2, 0, 1]), torch.arange(5)
    together = stack.sample_images(labels, indices)
    apart = torch.cat([stack.sample_images(labels[part], indices[part]) for part in (slice(0, 2), slice(2, 5))])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-4)  # of 255
    assert not torch.allclose(together, stack.sample_images(labels, indices + 9))


def test_guidance_uses_the_class_dropped_in_training(runs: dict[str, RunFolder]) -> None:
    """Catches a guidance scale that is ignored, and one that is allowed where there is nothing to drop."""
    labels, indices = torch.tensor([0, 1]), torch.arange(2)
    plain = _stack(runs["dit"], sampler={"num_steps": 3}).sample_images(labels, indices)
    strong = _stack(runs["dit"], sampler={"num_steps": 3, "guidance_scale": 2.0}).sample_images(labels, indices)
    assert not torch.allclose(plain, strong)
    with pytest.raises(UserError, match="guidance_scale"):
        _stack(runs["vit"], sampler={"num_steps": 3, "schedule": "quantile", "guidance_scale": 2.0})


def test_temperature_zero_is_deterministic(runs: dict[str, RunFolder]) -> None:
    """Catches a temperature that is read nowhere."""
    images, indices = torch.randn(4, 1, 4, 6), torch.arange(4)
    cold = _stack(runs["vit"], sampler={"num_steps": 3, "schedule": "quantile", "temperature": 0.0})
    warm = _stack(runs["vit"], sampler={"num_steps": 3, "schedule": "quantile"})
    assert torch.equal(cold.sample(images, indices, 0), cold.sample(images, indices, 1))
    assert not torch.equal(warm.sample(images, indices, 0), warm.sample(images, indices, 1))


def test_assembled_weights_are_those_of_the_checkpoint(runs: dict[str, RunFolder]) -> None:
    """Catches a merge that takes live weights for averaged ones, or the wrong block."""
    for block in range(3):
        stored = torch.load(runs["dit"].checkpoint(f"block_{block}"), weights_only=True)["state_dict"]
        weights = ModelFolder(runs["dit"].model).denoiser(block).state_dict()
        assert all(torch.equal(weights[name], stored[f"denoiser.{name}"]) for name in weights)


def test_live_weights_can_be_assembled(run: RunFolder) -> None:
    """Catches a choice of weights that is ignored or not recorded."""
    average = ModelFolder(run.model).denoiser(0).state_dict()
    assemble(run, "live")
    live = ModelFolder(run.model).denoiser(0).state_dict()
    assert not torch.equal(average["network.patches.project.weight"], live["network.patches.project.weight"])
    assert json.loads((run.model / "config.json").read_text())["weights"] == "live"


def test_a_model_folder_holds_safetensors_and_json_only(runs: dict[str, RunFolder]) -> None:
    """Catches a pickle, or a temporary file that was left behind."""
    for run in runs.values():
        assert {path.suffix for path in run.model.iterdir()} == {".safetensors", ".json"}
        assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_truncated_checkpoint_is_refused_and_the_model_stays(run: RunFolder) -> None:
    """Catches a merge that removes the old model before it has read the new blocks."""
    before = (run.model / "config.json").read_bytes()
    _truncate(run.checkpoint("block_1"))
    with pytest.raises(UserError, match=r"block_1/checkpoints/last.ckpt is damaged"):
        assemble(run)
    assert (run.model / "config.json").read_bytes() == before
    assert not list(run.path.glob(".model*"))


def test_a_missing_checkpoint_is_refused(run: RunFolder) -> None:
    """Catches a stack with a hole in it."""
    run.checkpoint("block_2").unlink()
    with pytest.raises(UserError, match=r"block_2/checkpoints/last.ckpt does not exist"):
        assemble(run)


def test_a_checkpoint_in_the_folder_of_another_block_is_refused(run: RunFolder) -> None:
    """Catches blocks that are told apart by their folder alone."""
    run.checkpoint("block_0").replace(run.checkpoint("block_1"))
    run.checkpoint("block_2").replace(run.checkpoint("block_0"))
    with pytest.raises(UserError, match="holds block_2, not block_0"):
        assemble(run)


def test_blocks_of_two_contracts_are_refused(run: RunFolder, dit_contract: Contract) -> None:
    """Catches a merge of blocks with other intervals, whose shapes fit all the same."""
    other = replace(dit_contract.config, seed=7).build(dit_contract.data)
    fit(DiffusionBlock(other, 1, recipe()), run.path)
    with pytest.raises(UserError, match="another contract"):
        assemble(run)


def test_an_unfinished_block_is_refused(run: RunFolder) -> None:
    """Catches a merge of a block that was stopped."""
    path = run.checkpoint("block_1")
    stored = torch.load(path, weights_only=True)
    stored["dbl"]["max_steps"] = 99
    torch.save(stored, path)
    with pytest.raises(UserError, match="at step 6 of 99"):
        assemble(run)


def test_a_checkpoint_that_would_run_code_is_refused(run: RunFolder, tmp_path: Path) -> None:
    """Catches a load without weights_only: the pickle below would make a file."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    torch.save({"dbl": Trap()}, run.checkpoint("block_0"))
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        assemble(run)
    assert not (tmp_path / "trapped").exists()


def test_a_truncated_model_file_is_refused(run: RunFolder) -> None:
    """Catches a stack that starts with half a block."""
    _truncate(run.model / "block_0.safetensors")
    with pytest.raises(UserError, match=r"block_0.safetensors is damaged"):
        BlockStack.from_pretrained(run.model)


def test_other_terms_are_refused_once_a_block_is_trained(run: RunFolder, dit_contract: Contract) -> None:
    """Catches blocks of one run that were trained under different settings, with a message that names the key."""
    with pytest.raises(UserError, match=r"contract.seed is 3 here but 0 in .*contract.json"):
        run.load_or_build_contract(replace(dit_contract.config, seed=3), dit_contract.data)


def test_a_stored_contract_goes_before_a_new_one(run: RunFolder, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches blocks that are refused on a machine whose arithmetic differs in the last digit."""
    partition = vit_contract.partition
    moved = tuple(level * (1 + 1e-9) if 0 < index < 3 else level for index, level in enumerate(partition.boundaries))
    elsewhere = Contract(
        vit_contract.config,
        vit_contract.data,
        vit_contract.noise,
        replace(partition, boundaries=moved),
        vit_contract.table,
    )
    other = RunFolder("other", str(tmp_path))
    other.write_contract(elsewhere)
    found = other.load_or_build_contract(vit_contract.config, vit_contract.data)
    assert found.hash == elsewhere.hash != vit_contract.hash
