"""Small data of a user, as files: images in class folders, texts in a table, and rows of numbers."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, classes: tuple[str, ...] = ("cats", "dogs"), number: int = 40, size: int = 12) -> None:
    """Write `number` noisy colour images of each class, `size` x `size` pixels, half as PNG and half as JPEG."""
    draws = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            pixels = draws.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03}.{'jpg' if index % 2 else 'png'}")


def write_texts(file: Path, number: int = 100) -> None:
    """Write a CSV file with the columns `id` and `text`."""
    rows = [f'{index},"This is review {index}, and it has a comma."' for index in range(number)]
    file.write_text("\n".join(["id,text", *rows]) + "\n", encoding="utf-8")


def write_rows(file: Path, number: int = 90) -> None:
    """Write a CSV file with the columns `height`, `width` and `kind`, which is one of three."""
    rows = [f"{index},{index * 0.5},{'abc'[index % 3]}" for index in range(number)]
    file.write_text("\n".join(["height,width,kind", *rows]) + "\n", encoding="utf-8")
