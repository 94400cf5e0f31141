"""Forked workers: what one has of its own, and what becomes of them when the server, or a launcher, ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dbl.commands.launch import forked
from dbl.commands.launch.fork_server import IMPORTED
from dbl.commands.launch.forked import ForkServer, can_fork
from dbl.commands.launch.process import ProcessBackend
from dbl.utils.errors import Interrupted

from .conftest import MakeJobs

pytestmark = pytest.mark.skipif(not can_fork(), reason="no process can be forked here")

_OWN = """
import json, os, sys
files = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
own = {"session": os.getsid(0) == os.getpid(), "group": os.getpgid(0) == os.getpid(), "files": files}
print(json.dumps(own | {"cwd": os.getcwd(), "options": sys.argv[1:], "variable": os.environ["OMP_NUM_THREADS"]}))
"""
# Saves and stops when its standard input closes, as a training does.
_UNTIL_STDIN_CLOSES = """
import os, pathlib
pathlib.Path("pid").write_text(str(os.getpid()))
while os.read(0, 4096):
    pass
pathlib.Path("saved").touch()
"""


def _soon(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process numbers of the servers that are started."""
    started: list[int] = []
    start = subprocess.Popen

    def noted(*arguments: object, **options: object) -> object:
        process = start(*arguments, **options)  # type: ignore[call-overload]
        started.append(process.pid)
        return process

    monkeypatch.setattr(forked.subprocess, "Popen", noted)
    return started


def test_a_worker_has_what_it_would_have_alone(jobs: MakeJobs, servers: list[int]) -> None:
    """Catches a worker that Ctrl-C reaches, that writes into another's log, or with another's variables."""
    made = jobs(_OWN, _OWN)
    server = ForkServer(made[0], {})
    workers = [server.start(job, {"OMP_NUM_THREADS": str(3 + job.block)}) for job in made]
    assert [worker.wait(30) for worker in workers] == [0, 0]
    for job in made:
        own = json.loads(job.last_lines(1)[0])
        assert own["files"][0].startswith("pipe:")
        assert own["files"][1:] == [str(job.log)] * 2
        assert (own["cwd"], own["options"]) == (str(job.cwd), job.options)
        assert (own["session"], own["group"], own["variable"]) == (True, True, str(3 + job.block))
    server.close()
    assert not Path(f"/proc/{servers[0]}").exists()


def test_one_server_imports_for_all_workers(jobs: MakeJobs, servers: list[int]) -> None:
    """Catches workers that import everything once more, and a server that stays."""
    made = jobs(*["import os; print(os.getppid())"] * 3)
    assert [outcome.code for outcome in ProcessBackend(2, on_cpu=True).run(made)] == [0, 0, 0]
    assert len(servers) == 1
    assert [job.last_lines() for job in made] == [[str(servers[0])]] * 3
    assert not Path(f"/proc/{servers[0]}").exists()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_worker_computes_with_the_threads_it_was_given(
    threads: str, jobs: MakeJobs, no_threads_chosen: Callable[[Mapping[str, str]], None]
) -> None:
    """Catches workers with the launcher's threads, and a fork after which they are not there."""
    no_threads_chosen({"OMP_NUM_THREADS": threads})
    program = (
        "import os, torch\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "product = torch.ones(600, 600) @ torch.ones(600, 600)\n"
        "started = len(os.listdir('/proc/self/task')) - before\n"
        "print(torch.get_num_threads(), started >= torch.get_num_threads() - 1, float(product.sum()))\n"
    )
    (job,) = jobs(program)
    worker = job.cwd / "dbl/commands/launch/worker.py"
    worker.write_text("import torch\n" + worker.read_text())  # the server imports it, before it forks
    assert ProcessBackend(1, on_cpu=True).run([job])[0].code == 0
    alone = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert job.last_lines(1) == alone.stdout.splitlines()


def test_workers_of_a_killed_server_save_and_stop(jobs: MakeJobs, servers: list[int]) -> None:
    """Catches workers that go on unseen, a launcher that waits for them for ever, and jobs that are not begun then."""
    made = jobs(_UNTIL_STDIN_CLOSES, "print('fine')")
    pid = made[0].cwd / "pid"

    def kill() -> None:
        _soon(pid.exists)
        os.kill(servers[0], signal.SIGKILL)

    threading.Thread(target=kill).start()
    outcomes = ProcessBackend(1, on_cpu=True).run(made)
    assert [outcome.code for outcome in outcomes] == [-signal.SIGKILL, 0]
    assert len(servers) == 2
    _soon((made[0].cwd / "saved").exists)
    _soon(lambda: not _lives(int(pid.read_text())))


def test_workers_of_a_killed_launcher_save_and_stop(jobs: MakeJobs, tmp_path: Path) -> None:
    """Catches a server and workers that outlive the launcher."""
    (job,) = jobs(_UNTIL_STDIN_CLOSES)
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from dbl.commands.launch.forked import ForkServer\n"
        "from dbl.commands.launch.job import Job\n"
        "job = Job(Path(sys.argv[1]), 0, False, Path(sys.argv[2]))\n"
        "server = ForkServer(job, {})\n"
        "worker = server.start(job, {})\n"
        "print(server._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, launcher, job.run, job.cwd]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        _soon((job.cwd / "pid").exists)
        process.kill()
    _soon((job.cwd / "saved").exists)
    _soon(lambda: not _lives(server))
    _soon(lambda: not _lives(int((job.cwd / "pid").read_text())))


def test_a_server_that_still_imports_is_stopped_at_once(jobs: MakeJobs, servers: list[int]) -> None:
    """Catches Ctrl-C that waits for the imports, and a worker that is forked after it."""
    (job,) = jobs("print('never')")
    worker = job.cwd / "dbl/commands/launch/worker.py"
    worker.write_text("import time\ntime.sleep(120)\n" + worker.read_text())

    def interrupt() -> None:
        _soon(lambda: servers)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        ProcessBackend(1, on_cpu=True).run([job])
    assert time.monotonic() - began < 30
    assert not _lives(servers[0])
    assert job.last_lines() == []


def test_a_worker_that_does_not_stop_is_killed(
    jobs: MakeJobs, servers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a launcher that waits for ever for a worker that hangs."""
    monkeypatch.setattr("dbl.commands.launch.process.GRACE_S", 0.5)
    (job,) = jobs("import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid()); time.sleep(120)")

    def interrupt() -> None:
        _soon(job.last_lines)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted):
        ProcessBackend(1, on_cpu=True).run([job])
    assert not _lives(int(job.last_lines()[0]))


def test_a_worker_tells_what_cannot_be_imported(jobs: MakeJobs) -> None:
    """Catches a server that ends without a word, or takes all workers with it, when a package is broken."""
    made = jobs("pass", "pass")
    worker = made[0].cwd / "dbl/commands/launch/worker.py"
    worker.write_text("raise ImportError('a broken package')\n")
    outcomes = ProcessBackend(1, on_cpu=True).run(made)
    assert [outcome.code for outcome in outcomes] == [1, 1]
    assert [outcome.lines[-1] for outcome in outcomes] == ["ImportError: a broken package"] * 2


def test_imports_leave_a_process_that_can_be_forked() -> None:
    """Catches a package that starts threads, or asks CUDA for its devices, when it is imported."""
    program = (
        "import sys, threading\nfrom importlib import import_module\nimport torch\n"
        "asked = []\n"
        "for name in ('is_available', 'device_count', '_lazy_init', 'current_device'):\n"
        "    setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))\n"
        "for name in sys.argv[1:]:\n    import_module(name)\n"
        "print(asked, threading.active_count())\n"
    )
    command = [sys.executable, "-c", program, *IMPORTED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "[] 1"
