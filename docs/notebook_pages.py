"""`python -m docs.notebook_pages FOLDER PAGES`: executed notebooks as Markdown pages with pictures, for reading only.

GitHub shows such a page as it is; the notebooks themselves are stored without outputs. Left out is what is of no use on
a page or differs between machines: sliders, warnings, names of temporary folders. Pictures get a palette, which makes
them a third of their size.
"""

import re
import shutil
import sys
from io import BytesIO
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from PIL import Image

from dbl.utils.files import write_text

_WIDGET = "application/vnd.jupyter.widget-view+json"
_TEMPORARY = re.compile(r"(?:/[\w.-]+)+/(dbl_)\w{8}\b")  # as `tempfile` names folders
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_NOTE = """*[{name}](../../notebooks/{name}) after it ran, as `make pages` writes it. Sliders work in Jupyter only;
times are those of one machine.*"""


def page_of(notebook: NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of an executed notebook, and its pictures by their paths relative to the page.

    Args:
        notebook: with outputs; it is changed.
        name: file name of the notebook.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output)]
            for data in (output.data for output in cell.outputs if "data" in output):
                data.pop("image/jpeg", None)  # Pillow offers it beside the PNG
                if "text/plain" in data:  # of a table that rich has coloured
                    data.pop("text/html", None)
                    data["text/plain"] = _COLOUR.sub("", data["text/plain"])
    stem = Path(name).stem
    resources = {"unique_key": stem, "output_files_dir": stem}
    text, found = MarkdownExporter().from_notebook_node(notebook, resources)
    pictures = {path: _small(content) for path, content in found["outputs"].items()}
    title, _, body = text.strip().partition("\n")
    # Code and its printed lines are left as they are, but for temporary folders.
    pieces = _FENCE.split(_TEMPORARY.sub(r"/tmp/\1folder", body))
    body = "".join(piece if number % 2 else _prose(piece) for number, piece in enumerate(pieces))
    return f"{title}\n\n{_NOTE.format(name=name)}\n{body.rstrip()}\n", pictures


def _prose(text: str) -> str:
    """What stands between two pieces of code, with links from the folder of the pages."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return _LINK.sub(_moved, re.sub(r"\n{3,}", "\n\n", lines)).replace("![png](", "![output](")


def _is_shown(output: NotebookNode) -> bool:
    return output.get("name") != "stderr" and _WIDGET not in output.get("data", {})


def _moved(link: re.Match[str]) -> str:
    """A link of a notebook, from the folder of the pages; to another notebook, it leads to its page."""
    path, mark, anchor = link[2].partition("#")
    if path.endswith(".ipynb") and "/" not in path:
        path = f"{Path(path).stem}.md"
    return f"{link[1]}{path.replace('../docs/', '../')}{mark}{anchor}{link[3]}"


def _small(content: bytes) -> bytes:
    """A picture with a palette of 128 colours, if that is smaller."""
    picture = BytesIO()
    flat = Image.open(BytesIO(content)).convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat).convert("RGB")
    white.quantize(128, dither=Image.Dither.NONE).save(picture, format="PNG", optimize=True)
    return min(content, picture.getvalue(), key=len)


def write_pages(folder: Path, pages: Path) -> None:
    """Write a page for each executed notebook in `folder`; pictures of an earlier one are removed."""
    for path in sorted(folder.glob("*.ipynb")):
        text, pictures = page_of(nbformat.read(path, as_version=4), path.name)
        shutil.rmtree(pages / path.stem, ignore_errors=True)
        for place, content in pictures.items():
            (pages / place).parent.mkdir(parents=True, exist_ok=True)
            (pages / place).write_bytes(content)
        write_text(pages / f"{path.stem}.md", text)
        print(f"{pages / path.stem}.md: written, {sum(map(len, pictures.values())) / 1024:.0f} KiB of pictures")


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    write_pages(source, target)
