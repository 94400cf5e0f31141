"""`dbl bench`: time, share of the device's peak, and memory of a training step, of a block and of the whole network."""

import json
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

from dbl.commands.devices import check_devices
from dbl.commands.parsing import parse
from dbl.commands.plan import make_planner
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.evaluation.figures import readable_bytes
from dbl.training.peak_flops import Peak, device_peak
from dbl.training.speed import free_bytes, speed_rows
from dbl.utils.checks import check_number
from dbl.utils.errors import UserError


def build_parser() -> LightningArgumentParser:
    """The parser of a config, with how to measure."""
    parser = config_parser("bench")
    parser.add_argument("--num_steps", type=int, default=10, help="Optimizer steps of which the median counts.")
    parser.add_argument(
        "--peak_tflops",
        type=float,
        default=None,
        help="TFLOP/s of the device at this precision, for MFU; by default published (CUDA) or measured (CPU).",
    )
    parser.add_argument("--json", type=bool, nargs="?", const=True, default=False, help="Print JSON.")
    return parser


def main(arguments: list[str]) -> None:
    """Measure every row; print the table or JSON."""
    options = parse(build_parser(), arguments[1:])
    check_number("--num_steps", options.num_steps, at_least=1, at_most=10**6, whole=True)
    check_number("--peak_tflops", options.peak_tflops, above=0, at_most=1e9, optional=True)
    config = RunConfig(options)
    check_devices(config.values.trainer)
    found = measure(config, options.num_steps, options.peak_tflops)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _print_table(found)


def measure(config: RunConfig, num_steps: int, peak_tflops: float | None = None) -> dict[str, Any]:
    """Measure the training that a config describes, on the device that its trainer would use.

    Args:
        config: config of a run; nothing of the run is written.
        num_steps: number of optimizer steps of which the median counts.
        peak_tflops: TFLOP/s of the device, in place of what is published or measured.

    Raises UserError if not even one of the rows fits into memory.
    """
    planner, batch_size = make_planner(config), config.data.batch_size
    matmul_precision = config.values.float32_matmul_precision
    if planner.device == "cuda":
        torch.set_float32_matmul_precision(matmul_precision)
    peak = device_peak(planner.device, planner.precision, matmul_precision, peak_tflops)
    free = free_bytes(planner.device)
    rows = speed_rows(planner, batch_size, num_steps, peak.tflops, free)
    if all(row["step_seconds"] is None for row in rows):
        least = readable_bytes(min(row["peak_bytes"] for row in rows))
        known = "" if free is None else f", and {readable_bytes(free)} are free"
        raise UserError(f"data.init_args.batch_size={batch_size} needs {least} of memory at least{known}: lower it")
    return {
        "device": torch.cuda.get_device_name() if planner.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": planner.precision,
        "float32_matmul_precision": matmul_precision,
        "compile": planner.recipe.compile,
        "batch_size": batch_size,
        "accumulate": planner.recipe.accumulate,
        "peak_tflops": peak.tflops,
        "peak_source": peak.source,
        "rows": rows,
    }


def _print_table(found: dict[str, Any]) -> None:
    rows, accumulate = found["rows"], found["accumulate"]
    batches = f"{accumulate} batches of " * (accumulate > 1)
    table = Table(title=f"one optimizer step: {batches}{found['batch_size']} samples, {found['precision']}")
    for column in ("", "layers", "step", "ratio", "samples/s", "MFU", "peak memory"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(row["name"], str(row["num_layers"]), *_cells(row), readable_bytes(_bytes(row)))
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    print(f"device: {found['device']}{', compiled' * found['compile']}")
    print(f"peak: {_peak_in_words(Peak(found['peak_tflops'], found['peak_source']))}")


def _bytes(row: dict[str, Any]) -> int:
    """What the allocator counted or, on a CPU, what was planned."""
    return int(row["allocated_bytes"] or row["peak_bytes"])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["step_seconds"] is None:
        return "does not fit", "", "", ""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
    mfu = "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
    return f"{1000 * row['step_seconds']:.2f} ms", ratio, f"{row['samples_per_second']:.4g}", mfu


def _peak_in_words(peak: Peak) -> str:
    reasons = {
        "given": "given by --peak_tflops",
        "published": "published, for dense matrix products",
        "measured": "measured by a matrix product",
    }
    if peak.tflops is None:
        return "unknown for this device: give --peak_tflops for MFU"
    return f"{peak.tflops:.4g} TFLOP/s, {reasons[peak.source]}"
