"""The table of results in README and docs/results.md, and the raw reports behind it."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import KEPT, PAGES, TASKS, table, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_page_shows_what_the_reports_say(page: Path) -> None:
    """Catches a figure that was typed, and a report that was exchanged without the pages."""
    text = page.read_text(encoding="utf-8")
    assert "<!-- results -->" in text
    assert with_tables(text, KEPT) == text, "run `make results ARGS=--tables`"


def test_a_row_has_all_its_arms(tmp_path: Path) -> None:
    """Catches a row with an empty cell, and a report that is not tracked: its row would be gone."""
    assert len(table(KEPT)) >= 3 + 4
    for folder in KEPT.glob("digits_dit_1000_share_0_*"):
        shutil.copytree(folder, tmp_path / folder.name)
    assert len(table(tmp_path)) == 3


def test_a_changed_report_changes_the_table(tmp_path: Path) -> None:
    """Catches a table that does not follow from the reports: one seed is worse by one, hence the mean by a third."""
    for folder in KEPT.glob("digits_dit_1000_share_*"):
        shutil.copytree(folder, tmp_path / folder.name)
    report = tmp_path / "digits_dit_1000_share_0_seed_0" / "report.json"
    content = json.loads(report.read_text())
    arm = next(arm for arm in content["sides"] if arm["name"] == "end_to_end")
    before = _whole(tmp_path)
    for row in arm["quality_by_steps"]:
        row["metrics"]["fid_digits"]["mean"] += 1
    report.write_text(json.dumps(content))
    assert _whole(tmp_path) == pytest.approx(before + 1 / 3, abs=2e-3)


def _whole(kept: Path) -> float:
    line = next(line for line in table(kept) if line.startswith("| digits DiT, FID"))
    return float(line.split("|")[2].split()[0])


def test_what_is_run_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a task that trains other seeds or shares than it says, and a report that stays in the run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "KEPT", tmp_path / "kept")
    asked = []

    def fake(trial: results.Trial, extra: list[str]) -> dict[str, object]:
        asked.append((trial.name, extra))
        if trial.seed == 1:
            return {"exit_code": 2}
        (results.ROOT / trial.name / "report").mkdir(parents=True)
        (results.ROOT / trial.name / "report" / "report.json").write_text(trial.name)
        return {}

    monkeypatch.setattr(results, "result", fake)
    failed = results.run(TASKS[3], [0, 1])
    names = [f"shakespeare_mdm_600_share_{share}_seed_{seed}" for seed in (0, 1) for share in ("0.5", "0")]
    assert asked == [(name, ["--text_quality.num_texts=0"]) for name in names]
    assert failed == [f"runs/starts/{name}" for name in names[2:]]
    assert [path.parent.name for path in sorted((tmp_path / "kept").glob("*/report.json"))] == sorted(names[:2])


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a typing error that trains nothing and says nothing."""
    with pytest.raises(SystemExit) as end:
        results.main(["digits_dti"])
    assert end.value.code == 2
    assert "no task digits_dti: give some of digits_dit" in capsys.readouterr().err
