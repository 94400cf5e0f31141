"""Callbacks that evaluate an assembled network."""

from dbl.evaluation.callbacks.diagnostics import Diagnostics as Diagnostics
from dbl.evaluation.callbacks.image_quality import ImageQuality as ImageQuality
from dbl.evaluation.callbacks.likelihood import Likelihood as Likelihood
from dbl.evaluation.callbacks.text_quality import TextQuality as TextQuality
