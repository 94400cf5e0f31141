"""The benchmark of depth: networks and windows of layers at equal compute."""

import pytest

from benchmarks.depth import part_of, trained
from benchmarks.timing import config_of
from dbl.training.baselines.windows import WindowedCausalLM
from dbl.utils.errors import UserError

_TINY = [
    "--contract.network.init_args.num_layers=4",
    "--contract.network.init_args.width=16",
    "--contract.network.init_args.num_heads=2",
    "--contract.network.init_args.mlp_width=16",
    "--data.init_args.seq_len=16",
    "--model.recipe.warmup_steps=0",
]


def test_arms_name_their_networks() -> None:
    """Catches an arm of other layers than its name says."""
    config = config_of("pydoc_ar", *_TINY)
    assert len(part_of(config, "whole").network.body.layers) == 4
    assert len(part_of(config, "shallow_2").network.body.layers) == 2
    part = part_of(config, "windows_2_by_1")
    assert isinstance(part, WindowedCausalLM)
    assert part.windows.all == [(0, 2), (1, 3), (2, 4)]


@pytest.mark.parametrize(
    ("arm", "reason"),
    [("window_2", "there is no 'window_2'"), ("windows_2", "there is no"), ("windows_5_by_1", "model.width \\(5\\)")],
)
def test_arms_that_cannot_be(arm: str, reason: str) -> None:
    """Catches a traceback after the other arms were trained."""
    with pytest.raises(UserError, match=reason):
        part_of(config_of("pydoc_ar", *_TINY), arm)


def test_training_lowers_the_nats_of_both_splits() -> None:
    """Catches steps that are not those of equal compute, weights that are not trained, and splits that are the same."""
    config = config_of("pydoc_ar", *_TINY)
    part = part_of(config, "windows_2_by_1")
    short, long = trained(config, part_of(config, "windows_2_by_1"), 3), trained(config, part, 30)
    assert part.batches_seen == 60
    assert long["validation"] < short["validation"] - 0.2
    assert long["test"] < short["test"] - 0.2
    assert long["validation"] != long["test"]
