"""Data: labelled images or text in three disjoint splits, read in an order that is a function of counters.

A data set of one's own is a subclass of `ImageData` with one method, `load(split) -> ImageSet | None`, or of `TextData`
with one method, `load(split) -> Iterable[str] | None`.
"""

from dbl.data.augment import Augmentation, HorizontalFlip, PaddedCrop, RandAugment
from dbl.data.base import ImageData
from dbl.data.digits import Digits
from dbl.data.documents import Documents
from dbl.data.hub import HubImages
from dbl.data.hub_text import HubText
from dbl.data.images import ImageBatch, ImageBatches, Images, ImageSet
from dbl.data.latents import Latents
from dbl.data.order import BatchIndex, EvaluationOrder, TrainingOrder
from dbl.data.ordered import OrderedData, Split
from dbl.data.pydoc import PyDoc
from dbl.data.text import Packing, TextData
from dbl.data.text_files import TextFiles
from dbl.data.tokenizer import Bytes, Characters, Tokenizer, load_tokenizer
from dbl.data.tokenizer_file import TokenizerFile
from dbl.data.tokens import TextBatch, TextBatches, TokenSet

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
    "OrderedData",
    "Packing",
    "PaddedCrop",
    "PyDoc",
    "RandAugment",
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
