"""From the arms of a comparison to the files of the report."""

from typing import Any

from dbl.data.spec import DataSpec, ImageSpec, TextSpec, VectorSpec
from dbl.data.text.tokenizer import load_tokenizer
from dbl.denoising.sampling import Sampler
from dbl.evaluation.report.arm import Arm, summarise
from dbl.evaluation.report.pictures import draw_pictures
from dbl.evaluation.report.render import html, markdown, words_of
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.utils.environment import environment
from dbl.utils.files import write_json, write_text
from dbl.utils.serialization import to_plain


def write_report(
    run: RunFolder,
    contract: Contract,
    sampler: Sampler,
    arms_of_seeds: dict[int, list[Arm]],
    num_test_samples: int,
    memory_plan: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all files into the report folder.

    Args:
        run: folder of the run.
        contract: contract of the first seed.
        sampler: sampler settings used.
        arms_of_seeds: training seed -> the same arms for each.
        num_test_samples: size of the test split.
        memory_plan: result of `dbl plan`.

    Returns:
        The content of `report.json`; docs/report.md explains the keys.
    """
    report = {
        "run": run.name,
        "contract": contract.hash,
        "network": to_plain(contract.config.network),
        "target": to_plain(contract.config.target),
        "noise": to_plain(contract.config.noise),
        "partition": to_plain(contract.config.partition),
        "start": to_plain(contract.config.start),
        "data": {
            **_facts(contract.data),
            "tokenizer": _tokenizer(run, contract.data, list(arms_of_seeds)),
            "num_test_samples": num_test_samples,
        },
        "seeds": list(arms_of_seeds),
        "sides": [summarise(list(seeds)) for seeds in zip(*arms_of_seeds.values(), strict=True)],
        "sampler": to_plain(sampler)["init_args"],
        "memory_plan": memory_plan,
        "environment": environment(),
        "samples": "samples.png" if (run.report / "samples.png").is_file() else None,
    }
    report["pictures"] = draw_pictures(report, words_of(report), run.report)
    text = markdown(report)
    write_json(run.report / "report.json", report)
    write_text(run.report / "report.md", text)
    write_text(run.report / "report.html", html(text, report["run"], run.report))
    return report


def _facts(data: DataSpec) -> dict[str, Any]:
    """Facts about the data; `tokens` of one sequence, null for images and vectors."""
    facts = {"name": data.name, "num_classes": data.num_classes}
    if isinstance(data, ImageSpec):
        return facts | {"kind": "images", "shape": list(data.shape), "tokens": None}
    if isinstance(data, VectorSpec):
        return facts | {"kind": "vectors", "shape": [data.num_features], "tokens": None}
    assert isinstance(data, TextSpec)
    return facts | {"kind": "text", "shape": [data.seq_len], "tokens": data.seq_len}


def _tokenizer(run: RunFolder, data: DataSpec, seeds: list[int]) -> str | None:
    """The class of the tokenizer, from the run or, in a comparison over seeds, from the run of one of them."""
    runs = [run, *(RunFolder(f"seed_{seed}", str(run.path)) for seed in seeds)]
    path = next((run.tokenizer for run in runs if run.tokenizer.is_file()), None)
    if path is None or not isinstance(data, TextSpec):
        return None
    tokenizer = load_tokenizer(path)
    return type(tokenizer).__qualname__ if tokenizer.identity == data.tokenizer else None
