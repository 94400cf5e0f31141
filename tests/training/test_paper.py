"""The paper's own training: what is shared, which block learns, and how copies of shared parts are averaged."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import Kill, Stripes, assert_equal_states, checkpoint, fit, recipe

from dbl.data.spec import ImageSpec
from dbl.denoising.targets import ClassTarget
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import LabelCNN
from dbl.run.contract import Contract, ContractConfig
from dbl.training.baselines.paper import PaperTraining
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.training.noisy_data import random_draws
from dbl.utils.errors import UserError

ALL: Any = ["stem", "conditioning", "head"]


def _step(part: PaperTraining, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One optimizer step; the loss before it."""
    optimizer.zero_grad()
    loss = part.losses(batch).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    part.batches_seen += 1
    return loss.detach()


def _batch(stripes: Stripes) -> dict[str, torch.Tensor]:
    return stripes.batch("train", torch.arange(12))


def test_shared_parts_are_one_module(dit_contract: Contract, vit_contract: Contract) -> None:
    """Catches a part that is private in spite of the options, or layers that are shared."""
    for contract, stem in ((dit_contract, ["patches"]), (vit_contract, ["label_token", "tokens"])):
        for private in ([], ["stem"], ["conditioning"], ["head"], ALL):
            networks: Any = [
                denoiser.network for denoiser in PaperTraining(contract, private=private).network.denoisers
            ]
            first, second = networks[:2]
            assert first.layers[0] is not second.layers[0]
            assert (first.head is second.head) == ("head" not in private)
            assert (first.noise_embedding is second.noise_embedding) == ("conditioning" not in private)
            for name in stem:
                assert (getattr(first, name) is getattr(second, name)) == ("stem" not in private)
    readouts = [denoiser.readout for denoiser in PaperTraining(vit_contract).network.denoisers]
    assert readouts[0] is readouts[1] is readouts[2]


def test_one_block_learns_in_a_step(vit_contract: Contract, stripes: Stripes) -> None:
    """Catches a step that moves other blocks, or not the shared parts, and a block that is never drawn."""
    part = PaperTraining(vit_contract, recipe(), table="frozen").train()
    optimizer = part.recipe.make_optimizer(part)
    trained = set()
    for step in range(12):
        before = {name: value.detach().clone() for name, value in part.network.named_parameters()}
        _step(part, optimizer, _batch(stripes))
        changed = {name for name, value in part.network.named_parameters() if not torch.equal(value, before[name])}
        blocks = {name.split(".")[1] for name in changed if ".layers." in name}
        assert blocks == {str(part.block_of(step))}
        assert any(".label_token." in name for name in changed)
        trained |= blocks
    assert trained == {"0", "1", "2"}


def test_blocks_are_drawn_evenly_or_in_turn(dit_contract: Contract) -> None:
    """Catches an order that repeats, a block that is drawn more often, and `in_turn` that draws."""
    part = PaperTraining(dit_contract)
    drawn = [part.block_of(step) for step in range(3000)]
    assert all(abs(drawn.count(block) - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for block in range(3))
    pairs = list(pairwise(drawn))
    assert all(pairs.count((first, second)) > 250 for first in range(3) for second in range(3))
    in_turn = PaperTraining(dit_contract, order="in_turn")
    assert [in_turn.block_of(step) for step in range(5)] == [0, 1, 2, 0, 1]


def test_the_block_stays_while_gradients_accumulate(dit_contract: Contract) -> None:
    """Catches an optimizer step that mixes the gradients of several blocks."""
    part = PaperTraining(dit_contract, recipe(accumulate=2), order="in_turn")
    assert [part.steps_done for part.batches_seen in range(6)] == [0, 0, 1, 1, 2, 2]


def test_with_all_private_it_is_the_training_of_blocks(dit_contract: Contract, stripes: Stripes) -> None:
    """Catches other weights, levels, noise, loss or optimizer steps than those of `DiffusionBlock`, to the bit."""
    part = PaperTraining(dit_contract, recipe(), private=ALL, order="in_turn").eval()  # no label is dropped
    part.losses = _losses_in_training(part)  # type: ignore[method-assign]
    optimizer = part.recipe.make_optimizer(part)
    blocks = [DiffusionBlock(dit_contract, block, recipe()).eval() for block in range(3)]
    optimizers = [block.recipe.make_optimizer(block) for block in blocks]
    for step in range(6):
        block = blocks[step % 3]
        clean = block.space.encode(_batch(stripes))
        sigma, noise = random_draws(dit_contract, block.interval, clean.clean, "paper", step, 0)
        loss = block.losses(NoisyBatch(clean, block.space.corrupt(clean.clean, noise, sigma), sigma)).mean()
        optimizers[step % 3].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[step % 3].step()
        assert torch.equal(_step(part, optimizer, _batch(stripes)), loss.detach())
    for block, denoiser in zip(blocks, part.network.denoisers, strict=True):
        assert_equal_states(dict(denoiser.state_dict()), dict(block.denoiser.state_dict()))


def _losses_in_training(part: PaperTraining) -> Any:
    """Losses with the draws of training, of a network in evaluation mode, which drops nothing."""

    def losses(batch: dict[str, torch.Tensor]) -> Any:
        part.training = True
        found = PaperTraining.losses(part, batch)
        part.training = False
        return found

    return losses


def test_the_gradient_of_a_shared_part_is_that_of_the_block(dit_contract: Contract, stripes: Stripes) -> None:
    """Catches a gradient of the head that comes from another block, or from all, and noise outside the interval."""
    part = PaperTraining(dit_contract, order="in_turn")
    part.network.eval()
    part.batches_seen = 1
    batch = _batch(stripes)
    found = part.losses(batch)
    found.mean().backward()  # type: ignore[no-untyped-call]
    block = DiffusionBlock(dit_contract, 1).eval()
    for name in part.network._shared:
        block.denoiser.get_submodule(name).load_state_dict(part.network.denoisers[0].get_submodule(name).state_dict())
    clean = block.space.encode(batch)
    sigma, noise = random_draws(dit_contract, block.interval, clean.clean, "paper", 1, 0)
    block.losses(NoisyBatch(clean, block.space.corrupt(clean.clean, noise, sigma), sigma)).mean().backward()  # type: ignore[no-untyped-call]
    assert found.sigma is not None
    assert torch.equal(found.sigma, sigma)
    other: Any = part.network.denoisers[2].network
    expected = block.get_parameter("denoiser.network.head.project.weight").grad
    assert torch.equal(other.head.project.weight.grad, expected)
    assert other.head.project.weight.grad.any()
    assert all(parameter.grad is None for parameter in other.layers.parameters())


def test_copies_become_their_mean(dit_contract: Contract) -> None:
    """Catches layers that are averaged too, a mean of some copies alone, and copies that start unequal."""
    part = PaperTraining(dit_contract, sync_every=2, private=["head"])
    networks: Any = [denoiser.network for denoiser in part.network.denoisers]
    stems, heads = ([network.get_submodule(name) for network in networks] for name in ("patches", "head"))
    assert all(torch.equal(stem.project.weight, stems[0].project.weight) for stem in stems)
    for number, network in enumerate(networks):
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, (1.0, 2.0, 6.0)[number])
    part.network.synchronise()
    for number in range(3):
        assert (stems[number].project.weight == 3).all()
        assert (heads[number].project.weight == (1.0, 2.0, 6.0)[number]).all()
        assert (networks[number].layers[0].attention.qkv.weight == (1.0, 2.0, 6.0)[number]).all()


class EqualHeads(L.Callback):
    """Notes after which steps the heads of all blocks are equal."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, PaperTraining)
        first, *others = (each.get_parameter("network.head.project.weight") for each in pl_module.network.denoisers)
        self.steps += [trainer.global_step] if all(torch.equal(first, other) for other in others) else []


@pytest.mark.parametrize(("sync_every", "equal_after"), [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [6]), (None, [])])
def test_shared_parts_are_equal_after_these_steps(
    sync_every: int | None, equal_after: list[int], dit_contract: Contract, tmp_path: Path
) -> None:
    """Catches an average every so many steps of all blocks together, in place of each, or one that is left out."""
    equal = EqualHeads()
    part = PaperTraining(dit_contract, recipe(), sync_every=sync_every, order="in_turn")
    fit(part, tmp_path, steps=7, callbacks=[equal])
    assert equal.steps == equal_after


def test_a_learned_table_moves_and_stays_of_unit_length(vit_contract: Contract, stripes: Stripes) -> None:
    """Catches a table without a gradient from its targets or its readout, and a frozen one that moves."""
    part = PaperTraining(vit_contract, recipe()).train()
    optimizer = part.recipe.make_optimizer(part)
    _step(part, optimizer, _batch(stripes))
    rows, frozen = part.network.rows(), vit_contract.table
    assert rows is not None
    assert frozen is not None
    assert (rows != frozen).any(dim=1).all()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert torch.equal(part.space.table, frozen)
    assert all(torch.equal(buffer, frozen) for name, buffer in part.named_buffers() if name.endswith("readout.table"))
    assert PaperTraining(vit_contract, table="frozen").network.rows() is None


def test_with_the_first_table_learned_and_frozen_are_equal(vit_contract: Contract, stripes: Stripes) -> None:
    """Catches learned rows that targets and readout use in another way than the frozen ones."""
    learned, frozen = (PaperTraining(vit_contract, table=table).eval() for table in ("learned", "frozen"))
    with torch.no_grad():
        losses = [part.losses(_batch(stripes)).per_sample for part in (learned, frozen)]
    torch.testing.assert_close(*losses)


def test_validation_is_the_mean_over_the_blocks(dit_contract: Contract, stripes: Stripes) -> None:
    """Catches a validation of one block alone, or with draws of its own, so that it could not be set beside blocks'."""
    part = PaperTraining(dit_contract, private=ALL).eval()
    with torch.no_grad():
        mean = part.losses(_batch(stripes)).per_sample
        assert torch.equal(part.losses(_batch(stripes)).per_sample, mean)
        by_block = torch.stack([part._losses_of(block, _batch(stripes))[0] for block in range(3)])
    torch.testing.assert_close(mean, by_block.mean(dim=0))


@pytest.mark.parametrize("options", [{}, {"sync_every": 2, "table": "frozen"}])
def test_a_killed_training_resumes_bit_for_bit(options: dict[str, Any], vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a block, noise or average that depends on the history of a process."""
    fit(PaperTraining(vit_contract, recipe(warmup_steps=2), **options), tmp_path / "whole", steps=14)
    part = PaperTraining(vit_contract, recipe(warmup_steps=2), **options)
    with pytest.raises(RuntimeError, match="killed"):
        fit(part, tmp_path / "resumed", steps=14, callbacks=[Kill(7)])
    fit(PaperTraining(vit_contract, recipe(warmup_steps=2), **options), tmp_path / "resumed", steps=14, resume=True)
    whole, resumed = (checkpoint(tmp_path / name, "paper") for name in ("whole", "resumed"))
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl"):
        assert_equal_states(whole[key], resumed[key])


def test_the_layers_of_all_blocks_are_recomputed(vit_contract: Contract, stripes: Stripes) -> None:
    """Catches activation checkpointing that reaches one block alone, or changes the loss."""
    recomputed = PaperTraining(vit_contract, recipe(activation_checkpointing=True)).eval()
    recomputed.prepare_network()
    assert sum("forward" in vars(layer) for layer in recomputed.network.layers) == 3
    losses = [part.losses(_batch(stripes)).per_sample for part in (recomputed, PaperTraining(vit_contract).eval())]
    assert torch.equal(*losses)


def test_it_learns(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches blocks that disturb each other so that nothing is learned."""
    part = PaperTraining(dit_contract, recipe())
    first = fit(part, tmp_path, steps=3).callback_metrics["val/loss"]
    last = fit(part, tmp_path, steps=90, resume=True).callback_metrics["val/loss"]
    assert last < 0.7 * first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sync_every": 0}, r"model.sync_every \(0\) must be a whole number from 1 to"),
        ({"private": ["stem", "layers"]}, r"model.private \(layers\) must be one of stem, conditioning, head"),
        ({"order": "any"}, r"model.order \(any\) must be one of random, in_turn"),
        ({"table": "none"}, r"model.table \(none\) must be one of learned, frozen"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str, dit_contract: Contract) -> None:
    """Catches an option that is passed over."""
    with pytest.raises(UserError, match=message):
        PaperTraining(dit_contract, **options)


def test_networks_that_it_does_not_serve(dit_contract: Contract, data_spec: ImageSpec) -> None:
    """Catches a training of one block, and of a network whose parts have other names."""
    config = ContractConfig(network=LabelCNN(3, width=8), target=ClassTarget(dim=8))
    with pytest.raises(UserError, match=r"it cannot be made of contract\.network LabelCNN"):
        PaperTraining(config.build(data_spec))
    whole = ContractConfig(network=dit_contract.config.network, partition=PartitionConfig(num_blocks=1))
    with pytest.raises(UserError, match=r"contract.partition.num_blocks \(1\) must be at least 2"):
        PaperTraining(whole.build(dit_contract.data))
