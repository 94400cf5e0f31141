"""The report: spread over seeds, quality against steps, and a text that explains what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from dbl.evaluation.quality_by_steps import step_numbers
from dbl.evaluation.report import Report
from dbl.evaluation.report.arm import Arm, peak_of, spread, summarise
from dbl.evaluation.report.render import words_of
from dbl.utils.errors import DblWarning

from .conftest import Run


def _arm(accuracy: float, **changes: Any) -> Arm:
    part = {"part": "block_0", "layers": 4, "steps": 10, "samples": 640, "seconds": 3.0, "parameters": 100}
    part |= {"layer_passes": 2560.0, "sigma_high": 2.0, "sigma_low": 0.1, "step_seconds": 0.25}
    test = {"test/accuracy_draw_0": accuracy, "test/accuracy_draw_1": accuracy + 0.1, "test/nats_block_0": 0.5}
    return Arm(
        **{
            "name": "blocks",
            "parts": [part, part | {"layers": 8, "layer_passes": 5120.0}],
            "calls": [1, 2],
            "test": test,
        }
        | changes
    )


def test_seeds_give_mean_and_range_and_never_the_best() -> None:
    """Catches a report of the best seed, and a mean over the wrong axis."""
    found = summarise([_arm(0.5), _arm(0.7)])
    assert found["quality"].keys() == {"accuracy"}
    accuracy = found["quality"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.65)
    assert (accuracy["min"], accuracy["max"], accuracy["over"]) == (
        pytest.approx(0.55),
        pytest.approx(0.75),
        "training seeds",
    )
    assert found["layer_passes"] == 640 * 12
    assert found["seconds"] == 6
    assert found["seconds_at_median_speed"] == 5  # two parts of ten steps


@pytest.mark.parametrize("name", ["fid_quickdraw", "fid_blocks", "kid_prior"])
def test_a_metric_is_kept_whatever_the_data_set_is_called(name: str) -> None:
    """Catches a metric that is taken for a detail of another because of its data set's name."""
    assert _arm(0.5, test={f"test/{name}": 1.0}).quality() == {name: 1.0}


def test_the_memory_of_a_compiled_network_is_what_the_gpu_says() -> None:
    """Catches a measured figure that is called not measured."""
    memory = {"peak_bytes": None, "bytes": None, "cuda": {"allocated_bytes": 7, "reserved_bytes": 9}}
    assert _arm(0.5, memory=[memory, memory]).largest_memory() == memory
    assert peak_of(memory) == 7


def test_several_draws_of_one_seed_are_shown_as_such() -> None:
    """Catches start noises that are reported as if they were trainings."""
    quality = {"metrics": {"fid_digits": [2.0, 4.0]}}
    found = summarise([_arm(0.5, test={"test/fid_digits": 3.0}, image_quality=quality)])
    assert found["quality"]["fid_digits"] == spread([2.0, 4.0], "start noises")


def test_memory_is_that_of_the_part_that_needs_most() -> None:
    """Catches a mean over blocks, and a figure for some blocks that is taken for all."""
    memory = [{"peak_bytes": 5}, {"peak_bytes": 9}]
    assert _arm(0.5, memory=memory).largest_memory() == {"peak_bytes": 9}
    assert _arm(0.5, memory=[None, {"peak_bytes": 9}]).largest_memory() is None


@pytest.mark.parametrize(
    ("blocks", "steps", "expected"),
    [(3, 50, [1, 3, 6, 12, 24, 48]), (3, 3, [1, 3, 6, 12]), (1, 4, [1, 2, 4]), (4, 20, [1, 4, 8, 16])],
)
def test_numbers_of_steps_double(blocks: int, steps: int, expected: list[int]) -> None:
    """Catches a list that leaves out one call a block, or that never ends."""
    assert step_numbers(blocks, steps) == expected


def test_compare_over_seeds_is_one_report(dbl: Run) -> None:
    """Catches seeds that are all the same training, and a report that drops one."""
    assert dbl("compare", "digits_vit", "--contract.network.mlp_width=32", "--seeds=1,2") == 0
    report = json.loads(Path("runs/digits_vit/report/report.json").read_text())
    assert report["seeds"] == [1, 2]
    for arm in report["sides"]:
        assert len(set(arm["quality"]["nats"]["values"])) == 2
        assert arm["memory"]["peak_bytes"] == sum(arm["memory"]["bytes"].values())
    blocks, whole, _ = report["sides"]
    assert blocks["layer_passes"] == whole["layer_passes"] == 4 * 32 * 3
    assert [row["steps"] for row in blocks["quality_by_steps"]] == [1, 3, 6, 12]
    assert len(blocks["likelihood"]["blocks"]) == 3
    parts = [blocks["likelihood"][name] for name in ("prior", "reconstruction")]
    parts += [block["nats"] for block in blocks["likelihood"]["blocks"]]
    assert blocks["likelihood"]["nats"] == pytest.approx(sum(parts), rel=1e-4)
    for picture in ("memory", "quality_vs_steps", "likelihood", "loss_over_sigma"):
        assert Path("runs/digits_vit/report", report["pictures"][picture]).is_file()
    text = Path("runs/digits_vit/report/report.md").read_text()
    page = Path("runs/digits_vit/report/report.html").read_text()
    assert page.count('src="data:image/png;base64,') == text.count("![") == 5
    assert "training seeds 1, 2" in text
    assert "nats by block" in text


def test_every_metric_of_a_report_is_explained(dbl: Run) -> None:
    """Catches a figure without a word on what it is, and links to pictures that are not there."""
    assert dbl("train", "digits_dit") == 0
    report = json.loads(Path("runs/digits_dit/report/report.json").read_text())
    text = Path("runs/digits_dit/report/report.md").read_text()
    for name in report["sides"][0]["quality"]:
        assert f"- *{words_of(report).metric(name).partition(' (')[0]}*:" in text
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    files = [link for link in links if not link.startswith("https://")]
    assert files
    assert [file for file in files if not Path("runs/digits_dit/report", file).is_file()] == []


def test_bad_seeds_are_one_line(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback for a list that is none."""
    assert dbl("compare", "digits_dit", "--seeds=a,b") == 2
    assert "--seeds a,b must be whole numbers" in capsys.readouterr().err


def test_image_quality_is_checked_before_training(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches hours of training that end in an error that was known at the start."""
    options = ["--image_quality.features=in_domain", "--image_quality.num_images=10"]
    assert dbl("train", "digits_dit", *options) == 2
    assert "image_quality.num_images: 10 images are too few" in capsys.readouterr().err
    assert not Path("runs/digits_dit/block_0").exists()


def test_the_report_counts_the_images_of_the_training_not_of_the_last_call(dbl: Run) -> None:
    """Catches a second call whose settings are reported for a training that was over before."""
    assert dbl("train", "digits_dit") == 0
    assert dbl("train", "digits_dit", "--data.init_args.batch_size=64") == 0
    report = json.loads(Path("runs/digits_dit/report/report.json").read_text())
    assert [part["samples"] for part in report["sides"][0]["parts"]] == [4 * 32] * 3
    assert "batch_size: 32" in Path("runs/digits_dit/block_0/config.yaml").read_text()


def test_compare_refuses_unequal_numbers_of_images(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a comparison at equal steps that is not one at equal compute."""
    assert dbl("fit", "digits_dit", "--data.init_args.batch_size=64") == 0
    assert dbl("compare", "digits_dit") == 2
    assert "blocks: 512, end_to_end: 384" in capsys.readouterr().err


def test_guidance_counts_twice(dbl: Run) -> None:
    """Catches a cost that leaves out the calls without a class."""
    assert dbl("train", "digits_dit", "--inference.sampler.guidance_scale=2") == 0
    report = json.loads(Path("runs/digits_dit/report/report.json").read_text())
    assert sum(report["sides"][0]["calls"]) == 2 * 24


def test_a_part_of_the_test_split_is_not_reported_as_the_whole(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches figures of a few images under the number of all of them."""
    assert dbl("train", "digits_dit", "--trainer.limit_test_batches=1") == 2
    assert "trainer.limit_test_batches" in capsys.readouterr().err


def test_a_training_reports_curves_steps_and_the_memory_of_the_whole_network(dbl: Run) -> None:
    """Catches what only a comparison would measure, and curves without points."""
    options = ("--trainer.log_every_n_steps=2", "--inference.draws=1")
    assert dbl("train", "digits_vit", *options) == 0
    report = json.loads(Path("runs/digits_vit/report/report.json").read_text())
    assert [row["steps"] for row in report["sides"][0]["quality_by_steps"]] == [1, 3, 6, 12]
    peaks = {row["name"]: row["peak_bytes"] for row in report["memory_plan"]["rows"]}
    assert peaks["3 blocks"] < peaks["end to end"]
    reread = Report("runs/digits_vit")
    assert reread.figures().keys() == reread.values["pictures"].keys() >= {"loss_curves", "memory", "quality_vs_steps"}
    for part in report["sides"][0]["parts"]:
        assert {name: [point["step"] for point in points] for name, points in part["losses"].items()} == {
            "train": [2, 4],
            "validation": [2, 4],
        }
        assert part["step_seconds"] > 0
    assert {"loss_curves", "quality_vs_steps", "memory"} <= report["pictures"].keys()
    assert dbl("train", "digits_vit", *options, "--image_quality.by_steps=false") == 0
    report = json.loads(Path("runs/digits_vit/report/report.json").read_text())
    assert report["sides"][0]["quality_by_steps"] == []


def test_a_network_that_cannot_be_planned_still_has_a_report(dbl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a trained run whose report is lost because its memory cannot be planned."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no fake tensors here")

    monkeypatch.setattr("dbl.commands.memory_plan.plan_rows", fail)
    with pytest.warns(DblWarning, match="the report lacks it: no fake tensors here"):
        assert dbl("train", "digits_vit", "--image_quality.by_steps=false") == 0
    assert json.loads(Path("runs/digits_vit/report/report.json").read_text())["memory_plan"] is None
