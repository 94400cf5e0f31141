"""The settings of the paper's own training, and the network that is assembled after it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY
from toy import fit, recipe

from benchmarks.timing import config_of
from dbl.commands.arms.paper import PAPER, Variant, _assembled, _plain, load_training
from dbl.denoising.targets import ClassTarget, PixelTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder
from dbl.training.baselines.paper import PaperTraining
from dbl.utils.serialization import to_plain


def _settings(name: str, variant: Variant = PAPER) -> dict[str, Any]:
    return _plain(config_of(name, "--trainer.max_steps=100"), RunFolder("rival"), variant)


def test_classes_get_the_settings_of_the_paper() -> None:
    """Catches a setting of `dbl` that stays: noise, cuts, readout, weight or start."""
    plain = _settings("digits_vit")
    own = config_of("digits_vit").contract_config
    contract = PAPER.contract(own)
    assert contract.noise == LogNormalNoise(0.002, 80.0, -1.2, 1.2)
    assert isinstance(contract.target, ClassTarget)
    assert (contract.target.kind, contract.target.weight, contract.target.sigma_data) == ("linear", "edm", 0.5)
    assert contract.network == own.network
    assert plain["contract"]["noise"]["class_path"] == "dbl.LogNormalNoise"
    assert plain["contract"]["target"]["init_args"]["kind"] == "linear"
    assert plain["inference"]["sampler"]["temperature"] == 1
    assert plain["inference"]["sampler"]["num_steps"] == 3


def test_each_choice_of_the_run_can_be_kept() -> None:
    """Catches a switch that changes something else, or nothing."""
    config = config_of("digits_vit", "--contract.partition.overlap=0.2")
    own, sampler = config.contract_config, config.inference.sampler
    kept = Variant(own_noise=True).contract(own)
    assert (kept.noise, kept.partition) == (own.noise, own.partition)
    assert kept.target != own.target
    kept = Variant(own_target=True).contract(own)
    assert kept.target == own.target
    assert kept.partition.overlap == 0.05
    assert Variant(own_start=True).sampler(sampler) == sampler
    assert Variant(own_noise=True, own_target=True).contract(own) == own


def test_compute_warm_up_and_average_are_those_of_a_block() -> None:
    """Catches steps that count a whole network, and a schedule that is B times shorter for each block."""
    plain = _settings("digits_dit")
    assert plain["trainer"]["max_steps"] == 300  # of a third of the layers
    assert plain["model"]["recipe"]["warmup_steps"] == 150
    assert plain["ema"]["decay"] ** 3 == pytest.approx(0.999)
    assert isinstance(PAPER.contract(config_of("digits_dit").contract_config).target, PixelTarget)


@pytest.mark.parametrize("sync_every", [1, None])
def test_the_assembled_network_is_the_average_of_the_training(
    sync_every: int | None, vit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches live weights, copies that are not averaged, layers of another block, and the table of the first step."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder("paper", "runs")
    part = PaperTraining(vit_contract, recipe(), sync_every=sync_every)
    fit(part, run.path, steps=7)
    plain = config_of("digits_vit", *TINY[1:]).plain()
    plain["contract"] |= {"network": to_plain(vit_contract.config.network), "target": to_plain(ClassTarget(dim=8))}
    loaded = PaperTraining(vit_contract, recipe(), sync_every=sync_every)
    stack = _assembled(loaded, load_training(loaded, run), run, plain)
    model = ModelFolder(stack.model)
    weights: dict[str, Any] = torch.load(run.checkpoint("paper"), weights_only=True)["state_dict"]
    heads = torch.stack([weights[f"network.denoisers.{block}.network.head.project.weight"] for block in range(3)])
    assert torch.equal(heads[0], heads[1]) == (sync_every == 1)
    for block in range(3):
        denoiser = model.denoiser(block)
        torch.testing.assert_close(denoiser.get_parameter("network.head.project.weight"), heads.mean(dim=0))
        layer = "network.layers.0.mlp.0.weight"
        assert torch.equal(denoiser.get_parameter(layer), weights[f"network.denoisers.{block}.{layer}"])
    table = torch.nn.functional.normalize(weights["network.table"], dim=1)
    assert model.contract.table is not None
    torch.testing.assert_close(model.contract.table, table)
    assert (model.contract.table != vit_contract.table).any()
    assert model.contract.partition == vit_contract.partition
    steps = [facts["steps"] for facts in model.config["blocks"]]
    assert steps == [sum(part.block_of(step) == block for step in range(7)) for block in range(3)]
