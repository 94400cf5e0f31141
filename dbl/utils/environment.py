"""Where and with what something was measured: date, command, versions, git commit, processor and GPU, threads."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = ("dbl", "torch", "lightning")
_GIT_TIMEOUT_S = 5.0


def environment() -> dict[str, Any]:
    """JSON values about this process and its machine.

    Returns:
        `date` (UTC, ISO 8601), `command`, `commit` (of the checkout that holds `dbl`, followed by `-dirty` if its files
        differ from it; null for an installed package), `versions` (of dbl, Python, torch and lightning), `platform`,
        `processor`, `cores`, `gpus` (their names), `threads` (of one operation of torch).
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": git_commit(_PACKAGE),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        "platform": platform.platform(terse=True),
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }


def command_line() -> str:
    """The command of this process as one would type it: programs, scripts and packages are called by their names."""
    program = Path(sys.argv[0])
    return shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]])


def git_commit(folder: Path) -> str | None:
    """Commit of a folder that git tracks, with `-dirty` if a tracked file was changed since; None without git."""
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")  # else it only lies inside another project's checkout
        return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
    return done.stdout.strip()


def processor() -> str:
    """Name of the processor, or of its architecture where the system does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
