"""What each kind of noise contributes to the bound of `likelihood.py`, for discrete targets."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from dbl.denoising.readout import Prediction, hidden_labels
from dbl.diffusion.gaussian import append_axes, corrupt
from dbl.diffusion.masking import mask_tokens


class Channel(ABC):
    """The contribution of one kind of noise to the bound; clean, noisy [N, ...] and labels [N] or [N, T] as in `Clean`.

    All results have the shape of the labels and are nats.
    """

    @abstractmethod
    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Noisy targets, as in `TargetSpace.corrupt`."""

    @abstractmethod
    def prior(self, clean: Tensor, sigma_max: float) -> Tensor:
        """Nats lost above sigma_max."""

    @abstractmethod
    def rate(self, clean: Tensor, labels: Tensor, noisy: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Nats that a block loses per unit of ln sigma at levels [N]."""

    @abstractmethod
    def reconstruction(self, labels: Tensor, noisy: Tensor, prediction: Prediction) -> Tensor:
        """Nats left at sigma_min: cross-entropy."""


class GaussianChannel(Channel):
    """Rows of a table with Gaussian noise.

    Args:
        table: [C, D] rows.
        frequencies: [C] probabilities of the rows, adding up to 1; they give the mean row of the prior.
    """

    def __init__(self, table: Tensor, frequencies: Tensor) -> None:
        self._mean_row = (frequencies.cpu().double() @ table.cpu().double()).to(table.dtype)

    @override
    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return corrupt(clean, noise, sigma)

    @override
    def prior(self, clean: Tensor, sigma_max: float) -> Tensor:
        """`|y - m|^2 / (2 sigma_max^2)`."""
        return (clean - self._mean_row.to(clean.device)).square().sum(-1) / (2 * sigma_max**2)

    @override
    def rate(self, clean: Tensor, labels: Tensor, noisy: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """`sigma^-2 |y - D|^2`."""
        errors = (clean - prediction.denoised).float().square().sum(-1)
        return errors / append_axes(sigma, errors).square()

    @override
    def reconstruction(self, labels: Tensor, noisy: Tensor, prediction: Prediction) -> Tensor:
        return prediction.nats(labels)


class MaskingChannel(Channel):
    """Hidden tokens.

    Args:
        mask: token that means hidden.
    """

    def __init__(self, mask: int) -> None:
        self._mask = mask

    @override
    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return mask_tokens(clean, noise, sigma, self._mask)

    @override
    def prior(self, clean: Tensor, sigma_max: float) -> Tensor:
        """Zeros: at the highest level everything must be hidden."""
        if sigma_max < 1:
            raise ValueError(f"the bound of masked diffusion needs sigma_max 1, not {sigma_max}: all tokens hidden")
        return torch.zeros(clean.shape, device=clean.device)

    @override
    def rate(self, clean: Tensor, labels: Tensor, noisy: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Cross-entropy of the hidden tokens."""
        return self.reconstruction(labels, noisy, prediction)

    @override
    def reconstruction(self, labels: Tensor, noisy: Tensor, prediction: Prediction) -> Tensor:
        return prediction.nats(hidden_labels(labels, noisy, self._mask))
