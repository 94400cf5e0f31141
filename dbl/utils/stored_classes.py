"""Which class a stored file may name: nothing is imported because a file says so."""

from collections.abc import Collection, Iterator
from importlib import import_module
from inspect import isabstract
from typing import Any, TypeVar

from dbl.utils.errors import UserError
from dbl.utils.stored_values import brief

T = TypeVar("T")


def class_path(cls: type) -> str:
    """Name of a class in configs and stored files: `dbl.DiT` for a class of `dbl`, whatever module it is in."""
    # Contract hashes include these names, so moving a file must not change them.
    is_ours = cls.__module__.partition(".")[0] == "dbl"
    return f"dbl.{cls.__qualname__}" if is_ours else f"{cls.__module__}.{cls.__qualname__}"


def find_class(path: Any, base: type[T], trusted: Collection[str] = ()) -> type[T]:
    """The class that a stored file names: a public one of `dbl`, or a subclass of `base` that is already defined.

    Attributes of other modules are never looked up, since even that may import. Raises UserError for any other name.

    Args:
        path: the stored `class_path`.
        base: expected class or base class.
        trusted: packages or modules of which the module of the class may be imported; one that is not named is not.
    """
    if not isinstance(path, str):
        raise UserError(f"class_path ({_shown(path)}) must be the name of a class")
    found: Any = _public(path) or _defined(path, base)
    if found is None and _is_trusted(path, trusted):
        _import_module_of(path)
        found = _defined(path, base)
    if found is None:
        raise UserError(_refusal(path, base, trusted))
    if not (isinstance(found, type) and issubclass(found, base) and not isabstract(found)):
        raise UserError(f"class_path {_shown(path)} is not a {base.__name__}")
    return found


def _public(path: str) -> Any:
    """The public name of `dbl` that a path such as `dbl.DiT` stands for, whatever it is; None for another path."""
    import dbl  # here: `dbl` imports its modules on first use

    package, _, name = path.partition(".")
    return getattr(dbl, name) if package == "dbl" and name in dbl.__all__ else None  # type: ignore[attr-defined]


def _defined(path: str, base: type) -> type | None:
    """The class of that name among `base` and its subclasses; the last of several: a notebook cell may be run again."""
    return next((cls for cls in reversed([base, *_subclasses(base)]) if class_path(cls) == path), None)


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _is_trusted(path: str, trusted: Collection[str]) -> bool:
    parts = path.split(".")
    if not all(part.isidentifier() and not part.startswith("__") for part in parts):
        return False  # `package.__main__` is a program, not a module with classes
    names = [trusted] if isinstance(trusted, str) else trusted
    return any(name and path.startswith(f"{name}.") for name in names)


def _import_module_of(path: str) -> None:
    """Import the longest part of the path that is a module: what follows it is a class, perhaps inside another."""
    module = path
    while "." in module:
        module = module.rpartition(".")[0]
        try:
            import_module(module)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == module and "." in module:
                continue
            raise UserError(
                f"class_path {_shown(path)}: {module} cannot be imported ({error}): set PYTHONPATH to its folder"
            ) from None
        return


def _refusal(path: str, base: type, trusted: Collection[str]) -> str:
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    if package == "dbl":
        return f"class_path {_shown(path)} is no public class of dbl: use the dbl that wrote this file"
    if not module or not name:
        return f"class_path {_shown(path)} names no module and class"
    if _is_trusted(path, trusted):
        return f"class_path {_shown(path)}: its module defines no such {base.__name__}"
    module, package = brief(module, 60)[1:-1], brief(package, 40)[1:-1]
    remedy = f"if you trust it, --trust {package}, or import it first"
    return f"class_path {_shown(path)}: a file may not import module {module}; {remedy}"


def _shown(value: Any) -> str:
    return brief(value, 60)
