"""How the blocks of a run on the hub are trained: the part of its config that others take from it, as data.

A config is code, since it names classes that are imported. This is what remains when nothing may be imported: numbers,
optimizers of `torch.optim` and data sets of `dbl` by name. Everything else is chosen by who trains.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch

from dbl.data import Digits, HubImages, HubText, PyDoc, ResumableDataModule, Wine
from dbl.data.text.tokenizer import Bytes, Characters, Tokenizer
from dbl.networks.adapters import LoRA
from dbl.run.contract import Contract
from dbl.run.inference import InferenceConfig
from dbl.utils.checks import Number, check_items, check_numbers, whole
from dbl.utils.errors import UserError, one_line, suggestion
from dbl.utils.serialization import from_plain, to_plain
from dbl.utils.stored_classes import class_path
from dbl.utils.stored_values import brief, typed

MatmulPrecision = Literal["highest", "high", "medium"]
# Those of torch.optim that fit `TrainingConfig`; a newer torch has more, which a file may not choose.
OptimizerName = Literal[
    "AdamW",
    "Adam",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adagrad",
    "Adadelta",
    "Adafactor",
    "ASGD",
    "RMSprop",
    "Rprop",
    "SGD",
    "Muon",
]
# Data sets that come with a package, or that are a name on the hub: none of them reads a file that a name points to.
DATA = (Digits, PyDoc, Wine, HubImages, HubText)
_TOKENIZERS = (Bytes, Characters)
# Arguments of data that are about a machine and its folders, and the seed, which is the contract's.
_OF_MACHINE = {"num_workers", "cache_dir", "memory_map", "streaming", "seed"}
_OF_FOLDERS = {"data_dir", "data_files"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*(/[A-Za-z0-9][\w-]*(\.[\w-]+)*)?", re.ASCII)
# Steps of a block, relative to those of others.
RELATIVE_STEPS = Number(above=0, at_most=1e6)

Scalar = bool | int | float | None


def steps_of_blocks(mean: int, blocks: int, relative: Sequence[float] | None) -> list[int]:
    """Number of optimizer steps of each block.

    Args:
        mean: their mean, `trainer.max_steps`.
        blocks: number of blocks.
        relative: `relative_steps` of a config; None: all alike.
    """
    shares = relative or [1] * blocks
    return [max(1, round(mean * blocks * number / sum(shares))) for number in shares]


@dataclass(frozen=True)
class SharedTraining:
    """How the blocks of a run on the hub are trained, and how their network is used.

    Args:
        max_steps: mean number of optimizer steps of a block.
        batch_size: samples in a batch; None if the data have no such argument.
        relative_steps: relative numbers of steps of the blocks; None: all alike.
        optimizer: class of `torch.optim`.
        arguments: its arguments.
        warmup_steps: as in `TrainingConfig`, as are the next four.
        decay: schedule after the warmup.
        clip_norm: maximum norm of the gradient.
        accumulate: number of batches of a step.
        distillation: share of the loss against the network from which the blocks start.
        lora: adapters that are trained in place of all weights.
        ema_decay: decay of the moving average.
        precision: precision of the trainer.
        float32_matmul_precision: precision of matrix products on CUDA.
        data: class and arguments of the data; None if those who train must give them.
        inference: settings of the use of the assembled network.
    """

    max_steps: int
    batch_size: int | None = None
    relative_steps: tuple[float, ...] | None = None
    optimizer: OptimizerName = "AdamW"
    arguments: dict[str, Scalar | list[float]] = field(default_factory=dict)
    warmup_steps: int = 0
    decay: Literal["cosine", "constant"] = "cosine"
    clip_norm: float | None = 1.0
    accumulate: int = 1
    distillation: float = 0.0
    lora: LoRA | None = None
    ema_decay: float = 0.999
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    float32_matmul_precision: MatmulPrecision = "high"
    data: dict[str, Any] | None = None
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        check_numbers(
            "training",
            self,
            max_steps=whole(1, 10**12),
            batch_size=whole(1, 10**6, optional=True),
            warmup_steps=whole(0, 10**9),
            clip_norm=Number(above=0, at_most=1e9, optional=True),
            accumulate=whole(1, 10**6),
            distillation=Number(at_least=0, at_most=1),
            ema_decay=Number(at_least=0, below=1),
        )
        check_items("training.relative_steps", self.relative_steps or (), RELATIVE_STEPS)
        known = inspect.signature(getattr(torch.optim, self.optimizer)).parameters.keys() - {"params"}
        for name in self.arguments.keys() - known:
            raise UserError(f"optimizer {self.optimizer} has no {name[:40]!r}{suggestion(name, known)}")
        if self.data is not None:
            object.__setattr__(self, "data", _checked_data(self.data))

    @classmethod
    def restore(cls, plain: Any, contract: Contract, source: str) -> "SharedTraining":
        """What `to_plain` converted. Raises UserError if a value is of another kind, or does not fit the contract.

        Args:
            plain: JSON values of a file, as data: nothing that it names is imported.
            contract: contract of the run.
            source: file that messages name.
        """
        try:
            training = from_plain(plain, cls)
            if training.relative_steps and len(training.relative_steps) != contract.partition.num_blocks:
                raise UserError(f"relative_steps must have {contract.partition.num_blocks} numbers")
            training.inference.check(contract)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        return training

    @classmethod
    def of_config(cls, config: Any, contract: Contract, source: str) -> "SharedTraining":
        """The part of a config that can be shared; errors as in `restore`.

        Args:
            config: plain values of a whole config, as data too.
            contract: contract of the run.
            source: file that messages name.
        """
        try:
            values = _shared_values(config)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{source} is not the whole config of a run: restore it") from None
        return cls.restore({"class_path": class_path(cls), "init_args": values}, contract, source)

    def steps(self, contract: Contract) -> list[int]:
        """Number of optimizer steps of each block."""
        return steps_of_blocks(self.max_steps, contract.partition.num_blocks, self.relative_steps)

    def describe(self, contract: Contract, block: int) -> str:
        """Steps, batches, optimizer and data of the training of a block, in a line for a terminal."""
        batches = "" if self.batch_size is None else f" of {self.batch_size} samples"
        return f"{self.steps(contract)[block]} steps{batches}, {self.optimizer}, {one_line(contract.data.name, 60)}"

    def config(self, contract: Contract, name: str) -> dict[str, Any]:
        """Plain values of a config that trains a block so, for a run of this name; without `data` if that is None.

        All classes that it names are those of the contract, which are imported already, and those of this module.
        Raises UserError for a text that a config would not take as it is.
        """
        chosen = to_plain(contract.config)["init_args"]
        recipe = {key: getattr(self, key) for key in ("warmup_steps", "decay", "clip_norm", "accumulate")}
        optimizer = {"class_path": f"torch.optim.{self.optimizer}", "init_args": self.arguments}
        lora = None if self.lora is None else asdict(self.lora)
        plain = {
            "run": {"name": name},
            "contract": {**chosen, "partition": asdict(contract.config.partition)},
            "model": {"recipe": {"optimizer": optimizer, **recipe, "distillation": self.distillation, "lora": lora}},
            "trainer": {"max_steps": self.max_steps, "precision": self.precision},
            "relative_steps": None if self.relative_steps is None else list(self.relative_steps),
            "float32_matmul_precision": self.float32_matmul_precision,
            "ema": {"decay": self.ema_decay},
            "inference": asdict(self.inference),
            **({} if self.data is None else {"data": self.data}),
        }
        _refuse_references(plain)
        return plain


def _shared_values(config: Any) -> dict[str, Any]:
    """The fields of `SharedTraining` from a config."""
    recipe, trainer = config["model"]["recipe"], config["trainer"]
    path = str(recipe["optimizer"]["class_path"])
    lora = recipe["lora"]
    inference = dict(config["inference"])
    inference["sampler"] = {"class_path": "dbl.Sampler", "init_args": inference["sampler"]}
    return {
        "max_steps": trainer["max_steps"],
        "batch_size": config["data"].get("init_args", {}).get("batch_size"),
        "relative_steps": config["relative_steps"],
        "optimizer": path.rpartition(".")[2] if path.startswith("torch.optim.") else path,
        "arguments": dict(recipe["optimizer"].get("init_args") or {}),
        **{key: recipe[key] for key in ("warmup_steps", "decay", "clip_norm", "accumulate", "distillation")},
        "lora": None if lora is None else {"class_path": "dbl.LoRA", "init_args": lora},
        "ema_decay": config["ema"]["decay"],
        "precision": trainer["precision"],
        "float32_matmul_precision": config["float32_matmul_precision"],
        "data": _shareable(config["data"]),
        "inference": {"class_path": "dbl.InferenceConfig", "init_args": inference},
    }


def _shareable(data: Any) -> dict[str, Any] | None:
    """Class and arguments of data, without those of a machine; None if they cannot be shared."""
    arguments = {key: value for key, value in data["init_args"].items() if key not in _OF_MACHINE}
    if any(arguments.pop(key, None) is not None for key in _OF_FOLDERS):
        return None
    shared = {"class_path": data["class_path"], "init_args": arguments}
    try:
        return _checked_data(shared)
    except UserError:
        return None


def _checked_data(plain: Any) -> dict[str, Any]:
    """The same values, if they are a data set of `DATA` with arguments of the right types. Raises UserError if not."""
    kinds = {class_path(kind): kind for kind in DATA}
    if not isinstance(plain, Mapping) or plain.keys() != {"class_path", "init_args"}:
        raise UserError("data must have class_path and init_args, and nothing else")
    kind = kinds.get(plain["class_path"]) if isinstance(plain["class_path"], str) else None
    if kind is None:
        raise UserError(f"data.class_path ({brief(plain['class_path'])}) must be one of {', '.join(kinds)}")
    hints, arguments = _arguments_of(kind), plain["init_args"]
    if not isinstance(arguments, Mapping):
        raise UserError("data.init_args must be a mapping")
    for name in arguments.keys() - hints.keys():
        raise UserError(f"data.init_args.{str(name)[:40]} cannot be shared: who trains chooses it")
    checked = {
        name: to_plain(typed(value, hints[name], f"data.init_args.{name}", _restored))
        for name, value in arguments.items()
    }
    _check_hub_name(checked.get("path"))
    return {"class_path": class_path(kind), "init_args": checked}


def _check_hub_name(path: Any) -> None:
    """Raise UserError if what should be a name on the hub would be read from this machine's disk."""
    if path is not None and (not _HUB_NAME.fullmatch(path) or Path(path).exists()):
        raise UserError(f"data.init_args.path ({brief(path)}) must be the name of a data set on the hub, and no path")


def _arguments_of(kind: type[ResumableDataModule]) -> dict[str, Any]:
    """Types of the arguments of a data set that can be shared; what it passes on as `**base` is its parent's."""
    found: dict[str, Any] = {}
    for owner in kind.__mro__:
        if "__init__" in vars(owner) and issubclass(owner, ResumableDataModule):
            found = get_type_hints(owner.__init__) | found
    return {name: hint for name, hint in found.items() if name not in _OF_MACHINE | _OF_FOLDERS | {"return", "base"}}


def _restored(plain: Any, base: type, key: str) -> Any:
    """A dataclass among the arguments of a data set. Raises UserError for a tokenizer that would read a file."""
    name, known = plain.get("class_path") if isinstance(plain, Mapping) else None, list(map(class_path, _TOKENIZERS))
    if issubclass(base, Tokenizer) and name not in known:
        raise UserError(f"{key} ({brief(name)}) must be one of {', '.join(known)}")
    return from_plain(plain, base, key=key)


def _refuse_references(plain: Any) -> None:
    """Raise UserError if a text holds `${`: a config would replace it, by a variable of the environment for one."""
    values = plain.values() if isinstance(plain, Mapping) else plain if isinstance(plain, list | tuple) else ()
    for value in values:
        _refuse_references(value)
    if isinstance(plain, str) and "${" in plain:
        raise UserError(f"the run on the hub has a text with ${{ ({brief(plain)}), which a config would replace")
