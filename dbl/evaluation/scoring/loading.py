"""From a name to a scoring model."""

from pathlib import Path

import torch

from dbl.evaluation.scoring.hugging_face import HuggingFaceScoringModel
from dbl.evaluation.scoring.model import ScoringModel
from dbl.evaluation.scoring.run import RunScoringModel


def open_scoring_model(name: str, device: torch.device | str = "cpu") -> ScoringModel:
    """Load a scoring model.

    Args:
        name: a run folder of `dbl` (it has a contract.json), another folder, or a name on the hub of Hugging Face.
        device: that it runs on.

    Raises:
        UserError: if there is no such scoring model, or the packages that it needs are missing.
    """
    if (Path(name) / "contract.json").is_file():
        return RunScoringModel(name, device)
    return HuggingFaceScoringModel(name, device)
