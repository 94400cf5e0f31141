"""Features of images, which image metrics are computed from: two networks that give them, and a cache of real ones."""

from dbl.features.extractor import FeatureExtractor, check_comparable
from dbl.features.in_domain import InDomainFeatures
from dbl.features.inception import InceptionFeatures
from dbl.features.reference import Reference

__all__ = ["FeatureExtractor", "InDomainFeatures", "InceptionFeatures", "Reference", "check_comparable"]
