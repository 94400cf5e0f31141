"""Teachers: causal language models that judge generated texts."""

from dbl.evaluation.scoring.hugging_face import HuggingFaceScoringModel
from dbl.evaluation.scoring.loading import open_scoring_model
from dbl.evaluation.scoring.model import EncodedText, ScoringModel, TextScore, windows
from dbl.evaluation.scoring.run import RunScoringModel

__all__ = [
    "EncodedText",
    "HuggingFaceScoringModel",
    "RunScoringModel",
    "ScoringModel",
    "TextScore",
    "open_scoring_model",
    "windows",
]
