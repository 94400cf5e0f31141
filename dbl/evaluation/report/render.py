"""From `report.json` to Markdown by the templates, and from Markdown to a page that needs no other file."""

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.environment import TemplateModule
from markdown_it import MarkdownIt
from markupsafe import Markup

from dbl.evaluation.report.facts import facts_of, task_of
from dbl.evaluation.report.formatting import FILTERS


@cache
def environment() -> Environment:
    """The environment of the templates, in which a missing variable is an error."""
    found = Environment(
        loader=PackageLoader("dbl.evaluation.report"),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= FILTERS
    return found


def words_of(report: Mapping[str, Any]) -> TemplateModule:
    """The nouns and names for the task of a report: variables and macros of `words.j2`."""
    tokenizer = report["data"]["tokenizer"]
    return environment().get_template("words.j2").make_module({"task": task_of(report), "tokenizer": tokenizer})


def markdown(report: Mapping[str, Any]) -> str:
    """The text of `report.md`, by the template of the report's task."""
    words = words_of(report)
    template = environment().get_template(f"{task_of(report)}.md.j2")
    return unwrap(template.render(facts_of(report, words), words=words))


def unwrap(text: str) -> str:
    """Markdown with one line for each paragraph and list item and at most one blank line; code blocks stay."""
    lines, fence = [""], ""
    for line in text.split("\n"):
        if fence:  # inside a code block
            lines.append(line)
            fence = "" if line == fence else fence
        elif opening := re.fullmatch("(```+)text", line):
            lines.append(line)
            fence = opening[1]
        elif not (words := line.strip() if line.startswith("|") else " ".join(line.split())):
            lines += [""] * (lines[-1] != "")
        elif lines[-1] and not words.startswith(("|", "#", "- ")) and not lines[-1].startswith(("|", "#", "```")):
            # A paragraph or list item goes on.
            lines[-1] += f" {words}"
        else:
            if words.startswith("#") and lines[-1]:
                lines.append("")
            # No blank line between two list items, even where a statement of the template stood between them.
            elif words.startswith("- ") and not lines[-1] and lines[-2:-1] and lines[-2].startswith("- "):
                lines.pop()
            lines.append(words)
    return "\n".join(lines).strip("\n") + "\n"


def html(text: str, title: str, folder: Path) -> str:
    """A self-contained page: pictures are embedded, and HTML in the text is escaped.

    Args:
        text: Markdown.
        title: title of the page.
        folder: folder that the links to pictures are relative to.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table">\n<table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    tokens = parser.parse(text)
    for image in (child for token in tokens for child in token.children or [] if child.type == "image"):
        picture = folder / str(image.attrs["src"])
        if picture.is_file():
            image.attrs["src"] = f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"
    body = Markup(parser.renderer.render(tokens, parser.options, {}))
    return environment().get_template("page.html.j2").render(title=title, body=body)
