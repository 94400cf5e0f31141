"""Classes of the user's own: what a config names is code, what a folder names is imported only where it is trusted."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import DIT, Stripes
from watched import watch

from dbl.data import Characters, load_tokenizer
from dbl.diffusion.noise import LogNormalNoise, NoiseDistribution
from dbl.networks import Architecture, DiT
from dbl.run.contract import ContractConfig
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError
from dbl.utils.serialization import from_plain, to_plain
from dbl.utils.stored_classes import find_class

NETWORKS = """
from dataclasses import dataclass
from dbl import Characters, DiT

@dataclass(frozen=True)
class Own(DiT):
    extra: int = 3

class Outer:
    @dataclass(frozen=True)
    class Inner(DiT):
        pass

@dataclass(frozen=True)
class Letters(Characters):
    pass
"""


def _package(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "nets.py").write_text(NETWORKS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `my.yaml`, which names a network of one's own, and the run of its only block, trained by `fit`."""
    folder = tmp_path_factory.mktemp("own")
    _package(folder / "path", "my_package")
    _package(folder / "path", "my_package_2")
    config = {
        "run": {"name": "run", "root": "."},
        "contract": {
            "network": {"class_path": "my_package.nets.Own", "init_args": vars(DIT)},
            "target": {"class_path": "dbl.PixelTarget"},
            "partition": {"num_blocks": 1, "overlap": 0},
        },
        "data": {"class_path": "toy.Stripes"},
        "model": {"block": 0},
        "inference": {"num_images": 1},
        "image_quality": {"features": "none"},
        "likelihood": {"levels_per_block": 1},
        "diagnostics": {"num_samples": 6, "levels_per_block": 1},
        "trainer": {"accelerator": "cpu", "logger": False, "max_steps": 2, "enable_progress_bar": False},
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "path"))
        fitted = watch(folder, "fit", "--config", "my.yaml")
        assert fitted.outcome.problem() == "accepted"
        assert watch(folder, "assemble", "run", "--trust", "my_package").outcome.problem() == "accepted"
        assert watch(folder, "test", "--config", "my.yaml").outcome.problem() == "accepted"
    return folder


@pytest.fixture
def own(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(trained / "path"))
    return trained


SAMPLE = ("sample", "run", "--device=cpu", "--num_images=1", "--sampler.num_steps=2")
READERS = [("assemble", "run"), SAMPLE, ("from_pretrained", "run/model")]


def _trust(reader: tuple[str, ...], name: str) -> list[str]:
    return [name] if reader[0] == "from_pretrained" else ["--trust", name]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader[0])
def test_a_class_of_ones_own_needs_trust(own: Path, reader: tuple[str, ...]) -> None:
    """Catches trust that is given to whatever a folder names, and a refusal without file, module or remedy."""
    seen = watch(own, *reader)
    assert seen.outcome.problem() is None
    for text in (".json: class_path", "my_package.nets.Own", "module my_package.nets", "--trust my_package"):
        assert text in seen.outcome.errors
    assert not {name for name in seen.modules if name.startswith("my_package")}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader[0])
def test_a_trusted_package_is_imported(own: Path, reader: tuple[str, ...]) -> None:
    """Catches trust that does not reach every file that a command reads, or imports more than is named."""
    seen = watch(own, *reader, *_trust(reader, "my_package"))
    assert seen.outcome.problem() == "accepted"
    assert {name for name in seen.modules if name.startswith("my_")} == {"my_package", "my_package.nets"}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader[0])
def test_a_class_that_is_imported_already_needs_no_trust(own: Path, reader: tuple[str, ...]) -> None:
    """Catches a program that imports its own network and still cannot load it."""
    assert watch(own, *reader, imported=("my_package.nets",)).outcome.problem() == "accepted"


@pytest.mark.parametrize("name", ["my_pack", "my_package_2", "nets", "Own", "my_package.nets.Own.x"])
def test_trust_is_for_whole_names(own: Path, name: str) -> None:
    """Catches a comparison of the beginnings of names."""
    seen = watch(own, "from_pretrained", "run/model", name)
    assert seen.outcome.problem() is None
    assert not {module for module in seen.modules if module.startswith("my_")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my package", "--trust 'my package' must be the name"),
        ("my_package,", "--trust ''"),
        ("../x", "--trust '../x'"),
    ],
)
@pytest.mark.parametrize("command", ["assemble", "sample"])
def test_trust_is_given_to_names_of_packages(own: Path, command: str, name: str, message: str) -> None:
    """Catches a misspelt option that trusts nothing without a word."""
    outcome = watch(own, command, "run", "--trust", name).outcome
    assert outcome.problem() is None
    assert message in outcome.errors


def test_a_trusted_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where the remedy is to set PYTHONPATH, and a class that its module lacks."""
    with pytest.raises(UserError, match=r"absent\.nets cannot be imported .*PYTHONPATH"):
        find_class("absent.nets.Own", Architecture, ["absent"])  # type: ignore[type-abstract]
    _package(tmp_path, "mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="its module defines no such Architecture"):
        find_class("mine.nets.Letters", Architecture, ["mine"])  # type: ignore[type-abstract]
    with pytest.raises(UserError, match="its module defines no such Architecture"):
        find_class("mine.nets.Missing", Architecture, ["mine"])  # type: ignore[type-abstract]
    assert find_class("mine.nets.Outer.Inner", Architecture, "mine.nets").__name__ == "Inner"  # type: ignore[type-abstract]


def test_a_program_of_a_trusted_package_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file that names `package.__main__`."""
    _package(tmp_path, "program")
    (tmp_path / "program/__main__.py").write_text("raise SystemExit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="may not import module"):
        find_class("program.__main__.Own", Architecture, ["program"])  # type: ignore[type-abstract]


def test_a_trusted_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches trust that covers networks and not tokenizers."""
    _package(tmp_path, "letters")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "tokenizer.json"
    Characters("ab").save(path)
    stored = json.loads(path.read_text()) | {"class_path": "letters.nets.Letters"}
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"tokenizer\.json: class_path .* --trust letters"):
        load_tokenizer(path)
    with pytest.raises(UserError, match="was changed"):  # the class is part of its identity
        load_tokenizer(path, trusted=["letters"])


def test_the_last_of_two_classes_with_one_name() -> None:
    """Catches a notebook whose cell is run again and that loads the class of the first time."""

    def define() -> type[NoiseDistribution]:
        @dataclass(frozen=True)
        class Own(LogNormalNoise):
            pass

        return Own

    _first, second = define(), define()
    assert type(from_plain(to_plain(second()), NoiseDistribution)) is second  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Labelled(LogNormalNoise):
    """Fields of types that the distributions of `dbl` do not have."""

    limit: float = float("inf")
    names: dict[str, list[float | None]] = field(default_factory=dict)
    anything: Any = None
    pair: tuple[int, str] | None = None


def test_annotations_of_ones_own_are_understood() -> None:
    """Catches a matcher that knows only what `dbl` uses, and a default that its own author may not have."""
    noise = Labelled(names={"a": [1.0, None]}, anything={"b": [True]}, pair=(1, "c"))
    assert from_plain(json.loads(json.dumps(to_plain(noise))), NoiseDistribution) == noise  # type: ignore[type-abstract]
    with pytest.raises(UserError, match=r"names\.a\[1\] \('x'\) must be a finite number"):
        from_plain(to_plain(noise) | {"init_args": {"names": {"a": [1.0, "x"]}}}, NoiseDistribution)  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Loose(DiT):
    """A class whose instances may hold what could not be read back."""

    extra: Any = None
    size: int = 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"size": 2.5}, r"config\.network\.size \(2\.5\) must be a whole number"),
        ({"extra": {1, 2}}, "cannot be written"),
        ({"extra": Stripes}, "cannot be written"),
    ],
)
def test_what_cannot_be_read_back_is_refused_before_training(
    tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    """Catches a training whose contract is refused when its blocks are assembled."""
    contract = ContractConfig(Loose(**vars(DIT), **extra)).build(Stripes().spec)
    with pytest.raises(UserError, match=message):
        RunFolder("run", str(tmp_path)).write_contract(contract)
    assert not list(tmp_path.iterdir())
