"""The values of `--set KEY=...`: choices with commas, or a range for a study; and the names of the runs they give."""

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbl.utils.errors import UserError

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?P<log>log:)?(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})")
# Keys that say where a run is or which part it is, and not what it is.
_OWN = ("run.name", "run.root", "model.block")
_MOST_CELLS = 1000
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Swept:
    """A key and what is tried for it.

    Args:
        key: dotted key of the config.
        choices: values as they are typed; empty for a range.
        low: lower end of a range.
        high: upper end of a range.
        log: whether a range is drawn from evenly in the logarithm.
        whole: whether a range has whole numbers alone.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def is_range(self) -> bool:
        """Whether it is a range."""
        return not self.choices

    @property
    def text(self) -> str:
        """What is tried, as it is typed."""
        dots = f"{'log:' if self.log else ''}{self.low:g}..{self.high:g}"
        return dots if self.is_range else ",".join(self.choices)

    @classmethod
    def parse(cls, text: str) -> "Swept":
        """Read `KEY=1,2,3`, `KEY=0..0.2`, `KEY=1..8` (whole numbers) or `KEY=log:1e-4..1e-2`; else a UserError."""
        key, equals, values = (part.strip() for part in text.partition("="))
        key = key.removeprefix("--")
        if not equals or not _KEY.fullmatch(key) or not values:
            raise UserError(f"--set {text[:60]} must be KEY=VALUE,VALUE or KEY=LOW..HIGH, such as ema.decay=0.9,0.99")
        if key in _OWN:
            raise UserError(f"--set {key}: a sweep sets it itself; choose a key that changes what is trained")
        found = _RANGE.fullmatch(values)
        if found:
            return cls._range(key, found)
        if values.startswith("log:"):
            raise UserError(f"--set {key} ({values[:40]}) must have two numbers, such as {key}=log:1e-4..1e-2")
        return cls(key, tuple(_split(key, values)))

    @classmethod
    def _range(cls, key: str, found: re.Match[str]) -> "Swept":
        low, high, log = float(found["low"]), float(found["high"]), bool(found["log"])
        if not (low < high < math.inf and (low > 0 or not log)):
            least = "above 0 " if log else ""
            raise UserError(f"--set {key} ({found[0][:40]}) must go from a number {least}to a higher one")
        whole = all(re.fullmatch(r"[+-]?\d+", found[end]) for end in ("low", "high"))
        return cls(key, (), low, high, log, whole)


def _split(key: str, values: str) -> list[str]:
    """Values between commas that are in no brackets and no quotes; UserError if two are equal or one is empty."""
    found, depth, quote, start = list[str](), 0, "", 0
    for place, sign in enumerate(values):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "," and not depth:
            found.append(values[start:place])
            start = place + 1
    found = [text.strip() for text in (*found, values[start:])]
    if "" in found or len(set(found)) < len(found):
        raise UserError(f"--set {key} ({values[:60]}) must have values that differ, none of them empty")
    return found


def read_swept(texts: Sequence[str], study: bool) -> list[Swept]:
    """All values of `--set`. Raises UserError if there are none, a key is given twice, or a range has no study.

    Args:
        texts: values of the option.
        study: whether a study chooses, which may have ranges; a grid has choices alone.
    """
    swept = [Swept.parse(text) for text in texts]
    if not swept:
        raise UserError("give --set KEY=VALUE,VALUE at least once, such as --set contract.partition.num_blocks=1,2,3")
    keys = [one.key for one in swept]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise UserError(f"--set {twice} is given twice: put its values into one, with commas")
    for one in swept:
        if one.is_range and not study:
            raise UserError(
                f"--set {one.key} is a range, from which a study draws: add --study N, or give values with commas"
            )
    return swept


def grid(swept: Sequence[Swept]) -> list[dict[str, str]]:
    """All combinations of choices, as key -> value; UserError if there are too many."""
    number = math.prod(len(one.choices) for one in swept)
    if number > _MOST_CELLS:
        raise UserError(f"--set: {number:,} combinations are more than {_MOST_CELLS}: give fewer values, or --study N")
    keys = [one.key for one in swept]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(one.choices for one in swept))]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Key -> the shortest end of it that no other key has: `contract.partition.num_blocks` becomes `num_blocks`."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-number:]) for number in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        short[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return short


def name_of(choices: Mapping[str, str]) -> str:
    """The name of the run with these choices: `num_blocks=2_overlap=0.05`; a long one is cut and ends in its hash."""
    short = short_keys([*choices])
    text = "_".join(f"{short[key]}={value}" for key, value in choices.items())
    name = re.sub(r"[^\w.+=-]+", "-", text)
    if name == text and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
