"""Stands in for `dbl.commands.launch.worker` in the tests of the backends: it counts in place of training.

It is copied into the folder where the jobs run, which Python searches before all others. Like a training it saves every
few steps and at SIGTERM, resumes from what is saved, and stops when its launcher is gone. `plan.json` in the run folder
says for each block what it does.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock

run = Path(sys.argv[sys.argv.index("--config") + 1]).parent
block = sys.argv[sys.argv.index("--model.block") + 1]
folder = run / f"block_{block}"
plan = {"steps": 5, "seconds": 0.05, "code": 0, "meets": None} | json.loads((run / "plan.json").read_text())[block]
stopped = threading.Event()


def _stop_with_launcher() -> None:
    while os.read(0, 4096):  # not sys.stdin: a thread that waits in it is a fatal error at the exit of Python
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for(path: Path) -> None:
    for _ in range(400):
        if path.exists():
            return
        time.sleep(0.05)
    sys.exit(f"{path} did not come")


def _count(saved: Path) -> None:
    step, value = json.loads(saved.read_text()) if saved.exists() else (0, 1)
    while step < plan["steps"]:
        time.sleep(plan["seconds"])
        step, value = step + 1, (value * 31 + step) % 1_000_003
        (folder / "step").write_text(str(step))
        if step % 10 == 0 or stopped.is_set():
            saved.write_text(json.dumps([step, value]))
        if stopped.is_set():
            print("stopped and saved")
            sys.exit(130)
    (folder / "result").write_text(str(value))


signal.signal(signal.SIGTERM, lambda *_: stopped.set())
threading.Thread(target=_stop_with_launcher, daemon=True).start()
with FileLock(folder / "lock", timeout=30), (folder / "log.jsonl").open("a") as log:
    began = time.time()
    first = json.loads((folder / "saved.json").read_text())[0] if (folder / "saved.json").exists() else 0
    (folder / "parent").write_text(str(os.getppid()))
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "DBL_DATA", "SLURM_JOB_NAME")}
    if plan["meets"] is not None:
        _wait_for(run / f"block_{plan['meets']}" / "parent")
    try:
        _count(folder / "saved.json")
    finally:
        step = int((folder / "step").read_text()) if (folder / "step").exists() else 0
        log.write(
            json.dumps({"began": began, "ended": time.time(), "first": first, "step": step, **environment}) + "\n"
        )
print(f"ends with {plan['code']}")
sys.exit(plan["code"])
