"""What `dbl` imports and opens while it reads a folder: runs in a forked child with an audit hook."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from forked import Outcome, run_forked

_REPORT = "seen.json"


class Seen(NamedTuple):
    """How a child ended, the modules that it imported, and the files that it opened or listed, resolved."""

    outcome: Outcome
    modules: set[str]
    files: set[str]


def watch(folder: Path, action: str, *arguments: str, imported: tuple[str, ...] = ()) -> Seen:
    """Run `from_pretrained`, `load_tokenizer` or a command of `dbl` in a child in a folder.

    Args:
        folder: current folder of the child.
        action: the function, or the command.
        arguments: options of the command; for a function, the path and the packages that are trusted.
        imported: modules that were imported before, as by a program of the user.
    """
    outcome = run_forked(_watched, folder, action, arguments, imported)
    report = folder / _REPORT
    seen = json.loads(report.read_text())
    report.unlink()
    return Seen(outcome, set(seen["modules"]), set(seen["files"]))


def _watched(action: str, arguments: tuple[str, ...], imported: tuple[str, ...]) -> int:
    for name in imported:
        import_module(name)
    opened: list[Any] = []
    before, events = set(sys.modules), {"open", "os.listdir", "os.scandir"}
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event in events else None)
    try:
        return _run(action, arguments)
    finally:
        modules = sorted(set(sys.modules) - before)
        paths = [path for path in opened if isinstance(path, str | bytes | os.PathLike)]
        files = sorted({os.path.realpath(os.fsdecode(path)) for path in paths})
        Path(_REPORT).write_text(json.dumps({"modules": modules, "files": files}))


def _run(action: str, arguments: tuple[str, ...]) -> int:
    from dbl.commands.main import main
    from dbl.data.text.tokenizer import load_tokenizer
    from dbl.inference.stack import BlockStack
    from dbl.utils.errors import UserError, one_line

    if action not in ("from_pretrained", "load_tokenizer"):
        return main([action, *arguments])
    path, *trusted = arguments
    try:
        if action == "from_pretrained":
            BlockStack.from_pretrained(path, trusted=trusted)
        else:
            load_tokenizer(path, trusted)
    except UserError as error:
        print(one_line(f"dbl: {error}"), file=sys.stderr)
        return 2
    return 0
