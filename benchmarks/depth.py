"""How much depth is worth at equal compute: a causal language model whole, shallow, and in windows of layers.

python -m benchmarks.depth --config configs/shakespeare_ar.yaml --steps 500,1000 --seeds 0,1,2

A budget is given by the steps of the whole network of L layers, hence L x steps layer-steps. With them are trained

- `whole`: all layers at once;
- `shallow_W`: a network of W layers for L / W times the steps;
- `windows_W_by_S`: all layers in windows of W, which move by S; see `dbl.training.baselines.windows`.

Each row has the mean nats of a token on both splits, of the averaged weights. A call leaves alone what its output has.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.diffusion.partition import PartitionConfig
from dbl.training.baselines.causal_lm import EndToEndCausalLM
from dbl.training.baselines.windows import WindowedCausalLM
from dbl.training.callbacks.ema import EMA
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json


def main() -> None:
    """Train what the output lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a CausalLM")
    parser.add_argument("--steps", type=_numbers, default=[500], help="of the whole network, of each budget")
    parser.add_argument("--seeds", type=_numbers, default=[0])
    parser.add_argument("--arms", type=lambda text: text.split(","), default=["whole", "shallow_2", "windows_2_by_1"])
    parser.add_argument("--output", type=Path, default=Path("runs/depth.json"))
    options = parser.parse_args()
    rows: dict[str, Any] = read_json(options.output) if options.output.is_file() else {}
    for seed in options.seeds:
        config = RunConfig(parse(config_parser(), ["--config", str(options.config), f"--contract.seed={seed}"]))
        for arm, steps in ((arm, steps) for steps in options.steps for arm in options.arms):
            name = f"{arm} {steps} {seed}"
            if name not in rows:
                rows[name] = trained(config, part_of(config, arm), steps)
                write_json(options.output, rows)
    print(json.dumps(rows, indent=2))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def part_of(config: RunConfig, arm: str) -> EndToEndCausalLM:
    """The network of an arm, with its training. Raises UserError if there is no such arm, or the network is none."""
    kind, *sizes = arm.replace("_by", "").split("_")
    if (kind, len(sizes)) not in [("whole", 0), ("shallow", 1), ("windows", 2)] or not all(map(str.isdigit, sizes)):
        raise UserError(f"--arms: there is no {arm!r}, but whole, shallow_W and windows_W_by_S")
    network = config.contract_config.network
    if kind == "shallow":
        network = network.with_layers(int(sizes[0]))
    whole = replace(config.contract_config, network=network, partition=PartitionConfig(num_blocks=1))
    contract = whole.build(config.data.spec)
    if kind == "windows":
        return WindowedCausalLM(contract, config.recipe, width=int(sizes[0]), shift=int(sizes[1]))
    return EndToEndCausalLM(contract, config.recipe)


def trained(config: RunConfig, part: EndToEndCausalLM, steps: int) -> dict[str, float]:
    """Mean nats of a token of both splits, after as many layer-steps as `steps` of the whole network of the config."""
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    options = {"accelerator": config.values.trainer.accelerator, "devices": 1, **quiet}
    max_steps = round(steps * config.contract_config.network.baseline_passes() / part.layer_passes)
    average = EMA(config.values.ema.decay)
    training = L.Trainer(max_steps=max_steps, max_epochs=-1, limit_val_batches=0, callbacks=[average], **options)
    training.fit(part, datamodule=config.data)
    (validation,) = L.Trainer(**options).validate(part, datamodule=config.data, verbose=False)
    (test,) = L.Trainer(**options).test(part, datamodule=config.data, verbose=False)
    return {"validation": validation["val/loss"], "test": test["test/loss"]}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
