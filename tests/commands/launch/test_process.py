"""Backend `process`: slots, threads, devices, failures, and stopping; with scripts in place of trainings."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dbl.commands.launch import process
from dbl.commands.launch.forked import can_fork
from dbl.commands.launch.process import ProcessBackend
from dbl.utils.errors import Interrupted, UserError

from .conftest import MakeJobs

Choose = Callable[[Mapping[str, str]], None]

# Writes when it began and ended, so that a test sees which ran at once.
_TIMED = "import time; print('began', time.time()); time.sleep(0.6); print('ended', time.time())"


@pytest.fixture(params=["forked", "started"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers as on this system, and as where no process can be forked."""
    if request.param == "started":
        monkeypatch.setattr(process, "can_fork", lambda: False)
    elif not can_fork():
        pytest.skip("no process can be forked here")


@pytest.mark.usefixtures("each_way")
def test_a_failing_job_does_not_stop_the_others(jobs: MakeJobs) -> None:
    """Catches a launcher that gives up at the first failure, or that loses an exit code or the last lines."""
    made = jobs("print('fine')", "print('oh'); print('no'); raise SystemExit(7)", "print('fine too')")
    outcomes = ProcessBackend(workers=2, on_cpu=True).run(made)
    assert [outcome.code for outcome in outcomes] == [0, 7, 0]
    assert outcomes[1].lines == ["oh", "no"]
    assert outcomes[2].lines == []
    assert made[2].last_lines() == ["fine too"]


@pytest.mark.usefixtures("each_way")
def test_a_killed_worker_is_an_outcome(jobs: MakeJobs) -> None:
    """Catches a launcher that waits for ever for a worker that was killed."""
    outcomes = ProcessBackend(workers=1, on_cpu=True).run(jobs("import os; os.kill(os.getpid(), 9)", "pass"))
    assert [outcome.code for outcome in outcomes] == [-signal.SIGKILL, 0]


@pytest.mark.usefixtures("each_way")
def test_output_of_an_earlier_worker_is_not_repeated(jobs: MakeJobs) -> None:
    """Catches a worker that was killed without a word, beneath the last words of the one before."""
    (job,) = jobs("print('earlier')")
    ProcessBackend(on_cpu=True).run([job])
    assert job.last_lines() == ["earlier"]
    (job.cwd / "script_0.py").write_text("import os; os.kill(os.getpid(), 9)")
    (outcome,) = ProcessBackend(on_cpu=True).run([job])
    assert outcome.lines == []
    assert "earlier" in job.log.read_text()


@pytest.mark.parametrize(("workers", "at_once"), [(1, 1), (2, 2)])
def test_as_many_run_at_once_as_there_are_workers(workers: int, at_once: int, jobs: MakeJobs) -> None:
    """Catches a number of workers that is read nowhere."""
    made = jobs(*[_TIMED] * 3)
    ProcessBackend(workers, on_cpu=True).run(made)
    times = [[float(line.split()[1]) for line in job.last_lines()] for job in made]
    most = max(sum(began <= start < ended for began, ended in times) for start, _ in times)
    assert most == at_once


def test_the_cores_are_divided(jobs: MakeJobs, no_threads_chosen: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches workers that take all cores each and stand almost still."""
    monkeypatch.setattr(process, "_cores", lambda: 12)
    show = "import os; print(os.environ['OMP_NUM_THREADS'])"
    for workers, devices, threads in ((2, 1, "6"), (3, 2, "2"), (None, 1, "4")):
        no_threads_chosen({})
        made = jobs(show, show, show)
        ProcessBackend(workers, devices, on_cpu=True).run(made)
        assert [job.last_lines(1) for job in made] == [[threads]] * 3
    no_threads_chosen({"OMP_NUM_THREADS": "5"})
    made = jobs(show)
    ProcessBackend(1, on_cpu=True).run(made)
    assert made[0].last_lines(1) == ["5"]


def test_each_worker_has_devices_of_its_own(jobs: MakeJobs, no_threads_chosen: Choose) -> None:
    """Catches workers that all train on the first GPU, and a block on several that is given one."""
    show = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"
    no_threads_chosen({"CUDA_VISIBLE_DEVICES": "3,5,6,7,8"})
    for devices, seen in ((1, ["3", "5", "6"]), (2, ["3,5", "6,7"])):
        made = jobs(*[show] * len(seen))
        ProcessBackend(devices=devices).run(made)
        assert [job.last_lines(1)[0] for job in made] == seen
    with pytest.raises(UserError, match=r"trainer.devices=6: this machine has 5"):
        ProcessBackend(devices=6)


@pytest.mark.usefixtures("each_way")
def test_stopping_the_launcher_stops_its_workers(jobs: MakeJobs) -> None:
    """Catches workers that go on unseen, and waiting ones that start after the stop."""
    wait = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(130)); print('up'); time.sleep(60)"
    made = jobs(wait, "print('never')")

    def interrupt() -> None:
        while not made[0].last_lines():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(Interrupted, match="resumes"):
        ProcessBackend(workers=1, on_cpu=True).run(made)
    assert time.monotonic() - began < 30
    assert not made[1].log.exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("each_way")
def test_workers_import_what_the_launcher_can(jobs: MakeJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an own network, beside the config, that the launcher finds and its workers do not."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_network_of_a_test.py").write_text("NAME = 'mine'\n")
    monkeypatch.syspath_prepend(tmp_path / "own")
    made = jobs("import my_network_of_a_test as m; print(m.NAME)")
    assert ProcessBackend(on_cpu=True).run(made)[0].code == 0
    assert made[0].last_lines() == ["mine"]
