"""Text whose distribution is known, tiny networks for it, and networks that know the distribution.

C = 5 characters, T = 6 tokens of a sequence, D = 8 of a target vector.
"""

from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from evaluation_toy import random_denoiser
from torch import Tensor, nn

from dbl.data import Characters, Split, TextData
from dbl.denoising.denoiser import GaussianDenoiser
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import MaskTarget, TableReadout, TokenTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.inference.stack import BlockStack
from dbl.networks import CausalLM, MaskedLM, RecurrentLM
from dbl.networks.causal_lm import Context
from dbl.run.contract import Contract, ContractConfig
from dbl.run.inference import InferenceConfig
from dbl.training.baselines import EndToEndCausalLM
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.training.callbacks.ema import EMA
from dbl.training.module import TrainingModule
from dbl.training.noisy_data import NoisyData

ALPHABET = "aböd\n"  # one of them has two bytes
NUM_TOKENS, SEQ_LEN, DIM = len(ALPHABET), 6, 8

# [C, C] row i: probabilities of the token after token i.
TRANSITIONS = torch.tensor(
    [
        [0.60, 0.20, 0.10, 0.06, 0.04],
        [0.05, 0.05, 0.70, 0.10, 0.10],
        [0.20, 0.20, 0.20, 0.20, 0.20],
        [0.25, 0.05, 0.05, 0.60, 0.05],
        [0.30, 0.05, 0.05, 0.30, 0.30],
    ],
    dtype=torch.float64,
)


def chain_text(length: int, seed: int) -> str:
    """Characters that follow `TRANSITIONS`."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(length, generator=generator, dtype=torch.float64).tolist()
    cumulative = [row.tolist() for row in TRANSITIONS.cumsum(1)]
    tokens = [0]
    for number in uniform[1:]:
        row = cumulative[tokens[-1]]
        tokens.append(min(sum(number >= end for end in row), NUM_TOKENS - 1))
    return "".join(ALPHABET[token] for token in tokens)


def chain_entropy() -> float:
    """Nats of the next token given the last one, in the long run."""
    stationary = torch.linalg.matrix_power(TRANSITIONS, 1000)[0]
    return -float((stationary[:, None] * TRANSITIONS * TRANSITIONS.log()).sum())


class ChainText(TextData):
    """A chain of characters: 48 training sequences and as many test sequences as wanted."""

    def __init__(self, num_test: int = 16, batch_size: int = 8, eval_batch_size: int = 7, seed: int = 0) -> None:
        super().__init__(SEQ_LEN, Characters(ALPHABET), batch_size, eval_batch_size, validation_share=0.2, seed=seed)
        self.num_test = num_test

    def load(self, split: Split) -> list[str] | None:
        """60 sequences, of which validation takes a fifth, and the test."""
        if split == "validation":
            return None
        num = 60 if split == "train" else self.num_test
        return [chain_text(num * SEQ_LEN + 1, seed=int(split == "test"))]


_SMALL = {"num_layers": 3, "width": 16, "num_heads": 2}
_TOKENS = {"target": TokenTarget(dim=DIM), "noise": InformationNoise(0.1, 40.0, num_draws=512)}
_TERMS = {
    "clean": ContractConfig(CausalLM(**_SMALL, mlp_width=24, streams="clean"), **_TOKENS, partition=PartitionConfig(3)),  # type: ignore[arg-type]
    "two": ContractConfig(CausalLM(**_SMALL, mlp_width=24, streams="two"), **_TOKENS, partition=PartitionConfig(3)),  # type: ignore[arg-type]
    "recurrent": ContractConfig(
        RecurrentLM(**_SMALL, mlp_width=24, prelude=1, coda=1, mean_iterations=4, backprop_iterations=2),  # type: ignore[arg-type]
        **_TOKENS,  # type: ignore[arg-type]
        partition=PartitionConfig(1),
    ),
    "masked": ContractConfig(MaskedLM(**_SMALL, mlp_width=24), MaskTarget(), MaskingNoise(), PartitionConfig(3)),  # type: ignore[arg-type]
}


@cache
def text_contract(kind: str) -> Contract:
    """The contract of a `CausalLM` (`clean`, `two`), a `RecurrentLM` (`recurrent`) or a `MaskedLM` (`masked`)."""
    return _TERMS[kind].build(ChainText().spec)


def text_sampler(kind: str, num_steps: int = 6) -> Sampler:
    """A sampler that fits the kind."""
    return Sampler(method="ancestral" if kind == "masked" else "euler", schedule="quantile", num_steps=num_steps)


def text_stack(kind: str, **options: object) -> BlockStack:
    """A stack of blocks with random weights."""
    contract = text_contract(kind)
    inference = InferenceConfig(sampler=text_sampler(kind), **options)  # type: ignore[arg-type]
    return BlockStack(contract, lambda block: random_denoiser(contract, block), inference).eval()


class KnownNetwork(nn.Module):
    """A clean stream that says the logarithm of a distribution of the next token given the last one.

    Args:
        distribution: [C, C] probabilities.
    """

    def __init__(self, distribution: Tensor = TRANSITIONS) -> None:
        super().__init__()
        self.rows = nn.functional.pad(distribution.log().float(), (0, DIM - NUM_TOKENS))

    def extend(self, tokens: Tensor, context: Context | None = None) -> Context:
        outputs = self.rows[tokens]
        if context is not None and context.outputs is not None:
            outputs = torch.cat([context.outputs, outputs], dim=1)
        return Context((), outputs)

    def forward(self, noisy: Tensor | None, c_noise: Tensor | None, cond: Tensor | Context) -> Tensor:
        outputs = (cond if isinstance(cond, Context) else self.extend(cond)).outputs
        assert outputs is not None
        return outputs if noisy is None else outputs[:, -noisy.shape[1] :]


def say_as_it_is(linear: nn.Linear) -> None:
    """Make a readout whose logits are the first C numbers of the network's output."""
    with torch.no_grad():
        linear.weight.copy_(torch.eye(*linear.weight.shape))
        linear.bias.zero_()


def known_denoiser(distribution: Tensor = TRANSITIONS) -> GaussianDenoiser:
    """A block whose network knows the distribution, under the posterior readout: the best denoiser of any level."""
    denoiser = text_contract("clean").denoiser(0)
    assert isinstance(denoiser, GaussianDenoiser)
    assert isinstance(denoiser.readout, TableReadout)
    say_as_it_is(denoiser.readout.linear)
    denoiser.network = KnownNetwork(distribution)
    return denoiser.eval().requires_grad_(False)


def known_stack(**options: object) -> BlockStack:
    """Three blocks that know the distribution of the text."""
    inference = InferenceConfig(sampler=text_sampler("clean", num_steps=24), **options)  # type: ignore[arg-type]
    return BlockStack(text_contract("clean"), lambda block: known_denoiser(), inference).eval()


def known_baseline() -> EndToEndCausalLM:
    """An end-to-end language model that knows the distribution of the text."""
    part = EndToEndCausalLM(text_contract("clean"))
    part.network.body = KnownNetwork()  # type: ignore[assignment]
    say_as_it_is(part.network.head)
    return part.eval()


def randomised(part: TrainingModule) -> TrainingModule:
    """A part whose weights are all random: as built, some are zeros that hide what they stand behind."""
    generator = torch.Generator().manual_seed(7)
    for parameter in part.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return part.eval()


def fit_text(
    part: TrainingModule, folder: Path, steps: int = 6, resume: bool = False, *callbacks: L.Callback, **options: Any
) -> None:
    """Train a part on `ChainText` and keep its checkpoint at `folder`/<part>/checkpoints/last.ckpt.

    Further options are the trainer's.
    """
    path = folder / part.part / "checkpoints" / "last.ckpt"
    data = ChainText(seed=part.seed)
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=options.pop("logger", False),
        callbacks=[EMA(0.9), LastCheckpoint(str(path), every_n_steps=2), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        **options,
    )
    batches = NoisyData(data, part) if isinstance(part, DiffusionBlock) else data
    trainer.fit(part, datamodule=batches, ckpt_path=path if resume else None, weights_only=True)
