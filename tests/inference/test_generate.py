"""Images and classes from Python: what goes in, what comes out, and what is refused."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from evaluation_toy import random_denoiser
from toy import Stripes
from toy_text import text_stack

import dbl
from dbl.data.spec import ImageSpec, white_value
from dbl.denoising.sampling import Sampler
from dbl.inference.pixels import to_raw, to_unit
from dbl.inference.stack import BlockStack
from dbl.run.contract import Contract
from dbl.run.inference import InferenceConfig
from dbl.utils.errors import UserError, one_line

HALF = [torch.bfloat16, torch.float16]


def _stack(contract: Contract, **options: object) -> BlockStack:
    sampler = Sampler(schedule="quantile", num_steps=6, temperature=float(contract.table is None))
    inference = InferenceConfig(sampler, **options)  # type: ignore[arg-type]
    return BlockStack(contract, lambda block: random_denoiser(contract, block), inference).eval()


@pytest.fixture
def maker(dit_contract: Contract) -> BlockStack:
    """A stack that makes images."""
    return _stack(dit_contract)


@pytest.fixture
def classifier(vit_contract: Contract) -> BlockStack:
    return _stack(vit_contract)


def _images(num: int = 5) -> torch.Tensor:
    return Stripes().split("test").images[torch.arange(num)]


def _line(error: pytest.ExceptionInfo[UserError]) -> str:
    line = str(error.value)
    assert line == one_line(line)
    return line


def test_another_number_of_steps_is_that_of_another_sampler(maker: BlockStack, classifier: BlockStack) -> None:
    """Catches a number of steps that is ignored, one that stays, and a call of a block that is not there."""
    own = maker.generate(num_images=2, seed=3), classifier.classify(_images())
    few = maker.generate(num_images=2, seed=3, num_steps=2), classifier.classify(_images(), num_steps=2)
    assert not torch.equal(own[0], few[0])
    assert not torch.equal(own[1], few[1])
    for stack in (maker, classifier):
        stack.inference = replace(stack.inference, sampler=replace(stack.inference.sampler, num_steps=2))
    assert torch.equal(few[0], maker.generate(num_images=2, seed=3))
    assert torch.equal(few[1], classifier.classify(_images()))
    first = BlockStack(
        maker.contract, lambda block: random_denoiser(maker.contract, block), maker.inference, available=[0]
    )
    assert first.generate(num_images=1, num_steps=1).isfinite().all()  # its only step is at a level of block 0
    with pytest.raises(UserError, match="sampling with 9 quantile steps"):
        first.generate(num_images=1, num_steps=9)
    with pytest.raises(UserError, match="num_steps"):
        maker.generate(num_images=1, num_steps=0)


def test_images_are_pixels_and_image_i_is_always_the_same(maker: BlockStack) -> None:
    """Catches raw values from 0 to 255, values beyond white, and images that depend on their number or batch."""
    images = maker.generate([0, 2], num_images=5, seed=3)
    assert images.shape == (5, 1, 4, 6)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.05
    torch.testing.assert_close(maker.generate([0, 2], num_images=5, seed=3, batch_size=2), images)
    torch.testing.assert_close(maker.generate([0, 2], seed=3), images[:2])
    assert not torch.allclose(maker.generate([0, 2], num_images=5, seed=4), images)
    raw = maker.sample_images(torch.tensor([0, 2]), torch.arange(2), seed=3)
    torch.testing.assert_close(images[:2], (raw / 255).clamp(0, 1))


def test_the_seed_is_that_of_the_settings_unless_another_is_given(dit_contract: Contract) -> None:
    """Catches a seed of the settings that is read nowhere."""
    assert torch.equal(_stack(dit_contract, seed=7).generate(1), _stack(dit_contract).generate(1, seed=7))


@pytest.mark.parametrize("labels", [[0, 1, 2], torch.tensor([0, 1, 2]), np.array([0, 1, 2]), range(3), None])
def test_labels_are_given_in_any_form(labels: object, maker: BlockStack) -> None:
    """Catches lists, arrays and ranges that only tensors replace."""
    assert torch.equal(maker.generate(labels), maker.generate([0, 1, 2]))  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [[3], [0, -1], 3, [], [0.5], [True], "1", [[0], [1]], [10**30], torch.empty(0)])
def test_a_class_that_is_not_there_is_one_line(labels: object, maker: BlockStack) -> None:
    """Catches an index error of torch, or the picture of "no class", which is class C of the network."""
    with pytest.raises(UserError, match="there are classes 0 to 2") as error:
        maker.generate(labels)  # type: ignore[arg-type]
    assert _line(error).startswith("labels ")


@pytest.mark.parametrize("options", [{"num_images": 0}, {"batch_size": 0}, {"seed": 0.5}, {"seed": 2**64}])
def test_numbers_that_cannot_be_are_one_line(options: dict[str, object], maker: BlockStack) -> None:
    """Catches an empty result, and a traceback of torch."""
    with pytest.raises(UserError, match=next(iter(options))) as error:
        maker.generate(**options)  # type: ignore[arg-type]
    assert "must be" in _line(error)


def test_raw_pixels_are_classified_as_in_the_evaluation(classifier: BlockStack) -> None:
    """Catches raw pixels that are taken for standardised ones: all answers would be chance, without a word."""
    images = _images()
    expected = classifier.sample_classes(classifier.space.standardise(images), torch.arange(5))  # type: ignore[operator]
    found = classifier.classify(images)
    assert found.shape == (5, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    assert found.std(0).min() > 0.01  # answers differ
    assert torch.equal(found, expected)
    assert torch.equal(classifier.classify(images.numpy()), expected)
    for same in (images / 255, (images / 255).double(), (images / 255).tolist()):
        torch.testing.assert_close(classifier.classify(same), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(classifier.classify(images, batch_size=2), expected)


def test_the_most_probable_class_is_that_of_the_sample(classifier: BlockStack) -> None:
    """Catches probabilities of another level than the last one, where the answer is read."""
    images = classifier.space.standardise(_images(15))  # type: ignore[operator]
    sample = classifier.space.decode(classifier.sample(images, torch.arange(15)))
    assert torch.equal(classifier.sample_classes(images, torch.arange(15)).argmax(1), sample)


REFUSED = {
    "one image": (torch.zeros(1, 4, 6), r"shape \[1, 4, 6\], but must have \[N, 1, 4, 6\].*image\[None\]"),
    "another size": (torch.zeros(2, 1, 8, 8), r"shape \[2, 1, 8, 8\], but must have \[N, 1, 4, 6\]"),
    "colours": (torch.zeros(2, 3, 4, 6), r"must have \[N, 1, 4, 6\]"),
    "no image": (torch.zeros(0, 1, 4, 6), "no image"),
    "whole numbers": (torch.zeros(2, 1, 4, 6, dtype=torch.int64), "images are int64, but must be uint8"),
    "truth values": (torch.zeros(2, 1, 4, 6, dtype=torch.bool), "images are bool"),
    "floats up to 255": (torch.full((2, 1, 4, 6), 255.0), "from 255 to 255: give floats from 0 to 1"),
    "standardised": (torch.full((2, 1, 4, 6), -1.5), "without any normalisation"),
    "NaN": (torch.full((2, 1, 4, 6), float("nan")), "NaN"),
    "text": ("image.png", "images must be a tensor or an array"),
    "ragged lists": ([[1], [1, 2]], "images must be a tensor or an array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_images_of_another_kind_are_one_line(case: str, classifier: BlockStack) -> None:
    """Catches images that are classified although the network was trained on others, and errors of torch."""
    images, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        classifier.classify(images)
    _line(error)


def test_a_stack_says_what_it_can_do(maker: BlockStack, classifier: BlockStack) -> None:
    """Catches a traceback from the middle of a network that was made for something else."""
    writer = text_stack("clean")
    for ask, named in (
        (lambda: maker.classify(_images()), r"classify\(\) is for classes, and this stack makes images: use stack.gen"),
        (lambda: maker.write("a"), "use stack.generate"),
        (lambda: classifier.generate([0]), r"generate\(\) is for images, .* classes: use stack.classify\(\)"),
        (lambda: writer.generate([0]), r"use stack.write\(\)"),
        (lambda: writer.classify(_images()), r"use stack.write\(\)"),
    ):
        with pytest.raises(UserError, match=named) as error:
            ask()
        _line(error)


def test_pictures_are_fitted_as_for_training() -> None:
    """Catches a picture that is refused for its size, squeezed instead of cut, or taken for standardised values."""
    spec = ImageSpec("toy", "toy-1", 2, (0.5, 0.5), shape=(1, 8, 8), mean=(60.0,), std=(70.0,))
    wide = np.zeros((16, 32, 3), dtype=np.uint8)
    wide[:, 8:24] = 200  # the square in the middle
    found = to_raw([PIL.Image.fromarray(wide), PIL.Image.fromarray(wide).convert("L")], spec)
    assert found.shape == (2, 1, 8, 8)
    torch.testing.assert_close(found[:, :, :, 1:-1], torch.full((2, 1, 8, 6), 200.0), atol=2, rtol=0)
    assert torch.equal(to_raw(PIL.Image.fromarray(wide), spec), found[:1])
    with pytest.raises(UserError, match="no square pictures"):
        to_raw(PIL.Image.fromarray(wide), replace(spec, shape=(1, 4, 8)))


SPECS = {
    "pixels of 8 bits": (60.0, 70.0, 255.0),
    "floats from 0 to 1": (0.3, 0.2, 1.0),
    "black or white": (0.5, 0.5, 1.0),
    "floats from -1 to 1": (0.1, 0.6, None),
    "standardised": (0.0, 1.0, None),
    "beyond 255": (300.0, 10.0, None),
}


@pytest.mark.parametrize("case", SPECS)
def test_white_follows_from_the_moments(case: str) -> None:
    """Catches data of floats whose images would be divided by 255, and latents that are taken for pixels."""
    mean, std, white = SPECS[case]
    spec = ImageSpec("toy", "toy-1", 2, (0.5, 0.5), shape=(1, 2, 2), mean=(mean,), std=(std,))
    assert white_value(spec) == white
    assert white_value(replace(spec, shape=(4, 2, 2), mean=(mean,) * 4, std=(std,) * 4)) is None
    raw = torch.full((1, 1, 2, 2), mean)
    torch.testing.assert_close(to_raw(to_unit(raw.clamp(max=white or mean), spec), spec), raw.clamp(max=white or mean))
    if white:
        assert to_raw(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), spec).unique().item() == white
    else:
        with pytest.raises(UserError, match="images are uint8, but must be of a float type"):
            to_raw(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), spec)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("keep_in_memory", ["all", "one"])
def test_low_precision_answers_as_before_up_to_rounding(
    keep_in_memory: str, dtype: torch.dtype, dit_contract: Contract, vit_contract: Contract
) -> None:
    """Catches types that do not meet, and tables, positions or frequencies that are rounded with the weights."""
    for contract, ask in (
        (dit_contract, lambda stack: stack.generate([0, 1, 2], seed=1)),
        (vit_contract, lambda stack: stack.classify(_images(15))),
    ):
        stack = _stack(contract, keep_in_memory=keep_in_memory)
        expected = ask(stack)
        found = ask(stack.to(dtype))
        assert {one.dtype for one in stack.denoiser(1).network.parameters()} == {dtype}
        assert {one.dtype for one in stack.denoiser(1).buffers() if one.is_floating_point()} == {torch.float32}
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert (found - expected).abs().mean() < 0.02
        torch.testing.assert_close(ask(stack.to(torch.float32)), found, rtol=0.1, atol=0.1)


def test_types_without_support_are_refused(maker: BlockStack) -> None:
    """Catches a conversion that is only half done, or fails at the first image."""
    with pytest.raises(UserError, match="cannot be float64: choose float32, bfloat16 or float16"):
        maker.double()
    assert maker.generate([0]).isfinite().all()
    assert {one.dtype for one in maker.parameters()} == {torch.float32}


def test_pictures_of_pixels() -> None:
    """Catches floats that are taken for values up to 255, and pictures of what is none."""
    floats = torch.rand(5, 1, 4, 6)
    floats[0, 0, 0, 0], floats[0, 0, 0, 1] = 0, 1
    picture = dbl.image_grid(floats, num_columns=3)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 2 + 2 * (4 * 8 + 2), 2 + 3 * (6 * 8 + 2))
    assert (picture.min(), picture.max()) == (0, 255)
    torch.testing.assert_close(
        picture, dbl.image_grid((floats * 255).round().to(torch.uint8), num_columns=3), atol=1, rtol=0
    )
    for wrong in (torch.rand(2, 4, 3, 3), torch.rand(3, 8, 8), torch.rand(0, 1, 2, 2)):
        with pytest.raises(UserError, match=r"must be \[N, 1 or 3, height, width\]"):
            dbl.image_grid(wrong)
    with pytest.raises(UserError, match="num_columns"):
        dbl.image_grid(floats, num_columns=0)
