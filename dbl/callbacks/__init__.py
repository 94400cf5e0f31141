"""Callbacks: what happens beside training, without editing the module that is trained."""

from dbl.callbacks.checkpoint import LastCheckpoint
from dbl.callbacks.diagnostics import Diagnostics
from dbl.callbacks.ema import EMA
from dbl.callbacks.image_quality import ImageQuality
from dbl.callbacks.likelihood import Likelihood
from dbl.callbacks.loss_by_level import LossByLevel
from dbl.callbacks.memory import Memory
from dbl.callbacks.own_lock import OwnLock
from dbl.callbacks.partition_figure import PartitionFigure
from dbl.callbacks.progress import StepProgress
from dbl.callbacks.status import Status
from dbl.callbacks.text_quality import TextQuality
from dbl.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "Diagnostics",
    "ImageQuality",
    "LastCheckpoint",
    "Likelihood",
    "LossByLevel",
    "Memory",
    "OwnLock",
    "PartitionFigure",
    "Status",
    "StepProgress",
    "TextQuality",
    "Throughput",
]
