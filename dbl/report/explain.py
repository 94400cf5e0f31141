"""The running text of a report, so that a reader who does not know the project needs no other page."""

import math
from collections.abc import Mapping
from typing import Any

from dbl.report.glossary import METRICS, choice, class_name, makes_images, start_of

_PAPER = "[DiffusionBlocks](https://arxiv.org/abs/2506.14202)"


def introduction(report: Mapping[str, Any]) -> list[str]:
    """What was trained, and what the method is."""
    num_layers = report["network"]["init_args"]["num_layers"]
    num_blocks = report["partition"]["init_args"]["num_blocks"]
    task = (
        "It makes images of a given class."
        if makes_images(report)
        else "It finds the class of an image, by denoising a vector that stands for the class."
    )
    start = "a start at zero" if report["sampler"]["temperature"] == 0 else "pure noise"
    lines = [
        f"# {report['run']}",
        "",
        f"A {class_name(report['network'])} of {num_layers} layers on {_data(report['data'])}, cut into {num_blocks} "
        f"blocks of layers ({_PAPER}). {task}",
        "",
        "Each block was trained alone, without any other in memory: it learnt to remove noise within its own range of "
        f"levels. Run one after another, from the highest noise to the lowest, the blocks turn {start} into an answer. "
        "A noise level, *sigma*, is the standard deviation of the noise, in units in which "
        f"{_unit(report)}.",
    ]
    return [*lines, "", _baseline(report)] if len(report["sides"]) > 1 else lines


def _data(data: Mapping[str, Any]) -> str:
    channels, height, width = data["shape"]
    kind = {1: "grey images", 3: "colour images"}.get(channels, f"images of {channels} channels")
    return f"{data['name']} ({kind} of {height} x {width}, {data['num_classes']} classes)"


def _unit(report: Mapping[str, Any]) -> str:
    if makes_images(report):
        return f"pixels have the standard deviation {report['target']['init_args']['sigma_data']:g}"
    return "the vector that stands for a class has the length 1"


def _baseline(report: Mapping[str, Any]) -> str:
    blocks = report["sides"][0]
    totals = [sum(part["parameters"] for part in side["parts"]) for side in report["sides"]]
    kind = (
        "one denoiser for all noise levels"
        if makes_images(report)
        else "an ordinary classifier with cross-entropy and no noise"
    )
    own = "" if makes_images(report) else ", and layers that know the noise level"
    steps, images = blocks["parts"][0]["steps"], blocks["parts"][0]["images"]
    return (
        f"Beside them stands a network of the same layers trained *end to end*, all at once: {kind}. Each block took "
        f"{steps:,} steps of {images // steps} images, the end-to-end network as many; so both sides passed equally "
        f"many images through equally many layers. The blocks together have {totals[0]:,} parameters, the end-to-end "
        f"network {totals[1]:,}: each block has its own input and output{own}."
    )


def likelihood(report: Mapping[str, Any]) -> list[str]:
    """What the bound is."""
    num_classes = report["data"]["num_classes"]
    return [
        "An upper bound on what the label of a test image costs in nats (minus the natural logarithm of its "
        "probability). It is a sum over noise levels of the blocks' own squared errors "
        "([variational diffusion](https://arxiv.org/abs/2107.00630)), so each block has its share. A network that "
        f"knows nothing pays ln {num_classes} = {math.log(num_classes):.3g} nats for equally frequent classes. In the "
        "picture the area of a block is its share.",
    ]


def setup(report: Mapping[str, Any]) -> list[str]:
    """Choices that the figures depend on."""
    sampler, cut = report["sampler"], report["partition"]["init_args"]
    kind = report["target"]["init_args"].get("kind")
    average = "moving average (`ema.decay`)" if report["sides"][0]["weights"] == "ema" else "last weights"
    lines = [
        "## Settings",
        "",
        f"- Target: {choice(class_name(report['target']))}.",
        *([f"- Readout: {choice(kind)}."] if kind else []),
        f"- Noise law of training: {choice(class_name(report['noise']))}.",
        f"- Partition: {cut['num_blocks']} blocks by {choice(cut['scheme'])}; in training each interval is widened by "
        f"{cut['overlap']:g} of its width in the logarithm of sigma on both sides.",
        f"- Weights that were tested: the {average}.",
        f"- Sampler: {sampler['method']}, {sampler['num_steps']} steps; schedule {choice(sampler['schedule'])}; "
        f"guidance {sampler['guidance_scale']:g} (1 is none); temperature {sampler['temperature']:g} (factor on the "
        "start noise).",
        "- All settings: `config.yaml` in the run folder. All figures: `report.json` beside this page.",
    ]
    if quality := report["sides"][0]["image_quality"]:
        lines.insert(-1, f"- Image metrics: {_images(quality)}")
    return lines


def _images(quality: Mapping[str, Any]) -> str:
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


def words(report: Mapping[str, Any]) -> list[str]:
    """Each figure of the report in a sentence."""
    starts = dict.fromkeys(start_of(name) for side in report["sides"] for name in side["quality"])
    lines = ["## What the figures mean", ""]
    lines += [f"- *{METRICS[start][0]}*: {METRICS[start][1]}" for start in starts if start]
    lines += [
        "- *parameters in memory at once*: trainable numbers that are in memory at the same time in training.",
        "- *peak memory*: the section on memory says what it consists of.",
        "- *wall time*: training of all parts one after another on this machine, validation included. Blocks need "
        "nothing from each other: on several machines it is that of the longest.",
        "- *training compute*: images that passed through a part in training, times its layers, summed over the parts.",
        "- *layers run for one sample*: network calls of each part in one sample, times its layers. "
        "Guidance doubles the calls.",
    ]
    return lines
