"""Fixtures that the tests of several floors share."""

from pathlib import Path

import pytest
from own_data import write_images
from toy import DIT, VIT, Stripes

from dbl.data.spec import ImageSpec
from dbl.denoising.targets import ClassTarget, PixelTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.run.contract import Contract, ContractConfig


@pytest.fixture
def data_spec() -> ImageSpec:
    """A small data set on paper: all axes differ in size, all channels in scale and all classes in share."""
    return ImageSpec(
        name="toy",
        identity="toy-1",
        shape=(3, 8, 6),
        num_classes=5,
        class_frequencies=(0.1, 0.15, 0.2, 0.25, 0.3),
        mean=(10.0, 20.0, 30.0),
        std=(2.0, 4.0, 8.0),
    )


@pytest.fixture(scope="session")
def stripes() -> Stripes:
    return Stripes()


@pytest.fixture(scope="session")
def dit_contract(stripes: Stripes) -> Contract:
    return ContractConfig(network=DIT, target=PixelTarget(), partition=PartitionConfig(num_blocks=3)).build(
        stripes.spec
    )


@pytest.fixture(scope="session")
def vit_contract(stripes: Stripes) -> Contract:
    config = ContractConfig(
        network=VIT, target=ClassTarget(dim=8), noise=InformationNoise(), partition=PartitionConfig(num_blocks=3)
    )
    return config.build(stripes.spec)


@pytest.fixture
def without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without data, but with a small tokenizer and images where the configs look for such files."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBL_DATA", raising=False)
    write_images(tmp_path / "photos", number=2)
    (tmp_path / "text").mkdir()
    Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "b": 3}, "<unk>")).save(str(tmp_path / "text/tokenizer.json"))
