"""One arm of a comparison: what was trained, how good it is and what it cost; and its spread over seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

# Prefixes of the logged test values that do not say how good a network is.
_NOT_QUALITY = (
    *("accuracy_draw_", "loss_block_", "nats_block_", "nats_standard_error", "nats_prior", "nats_reconstruction"),
    *("nats_own_blocks", "condition_rise_", "information_share_", "boundary_difference_"),
)


@dataclass
class Arm:
    """Blocks, or a rival, trained with one seed; values as in `report.json`.

    Args:
        name: `blocks`, `end_to_end`, `one_block`: one network of the size of a block for all levels, or a rival.
        parts: parts trained one after another; of the rival `paper`, the blocks of one training.
        calls: network calls of each part for one sample.
        test: metrics on the test split.
        memory: `memory.json` of each part; None where memory was not measured.
        quality_by_steps: rows of `dbl.evaluation.quality_by_steps`.
        weights: tested weights, `ema` or `live`.
        ancestors: parts that were trained before, from which these started.
    """

    name: str
    parts: list[dict[str, Any]]
    calls: list[int]
    test: dict[str, float]
    memory: list[dict[str, Any] | None] = field(default_factory=list)
    # Results of the callbacks of these names in `dbl.evaluation.callbacks`.
    image_quality: dict[str, Any] | None = None
    text_quality: dict[str, Any] | None = None
    likelihood: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    quality_by_steps: list[dict[str, Any]] = field(default_factory=list)
    weights: str = "ema"
    ancestors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def all_parts(self) -> list[dict[str, Any]]:
        """Everything that was trained."""
        return [*self.ancestors, *self.parts]

    def quality(self) -> dict[str, float]:
        """The metrics that say how good the network is, without the stage in their names."""
        named = {key.removeprefix("test/"): value for key, value in self.metrics().items()}
        # The loss of a network that is no denoiser is its nats: not comparable with the denoising loss of blocks.
        denoises = all(part["sigma_high"] is not None for part in self.parts)
        skipped = _NOT_QUALITY if denoises else (*_NOT_QUALITY, "loss")
        return {name: value for name, value in named.items() if not name.startswith(skipped)}

    def metrics(self) -> dict[str, float]:
        """All metrics of the test, with the mean accuracy of a classifier's draws first."""
        draws = [value for key, value in self.test.items() if key.startswith("test/accuracy_draw_")]
        return ({"test/accuracy": fmean(draws)} if draws else {}) | self.test

    def largest_memory(self) -> dict[str, Any] | None:
        """Memory of the part that needs most; None if a part was not measured."""
        measured = [memory for memory in self.memory if memory and peak_of(memory) is not None]
        if not measured or len(measured) < len(self.parts):
            return None
        return max(measured, key=lambda memory: peak_of(memory) or 0)


def peak_of(memory: Mapping[str, Any]) -> int | None:
    """Counted bytes; for a compiled network, whose tensors cannot be counted, the bytes that the GPU allocated."""
    cuda = memory.get("cuda")
    return cuda["allocated_bytes"] if memory["peak_bytes"] is None and cuda else memory["peak_bytes"]


def summarise(arms: list[Arm]) -> dict[str, Any]:
    """The JSON value of one arm: details of the first seed, and the spread of quality over all seeds."""
    first = arms[0]
    return {
        "name": first.name,
        "parts": first.parts,
        "ancestors": first.ancestors,
        "calls": first.calls,
        "weights": first.weights,
        "parameters_at_once": max(part["parameters"] for part in first.all_parts),
        "seconds": round(fmean(sum(part["seconds"] for part in arm.all_parts) for arm in arms), 1),
        "seconds_at_median_speed": _seconds_at_median_speed(arms),
        "layer_passes": round(sum(part["layer_passes"] for part in first.all_parts)),
        "memory": first.largest_memory(),
        "test": first.metrics(),
        "quality": _quality(arms),
        "image_quality": first.image_quality,
        "text_quality": first.text_quality,
        "likelihood": first.likelihood,
        "diagnostics": first.diagnostics,
        "quality_by_steps": _by_steps(arms),
    }


def _seconds_at_median_speed(arms: list[Arm]) -> float | None:
    """Seconds of the training if all steps took as long as the median one; None if a part was not timed."""
    parts = [part for arm in arms for part in arm.all_parts]
    if any(part["step_seconds"] is None for part in parts):
        return None
    return round(sum(part["steps"] * part["step_seconds"] for part in parts) / len(arms), 1)


def spread(values: list[float], over: str) -> dict[str, Any]:
    """Mean and range of values; `over` says what differs between them."""
    return {"mean": fmean(values), "min": min(values), "max": max(values), "values": values, "over": over}


def _quality(arms: list[Arm]) -> dict[str, Any]:
    found = {name: [arm.quality()[name] for arm in arms] for name in arms[0].quality()}
    spreads = {name: spread(values, "training seeds") for name, values in found.items()}
    if len(arms) == 1 and arms[0].image_quality:
        draws = arms[0].image_quality["metrics"]
        spreads |= {name: spread(values, "start noises") for name, values in draws.items() if len(values) > 1}
    return spreads


def _by_steps(arms: list[Arm]) -> list[dict[str, Any]]:
    rows = []
    for place, row in enumerate(arms[0].quality_by_steps):
        found = {name: [arm.quality_by_steps[place]["metrics"][name] for arm in arms] for name in row["metrics"]}
        metrics = {name: spread(values, "training seeds") for name, values in found.items()}
        rows.append({"steps": row["steps"], "metrics": metrics})
    return rows
