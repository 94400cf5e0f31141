"""The denoisers: from (noisy, sigma, cond) to a denoised target, one class for each kind of noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import IGNORED
from dbl.denoising.targets import Adjust, Clean, GaussianTarget, Prediction, Readout, Target, mean_over_scored
from dbl.diffusion.gaussian import append_axes, scalings
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import NoiseDistribution


class Denoiser(nn.Module, ABC):
    """A network with what turns its answer into a denoised target.

    The network may run in low precision; everything around it runs in float32.

    Args:
        network: the raw function F of (noisy, c_noise, cond).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """Denoise, with the logits if the target is discrete.

        Args:
            noisy: [N, *target_shape].
            sigma: [N] levels.
            cond: labels [N], images [N, channels, height, width], tokens [N, T], or what the network made of them.
            adjust: a change of the network's own logits; see `Readout.forward`.
        """

    @abstractmethod
    def plain_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """[N] loss of a prediction without the weight."""

    @abstractmethod
    def loss_weight(self, sigma: Tensor) -> Tensor:
        """[N] weights of the loss at levels [N]."""

    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """The denoised target [N, *target_shape]; arguments as in `predict`."""
        return self.predict(noisy, sigma, cond).denoised

    @abstractmethod
    def training_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """[N] what is trained on, without the weight; arguments as in `loss`."""

    def loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Weighted loss of each sample [N] (paper, Eq. 5): `w(sigma) Loss(D(z_sigma, sigma, x), y)`.

        Args:
            clean: targets, conditions and labels.
            noisy: [N, *target_shape] targets with noise of level sigma.
            sigma: [N] levels.
        """
        return self.loss_weight(sigma.float()) * self.training_loss(clean, noisy, sigma)


class GaussianDenoiser(Denoiser):
    """For Gaussian noise; the only place that knows c_skip, c_out, c_in and c_noise.

    Args:
        network: see `Denoiser`; it is given `c_in noisy`.
        readout: reads F's answer.
        target: gives sigma_data and the loss weight.
    """

    def __init__(self, network: nn.Module, readout: Readout, target: GaussianTarget) -> None:
        super().__init__(network)
        self.readout = readout
        self.target = target

    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """See `Denoiser.predict`."""
        noisy, sigma = noisy.float(), sigma.float()
        output = self._output(noisy, sigma, cond)
        with torch.autocast(noisy.device.type, enabled=False):
            estimate = self._estimate(noisy, sigma, output)
            prediction: Prediction = self.readout(estimate, output, noisy, sigma, adjust)
        return prediction

    def training_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See `Denoiser.training_loss`: that of the readout."""
        noisy, sigma = noisy.float(), sigma.float()
        output = self._output(noisy, sigma, clean.cond)
        with torch.autocast(noisy.device.type, enabled=False):
            return self.readout.training_loss(self._estimate(noisy, sigma, output), output, noisy, sigma, clean)

    def _output(self, noisy: Tensor, sigma: Tensor, cond: Any) -> Tensor:
        """The network's answer in float32."""
        _, _, c_in, c_noise = scalings(sigma, self.target.sigma_data)
        output: Tensor = self.network(append_axes(c_in, noisy) * noisy, c_noise, cond)
        return output.float()

    def _estimate(self, noisy: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """`c_skip z + c_out F` (EDM, Eq. 7)."""
        c_skip, c_out, _, _ = scalings(sigma, self.target.sigma_data)
        return append_axes(c_skip, noisy) * noisy + append_axes(c_out, noisy) * output

    def plain_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """See `Denoiser.plain_loss`: that of the readout."""
        return self.readout.loss(prediction, clean)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """See `Denoiser.loss_weight`: that of the target."""
        return self.target.loss_weight(sigma)


class MaskedDenoiser(Denoiser):
    """For hidden tokens: the network is given tokens and masks, and gives logits.

    Args:
        network: see `Denoiser`; from tokens [N, T] and the masking probability as c_noise [N] to logits [N, T, C].
        weight: of the loss by level.
        mask: the token that means hidden.
    """

    def __init__(self, network: nn.Module, weight: Callable[[Tensor], Tensor], mask: int) -> None:
        super().__init__(network)
        self.weight = weight
        self.mask = mask

    def predict(self, noisy: Tensor, sigma: Tensor, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """See `Denoiser.predict`; denoised are the tokens [N, T], the most probable one where a token is hidden."""
        logits = self.network(noisy, sigma.float(), cond).float()
        if adjust is not None:
            logits = adjust(logits)
        return Prediction(torch.where(noisy == self.mask, logits.argmax(-1), noisy), logits)

    def training_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See `Denoiser.training_loss`: the same as `plain_loss`."""
        return self.plain_loss(self.predict(noisy, sigma, clean.cond), clean, noisy)

    def plain_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """[N] cross-entropy summed over the hidden tokens, divided by the number of scored tokens (paper, App. D)."""
        assert prediction.logits is not None
        return mean_over_scored(hidden_nats(prediction.logits, clean.labels, noisy, self.mask), clean.labels)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """See `Denoiser.loss_weight`: that of the masking schedule."""
        return self.weight(sigma)


def hidden_nats(logits: Tensor, labels: Tensor, noisy: Tensor, mask: int) -> Tensor:
    """[N, T] cross-entropy of the hidden tokens, 0 elsewhere; from logits [N, T, C], labels and noisy [N, T]."""
    hidden = labels.masked_fill(noisy != mask, IGNORED)
    nats = F.cross_entropy(logits.flatten(0, 1), hidden.flatten(), reduction="none", ignore_index=IGNORED)
    return nats.reshape(labels.shape)


def make_denoiser(
    network: nn.Module, target: Target, table: Tensor | None, noise: NoiseDistribution, num_classes: int
) -> Denoiser:
    """The denoiser that fits a target; its readout, if it has one, draws initial weights from torch's generator."""
    if isinstance(target, GaussianTarget):
        return GaussianDenoiser(network, target.readout(table), target)
    assert isinstance(noise, MaskingNoise)  # see Target.check
    return MaskedDenoiser(network, noise.weight, num_classes)
