"""A trained run from Python: it answers as its report says, without a setting being repeated."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import run_dbl
from tiny_run import TINY
from toy import fit, recipe

import dbl
from dbl.denoising.sampling import Sampler
from dbl.inference.stack import BlockStack
from dbl.run.assembly import assemble
from dbl.run.contract import Contract, plain_hash
from dbl.run.folder import RunFolder
from dbl.run.hub.library import model_card
from dbl.run.inference import InferenceConfig
from dbl.run.model_folder import ModelFolder
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError

CHOSEN = InferenceConfig(Sampler("heun", "quantile", num_steps=3, temperature=0.0), "one", num_images=7, seed=5)

# Enough to learn something in a few seconds.
LEARNS = [
    *("--trainer.max_steps=60", "--trainer.val_check_interval=60", "--ema.decay=0.9"),
    *("--model.recipe.optimizer.init_args.lr=0.02", "--model.recipe.warmup_steps=0"),
]


@pytest.fixture(scope="module")
def trained(vit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of a classifier that is assembled with `CHOSEN`."""
    run = RunFolder("vit", str(tmp_path_factory.mktemp("runs")))
    run.write_contract(vit_contract)
    for block in range(3):
        fit(DiffusionBlock(vit_contract, block, recipe()), run.path, steps=2)
    assemble(run, inference=CHOSEN)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may change."""
    shutil.copytree(trained.path, tmp_path / "vit")
    return RunFolder("vit", str(tmp_path))


def test_a_classifier_is_as_right_as_its_report_says(tmp_path: Path) -> None:
    """Catches a stack from Python that is sampled in another way than the one in the report."""
    config = Path(__file__).parents[2] / "configs" / "digits_vit.yaml"
    outcome = run_dbl(tmp_path, "train", "--config", str(config), *TINY, *LEARNS, time_limit_s=600)
    assert outcome.code == 0, outcome
    report = json.loads((tmp_path / "runs/digits_vit/report/report.json").read_text())
    stack = BlockStack.from_pretrained(tmp_path / "runs/digits_vit")
    test = dbl.Digits(batch_size=64, eval_batch_size=355).split("test")
    found = stack.classify(test.images[torch.arange(355)]).argmax(dim=-1)
    right = float((found == test.labels).double().mean())
    assert 0.15 < right < 0.9  # it has learnt something, and has errors by which two samplers would differ
    assert right == pytest.approx(report["sides"][0]["test"]["test/accuracy_draw_0"], abs=1e-6)


def test_what_was_chosen_at_the_assembly_is_used(trained: RunFolder) -> None:
    """Catches a setting that is not stored, or is stored and not used."""
    assert ModelFolder(trained.model).inference == CHOSEN
    for place in (trained.path, trained.model, str(trained.path)):
        stack = BlockStack.from_pretrained(place)
        assert stack.inference == CHOSEN
        assert not any(module.training for module in stack.modules())
    other = replace(CHOSEN, seed=6)
    assert BlockStack.from_pretrained(trained.path, other).inference == other


def test_the_card_says_how_the_model_is_used(trained: RunFolder) -> None:
    """Catches a card from which nobody learns with which sampler the figures were made."""
    card = model_card(ModelFolder(trained.model), "ada/vit")
    assert "method heun, schedule quantile, num_steps 3, " in card
    assert "temperature 0.0, ensemble false, seed 5" in card


def test_a_model_that_does_not_say_has_the_defaults(run: RunFolder) -> None:
    """Catches a model of an earlier version that is refused."""
    path = run.model / "config.json"
    plain = json.loads(path.read_text())
    del plain["inference"], plain["sha256"]
    path.write_text(json.dumps(plain | {"sha256": plain_hash(plain)}))
    expected = InferenceConfig(Sampler(schedule="quantile", temperature=0.0))
    assert BlockStack.from_pretrained(run.path).inference == expected


def test_settings_that_do_not_fit_are_not_stored(run: RunFolder) -> None:
    """Catches a model that nobody could load."""
    before = (run.model / "config.json").read_bytes()
    with pytest.raises(UserError, match="guidance_scale"):
        assemble(run, inference=InferenceConfig(Sampler(guidance_scale=2.0)))
    run.config.write_text("inference: {sampler: {method: ancestral}}")
    with pytest.raises(UserError, match=r"vit/config.yaml: inference.sampler.method \(ancestral\) does not fit"):
        assemble(run)
    assert (run.model / "config.json").read_bytes() == before


def test_a_run_that_is_not_assembled_is_one_line(run: RunFolder) -> None:
    """Catches a traceback, or a line that does not say which command is missing."""
    shutil.rmtree(run.model)
    with pytest.raises(UserError, match=rf"{run.path} is not assembled yet: run dbl assemble {run.path}$"):
        BlockStack.from_pretrained(run.path)
