"""The wording of reports on text: next tokens, recurrent depth and masked diffusion."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dbl.evaluation.report.text_task import TextTask

_LENGTH = (
    "A noise level, *sigma*, is the standard deviation of the noise, in units in which the vector that stands for a "
    "token has the length 1."
)
_TRAINED_ALONE = "Each block was trained alone, without any other in memory: it learnt to"
_ONE_PASS = "Each layer is passed once in a step on either side."
# Readout -> how the noisy vector acts with `streams: clean`, whose layers do not see it.
_OUTSIDE = {
    "posterior": "only by its evidence, which Bayes' rule adds to the answer",
    "cosine": "only as a part of the answer that is added after the layers",
    "linear": "not at all",
}


class NextToken(TextTask):
    """Text is written from left to right."""

    condition = "the text before"
    shuffled = "another sequence's text before"
    control = "that of another sequence"
    reconstruction = "cost of reading the token from the last vector (reconstruction)"

    @property
    def purpose(self) -> str:
        """See `Task.purpose`."""
        return (
            "It writes text from left to right: from the tokens so far it finds the next one, by denoising a vector "
            "that stands for it."
        )

    @property
    def training(self) -> str:
        """See `Task.training`."""
        return (
            f"{_TRAINED_ALONE} remove noise from the vector of the next token within its own range of levels, given "
            "the true tokens before. For each token that is written, the blocks are run one after another, from the "
            f"highest noise to the lowest, and turn {self._start} into its vector. {_LENGTH}"
        )

    @property
    def baseline_kind(self) -> str:
        """See `TextTask.baseline_kind`."""
        if self.exact_baseline:
            return "an ordinary language model with cross-entropy and no noise"
        return "one denoiser for all noise levels"

    @property
    def own_parts(self) -> str:
        """See `TextTask.own_parts`."""
        noise = ", and layers that know the noise level" if self._two_streams and self.exact_baseline else ""
        return super().own_parts + noise

    @property
    def passes(self) -> str:
        """See `TextTask.passes`."""
        if self._two_streams:
            return (
                "In a block two streams pass through each layer, clean tokens and noisy vectors, in the end-to-end "
                "network one does."
            )
        return _ONE_PASS

    @property
    def bound(self) -> str:
        """See `TextTask.bound`."""
        return (
            "An upper bound on what a token of a test text costs in nats (minus the natural logarithm of its "
            "probability), given the tokens before it. It is a sum over noise levels of the blocks' own squared errors "
            "([variational diffusion](https://arxiv.org/abs/2107.00630)), so each block has its share."
        )

    @property
    def costs(self) -> list[str]:
        """See `Task.costs`."""
        return [
            "- *training compute*: sequences that passed through a part in training, times the passes through its "
            f"layers, summed over the parts. {self.passes}",
            f"- *layers run for one token*: {self._layers_of_a_token}",
        ]

    @property
    def sampler(self) -> str:
        """See `Task.sampler`."""
        sampler = self.report["sampler"]
        return (
            f"{sampler['method']}, {sampler['num_steps']} steps for each token; {self._schedule}; temperature "
            f"{sampler['temperature']:g} (factor on the start noise)"
        )

    @property
    def blocks_and_noise(self) -> str:
        """See `Task.blocks_and_noise`."""
        kind = self.report["target"]["init_args"].get("kind")
        lines = []
        if kind == "posterior":
            lines.append(
                " The readout is a *posterior*: what the network says of the text before is a prior over tokens, and "
                "by Bayes' rule the noisy vector adds as evidence how well it agrees with each token's vector. At low "
                "noise the evidence alone names the token."
            )
        if self._clean_stream:
            lines.append(
                " With `streams: clean` the layers see neither the noisy vector nor its level. The vector "
                f"acts {_OUTSIDE.get(str(kind), 'after the layers')}: each block is a language model of its own, "
                "asked at its own levels, and what differs between levels is how much is left for it to say."
            )
        if self._committee:
            lines.append(
                " Here the blocks form a *ensemble* (`inference.ensemble`): at every level the mean of what all of "
                "them say of the text before is used, which costs nothing, since each reads every token anyway. The "
                "bound, its shares and the texts are the ensemble's; losses of single blocks, and what each block "
                "does, are measured on the blocks alone. They were trained without knowing of each other."
            )
        return "".join(lines)

    def layers_run(self, side: Mapping[str, Any]) -> float:
        """See `Task.layers_run`: each layer once to read a token; noisy vectors pass too if there are two streams."""
        reading = sum(part["layers"] for part in side["parts"])
        if side["parts"][0]["sigma_high"] is None or self._clean_stream:
            return float(reading)
        return super().layers_run(side) + (reading if self._two_streams else 0)

    @property
    def _layers_of_a_token(self) -> str:
        if self._clean_stream:
            return "each layer reads it once; the sampler's steps only repeat the readout."
        reading = ", and each layer once more to read the token" if self._two_streams else ""
        return f"network calls of each part for one token, times its layers{reading}."

    @property
    def _committee(self) -> bool:
        return bool((self.report["sides"][0]["likelihood"] or {}).get("own_blocks"))

    @property
    def _two_streams(self) -> bool:
        return bool(self.sizes.get("streams") == "two")

    @property
    def _clean_stream(self) -> bool:
        return bool(self.sizes.get("streams") == "clean")


class Recurrent(NextToken):
    """Text is written from left to right by a network that passes often through the same layers."""

    the_blocks = "the block"
    each_block = "the block"
    titles = MappingProxyType({"blocks": "one block", "end_to_end": "end to end"})

    @property
    def pieces(self) -> str:
        """See `Task.pieces`."""
        return "trained as one block"

    @property
    def purpose(self) -> str:
        """See `Task.purpose`."""
        return (
            "It writes text from left to right, and passes often through the same layers. After the layers that read "
            f"the tokens so far ({self.sizes['prelude']}) those of the core ({self._core}) are passed again and again, "
            "each time with a better idea of the next token; the others read the answer from the last state "
            f"({self.sizes['coda']})."
        )

    @property
    def training(self) -> str:
        """See `Task.training`."""
        return (
            "In training a sequence passes through the core once: the network learnt to remove noise of any level from "
            "the vectors of the next tokens. In use it passes through the same layers at falling levels, from the "
            f"highest noise to the lowest, and so turns {self._start} into the vector of the next token. {_LENGTH}"
        )

    @property
    def baseline_kind(self) -> str:
        """See `TextTask.baseline_kind`."""
        return (
            "a language model without noise that in each step of its training passes through the core about "
            f"{self.sizes['mean_iterations']} times ([recurrent depth](https://arxiv.org/abs/2502.05171)), with "
            f"gradients through the last {self.sizes['backprop_iterations']} passes only (truncated back-propagation)"
        )

    @property
    def own_parts(self) -> str:
        """See `TextTask.own_parts`."""
        return "the layers of the block know the noise level"

    @property
    def passes(self) -> str:
        """See `TextTask.passes`."""
        return (
            "A pass forward counts as a third of a pass and a pass backward as two thirds, and the end-to-end network "
            "makes many of them through its core in a step, the block one."
        )

    @property
    def sampler(self) -> str:
        """See `Task.sampler`."""
        return super().sampler.replace("steps for each token", "steps, each a pass through the core, for each token")

    @property
    def likelihood(self) -> str:
        """See `Task.likelihood`."""
        text = super().likelihood
        if not self.exact_baseline:
            return text
        return f"{text} The end-to-end network passed {self.sizes['mean_iterations']} times through its core for this."

    def layers_run(self, side: Mapping[str, Any]) -> float:
        """See `Task.layers_run`."""
        if side["parts"][0]["sigma_high"] is not None:
            return sum(calls * part["layers"] for calls, part in zip(side["calls"], side["parts"], strict=True))
        return float(self.sizes["num_layers"] + self._core * (self.sizes["mean_iterations"] - 1))

    @property
    def _layers_of_a_token(self) -> str:
        return (
            "those of one position; the core counts once for each pass. Nothing is kept from one token to the next: "
            "all tokens so far pass through the layers again."
        )

    @property
    def _core(self) -> int:
        return int(self.sizes["num_layers"] - self.sizes["prelude"] - self.sizes["coda"])


class HiddenTokens(TextTask):
    """Hidden tokens are filled in."""

    unit = "text"
    level = "the masking probability"
    levels = "masking probabilities"
    condition = "the shown tokens"
    shuffled = "the shown tokens of another sequence"
    control = "those of another sequence"
    reconstruction = "cost of the tokens that are hidden at the lowest level (reconstruction)"

    @property
    def purpose(self) -> str:
        """See `Task.purpose`."""
        return (
            "It fills in hidden tokens: of a text with gaps it finds all that is missing, from what stands before and "
            "after."
        )

    @property
    def training(self) -> str:
        """See `Task.training`."""
        return (
            f"{_TRAINED_ALONE} find hidden tokens within its own range of levels. Run one after another, from the "
            "highest level to the lowest, the blocks write a text that is hidden at first: each step shows some more "
            "of its tokens. A level is no noise here but the *masking probability*, with which each token is hidden: "
            "at 1 all are ([masked diffusion](https://arxiv.org/abs/2406.04329))."
        )

    @property
    def baseline_kind(self) -> str:
        """See `TextTask.baseline_kind`."""
        return "one denoiser for all levels"

    @property
    def passes(self) -> str:
        """See `TextTask.passes`."""
        return _ONE_PASS

    @property
    def bound(self) -> str:
        """See `TextTask.bound`."""
        return (
            "An upper bound on what a token of a test text costs in nats (minus the natural logarithm of its "
            "probability) if the tokens of a sequence are found in any order. It is the integral over masking "
            "probabilities of what the hidden tokens cost the blocks "
            "([masked diffusion](https://arxiv.org/abs/2406.04329)), so each block has its share."
        )

    @property
    def costs(self) -> list[str]:
        """See `Task.costs`."""
        return [
            "- *training compute*: sequences that passed through a part in training, times its layers, summed over the "
            "parts.",
            "- *layers run for one text*: network calls of each part for a whole text, times its layers. All tokens "
            "of the text pass together.",
        ]

    @property
    def sampler(self) -> str:
        """See `Task.sampler`."""
        sampler = self.report["sampler"]
        return f"{sampler['method']}, {sampler['num_steps']} steps for a whole text; {self._schedule}"
