"""One task of a Slurm job array: train a block, save at Slurm's signals, and leave requeueing to who asked for it."""

import signal
import subprocess
from types import FrameType
from typing import Any

from dbl.commands.launch.job import Done, Job, refuse, start_process

# Exit codes of a training that was told to stop: after it saved, and before it had begun.
_STOPPED = (130, -signal.SIGTERM)


class BlockTask:
    """What a task of the array calls: `dbl fit` in its own process.

    The training saves at SIGTERM, which this process passes on. What then happens depends on who asked: at the signal
    before the time limit (SIGUSR2) submitit queues the task again; after a SIGTERM (scancel, or a pre-emption) the
    task leaves no result, and Slurm alone decides whether it is queued again.

    Args:
        job: job to run.
        environment: environment of the training process.
    """

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job = job
        self.environment = environment
        self._received: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> Done:
        """Train, and return how it ended."""
        if refusal := refuse(self.job):
            return refusal
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._pass_on)
        code = self._train()
        if self._received and code in _STOPPED:
            if signal.SIGUSR2 in self._received and callable(requeue):
                requeue(signal.SIGUSR2, None)
            raise SystemExit(130)
        return Done(code)

    def _train(self) -> int:
        self._process = start_process(self.job, self.environment)
        if self._received:  # a signal came before there was a process to pass it on to
            self._process.terminate()
        return self._process.wait()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._process and not self._received:  # a second SIGTERM would end the training before it has saved
            self._process.terminate()
        self._received.append(number)

    def checkpoint(self) -> Any:
        """The task that submitit runs when this one is requeued: the same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(BlockTask(self.job, self.environment))
