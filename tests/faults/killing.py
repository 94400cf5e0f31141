"""Whole commands in children that are killed at random moments, until a run ends with what an undisturbed one made."""

import functools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import sklearn.datasets
import torch
from faults.runs import left_over
from forked import Child, Outcome, run_forked
from tiny_run import TINY
from toy import assert_equal_states

import dbl.commands.assemble
import dbl.commands.launch.process
import dbl.commands.launch.worker
import dbl.commands.train
from dbl.commands.launch.job import Job, worker_environment
from dbl.commands.main import main

Backend = Literal["inline", "process"]

RUN = Path("runs/digits_dit")
TRAIN = [
    *("train", "--config", str(Path(__file__).parents[2] / "configs" / "digits_dit.yaml"), *TINY),
    *("--trainer.max_steps=12", "--trainer.val_check_interval=6", "--checkpoint.every_n_steps=4"),
    *("--inference.sampler.num_steps=6", "--data.init_args.eval_batch_size=400"),
]
# The stages of a command, and the functions in which they are.
STAGES = {
    "assembling": [(dbl.commands.train, "assemble"), (dbl.commands.assemble, "assemble")],
    "evaluating": [(dbl.commands.train, "evaluate_stack")],
    "reporting": [(dbl.commands.train, "write_report")],
    "training": [(dbl.commands.train.Launch, "train")],
}
_KEPT = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl")
# What the report says about time, and at which step after a resume the memory was measured.
_TIMES = {"seconds", "step", "step_seconds", "samples_per_second", "date"}

sklearn.datasets.load_digits = functools.cache(sklearn.datasets.load_digits)
sklearn.datasets.load_digits()  # here: the children inherit it


def command(arguments: list[str], stages: Path) -> int:
    """Run a command of `dbl` in a process group of its own; a file lists the stages that it entered, and when."""
    os.setpgid(0, 0)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name, functions in STAGES.items():
        for owner, function in functions:
            setattr(owner, function, _noted(getattr(owner, function), name, stages))
    dbl.commands.launch.process.can_fork = lambda: False
    dbl.commands.launch.process.start_process = _ForkedWorker  # type: ignore[assignment]
    _note("starting", stages)
    code = main(arguments)
    _note("ended", stages)
    return code


def _note(stage: str, stages: Path) -> None:
    with stages.open("a") as file:
        file.write(f"{stage} {time.monotonic()}\n")


def _noted(function: Callable[..., Any], name: str, stages: Path) -> Callable[..., Any]:
    @functools.wraps(function)
    def noted(*arguments: Any, **options: Any) -> Any:
        _note(name, stages)
        return function(*arguments, **options)

    return noted


class _ForkedWorker:
    """Stands in for the `Popen` of a worker, which, or whose server, would need seconds to import everything."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self._standard_input = os.pipe()  # closes when the launcher ends
        self._process = multiprocessing.get_context("fork").Process(target=self._work, args=(job, environment))
        self._process.start()
        os.close(self._standard_input[0])
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def _work(self, job: Job, environment: Mapping[str, str]) -> None:
        os.dup2(self._standard_input[0], 0)
        os.close(self._standard_input[1])
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(worker_environment() | dict(environment))
        threading.Thread(target=dbl.commands.launch.worker._stop_with_launcher, daemon=True).start()
        raise SystemExit(main(["fit", *job.options]))

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


class Killer:
    """Starts commands in a folder and kills them.

    Args:
        folder: folder with the run.
        draw: source of the moments.
        durations: seconds of each stage of a command that was left alone, by the name of the command.

    Attributes:
        kills: number of kills by command and stage.
    """

    def __init__(self, folder: Path, draw: random.Random, durations: dict[str, dict[str, float]]) -> None:
        self.folder, self.draw, self.durations = folder, draw, durations
        self.kills: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)

    def undisturbed(self, name: str, arguments: list[str]) -> Outcome:
        """Run a command to its end."""
        stages = self._new_stages()
        outcome = run_forked(command, self.folder, arguments, stages, time_limit_s=300)
        entered = _entered(stages)
        ends = [start for _, start in entered[1:]]
        self.durations[name] = {stage: end - start for (stage, start), end in zip(entered, ends, strict=False)}
        return outcome

    def killed(self, name: str, arguments: list[str]) -> bool:
        """Run a command and kill it, with its workers or alone, at a random moment. Returns whether it still ran.

        Each of its stages has the same chance, however long it takes, but training has that of three.
        """
        durations = self.durations[name]
        stage = self.draw.choice([*sorted(durations), *(["training"] * 2 if "training" in durations else [])])
        delay, whole_group = self.draw.uniform(0, durations[stage]), self.draw.random() < 0.7
        stages = self._new_stages()
        child = Child(command, self.folder, arguments, stages)
        while child.process.exitcode is None and stage not in dict(_entered(stages)):
            time.sleep(0.005)
        child.process.join(delay)
        runs = child.process.exitcode is None
        if runs:
            self.kills[f"{name}: {_entered(stages)[-1][0]}"] += 1
            _kill(child.process.pid, whole_group)
        outcome = child.outcome(300)
        assert outcome.code in (0, -signal.SIGKILL), outcome
        return runs

    def _new_stages(self) -> Path:
        stages = self.folder / "stages"
        stages.write_text("")
        return stages


def _entered(stages: Path) -> list[tuple[str, float]]:
    """Stages that a command entered, and when; the last line may not be whole yet."""
    lines = stages.read_text().split("\n")[:-1]
    return [(stage, float(start)) for stage, start in (line.split() for line in lines)]


def _kill(pid: int | None, whole_group: bool) -> None:
    assert pid is not None
    if whole_group:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            os.kill(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)


def kill_again_and_again(killer: Killer, backend: Backend, kills: int) -> None:
    """Kill the commands of a new run `kills` times: `dbl train` until it ends, then that and `dbl assemble` again."""
    train = [*TRAIN, f"--backend={backend}"]
    done = ended = 0
    while done < kills:
        if ended and killer.draw.random() < 0.4:
            done += killer.killed("assemble", ["assemble", str(RUN)])
        else:
            was_killed = killer.killed("train again" if ended else f"train {backend}", train)
            done += was_killed
            ended += not was_killed


def finish(killer: Killer, backend: Backend) -> list[str]:
    """Run `dbl train` once more to its end. Returns what is left over."""
    outcome = killer.undisturbed("last", [*TRAIN, f"--backend={backend}"])
    assert outcome.code == 0, outcome
    return left_over(killer.folder / RUN)


def differences(first: Path, second: Path) -> list[str]:
    """In which files two runs differ: checkpoints, model and report, without times."""
    found = []
    for block in range(3):
        name = f"block_{block}/checkpoints/last.ckpt"
        states = [torch.load(folder / RUN / name, weights_only=True) for folder in (first, second)]
        try:
            for key in _KEPT:
                assert_equal_states(states[0][key], states[1][key])
        except AssertionError:
            found.append(name)
        name = f"model/block_{block}.safetensors"
        if (first / RUN / name).read_bytes() != (second / RUN / name).read_bytes():
            found.append(name)
    for name in ("model/config.json", "report/report.json"):
        facts = [_without_times(json.loads((folder / RUN / name).read_text())) for folder in (first, second)]
        found += [f"{name}: {path}" for path in _unequal(facts[0], facts[1], "")]
    return found


def _without_times(facts: Any) -> Any:
    if isinstance(facts, dict):  # the hash of config.json is over its times too
        return {key: _without_times(value) for key, value in facts.items() if key not in _TIMES | {"sha256"}}
    return [_without_times(value) for value in facts] if isinstance(facts, list) else facts


def _unequal(first: Any, second: Any, path: str) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [found for key in first for found in _unequal(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [found for number, (one, two) in pairs for found in _unequal(one, two, f"{path}[{number}]")]
    return [] if first == second else [f"{path} {first!r} {second!r}"]
