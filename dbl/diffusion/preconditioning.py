"""What stands around a network at each noise level: EDM's scalings, and those of networks that were trained otherwise.

Each is `D = c_skip z + c_out F(c_in z, c_noise)` for `z = y + sigma n`; they differ in what the network F predicts, in
the scale of its input and in the number that tells it the level.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from dbl.diffusion.gaussian import Scalings, scalings
from dbl.diffusion.noise import Interval
from dbl.utils.checks import Number, check_choice, check_numbers, whole
from dbl.utils.errors import UserError

PRECONDITIONING = "contract.target.init_args.preconditioning.init_args"

Prediction = Literal["epsilon", "v_prediction"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
_NUM_STEPS = whole(2, 100_000)


def epsilon_scalings(sigma: Tensor, step: Tensor) -> Scalings:
    """A network that predicts the noise (DDPM, arXiv 2006.11239; EDM, Table 1, column iDDPM), from sigma [N].

    With `alpha_bar = 1 / (1 + sigma^2)` its input is `sqrt(alpha_bar) z`, and `y = z - sigma F`.

    Args:
        sigma: [N] levels.
        step: [N] training steps that belong to them, which the network reads.
    """
    return Scalings(torch.ones_like(sigma), -sigma, (1 + sigma.square()).rsqrt(), step)


def v_scalings(sigma: Tensor, step: Tensor) -> Scalings:
    """A network that predicts `v = sqrt(alpha_bar) n - sqrt(1 - alpha_bar) y` (arXiv 2202.00512, App. D).

    `y = sqrt(alpha_bar) x - sqrt(1 - alpha_bar) F` for the input `x = sqrt(alpha_bar) z`; arguments as for epsilon.
    """
    c_in = (1 + sigma.square()).rsqrt()
    return Scalings(c_in.square(), -sigma * c_in, c_in, step)


def flow_scalings(sigma: Tensor, num_steps: float) -> Scalings:
    """A network that predicts the velocity `n - y` of a straight path (arXiv 2210.02747; 2403.03206), from sigma [N].

    At time `t = sigma / (1 + sigma)` its input is `x = (1 - t) y + t n = (1 - t) z`, and `y = x - t F`.

    Args:
        sigma: [N] levels.
        num_steps: factor from the time to the number that the network reads.
    """
    c_in = 1 / (1 + sigma)
    time = sigma * c_in
    return Scalings(c_in, -time, c_in, num_steps * time)


@dataclass(frozen=True)
class Preconditioning(ABC):
    """The scalings around a network, as functions of the level.

    Attributes:
        gives_steps: whether `c_noise` is a training step, such as 0 to 999, rather than a number of order 1.
    """

    gives_steps: ClassVar[bool] = True

    @abstractmethod
    def scalings(self, sigma: Tensor, sigma_data: float) -> Scalings:
        """The scalings [N] of float32 levels sigma [N], for targets of standard deviation `sigma_data`."""

    @property
    def range(self) -> Interval | None:
        """The levels that such a network was trained on; None if there is no limit."""
        return None


@dataclass(frozen=True)
class EDM(Preconditioning):
    """Input, output and training target of unit variance at every level (EDM, arXiv 2206.00364, Table 1).

    Example:
        >>> import dbl, torch
        >>> dbl.EDM().scalings(torch.tensor([0.5]), sigma_data=0.5).c_skip
        tensor([0.5000])
    """

    gives_steps: ClassVar[bool] = False

    @override
    def scalings(self, sigma: Tensor, sigma_data: float) -> Scalings:
        return scalings(sigma, sigma_data)


@dataclass(frozen=True)
class VP(Preconditioning):
    """The variance-preserving process in discrete steps: DDPM, and published networks such as DiT.

    A level between two steps is given to the network as the nearer one.

    Args:
        prediction: kind of the network's prediction: `epsilon`, the noise; `v_prediction`.
        num_steps: number of training steps.
        beta_start: variance that the first step adds.
        beta_end: variance that the last one adds.
        schedule: variances between: `linear`; `scaled_linear`, linear in their roots; `squaredcos_cap_v2`, which reads
            neither end (arXiv 2102.09672, Eq. 17). The names are those of diffusers.

    Example:
        >>> import dbl, torch
        >>> vp = dbl.VP()
        >>> [round(level, 3) for level in vp.range]
        [0.01, 157.407]
        >>> vp.scalings(torch.tensor([157.0, 1.0, 0.01]), sigma_data=1).c_noise
        tensor([999., 258.,   0.])
    """

    prediction: Prediction = "epsilon"
    num_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    schedule: Betas = "linear"

    def __post_init__(self) -> None:
        check_choice(f"{PRECONDITIONING}.prediction", self.prediction, get_args(Prediction))
        check_choice(f"{PRECONDITIONING}.schedule", self.schedule, get_args(Betas))
        variance = Number(above=0, below=1)
        check_numbers(PRECONDITIONING, self, num_steps=_NUM_STEPS, beta_start=variance, beta_end=variance)
        levels = self.levels()
        if not all(low < high for low, high in pairwise(levels)) or not 1e-9 <= levels[0] < levels[-1] <= 1e9:
            raise UserError(f"{PRECONDITIONING}.beta_start and beta_end give levels that are no noise levels")

    def levels(self) -> tuple[float, ...]:
        """The level of each step, increasing."""
        return _vp_levels(self)[0]

    @property
    @override
    def range(self) -> Interval:
        levels = self.levels()
        return Interval(levels[0], levels[-1])

    @override
    def scalings(self, sigma: Tensor, sigma_data: float) -> Scalings:
        # Not kept as a tensor: programs are traced with tensors of a kind of their own.
        between = torch.tensor(_vp_levels(self)[1], dtype=torch.float32, device=sigma.device)
        step = torch.bucketize(sigma.contiguous(), between).to(sigma.dtype)
        return (epsilon_scalings if self.prediction == "epsilon" else v_scalings)(sigma, step)


@lru_cache(maxsize=16)
def _vp_levels(vp: VP) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The level of each step, and the levels that lie halfway between two of them in ln sigma."""
    betas = _betas(vp)
    alpha_bar = (1 - betas).cumprod(0)
    levels = ((1 - alpha_bar) / alpha_bar).sqrt()
    return tuple(levels.tolist()), tuple((levels[1:] * levels[:-1]).sqrt().tolist())


def _betas(vp: VP) -> Tensor:
    """[T] variance of each step, float64."""
    if vp.schedule == "squaredcos_cap_v2":
        times = torch.arange(vp.num_steps + 1, dtype=torch.float64) / vp.num_steps
        alpha_bar = ((times + 0.008) / 1.008 * torch.pi / 2).cos().square()
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    power = 0.5 if vp.schedule == "scaled_linear" else 1.0
    ends = vp.beta_start**power, vp.beta_end**power
    return torch.linspace(*ends, vp.num_steps, dtype=torch.float64) ** (1 / power)


@dataclass(frozen=True)
class Flow(Preconditioning):
    """Flow matching on straight paths: networks that predict a velocity, such as SiT or Stable Diffusion 3.

    Args:
        num_steps: number that the network reads at time 1, pure noise; at time t it reads t times that.

    Example:
        >>> import dbl, torch
        >>> dbl.Flow().scalings(torch.tensor([1.0]), sigma_data=1).c_noise  # as much noise as data: time 1/2
        tensor([500.])
    """

    num_steps: int = 1000

    def __post_init__(self) -> None:
        check_numbers(PRECONDITIONING, self, num_steps=_NUM_STEPS)

    @property
    @override
    def range(self) -> Interval:
        return Interval(1 / (self.num_steps - 1), float(self.num_steps - 1))  # times 1/num_steps to 1 - 1/num_steps

    @override
    def scalings(self, sigma: Tensor, sigma_data: float) -> Scalings:
        return flow_scalings(sigma, self.num_steps)
