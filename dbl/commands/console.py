"""What a command says before it trains and when it is done: a few lines, rounded; the report has the rest."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dbl.commands.run_config import RunConfig
from dbl.evaluation.figures import readable_bytes
from dbl.evaluation.report.arm import peak_of
from dbl.evaluation.report.facts import shown_metric
from dbl.evaluation.report.formatting import number, with_spread
from dbl.evaluation.report.render import words_of
from dbl.run.checkpoints import Checkpoints
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder

Report = Mapping[str, Any]

_LABEL = 12


def header(config: RunConfig, backend: str) -> str:
    """What is about to be trained: network, blocks with their layers and levels, ancestor, length, device, folder.

    Args:
        config: config of the run.
        backend: name of the backend that trains the blocks.
    """
    contract, partition = config.contract, config.contract.partition
    network = contract.config.network
    title = f"{type(network).__name__} of {_count(network.num_layers, 'layer')} on {contract.data.name}"
    lines = [f"{title}, in {_count(partition.num_blocks, 'block')}", *_blocks(contract)]
    ancestor = contract.config.ancestor()
    if ancestor is not None:
        of_layers, share = _count(ancestor.network.num_layers, "layer"), contract.config.start.share
        lines.append(_line("ancestor", f"{of_layers} for all levels, trained first with {share:.0%} of the compute"))
    elif contract.config.start.num_blocks:
        lines.append(
            _line("start", f"weights of a trained network, in {config.run.start_model(contract.config.start)}")
        )
    steps, samples = config.steps, _count(config.data.batch_size * config.recipe.accumulate, "sample")
    each = _count(steps[0], "step") if len(set(steps)) == 1 else f"{', '.join(map(str, steps))} steps"
    lora = config.recipe.lora
    by_adapters = f", by adapters of rank {lora.rank}" if lora else ""
    lines.append(_line("training", f"{each} of {samples} for each block{by_adapters}"))
    lines.append(_line("device", f"{_device(config)}, {config.values.trainer.precision}, backend {backend}"))
    return "\n".join([*lines, _line("folder", str(config.run.path))])


def _blocks(contract: Contract) -> list[str]:
    partition, name = contract.partition, contract.config.target.level_name
    lines = []
    for block in range(partition.num_blocks):
        origin, (low, high) = contract.config.start.origin(block, partition), partition.interval(block)
        layers = origin.layers if origin and origin.layers else list(partition.layer_range(block))
        lines.append(_line(f"block {block}", f"{_named(layers):<15} {name} {high:.3g} to {low:.3g}"))
    return lines


def _named(layers: list[int]) -> str:
    """Layers of the whole network, such as `layer 2`, `layers 0 to 3` or `layers 0, 3, 6, 9`."""
    first, last = layers[0], layers[-1]
    if len(layers) == 1:
        return f"layer {first}"
    return f"layers {f'{first} to {last}' if layers == [*range(first, last + 1)] else ', '.join(map(str, layers))}"


def _device(config: RunConfig) -> str:
    if config.device == "cuda":
        return torch.cuda.get_device_name()
    accelerator = config.values.trainer.accelerator
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "MPS"
    return f"CPU ({os.cpu_count()} cores)"


def train_summary(report: Report, run: RunFolder) -> str:
    """The end of `dbl train`: quality beside what it is to be compared with, memory, files, and the next command.

    Args:
        report: content of `report.json`.
        run: run folder.
    """
    arm, words = report["sides"][0], _words(report)
    name = shown_metric(arm["quality"])
    value, beside = with_spread(arm["quality"][name]), _reference(report, name)
    lines = [_line("quality", f"{words.metric(name)} {value}{f', {beside}' if beside else ''}")]
    lines += [_line("memory", _memory(report)), *_files(report, run)]
    compare = f"dbl compare --config {run.config}"
    sample = f"dbl sample {run.path}" if _makes_samples(report) else f"dbl test --config {run.config}"
    return "\n".join([*lines, _line("next", f"{sample}; {compare}")])


def compare_summary(report: Report, run: RunFolder) -> str:
    """The end of `dbl compare`: its arms side by side in quality, memory and time; files, and the next command."""
    arms, words = report["sides"], _words(report)
    name = next(
        (metric for metric in _by_importance(arms[0]["quality"]) if all(metric in arm["quality"] for arm in arms)),
        shown_metric(arms[0]["quality"]),
    )
    columns = [[words.titles[arm["name"]] for arm in arms]]
    columns.append([with_spread(arm["quality"].get(name)) or "-" for arm in arms])
    columns.append([_peak(arm) for arm in arms])
    columns.append([f"{arm['seconds']:.0f} s" for arm in arms])
    beside = _reference(report, name)
    labels = ["", words.metric(name), "peak memory", "training time"]
    lines = _table(labels, columns)
    lines[1] += f"   {beside}" if beside else ""
    if len(report["seeds"]) == 1:  # a small difference means nothing
        following = f"dbl compare --config {run.config} --seeds 0,1,2"
    elif _makes_samples(report):
        following = f"dbl sample {run.path}/seed_{report['seeds'][0]}"
    else:
        following = f"dbl test --config {run.path}/seed_{report['seeds'][0]}/config.yaml"
    return "\n".join([*lines, *_files(report, run), _line("next", following)])


def _words(report: Report) -> Any:
    """Names for the task of the report; what the template defines is not declared."""
    return words_of(report)


def _by_importance(quality: Mapping[str, Any]) -> list[str]:
    best = shown_metric(quality)
    return [best, *(name for name in quality if name != best)]


def _table(labels: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    first = max(map(len, labels))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{label:<{first}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for label, row in zip(labels, rows, strict=True)
    ]


def _reference(report: Report, name: str) -> str:
    """What a figure of quality is to be compared with: real data, or a guess; empty if there is nothing."""
    images = report["sides"][0]["image_quality"]
    if images and name in images["real_test_images"]:
        return f"real test images {number(images['real_test_images'][name])}"
    num_classes = report["data"]["num_classes"]
    guesses = {"accuracy": 1 / num_classes, "nats": math.log(num_classes)}
    return f"a uniform guess {number(guesses[name])}" if name in guesses else ""


def _memory(report: Report) -> str:
    """Peak of a step of the block that needs most, and what was planned for the whole network, if it was."""
    plan = report["memory_plan"]
    whole = next((row for row in plan["rows"] if row["name"] == "end to end"), None) if plan else None
    beside = f", of the whole network {_size(whole['peak_bytes'])} (planned)" if whole else ""
    return f"{_peak(report['sides'][0])} at the peak of a training step of a block{beside}"


def _peak(arm: Mapping[str, Any]) -> str:
    peak = peak_of(arm["memory"]) if arm["memory"] else None
    return "not measured" if peak is None else _size(peak)


def _size(num_bytes: float) -> str:
    """Bytes with three digits."""
    size, unit = readable_bytes(num_bytes).split()
    return f"{float(size):.3g} {unit}" if float(size) < 999.5 else f"{float(size):.0f} {unit}"


def _files(report: Report, run: RunFolder) -> list[str]:
    lines = [_line("report", str(run.report / "report.html"))]
    return [*lines, _line("samples", str(run.report / "samples.png"))] if report["samples"] else lines


def _makes_samples(report: Report) -> bool:
    return bool(report["samples"]) or report["data"]["kind"] == "text"


def fit_summary(run: RunFolder, block: int, num_blocks: int) -> str:
    """The end of `dbl fit`: where checkpoint and logs are, and the next command.

    Args:
        run: run folder.
        block: block that was trained.
        num_blocks: number of blocks of the run.
    """
    part = f"block_{block}"
    info = Checkpoints(run.checkpoint(part)).newest()
    lines = [_line(part, f"{info.step:,} steps" if info else "no step was saved")]
    lines.append(_line("checkpoint", str(run.checkpoint(part))))
    lines.append(_line("logs", f"{run.part(part) / 'metrics.csv'}; tensorboard --logdir {run.path}"))
    left = [other for other in range(num_blocks) if not run.checkpoint(f"block_{other}").is_file()]
    following = f"dbl fit --config {run.config} --model.block {left[0]}" if left else f"dbl assemble {run.path}"
    return "\n".join([*lines, _line("next", following)])


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}" if len(label) < _LABEL else f"{label}  {text}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
