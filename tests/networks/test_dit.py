"""DiT, one block at a time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import ImageSpec
from dbl.networks import DiT
from dbl.utils.errors import UserError

SIZES = DiT(num_layers=4, width=16, num_heads=2, patch_size=2, mlp_ratio=1.5, cond_dropout=0.0)


def build(sizes: DiT, data: ImageSpec, num_layers: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sizes.build(data, data.shape, num_layers)


def batch(data: ImageSpec, num: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images, c_noise and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num, *data.shape, generator=generator)
    return images, torch.linspace(-1.5, 1.1, num), torch.arange(num) % data.num_classes


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((3, 8, 6), SIZES),
        ((1, 4, 10), replace(SIZES, width=12, num_heads=3)),
        ((5, 9, 3), replace(SIZES, patch_size=3, mlp_ratio=4.0)),
        ((2, 4, 4), replace(SIZES, patch_size=4)),
        ((2, 3, 2), replace(SIZES, patch_size=1, num_heads=4)),
    ],
)
def test_the_output_has_the_shape_of_the_input(shape: tuple[int, int, int], sizes: DiT, data_spec: ImageSpec) -> None:
    """Catches height and width exchanged, or patches that only work for squares and three channels."""
    data = replace(data_spec, shape=shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    network = build(sizes, data, num_layers=2)
    randomise(network)
    out = network(*batch(data))
    assert out.shape == (7, *shape)
    assert out.isfinite().all()


def test_blocks_together_have_the_layers_of_the_whole(data_spec: ImageSpec) -> None:
    """Catches a block that builds layers of other blocks, whose memory would not shrink."""
    whole = build(SIZES, data_spec, num_layers=4)
    parts = [build(SIZES, data_spec, num_layers=num) for num in (1, 3)]
    assert [len(part.layers) for part in parts] == [1, 3]
    assert sum(num_parameters(part.layers) for part in parts) == num_parameters(whole.layers)
    one_layer = num_parameters(whole.layers) // 4
    assert num_parameters(whole) - num_parameters(parts[0]) == 3 * one_layer


def test_the_first_output_is_zero(data_spec: ImageSpec) -> None:
    """Catches a head that does not start at 0: the first denoised image would not be c_skip times the noisy one."""
    out = build(SIZES, data_spec, num_layers=2)(*batch(data_spec))
    assert torch.equal(out, torch.zeros_like(out))


def test_every_parameter_learns(data_spec: ImageSpec) -> None:
    """Catches parts that zero starts cut off for good: the head learns at once, all else within four steps."""
    network = build(SIZES, data_spec, num_layers=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    target = torch.randn(7, *data_spec.shape, generator=torch.Generator().manual_seed(2))
    for step in range(4):
        optimizer.zero_grad()
        F.mse_loss(network(*batch(data_spec)), target).backward()
        if step == 0:
            assert network.head.project.weight.grad.abs().max() > 0
            assert network.head.project.bias.grad.abs().max() > 0
        optimizer.step()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert silent == []


def test_the_output_depends_on_every_input(data_spec: ImageSpec) -> None:
    """Catches a label or a level that is passed but not used, or used for the wrong sample."""
    network = build(SIZES, data_spec, num_layers=2).eval()
    randomise(network)
    images, c_noise, labels = batch(data_spec)
    out = network(images, c_noise, labels)
    changed = [images.clone(), c_noise.clone(), labels.clone()]
    changed[0][3, 2, 7, 5] += 0.5
    changed[1][3] += 0.1
    changed[2][3] = (labels[3] + 1) % 5
    for place, other in enumerate(changed):
        inputs = [images, c_noise, labels]
        inputs[place] = other
        difference = (network(*inputs) - out).abs().flatten(1).max(dim=1).values
        assert difference[3] > 1e-3
        assert difference[[0, 1, 2, 4, 5, 6]].max() == 0


def test_pixels_far_apart_see_each_other(data_spec: ImageSpec) -> None:
    """Catches tokens that are never mixed: a change in one corner must reach the opposite one."""
    network = build(SIZES, data_spec, num_layers=1).eval()
    randomise(network)
    images, c_noise, labels = batch(data_spec)
    changed = images.clone()
    changed[:, :, 0, 0] += 1
    assert (network(changed, c_noise, labels) - network(images, c_noise, labels))[:, :, 7, 5].abs().max() > 1e-5


def test_equal_patches_in_different_places_give_different_answers(data_spec: ImageSpec) -> None:
    """Catches positions that are missing: without them a constant image gives the same answer for every patch."""
    network = build(SIZES, data_spec, num_layers=1).eval()
    randomise(network)
    out = network(torch.ones(1, *data_spec.shape), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    patches = F.unfold(out, kernel_size=2, stride=2)[0].T  # 12 patches
    assert torch.cdist(patches, patches).add(torch.eye(12)).min() > 1e-4


def seen_labels(network: nn.Module, data: ImageSpec, labels: Tensor, seed: int) -> Tensor:
    """The labels that reach the embedding."""
    seen: list[Tensor] = []
    handle = network.label_embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    torch.manual_seed(seed)
    network(torch.zeros(len(labels), *data.shape), torch.zeros(len(labels)), labels)
    handle.remove()
    return seen[0]


def test_labels_are_dropped_in_training_at_their_rate(data_spec: ImageSpec) -> None:
    """Catches one draw for the whole batch, a wrong rate, a "no class" that is a class, and draws without a seed."""
    data = replace(data_spec, shape=(1, 2, 2), mean=(0.0,), std=(1.0,))
    network = build(replace(SIZES, width=4, num_heads=1, cond_dropout=0.3), data, num_layers=1)
    labels = torch.arange(4000) % 5
    seen = seen_labels(network, data, labels, seed=0)
    dropped = seen == 5
    assert torch.equal(seen[~dropped], labels[~dropped])
    for label in range(5):
        assert dropped[labels == label].double().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(seen, seen_labels(network, data, labels, seed=0))
    assert not torch.equal(seen, seen_labels(network, data, labels, seed=1))
    assert labels.max() == 4


def test_labels_are_kept_in_evaluation_and_at_rate_0(data_spec: ImageSpec) -> None:
    """Catches dropout in evaluation, with which a sampler would forget the class now and then."""
    labels = torch.arange(500) % 5
    network = build(replace(SIZES, cond_dropout=0.9), data_spec, num_layers=1).eval()
    assert torch.equal(seen_labels(network, data_spec, labels, seed=0), labels)
    network = build(replace(SIZES, cond_dropout=0.0), data_spec, num_layers=1)
    assert torch.equal(seen_labels(network, data_spec, labels, seed=0), labels)


def test_no_class_has_an_embedding_of_its_own(data_spec: ImageSpec) -> None:
    """Catches a "no class" that shares its vector with a class, or does not fit the table."""
    network = build(SIZES, data_spec, num_layers=1).eval()
    randomise(network)
    out = network(torch.ones(6, *data_spec.shape), torch.zeros(6), torch.arange(6)).flatten(1)
    assert torch.cdist(out, out).add(torch.eye(6)).min() > 1e-3


@pytest.mark.parametrize(
    ("name", "num_layers", "width", "num_heads", "millions"),
    [("S/2", 12, 384, 6, 33), ("B/4", 12, 768, 12, 130), ("L/2", 24, 1024, 16, 458), ("XL/8", 28, 1152, 16, 676)],
)
def test_presets_have_the_published_sizes(
    name: str, num_layers: int, width: int, num_heads: int, millions: float, data_spec: ImageSpec
) -> None:
    """Catches a wrong row of DiT's Table 1; parameters in its setting (4 x 32 x 32, 1000 classes), none allocated."""
    sizes = DiT.preset(name)
    assert (sizes.num_layers, sizes.width, sizes.num_heads) == (num_layers, width, num_heads)
    assert sizes.patch_size == int(name[-1])
    data = replace(
        data_spec,
        shape=(4, 32, 32),
        mean=(0.0,) * 4,
        std=(1.0,) * 4,
        num_classes=1000,
        class_frequencies=(0.001,) * 1000,
    )
    with torch.device("meta"):
        network = sizes.build(data, data.shape, num_layers)
    # Half a million less at most: no variance is learned, and half as many features of the level go in.
    assert math.isclose(num_parameters(network) / 1e6, millions, rel_tol=0.01)


def test_presets_can_be_changed() -> None:
    """Catches changes to a preset that are dropped."""
    assert DiT.preset("S/4", cond_dropout=0.0) == DiT(12, 384, 6, patch_size=4, cond_dropout=0.0)


@pytest.mark.parametrize("name", ["M/2", "S/3", "S", "S2", "", "s/2", "S/2/2"])
def test_unknown_presets_are_refused(name: str) -> None:
    """Catches a typing error that silently means another size."""
    with pytest.raises(UserError, match="preset"):
        DiT.preset(name)


def test_impossible_sizes_are_refused(data_spec: ImageSpec) -> None:
    """Catches sizes that fail inside torch with a message about shapes."""
    with pytest.raises(UserError, match=r"patch_size \(4\) must divide the image size 8 x 6"):
        replace(SIZES, patch_size=4).build(data_spec, data_spec.shape, 1)
    with pytest.raises(UserError, match="num_heads"):
        DiT(width=16, num_heads=3)
    with pytest.raises(UserError, match="multiple of 4"):
        DiT(width=18, num_heads=3)
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match="cond_dropout"):
            DiT(cond_dropout=rate)


@pytest.mark.parametrize("target_shape", [(7,), (3, 6, 8), (1, 8, 6)])
def test_targets_that_are_not_the_image_are_refused(target_shape: tuple[int, ...], data_spec: ImageSpec) -> None:
    """Catches a class target with an image network."""
    with pytest.raises(UserError, match="PixelTarget"):
        SIZES.build(data_spec, target_shape, 1)


@pytest.mark.parametrize("change", [{"num_heads": 0}, {"patch_size": 0}], ids=["num_heads", "patch_size"])
def test_sizes_of_zero_are_refused(change: dict[str, int], data_spec: ImageSpec) -> None:
    """Catches a ZeroDivisionError in place of one clear line."""
    with pytest.raises(UserError, match=next(iter(change))):
        replace(SIZES, **change).build(data_spec, data_spec.shape, 1)
