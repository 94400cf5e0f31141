"""What a report says in another way for each kind of task: nouns, and the sentences that need them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dbl.evaluation.report.glossary import Metrics, choice, metric


class Task(ABC):
    """The wording for one kind of task.

    Args:
        report: what `report.json` holds, but for the pictures.

    Attributes:
        sample: what the test split consists of, one of them; `samples`: several.
        unit: what `calls` of a side are for.
        label: what a discrete target stands for; `labels`: several.
        level: what a level of noise is called; `levels`: several, as the head of a column.
        titles: what the sides are called in tables and pictures.
        the_blocks: what the blocks are called in a sentence; `each_block`: one of them.
        condition: what a block sees beside the noisy target.
        shuffled: the same, of another sample.
        control: what a block was given instead of its condition.
        reconstruction: what remains to be paid at the lowest level.
    """

    sample = "sample"
    samples = "samples"
    unit = "sample"
    label = "class"
    labels = "classes"
    level = "sigma"
    levels = "noise levels"
    titles: Mapping[str, str] = MappingProxyType({"blocks": "blocks", "end_to_end": "end to end"})
    the_blocks = "the blocks"
    each_block = "each block"
    condition: str
    shuffled: str
    control: str
    reconstruction: str

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.data: Mapping[str, Any] = report["data"]
        self.sizes: Mapping[str, Any] = report["network"]["init_args"]
        self.num_blocks: int = report["partition"]["init_args"]["num_blocks"]

    @property
    @abstractmethod
    def metrics(self) -> Metrics:
        """What metrics are called, and what they mean."""

    @property
    @abstractmethod
    def data_set(self) -> str:
        """Name and facts of the data."""

    @property
    @abstractmethod
    def purpose(self) -> str:
        """A sentence on what the network does."""

    @property
    @abstractmethod
    def training(self) -> str:
        """How a block was trained, how the blocks give an answer, and what a level is."""

    @property
    @abstractmethod
    def baseline(self) -> str:
        """What stands beside the blocks, and what both sides have in common."""

    @property
    @abstractmethod
    def likelihood(self) -> str:
        """What the bound on nats is."""

    @property
    @abstractmethod
    def costs(self) -> list[str]:
        """What the rows on compute of the comparison mean, as items of a list."""

    @property
    @abstractmethod
    def sampler(self) -> str:
        """Settings of the sampler."""

    @property
    @abstractmethod
    def judged(self) -> list[str]:
        """Settings of the comparison with real samples, as items of a list."""

    @property
    @abstractmethod
    def real(self) -> tuple[str, Mapping[str, float]]:
        """Head of the column for real samples, and their metrics; no metrics, no column."""

    @property
    def pieces(self) -> str:
        """How the network was cut."""
        return f"cut into {self.num_blocks} blocks of layers"

    @property
    def test_split(self) -> str:
        """The size of the test split."""
        return f"{self.data['num_test_samples']:,} test {self.samples}"

    @property
    def bounds(self) -> str:
        """What in the comparison is no exact figure, where the glossary does not say it."""
        return ""

    @property
    def share(self) -> str:
        """What the share of the nats depends on."""
        return ""

    @property
    def blocks_and_noise(self) -> str:
        """What blocks make of their noisy target, where that is unusual."""
        return ""

    @property
    def memory(self) -> str:
        """What a reader of the memory table might miss."""
        return ""

    @property
    def exact_baseline(self) -> bool:
        """Whether an end-to-end network stands beside the blocks that is no denoiser."""
        sides = self.report["sides"]
        return len(sides) > 1 and sides[1]["parts"][0]["sigma_high"] is None

    def layers_run(self, side: Mapping[str, Any]) -> float:
        """Layers that are run for one `unit`."""
        return sum(calls * part["layers"] for calls, part in zip(side["calls"], side["parts"], strict=True))

    def in_order(self, names: Sequence[str]) -> list[str]:
        """Metrics in the order in which they are shown."""
        return list(names)

    def metric(self, name: str) -> str:
        """What a metric is called."""
        return metric(self.metrics, name)

    def choice(self, name: str) -> str:
        """A choice of the config with its meaning."""
        return choice(name, {"label": self.label, "labels": self.labels, "level": self.level})
