"""requirements.lock: exact versions that pyproject.toml allows, each file by its hash, and no address of an index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def pins() -> dict[str, list[Requirement]]:
    """Each package with its version, or its versions for several Pythons or systems."""
    found: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^(\w[^\\\n]*)\\?$", LOCK, re.MULTILINE):
        requirement = Requirement(line)
        found.setdefault(requirement.name, []).append(requirement)
    return found


def asked(name: str) -> list[Requirement]:
    """The packages that an extra of pyproject.toml asks for, with those of the extras that it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["optional-dependencies"][name] if name else project["dependencies"]
    listed = [Requirement(line) for line in lines]
    included = [each for requirement in listed if requirement.name == "dbl" for each in sorted(requirement.extras)]
    return [each for each in listed if each.name != "dbl"] + [each for name in included for each in asked(name)]


@pytest.mark.parametrize("requirement", [*asked(""), *asked("dev")], ids=str)
def test_every_package_is_pinned_to_a_version_that_is_allowed(requirement: Requirement) -> None:
    """Catches a change of pyproject.toml without `make lock`."""
    pinned = pins().get(requirement.name.lower().replace("_", "-"), [])
    versions = [next(iter(pin.specifier)) for pin in pinned]
    assert versions, f"{requirement.name} is not in requirements.lock: run `make lock`"
    assert all(version.operator == "==" for version in versions)
    assert all(requirement.specifier.contains(version.version) for version in versions)


def test_every_pin_has_hashes() -> None:
    """Catches a line for which pip would take any file of that version."""
    entries = re.split(r"^(?=\w)", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_no_address_is_in_the_lock() -> None:
    """Catches an index, a link or a folder of the machine on which the file was made."""
    assert re.findall(r"\S*(?:://|--index|--find-links|--extra)\S*|(?:^|\s)/\S+", LOCK) == []
