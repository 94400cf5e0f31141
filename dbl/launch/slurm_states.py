"""In which state Slurm says that tasks are."""

import subprocess
import time

# One question for all tasks, and not more often: the accounting of a cluster serves everyone.
_ASK_EVERY_S = 15.0
# Of a task that neither the accounting nor the queue knows any more.
_GONE = "GONE"

ENDED_STATES = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"),
    _GONE,
}


class States:
    """States of tasks according to Slurm's accounting, or to its queue on a cluster without accounting.

    submitit's own watcher is not asked: it takes a suspended task for ended, never asks again about one that ended once
    although Slurm may have queued it again, and is blind without accounting.

    Args:
        names: of the tasks, e.g. 123_0.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._states: dict[str, str] = {}
        self._asked = float("-inf")

    def of(self, name: str) -> str:
        """State of a task as it was a few seconds ago, e.g. RUNNING; UNKNOWN if Slurm does not say."""
        if time.monotonic() - self._asked > _ASK_EVERY_S:
            self.ask()
        state = self._states.get(name, "").split()
        return state[0].rstrip("+") if state else "UNKNOWN"  # CANCELLED by 1000

    def ask(self) -> None:
        """Ask Slurm now."""
        self._asked = time.monotonic()
        jobs = "--jobs=" + ",".join(sorted({name.split("_")[0] for name in self._names}))
        code, text = _output("sacct", "--noheader", "--parsable2", "--format=JobID,State", jobs)
        if code == 0:
            self._states.update(_parsed(text))
            return
        code, text = _output("squeue", "--noheader", "--array", "--format=%i|%T", jobs)
        if code == 0 or "Invalid job id" in text:
            self._states = dict.fromkeys(self._names, _GONE) | _parsed(text)


def _output(*command: str) -> tuple[int, str]:
    """Exit code and output of a command; 127 if it is absent."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 127, ""
    return ended.returncode, ended.stdout + ended.stderr


def _parsed(text: str) -> dict[str, str]:
    """Name -> state from lines such as `123_[0-2%2]|PENDING`."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    info = SlurmInfoWatcher().read_info("JobID|State\n" + text)
    return {name: stats["State"] for name, stats in info.items() if "State" in stats}
