"""Target spaces: what a block denoises, and how the network's output is read.

A target is chosen in the config (`PixelTarget`, `ClassTarget`, `TokenTarget`, `MaskTarget`). For a data set it gives a
`TargetSpace`, which turns a raw batch into clean targets and conditions, adds noise, and turns denoised targets back
into answers; for a network it gives the denoiser. Targets with Gaussian noise also have a `Readout`, which turns the
preconditioned output of the network into a denoised target and a loss. The space has no trainable parameter; the
readout belongs to one block.
"""

from dbl.denoising.readout import Adjust, Clean, Prediction, Readout, mean_cross_entropy
from dbl.denoising.targets.base import Batch, Target, TargetSpace
from dbl.denoising.targets.classes import ClassSpace, ClassTarget
from dbl.denoising.targets.gaussian import GaussianSpace, GaussianTarget
from dbl.denoising.targets.masks import MaskTarget
from dbl.denoising.targets.pixels import PixelReadout, PixelSpace, PixelTarget, image_spec
from dbl.denoising.targets.tables import TableReadout, TableTarget, unit_rows
from dbl.denoising.targets.tokens import TokenTarget, text_spec

__all__ = [
    "Adjust",
    "Batch",
    "ClassSpace",
    "ClassTarget",
    "Clean",
    "GaussianSpace",
    "GaussianTarget",
    "MaskTarget",
    "PixelReadout",
    "PixelSpace",
    "PixelTarget",
    "Prediction",
    "Readout",
    "TableReadout",
    "TableTarget",
    "Target",
    "TargetSpace",
    "TokenTarget",
    "image_spec",
    "mean_cross_entropy",
    "text_spec",
    "unit_rows",
]
