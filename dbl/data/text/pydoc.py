"""Text that comes with Python: a real data set without a download."""

from typing_extensions import override

from dbl.data.module import Split
from dbl.data.text.module import TextData

# Every tenth topic is tested, so that the test is spread over the alphabet.
_TEST_EVERY = 10


class PyDoc(TextData):
    """The help topics of the running Python, about 0.5 MB of English in 79 documents (`pydoc_data.topics`).

    Topics are sorted by name; every tenth one is the test split. They differ between versions of Python, so that the
    identity of the data set tells the version.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Bytes(), batch_size=8, eval_batch_size=8)
        >>> data.spec.num_classes, data.spec.seq_len
        (256, 64)
    """

    @override
    def load(self, split: Split) -> list[str] | None:
        if split == "validation":
            return None
        from pydoc_data.topics import topics

        wanted = split == "test"
        return [topics[name] for i, name in enumerate(sorted(topics)) if (i % _TEST_EVERY == _TEST_EVERY - 1) == wanted]
