"""Help, version, completion, spelling of options, and variables that look like options."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import run_dbl

from dbl.commands.environment import KEYS, check_environment
from dbl.commands.help import HELP
from dbl.commands.main import COMMANDS, main
from dbl.commands.spelling import whole_numbers, with_underscores
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError
from docs.tables.parameters import parameters_of, parser_of

# Keys of a config that have no dot.
_KEYS = {"seed_everything", "float32_matmul_precision", "relative_steps", "data"}
# Parsed for its refusal alone: evaluation reads no checkpoint.
_REFUSED = {"ckpt_path"}


@pytest.mark.parametrize("command", COMMANDS)
def test_short_help_has_the_options_of_the_command(command: str) -> None:
    """Catches an option that was added or renamed in the parser alone, and help that no screen holds."""
    text = HELP[command].text(command)
    assert text.startswith(f"usage: dbl {command}")
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 110
    own = {found.key for found in parameters_of(parser_of(command)) if "." not in found.key} - _KEYS
    words = " ".join(HELP[command].options).replace(",", " ").split()
    told = {word.removeprefix("--") for word in words if word.startswith("--") and "." not in word}
    if command == "sample":  # its parser depends on the run
        assert own - {"run"} <= told
        return
    refused = set() if command == "fit" else _REFUSED
    assert told - {"config"} == own - refused - {"run", "shell", "source", "repository", "config"}


@pytest.mark.parametrize("command", [name for name, help in HELP.items() if help.overrides])
def test_overrides_of_the_short_help_are_keys_of_the_config(command: str) -> None:
    """Catches a key that was renamed, and more of them than a reader wants."""
    overrides = [option.split()[0].removeprefix("--") for option in HELP[command].overrides]
    assert 5 <= len(overrides) <= 6
    keys = {found.key for found in parameters_of(parser_of(command))} | {"data.batch_size"}
    assert {key for key in overrides if not key.startswith("model.recipe.")} <= keys


@pytest.mark.parametrize(
    "arguments", [["train", "--help"], ["fit", "-h"], ["sample", "runs/a", "--help"], ["--version"]]
)
def test_help_and_version_need_no_package(arguments: list[str]) -> None:
    """Catches an import that makes them slow: torch alone takes seconds."""
    heavy = "{'torch', 'lightning', 'jsonargparse', 'rich'}"
    code = f"import sys; from dbl.commands.main import main; main({arguments}); print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert done.stdout.startswith(("usage: dbl", "dbl "))


def test_all_of_the_help_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a short help without the way to the rest, and a name that is that of a file."""
    for spelling in ("--help_all", "--help-all"):
        with pytest.raises(SystemExit) as end:
            main(["train", spelling])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith("usage: dbl train")
        assert "--inference.sampler.guidance_scale" in text


def test_options_are_spelt_with_underscores_or_dashes() -> None:
    """Catches one spelling that is refused, and a value or a key of others that is changed."""
    given = ["--dry-run", "--num-blocks=2-3", "a-b", "--slurm.extra.mail-type=END", "--run.name", "--x-y z", "-c", "--"]
    expected = [
        "--dry_run",
        "--num_blocks=2-3",
        "a-b",
        "--slurm.extra.mail-type=END",
        "--run.name",
        "--x-y z",
        "-c",
        "--",
    ]
    assert with_underscores(given) == expected
    for command in COMMANDS:
        options = [found.option for found in parameters_of(parser_of(command))]
        assert not [option for option in options if option.startswith("--") and "-" in option[2:]]


@pytest.mark.parametrize("value", ["0,2", [0, 2], " 0, 2"])
def test_numbers_are_given_with_commas_or_as_a_list(value: Any) -> None:
    """Catches a list that one option takes and another does not."""
    assert whole_numbers("--blocks", value, "numbers") == [0, 2]
    with pytest.raises(UserError, match="--blocks 0,a must be numbers"):
        whole_numbers("--blocks", "0,a", "numbers")


@pytest.mark.parametrize(
    ("command", "option"), [("train", "blocks"), ("compare", "seeds"), ("plan", "num_blocks"), ("sample", "classes")]
)
def test_every_list_of_numbers_is_parsed_alike(command: str, option: str) -> None:
    """Catches an option of a command that takes its list in one form alone."""
    parser = parser_of(command)
    (action,) = (found for found in parser._actions if found.dest == option)
    for text in ("3", "3,7", "[3,7]"):
        value = parser._check_value_key(action, text, option, None)
        assert whole_numbers(f"--{option}", value, "numbers") == ([3] if text == "3" else [3, 7])


def test_a_command_without_a_config_asks_for_one(tmp_path: Path) -> None:
    """Catches a message about `data`, a key that a newcomer has not heard of."""
    for command in ("train", "compare", "plan", "fit", "test"):
        outcome = run_dbl(tmp_path, command)
        assert outcome.problem() is None
        assert "give --config FILE, such as --config configs/digits_dit.yaml" in outcome.errors
    (tmp_path / "empty.yaml").write_text("run: {name: a}\n")
    assert "required but not given: data" in run_dbl(tmp_path, "train", "--config=empty.yaml").errors


@pytest.mark.parametrize("words", [["TYPO", "--prompt", "x"], ["--prompt", "x", "TYPO"], ["--temperature=1", "TYPO"]])
def test_a_run_that_does_not_exist_is_named_with_those_that_do(words: list[str], tmp_path: Path) -> None:
    """Catches an option of text that is called unknown, because without the run the parser is that for images."""
    outcome = run_dbl(tmp_path, "sample", *words)
    assert outcome.problem() is None
    assert outcome.errors == "dbl: TYPO is not a run folder: it does not exist\n"
    for name in ("digits_dit", "pydoc_ar"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "contract.json").touch()
    assert "; there are runs/digits_dit, runs/pydoc_ar\n" in run_dbl(tmp_path, "sample", *words).errors
    assert "did you mean runs/pydoc_ar?" in run_dbl(tmp_path, "sample", "pydoc_ar", "--prompt", "x").errors
    assert "give a run folder" in run_dbl(tmp_path, "sample", "--prompt", "x").errors


def test_a_misspelt_run_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a list of all runs where one is meant."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "digits_dit", *"bcdef"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "contract.json").touch()
    with pytest.raises(UserError, match=r"did you mean runs/digits_dit\?"):
        RunFolder.at("runs/digit_dit")
    with pytest.raises(UserError, match=r"there are runs/a, runs/b, runs/c, runs/d, runs/digits_dit and others"):
        RunFolder.at("something/else")


def test_variables_that_look_like_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a variable that another tool would take for an option, and that is silently ignored."""
    monkeypatch.setenv("DBL_TRAINER__MAX_STEPS", "3")
    assert main(["plan", "--config", "configs/digits_dit.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "DBL_TRAINER__MAX_STEPS is set" in line
    assert "give --trainer.max_steps, and unset it" in line


def test_variables_that_are_read_are_let_through() -> None:
    """Catches a refusal of the variables of `dbl` itself, and a key of a config that is let through."""
    check_environment(
        {"DBL_DATA": "/data", "DBL_LOCK_WAIT_S": "3", "DBL_SOAK_SEED": "1", "DBL_CONFIGS": "c", "HOME": "x"}
    )
    for name in ("DBL_RUN", "DBL_SEED_EVERYTHING", "DBL_DATA__INIT_ARGS__BATCH_SIZE"):
        with pytest.raises(UserError, match=f"{name} is set"):
            check_environment({name: "1"})
    words = {found.key.split(".")[0] for command in ("train", "compare") for found in parameters_of(parser_of(command))}
    assert words - {"data", "dry_run"} <= {*KEYS}


@pytest.mark.skipif(os.name != "posix", reason="bash is asked")
def test_bash_completes_commands_options_and_keys(tmp_path: Path) -> None:
    """Catches a script that is empty, that completes nothing, or that is too large for a shell to read."""
    pytest.importorskip("shtab")
    outcome = run_dbl(tmp_path, "completion", "bash")
    assert outcome.code == 0
    assert len(outcome.output) < 200_000
    (tmp_path / "dbl.bash").write_text(outcome.output)
    ask = 'source dbl.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _shtab_dbl; echo "${COMPREPLY[*]}"'
    for words, found in {
        ("tra",): "train",
        ("train", "--back"): "--backend",
        ("fit", "--trainer.max_st"): "--trainer.max_steps",
        ("assemble", "--allow"): "--allow_partial",
    }.items():
        command = ["bash", "-c", ask, "bash", "dbl", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == found
