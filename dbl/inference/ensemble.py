"""All blocks of a causal language model as one denoiser: for networks that read the context alone.

A block with `streams="clean"` and the posterior readout computes the same function of the context at every noise level,
to which the evidence of the noisy vector is added. So the outputs of all blocks can be combined at any level, and since
each block reads the context anyway to write a token, the ensemble costs no further pass through a layer. Training does
not change: blocks stay independent.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.denoiser import Denoiser, GaussianDenoiser, Level, Predict, at_any_level
from dbl.denoising.readout import Adjust, Clean, Prediction
from dbl.denoising.targets import TableReadout
from dbl.denoising.vocabulary import project, without_autocast
from dbl.networks.causal_lm import CausalNetwork, Context


class Ensemble(Denoiser):
    """The denoiser whose context logits are the mean of those of all blocks.

    The mean is that of log-probabilities, so the context distribution is the geometric mean of the blocks', normalised.

    Args:
        members: denoisers of all blocks, with the clean stream alone and the posterior readout.
    """

    def __init__(self, members: Sequence[GaussianDenoiser]) -> None:
        network = EnsembleNetwork([cast(CausalNetwork, member.network) for member in members])
        super().__init__(network, members[0].loss_weight)
        self.readouts = nn.ModuleList(member.readout for member in members)

    @property
    def readout(self) -> TableReadout:
        """The first member's readout; its table is that of all members."""
        return cast(TableReadout, self.readouts[0])

    @override
    def predict(self, noisy: Tensor, sigma: Tensor | Level, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """As in `Denoiser`; cond is tokens [N, T] or what the network's `extend` made of them."""
        assert isinstance(sigma, Tensor)
        noisy, sigma = noisy.float(), sigma.float()
        outputs = torch.stack(self.network(noisy, cond), dim=-2)  # N, T, B, D
        with without_autocast(noisy):
            return self.readout.prediction(self._context_logits, outputs, noisy, sigma, adjust)

    @override
    def predictor(self, cond: Any, adjust: Adjust | None = None) -> Predict:
        outputs = torch.stack(self.network(None, cond), dim=-2)  # N, T, B, D
        with without_autocast(outputs):
            own = self._context_logits(outputs.flatten(0, 1)).unflatten(0, outputs.shape[:2])
            return at_any_level(self.readout.reader_of(own, adjust))

    def _context_logits(self, outputs: Tensor) -> Tensor:
        """[R, C] of the outputs [R, B, D] of all members."""
        # Normalised first: the logits of two blocks may differ by any constant.
        logits = [
            project(cast(TableReadout, readout).linear, output.contiguous()).log_softmax(-1)
            for readout, output in zip(self.readouts, outputs.unbind(-2), strict=True)
        ]
        return torch.stack(logits).mean(0)

    @override
    def prediction_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        return self.readout.loss(prediction, clean)


class EnsembleNetwork(nn.Module):
    """The networks of all blocks, side by side.

    Args:
        members: networks of the blocks, in order.
    """

    def __init__(self, members: Sequence[CausalNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def extend(self, tokens: Tensor, contexts: tuple[Context, ...] | None = None) -> tuple[Context, ...]:
        """Let each member read further tokens; see `CausalNetwork.extend`."""
        before: Sequence[Context | None] = [None] * len(self.members) if contexts is None else contexts
        return tuple(
            cast(CausalNetwork, member).extend(tokens, context)
            for member, context in zip(self.members, before, strict=True)
        )

    def forward(self, noisy: Tensor | None, cond: Tensor | tuple[Context, ...]) -> list[Tensor]:
        """The output [N, T', D] of each member; of noisy [N, T', D] only the length matters, see `CausalNetwork`."""
        each: Sequence[Tensor | Context] = [cond] * len(self.members) if isinstance(cond, Tensor) else cond
        return [member(noisy, None, one) for member, one in zip(self.members, each, strict=True)]
