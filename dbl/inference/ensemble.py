"""All blocks of a causal language model as one: for networks that read the context alone.

A block with `streams="clean"` and the posterior readout answers every noise level with the same function of the
context, to which the evidence of the noisy vector is added. So at any level the answers of all blocks can be combined,
and to write a token each block reads the context anyway: the ensemble costs no further pass through a layer. Training
is not touched: blocks stay independent.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dbl.denoising.denoiser import Denoiser, GaussianDenoiser
from dbl.denoising.targets import Adjust, Clean, Prediction, TableReadout
from dbl.networks.causal_lm import CausalNetwork, Context


class Ensemble(Denoiser):
    """The denoiser whose context logits are the mean of those of all blocks.

    The mean is that of log-probabilities, so the context distribution is the geometric mean of the blocks', normalised.

    Args:
        members: denoisers of all blocks, with the clean stream alone and the posterior readout.
    """

    def __init__(self, members: Sequence[GaussianDenoiser]) -> None:
        super().__init__(CommitteeNetwork([cast(CausalNetwork, member.network) for member in members]))
        self.readouts = nn.ModuleList(member.readout for member in members)
        self.target = members[0].target

    @property
    def readout(self) -> TableReadout:
        """A readout of any member, for the table, which all share."""
        return cast(TableReadout, self.readouts[0])

    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """See `Denoiser.predict`; cond is tokens [N, T] or what the network's `extend` made of them."""
        noisy, sigma = noisy.float(), sigma.float()
        outputs = self.network(noisy, cond)  # B, N, T, D
        with torch.autocast(noisy.device.type, enabled=False):
            answers = [
                cast(TableReadout, readout).linear(output.float()).log_softmax(-1)
                for readout, output in zip(self.readouts, outputs, strict=True)
            ]
            mean = torch.stack(answers).mean(0)
            return self.readout.with_evidence(mean if adjust is None else adjust(mean), noisy, sigma)

    def training_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See `Denoiser.training_loss`; its members are trained alone, so this is only measured."""
        return self.plain_loss(self.predict(noisy, sigma, clean.cond), clean, noisy)

    def plain_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """See `Denoiser.plain_loss`."""
        return self.readout.loss(prediction, clean)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """See `Denoiser.loss_weight`."""
        return self.target.loss_weight(sigma)


class CommitteeNetwork(nn.Module):
    """The networks of all blocks, side by side.

    Args:
        members: of the blocks, in order.
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

    def forward(self, noisy: Tensor, cond: Tensor | tuple[Context, ...]) -> list[Tensor]:
        """The answer [N, T', D] of each member; only the length of noisy [N, T', D] matters."""
        each: Sequence[Tensor | Context] = [cond] * len(self.members) if isinstance(cond, Tensor) else cond
        return [member(noisy, None, one) for member, one in zip(self.members, each, strict=True)]
