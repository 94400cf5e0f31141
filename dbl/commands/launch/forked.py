"""Workers forked from one process that has imported everything, which takes seconds for each that starts by itself.

The launcher itself cannot be forked: its threads and its use of a GPU would not survive. `multiprocessing` has a fork
server too, but one for the whole life of a program, with the variables (number of threads) of its first use. Its
children import the program's main module again, leave out exit handlers, and go on unseen if the server is killed.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from signal import SIGKILL, SIGTERM

from dbl.commands.launch.job import Job, begin_log, launcher_environment, open_log

_POLL_S = 0.1
# PyTorch then asks the driver's management library whether there are GPUs, which does not hinder forked processes.
_ENVIRONMENT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def can_fork() -> bool:
    """Whether this system can: Linux 5.3 or newer."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class ForkServer:
    """A process of `dbl.commands.launch.fork_server`, which starts workers for the jobs of one launch.

    Its workers save and stop when it ends, and it ends when this process does.

    Args:
        job: the first job, in whose folder it starts, and whose log holds its output.
        environment: variables added to those of this process, for what is read on import: the number of threads.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        with theirs, open_log(job) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dbl.commands.launch.fork_server"],
                cwd=job.cwd,
                env=launcher_environment() | _ENVIRONMENT | dict(environment),
                stdin=theirs.fileno(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ready = False
        self._codes: dict[str, int] = {}

    def start(self, job: Job, environment: Mapping[str, str]) -> "ForkedWorker":
        """Start the worker of a job, as soon as everything is imported.

        Args:
            job: job to run.
            environment: variables added to those of the server.
        """
        begin_log(job).close()
        self._send(job.part, str(job.log), job.options, dict(environment))
        return ForkedWorker(self, job.part)

    @property
    def runs(self) -> bool:
        """Whether it can start workers."""
        return self._process.poll() is None

    def code(self, part: str) -> int | None:
        """Exit code of a worker, or of the server if that has ended before; None if both run."""
        try:
            while self._connection.poll():
                message = self._connection.recv()
                self._ready = True
                if message:
                    self._codes[message[0]] = message[1]
        except (EOFError, ConnectionError):
            return self._codes.setdefault(part, self._process.wait() or 1)
        return self._codes.get(part)

    def send_signal(self, part: str, number: int) -> None:
        """Send a worker that runs a signal."""
        if self.code(part) is not None:
            return
        if self._ready:
            self._send(part, number)
        else:  # no worker has begun
            self._process.send_signal(number)

    def _send(self, *message: object) -> None:
        with suppress(ConnectionError):  # it was killed, as `code` tells
            self._connection.send(message)

    def close(self) -> None:
        """End the server; workers that run save and stop."""
        self._connection.close()
        self._process.wait()


class ForkedWorker:
    """A worker with the methods of a `subprocess.Popen` that a launcher needs.

    Args:
        server: the server from which it is forked.
        part: name of its block's folder.
    """

    def __init__(self, server: ForkServer, part: str) -> None:
        self._server = server
        self._part = part

    def poll(self) -> int | None:
        """Exit code, negative if a signal ended it; None if it runs."""
        return self._server.code(self._part)

    def terminate(self) -> None:
        """Tell it to save and stop."""
        self._server.send_signal(self._part, SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._server.send_signal(self._part, SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, when it has ended; subprocess.TimeoutExpired if it has not within `timeout` seconds."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(self._part, timeout)
            time.sleep(_POLL_S)
        return code
