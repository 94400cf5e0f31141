"""The export to diffusers: which block a step belongs to, latents, and what such a pipeline cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dbl.data.spec import ImageSpec
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.diffusion.preconditioning import VP, Flow, Preconditioning
from dbl.inference.pipeline import export_pipeline, last_steps
from dbl.inference.stack import BlockStack
from dbl.networks import DiffusersDiT
from dbl.run.contract import ContractConfig
from dbl.utils.errors import UserError

diffusers = pytest.importorskip("diffusers")
from dbl.inference.routed_transformer import PixelDecoder, RoutedTransformer  # noqa: E402  it imports diffusers

LATENTS = ImageSpec("toy", "toy-1", 3, (0.5, 0.25, 0.25), shape=(4, 8, 8), mean=(-0.1,) * 4, std=(0.9,) * 4)
PIXELS = replace(LATENTS, shape=(3, 8, 8), mean=(0.4,) * 3, std=(0.2,) * 3)


def stack_of(data: ImageSpec, preconditioning: Preconditioning, **target: Any) -> BlockStack:
    """Three blocks with random weights."""
    network = DiffusersDiT(6, 2, 8, patch_size=4, num_embeds_ada_norm=3)
    assert preconditioning.range is not None
    noise = LogNormalNoise(*preconditioning.range)
    chosen = PixelTarget(preconditioning=preconditioning, **target)
    contract = ContractConfig(network, chosen, noise, PartitionConfig(num_blocks=3)).build(data)

    def load(block: int) -> Any:
        denoiser = contract.denoiser(block).eval()
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return denoiser

    return BlockStack(contract, load)


@pytest.mark.parametrize("boundaries", [None, [VP().range[1], 157.0, 0.0101, VP().range[0]]])
def test_a_step_belongs_to_the_block_that_owns_its_level(boundaries: list[float] | None) -> None:
    """Catches a cut that is one step off, also where a block has hardly a step of its own."""
    noise = LogNormalNoise(*VP().range)
    scheme = "equal_probability" if boundaries is None else "explicit"
    partition = PartitionConfig(num_blocks=3, scheme=scheme, boundaries=boundaries).build(noise, 6)  # type: ignore[arg-type]
    cuts = torch.tensor(last_steps(VP(), partition))
    levels = torch.tensor(VP().levels(), dtype=torch.float64)
    owners = (torch.arange(1000).unsqueeze(1) <= cuts).sum(1)
    assert torch.equal(owners, partition.block_for(levels))


@torch.no_grad()
def test_samples_of_unlike_steps_go_to_their_own_blocks(tmp_path: Path) -> None:
    """Catches a batch that is sent whole to the block of its first sample."""
    stack = stack_of(LATENTS, VP(), standardise=False)
    folder = export_pipeline(stack, tmp_path / "pipeline")
    routed = RoutedTransformer.from_pretrained(folder / "transformer")
    x, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    step = torch.tensor([999, 3, 400, 200])
    blocks = stack.contract.partition.block_for(torch.tensor(VP().levels(), dtype=torch.float64)[step])
    assert set(blocks.tolist()) >= {0, 2}
    output = routed(x, timestep=step, class_labels=labels).sample
    for row, block in enumerate(blocks.tolist()):
        network: Any = stack.denoiser(block).network
        torch.testing.assert_close(output[row], network(x[row, None], step[row, None].float(), labels[row, None])[0])


@torch.no_grad()
def test_latents_get_the_autoencoder_of_the_user(tmp_path: Path) -> None:
    """Catches a pipeline of latents that shows them as pixels, or that cannot be loaded without an autoencoder."""
    folder = export_pipeline(stack_of(LATENTS, VP(), standardise=False), tmp_path / "pipeline")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, vae=PixelDecoder([0.0], [0.5]))
    images = pipeline([1], 1.0, torch.manual_seed(0), num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 4, 8, 8)
    assert not (folder / "vae").exists()


@torch.no_grad()
def test_standardised_pixels_come_back_as_pixels(tmp_path: Path) -> None:
    """Catches a decoder that takes targets for pixels from -1 to 1."""
    stack = stack_of(PIXELS, VP())
    folder = export_pipeline(stack, tmp_path / "pipeline")
    decoder = PixelDecoder.from_pretrained(folder / "vae")
    target = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(decoder.decode(target).sample / 2 + 0.5, stack.space.decode(target))


@pytest.mark.parametrize(
    ("data", "preconditioning", "target", "message"),
    [
        (LATENTS, Flow(), {"standardise": False}, "has no Flow"),
        (LATENTS, VP(), {}, "standardise must be false"),
    ],
)
def test_what_diffusers_has_no_pipeline_for_is_refused(
    data: ImageSpec, preconditioning: Preconditioning, target: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Catches a folder that loads and shows noise."""
    with pytest.raises(UserError, match=message):
        export_pipeline(stack_of(data, preconditioning, **target), tmp_path / "pipeline")
    assert not any(tmp_path.iterdir())
