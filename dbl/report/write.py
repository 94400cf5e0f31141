"""From the sides of a comparison to the files of the report."""

from typing import Any

from dbl.contract import Contract
from dbl.files import write_json, write_text
from dbl.report.markdown import markdown
from dbl.report.pictures import draw_pictures
from dbl.report.side import Side, summarise
from dbl.run_folder import RunFolder
from dbl.sampling import Sampler
from dbl.serial import to_plain


def write_report(
    run: RunFolder,
    contract: Contract,
    sampler: Sampler,
    sides_of_seeds: dict[int, list[Side]],
    num_test_images: int,
    memory_plan: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all files into the report folder.

    Args:
        run: whose folder it is.
        contract: of the first seed.
        sampler: settings used.
        sides_of_seeds: training seed -> the same sides for each.
        num_test_images: in the test split.
        memory_plan: as `dbl plan` writes it.

    Returns:
        What `report.json` holds; see the package.
    """
    report = {
        "run": run.name,
        "contract": contract.hash,
        "network": to_plain(contract.terms.network),
        "target": to_plain(contract.terms.target),
        "noise": to_plain(contract.terms.noise),
        "partition": to_plain(contract.terms.partition),
        "data": {
            "name": contract.data.name,
            "num_classes": contract.data.num_classes,
            "shape": list(contract.data.shape),
            "num_test_images": num_test_images,
        },
        "seeds": list(sides_of_seeds),
        "sides": [summarise(list(seeds)) for seeds in zip(*sides_of_seeds.values(), strict=True)],
        "sampler": to_plain(sampler)["init_args"],
        "memory_plan": memory_plan,
        "samples": "samples.png" if (run.report / "samples.png").is_file() else None,
    }
    report["pictures"] = draw_pictures(report, run.report)
    write_json(run.report / "report.json", report)
    write_text(run.report / "report.md", "\n".join(markdown(report)) + "\n")
    return report
