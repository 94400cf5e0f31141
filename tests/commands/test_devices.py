"""`trainer.devices` means what Lightning says, from a config and a command line, on CPUs and GPUs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from forked import run_dbl
from tiny_run import TINY

from dbl.commands.devices import num_devices, read_devices
from dbl.commands.launch.launcher import Launch
from dbl.commands.launch.process import ProcessBackend
from dbl.utils.errors import UserError

_CONFIG = Path(__file__).parents[2] / "configs/digits_dit.yaml"
# Values of a command line or a config, and the numbers of the GPUs that Lightning takes for them where there are four.
VALUES: dict[str, tuple[Any, list[int]]] = {
    "a number": (2, [0, 1]),
    "a number as text": ("2", [0, 1]),
    "a list": ([0, 1], [0, 1]),
    "a list as text": ("0,1", [0, 1]),
    "one GPU": ([3], [3]),
    "one GPU as text": ("3,", [3]),
    "all": (-1, [0, 1, 2, 3]),
    "all as text": ("-1", [0, 1, 2, 3]),
}


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a launcher sees, and Lightning when it reads `devices`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda._get_all_visible_cuda_devices", lambda: [0, 1, 2, 3])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")


def _trainer(devices: Any, accelerator: str = "auto") -> Mapping[str, Any]:
    return {"devices": devices, "accelerator": accelerator, "num_nodes": 1}


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("case", VALUES)
def test_gpus_are_those_of_lightning(case: str) -> None:
    """Catches a value of a command line, which is text, that is counted or spelt otherwise than in a config."""
    value, numbers = VALUES[case]
    read = read_devices(value)
    parse = L.pytorch.accelerators.CUDAAccelerator.parse_devices
    assert parse(value) == parse(read) == numbers  # type: ignore[arg-type]
    assert num_devices(_trainer(value)) == len(numbers)
    backend = ProcessBackend(devices=read)
    shares = [tuple("4567"[number] for number in numbers)]
    if read == 2:
        shares.append(("6", "7"))
    visible = [("4", "5", "6", "7")] if isinstance(read, list) else shares  # numbers count among those that are visible
    assert [
        tuple(backend._environment(slot)["CUDA_VISIBLE_DEVICES"].split(",")) for slot in range(len(visible))
    ] == visible


@pytest.mark.parametrize(("value", "number"), [(1, 1), ("1", 1), (2, 2), ("2", 2)])
def test_processes_of_a_cpu_are_those_of_lightning(value: Any, number: int) -> None:
    """Catches text that a backend cannot count with."""
    parse = L.pytorch.accelerators.CPUAccelerator.parse_devices
    assert parse(value) == parse(read_devices(value)) == number  # type: ignore[arg-type]
    assert num_devices(_trainer(value, "cpu")) == number


@pytest.mark.parametrize("value", [[0, 1], "0,1", -1, "-1", [0], "0,"])
def test_gpus_by_number_are_refused_on_a_cpu(value: Any) -> None:
    """Catches Lightning's own refusal, which comes when the first block is trained."""
    with pytest.raises(UserError, match="names GPUs, and this is a CPU"):
        num_devices(_trainer(value, "cpu"))


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("value", [5, "5", [0, 4], "0,4"])
def test_gpus_that_are_not_here_are_refused(value: Any) -> None:
    """Catches a block that fails after it has read its data."""
    with pytest.raises(UserError, match=r"trainer\.devices=.*there are 4 here"):
        num_devices(_trainer(value))


@pytest.mark.parametrize(
    "value", [0, "0", "", ",", "a", "0,a", [], ["a"], [0, 0], "-1,0", -2, "1.5", None, True, [True]]
)
def test_values_that_mean_nothing_are_refused(value: Any) -> None:
    """Catches a value that becomes another one."""
    with pytest.raises(UserError, match=r"trainer\.devices \(.*\) must be a number of at least 1, auto, -1 or a list"):
        read_devices(value)


@pytest.mark.usefixtures("four_gpus")
def test_a_block_of_a_whole_run_takes_one_device_unless_told_otherwise() -> None:
    """Catches `auto`, which in Lightning is all GPUs, and would start this command again for each of them."""
    for backend in ("inline", "process"):
        trainer = _namespace("auto")
        _launch(backend, "auto").settle_devices(trainer)
        assert trainer.devices == 1
    with pytest.raises(UserError, match="blocks in this process use 1"):
        _launch("inline", -1).settle_devices(_namespace(-1))
    on_cluster = _namespace("auto")
    _launch("slurm", "auto").settle_devices(on_cluster)
    assert on_cluster.devices == "auto"


def _namespace(devices: Any) -> Any:
    from jsonargparse import Namespace

    return Namespace(_trainer(devices))


def _launch(backend: Any, devices: Any) -> Launch:
    return Launch(backend=backend, devices=devices)


def test_a_block_trains_in_two_processes_and_is_evaluated_in_one(tmp_path: Path) -> None:
    """Catches text that the backend cannot count with, and an evaluation that starts the command once more."""
    options = ["--trainer.devices", "2", "--run.name=two", "--backend=process", "--contract.partition.num_blocks=1"]
    outcome = run_dbl(tmp_path, "train", "--config", str(_CONFIG), *TINY, *options, time_limit_s=400)
    assert outcome.code == 0, outcome.errors
    assert yaml.safe_load((tmp_path / "runs/two/config.yaml").read_text())["trainer"]["devices"] == 2
    assert (tmp_path / "runs/two/report/report.md").is_file()


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("backend", ["inline", "process"])
def test_a_missing_gpu_is_found_before_any_block_starts(command: str, backend: str, tmp_path: Path) -> None:
    """Catches three blocks that fail one after another, and files of a run that never began."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is a GPU")
    options = ["--config", str(_CONFIG), "--trainer.accelerator=gpu", f"--backend={backend}"]
    outcome = run_dbl(tmp_path, command, *options)
    assert outcome.problem() is None
    assert "trainer.accelerator=gpu is not there: choose auto or cpu" in outcome.errors
    assert not (tmp_path / "runs").exists()


def test_a_comparison_on_several_devices_is_refused(tmp_path: Path) -> None:
    """Catches an end-to-end network whose processes would start the whole comparison again."""
    options = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--backend=process"]
    outcome = run_dbl(tmp_path, "compare", "--config", str(_CONFIG), *options)
    assert outcome.problem() is None
    assert "trainer.devices=2: dbl compare trains the end-to-end network in this process" in outcome.errors
