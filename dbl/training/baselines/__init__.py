"""Rivals of the blocks: networks trained end to end, and classifiers without a gradient between layers or steps."""

from dbl.networks import Architecture, CausalLM, LabelCNN, RecurrentLM, ViT
from dbl.training.baselines.causal_lm import EndToEndCausalLM as EndToEndCausalLM
from dbl.training.baselines.classifier import Classifier as Classifier, EndToEndClassifier as EndToEndClassifier
from dbl.training.baselines.contrastive_forward_forward import ContrastiveForwardForwardViT
from dbl.training.baselines.forward_forward import ForwardForwardViT
from dbl.training.baselines.noprop import NoPropDT
from dbl.training.baselines.noprop_continuous import NoPropCT, NoPropFM
from dbl.training.baselines.paper import PaperTraining as PaperTraining
from dbl.training.baselines.recurrent_lm import EndToEndRecurrentLM as EndToEndRecurrentLM
from dbl.training.module import TrainingModule

_BASELINES: dict[type[Architecture], type[TrainingModule]] = {
    CausalLM: EndToEndCausalLM,
    LabelCNN: EndToEndClassifier,
    RecurrentLM: EndToEndRecurrentLM,
    ViT: EndToEndClassifier,
}

# Further rivals that `dbl compare --rivals` can train, by the name of their part.
RIVALS: dict[str, type[Classifier]] = {
    "forward_forward": ForwardForwardViT,
    "contrastive_forward_forward": ContrastiveForwardForwardViT,
    "noprop_dt": NoPropDT,
    "noprop_ct": NoPropCT,
    "noprop_fm": NoPropFM,
}


def baseline_of(network: Architecture) -> type[TrainingModule] | None:
    """Find the baseline of an architecture; None if it is the denoiser as one block (B = 1)."""
    return _BASELINES.get(type(network))
