"""Scoring models that `dbl` has trained: the end-to-end causal language model of a run."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.evaluation.scoring.model import EncodedText, ScoringModel
from dbl.utils.errors import UserError


class RunScoringModel(ScoringModel):
    """An end-to-end causal language model of a run; it has no start token, so first tokens are not scored.

    Raises UserError if the run has no such model.

    Args:
        run_folder: folder of the run.
        device: device that it runs on.
    """

    def __init__(self, run_folder: str, device: torch.device | str = "cpu") -> None:
        from dbl.training.baselines.causal_lm import load_causal_lm

        self.name = run_folder
        self.device = torch.device(device)
        self._network, self._tokenizer = load_causal_lm(Path(run_folder))
        self.identity = f"{Path(run_folder).name}@{_digest(self._network, self._tokenizer.identity)}"
        self._network.to(self.device).eval().requires_grad_(False)
        self.context = self._network.seq_len
        self.start_token = None

    @override
    def encode(self, text: str) -> EncodedText:
        """Encode a text. Raises UserError also if its tokenizer would change the text."""
        try:
            tokens: Tensor = self._tokenizer.encode(text).cpu()
        except UserError as error:
            raise self._unknown(text, error) from None
        read = self._tokenizer.decode(tokens)
        if read != text:
            raise UserError(
                f"scoring model {self.name}: its tokenizer reads {text[:40]!r} as {read[:40]!r}; name one that keeps "
                "the texts as they are"
            )
        # The first token alone is given: nothing stands before it.
        num_bytes = int(self._tokenizer.byte_lengths[tokens[1:]].sum())
        return EncodedText(tokens, min(len(tokens), 1), num_bytes)

    @override
    def logits(self, tokens: Tensor) -> Tensor:
        return self._network.logits(tokens)

    @override
    def hidden(self, tokens: Tensor) -> Tensor:
        return self._network.features(tokens)

    def _unknown(self, text: str, error: UserError) -> UserError:
        """The error that names the characters that the tokenizer refuses when it is given each alone."""
        found = [repr(character) for character in sorted(set(text)) if not self._knows(character)]
        what = f"it does not know {', '.join(found)}, which the texts contain" if found else str(error)
        return UserError(f"scoring model {self.name}: {what}; name a scoring model whose tokenizer covers the texts")

    def _knows(self, character: str) -> bool:
        try:
            self._tokenizer.encode(character)
        except UserError:
            return False
        return True


def _digest(network: nn.Module, tokenizer: str) -> str:
    """Hash of all weights and their names, and of the identity of a tokenizer."""
    digest = hashlib.blake2b(tokenizer.encode(), digest_size=8)
    for name, weights in network.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
