"""The variables of the templates: totals, differences, rows and columns that `report.json` does not hold as such."""

from collections.abc import Iterable, Mapping
from typing import Any

from dbl.evaluation.figures import readable_bytes
from dbl.evaluation.report.arm import peak_of
from dbl.evaluation.report.formatting import with_spread
from dbl.training.memory.tracker import CATEGORIES, MEANINGS
from dbl.training.recipes import RECIPES

# Prefixes of the metrics that are better when lower, of those that can be drawn against the number of steps.
LOWER = ("fid", "kid", "nats", "loss")

Report = Mapping[str, Any]


def task_of(report: Report) -> str:
    """The task of a report, which names its template: by the kind of data, the target and the network."""
    target = class_name(report["target"])
    if report["data"]["kind"] == "images":
        return "image_generation" if target == "PixelTarget" else "classification"
    if report["data"]["kind"] == "vectors":
        return "vector_classification"
    if target == "MaskTarget":
        return "masked_text"
    return "recurrent_text" if class_name(report["network"]) == "RecurrentLM" else "causal_text"


def class_name(spec: Mapping[str, Any]) -> str:
    """The class of a part of the config, without its module."""
    return str(spec["class_path"].rpartition(".")[2])


def facts_of(report: Report, words: Any) -> dict[str, Any]:
    """The variables of the templates.

    Args:
        report: content of `report.json`.
        words: names for the task of the report, the module of `words.j2`.
    """
    arms = report["sides"]
    blocks, whole = (*arms, None)[:2]
    rival = next((arm for arm in arms if arm["name"] == "one_block"), None)
    quality = _quality(arms, list(words.metrics))
    metric = shown_metric(blocks["quality"]) if len(arms) > 1 else ""
    return {
        **_config(report),
        "report": report,
        "data": report["data"],
        "arms": arms,
        "blocks": blocks,
        "whole": whole,
        "rival": rival,
        "with_recipes": [words.titles[arm["name"]] for arm in arms if arm["name"].removeprefix("blocks+") in RECIPES],
        "titles": [words.titles[arm["name"]] for arm in arms],
        "exact_baseline": whole is not None and whole["parts"][0]["sigma_high"] is None,
        "ensemble": (blocks["likelihood"] or {}).get("own_blocks"),
        "quality": quality,
        "explained": [prefix for prefix in words.metrics if any(name.startswith(prefix) for name in quality)],
        "several_draws": any(found["over"] == "start noises" for arm in arms for found in arm["quality"].values()),
        "real": _real(arms),
        "texts": _texts(arms),
        "judged_texts": next((arm["text_quality"] for arm in arms if arm["text_quality"]), None),
        "layers_run": [layers_run(report, arm) for arm in arms],
        "peaks": [peak_of(arm["memory"]) if arm["memory"] else None for arm in arms],
        "metric": metric,
        "unbeaten": unbeaten(memory_and_quality(report, words), metric.startswith(LOWER)),
        "steps": _steps(arms, words),
        "verdict": _verdict(report) if whole else None,
        **_memory(memory_rows(report, words)),
        **_idle_and_ignoring(blocks["diagnostics"]),
    }


def layers_run(report: Report, arm: Mapping[str, Any]) -> float:
    """Layers that are run for one image, label, token or masked text.

    Each layer runs once to read a token; with two streams noisy vectors pass through the layers as well.
    """
    task, sizes = task_of(report), report["network"]["init_args"]
    called = sum(calls * part["layers"] for calls, part in zip(arm["calls"], arm["parts"], strict=True))
    denoises = arm["parts"][0]["sigma_high"] is not None
    if task == "recurrent_text" and not denoises:
        core = sizes["num_layers"] - sizes["prelude"] - sizes["coda"]
        return float(sizes["num_layers"] + core * (sizes["mean_iterations"] - 1))
    if task != "causal_text":
        return float(called)
    reading, streams = sum(part["layers"] for part in arm["parts"]), sizes.get("streams")
    if not denoises or streams == "clean":
        return float(reading)
    return float(called + (reading if streams == "two" else 0))


def memory_rows(report: Report, words: Any) -> dict[str, dict[str, Any]]:
    """Rows of the memory table: what was measured, then what was only planned; each with `bytes` and `peak_bytes`."""
    measured = [arm for arm in report["sides"] if arm["memory"] and arm["memory"]["bytes"]]
    planned = report["memory_plan"]["rows"] if report["memory_plan"] else []
    return {words.measured(arm["name"]): arm["memory"] for arm in measured} | {
        words.planned(row["name"]): row for row in planned
    }


def memory_and_quality(report: Report, words: Any) -> dict[str, dict[str, Any]]:
    """Memory, time and quality of each arm that was measured, by title; empty if it would be one arm alone.

    Each has `peak_bytes` of a training step, `seconds` of the training (of its median step if all arms were timed, so
    that other work on the machine does not count) and `mean`, `min` and `max` of the metric to show.
    """
    arms = report["sides"]
    name = shown_metric(arms[0]["quality"]) if len(arms) > 1 else ""
    time = "seconds" if any(arm["seconds_at_median_speed"] is None for arm in arms) else "seconds_at_median_speed"
    found = {
        words.titles[arm["name"]]: {"peak_bytes": peak_of(arm["memory"]), "seconds": arm[time], **arm["quality"][name]}
        for arm in arms
        if name in arm["quality"] and arm["memory"] and peak_of(arm["memory"]) is not None
    }
    return found if len(found) > 1 else {}


def unbeaten(points: Mapping[str, Mapping[str, Any]], lower_is_better: bool) -> list[str]:
    """Those of which no other is better without needing more memory, by rising memory.

    Args:
        points: `peak_bytes`, and `mean` of a metric, by name.
        lower_is_better: whether lower values of the metric are better.
    """
    sign = 1 if lower_is_better else -1
    names, best = list[str](), float("inf")
    for name in sorted(points, key=lambda each: (points[each]["peak_bytes"], sign * points[each]["mean"])):
        if sign * points[name]["mean"] < best:
            best = sign * points[name]["mean"]
            names.append(name)
    return names


def shown_metric(metrics: Iterable[str]) -> str:
    """The one metric to show where there is room for one: accuracy, FID, nats, or else the loss."""
    names = list(metrics)
    return next(name for start in ("accuracy", "fid", "nats", "loss") for name in names if name.startswith(start))


def _config(report: Report) -> dict[str, Any]:
    sizes, target = report["network"]["init_args"], report["target"]["init_args"]
    return {
        "network": class_name(report["network"]),
        "sizes": sizes,
        "streams": sizes.get("streams"),
        "target": class_name(report["target"]),
        "sigma_data": target.get("sigma_data"),
        "readout": target.get("kind"),
        "noise": class_name(report["noise"]),
        "start": class_name(report["start"]),
        "partition": report["partition"]["init_args"],
        "sampler": report["sampler"],
    }


def _quality(arms: list[dict[str, Any]], prefixes: list[str]) -> dict[str, list[dict[str, Any] | None]]:
    """Metric -> its spread in each arm, in the order of the prefixes; unknown metrics at the end."""
    names = dict.fromkeys(name for arm in arms for name in arm["quality"])

    def place(name: str) -> int:
        return next((index for index, prefix in enumerate(prefixes) if name.startswith(prefix)), len(prefixes))

    return {name: [arm["quality"].get(name) for arm in arms] for name in sorted(names, key=place)}


def _real(arms: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of real images or texts, to set beside those of generated ones; empty if there are none."""
    if images := arms[0]["image_quality"]:
        return images.get("real_test_images", {})
    return next((arm["text_quality"]["real"] for arm in arms if arm["text_quality"]), {})


def _texts(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was given, and by arm what was written to follow."""
    written = {arm["name"]: arm["text_quality"]["texts"] for arm in arms if arm["text_quality"]}
    written = {name: texts for name, texts in written.items() if texts}
    return [
        {
            "prompt": texts[0]["prompt"],
            "written": dict(zip(written, (text["generated"] for text in texts), strict=True)),
        }
        for texts in zip(*written.values(), strict=False)
    ]


def _steps(arms: list[dict[str, Any]], words: Any) -> dict[str, Any] | None:
    """Heads and rows of the table of quality against steps."""
    measured = [arm for arm in arms if arm["quality_by_steps"]]
    if not measured:
        return None
    metrics = measured[0]["quality_by_steps"][0]["metrics"]
    names = [name for name in metrics if name.startswith(("accuracy", "fid", "kid"))]
    return {
        "titles": [f"{words.metric(name)}, {words.titles[arm['name']]}" for arm in measured for name in names],
        "rows": [
            (points[0]["steps"], [with_spread(point["metrics"][name]) for point in points for name in names])
            for points in zip(*(arm["quality_by_steps"] for arm in measured), strict=True)
        ],
    }


def _memory(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Rows of the memory table, all in the unit that fits the largest number."""
    largest = max((row["peak_bytes"] for row in rows.values()), default=0)
    sizes = {name: (*(row["bytes"][part] for part in CATEGORIES), row["peak_bytes"]) for name, row in rows.items()}
    return {
        "memory": {name: [readable_bytes(size, largest).split()[0] for size in row] for name, row in sizes.items()},
        "memory_unit": readable_bytes(largest).split()[1],
        "categories": {category: MEANINGS[category] for category in CATEGORIES},
    }


def _idle_and_ignoring(diagnostics: Mapping[str, Any] | None) -> dict[str, list[int]]:
    """Blocks that the sampler never calls, and blocks that do not use their condition."""
    found = diagnostics or {"calls_per_block": [], "condition": []}
    return {
        "idle": [block for block, calls in enumerate(found["calls_per_block"]) if calls == 0],
        "ignoring": [block for block, control in enumerate(found["condition"]) if not control["uses_condition"]],
    }


def _verdict(report: Report) -> dict[str, Any]:
    """Blocks and the end-to-end network in one metric, over numbers of steps, and in memory."""
    blocks, whole = (arm["quality"] for arm in report["sides"][:2])
    name = shown_metric(blocks)
    verdict = {"metric": None, "steps": _best_steps(report["sides"]), "memory": _planned_memory(report)}
    if name not in whole:
        return verdict
    first, second = blocks[name], whole[name]
    return verdict | {
        "metric": name,
        "blocks": first,
        "whole": second,
        "samples_apart": abs(first["mean"] - second["mean"]) * report["data"]["num_test_samples"],
        # Seed by seed, because both arms of a seed saw the same data.
        "difference": [one - other for one, other in zip(first["values"], second["values"], strict=False)],
        "overlap": first["min"] <= second["max"] and second["min"] <= first["max"],
    }


def _best_steps(arms: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The best number of sampler steps of each arm; None unless both were measured."""
    rows = [arm["quality_by_steps"] for arm in arms if arm["quality_by_steps"]]
    if len(rows) < 2:
        return None
    name = shown_metric(rows[0][0]["metrics"])
    choose = min if name.startswith(LOWER) else max
    best = [choose(points, key=lambda point: point["metrics"][name]["mean"]) for points in rows]
    return {
        "metric": name,
        "means": [point["metrics"][name]["mean"] for point in best],
        "steps": [point["steps"] for point in best],
    }


def _planned_memory(report: Report) -> dict[str, Any] | None:
    """Planned bytes of a block and of the whole network, and the same with checkpointing if that was planned."""
    if not report["memory_plan"]:
        return None
    peaks = {row["name"]: row["peak_bytes"] for row in report["memory_plan"]["rows"]}
    block = next(name for name in peaks if name.endswith(("block", "blocks")))
    saving = f"{block}, checkpointing"
    checkpointing = {"block": peaks[saving], "whole": peaks["end to end, checkpointing"]} if saving in peaks else None
    return {"block": peaks[block], "whole": peaks["end to end"], "checkpointing": checkpointing}
