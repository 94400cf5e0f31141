"""A wrong value of any key of a config is refused in one line, before any training; what can be meant works."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands.text_runs import ALPHABET, TINY as TINY_TEXT
from faults.wrong_values import MUTATIONS, Answer, Case, answers, cases_of, leaves
from forked import run_dbl
from tiny_run import TINY

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, write_config
from dbl.commands.schema import config_parser

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIONS = {"digits_dit": [*TINY, "--previews.num_samples=8"], "digits_vit": TINY, "pydoc_mdm": TINY_TEXT["pydoc_mdm"]}
# Groups that only one of the configs uses; all other keys are tested in the first config that has them.
WHERE = {"text_quality": "pydoc_mdm", "likelihood": "pydoc_mdm"}
# Keys of which any text is a value: paths and names.
TEXTS = {
    *("trainer.default_root_dir", "trainer.model_registry", "run.name", "run.root"),
    *("image_quality.weights_path", "image_quality.cache_dir", "text_quality.scoring_model"),
    *("data.init_args.cache_dir", "contract.target.init_args.table_name", "contract.target.init_args.table_file"),
}
# What can be meant: kind of value -> keys that take it.
MEANT = {
    "text": TEXTS - {"text_quality.scoring_model", "contract.target.init_args.table_file"},
    "empty": {"trainer.logger", "trainer.callbacks", "trainer.plugins", "data.init_args.augmentations"},
    "negative": {
        *("contract.noise.init_args.p_mean", "contract.seed", "data.init_args.split_seed", "inference.seed"),
        *("contract.noise.init_args.seed", "diagnostics.seed", "likelihood.seed", "text_quality.seed"),
    },
    "zero": {
        *("trainer.min_epochs", "trainer.min_steps", "trainer.limit_val_batches", "trainer.limit_predict_batches"),
        *("model.recipe.optimizer.init_args.lr", "model.recipe.optimizer.init_args.eps", "model.recipe.warmup_steps"),
        *("data.init_args.validation_share", "data.init_args.test_share", "contract.partition.overlap", "ema.decay"),
        *("contract.network.init_args.cond_dropout", "contract.network.init_args.dropout"),
        *("contract.noise.init_args.p_mean", "inference.sampler.guidance_scale", "inference.sampler.temperature"),
        "previews.num_samples",
        *("diagnostics.num_samples", "text_quality.num_texts", "likelihood.levels_per_block"),
    },
    "null": {
        "run.name",  # named after the data
        *("trainer.max_epochs", "trainer.val_check_interval", "trainer.num_sanity_val_steps"),
        *("trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
        *("model.recipe.clip_norm", "data.init_args.max_tokens", "data.init_args.tokenizer.init_args.alphabet"),
    },
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three configs, whole and tiny, each in a folder of its own."""
    made = {}
    for name, options in OPTIONS.items():
        plain = RunConfig(parse(config_parser(), ["--config", str(CONFIGS / f"{name}.yaml"), *options])).plain()
        if name == "pydoc_mdm":
            plain["data"]["init_args"]["tokenizer"]["init_args"]["alphabet"] = ALPHABET
        made[name] = tmp_path_factory.mktemp(name) / "tiny.yaml"
        write_config(made[name], plain)
    return made


@pytest.fixture(scope="module")
def table(configs: dict[str, Path]) -> dict[str, list[Case]]:
    """The cases of each config."""
    cases: dict[str, list[Case]] = {}
    seen: set[str] = set()
    for name, path in configs.items():
        values: dict[str, Any] = dict(leaves(RunConfig.load(path).plain()))
        keys = [key for key in values if key not in seen and WHERE.get(key.partition(".")[0], name) == name]
        cases[name] = [case for key in keys for case in cases_of(key, values[key], key in TEXTS)]
        seen.update(keys)
    return cases


def test_the_table_is_large_and_what_can_be_meant_is_small(table: dict[str, list[Case]]) -> None:
    """Catches keys that are left out, and exceptions for keys or values that are not tried."""
    cases = [case for of_config in table.values() for case in of_config]
    assert len(cases) == len(set(cases)) >= 800
    assert Counter(case.mutation for case in cases).keys() == MUTATIONS.keys()
    meant = {Case(key, mutation) for mutation, keys in MEANT.items() for key in keys}
    assert meant - set(cases) == set()
    assert len(meant) < len(cases) / 10


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_value_is_refused_in_one_line_that_names_its_key(
    name: str, configs: dict[str, Path], table: dict[str, list[Case]]
) -> None:
    """Catches a traceback, a hang, a page of text, a line without the key, and what is accepted without a word."""
    found = answers(table[name], configs[name], configs[name].parent)
    wrong = {case: answer for case, answer in found.items() if case.key not in MEANT.get(case.mutation, ())}
    problems = {str(case): answer.problem(case) for case, answer in wrong.items() if answer.problem(case)}
    assert problems == {}
    refused = {str(case): answer for case, answer in found.items() if case not in wrong and answer != Answer(None, "")}
    assert refused == {}


OF_THE_TRAINER = ["--trainer.limit_val_batches=0", "--trainer.max_epochs=null", "--trainer.log_every_n_steps=null"]
OF_THE_TRAINER += ["--model.recipe.clip_norm=null", "--model.recipe.optimizer.init_args.lr=0", "--trainer.callbacks=[]"]


@pytest.mark.parametrize(
    ("command", "name", "options"),
    [
        ("train", "digits_dit", ["--contract.noise.init_args.p_mean=-3", "--contract.partition.overlap=0"]),
        ("fit", "digits_vit", ["--contract.seed=-3", "--contract.network.init_args.dropout=0", "--ema.decay=0"]),
    ],
)
def test_what_can_be_meant_trains_and_is_evaluated(
    command: str, name: str, options: list[str], configs: dict[str, Path], tmp_path: Path
) -> None:
    """Catches a value that is let through and fails in the middle of the work."""
    outcome = run_dbl(tmp_path, command, "--config", str(configs[name]), *options, *OF_THE_TRAINER)
    assert outcome.code == 0, outcome
