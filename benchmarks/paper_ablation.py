"""From the paper's own training to the blocks of `dbl`, one choice at a time; and shared parts that meet less often.

python -m benchmarks.paper_ablation --config configs/digits_dit.yaml --seeds 0,1,2

Each row changes one thing of the row before, at equal compute: parts that are shared become private, a learned table
frozen, and the noise distribution, the readout with its loss weight, and the start of the sampler those of the config;
what the config has from the paper anyway is no row. The last of them, `blocks`, is `dbl train` from random weights. The
rows `sync_K` are the paper's training with a copy of the shared parts in each block, averaged after every K steps of
each block and at the end; `sync_never` averages them at the end alone, as any K does that is no less than the steps.

A call resumes what an earlier one began and leaves finished rows alone: their `report.json` is in the run folder, below
`runs/paper_ablation`, and, with `--keep`, in another folder too. Further options are keys of the config.
"""

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.starts import figures
from benchmarks.timing import RANDOM_START
from dbl.commands.arms.paper import Variant, train_paper
from dbl.commands.main import main as dbl
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, write_config
from dbl.commands.schema import config_parser
from dbl.evaluation.quality_by_steps import step_numbers
from dbl.evaluation.report import write_report
from dbl.run.folder import RunFolder
from dbl.training.baselines.paper import PaperTraining
from dbl.utils.files import read_json
from dbl.utils.markdown import table

ROOT = Path("runs/paper_ablation")
BLOCKS = "blocks"
_PRIVATE = {"private": ["stem", "conditioning", "head"]}
_FROZEN = {**_PRIVATE, "table": "frozen"}
# Each with the last choice of `dbl` added; the first of them is the paper.
_CHAIN = {
    "paper": Variant(),
    "private_parts": Variant(_PRIVATE),
    "frozen_table": Variant(_FROZEN),
    "own_noise": Variant(_FROZEN, own_noise=True),
    "own_readout": Variant(_FROZEN, own_noise=True, own_target=True),
    "own_start": Variant(_FROZEN, own_noise=True, own_target=True, own_start=True),
}
_SYNCHRONISED = {f"sync_{every or 'never'}": Variant({"sync_every": every}) for every in (10, 100, 1000, None)}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of images (DiT) or classes (ViT)")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=None, help="by default all")
    parser.add_argument("--keep", type=Path, default=None, help="folder for a copy of the report of each row")
    options, extra = parser.parse_known_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        config = config_of_seed(options.config, seed, extra)
        for row in rows_of(config, options.rows):
            report = report_of(config, row)
            found.setdefault(row, []).append(figures(read_json(report)["sides"][0]))
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy2(report, options.keep / f"{options.config.stem}_{row}_seed_{seed}.json")
    print(summary(found))


def config_of_seed(path: Path, seed: int, extra: Iterable[str]) -> RunConfig:
    """The config with another seed, random weights at the start, and a run folder of its own."""
    place = [f"--run.root={ROOT}", f"--run.name={path.stem}_seed_{seed}"]
    options = ["--config", str(path), RANDOM_START, f"--contract.seed={seed}", *place, *extra]
    return RunConfig(parse(config_parser(), options))


def rows_of(config: RunConfig, chosen: Iterable[str] | None = None) -> list[str]:
    """The rows of a config: those in which something differs from the row before."""
    reason = PaperTraining.refusal(config.contract)
    if reason:
        raise SystemExit(f"the paper's training: {reason}")
    rows, before = list[str](), None
    for name, variant in _CHAIN.items():
        settings = _settings(config, variant)
        rows += [name] if settings != before else []
        before = settings
    rows += [BLOCKS, *_synchronised(config)]
    unknown = set(chosen or ()) - set(rows)
    if unknown:
        raise SystemExit(f"there is no row {min(unknown)}: this config has {', '.join(rows)}")
    return [row for row in rows if chosen is None or row in chosen]


def _synchronised(config: RunConfig) -> list[str]:
    """Those rows in which copies meet before the end, and the one in which they never do."""
    steps = sum(config.steps) / len(config.steps)
    return [name for name, row in _SYNCHRONISED.items() if (row.options["sync_every"] or 0) < steps]


def _settings(config: RunConfig, variant: Variant) -> tuple[Any, ...]:
    """What a variant is, for this config: the choice of a table that it has not makes no difference."""
    without = {} if config.contract.table is not None else {"table": None}
    sampler = variant.sampler(config.inference.sampler)
    return variant.contract(config.contract_config), sampler, {**variant.options, **without}


def report_of(config: RunConfig, row: str) -> Path:
    """Train and evaluate a row if it has no report yet; returns its `report.json`."""
    run = config.run if row == BLOCKS else config.run.rival(row)
    report = run.report / "report.json"
    if report.is_file():
        return report
    write_config(config.run.config, config.plain())
    if row == BLOCKS:
        if dbl(["train", "--config", str(config.run.config)]):
            raise SystemExit(f"{run.path}: the blocks were not trained")
        return report
    if row == "own_start":
        _copy_training(config, run)
    variant = (_CHAIN | _SYNCHRONISED)[row]
    sampler = config.inference.sampler
    steps = step_numbers(config.contract.partition.num_blocks, sampler.num_steps)
    arm = train_paper(config, run, steps, from_scratch=False, variant=variant)
    trained = RunConfig.load(run.path / "blocks" / "config.yaml")
    seed, num_test_samples = config.contract_config.seed, len(config.data.split("test"))
    write_report(run, trained.contract, trained.inference.sampler, {seed: [arm]}, num_test_samples)
    return report


def _copy_training(config: RunConfig, run: RunFolder) -> None:
    """Take over the training of the row before, from which the start of the sampler alone differs."""
    before = [row for row in rows_of(config) if row in _CHAIN][-2]
    report_of(config, before)
    if not run.path.exists():
        shutil.copytree(config.run.rival(before).path, run.path, ignore=shutil.ignore_patterns("report", "blocks"))


def summary(found: dict[str, list[dict[str, Any]]]) -> str:
    """A table: each metric of each row, the mean over seeds and the values."""
    metrics = list(dict.fromkeys(name for values in found.values() for one in values for name in one))
    shown = [name for name in metrics if name.startswith(("accuracy", "fid", "layer_passes", "seconds"))]
    return table(["row", *shown], [[row, *(_spread(values, name) for name in shown)] for row, values in found.items()])


def _spread(values: list[dict[str, Any]], name: str) -> str | None:
    numbers = [one[name] for one in values if name in one]
    if len(numbers) < 2:
        return f"{numbers[0]:.4g}" if numbers else None
    return f"{fmean(numbers):.4g} ({', '.join(f'{number:.4g}' for number in numbers)})"


if __name__ == "__main__":
    main()
