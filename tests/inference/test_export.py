"""Exported programs: another process, which never imports `dbl`, gives the same images and classes."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_toy import random_denoiser
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy import Stripes
from toy_text import text_stack

from dbl.denoising.sampling import Sampler
from dbl.inference.export import export_stack
from dbl.inference.stack import BlockStack
from dbl.run.contract import Contract
from dbl.run.inference import InferenceConfig
from dbl.utils.errors import UserError, one_line

# What a user without `dbl` writes: the chain is one call; with the blocks alone, the loop over the steps is theirs.
PROGRAM = """
import json, sys, torch
from safetensors.torch import load_file, save_file

folder = sys.argv[1]
given = load_file(f"{folder}/given.safetensors")
noise, condition = given["noise"], given["condition"]
facts = json.load(open(f"{folder}/export/manifest.json"))
answers = torch.export.load(f"{folder}/export/chain.pt2").module()(noise, condition)

blocks = [torch.export.load(f"{folder}/export/block_{b}.pt2").module() for b in range(3)]
state = facts["start_scale"] * noise.double()
for step in facts["steps"]:  # Euler's method
    call = blocks[step["block"]]
    level = torch.tensor(step["sigma"], dtype=torch.float32)
    outputs = call(state.float(), level, condition)
    denoised = outputs[0].double()
    if facts["guidance_scale"] != 1:
        no_class = torch.full_like(condition, facts["num_classes"])
        without = call(state.float(), level, no_class)[0].double()
        denoised = without + facts["guidance_scale"] * (denoised - without)
    state = denoised + step["sigma_next"] / step["sigma"] * (state - denoised)
if facts["makes"] == "images":
    mean, std = (torch.tensor(facts[name]).view(-1, 1, 1) for name in ("mean", "std"))
    looped = ((state.float() / facts["sigma_data"] * std + mean) / facts["white"]).clamp(0, 1)
else:
    looped = outputs[1]
assert not any(name.split(".")[0] == "dbl" for name in sys.modules)
save_file({"answers": answers, "looped": looped}, f"{folder}/found.safetensors")
"""
NUM = 5  # samples; the programs were recorded for two


def _stack(contract: Contract, sampler: Sampler) -> BlockStack:
    return BlockStack(contract, lambda block: random_denoiser(contract, block), InferenceConfig(sampler, seed=4)).eval()


def _elsewhere(folder: Path, noise: Tensor, condition: Tensor) -> dict[str, Tensor]:
    """What `PROGRAM` finds in a process of its own, in which `dbl` is not on the path."""
    save_file({"noise": noise.float(), "condition": condition}, folder / "given.safetensors")
    subprocess.run([sys.executable, "-I", "-c", PROGRAM, str(folder)], check=True, cwd=folder, timeout=300)
    return load_file(folder / "found.safetensors")


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_images_are_the_same_without_dbl(guidance_scale: float, dit_contract: Contract, tmp_path: Path) -> None:
    """Catches blocks in another order or at other levels, a batch size that is fixed, and images in other units."""
    stack = _stack(dit_contract, Sampler(schedule="quantile", num_steps=6, guidance_scale=guidance_scale))
    export_stack(stack, tmp_path / "export")
    labels = torch.tensor([0, 1, 2, 0, 1])
    expected = stack.generate(labels)
    found = _elsewhere(tmp_path, stack.start_noise(torch.arange(NUM)), labels)
    assert expected.std() > 0.05
    torch.testing.assert_close(found["answers"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["looped"], expected, rtol=1e-5, atol=1e-5)


def test_classes_are_the_same_without_dbl(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches images that must be normalised first, and probabilities of another level than the last."""
    stack = _stack(vit_contract, Sampler(schedule="quantile", num_steps=6))
    export_stack(stack, tmp_path / "export")
    images = Stripes().split("test").images[torch.arange(NUM)]
    expected = stack.classify(images)
    found = _elsewhere(tmp_path, stack.start_noise(torch.arange(NUM)), images / 255)
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(found["answers"], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["looped"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["heun", "dpmpp_2m"])
def test_each_method_is_recorded(method: str, dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a chain whose steps are Euler's whatever the sampler is."""
    stack = _stack(dit_contract, Sampler(method, "quantile", num_steps=4))  # type: ignore[arg-type]
    export_stack(stack, tmp_path / "export")
    chain = torch.export.load(tmp_path / "export" / "chain.pt2").module()
    for num in (1, 3):
        found = chain(stack.start_noise(torch.arange(num)).float(), torch.arange(num))
        torch.testing.assert_close(found, stack.generate(list(range(num))), rtol=1e-5, atol=1e-5)


def test_the_manifest_says_what_there_is(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a file that is not listed, levels that rise, and blocks that do not own their levels."""
    stack = _stack(dit_contract, Sampler(num_steps=7))
    folder = export_stack(stack, tmp_path / "export", chain=False)
    facts = json.loads((folder / "manifest.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *facts["files"]}
    assert set(facts["files"]) == {f"block_{block}.pt2" for block in range(3)}
    for name, digest in facts["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    levels = [step["sigma"] for step in facts["steps"]]
    assert len(levels) == 7
    assert [step["sigma_next"] for step in facts["steps"]] == [*levels[1:], 0.0]
    assert levels == sorted(levels, reverse=True)
    assert [step["block"] for step in facts["steps"]] == dit_contract.partition.block_for(torch.tensor(levels)).tolist()
    assert [step["block_next"] for step in facts["steps"]] == [*[step["block"] for step in facts["steps"]][1:], None]
    assert (facts["contract"], facts["white"]) == (dit_contract.hash, 255.0)


class _Stubborn(nn.Module):
    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        return noisy * len(cond.tolist()) if float(noisy.sum()) > 3 else noisy


def test_what_cannot_be_exported_is_one_line(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches tracebacks of the tracer, a folder that is overwritten, and half a folder that is left behind."""
    stack = _stack(dit_contract, Sampler(num_steps=3))
    (tmp_path / "there").mkdir()
    stubborn = replace(stack.inference, keep_in_memory="one")
    own = BlockStack(dit_contract, lambda block: _with(_Stubborn(), dit_contract, block), stubborn)
    partial = BlockStack(dit_contract, lambda block: random_denoiser(dit_contract, block), available=[0, 2])
    for made, folder, named in (
        (stack, "there", "there exists already"),
        (text_stack("masked"), "a", "a stack of text cannot be exported"),
        (partial, "b", "an export needs block 1"),
        (own, "c", r"block_0.pt2 cannot be made: torch.export cannot record this network \("),
        (_stack(dit_contract, Sampler()).to(torch.bfloat16), "d", "an export needs a stack in float32 on the CPU"),
    ):
        with pytest.raises(UserError, match=named) as error:
            export_stack(made, tmp_path / folder)
        assert str(error.value) == one_line(error.value) or len(one_line(error.value)) <= 200
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def _with(network: nn.Module, contract: Contract, block: int) -> nn.Module:
    denoiser = random_denoiser(contract, block)
    denoiser.network = network
    return denoiser
