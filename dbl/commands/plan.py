"""`dbl plan`: memory of a training step by category before any training, without allocating it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

from dbl.commands.arms.rivals import rivals_to_plan
from dbl.commands.outputs import check_output
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.commands.spelling import whole_numbers
from dbl.evaluation.figures import memory_figure, readable_bytes
from dbl.run.contract import ContractConfig
from dbl.training.memory.planner import Planner, plan_rows
from dbl.training.memory.tracker import CATEGORIES
from dbl.training.recipes import RECIPES
from dbl.utils.errors import UserError
from dbl.utils.files import write_json
from dbl.utils.plotting import save_figure


def build_parser() -> LightningArgumentParser:
    """The parser of a config, with what to plan."""
    parser = config_parser("plan")
    parser.add_argument(
        "--num_blocks",
        type=list[int] | str | None,
        default=None,
        help="Numbers of blocks to compare, such as 2,3,4,6.",
    )
    parser.add_argument(
        "--rivals",
        type=list[str] | str | None,
        default=None,
        help="Further rivals, end to end and in blocks: all, or some of " + ", ".join(RECIPES) + ".",
    )
    parser.add_argument("--json", type=bool, nargs="?", const=True, default=False, help="Print JSON.")
    parser.add_argument(
        "--fit", type=str, default=None, help="Also find the largest batch within this memory, such as 12GB."
    )
    parser.add_argument("--device", type=str, default=None, help="Whose kernels: cpu or cuda; by default what is here.")
    parser.add_argument("--output", type=Path, default=None, help="Picture; by default plan.png in the run folder.")
    return parser


def main(arguments: list[str]) -> None:
    """Plan every row; print the table or JSON; write `plan.json` and the picture."""
    options = parse(build_parser(), arguments[1:])
    config = RunConfig(options)
    picture = check_output(options.output or config.run.path / "plan.png", ".png")
    planner = make_planner(config, options.device)
    limit = None if options.fit is None else parse_bytes(options.fit)
    numbers = _numbers_of_blocks(config.contract_config, options.num_blocks, bool(options.rivals))
    rivals = rivals_to_plan(options.rivals, planner)
    rows = plan_rows(planner, numbers, config.data.batch_size, limit, rivals.names)
    if limit is not None and not any(row["largest_batch"] for row in rows):
        least = min(sum(planner.peak(row.make_part, 1).values()) for row in planner.rows(numbers))
        raise UserError(f"--fit {options.fit} is below what one sample needs: {readable_bytes(least)} at least")
    plan = {
        "batch_size": config.data.batch_size,
        "precision": planner.precision,
        "device": planner.device,
        "fit_bytes": limit,
        "rows": rows,
    }
    if options.rivals:
        plan["left_out"] = rivals.left_out
    write_json(picture.with_suffix(".json"), plan)
    save_figure(memory_figure({row["name"]: row["bytes"] for row in rows}), picture)
    if options.json:
        print(json.dumps(plan, indent=2))
    else:
        _print_table(plan)
        print(*rivals.lines(), sep="\n", end="\n" if rivals.left_out else "")
        print(f"picture: {picture}")


def make_planner(config: RunConfig, device: str | None = None) -> Planner:
    """The planner of a config; by default for the device that its trainer would use.

    Raises UserError if the device is not there, or such a training cannot be planned.
    """
    config.check_task()
    device = device or config.device
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"--device {device} cannot be planned here: choose cpu, or run dbl plan where there is a GPU")
    precision = str(config.values.trainer.precision)
    return Planner(config.contract_config, config.data.declared_spec, config.recipe, precision, device)


def _numbers_of_blocks(config: ContractConfig, chosen: str | list[int] | None, with_rivals: bool = False) -> list[int]:
    """The numbers in `--num_blocks`; by default the config's and those up to 6 that split the layers evenly.

    With rivals, of which each has a row for each number, it is the config's alone.
    """
    if chosen is None:
        if not config.network.can_be_partitioned:
            return [1]
        if with_rivals:
            return [config.partition.num_blocks]
        return sorted(
            {config.partition.num_blocks, *(num for num in (2, 3, 4, 6) if config.network.num_layers % num == 0)}
        )
    return whole_numbers("--num_blocks", chosen, "numbers such as 2,3,4,6")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 12GB (10^9 each), 12GiB (2^30 each), 800MB or 4096; UserError if it is not one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UserError(f"--fit {text} must be a size such as 12GB, 12GiB or 800MB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("", "K", "M", "G", "T").index(prefix.upper()))


def _print_table(plan: dict[str, Any]) -> None:
    rows = plan["rows"]
    largest = max(row["peak_bytes"] for row in rows)
    unit = readable_bytes(largest).split()[1]
    table = Table(title=f"peak of one training step in {unit}, {plan['batch_size']} samples, {plan['precision']}")
    with_fit = plan["fit_bytes"] is not None
    with_host = any("host_bytes" in row for row in rows)
    more = [*(["host"] if with_host else []), *(["largest batch"] if with_fit else [])]
    for column in ("", "layers", *CATEGORIES, "peak", "ratio", *more):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        sizes = [*row["bytes"].values(), row["peak_bytes"]]
        cells = [readable_bytes(size, largest).split()[0] for size in sizes]
        on_host = row.get("host_bytes", 0)
        host = [readable_bytes(on_host, largest).split()[0] if on_host else ""] if with_host else []
        fit = [str(row["largest_batch"] or "none")] if with_fit else []
        table.add_row(row["name"], str(row["num_layers"]), *cells, f"{row['ratio']:.3f}", *host, *fit)
    Console(width=None if Console().is_terminal else 180).print(table)
