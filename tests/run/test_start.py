"""Where the weights of a block come from: which ancestor, of which size, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from dbl.data.spec import ImageSpec
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import Architecture, CausalLM, DiT
from dbl.run.contract import Contract, ContractConfig
from dbl.run.start import Ancestor, Cut, Pretrained, RandomStart
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError

CONFIG = ContractConfig(
    DiT(num_layers=8, width=16, num_heads=2, patch_size=2),
    PixelTarget(),
    LogNormalNoise(),
    PartitionConfig(num_blocks=4),
    Ancestor(share=0.25, num_blocks=2, start=Ancestor()),
    seed=3,
)


def test_a_tree_halves_the_levels_at_each_branching(data_spec: ImageSpec) -> None:
    """Catches a block that starts from an ancestor which never saw its levels."""
    tree = CONFIG.start
    assert isinstance(tree, Ancestor)
    parents = CONFIG.ancestor()
    assert parents is not None
    own, others = CONFIG.build(data_spec).partition, parents.build(data_spec).partition
    for block in range(4):
        low, high = own.interval(block)
        parent = others.interval(tree.origin(block, own).block)
        assert parent.low <= low < high <= parent.high


def test_ancestors_have_the_size_of_a_block(data_spec: ImageSpec) -> None:
    """Catches an ancestor that needs more memory than a block, or that has other parameters."""
    parents = CONFIG.ancestor()
    assert parents is not None
    root = parents.ancestor()
    assert root is not None
    assert root.ancestor() is None
    assert [config.partition.num_blocks for config in (parents, root)] == [2, 1]
    shapes = [
        {name: tensor.shape for name, tensor in config.build(data_spec).denoiser(0).state_dict().items()}
        for config in (CONFIG, parents, root)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_the_ancestor_shares_the_target_table_and_seed() -> None:
    """Catches an ancestor that learned other class vectors than those of the blocks."""
    parents = CONFIG.ancestor()
    assert parents is not None
    assert (parents.seed, parents.target, parents.noise) == (CONFIG.seed, CONFIG.target, CONFIG.noise)


def test_explicit_cuts_stay_for_the_ancestor() -> None:
    """Catches boundaries of an ancestor that are not among those of its blocks."""
    cuts = PartitionConfig(num_blocks=4, scheme="explicit", boundaries=[80.0, 2.0, 1.0, 0.5, 0.002])
    assert cuts.coarsened(2).boundaries == [80.0, 1.0, 0.002]
    assert cuts.coarsened(1).boundaries == [80.0, 0.002]


def test_no_two_networks_of_a_run_share_a_random_stream(data_spec: ImageSpec) -> None:
    """Catches a block that sees the noise and the order of samples of its ancestor again."""
    parents = CONFIG.ancestor()
    assert parents is not None
    root = parents.ancestor()
    assert root is not None
    streams = [
        DiffusionBlock(config.build(data_spec), block).stream
        for config in (root, parents, CONFIG)
        for block in range(config.partition.num_blocks)
    ]
    assert streams == list(range(7))


@pytest.mark.parametrize(
    ("partition", "start", "message"),
    [
        (PartitionConfig(num_blocks=4), Ancestor(num_blocks=3), "must divide contract.partition.num_blocks"),
        (PartitionConfig(num_blocks=1), Ancestor(num_blocks=2), "use --contract.start dbl.RandomStart"),
        (PartitionConfig(num_blocks=2, layers=[3, 5]), Ancestor(), "must be equal.*--contract.start dbl.RandomStart"),
    ],
)
def test_what_cannot_branch_is_refused(
    partition: PartitionConfig, start: Ancestor, message: str, data_spec: ImageSpec
) -> None:
    """Catches an ancestor whose weights fit no block, found only after it was trained."""
    with pytest.raises(UserError, match=message):
        replace(CONFIG, partition=partition, start=start).build(data_spec)


@pytest.mark.parametrize("hashes", [[], ["a"], ["a", "b", "c"], "ab", [1, 2], None])
def test_a_contract_lists_one_hash_for_each_block_of_the_ancestor(hashes: object, data_spec: ImageSpec) -> None:
    """Catches a stored contract whose blocks could start from anything."""
    contract = CONFIG.build(data_spec, ["a", "b"])
    plain = contract.to_plain()
    assert Contract.from_plain(plain, None, "contract.json").hash == contract.hash
    with pytest.raises(UserError, match="start"):
        Contract.from_plain(plain | {"start_sha256": hashes}, None, "contract.json")


def test_other_weights_of_the_ancestor_are_another_contract(data_spec: ImageSpec) -> None:
    """Catches blocks of unlike ancestors that are assembled into one model."""
    assert CONFIG.build(data_spec, ["a", "b"]).hash != CONFIG.build(data_spec, ["a", "c"]).hash


def test_a_contract_without_its_ancestor_is_not_written(data_spec: ImageSpec) -> None:
    """Catches blocks that are trained before their ancestor is."""
    with pytest.raises(UserError, match="ancestor of the blocks is not trained yet"):
        CONFIG.build(data_spec).check_storable("contract.json")


def test_a_block_without_its_start_is_not_trained(data_spec: ImageSpec, tmp_path: Path) -> None:
    """Catches a trainer that trains random weights in silence."""
    block = DiffusionBlock(CONFIG.build(data_spec, ["a", "b"]), 1)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(UserError, match="block_1 starts from a trained network"):
        trainer.fit(block, torch.utils.data.DataLoader([0]))


def test_only_a_network_with_a_number_of_layers_can_have_an_ancestor() -> None:
    """Catches a traceback for a network of the user's that keeps its size elsewhere."""

    class Fixed(Architecture):
        num_layers = 8

        def build(self, *_: Any) -> nn.Module:
            return nn.Identity()

    with pytest.raises(UserError, match="Fixed must be a dataclass with a field num_layers"):
        replace(CONFIG, network=Fixed()).ancestor()


def test_random_weights_need_nothing() -> None:
    """Catches a start that asks for an ancestor by default."""
    assert replace(CONFIG, start=RandomStart()).ancestor() is None


def _cut(cut: Cut | list[list[int]], spec: ImageSpec, layers: list[int] | None = None) -> list[list[int] | None]:
    start = Pretrained(cut)
    contract = replace(CONFIG, partition=PartitionConfig(num_blocks=2, layers=layers), start=start).build(spec)
    return [start.origin(block, contract.partition).layers for block in range(2)]


def test_cuts_of_a_trained_network(data_spec: ImageSpec) -> None:
    """Catches a layer that goes to the wrong block, or in the wrong order."""
    assert _cut("interleaved", data_spec) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert _cut("contiguous", data_spec, [3, 5]) == [[0, 1, 2], [3, 4, 5, 6, 7]]
    own = [[0, 1, 2, 7], [3, 4, 5, 6]]
    assert _cut(own, data_spec) == own


@pytest.mark.parametrize(
    ("cut", "layers", "message"),
    [
        ("interleaved", [3, 5], r"gives the blocks \[4, 4\] layers and contract.partition.layers \[3, 5\]"),
        ([[0, 1, 2, 3]], None, "must have a list for each of 2 blocks"),
        ([[0, 1, 2, 3], [3, 4, 5, 6]], None, "must have each layer from 0 to 7 once"),
        ([[0, 1, 2, 3], [4, 5, 6, -1]], None, r"init_args\.cut.*-1"),
        ("by_hand", None, "cut"),
    ],
)
def test_what_is_no_cut_is_refused(cut: Any, layers: list[int] | None, message: str, data_spec: ImageSpec) -> None:
    """Catches a layer that two blocks train, or none."""
    with pytest.raises(UserError, match=message):
        _cut(cut, data_spec, layers)


def test_a_causal_language_model_is_not_cut() -> None:
    """Catches blocks of a network whose layers build on each other's features and know no level."""
    with pytest.raises(UserError, match="CausalLM cannot be cut"):
        Pretrained().check(CausalLM(num_layers=8), CONFIG.partition.build(LogNormalNoise(), 8))


def test_a_stored_contract_has_a_cut_that_fits(data_spec: ImageSpec) -> None:
    """Catches a contract from elsewhere whose cut ends in a traceback when a block starts."""
    plain = (
        replace(CONFIG, partition=PartitionConfig(num_blocks=2), start=Pretrained()).build(data_spec, ["a"]).to_plain()
    )
    plain["config"]["init_args"]["start"]["init_args"]["cut"] = [[0, 1], [2]]
    with pytest.raises(UserError, match=r"contract.json: .*cut"):
        Contract.from_plain(plain, None, "contract.json")
