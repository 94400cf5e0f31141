"""The config that a command reads back from a run folder."""

from pathlib import Path

import pytest

from dbl.commands.run_config import RunConfig
from dbl.utils.errors import UserError


@pytest.mark.parametrize("content", [b"a: [", b"", b"[1]", b"\xff\xfe\x00", b"nothing: 1\n", None])
def test_a_config_that_was_damaged_meanwhile_is_an_error_of_the_input(content: bytes | None, tmp_path: Path) -> None:
    """Catches a traceback, or the options of this process in place of the file, at the end of a long training."""
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"config|data|nothing"):
        RunConfig.load(path)
