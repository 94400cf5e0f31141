"""The denoisers: from (noisy, sigma, cond) to a denoised target, one class for each kind of noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.readout import (
    Adjust,
    Clean,
    Prediction,
    Readout,
    RowPrediction,
    hidden_labels,
    mean_over_scored,
)
from dbl.denoising.vocabulary import in_network_precision, project
from dbl.diffusion.gaussian import append_axes, scalings
from dbl.networks.masked_lm import MaskedNetwork


class Denoiser(nn.Module, ABC):
    """A network, with what turns its output into a denoised target.

    The network and its projection to a vocabulary may run in low precision; everything around them runs in float32.

    Args:
        network: raw function F of (noisy, c_noise, cond).
        loss_weight: weights [N] of the loss as a function of the levels [N].
    """

    def __init__(self, network: nn.Module, loss_weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss_weight = loss_weight

    @abstractmethod
    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """Denoise, with logits if the target is discrete.

        Args:
            noisy: [N, *target_shape].
            sigma: [N] levels.
            cond: labels [N], images [N, channels, height, width], tokens [N, T], or what the network made of them.
            adjust: change of the network's own logits; see `Readout.forward`.
        """

    @abstractmethod
    def prediction_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """[N] loss of a prediction without the weight."""

    def unweighted_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """[N] training loss without the weight; arguments as in `loss`."""
        return self.prediction_loss(self.predict(noisy, sigma, clean.cond), clean, noisy)

    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """The denoised target [N, *target_shape]; arguments as in `predict`."""
        return self.predict(noisy, sigma, cond).denoised

    def loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Weighted loss of each sample [N] (paper, Eq. 5): `w(sigma) Loss(D(z_sigma, sigma, x), y)`.

        Args:
            clean: targets, conditions and labels.
            noisy: [N, *target_shape] targets with noise of level sigma.
            sigma: [N] levels.
        """
        return self.loss_weight(sigma.float()) * self.unweighted_loss(clean, noisy, sigma)


class GaussianDenoiser(Denoiser):
    """Denoiser of Gaussian noise; the only place that knows c_skip, c_out, c_in and c_noise.

    Args:
        network: as in `Denoiser`; its first input is `c_in noisy`.
        readout: from the network's output to a prediction.
        sigma_data: standard deviation of a coordinate of the clean target that preconditioning assumes.
        loss_weight: as in `Denoiser`.
    """

    def __init__(
        self, network: nn.Module, readout: Readout, sigma_data: float, loss_weight: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(network, loss_weight)
        self.readout = readout
        self.sigma_data = sigma_data

    def _preconditioned(self, noisy: Tensor, sigma: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """`c_skip z + c_out F(c_in z, c_noise)` (EDM, Eq. 7) in float32, and F itself in the network's precision."""
        c_skip, c_out, c_in, c_noise = scalings(sigma, self.sigma_data)  # EDM, Table 1
        c_skip, c_out, c_in = (append_axes(scale, noisy) for scale in (c_skip, c_out, c_in))
        output: Tensor = self.network(c_in * noisy, c_noise, cond)
        return c_skip * noisy + c_out * output.float(), output

    @override
    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        noisy, sigma = noisy.float(), sigma.float()
        estimate, output = self._preconditioned(noisy, sigma, cond)
        with torch.autocast(noisy.device.type, enabled=False):
            prediction: Prediction = self.readout(estimate, output, noisy, sigma, adjust)
        return prediction

    @override
    def unweighted_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        noisy, sigma = noisy.float(), sigma.float()
        estimate, output = self._preconditioned(noisy, sigma, clean.cond)
        with torch.autocast(noisy.device.type, enabled=False):
            return self.readout.unweighted_loss(estimate, output, noisy, sigma, clean)

    @override
    def prediction_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        return self.readout.loss(prediction, clean)


class MaskedDenoiser(Denoiser):
    """Denoiser of hidden tokens: the network sees tokens and masks, and outputs logits.

    Args:
        network: from tokens [N, T] and the masking probability as c_noise [N] to logits [N, T, C].
        loss_weight: as in `Denoiser`.
        mask: token that means hidden.
    """

    def __init__(self, network: nn.Module, loss_weight: Callable[[Tensor], Tensor], mask: int) -> None:
        super().__init__(network, loss_weight)
        self.mask = mask

    @override
    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """Tokens [N, T], the most probable one where a token is hidden, and logits; arguments as in `Denoiser`."""
        if not isinstance(self.network, MaskedNetwork):
            logits = self.network(noisy, sigma.float(), cond).float()
            logits = logits if adjust is None else adjust(logits)
            return Prediction(self._shown_or_best(logits, noisy), logits)
        features = in_network_precision(self.network(noisy, sigma.float(), cond, project=False))
        linear = self.network.head.project

        def make_logits(features: Tensor, _: Tensor) -> Tensor:
            logits = project(linear, features)
            return logits if adjust is None else adjust(logits)

        return RowPrediction(make_logits, self._shown_or_best, linear.out_features, noisy.shape, features, noisy)

    def _shown_or_best(self, logits: Tensor, noisy: Tensor) -> Tensor:
        return torch.where(noisy == self.mask, logits.argmax(-1), noisy)

    @override
    def prediction_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """[N] cross-entropy summed over the hidden tokens, divided by the number of scored tokens (paper, App. D)."""
        return mean_over_scored(prediction.nats(hidden_labels(clean.labels, noisy, self.mask)), clean.labels)
