"""Architecture, section 4, number 1: a block's training depends on nothing but the contract and its own index."""

from pathlib import Path

import pytest
import torch
from toy import assert_equal_states, checkpoint, fit, recipe

from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock


@pytest.mark.parametrize("kind", ["dit_contract", "vit_contract"])
def test_a_block_trained_alone_equals_one_trained_after_others(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Catches global random state, a shared counter or a shared parameter: what earlier blocks leave behind."""
    contract: Contract = request.getfixturevalue(kind)
    fit(DiffusionBlock(contract, 2, recipe()), tmp_path / "alone")
    torch.manual_seed(99)
    for block in range(3):
        fit(DiffusionBlock(contract, block, recipe()), tmp_path / "in turn")
    alone, in_turn = checkpoint(tmp_path / "alone", "block_2"), checkpoint(tmp_path / "in turn", "block_2")
    assert_equal_states(alone["state_dict"], in_turn["state_dict"])
    assert_equal_states(alone["optimizer_states"], in_turn["optimizer_states"])


def test_training_a_block_leaves_the_files_of_the_others_alone(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a block that writes into another block's folder."""
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path)
    before = (tmp_path / "block_0" / "checkpoints" / "last.ckpt").read_bytes()
    fit(DiffusionBlock(dit_contract, 1, recipe()), tmp_path)
    assert (tmp_path / "block_0" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_blocks_share_no_storage(dit_contract: Contract, vit_contract: Contract) -> None:
    """Catches a stem, head or table with one trainable tensor for several blocks."""
    for contract in (dit_contract, vit_contract):
        blocks = [DiffusionBlock(contract, index) for index in range(3)]
        places = [{parameter.data_ptr() for parameter in block.parameters()} for block in blocks]
        assert not places[0] & places[1]
        assert not places[1] & places[2]
        assert not places[0] & places[2]


def test_a_block_holds_only_its_own_layers(dit_contract: Contract) -> None:
    """Catches a block that builds the whole network: its memory would be that of L layers."""
    layers = [DiffusionBlock(dit_contract, index).denoiser.network.layers for index in range(3)]
    assert [len(part) for part in layers] == [1, 1, 1]  # type: ignore[arg-type]


def test_another_seed_trains_other_weights(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a seed that is read nowhere."""
    from dataclasses import replace

    other = replace(dit_contract.config, seed=1).build(dit_contract.data)
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path / "0")
    fit(DiffusionBlock(other, 0, recipe()), tmp_path / "1")
    weights = [checkpoint(tmp_path / name, "block_0")["state_dict"] for name in ("0", "1")]
    key = "denoiser.network.patches.project.weight"
    assert not torch.equal(weights[0][key], weights[1][key])  # type: ignore[index]
