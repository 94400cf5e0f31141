"""A local folder in the place of the Hugging Face hub: what the functions of huggingface_hub do that `dbl` calls."""

import json
import shutil
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects


def _error(kind: type[HfHubHTTPError], status: int, text: str) -> HfHubHTTPError:
    """An error of the hub with its status code, made without the HTTP library, which differs between versions."""
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


class LocalHub:
    """A folder for each repository with its commits; a commit is a folder of all files, and who made it.

    Attributes:
        user: account of who calls.
        writers: repository -> accounts that may write to it, beside its owner.
        private: repository -> whether only its owner may read it.
        tags: name of a revision -> its commit.
        asked: repositories and revisions that were downloaded from.
        downloads: files that were downloaded.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user = "ada"
        self.writers: dict[str, set[str]] = {}
        self.private: dict[str, bool] = {}
        self.tags: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.downloads: list[str] = []

    def _commits(self, repo_id: str) -> list[dict[str, Any]]:
        path = self.root / repo_id / "commits.json"
        if not path.is_file():
            raise _error(RepositoryNotFoundError, 404, f"404 Client Error: {repo_id} not found")
        commits: list[dict[str, Any]] = json.loads(path.read_text())
        return commits

    def folder(self, repo_id: str, revision: str | None = None) -> Path:
        """The files of a commit, the last by default."""
        commits = self._commits(repo_id)
        return self.root / repo_id / (self.tags.get(revision, revision) if revision else commits[-1]["id"])

    def _may_write(self, repo_id: str) -> bool:
        return repo_id.partition("/")[0] == self.user or self.user in self.writers.get(repo_id, set())

    def create_repo(self, repo_id: str, *, private: bool = False, exist_ok: bool = False) -> str:
        assert exist_ok
        if not (self.root / repo_id).is_dir():
            if not self._may_write(repo_id):
                raise _error(HfHubHTTPError, 403, "403 Forbidden: you don't have the rights to create a model")
            self.private[repo_id] = private
            (self.root / repo_id).mkdir(parents=True)
            self._append(repo_id, "initial commit", [], {})
        return f"https://hub/{repo_id}"

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(sha=self._commits(repo_id)[-1]["id"], private=self.private.get(repo_id, False))

    def list_repo_tree(self, repo_id: str, *, recursive: bool, revision: str | None) -> Iterable[SimpleNamespace]:
        assert recursive
        folder = self.folder(repo_id, revision)
        for path in sorted(folder.rglob("*")):
            facts = {"path": path.relative_to(folder).as_posix()}
            yield SimpleNamespace(**facts, **({"size": path.stat().st_size} if path.is_file() else {}))

    def list_repo_commits(self, repo_id: str, *, revision: str | None) -> list[SimpleNamespace]:
        return [SimpleNamespace(commit_id=one["id"], authors=one["authors"]) for one in self._commits(repo_id)]

    def get_paths_info(
        self, repo_id: str, paths: list[str], *, expand: bool, revision: str | None
    ) -> list[SimpleNamespace]:
        assert expand
        commits = self._commits(repo_id)
        last = {path: one["id"] for one in commits for path in one["changed"]}
        return [SimpleNamespace(path=path, last_commit=SimpleNamespace(oid=last[path])) for path in paths]

    def create_commit(
        self,
        repo_id: str,
        operations: list[Any],
        *,
        commit_message: str,
        create_pr: bool = False,
        parent_commit: str | None = None,
    ) -> SimpleNamespace:
        """A commit, or a pull request, which waits for `merge`."""
        if not create_pr and not self._may_write(repo_id):
            raise _error(HfHubHTTPError, 403, "403 Forbidden: pass `create_pr=1` as a query parameter to create a PR")
        if not create_pr and parent_commit not in (None, self._commits(repo_id)[-1]["id"]):
            raise _error(HfHubHTTPError, 412, "412 Precondition Failed: a commit has happened since")
        contents = {one.path_in_repo: one.path_or_fileobj for one in operations}
        files = {
            name: content if isinstance(content, bytes) else Path(content).read_bytes()
            for name, content in contents.items()
        }
        self._waiting = (repo_id, commit_message, [self.user], files)
        if create_pr:
            return SimpleNamespace(pr_url=f"https://hub/{repo_id}/discussions/1", repo_url=None)
        self._append(*self._waiting)
        return SimpleNamespace(pr_url=None, repo_url=f"https://hub/{repo_id}")

    def upload_folder(
        self, *, repo_id: str, folder_path: str, allow_patterns: list[str], delete_patterns: list[str]
    ) -> None:
        """A commit of the files of a folder; of those that are there, the ones to delete are left out."""
        there, ours = (_files(one) for one in (self.folder(repo_id), Path(folder_path)))
        removed = list(filter_repo_objects(there, allow_patterns=delete_patterns))
        chosen = filter_repo_objects(ours, allow_patterns=allow_patterns)
        files = {name: (Path(folder_path) / name).read_bytes() for name in chosen}
        self._append(repo_id, "upload", [self.user], files, removed)

    def upload_file(self, *, path_or_fileobj: bytes, path_in_repo: str, repo_id: str) -> None:
        self._append(repo_id, "upload", [self.user], {path_in_repo: path_or_fileobj})

    def merge(self) -> None:
        """Accept the pull request."""
        self._append(*self._waiting)

    def put(self, repo_id: str, files: dict[str, bytes]) -> None:
        """Commit files past all checks, as anybody may do by other means than `dbl`."""
        self._append(repo_id, "by hand", [self.user], files)

    def _append(
        self, repo_id: str, title: str, authors: list[str], files: dict[str, bytes], removed: Iterable[str] = ()
    ) -> None:
        path = self.root / repo_id / "commits.json"
        commits = json.loads(path.read_text()) if path.is_file() else []
        number = sha1(f"{repo_id} {len(commits)}".encode()).hexdigest()
        folder = self.root / repo_id / number
        shutil.copytree(self.root / repo_id / commits[-1]["id"], folder) if commits else folder.mkdir()
        for name in removed:
            (folder / name).unlink()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        commits.append({"id": number, "title": title, "authors": authors, "changed": list(files)})
        path.write_text(json.dumps(commits))

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: list[str],
        ignore_patterns: list[str] | None = None,
    ) -> str:
        """Links to blobs of the same repository, as in the cache of huggingface_hub."""
        self.asked.append((repo_id, revision))
        source = self.folder(repo_id, revision)
        cache = self.root / "cache" / f"models--{repo_id.replace('/', '--')}"
        snapshot = cache / "snapshots" / source.name
        for name in filter_repo_objects(_files(source), allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            self.downloads.append(name)
            blob = cache / "blobs" / sha1((source / name).read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, blob)
            (snapshot / name).unlink(missing_ok=True)
            (snapshot / name).symlink_to(blob)
        return str(snapshot)


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def install(hub: LocalHub, patch: pytest.MonkeyPatch) -> None:
    """Put it in the place of what `dbl` calls."""

    class Api:  # a class: other libraries annotate with it when they are imported
        def __new__(cls) -> LocalHub:  # type: ignore[misc]
            return hub

    patch.setattr(huggingface_hub, "HfApi", Api)
    patch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
