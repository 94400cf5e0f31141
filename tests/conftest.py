"""Fixtures that the tests of several floors share."""

import pytest

from dbl.data_spec import DataSpec


@pytest.fixture
def data_spec() -> DataSpec:
    """A small data set on paper: all axes differ in size, all channels in scale and all classes in share."""
    return DataSpec(
        name="toy",
        identity="toy-1",
        shape=(3, 8, 6),
        num_classes=5,
        class_frequencies=(0.1, 0.15, 0.2, 0.25, 0.3),
        mean=(10.0, 20.0, 30.0),
        std=(2.0, 4.0, 8.0),
    )
