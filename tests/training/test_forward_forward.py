"""Forward-Forward and its contrastive form: what each layer learns from, and what reaches the others."""

import math

import pytest
import torch
from toy import Stripes, recipe

from dbl.run.contract import Contract
from dbl.training.baselines.contrastive_forward_forward import ContrastiveForwardForwardViT, contrastive_loss
from dbl.training.baselines.forward_forward import ForwardForwardViT
from dbl.utils.errors import UserError


def _batch(stripes: Stripes) -> dict[str, torch.Tensor]:
    return stripes.batch("train", torch.arange(16))


@pytest.mark.parametrize("kind", [ForwardForwardViT, ContrastiveForwardForwardViT])
def test_no_gradient_passes_between_layers(kind: type, vit_contract: Contract, stripes: Stripes) -> None:
    """Catches a layer that is trained by the loss of a later one."""
    part = kind(vit_contract).eval()
    part.losses(_batch(stripes)).per_sample.mean().backward()
    before = [parameter.grad.clone() for parameter in part.network.layers[0].parameters()]
    part.zero_grad()
    with torch.no_grad():
        for layer in part.network.layers[1:]:
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
    part.losses(_batch(stripes)).per_sample.mean().backward()
    for old, parameter in zip(before, part.network.layers[0].parameters(), strict=True):
        assert torch.equal(old, parameter.grad)
    assert all(parameter.grad is not None for parameter in part.network.layers[-1].parameters())


def test_wrong_labels_are_wrong(vit_contract: Contract) -> None:
    """Catches a right label among the wrong ones, and the same wrong label in each step."""
    part = ForwardForwardViT(vit_contract)
    labels = torch.randint(vit_contract.data.num_classes, (500,))
    first = part._wrong_labels(labels)
    assert (first != labels).all()
    assert first.unique().tolist() == list(range(vit_contract.data.num_classes))
    part.batches_seen = 1
    assert not torch.equal(first, part._wrong_labels(labels))
    assert torch.equal(part.eval()._wrong_labels(labels), part._wrong_labels(labels))  # in validation


def test_the_loss_is_that_of_the_paper(vit_contract: Contract, stripes: Stripes) -> None:
    """Catches signs that are exchanged: at goodness equal to the threshold, each term is ln 2."""
    part = ForwardForwardViT(vit_contract).eval()
    clean = part.space.encode(_batch(stripes))

    def goodness(right: float, wrong: float) -> None:
        part.network.forward = lambda images, labels: torch.full(  # type: ignore[method-assign]
            (len(images), 3), right if labels.equal(clean.labels) else wrong
        )

    goodness(part.threshold, part.threshold)
    assert part.losses(_batch(stripes)).per_sample.tolist() == pytest.approx([6 * math.log(2)] * 16)
    goodness(right=12.0, wrong=0.0)
    assert float(part.losses(_batch(stripes)).per_sample.max()) < 0.4


def test_the_contrastive_loss_of_a_known_case() -> None:
    """Catches an image that is its own positive, a margin for other classes, and a similarity above 1."""
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 2])
    found = contrastive_loss(features, labels, margin=0.5, temperature=1.0)
    pair = math.log(math.e + 2) - 1  # similarity 1 to the other of its class, 0 to two more
    assert found.tolist() == pytest.approx([pair, pair, 0, 0], abs=1e-6)
    apart = contrastive_loss(torch.eye(3), torch.tensor([0, 0, 1]), margin=0.5, temperature=0.5)
    assert float(apart[0]) == pytest.approx(math.log(math.e + 1) - 1)


@pytest.mark.parametrize("kind", [ForwardForwardViT, ContrastiveForwardForwardViT])
def test_it_learns(kind: type, vit_contract: Contract, stripes: Stripes) -> None:
    """Catches a loss that teaches nothing about the label, or a prediction that does not use what was learned."""
    part = kind(vit_contract, recipe())
    optimizer = part.recipe.make_optimizer(part)
    batch = stripes.batch("train", torch.arange(54))
    for step in range(200):
        part.batches_seen = step
        optimizer.zero_grad()
        part.losses(batch).per_sample.mean().backward()
        optimizer.step()
    clean = part.eval().space.encode(batch)
    right = part.class_logits(clean.cond, batch["index"]).argmax(dim=1) == clean.labels
    assert float(right.float().mean()) > 0.9


@pytest.mark.parametrize("kind", [ForwardForwardViT, ContrastiveForwardForwardViT])
def test_another_network_is_refused(kind: type, dit_contract: Contract) -> None:
    """Catches an error from inside the network."""
    with pytest.raises(UserError, match="needs contract"):
        kind(dit_contract)
