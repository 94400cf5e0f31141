"""A trained network fine-tuned to other data: whole or in blocks, in full or by low-rank adapters (LoRA).

python -m benchmarks.finetuning runs/digits_dit/baseline --num_blocks 3 --steps 250 --seeds 0,1,2 --name mnist \
    --data=dbl.HubImages --data.path=ylecun/mnist --data.image_size=8 --data.channels=1 --data.num_classes=10

The source is a run of one block; other data need its sizes and number of classes. Text needs one tokenizer, such as
`--data.tokenizer=dbl.Bytes` for source and other data. All arms take equally many layer-steps: a step of the whole
network passes through all layers, those of the B blocks through L/B each. Options that follow are those of `dbl train`;
`--lora_lr` is the learning rate of both arms with adapters. A call leaves finished runs alone and goes on with those
that were broken off. It prints JSON: for each run its command, quality, seconds, losses of the last validation, and
planned and measured bytes of a training step.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.conversion import trained

ARMS = ("whole_full", "whole_lora", "blocks_full", "blocks_lora")


class Trial(NamedTuple):
    """One run."""

    arm: str
    steps: int
    seed: int

    @property
    def in_blocks(self) -> bool:
        """Whether the network is cut."""
        return self.arm.startswith("blocks")

    @property
    def adapts(self) -> bool:
        """Whether adapters alone are trained."""
        return self.arm.endswith("lora")


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="run folder of one block")
    parser.add_argument("--num_blocks", type=int, required=True)
    parser.add_argument("--steps", type=_numbers, required=True)
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2])
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lora_lr", type=float, help="learning rate of the arms with adapters")
    parser.add_argument("--root", type=Path, default=Path("runs/finetuning"))
    parser.add_argument("--name", required=True, help="first part of the names of the runs")
    options, extra = parser.parse_known_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"there is no arm {min(unknown)}: choose of {', '.join(ARMS)}")
    trials = (Trial(arm, steps, seed) for seed, steps, arm in product(options.seeds, options.steps, options.arms))
    print(json.dumps([result(options, trial, extra) for trial in trials], indent=2))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def result(options: argparse.Namespace, trial: Trial, extra: list[str]) -> dict[str, Any]:
    """Train a run if it has no report yet, and return its figures."""
    run = options.root / f"{options.name}_{trial.arm}_{trial.steps}_seed_{trial.seed}"
    num_blocks = options.num_blocks if trial.in_blocks else 1
    found = trained(options.source, run, [f"--num_blocks={num_blocks}"], training(options, run, trial, extra))
    return {**trial._asdict(), **found, **memory(run, options.num_blocks, trial)}


def training(options: argparse.Namespace, run: Path, trial: Trial, extra: list[str]) -> list[str]:
    """Arguments of `dbl train`; validation follows the last step."""
    lengths = [f"--trainer.max_steps={trial.steps}", f"--trainer.val_check_interval={trial.steps}"]
    chosen = ["train", "--config", str(run / "config.yaml"), *lengths, f"--contract.seed={trial.seed}", *extra]
    if trial.adapts:
        chosen += [f"--model.recipe.lora.rank={options.rank}", f"--model.recipe.lora.alpha={options.rank}"]
        chosen += [] if options.lora_lr is None else [f"--model.recipe.optimizer.lr={options.lora_lr}"]
    return chosen


def memory(run: Path, num_blocks: int, trial: Trial) -> dict[str, int]:
    """Planned and measured bytes at the peak of a training step."""
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    planned = {row["name"]: row["peak_bytes"] for row in report["memory_plan"]["rows"]}
    name = (f"{num_blocks} blocks" if trial.in_blocks else "end to end") + ", LoRA" * trial.adapts
    return {"planned_bytes": planned[name], "measured_bytes": report["sides"][0]["memory"]["peak_bytes"]}


if __name__ == "__main__":
    main()
