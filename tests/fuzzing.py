"""Mutations of valid plain values and bytes, and the one property of what reads them: a value or a line."""

from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from dbl.utils.errors import UserError, one_line

_NESTED: Any = 0
for _ in range(40):
    _NESTED = [_NESTED]
_NUMBERS = [10**9, -1, 0, 2**31, 2**63, 2**64 - 1, 10**400, -(10**18), 1e308, 5e-324]
_TEXTS = ["", "3", "dbl.DiT", "dbl.PixelTarget", "dbl.UserError", "os.system", "../x", "\ud800", "\0\n"]
_EXTREME = [*_NUMBERS, *_TEXTS, True, None, [], {}, _NESTED, {"class_path": "dbl.Bytes"}]
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_VALUES = st.sampled_from(_EXTREME) | _JSON


def fuzz(strategy: st.SearchStrategy[Any], check: Callable[[Any], object], examples: int) -> None:
    """Raise if any of so many examples makes `check` raise anything but a UserError of one short line, or take long."""

    @settings(
        max_examples=examples,
        deadline=timedelta(seconds=10),
        derandomize=examples < 1000,  # the same examples in every run of the suite
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: Any) -> None:
        try:
            check(value)
        except UserError as error:
            line = one_line(f"dbl: {error}")
            assert "\n" not in line
            assert len(line) <= 200

    run()


@st.composite
def mutated(draw: st.DrawFn, base: Any, values: st.SearchStrategy[Any] = _VALUES) -> Any:
    """`base` with one to three subtrees replaced, removed, doubled, exchanged or of another type."""
    whole = {"": deepcopy(base)}
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(whole)))
        change = draw(st.sampled_from(["replace", "remove", "double", "type", "move", "number"]))
        if change == "replace":
            holder[key] = deepcopy(draw(values))  # a change of it must not change the next example
        elif change == "remove" and holder is not whole:
            del holder[key]
        elif change == "double":
            if isinstance(holder, list):
                holder.insert(key, deepcopy(holder[key]))
            else:
                holder[draw(st.text(max_size=5))] = deepcopy(holder[key])
        elif change == "type":
            holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}, str(holder[key])[:50], None]))
        elif change == "move":
            other, name = draw(st.sampled_from(_places(whole)))
            holder[key] = deepcopy(other[name])
        elif isinstance(holder[key], int | float) and holder[key] == holder[key]:
            holder[key] = draw(st.sampled_from([-holder[key], holder[key] * 1000, holder[key] + 1, float("nan")]))
    return whole[""]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each place of a nested value as (dict or list, key); of a long list the first three."""
    found: list[tuple[Any, Any]] = []
    inner = [value]
    while inner:
        holder = inner.pop()
        keys = list(holder) if isinstance(holder, dict) else range(min(3, len(holder)))
        found += [(holder, key) for key in keys]
        inner += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


@st.composite
def mutated_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with one to four runs of bytes replaced, removed, inserted or repeated."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(content))), draw(st.sampled_from([0, 1, 2, 8, 100]))
        content = content[:place] + draw(st.binary(max_size=8)) + content[place + length :]
        if draw(st.booleans()):
            content = content[: draw(st.integers(0, len(content)))] + content[place : place + length]
    return content
