"""Dataclasses as plain JSON values and back."""

import json
from dataclasses import dataclass
from inspect import isabstract

import pytest

import dbl
from dbl.data import Tokenizer
from dbl.data.spec import DataSpec
from dbl.denoising.targets import ClassTarget, Target
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.noise import LogNormalNoise, NoiseDistribution, TabulatedNoise
from dbl.diffusion.partition import Partition, PartitionConfig
from dbl.networks import Architecture, ViT
from dbl.run.contract import ContractConfig
from dbl.utils.errors import UserError
from dbl.utils.serialization import class_path, first_difference, from_plain, to_plain


@dataclass(frozen=True)
class OwnNoise(LogNormalNoise):
    """A user's own distribution, outside the package."""

    extra: int = 3


TERMS = ContractConfig(
    ViT(width=24),
    ClassTarget(dim=9),
    InformationNoise(num_draws=11),
    PartitionConfig(num_blocks=2, layers=[1, 3]),
    seed=8,
)


def test_terms_survive_json() -> None:
    """Catches a field that is dropped, or a nested class that comes back as its base or with defaults."""
    assert from_plain(json.loads(json.dumps(to_plain(TERMS))), ContractConfig) == TERMS


def test_tuples_survive_json() -> None:
    """Catches tuples that come back as lists and so make a distribution unequal to itself."""
    distribution = TabulatedNoise(1.0, 4.0, sigmas=(4.0, 2.0, 1.0), cdf_values=(1.0, 0.3, 0.0))
    assert from_plain(json.loads(json.dumps(to_plain(distribution))), NoiseDistribution) == distribution


def test_plain_form_is_that_of_the_configs() -> None:
    """Catches a form that jsonargparse would not read, such as a short class name."""
    assert to_plain(LogNormalNoise(p_std=0.5)) == {
        "class_path": "dbl.LogNormalNoise",
        "init_args": {"sigma_min": 0.002, "sigma_max": 80.0, "p_mean": -1.2, "p_std": 0.5},
    }


def test_a_users_own_class_survives() -> None:
    """Catches a fixed list of known classes: own distributions and networks must work without a change in `dbl`."""
    distribution = OwnNoise(p_mean=0.1, extra=7)
    assert from_plain(to_plain(distribution), NoiseDistribution) == distribution


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "pathlib.Path",
        "subprocess.Popen",
        "dbl.diffusion.partition.PartitionConfig",
        "dbl.diffusion.noise.NoiseDistribution.sample",
        "dbl.diffusion.noise.Missing",
        "no_such_package.Noise",
        "Noise",
        "",
    ],
)
def test_a_class_that_is_not_expected_is_refused(path: str) -> None:
    """Catches a contract file that makes the program call whatever it names."""
    with pytest.raises(UserError, match="class_path"):
        from_plain({"class_path": path, "init_args": {}}, NoiseDistribution)


def test_a_sibling_class_is_refused() -> None:
    """Catches a check against `object` or against any dataclass."""
    with pytest.raises(UserError, match="is not a Architecture"):
        from_plain(to_plain(LogNormalNoise()), Architecture)


@pytest.mark.parametrize("path", ["subprocess.Popen", "dbl.diffusion.partition.PartitionConfig"])
def test_a_nested_class_of_another_kind_is_refused(path: str) -> None:
    """Catches a check that stops at the outermost class: `config.network` must be an Architecture."""
    plain = to_plain(TERMS)
    plain["init_args"]["network"] = {"class_path": path, "init_args": {}}
    with pytest.raises(UserError, match="class_path"):
        from_plain(plain, ContractConfig)


def test_first_difference_names_the_dotted_key() -> None:
    """Catches a refusal that does not say which setting differs."""
    ours = {"contract": to_plain(TERMS)["init_args"], "data": {"name": "toy"}}
    theirs = json.loads(json.dumps(ours))
    assert first_difference(ours, theirs) is None
    theirs["contract"]["network"]["init_args"]["width"] = 32
    assert first_difference(ours, theirs) == ("contract.network.width", 24, 32)


def test_first_difference_names_a_key_on_top() -> None:
    """Catches a key that is lost because there is nothing above it."""
    assert first_difference({"version": 1, "seed": 2}, {"version": 1, "seed": 3}) == ("seed", 2, 3)


def test_first_difference_sees_keys_lists_and_classes() -> None:
    """Catches a comparison that goes over the keys of one side only, or leaves out lists or the class itself."""
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}) == ("a.c", None, 2)
    assert first_difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == ("a.b", [1, 2], [1, 3])
    ours, theirs = (
        {"noise": {"distribution": to_plain(LogNormalNoise())}},
        {"noise": {"distribution": to_plain(OwnNoise())}},
    )
    difference = first_difference(ours, theirs)
    assert difference is not None
    assert difference[0] == "noise.distribution"
    assert "LogNormalNoise" in difference[1]


def _dataclasses_of_dbl() -> list[type]:
    """All concrete frozen dataclasses that a contract or a tokenizer file may hold."""
    kinds: list[type] = [ContractConfig, Partition]
    bases: list[type] = [Architecture, Target, NoiseDistribution, DataSpec, Tokenizer]
    while bases:
        base = bases.pop()
        bases += base.__subclasses__()
        kinds += [base] if base.__module__.startswith("dbl.") and not isabstract(base) else []
    return [kind for kind in kinds if kind.__name__[0] != "_" and kind is not DataSpec]


@pytest.mark.parametrize("kind", _dataclasses_of_dbl(), ids=lambda kind: kind.__name__)
def test_a_stored_class_has_a_public_name(kind: type) -> None:
    """Catches a class that is stored under the file in which it lives: moving the file would change every hash."""
    assert class_path(kind) == f"dbl.{kind.__name__}"
    assert getattr(dbl, kind.__name__) is kind
