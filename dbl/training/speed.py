"""Speed of training steps: seconds, samples a second, and the share of the device's peak FLOPs that they reach."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dbl.training.memory.planner import Planner, Row
from dbl.training.memory.synthetic_step import SyntheticStep

# Steps before those that are timed: the first ones choose kernels, fill caches and compile.
_WARM_UP = 3


def speed_rows(
    planner: Planner, batch_size: int, num_steps: int, peak_tflops: float | None, free: int | None
) -> list[dict[str, Any]]:
    """Time steps of one block and of the whole network, each with and without activation checkpointing.

    Steps run on made-up data, without a trainer, callbacks and data loader. A row that does not fit into memory is
    planned and not timed.

    Args:
        planner: planner for a config; its device is used.
        batch_size: number of samples of a batch.
        num_steps: number of optimizer steps of which the median counts.
        peak_tflops: TFLOP/s of the device for MFU; None leaves it out.
        free: bytes of memory that may be used; None if unknown.

    Returns:
        For each row `name`, `num_blocks` (null end to end), `num_layers`, `flops` (of an optimizer step, without what
        checkpointing computes again), `peak_bytes` (planned), and null where the row does not fit: `step_seconds`,
        `samples_per_second`, `mfu`, `ratio` (of the seconds to those of the first row) and, on CUDA, `allocated_bytes`
        (the allocator's own peak).
    """
    accumulate = planner.recipe.accumulate
    flops: dict[int | None, int] = {}  # by number of blocks; the row without checkpointing comes first
    found: list[dict[str, Any]] = []
    for row in _rows(planner):
        if row.num_blocks not in flops:
            flops[row.num_blocks] = accumulate * planner.flops(row.make_part, batch_size)
        peak_bytes = sum(planner.peak(row.make_part, batch_size).values())
        fits = free is None or peak_bytes <= free
        seconds, allocated = _measure(planner, row, batch_size, num_steps) if fits else (None, None)
        counted = {"flops": flops[row.num_blocks], "peak_bytes": peak_bytes, "allocated_bytes": allocated}
        facts = {"name": row.name, "num_blocks": row.num_blocks, "num_layers": row.num_layers, **counted}
        found.append(facts | _rates(seconds, accumulate * batch_size, flops[row.num_blocks], peak_tflops))
        first = found[0]["step_seconds"]
        found[-1]["ratio"] = seconds / first if seconds and first else None
    return found


def _rows(planner: Planner) -> list[Row]:
    """The plan's rows with the recipe's own optimizer."""
    rows = planner.rows([planner.config.partition.num_blocks if planner.config.network.can_be_partitioned else 1])
    return [row for row in rows if not row.name.endswith("Adafactor")]


def _rates(seconds: float | None, samples: int, flops: int, peak_tflops: float | None) -> dict[str, float | None]:
    if seconds is None:
        return {"step_seconds": None, "samples_per_second": None, "mfu": None}
    mfu = None if peak_tflops is None else flops / seconds / (peak_tflops * 1e12)
    return {"step_seconds": seconds, "samples_per_second": samples / seconds, "mfu": mfu}


def _measure(planner: Planner, row: Row, batch_size: int, num_steps: int) -> tuple[float | None, int | None]:
    """Median seconds of a step and, on CUDA, the peak of the allocator; None twice if the memory is not enough."""
    on_cuda = planner.device == "cuda"
    if on_cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = median_seconds(real_step(planner, row, batch_size), num_steps, on_cuda)
    except torch.OutOfMemoryError:
        return None, None
    return seconds, torch.cuda.max_memory_allocated() if on_cuda else None


def real_step(planner: Planner, row: Row, batch_size: int) -> SyntheticStep:
    """A step of a planned row on real tensors, compiled if the recipe says so, with all batches of an accumulation."""
    part = row.make_part().to(planner.device)
    part.recipe = replace(part.recipe, compile=planner.recipe.compile)  # a plan is made without
    with torch.device(planner.device):
        step = SyntheticStep(part, planner.data, batch_size, planner.precision)
    step.num_batches = planner.recipe.accumulate
    return step


def median_seconds(step: Callable[[], object], num_steps: int, on_cuda: bool = False) -> float:
    """Median wall time of a step, after some to warm up; on CUDA until the device has done its work."""
    seconds = []
    for _ in range(_WARM_UP + num_steps):
        start = time.perf_counter()
        step()
        if on_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARM_UP:])


def free_bytes(device: str) -> int | None:
    """Bytes of memory that a training on this device can still have; None if the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(number) for number in kilobytes), None)
