"""Evaluate an assembled run and say what it cost."""

from pathlib import Path

from torch import Tensor

from dbl.assembly import ModelFolder
from dbl.commands.block_cli import BlockCLI
from dbl.report import Side
from dbl.run_folder import RunFolder
from dbl.stack import BlockStack


def evaluate_stack(run: RunFolder, name: str) -> Side:
    """Test the assembled network of a run (`dbl test`); `samples.png` goes to its report folder if it makes images."""
    cli = BlockCLI(["test", "--config", str(run.config)])
    stack = cli.model
    assert isinstance(stack, BlockStack)
    if stack.makes_images:
        save_picture(stack.sample_grid(), run.report / "samples.png")
    contract, blocks = stack.contract, ModelFolder(run.model).config["blocks"]
    return Side(
        name=name,
        parts=[
            {
                "part": f"block_{index}",
                "layers": contract.partition.layers[index],
                "sigma_high": contract.partition.interval(index).high,
                "sigma_low": contract.partition.interval(index).low,
                **facts,
            }
            for index, facts in enumerate(blocks)
        ],
        calls=stack.inference.sampler.calls_per_block(contract.noise, contract.partition),
        test=dict(cli.results[0]),
    )


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture [channels, H, W] of type uint8 as PNG."""
    from torchvision.io import write_png

    from dbl.files import replacing

    channels = picture.shape[0]
    with replacing(path) as temporary:
        write_png(picture if channels in (1, 3) else picture[:3], str(temporary))
