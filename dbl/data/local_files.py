"""Which local files make up the splits of a data set."""

import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from dbl.utils.errors import UserError


def find_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of the first pattern that has any, sorted; none if no pattern has.

    Args:
        folder: that relative patterns start from.
        patterns: names of files or globs.
    """
    for pattern in patterns:
        path = (folder / pattern).absolute()
        if files := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            return files
    return []


def files_of_splits(folder: Path, data_files: Mapping[str, str], splits: list[str]) -> dict[str, list[Path]]:
    """The files of each split as the setting `data_files` names them.

    Args:
        folder: that relative patterns start from.
        data_files: split -> file or glob.
        splits: that are wanted.

    Raises:
        UserError: if a split has no entry or no file, or two splits share a file.
    """
    files: dict[str, list[Path]] = {}
    for split in splits:
        if split not in data_files:
            raise UserError(f"data.init_args.data_files has no entry for split {split!r}, only {', '.join(data_files)}")
        files[split] = find_files(folder, data_files[split])
        if not files[split]:
            raise UserError(f"data.init_args.data_files: there is no file {folder / data_files[split]}")
    check_disjoint(files, "data.init_args.data_files")
    return files


def check_disjoint(files: Mapping[str, list[Path]], key: str) -> None:
    """Check that no file belongs to two splits.

    Args:
        files: of each split.
        key: of the setting that named them.

    Raises:
        UserError: naming a file that does.
    """
    for one, other in combinations(files, 2):
        for shared in sorted(set(files[one]) & set(files[other])):
            raise UserError(f"{key}: {shared} belongs to split {one!r} and to {other!r}")


def local_copies(
    name: str, data_dir: str | None, splits: list[str], suffixes: tuple[str, ...]
) -> dict[str, list[Path]]:
    """Local files of every split, `<split>.<suffix>` or `<split>-*.<suffix>` as on the hub.

    Args:
        name: of the data set; its folder is looked for in `$DBL_DATA` where `data_dir` is None.
        data_dir: folder that must have the files.
        splits: that are wanted.
        suffixes: kinds of files, e.g. "parquet"; the first that a split has is taken.

    Returns:
        The files of each split; empty unless there are some for every split, so that no run mixes two sources.

    Raises:
        UserError: if `data_dir` lacks a split.
    """
    if data_dir is None and not os.environ.get("DBL_DATA"):
        return {}
    folder = Path(data_dir or Path(os.environ["DBL_DATA"], name))
    patterns = ("{}.{}", "{}-*.{}")
    files = {
        split: find_files(folder, *(pattern.format(split, suffix) for suffix in suffixes for pattern in patterns))
        for split in splits
    }
    missing = [split for split in splits if not files[split]]
    if missing and data_dir is not None:
        kinds = " or .".join(suffixes)
        raise UserError(f"data.init_args.data_dir: there is no file {folder / missing[0]}.{kinds}")
    return {} if missing else files
