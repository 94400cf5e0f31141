"""End-to-end baselines: the whole network, trained through all layers at once."""

from dbl.networks import Architecture, CausalLM, RecurrentLM, ViT
from dbl.training.baselines.causal_lm import EndToEndCausalLM as EndToEndCausalLM
from dbl.training.baselines.recurrent_lm import EndToEndRecurrentLM as EndToEndRecurrentLM
from dbl.training.baselines.vit import EndToEndViT as EndToEndViT
from dbl.training.module import TrainingModule

_BASELINES: dict[type[Architecture], type[TrainingModule]] = {
    CausalLM: EndToEndCausalLM,
    RecurrentLM: EndToEndRecurrentLM,
    ViT: EndToEndViT,
}


def baseline_of(network: Architecture) -> type[TrainingModule] | None:
    """Find the baseline of an architecture; None if it is the denoiser as one block (B = 1)."""
    return _BASELINES.get(type(network))
