"""Training, assembly and report that are killed at random moments end as if they had been left alone."""

import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from faults.killing import RUN, TRAIN, Backend, Killer, differences, finish, kill_again_and_again

_SEED = int(os.environ.get("DBL_SOAK_SEED", "0"))
_KILLS = int(os.environ.get("DBL_SOAK_KILLS", "300"))
_PER_RUN = 12


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Killer:
    """A run that was left alone, and how long each command took."""
    killer = Killer(tmp_path_factory.mktemp("undisturbed"), random.Random(0), {})
    for name, arguments in {"train inline": TRAIN, "train again": TRAIN, "assemble": ["assemble", str(RUN)]}.items():
        assert killer.undisturbed(name, arguments).code == 0
    killer.durations["train process"] = killer.durations["train inline"]
    return killer


def _check(seed: int, backend: Backend, kills: int, undisturbed: Killer, folder: Path) -> Counter[str]:
    """Kill one run and compare it with the undisturbed one. Returns the number of kills by stage."""
    killer = Killer(folder, random.Random(seed), dict(undisturbed.durations))
    kill_again_and_again(killer, backend, kills)
    left = finish(killer, backend)
    found = differences(undisturbed.folder, folder)
    print(
        f"seed {seed}, {backend}: {dict(killer.kills)}; differs: {found or 'nothing'}; left over: {left or 'nothing'}"
    )
    assert (found, left) == ([], []), f"seed {seed}, {backend}"
    return killer.kills


@pytest.mark.parametrize("backend", get_args(Backend))
def test_a_few_kills_at_random_moments(backend: Backend, undisturbed: Killer, tmp_path: Path) -> None:
    """Catches a file that is not whole, work that is lost or done twice, and what killed processes leave behind."""
    _check(_SEED, backend, 5, undisturbed, tmp_path / "killed")


@pytest.mark.soak
def test_hundreds_of_kills_at_random_moments(undisturbed: Killer, tmp_path: Path) -> None:
    """Catches moments so short that few kills miss them."""
    kills: Counter[str] = Counter()
    while kills.total() < _KILLS:
        seed, backend = _SEED + 1 + kills.total(), get_args(Backend)[kills.total() // _PER_RUN % 2]
        kills += _check(seed, backend, min(_PER_RUN, _KILLS - kills.total()), undisturbed, tmp_path / "killed")
        shutil.rmtree(tmp_path / "killed")
        print(f"{kills.total()} kills of {_KILLS}", flush=True)
    print(f"kills by stage: {dict(sorted(kills.items()))}")
