"""Names and meanings: metrics, columns and the choices of a config, each in a sentence."""

from collections.abc import Mapping
from typing import Any

# Start of a metric's key -> what to call it, and its explanation. Of the metrics, less is better for those in LOWER.
METRICS = {
    "accuracy": ("accuracy", "share of test images whose label is right."),
    "fid": (
        "FID",
        "[Fréchet distance](https://arxiv.org/abs/1706.08500) between generated and real images: both are passed "
        "through a network, and the means and covariances of its features are compared. 0 for equal distributions; "
        "lower is better. It depends on the number of images: compare only figures with equal numbers.",
    ),
    "kid": (
        "KID",
        "[kernel distance](https://arxiv.org/abs/1801.01401) of the same features; lower is better. It is less biased "
        "for few images and can be slightly negative.",
    ),
    "inception_score": (
        "Inception score",
        "[Inception score](https://arxiv.org/abs/1606.03498): high if the classifier is sure of each image and finds "
        "all classes equally often; at most the number of classes.",
    ),
    "precision": (
        "precision",
        "share of generated images that lie among the real ones in "
        "[feature space](https://arxiv.org/abs/1904.06991): how many look real.",
    ),
    "recall": ("recall", "share of real images that lie among the generated ones: how much of the variety is covered."),
    "nats": (
        "nats of the label",
        "what the label of a test image costs in nats (units of the natural logarithm): minus the logarithm of the "
        "probability that the network gives it. Exact for the end-to-end network, an upper bound for the blocks; lower "
        "is better.",
    ),
    "loss": (
        "denoising loss",
        "loss of training, with its weight, on the test split: squared error for images, cross-entropy for classes, at "
        "noise levels drawn like those of training over the whole range, each with the block that owns it; lower is "
        "better.",
    ),
}
LOWER = ("fid", "kid", "nats", "loss")

# Class or option of a config -> what it means.
_CHOICES = {
    "PixelTarget": "the image itself is denoised, with squared error",
    "ClassTarget": "a fixed vector of length 1 for each class is denoised, with cross-entropy over the classes",
    "cosine": "classes are read from the cosine between the answer and each class vector",
    "linear": "classes are read by a linear layer",
    "posterior": "classes are read by a linear layer plus Bayes' evidence in the noisy vector",
    "LogNormalNoise": "the logarithm of sigma is drawn from a normal distribution",
    "UniformNoise": "sigma is drawn evenly",
    "LogUniformNoise": "the logarithm of sigma is drawn evenly",
    "InformationNoise": "a level is drawn as often as it tells something about the class",
    "equal_probability": "each block's interval of levels is drawn equally often",
    "uniform_sigma": "intervals of equal width in sigma",
    "uniform_log_sigma": "intervals of equal width in the logarithm of sigma",
    "explicit": "boundaries given by hand",
    "karras": "levels as in [EDM](https://arxiv.org/abs/2206.00364), most of them at both ends",
    "quantile": "levels at equal shares of the noise law",
}


def metric(name: str) -> str:
    """What a metric is called, with the data set whose classifier gave the features."""
    start = start_of(name)
    if start is None:
        return name
    suffix = name.removeprefix(start).removeprefix("_")
    return f"{METRICS[start][0]} ({suffix} features)" if suffix else METRICS[start][0]


def start_of(name: str) -> str | None:
    """The key of `METRICS` that a metric belongs to."""
    return next((start for start in METRICS if name.startswith(start)), None)


def choice(name: str) -> str:
    """A choice with its meaning in parentheses, if it is one of the project's own."""
    return f"{name} ({_CHOICES[name]})" if name in _CHOICES else name


def class_name(spec: Mapping[str, Any]) -> str:
    """The class of a part of the config."""
    return str(spec["class_path"].rpartition(".")[2])


def makes_images(report: Mapping[str, Any]) -> bool:
    """Whether the network of a report makes images; else it finds classes."""
    return class_name(report["target"]) == "PixelTarget"
