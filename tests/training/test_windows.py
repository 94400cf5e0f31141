"""Whole networks trained in windows of their layers: what each window trains, and what it costs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import Kill, assert_equal_states, checkpoint, fit, recipe
from toy_text import ChainText, fit_text, text_contract

from dbl.denoising.targets import TokenTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import CausalLM
from dbl.run.contract import Contract, ContractConfig
from dbl.training.baselines import EndToEndCausalLM, EndToEndClassifier
from dbl.training.baselines.windows import (
    InWindows,
    Window,
    WindowedCausalLM,
    WindowedClassifier,
    WindowedDenoiser,
    Windows,
)
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.ema import EMA
from dbl.training.callbacks.memory import Memory
from dbl.training.module import TrainingModule
from dbl.utils.errors import UserError
from dbl.utils.files import read_json

KINDS = ["text", "images", "masked"]
# Names of what is before the first layer, and of what is behind the last.
PARTS = {
    "text": ({"embedding"}, {"head"}),
    "images": ({"class_token", "tokens"}, {"norm", "head"}),
    "masked": ({"embedding", "noise_embedding"}, {"head"}),
}
HEADS = {"text": "network.head.weight", "images": "network.head.weight", "masked": "head.project.weight"}
STEPS = 8  # the second of two windows begins after 4


class Watch(L.Callback):
    """Copy live and averaged weights before and after each step."""

    def __init__(self) -> None:
        self.before: list[dict[str, torch.Tensor]] = []
        self.averages: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.before.append({name: value.clone() for name, value in pl_module.named_parameters()})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        (average,) = [callback.average for callback in trainer.callbacks if isinstance(callback, EMA)]  # type: ignore[attr-defined]
        assert average is not None
        self.averages.append({name: value.clone() for name, value in average.module.named_parameters()})


def make(kind: str, vit: Contract, **options: Any) -> InWindows:
    """A part of 3 layers in 2 windows of 2 layers."""
    chosen: dict[str, Any] = {"recipe": recipe(warmup_steps=1), "width": 2, "shift": 1, **options}
    if kind == "images":
        return WindowedClassifier(vit, **chosen)
    if kind == "masked":
        return WindowedDenoiser(uncut(), **chosen)
    return WindowedCausalLM(text_contract("clean"), **chosen)


def uncut() -> Contract:
    """The contract of masked text as one block."""
    config = replace(text_contract("masked").config, partition=PartitionConfig(1, overlap=0.0))
    return config.build(ChainText().spec)


def train(part: TrainingModule, folder: Path, resume: bool = False, *callbacks: L.Callback, steps: int = STEPS) -> None:
    if isinstance(part, EndToEndCausalLM | DiffusionBlock):
        fit_text(part, folder, steps, resume, *callbacks)
    else:
        fit(part, folder, steps, resume, callbacks=[*callbacks])


def changed(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """Names of the parts whose weights differ: layers by number, all else by name."""
    names = [name for name in first if not torch.equal(first[name], second[name])]
    parts = [name.removeprefix("denoiser.").removeprefix("network.").removeprefix("body.").split(".") for name in names]
    return {part[1] if part[0] == "layers" else part[0] for part in parts}


def test_windows_cover_the_network() -> None:
    """Catches a layer that no window trains, and a window beyond the network."""
    assert Windows(8, 4, 2).all == [Window(0, 4), Window(2, 6), Window(4, 8)]
    assert Windows(8, 3, 3).all == [Window(0, 3), Window(3, 6), Window(5, 8)]
    assert Windows(3, 3, 1).all == [Window(0, 3)]
    windows = Windows(8, 2, 1)
    assert sum(windows.steps(number, 100) for number in range(7)) == 100
    assert [windows.number_at(step, 7) for step in range(7)] == [*range(7)]


@pytest.mark.parametrize(
    ("layers", "expected"), [((2, 2, 2), (2, 1)), ((6,), (6, 3)), ((3, 3), (3, 1)), ((1,) * 6, (1, 1))]
)
def test_a_window_is_a_block_by_default(layers: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Catches a rival of another memory than the blocks."""
    network = CausalLM(6, width=8, num_heads=2, mlp_width=8, streams="clean")
    noise, partition = InformationNoise(0.1, 10.0, num_draws=64), PartitionConfig(len(layers))
    config = ContractConfig(network, TokenTarget(dim=4), noise, partition)
    part = WindowedCausalLM(config.build(ChainText().spec))
    assert (part.windows.width, part.windows.shift) == expected
    assert part.layer_passes == expected[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_changes_its_own_layers_alone(kind: str, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches gradients that reach frozen layers or what is before them, and layers above that are trained."""
    watch, part = Watch(), make(kind, vit_contract)
    train(part, tmp_path, False, watch)
    before, after = PARTS[kind]
    assert changed(watch.before[0], watch.before[3]) == {"0", "1", *before, *after}
    assert changed(watch.averages[4], watch.averages[7]) == {"1", "2", *after}
    stored = checkpoint(tmp_path, part.part)
    averages = {name: weights for name, weights in stored["state_dict"].items() if name in watch.averages[7]}  # type: ignore[attr-defined]
    assert_equal_states(averages, watch.averages[7])


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_handed_down_and_begins_anew(kind: str, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a second window on the live weights of the first, an old average, and an optimizer with old moments."""
    watch, part = Watch(), make(kind, vit_contract)
    train(part, tmp_path, False, watch)
    (head,) = (name for name in watch.before[0] if name.endswith(HEADS[kind]))
    first_average, live = watch.averages[3], watch.before[4]  # the callback sees the weights before they are replaced
    after_one, second = watch.averages[4], watch.before[5]
    assert not torch.equal(*(weights[head] for weights in (first_average, live)))
    assert torch.equal(after_one[head], second[head])
    frozen = next(name for name in live if "layers.0" in name and name.endswith("weight"))
    assert torch.equal(first_average[frozen], watch.before[7][frozen])
    assert not torch.equal(first_average[frozen], live[frozen])
    states = checkpoint(tmp_path, part.part)["optimizer_states"][0]["state"]  # type: ignore[index]
    assert {int(state["step"]) for state in states.values()} == {4}


@pytest.mark.parametrize(("kind", "step"), [("text", 3), ("text", 4), ("text", 5), ("images", 4), ("masked", 4)])
def test_a_killed_training_resumes_bit_for_bit(kind: str, step: int, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a window that is begun twice, or not, and an optimizer of another window; 4 is the border of two."""
    part = make(kind, vit_contract)
    train(part, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(make(kind, vit_contract), tmp_path / "resumed", False, Kill(step))
    train(make(kind, vit_contract), tmp_path / "resumed", True)
    whole, resumed = (checkpoint(tmp_path / name, part.part) for name in ("whole", "resumed"))
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl"):
        assert_equal_states(whole[key], resumed[key])


@pytest.mark.parametrize("kind", KINDS)
def test_one_window_of_all_layers_is_the_end_to_end_training(kind: str, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches other start weights, data, schedule or average than those of the network it is compared with."""
    once = recipe(warmup_steps=1)
    whole: dict[str, TrainingModule] = {
        "text": EndToEndCausalLM(text_contract("clean"), once),
        "images": EndToEndClassifier(vit_contract, once),
        "masked": DiffusionBlock(uncut(), recipe=once),
    }
    part = make(kind, vit_contract, width=3)
    train(whole[kind], tmp_path / "whole")
    train(part, tmp_path / "windows")
    first, second = checkpoint(tmp_path / "whole", whole[kind].part), checkpoint(tmp_path / "windows", part.part)
    assert_equal_states(first["state_dict"], second["state_dict"])


def test_a_window_has_the_memory_of_its_layers(tmp_path: Path) -> None:
    """Catches gradients, moments or an average of frozen layers, and what they keep for a backward pass."""
    found = {}
    for width in (1, 3):
        memory = Memory(str(tmp_path / f"{width}.json"), step=3)
        part = WindowedCausalLM(text_contract("clean"), recipe(), width=width, shift=1)
        train(part, tmp_path / str(width), False, memory, steps=9)
        found[width] = read_json(tmp_path / f"{width}.json")["bytes"]
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in part.network.body.layers]
    two = layers[1] + layers[2]
    assert found[1]["parameters"] == found[3]["parameters"]
    assert found[3]["average"] - found[1]["average"] == pytest.approx(two)
    assert found[3]["optimizer"] - found[1]["optimizer"] == pytest.approx(2 * two, rel=0.01)  # and its step counters
    assert sum(found[1].values()) < 0.7 * sum(found[3].values())


def test_frozen_layers_drop_nothing(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches features of the layers below that change from step to step."""

    class Modes(L.Callback):
        seen: tuple[bool, ...] = ()

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            network: Any = pl_module.network
            self.seen = (network.tokens.drop.training, *(layer.training for layer in network.layers))

    modes = Modes()
    train(make("images", vit_contract), tmp_path, False, modes)
    assert modes.seen == (False, False, True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 4}, r"model.width \(4\) must be a whole number from 1 to 3"),
        ({"width": 2, "shift": 3}, r"model.shift \(3\) must be a whole number from 1 to 2"),
    ],
)
def test_windows_that_do_not_fit_are_refused(options: dict[str, int], message: str, vit_contract: Contract) -> None:
    """Catches a window beyond the network, and layers between two windows that none trains."""
    for kind in KINDS:
        with pytest.raises(UserError, match=message):
            make(kind, vit_contract, **options)


def test_a_finished_training_is_not_made_longer(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches an optimizer of another window, and layers that go without their share."""
    train(make("text", vit_contract), tmp_path)
    with pytest.raises(UserError, match="windows was trained for 8 steps in all, which cannot become 12"):
        train(make("text", vit_contract), tmp_path, True, steps=12)
