"""`docs/configuration.md` is what the code says now."""

import re
from pathlib import Path

import pytest

from dbl.denoising.targets import TokenTarget
from dbl.utils.errors import UserError
from docs.tables import Page
from docs.tables.parameters import parameters_of, parameters_of_class, parser_of

PATH = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(PATH.read_text(encoding="utf-8"))


def test_the_page_is_what_would_be_generated(page: Page) -> None:
    """Catches a key, a default or a meaning that was changed in the code alone."""
    stale = [line for line in page.generated.splitlines() if line not in PATH.read_text(encoding="utf-8").splitlines()]
    assert page.generated == PATH.read_text(encoding="utf-8"), f"run `make docs` and commit the page; it lacks {stale}"


def test_every_key_and_option_has_a_row(page: Page) -> None:
    """Catches a new group of keys or a new option that the page does not mention."""
    assert page.missing() == [], "add a mark for its table to docs/configuration.md, then run `make docs`"


def test_every_row_says_something(page: Page) -> None:
    """Catches an argument whose docstring has no line for it, and a meaning that only points to another class."""
    rows = [line for line in page.generated.splitlines() if line.startswith("| `") and line.count(" | ") >= 3]
    assert len(rows) > 150
    meanings = {row: row.rpartition(" | ")[2].removesuffix("|").strip() for row in rows}
    assert [row for row, meaning in meanings.items() if not meaning or meaning.startswith(("as in `", "see `"))] == []


def test_keys_in_the_prose_exist(page: Page) -> None:
    """Catches prose about a key that was renamed, such as those of the trainer, which have no table."""
    keys = {key.key for key in parameters_of(parser_of("train"))}
    groups = {key.split(".")[0] for key in keys}
    named = set(re.findall(r"`((?:\w+\.)+\w+)`", re.sub(r"^\|.*$", "", page.generated, flags=re.MULTILINE)))
    in_groups = {name for name in named if name.split(".")[0] in groups and "init_args" not in name}
    known = keys | {key.rpartition(".")[0] for key in keys} | {f"model.recipe.{name}" for name in ("optimizer", "lora")}
    assert "trainer.max_steps" in in_groups
    assert in_groups - known == set()


def test_a_stale_table_is_written_anew_and_the_prose_is_kept() -> None:
    """Catches a generator that repeats what stands there, or that touches what a person wrote."""
    old = "# Title\n\nProse.\n\n<!-- table: keys run -->\n\n| `run.nmae` |\n\n<!-- end -->\n\nMore.\n"
    new = Page(old).generated
    assert new.startswith("# Title\n\nProse.\n")
    assert new.endswith("<!-- end -->\n\nMore.\n")
    assert "| `run.name` | str | `run` | name of the run; its folder is `<root>/<name>`. " in new
    assert "nmae" not in new
    assert Page(new).generated == new
    assert "contract.seed" in Page(old).missing()


@pytest.mark.parametrize("mark", ["tables run", "keys rum"])
def test_a_mark_that_names_nothing_is_refused(mark: str) -> None:
    """Catches a misspelt mark that would silently leave an empty table."""
    with pytest.raises(UserError, match=mark.split()[1]):
        _ = Page(f"<!-- table: {mark} -->\n<!-- end -->\n").generated


def test_a_meaning_that_stands_in_another_class_is_fetched() -> None:
    """Catches references that are not followed to their end: TokenTarget points to a class that points to a third."""
    (weight,) = (found for found in parameters_of_class(TokenTarget) if found.key == "weight")
    assert weight.meaning.startswith("weight of the loss by level")
    assert (weight.type, weight.default) == ("`edm`, `uniform`", "`uniform`")


def test_what_follows_from_other_keys_is_no_key() -> None:
    """Catches links (paths of files, the contract) that are shown as if a user could set them."""
    keys = {key.key for key in parameters_of(parser_of("train"))}
    assert not keys & {"checkpoint.path", "memory.path", "model.contract", "help", "config", "print_config"}
    assert {"checkpoint.every_n_steps", "model.block", "contract.seed", "from_scratch"} <= keys
