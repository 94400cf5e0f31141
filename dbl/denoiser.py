"""The denoiser: a raw network, preconditioning around it, and a readout behind it."""

import torch
from torch import Tensor, nn

from dbl.diffusion import append_axes, scalings
from dbl.targets import Clean, Prediction, Readout, Target


class Denoiser(nn.Module):
    """Maps (noisy, sigma, cond) to a denoised target; the only place that knows c_skip, c_out, c_in and c_noise.

    The network may run in low precision; everything around it runs in float32.

    Args:
        network: the raw function F of (scaled noisy, c_noise, cond).
        readout: reads F's answer.
        target: gives sigma_data and the loss weight.
    """

    def __init__(self, network: nn.Module, readout: Readout, target: Target) -> None:
        super().__init__()
        self.network = network
        self.readout = readout
        self.target = target

    def predict(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Prediction:
        """Denoise, with the logits if the target is discrete.

        Args:
            noisy: [N, *target_shape].
            sigma: [N] levels.
            cond: labels [N] or images [N, channels, height, width].
        """
        noisy, sigma = noisy.float(), sigma.float()
        c_skip, c_out, c_in, c_noise = scalings(sigma, self.target.sigma_data)
        output = self.network(append_axes(c_in, noisy) * noisy, c_noise, cond)
        with torch.autocast(noisy.device.type, enabled=False):
            output = output.float()
            estimate = append_axes(c_skip, noisy) * noisy + append_axes(c_out, noisy) * output  # EDM, Eq. 7
            prediction: Prediction = self.readout(estimate, output, noisy, sigma)
        return prediction

    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """The denoised target [N, *target_shape]; arguments as in `predict`."""
        return self.predict(noisy, sigma, cond).denoised

    def loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Weighted loss of each sample [N] (paper, Eq. 5): `w(sigma) Loss(D(z_sigma, sigma, x), y)`.

        Args:
            clean: targets, conditions and labels.
            noisy: [N, *target_shape] targets with noise of level sigma added.
            sigma: [N] levels.
        """
        prediction = self.predict(noisy, sigma, clean.cond)
        return self.target.loss_weight(sigma.float()) * self.readout.loss(prediction, clean)
