"""Features of the Inception network that FID is defined with, as torch-fidelity has it."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.evaluation.features.extractor import FeatureExtractor
from dbl.evaluation.image_metrics import ImageFeatures, check_torch_fidelity
from dbl.utils.errors import UserError
from dbl.utils.seeding import seeded

# Images of 299x299 pixels in one pass: 32 of them take about 0.4 GB.
_PASS = 32


class InceptionFeatures(FeatureExtractor):
    """The 2,048 features and the 1,008 class scores (without bias) of Inception v3, trained on ImageNet.

    Its metrics have the plain names (`fid`, `kid` ...) and may be compared with the literature, at equal numbers of
    images. Raises UserError if torch-fidelity is not installed, or the weights cannot be downloaded or read.

    Args:
        weights_path: file of torch-fidelity's weights; None takes the one in torch's hub folder, downloaded if absent.
        device: device that it runs on.
    """

    FEATURE_SIZE = 2048

    def __init__(self, weights_path: str | None = None, device: torch.device | str = "cpu") -> None:
        check_torch_fidelity()
        path = Path(weights_path) if weights_path is not None else _downloaded()
        state = _read_state(path)
        self.title, self.suffix, self.feature_size = "inception", "", self.FEATURE_SIZE
        self.identity = f"inception-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        self._network = _network(state, path).to(device)
        self._device = device

    @override
    @torch.no_grad()
    def __call__(self, images: Tensor) -> ImageFeatures:
        """Features of uint8 images [N, 1 or 3, H, W] of any size; grey ones are repeated to three channels.

        Raises UserError for images of another kind.
        """
        check_images(images.dtype, images.shape[1])
        parts = [self._network(part.to(self._device).expand(-1, 3, -1, -1)) for part in images.split(_PASS)]
        return ImageFeatures.join([ImageFeatures(features.cpu(), logits.cpu()) for features, logits in parts])


def check_images(dtype: torch.dtype, channels: int) -> None:
    """Raise UserError unless images are uint8 with 1 or 3 channels, as the Inception network needs them."""
    if dtype != torch.uint8 or channels not in (1, 3):
        raise UserError(
            f"image_quality.features: inception sees uint8 images of 1 or 3 channels, not {dtype} of {channels}; "
            "use in_domain, e.g. for latents"
        )


def _downloaded() -> Path:
    """The file of weights in torch's hub folder, where torch-fidelity also looks for it; downloaded if absent."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir(), "checkpoints", URL_INCEPTION_V3.rsplit("/", 1)[-1])
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:  # no network or folder; a file with another hash
        raise UserError(
            f"image_quality.weights_path: cannot download {path.name} ({error}); put this file of torch-fidelity's "
            f"release v0.2.0 at {path}, or name its place here, or set image_quality.features to in_domain"
        ) from None
    return path


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of weights without running any code that it might hold."""
    if not path.is_file():
        raise UserError(f"image_quality.weights_path: {path} does not exist; name torch-fidelity's Inception weights")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"image_quality.weights_path: {path} is damaged or not a file of weights ({reason[:120]}); "
            "put torch-fidelity's Inception weights there"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _other_network(path)
    return state


def _network(state: dict[str, Tensor], path: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever it is given, so it is given a copy of the tensors that were read safely.
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    layers = ["2048", "logits_unbiased"]
    try:
        with seeded(0, "inception"):  # the constructor draws initial weights
            network: nn.Module = FeatureExtractorInceptionV3(
                "inception-v3-compat", layers, feature_extractor_weights_path=safe
            )
    except RuntimeError:  # of load_state_dict, with a line for each of hundreds of names
        raise _other_network(path) from None
    return network


def _other_network(path: Path) -> UserError:
    return UserError(
        f"image_quality.weights_path: {path} does not hold the weights of torch-fidelity's Inception network "
        "(other names or shapes); put its file there"
    )
