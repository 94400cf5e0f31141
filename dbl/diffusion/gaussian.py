"""Gaussian diffusion in the variance-exploding form: corruption, preconditioning, weight and step.

EDM = Karras et al. 2022 (arXiv 2206.00364), paper = DiffusionBlocks (arXiv 2506.14202). sigma is always the standard
deviation of the noise, with shape [N] next to a target of shape [N, ...].
"""

from typing import NamedTuple

import torch
from torch import Tensor


def append_axes(sigma: Tensor, like: Tensor) -> Tensor:
    """Append axes of size 1 to sigma [N] until it broadcasts with `like` [N, ...], one level per sample.

    Raises ValueError if the shapes do not match, since plain broadcasting could silently pair levels with pixels.
    """
    if sigma.ndim != 1 or sigma.shape[0] != like.shape[0]:
        raise ValueError(f"sigma must have shape [{like.shape[0]}], one level for each sample, not {list(sigma.shape)}")
    return sigma.reshape(-1, *(1,) * (like.ndim - 1))


def corrupt(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """`z_sigma = y + sigma * noise` (paper, Sec. 3.1): [N, ...] from clean [N, ...], unit noise [N, ...], sigma [N]."""
    return clean + append_axes(sigma, clean) * noise


class Scalings(NamedTuple):
    """Preconditioning coefficients, each [N]."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    """EDM preconditioning (EDM, Eq. 7 and Table 1): `D = c_skip z + c_out F(c_in z, c_noise)`, from sigma [N].

    The network F sees inputs and is asked for outputs of unit variance at every level.
    """
    total = sigma.square() + sigma_data**2
    return Scalings(
        c_skip=sigma_data**2 / total,
        c_out=sigma * sigma_data / total.sqrt(),
        c_in=1 / total.sqrt(),
        c_noise=sigma.log() / 4,
    )


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """`w(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2` (EDM, Table 1), [N] from sigma [N].

    It equals `1 / c_out^2`, so every level contributes a network error of the same scale.
    """
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def euler_step(noisy: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One Euler step of the probability-flow ODE from sigma down to sigma_next (both scalars).

    `z' = z + (sigma' - sigma) (z - D) / sigma = (sigma'/sigma) z + (1 - sigma'/sigma) D`, with EDM's sign. The paper
    prints its Eq. 3-4 with the opposite sign, which would make the noise grow.
    """
    return torch.lerp(denoised, noisy, (sigma_next / sigma).to(noisy.dtype))
