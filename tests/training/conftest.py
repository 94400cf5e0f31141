"""Contracts for the tiny data set."""

import pytest
from toy import DIT, VIT, Stripes

from dbl.contract import Contract, Terms
from dbl.information import InformationNoise
from dbl.partition import Cut
from dbl.targets import ClassTarget, PixelTarget


@pytest.fixture(scope="session")
def data() -> Stripes:
    return Stripes()


@pytest.fixture(scope="session")
def dit_contract(data: Stripes) -> Contract:
    return Terms(network=DIT, target=PixelTarget(), partition=Cut(num_blocks=3)).settle(data.spec)


@pytest.fixture(scope="session")
def vit_contract(data: Stripes) -> Contract:
    terms = Terms(network=VIT, target=ClassTarget(dim=8), noise=InformationNoise(), partition=Cut(num_blocks=3))
    return terms.settle(data.spec)
