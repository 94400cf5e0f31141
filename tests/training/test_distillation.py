"""Blocks that learn from the network which they were cut from: the loss, the teacher's place, and its memory."""

from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.nn import functional as F

from dbl.data import Characters, Digits, PyDoc
from dbl.denoising.targets import ClassTarget, Clean, MaskTarget, PixelTarget
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import DiT, MaskedLM, ViT
from dbl.run.contract import Contract, ContractConfig
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.training.config import TrainingConfig
from dbl.training.memory.planner import Planner
from dbl.training.noisy_data import NoisyData
from dbl.utils.errors import UserError

HALF = TrainingConfig(distillation=0.5)
IMAGES = ContractConfig(DiT(num_layers=6, width=16, num_heads=2, patch_size=4, cond_dropout=0.0), PixelTarget())
TEXT = ContractConfig(MaskedLM(6, width=16, num_heads=2, mlp_width=32), MaskTarget(), MaskingNoise(0.01))


def _images() -> Contract:
    return IMAGES.build(Digits(batch_size=8, eval_batch_size=8).spec)


def _taught(contract: Contract, share: float) -> DiffusionBlock:
    """A block whose teacher is another network with weights that do not start at 0."""
    block = DiffusionBlock(contract, 1, TrainingConfig(distillation=share))
    teacher = replace(contract.config, seed=7, partition=PartitionConfig(num_blocks=1)).build(contract.data).denoiser(0)
    for network in (block.denoiser, teacher):
        torch.nn.init.normal_(network.network.head.project.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    block.learn_from(teacher)
    return block


def _batch(contract: Contract) -> NoisyBatch:
    generator = torch.Generator().manual_seed(0)
    if contract.config.target == TEXT.target:
        tokens = torch.randint(contract.data.num_classes, (4, 12), generator=generator)
        hidden = torch.rand(4, 12, generator=generator) < 0.5
        noisy = tokens.masked_fill(hidden, contract.data.num_classes)
        return NoisyBatch(Clean(tokens, tokens, tokens), noisy, torch.full((4,), 0.5))
    clean, labels = torch.randn(4, 1, 8, 8, generator=generator), torch.arange(4)
    return NoisyBatch(Clean(clean, labels, labels), clean + 0.3, torch.full((4,), 0.3))


def test_the_loss_of_images_is_a_mean_of_two_squared_errors() -> None:
    """Catches a share that is applied twice or to the wrong side, and a weight that one of them lacks."""
    block, batch = _taught(_images(), 0.25), _batch(_images())
    clean, noisy, sigma = batch
    answer = block.denoiser(noisy, sigma, clean.cond)
    taught = block._teacher[0](noisy, sigma, clean.cond)
    errors = [(answer - truth).square().flatten(1).mean(1) for truth in (clean.clean, taught)]
    expected = block.denoiser.loss_weight(sigma) * (0.75 * errors[0] + 0.25 * errors[1])
    torch.testing.assert_close(block.losses(batch).per_sample, expected)


def test_the_loss_of_masked_text_is_a_mean_of_two_cross_entropies() -> None:
    """Catches a distribution of the teacher that also counts at tokens which are shown."""
    contract = TEXT.build(PyDoc(seq_len=12, tokenizer=Characters(), batch_size=4, eval_batch_size=4).spec)
    block, batch = _taught(contract, 0.5), _batch(contract)
    clean, noisy, sigma = batch
    logits, taught = (part.predict(noisy, sigma, clean.cond).logits for part in (block.denoiser, block._teacher[0]))
    assert logits is not None
    assert taught is not None
    truth = 0.5 * F.one_hot(clean.clean, contract.data.num_classes) + 0.5 * taught.softmax(-1)
    nats = -(truth * logits.log_softmax(-1)).sum(-1) * (noisy == contract.data.num_classes)
    expected = block.denoiser.loss_weight(sigma) * nats.mean(1)
    torch.testing.assert_close(block.losses(batch).per_sample, expected)


def test_validation_compares_with_the_data_alone() -> None:
    """Catches losses that cannot be compared with those of blocks without a teacher."""
    block, batch = _taught(_images(), 0.5).eval(), _batch(_images())
    assert torch.equal(block.losses(batch).per_sample, block.denoiser.loss(*batch))


def test_a_teacher_is_no_part_of_the_block() -> None:
    """Catches a teacher that is trained, averaged, saved or counted among the parameters of a block."""
    block = _taught(_images(), 0.5)
    assert block.state_dict().keys() == DiffusionBlock(_images(), 1).state_dict().keys()
    assert len(list(block.parameters())) == len(list(block.denoiser.parameters()))
    before = {name: tensor.clone() for name, tensor in block._teacher[0].state_dict().items()}
    block.losses(_batch(_images())).per_sample.mean().backward()
    assert all(parameter.grad is None for parameter in block._teacher[0].parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in block._teacher[0].state_dict().items())


def test_a_block_without_its_teacher_is_not_trained(tmp_path: Path) -> None:
    """Catches an option that is silently ignored in a run that was not converted."""
    data = Digits(batch_size=8, eval_batch_size=8)
    block = DiffusionBlock(_images(), 1, HALF)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(UserError, match=r"model\.recipe\.distillation needs the network"):
        trainer.fit(block, NoisyData(data, block))


def test_classes_have_no_teacher() -> None:
    """Catches a loss of classes that would leave out its share without evidence."""
    contract = replace(IMAGES, network=ViT(6, width=16, num_heads=2), target=ClassTarget())
    block = DiffusionBlock(contract.build(Digits(batch_size=8, eval_batch_size=8).spec), 0, HALF)
    with pytest.raises(UserError, match="is for images and masked text, not for ClassTarget"):
        block.learn_from(block.denoiser)


def test_a_plan_has_the_teacher() -> None:
    """Catches a block that is planned as if the whole network were not in memory."""
    data, partition = Digits(batch_size=8, eval_batch_size=8).spec, PartitionConfig(num_blocks=3)
    planner = Planner(IMAGES, data, TrainingConfig())
    own, taught = (
        sum(planner.peak(planner.block(partition, recipe), 8).values()) for recipe in (TrainingConfig(), HALF)
    )
    whole = replace(IMAGES, partition=PartitionConfig(num_blocks=1)).build(data).denoiser(0)
    # Not all of it: without the prediction of the loss's own path a few activations are freed earlier.
    assert taught > own + 0.9 * 4 * sum(parameter.numel() for parameter in whole.parameters())


def test_shares_outside_0_and_1_are_refused() -> None:
    """Catches a weight that makes the loss negative."""
    with pytest.raises(UserError, match=r"model\.recipe\.distillation"):
        TrainingConfig(distillation=1.5)
