"""`dbl sweep`: what is tried, which run is chosen, what is left alone, and what is refused."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dbl.commands import sweep as module
from dbl.commands.sweeping.file import SweepFile
from dbl.commands.sweeping.study import Study
from dbl.commands.sweeping.values import Swept, grid, name_of, read_swept, short_keys
from dbl.evaluation.sweep_report import ranked, sweep_figure, sweep_markdown
from dbl.utils.errors import UserError
from dbl.utils.files import read_json

BLOCKS, OVERLAP = "contract.partition.num_blocks", "contract.partition.overlap"
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")


def test_choices_and_ranges_are_read() -> None:
    """Catches commas in lists that part them, and a range whose scale or kind of number is lost."""
    assert Swept.parse("a.b=1, 2 ,3").choices == ("1", "2", "3")
    assert Swept.parse("a=[1,2],[2,1]").choices == ("[1,2]", "[2,1]")
    assert Swept.parse("a={x: 1, y: 2}").choices == ("{x: 1, y: 2}",)
    assert Swept.parse("a=../x,..").choices == ("../x", "..")
    assert Swept.parse("a=0.05..0.1") == Swept("a", (), 0.05, 0.1)
    assert Swept.parse("a=1..8") == Swept("a", (), 1, 8, whole=True)
    assert Swept.parse("a=log:1e-4..1e-2") == Swept("a", (), 1e-4, 1e-2, log=True)
    for text in ("1,2", "0..0.2", "1..8", "log:0.1..1"):
        assert Swept.parse(f"a={text}").text == text


@pytest.mark.parametrize(
    ("texts", "study", "message"),
    [
        ([], False, "give --set KEY=VALUE"),
        (["a"], False, "--set a must be KEY=VALUE"),
        (["a b=1"], False, "must be KEY=VALUE"),
        (["a=1,,2"], False, "must have values that differ"),
        (["a=1,1"], False, "must have values that differ"),
        (["a=1", "a=2"], False, "--set a is given twice"),
        (["run.name=a,b"], False, "a sweep sets it itself"),
        (["a=0..1"], False, "add --study N"),
        (["a=1..0"], True, "to a higher one"),
        (["a=log:0..1"], True, "a number above 0 to a higher one"),
        (["a=log:x..1"], True, "must have two numbers"),
    ],
)
def test_what_cannot_be_meant_is_refused(texts: list[str], study: bool, message: str) -> None:
    """Catches a value that is taken for another one, or that fails in the middle of a sweep."""
    with pytest.raises(UserError, match=re.escape(message)):
        read_swept(texts, study)


def test_runs_are_named_by_their_choices() -> None:
    """Catches two runs of one name, a name that is no folder, and keys that cannot be told apart."""
    cells = grid([Swept(BLOCKS, ("1", "2")), Swept(OVERLAP, ("0", "0.05"))])
    names = [name_of(choices) for choices in cells]
    assert names == [f"num_blocks={blocks}_overlap={overlap}" for blocks in (1, 2) for overlap in ("0", "0.05")]
    assert short_keys(["a.lr", "b.lr", "b.c"]) == {"a.lr": "a.lr", "b.lr": "b.lr", "b.c": "c"}
    long = [name_of({"a": f"[{'1, ' * 50}{last}]"}) for last in (1, 2)]
    assert long[0] != long[1]
    assert all(len(name) < 120 and "/" not in name for name in (*long, name_of({"data.root": "/x/y"})))
    with pytest.raises(UserError, match="combinations"):
        grid([Swept(key, tuple("1234567")) for key in "abcd"])


def _row(name: str, value: float, choices: Mapping[str, str], **changes: Any) -> dict[str, Any]:
    result = {"validation": {"loss": value, "accuracy": 1 - value}, "test": {"loss": value + 1, "accuracy": 0.5}}
    facts = {"state": "finished", "seconds": 3.0, "peak_bytes": 1024}
    return {"name": name, "choices": {**choices}, **facts, **result, **changes}


@pytest.mark.parametrize(("metric", "best"), [("loss", "a"), ("accuracy", "a")])
def test_the_best_run_is_chosen_on_the_validation_split(metric: str, best: str) -> None:
    """Catches a choice by the test, in the wrong direction, or of a run that failed."""
    rows = [
        _row("b", 0.4, {BLOCKS: "2", OVERLAP: "0"}, test={"loss": 0.0, "accuracy": 1.0}),
        _row("a", 0.2, {BLOCKS: "1", OVERLAP: "0"}),
        _row("c", 0.1, {BLOCKS: "3", OVERLAP: "0"}, state="failed", reason="too large"),
    ]
    assert [row["name"] for row in ranked(rows, metric)] == [best, "b"]
    keys = {BLOCKS: "num_blocks", OVERLAP: "overlap"}
    sweep = {"name": "s", "metric": metric, "keys": keys, "study": False, "ranges": {}, "runs": rows}
    text = sweep_markdown(sweep)
    assert "a is the best of 2 runs on the validation split" in text
    assert "- c: failed (too large)" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:] == ["1", "2"]
    figure = sweep_figure(sweep)
    assert [axes.get_xlabel() for axes in figure.axes] == ["num_blocks", "overlap"]


def test_results_are_kept_for_the_same_config_alone(tmp_path: Path) -> None:
    """Catches results of two configs in one table, and a change of device that is taken for one."""
    config = {"run": {"name": "a"}, "trainer": {"max_steps": 4, "precision": "32", "devices": 1}, "ema": {"decay": 0.9}}
    config["trainer"] |= {"limit_train_batches": None, "overfit_batches": 0.0}
    cells = {"num_blocks=1": {BLOCKS: "1"}, "num_blocks=2": {BLOCKS: "2"}}

    def begun(config: dict[str, Any], ranges: dict[str, str] | None = None) -> SweepFile:
        file = SweepFile(tmp_path, [BLOCKS], "loss")
        file.begin(config, ranges or {}, cells)
        return file

    row = _row("num_blocks=1", 0.5, cells["num_blocks=1"])
    begun(config).add("num_blocks=1", cells["num_blocks=1"], row)
    again = begun(config | {"run": {"name": "b"}, "trainer": config["trainer"] | {"devices": 2}})
    assert (again.is_finished("num_blocks=1"), again.is_finished("num_blocks=2")) == (True, False)
    assert again.value_of("num_blocks=1") == 0.5
    assert read_json(tmp_path / "sweep.json")["best"] == "num_blocks=1"
    with pytest.raises(UserError, match=r"another config \(ema\.decay is 0\.99 here, 0\.9 there\)"):
        begun(config | {"ema": {"decay": 0.99}})
    with pytest.raises(UserError, match="another config"):
        begun(config, {BLOCKS: "1..4"})


@needs_optuna
def test_a_study_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Catches trials that are drawn twice or lost when a study is interrupted, and a sampler that learns nothing."""
    swept = [Swept("lr", (), 1e-4, 1e-2, log=True), Swept("n", (), 1, 9, whole=True), Swept("c", ("x", "y"))]

    def trials(path: Path, calls: list[int]) -> list[dict[str, str]]:
        found = []
        for number in calls:
            study = Study(path, swept, seed=0, higher=False)
            assert study.num_ended == len(found)
            study.next()  # a trial that is interrupted is the next one of the following call
            for _ in range(number):
                trial = study.next()
                found.append(trial.choices)
                study.tell(trial.number, None if trial.number == 1 else float(trial.choices["lr"]))
        return found

    whole = trials(tmp_path / "whole.log", [12])
    assert trials(tmp_path / "parts.log", [1, 3, 8]) == whole
    assert len({str(choices) for choices in whole}) == 12
    rates = [float(choices["lr"]) for choices in whole]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert sum(rates[-4:]) < sum(rates[:4])
    (tmp_path / "broken.log").write_text("nothing\n")
    with pytest.raises(UserError, match=r"broken\.log is damaged"):
        Study(tmp_path / "broken.log", swept, seed=0, higher=False)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (f"--set={BLOCKS}=1,5", "num_blocks (5) must be at most"),
        (f"--set={OVERLAP}=0,x", "contract.partition.overlap (x) must be a number"),
        (
            "--set=contract.partition.num_block=1,2",
            "num_block=1 is not known; did you mean --contract.partition.num_blocks?",
        ),
        ("--set=nothing.like=1", "--set nothing.like=1: --nothing.like=1 is not known"),
        ("--study=0", "--study (0) must be"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_trained(
    option: str, message: str, dbl: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a sweep that fails at its last run for what its first line said."""
    assert dbl("sweep", "digits_dit", option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(line) <= 205
    assert not (tmp_path / "runs").exists()


def test_a_sweep_trains_what_is_missing(dbl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a finished run that is trained again, a failed one that ends the sweep, and choices that are lost."""
    trained = list[str]()
    train = module.train_run

    def train_run(config: Any, launch: Any) -> None:
        trained.append(config.run.name)
        if len(trained) == 1:
            raise UserError("no room")
        train(config, launch)

    monkeypatch.setattr(module, "train_run", train_run)
    options = (f"--set={BLOCKS}=1,3", "--name=s", "--trainer.max_steps=2")
    assert dbl("sweep", "digits_dit", *options) == 1
    sweep = read_json(tmp_path / "runs/s/sweep.json")
    assert [(row["name"], row["state"]) for row in sweep["runs"]] == [
        ("num_blocks=1", "failed"),
        ("num_blocks=3", "finished"),
    ]
    assert sweep["best"] == "num_blocks=3"
    assert "loss" in sweep["runs"][1]["validation"]
    report = read_json(tmp_path / "runs/s/num_blocks=3/report/report.json")
    assert sweep["runs"][1]["test"]["loss"] == report["sides"][0]["quality"]["loss"]["mean"]
    assert (tmp_path / "runs/s/sweep.png").is_file()
    assert (tmp_path / "runs/s/num_blocks=3/block_2").is_dir()
    monkeypatch.setattr(module, "train_run", lambda *_: pytest.fail("trained again"))
    assert dbl("sweep", "digits_dit", f"--set={BLOCKS}=3", "--name=s", "--trainer.max_steps=2") == 0
    assert dbl("sweep", "digits_dit", *options, "--trainer.max_steps=3") == 2
