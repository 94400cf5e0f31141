"""Importing this puts the local hub in the folder `hub` of the current folder in the place of the Hugging Face hub."""

from pathlib import Path

import pytest
from local_hub import LocalHub, install

install(LocalHub(Path("hub").resolve()), pytest.MonkeyPatch())
