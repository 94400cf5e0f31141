"""The run folder: the paths of a run's files, and its contract, which is written once.

runs/<name>/  config.yaml  contract.json  table.safetensors  tokenizer.json
block_<b>/   checkpoints/{last,previous,replaced}.ckpt  config.yaml  memory.json  metrics.csv  events…
             status.json  train.log  lock  loggers.json
model/       config.json  block_<b>.safetensors  table.safetensors  tokenizer.json
export/      manifest.json  block_<b>.pt2  chain.pt2
adapters/    block_<b>/ adapter_config.json  adapter_model.safetensors
report/      report.md  report.html  report.json  samples.png
ancestor/    a run folder of its own for the network from which the blocks start
source/      model/ of the network from which they start, if it was trained elsewhere
hub.json     in a run that came from the hub: the repository
baseline/    the same for the end-to-end network, one_block/ for one block that answers for all levels,
             rivals/<name>/ for networks of other methods
"""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any

from dbl.data.spec import DataSpec
from dbl.data.text.tokenizer import Tokenizer
from dbl.run.checkpoints import Checkpoints
from dbl.run.contract import Contract, ContractConfig
from dbl.run.inference import InferenceConfig, default_inference, read_inference
from dbl.run.model_config import inference_of, read_model_config
from dbl.run.model_folder import ModelFolder
from dbl.run.start import Start
from dbl.run.stored_tokenizer import tokenizer_in
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, read_tensor, remove_unfinished, write_json, write_tensors
from dbl.utils.locks import Lock, held_by_another, remove_dead_lock
from dbl.utils.serialization import first_difference, to_plain

STATUS = "status.json"
LOG = "train.log"
_WAIT_S = 60.0  # for another process that writes the contract


def known_runs(wanted: Path = Path()) -> str:
    """The end of a message: the run that was probably meant, or up to five that there are; empty if there is none."""
    folders = dict.fromkeys([wanted.parent, Path("runs")])
    runs = [str(file.parent) for folder in folders for file in sorted(folder.glob("*/contract.json"))]
    near = [run for run in runs if Path(run).name == wanted.name] or get_close_matches(str(wanted), runs, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(runs[:5])}{' and others' if len(runs) > 5 else ''}" if runs else ""


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of a run.

    Args:
        name: name of the run; its folder is `<root>/<name>`. In a config, null names it after data and network, such as
            photos_dit.
        root: folder of all runs.
    """

    name: str = "run"
    root: str = "runs"

    @classmethod
    def at(cls, path: str | Path) -> "RunFolder":
        """Open the run in an existing folder. Raises UserError if it holds no run."""
        folder = Path(path)
        if not (folder / "contract.json").is_file():
            reason = "it has no contract.json" if folder.exists() else "it does not exist"
            raise UserError(f"{folder} is not a run folder: {reason}{known_runs(folder)}")
        return cls(name=folder.name, root=str(folder.parent))

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return Path(self.root) / self.name

    @property
    def config(self) -> Path:
        """Resolved config."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """Folder of the assembled model."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    @property
    def tokenizer(self) -> Path:
        """Tokenizer of a text run."""
        return self.path / "tokenizer.json"

    @property
    def launcher_lock(self) -> Path:
        """Lock held by the command that trains the parts of this run."""
        return self.path / "lock"

    @property
    def contract_lock(self) -> Path:
        """Lock held while the contract is compared or written."""
        return self.path / ".contract.lock"

    @property
    def model_lock(self) -> Path:
        """Lock held while the model is assembled."""
        return self.path / ".model.lock"

    @property
    def hub(self) -> Path:
        """Repository on the hub from which the contract of this run was taken."""
        return self.path / "hub.json"

    def part(self, name: str) -> Path:
        """Folder of a trained part: `block_<b>` or `end_to_end`."""
        return self.path / name

    def checkpoint(self, part: str) -> Path:
        """Last checkpoint of a part."""
        return self.part(part) / "checkpoints" / "last.ckpt"

    def checkpoints(self, part: str) -> Checkpoints:
        """All checkpoint files of a part."""
        return Checkpoints(self.checkpoint(part))

    def status(self, part: str) -> Path:
        """Training progress of a part."""
        return self.part(part) / STATUS

    def lock(self, part: str) -> Path:
        """Lock held by the process that trains a part."""
        return self.part(part) / "lock"

    def memory(self, part: str) -> Path:
        """Measured memory of a part."""
        return self.part(part) / "memory.json"

    def metrics(self, part: str) -> Path:
        """Logged values of a part."""
        return self.part(part) / "metrics.csv"

    def rival(self, name: str) -> "RunFolder":
        """Run folder of a further rival of the blocks, inside this one."""
        return RunFolder(name=name, root=str(self.path / "rivals"))

    def baseline(self) -> "RunFolder":
        """Run folder of the end-to-end baseline, inside this one."""
        return RunFolder(name="baseline", root=str(self.path))

    def ancestor(self) -> "RunFolder":
        """Run folder of the ancestor, from whose weights the blocks start, inside this one."""
        return RunFolder(name="ancestor", root=str(self.path))

    def start_model(self, start: Start) -> Path:
        """Folder of the model from which the blocks start."""
        return self.path / start.folder / "model"

    def one_block(self) -> "RunFolder":
        """Run folder of one network of the size of a block that answers for all levels, inside this one."""
        return RunFolder(name="one_block", root=str(self.path))

    def remove_leftovers(self) -> None:
        """Remove temporary files and locks that killed processes of this machine left in this run."""
        for folder in (self.path, *self.path.glob("*/"), *self.path.glob("*/checkpoints/")):
            remove_unfinished(folder)
            for lock in folder.glob("*lock"):
                remove_dead_lock(lock)

    def load_contract(self, trusted: Collection[str] = ()) -> Contract:
        """Read the contract that `write_contract` wrote. Raises UserError if it is absent, damaged or edited.

        Args:
            trusted: packages of your own that the file may import; see `BlockStack.from_pretrained`.
        """
        source, table = self.path / "contract.json", self.path / "table.safetensors"
        if not source.is_file():
            raise UserError(
                f"{self.path} has trained parts but no contract.json: restore it, or start another run (--run.name)"
            )
        plain = read_json(source)
        needs_table = isinstance(plain, dict) and plain.get("table_sha256")
        contents = read_tensor(table, "table") if needs_table else None
        contract = Contract.from_plain(plain, contents, str(source), trusted)
        if plain.get("sha256") != contract.hash:
            raise UserError(f"{source} was changed after it was written: restore it, or start another run (--run.name)")
        return contract

    def load_or_build_contract(self, config: ContractConfig, data: DataSpec) -> Contract:
        """Return the stored contract if it was built from this config and data, else a new, unwritten one.

        The stored one takes precedence because fitted and drawn values can differ in the last digit between machines.
        Raises UserError if parts were already trained under another config or other data.
        """
        if not (self.path / "contract.json").is_file() and not self.is_bound():
            return self._build(config, data)
        stored = self.load_contract()
        # Not by hash: the user must learn which key differs.
        difference = first_difference(_user_settings(config, data), _user_settings(stored.config, stored.data))
        is_bound = self.is_bound()
        if difference is not None and is_bound:
            key, ours, theirs = (shorten(str(part), 80) for part in difference)  # lists can be long
            raise UserError(
                f"{key} is {ours} here but {theirs} in {self.path / 'contract.json'}, on which the blocks of this run "
                "agreed: put it back, or start another run with --run.name"
            )
        # As long as nothing is trained from it, an ancestor may be trained anew.
        keeps = difference is None and (is_bound or not stored.start_sha256)
        return stored if keeps else self._build(config, data)

    def _build(self, config: ContractConfig, data: DataSpec) -> Contract:
        """A new contract, with the weights of its start if they are there; UserError if they are those of another."""
        contract, start = config.build(data), config.start  # refuses first what cannot start so
        path = self.start_model(start)
        if start.num_blocks == 0 or not path.exists():
            return contract
        model = ModelFolder(path)
        config.check_start(model.contract.config, str(path))
        return config.build(data, model.block_hashes)

    def is_bound(self) -> bool:
        """Whether the contract must stay: something was trained under it, here or by those who share it on the hub."""
        return self.has_trained_parts() or self.hub.is_file()

    def has_trained_parts(self) -> bool:
        """Whether there is a checkpoint of a block or a baseline, which the contract binds."""
        return any(any(self.path.glob(f"*/checkpoints/{name}.ckpt")) for name in ("last", "previous"))

    def write_contract(self, contract: Contract) -> None:
        """Write the contract if this run has none yet, or one under which nothing was trained.

        Raises UserError if a part was, or is being, trained under another contract: of several processes that begin a
        run at once, one writes its contract.
        """
        contract.check_storable(str(self._contract_file))
        if self._stored_hash() == contract.hash:
            return
        with Lock(self.contract_lock, f"{self._contract_file}", "written").acquire(_WAIT_S):
            stored = self._stored_hash()
            if stored == contract.hash:
                return
            # In this order: a training that ends in between has left its checkpoint.
            if stored is not None and (self._is_being_trained() or self.is_bound()):
                raise UserError(
                    f"{self._contract_file} has contract {stored[:12]}, this config {contract.hash[:12]}: "
                    "start another run (--run.name)"
                )
            self._replace_contract(contract)

    @property
    def _contract_file(self) -> Path:
        return self.path / "contract.json"

    def _stored_hash(self) -> str | None:
        """Hash of the stored contract; None if there is none. Raises UserError as `load_contract` does."""
        return self.load_contract().hash if self._contract_file.is_file() or self.is_bound() else None

    def _is_being_trained(self) -> bool:
        """Whether another process holds the lock of this run or of a part of it."""
        # By any file of a lock: the lock itself may be moved aside for some milliseconds.
        folders = {path.parent for path in (*self.path.glob("lock*"), *self.path.glob("*/lock*"))}
        return any(held_by_another(folder / "lock") for folder in folders)

    def _replace_contract(self, contract: Contract) -> None:
        self._contract_file.unlink(missing_ok=True)  # first: it must not stand beside the table of another
        if contract.table is not None:
            write_tensors(self.path / "table.safetensors", {"table": contract.table})
        # Last: its presence makes the folder a run.
        write_json(self._contract_file, {**contract.to_plain(), "sha256": contract.hash})


def _user_settings(config: ContractConfig, data: DataSpec) -> dict[str, Any]:
    """Plain values of the settings that a user can change, under their config keys."""
    return {"contract": to_plain(config)["init_args"], "data": to_plain(data)["init_args"]}


def run_inference(run: RunFolder) -> InferenceConfig:
    """How the assembled network of a run is used: as its model says; in one of an earlier version, as the config does.

    Without either, the settings are those of `default_inference`. Raises UserError if the run is not assembled, or a
    file is damaged or has other values.
    """
    contract = run.load_contract()
    stored = inference_of(run.model, read_model_config(run.model), contract)
    if stored is None and run.config.is_file():
        return read_inference(run.config)
    return stored or default_inference(contract)


def run_tokenizer(run: RunFolder) -> Tokenizer:
    """Load the tokenizer of a run. Raises UserError if it is absent or not the one that the run was trained with."""
    data = run.load_contract().data
    try:
        return tokenizer_in(run.tokenizer, data)
    except UserError as error:
        copy = run.model / run.tokenizer.name
        try:
            tokenizer_in(copy, data)
        except UserError:
            raise error from None
        raise UserError(f"{error}; {copy.relative_to(run.path)} there is a good copy") from None
