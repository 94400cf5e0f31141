"""Training callbacks: checkpoints, moving average, logging and measurements."""

from dbl.training.callbacks.checkpoint import LastCheckpoint as LastCheckpoint
from dbl.training.callbacks.ema import EMA as EMA
from dbl.training.callbacks.loss_by_level import LossByLevel as LossByLevel
from dbl.training.callbacks.memory import Memory as Memory
from dbl.training.callbacks.overview import Overview as Overview
from dbl.training.callbacks.previews import Previews as Previews
from dbl.training.callbacks.progress import StepProgress as StepProgress, Throughput as Throughput
from dbl.training.callbacks.status import Status as Status
