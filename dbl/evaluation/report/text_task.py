"""What reports on text have in common, whatever the architecture."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from dbl.evaluation.report.glossary import TEXT_METRICS, Metrics, start_of
from dbl.evaluation.report.task import Task

# Tokenizers whose tokens have a name of their own.
_TOKENS = {"Characters": "character", "Bytes": "byte"}


class TextTask(Task):
    """Tokens of sequences; abstract, a subclass says how they are found."""

    sample = "sequence"
    samples = "sequences"
    unit = "token"
    label = "token"
    labels = "tokens"

    @property
    @abstractmethod
    def baseline_kind(self) -> str:
        """What the end-to-end network is."""

    @property
    @abstractmethod
    def passes(self) -> str:
        """How passes through layers are counted, and why the numbers of steps differ if they do."""

    @property
    @abstractmethod
    def bound(self) -> str:
        """What the bound is, in one or two sentences."""

    @property
    def own_parts(self) -> str:
        """Why the blocks have other parameters than the end-to-end network."""
        return "each block has its own embedding of the tokens and its own output layer"

    @property
    def token(self) -> str:
        """What a token is: a character, a byte, or just a token."""
        return _TOKENS.get(self.data["tokenizer"], "token")

    @property
    def bit_unit(self) -> str:
        """What `bits_per_token` are for. Those of a byte are not called so: ends of documents cost bits too."""
        return "character" if self.token == "character" else "token"

    @property
    def metrics(self) -> Metrics:
        """See `Task.metrics`."""
        title, meaning = TEXT_METRICS["bits_per_token"]
        own = f" A token is a {self.token} here." if self.token != "token" else ""
        changed = {"bits_per_token": (title.replace("token", self.bit_unit), meaning + own)}
        return {name: changed.get(name, found) for name, found in TEXT_METRICS.items()}

    @property
    def data_set(self) -> str:
        """See `Task.data_set`."""
        kind = "tokens" if self.token == "token" else f"tokens, each a {self.token}"
        return (
            f"{self.data['name']} (text, in sequences of {self.data['tokens']} tokens from a vocabulary of "
            f"{self.data['num_classes']:,} {kind})"
        )

    @property
    def test_split(self) -> str:
        """See `Task.test_split`."""
        return f"{super().test_split} of {self.data['tokens']} tokens"

    @property
    def baseline(self) -> str:
        """See `Task.baseline`."""
        blocks, whole = self.report["sides"]
        totals = [sum(part["parameters"] for part in side["parts"]) for side in (blocks, whole)]
        first, second = blocks["parts"][0], whole["parts"][0]
        many = "as many" if first["steps"] == second["steps"] else f"{second['steps']:,}"
        return (
            f"Beside {self.the_blocks} stands a network of the same layers trained *end to end*, all at once: "
            f"{self.baseline_kind}. Both had equal compute: equally many passes of a sequence through a layer in "
            f"training, but for the rounding to whole steps. {self.passes} So {self.each_block} took "
            f"{first['steps']:,} steps of {first['samples'] // first['steps']} sequences and the end-to-end network "
            f"{many}. Parameters in all: {totals[0]:,} of {self.the_blocks} and {totals[1]:,} of the end-to-end "
            f"network, as {self.own_parts}."
        )

    @property
    def likelihood(self) -> str:
        """See `Task.likelihood`."""
        num_tokens, found = self.data["num_classes"], self.report["sides"][0]["likelihood"]
        return (
            f"{self.bound} A network that knows nothing pays ln {num_tokens} = {math.log(num_tokens):.3g} nats if all "
            f"tokens are equally frequent. Mean over {found['num_scored']:,} tokens of {found['num_samples']:,} test "
            "sequences. In the picture the area of a block is its share."
        )

    @property
    def bounds(self) -> str:
        """See `Task.bounds`."""
        if not any("nats" in side["quality"] for side in self.report["sides"]):
            return ""
        what = f"Nats, bits per {self.bit_unit}, bits per byte and perplexity per token"
        if self.exact_baseline:
            return (
                f" {what} are upper bounds for {self.the_blocks}, which may be better than that, and exact for the "
                "end-to-end network."
            )
        both = " on both sides" if len(self.report["sides"]) > 1 else ""
        return f" {what} are upper bounds{both}, not exact values."

    @property
    def judged(self) -> list[str]:
        """See `Task.judged`."""
        quality = self._quality()
        if quality is None:
            return []
        top_k = "all tokens" if quality["top_k"] is None else f"the {quality['top_k']} most probable tokens"
        steps = "" if quality["num_steps"] is None else f" {quality['num_steps']} steps of the sampler;"
        scoring_model = (
            f"the scoring model is {quality['scoring_model']}"
            if quality["scoring_model"]
            else "there is no scoring model"
        )
        return [
            f"- Generated texts: {quality['num_texts']:,} test texts of which the first {quality['prompt_tokens']} "
            f"tokens were given and {quality['num_tokens']} written;{steps} temperature {quality['temperature']:g}, "
            f"drawn from {top_k}, top-p {quality['top_p']:g}; {scoring_model}. Metrics cover the written tokens alone; "
            "those of real text, of the tokens that really follow."
        ]

    @property
    def real(self) -> tuple[str, Mapping[str, float]]:
        """See `Task.real`."""
        quality = self._quality()
        return ("", {}) if quality is None else (f"{quality['num_texts']:,} real texts", quality["real"])

    @property
    def memory(self) -> str:
        """See `Task.memory`."""
        return (
            " Embeddings of tokens and output layers count as everything else does: their weights as parameters, their "
            "outputs, such as one number for each token of the vocabulary at each position, as activations."
        )

    def in_order(self, names: Sequence[str]) -> list[str]:
        """See `Task.in_order`."""
        order = list(self.metrics)
        return sorted(names, key=lambda name: order.index(start_of(self.metrics, name) or order[-1]))

    @property
    def _start(self) -> str:
        return "a start at zero" if self.report["sampler"]["temperature"] == 0 else "pure noise"

    @property
    def _schedule(self) -> str:
        return f"schedule {self.choice(self.report['sampler']['schedule'])}"

    def _quality(self) -> Mapping[str, Any] | None:
        return next((side["text_quality"] for side in self.report["sides"] if side["text_quality"]), None)
