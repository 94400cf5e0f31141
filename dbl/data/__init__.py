"""Data: labelled images or vectors, or text, in three disjoint splits, read in an order that is a function of counters.

A new data set is a subclass with one method: of `ImageData`, `load(split) -> ImageSet | None`, of `VectorData`,
`load(split) -> VectorSet | None`, or of `TextData`, `load(split) -> Iterable[str] | None`.
"""

from dbl.data.images.augment import (
    Augmentation as Augmentation,
    HorizontalFlip as HorizontalFlip,
    PaddedCrop as PaddedCrop,
    RandAugment as RandAugment,
)
from dbl.data.images.digits import Digits as Digits
from dbl.data.images.folder import ImageFolder as ImageFolder
from dbl.data.images.hub import HubImages as HubImages
from dbl.data.images.image_set import (
    ImageBatch as ImageBatch,
    ImageBatches as ImageBatches,
    Images as Images,
    ImageSet as ImageSet,
)
from dbl.data.images.latents import Latents as Latents
from dbl.data.images.module import ImageData as ImageData
from dbl.data.module import ResumableDataModule as ResumableDataModule, Split as Split
from dbl.data.order import BatchIndex as BatchIndex, EvaluationOrder as EvaluationOrder, TrainingOrder as TrainingOrder
from dbl.data.text.documents import Documents as Documents
from dbl.data.text.files import TextFiles as TextFiles
from dbl.data.text.hub import HubText as HubText
from dbl.data.text.module import Packing as Packing, TextData as TextData
from dbl.data.text.pydoc import PyDoc as PyDoc
from dbl.data.text.tokenizer import (
    Bytes as Bytes,
    Characters as Characters,
    Tokenizer as Tokenizer,
    load_tokenizer as load_tokenizer,
)
from dbl.data.text.tokenizer_file import TokenizerFile as TokenizerFile
from dbl.data.text.tokens import TextBatch as TextBatch, TextBatches as TextBatches, TokenSet as TokenSet
from dbl.data.vectors.files import VectorFiles as VectorFiles
from dbl.data.vectors.module import VectorData as VectorData
from dbl.data.vectors.vector_set import (
    VectorBatch as VectorBatch,
    VectorBatches as VectorBatches,
    VectorSet as VectorSet,
)
from dbl.data.vectors.wine import Wine as Wine
