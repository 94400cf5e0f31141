"""The causal language model trained end to end with plain cross-entropy."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import TextSpec
from dbl.data.text.tokenizer import Tokenizer
from dbl.denoising.decoding import Decoding
from dbl.inference.generation import CausalGenerator, LanguageModel, TextGenerator
from dbl.networks import CausalLM
from dbl.networks.causal_lm import CausalNetwork, Context
from dbl.run.assembly import read_part
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder, run_tokenizer
from dbl.training.baselines.text import EndToEndText
from dbl.training.config import TrainingConfig
from dbl.utils.errors import UserError
from dbl.utils.seeding import seeded


class CausalModel(nn.Module):
    """The clean stream of all layers, with a linear readout from the width D of the blocks' targets.

    Args:
        sizes: sizes of the whole network, as in the contract.
        data: vocabulary and length of the sequences.
        target_shape: shape [T, D] of the blocks' targets.
        table: [C, D] frozen table, for networks that embed their input with it.
    """

    def __init__(self, sizes: CausalLM, data: TextSpec, target_shape: tuple[int, ...], table: Tensor | None) -> None:
        super().__init__()
        self.seq_len = data.seq_len
        plain = replace(sizes, streams="clean", conditioning_width=None)  # no noise level modulates it
        self.body: CausalNetwork = plain.build(data, target_shape, sizes.num_layers, table)
        self.head = nn.Linear(target_shape[1], data.num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [N, T, C], as `logits`."""
        return self.logits(tokens)

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits [N, T, C] of the next tokens of [N, T]."""
        return self.head(self.features(tokens))

    def features(self, tokens: Tensor) -> Tensor:
        """Features [N, T, D] from which the head reads the logits."""
        return self.body(None, None, tokens)

    def extend(self, tokens: Tensor, context: Context | None = None) -> Context:
        """Read further tokens [N, S]; see `CausalNetwork.extend`."""
        return self.body.extend(tokens, context)

    def last_logits(self, context: Context) -> Tensor:
        """Logits [N, C] of the token after the context."""
        assert context.outputs is not None
        return self.head(context.outputs[:, -1])


class EndToEndCausalLM(EndToEndText):
    """All layers of a run of `CausalLM` as one language model; arguments as in `EndToEndText`."""

    network: CausalModel

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__(contract, recipe)
        sizes = contract.config.network
        if not isinstance(sizes, CausalLM):
            raise UserError(f"EndToEndCausalLM needs contract.network CausalLM, not {type(sizes).__name__}")
        with seeded(contract.config.seed, "weights", "end_to_end"):
            self.network = CausalModel(sizes, self.text, self.target_shape, contract.table)

    @override
    def features(self, tokens: Tensor, training: bool) -> Tensor:
        return self.network.features(tokens)

    @override
    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        return CausalGenerator(LanguageModel(self.network, decoding), self.text.seq_len, seed)


def load_causal_lm(path: str | Path) -> tuple[CausalModel, Tokenizer]:
    """Load the end-to-end language model of a run, and its tokenizer. Raises UserError if there is none.

    Args:
        path: run folder of `dbl compare`, or the folder `baseline` inside.
    """
    run = RunFolder.at(path)
    run = run if run.checkpoint("end_to_end").is_file() else run.baseline()
    if not run.checkpoint("end_to_end").is_file():
        raise UserError(f"{path} has no end-to-end language model: make one with dbl compare")
    part = EndToEndCausalLM(run.load_contract())
    checkpoint = read_part(run.checkpoint("end_to_end"), "end_to_end", part.contract, "network.")
    part.network.load_state_dict(checkpoint.weights)
    return part.network.eval().requires_grad_(False), run_tokenizer(run)
