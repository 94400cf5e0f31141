"""The benchmark of depth: windows of layers on frozen ones."""

import copy

import pytest
import torch

from benchmarks.depth import Window, nats, train_window, trained, windows_of
from benchmarks.timing import config_of
from dbl.training.baselines.causal_lm import EndToEndCausalLM

_TINY = [
    "--contract.network.init_args.num_layers=4",
    "--contract.network.init_args.width=16",
    "--contract.network.init_args.num_heads=2",
    "--contract.network.init_args.mlp_width=16",
    "--data.init_args.seq_len=16",
    "--model.recipe.warmup_steps=0",
]


def test_arms_name_their_windows() -> None:
    """Catches a window that is left out, or reaches beyond the network."""
    assert windows_of("whole", 8) == [Window(0, 8)]
    assert windows_of("shallow_2", 8) == [Window(0, 2)]
    assert windows_of("windows_4_by_2", 8) == [Window(0, 4), Window(2, 6), Window(4, 8)]


def test_a_window_changes_its_own_layers_alone() -> None:
    """Catches gradients that reach frozen layers or the embedding, and layers above that are trained or used."""
    config = config_of("pydoc_ar", *_TINY)
    part = EndToEndCausalLM(config.contract_config.build(config.data.spec), config.recipe)
    before = copy.deepcopy(part.network)
    batch = next(iter(config.data.train_dataloader()))
    train_window(part, Window(1, 3), 2, iter([batch, batch]), decay=0.9)
    changed = {
        name.removeprefix("body.").rpartition(".")[0]
        for (name, new), old in zip(part.network.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert {name.split(".")[1] for name in changed if name.startswith("layers")} == {"1", "2"}
    assert not any(name.startswith("embedding") for name in changed)
    assert any(name.startswith("head") for name in changed)


def test_the_whole_network_is_that_of_the_baseline() -> None:
    """Catches another forward pass than the one of the end-to-end training."""
    config = config_of("pydoc_ar", *_TINY)
    part = EndToEndCausalLM(config.contract_config.build(config.data.spec), config.recipe)
    batch = next(iter(config.data.train_dataloader()))
    torch.testing.assert_close(nats(part, part.network, batch, Window(0, 4)), part.losses(batch).per_sample)


@pytest.mark.parametrize("arm", ["shallow_2", "windows_2_by_1"])
def test_training_lowers_the_nats_of_both_splits(arm: str) -> None:
    """Catches an average that is not the trained one, and splits that are the same."""
    config = config_of("pydoc_ar", *_TINY)
    short, long = trained(config, arm, 3), trained(config, arm, 30)
    assert long["validation"] < short["validation"] - 0.2
    assert long["test"] < short["test"] - 0.2
    assert long["validation"] != long["test"]
