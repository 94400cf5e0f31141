"""Many commands at once on one run: each ends with a whole model or a clear line, and one contract is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.runs import left_over
from forked import Outcome, run_dbl, run_together
from tiny_run import TINY

from dbl.run.model_folder import ModelFolder

CONFIG = ["--config", str(Path(__file__).parents[2] / "configs" / "digits_dit.yaml"), *TINY]
RUN = Path("runs/digits_dit")
SAMPLE = ["sample", str(RUN), "--num_images", "4", "--sampler.num_steps", "3"]
EVALUATE = ["validate", *CONFIG, "--inference.sampler.num_steps=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was trained and assembled, not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    for block in range(3):
        assert run_dbl(folder, "fit", *CONFIG, f"--model.block={block}").code == 0
    assert run_dbl(folder, "assemble", str(RUN)).code == 0
    return folder


def _check(outcomes: list[Outcome], refusals: tuple[str, ...]) -> None:
    """Each was done, or was refused in one line that begins or goes on as one of `refusals` does."""
    for outcome in outcomes:
        if outcome.code != 0:
            assert outcome.problem() is None
            assert any(refusal in outcome.errors for refusal in refusals), outcome.errors


def _assemble_and_read(trained: Path, folder: Path) -> None:
    """Eight assemblies, of two kinds of weights, and four commands that read the model."""
    shutil.copytree(trained, folder)
    weights = [["assemble", str(RUN), "--weights", kind] for kind in ("ema", "live")] * 4
    outcomes = run_together(folder, *weights, SAMPLE, EVALUATE, SAMPLE, EVALUATE)
    _check(outcomes[:8], ("is being assembled by",))
    _check(outcomes[8:], ("was assembled anew since it was opened",))
    assert [outcome.code for outcome in outcomes[:8]] == [0] * 8  # none takes so long that another gives up
    assert ModelFolder(folder / RUN / "model").available == (0, 1, 2)
    assert left_over(folder / RUN) == []


def _fit_unlike_configs(folder: Path) -> None:
    """Five trainings of different blocks and contracts in a new run."""
    folder.mkdir()
    fits = [["fit", *CONFIG, f"--contract.seed={seed}", f"--model.block={seed % 3}"] for seed in range(5)]
    outcomes = run_together(folder, *fits)
    done = [seed for seed, outcome in enumerate(outcomes) if outcome.code == 0]
    assert len(done) == 1, outcomes
    stored = json.loads((folder / RUN / "contract.json").read_text())
    assert stored["config"]["init_args"]["seed"] == done[0]
    _check(outcomes, (f"has contract {stored['sha256'][:12]}, this config ", "is being trained by", "contract.seed is"))
    assert [path.parts[-3] for path in folder.rglob("last.ckpt")] == [f"block_{done[0] % 3}"]
    assert left_over(folder / RUN) == []


@pytest.mark.parametrize("number", range(2))
def test_assemblies_and_readers_at_once(number: int, trained: Path, tmp_path: Path) -> None:
    """Catches a mixed or broken model, a reader that takes half of each, and temporary folders that are shared."""
    _assemble_and_read(trained, tmp_path / "round")


@pytest.mark.parametrize("number", range(2))
def test_one_of_several_configs_begins_a_run(number: int, tmp_path: Path) -> None:
    """Catches a contract that another process writes over, so that the training under the first one is lost."""
    _fit_unlike_configs(tmp_path / "round")


def test_equal_configs_begin_a_run_together(tmp_path: Path) -> None:
    """Catches a contract that shuts out the very processes that agree with it."""
    fits = [["fit", *CONFIG, f"--model.block={block}"] for block in range(3)]
    assert [outcome.code for outcome in run_together(tmp_path, *fits)] == [0, 0, 0]
    assert run_dbl(tmp_path, "assemble", str(RUN)).code == 0
    assert left_over(tmp_path / RUN) == []


@pytest.mark.soak
@pytest.mark.parametrize("test", [_assemble_and_read, _fit_unlike_configs])
def test_twenty_rounds(test: Callable[..., None], trained: Path, tmp_path: Path) -> None:
    """Catches what two rounds seldom meet."""
    for number in range(int(os.environ.get("DBL_SOAK_ROUNDS", "20"))):
        folder = tmp_path / str(number)
        test(*([trained] if test is _assemble_and_read else []), folder)
        shutil.rmtree(folder)
