"""Scoring models of Hugging Face, such as GPT-2 or Llama 2, from a folder or from the hub."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dbl.evaluation.scoring.model import EncodedText, ScoringModel
from dbl.utils.errors import UserError, how_to_install

_MAX_CONTEXT = 4096  # the logits of longer contexts take gigabytes


class HuggingFaceScoringModel(ScoringModel):
    """A causal language model that `transformers` can load, with weights as safetensors; code of the hub is never run.

    Raises UserError if transformers is missing, or the model cannot be loaded or is not a causal language model.

    Args:
        path_or_name: folder, or name on the hub such as `gpt2-large`; a folder is looked for first. With
            HF_HUB_OFFLINE only what was downloaded before is found.
        device: device that it runs on.
    """

    def __init__(self, path_or_name: str, device: torch.device | str = "cpu") -> None:
        self.name = path_or_name
        self.device = torch.device(device)
        self._tokenizer, self._network = _load(path_or_name)
        self._network.to(self.device).requires_grad_(False)  # already in evaluation mode
        self.start_token = self._tokenizer.bos_token_id
        self.context = min(getattr(self._network.config, "max_position_embeddings", _MAX_CONTEXT), _MAX_CONTEXT)
        self.identity = f"{path_or_name}@{_version(path_or_name, self._network)}"
        self._check_causal()

    @override
    def encode(self, text: str) -> EncodedText:
        # A text that spells out a special token is read letter by letter.
        found = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        tokens, places = found["input_ids"], found["offset_mapping"]
        self._check_known(text, tokens, places)
        if self.start_token is not None:
            return EncodedText(torch.tensor(tokens, dtype=torch.long), 0, len(text.encode()))
        given = _first_characters(places)
        rest = text[places[given - 1][1] :] if given else ""
        return EncodedText(torch.tensor(tokens, dtype=torch.long), given, len(rest.encode()))

    @override
    def logits(self, tokens: Tensor) -> Tensor:
        return self._network(tokens, use_cache=False).logits

    @override
    def hidden(self, tokens: Tensor) -> Tensor:
        return self._network.base_model(tokens, use_cache=False).last_hidden_state

    def _check_known(self, text: str, tokens: list[int], places: list[tuple[int, int]]) -> None:
        unknown = self._tokenizer.unk_token_id
        if unknown is None or unknown not in tokens:
            return
        found = {text[start:end] for token, (start, end) in zip(tokens, places, strict=True) if token == unknown}
        raise UserError(
            f"scoring model {self.name}: it does not know {', '.join(map(repr, sorted(found)))}, found in the texts; "
            "name a scoring model whose tokenizer covers them"
        )

    @torch.no_grad()
    def _check_causal(self) -> None:
        """Raise UserError for a masked language model: it loads like a causal one but sees the tokens to predict."""
        tokens = torch.zeros(2, min(self.context, 8), dtype=torch.long, device=self.device)
        tokens[1, -1] = 1
        first, second = self.logits(tokens)[:, :-1].float()
        if (first - second).abs().max() > 1e-4 * first.abs().max():
            raise UserError(
                f"scoring model {self.name}: it sees later tokens; name a causal language model such as gpt2"
            )


def _load(name: str) -> tuple[Any, Any]:
    """Tokenizer and network, with all weights from the files, in float32 whatever their stored type."""
    try:
        from huggingface_hub import is_offline_mode
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"scoring model {name}: transformers cannot be imported ({error}): {how_to_install('text')}"
        ) from None
    options: dict[str, Any] = {"local_files_only": Path(name).is_dir() or is_offline_mode(), "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, use_safetensors=True, **options
        )
    except Exception as error:  # transformers raises many kinds for what is missing, damaged or unreachable
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"scoring model {name}: it cannot be loaded ({reason[:50]}); name a folder, or a model of the hub, "
            "with a causal language model"
        ) from None
    network, facts = loaded
    absent = sorted(facts["missing_keys"]) + sorted(map(str, facts["mismatched_keys"]))
    if absent:
        raise UserError(f"scoring model {name}: its files lack weights of a causal language model, such as {absent[0]}")
    if not tokenizer.is_fast:
        raise UserError(
            f"scoring model {name}: its tokenizer has no fast form of `tokenizers`; name another scoring model"
        )
    return tokenizer, network


def _first_characters(places: list[tuple[int, int]]) -> int:
    """Smallest number of tokens, at least 1 if there are any, that end where a character ends."""
    return next((i for i in range(1, len(places)) if places[i][0] >= places[i - 1][1]), len(places))


def _version(name: str, network: Any) -> str:
    """The commit on the hub, or a digest of all files of a folder."""
    if not Path(name).is_dir():
        return str(network.config._commit_hash)
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in Path(name).iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
