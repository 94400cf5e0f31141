"""How much depth is worth at equal compute: a causal language model whole, shallow, and in windows of layers.

python -m benchmarks.depth --config configs/shakespeare_ar.yaml --steps 500,2000 --seeds 0,1,2

A budget is given by the steps of the whole network of L layers, hence L x steps layer-steps. With them are trained

- `whole`: all layers at once;
- `shallow_W`: a network of W layers for L / W times the steps;
- `windows_W_by_S`: layers k to k + W - 1 on the frozen outputs of the layers below, for k = 0, S, 2 S, ... in turn
  (after Interlocking Backpropagation, Gomez et al., JMLR 2022). The embedding is trained with the first window alone,
  the head with each. Passes through frozen layers are not counted: their outputs could be kept.

Each row has the mean nats of a token on both splits, of the averaged weights. A call leaves alone what its output has.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.denoising.readout import mean_over_scored
from dbl.denoising.vocabulary import linear_label_nats
from dbl.networks.llama import rotary_angles
from dbl.training.baselines.causal_lm import CausalModel, EndToEndCausalLM
from dbl.utils.files import read_json, write_json


class Window(NamedTuple):
    """Layers that are trained together, those below being frozen and those above absent."""

    first: int
    end: int


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
        for name, budget in ((f"{arm} {steps} {seed}", steps) for steps in options.steps for arm in options.arms):
            if name not in rows:
                rows[name] = trained(config, name.split()[0], budget)
                write_json(options.output, rows)
    print(json.dumps(rows, indent=2))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def windows_of(arm: str, num_layers: int) -> list[Window]:
    """The windows of an arm, in turn."""
    kind, *sizes = arm.replace("_by", "").split("_")
    width = int(sizes[0]) if sizes else num_layers
    if kind != "windows":
        return [Window(0, width)]
    shift = int(sizes[1])
    return [Window(first, first + width) for first in range(0, num_layers - width + 1, shift)]


def trained(config: RunConfig, arm: str, steps: int) -> dict[str, float]:
    """Nats of an arm on validation and test, after each window has had its share of the compute."""
    num_layers = config.contract_config.network.num_layers
    windows = windows_of(arm, num_layers)
    part = EndToEndCausalLM(config.contract, config.recipe)
    model, batches = part.network, _training_batches(config)
    model.body.layers = model.body.layers[: windows[-1].end]
    average = model
    for window in windows:
        each = round(steps * num_layers / (len(windows) * (window.end - window.first)))
        average = train_window(part, window, each, batches, config.values.ema.decay)
        model.load_state_dict(average.state_dict())
    loaders = {"validation": config.data.val_dataloader(), "test": config.data.test_dataloader()}
    return {split: _mean_nats(part, average, loader, windows[-1]) for split, loader in loaders.items()}


def train_window(
    part: EndToEndCausalLM, window: Window, steps: int, batches: Iterator[Any], decay: float
) -> CausalModel:
    """Train the layers of a window and the head; returns the average of the weights."""
    model, recipe = part.network, part.recipe
    parts = [*model.body.layers[window.first : window.end], model.body.head, model.head]
    parameters = [weight for one in parts + [model.body.embedding] * (window.first == 0) for weight in one.parameters()]
    optimizer = recipe.make_optimizer(parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.learning_rate_factor(step, steps))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for _ in range(steps):
        optimizer.zero_grad()
        nats(part, model, next(batches), window).mean().backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
    return cast(CausalModel, average.module)


def nats(part: EndToEndCausalLM, model: CausalModel, batch: Any, window: Window) -> Tensor:
    """Cross-entropy [N] of each sequence through the layers up to the end of a window."""
    clean = part.space.encode(batch)
    body, tokens = model.body, clean.cond
    angles = rotary_angles(0, tokens.shape[1], body.head_dim, tokens.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and window.first == 0):
        x = body.embedding(tokens)
    for number, layer in enumerate(body.layers[: window.end]):
        with torch.set_grad_enabled(torch.is_grad_enabled() and number >= window.first):
            x, _ = layer(x, angles)
    return mean_over_scored(linear_label_nats(model.head, body.head(x), clean.labels), clean.labels)


def _training_batches(config: RunConfig) -> Iterator[Any]:
    while True:
        yield from config.data.train_dataloader()


@torch.no_grad()
def _mean_nats(part: EndToEndCausalLM, model: CausalModel, loader: Iterable[Any], window: Window) -> float:
    """Mean nats of a token of a split whose sequences are of equal length."""
    return float(torch.cat([nats(part, model, batch, window) for batch in loader]).mean())


if __name__ == "__main__":
    main()
