"""The partition as a picture in TensorBoard."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from dbl.block import DiffusionBlock
from dbl.figures import partition_figure


class PartitionFigure(L.Callback):
    """Log the noise distribution with the blocks' intervals once, when the training of a block starts."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and log."""
        if not isinstance(pl_module, DiffusionBlock):
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = partition_figure(pl_module.contract.noise, pl_module.contract.partition, pl_module.index)
                logger.experiment.add_figure("partition", figure, global_step=trainer.global_step)
