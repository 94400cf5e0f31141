"""The config that a command reads back from a run folder."""

from pathlib import Path

import pytest

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, write_config
from dbl.commands.schema import config_parser
from dbl.utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("content", [b"a: [", b"", b"[1]", b"\xff\xfe\x00", b"nothing: 1\n", None])
def test_a_config_that_was_damaged_meanwhile_is_an_error_of_the_input(content: bytes | None, tmp_path: Path) -> None:
    """Catches a traceback, or the options of this process in place of the file, at the end of a long training."""
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"config|data|nothing"):
        RunConfig.load(path)


@pytest.mark.parametrize("config", ["digits_dit", "shakespeare_mdm", "pydoc_ar"])
@pytest.mark.parametrize("changes", sorted((CONFIGS / "debug").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_debug_config_changes_any_other(config: str, changes: Path) -> None:
    """Catches a key of configs/debug that some data, network or option does not have."""
    files = [f"--config={CONFIGS / config}.yaml", f"--config={changes}"]
    assert parse(config_parser(), files).run.name == f"debug_{changes.stem}"


def test_a_run_without_a_name_is_named_after_its_data(tmp_path: Path) -> None:
    """Catches runs on other data in the folder of the config that was copied, and a stored config without its name."""
    path = CONFIGS / "text_files_ar.yaml"
    for options, name in (
        (["--data.init_args.train=[a/my notes.txt]"], "my_notes_causallm"),
        (["--data.init_args.name=mails"], "mails_causallm"),
        (["--run.name=given"], "given"),
    ):
        config = RunConfig(parse(config_parser(), ["--config", str(path), *options]))
        write_config(tmp_path / "config.yaml", config.plain())
        assert config.run.name == RunConfig.load(tmp_path / "config.yaml").run.name == name
