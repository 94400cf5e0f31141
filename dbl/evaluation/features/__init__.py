"""Features of images, which image metrics are computed from: two extractors, and a cache for real images."""

from dbl.evaluation.features.extractor import FeatureExtractor as FeatureExtractor, check_comparable as check_comparable
from dbl.evaluation.features.in_domain import InDomainFeatures as InDomainFeatures
from dbl.evaluation.features.inception import InceptionFeatures as InceptionFeatures
from dbl.evaluation.features.reference import Reference as Reference
