"""Network architectures, one file each. To add one, subclass `Architecture` in a new file."""

from dbl.networks.architecture import Architecture as Architecture
from dbl.networks.causal_lm import CausalLM as CausalLM
from dbl.networks.diffusers_dit import DiffusersDiT as DiffusersDiT
from dbl.networks.dit import DiT as DiT
from dbl.networks.label_cnn import LabelCNN as LabelCNN
from dbl.networks.masked_lm import MaskedLM as MaskedLM
from dbl.networks.recurrent_lm import RecurrentLM as RecurrentLM
from dbl.networks.residual_mlp import ResidualMLP as ResidualMLP
from dbl.networks.vit import ViT as ViT
