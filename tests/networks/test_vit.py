"""ViT, as blocks that denoise a label vector and as the end-to-end classifier."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import ImageSpec
from dbl.networks import ViT
from dbl.utils.errors import UserError

SIZES = ViT(num_layers=4, width=16, num_heads=2, patch_size=2, mlp_width=20, dropout=0.0)
DIM = 9


def build(sizes: ViT, data: ImageSpec, num_layers: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sizes.build(data, (DIM,), num_layers)


def batch(data: ImageSpec, num: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy label vectors, c_noise and images."""
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(num, DIM, generator=generator)
    return noisy, torch.linspace(-0.6, 0.6, num), torch.randn(num, *data.shape, generator=generator)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))


def silent_parameters(network: nn.Module, inputs: tuple[Tensor, ...], num_steps: int) -> list[str]:
    """Names of the parameters without a gradient in the last of some optimizer steps."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    target = torch.randn(network(*inputs).shape, generator=torch.Generator().manual_seed(2))
    for _ in range(num_steps):
        optimizer.zero_grad()
        F.mse_loss(network(*inputs), target).backward()
        optimizer.step()
    return [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((3, 8, 6), SIZES),
        ((1, 4, 10), replace(SIZES, width=12, num_heads=3)),
        ((5, 9, 3), replace(SIZES, patch_size=3)),
        ((2, 4, 4), replace(SIZES, patch_size=4, mlp_width=5)),
    ],
)
def test_the_output_is_a_label_vector(shape: tuple[int, int, int], sizes: ViT, data_spec: ImageSpec) -> None:
    """Catches sizes that only work for squares and three channels, and an output with a token axis left over."""
    data = replace(data_spec, shape=shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    out = build(sizes, data, num_layers=2)(*batch(data))
    assert out.shape == (7, DIM)
    assert out.isfinite().all()
    noisy, c_noise, images = batch(data, num=1)
    assert build(sizes, data, num_layers=1)(noisy, c_noise, images).shape == (1, DIM)
    assert sizes.build_classifier(data)(batch(data)[2]).shape == (7, 5)


def test_blocks_together_have_the_layers_of_the_whole(data_spec: ImageSpec) -> None:
    """Catches a block that builds layers of other blocks, whose memory would not shrink."""
    whole = build(SIZES, data_spec, num_layers=4)
    parts = [build(SIZES, data_spec, num_layers=num) for num in (1, 3)]
    assert [len(part.layers) for part in parts] == [1, 3]
    assert sum(num_parameters(part.layers) for part in parts) == num_parameters(whole.layers)
    one_layer = num_parameters(whole.layers) // 4
    assert num_parameters(whole) - num_parameters(parts[0]) == 3 * one_layer


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_every_parameter_learns(dropout: float, data_spec: ImageSpec) -> None:
    """Catches parts that zero starts cut off for good, such as the image: all learn within three steps."""
    network = build(replace(SIZES, dropout=dropout), data_spec, num_layers=2)
    assert silent_parameters(network, batch(data_spec), num_steps=3) == []


def test_every_parameter_of_the_classifier_learns(data_spec: ImageSpec) -> None:
    """Catches a baseline that is weak because a part of it does not train."""
    torch.manual_seed(0)
    classifier = SIZES.build_classifier(data_spec)
    assert silent_parameters(classifier, batch(data_spec)[2:], num_steps=1) == []


def test_the_output_depends_on_every_input(data_spec: ImageSpec) -> None:
    """Catches an image, a level or a label vector that is passed but not used, or used for the wrong sample."""
    network = build(SIZES, data_spec, num_layers=2).eval()
    randomise(network)
    inputs = batch(data_spec)
    out = network(*inputs)
    changed = [tensor.clone() for tensor in inputs]
    changed[0][3, 8] += 0.5
    changed[1][3] += 0.1
    changed[2][3, 2, 7, 5] += 0.5
    for place, other in enumerate(changed):
        difference = network(*inputs[:place], other, *inputs[place + 1 :]) - out
        largest = difference.abs().max(dim=1).values
        assert largest[3] > 1e-4
        assert largest[[0, 1, 2, 4, 5, 6]].max() == 0


class NoLayer(nn.Module):
    """The first tokens, unchanged."""

    def forward(self, x: Tensor, cond: Tensor | None = None, *, num_queries: int) -> Tensor:
        return x[:, :num_queries]


def test_the_answer_is_read_at_the_leading_token(data_spec: ImageSpec) -> None:
    """Catches an answer that is read at a patch: without layers between, the leading token has not seen the image."""
    network, classifier = build(SIZES, data_spec, num_layers=1).eval(), SIZES.build_classifier(data_spec).eval()
    network.layers = classifier.layers = nn.ModuleList([NoLayer()])
    noisy, c_noise, images = batch(data_spec)
    assert torch.equal(network(noisy, c_noise, images), network(noisy, c_noise, images + 1))
    assert not torch.allclose(network(noisy, c_noise, images), network(noisy + 1, c_noise, images))
    assert torch.equal(classifier(images), classifier(images + 1))


def test_the_place_of_a_patch_matters(data_spec: ImageSpec) -> None:
    """Catches positions that are missing: without them the order of the patches could not be seen."""
    network, classifier = build(SIZES, data_spec, num_layers=2).eval(), SIZES.build_classifier(data_spec).eval()
    randomise(network)
    randomise(classifier)
    noisy, c_noise, images = batch(data_spec)
    swapped = images.roll(2, dims=2)  # patches move down by one row
    assert (network(noisy, c_noise, images) - network(noisy, c_noise, swapped)).abs().max() > 1e-3
    assert (classifier(images) - classifier(swapped)).abs().max() > 1e-3


def test_dropout_in_training_only(data_spec: ImageSpec) -> None:
    """Catches dropout that stays on in evaluation, or a setting that is read nowhere."""
    network = build(replace(SIZES, dropout=0.5), data_spec, num_layers=1)
    randomise(network)
    assert not torch.equal(network(*batch(data_spec)), network(*batch(data_spec)))
    network.eval()
    assert torch.equal(network(*batch(data_spec)), network(*batch(data_spec)))


def test_classifier_has_the_size_of_the_official_baseline(data_spec: ImageSpec) -> None:
    """Catches a layer of another size: the official code's ViT for CIFAR-100 has 10.3 M parameters; none allocated."""
    data = replace(data_spec, shape=(3, 32, 32), num_classes=100, class_frequencies=(0.01,) * 100)
    with torch.device("meta"):
        classifier = ViT(mlp_width=3072).build_classifier(data)
    assert len(classifier.layers) == 12
    assert math.isclose(num_parameters(classifier) / 1e6, 10.3, rel_tol=0.01)


def test_impossible_sizes_are_refused(data_spec: ImageSpec) -> None:
    """Catches sizes that fail inside torch with a message about shapes, and a pixel target with a label network."""
    with pytest.raises(UserError, match=r"patch_size \(4\) must divide the image size 8 x 6"):
        replace(SIZES, patch_size=4).build(data_spec, (DIM,), 1)
    with pytest.raises(UserError, match="patch_size"):
        replace(SIZES, patch_size=4).build_classifier(data_spec)
    with pytest.raises(UserError, match="num_heads"):
        ViT(width=16, num_heads=3)
    with pytest.raises(UserError, match="ClassTarget"):
        SIZES.build(data_spec, data_spec.shape, 1)
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match="dropout"):
            ViT(dropout=rate)


def test_the_last_layer_computes_the_leading_token_alone(data_spec: ImageSpec) -> None:
    """Catches work on patches that nothing reads; the answer is that of all tokens."""
    network, classifier = build(SIZES, data_spec, num_layers=2).eval(), SIZES.build_classifier(data_spec).eval()
    randomise(network)
    randomise(classifier)
    tokens: list[int] = []
    for last in (network.layers[-1], classifier.layers[-1]):
        last.mlp.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].shape[1]))
    noisy, c_noise, images = batch(data_spec)
    answers = network(noisy, c_noise, images), classifier(images)
    assert tokens == [1, 1]
    for last in (network.layers[-1], classifier.layers[-1]):
        compute = last.forward
        last.forward = lambda x, cond=None, num_queries=None, compute=compute: compute(x, cond)[:, :1]
    torch.testing.assert_close((network(noisy, c_noise, images), classifier(images)), answers)
    assert max(tokens) > 1
