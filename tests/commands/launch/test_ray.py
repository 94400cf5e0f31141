"""Backend `ray`: a real cluster, whose tasks count in place of training."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbl.commands.launch.ray import RayBackend, RaySettings
from dbl.utils.errors import Interrupted, UserError

from .counting import CountingRun, counted


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster on this machine with three slots, as others would have started it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingRun:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return CountingRun(tmp_path / "run")


def _kill_ray_worker(counting: CountingRun, block: int) -> None:
    os.kill(int(counting.file(block, "parent").read_text()), signal.SIGKILL)


def test_every_job_ends_with_its_own_code(cluster: str, counting: CountingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a failure that stops the others or is retried, tasks in a queue, and settings that stay behind."""
    monkeypatch.setenv("DBL_DATA", "/data/of/the/launcher")
    jobs = counting.jobs({"meets": 1}, {"code": 7}, {"steps": 3})
    outcomes = RayBackend(None, RaySettings(cluster, cpus=1.2)).run(jobs)
    assert [(outcome.job, outcome.code, outcome.lines) for outcome in outcomes] == [
        (jobs[0], 0, []),
        (jobs[1], 7, ["ends with 7"]),
        (jobs[2], 0, []),
    ]
    assert [len(counting.log(block)) for block in range(3)] == [1, 1, 1]
    assert counting.log(0)[0]["OMP_NUM_THREADS"] == "1"
    assert counting.log(0)[0]["DBL_DATA"] == "/data/of/the/launcher"


def test_no_more_run_at_once_than_workers(cluster: str, counting: CountingRun) -> None:
    """Catches a number of workers that is not heeded."""
    RayBackend(1, RaySettings(cluster)).run(counting.jobs({"steps": 10}, {"steps": 10}))
    (first,), (second,) = counting.log(0), counting.log(1)
    assert first["ended"] <= second["began"] or second["ended"] <= first["began"]


def test_a_killed_ray_worker_changes_nothing(cluster: str, counting: CountingRun) -> None:
    """Catches a block that is lost with its Ray worker, counted twice, or begun anew."""
    jobs = counting.jobs({"steps": 60}, {"steps": 60})
    counting.when_at(1, 20, lambda: _kill_ray_worker(counting, 1))
    outcomes = RayBackend(None, RaySettings(cluster)).run(jobs)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert counting.result(0) == counting.result(1) == counted(60)
    assert len(counting.log(1)) == 2
    assert counting.log(1)[0]["step"] < 60


def test_a_task_that_is_lost_too_often_says_so(cluster: str, counting: CountingRun) -> None:
    """Catches retries without end, and a traceback of Ray in place of a line."""
    jobs = counting.jobs({"steps": 200})
    counting.when_at(0, 2, lambda: _kill_ray_worker(counting, 0))
    outcome = RayBackend(None, RaySettings(cluster, retries=0)).run(jobs)[0]
    assert outcome.code == 1
    assert "Ray lost the task 1 times; --ray.retries allows more" in outcome.lines[-1]


def test_stopping_the_launcher_saves(cluster: str, counting: CountingRun) -> None:
    """Catches tasks that go on unseen or die unsaved, and a waiting one that starts after the stop."""
    jobs = counting.jobs({"steps": 300}, {"steps": 5})
    before = signal.getsignal(signal.SIGTERM)
    counting.when_at(0, 13, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="resumes"):
        RayBackend(1, RaySettings(cluster)).run(jobs)
    assert signal.getsignal(signal.SIGTERM) is before
    step, _ = json.loads(counting.file(0, "saved.json").read_text())
    assert step == counting.log(0)[0]["step"] >= 13
    assert not counting.file(1, "parent").exists()


def test_a_node_that_does_not_see_the_run(cluster: str, counting: CountingRun) -> None:
    """Catches a traceback, or a training that starts anew in a folder that the other machines do not see."""
    job = counting.jobs({})[0]
    (job.run / "config.yaml").unlink()
    outcome = RayBackend(None, RaySettings(cluster)).run([job])[0]
    assert outcome.code == 2
    assert outcome.lines == [
        f"dbl: {os.uname().nodename} does not see {job.run / 'config.yaml'}: put the run where all machines can read it"
    ]


def test_more_than_any_node_has_is_refused(cluster: str, counting: CountingRun) -> None:
    """Catches a launcher that waits for ever for a slot that no node has."""
    jobs = counting.jobs({})
    for settings in (RaySettings(cluster, cpus=4), RaySettings(cluster, gpus=3)):
        with pytest.raises(UserError, match=r"no node of the Ray cluster has .* the largest have 3 and "):
            RayBackend(None, settings).run(jobs)


def test_a_cluster_that_is_not_there(counting: CountingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches minutes of silence when nobody listens at the address."""
    jobs = counting.jobs({})
    began = time.monotonic()
    with pytest.raises(UserError, match=r"the cluster at 127\.0\.0\.1:1 cannot be used: .*--ray\.address"):
        RayBackend(None, RaySettings("127.0.0.1:1")).run(jobs)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:2 cannot be used"):
        RayBackend(None, RaySettings()).run(jobs)
    assert time.monotonic() - began < 20


def test_a_local_cluster_starts_and_ends(counting: CountingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a backend that needs a cluster of others, has fewer slots than workers, or leaves its own running."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    jobs = counting.jobs({"meets": 1}, {"meets": 0})
    outcomes = RayBackend(2, RaySettings(cpus=2)).run(jobs)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert counting.log(0)[0]["OMP_NUM_THREADS"] == "2"
    assert not ray.is_initialized()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where an extra is not installed."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[ray\]"'):
        RayBackend(None, RaySettings())


@pytest.mark.parametrize(("key", "value"), [("cpus", 0), ("gpus", -1), ("gpus", 1.5), ("retries", -1)])
def test_impossible_settings(key: str, value: float) -> None:
    """Catches a number that Ray would refuse with a traceback."""
    with pytest.raises(UserError, match=rf"--ray\.{key} \({value}\) must be"):
        RaySettings(**{key: value})
