"""A study of Optuna: it draws the choices of each trial from those that were good, and is kept in a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dbl.commands.sweeping.values import Swept
from dbl.utils.errors import UserError, optional_package, reason_of
from dbl.utils.seeding import derive_seed

# Trials that are drawn at random before the sampler learns from them; Optuna's own 10 would be all of a small study.
_RANDOM_TRIALS = 5


class Trial(NamedTuple):
    """A trial that is to be run: its number and its choices, as they are typed on a command line."""

    number: int
    choices: dict[str, str]


class Study:
    """Trials over ranges and choices, by Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011).

    A draw is a function of the seed, the number of the trial and the results so far: a study that was interrupted goes
    on as if it had not been.

    Args:
        path: file in which trials are kept.
        swept: keys and what may be drawn for them.
        seed: seed of the draws.
        higher: whether higher results are better.

    Raises UserError if Optuna is not installed or the file is damaged.
    """

    def __init__(self, path: Path, swept: Sequence[Swept], seed: int, higher: bool) -> None:
        self._optuna: Any = optional_package("optuna", "optuna", "dbl sweep --study")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._seed = seed
        self._distributions = {one.key: self._distribution(one) for one in swept}
        try:
            backend = self._optuna.storages.journal.JournalFileBackend(str(path))
            storage = self._optuna.storages.JournalStorage(backend)
            direction = "maximize" if higher else "minimize"
            self._study = self._optuna.create_study(
                storage=storage, study_name="sweep", direction=direction, load_if_exists=True
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({reason_of(error)}): give another --name") from error

    def _distribution(self, one: Swept) -> Any:
        kinds = self._optuna.distributions
        if not one.is_range:
            return kinds.CategoricalDistribution(one.choices)
        if one.whole:
            return kinds.IntDistribution(int(one.low), int(one.high), log=one.log)
        return kinds.FloatDistribution(one.low, one.high, log=one.log)

    @property
    def num_ended(self) -> int:
        """Number of trials that have a result, or have failed."""
        return sum(trial.state.is_finished() for trial in self._study.trials)

    def next(self) -> Trial:
        """The trial that was interrupted, or a new one."""
        running = [trial for trial in self._study.trials if not trial.state.is_finished()]
        if running:
            return self._trial(running[0])
        seed = derive_seed(self._seed, "study", len(self._study.trials)) % 2**32
        self._study.sampler = self._optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=seed)
        return self._trial(self._study.ask(self._distributions))

    def _trial(self, trial: Any) -> Trial:
        return Trial(trial.number, {key: _typed(trial.params[key]) for key in self._distributions})

    def tell(self, number: int, value: float | None) -> None:
        """Report the result of a trial; None if it failed."""
        state = None if value is not None else self._optuna.trial.TrialState.FAIL
        self._study.tell(number, value, state=state)


def _typed(value: Any) -> str:
    """A drawn value as it is typed; four digits say enough, and make a name."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
