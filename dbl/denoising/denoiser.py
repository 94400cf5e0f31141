"""The denoisers: from (noisy, sigma, cond) to a denoised target, one class for each kind of noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.data.spec import IGNORED
from dbl.denoising.readout import (
    Adjust,
    Clean,
    Prediction,
    Readout,
    RowPrediction,
    hidden_labels,
    mean_over_scored,
)
from dbl.denoising.vocabulary import in_network_precision, project, without_autocast
from dbl.diffusion.gaussian import Scalings, append_axes
from dbl.diffusion.preconditioning import EDM, Preconditioning
from dbl.networks.level_modulations import LevelModulations
from dbl.networks.masked_lm import MaskedNetwork
from dbl.utils.errors import UserError

_EDM = EDM()


class Level(NamedTuple):
    """Levels of noise, with what depends on them alone: computed once for many calls of a network.

    Attributes:
        sigma: [N] float32 levels.
        scalings: preconditioning, [N] each.
        noise: levels as the network reads them: c_noise [N], or the modulations that it makes of it.
    """

    sigma: Tensor
    scalings: Scalings
    noise: Tensor | LevelModulations

    def rows(self, start: int, end: int) -> "Level":
        """Those of some rows of the batch."""
        noise = self.noise[start:end] if isinstance(self.noise, Tensor) else self.noise.rows(start, end)
        return Level(self.sigma[start:end], Scalings(*(scale[start:end] for scale in self.scalings)), noise)


Predict = Callable[[Tensor, Tensor | Level], Prediction]


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
    def predict(self, noisy: Tensor, sigma: Tensor | Level, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """Denoise, with logits if the target is discrete.

        Args:
            noisy: [N, *target_shape].
            sigma: [N] levels, or what `at_level` made of them.
            cond: labels [N], images [N, channels, height, width], tokens [N, T], or what the network made of them.
            adjust: change of the network's own logits; see `Readout.forward`.
        """

    def at_level(self, sigma: Tensor) -> Tensor | Level:
        """What `predict` can use in place of levels [N] in many calls: what depends on them alone is computed here."""
        return sigma

    def predictor(self, cond: Any, adjust: Adjust | None = None) -> Predict:
        """`predict` for one condition and many levels: what depends on no level may be computed here, once."""
        return lambda noisy, sigma: self.predict(noisy, sigma, cond, adjust)

    @abstractmethod
    def prediction_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """[N] loss of a prediction without the weight."""

    def unweighted_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """[N] training loss without the weight; arguments as in `loss`."""
        return self.prediction_loss(self.predict(noisy, sigma, clean.cond), clean, noisy)

    def distilled_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor, taught: Prediction, share: float) -> Tensor:
        """Weighted loss of each sample [N], of which a share compares with the prediction of a teacher.

        Args:
            clean: as in `loss`.
            noisy: as in `loss`.
            sigma: as in `loss`.
            taught: prediction of the teacher for the same noisy targets and levels.
            share: share of that comparison; the rest compares with the clean targets.
        """
        prediction = self.predict(noisy, sigma, clean.cond)
        own = self.prediction_loss(prediction, clean, noisy)
        return self.loss_weight(sigma.float()) * own.lerp(self.imitation(prediction, taught, clean, noisy), share)

    def imitation(self, prediction: Prediction, taught: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """[N] loss of a prediction, without the weight, when that of a teacher is taken for the truth."""
        return self.prediction_loss(prediction, clean._replace(clean=taught.denoised), noisy)

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
        readout: map from the network's output to a prediction.
        sigma_data: standard deviation of a coordinate of the clean target that preconditioning assumes.
        loss_weight: as in `Denoiser`.
        preconditioning: scalings of each level.
    """

    def __init__(
        self,
        network: nn.Module,
        readout: Readout,
        sigma_data: float,
        loss_weight: Callable[[Tensor], Tensor],
        preconditioning: Preconditioning = _EDM,
    ) -> None:
        super().__init__(network, loss_weight)
        self.readout = readout
        self.sigma_data = sigma_data
        self.preconditioning = preconditioning

    def _level(self, sigma: Tensor) -> Level:
        sigma = sigma.float()
        scales = self.preconditioning.scalings(sigma, self.sigma_data)
        return Level(sigma, scales, scales.c_noise)

    def _preconditioned(self, noisy: Tensor, level: Level, cond: Any) -> tuple[Tensor, Tensor]:
        """`c_skip z + c_out F(c_in z, c_noise)` (EDM, Eq. 7) in float32, and F itself in the network's precision."""
        c_skip, c_out = (append_axes(scale, noisy) for scale in (level.scalings.c_skip, level.scalings.c_out))
        output: Tensor = self.network(self.scaled(noisy, level), level.noise, cond)
        if output.shape != noisy.shape:  # it could be broadcast, and trained in silence
            raise UserError(
                f"contract.network: its blocks return {list(output.shape)} for targets {list(noisy.shape)}: make the "
                "shapes equal"
            )
        return c_skip * noisy + c_out * output.float(), output

    def scaled(self, noisy: Tensor, level: Level) -> Tensor:
        """`c_in z`, the first input of the network, from noisy targets [N, *target_shape]."""
        return append_axes(level.scalings.c_in, noisy) * noisy

    @override
    def at_level(self, sigma: Tensor) -> Level:
        level = self._level(sigma)
        modulations = getattr(self.network, "modulations", None)
        if modulations is None or getattr(self.network, "reads_context_alone", False):
            return level
        return level._replace(noise=modulations(level.scalings.c_noise))

    @override
    def predict(self, noisy: Tensor, sigma: Tensor | Level, cond: Any, adjust: Adjust | None = None) -> Prediction:
        noisy, level = noisy.float(), sigma if isinstance(sigma, Level) else self._level(sigma)
        estimate, output = self._preconditioned(noisy, level, cond)
        with without_autocast(noisy):
            prediction: Prediction = self.readout(estimate, output, noisy, level.sigma, adjust)
        return prediction

    @override
    def predictor(self, cond: Any, adjust: Adjust | None = None) -> Predict:
        if not getattr(self.network, "reads_context_alone", False):
            return super().predictor(cond, adjust)
        output = self.network(None, None, cond)
        with without_autocast(output):
            read = self.readout.reader(output, adjust)
        return super().predictor(cond, adjust) if read is None else at_any_level(read)

    @override
    def unweighted_loss(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        noisy, level = noisy.float(), self._level(sigma)
        estimate, output = self._preconditioned(noisy, level, clean.cond)
        with without_autocast(noisy):
            return self.readout.unweighted_loss(estimate, output, noisy, level.sigma, clean)

    @override
    def prediction_loss(self, prediction: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        return self.readout.loss(prediction, clean)


def at_any_level(read: Callable[[Tensor, Tensor], Prediction]) -> Predict:
    """A predictor from a function of float32 noisy targets [N, ...] and levels [N]."""

    def predict(noisy: Tensor, sigma: Tensor | Level) -> Prediction:
        with without_autocast(noisy):
            return read(noisy.float(), sigma.sigma if isinstance(sigma, Level) else sigma.float())

    return predict


class MaskedDenoiser(Denoiser):
    """Denoiser of hidden tokens: the network sees tokens and masks, and outputs logits.

    Args:
        network: map from tokens [N, T] and the masking probability as c_noise [N] to logits [N, T, C].
        loss_weight: as in `Denoiser`.
        mask: token that means hidden.
    """

    def __init__(self, network: nn.Module, loss_weight: Callable[[Tensor], Tensor], mask: int) -> None:
        super().__init__(network, loss_weight)
        self.mask = mask

    @override
    def predict(self, noisy: Tensor, sigma: Tensor | Level, cond: Any, adjust: Adjust | None = None) -> Prediction:
        """Tokens [N, T], the most probable one where a token is hidden, and logits; arguments as in `Denoiser`."""
        assert isinstance(sigma, Tensor)
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

    @override
    def imitation(self, prediction: Prediction, taught: Prediction, clean: Clean, noisy: Tensor) -> Tensor:
        """Cross-entropy with the teacher's distribution, over the tokens that `prediction_loss` scores."""
        assert prediction.logits is not None
        assert taught.logits is not None
        with without_autocast(noisy):
            logits, probabilities = prediction.logits.flatten(0, -2), taught.logits.flatten(0, -2).softmax(-1)
            nats = F.cross_entropy(logits, probabilities, reduction="none").unflatten(0, noisy.shape)
        unscored = hidden_labels(clean.labels, noisy, self.mask) == IGNORED
        return mean_over_scored(nats.masked_fill(unscored, 0.0), clean.labels)
