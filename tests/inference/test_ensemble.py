"""Blocks that read the context alone, asked together."""

import pytest
import torch
from toy_text import text_contract

from dbl.denoising.decoding import Decoding
from dbl.denoising.likelihood import BoundEstimator
from dbl.denoising.sampling import Sampler
from dbl.evaluation.callbacks.likelihood import add_batch
from dbl.inference.ensemble import Ensemble
from dbl.inference.generation import BlockDecoder, BlockSampling, CausalGenerator
from dbl.inference.stack import BlockStack
from dbl.run.contract import Contract
from dbl.run.inference import InferenceConfig
from dbl.utils.errors import UserError


@pytest.fixture
def contract() -> Contract:
    return text_contract("clean")


def ensemble_of(contract: Contract) -> Ensemble:
    members = [contract.denoiser(block).eval() for block in range(contract.partition.num_blocks)]
    with torch.no_grad():
        for number, member in enumerate(members):
            for index, parameter in enumerate(member.parameters()):
                generator = torch.Generator().manual_seed(100 * number + index)
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return Ensemble(members)  # type: ignore[arg-type]


def batch_of(contract: Contract, num: int = 3) -> dict[str, torch.Tensor]:
    length = contract.data.seq_len + 1  # type: ignore[attr-defined]
    tokens = torch.randint(0, contract.data.num_classes, (num, length), generator=torch.Generator().manual_seed(1))
    return {"tokens": tokens, "index": torch.arange(num)}


@torch.no_grad()
def test_the_ensemble_is_the_geometric_mean_of_its_members(contract: Contract) -> None:
    """Catches a mean of logits without normalisation, a member left out, and evidence that is counted once a member."""
    ensemble, clean = ensemble_of(contract), contract.space().encode(batch_of(contract))
    sigma = torch.tensor([0.5, 1.0, 4.0])
    noisy = clean.clean + sigma.reshape(-1, 1, 1) * torch.randn(clean.clean.shape)
    members = [
        (readout.linear(network(None, None, clean.cond))).log_softmax(-1)  # type: ignore[operator]
        for readout, network in zip(ensemble.readouts, ensemble.network.members, strict=True)  # type: ignore[arg-type]
    ]
    evidence = (noisy @ contract.table.T) / sigma.reshape(-1, 1, 1).square()  # type: ignore[union-attr]
    expected = (sum(members) / len(members) + evidence).softmax(-1)
    found = ensemble.predict(noisy, sigma, clean.cond)
    assert found.logits is not None
    torch.testing.assert_close(found.logits.softmax(-1), expected)
    torch.testing.assert_close(found.denoised, expected @ contract.table)


@torch.no_grad()
def test_the_bound_of_a_ensemble_is_its_own_cross_entropy(contract: Contract) -> None:
    """Catches a bound that asks the blocks one by one: with exact evidence the bound is the ensemble's exact value."""
    ensemble = ensemble_of(contract)
    inference = InferenceConfig(ensemble=True, sampler=Sampler(schedule="quantile", num_steps=4))
    stack = BlockStack(contract, lambda block: contract.denoiser(block), inference).eval()
    stack.ensemble = ensemble
    channel = contract.config.target.channel(contract.data, contract.table)
    assert channel is not None
    estimator = BoundEstimator(channel, contract.noise, contract.partition, levels_per_block=8, seed=0)
    batch = batch_of(contract, num=300)
    add_batch(estimator, stack, batch, stack.denoiser_for)
    clean = stack.space.encode(batch)
    far = torch.full((300,), 1e4)
    logits = ensemble.predict(torch.zeros_like(clean.clean), far, clean.cond).logits
    assert logits is not None
    exact = torch.nn.functional.cross_entropy(logits.flatten(0, 1), clean.labels.flatten()).item()
    found = estimator.result()
    assert found.nats == pytest.approx(exact, abs=max(3 * found.standard_error, 0.03))


def test_a_ensemble_writes_alike_with_and_without_kept_keys(contract: Contract) -> None:
    """Catches contexts of one member that are given to another."""
    ensemble = ensemble_of(contract)
    written = []
    for cached in (True, False):
        sampler = Sampler(schedule="quantile", num_steps=4)
        blocks = BlockSampling(lambda block: ensemble, contract.noise, contract.partition, sampler, Decoding())
        reader = BlockDecoder(blocks, cached)
        generator = CausalGenerator(reader, seq_len=contract.data.seq_len)  # type: ignore[attr-defined]
        written.append(generator.generate(torch.tensor([[0], [1]]), 12, torch.arange(2)))
    assert torch.equal(*written)


@pytest.mark.parametrize("kind", ["two", "masked", "recurrent"])
def test_other_blocks_form_no_ensemble(kind: str) -> None:
    """Catches blocks that are asked about levels on which they were not trained."""
    with pytest.raises(UserError, match=r"inference\.ensemble needs"):
        InferenceConfig(ensemble=True).check(text_contract(kind))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="keep_in_memory=all"):
        InferenceConfig(ensemble=True, keep_in_memory="one").check(text_contract("clean"))
