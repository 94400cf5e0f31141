"""Reports on text: figures, bounds and sections of each task, from arms made by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from dbl.data import Characters
from dbl.data.spec import TextSpec
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import MaskTarget, TokenTarget
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.evaluation.report import Arm, write_report
from dbl.evaluation.report.formatting import fenced
from dbl.networks import CausalLM, MaskedLM, RecurrentLM
from dbl.run.contract import ContractConfig
from dbl.run.folder import RunFolder
from dbl.training.history import read_history
from dbl.training.memory.tracker import CATEGORIES

LLAMA = {"num_layers": 6, "width": 8, "num_heads": 2, "mlp_width": 16}
TASKS = {
    "clean": ContractConfig(
        CausalLM(**LLAMA, streams="clean"), TokenTarget(dim=4), partition=PartitionConfig(num_blocks=2)
    ),
    "two": ContractConfig(
        CausalLM(**LLAMA, streams="two"), TokenTarget(dim=4), partition=PartitionConfig(num_blocks=2)
    ),
    "recurrent": ContractConfig(
        RecurrentLM(**LLAMA, prelude=1, coda=2, mean_iterations=5, backprop_iterations=3),
        TokenTarget(dim=4),
        partition=PartitionConfig(num_blocks=1),
    ),
    "masked": ContractConfig(
        MaskedLM(6, width=8, num_heads=2), MaskTarget(), MaskingNoise(), PartitionConfig(num_blocks=2)
    ),
}
TOKENIZER = Characters("abc")


def _likelihood(num_blocks: int, exact: bool, prior: float) -> dict[str, Any]:
    curve = [{"sigma_high": 0.9, "sigma_low": 0.5, "block": 0, "nats_per_log_sigma": 0.3}]
    return {
        "nats": 1.5,
        "standard_error": 0.01,
        "prior": prior,
        "reconstruction": 0.125,
        "blocks": [{"nats": 0.5, "standard_error": 0.02}] * num_blocks,
        "num_samples": 13,
        "num_scored": 91,
        "levels_per_block": 1,
        "curve": [] if exact else curve,
        "exact": exact,
    }


def _texts(generated: str) -> dict[str, Any]:
    settings = {"num_texts": 9, "num_tokens": 5, "prompt_tokens": 2, "temperature": 1.0, "top_k": None, "top_p": 1.0}
    return {
        **settings,
        "num_steps": None,
        "scoring_model": "a judge",
        "metrics": {"gen_ppl": 31.0, "distinct_2": 0.4},
        "real": {"gen_ppl": 17.0, "distinct_2": 0.8},
        "texts": [{"prompt": "ab", "generated": generated}],
    }


def _diagnostics(num_blocks: int) -> dict[str, Any]:
    control = {"loss": 1.0, "loss_shuffled": 1.001, "standard_error": 0.1, "uses_condition": False}
    return {
        "num_samples": 6,
        "loss_unit": "cross-entropy in nats",
        "levels": [{"sigma": 0.5, "block": 0, "loss": 1.0, "loss_shuffled": 1.001, "weight": 1.0}],
        "condition": [control] * num_blocks,
        "information": [{"nats": 0.5, "share": 1 / num_blocks}] * num_blocks,
        "calls_per_block": [4] * num_blocks,
        "trajectory": [],
        "boundaries": [],
    }


def _arms(task: str, nats: float) -> list[Arm]:
    num_blocks, denoises = TASKS[task].partition.num_blocks, task == "masked"
    part = {"steps": 10, "samples": 70, "layer_passes": 420.0, "seconds": 3.0, "parameters": 100}
    part |= read_history(Path("no metrics.csv"))
    blocks = [part | {"part": f"block_{index}", "layers": 6 // num_blocks} for index in range(num_blocks)]
    levels = {"sigma_high": 0.9, "sigma_low": 0.1}
    whole = part | {"part": "end_to_end", "layers": 6, "steps": 23, "samples": 161}
    test = {"test/loss": 0.7, "test/nats": nats, "test/nats_prior": 0.1, "test/gen_ppl": 31.0, "test/distinct_2": 0.4}
    test |= {"test/perplexity": math.exp(nats), "test/bits_per_token": 2.1, "test/loss_block_0": 0.7}
    return [
        Arm(
            "blocks",
            [block | levels for block in blocks],
            calls=[4] * num_blocks,
            test=test,
            text_quality=_texts("bc"),
            likelihood=_likelihood(num_blocks, exact=False, prior=0.0 if denoises else 0.25),
            diagnostics=None if denoises else _diagnostics(num_blocks),
        ),
        Arm(
            "end_to_end",
            [whole | (levels if denoises else {"sigma_high": None, "sigma_low": None})],
            calls=[4] if denoises else [1],
            test=test | {"test/nats": 1.25},
            text_quality=_texts("ca"),
            likelihood=_likelihood(0, exact=not denoises, prior=0.0),
        ),
    ]


def _planned() -> list[dict[str, Any]]:
    return [
        {"name": name, "bytes": dict.fromkeys(CATEGORIES, 3), "peak_bytes": 21} for name in ("end to end", "2 blocks")
    ]


def _written(folder: Path, task: str, arms: dict[int, list[Arm]], tokenizer: bool = True) -> tuple[dict, str]:
    """`report.json` and `report.md` of a task; every linked picture must exist."""
    run = RunFolder("text", str(folder))
    if tokenizer:
        TOKENIZER.save(run.tokenizer)
    spec = TextSpec("plays", "0" * 8, 3, (0.5, 0.25, 0.25), seq_len=7, tokenizer=TOKENIZER.identity)
    plan = {"batch_size": 7, "precision": "32-true", "device": "cpu", "rows": _planned()}
    report = write_report(run, TASKS[task].build(spec), Sampler(), arms, num_test_samples=1234, memory_plan=plan)
    text = (run.report / "report.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert [link for link in links if not link.startswith("https://") and not (run.report / link).is_file()] == []
    return report, text


@pytest.mark.parametrize("task", TASKS)
def test_a_report_on_text_speaks_of_text(tmp_path: Path, task: str) -> None:
    """Catches nouns of images, and numbers of a text report under the wrong name."""
    report, text = _written(tmp_path, task, {0: _arms(task, 1.5)})
    assert "image" not in text.lower()
    assert "None" not in text
    data = report["data"]
    assert (data["kind"], data["shape"], data["tokens"], data["tokenizer"]) == ("text", [7], 7, "Characters")
    assert "plays (text: sequences of 7 tokens from a vocabulary of 3 tokens, each a character)" in text
    assert "1,234 test sequences of 7 tokens." in text
    assert "training compute, sequences x layers" in text
    assert "10 steps of 7 sequences and the end-to-end network 23" in text
    assert "ln 3 = 1.1 nats" in text
    assert "for 7 sequences and the kernels of the device cpu" in text
    assert "Mean over 91 tokens of 13 test sequences" in text


@pytest.mark.parametrize(
    ("task", "sentences", "absent"),
    [
        ("clean", ["`streams: clean`"], ["two streams"]),
        ("two", ["two streams", "layers that know the noise level"], ["`streams: clean`"]),
        ("recurrent", ["treated as one block", "the core (3)", "about 5 times", "the last 3 passes"], ["split into"]),
        ("masked", ["*masking probability*", "masking probabilities"], ["sigma", "exact for"]),
    ],
)
def test_each_task_says_what_it_does(tmp_path: Path, task: str, sentences: list[str], absent: list[str]) -> None:
    """Catches the description of another architecture, or levels under the wrong name."""
    _, text = _written(tmp_path, task, {0: _arms(task, 1.5)})
    assert [sentence for sentence in sentences if sentence not in text] == []
    assert [sentence for sentence in absent if sentence in text] == []


@pytest.mark.parametrize(
    ("task", "layers"), [("clean", (6, 6)), ("two", (30, 6)), ("recurrent", (24, 18)), ("masked", (24, 24))]
)
def test_layers_of_a_token_are_those_that_run(tmp_path: Path, task: str, layers: tuple[int, int]) -> None:
    """Catches a cost that multiplies calls by layers where nothing, or more, passes through them."""
    _, text = _written(tmp_path, task, {0: _arms(task, 1.5)})
    unit = "text" if task == "masked" else "token"
    assert f"| layers run for one {unit} | {layers[0]} | {layers[1]} |" in text


@pytest.mark.parametrize("task", TASKS)
def test_bounds_and_exact_values_are_told_apart(tmp_path: Path, task: str) -> None:
    """Catches a bound that is compared with an exact value as if both were one thing, and the reverse."""
    _, text = _written(tmp_path, task, {0: _arms(task, 1.5)})
    if task == "masked":
        assert "are upper bounds on both sides, not exact values" in text
        assert "Blocks minus end to end is +0.25 nats" in text
        assert "| end to end, all, an upper bound too | 1.5 | 0.01 | 2.164 |" in text
        assert "(prior)" not in text
    else:
        assert "and exact for the end-to-end network" in text
        assert "The bound minus the exact value is +0.25 nats" in text
        assert "| end to end, exact | 1.5 | 0.01 | 2.164 |" in text
        assert "| cost at the highest noise (prior) | 0.25 |" in text


def test_nats_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """Catches a difference of means of unequal seeds, and a range that is not of the differences."""
    _, text = _written(tmp_path, "two", {3: _arms("two", 1.5), 5: _arms("two", 1.375)})
    assert "The bound minus the exact value is +0.188 (+0.125 to +0.25) nats" in text
    assert "The ranges over 2 seeds do not overlap." in text


def test_a_loss_without_noise_is_no_denoising_loss(tmp_path: Path) -> None:
    """Catches the cross-entropy of the language model in the row of the blocks' denoising loss."""
    report, text = _written(tmp_path, "two", {0: _arms("two", 1.5)})
    blocks, whole = report["sides"]
    assert "loss" in blocks["quality"]
    assert "loss" not in whole["quality"]
    assert not {"nats_prior", "loss_block_0"} & blocks["quality"].keys()
    assert "| denoising loss | 0.7 |  |" in text


def test_judged_texts_stand_beside_real_ones(tmp_path: Path) -> None:
    """Catches real values in the wrong row, and a figure of samples that is called a likelihood."""
    _, text = _written(tmp_path, "clean", {0: _arms("clean", 1.5)})
    assert "|  | blocks | end to end | 9 real texts |" in text
    assert "| perplexity of generated texts for the scoring model | 31 | 31 | 17 |" in text
    assert "| distinct bigrams | 0.4 | 0.4 | 0.8 |" in text
    assert "is not a likelihood of the network that wrote them" in text
    assert "| bits per character | 2.1 | 2.1 |  |" in text
    assert text.index("| nats per token |") < text.index("| distinct bigrams |") < text.index("| denoising loss |")
    for given in ("**Text 1, given:**\n\n```text\nab\n```", "blocks:\n\n```text\nbc\n```", "end:\n\n```text\nca\n```"):
        assert given in text


@pytest.mark.parametrize("task", TASKS)
def test_a_report_without_optional_parts(tmp_path: Path, task: str) -> None:
    """Catches a section that needs what was turned off, or a lone arm that is compared."""
    (blocks, _) = _arms(task, 1.5)
    blocks.text_quality = blocks.likelihood = blocks.diagnostics = None
    blocks.test = {"test/loss": 0.7}
    report, text = _written(tmp_path, task, {0: [blocks]}, tokenizer=False)
    assert report["data"]["tokenizer"] is None
    assert report["pictures"].keys() == {"memory"}
    assert "image" not in text.lower()
    assert "upper bound" not in text
    assert "## Samples" not in text
    assert "from a vocabulary of 3 tokens)" in text


def test_the_tokenizer_of_another_run_is_not_believed(tmp_path: Path) -> None:
    """Catches bits per character for a network that never saw characters."""
    Characters("xyz").save(RunFolder("text", str(tmp_path)).tokenizer)
    report, text = _written(tmp_path, "clean", {0: _arms("clean", 1.5)}, tokenizer=False)
    assert report["data"]["tokenizer"] is None
    assert "| bits per token |" in text


def test_the_tokenizer_of_a_seed_is_found(tmp_path: Path) -> None:
    """Catches a comparison over seeds, whose own folder has no tokenizer, that forgets what a token is."""
    TOKENIZER.save(RunFolder("seed_4", str(tmp_path / "text")).tokenizer)
    report, _ = _written(tmp_path, "clean", {4: _arms("clean", 1.5), 6: _arms("clean", 1.5)}, tokenizer=False)
    assert report["data"]["tokenizer"] == "Characters"


def test_nothing_in_a_text_ends_its_box() -> None:
    """Catches written Markdown that becomes a part of the page, and texts without end."""
    assert fenced("a\n```\n# b") == "````text\na\n```\n# b\n````"
    assert fenced("") == "```text\n```"
    _, long, _ = fenced("x" * 5000).splitlines()
    assert len(long) < 1300
    assert long.endswith("… (cut)")
