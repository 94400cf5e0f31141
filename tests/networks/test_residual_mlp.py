"""A residual MLP that classifies vectors: as blocks, whole, and in a report and a plan."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dbl
from dbl.data.spec import DataSpec, TextSpec, VectorSpec
from dbl.denoising.targets import ClassSpace
from dbl.networks import ResidualMLP
from dbl.training.baselines import EndToEndClassifier, baseline_of
from dbl.utils.errors import UserError

DATA = VectorSpec("toy", "toy-1", 2, (0.5, 0.5), num_features=3, mean=(1.0, 2.0, 5.0), std=(2.0, 4.0, 0.0))
SIZES = ResidualMLP(num_layers=4, width=16, mlp_width=24, dropout=0.0)


def _out(network: torch.nn.Module, noisy: Tensor, sigma: Tensor, vectors: Tensor) -> Tensor:
    return network(noisy, sigma, vectors)


def test_a_block_answers_for_each_row_alone_and_uses_all_that_it_is_given() -> None:
    """Catches rows that are mixed, and a layer, level, vector or target that is not connected."""
    block = SIZES.build(DATA, (4,), num_layers=2)
    assert len(block.layers) == 2
    with torch.no_grad():
        for parameter in block.parameters():  # modulations start at zero
            parameter.add_(0.1 * torch.randn_like(parameter))
    noisy, level, vectors = torch.randn(5, 4), torch.randn(5), torch.randn(5, 3)
    out = _out(block, noisy, level, vectors)
    assert out.shape == (5, 4)
    assert torch.allclose(out[2:3], _out(block, noisy[2:3], level[2:3], vectors[2:3]), atol=1e-5)
    for changed in ((noisy + 1, level, vectors), (noisy, level + 1, vectors), (noisy, level, vectors + 1)):
        assert not torch.allclose(out, _out(block, *changed), atol=1e-3)
    out.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


def test_layers_start_as_the_identity_and_the_width_of_the_level_is_an_option() -> None:
    """Catches a modulation that is not zero at the start, and a width that is read nowhere."""
    block = ResidualMLP(2, 16, 24, conditioning_width=6).build(DATA, (4,), num_layers=2)
    assert block.layers[0].modulation.project.weight.shape == (48, 6)
    x = torch.randn(3, 1, 16)
    assert torch.equal(block.layers[0](x, torch.randn(3, 6)), x)


def test_the_whole_network_has_all_layers_and_is_the_baseline() -> None:
    """Catches a baseline of another depth, and `dbl compare` that falls back to one block."""
    network = SIZES.build_classifier(DATA)
    assert len(network.layers) == 4
    assert network(torch.randn(5, 3)).shape == (5, 2)
    assert baseline_of(SIZES) is EndToEndClassifier


def test_wrong_partners_are_refused() -> None:
    """Catches a network of vectors that is built for images or for another target."""
    images = dbl.ImageSpec("toy", "toy-1", 2, (0.5, 0.5), shape=(1, 4, 4), mean=(0.0,), std=(1.0,))
    with pytest.raises(UserError, match="ResidualMLP is for vector data, but data toy is image"):
        SIZES.build(images, (4,), num_layers=2)
    with pytest.raises(UserError, match=r"use it with the target dbl\.ClassTarget"):
        SIZES.build(DATA, (4, 4), num_layers=2)
    with pytest.raises(UserError, match=r"PixelTarget is for images, but data toy is vector: use dbl\.ClassTarget"):
        dbl.PixelTarget().shape(DATA)


def test_the_condition_of_a_class_is_a_scaled_vector_or_that_of_data_of_ones_own() -> None:
    """Catches raw values before the network, a division by zero, and a target that only knows images."""
    table = torch.eye(2)
    batch = {"vector": torch.tensor([[3.0, 2.0, 5.0]]), "label": torch.tensor([1])}
    clean = ClassSpace(DATA, table).encode(batch)
    assert clean.cond.tolist() == [[1.0, 0.0, 0.0]]
    assert clean.clean.tolist() == [[0.0, 1.0]]
    own = ClassSpace(DataSpec("own", "own-1", 2, (0.5, 0.5)), table)
    assert own.encode({"cond": torch.tensor([7]), "label": torch.tensor([0])}).cond.tolist() == [7]
    with pytest.raises(UserError, match="ClassTarget needs labels, but data own is text"):
        ClassSpace(TextSpec("own", "own-1", 2, (0.5, 0.5), seq_len=4, tokenizer="a"), table)


def test_a_stack_classifies_raw_vectors(tmp_path: Path) -> None:
    """Catches vectors that must be scaled by hand, and answers that do not learn from them."""
    data = dbl.Wine(batch_size=32, eval_batch_size=64)
    config = dbl.ContractConfig(
        ResidualMLP(2, 32, 64), dbl.ClassTarget(dim=4), dbl.InformationNoise(0.5, 10.0), dbl.PartitionConfig(2)
    )
    contract = config.build(data.spec)
    blocks = [dbl.DiffusionBlock(contract, block) for block in range(2)]
    inference = dbl.InferenceConfig(dbl.Sampler(schedule="quantile", num_steps=2, temperature=0.0))
    stack = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval(), inference).eval()
    test = data.split("test")
    found = stack.classify(test.vectors.numpy())
    assert found.shape == (52, 3)
    assert torch.allclose(found.sum(dim=1), torch.ones(52), atol=1e-5)
    with pytest.raises(UserError, match=r"\[N, 13\], as those of wine; one vector needs an axis more"):
        stack.classify(test.vectors[0])
    with pytest.raises(UserError, match="cannot be exported"):
        dbl.export_stack(stack, tmp_path / "programs")
