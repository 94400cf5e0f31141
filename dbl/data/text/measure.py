"""What is measured of training tokens: identity and frequencies."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dbl.data.spec import TextSpec
from dbl.data.splits import evenly_spaced
from dbl.data.text.encode import EncodedText
from dbl.data.text.tokenizer import Tokenizer
from dbl.data.text.tokens import Tokens, TokenSet

# Tokens, in evenly spaced runs, that identity and frequencies of a larger text are computed from.
MAX_MEASURED_TOKENS, RUN_TOKENS = 2**26, 2**16


def measure_text(
    name: str, text: EncodedText, num_training: int, tokenizer: Tokenizer, packing: str, sequences: TokenSet
) -> TextSpec:
    """The facts about a text, from its training tokens alone.

    Each token is counted once more than it occurs: one that only other splits hold must not have frequency 0.

    `text` begins with the `num_training` training tokens, which `sequences` cut. The identity also depends on packing
    and tokenizer.
    """
    digest = hashlib.sha256(f"{num_training} {packing} {tokenizer.identity}".encode())
    digest.update(text.ends[text.ends <= num_training].numpy().tobytes())
    counts = np.ones(tokenizer.vocab_size, np.int64)
    for tokens in _measured_tokens(text.tokens, num_training):
        digest.update(tokens.tobytes())
        counts += np.bincount(tokens, minlength=len(counts))
    frequencies = tuple((counts / counts.sum()).tolist())
    spec = TextSpec(name, digest.hexdigest(), len(counts), frequencies, sequences.seq_len, tokenizer.identity)
    if packing == "stream":
        return spec
    mean_length = float(sequences.lengths.double().mean())
    return replace(spec, end=tokenizer.end_id, mean_scored=mean_length - 1)  # the first token is given


def declared_text(name: str, tokenizer: Tokenizer, seq_len: int) -> TextSpec:
    """Facts for planning, before any text is read; the frequencies are placeholders."""
    size = tokenizer.vocab_size
    return TextSpec(name, "declared", size, (1 / size,) * size, seq_len, tokenizer.identity)


def _measured_tokens(tokens: Tokens, num: int) -> Iterator[np.ndarray]:
    """Yield the first `num` tokens, or evenly spaced runs of them if they are too many."""
    num_runs = -(-num // RUN_TOKENS)
    for run in evenly_spaced(num_runs, MAX_MEASURED_TOKENS // RUN_TOKENS).tolist():
        yield tokens[np.arange(run * RUN_TOKENS, min(num, (run + 1) * RUN_TOKENS))]
