"""The wording of reports on images: those that are made, and those whose class is found."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from dbl.evaluation.report.glossary import IMAGE_METRICS, Metrics
from dbl.evaluation.report.task import Task


class ImageTask(Task):
    """What both have in common; abstract, a subclass says what is denoised and what stands beside the blocks."""

    sample = "image"
    samples = "images"
    control = "another, of another class where possible"
    reconstruction = "cost of reading the label from the last vector (reconstruction)"
    baseline_kind: str
    own_parts = "each block has its own input and output"

    @property
    @abstractmethod
    def answer_unit(self) -> str:
        """What a noise level is measured in."""

    @property
    def metrics(self) -> Metrics:
        """See `Task.metrics`."""
        return IMAGE_METRICS

    @property
    def data_set(self) -> str:
        """See `Task.data_set`."""
        channels, height, width = self.data["shape"]
        kind = {1: "grey images", 3: "colour images"}.get(channels, f"images of {channels} channels")
        return f"{self.data['name']} ({kind} of {height} x {width}, {self.data['num_classes']} classes)"

    @property
    def training(self) -> str:
        """See `Task.training`."""
        start = "a start at zero" if self.report["sampler"]["temperature"] == 0 else "pure noise"
        return (
            "Each block was trained alone, without any other in memory: it learnt to remove noise within its own range "
            "of levels. Run one after another, from the highest noise to the lowest, the blocks turn "
            f"{start} into an answer. A noise level, *sigma*, is the standard deviation of the noise, in units in "
            f"which {self.answer_unit}."
        )

    @property
    def baseline(self) -> str:
        """See `Task.baseline`."""
        sides = self.report["sides"]
        totals = [sum(part["parameters"] for part in side["parts"]) for side in sides]
        steps, images = sides[0]["parts"][0]["steps"], sides[0]["parts"][0]["samples"]
        return (
            f"Beside them stands a network of the same layers trained *end to end*, all at once: {self.baseline_kind}. "
            f"Each block took {steps:,} steps of {images // steps} images, the end-to-end network as many; so both "
            f"sides passed equally many images through equally many layers. The blocks together have {totals[0]:,} "
            f"parameters, the end-to-end network {totals[1]:,}: {self.own_parts}."
        )

    @property
    def likelihood(self) -> str:
        """See `Task.likelihood`."""
        num_classes = self.data["num_classes"]
        return (
            "An upper bound on what the label of a test image costs in nats (minus the natural logarithm of its "
            "probability). It is a sum over noise levels of the blocks' own squared errors "
            "([variational diffusion](https://arxiv.org/abs/2107.00630)), so each block has its share. A network that "
            f"knows nothing pays ln {num_classes} = {math.log(num_classes):.3g} nats for equally frequent classes. In "
            "the picture the area of a block is its share."
        )

    @property
    def costs(self) -> list[str]:
        """See `Task.costs`."""
        return [
            "- *training compute*: images that passed through a part in training, times its layers, summed over the "
            "parts.",
            "- *layers run for one sample*: network calls of each part in one sample, times its layers. "
            "Guidance doubles the calls.",
        ]

    @property
    def sampler(self) -> str:
        """See `Task.sampler`."""
        sampler = self.report["sampler"]
        return (
            f"{sampler['method']}, {sampler['num_steps']} steps; schedule {self.choice(sampler['schedule'])}; "
            f"guidance {sampler['guidance_scale']:g} (1 is none); temperature {sampler['temperature']:g} (factor on "
            "the start noise)"
        )

    @property
    def judged(self) -> list[str]:
        """See `Task.judged`."""
        quality = self.report["sides"][0]["image_quality"]
        return [f"- Image metrics: {_features(quality)}"] if quality else []

    @property
    def real(self) -> tuple[str, Mapping[str, float]]:
        """See `Task.real`."""
        quality = self.report["sides"][0]["image_quality"] or {}
        return f"{self.data['num_test_samples']:,} real test images", quality.get("real_test_images", {})

    @property
    def share(self) -> str:
        """See `Task.share`."""
        return "; for images it depends on the lowest sigma"


class MakeImages(ImageTask):
    """Images of a class are made."""

    condition = "its class label"
    shuffled = "another image's class label"
    baseline_kind = "one denoiser for all noise levels"

    @property
    def purpose(self) -> str:
        """See `Task.purpose`."""
        return "It makes images of a given class."

    @property
    def answer_unit(self) -> str:
        """See `ImageTask.answer_unit`."""
        return f"pixels have the standard deviation {self.report['target']['init_args']['sigma_data']:g}"


class FindClasses(ImageTask):
    """The class of an image is found."""

    condition = "its image"
    shuffled = "another image"
    baseline_kind = "an ordinary classifier with cross-entropy and no noise"
    own_parts = "each block has its own input and output, and layers that know the noise level"

    @property
    def purpose(self) -> str:
        """See `Task.purpose`."""
        return "It finds the class of an image, by denoising a vector that stands for the class."

    @property
    def answer_unit(self) -> str:
        """See `ImageTask.answer_unit`."""
        return "the vector that stands for a class has the length 1"


def _features(quality: Mapping[str, Any]) -> str:
    num_draws = len(quality["draws"])
    classifier = (
        " The features are those of a small classifier trained on this data set (test accuracy "
        f"{quality['classifier_accuracy']:.1%}), so these figures compare networks on this data set only and are not "
        "those of the literature."
        if quality["classifier_accuracy"] is not None
        else ""
    )
    return (
        f"{quality['num_images']:,} images from {'one draw' if num_draws == 1 else f'each of {num_draws} draws'} of "
        f"start noise, compared with {quality['num_reference']:,} real images of the {quality['split']} split by "
        f"{quality['feature_size']:,} features ({quality['features']}).{classifier}"
    )
