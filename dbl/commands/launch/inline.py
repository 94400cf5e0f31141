"""Backend `inline`: one block after another in this process, with a progress bar."""

import traceback

from typing_extensions import override

from dbl.commands.fit import fit_part, free_memory
from dbl.commands.launch.backend import Backend, Outcome
from dbl.commands.launch.job import Job
from dbl.commands.run_config import RunConfig
from dbl.utils.errors import Interrupted, UserError, as_known_error


class InlineBackend(Backend):
    """Train in this process, by calling what `dbl fit` calls."""

    @override
    def run(self, jobs: list[Job]) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            try:
                config = RunConfig.load(job.run / "config.yaml")
                config.values.model.block = job.block
                fit_part(config, job.from_scratch)
                outcomes.append(Outcome(job, 0))
            except Exception as error:
                outcomes.append(_failed(job, error))
            finally:
                free_memory()
        return outcomes


def _failed(job: Job, error: Exception) -> Outcome:
    known = as_known_error(error)
    if isinstance(known, Interrupted):
        raise error
    if isinstance(known, UserError):
        return Outcome(job, 2, [str(known)])
    traceback.print_exception(error)
    return Outcome(job, 1, [f"{type(error).__name__}: {error}"])
