"""The templates of the report: what they refuse, what each task shows, and the page made from its Markdown."""

import copy
import re
import tomllib
from fnmatch import fnmatch
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

import dbl
from dbl.evaluation.report.facts import memory_and_quality
from dbl.evaluation.report.formatting import plain
from dbl.evaluation.report.render import html, markdown, unwrap, words_of

PACKAGE = Path(dbl.__file__).parent
TEMPLATES = PACKAGE / "evaluation" / "report" / "templates"
# Task -> network, its sizes, target and what the target is made of.
TASKS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "image_generation": ("DiT", {}, "PixelTarget", {"sigma_data": 0.5}),
    "classification": ("ViT", {}, "ClassTarget", {"kind": "cosine"}),
    "vector_classification": ("ResidualMLP", {}, "ClassTarget", {"kind": "cosine"}),
    "causal_text": ("CausalLM", {"streams": "two"}, "TokenTarget", {"kind": "posterior"}),
    "recurrent_text": (
        "RecurrentLM",
        {"prelude": 1, "coda": 1, "mean_iterations": 4, "backprop_iterations": 2},
        "TokenTarget",
        {"kind": "linear"},
    ),
    "masked_text": ("MaskedLM", {}, "MaskTarget", {}),
}
_ENVIRONMENT: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "dbl train --config a_b.yaml",
    "commit": "0123abc-dirty",
    "versions": {"dbl": "0.1", "torch": "2.14", "lightning": "2.6", "python": "3.11"},
    "platform": "Linux",
    "processor": "A <CPU>",
    "cores": 2,
    "gpus": [],
    "threads": 1,
}


def _spread(*values: float, over: str = "training seeds") -> dict[str, Any]:
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values), "values": values, "over": over}


def _arm(name: str, quality: dict[str, Any]) -> dict[str, Any]:
    part = {"part": name, "layers": 3, "steps": 10, "samples": 640, "layer_passes": 1920.0, "seconds": 2.0}
    part |= {"parameters": 1234, "sigma_high": 2.0, "sigma_low": 0.1}
    part |= {"step_seconds": 0.0123, "samples_per_second": 5203.25, "losses": {"train": [], "validation": []}}
    optional = ("memory", "image_quality", "text_quality", "likelihood", "diagnostics")
    return dict.fromkeys(optional) | {
        "name": name,
        "parts": [part, part],
        "ancestors": [],
        "calls": [2, 1],
        "weights": "ema",
        "parameters_at_once": 1234,
        "seconds": 4.0,
        "seconds_at_median_speed": 2.46,
        "layer_passes": 3840,
        "test": {},
        "quality": quality,
        "quality_by_steps": [],
    }


def _report(task: str, *arms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The least that a report of a task can hold."""
    network, sizes, target, how = TASKS[task]
    kind = "text" if task.endswith("text") else "vectors" if task.startswith("vector") else "images"
    facts = {"name": "toys", "num_classes": 10, "shape": [13] if kind == "vectors" else [1, 8, 8], "tokenizer": None}
    facts["tokens"] = 7 if kind == "text" else None
    sampler = {"method": "euler", "schedule": "karras", "num_steps": 3, "guidance_scale": 1.0, "temperature": 1.0}
    return {
        "run": "a_run",
        "contract": "0" * 8,
        "network": {"class_path": f"dbl.{network}", "init_args": {"num_layers": 6, **sizes}},
        "target": {"class_path": f"dbl.{target}", "init_args": how},
        "noise": {"class_path": "dbl.LogNormalNoise", "init_args": {}},
        "partition": {"init_args": {"num_blocks": 2, "scheme": "equal_probability", "overlap": 0.05}},
        "start": {"class_path": "dbl.RandomStart", "init_args": {}},
        "data": facts | {"kind": kind, "num_test_samples": 355},
        "seeds": [0],
        "sides": list(arms) or [_arm("blocks", {"loss": _spread(0.5)})],
        "sampler": sampler,
        "memory_plan": None,
        "environment": _ENVIRONMENT,
        "samples": None,
        "pictures": {},
    } | changes


def _diagnosed(uses: list[bool], calls: list[int]) -> dict[str, Any]:
    control = {"loss": 0.5, "loss_shuffled": 0.501, "standard_error": 0.1}
    arm = _arm("blocks", {"loss": _spread(0.5)}) | {"calls": calls}
    arm["parts"] = arm["parts"][:1] * len(calls)
    arm["diagnostics"] = {
        "num_samples": 6,
        "loss_unit": "squared error per coordinate",
        "levels": [{"sigma": 0.5, "block": 0, "loss": 0.5, "loss_shuffled": 0.501, "weight": 1.0}],
        "condition": [control | {"uses_condition": use} for use in uses],
        "information": [{"nats": 0.5, "share": 0.5}] * len(uses),
        "boundaries": [{"sigma": 0.5, "blocks": [0, 1], "difference": 0.1, "error": 0.4}],
        "calls_per_block": calls,
        "trajectory": [{"sigma": 2.0, "block": 0, "norm": 0.25}],
    }
    return arm


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_template_that_needs_no_optional_part(task: str) -> None:
    """Catches a template that is missing, that needs what a run may not have, or that fits another task."""
    lone = markdown(_report(task))
    assert "## In short" not in lone
    assert "| denoising loss | 0.5 |" in lone
    both = markdown(_report(task, _arm("blocks", {"loss": _spread(0.5)}), _arm("end_to_end", {"loss": _spread(0.25)})))
    assert "| denoising loss | 0.5 | 0.25 |" in both
    assert "2,468 for" in both
    names = {"blocks": 0.5, "end_to_end": 0.25, "one_block": 0.125}
    all_three = markdown(_report(task, *(_arm(name, {"loss": _spread(value)}) for name, value in names.items())))
    assert "| denoising loss | 0.5 | 0.25 | 0.125 |" in all_three
    descended = _arm("blocks", {"loss": _spread(0.5)})
    descended["ancestors"] = [descended["parts"][0] | {"part": "ancestor/block_0"}]
    after_an_ancestor = markdown(_report(task, descended))
    assert "with 50% of the compute" in after_an_ancestor
    assert "| ancestor/block_0 | 2 to 0.1 | 3 | 10 |" in after_an_ancestor
    for text in (lone, both, all_three, after_an_ancestor):
        assert ("image" in text.lower()) == (task in ("image_generation", "classification"))
        assert not re.search(r"None|\{\{|\{%|\s[.,;]\s|  [a-z]", text)
        assert all(not line or line.strip() == line for line in text.split("\n"))


def test_the_report_says_where_and_how_fast() -> None:
    """Catches a report whose figures cannot be traced, and a busy machine whose wall time passes for the cost."""
    text = markdown(_report("image_generation"))
    assert "| the same if every step took as long as the median one, s | 2 |" in text
    assert "| block" not in text.partition("median step, ms")[0].rpartition("\n")[2]
    assert "| 10 | 2 | 12.3 | 5203 | 1,234 |" in text
    assert "Written 2026-01-02T03:04:05+00:00 by `dbl train --config a_b.yaml`." in text
    assert "dbl 0.1, commit 0123abc-dirty; torch 2.14, lightning 2.6, Python 3.11." in text
    assert "A \\<CPU\\> with 2 cores, 1 thread for an operation; no GPU; Linux." in text
    installed = _ENVIRONMENT | {"commit": None, "gpus": ["One", "Two"], "threads": 4}
    assert "; One, Two; Linux." in (text := markdown(_report("classification", environment=installed)))
    assert "dbl 0.1; torch" in text
    assert "4 threads for" in text


def test_a_report_on_vectors_speaks_of_rows() -> None:
    """Catches a classifier of vectors that is reported as one of images."""
    text = markdown(_report("vector_classification", _arm("blocks", {"accuracy": _spread(0.5), "nats": _spread(1.0)})))
    assert "trained on toys (rows of 13 numbers, 10 classes)" in text
    assert "355 test rows" in text
    assert "share of test rows that are classified correctly" in text
    assert "cost of the label of a test row in nats" in text


def test_a_training_that_was_not_timed_has_no_row_for_its_speed() -> None:
    """Catches zeros, and the word None, where nothing was logged."""
    arm = _arm("blocks", {"loss": _spread(0.5)}) | {"seconds_at_median_speed": None}
    arm["parts"] = [part | {"step_seconds": None, "samples_per_second": None} for part in arm["parts"]]
    text = markdown(_report("image_generation", arm))
    assert "the same if every step" not in text
    assert "| 10 | 2 |  |  | 1,234 |" in text


def test_the_number_of_test_samples_is_said_once() -> None:
    """Catches a number that two templates add."""
    assert markdown(_report("image_generation")).count("355 test images") == 1


def test_the_report_names_the_arms_that_nothing_beats() -> None:
    """Catches a choice that is not that of the picture, arms without a measured memory, and a picture of one arm."""
    arms = [_arm(name, {"accuracy": _spread(value)}) for name, value in (("blocks", 0.7), ("end_to_end", 0.9))]
    arms.append(_arm("windows", {"accuracy": _spread(0.8)}))
    for arm, size in zip(arms, (100, 300, 100), strict=True):
        arm["memory"] = {"peak_bytes": size, "bytes": None, "cuda": None}
    shown = {"quality_vs_memory": "memory.png"}
    text = markdown(_report("classification", *arms, pictures=shown))
    assert "without needing more memory: windows of layers; end to end. One training seed" in text
    assert "![quality against memory](memory.png)" in text
    report = _report("classification", *arms)
    assert memory_and_quality(report, words_of(report))["blocks"]["peak_bytes"] == 100
    arms[1]["memory"] = arms[2]["memory"] = None
    assert memory_and_quality(report, words_of(report)) == {}


@pytest.mark.parametrize("key", ["seeds", "sampler", "data"])
def test_a_missing_figure_is_an_error(key: str) -> None:
    """Catches a report with silent holes where figures should be."""
    report = _report("image_generation")
    part = report["sides"][0]["parts"][0]
    del part["steps"]
    with pytest.raises(UndefinedError, match="steps"):
        markdown(report)
    report = _report("classification")
    del report[key]
    with pytest.raises((UndefinedError, KeyError)):
        markdown(report)


@pytest.mark.parametrize(
    ("uses", "calls", "expected"),
    [
        ([False, True], [1, 1], ["**Block 0 ignores its class label**: its loss"]),
        ([False, False], [1, 1], ["**Blocks 0 and 1 ignore their class labels**: their losses"]),
        ([False, False, False], [3, 0, 0], ["Blocks 0, 1 and 2 ignore", "never calls blocks 1 and 2:"]),
        ([True, True], [3, 0], ["Every block uses its class label", "never calls block 1:"]),
    ],
)
def test_findings_agree_in_number_with_the_blocks(uses: list[bool], calls: list[int], expected: list[str]) -> None:
    """Catches a verdict on the wrong blocks, and "Block 0, 1 ignores"."""
    arm = _diagnosed(uses, calls)
    text = markdown(_report("image_generation", arm, pictures={"loss_over_sigma": "loss.png"}))
    assert [sentence for sentence in expected if sentence not in text] == []
    assert ("never calls" in text) == (0 in calls)
    assert "| 0 and 1 | 0.5 | 0.1 | 0.4 | 0.25 |" in text
    assert "call by call: 0.25." in text


@pytest.mark.parametrize(("metric", "values", "best"), [("accuracy", (0.5, 0.75), 8), ("fid_toys", (0.5, 0.75), 1)])
def test_the_best_number_of_steps_is_that_of_the_better_value(metric: str, values: list[float], best: int) -> None:
    """Catches a verdict that names the worst number of steps."""
    arms = [_arm(name, {metric: _spread(0.75)}) for name in ("blocks", "end_to_end")]
    for arm in arms:
        points = zip((1, 8), values, strict=True)
        arm["quality_by_steps"] = [{"steps": steps, "metrics": {metric: _spread(value)}} for steps, value in points]
    text = markdown(_report("classification", *arms, pictures={"quality_vs_steps": "steps.png"}))
    assert f"with {best} steps for the blocks, " in text
    assert f"with {best} end to end." in text
    assert "| 8 | 0.75 | 0.75 |" in text
    assert ("a difference of 0.0 of 355 test images" in text) == (metric == "accuracy")


def test_the_verdict_on_memory_compares_checkpointing_with_blocks() -> None:
    """Catches a ratio upside down, and the wrong one of less and more."""
    peaks = {"end to end": 80, "end to end, checkpointing": 30, "2 blocks": 40, "2 blocks, checkpointing": 24}
    sizes = ("parameters", "gradients", "optimizer", "average", "batch", "activations", "temporaries")
    rows = [{"name": name, "peak_bytes": peak, "bytes": dict.fromkeys(sizes, 1)} for name, peak in peaks.items()]
    plan = {"batch_size": 7, "precision": "32-true", "device": "cpu", "rows": rows}
    arms = [_arm(name, {"loss": _spread(0.5)}) for name in ("blocks", "end_to_end")]
    arms[0]["memory"] = {
        "bytes": None,
        "peak_bytes": None,
        "cuda": {"allocated_bytes": 2 << 20, "reserved_bytes": 3 << 20},
    }
    text = markdown(_report("classification", *arms, memory_plan=plan, pictures={"memory": "memory.png"}))
    assert "40.00 B for a block and 80.00 B end to end (ratio 0.50)" in text
    assert "24.00 B and 30.00 B (ratio 0.80). Checkpointing without blocks needs less than blocks" in text
    assert "GPU's allocator, blocks: 2.00 MiB allocated at the peak, 3.00 MiB reserved." in text
    assert "| peak memory of a training step | 2.00 MiB | not measured |" in text


def test_ranges_say_what_they_are_over() -> None:
    """Catches draws of start noise that pass for trainings."""
    found = _arm("blocks", {"fid_toys": _spread(2.0, 4.0, over="start noises")})
    text = markdown(_report("image_generation", found))
    assert "| FID (toys features) | 3 (2 to 4) |" in text
    assert "over draws of start noise" in text
    assert "training seeds" not in text
    seeds = _arm("blocks", {"fid_toys": _spread(2.0, 4.0)})
    text = markdown(_report("image_generation", seeds, seeds=[3, 5]))
    assert "over training seeds 3, 5." in text
    assert "start noise for one training" not in text


def _page(report: dict[str, Any], folder: Path) -> tuple[str, str]:
    text = markdown(report)
    return text, html(text, report["run"], folder)


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    """Catches pictures, styles or scripts that the page would have to fetch, and a picture that was left out."""
    for name in ("samples.png", "loss.png"):
        (tmp_path / name).write_bytes(b"\x89PNG" + name.encode())
    report = _report("image_generation", _diagnosed([True, True], [1, 1]), samples="samples.png")
    _, page = _page(report | {"pictures": {"loss_over_sigma": "loss.png"}}, tmp_path)
    sources = re.findall(r'<img[^>]* src="([^"]*)"', page)
    assert len(set(sources)) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    without_links = re.sub(r'<a href="https://arxiv\.org/[^"]*">', "", page)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link", re.sub(r'src="data:[^"]*"', "", without_links))
    assert '<meta name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert "<title>a_run</title>" in page


def test_the_page_has_the_same_tables_as_the_markdown(tmp_path: Path) -> None:
    """Catches cells that are lost, moved or changed on the way to the page."""
    arm = _diagnosed([True, False], [1, 1])
    text, page = _page(_report("image_generation", arm, pictures={"loss_over_sigma": "loss.png"}), tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    cells = [cell.strip() for line in lines for cell in line.strip("|").split("|")]
    assert [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)] == cells
    assert page.count('<div class="table">') == page.count("<table>") == 4


def test_generated_texts_and_names_stay_in_their_place(tmp_path: Path) -> None:
    """Catches texts of a network that become Markdown, HTML or a part of a template."""
    evil = "```\n# heading\n\n| a | b |\n<script>alert(1)</script> {{ report }} ![x](y.png)\r\n````\n- item"
    arm = _arm("blocks", {"loss": _spread(0.5)})
    texts = [{"prompt": "<script>", "generated": evil}]
    arm["text_quality"] = _judged(scoring_model="<b>*judge*|", texts=texts)
    report = _report("causal_text", arm, run="<script>_x")
    report["data"]["name"] = "a|b `c` [d](e) <i>"
    text, page = _page(report, tmp_path)
    assert "`````text\n" + "\n".join(evil.splitlines()) + "\n`````" in text
    assert not re.search("<script|<b>|<i>|<img", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ report }} ![x](y.png)" in page
    assert page.count("<pre>") == 2
    assert page.count("<table>") == 2
    assert "a|b `c` [d](e) &lt;i&gt;" in page
    assert "&lt;b&gt;*judge*|" in page
    assert "<script" not in html("a <script>alert(1)</script>\n\n<script>alert(2)</script>\n", "x", tmp_path)


def test_mauve_has_the_deviation_over_its_starts() -> None:
    """Catches a figure that is read as exact, and a deviation where MAUVE was not measured."""
    arm = _arm("blocks", {"loss": _spread(0.5), "mauve": _spread(0.8)})
    arm["text_quality"] = _judged(mauve_values=[0.7, 0.8, 0.9], mauve_standard_deviation=0.1)
    text = markdown(_report("causal_text", arm))
    assert "MAUVE is the mean over 3 starts of its clusters, with a standard deviation of 0.1 among them" in unwrap(
        text
    )
    arm["text_quality"] = _judged()
    assert "starts of its clusters" not in markdown(_report("causal_text", arm))


def _judged(**changed: Any) -> dict[str, Any]:
    settings = {"num_texts": 1, "num_tokens": 5, "prompt_tokens": 2, "temperature": 1.0, "top_k": None, "top_p": 1.0}
    mauve = {"mauve_values": [], "mauve_standard_deviation": None}
    return settings | mauve | {"num_steps": None, "scoring_model": None, "real": {}, "texts": []} | changed


def test_names_without_markup_are_left_as_they_are() -> None:
    """Catches escapes in plain names that a reader of the Markdown would have to look through."""
    assert plain("digits_dit-2 (in_domain)") == "digits_dit-2 (in_domain)"


def test_code_blocks_are_left_as_they_are() -> None:
    """Catches lines of a text that are joined, stripped or dropped like wrapped prose."""
    code = "````text\n  a\n\n\n- b\n```\n|  c\n````"
    assert unwrap(f"One\n  two.\n\n\n\n{code}\n- x\n  y\n\n- z\n# H\n") == f"One two.\n\n{code}\n- x y\n- z\n\n# H\n"


def test_every_template_is_installed() -> None:
    """Catches a template that exists in the checkout and not in the installed package."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["dbl"]
    files = [path.relative_to(PACKAGE).as_posix() for path in TEMPLATES.iterdir()]
    assert len(files) > len(TASKS)
    assert [file for file in files if not any(fnmatch(file, pattern) for pattern in patterns)] == []


def test_a_report_is_not_changed_by_rendering() -> None:
    """Catches a template or a fact that writes into `report.json`."""
    report = _report("image_generation", _diagnosed([True, True], [1, 1]), pictures={"loss_over_sigma": "loss.png"})
    before = copy.deepcopy(report)
    markdown(report)
    assert report == before
