"""The report of a run: `report.json` with stable keys and `report.md` for people.

Keys of `report.json`:

- `run`, `contract` (hash), `network`, `target`, `noise`, `partition` (as chosen), `data` (name, classes, shape);
- `sides`: list of `blocks` and, if it was trained, `end_to_end`, each with
    - `name`;
    - `parts`: list of `part`, `layers`, `sigma_high`, `sigma_low` (null end to end), `steps`, `seconds`, `parameters`;
    - `calls`: network calls of each part in one sample;
    - `parameters_at_once`: trainable parameters in memory at any time of the training;
    - `seconds`: wall time of all parts, one after another;
    - `test`: metrics on the test split;
- `sampler`: settings used;
- `samples`: file name of the sample grid, or null.
"""

from dataclasses import dataclass
from statistics import mean
from typing import Any

from dbl.contract import Contract
from dbl.files import write_json, write_text
from dbl.run_folder import RunFolder
from dbl.sampling import Sampler
from dbl.serial import to_plain


@dataclass
class Side:
    """One way to train the network, and what came of it; keys as in `report.json`."""

    name: str
    parts: list[dict[str, Any]]
    calls: list[int]
    test: dict[str, float]

    def to_plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "parts": self.parts,
            "calls": self.calls,
            "parameters_at_once": max(part["parameters"] for part in self.parts),
            "seconds": round(sum(part["seconds"] for part in self.parts), 1),
            "test": self.test | self._mean_accuracy(),
        }

    def _mean_accuracy(self) -> dict[str, float]:
        draws = [value for key, value in self.test.items() if key.startswith("test/accuracy_draw_")]
        return {"test/accuracy": mean(draws)} if draws else {}


def write_report(run: RunFolder, contract: Contract, sampler: Sampler, sides: list[Side]) -> dict[str, Any]:
    """Write both files into the report folder and return what `report.json` holds."""
    report = {
        "run": run.name,
        "contract": contract.hash,
        "network": to_plain(contract.terms.network),
        "target": to_plain(contract.terms.target),
        "noise": to_plain(contract.terms.noise),
        "partition": to_plain(contract.terms.partition),
        "data": {
            "name": contract.data.name,
            "num_classes": contract.data.num_classes,
            "shape": list(contract.data.shape),
        },
        "sides": [side.to_plain() for side in sides],
        "sampler": to_plain(sampler)["init_args"],
        "samples": "samples.png" if (run.report / "samples.png").is_file() else None,
    }
    write_json(run.report / "report.json", report)
    write_text(run.report / "report.md", "\n".join(_markdown(report)) + "\n")
    return report


def _markdown(report: dict[str, Any]) -> list[str]:
    num_layers, data = report["network"]["init_args"]["num_layers"], report["data"]["name"]
    lines = [f"# {report['run']}", "", f"{_name(report['network'])} with {num_layers} layers on {data}."]
    lines += [_choices(report), ""]
    lines += ["## Quality and cost", "", *_comparison(report["sides"]), ""]
    for side in report["sides"]:
        lines += [f"## {_TITLES[side['name']]}, part by part", "", *_parts(side), ""]
    sampler = report["sampler"]
    lines += [
        "## Sampler",
        "",
        f"{sampler['method']} with {sampler['num_steps']} steps on the {sampler['schedule']} schedule, guidance "
        f"{sampler['guidance_scale']:g}, temperature {sampler['temperature']:g}. Network calls of each part in one "
        "sample stand in the tables above.",
        "",
    ]
    if report["samples"]:
        lines += ["## Samples", "", "One class a column.", "", f"![samples]({report['samples']})", ""]
        if len(report["sides"]) > 1:
            lines += ["The end-to-end network's:", "", "![samples](../baseline/report/samples.png)", ""]
    explanation = _EXPLANATION if len(report["sides"]) == 1 else [*_EXPLANATION, *_EQUAL_COMPUTE]
    return [*lines, "## How to read this", "", *explanation]


def _choices(report: dict[str, Any]) -> str:
    """One sentence on target, readout, noise law and partition."""
    target, noise, cut = (report[key] for key in ("target", "noise", "partition"))
    kind = target["init_args"].get("kind")
    readout = f"{kind} readout" if kind else "squared error"
    return (
        f"Target {_name(target)} with {readout}; noise law {_name(noise)}; {cut['init_args']['num_blocks']} blocks by "
        f"{cut['init_args']['scheme']}, overlap {cut['init_args']['overlap']:g}."
    )


def _name(spec: dict[str, Any]) -> str:
    return str(spec["class_path"].rpartition(".")[2])


_TITLES = {"blocks": "Blocks", "end_to_end": "End to end"}

_EXPLANATION = [
    "- *Parameters at once*: trainable parameters that are in memory at any time of the training. Gradients and",
    "  optimizer state grow with them, activations with the layers of one part.",
    "- *Wall time*: training of all parts one after another on this machine, validation included.",
    "- *test/loss*: weighted denoising loss on the test split at fixed noise levels that cover the whole range by the",
    "  noise distribution, each level with the block that owns it; comparable between sides, lower is better.",
    "- *test/accuracy*: share of test images whose label is right; mean over start noises for the blocks (single draws",
    "  in report.json).",
]
_EQUAL_COMPUTE = [
    "- Both sides were given the same batch size, optimizer and number of steps; a step of all blocks together passes",
    "  through as many layers as a step of the end-to-end network.",
]


def _comparison(sides: list[dict[str, Any]]) -> list[str]:
    names = sorted(
        {key for side in sides for key in side["test"] if "draw" not in key and "block" not in key}, reverse=True
    )
    rows = [
        ["", *(_TITLES[side["name"]].lower() for side in sides)],
        ["---"] * (len(sides) + 1),
        *([name, *(_number(side["test"].get(name)) for side in sides)] for name in names),
        ["parameters at once", *(f"{side['parameters_at_once']:,}" for side in sides)],
        ["wall time, s", *(f"{side['seconds']:.0f}" for side in sides)],
        ["network calls a sample x layers", *(_layer_calls(side) for side in sides)],
    ]
    return [_row(row) for row in rows]


def _layer_calls(side: dict[str, Any]) -> str:
    pairs = zip(side["calls"], side["parts"], strict=True)
    return str(sum(calls * part["layers"] for calls, part in pairs))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _parts(side: dict[str, Any]) -> list[str]:
    columns = ["part", "noise levels", "layers", "steps", "seconds", "parameters", "calls a sample", "test/loss"]
    rows = [columns, ["---"] * len(columns)]
    for index, (part, calls) in enumerate(zip(side["parts"], side["calls"], strict=True)):
        levels = "" if part["sigma_high"] is None else f"{part['sigma_high']:.3g} to {part['sigma_low']:.3g}"
        loss = side["test"].get(f"test/loss_block_{index}")
        numbers = [part["layers"], part["steps"], f"{part['seconds']:.0f}", f"{part['parameters']:,}", calls]
        rows.append([part["part"], levels, *map(str, numbers), _number(loss)])
    return [_row(row) for row in rows]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
