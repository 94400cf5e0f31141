"""Optimizers with a small state: planned state against allocated state, resuming, and what they refuse."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import LBFGS, AdamW, Optimizer
from toy import Stripes, checkpoint, fit

from dbl.denoising.targets import ClassTarget, PixelTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import DiT, ViT
from dbl.run.contract import Contract, ContractConfig
from dbl.training.block import DiffusionBlock
from dbl.training.config import TrainingConfig
from dbl.training.memory.planner import Planner, plan_rows
from dbl.training.memory.synthetic_step import SyntheticStep
from dbl.training.recipes import RECIPES
from dbl.training.weight_decay import by_decay
from dbl.utils.errors import UserError

from .hidden_layers import HiddenLayers

WITH_OPTIMIZER = [name for name, recipe in RECIPES.items() if recipe.optimizer]
# Wide enough that most parameters have the 4,096 numbers from which on torchao quantizes.
NETWORK = DiT(num_layers=3, width=64, num_heads=2, patch_size=2, cond_dropout=0.3)


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    """Steps of torchao without `torch.compile`, which takes half a minute and changes no size."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture
def contract(stripes: Stripes) -> Contract:
    return ContractConfig(NETWORK, PixelTarget(), partition=PartitionConfig(num_blocks=1)).build(stripes.spec)


def _require(name: str) -> None:
    missing = RECIPES[name].missing()
    if missing:
        pytest.skip(missing)


def _recipe(name: str, **more: Any) -> TrainingConfig:
    _require(name)
    recipe = RECIPES[name].apply(TrainingConfig(optimizer=partial(AdamW, lr=1e-2, weight_decay=0.1)))
    return replace(recipe, optimizer=partial(recipe.optimizer, **more))


def _allocated() -> int:
    """Bytes of all tensors in this process, a storage once."""
    gc.collect()
    found = [
        one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter) and one.layout is torch.strided
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    return sum(storages.values())


def _state_of_one_step(part: DiffusionBlock) -> int:
    """Bytes that stay after a first step of the optimizer, beyond what was there before it was made."""
    before = _allocated()
    optimizer = part.recipe.make_optimizer(part)
    for parameter in part.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return _allocated() - before


@pytest.mark.parametrize("name", WITH_OPTIMIZER)
def test_planned_state_is_what_the_optimizer_allocates(name: str, contract: Contract) -> None:
    """Catches state that the plan does not see, such as codes of a quantized tensor, or counts as full numbers."""
    recipe = _recipe(name)
    planner = Planner(contract.config, contract.data, recipe)
    planned = planner.peak(planner.end_to_end(recipe), 8)["optimizer"]
    allocated = _state_of_one_step(DiffusionBlock(contract, 0, recipe))
    assert planned == pytest.approx(allocated, rel=0.02)
    whole = Planner(contract.config, contract.data, TrainingConfig())
    assert allocated < 0.75 * whole.peak(whole.end_to_end(whole.recipe), 8)["optimizer"]


@pytest.mark.parametrize("name", WITH_OPTIMIZER)
def test_a_step_measures_what_was_planned(name: str, contract: Contract) -> None:
    """Catches a plan of another step than the one that is taken, such as one whose frozen weights have gradients."""
    recipe = _recipe(name)
    planner = Planner(contract.config, contract.data, recipe)
    make = planner.end_to_end(recipe)
    assert SyntheticStep(make(), contract.data, 8).peak() == planner.peak(make, 8)


class _Stop(L.Callback):
    """Ends a training before its last step, as an interruption would."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.fit_loop.epoch_loop.max_steps = 4


@pytest.mark.parametrize("name", WITH_OPTIMIZER)
def test_a_resumed_training_equals_one_that_never_stopped(name: str, contract: Contract, tmp_path: Path) -> None:
    """Catches state that a checkpoint lacks: a projection, the active block, codes of quantized moments."""
    recipe = _recipe(name, **({"switch_every": 3} if name == "badam" else {}))
    fit(DiffusionBlock(contract, 0, recipe), tmp_path / "whole")
    fit(DiffusionBlock(contract, 0, recipe), tmp_path / "parts", callbacks=[_Stop()])
    assert checkpoint(tmp_path / "parts", "block_0")["global_step"] == 4
    fit(DiffusionBlock(contract, 0, recipe), tmp_path / "parts", resume=True)
    states = [checkpoint(tmp_path / folder, "block_0")["state_dict"] for folder in ("whole", "parts")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])  # type: ignore[index, attr-defined]
    start = DiffusionBlock(contract, 0, recipe).state_dict()
    assert any(not torch.equal(start[key], states[0][key]) for key in start)  # type: ignore[index]


def test_badam_trains_every_layer_one_at_a_time(contract: Contract, tmp_path: Path) -> None:
    """Catches a block that never becomes active, and one that is trained while it should rest."""
    recipe, start = _recipe("badam", switch_every=2), DiffusionBlock(contract).state_dict()
    before = {key: value.clone() for key, value in start.items()}
    moved: list[set[str]] = []
    for steps in (1, 3, 7):  # the package leaves the first block a step early
        part = DiffusionBlock(contract, 0, recipe)
        part.recipe.decay = "constant"
        fit(part, tmp_path / str(steps), steps=steps)
        after = part.state_dict()
        changed = [key for key in before if not torch.equal(before[key], after[key])]
        moved.append({key.split("layers.")[1][0] if "layers." in key else "-" for key in changed})
    assert moved == [{"-"}, {"-", "0"}, {"-", "0", "1", "2"}]


@pytest.mark.parametrize("name", ["muon", "badam", "apollo_mini"])
def test_only_matrices_decay(name: str, contract: Contract) -> None:
    """Catches norms and biases that decay in an optimizer with groups of its own."""
    part = DiffusionBlock(contract, 0, _recipe(name, lr=0.1))
    optimizer = part.recipe.make_optimizer(part)
    before = {key: value.clone() for key, value in part.named_parameters()}
    for parameter in part.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {key for key, value in part.named_parameters() if not torch.equal(value, before[key])}
    matrices = {id(parameter) for parameter in by_decay(part)[0] if parameter.requires_grad and parameter.any()}
    assert shrunk == {key for key, value in part.named_parameters() if id(value) in matrices}
    assert shrunk


@pytest.mark.parametrize("name", ["muon", "badam"])
def test_a_network_without_layers_is_refused(name: str) -> None:
    """Catches a network whose parameters are all in one group, without a word."""
    with pytest.raises(UserError, match="residual layers"):
        _recipe(name).make_optimizer(nn.Linear(3, 3))


def test_the_class_of_an_optimizer_is_found_behind_a_config() -> None:
    """Catches a kind of step that is refused from Python and taken from a config, which hides the class in a call."""

    def call(kind: type[Optimizer], *groups: Any, **options: Any) -> Optimizer:
        return kind(*groups, **options)

    with pytest.raises(UserError, match="LBFGS needs many backward passes"):
        TrainingConfig(optimizer=partial(call, LBFGS)).make_optimizer(nn.Linear(1, 1))


def test_lora_and_offloading_keep_less_on_the_device(stripes: Stripes) -> None:
    """Catches adapters that nobody trains, frozen weights with gradients, and activations that stay on the device."""
    _require("lora")
    config = ContractConfig(ViT(9, 64, 2, 2, mlp_width=128), ClassTarget(dim=8), InformationNoise())
    planner = Planner(config, stripes.spec, TrainingConfig())
    rows = plan_rows(planner, [3], 64, rivals=["lora", "offload_activations", "offload_optimizer"])
    by_name = {row["name"]: row for row in rows}
    for place in ("end to end", "3 blocks"):
        plain, lora, activations, optimizer = (
            by_name[name]["bytes"] for name in (place, *(f"{place}, {rival}" for rival in _PLANNED))
        )
        assert plain["parameters"] < lora["parameters"] < 2 * plain["parameters"]
        # The two moments of what was added.
        assert lora["optimizer"] == pytest.approx(2 * (lora["parameters"] - plain["parameters"]), rel=0.02)
        assert activations["activations"] < 0.6 * plain["activations"]  # what a layer makes in the forward pass
        assert by_name[f"{place}, offload_activations"]["host_bytes"] > plain["activations"] / 2
        assert optimizer["optimizer"] < 0.2 * plain["optimizer"]
        assert by_name[f"{place}, offload_optimizer"]["host_bytes"] > plain["optimizer"]
    assert "host_bytes" not in by_name["end to end, lora"]


@pytest.mark.parametrize("name", ["muon", "checkpointing", "badam", "lora", "adafactor"])
def test_a_rival_that_cannot_serve_the_network_says_so(name: str, stripes: Stripes) -> None:
    """Catches a rival that fails only when it is trained, and one that is refused although it could be."""
    _require(name)
    planner = Planner(ContractConfig(HiddenLayers(), PixelTarget()), stripes.spec, TrainingConfig())
    refusal = planner.refusal(name)
    assert refusal is None if name == "adafactor" else "layers" in (refusal or "")


_PLANNED = ("lora", "offload_activations", "offload_optimizer")
