"""The benchmarks: the shape of the official ViT, the plain loop, and the table of figures with their goals."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import benchmarks.__main__ as table
from benchmarks import blocks, official_vit
from benchmarks.lightning_path import _TINY, plain_step, reads_in_a_step, step_seconds
from benchmarks.official_vit import BATCH, OfficialViT, our_step
from benchmarks.timing import config_of, median_seconds
from dbl.training.block import DiffusionBlock


def test_the_official_shape_has_the_size_of_the_paper() -> None:
    """Catches a layer or a width that the official network has not: its classifier has 10.3 million parameters."""
    parameters = OfficialViT(12).named_parameters()
    for_noise = ("modulation.", "time.", "labels.")
    plain = sum(value.numel() for name, value in parameters if not any(part in name for part in for_noise))
    assert plain == pytest.approx(10.3e6, rel=0.01)


def test_every_weight_of_the_official_shape_is_trained() -> None:
    """Catches a part that a step leaves out, which would make it too fast."""
    network = OfficialViT(2)
    labels, sigma = torch.arange(4), torch.full((4,), 0.7)
    network.loss(torch.randn(4, 3, 32, 32), labels, sigma, torch.randn(4, 128)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_both_steps_are_of_equal_sizes() -> None:
    """Catches a comparison with a network of other sizes: ours differs in the modulation and the head alone."""
    part = our_step(3).part
    assert isinstance(part, DiffusionBlock)
    network: Any = part.denoiser.network
    ours, theirs = network.layers[0], OfficialViT(1).layers[0]
    assert [linear.weight.shape for linear in (ours.mlp[0], ours.mlp[2], ours.attention.out)] == [
        linear.weight.shape for linear in (theirs.up, theirs.down, theirs.out)
    ]
    assert len(network.layers) == 4
    assert network.tokens.positions.weight.shape == OfficialViT(1).positions.shape[1:]
    assert our_step(3).batch.sigma.shape == (BATCH,)


@pytest.mark.parametrize("group", [official_vit, blocks])
def test_figures_have_the_names_of_their_goals(group: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a goal that no figure meets because it was renamed, and an arm that cannot be built."""
    monkeypatch.setattr(group, "median_seconds", lambda calls, repeats, **_: dict.fromkeys(calls, 2.0))
    goals = table.GROUPS[group.__name__.rpartition(".")[2]]
    assert goals.keys() <= group.figures().keys()


def test_the_plain_loop_trains() -> None:
    """Catches a loop that leaves out the optimizer, or draws the same batch for ever."""
    config = config_of("digits_dit", *_TINY)
    block = DiffusionBlock(config.contract_config.build(config.data.spec), 1, config.recipe)
    before = [parameter.detach().clone() for parameter in block.parameters()]
    step = plain_step(block, config.data)
    for _ in range(30):  # more than an epoch
        step()
    changed = [not torch.equal(old, new) for old, new in zip(before, block.parameters(), strict=True)]
    assert all(changed)


def test_the_training_is_timed_beside_the_plain_loop() -> None:
    """Catches a callback that is not called, or counts its own step for the training's."""
    seconds = step_seconds(16, *_TINY)
    assert 0 < seconds["plain"] < 5
    assert 0 < seconds["lightning"] < 5


def test_no_step_that_does_not_log_reads_a_number() -> None:
    """Catches a count that is not written, and a training whose host waits."""
    assert reads_in_a_step() == 0


def test_calls_are_timed_in_turn() -> None:
    """Catches one arm after the other, so that a slower machine meets only one of them."""
    order: list[str] = []
    seconds = median_seconds({name: lambda name=name: order.append(name) for name in "ab"}, repeats=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert seconds.keys() == {"a", "b"}


def test_a_figure_is_held_against_its_goal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a goal on the wrong side, nested figures that are lost, and a failed group that passes for a success."""
    goals = {
        "small": table.Goal("at most", 1.5),
        "arms, large": table.Goal("at least", 2),
        "lost": table.Goal("at most", 1),
    }
    monkeypatch.setattr(table, "GROUPS", {"group": goals})
    nested = dict(table.numbers_in({"small": 1.5, "arms": {"large": 1.9, "name": "x"}, "free": 3}))
    monkeypatch.setattr(table, "measured", lambda group: nested)
    assert table.main(["--output", str(tmp_path / "bench.json")]) == 1  # one is lost
    rows = {row["figure"]: row for row in json.loads((tmp_path / "bench.json").read_text())["figures"]}
    assert {name: (row["value"], row["reached"]) for name, row in rows.items()} == {
        "small": (1.5, True),
        "arms, large": (1.9, False),
        "free": (3, None),
        "lost": (None, False),
    }
    assert {row["command"] for row in rows.values()} == {"python -m benchmarks.group"}


def test_a_group_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table without figures for a misspelt name."""
    with pytest.raises(SystemExit):
        table.main(["block"])
    assert "there is no group block" in capsys.readouterr().err
