"""`dbl export` from the command line: programs of a run, and what is refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from forked import run_dbl
from tiny_run import TINY

from dbl.data import Digits
from dbl.inference.stack import BlockStack

CONFIG = Path(__file__).parents[2] / "configs" / "digits_vit.yaml"
RUN = "runs/digits_vit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny run of a classifier, and one of which a block is missing."""
    folder = tmp_path_factory.mktemp("exported")
    for arguments in (
        ("train", "--config", str(CONFIG), *TINY, "--diagnostics.num_samples=0"),
        ("train", "--config", str(CONFIG), *TINY, "--run.name=half", "--blocks=0"),
    ):
        outcome = run_dbl(folder, *arguments, time_limit_s=600)
        assert outcome.code == 0, outcome
    return folder


def test_a_run_is_exported_with_its_own_sampler(folder: Path) -> None:
    """Catches a folder elsewhere than said, and settings other than those of the report."""
    outcome = run_dbl(folder, "export", RUN, time_limit_s=300)
    assert outcome.code == 0, outcome
    assert outcome.output == f"exported: {RUN}/export\n"
    facts = json.loads((folder / RUN / "export/manifest.json").read_text())
    assert (facts["makes"], len(facts["steps"]), facts["start_scale"]) == ("classes", 3, 0.0)
    images = Digits(batch_size=8, eval_batch_size=8).split("test").images[torch.arange(20)]
    chain = torch.export.load(folder / RUN / "export/chain.pt2").module()
    expected = BlockStack.from_pretrained(folder / RUN).classify(images)
    torch.testing.assert_close(chain(torch.zeros(20, 16), images / 255), expected, rtol=1e-3, atol=1e-4)
    again = run_dbl(folder, "export", RUN)
    assert again.problem() is None
    assert f"--output {RUN}/export exists already" in again.errors


def test_blocks_alone_go_where_they_are_told(folder: Path) -> None:
    """Catches options that are read nowhere."""
    outcome = run_dbl(folder, "export", RUN, "--blocks_only", "--output=elsewhere/programs", time_limit_s=300)
    assert outcome.code == 0, outcome
    names = {path.name for path in (folder / "elsewhere/programs").iterdir()}
    assert names == {"manifest.json", *(f"block_{block}.pt2" for block in range(3))}


ERRORS = {
    "no run": (["runs/nobody"], "runs/nobody is not a run folder: it has no contract.json"),
    "an unfinished run": (["runs/half"], "runs/half is not assembled yet: run dbl assemble runs/half"),
    "an output that exists": ([RUN, "--output=runs"], "--output runs exists already"),
    "an output in a file": ([RUN, f"--output={RUN}/config.yaml/a"], "config.yaml"),
    "no run at all": ([], "run"),
    "an option that is none": ([RUN, "--chain"], "--chain is not known"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case: str, folder: Path) -> None:
    """Catches tracebacks, another exit code, and lines that do not name the folder."""
    arguments, named = ERRORS[case]
    outcome = run_dbl(folder, "export", *arguments)
    assert outcome.problem() is None, outcome
    assert named in outcome.errors
