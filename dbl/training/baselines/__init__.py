"""Rivals of the blocks: whole networks, end to end or in windows; classifiers without a gradient between layers."""

from dbl.networks import Architecture, CausalLM, LabelCNN, RecurrentLM, ResidualMLP, ViT
from dbl.training.baselines.causal_lm import EndToEndCausalLM as EndToEndCausalLM
from dbl.training.baselines.classifier import Classifier as Classifier, EndToEndClassifier as EndToEndClassifier
from dbl.training.baselines.contrastive_forward_forward import ContrastiveForwardForwardViT
from dbl.training.baselines.forward_forward import ForwardForwardViT
from dbl.training.baselines.noprop import NoPropDT
from dbl.training.baselines.noprop_continuous import NoPropCT, NoPropFM
from dbl.training.baselines.paper import PaperTraining as PaperTraining
from dbl.training.baselines.recurrent_lm import EndToEndRecurrentLM as EndToEndRecurrentLM
from dbl.training.baselines.windows import WindowedCausalLM, WindowedClassifier
from dbl.training.module import TrainingModule

_BASELINES: dict[type[Architecture], type[TrainingModule]] = {
    CausalLM: EndToEndCausalLM,
    LabelCNN: EndToEndClassifier,
    RecurrentLM: EndToEndRecurrentLM,
    ResidualMLP: EndToEndClassifier,
    ViT: EndToEndClassifier,
}

# Further rivals that `dbl compare --rivals` can train, by the name of their part: a class for each kind of network.
RIVALS: dict[str, tuple[type[TrainingModule], ...]] = {
    "windows": (WindowedCausalLM, WindowedClassifier),
    "forward_forward": (ForwardForwardViT,),
    "contrastive_forward_forward": (ContrastiveForwardForwardViT,),
    "noprop_dt": (NoPropDT,),
    "noprop_ct": (NoPropCT,),
    "noprop_fm": (NoPropFM,),
}


def baseline_of(network: Architecture) -> type[TrainingModule] | None:
    """Find the baseline of an architecture; None if it is the denoiser as one block (B = 1)."""
    return _BASELINES.get(type(network))


def rival_of(name: str, network: Architecture) -> type[TrainingModule] | None:
    """Find the class of a rival for a network; None if it cannot be made of it, or there is no such rival."""
    return next((kind for kind in RIVALS.get(name, ()) if isinstance(network, kind.serves)), None)
