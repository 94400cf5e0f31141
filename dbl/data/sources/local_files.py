"""Which local files make up the splits of a data set."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from dbl.utils.errors import UserError


def file_versions(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file: what tells one version of a file from the next without reading it."""
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def data_folder(data_dir: str | None) -> Path:
    """The folder that relative files start from: `data_dir`, else `$DBL_DATA` if that is set, else the current one."""
    return Path(data_dir or os.environ.get("DBL_DATA") or ".")


def name_of_files(pattern: str) -> str:
    """A name for people: of a file its own, without folder and ending; of a glob that of its folder, if it has one."""
    path = Path(pattern)
    return path.parent.name or "files" if set(path.name) & set("*?[") else path.stem


def find_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of the first pattern that matches any, sorted; none if no pattern does.

    Args:
        folder: folder that relative patterns start from.
        patterns: names of files or globs.
    """
    for pattern in patterns:
        path = (folder / pattern).absolute()
        if files := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            return files
    return []


def named_splits(train: str, validation: str | None, test: str | None) -> dict[str, str]:
    """Split -> its name in the source, without the splits that the source lacks (None).

    Raises UserError if two splits have the same name.
    """
    names = {"train": train, "validation": validation, "test": test}
    given = {split: name for split, name in names.items() if name is not None}
    if len(set(given.values())) < len(given):
        raise UserError(f"data.init_args: the names of the splits must differ, got {', '.join(given.values())}")
    return given


def files_of_splits(folder: Path, data_files: Mapping[str, str], splits: list[str]) -> dict[str, list[Path]]:
    """The files of each split that is needed, by the setting `data_files`: split -> file or glob.

    Relative patterns start from `folder`. Raises UserError if a split has no entry or no file, or two share a file.
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
    """Raise UserError if a file belongs to two splits; `key` is the setting that named the files."""
    # Resolved: links and `..` are other ways to the same file.
    resolved = {split: {file.resolve(): file for file in found} for split, found in files.items()}
    for one, other in combinations(resolved, 2):
        for shared in sorted(resolved[one].keys() & resolved[other].keys()):
            raise UserError(f"{key}: {resolved[one][shared]} belongs to split {one!r} and to {other!r}")


def local_copies(name: str, data_dir: str | None, splits: list[str], suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Local files of every split, `<split>.<suffix>` or `<split>-*.<suffix>` as on the hub.

    Args:
        name: name of the data set; its folder is looked for in `$DBL_DATA` where `data_dir` is None.
        data_dir: folder that must have the files of every split; UserError if it lacks one.
        splits: splits that are needed.
        suffixes: kinds of files, e.g. "parquet"; the first that a split has is taken.

    Returns:
        The files of each split; empty unless there are some for every split, lest a run mix two sources.
    """
    if data_dir is None and not os.environ.get("DBL_DATA"):
        return {}
    folder = Path(data_dir or Path(os.environ["DBL_DATA"], name))
    endings = [f"{shards}.{suffix}" for suffix in suffixes for shards in ("", "-*")]
    files = {split: find_files(folder, *(split + ending for ending in endings)) for split in splits}
    missing = [split for split in splits if not files[split]]
    if missing and data_dir is not None:
        raise UserError(f"data.init_args.data_dir: there is no file {folder / missing[0]}.{' or .'.join(suffixes)}")
    return {} if missing else files
