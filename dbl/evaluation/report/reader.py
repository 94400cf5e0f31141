"""The report of a run, read from its files: values, sections of text, and pictures, for a notebook."""

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt

from dbl.evaluation.report.pictures import figures_of
from dbl.evaluation.report.render import words_of
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, read_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report:
    """The report of a run that `dbl train` or `dbl compare` has written.

    Raises UserError if there is none, or its `report.json` is damaged.

    Args:
        folder: folder of the run, or of the report itself.

    Attributes:
        values: content of `report.json`; docs/report.md explains its keys.

    Example:
        >>> import dbl
        >>> report = dbl.Report("runs/digits_dit")  # doctest: +SKIP
        >>> report.values["sides"][0]["quality"]["fid_digits"]["mean"]  # doctest: +SKIP
        12.2
        >>> print(report.sections["Quality and cost"])  # doctest: +SKIP
        >>> report.figures()["loss_curves"]  # doctest: +SKIP
        >>> dbl.Report("runs/none")
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: runs/none has no report: dbl train writes one
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder)
        self.folder = path / "report" if (path / "report").is_dir() else path
        if not (self.folder / "report.json").is_file():
            raise UserError(f"{path} has no report: dbl train writes one")
        self.values: dict[str, Any] = read_json(self.folder / "report.json")
        if not isinstance(self.values, dict) or not isinstance(self.values.get("sides"), list):
            raise UserError(f"{self.folder / 'report.json'} is not a report: dbl train writes it anew")

    @cached_property
    def sections(self) -> dict[str, str]:
        """Heading -> Markdown below it, without the pictures; first what stands below the title, the name of the run.

        Raises UserError if there is no `report.md`.
        """
        text = read_text(self.folder / "report.md")
        tokens, lines = MarkdownIt("commonmark").parse(text), text.splitlines()
        for token in tokens:
            if token.map and token.children and {child.type for child in token.children} == {"image"}:
                lines[slice(*token.map)] = [""] * (token.map[1] - token.map[0])
        heads = [
            (token.map[0], title.content)
            for token, title in pairwise(tokens)
            if token.type == "heading_open" and token.map and token.tag in ("h1", "h2")
        ]
        ends = [*(start for start, _ in heads[1:]), len(lines)]
        bodies = ("\n".join(lines[start + 1 : end]) for (start, _), end in zip(heads, ends, strict=True))
        return {title: body.strip() for (_, title), body in zip(heads, bodies, strict=True)}

    def figures(self) -> "dict[str, Figure]":
        """The pictures, drawn anew, by their names: those under `pictures` of `report.json` that there can be.

        Raises UserError if `report.json` lacks what they show.
        """
        try:
            return figures_of(self.values, words_of(self.values))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            path, reason = self.folder / "report.json", f"{type(error).__name__} {str(error)[:40]}"
            raise UserError(f"{path} is damaged or of another version ({reason}): dbl train writes it anew") from None
