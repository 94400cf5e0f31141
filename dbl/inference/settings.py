"""How an assembled network is used, and what a network of a contract cannot do."""

from dataclasses import dataclass, field
from typing import Literal

from dbl.denoising.sampling import Sampler
from dbl.run.contract import Contract
from dbl.utils.checks import SEED, check_numbers, whole
from dbl.utils.errors import UserError


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
