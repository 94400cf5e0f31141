"""A run on the Hugging Face hub: its contract, how its blocks are trained, and those that are there, each in one file.

README.md
run/          contract.json  training.json  table.safetensors  tokenizer.json  block_<b>.safetensors
run/<start>/model/   the model from which its blocks start; see `run/folder.py`

All of it is data from elsewhere: files of other names are not downloaded, and nothing is imported for what they hold.
"""

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from dbl.data.spec import TextSpec
from dbl.run.assembly import MissingBlock, PartCheckpoint, checked_part
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.hub.block_file import read_block_file
from dbl.run.hub.library import RUN, check_repo_id, hub_library, reaching
from dbl.run.hub.shared_training import SharedTraining
from dbl.run.model_config import Weights, check_inside
from dbl.run.model_folder import is_model_file, network_bytes
from dbl.run.start import Ancestor, Pretrained
from dbl.run.start_weights import start_model
from dbl.run.stored_tokenizer import tokenizer_in
from dbl.utils.errors import UserError, one_line
from dbl.utils.files import read_json, read_tensor, require_file, temporary_folder, write_json

_BLOCK = re.compile(r"block_(0|[1-9]\d{0,8})\.safetensors", re.ASCII)
_NAMES = ("contract.json", "training.json", "table.safetensors", "tokenizer.json")
_STARTS = (Ancestor.folder, Pretrained.folder)
_LARGEST_TEXT = 2**28  # bytes, of JSON
_LARGEST_TABLE = 2**32  # bytes
_HEADER = 2**24  # bytes that a safetensors file may have beside its tensors


class HubRun:
    """A run on the hub, as it was at one commit. Raises UserError if there is none, or its contract is not whole.

    Args:
        repo_id: repository `owner/name`.
        trusted: packages of your own that its contract may import; see `BlockStack.from_pretrained`.

    Attributes:
        revision: the commit.
        contract: contract of the run.
        training: settings of the training of its blocks.
    """

    def __init__(self, repo_id: str, trusted: Collection[str] = ()) -> None:
        check_repo_id(repo_id)
        self.repo_id = repo_id
        self._trusted = trusted
        self._library = hub_library()
        with reaching(f"the run {repo_id} could not be read from the hub"):
            api = self._library.HfApi()
            self.revision = str(api.model_info(repo_id).sha)
            self._sizes = _sizes(api, repo_id, self.revision)
        if "contract.json" not in self._sizes:
            raise UserError(
                f"{repo_id} holds no run (no {RUN}/contract.json): put one there with dbl push RUN {repo_id}"
            )
        self.contract = self._read_contract()
        with self._file("training.json") as path:
            self.training = SharedTraining.restore(read_json(path), self.contract, str(path))
        self.steps = self.training.steps(self.contract)

    def shown(self, name: str) -> Path:
        """Name of a file of the run in messages."""
        return Path(self.repo_id, RUN, name)

    def _read_contract(self) -> Contract:
        with self._file("contract.json") as path:
            plain = read_json(path)
            contract = Contract.from_plain(plain, self._read_table(plain), str(path), self._trusted)
            if plain.get("sha256") != contract.hash:
                raise UserError(f"{path} was changed after it was written: its owner must push the run again")
        return contract

    def _read_table(self, contract: Any) -> Tensor | None:
        if not isinstance(contract, dict) or not contract.get("table_sha256"):
            return None
        with self._file("table.safetensors", _LARGEST_TABLE) as path:
            return read_tensor(path, "table")

    @cached_property
    def blocks(self) -> list[int]:
        """Indices of the blocks that are there."""
        found = (_BLOCK.fullmatch(name) for name in self._sizes)
        known = range(self.contract.partition.num_blocks)
        return sorted(int(match[1]) for match in found if match and int(match[1]) in known)

    @cached_property
    def authors(self) -> dict[int, str]:
        """Who committed each block that is there, by the history of the repository."""
        paths = {f"{RUN}/{block_name(block)}": block for block in self.blocks}
        with reaching(f"the history of {self.repo_id} could not be read from the hub"):
            api = self._library.HfApi()
            commits = api.list_repo_commits(self.repo_id, revision=self.revision) if paths else []
            files = api.get_paths_info(self.repo_id, list(paths), expand=True, revision=self.revision) if paths else []
        names = {commit.commit_id: ", ".join(commit.authors) for commit in commits}
        found = {paths.get(file.path): names.get(getattr(file.last_commit, "oid", None)) for file in files}
        return {block: one_line(found.get(block) or "somebody unknown", 60) for block in self.blocks}

    def describe(self, block: int) -> str:
        """Who trained a block that is there."""
        return f"block {block} of {self.repo_id}, by {self.authors[block]}"

    def read_block(self, _run: RunFolder, contract: Contract, block: int, weights: Weights = "ema") -> PartCheckpoint:
        """Download and read one block, as `assemble` reads those of a run.

        Raises MissingBlock if it is not there, UserError if it is damaged, too large, of another block or contract, or
        was trained for another number of steps than the run says.
        """
        name = block_name(block)
        if block not in self.blocks:
            raise MissingBlock(
                f"{self.repo_id} has no block {block} yet: dbl fit --from_hub {self.repo_id} --model.block {block} "
                "--push, or leave it out with --allow_partial"
            )
        shown = self.shown(name)
        with self._file(name, self._largest(block)) as path:
            stored = read_block_file(path)
        part = checked_part(stored, shown, f"block_{block}", contract, "denoiser.", weights)
        check_steps(part, block, self.steps, self.repo_id)
        return part

    def settle(self, run: RunFolder) -> None:
        """Write what training and assembly need of this run into a run folder: all but its blocks.

        Raises UserError if the folder holds another run, or a file is not the one on which the contract agreed.
        """
        if (run.path / "contract.json").is_file() and run.load_contract(self._trusted).hash != self.contract.hash:
            raise UserError(f"{run.path} holds another run than {self.repo_id}: give another --run.name, or remove it")
        self._copy_start(run)
        if "tokenizer.json" in self._sizes and not run.tokenizer.is_file():
            with self._file("tokenizer.json") as path:
                tokenizer_in(path, self.contract.data, self._trusted).save(run.tokenizer)
        run.write_contract(self.contract)
        write_json(run.hub, {"repository": self.repo_id, "contract": self.contract.hash})

    def _copy_start(self, run: RunFolder) -> None:
        """Copy the model from which the blocks start, if they do and it is not there yet."""
        start = self.contract.config.start
        if start.num_blocks == 0 or run.start_model(start).exists():
            return
        prefix = f"{start.folder}/model/"
        names = [name for name in self._sizes if name.startswith(prefix)]
        with temporary_folder(run.path / start.folder) as folder:
            (folder / "model").mkdir()
            for name in names:
                with self._file(name, self._largest(None)) as path:
                    shutil.copyfile(path, folder / name.removeprefix(f"{start.folder}/"))
            if "config.json" not in {path.name for path in (folder / "model").iterdir()}:
                raise UserError(f"{self.shown(start.folder)} is missing, from which the blocks of this run start")
            start_model(folder / "model", self.contract, self._trusted, self.shown(start.folder))
            try:
                folder.rename(run.path / start.folder)
            except OSError:
                if not run.start_model(start).exists():  # else another process, such as another rank, was faster
                    raise

    def _largest(self, block: int | None) -> float:
        """Bytes that the file of a block, or of the model from which all start, may have: two sets of weights."""
        layers = self.contract.partition.layers
        shown = str(self.shown("contract.json"))
        counts = layers if block is None else [layers[block]]
        sizes = {count: network_bytes(self.contract, layers.index(count), shown) for count in set(counts)}
        return 2 * sum(sizes[count] for count in counts) + _HEADER

    @contextmanager
    def _file(self, name: str, largest: float = _LARGEST_TEXT) -> Iterator[Path]:
        """Download a file; errors while it is read name it as it is called on the hub.

        Raises UserError if it is not there, too large, or no regular file of the repository.
        """
        shown = self.shown(name)
        if name not in self._sizes:
            raise UserError(f"{shown} is missing on the hub: its owner must push the run again")
        if self._sizes[name] > largest:
            raise UserError(f"{shown} has {self._sizes[name]} bytes, too many for its kind: it is not downloaded")
        path_in_repo = f"{RUN}/{name}"
        with reaching(f"{shown} could not be read from the hub"):
            snapshot = Path(
                self._library.snapshot_download(self.repo_id, revision=self.revision, allow_patterns=[path_in_repo])
            )
        path = snapshot / path_in_repo
        try:
            check_inside(snapshot, path)
            require_file(path, largest)
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), str(shown))) from None


def check_steps(part: PartCheckpoint, block: int, steps: list[int], repo_id: str) -> None:
    """Raise UserError unless a block is trained to the end, and for as many steps as its run says."""
    if not part.complete:
        raise UserError(
            f"block {block} is not finished: step {part.step} of {part.max_steps} ({part.path}): train it to the end"
        )
    if part.max_steps != steps[block]:
        raise UserError(
            f"block {block} was trained for {part.max_steps} steps ({part.path}), and blocks of {repo_id} train for "
            f"{steps[block]}: train it with --trainer.max_steps as there"
        )


def block_name(block: int) -> str:
    """Name of the file of a block."""
    return f"block_{block}.safetensors"


def holds_run(repo_id: str) -> bool:
    """Whether a repository on the hub exists and holds a run. Raises UserError if it cannot be read."""
    check_repo_id(repo_id)
    library = hub_library()
    with reaching(f"{repo_id} could not be read from the hub"):
        try:
            return "contract.json" in _sizes(library.HfApi(), repo_id, None)
        except library.errors.RepositoryNotFoundError:
            return False


def _sizes(api: Any, repo_id: str, revision: str | None) -> dict[str, int]:
    """Bytes of the files of a run, by their names in its folder; files of other names are none."""
    listed = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path.removeprefix(f"{RUN}/"): entry.size for entry in listed if _is_ours(entry)}


def _is_ours(entry: Any) -> bool:
    """Whether an entry of a repository is a file of a run, by its path."""
    folder, _, name = str(entry.path).partition("/")
    start, _, file = name.rpartition("/model/")
    is_named = name in _NAMES or _BLOCK.fullmatch(name) is not None or (start in _STARTS and is_model_file(file))
    return folder == RUN and is_named and isinstance(getattr(entry, "size", None), int)


def files_to_push(run: RunFolder, contract: Contract) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files of a run, beside its training, that those who train a block of it need.

    Raises UserError if the model from which its blocks start is missing, damaged or another one.
    """
    names = ["contract.json", *(["table.safetensors"] if contract.table is not None else [])]
    if isinstance(contract.data, TextSpec) and run.tokenizer.is_file():
        tokenizer_in(run.tokenizer, contract.data)  # raises: a link to another file must not become public
        names.append("tokenizer.json")
    yield from ((name, run.path / name) for name in names)
    start = contract.config.start
    if start.num_blocks == 0:
        return
    folder = run.start_model(start)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist, from which the blocks start: {start.remedy}")
    model = start_model(folder, contract)
    yield from ((f"{start.folder}/model/{name}", folder / name) for name in ("config.json", *model.config["files"]))
