"""The config that a command reads back from a run folder."""

from pathlib import Path

import pytest

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.utils.errors import UserError


@pytest.mark.parametrize("content", [b"a: [", b"", b"[1]", b"\xff\xfe\x00", b"nothing: 1\n", None])
def test_a_config_that_was_damaged_meanwhile_is_an_error_of_the_input(content: bytes | None, tmp_path: Path) -> None:
    """Catches a traceback, or the options of this process in place of the file, at the end of a long training."""
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"config|data|nothing"):
        RunConfig.load(path)


@pytest.mark.parametrize("config", ["digits_dit", "shakespeare_mdm", "pydoc_ar"])
@pytest.mark.parametrize("changes", sorted(Path("configs/debug").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_debug_config_changes_any_other(config: str, changes: Path) -> None:
    """Catches a key of configs/debug that some data, network or option does not have."""
    files = [f"--config=configs/{config}.yaml", f"--config={changes}"]
    assert parse(config_parser(), files).run.name == f"debug_{changes.stem}"
