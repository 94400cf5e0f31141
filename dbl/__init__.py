"""Block-wise training of neural networks by diffusion (DiffusionBlocks, arXiv 2506.14202).

The public names stand in `__init__.pyi`. They are imported when they are first used, so that `import dbl` is quick, and
configs and stored contracts call classes by them (`dbl.DiT`), so that a file may move without breaking either.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_IMPORTS = [node for node in _STUB.body if isinstance(node, ast.ImportFrom)]
_MODULE_OF = {alias.name: str(node.module) for node in _IMPORTS for alias in node.names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dbl' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """Lists names that are not imported yet as well, for completion with Tab."""
    return sorted({*globals(), *__all__})
