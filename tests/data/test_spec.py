"""Facts about a data set that do not fit each other."""

from dataclasses import replace
from typing import Any

import pytest

from dbl.data.spec import ImageSpec
from dbl.utils.errors import UserError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, "5 class frequencies for 4 classes"),
        ({"mean": (1.0, 2.0)}, "each of 3 channels"),
        ({"std": (1.0,)}, "each of 3 channels"),
        ({"std": (1.0, 0.0, 2.0)}, "toy has a channel that never changes"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(
    data_spec: ImageSpec, change: dict[str, Any], message: str
) -> None:
    """Catches statistics of other data, which would broadcast over the channels or divide by zero."""
    with pytest.raises(UserError, match=message):
        replace(data_spec, **change)


def test_lists_from_json_become_tuples(data_spec: ImageSpec) -> None:
    """Catches a specification that is unequal to itself after a visit to a JSON file."""
    assert replace(data_spec, shape=[3, 8, 6], mean=list(data_spec.mean)) == data_spec  # type: ignore[arg-type]
