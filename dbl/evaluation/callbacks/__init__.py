"""Callbacks that evaluate an assembled network."""

from dbl.evaluation.callbacks.diagnostics import Diagnostics
from dbl.evaluation.callbacks.image_quality import ImageQuality
from dbl.evaluation.callbacks.likelihood import Likelihood
from dbl.evaluation.callbacks.text_quality import TextQuality

__all__ = ["Diagnostics", "ImageQuality", "Likelihood", "TextQuality"]
