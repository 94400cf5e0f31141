"""The checkpoint files of a block or baseline: the last, the previous, and that of a replaced training."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from dbl.utils.errors import UserError
from dbl.utils.files import UnreadableFile, read_checkpoint

# Keys that resuming needs beside the weights -> their types.
_TO_RESUME = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}


@dataclass(frozen=True)
class Stamp:
    """What `dbl` adds to a checkpoint of Lightning, under the key `dbl`: whose it is, and how far it was trained.

    Args:
        part: name of the part, such as `block_0`.
        contract: hash of the contract.
        batches_seen: batches consumed on each rank, over all resumes.
        samples: samples consumed on all ranks together.
        layer_passes: compute of a training step per sample; see `Architecture.layer_passes`.
        max_steps: optimizer steps requested.
        lora_alpha: alpha of the adapters beside the weights, see `LoRA`; 0 if there are none, as in older checkpoints.
    """

    part: str
    contract: str
    batches_seen: int
    samples: int
    layer_passes: float
    max_steps: int
    lora_alpha: float = 0.0

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> Self:
        """The stamp in the content of a checkpoint. Raises ValueError, which names the key, if it is not one."""
        stored = checkpoint.get("dbl")
        if not isinstance(stored, dict):
            raise ValueError("no key dbl")
        stored = {"lora_alpha": 0.0, **stored}
        for field in fields(cls):
            value = stored.get(field.name)
            if not (isinstance(value, str) if field.type is str else counts(value, field.type is int)):
                raise ValueError(f"dbl.{field.name} is wrong")
        return cls(**{field.name: stored[field.name] for field in fields(cls)})


class StoredTraining(NamedTuple):
    """The content of a checkpoint, whose structure was checked.

    Attributes:
        content: the whole dict of Lightning.
        stamp: entry that `dbl` added to it.
        step: optimizer steps done.
        seconds: wall time spent in training, over all resumes.
    """

    content: dict[str, Any]
    stamp: Stamp
    step: int
    seconds: float


class CheckpointInfo(NamedTuple):
    """A readable checkpoint.

    Attributes:
        path: its file.
        step: its optimizer step.
        stamp: part and contract hash of the training that wrote it.
        problem: defect of a newer one that cannot be read, if there is any.
    """

    path: Path
    step: int
    stamp: tuple[Any, Any]
    problem: str | None = None

    def check(self, part: str, contract: str) -> None:
        """Raise UserError if it was written by a training of another part or under another contract."""
        if self.stamp != (part, contract):
            written_by, under = (str(value)[:12] for value in self.stamp)
            raise UserError(
                f"{self.path} is of {written_by} with contract {under}, not of {part} with contract {contract[:12]}: "
                "resume it in its own run"
            )


def already_trained(part: str, step: int) -> str:
    """Message about a part that is skipped."""
    return f"{part} is trained already ({step} steps); --from_scratch trains it anew"


def read_training(path: Path, to_resume: bool = False) -> StoredTraining:
    """Read a checkpoint and check all that `dbl` and Lightning expect of its structure.

    Raises UnreadableFile (a UserError) if it is absent, damaged, or another structure.

    Args:
        path: checkpoint file.
        to_resume: whether it must hold what resuming needs, the state of the optimizer and others.
    """
    content = read_checkpoint(path)
    try:
        stamp = Stamp.of(content)
        step: Any = content.get("global_step")
        seconds = _seconds(content)
        if not counts(step) or not counts(seconds, whole=False):
            raise ValueError("global_step or its time is not a number")
        for key in ("state_dict", "current_model_state"):
            if key in content or key == "state_dict":
                _require_weights(key, content.get(key), path.stat().st_size)
        if to_resume:
            _require_states(content)
    except ValueError as error:
        raise UnreadableFile(f"{path} is not a checkpoint of dbl ({error})", "train this block anew") from None
    return StoredTraining(content, stamp, step, float(seconds))


def counts(value: Any, whole: bool = True) -> bool:
    """Whether a value is a number that counts something: 0 or more, and no more than torch can hold."""
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < 2**63


def _seconds(content: Mapping[str, Any]) -> Any:
    """Wall time of the training; 0 if it had no timer."""
    found: Any = content
    for key in ("callbacks", "Timer", "time_elapsed", "train"):
        found = found.get(key, {}) if isinstance(found, dict) else None
    return 0.0 if found == {} else found


def _require_weights(key: str, weights: Any, size: int) -> None:
    """Raise ValueError unless these are tensors in memory by name, which take no more bytes than their file."""
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{key} holds no weights")
    if not all(isinstance(tensor, Tensor) and _is_plain(tensor) for tensor in weights.values()):
        raise ValueError(f"{key} holds something else than plain tensors")
    # torch gives a tensor that is larger than its record what happens to lie in the memory.
    storages = [tensor.untyped_storage() for tensor in weights.values()]
    if sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) > size:
        raise ValueError(f"{key} is larger than the file")


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _require_states(content: Mapping[str, Any]) -> None:
    """Raise ValueError unless there is the state of one optimizer, its schedule, the loops and the callbacks."""
    for key, kind in _TO_RESUME.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{key} is missing, so it cannot be resumed")
    for key, needed in (("optimizer_states", {"state", "param_groups"}), ("lr_schedulers", {"last_epoch"})):
        # Lightning leaves a state that is missing in the list as it was, without a word.
        if len(content[key]) != 1 or not isinstance(content[key][0], dict) or not needed <= content[key][0].keys():
            raise ValueError(f"{key} is not the state of one, so it cannot be resumed")
    if ("current_model_state" in content) != ("averaging_state" in content):
        raise ValueError("the average or the weights that it averages are missing, so it cannot be resumed")
    if not isinstance(content["loops"].get("fit_loop"), dict):
        raise ValueError("loops.fit_loop is missing, so it cannot be resumed")


def read_checkpoint_info(path: Path) -> CheckpointInfo:
    """Path, step and stamp of one to resume. Raises UnreadableFile (a UserError) if it is absent or damaged."""
    stored = read_training(path, to_resume=True)
    return CheckpointInfo(path, stored.step, (stored.stamp.part, stored.stamp.contract))


@dataclass(frozen=True)
class Checkpoints:
    """The files in the `checkpoints` folder of a part: `last.ckpt`, and the others beside it."""

    last: Path

    @property
    def previous(self) -> Path:
        """The checkpoint before the last, from which training resumes if the last one is damaged."""
        return self.last.with_name("previous.ckpt")

    @property
    def replaced(self) -> Path:
        """The last checkpoint of an earlier training that was replaced by `--from_scratch`."""
        return self.last.with_name("replaced.ckpt")

    def newest(self) -> CheckpointInfo | None:
        """Find the newest readable checkpoint; None if there is no file. Raises UserError if all are damaged."""
        if not self.last.is_file() and not self.previous.is_file():
            return None
        try:
            return read_checkpoint_info(self.last)
        except UnreadableFile as error:
            problem = error.problem
        try:
            return read_checkpoint_info(self.previous)._replace(problem=problem)
        except UnreadableFile:
            state = "is damaged too" if self.previous.exists() else "does not exist"
            remedy = "--from_scratch trains this part anew"
            raise UserError(f"{problem}, and {self.previous.name} {state}: {remedy}") from None

    def keep_previous(self) -> None:
        """Make the last checkpoint the previous one too; a crash at any point leaves at least one of both."""
        self.previous.unlink(missing_ok=True)
        try:
            self.previous.hardlink_to(self.last)
        except OSError:  # a file system without hard links
            self.last.rename(self.previous)

    def set_aside(self) -> Path | None:
        """Keep the newest readable checkpoint as `replaced.ckpt` and delete the others; None if none was readable."""
        kept: CheckpointInfo | None = None
        with suppress(UserError):  # all are damaged
            kept = self.newest()
        if kept is not None:
            kept.path.replace(self.replaced)
        self.last.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)
        return None if kept is None else self.replaced
