"""Block-wise training of neural networks by diffusion (DiffusionBlocks, arXiv 2506.14202).

`__init__.pyi` lists the public names. Each is imported on first use, which keeps `import dbl` fast. Configs and stored
contracts refer to classes by these names (`dbl.DiT`), so moving a file breaks neither.
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
    """Include names that are not imported yet, for tab completion."""
    return sorted({*globals(), *__all__})
