"""Quality of generated texts: variety, perplexity under a scoring model and MAUVE, beside those of real texts.

Axes: n texts, N batch, P tokens of a prompt, K sequences read at once, T + 1 tokens of a sequence.
"""

from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dbl.data.splits import evenly_spaced
from dbl.denoising.decoding import DECODING, Decoding
from dbl.evaluation.scoring import ScoringModel, open_scoring_model
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.evaluation.text_metrics import LEAST_TEXTS, check_mauve, distinct_n, mauve_scores, unigram_entropy, words
from dbl.utils.checks import SEED, check_numbers, whole
from dbl.utils.errors import UserError
from dbl.utils.progress import tracked

_NUM_SHOWN = 4
_READ_AT_ONCE = 4096


class TextQuality(L.Callback):
    """Continue beginnings of test texts at the end of a test and compare the continuations with the real ones.

    For a stack or another module with `text_generator(decoding, num_steps, seed)`, and data with a `tokenizer`; other
    modules are left alone. All metrics are those of the continuations alone, without their prompts; the real
    continuations have as many tokens. Words are separated by white space. Raises UserError if a number is impossible,
    or MAUVE is asked for without a scoring model or with too few texts.

    Args:
        num_texts: number of texts to continue, evenly spaced among those test texts that are long enough; 0 turns it
            off. MAUVE needs at least 20 (usual: 1,000 to 5,000).
        num_tokens: tokens generated for each text.
        prompt_tokens: tokens from the beginning of a test text that the network is given.
        batch_size: texts generated at once.
        scoring_model: causal language model that judges: a run folder, a folder of Hugging Face or a name on its hub,
            such as `gpt2-large`; null for no perplexity.
        mauve: whether to compute MAUVE too, with the scoring model's features; the mean over five starts of its
            clusters.
        temperature: as in `Decoding`.
        top_k: as in `Decoding`.
        top_p: as in `Decoding`.
        num_steps: steps of the sampler for each token (of masked text for all of them); null as in `inference`.
        seed: random seed of generation and of MAUVE's clusters.

    Attributes:
        result: JSON values of the last comparison: settings, `scoring_model` (its identity), `metrics` and
            `real` (by name), `texts` (some prompts with their continuations); None before, and where nothing was
            compared.
    """

    def __init__(
        self,
        num_texts: int = 0,
        num_tokens: int = 64,
        prompt_tokens: int = 16,
        batch_size: int = 32,
        scoring_model: str | None = None,
        mauve: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        num_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        check_numbers("text_quality", {"temperature": temperature, "top_k": top_k, "top_p": top_p}, **DECODING)
        self.num_texts = num_texts
        self.num_tokens = num_tokens
        self.prompt_tokens = prompt_tokens
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        check_numbers(
            "text_quality",
            self,
            num_texts=whole(0, 10**6),
            num_tokens=whole(1, 10**6),
            prompt_tokens=whole(1, 10**6),
            batch_size=whole(1, 10**6),
            num_steps=whole(1, 100_000, optional=True),
            seed=SEED,
        )
        if mauve and scoring_model is None:
            raise UserError("text_quality.mauve needs features: set text_quality.scoring_model, e.g. to gpt2-large")
        if mauve and 0 < num_texts < LEAST_TEXTS:
            raise UserError(f"text_quality.num_texts ({num_texts}) must be at least {LEAST_TEXTS} for MAUVE")
        self.scoring_model = scoring_model
        self.mauve = mauve
        self.decoding = Decoding(temperature, top_k, top_p)
        self.result: dict[str, Any] | None = None

    def prepare(self, data: Any) -> None:
        """Check, before any training, that texts fit, that the scoring model can be loaded, and MAUVE computed.

        Raises UserError if one of these fails.

        Args:
            data: DataModule for the test; there is nothing to check if it is not text.
        """
        if self.num_texts == 0 or not hasattr(data, "tokenizer"):
            return
        self._chosen(data)
        if self.mauve:
            check_mauve()
        if self.scoring_model is not None:
            open_scoring_model(self.scoring_model)

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate, compare, log and keep the result."""
        self.result = None
        writer = pl_module.stack if isinstance(pl_module, StackEvaluation) else pl_module
        if self.num_texts == 0 or not hasattr(writer, "text_generator"):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "tokenizer"):
            raise UserError("text_quality: the test needs the texts as a DataModule of dbl (TextData)")
        self.result = self._compare(trainer, writer, data)
        for name, value in self.result["metrics"].items():
            pl_module.log(f"test/{name}", value)

    def _compare(self, trainer: L.Trainer, writer: Any, data: Any) -> dict[str, Any]:
        indices, tokens = self._chosen(data)
        prompts, endings = tokens[:, : self.prompt_tokens], tokens[:, self.prompt_tokens :]
        scoring_model = None if self.scoring_model is None else open_scoring_model(self.scoring_model, writer.device)
        real = [data.tokenizer.decode(ids) for ids in endings]
        # Real texts first: text that the scoring model cannot read is found before the long generation.
        real_metrics = _metrics(real, scoring_model)
        # Callbacks run outside the context that gives test steps the trainer's precision.
        with trainer.precision_plugin.test_step_context():
            continued = self._continued(writer, prompts, indices)
        generated = [data.tokenizer.decode(ids) for ids in continued]
        metrics, mauve_values = _metrics(generated, scoring_model), []
        if self.mauve and scoring_model is not None:
            # Empty texts have no last token: mauve-text leaves them out too.
            of_real, of_generated = (scoring_model.features(list(filter(None, texts))) for texts in (real, generated))
            mauve_values = mauve_scores(of_real, of_generated, self.seed)
            metrics["mauve"] = fmean(mauve_values)
        return {
            "num_texts": self.num_texts,
            "num_tokens": self.num_tokens,
            "prompt_tokens": self.prompt_tokens,
            **asdict(self.decoding),
            "num_steps": self.num_steps,
            "seed": self.seed,
            "scoring_model": scoring_model.identity if scoring_model is not None else None,
            "metrics": metrics,
            "mauve_values": mauve_values,
            "mauve_standard_deviation": stdev(mauve_values) if mauve_values else None,
            "real": real_metrics,
            "texts": [
                {"prompt": data.tokenizer.decode(ids), "generated": text}
                for ids, text in zip(prompts[:_NUM_SHOWN], generated, strict=False)
            ],
        }

    def _chosen(self, data: Any) -> tuple[Tensor, Tensor]:
        """Indices [n] of the test texts that are continued, and their first tokens [n, prompt + continuation]."""
        length = self.prompt_tokens + self.num_tokens
        usable = []
        for indices in torch.arange(len(data.split("test"))).split(_READ_AT_ONCE):
            tokens = data.batch("test", indices)["tokens"]  # K, T + 1
            if length > tokens.shape[1] - 1:
                raise UserError(
                    f"text_quality: prompt_tokens ({self.prompt_tokens}) and num_tokens ({self.num_tokens}) together "
                    f"exceed the {tokens.shape[1] - 1} tokens of a sequence; reduce one of them"
                )
            usable.append(indices[(tokens[:, :length] >= 0).all(dim=1)])  # padding is negative
        found = torch.cat([torch.zeros(0, dtype=torch.long), *usable])
        if len(found) < self.num_texts:
            raise UserError(
                f"text_quality.num_texts ({self.num_texts}): only {len(found)} test texts have {length} tokens; reduce "
                "num_texts, prompt_tokens or num_tokens"
            )
        chosen = found[evenly_spaced(len(found), self.num_texts)]
        return chosen, data.batch("test", chosen)["tokens"][:, :length]

    def _continued(self, writer: Any, prompts: Tensor, indices: Tensor) -> Tensor:
        """[n, num_tokens] on the CPU; draws belong to the index of a text, so `batch_size` does not change them."""
        generator = writer.text_generator(self.decoding, self.num_steps, self.seed)
        parts = []
        batches = tracked(prompts.split(self.batch_size), "texts", "text")
        for rows, places in zip(batches, indices.split(self.batch_size), strict=True):
            part = generator.generate(rows.to(writer.device), self.num_tokens, places.to(writer.device))
            assert part.shape == (len(rows), self.num_tokens), part.shape
            parts.append(part.cpu())
        return torch.cat(parts)


def _metrics(texts: list[str], scoring_model: ScoringModel | None) -> dict[str, float]:
    """Metrics of some texts, by the names they are logged with."""
    parts = [words(text) for text in texts]
    metrics = {"distinct_2": distinct_n(parts, 2), "unigram_entropy": unigram_entropy(parts)}
    if scoring_model is not None:
        score = scoring_model.nats(texts)
        metrics |= {"gen_ppl": score.perplexity, "gen_bpb": score.bits_per_byte}
    return metrics
