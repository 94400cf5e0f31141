"""Low-rank adapters of blocks: what they train, keep and store, and the ordinary network that they become."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import DIT, VIT, Kill, Stripes, assert_equal_states, checkpoint, fit, recipe

from dbl.denoising.targets import ClassTarget, PixelTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import Architecture
from dbl.networks.adapters import LoRA, adapter_weights, insert_adapters, merged
from dbl.run.assembly import checked_part, read_part
from dbl.run.checkpoints import Stamp, StoredTraining
from dbl.run.contract import Contract, ContractConfig
from dbl.run.start import Ancestor
from dbl.training.baselines import EndToEndClassifier
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.memory import Memory
from dbl.training.memory.planner import Planner
from dbl.utils.errors import UserError

pytest.importorskip("peft")
ADAPTERS = LoRA(rank=2, alpha=3.0)


def _contract(network: Architecture = DIT) -> Contract:
    target, noise = (PixelTarget(), None) if network == DIT else (ClassTarget(dim=8), InformationNoise())
    config = ContractConfig(
        replace(network, num_layers=4), target, partition=PartitionConfig(num_blocks=2), start=Ancestor()
    )
    return replace(config, **({"noise": noise} if noise else {})).build(Stripes().spec, ["of the ancestor"])


def _start(contract: Contract) -> dict[str, Tensor]:
    """Weights of a trained network; none is 0, so that each is heard."""
    generator = torch.Generator().manual_seed(3)
    found = replace(contract.config, seed=5).build(contract.data, ["of the ancestor"]).denoiser(1).state_dict()
    return {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in found.items()}


def _block(contract: Contract, lora: LoRA | None = ADAPTERS, **changes: object) -> DiffusionBlock:
    block = DiffusionBlock(contract, 1, recipe(lora=lora, **changes))
    block.start_from(_start(contract), Path("start.safetensors"))
    return block


def _answer(block: nn.Module, contract: Contract) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = contract.config.target.shape(contract.data)
    noisy, sigma = torch.randn(5, *shape, generator=generator), torch.linspace(0.1, 2, 5)
    is_class = isinstance(contract.config.target, ClassTarget)
    cond = torch.randn(5, *contract.data.shape, generator=generator) if is_class else torch.arange(5) % 3  # type: ignore[attr-defined]
    answer: Tensor = block.eval()(noisy, sigma, cond)
    return answer


@pytest.mark.parametrize("network", [DIT, VIT], ids=["dit", "vit"])
def test_adapters_change_nothing_at_first_and_are_merged_into_what_they_computed(network: Architecture) -> None:
    """Catches a wrong scale or side of the product, and a layer whose weight is read past its adapter."""
    contract = _contract(network)
    adapted, plain = _block(contract).denoiser, contract.denoiser(1)
    plain.load_state_dict(_start(contract))
    assert torch.equal(_answer(adapted, contract), _answer(plain, contract))
    for name, tensor in adapter_weights(adapted.state_dict()).items():
        if "lora_B" in name:
            nn.init.normal_(tensor, std=0.3)
    plain.load_state_dict(merged(adapted.state_dict(), ADAPTERS.alpha))
    assert not torch.allclose(_answer(adapted, contract), _answer_of_start(contract), atol=1e-3)
    torch.testing.assert_close(_answer(adapted, contract), _answer(plain, contract), rtol=1e-4, atol=1e-5)


def _answer_of_start(contract: Contract) -> Tensor:
    plain = contract.denoiser(1)
    plain.load_state_dict(_start(contract))
    return _answer(plain, contract)


def test_a_merged_weight_has_a_known_value() -> None:
    """Catches a transposed product and a scale of the rank alone."""
    names = ("a.base_layer.weight", "a.base_layer.bias", "a.lora_A.default.weight", "a.lora_B.default.weight", "b")
    tensors = [
        torch.zeros(1, 3),
        torch.ones(1),
        torch.tensor([[1.0, 2, 3], [0, 1, 0]]),
        torch.tensor([[2.0, 5]]),
        torch.ones(2),
    ]
    found = merged(dict(zip(names, tensors, strict=True)), alpha=6.0)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "a.weight": [[6.0, 27.0, 18.0]],  # 6 / 2 * (2 * [1, 2, 3] + 5 * [0, 1, 0])
        "a.bias": [1.0],
        "b": [1.0, 1.0],
    }


@pytest.mark.parametrize("saving", [False, True])
def test_training_moves_adapters_alone(saving: bool, tmp_path: Path) -> None:
    """Catches a weight that is trained, averaged or given a state although it is frozen."""
    contract = _contract()
    block = _block(contract, activation_checkpointing=saving)
    before = {name: tensor.clone() for name, tensor in block.denoiser.state_dict().items()}
    trainer = fit(block, tmp_path)
    after, chosen = block.denoiser.state_dict(), adapter_weights(before)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(chosen)
    (optimizer,) = trainer.optimizers
    assert sum(tensor["exp_avg"].numel() for tensor in optimizer.state.values()) == sum(
        map(torch.numel, chosen.values())
    )
    stored = checkpoint(tmp_path, "block_1")
    average, live = stored["state_dict"], stored["current_model_state"]
    assert {name for name in average if not torch.equal(average[name], live[name])} == {
        f"denoiser.{name}" for name in chosen
    }  # type: ignore[attr-defined, index]
    # What is frozen is stored once.
    shared = {name for name in average if average[name].data_ptr() == live[name].data_ptr()}  # type: ignore[attr-defined, index]
    assert shared >= {f"denoiser.{name}" for name in before.keys() - chosen.keys() if "table" not in name}


def test_the_checkpoint_is_read_as_an_ordinary_network(tmp_path: Path) -> None:
    """Catches an assembly that drops the adapters, and one whose names no network has."""
    contract = _contract()
    block = _block(contract)
    fit(block, tmp_path)
    path = tmp_path / "block_1/checkpoints/last.ckpt"
    part = read_part(path, "block_1", contract, "denoiser.")  # the average, which the block has after its training
    plain = contract.denoiser(1)
    plain.load_state_dict(part.weights)
    torch.testing.assert_close(_answer(plain, contract), _answer(block.denoiser, contract), rtol=1e-4, atol=1e-5)
    assert part.lora_alpha == 3.0
    assert_equal_states(part.adapters, dict(adapter_weights(block.denoiser.state_dict())))
    assert part.summary()["parameters"] == sum(tensor.numel() for tensor in plain.state_dict().values())


@pytest.mark.parametrize("damage", ["absent", "shape", "empty"])
def test_adapters_that_do_not_fit_are_refused(damage: str, tmp_path: Path) -> None:
    """Catches a traceback for a checkpoint from elsewhere whose adapters were changed."""
    contract = _contract()
    fit(_block(contract), tmp_path, steps=2)
    path, stored = tmp_path / "block_1/checkpoints/last.ckpt", checkpoint(tmp_path, "block_1")
    weights: Any = stored["state_dict"]
    down, up = sorted(adapter_weights(weights))[:2]
    if damage == "absent":
        del weights[up]
    else:
        weights[down] = torch.zeros((0 if damage == "empty" else 3), 16)
    torch.save(stored, path)
    with pytest.raises(UserError, match="its adapters do not fit its weights"):
        read_part(path, "block_1", contract, "denoiser.")


def test_a_resumed_training_is_one_that_never_stopped(tmp_path: Path) -> None:
    """Catches adapters, averages or frozen weights that a resume draws anew."""
    contract = _contract()
    straight, broken = _block(contract), _block(contract)
    fit(straight, tmp_path / "straight")
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, tmp_path / "broken", callbacks=[Kill(4)])
    resumed = DiffusionBlock(
        contract, 1, recipe(lora=ADAPTERS)
    )  # without the start: a checkpoint has all that it needs
    fit(resumed, tmp_path / "broken", resume=True)
    first, second = (checkpoint(tmp_path / name, "block_1") for name in ("straight", "broken"))
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        assert_equal_states(first[key], second[key])


@pytest.mark.parametrize("other", [None, LoRA(3, 3.0), LoRA(2, 4.0), LoRA(2, 3.0, ["qkv"])])
def test_other_adapters_are_not_resumed(other: LoRA | None, tmp_path: Path) -> None:
    """Catches a change of scale in the middle of a training, and a message of many lines."""
    contract = _contract()
    fit(_block(contract), tmp_path, steps=2)
    with pytest.raises(UserError, match=r"was trained with another model\.recipe\.lora"):
        fit(_block(contract, other), tmp_path, resume=True)


@pytest.mark.parametrize("batches", [1, 2])
def test_the_plan_of_adapters_is_what_is_measured(batches: int, tmp_path: Path) -> None:
    """Catches a plan with gradients, state or average of frozen weights."""
    contract = _contract()
    memory = Memory(str(tmp_path / "memory.json"))
    fit(_block(contract, accumulate=batches), tmp_path, callbacks=[memory])
    measured = json.loads((tmp_path / "memory.json").read_text())
    planner = Planner(contract.config, contract.data, recipe(lora=ADAPTERS, accumulate=batches))
    planned = planner.peak(planner.block(contract.config.partition, planner.recipe), 8)
    assert measured["peak_bytes"] == pytest.approx(sum(planned.values()), rel=0.02)
    for category in ("parameters", "optimizer", "average", "activations"):
        assert measured["bytes"][category] == pytest.approx(planned[category], rel=0.02)
    block = _block(contract)
    trained = 4 * sum(tensor.numel() for tensor in adapter_weights(block.state_dict()).values())
    assert planned["optimizer"] == pytest.approx(2 * trained, abs=8 * len(list(block.parameters())))
    assert planned["gradients"] <= trained
    assert planned["average"] < trained + 4 * sum(buffer.numel() for buffer in block.buffers()) + 1


def test_a_plan_has_rows_for_adapters() -> None:
    """Catches rows that are all planned with one kind of training."""
    contract = _contract(VIT)  # whose whole network is a plain classifier
    planner = Planner(contract.config, contract.data, recipe(lora=ADAPTERS))
    rows = {row.name: row for row in planner.rows([2])}
    for place in ("end to end", "2 blocks"):
        state = {how: planner.peak(rows[place + how].make_part, 8)["optimizer"] for how in ("", ", LoRA")}
        assert state[", LoRA"] < 0.5 * state[""]
        assert f"{place}, checkpointing, LoRA" in rows


def test_only_chosen_layers_are_adapted() -> None:
    """Catches a choice that is read nowhere, and one that also takes layers whose names end by chance alike."""
    denoiser = _block(_contract(), LoRA(2, layers=["out", "mlp.0"])).denoiser
    names = {name.rsplit(".lora_", 1)[0] for name in adapter_weights(denoiser.state_dict())}
    assert names == {f"network.layers.{layer}.{name}" for layer in (0, 1) for name in ("attention.out", "mlp.0")}


def test_adapters_are_a_function_of_seed_and_block() -> None:
    """Catches draws that depend on what ran before, and blocks that begin with the same adapters."""
    first, again = (adapter_weights(_block(_contract()).state_dict()) for _ in range(2))
    torch.rand(3)
    assert_equal_states(first, again)
    other = adapter_weights(DiffusionBlock(_contract(), 0, recipe(lora=ADAPTERS)).state_dict())
    name = next(iter(first))
    assert not torch.equal(first[name], other[name])


class _ReadsWeights(nn.Module):
    """A network whose residual layers are torch's own, which read the weights of their linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 8)])


def test_what_cannot_be_adapted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches training of random weights' adapters, adapters that nothing reads, and tracebacks."""
    contract = _contract()
    random = replace(contract.config, start=ContractConfig().start).build(contract.data)
    with pytest.raises(UserError, match="adapts trained weights, and those of this run are random at first"):
        DiffusionBlock(random, 0, recipe(lora=ADAPTERS))
    with pytest.raises(UserError, match=r"layers: no linear layer is called 'qkvv': choose of .*attention\.qkv"):
        _block(contract, LoRA(layers=["qkvv"]))
    for network in (_ReadsWeights(), nn.Linear(2, 2)):
        with pytest.raises(UserError, match="has no linear layers in residual layers"):
            insert_adapters(network, ADAPTERS)
    for rank in (0, -1):
        with pytest.raises(UserError, match=r"model\.recipe\.lora\.rank"):
            LoRA(rank=rank)
    with pytest.raises(UserError, match=r"model\.recipe\.lora\.layers"):
        LoRA(layers=[])
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match="needs the package `peft`"):
        _block(contract)


def test_a_plain_network_is_not_adapted(tmp_path: Path) -> None:
    """Catches an option that is silently ignored."""
    contract = _contract(VIT)
    with pytest.raises(UserError, match="is for blocks that start from a trained network"):
        fit(EndToEndClassifier(contract, recipe(lora=ADAPTERS)), tmp_path)


def test_a_network_without_adapters_may_call_a_layer_base_layer(dit_contract: Contract) -> None:
    """Catches names of somebody's own network that are taken for those of peft."""
    name = "network.layers.0.base_layer.weight"
    stamp = Stamp("block_0", dit_contract.hash, batches_seen=1, samples=8, layer_passes=1.0, max_steps=1)
    stored = StoredTraining({"state_dict": {f"denoiser.{name}": torch.ones(2, 2)}}, stamp, step=1, seconds=0.0)
    part = checked_part(stored, Path("block_0.ckpt"), "block_0", dit_contract, "denoiser.", "ema")
    assert set(part.weights) == {name}
