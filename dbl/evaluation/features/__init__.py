"""Features of images, which image metrics are computed from: two networks that give them, and a cache of real ones."""

from dbl.evaluation.features.extractor import FeatureExtractor, check_comparable
from dbl.evaluation.features.in_domain import InDomainFeatures
from dbl.evaluation.features.inception import InceptionFeatures
from dbl.evaluation.features.reference import Reference

__all__ = ["FeatureExtractor", "InDomainFeatures", "InceptionFeatures", "Reference", "check_comparable"]
