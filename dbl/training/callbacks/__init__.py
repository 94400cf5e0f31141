"""Training callbacks: checkpoints, moving average, logging and measurements."""

from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.training.callbacks.ema import EMA
from dbl.training.callbacks.loss_by_level import LossByLevel, PartitionFigure
from dbl.training.callbacks.memory import Memory
from dbl.training.callbacks.progress import StepProgress, Throughput
from dbl.training.callbacks.status import Status

__all__ = ["EMA", "LastCheckpoint", "LossByLevel", "Memory", "PartitionFigure", "Status", "StepProgress", "Throughput"]
