"""The contract: frozen, hashed, and the only thing that a block's first weights depend on."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.denoising.targets import ClassTarget, PixelTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.noise import LogNormalNoise, LogUniformNoise
from dbl.diffusion.partition import PartitionConfig, Scheme
from dbl.diffusion.preconditioning import EDM
from dbl.networks import DiT, ViT
from dbl.run.contract import VERSION, Contract, ContractConfig
from dbl.run.start import Ancestor
from dbl.utils.errors import UserError

IMAGES = ContractConfig(
    DiT(num_layers=4, width=16, num_heads=2, patch_size=2),
    PixelTarget(),
    LogNormalNoise(),
    PartitionConfig(num_blocks=3, layers=[1, 2, 1]),
    seed=3,
)
CLASSES = ContractConfig(
    ViT(num_layers=4, width=16, num_heads=2, patch_size=2, mlp_width=24),
    ClassTarget(dim=7, kind="linear"),
    InformationNoise(num_levels=12, num_draws=50),
    PartitionConfig(num_blocks=2),
    seed=3,
)
both_terms = pytest.mark.parametrize("config", [IMAGES, CLASSES], ids=["images", "classes"])


class Other(EDM):
    """Another preconditioning, for networks that read no training steps."""


# One change of every field of every part of these config.
EVEN = replace(IMAGES, partition=PartitionConfig(num_blocks=2))
CHANGES: dict[str, list[Any]] = {
    "network": [
        replace(EVEN.network, num_layers=8),
        replace(EVEN.network, width=24),
        replace(EVEN.network, num_heads=4),
        replace(EVEN.network, patch_size=1),
        replace(EVEN.network, mlp_ratio=2.0),
        replace(EVEN.network, cond_dropout=0.2),
        replace(EVEN.network, conditioning_width=8),
        replace(EVEN.network, gelu="exact"),
    ],
    "target": [
        PixelTarget(sigma_data=0.4),
        PixelTarget(weight="uniform"),
        PixelTarget(preconditioning=Other()),
        PixelTarget(standardise=False),
    ],
    "noise": [
        LogUniformNoise(),
        LogNormalNoise(sigma_min=0.01),
        LogNormalNoise(sigma_max=70.0),
        LogNormalNoise(p_mean=-1.0),
        LogNormalNoise(p_std=1.0),
    ],
    "partition": [
        PartitionConfig(num_blocks=4),
        PartitionConfig(num_blocks=2, layers=[1, 3]),
        PartitionConfig(num_blocks=2, overlap=0.1),
        PartitionConfig(num_blocks=2, scheme="uniform_log_sigma"),
        PartitionConfig(num_blocks=2, scheme="explicit", boundaries=[80.0, 1.0, 0.002]),
    ],
    "start": [Ancestor(), Ancestor(share=0.25)],
    "seed": [4],
}


def stored(contract: Contract) -> dict[str, Any]:
    """What a JSON file gives back."""
    return json.loads(json.dumps(contract.to_plain()))


def weights(contract: Contract, block: int) -> dict[str, Tensor]:
    return contract.denoiser(block).state_dict()


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fields_that_were_added_leave_hashes_alone(data_spec: ImageSpec) -> None:
    """Catches a version that refuses all runs and models of the one before, though nothing changed for them."""
    target = stored(IMAGES.build(data_spec))["config"]["init_args"]["target"]
    assert target == {"class_path": "dbl.PixelTarget", "init_args": {"sigma_data": 0.5, "weight": "edm"}}


@both_terms
def test_settling_twice_gives_one_hash(config: ContractConfig, data_spec: ImageSpec) -> None:
    """Catches anything in the contract that is drawn from the global generator."""
    hashes = set()
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        hashes.add(config.build(data_spec).hash)
    assert len(hashes) == 1


def test_hash_changes_with_every_choice(data_spec: ImageSpec) -> None:
    """Catches a field that the hash leaves out: blocks that differ in it could be assembled."""
    changed = [replace(EVEN, **{name: value}) for name, values in CHANGES.items() for value in values]
    hashes = [config.build(data_spec).hash for config in (EVEN, *changed)]
    assert len(set(hashes)) == len(hashes) == 26


def test_no_choice_is_forgotten_above() -> None:
    """Catches a new field of a part that the test of the hash does not change yet."""
    assert set(CHANGES) == {field.name for field in fields(ContractConfig)}
    for name in ("network", "target", "noise", "partition"):
        part = getattr(EVEN, name)
        for field in fields(part):
            before = getattr(part, field.name)
            assert any(getattr(other, field.name, before) != before for other in CHANGES[name]), field.name


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"identity": "toy-2"},
        {"shape": (3, 6, 8)},
        {"num_classes": 2, "class_frequencies": (0.4, 0.6)},
        {"class_frequencies": (0.3, 0.25, 0.2, 0.15, 0.1)},
        {"mean": (10.0, 20.0, 31.0)},
        {"std": (2.0, 4.0, 8.1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hash_changes_with_the_data(change: dict[str, Any], data_spec: ImageSpec) -> None:
    """Catches blocks of one run that were trained on different data or different splits."""
    assert IMAGES.build(replace(data_spec, **change)).hash != IMAGES.build(data_spec).hash


def test_hash_changes_with_the_table(data_spec: ImageSpec) -> None:
    """Catches a table that came from elsewhere under the same settings."""
    contract = CLASSES.build(data_spec)
    assert contract.table is not None
    other = Contract(contract.config, contract.data, contract.noise, contract.partition, contract.table.flip(0))
    assert other.hash != contract.hash


@both_terms
def test_contract_survives_json(config: ContractConfig, data_spec: ImageSpec) -> None:
    """Catches a value that JSON rounds, reorders or turns into another type: another process must get the same hash."""
    contract = config.build(data_spec)
    again = Contract.from_plain(stored(contract), contract.table, source="contract.json")
    assert again.hash == contract.hash
    assert again.noise == contract.noise
    assert again.partition == contract.partition
    assert again.config == contract.config
    assert again.data == contract.data
    assert equal(weights(again, 1), weights(contract, 1))


def test_another_table_is_refused(data_spec: ImageSpec) -> None:
    """Catches a table file that was replaced, changed in its last digit or lost."""
    contract = CLASSES.build(data_spec)
    assert contract.table is not None
    nudged = contract.table.clone()
    nudged[4, 6] = torch.nextafter(nudged[4, 6], torch.tensor(9.0))
    for table in (nudged, contract.table.flip(0), None):
        with pytest.raises(UserError, match=r"runs/contract\.json.*table"):
            Contract.from_plain(stored(contract), table, source="runs/contract.json")


@pytest.mark.parametrize("version", [VERSION + 1, 0, None, str(VERSION)])
def test_another_version_is_refused(version: Any, data_spec: ImageSpec) -> None:
    """Catches an old file that is read as if its fields still meant the same."""
    plain = stored(IMAGES.build(data_spec)) | {"version": version}
    with pytest.raises(UserError, match=r"contract\.json has contract version"):
        Contract.from_plain(plain, None, source="contract.json")


@pytest.mark.parametrize("key", ["config", "data", "noise", "partition", "table_sha256"])
def test_a_missing_field_is_refused(key: str, data_spec: ImageSpec) -> None:
    """Catches a damaged file whose missing part is filled with a default."""
    plain = stored(IMAGES.build(data_spec))
    del plain[key]
    with pytest.raises(UserError, match=rf"runs/contract\.json.*{key}"):
        Contract.from_plain(plain, None, source="runs/contract.json")


@pytest.mark.parametrize("plain", [[], None, "text", {"version": VERSION, "config": []}])
def test_values_of_another_kind_are_refused(plain: Any) -> None:
    """Catches a traceback in place of one line where a list or a text stands in place of a mapping."""
    with pytest.raises(UserError, match=r"^runs/contract\.json (has contract version None|is not a contract)"):
        Contract.from_plain(plain, None, source="runs/contract.json")


def test_an_unknown_argument_is_refused(data_spec: ImageSpec) -> None:
    """Catches a file of another program version whose extra setting is silently dropped."""
    plain = stored(IMAGES.build(data_spec))
    plain["config"]["init_args"]["network"]["init_args"]["depth_scale"] = 2.0
    with pytest.raises(UserError, match="depth_scale"):
        Contract.from_plain(plain, None, source="contract.json")


@pytest.mark.parametrize("boundaries", [[], [80.0]])
def test_a_partition_without_blocks_is_refused(boundaries: list[float], data_spec: ImageSpec) -> None:
    """Catches a traceback in place of one clear line when the file lists no blocks."""
    plain = stored(IMAGES.build(data_spec))
    plain["partition"]["init_args"] |= {"boundaries": boundaries, "layers": []}
    with pytest.raises(UserError):
        Contract.from_plain(plain, None, source="contract.json")


@both_terms
def test_first_weights_are_a_function_of_seed_and_block(config: ContractConfig, data_spec: ImageSpec) -> None:
    """Catches weights that depend on what was drawn or built before, so that training order would matter."""
    contract = config.build(data_spec)
    torch.manual_seed(0)
    alone = weights(contract, 1)
    torch.manual_seed(1)
    for block in (0, 1):
        contract.denoiser(block)
    assert equal(weights(contract, 1), alone)
    assert not equal(weights(replace(config, seed=4).build(data_spec), 1), alone)


@both_terms
def test_building_a_block_leaves_the_global_generator_alone(config: ContractConfig, data_spec: ImageSpec) -> None:
    """Catches a construction that shifts every later global draw."""
    contract = config.build(data_spec)
    state = torch.get_rng_state()
    contract.denoiser(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_start_different_and_share_nothing(data_spec: ImageSpec) -> None:
    """Catches equal first weights in two blocks of the same size, and parameters that live in the same memory."""
    contract = IMAGES.build(data_spec)
    first, last = contract.denoiser(0), contract.denoiser(2)
    for name, ours in first.named_parameters():
        theirs = last.get_parameter(name)
        assert ours.data_ptr() != theirs.data_ptr()
        assert ours.count_nonzero() == 0 or not torch.equal(ours, theirs), name


def test_each_block_builds_its_own_layers_only(data_spec: ImageSpec) -> None:
    """Catches a block that builds the whole network, whose memory would not shrink."""
    contract = IMAGES.build(data_spec)
    assert [len(contract.denoiser(block).network.layers) for block in range(3)] == [1, 2, 1]
    with pytest.raises(UserError, match="blocks 0 to 2"):
        contract.denoiser(3)


def test_the_law_is_fitted_to_the_table_and_class_frequencies(data_spec: ImageSpec) -> None:
    """Catches a fit with uniform frequencies or another table than the one that is trained on."""
    contract = CLASSES.build(data_spec)
    assert contract.table is not None
    assert contract.noise == CLASSES.noise.fit(contract.table, torch.tensor(data_spec.class_frequencies))
    uniform = replace(data_spec, class_frequencies=(0.2,) * 5)
    assert CLASSES.build(uniform).noise != contract.noise
    assert contract.partition == PartitionConfig(num_blocks=2).build(contract.noise, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(IMAGES, partition=PartitionConfig(num_blocks=3)), "cannot be split evenly"),
        (replace(IMAGES, network=replace(IMAGES.network, patch_size=4)), "patch_size"),
        (replace(IMAGES, target=ClassTarget(dim=7)), "PixelTarget"),
        (replace(CLASSES, target=PixelTarget(), noise=LogNormalNoise()), "ClassTarget"),
    ],
    ids=["layers", "patches", "DiT with labels", "ViT with pixels"],
)
def test_parts_that_do_not_fit_are_refused(config: ContractConfig, message: str, data_spec: ImageSpec) -> None:
    """Catches an impossible combination that fails inside torch, or trains on a target that the network cannot give."""
    with pytest.raises(UserError, match=message):
        config.build(data_spec).denoiser(0)


@pytest.mark.parametrize("scheme", ["equal_probability", "uniform_log_sigma"])
def test_the_information_law_needs_classes(scheme: Scheme, data_spec: ImageSpec) -> None:
    """Catches a distribution without a table to fit, found by a traceback once contract.json is written."""
    config = replace(IMAGES, noise=InformationNoise(), partition=PartitionConfig(num_blocks=2, scheme=scheme))
    with pytest.raises(UserError, match="noise"):
        config.build(data_spec)


def test_a_contract_without_the_table_of_its_target_is_refused(data_spec: ImageSpec) -> None:
    """Catches a contract whose table was taken out, behind a hash that is right."""
    plain = stored(CLASSES.build(data_spec)) | {"table_sha256": None}
    with pytest.raises(UserError, match=r"^contract\.json is not a contract: .*table and start do not fit"):
        Contract.from_plain(plain, None, "contract.json")
