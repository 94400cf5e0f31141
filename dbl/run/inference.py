"""How an assembled network is used: the group `inference` of a config, of which a model folder keeps a copy."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dbl.denoising.sampling import Sampler
from dbl.run.contract import Contract
from dbl.utils.checks import SEED, check_numbers, whole
from dbl.utils.errors import UserError, suggestion
from dbl.utils.serialization import from_plain
from dbl.utils.yaml_files import read_keys


@dataclass(frozen=True)
class InferenceConfig:
    """How an assembled network is used.

    Args:
        sampler: method, levels and guidance.
        keep_in_memory: `all` keeps every block in memory, `one` only the active block; the output is the same.
        draws: start noises for each test image of a classifier; the accuracy of each draw is reported.
        num_images: images in a sample grid.
        ensemble: whether all blocks together denoise at each level, for causal language models with the clean stream
            alone; see `dbl.inference.ensemble`.
        seed: random seed of the start noise.

    Example:
        >>> import dbl
        >>> inference = dbl.InferenceConfig(dbl.Sampler(method="heun", num_steps=20), keep_in_memory="one")
        >>> inference.sampler.num_steps
        20
    """

    sampler: Sampler = field(default_factory=Sampler)
    keep_in_memory: Literal["all", "one"] = "all"
    draws: int = 3
    num_images: int = 100
    ensemble: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers("inference", self, draws=whole(1, 10_000), num_images=whole(1, 100_000), seed=SEED)

    def check(self, contract: Contract) -> None:
        """Refuse what a network of this contract cannot do.

        Raises UserError if guidance is asked for where no condition was dropped in training, or ensemble or sampler are
        for another kind of network or target.
        """
        network, target = contract.config.network, contract.config.target
        drops = target.generates == "images" and getattr(network, "cond_dropout", 0) > 0
        if self.sampler.guidance_scale != 1 and not drops:
            raise UserError(
                f"inference.sampler.guidance_scale ({self.sampler.guidance_scale}) must be 1: guidance needs a network "
                "for images that was trained with cond_dropout above 0"
            )
        if self.ensemble and not (network.reads_context_alone and target.adds_evidence):
            raise UserError(
                "inference.ensemble needs contract.network CausalLM with streams=clean and contract.target.kind "
                "posterior: other blocks know their own noise levels only"
            )
        if self.ensemble and self.keep_in_memory != "all":
            raise UserError("inference.ensemble asks all blocks at once: set inference.keep_in_memory=all")
        target.check_sampler(self.sampler)


def default_inference(contract: Contract) -> InferenceConfig:
    """The settings where nobody has chosen any: the sampler of the contract's target, and the defaults of the rest."""
    return InferenceConfig(sampler=contract.config.target.default_sampler)


def restore_inference(plain: Any, contract: Contract, source: str) -> InferenceConfig:
    """The settings that `to_plain` converted.

    Raises UserError if they are not such settings, or do not fit the contract.

    Args:
        plain: JSON values.
        contract: contract of the blocks.
        source: file that messages name.
    """
    try:
        inference = from_plain(plain, InferenceConfig, key="inference")
        inference.check(contract)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return inference


def read_inference(config: Path) -> InferenceConfig:
    """The settings in the config of a run, whose other groups may be of another version of `dbl`.

    The file is data: nothing is imported for it. Raises UserError if it is damaged, or has other keys or values.
    """
    group = read_keys(config).get("inference")
    if not isinstance(group, dict) or not isinstance(group.get("sampler", {}), dict):
        raise UserError(f"{config} has no group `inference`: restore the file, or remove it to use the defaults of dbl")
    sampler = group.get("sampler", {})
    try:
        _check_keys("inference", group, InferenceConfig)
        _check_keys("inference.sampler", sampler, Sampler)
        arguments = {**group, "sampler": {"class_path": "dbl.Sampler", "init_args": sampler}}
        plain = {"class_path": "dbl.InferenceConfig", "init_args": arguments}
        return from_plain(plain, InferenceConfig, key="inference")
    except UserError as error:
        raise UserError(f"{config}: {error}") from None


def _check_keys(key: str, group: dict[Any, Any], cls: type) -> None:
    """Raise UserError unless a group has keys of a dataclass alone, and under each a single value or its own group."""
    known = [field.name for field in fields(cls)]
    for name, value in group.items():
        if name not in known:
            raise UserError(f"{key}: there is no {str(name)[:40]!r}{suggestion(str(name), known)}")
        if isinstance(value, list | dict) and name != "sampler":
            raise UserError(f"{key}.{name} must be a single value")
