"""Text from configs and files inside Markdown."""

import re


def plain(name: str) -> str:
    """A name without effect as Markdown; underscores inside words have none anyway."""
    return re.sub(r"([\\`*\[\]<>|&]|\b_|_\b)", r"\\\1", " ".join(name.split()))
