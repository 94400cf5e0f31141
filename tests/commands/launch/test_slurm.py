"""Backend `slurm`: the real submitit, with stand-ins for the commands of Slurm that run the tasks on this machine."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dbl.commands.launch import slurm as slurm_backend
from dbl.commands.launch.slurm import SlurmBackend, SlurmSettings
from dbl.utils.errors import Interrupted, UserError

from .counting import CountingRun, counted

_COMMANDS = ("sbatch", "srun", "sacct", "squeue", "scancel", "scontrol")
SMALL = SlurmSettings(cpus=1, gpus=0, memory_gb=1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-ins' knowledge; they are on PATH."""
    commands, home = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    home.mkdir()
    stand_in = Path(__file__).with_name("slurm_stand_in.py")
    for name in _COMMANDS:
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} {name} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(home))
    monkeypatch.setattr(slurm_backend, "_QUERY_EVERY_S", 0.3)
    monkeypatch.setattr(slurm_backend, "_RESULT_WAIT_S", 1.0)
    return home


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingRun:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return CountingRun(tmp_path / "run")


def _signal(home: Path, task: str, number: int) -> None:
    os.kill(int((home / f"{task}.step").read_text()), number)


def _starts(home: Path, task: str) -> int:
    return int(json.loads((home / f"{task}.json").read_text())["starts"])


def test_every_task_ends_with_its_own_code(slurm: Path, counting: CountingRun) -> None:
    """Catches a failure that stops the others, a task without its cores, and one that Lightning takes for a rank."""
    jobs = counting.jobs({"meets": 1}, {"meets": 0, "code": 7}, {"steps": 3})
    outcomes = SlurmBackend(None, SlurmSettings(cpus=3, gpus=0)).run(jobs)
    assert [(outcome.code, outcome.lines[-1:]) for outcome in outcomes] == [(0, []), (7, ["ends with 7"]), (0, [])]
    assert [len(counting.log(block)) for block in range(3)] == [1, 1, 1]
    assert counting.log(0)[0]["OMP_NUM_THREADS"] == "3"
    assert counting.log(0)[0]["SLURM_JOB_NAME"] == "interactive"
    assert json.loads((slurm / "srun_options.json").read_text())["--cpus-per-task"] == "3"


def test_no_more_run_at_once_than_workers(slurm: Path, counting: CountingRun) -> None:
    """Catches a number of workers that is not heeded."""
    SlurmBackend(1, SMALL).run(counting.jobs({"steps": 10}, {"steps": 10}))
    (first,), (second,) = counting.log(0), counting.log(1)
    assert first["ended"] <= second["began"] or second["ended"] <= first["began"]


def test_one_job_is_no_array(slurm: Path, counting: CountingRun) -> None:
    """Catches names of tasks that hold for arrays only."""
    assert SlurmBackend(1, SMALL).run(counting.jobs({"code": 3}))[0].code == 3


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_task_that_slurm_interrupts_is_resumed(number: int, slurm: Path, counting: CountingRun) -> None:
    """Catches a time limit (SIGUSR2) or a pre-emption (SIGTERM) that loses steps or counts as the end of the block."""
    jobs = counting.jobs({"steps": 60}, {"steps": 4})

    def interrupt() -> None:
        if number == signal.SIGTERM:  # a pre-emption, after which Slurm itself queues the task again
            known = json.loads((slurm / "77_0.json").read_text())
            (slurm / "77_0.json").write_text(json.dumps(known | {"state": "REQUEUED"}))
        _signal(slurm, "77_0", number)

    counting.when_at(0, 13, interrupt)
    outcomes = SlurmBackend(None, SMALL).run(jobs)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert counting.result(0) == counted(60)
    assert _starts(slurm, "77_0") == 2
    before, after = counting.log(0)
    assert 13 <= before["step"] == after["first"] < 60


@pytest.mark.parametrize(("accounting", "words"), [(True, "FAILED"), (False, "GONE")])
def test_a_task_that_dies_without_a_result(accounting: bool, words: str, slurm: Path, counting: CountingRun) -> None:
    """Catches a launcher that waits for ever for a task that was killed, with or without Slurm's accounting."""
    if not accounting:
        (slurm / "no_accounting").touch()
    jobs = counting.jobs({"steps": 400}, {"steps": 3})
    counting.when_at(0, 2, lambda: _signal(slurm, "77_0", signal.SIGKILL))
    outcomes = SlurmBackend(None, SMALL).run(jobs)
    assert [outcome.code for outcome in outcomes] == [1, 0]
    assert any(f"Slurm ended task 77_0: {words}" in line for line in outcomes[0].lines)


def test_a_state_names_its_remedy(slurm: Path, counting: CountingRun) -> None:
    """Catches a task that ran out of memory and does not say so."""
    jobs = counting.jobs({"steps": 400})

    def kill() -> None:
        known = json.loads((slurm / "77.json").read_text())
        (slurm / "77.json").write_text(json.dumps(known | {"state": "OUT_OF_MEMORY"}))
        _signal(slurm, "77", signal.SIGKILL)

    counting.when_at(0, 2, kill)
    outcome = SlurmBackend(None, SMALL).run(jobs)[0]
    assert outcome.code == 1
    assert any("OUT_OF_MEMORY; --slurm.memory_gb asks for more" in line for line in outcome.lines)


def test_stopping_the_launcher_saves(slurm: Path, counting: CountingRun) -> None:
    """Catches tasks that go on unseen or die unsaved, and a waiting one that starts after the stop."""
    jobs = counting.jobs({"steps": 400}, {"steps": 5})
    counting.when_at(0, 13, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="resumes"):
        SlurmBackend(1, SMALL).run(jobs)
    step, _ = json.loads(counting.file(0, "saved.json").read_text())
    assert step == counting.log(0)[0]["step"] >= 13
    assert not counting.file(1, "parent").exists()


def test_a_node_that_does_not_see_the_run(slurm: Path, counting: CountingRun) -> None:
    """Catches a traceback, or a training that starts anew in a folder that the other machines do not see."""
    job = counting.jobs({})[0]
    (job.run / "config.yaml").unlink()
    outcome = SlurmBackend(None, SMALL).run([job])[0]
    assert outcome.code == 2
    assert f"does not see {job.run / 'config.yaml'}" in outcome.lines[-1]


def test_slurm_is_asked_gently(slurm: Path, counting: CountingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a question to the accounting of the cluster at every look at the table."""
    monkeypatch.setattr(slurm_backend, "_QUERY_EVERY_S", 60)
    SlurmBackend(None, SMALL).run(counting.jobs({"steps": 40}, {"steps": 40}))
    assert len((slurm / "sacct_calls").read_text().splitlines()) == 1


def test_a_refusal_of_sbatch(slurm: Path, counting: CountingRun) -> None:
    """Catches a traceback of submitit in place of what sbatch says."""
    with pytest.raises(UserError, match=r"sbatch refused the job array: sbatch: error: invalid partition .*closed"):
        SlurmBackend(None, SlurmSettings(partition="closed")).run(counting.jobs({}, {}))


def test_each_launch_has_a_folder_of_its_own(slurm: Path, counting: CountingRun) -> None:
    """Catches results, which are pickles, that lay in a run from elsewhere under the number of the next task."""
    jobs = counting.jobs({}, {})
    assert [outcome.code for outcome in SlurmBackend(None, SMALL).run(jobs)] == [0, 0]
    (folder,) = (counting.path / "slurm").iterdir()
    assert len(list(folder.glob("*_result.pkl"))) == 2
    assert slurm_backend._folder(jobs) not in (folder, slurm_backend._folder(jobs))


def test_a_dry_run_prints_the_script(
    counting: CountingRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a dry run that needs Slurm, submits, or hides what would be asked for."""
    monkeypatch.setenv("PATH", "")
    jobs = counting.jobs({}, {}, {})
    settings = SlurmSettings(
        "gpu", minutes=90, memory_gb=24, cpus=6, gpus=2, account="me", extra={"constraint": "a100"}
    )
    assert SlurmBackend(2, settings, dry_run=True).run(jobs) == []
    script = capsys.readouterr().out
    wanted = ("array=0-2%2", "partition=gpu", "time=90", "mem=24GB", "cpus-per-task=6", "gpus-per-node=2")
    for option in (*wanted, "account=me", "constraint=a100", "requeue", "signal=USR2@120", "job-name=dbl-run"):
        assert f"#SBATCH --{option}" in script.splitlines()
    for job in jobs:
        assert f"{job.part}: cd {job.cwd} && dbl fit --config {job.run / 'config.yaml'}" in script
    assert not (counting.path / "slurm").exists()


def test_without_slurm_or_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback on a machine that cannot submit."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"no sbatch on this machine.*--dry_run"):
        SlurmBackend(None, SlurmSettings())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[slurm\]"'):
        SlurmBackend(None, SlurmSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 1}, r"--slurm\.minutes \(1\) must be a whole number from 5"),
        ({"cpus": 0}, r"--slurm\.cpus \(0\) must be a whole number from 1"),
        ({"extra": {"--qos": "long"}}, r"'--qos' is no option of sbatch"),
        ({"extra": {"array": "0-9"}}, r"array is set by this backend"),
        ({"extra": {"comment": "a\nrm -r b"}}, r"the value of comment must be one line"),
    ],
)
def test_impossible_settings(settings: dict[str, object], message: str) -> None:
    """Catches settings that sbatch would refuse later, or that would become commands of the script."""
    with pytest.raises(UserError, match=message):
        SlurmSettings(**settings)
