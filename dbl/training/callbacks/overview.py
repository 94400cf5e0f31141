"""What TensorBoard shows of a part beside its curves: its config, its choices, its levels and a page of charts."""

from collections.abc import Mapping

import lightning as L

from dbl.diffusion.plot import partition_figure
from dbl.training.block import DiffusionBlock
from dbl.training.event_log import Choice, add_choices, event_writers
from dbl.utils.markdown import code_block

# Title of a chart -> regular expression of its curves: that of each block and run.
_LOSSES = {"training loss": "train/loss$", "validation loss": "val/loss$"}


class Overview(L.Callback):
    """Logs, before the first step of a part, what its curves belong to.

    The text `train/config`, a row of the tab HPARAMS, the layout of the tab CUSTOM SCALARS and, of a block, a figure
    of the noise distribution and the blocks' intervals. A resumed training has them in its log already.

    Args:
        config: whole config as YAML.
        choices: choices by which runs are compared, by the name of their column.
        num_bins: number of bins of `LossByLevel`.
    """

    def __init__(self, config: str, choices: Mapping[str, Choice], num_bins: int) -> None:
        self.config = config
        self.choices = choices
        self.num_bins = num_bins

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write."""
        if trainer.global_step:
            return
        for writer in event_writers(trainer):
            writer.add_text("train/config", code_block(self.config, "yaml"))
            add_choices(writer, self.choices)
            writer.add_custom_scalars(chart_layout(self.num_bins))
            if isinstance(pl_module, DiffusionBlock):
                figure = partition_figure(pl_module.contract.noise, pl_module.contract.partition, pl_module.index)
                writer.add_figure("whole_network/partition", figure)
            writer.flush()  # a browser can show it now; and a full disk ends the training here


def chart_layout(num_bins: int) -> dict[str, dict[str, list[object]]]:
    """Charts in which the blocks of a run, each with a log of its own, stand side by side.

    Args:
        num_bins: number of bins of `LossByLevel`.

    Returns:
        Category -> title of a chart -> its kind and curves, for `SummaryWriter.add_custom_scalars`.
    """
    ends = {0: " (highest noise)", num_bins - 1: " (lowest noise)"} if num_bins > 1 else {}
    bins = {f"bin {number}{ends.get(number, '')}": f"train/loss_by_level/bin_{number}$" for number in range(num_bins)}
    categories = {"all blocks": _LOSSES, "training loss by noise level, within the interval of each block": bins}
    return {
        category: {title: ["Multiline", [curves]] for title, curves in charts.items()}
        for category, charts in categories.items()
    }
