"""Evaluate an assembled run and say what it cost."""

from dbl.assembly import ModelFolder
from dbl.commands.block_cli import BlockCLI
from dbl.figures import save_picture
from dbl.report import Side
from dbl.run_folder import RunFolder
from dbl.stack import BlockStack


def evaluate_stack(run: RunFolder, name: str) -> Side:
    """Test the assembled network of a run (`dbl test`); `samples.png` goes to its report folder if it makes images."""
    cli = BlockCLI(["test", "--config", str(run.config)])
    stack = cli.model
    assert isinstance(stack, BlockStack)
    if stack.grid is not None:
        save_picture(stack.grid, run.report / "samples.png")
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
