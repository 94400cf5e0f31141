"""Quality of generated images: FID and related metrics against real images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning as L
import torch
from torch import Tensor

from dbl.data import ImageData, ResumableDataModule, Split
from dbl.data.spec import ImageSpec
from dbl.denoising.targets import image_spec
from dbl.diffusion.noise import even_fractions
from dbl.evaluation.features import FeatureExtractor, InceptionFeatures, InDomainFeatures, Reference, check_comparable
from dbl.evaluation.features.in_domain import RECIPE, check_classifier
from dbl.evaluation.features.inception import check_images
from dbl.evaluation.features.stored import cache_folder, check_writable
from dbl.evaluation.image_metrics import ImageFeatures, check_torch_fidelity, image_metrics, least_images
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.utils.checks import check_choice, check_numbers, whole
from dbl.utils.errors import UserError
from dbl.utils.progress import tracked

Features = Literal["in_domain", "inception", "none"]


class ImageQuality(L.Callback):
    """Generate images at the end of a test and compare them with real ones, if the network makes images.

    The images are a function of (inference seed, draw, index), so `batch_size` changes the metrics by rounding alone.

    Args:
        features: features to compare images by. `in_domain`: a small classifier of the data set itself, trained in
            seconds and kept in `cache_dir`; its metrics are named after the data set (`fid_digits`). `inception`: the
            network of the literature (`fid`), for images of pixels. `none`: no comparison.
        num_images: images generated for each draw; at least 65 for `in_domain`, 2,049 for `inception` (usual: 50,000).
        seeds: independent draws of the start noise; each is reported and the mean is logged.
        split: split of the real images to compare with; `train` is usual, `validation` is for choosing settings.
        num_reference: number of real images, evenly spaced in the split; null takes all.
        weights_path: file of torch-fidelity's Inception weights; null takes the one in torch's hub folder, which is
            downloaded if absent.
        cache_dir: folder for the classifier and the features of the real images.
        batch_size: images generated and judged at once.
        in_validation: whether to compare at `dbl validate` too, where metrics are called `val/...`.
        by_steps: whether `dbl train` also measures the quality with other numbers of sampler steps, 1, B, 2B, 4B and so
            on up to the sampler's own, of a classifier its accuracy. For images, as many are generated for each number;
            all together cost about twice what the sampler's own number does. `dbl compare` always does.

    Attributes:
        result: JSON values of the last comparison; None before, and where nothing was compared.
    """

    def __init__(
        self,
        features: Features = "in_domain",
        num_images: int = 1000,
        seeds: int = 1,
        split: Split = "train",
        num_reference: int | None = None,
        weights_path: str | None = None,
        cache_dir: str = ".cache/dbl",
        batch_size: int = 256,
        in_validation: bool = False,
        by_steps: bool = True,
    ) -> None:
        check_choice("image_quality.features", features, get_args(Features))
        check_choice("image_quality.split", split, get_args(Split))
        check_numbers(
            "image_quality",
            {"num_images": num_images, "seeds": seeds, "num_reference": num_reference, "batch_size": batch_size},
            num_images=whole(1, 10**6),
            seeds=whole(1, 10_000),
            num_reference=whole(1, 10**9, optional=True),
            batch_size=whole(1, 10**6),
        )
        self.features = features
        self.num_images = num_images
        self.seeds = seeds
        self.reference = Reference(split, num_reference)
        self.weights_path = weights_path
        self.cache_dir = cache_dir
        self.batch_size = batch_size
        self.in_validation = in_validation
        self.by_steps = by_steps
        self.result: dict[str, Any] | None = None
        self._feature_size = InceptionFeatures.FEATURE_SIZE if features == "inception" else RECIPE.feature_size
        self._judge: _Judge | None = None

    def prepare(self, data: ResumableDataModule, makes_images: bool) -> None:
        """Check, before any training, what the comparison at its end will need.

        Raises UserError if images are too few, weights or packages are missing, or the cache cannot be used.

        Args:
            data: data for the test.
            makes_images: whether the network makes images; else there is nothing to check.
        """
        if self.features == "none" or not makes_images:
            return
        assert isinstance(data, ImageData)
        check_torch_fidelity()
        self._check_enough("image_quality.num_images", self.num_images)
        self._check_reference(data)
        check_writable(cache_folder(self.cache_dir, data.spec))
        if self.features == "inception":
            check_images(data.split("train").images.dtype, data.spec.shape[0])
            InceptionFeatures(self.weights_path)
        else:
            check_classifier(data.spec, self.cache_dir)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate, compare, log and keep the result."""
        self._compare(trainer, pl_module, "test")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same, if asked for."""
        if self.in_validation:
            self._compare(trainer, pl_module, "val")

    def _compare(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        stack = pl_module.stack if isinstance(pl_module, StackEvaluation) else None
        if self.features == "none" or stack is None or stack.target.generates != "images":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageData):
            raise UserError("image_quality: the test needs the data set as a DataModule of dbl (ImageData)")
        # Callbacks run outside the context that gives test steps the trainer's precision.
        with trainer.precision_plugin.test_step_context():
            metrics = self.evaluate(stack, data, draws=range(self.seeds))
        for name, values in metrics.items():
            pl_module.log(f"{stage}/{name}", sum(values) / len(values))
        judge, sampler = self._judge_of(data, stack.device), stack.inference.sampler
        self.result = {
            "features": judge.extractor.title,
            "features_identity": judge.extractor.identity,
            "num_images": self.num_images,
            "split": self.reference.split,
            "num_reference": len(judge.real),
            "draws": list(range(self.seeds)),
            "metrics": metrics,
            "real_test_images": self._of_test_images(judge, data),
            "classifier_accuracy": judge.extractor.accuracy,
            "seed": stack.inference.seed,
            "weights": stack.weights,
            "guidance_scale": sampler.guidance_scale,
            "num_steps": sampler.num_steps,
            "feature_size": judge.extractor.feature_size,
        }

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Free the network that judges."""
        self._judge = None

    @torch.no_grad()
    def evaluate(
        self, stack: BlockStack, data: ImageData, num_images: int | None = None, draws: Sequence[int] = (0,)
    ) -> dict[str, list[float]]:
        """The metrics of a stack with its own sampler settings, without a trainer.

        Raises UserError if images are too few or of another kind than those of the data, or the cache cannot be used.

        Args:
            stack: stack that makes images, on the device that it is to run on.
            data: data to compare with.
            num_images: images generated for each draw; None for the callback's own number.
            draws: numbers of the draws of start noise.

        Returns:
            For each metric one value a draw; nothing with `features: none`.
        """
        if self.features == "none":
            return {}
        num = self.num_images if num_images is None else num_images
        self._check_enough("image_quality.num_images", num)
        check_comparable(image_spec(stack.contract.data, "PixelTarget").shape, data.spec)
        judge = self._judge_of(data, stack.device)
        found = []
        for draw in draws:
            generated = judge.extractor.over(self._generated(stack, data, num, draw))
            found.append(image_metrics(judge.real, generated, judge.extractor.suffix))
        return {name: [values[name] for values in found] for name in (found[0] if found else ())}

    def _generated(self, stack: BlockStack, data: ImageData, num: int, draw: int) -> Iterator[Tensor]:
        """Yield batches of images as the data set would store them."""
        dtype = data.split(self.reference.split).images.dtype
        steps = stack.inference.sampler.num_steps
        batches = torch.arange(num, device=stack.device).split(self.batch_size)
        for indices in tracked(batches, f"generating, {steps} steps", "image"):
            yield as_stored(stack.sample_images(labels_of(indices, data.spec), indices, draw), dtype)

    def _judge_of(self, data: ImageData, device: torch.device) -> "_Judge":
        """The network that judges, with the features of real images; the last one if it fits."""
        key = (data.spec.identity, str(device))
        if self._judge is None or self._judge.key != key:
            self._check_reference(data)
            if self.features == "inception":
                extractor: FeatureExtractor = InceptionFeatures(self.weights_path, device)
            else:
                extractor = InDomainFeatures(data, self.cache_dir, device)
            real = self.reference.features(extractor, data, self.cache_dir, self.batch_size)
            self._judge = _Judge(key, extractor, real)
        return self._judge

    def _of_test_images(self, judge: "_Judge", data: ImageData) -> dict[str, float]:
        """The metrics of the real test images, which a perfect network would approach. Nothing if they are few."""
        if self.reference.split == "test" or len(data.split("test")) < least_images(self._feature_size):
            return {}
        images = Reference("test").features(judge.extractor, data, self.cache_dir, self.batch_size)
        return image_metrics(judge.real, images, judge.extractor.suffix)

    def _check_reference(self, data: ImageData) -> None:
        key = "split" if self.reference.num_images is None else "num_reference"
        self._check_enough(f"image_quality.{key}", self.reference.count(data))

    def _check_enough(self, key: str, num: int) -> None:
        least = least_images(self._feature_size)
        if num < least:
            raise UserError(
                f"{key}: {num} images are too few for the {self._feature_size} features of {self.features}; take at "
                f"least {least}, or set image_quality.features to none"
            )


@dataclass(frozen=True, eq=False)
class _Judge:
    """A feature extractor with the features of the real images, for one data set on one device."""

    key: tuple[str, str]
    extractor: FeatureExtractor
    real: ImageFeatures


def labels_of(indices: Tensor, data: ImageSpec) -> Tensor:
    """The class [N] of each generated image from its index alone; any run of indices has the data's frequencies."""
    ends = torch.tensor(data.class_frequencies, dtype=torch.float64).cumsum(0)
    labels = torch.searchsorted(ends, even_fractions(indices.cpu()))
    return labels.clamp(max=data.num_classes - 1).to(indices.device)  # rounding may leave the last end below 1


def as_stored(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Raw images as a data set of this dtype stores them: for uint8 clamped to 0 to 255 and rounded, else as they are.

    Raises UserError if a value is not finite; as an integer it would look like a pixel.
    """
    if not images.isfinite().all():
        raise UserError(
            "image_quality: the generated images hold values that are not finite; did the training diverge?"
        )
    return images.clamp(0, 255).round().to(torch.uint8) if dtype == torch.uint8 else images
