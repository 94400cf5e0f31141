"""Data: labelled images or text in three disjoint splits, read in an order that is a function of counters.

A new data set is a subclass of `ImageData` with one method, `load(split) -> ImageSet | None`, or of `TextData` with one
method, `load(split) -> Iterable[str] | None`.
"""

from dbl.data.images.augment import Augmentation, HorizontalFlip, PaddedCrop, RandAugment
from dbl.data.images.digits import Digits
from dbl.data.images.hub import HubImages
from dbl.data.images.latents import Latents
from dbl.data.images.module import ImageData
from dbl.data.images.sets import ImageBatch, ImageBatches, Images, ImageSet
from dbl.data.module import ResumableDataModule, Split
from dbl.data.order import BatchIndex, EvaluationOrder, TrainingOrder
from dbl.data.text.documents import Documents
from dbl.data.text.files import TextFiles
from dbl.data.text.hub import HubText
from dbl.data.text.module import Packing, TextData
from dbl.data.text.pydoc import PyDoc
from dbl.data.text.tokenizer import Bytes, Characters, Tokenizer, load_tokenizer
from dbl.data.text.tokenizer_file import TokenizerFile
from dbl.data.text.tokens import TextBatch, TextBatches, TokenSet

__all__ = [
    "Augmentation",
    "BatchIndex",
    "Bytes",
    "Characters",
    "Digits",
    "Documents",
    "EvaluationOrder",
    "HorizontalFlip",
    "HubImages",
    "HubText",
    "ImageBatch",
    "ImageBatches",
    "ImageData",
    "ImageSet",
    "Images",
    "Latents",
    "Packing",
    "PaddedCrop",
    "PyDoc",
    "RandAugment",
    "ResumableDataModule",
    "Split",
    "TextBatch",
    "TextBatches",
    "TextData",
    "TextFiles",
    "TokenSet",
    "Tokenizer",
    "TokenizerFile",
    "TrainingOrder",
    "load_tokenizer",
]
