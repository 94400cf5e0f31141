"""Reading a report back: its sections and pictures."""

from pathlib import Path

import pytest

from dbl.evaluation.report import Report
from dbl.utils.errors import UserError, one_line

_RESULTS = Path(__file__).parents[2] / "docs" / "results"
_PAGE = """# small

A ViT.

## Samples

**blocks**

````text
## Memory

```
![no picture](of/a_text.png)
````

![samples](samples.png)

## Memory

| a | b |
| --- | ---: |
| 1 | 2 |

![memory](memory.png)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the report of another run, and a page in which a generated text looks like Markdown."""
    (tmp_path / "report").mkdir()
    stored = (_RESULTS / "digits_vit" / "report.json").read_text()
    (tmp_path / "report" / "report.json").write_text(stored)
    (tmp_path / "report" / "report.md").write_text(_PAGE)
    return tmp_path


def test_a_section_is_the_text_below_its_heading_without_pictures(run: Path) -> None:
    """Catches a generated text that begins a section, links to files that are elsewhere, and text that is lost."""
    sections = Report(run).sections
    assert list(sections) == ["small", "Samples", "Memory"]
    assert sections["small"] == "A ViT."
    assert sections["Samples"].startswith("**blocks**\n\n````text\n## Memory\n")
    assert sections["Samples"].endswith("![no picture](of/a_text.png)\n````")
    assert sections["Memory"] == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_a_report_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Catches a traceback where a run was never finished."""
    with pytest.raises(UserError, match="has no report: dbl train writes one"):
        Report(tmp_path)


@pytest.mark.parametrize("damage", ["[]", "{}", '{"sides": 3}'])
def test_what_is_no_report_is_one_line(run: Path, damage: str) -> None:
    """Catches a traceback for a file of another kind."""
    (run / "report" / "report.json").write_text(damage)
    with pytest.raises(UserError, match="is not a report"):
        Report(run)


def test_a_report_without_what_a_picture_shows_is_one_line(run: Path) -> None:
    """Catches a traceback for the report of another version of dbl, and a refusal of what can be read."""
    report = Report(run / "report")
    assert report.values["sides"][0]["name"] == "blocks"
    for key in ("ancestors", "data"):
        report.values.pop(key, None)
        with pytest.raises(UserError, match=f"{key}.*dbl train writes it anew") as error:
            report.figures()
        assert str(error.value) == one_line(error.value)
