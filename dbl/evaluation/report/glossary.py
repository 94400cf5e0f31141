"""Names and meanings: metrics, columns and the choices of a config, each in a sentence."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is for names, the others for numbers."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]


def number(value: float | None) -> str:
    """Four significant digits; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def with_spread(found: Mapping[str, Any] | None) -> str:
    """The mean, and the range if there are several values."""
    if found is None:
        return ""
    if len(found["values"]) == 1:
        return number(found["mean"])
    return f"{number(found['mean'])} ({number(found['min'])} to {number(found['max'])})"


def signed_spread(values: Sequence[float]) -> str:
    """The mean of differences, and the range if there are several."""
    mean, *ends = (f"{value:+.3g}" for value in (fmean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"


# Start of a metric's key -> what to call it, and its explanation.
Metrics = Mapping[str, tuple[str, str]]

IMAGE_METRICS: Metrics = {
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
# In the order in which they are shown.
TEXT_METRICS: Metrics = {
    "nats": (
        "nats per token",
        "what a token of a test text costs in nats (units of the natural logarithm): minus the logarithm of the "
        "probability that the network gives it; lower is better.",
    ),
    "bits_per_token": ("bits per token", "the same in bits: nats divided by ln 2; lower is better."),
    "bits_per_byte": (
        "bits per byte",
        "the same in bits for each byte of the text in UTF-8, so that networks with different tokenizers [may be "
        "compared](https://arxiv.org/abs/2101.00027); lower is better.",
    ),
    "perplexity": (
        "perplexity per token",
        "e to the power of the nats: as uncertain as a choice among so many equally probable tokens; lower is better. "
        "Compare it for one tokenizer only.",
    ),
    "mauve": (
        "MAUVE",
        "[how alike](https://arxiv.org/abs/2102.01454) the generated and the real texts are in the features of the "
        "scoring model, from 0 to 1; higher is better. It depends on the number of texts and on the scoring model.",
    ),
    "gen_ppl": (
        "perplexity of generated texts for the scoring model",
        "how uncertain the scoring model, another language model, is about the generated texts, per token of its own. "
        "It judges samples and is no likelihood of the network that wrote them. Lower is smoother, not always better: "
        "monotonous texts [score well](https://arxiv.org/abs/2409.02908). Best near the value of real "
        "text, with equal variety.",
    ),
    "gen_bpb": (
        "bits per byte of generated texts for the scoring model",
        "the same in bits per byte of the generated texts, which depends less on the scoring model; again of samples, "
        "no likelihood of the network, and best near the value of real text.",
    ),
    "distinct_2": (
        "distinct bigrams",
        "[different pairs](https://arxiv.org/abs/1510.03055) of neighbouring words as a share of all pairs in the "
        "generated texts: variety. Low where texts repeat themselves or each other; best near the value of real text. "
        "It depends on the number and the length of the texts.",
    ),
    "unigram_entropy": (
        "entropy of words",
        "of the frequencies of words in the generated texts, in nats. Low where few words are used again and again; "
        "best near the value of real text. It depends on the amount of text.",
    ),
    "loss": (
        "denoising loss",
        "loss of training, with its weight, on the test split: cross-entropy of tokens in nats, at levels drawn like "
        "those of training over the whole range, each with the block that owns it; lower is better. It is not what a "
        "token costs: the block is given part of the answer.",
    ),
}
# Of the metrics that can be drawn against the number of steps, less is better for these.
LOWER = ("fid", "kid", "nats", "loss")

# Class or option of a config -> what it means, with the words of a task for labels and levels.
_CHOICES = {
    "PixelTarget": "the image itself is denoised, with squared error",
    "ClassTarget": "a fixed vector of length 1 for each class is denoised, with cross-entropy over the classes",
    "TokenTarget": "a fixed vector of length 1 for each token is denoised, with cross-entropy over the vocabulary",
    "MaskTarget": "tokens are hidden, and the hidden ones are found, with cross-entropy over the vocabulary",
    "cosine": "{labels} are read from the cosine between the answer and each {label} vector",
    "linear": "{labels} are read by a linear layer",
    "posterior": "{labels} are read by a linear layer plus Bayes' evidence in the noisy vector",
    "LogNormalNoise": "the logarithm of sigma is drawn from a normal distribution",
    "UniformNoise": "sigma is drawn evenly",
    "LogUniformNoise": "the logarithm of sigma is drawn evenly",
    "InformationNoise": "a level is drawn as often as it tells something about the {label}",
    "MaskingNoise": "the time of the masking schedule is drawn evenly",
    "equal_probability": "each block's interval of levels is drawn equally often",
    "uniform_sigma": "intervals of equal width in {level}",
    "uniform_log_sigma": "intervals of equal width in the logarithm of {level}",
    "explicit": "boundaries given by hand",
    "karras": "levels as in [EDM](https://arxiv.org/abs/2206.00364), most of them at both ends",
    "quantile": "levels at equal shares of the noise distribution",
}


def start_of(metrics: Metrics, name: str) -> str | None:
    """The key of `metrics` that a metric belongs to."""
    return next((start for start in metrics if name.startswith(start)), None)


def metric(metrics: Metrics, name: str) -> str:
    """What a metric is called, with the data set whose classifier gave the features."""
    start = start_of(metrics, name)
    if start is None:
        return name
    suffix = name.removeprefix(start).removeprefix("_")
    return f"{metrics[start][0]} ({suffix} features)" if suffix else metrics[start][0]


def choice(name: str, words: Mapping[str, str]) -> str:
    """A choice with its meaning in parentheses, if it is one of the project's own.

    Args:
        name: class or option.
        words: what `label`, `labels` and `level` are called.
    """
    return f"{name} ({_CHOICES[name].format_map(words)})" if name in _CHOICES else name


def class_name(spec: Mapping[str, Any]) -> str:
    """The class of a part of the config."""
    return str(spec["class_path"].rpartition(".")[2])
