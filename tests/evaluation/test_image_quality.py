"""The callback that generates images and compares them with real ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import VIT

from dbl.data import ImageData
from dbl.data.spec import ImageSpec
from dbl.denoising.targets import ClassTarget
from dbl.diffusion.partition import PartitionConfig
from dbl.evaluation.callbacks.image_quality import ImageQuality, as_stored, labels_of
from dbl.evaluation.features import InDomainFeatures, Reference
from dbl.evaluation.image_metrics import NAMES, image_metrics
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.run.contract import ContractConfig
from dbl.run.inference import InferenceConfig
from dbl.utils.errors import UserError

pytest.importorskip("torch_fidelity")

MakeStack = Callable[..., BlockStack]


def _test(stack: BlockStack, data: ImageData, callback: ImageQuality) -> dict[str, float]:
    """What `Trainer.test` logs."""
    loop = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (logged,) = loop.test(StackEvaluation(stack), datamodule=data, verbose=False)
    return dict(logged)


def test_a_test_logs_means_and_keeps_the_result(make_stack: MakeStack, data: ImageData, cache: str) -> None:
    """Catches draws that are equal, a mean over the wrong axis, values that JSON cannot hold, and missing facts."""
    callback = ImageQuality(num_images=90, seeds=2, cache_dir=cache)
    logged = _test(make_stack(data), data, callback)
    result = callback.result
    assert result is not None
    assert json.loads(json.dumps(result)) == result
    assert set(result["metrics"]) == {f"{name}_manystripes" for name in NAMES}
    for name, values in result["metrics"].items():
        assert len(values) == 2
        assert logged[f"test/{name}"] == pytest.approx(sum(values) / 2, rel=1e-6)
    first, second = result["metrics"]["fid_manystripes"]
    assert first != second
    extractor = InDomainFeatures(data, cache)
    facts = {key: value for key, value in result.items() if key not in ("metrics", "real_test_images")}
    assert facts == {
        "features": "in_domain (manystripes)",
        "features_identity": extractor.identity,
        "num_images": 90,
        "split": "train",
        "num_reference": len(data.split("train")),
        "draws": [0, 1],
        "classifier_accuracy": extractor.accuracy,
        "seed": 0,
        "weights": "live",
        "guidance_scale": 1.0,
        "num_steps": 3,
        "feature_size": 64,
    }
    real, test = (Reference(split).features(extractor, data, cache) for split in ("train", "test"))
    assert result["real_test_images"] == pytest.approx(image_metrics(real, test, "manystripes"))
    assert 0 < result["real_test_images"]["fid_manystripes"] < 0.5 * min(first, second)


@pytest.mark.parametrize("asked", [False, True])
def test_validation_compares_if_asked(asked: bool, make_stack: MakeStack, data: ImageData, cache: str) -> None:
    """Catches an option that is read nowhere, and validations that cost as much as tests unasked."""
    callback = ImageQuality(num_images=90, cache_dir=cache, in_validation=asked)
    loop = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False, enable_checkpointing=False
    )
    (logged,) = loop.validate(StackEvaluation(make_stack(data)), datamodule=data, verbose=False)
    assert ("val/fid_manystripes" in logged) == asked
    assert (callback.result is not None) == asked


def test_the_batch_size_changes_nothing(make_stack: MakeStack, data: ImageData, cache: str) -> None:
    """Catches noise or labels by place in the batch, and batch statistics in the extractor.

    Not bit for bit: matrix products of other sizes add up in another order, and a value beside a half is then rounded
    to the other pixel.
    """
    stack = make_stack(data)
    found = [ImageQuality(cache_dir=cache, batch_size=size).evaluate(stack, data, 150) for size in (32, 100)]
    for name in ("fid_manystripes", "kid_manystripes", "inception_score_manystripes"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4), name


def test_evaluate_follows_the_sampler_and_the_draws(make_stack: MakeStack, data: ImageData, cache: str) -> None:
    """Catches numbers that are computed once and handed out for every setting, and draws counted from 0 always."""
    callback, stack = ImageQuality(num_images=70, seeds=3, cache_dir=cache), make_stack(data)
    state = torch.get_rng_state()
    both = callback.evaluate(stack, data, draws=(0, 2))["fid_manystripes"]
    assert torch.equal(torch.get_rng_state(), state)
    assert callback.evaluate(stack, data, draws=(2,))["fid_manystripes"] == both[1:]
    stack.inference = replace(stack.inference, sampler=replace(stack.inference.sampler, num_steps=6))
    assert callback.evaluate(stack, data)["fid_manystripes"][0] != both[0]
    assert callback.evaluate(stack, data, num_images=80)["fid_manystripes"][0] != both[0]


def test_labels_follow_the_class_frequencies(data_spec: ImageSpec) -> None:
    """Catches classes in equal shares, labels that depend on other indices, and a last class beyond the table."""
    indices = torch.arange(1_000)
    labels = labels_of(indices, data_spec)
    shares = labels.bincount(minlength=5) / 1_000
    torch.testing.assert_close(shares, torch.tensor(data_spec.class_frequencies), atol=0.004, rtol=0)
    assert torch.equal(labels_of(indices[300:310], data_spec), labels[300:310])
    short = replace(data_spec, class_frequencies=(0.1, 0.1, 0.1, 0.1, 0.1))
    assert labels_of(indices, short).max() == 4


def test_generated_images_get_those_labels(
    make_stack: MakeStack, data: ImageData, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches labels drawn apart from indices, and images counted from 0 in each batch."""
    stack, asked = make_stack(data), []
    sample = stack.sample_images
    monkeypatch.setattr(stack, "sample_images", lambda *args: (asked.append(args), sample(*args))[1])
    ImageQuality(num_images=70, cache_dir=cache, batch_size=40).evaluate(stack, data, draws=(4,))
    labels, indices = (torch.cat([args[part] for args in asked]) for part in (0, 1))
    assert torch.equal(indices, torch.arange(70))
    assert torch.equal(labels, labels_of(indices, data.spec))
    assert {args[2] for args in asked} == {4}


def test_images_are_judged_as_the_data_set_would_store_them() -> None:
    """Catches values that wrap around, truncation instead of rounding, and rounded latents."""
    images = torch.tensor([-3.0, 0.4, 0.6, 254.7, 300.0])
    assert as_stored(images, torch.uint8).tolist() == [0, 0, 1, 255, 255]
    assert torch.equal(as_stored(images, torch.float32), images)
    with pytest.raises(UserError, match="not finite"):
        as_stored(torch.tensor([1.0, float("nan")]), torch.uint8)


def test_latents_are_judged_in_domain(many_stripes: type, make_stack: MakeStack, tmp_path: Path) -> None:
    """Catches latents that are clamped to pixels: their FID would not change with the images."""
    data = many_stripes(channels=2, latents=True)
    callback = ImageQuality(num_images=70, cache_dir=str(tmp_path))
    callback.prepare(data, makes_images=True)
    found = callback.evaluate(make_stack(data), data, draws=(0, 1))["fid_manystripes"]
    assert found[0] != found[1]


def test_nothing_is_done_without_images(data: ImageData, make_stack: MakeStack, tmp_path: Path) -> None:
    """Catches a classifier that is asked for images, and `none` that computes all the same."""
    config = ContractConfig(network=VIT, target=ClassTarget(dim=8), partition=PartitionConfig(num_blocks=3))
    contract = config.build(data.spec)
    classifier = BlockStack(contract, lambda block: contract.denoiser(block).eval(), InferenceConfig(draws=1))
    callback = ImageQuality(num_images=5, cache_dir=str(tmp_path))
    callback.prepare(data, makes_images=False)
    _test(classifier, data, callback)
    off = ImageQuality("none", num_images=5, cache_dir=str(tmp_path))
    off.prepare(data, makes_images=True)
    logged = _test(make_stack(data), data, off)
    assert (callback.result, off.result, off.evaluate(make_stack(data), data)) == (None, None, {})
    assert not any("fid" in name for name in logged)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"split": "test"}, {"num_test": 60}])
def test_real_test_images_are_left_out_where_they_say_nothing(
    options: dict[str, Any], many_stripes: type, make_stack: MakeStack, tmp_path: Path
) -> None:
    """Catches test images compared with themselves, and a singular covariance that ends a finished run."""
    data = many_stripes(num_test=options.get("num_test", 80))
    callback = ImageQuality(num_images=70, split=options.get("split", "train"), cache_dir=str(tmp_path))
    _test(make_stack(data), data, callback)
    assert callback.result is not None
    assert callback.result["real_test_images"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 64}, r"image_quality.num_images: 64 images are too few .* at least 65"),
        ({"num_reference": 64}, r"image_quality.num_reference: 64 images are too few .* at least 65"),
        ({"num_reference": 999}, r"image_quality.num_reference \(999\) must be at most"),
        ({"features": "inception"}, r"image_quality.num_images: 1000 images are too few .* at least 2049"),
        (
            {"features": "inception", "num_images": 2049},
            r"image_quality.split: \d+ images are too few .* at least 2049",
        ),
        ({"cache_dir": "FILE/cache"}, r"image_quality.cache_dir: cannot write"),
    ],
)
def test_faults_are_found_before_training(
    options: dict[str, Any], message: str, data: ImageData, tmp_path: Path
) -> None:
    """Catches hours of training before the first line about a wrong number."""
    (tmp_path / "file").touch()
    cache_dir = options.pop("cache_dir", "new").replace("FILE", "file")
    with pytest.raises(UserError, match=message):
        ImageQuality(**options, cache_dir=str(tmp_path / cache_dir)).prepare(data, makes_images=True)


def test_faults_of_inception_are_found_before_training(many_stripes: type, tmp_path: Path) -> None:
    """Catches latents, and weights that are not there, noticed only after training."""
    options = {"features": "inception", "num_images": 2049, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"inception sees uint8 images .* use in_domain"):
        ImageQuality(**options).prepare(many_stripes(num_train=2_400, channels=4, latents=True), True)
    callback = ImageQuality(**options, weights_path=str(tmp_path / "absent.pth"))
    with pytest.raises(UserError, match=r"image_quality.weights_path: .*absent.pth does not exist"):
        callback.prepare(many_stripes(num_train=2_400), makes_images=True)


def test_images_of_another_size_are_refused(many_stripes: type, make_stack: MakeStack, cache: str) -> None:
    """Catches a comparison with a data set that the network was not trained on."""
    stack, other = make_stack(many_stripes(channels=2)), many_stripes()
    with pytest.raises(UserError, match=r"generated images are \[2, 4, 6\] .* manystripes are \[1, 4, 6\]"):
        ImageQuality(num_images=70, cache_dir=cache).evaluate(stack, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("features", "vgg"), ("split", "validation"), *((name, 0) for name in ("num_images", "seeds", "num_reference"))],
)
def test_impossible_arguments_are_refused(name: str, value: Any) -> None:
    """Catches an argument that is taken as it comes."""
    with pytest.raises(UserError, match=rf"image_quality.{name} \({value}\)"):
        ImageQuality(**{name: value})
