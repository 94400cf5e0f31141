"""The data of a run, from its config."""

from pathlib import Path

from dbl.commands.run_config import RunConfig
from dbl.data import ResumableDataModule
from dbl.run.folder import RunFolder


def load_data(run: str | Path) -> ResumableDataModule:
    """The data that a run was trained with: its splits, to classify or compare with.

    The `config.yaml` of a run is code, as every config is: classes that it names are imported. Relative paths in it
    start from the working directory.

    Raises UserError if the folder holds no run, or its config is absent or damaged.

    Args:
        run: folder of the run.

    Example:
        >>> import dbl
        >>> data = dbl.load_data("runs/digits_vit")  # doctest: +SKIP
        >>> data.split("test").images.shape  # doctest: +SKIP
        torch.Size([355, 1, 8, 8])
        >>> dbl.load_data("runs/none")
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: runs/none is not a run folder: it does not exist
    """
    return RunConfig.load(RunFolder.at(run).config).data
