"""Stands in for the commands of Slurm: `sbatch` runs the tasks of an array here, as Slurm would on its nodes.

The name under which it is called says which command it is. What it knows lies in the folder $STAND_IN: for each task a
file with its state and its process, so that `sacct`, `scancel` and `scontrol` can find it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["STAND_IN"])


def _write(task: str, **changes: object) -> None:
    file = HOME / f"{task}.json"
    known = json.loads(file.read_text()) if file.exists() else {"state": "PENDING", "group": None, "starts": 0}
    temporary = HOME / f"{task}.new"
    temporary.write_text(json.dumps(known | changes))
    temporary.rename(file)


def _read(task: str) -> dict:
    return json.loads((HOME / f"{task}.json").read_text())


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    if "--partition=closed" in text:
        sys.exit("sbatch: error: invalid partition specified: closed")
    array = re.search(r"--array=0-(\d+)%(\d+)", text)
    tasks = [f"77_{number}" for number in range(int(array[1]) + 1)] if array else ["77"]
    for task in tasks:
        _write(task)
    at_once = int(array[2]) if array else 1
    subprocess.Popen(
        [sys.executable, __file__, "controller", script, str(at_once), *tasks],
        start_new_session=True,
        stdout=(HOME / "controller.log").open("a"),
        stderr=subprocess.STDOUT,
    )
    print("Submitted batch job 77")


def controller(script: str, at_once: str, *tasks: str) -> None:
    """What the daemons of Slurm do: start tasks while there is room, and note how they end."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    while running or any(_read(task)["state"] == "PENDING" for task in tasks):
        for task in tasks:
            if len(running) < int(at_once) and task not in running and _read(task)["state"] == "PENDING":
                running[task] = _start(script, task)
        for task, process in list(running.items()):
            code = process.poll()
            if code is not None:
                del running[task]
                _end(task, code)
        time.sleep(0.05)


def _start(script: str, task: str) -> "subprocess.Popen[bytes]":
    numbers = dict(zip(("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"), task.split("_"), strict=False))
    single = {} if "_" in task else {"SLURM_JOB_ID": task}
    identity = ({"SLURM_JOB_ID": "7" + task.replace("_", "")} | numbers) if "_" in task else single
    others = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NUM_NODES": "1"}
    environment = os.environ | identity | others | {"SLURM_JOB_NAME": "dbl-run"}
    process = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
    _write(task, state="RUNNING", group=process.pid, starts=_read(task)["starts"] + 1)
    return process


def _end(task: str, code: int) -> None:
    state = _read(task)["state"]
    if state == "REQUEUED":
        _write(task, state="PENDING", group=None)
    elif state == "RUNNING":
        _write(task, state="COMPLETED" if code == 0 else "FAILED", group=None)
    else:
        _write(task, group=None)


def srun(*arguments: str) -> None:
    options = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
    (HOME / "srun_options.json").write_text(json.dumps(options))
    names = [os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
    task = "_".join(name for name in names if name) or os.environ["SLURM_JOB_ID"]
    (HOME / f"{task}.step").write_text(str(os.getpid()))  # signals are for the step, not for the shell around it
    for option, stream in (("--output", 1), ("--error", 2)):
        log = arguments[arguments.index(option) + 1].replace("%A_%a", task).replace("%j", task).replace("%t", "0")
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    command = arguments[next(i for i, word in enumerate(arguments) if "python" in Path(word).name) :]
    os.execv(command[0], command)


def sacct(*arguments: str) -> None:
    if (HOME / "no_accounting").exists():
        sys.exit("Slurm accounting storage is disabled")
    with (HOME / "sacct_calls").open("a") as calls:
        calls.write(f"{time.time()}\n")
    for file in HOME.glob("77*.json"):
        print(f"{file.stem}|{_read(file.stem)['state']}|node1")


def squeue(*arguments: str) -> None:
    for file in HOME.glob("77*.json"):
        if _read(file.stem)["state"] in ("PENDING", "RUNNING"):
            print(f"{file.stem}|{_read(file.stem)['state']}")


def scancel(*arguments: str) -> None:
    with (HOME / "scancel_calls").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    options = dict(argument[2:].split("=") for argument in arguments if argument.startswith("--"))
    for task in (argument for argument in arguments if not argument.startswith("--")):
        known = _read(task)
        if options.get("state") not in (None, known["state"]) or known["state"] not in ("PENDING", "RUNNING"):
            continue
        number = signal.SIGTERM if options.get("signal") == "TERM" else signal.SIGKILL
        if known["group"]:
            os.kill(int((HOME / f"{task}.step").read_text()), number)
        if "signal" not in options:
            _write(task, state="CANCELLED by 1000")


def scontrol(action: str, task: str) -> None:
    assert action == "requeue"
    _write(task, state="REQUEUED")


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    arguments = sys.argv[1:]
    if name == Path(__file__).name:  # called as itself, with the name in front
        name, *arguments = arguments
    globals()[name](*arguments)
