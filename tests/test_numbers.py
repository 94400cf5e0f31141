"""Every number of a config is checked where it is given: no class accepts NaN, infinity or another type of value.

The classes and their numbers are found by signature, so that a class added later without a check fails here.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import torch
from torch.optim import LBFGS, SGD, AdamW, SparseAdam
from toy_text import text_contract

import dbl
from dbl.commands.launch.launcher import Launch
from dbl.commands.schema import EVALUATION, TRAINING
from dbl.data.module import ResumableDataModule
from dbl.run.contract import Contract, ContractConfig
from dbl.run.inference import InferenceConfig
from dbl.training.baselines import Classifier
from dbl.training.baselines.text import EndToEndText
from dbl.training.module import TrainingModule
from dbl.training.recipes import RECIPES
from dbl.utils.errors import UserError

# Arguments without which a class cannot be made.
_NEEDED: dict[str, Any] = {
    "batch_size": 8,
    "boundaries": (4.0, 2.0, 1.0),
    "cdf_values": (1.0, 0.5, 0.0),
    "channels": 1,
    "class_frequencies": (0.5, 0.5),
    "data_files": {"train": "train.parquet", "test": "test.parquet"},
    "eval_batch_size": 8,
    "folder": "photos",
    "identity": "identity",
    "image_size": 8,
    "layers": (1, 1),
    "mean": (0.0,),
    "name": "toy",
    "num_features": 1,
    "num_classes": 2,
    "path": "owner/name",
    "seq_len": 8,
    "shape": (1, 8, 8),
    "sigmas": (80.0, 1.0, 0.002),
    "std": (1.0,),
    "tokenizer": "tokenizer",
    "train": "train.txt",
}
# Numbers that no constructor can check, by class and name.
_UNCHECKED = {
    ("BlockStack", "available"): "made by `from_pretrained` from the files of a model, not by a config",
    ("Launch", "devices"): "`trainer.devices`, which also has values such as `auto`; the Trainer checks it",
}
_NUMBERS = {
    "float": [math.nan, math.inf, -math.inf, 1e308, -1e308, True, "1"],
    "int": [math.nan, math.inf, 2.5, 10**400, -(2**70), True, "1"],
}


@dataclass(frozen=True)
class _Parameter:
    """A parameter that is a number, or a list of them.

    Attributes:
        cls: class whose constructor has it.
        name: its name.
        kind: "int" or "float".
        is_list: whether it is a list or tuple.
    """

    cls: type
    name: str
    kind: str
    is_list: bool

    def __str__(self) -> str:
        return f"{self.cls.__name__}.{self.name}"


def _parameters(cls: type, required: bool = False) -> dict[str, Any]:
    """Type of each parameter of a constructor, or of those without a default.

    Those that it passes on to its parent as `**arguments` count too.
    """
    found: dict[str, Any] = {}
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            given, hints = inspect.signature(owner.__init__).parameters, get_type_hints(owner.__init__)
            chosen = [name for name, one in given.items() if not required or one.default is one.empty]
            found = {name: hints[name] for name in chosen if name in hints} | found
            if not any(one.kind is one.VAR_KEYWORD for one in given.values()):
                break
    return found


def _types(hint: Any) -> Iterator[Any]:
    """The types of which an annotation consists."""
    yield hint
    for part in get_args(hint):
        yield from _types(part)


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*(_subclasses(child) for child in cls.__subclasses__()))


def _classes() -> list[type]:
    """Classes of `dbl` that a config can make, or a stored contract, or a user by a public name."""
    # Only an optimizer whose package, an extra, is not installed may stay out.
    absent = {(recipe.optimizer or "").rpartition(".")[0] for recipe in RECIPES.values() if recipe.missing()}
    for module in walk_packages(dbl.__path__, "dbl."):
        if not module.name.endswith("__main__") and module.name not in absent:
            import_module(module.name)
    public = [value for name in dbl.__all__ if isinstance(value := getattr(dbl, name), type)]
    roots = [ResumableDataModule, ContractConfig, InferenceConfig, Launch, TrainingModule]
    waiting, found = [*roots, *EVALUATION.values(), *TRAINING.values()], set[type]()
    while waiting:
        new = {cls for cls in _subclasses(waiting.pop()) if cls.__module__.startswith("dbl.")} - found
        found |= new
        for cls in new:
            hints = [part for hint in _parameters(cls).values() for part in _types(hint)]
            waiting += [part for part in hints if isinstance(part, type) and part.__module__.startswith("dbl.")]
    made = [cls for cls in {*found, *public} if not inspect.isabstract(cls)]
    return sorted(made, key=lambda cls: cls.__name__)


def _numbers(cls: type) -> Iterator[_Parameter]:
    for name, hint in _parameters(cls).items():
        parts = list(_types(hint))
        kinds = [kind for kind in (float, int) if kind in parts]
        if kinds:
            is_list = any(get_origin(part) in (list, tuple) for part in parts)
            yield _Parameter(cls, name, kinds[0].__name__, is_list)


PARAMETERS = [one for cls in _classes() for one in _numbers(cls) if (cls.__name__, one.name) not in _UNCHECKED]


_DATA = dbl.ImageSpec("toy", "toy-1", 2, (0.5, 0.5), shape=(1, 4, 4), mean=(0.0,), std=(1.0,))


@pytest.fixture(scope="module")
def contract() -> Contract:
    """The contract of two small blocks."""
    network = dbl.DiT(num_layers=2, width=8, num_heads=2, patch_size=2)
    return ContractConfig(network, partition=dbl.PartitionConfig(num_blocks=2)).build(_DATA)


@cache
def _of_classes() -> Contract:
    """The contract of a classifier."""
    network = dbl.ViT(num_layers=2, width=8, num_heads=2, patch_size=2)
    partition = dbl.PartitionConfig(num_blocks=2)
    return ContractConfig(network, dbl.ClassTarget(dim=4), dbl.InformationNoise(), partition).build(_DATA)


def _make(cls: type, contract: Contract, **changes: Any) -> Any:
    of_kind = {Classifier: _of_classes, EndToEndText: partial(text_contract, "clean")}
    chosen = next((make() for kind, make in of_kind.items() if issubclass(cls, kind)), contract)
    needed = {"contract": chosen, **_NEEDED}
    if issubclass(cls, dbl.TextData):
        needed["tokenizer"] = dbl.Characters("ab")
    names = [*_parameters(cls, required=True), *({"sigmas", "cdf_values"} & {*_parameters(cls)})]
    return cls(**{name: needed[name] for name in names if name in needed} | changes)


def test_the_numbers_of_configs_are_found() -> None:
    """Catches a search that finds nothing, and would let every number pass."""
    found = {str(one) for one in PARAMETERS}
    some = {"DiT.mlp_ratio", "LogNormalNoise.p_mean", "HubImages.num_workers", "EMA.decay", "TextQuality.top_p"}
    assert some | {"PartitionConfig.boundaries", "HorizontalFlip.probability", "SlurmSettings.gpus"} <= found
    assert len(found) > 150


@pytest.mark.parametrize("parameter", PARAMETERS, ids=str)
def test_what_is_no_number_in_range_is_refused(parameter: _Parameter, contract: Contract) -> None:
    """Catches a number without a check, and one for which NaN passes; the message must name the key and be short."""
    given = _NEEDED.get(parameter.name)
    for value in _NUMBERS[parameter.kind]:
        changed = [value, *(given or [1.0])[1:]] if parameter.is_list else value
        with pytest.raises(UserError) as caught:
            _make(parameter.cls, contract, **{parameter.name: changed})
        message = str(caught.value)
        assert parameter.name in message or "block 0 does not exist" in message, message
        assert len(message) <= 140, message


def test_classes_are_made_with_valid_numbers(contract: Contract) -> None:
    """Catches a test that passes because the other arguments are refused."""
    for cls in {one.cls for one in PARAMETERS}:
        _make(cls, contract)


OPTIMIZERS: dict[str, tuple[Any, str]] = {
    "infinite rate": (partial(AdamW, lr=math.inf), r"init_args.lr \(inf\)"),
    "no rate": (partial(SGD, lr=math.nan), r"init_args.lr \(nan\)"),
    "decay": (partial(AdamW, weight_decay=math.inf), r"weight_decay \(inf\)"),
    "betas": (partial(AdamW, betas=(0.9, math.nan)), r"betas"),
    "refused by torch": (partial(AdamW, betas=(0.9, 1.5)), "Invalid beta parameter at index 1: 1.5"),
    "no partial": (lambda parameters: SGD(parameters, lr=math.inf), r"init_args.lr \(inf\)"),
    "another kind of step": (LBFGS, "LBFGS needs many backward passes"),
    "another kind of gradient": (SparseAdam, "SparseAdam needs sparse gradients"),
}
IMPOSSIBLE: dict[str, tuple[Callable[[], Any], str]] = {
    "no hidden unit": (lambda: dbl.CausalLM(mlp_width=0), "mlp_width (0) must be a whole number from 1"),
    "no hidden unit of a ViT": (lambda: dbl.ViT(mlp_width=-1), "mlp_width (-1)"),
    "no hidden unit of a DiT": (lambda: dbl.DiT(width=8, num_heads=2, mlp_ratio=0.1), "mlp_ratio (0.1)"),
    "no class": (lambda: dbl.HubImages("a/b", 8, 1, 0, batch_size=8, eval_batch_size=8), "num_classes (0)"),
    "two channels": (lambda: dbl.HubImages("a/b", 8, 2, 2, batch_size=8, eval_batch_size=8), "channels (2)"),
    "nothing to train on": (lambda: dbl.TextFiles("a.txt", **_TEXT, test_share=0.95), "must leave"),
    "one level": (lambda: dbl.InformationNoise(num_levels=1), "num_levels (1) must be a whole number from 2"),
    "no draw": (lambda: dbl.InformationNoise(num_draws=0), "num_draws (0) must be a whole number from 2"),
    "no mass above": (lambda: dbl.LogNormalNoise(p_mean=1000.0), "p_mean (1000)"),
    "no mass below": (lambda: dbl.LogNormalNoise(p_mean=-30.0), "p_mean (-30)"),
    "all levels, and more": (lambda: dbl.PartitionConfig(overlap=1e9), "overlap (1000000000.0)"),
    "one level of a partition": (lambda: dbl.Partition((1.0,), (1,)), "at least 2 levels"),
    "an image without columns": (lambda: dbl.ImageSpec("a", "b", 1, (1.0,), (1, 8), (0.0,), (1.0,)), "shape"),  # type: ignore[arg-type]
    "a list in place of a number": (lambda: dbl.DiT(width=[384]), "width ([384])"),  # type: ignore[arg-type]
    "a number in place of a list": (lambda: dbl.PartitionConfig(layers=3), "must be a list"),  # type: ignore[arg-type]
}
_TEXT: dict[str, Any] = {"seq_len": 8, "tokenizer": dbl.Characters("ab"), "batch_size": 8, "eval_batch_size": 8}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_meant_is_refused(case: str) -> None:
    """Catches a network without units, noise without levels, and other numbers that only fail much later."""
    make, message = IMPOSSIBLE[case]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        make()
    assert len(str(caught.value)) <= 140


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_numbers_of_the_optimizer_are_checked(optimizer: str) -> None:
    """Catches a learning rate of NaN or infinity, which AdamW and SGD accept, and a traceback of the optimizer."""
    factory, message = OPTIMIZERS[optimizer]
    with pytest.raises(UserError, match=rf"^model.recipe.optimizer.*{message}"):
        dbl.TrainingConfig(factory).make_optimizer(torch.nn.Linear(2, 2))


def test_a_learning_rate_in_a_tensor_is_left_to_the_optimizer() -> None:
    """Catches a check that refuses what torch accepts."""
    recipe = dbl.TrainingConfig(partial(AdamW, lr=torch.tensor(1e-3), foreach=False))
    assert isinstance(recipe.make_optimizer(torch.nn.Linear(2, 2)), AdamW)
