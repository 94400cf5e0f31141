"""Scoring models: causal language models that judge generated texts."""

from dbl.evaluation.scoring.hugging_face import HuggingFaceScoringModel as HuggingFaceScoringModel
from dbl.evaluation.scoring.loading import open_scoring_model as open_scoring_model
from dbl.evaluation.scoring.model import (
    EncodedText as EncodedText,
    ScoringModel as ScoringModel,
    TextScore as TextScore,
    windows as windows,
)
from dbl.evaluation.scoring.run import RunScoringModel as RunScoringModel
