"""The words of a report, so that a reader who does not know the project needs no other page."""

import math
from collections.abc import Mapping
from typing import Any

_PAPER = "[DiffusionBlocks](https://arxiv.org/abs/2506.14202)"

# Start of a metric's name -> what to call it, and its explanation.
_METRICS = {
    "accuracy": ("accuracy", "share of test images whose label is right."),
    "fid": (
        "FID",
        "[Fréchet distance](https://arxiv.org/abs/1706.08500) between generated and real images: both are passed "
        "through a network, and the means and covariances of its features are compared. 0 for equal distributions; "
        "lower is better.",
    ),
    "kid": (
        "KID",
        "[kernel distance](https://arxiv.org/abs/1801.01401) of the same features; lower is better, and it is "
        "less biased for few images; it can be slightly negative.",
    ),
    "inception_score": (
        "Inception score",
        "[Inception score](https://arxiv.org/abs/1606.03498): high if the classifier is sure of each generated image "
        "and finds all classes equally often; at most the number of classes.",
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
        "weighted denoising loss on the test split at noise levels that cover the whole range, each with the block "
        "that owns it; lower is better; comparable between two sides of the same task.",
    ),
}


def metric(name: str) -> str:
    """What a metric is called, with the data set whose classifier gave the features."""
    start = _start(name)
    if start is None:
        return name
    suffix = name.removeprefix(start).removeprefix("_")
    return f"{_METRICS[start][0]} ({suffix} features)" if suffix else _METRICS[start][0]


def _start(name: str) -> str | None:
    return next((start for start in _METRICS if name.startswith(start)), None)


def introduction(report: Mapping[str, Any]) -> list[str]:
    """What was trained, and what the method is."""
    network, data = _name(report["network"]), report["data"]["name"]
    num_layers = report["network"]["init_args"]["num_layers"]
    num_blocks = report["partition"]["init_args"]["num_blocks"]
    task = (
        "It makes images of a given class"
        if report["target"]["class_path"].endswith("PixelTarget")
        else "It finds the class of an image, by denoising a vector that stands for the class"
    )
    lines = [
        f"# {report['run']}",
        "",
        f"A {network} of {num_layers} layers on {data}, cut into {num_blocks} blocks of layers ({_PAPER}). {task}.",
        "",
        "Each block was trained alone, without any other in memory: it learnt to remove noise of its own range of "
        "strengths from the target. Put one after another, from the highest noise to the lowest, the blocks turn pure "
        "noise into an answer. The noise level *sigma* is the standard deviation of the noise, in units in which the "
        "target is given to the network.",
    ]
    if len(report["sides"]) > 1:
        lines += [
            "",
            "Beside them stands the same network trained *end to end*, all layers at once: " + _baseline(report),
        ]
    return lines


def _baseline(report: Mapping[str, Any]) -> str:
    if report["target"]["class_path"].endswith("PixelTarget"):
        return "one denoiser for all noise levels. It had the same batch, optimizer and number of steps."
    return (
        "an ordinary classifier with cross-entropy and no noise. It had the same batch, optimizer and number of "
        "steps. A step of all blocks together passes through as many layers as one of its steps."
    )


def likelihood(report: Mapping[str, Any]) -> list[str]:
    """What the bound is."""
    num_classes = report["data"]["num_classes"]
    return [
        "A bound on what the label of a test image costs in nats (minus the logarithm of its probability): a sum over "
        "noise levels of the blocks' own squared errors "
        "([variational diffusion](https://arxiv.org/abs/2107.00630)), so each block has its share. A network that "
        f"knows nothing pays ln {num_classes} = {math.log(num_classes):.3g} nats for equally frequent classes. In the "
        "picture the area of a block is its share.",
    ]


def setup(report: Mapping[str, Any]) -> list[str]:
    """Choices that the figures depend on."""
    sampler, cut = report["sampler"], report["partition"]["init_args"]
    kind = report["target"]["init_args"].get("kind")
    average = "moving average (EMA)" if report["sides"][0]["weights"] == "ema" else "last weights"
    lines = [
        "## Settings",
        "",
        f"- Target {_name(report['target'])}, read by {f'the {kind} readout' if kind else 'squared error'}; noise law "
        f"{_name(report['noise'])}; {cut['num_blocks']} blocks by {cut['scheme']}, overlap {cut['overlap']:g}.",
        f"- Weights: the {average}.",
        f"- Sampler: {sampler['method']}, {sampler['num_steps']} steps on the {sampler['schedule']} schedule, guidance "
        f"{sampler['guidance_scale']:g} (1 is none), temperature {sampler['temperature']:g} (factor on the start "
        "noise).",
        "- All settings: `config.yaml` in the run folder. All figures: `report.json` beside this page.",
    ]
    if quality := report["sides"][0]["image_quality"]:
        lines.insert(-1, f"- Images: {_images(quality)}")
    return lines


def _images(quality: Mapping[str, Any]) -> str:
    classifier = (
        f" The features are those of a small classifier trained on this data set (test accuracy "
        f"{quality['classifier_accuracy']:.1%}), so these figures compare networks on this data set only and are not "
        "the FID of the literature."
        if quality["classifier_accuracy"] is not None
        else ""
    )
    real = "".join(
        f" Real test images score {name.split('_')[0].upper()} {value:.3g}: about as low as it can go."
        for name, value in quality["real_test_images"].items()
        if name.startswith("fid")
    )
    return (
        f"{quality['num_images']} for each of {len(quality['draws'])} draws of start noise, compared with "
        f"{quality['num_reference']} real images of the {quality['split']} split by features {quality['features']} of "
        f"size {quality['feature_size']}.{classifier}{real}"
    )


def words(report: Mapping[str, Any]) -> list[str]:
    """Each figure of the report in a sentence."""
    starts = dict.fromkeys(_start(name) for side in report["sides"] for name in side["quality"])
    lines = ["## What the figures mean", ""]
    lines += [f"- *{_METRICS[start][0]}*: {_METRICS[start][1]}" for start in starts if start]
    lines += [
        "- *parameters in memory at once*: trainable numbers that are in memory at any time of the training; gradients "
        "and optimizer state grow with them, activations with the layers of one part.",
        "- *peak memory*: see the section on memory; *parameters* are weights and constants, *gradients* one number "
        "for each weight, *optimizer* its state (Adam keeps two numbers for each weight), *average* the moving "
        "average of the weights, *batch* inputs and noise, *activations* what the forward pass keeps for the backward "
        "pass, *temporaries* what the backward pass makes and frees again.",
        "- *wall time*: training of all parts one after another on this machine, validation included; parts need "
        "nothing from each other, so on several machines it is that of the longest.",
        "- *training compute*: images that passed through a part in training, times its layers, summed over the parts.",
        "- *layers run for one sample*: network calls of each part in one sample, times its layers.",
    ]
    return lines


def _name(spec: Mapping[str, Any]) -> str:
    return str(spec["class_path"].rpartition(".")[2])
