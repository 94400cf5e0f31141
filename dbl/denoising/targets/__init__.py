"""Target spaces: what a block denoises, and how the network's output is read.

A target is chosen in the config (`PixelTarget`, `ClassTarget`, `TokenTarget`, `MaskTarget`). For a data set it gives a
`TargetSpace`, which turns a raw batch into clean targets and conditions, adds noise, and turns denoised targets back
into answers; for a network it gives the denoiser. Targets with Gaussian noise also have a `Readout`, which turns the
preconditioned output of the network into a denoised target and a loss. The space has no trainable parameter; the
readout belongs to one block.
"""

from dbl.denoising.readout import (
    Adjust as Adjust,
    Clean as Clean,
    Prediction as Prediction,
    Readout as Readout,
    mean_cross_entropy as mean_cross_entropy,
)
from dbl.denoising.targets.base import Batch as Batch, Target as Target, TargetSpace as TargetSpace
from dbl.denoising.targets.classes import ClassSpace as ClassSpace, ClassTarget as ClassTarget
from dbl.denoising.targets.gaussian import GaussianSpace as GaussianSpace, GaussianTarget as GaussianTarget
from dbl.denoising.targets.masks import MaskTarget as MaskTarget
from dbl.denoising.targets.pixels import (
    PixelReadout as PixelReadout,
    PixelSpace as PixelSpace,
    PixelTarget as PixelTarget,
    image_spec as image_spec,
)
from dbl.denoising.targets.tables import (
    TableReadout as TableReadout,
    TableTarget as TableTarget,
    unit_rows as unit_rows,
)
from dbl.denoising.targets.tokens import TokenTarget as TokenTarget, text_spec as text_spec
