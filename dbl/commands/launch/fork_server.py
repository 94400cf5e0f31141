"""The program that imports what a worker needs once, and from which the workers of backend `process` are forked.

Its standard input is a socket, whose other end is in `dbl.commands.launch.forked`. Messages are tuples. It reads
`(name, log, options, environment)` to start a worker and `(name, signal)` to send one a signal; it writes None when it
has imported everything and `(name, exit code)` when a worker has ended. When the socket closes it ends, and its end
closes the standard input of its workers, which then save and stop.

Nothing here may start a thread or use a GPU before a fork: neither works in a forked process.
"""

import gc
import os
import signal
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

# What a training imports before its first step.
IMPORTED = ("dbl.commands.launch.worker", "dbl.commands.fit", "dbl.data", "torch.utils.tensorboard")


class _Worker(NamedTuple):
    """A worker that runs."""

    name: str
    pid: int


def serve(launcher: Connection) -> list[str]:
    """Start workers, and report how they ended, until the launcher closes its end.

    Returns:
        In each forked process, the options of its worker.

    Raises:
        EOFError: in the server, when the launcher has ended.
    """
    stops, held = os.pipe()  # `held` is open in this process alone: `stops` closes when it ends
    workers: dict[int, _Worker] = {}  # by a descriptor that is readable once the process has ended
    while True:
        for ready in wait([launcher, *workers]):
            if isinstance(ready, int):
                os.close(ready)
                launcher.send(_ended(workers.pop(ready)))
                continue
            name, *message = launcher.recv()
            if len(message) == 1:
                _send_signal(message[0], name, workers)
                continue
            log, options, environment = message
            pid = _fork()
            if not pid:
                launcher.close()
                os.close(held)
                _begin_anew(stops, log, options, environment)
                return options
            workers[os.pidfd_open(pid)] = _Worker(name, pid)


def _ended(worker: _Worker) -> tuple[str, int]:
    return worker.name, os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])


def _send_signal(number: int, name: str, workers: dict[int, _Worker]) -> None:
    for descriptor, worker in workers.items():
        if worker.name == name:
            with suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(descriptor, number)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for the threads of OpenBLAS, which expects forks
        return os.fork()


def _begin_anew(stops: int, log: str, options: list[str], environment: dict[str, str]) -> None:
    """Give a forked process the session, input, output, arguments and variables of one that is started by itself."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, descriptor in enumerate((stops, output, output)):
        os.dup2(descriptor, number)
    os.close(stops)
    os.close(output)
    sys.argv[1:] = options
    os.environ.update(environment)


def main() -> int:
    """Import and serve; in a forked process, train. Returns the exit code."""
    launcher = Connection(os.dup(0))
    with suppress(Exception):  # each worker meets it again, and ends as one that was started by itself
        for name in IMPORTED:
            import_module(name)
    gc.freeze()  # a collection would copy the pages of what all workers share
    try:
        launcher.send(None)
        options = serve(launcher)
    except (EOFError, ConnectionError):
        return 0
    from dbl.commands.launch.worker import work

    return work(options)


if __name__ == "__main__":
    sys.exit(main())
