"""Network architectures, one file each. To add one, subclass `Architecture` in a new file."""

from dbl.networks.architecture import Architecture
from dbl.networks.causal_lm import CausalLM
from dbl.networks.dit import DiT
from dbl.networks.masked_lm import MaskedLM
from dbl.networks.recurrent_lm import RecurrentLM
from dbl.networks.vit import ViT

__all__ = ["Architecture", "CausalLM", "DiT", "MaskedLM", "RecurrentLM", "ViT"]
