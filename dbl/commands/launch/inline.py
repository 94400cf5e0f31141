"""Backend `inline`: one block after another in this process, with a progress bar."""

import gc
import traceback

import torch

from dbl.commands.fit import BlockCLI
from dbl.commands.launch.backend import Backend, Outcome
from dbl.commands.launch.job import Job
from dbl.training.block import DiffusionBlock
from dbl.training.module import TrainingModule
from dbl.utils.errors import Interrupted, UserError, as_known_error


class InlineBackend(Backend):
    """Nothing but this process."""

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """See `Backend.run`."""
        return [self._done(job) for job in jobs]

    def _done(self, job: Job) -> Outcome:
        try:
            fit_part(job.options)
        except Exception as error:
            known = as_known_error(error)
            if isinstance(known, Interrupted):
                raise
            if isinstance(known, UserError):
                return Outcome(job, 2, [str(known)])
            traceback.print_exc()
            return Outcome(job, 1, [f"{type(error).__name__}: {error}"])
        return Outcome(job, 0)


def fit_part(options: list[str], part: type[TrainingModule] = DiffusionBlock) -> None:
    """Run `dbl fit` and free what it used: the one way in which any part of any run is trained.

    Args:
        options: of `dbl fit`.
        part: the class under `model`: a block, or an end-to-end baseline.
    """
    try:
        BlockCLI(["fit", *options], part)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
