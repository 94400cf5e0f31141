"""Scoring models: causal language models that judge generated texts."""

from pathlib import Path

import torch

from dbl.evaluation.scoring.hugging_face import HuggingFaceScoringModel as HuggingFaceScoringModel
from dbl.evaluation.scoring.model import (
    EncodedText as EncodedText,
    ScoringModel as ScoringModel,
    TextScore as TextScore,
    windows as windows,
)
from dbl.evaluation.scoring.run import RunScoringModel as RunScoringModel


def open_scoring_model(name: str, device: torch.device | str = "cpu") -> ScoringModel:
    """Load a scoring model. Raises UserError if there is no such scoring model, or a package that it needs is missing.

    Args:
        name: run folder of `dbl` (with a contract.json), another folder, or name on the Hugging Face hub.
        device: device that it runs on.
    """
    if (Path(name) / "contract.json").is_file():
        return RunScoringModel(name, device)
    return HuggingFaceScoringModel(name, device)
