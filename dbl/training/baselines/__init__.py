"""Rivals of the blocks: whole networks, end to end or in windows; classifiers without a gradient between layers."""

from dbl.networks import Architecture, CausalLM, RecurrentLM
from dbl.training.baselines.causal_lm import EndToEndCausalLM as EndToEndCausalLM
from dbl.training.baselines.classifier import Classifier as Classifier, EndToEndClassifier as EndToEndClassifier
from dbl.training.baselines.contrastive_forward_forward import ContrastiveForwardForwardViT
from dbl.training.baselines.forward_forward import ForwardForwardViT
from dbl.training.baselines.noprop import NoPropDT
from dbl.training.baselines.noprop_continuous import NoPropCT, NoPropFM
from dbl.training.baselines.paper import PaperTraining as PaperTraining
from dbl.training.baselines.recurrent_lm import EndToEndRecurrentLM as EndToEndRecurrentLM
from dbl.training.baselines.windows import WindowedCausalLM, WindowedClassifier, WindowedDenoiser
from dbl.training.module import TrainingModule

_OF_TEXT: dict[type[Architecture], type[TrainingModule]] = {
    CausalLM: EndToEndCausalLM,
    RecurrentLM: EndToEndRecurrentLM,
}

# Further rivals that `dbl compare --rivals` can train, by the name of their part: a class for each kind of network.
RIVALS: dict[str, tuple[type[TrainingModule], ...]] = {
    "windows": (WindowedCausalLM, WindowedClassifier, WindowedDenoiser),
    "forward_forward": (ForwardForwardViT,),
    "contrastive_forward_forward": (ContrastiveForwardForwardViT,),
    "noprop_dt": (NoPropDT,),
    "noprop_ct": (NoPropCT,),
    "noprop_fm": (NoPropFM,),
}


def baseline_of(network: Architecture) -> type[TrainingModule] | None:
    """Find the baseline of an architecture; None if it is the denoiser as one block (B = 1).

    Classifiers are compared with what their `build_classifier` builds, also those of users.
    """
    return EndToEndClassifier if _has_own_classifier(type(network)) else _OF_TEXT.get(type(network))


def _has_own_classifier(kind: type[Architecture]) -> bool:
    """Whether the classifier is that of its blocks: a subclass with other blocks must have its own."""
    builds_blocks, builds_classifier = (
        next(cls for cls in kind.__mro__ if name in vars(cls)) for name in ("build", "build_classifier")
    )
    return builds_classifier is not Architecture and issubclass(builds_classifier, builds_blocks)


def rival_of(name: str, network: Architecture) -> type[TrainingModule] | None:
    """Find the class of a rival for a network; None if it cannot be made of it, or there is no such rival."""
    return next((kind for kind in RIVALS.get(name, ()) if isinstance(network, kind.serves)), None)
